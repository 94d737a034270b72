"""What stands in our directory on a server: a file of JSON, and the door, where there is one."""

import os

from . import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

NAMES = ("opening", "open", "closing")


def load(path: str) -> "Any":
    """Return what a file of ours holds, or None where there is none."""
    try:
        with open(path, "rb") as stream:
            return wire.decode(stream.read().decode("ascii"))
    except FileNotFoundError:
        return None


def standing_door(directory: str) -> "Optional[Tuple[str, Dict[str, Any]]]":
    """Return (one of NAMES, the door that stands under it), or None."""
    found = None  # type: Optional[Tuple[str, Dict[str, Any]]]
    # In the order in which it is moved; where it stands twice, the last word counts.
    for name in NAMES:
        door = load(os.path.join(directory, "door." + name))
        found = found if door is None else (name, door)
    return found
