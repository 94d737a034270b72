"""What one task comes down to: the plan for the server, the ways to get in, and the keys that may be needed. Pure."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.model import DOOR_OPERATIONS, Binding, Credential, KeyPair, Server, Task
from kpsagent import keys
from kpsagent.errors import Refused

# A first bind starts from what the caller gives; everything later from what is in custody.
_GIVEN_FIRST = ("bind", "replace")
# What takes a login's key away. Where that is another user's private one, take_over says that it is meant.
TAKES_AWAY = ("replace", "unbind", "reset")

# In a request: whoever is locked out may be, and cannot be named by who asks. It counts while their tenant lets it.
UNNAMED_LOCKOUT = "accept_unnamed_lockout"
# In a request: the id of the one key pair that a replace takes away. Without it, whatever is on record when it begins.
REPLACES = "replaces_id"


@dataclass(frozen=True, slots=True)
class Bound:
    """A binding with its key pair. strangers: it is another user's private one, never used and never named."""

    binding: Binding
    keypair: KeyPair
    strangers: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """A way in: as this login, with this key pair from custody, or (None) with what the caller gave."""

    login: str
    keypair: KeyPair | None
    by: str  # "custody", "identity" (a key given in whichever way) or "password"


@dataclass(frozen=True, slots=True)
class Order:
    """One task, ready to be carried out."""

    plan: dict[str, Any]
    ways: list[Way]
    keypair: KeyPair | None  # that shall work afterwards
    server_login: str  # by which the server is reached
    bound: list[Bound] = field(default_factory=list)
    asked: KeyPair | None = None  # whose key a check is about, where it is one of ours
    after_reset: dict[str, Any] = field(default_factory=dict)  # what waits for a first proof once this is done, by login


def make(
    task: Task,
    server: Server,
    bound: list[Bound],
    wanted: KeyPair | None,
    given: Credential | None,
    identity_line: str | None,
    deadline_seconds: int,
) -> Order:
    """Return the order for a task. Refused where the request cannot be meant for this server.

    wanted: the key pair that the request names. identity_line: the public half of the private key given, if one was that
    works by itself: not by a certificate.
    """
    request = task.request
    here = next((each for each in bound if each.binding.login == task.login), None)
    plan: dict[str, Any] = {
        "operation": task.operation,
        "id": task.id,
        "generation": task.generation,
        "login": task.login,
        "deadline_seconds": deadline_seconds,
        "accept_lockout": request.get("accept_lockout") or [],
        "accept_unproved": bool(request.get("accept_unproved")),
        "force": bool(request.get("force")),
        "fix_permissions": bool(request.get("fix_permissions")),
        **{name: True for name in ("revoke", "everywhere", "end_sessions") if request.get(name)},
    }
    old: KeyPair | None = None
    asked: KeyPair | None = None
    waiting = dict(server.after_reset or {})
    waits = waiting.get(task.login) or {}
    if here is not None and here.strangers and task.operation in TAKES_AWAY and not request.get("take_over"):
        raise _strangers(task, server)
    if task.operation == "bind":
        wanted = _named(wanted)
        if here is not None and here.strangers:
            raise _strangers(task, server)
        if here is not None and here.keypair.id != wanted.id:
            raise Refused(
                "already_bound",
                f"{server.name}: {here.keypair.name} is bound to {task.login}; use replace",
                keypair=here.keypair.name,
                login=task.login,
            )
        plan.update(key=wanted.line, passwords=None if request.get("keep_password_login") else "off")
    elif task.operation == "replace":
        wanted = _named(wanted)
        old = None if here is None else here.keypair
        if request.get(REPLACES) and (old is None or old.id not in (request[REPLACES], wanted.id)):
            raise Refused(
                "not_bound",
                f"{server.name}: what was to be replaced is not bound to {task.login} any more; nothing is to be done",
                login=task.login,
            )
        plan.update(key=wanted.line, remove=_old_lines(task, server, wanted, old, identity_line))
        _catch_up(plan, waiting.pop(task.login, {}))
        if request.get("close_password_login"):
            plan["passwords"] = "off"
    elif task.operation == "unbind":
        if here is None and identity_line is None:
            raise Refused("not_bound", f"{server.name}: no key pair is bound to {task.login}", login=task.login)
        old = None if here is None else here.keypair
        wanted = None
        lines = [bare(old.line)] if old is not None else [identity_line]
        waiting.pop(task.login, None)
        restores = _last_that_closed(here, bound) and not request.get("keep_password_login")
        plan.update(remove=lines + waits.get("remove", []), passwords="restore" if restores else None)
        if plan.get("revoke") and not any(same(identity_line, line) for line in plan["remove"]):
            plan["key"] = identity_line  # another key that gets in, given as the way in that is to stay
    elif task.operation == "password-login-disable":
        wanted = here.keypair if here is not None and not here.strangers else wanted
        # A stranger's key can be shown to sshd, and nothing more: that is the weak proof.
        others = bare(here.keypair.line) if here is not None else None
        plan.update(key=wanted.line if wanted else identity_line or others, passwords="off")
    elif task.operation == "password-login-enable":
        plan["passwords"] = "on"
    elif task.operation == "check" and waits and here is not None and not here.strangers:
        wanted = here.keypair
        plan.update(operation="replace", key=wanted.line, remove=[])
        _catch_up(plan, waiting.pop(task.login))
    elif task.operation == "check":
        line = asked_of(request.get("public_key"), wanted, identity_line, here)
        known = [wanted, None if here is None or here.strangers else here.keypair]
        asked = next((each for each in known if each is not None and line and same(each.line, line)), None)
        wanted = None
        plan.update(diagnose=line, repair=bool(request.get("repair")))
        if plan["repair"]:
            plan["key"] = _key_to_repair_for(server, task.login, plan["diagnose"])
    elif task.operation == "reset":
        wanted = _named(wanted)
        plan.update(key=wanted.line, remove=[])
        old = None if here is None else here.keypair
        closed = here is not None and here.binding.closed_password_login
        closes = waits["close_passwords"] if waits else here is None or closed
        if request.get("keep_password_login"):
            closes = closed
        if request.get("close_password_login"):
            closes = True
        removes = waits.get("remove", []) + ([bare(old.line)] if old is not None else [])
        waiting[task.login] = {"remove": _others(removes, wanted.line), "close_passwords": closes}
    elif task.operation in DOOR_OPERATIONS:
        plan["door"] = _door(request)
        if task.operation in ("door-close", "door-status"):
            plan["ended"] = task.generation - 1  # whoever is told that none stands is to rely on it: none is opened late
    plan["only_plan"] = bool(request.get("plan"))
    plan["provable"] = wanted is None or wanted.managed or same(identity_line, wanted.line)
    if plan.get("key") is not None and wanted is None:
        plan["provable"] = same(identity_line, str(plan["key"])) or (asked is not None and asked.managed)
    # A key that is still to be bound opens nothing; its private half is given as the proof.
    by_key = given is not None and given.by_key
    opens = by_key and not (task.operation == "bind" and same(identity_line, str(plan["key"])))
    return Order(plan, ways(task, server, bound, given, opens), wanted, server.login, bound, asked, waiting)


def opens_for_good(task: Task, plan: Mapping[str, Any]) -> str:
    """Return what to do instead where a task would let passwords in for as long as nobody closes them; "": it would not."""
    if plan.get("passwords") == "restore":
        return "have another key pair take the place of this one (kps replace), or leave passwords off (--keep-password-login)"
    if plan.get("passwords") == "on":
        return "open a door (kps emergency open)"
    if task.operation == "reset" and task.request.get("set_password"):
        return "reset it without --set-password"
    return ""


def _door(request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return which door is meant: request has its door_id, door_from and door_seconds; to look, none has to be named."""
    if not request.get("door_id"):
        return None
    return {"id": request["door_id"], "from": request.get("door_from"), "seconds": request.get("door_seconds") or 1}


def asked_of(given: str | None, wanted: KeyPair | None, identity_line: str | None, here: Bound | None) -> str:
    """Return the line of the key that a check is about: what was named, else what is bound; "" where there is neither."""
    bound = None if here is None else here.keypair.line
    named = None if wanted is None else wanted.line
    return next((bare(line) for line in (given, named, identity_line, bound) if line), "")


def bare(line: str) -> str:
    """Return a public key line without its comment, in which people write anything."""
    return keys.text(keys.parse(" ".join(line.split()[:2])))


def _strangers(task: Task, server: Server) -> Refused:
    return Refused(
        "already_bound",
        f"{server.name}: another user's private key pair is bound to {task.login}; an administrator may --take-over",
        login=task.login,
    )


def _key_to_repair_for(server: Server, login: str, line: str) -> str:
    if not line:
        raise Refused(
            "not_bound",
            f"{server.name}: a repair is proved by a key, and none is bound to {login}: name one (--keypair, --identity)",
        )
    return line


def _catch_up(plan: dict[str, Any], waits: dict[str, Any]) -> None:
    """Have the plan do what had to wait, after a reset, for the first online proof."""
    plan["remove"] = plan["remove"] + _others(waits.get("remove", []), plan["key"], *plan["remove"])
    if waits.get("close_passwords"):
        plan["passwords"] = "off"


def _others(lines: list[str], *known: str) -> list[str]:
    return [line for line in lines if not any(same(line, other) for other in known)]


def _named(wanted: KeyPair | None) -> KeyPair:
    if wanted is None:
        raise Refused("unexpected", "the request names no key pair")
    return wanted


def _old_lines(task: Task, server: Server, wanted: KeyPair, old: KeyPair | None, identity_line: str | None) -> list[str]:
    lines = [bare(old.line)] if old is not None else []
    if identity_line is not None and not lines:
        lines = [identity_line]
    lines = [line for line in lines if not same(line, wanted.line)]
    if not lines and (old is None or old.id != wanted.id):
        raise Refused(
            "not_bound",
            f"{server.name}: no key pair is on record for {task.login}; give the old private key (--identity) or use bind",
            login=task.login,
        )
    return lines


def same(one: str | None, other: str) -> bool:
    return one is not None and _material(one) == _material(other)


@functools.lru_cache(maxsize=4096)
def _material(line: str) -> object:
    """Return what makes a public key this one: a rollout compares a few, for each of its servers."""
    return keys.parse(line).material


def _last_that_closed(here: Bound | None, bound: list[Bound]) -> bool:
    """Whether passwords were closed for this binding, and for no other that stays."""
    closed = [each for each in bound if each.binding.closed_password_login]
    return here is not None and closed == [here]


def ways(task: Task, server: Server, bound: list[Bound], given: Credential | None, opens: bool) -> list[Way]:
    """Return the ways in, the best first: for a first bind what the caller gave, else a key in custody, then the others.

    The best key in custody comes first, but not all of them: few failed tries are allowed, and what was given must have its own.

    A credential that is given is for the task's login, or for the server's own; it is tried in this order. A password of
    which was said whose it is, is tried for that login only. opens: whether the private key given may be one that works today.
    """
    logins = list(dict.fromkeys([task.login, server.login]))
    by_caller: list[Way] = []
    if given is not None and given.by_key and (opens or given.password is None):
        by_caller += [Way(login, None, "identity") for login in logins]
    if given is not None and given.password is not None:
        by_caller += [Way(login, None, "password") for login in ([given.password_of] if given.password_of else logins)]
    managed = [each for each in bound if each.keypair.managed and not each.strangers]
    order = {login: place for place, login in enumerate(dict.fromkeys([server.login, "root", task.login]))}
    managed.sort(key=lambda each: order.get(each.binding.login, len(order)))
    kept = [Way(each.binding.login, each.keypair, "custody") for each in managed]
    if task.operation == "check":
        # A key is what is asked about, and may well be refused; few tries are allowed.
        passwords = [way for way in by_caller if way.by == "password"]
        return passwords + kept[:1] + [way for way in by_caller if way.by == "identity"] + kept[1:]
    return by_caller + kept if task.operation in _GIVEN_FIRST else kept[:1] + by_caller + kept[1:]
