"""What stands in our directory on a server: a file of JSON, and the door, where there is one."""

import os

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

NAMES = ("opening", "open", "closing")
# Only root may write in either. What is in /run ends with the boot, where that is what it should be; but SELinux lets sshd read
# in /etc/ssh, and perhaps not there.
PASSING, LASTING = "/run/kps-door", "/etc/ssh/kps-door"
_NEEDED = frozenset(
    ("id", "login", "from", "watchers", "operation", "generation", "opened_at", "deadline", "until", "opening_until", "boot")
    + ("place", "match", "config", "entry", "before", "daemon", "connection")
)


def load(path: str) -> "Any":
    """Return what a file of ours holds, or None where there is none."""
    try:
        with open(path, "rb") as stream:
            return wire.decode(stream.read().decode("ascii"))
    except FileNotFoundError:
        return None


def standing_door(directory: str) -> "Optional[Tuple[str, Dict[str, Any]]]":
    """Return (one of NAMES, the door that stands under it), or None. ValueError: what stands there is no door's record."""
    found = None  # type: Optional[Tuple[str, Dict[str, Any]]]
    # In the order in which it is moved; where it stands twice, the last word counts.
    for name in NAMES:
        door = load(os.path.join(directory, "door." + name))
        if door is not None and not (isinstance(door, dict) and _NEEDED.issubset(door)):
            raise ValueError("door.{}: not the record of a door".format(name))
        found = found if door is None else (name, door)
    return found
