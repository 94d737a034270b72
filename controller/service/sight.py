"""What a user is told of tasks and events that are about another user's private key pairs: that there was one, and no more.

What a user may not see at all is not found in the store; this is for what everybody in the tenant has to see some of.
"""

from dataclasses import replace

from controller.causes import CAUSES
from controller.model import Caller, Event, Rollout, Task

# Of a request: what names a key pair, or is one.
_OF_KEYPAIR = frozenset({"keypair", "keypair_id", "public_key", "replaces_id"})
_OF_BINDING = frozenset({"keypair", "keypair_id", "scope", "owner_id"})
_OF_TASK = frozenset({"files"})


def task(who: Caller, found: Task) -> Task:
    """Return a task as the caller may see it: of another user's private key pair how it ended, and not in whose words."""
    if found.user_id == who.user_id or not found.private:
        return found
    cause = None if found.cause is None else CAUSES.get(found.cause)
    return replace(
        found,
        request={name: value for name, value in found.request.items() if name not in _OF_KEYPAIR},
        message="" if cause is None else f"{found.server_name}: {cause.meaning}",
        evidence={},
    )


def rollout(who: Caller, found: Rollout) -> Rollout:
    """Return a rollout as the caller may see it: with another user's private key pair, without its name."""
    if found.user_id == who.user_id or not found.private:
        return found
    return replace(found, request={name: value for name, value in found.request.items() if name not in _OF_KEYPAIR})


def event(who: Caller, found: Event) -> Event | None:
    """Return an event as the caller may see it; None for one that is another user's business."""
    detail = found.detail
    if found.kind == "request_refused":  # it says what was asked for, by its name
        return found if found.user_id == who.user_id else None
    # Events of the first version have no owner_id, and were about what whoever did it owned.
    mine = detail.get("scope") == "account" or detail.get("owner_id", found.user_id) == who.user_id
    if found.kind.startswith(("keypair_", "key_due", "rotation_", "secret_")):
        return found if mine else None
    if mine:
        return found
    if found.kind == "binding_set":
        detail = {name: value for name, value in detail.items() if name not in _OF_BINDING}
    if found.kind == "server_removed" and detail.get("forgotten"):
        detail = detail | {"forgotten": [{"login": each["login"]} for each in detail["forgotten"]]}
    # Which key pair it was, and what came into a file of keys by it, is for the trail (kps audit).
    return replace(found, keypair_id=None, detail={name: value for name, value in detail.items() if name not in _OF_TASK})
