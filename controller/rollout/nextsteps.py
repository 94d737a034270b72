"""What to type next for servers of a rollout that are not as asked."""

from collections.abc import Sequence

from controller.causes import CAUSES

# What a retry needs besides: what was given before is gone, or was wrong.
_GIVEN_ANEW = " --password-stdin < passwords"
_NEED_PASSWORD = frozenset({"wrong_password", "credential_needed"})
_NAMED = 20  # servers in a command; a selection is shorter


def command(
    rollout_id: str, state: str, operation: str, keypair: str | None, status: str, cause: str | None, servers: Sequence[str]
) -> str:
    """Return the command for servers of one status and cause; "" where an order cannot help before somebody has been there.

    state: of the rollout. status: of the servers: failed, waiting, running, held, cancelled.
    """
    anew = f"{operation} {_named(servers)}" + (f" --keypair {keypair}" if keypair else "")
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
