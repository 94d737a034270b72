"""May sshd use this path? What stands on the way to a file in, what is wrong with it out.

The rule is StrictModes of upstream OpenSSH (safe_path() in misc.c), which every sshd accepts. Debian's is milder about
groups: what only it would let pass is called doubtful.
"""

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional

Component = namedtuple("Component", ["path", "kind", "mode", "uid", "gid", "nlink", "private_group"])
Component.__doc__ = """One thing on the way, links resolved. kind: "directory", "file", "link", "fifo", "device", "socket"
or "missing". mode: without the type bits. private_group: gid is the login's own group and nobody else is in it."""

Violation = namedtuple("Violation", ["path", "found", "wanted", "doubtful", "unsafe", "repair"])
Violation.__doc__ = """What is wrong with one component. found: "mode 0775"; wanted completes "it must be".
doubtful: sshd may accept it all the same. unsafe: not the kind of thing it should be, so nothing is written through it.
repair: (mode, better mode) where taking the write permission off is all it takes, else None."""

_READ, _WRITE, _SEARCH = 0o444, 0o022, 0o111
_CALLED = {"link": "a symbolic link", "fifo": "a named pipe", "directory": "a directory", "file": "a file"}


def check(components: "List[Component]", uid: int) -> "List[Violation]":
    """Return everything that would keep sshd, acting as the login with this uid, from using the last of the components.

    components: from the home directory (or "/", for a path outside it) down to the file, links resolved. What is
    missing is not wrong. A login in a group that is not its own may be misjudged.
    """
    found = []  # type: List[Violation]
    last = len(components) - 1
    for depth, component in enumerate(components):
        if component.kind == "missing":
            continue
        kind = "file" if depth == last else "directory"
        # Nobody's home directory, nor anything above it, is changed for a key.
        ours_to_mend = depth > 0 and depth >= last - 1
        wrong = _kind(component, kind)
        if wrong is not None:
            found.append(wrong)
            continue
        checks = [_owner(component, uid), _writable(component, ours_to_mend), _usable(component, kind, uid)]
        found += [wrong for wrong in checks if wrong is not None]
    return found


def _kind(component: Component, kind: str) -> "Optional[Violation]":
    wanted = "a regular file" if kind == "file" else "a directory"
    if component.kind != kind:
        found = _CALLED.get(component.kind, "a " + component.kind)
        return Violation(component.path, found, wanted, False, True, None)
    if kind == "file" and component.nlink != 1:
        found = "a file with {} names (hard links)".format(component.nlink)
        return Violation(component.path, found, "a file with one name", False, True, None)
    return None


def _owner(component: Component, uid: int) -> "Optional[Violation]":
    if component.uid in (0, uid):
        return None
    wanted = "owned by uid {} or root".format(uid) if uid else "owned by root"
    return Violation(component.path, "owner uid {}".format(component.uid), wanted, False, False, None)


def _writable(component: Component, ours_to_mend: bool) -> "Optional[Violation]":
    by = [who for who, bit in (("group", 0o020), ("others", 0o002)) if component.mode & bit]
    if not by:
        return None
    doubtful = by == ["group"] and component.private_group
    repair = (component.mode, component.mode & ~_WRITE) if ours_to_mend else None
    wanted = "not writable by " + " or ".join(by)
    return Violation(component.path, _mode(component), wanted, doubtful, False, repair)


def _usable(component: Component, kind: str, uid: int) -> "Optional[Violation]":
    """sshd opens the file as the login, not as root."""
    if uid == 0:
        return None
    bits = component.mode & (_READ if kind == "file" else _SEARCH)
    wanted = "readable by the login itself" if kind == "file" else "open to the login itself (x)"
    if component.uid == uid:
        usable = bits & 0o500
    elif component.private_group:
        usable = bits & 0o050
    elif bits & 0o005:
        return None
    else:
        # Perhaps the login is in that group.
        return Violation(component.path, _owned(component), wanted, bool(bits & 0o050), False, None)
    return None if usable else Violation(component.path, _owned(component), wanted, False, False, None)


def _mode(component: Component) -> str:
    return "mode {:04o}".format(component.mode)


def _owned(component: Component) -> str:
    return "mode {:04o} of uid {} and gid {}".format(component.mode, component.uid, component.gid)
