"""Two names of one directory change places in one step, and whether anybody has a file open to write in it.

With both a file can be replaced under the hands of people who honour no lock, and nothing that they write is lost: what was
displaced still has a name, and can be looked at once nobody writes in it any more.
"""

import errno
import fcntl
import os
import select
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Tuple  # noqa: F401 - in a comment

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
_PERL_SECONDS = 10
# Started before it is needed, for what it takes to start is as long as others need to edit the file; then one line, one answer.
# Its real user is root where its effective one is a login, so that it takes all it is given for tainted.
_SAY = (
    "$|=1;my($n,$d)=map{/([0-9]+)/?$1:0}@ARGV;print(chr 0) or exit;"
    "while(<STDIN>){/^([^\\0]+)\\0([^\\0]+)\\n$/ or exit;my($a,$b)=($1,$2);"
    "print(chr(syscall($n+0,$d+0,$a,$d+0,$b,2)==0?0:$!+0)) or exit}"
)


_confined = []  # type: List[Any]


def confine() -> None:
    """Get ready for a process that will be shut into a disk at rest: nothing is loaded or started from there."""
    _confined.append(_library())


class Swapper:  # a context manager
    """Has two names of the directory parent change places, as often as is asked for, with the rights of whoever made it."""

    def __init__(self, parent: int) -> None:
        self.parent = parent
        self._number = _NUMBERS.get(os.uname().machine, 0) if sys.maxsize > 1 << 32 else 0
        self._library = None  # type: Any
        if self._number:
            self._library = _confined[0] if _confined else _library()
        self._perl = None  # type: Optional[Tuple[int, int, int]]
        if self._number and self._library is None and not _confined:
            self._start_perl()

    def __enter__(self) -> "Swapper":
        return self

    def __exit__(self, *_: "Any") -> None:
        if self._perl is not None:
            child, into, out = self._perl
            os.close(into)
            os.close(out)
            try:
                os.kill(child, signal.SIGKILL)  # it has the login's rights, who may have stopped it
            except ProcessLookupError:
                pass
            os.waitpid(child, 0)
            self._perl = None

    def exchange(self, one: str, other: str) -> bool:
        """Have these names change places; False where that cannot be done here. OSError where it fails."""
        error = self._called(os.fsencode(one), os.fsencode(other))
        if error is None or error in _CANNOT:
            return False
        if error:
            raise OSError(error, os.strerror(error))
        return True

    def _called(self, one: bytes, other: bytes) -> "Optional[int]":
        """Return the error number, 0 where there was none; None where nobody here can call."""
        if self._library is not None:
            import ctypes

            if self._library.syscall(self._number, self.parent, one, self.parent, other, _EXCHANGE) == 0:
                return 0
            return ctypes.get_errno()
        if self._perl is None or b"\n" in one + other:
            return None
        _, into, out = self._perl
        ours = os.stat(one, dir_fd=self.parent, follow_symlinks=False)
        try:
            os.write(into, one + b"\0" + other + b"\n")
            answer = _answer(out)
        except BrokenPipeError:
            answer = None
        if answer is None:
            # The login may stop or kill it just after the call. It is ended for good, so what it has done can be seen.
            self.__exit__()
            if os.path.samestat(os.stat(other, dir_fd=self.parent, follow_symlinks=False), ours):
                return 0
            if not os.path.samestat(os.stat(one, dir_fd=self.parent, follow_symlinks=False), ours):
                return errno.EIO
        return answer

    def _start_perl(self) -> None:
        read_in, into = os.pipe()
        out, write_out = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.dup2(read_in, 0)
                os.dup2(write_out, 1)
                os.set_inheritable(self.parent, True)
                os.execve(_PERL, ["perl", "-e", _SAY, str(self._number), str(self.parent)], {})
            finally:
                os._exit(1)
        os.close(read_in)
        os.close(write_out)
        self._perl = child, into, out
        if _answer(out) is None:
            self.__exit__()


def _answer(out: int) -> "Optional[int]":
    said = os.read(out, 1) if select.select([out], [], [], _PERL_SECONDS)[0] else b""
    return said[0] if said else None


def _library() -> "Any":
    """Return the C library, or None where there is no ctypes."""
    try:
        import ctypes
    except ImportError:
        return None
    return ctypes.CDLL(None, use_errno=True)


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
