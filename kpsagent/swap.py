"""Two names of one directory change places in one step, and whether anybody has a file open to write in it.

With both a file can be replaced under the hands of people who honour no lock, and nothing that they write is lost: what was
displaced still has a name, and can be looked at once nobody writes in it any more.
"""

import errno
import fcntl
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional

# renameat2(2) by its number: Python has no name for it, nor have older C libraries.
_NUMBERS = {
    "x86_64": 316,
    "aarch64": 276,
    "riscv64": 276,
    "loongarch64": 276,
    "ppc64": 357,
    "ppc64le": 357,
    "s390x": 347,
}
_EXCHANGE = 2
# This file system or kernel cannot, or a filter of a container does not know the call. Everything else is an answer.
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EPERM)
# python3-minimal has no ctypes, but where it is the usual Python, Debian and its like, perl-base is always there.
_PERL = "/usr/bin/perl"
# Its real user is root where its effective one is a login, and so it takes its own arguments for tainted.
_SAY = 'my ($n,$d,$a,$b)=map{/(.*)/s?$1:""}@ARGV;exit(syscall($n+0,$d+0,$a,$d+0,$b,2)==0?0:$!+0)'
_NOT_STARTED = 126


def exchange(parent: int, one: str, other: str) -> bool:
    """Have two names in the directory parent change places; False where that cannot be done here. OSError where it fails."""
    number = _NUMBERS.get(os.uname().machine) if sys.maxsize > 1 << 32 else None
    if number is None:
        return False
    error = _called(number, parent, one, other)
    if error is None:
        error = _called_by_perl(number, parent, one, other)
    if error is None or error in _CANNOT:
        return False
    if error:
        raise OSError(error, os.strerror(error))
    return True


def _called(number: int, parent: int, one: str, other: str) -> "Optional[int]":
    """Return the error number, 0 where there was none; None where there is no ctypes."""
    try:
        import ctypes
    except ImportError:
        return None
    library = ctypes.CDLL(None, use_errno=True)
    if library.syscall(number, parent, os.fsencode(one), parent, os.fsencode(other), _EXCHANGE) == 0:
        return 0
    return ctypes.get_errno()


def _called_by_perl(number: int, parent: int, one: str, other: str) -> "Optional[int]":
    """As _called; None where there is no perl."""
    child = os.fork()
    if child == 0:
        try:
            os.set_inheritable(parent, True)
            os.execve(_PERL, ["perl", "-e", _SAY, str(number), str(parent), one, other], {})
        finally:
            os._exit(_NOT_STARTED + 1)
    status = os.waitpid(child, 0)[1]
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else _NOT_STARTED
    return code if code < _NOT_STARTED else None


def nobody_writes(opened: int) -> "Optional[bool]":
    """Whether no process has this file, open for reading here, open for writing; None where the kernel will not tell.

    A read lease is given on such a file alone: fcntl(2), F_SETLEASE. A file system of the network may refuse it always.
    """
    try:
        # Who opens it while we hold the lease has us told so by a signal; that of a broken lease would end us, this is ignored.
        fcntl.fcntl(opened, 10, signal.SIGURG)  # F_SETSIG, which Python 3.6 has no name for
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True
