"""A program and all that it starts, stopped at each system call by which one of them changes anything: there one dies, or all.

A program of a shell is hundreds of processes, and no two runs have them in the same order. So a call is known by who makes it,
by what it says, and by how many alike came before. Only the calls that change something stop a process, by a filter that it is
made to set for itself: seccomp(2), SECCOMP_RET_TRACE.
"""

import contextlib
import ctypes
import os
import re
import signal
import struct
from collections import Counter

from tests.drills.faults import tracer
from tests.drills.faults.tracer import Call, Tracer, _ptrace

_GET_REGISTERS, _SET_REGISTERS, _CONTINUE, _EVENT_MESSAGE = 12, 13, 7, 0x4201
_FORK, _VFORK, _CLONE, _SECCOMP, _STOP = 1, 2, 3, 7, 128  # ptrace's events
# Follow what is started, stop for the filter, and let nothing outlive us that the filter would then keep from working.
_OPTIONS = 1 | sum(1 << event for event in (_FORK, _VFORK, _CLONE, _SECCOMP)) | 1 << 20
_OURS_ONLY = tracer._ANY_CHILD | 0x20000000  # __WNOTHREAD: the other threads of this process have children of their own
_SET_FILTER, _SECCOMP_CALL = 1, 317
_ALLOW, _TRACE = 0x7FFF0000, 0x7FF00000
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06  # of BPF
_RED_ZONE = 128
_REGISTERS = struct.Struct("<27Q")  # x86-64's struct user_regs_struct
_RAX, _RDX, _RSI, _RDI, _ORIG_RAX, _RIP, _RSP = 10, 12, 13, 14, 15, 16, 19
_ARGUMENTS = (14, 13, 12, 7, 9, 8)  # rdi rsi rdx r10 r8 r9
_WATCHES = "/proc/self/oom_score_adj"  # what a watcher writes to as it begins, and nobody else
_UNIMPORTANT = ("/proc/", "/dev/")
_RANDOM = re.compile(r"(?<=\.kps-)[0-9a-f]+(-undo)?|(?<=/new-)\d+")


class Tree(Tracer):
    """Follows a program and what it starts, but the watchers among them are left alone.

    call, at: the call at which it happens, as it is written, and how many alike come before. how: "" is the whole program
    killed, its watcher apart; "one" whoever makes the call; "top" the program itself, and whoever makes the call goes on. error:
    the errno with which the call fails instead.
    """

    def __init__(self, call: str = "", at: int | None = None, how: str = "", error: int = 0) -> None:
        super().__init__(at, error)
        self.call, self.how = call, how
        self._alike: Counter[str] = Counter()
        self._alive: set[int] = set()
        self._watchers: set[int] = set()
        self._announced: set[int] = set()  # by whoever started them, and not ended; or ended before that was heard
        self._all_die = False

    def _follow(self) -> None:
        try:
            _ptrace(tracer._SEIZE, self._pid, 0, _OPTIONS)
            _ptrace(tracer._INTERRUPT, self._pid)
            self._top = self._pid
            self._alive.add(self._top)
            self._filter()
        except BaseException as error:
            self.trouble = error
            self.ended.set()
            return
        finally:
            self._seized.set()
        try:
            self._until_its_end()
        except ChildProcessError:
            pass  # all are gone
        except BaseException as error:
            self.trouble = error
        finally:
            self.ended.set()

    def _filter(self) -> None:
        """Have the program set the filter, in the place of the call that it is about to make; it makes that one next."""
        while True:
            _, status = os.waitpid(self._top, tracer._ANY_CHILD)
            if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80:
                break
            _ptrace(tracer._SYSCALL, self._top)
        before = self._registers(self._top)
        program = _program()
        place = before[_RSP] - _RED_ZONE - len(program) - 32 & ~15
        with open(f"/proc/{self._top}/mem", "r+b", buffering=0) as memory:
            memory.seek(place)
            memory.write(struct.pack("<HxxxxxxQ", len(program) // 8, place + 16) + program)
        asks = list(before)
        asks[_ORIG_RAX], asks[_RDI], asks[_RSI], asks[_RDX] = _SECCOMP_CALL, _SET_FILTER, 0, place
        self._set_registers(self._top, asks)
        _ptrace(tracer._SYSCALL, self._top)
        os.waitpid(self._top, tracer._ANY_CHILD)
        if self._registers(self._top)[_RAX] != 0:
            raise OSError("the filter was not taken")
        again = list(before)
        again[_RIP], again[_RAX] = before[_RIP] - 2, before[_ORIG_RAX]
        self._set_registers(self._top, again)
        _ptrace(_CONTINUE, self._top)

    def _until_its_end(self) -> None:
        while True:
            pid, status = os.waitpid(-1, _OURS_ONLY)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self._alive.discard(pid)
                self._watchers.discard(pid)
                self._announced ^= {pid}
                if not self._alive:
                    self.ended.set()
                continue
            with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                self._stopped(pid, status)

    def _stopped(self, pid: int, status: int) -> None:
        self._known(pid)
        event, given = status >> 16, 0
        if event in (_FORK, _VFORK, _CLONE):
            message = ctypes.c_ulong()
            _ptrace(_EVENT_MESSAGE, pid, 0, ctypes.addressof(message))
            self._announced ^= {message.value}
            if message.value in self._announced:  # else it has ended already
                self._known(message.value, pid)
        elif event == _SECCOMP:
            if pid not in self._watchers:
                self._changes(pid)
        elif event == 0:
            given = os.WSTOPSIG(status)  # a signal of its own
        if self._all_die and pid not in self._watchers:
            _kill(pid)
        else:
            _ptrace(_CONTINUE, pid, 0, given)

    def _known(self, pid: int, parent: int = 0) -> None:
        if pid in self._alive or pid in self._watchers:
            return
        if (parent or _parent(pid)) in self._watchers:
            self._watchers.add(pid)
        else:
            self._alive.add(pid)

    def _changes(self, pid: int) -> None:
        self._pid = pid
        registers = self._registers(pid)
        call = self._changing(registers[_ORIG_RAX], tuple(registers[place] for place in _ARGUMENTS))
        if call is None:
            return
        if call.what == _WATCHES:
            self._watchers.add(pid)
            self._alive.discard(pid)
        if call.what.startswith(_UNIMPORTANT):
            return
        self.calls.append(call)
        self._alike[str(call)] += 1
        if self.reached.is_set() or str(call) != self.call or self._alike[self.call] - 1 != self.at:
            return
        self.reached.set()
        if self.error:
            # Not made, and this is what it answers: seccomp(2), SECCOMP_RET_TRACE.
            changed = list(registers)
            changed[_ORIG_RAX], changed[_RAX] = (1 << 64) - 1, (1 << 64) - self.error
            self._set_registers(pid, changed)
        elif self.how == "one":
            _kill(pid)
        elif self.how == "top":
            _kill(self._top)
        else:
            self._all_die = True
            for each in self._alive:
                _kill(each)

    def _changing(self, number: int, arguments: tuple[int, ...]) -> Call | None:
        found = super()._changing(number, arguments)
        return None if found is None else found._replace(by=self._read("comm").strip())

    def _read(self, name: str) -> str:
        try:
            with open(f"/proc/{self._pid}/{name}", encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except OSError:
            return ""

    def _same(self, path: str) -> str:
        if path.startswith(("pipe:", "socket:")):
            return path.partition("[")[0]
        with contextlib.suppress(OSError):
            path = os.path.normpath(os.path.join(os.readlink(f"/proc/{self._pid}/cwd"), path))
        return _RANDOM.sub("*", path.removesuffix(" (deleted)"))

    def _registers(self, pid: int) -> tuple[int, ...]:
        seen = ctypes.create_string_buffer(_REGISTERS.size)
        _ptrace(_GET_REGISTERS, pid, 0, ctypes.addressof(seen))
        return _REGISTERS.unpack(seen.raw)

    def _set_registers(self, pid: int, registers: list[int]) -> None:
        wanted = ctypes.create_string_buffer(_REGISTERS.pack(*registers), _REGISTERS.size)
        _ptrace(_SET_REGISTERS, pid, 0, ctypes.addressof(wanted))


def numbered(calls: list[Call]) -> list[tuple[int, Call]]:
    """Return each call with how many alike came before it."""
    alike: Counter[str] = Counter()
    found = []
    for call in calls:
        found.append((alike[str(call)], call))
        alike[str(call)] += 1
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return int(stream.read().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _program() -> bytes:
    """Return the filter: who makes a call of tracer's about files, to open one only where it is to be written, is stopped."""
    lines: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, 0)]  # the number of the call
    for number, (name, _) in sorted(tracer._CALLS.items()):
        if name in tracer._NO_FILES:
            continue
        flags = tracer._FLAGS_AT.get(name)
        if flags is None:
            lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _TRACE)]
        else:
            # struct seccomp_data: the arguments begin at its 16th byte, each of 8.
            lines += [
                (_EQUAL, 0, 4, number),
                (_LOAD, 0, 0, 16 + 8 * flags),
                (_ANY_BIT, 0, 1, tracer._WRITES),
                (_RETURN, 0, 0, _TRACE),
                (_RETURN, 0, 0, _ALLOW),
            ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
