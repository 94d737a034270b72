"""What others wrote, as it may stand in a page: a server's banner is no more ours than a stranger's letter."""

import re
from datetime import datetime
from typing import Any

from markupsafe import Markup

# Control characters but tab and line feed, what turns the direction of writing, what is not seen, and halves of characters.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def shown(value: Any) -> Any:
    """Return a value as a page shows it: text with what could not be seen, or misleads, written out; markup of ours as it is."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _UNSEEN.sub(_written_out, value)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def moment(at: datetime | None) -> str:
    """Return a time as pages show it: in UTC, to the second."""
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}Z"


def age(at: datetime, now: datetime) -> int:
    """Return how many seconds ago a time was; an open page counts on from there (console.js)."""
    return max(0, int((now - at).total_seconds()))


def ago(at: datetime, now: datetime) -> str:
    """Return how long ago a time was, in one unit. As in console.js."""
    seconds = age(at, now)
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = seconds // size
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"
