"""One process, stopped at each system call by which it changes anything: there it is killed, or the call fails. ptrace(2).

strace's injection counts all calls of one name, the reads too, whose number differs from run to run; here the changing ones are
counted, whatever their names, and these are the same in every run.
"""

import ctypes
import errno
import os
import signal
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

_SEIZE, _INTERRUPT, _SYSCALL, _POKE_USER, _SYSCALL_INFO = 0x4206, 0x4207, 24, 6, 0x420E
_MARK_SYSCALLS = 1  # PTRACE_O_TRACESYSGOOD
_ANY_CHILD = 0x40000000  # __WALL
_ENTRY, _EXIT = 1, 2
_NUMBER, _RESULT = 15 * 8, 10 * 8  # of a call, in x86-64's struct user
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# x86-64's numbers of the calls that change something, and which of their arguments say what: "p" a path, "d" a descriptor,
# "@" a directory's descriptor and a name in it.
_CALLS = {
    1: ("write", "d"),
    2: ("open", "p"),
    18: ("pwrite64", "d"),
    20: ("writev", "d"),
    40: ("sendfile", "d"),
    56: ("clone", ""),
    57: ("fork", ""),
    58: ("vfork", ""),
    62: ("kill", ""),
    74: ("fsync", "d"),
    75: ("fdatasync", "d"),
    76: ("truncate", "p"),
    77: ("ftruncate", "d"),
    82: ("rename", "pp"),
    83: ("mkdir", "p"),
    84: ("rmdir", "p"),
    86: ("link", "pp"),
    87: ("unlink", "p"),
    88: ("symlink", "pp"),
    90: ("chmod", "p"),
    91: ("fchmod", "d"),
    92: ("chown", "p"),
    93: ("fchown", "d"),
    94: ("lchown", "p"),
    161: ("chroot", "p"),
    165: ("mount", "pp"),
    166: ("umount2", "p"),
    188: ("setxattr", "p"),
    189: ("lsetxattr", "p"),
    190: ("fsetxattr", "d"),
    197: ("removexattr", "p"),
    198: ("lremovexattr", "p"),
    199: ("fremovexattr", "d"),
    257: ("openat", "@"),
    258: ("mkdirat", "@"),
    260: ("fchownat", "@"),
    263: ("unlinkat", "@"),
    264: ("renameat", "@@"),
    265: ("linkat", "@@"),
    266: ("symlinkat", "p@"),
    268: ("fchmodat", "@"),
    316: ("renameat2", "@@"),
    435: ("clone3", ""),
}
_FLAGS_AT = {"open": 1, "openat": 2}
_NO_FILES = ("clone", "clone3", "fork", "vfork", "kill")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class Call(NamedTuple):
    """One changing call. what: the files it names, without what is another in each run; by: who makes it, where many may."""

    name: str
    what: str
    by: str = ""

    @property
    def can_fail(self) -> bool:
        """Whether it is about a file; what goes to the controller or a child is no file."""
        return self.name not in _NO_FILES and not self.what.startswith(("pipe:", "socket:"))

    def __str__(self) -> str:
        return f"{self.by} {self.name}({self.what})".lstrip()


class Tracer:
    """Follows one process from seize() to its end; not its children. at: the number of the changing call where it happens.

    error: the errno with which that call fails, or 0: the process is killed as it makes it, and the call is not made.
    """

    def __init__(self, at: int | None = None, error: int = 0) -> None:
        self.calls: list[Call] = []
        self.at = at
        self.error = error
        self.reached = threading.Event()
        self.ended = threading.Event()
        self.trouble: BaseException | None = None
        self._seized = threading.Event()

    def seize(self, pid: int) -> None:
        """Follow the process from now on, in a thread: only the thread that seized a process may ask about it."""
        self._pid = pid
        threading.Thread(target=self._follow, daemon=True).start()
        self._seized.wait()
        if self.trouble is not None:
            raise self.trouble

    def _follow(self) -> None:
        try:
            _ptrace(_SEIZE, self._pid, 0, _MARK_SYSCALLS)
            _ptrace(_INTERRUPT, self._pid)
            os.waitpid(self._pid, _ANY_CHILD)
            _ptrace(_SYSCALL, self._pid)
        except BaseException as error:
            self.trouble = error
            self.ended.set()
            return
        finally:
            self._seized.set()
        try:
            self._until_its_end()
        except (ChildProcessError, ProcessLookupError):
            pass  # it is gone
        except BaseException as error:
            self.trouble = error
        finally:
            self.ended.set()

    def _until_its_end(self) -> None:
        fails = False
        while True:
            _, status = os.waitpid(self._pid, _ANY_CHILD)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                return
            stopped_by, given = os.WSTOPSIG(status), 0
            if stopped_by == signal.SIGTRAP | 0x80:
                kind, number, arguments = self._stopped_at()
                if kind == _EXIT and fails:
                    _ptrace(_POKE_USER, self._pid, _RESULT, -self.error)
                    fails = False
                if kind == _ENTRY and (call := self._changing(number, arguments)) is not None:
                    self.calls.append(call)
                    if len(self.calls) - 1 == self.at:
                        self.reached.set()
                        if not self.error:
                            os.kill(self._pid, signal.SIGKILL)
                            continue
                        _ptrace(_POKE_USER, self._pid, _NUMBER, -1)
                        fails = True
            elif status >> 16 == 0:
                given = stopped_by  # a signal of its own
            _ptrace(_SYSCALL, self._pid, 0, given)

    def _stopped_at(self) -> tuple[int, int, tuple[int, ...]]:
        seen = ctypes.create_string_buffer(88)
        _ptrace(_SYSCALL_INFO, self._pid, len(seen), ctypes.addressof(seen))
        numbers = struct.unpack_from("<7Q", seen, 24)
        return seen.raw[0], numbers[0], numbers[1:]

    def _changing(self, number: int, arguments: tuple[int, ...]) -> Call | None:
        name, kinds = _CALLS.get(number, ("", ""))
        if not name or (name in _FLAGS_AT and not arguments[_FLAGS_AT[name]] & _WRITES):
            return None
        return Call(name, ", ".join(self._named(kinds, iter(arguments))))

    def _named(self, kinds: str, arguments: Iterator[int]) -> Iterator[str]:
        for kind in kinds:
            directory = self._descriptor(next(arguments)) if kind in "d@" else ""
            name = self._text(next(arguments)) if kind in "p@" else ""
            yield self._same(os.path.join(directory, name) if kind == "@" else directory or name)

    def _same(self, path: str) -> str:
        """Return path as it is in every run."""
        path = path.removesuffix(" (deleted)")
        head, mark, _ = path.partition(".kps-")
        if mark:
            return head + ".kps-*"
        head, mark, tail = path.partition("/new-")
        if mark and tail.isdigit():
            return head + "/new-*"
        return path.partition("[")[0] if path.startswith(("pipe:", "socket:")) else path

    def _descriptor(self, number: int) -> str:
        if number & 0xFFFFFFFF == 0xFFFFFF9C:
            return ""  # AT_FDCWD
        try:
            return os.readlink(f"/proc/{self._pid}/fd/{number}")
        except OSError:
            return str(number)

    def _text(self, address: int) -> str:
        # Opened anew each time: it is the memory of one program, and a process may become another.
        with open(f"/proc/{self._pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(200).partition(b"\0")[0].decode("utf-8", "replace")


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    done: int = _libc.ptrace(request, pid, address, data)
    if done < 0 and request != _SYSCALL_INFO:
        number = ctypes.get_errno()
        if number == errno.ESRCH:
            raise ProcessLookupError(number, os.strerror(number))
        raise OSError(number, f"ptrace {request:#x}: {os.strerror(number)}")
    return done
