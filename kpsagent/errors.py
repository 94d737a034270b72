"""Why an operation on a server stops.

    Stop                 has a cause code from the closed list, a sentence for a person, and evidence
      Refused            before the first write: the server is as it was
      Failed             after it: what was done has to be undone
        Lost             nobody listens any more (end of file), or the deadline has passed
        Changed          somebody else edited the file between our look and our write

What each code means and how it is handled: docs/causes.md.
"""

import errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List


class Stop(Exception):
    """an operation stops here, for a reason that a user can act on"""

    def __init__(self, cause: str, message: str, **evidence: "Any") -> None:
        Exception.__init__(self, message)
        self.cause = cause
        self.message = message
        self.evidence: "Dict[str, Any]" = evidence


class Refused(Stop):
    """nothing was written"""


class Failed(Stop):
    """something was written, or may have been"""


class Lost(Failed):
    """the controller is gone, or was silent for too long"""


class Changed(Failed):
    """the file is no longer what we saw"""


_DISK_GONE = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN)
_NOT_WHAT_IT_SHOULD_BE = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EMLINK)


def from_os_error(error: OSError, path: str) -> Failed:
    """Return the Failed that says what this system error means for the file at path, and what to do."""
    number = error.errno or 0
    cause, step = "unexpected", "see the server's log"
    if number in (errno.ENOSPC, errno.EDQUOT):
        cause, step = "disk_full", "free some space or raise the quota, then retry"
    elif number == errno.EROFS:
        cause, step = "read_only", "mount the file system read-write, then retry"
    elif number in _DISK_GONE:
        cause, step = "disk_gone", "see the server's kernel log for that disk"
    elif number in (errno.EPERM, errno.EBUSY):
        cause, step = "immutable", "see lsattr (chattr +i, +a) and whether it is a mount point of its own"
    elif number in _NOT_WHAT_IT_SHOULD_BE:
        cause, step = "path_unsafe", "a component of this path is not what it should be"
    elif number == errno.EACCES:
        cause, step = "path_permissions", "the login itself cannot get at it, so neither can sshd"
    return Failed(cause, "{}: {}; {}".format(path, error.strerror or error, step), path=path, errno=number)


_MOST_SHOWN, LONGEST_SHOWN = 30, 250


def shown(sentences: "List[str]") -> "List[str]":
    """Return of these what a person and the controller will take: so many, each cut at a length; and how many more."""
    some = [sentence[:LONGEST_SHOWN] for sentence in sentences[:_MOST_SHOWN]]
    more = len(sentences) - len(some)
    return some + ["and {} more".format(more)] * bool(more)
