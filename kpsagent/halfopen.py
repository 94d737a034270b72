"""Connections to sshd that have not got in yet: each keeps the configuration of when it was made, whatever is read since.

Told by sshd's own titles, which OpenSSH has since 3.3; where there are none, or no /proc, nobody is ended. A connection is
`sshd: [accepted]` until it names a login, then `sshd: alice [priv]`, with `sshd: alice [net]` below it until it has got in.
Since OpenSSH 9.8 these begin with sshd-session and sshd-auth. Shipped for doors only. sshd.c, monitor.c, auth2.c.
"""

import os
import signal
import time

from . import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Set, Tuple

    Table = Dict[int, Tuple[int, str]]  # of sshd's processes: pid -> (parent, when it began, in ticks since boot)

_SSHD = ("sshd", "sshd-session", "sshd-auth")
_LISTENER, _ACCEPTED, _MONITOR, _NET = " [listener]", "[accepted]", " [priv]", " [net]"
# For what has been forked, and has not written its own title yet: on a busy machine that is not in the first tenths of a second,
# and whoever is passed over may get in. The door is closed by then, so waiting costs nobody anything.
_ROUNDS = 150


def end(login: str, config: str, connection: "Optional[List[str]]") -> int:
    """End each connection that could get in yet as this login, to the sshd of this one or to any that runs on this main file.

    Never one that has got in, ours among them, nor one of another login's. Safe to be called again. Returns how many were.
    """
    if not os.path.exists("/proc/1/stat"):
        return 0
    ended = 0
    listening = {inode for pid in processes.listeners_by(config) for inode in processes.ears_of(pid)}
    listening |= set(processes.listening_inodes(connection[2], int(connection[3]))) if connection else set()
    ports = _ports(listening) | ({int(connection[3])} if connection else set())
    for _ in range(_ROUNDS):
        table = _table()
        found = [pid for pid in _of(table, listening, ports) if pid not in _ancestors()]
        for pid in found:
            if _is_half_open(table, pid, login):
                ended += _killed(table, pid)
        if not any(_is_new(pid) for pid in found):
            break
        time.sleep(0.02)
    return ended


def _table() -> "Table":
    found = {}  # type: Table
    for name in os.listdir("/proc"):
        if name.isdigit():
            program, words = _stat(name)
            if program in _SSHD and words[0] != "Z":
                found[int(name)] = (int(words[1]), words[19])
    return found


def _stat(pid: "object") -> "Tuple[str, List[str]]":
    before, _, after = processes.slurp("/proc/{}/stat".format(pid)).rpartition(")")
    words = after.split()
    return (before.partition("(")[2], words) if len(words) > 19 else ("", [])


def _ancestors() -> "Set[int]":
    found, pid = set(), os.getpid()  # type: Set[int], int
    while pid > 0 and pid not in found:
        found.add(pid)
        words = _stat(pid)[1]
        pid = int(words[1]) if words else 0
    return found


def _of(table: "Table", listening: "Set[str]", ports: "Set[int]") -> "List[int]":
    """Return the processes that serve a connection: below what listens on one of these sockets, or at one of these ports."""
    taken = {inode for inode, port in _sockets("01") if port in ports}
    held = {pid: processes.sockets_of(pid) for pid in table}
    holders = {pid for pid in table if held[pid] & listening}
    # Whoever has just been forked for a connection holds what its listener does, and closes it next.
    listeners = {pid for pid in holders if table[pid][0] not in holders}
    return [
        pid
        for pid in table
        if pid not in listeners and (table[pid][0] in listeners or held[pid] & taken) and processes.is_here(pid)
    ]


def _ports(listening: "Set[str]") -> "Set[int]":
    return {port for inode, port in _sockets("0A") if inode in listening}


def _sockets(state: str) -> "List[Tuple[str, int]]":
    """Return (inode, port here) of the sockets in this state: 01 are connections, 0A is what listens."""
    rows = [line.split() for name in ("tcp", "tcp6") for line in processes.slurp("/proc/self/net/" + name).split("\n")[1:]]
    return [(row[9], int(row[1].rpartition(":")[2], 16)) for row in rows if len(row) > 9 and row[3] == state]


def _title(pid: int) -> "Tuple[str, str]":
    name, _, rest = processes.slurp("/proc/{}/cmdline".format(pid)).rstrip("\0 ").partition(": ")
    return name, rest


def _is_new(pid: int) -> bool:
    """Whether it has not written its title yet. Of no listener: until then it has the title of the one that forked it."""
    name, state = _title(pid)
    return name not in ("", *_SSHD) or _LISTENER in state


def _is_half_open(table: "Table", pid: int, login: str) -> bool:
    name, state = _title(pid)
    if name not in _SSHD:
        return False
    # Of one that has got in the process of the network is no more: the monitor's title alone stays as it was.
    is_before = any(_title(child) in [(each, login + _NET) for each in _SSHD] for child in _below(table, pid))
    return state == _ACCEPTED or (state == login + _MONITOR and is_before)


def _below(table: "Table", pid: int) -> "List[int]":
    return [child for child in table if table[child][0] == pid]


def _killed(table: "Table", pid: int) -> bool:
    """Kill the monitor, without which nobody gets in, and then what still talks for it; return whether that could be done."""
    gone = False
    for each in [pid] + _below(table, pid):
        words = _stat(each)[1]
        if words and words[19] == table[each][1]:
            try:
                os.kill(each, signal.SIGKILL)
                gone = True
            except (ProcessLookupError, PermissionError):
                continue  # it has ended by itself
    return gone
