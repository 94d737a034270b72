"""Who closes a door though nobody asks: the watchers, and the boot. Run from the agent's copy that lies on the server."""

import os
import sys
import time

from . import doors
from .doorhost import SECOND, arm, claimed, revive_other
from .doorstate import standing_door
from .local import LocalHost, boot_clock
from .transaction import drive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Set, Tuple  # noqa: F401 - in a comment

_BEHIND_SECONDS = 1.5  # the second watcher leaves the first as much time, and a second more once that has begun
_SOON, _LATER, _PATIENCE = 1.0, 10.0, 60


def main(verb: str, arguments: "List[str]") -> None:
    """door-watch DIRECTORY first|second, door-boot DIRECTORY, door-tidy DIRECTORY (for an agent that holds the lock)."""
    directory = arguments[0]
    if verb == "door-tidy":
        _played(directory, doors.tidied())
    elif verb == "door-boot":
        boot(directory)
    else:
        attend(directory, arguments[1])


def attend(directory: str, role: str) -> None:
    """Watch, where nobody does in this role; and go on whatever fails (no process to be had, no memory, a disk that errs)."""
    held = claimed(directory, role)
    while held is not None:
        try:
            watch(directory, role)
            return
        except Exception as error:
            _said(error)
            time.sleep(_SOON)


def watch(directory: str, role: str) -> None:
    """Wait for the deadline of the door that stands, however often that is put off, and close it; so long as it stands."""
    name, last, heard = "", {}, set()  # type: str, Dict[str, Any], Set[str]
    behind, tries, closed = 0.0, 0, False
    while True:
        found = _seen(directory, name, last)
        if found is None or (last and found[1]["id"] != last["id"]):
            _played(directory, doors.disarmed(last))
            return
        name, last = found
        if not doors.over(name, last, time.time(), boot_clock()):
            revive_other(directory, role)
            time.sleep(_left(name, last))
            behind, tries, closed = _BEHIND_SECONDS if role == SECOND else 0.0, 0, False
            heard.clear()
            continue
        if behind and name != "closing":
            time.sleep(behind)
            behind = 0.0
            continue
        if not tries and name == "closing":
            time.sleep(_SOON)
            tries = 1
            continue
        done, left = _played(directory, doors.unattended(not closed, heard, found if last else None))
        closed = closed or done
        if done and not left:
            return
        if left:
            _said(left)
        tries += 1
        time.sleep(_SOON if tries < _PATIENCE else _LATER)


def _seen(directory: str, name: str, last: "Dict[str, Any]") -> "Optional[Tuple[str, Dict[str, Any]]]":
    """Return (name, door) as they stand; where the disk errs by what is remembered, and of a damaged record that it is over."""
    try:
        return standing_door(directory)
    except OSError as error:
        if not last:
            raise
        _said(error)
        return name, last
    except ValueError as error:
        _said(error)
        return "closing", dict(last and {"closed_by": doors.DAMAGED}, **last)


def _left(name: str, door: "Any") -> float:
    until = door["until"] if name == "open" else door["opening_until"]
    return float(min(max(until - boot_clock()[0] + 0.005, 0.01), _SOON))


def boot(directory: str) -> None:
    """Close a door whose time is over before sshd starts, and have any other watched. A boot waits for the first try only."""
    done, _ = _played(directory, doors.at_boot())
    if not done and _seen(directory, "", {}) is not None:
        arm(directory, b"", False)  # where it failed before it came to that, too


def _played(directory: str, play: "Any") -> "Any":
    """Return (whether play came to its end, what it returned)."""
    host = LocalHost(directory)
    try:
        return True, drive(play, host)
    except Exception as error:
        _said(error)
        return False, ""
    finally:
        host.close()
        os.chdir("/")


def _said(error: "object") -> None:
    try:
        print("kps: door: {}".format(error), file=sys.stderr)  # to the system's log, where there is one
    except OSError:
        return  # nobody hears
