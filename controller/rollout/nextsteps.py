"""What to type next for servers of a rollout that are not as asked."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from controller.causes import CAUSES

# What a retry needs besides: what was given before is gone, or was wrong.
_GIVEN_ANEW = " --password-stdin < passwords"
_NEED_PASSWORD = frozenset({"wrong_password", "credential_needed"})
_NAMED = 20  # servers in a command; a selection is shorter
# What an order says besides: without it another one is given.
_SAID = (
    "keep_password_login", "close_password_login", "accept_lockout", "accept_unproved", "fix_permissions", "take_over", "revoke",
    "everywhere", "end_sessions", "force",
)  # fmt: skip


def options(request: Mapping[str, Any], logins: Collection[str]) -> str:
    """Return what a rollout was ordered with besides its key pair, as options. logins: of its servers.

    One login for all is named; where they are several, each is its server's own.
    """
    words = [f"--login {login}" for login in logins] if len(set(logins)) == 1 else []
    for name in _SAID:
        value, flag = request.get(name), "--" + name.replace("_", "-")
        words += [f"{flag} {each}" for each in value] if isinstance(value, list) else [flag] if value else []
    return "".join(f" {word}" for word in dict.fromkeys(words))


def command(
    rollout_id: str,
    state: str,
    operation: str,
    keypair: str | None,
    status: str,
    cause: str | None,
    servers: Sequence[str],
    said: str = "",
) -> str:
    """Return the command for servers of one status and cause; "" where an order cannot help before somebody has been there.

    state: of the rollout. status: of the servers: failed, waiting, running, held, cancelled. said: options().
    """
    anew = f"{operation} {_named(servers)}" + (f" --keypair {keypair}" if keypair else "") + said
    if status == "running" or (status == "waiting" and state == "running"):
        return f"kps rollout watch {rollout_id}"
    if status == "failed" and cause == "changed_since_plan":
        return f"kps rollout plan {anew}"
    if state == "cancelled":
        return f"kps rollout start {anew}"
    if status == "failed":
        if cause is not None and not (cause in CAUSES and CAUSES[cause].retryable):
            return ""
        return f"kps rollout retry {rollout_id} --cause {cause}" + (_GIVEN_ANEW if cause in _NEED_PASSWORD else "")
    if state in ("paused", "stopped"):
        return f"kps rollout resume {rollout_id}"
    return f"kps rollout start {anew}"


def _named(servers: Sequence[str]) -> str:
    return " ".join(servers) if len(servers) <= _NAMED else "LABEL=VALUE"
