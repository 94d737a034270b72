"""What an agent tells of open sessions that a removed key let in, in words for people. Pure."""

from datetime import UTC, datetime
from typing import Any

_MOST_NAMED = 3


def named(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sessions of an agent's result as evidence; used says "yes" or "maybe"."""
    ended = result.get("ended") or []
    return [
        {
            "pid": each["pid"],
            "since": datetime.fromtimestamp(each["since"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "from": each["source"] or "unknown",
            "used": each["used"],
            "ended": each["pid"] in ended,
        }
        for each in result.get("sessions") or []
    ]


def told(result: dict[str, Any], *, planned: bool = False) -> str:
    """Return a sentence about them; "" where there are none, or nothing has been removed. planned: nor will it be now."""
    if result.get("sessions") is None:
        return "sessions that the removed key opened cannot be seen here" if result["status"] == "succeeded" else ""
    found = named(result)
    if planned:
        return _counted(found)
    still = _counted([each for each in found if not each["ended"]])
    ended = _counted([each for each in found if each["ended"]])
    words = [f"{still}; --revoke --end-sessions ends what is open"] if still else []
    return "; ".join(words + ([f"ended: {ended}; what had left a session (tmux, cron, at) runs on"] if ended else []))


def _counted(found: list[dict[str, Any]]) -> str:
    if not found:
        return ""
    opened = "opened" if all(each["used"] == "yes" for each in found) else "opened, or may have (no log says)"
    places = [f"pid {each['pid']} from {each['from']} since {each['since']}" for each in found[:_MOST_NAMED]]
    places += [f"{len(found) - _MOST_NAMED} more"] if len(found) > _MOST_NAMED else []
    count = f"{len(found)} live session{'s' if len(found) > 1 else ''}"
    return f"{count} that the key {opened}: {', '.join(places)}"
