"""Open SSH sessions of a login: which there are, which key each used as far as a log says, and ending one.

A session is one process of sshd's for its connection, which root owns, beside others under the one that listens; for most
logins a second one below it that has their rights; and all that was started from there. Their titles are the same since
OpenSSH 3.3, but that since 9.8 they begin with sshd-session. proc(5); for the words in the log auth_log() in OpenSSH's auth.c.
"""

import os
import signal
import sys
import time
from collections import namedtuple

from . import processes
from .host import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterator, List, Optional, Set, Tuple

    from .host import Account

_SSHD = ("sshd", "sshd-session")
_TAGS = tuple(" {}[".format(name) for name in _SSHD)
_LOGS = ("/var/log/auth.log.1", "/var/log/auth.log", "/var/log/secure", "/var/log/messages")
_JOURNALCTL = ("/usr/bin/journalctl", "/bin/journalctl")
_MOST_LOG = 16 << 20  # bytes of one log, from its end
_YOUNG_SECONDS = 60
_SETTLE_SECONDS = 1.0  # for connections that have just been closed, a proof's among them
_CLOSING_SECONDS = 2.0  # for sshd to close a session as it should (PAM, utmp) once nothing of it runs
_ROUNDS = 20

_Process = namedtuple("_Process", "pid name parent uid begun")
_Process.__doc__ = (
    """uid: the real one, of sshd's own processes only. begun: in ticks since boot; with the pid it names one process."""
)


def open_sessions(account: "Account", fingerprints: "List[str]") -> "Optional[List[Session]]":
    """Return the open sessions of this login that used one of these keys or may have; None where that cannot be told.

    The session that this process belongs to is not among them, nor one of which a log says that something else opened it.
    """
    if not os.path.exists("/proc/1/stat"):
        return None  # no /proc, or one that shows us our own only
    found = [each for each in _found(account, fingerprints) if each.used]
    until = time.monotonic() + _SETTLE_SECONDS
    while any(each.since > time.time() - _YOUNG_SECONDS for each in found) and time.monotonic() < until:
        time.sleep(0.05)
        table = _processes()
        found = [each for each in found if _lives(table, each)]
    return found


def end(session: Session) -> bool:
    """End one session: its connection, so that no other shell comes from it, and all that runs below; return whether it is gone.

    What has left the session before (a daemon, what cron or at runs) is not looked for. Our own session is never ended.
    """
    table = _processes()
    if not _lives(table, session):
        return True
    if session.pid in _ancestors(table, os.getpid()):
        return False
    tree = _stopped(session)
    for pid in tree[::-1]:
        if pid != session.pid:
            _signal(pid, signal.SIGKILL)
    if any(table[pid].name in _SSHD for pid in tree[1:] if pid in table):
        # The one for the connection sees that the other has ended, and closes the session.
        _signal(session.pid, signal.SIGCONT)
        _gone(session, _CLOSING_SECONDS)
    if not _gone(session, 0):
        _signal(session.pid, signal.SIGKILL)
    return _gone(session, _CLOSING_SECONDS)


def _stopped(session: Session) -> "List[int]":
    """Stop everything of a session, so that nothing new comes of it, and return the pids; the first is its connection's."""
    stopped = []  # type: List[int]
    for _ in range(_ROUNDS):
        new = [pid for pid in _below(_processes(), session.pid) if pid not in stopped]
        if not new:
            break
        for pid in new:
            _signal(pid, signal.SIGSTOP)
        stopped += new
    return stopped


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # it has ended, or is root's and we are not: then it ends with what is below it


def _gone(session: Session, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while _lives(_processes(), session):
        if time.monotonic() >= until:
            return False
        time.sleep(0.02)
    return True


# -- processes ---------------------------------------------------------------------------------------------------------


def _processes() -> "Dict[int, _Process]":
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        before, _, after = processes.slurp("/proc/{}/stat".format(name)).rpartition(")")
        program, words = before.partition("(")[2], after.split()
        if len(words) > 19 and words[0] != "Z":
            uid = _uid(name) if program in _SSHD else -1
            found[int(name)] = _Process(int(name), program, int(words[1]), uid, int(words[19]))
    return found


def _uid(pid: str) -> int:
    """Return whose this process is; -1 for one of a container on this machine, which has its own sshd and its own logins."""
    said = processes.slurp("/proc/{}/status".format(pid))
    if len(said.partition("\nNSpid:\t")[2].partition("\n")[0].split()) > 1:
        return -1
    # The owner of the directory will not do: it is root where the kernel hides the process from its own login.
    uid = said.partition("\nUid:\t")[2].split()[:1]
    return int(uid[0]) if uid else -1


def _lives(table: "Dict[int, _Process]", session: Session) -> bool:
    return session.pid in table and table[session.pid].begun == session.begun


def _ancestors(table: "Dict[int, _Process]", pid: int) -> "Set[int]":
    found = set()  # type: Set[int]
    while pid in table and pid not in found:
        found.add(pid)
        pid = table[pid].parent
    return found


def _below(table: "Dict[int, _Process]", top: int) -> "List[int]":
    """Return this process and all that stems from it; not an sshd that somebody started there to listen, nor its sessions."""
    found = [top] if top in table else []
    for pid in found:
        found += [each for each in table if table[each].parent == pid and not _listens(table[each])]
    return found


def _title(pid: int) -> str:
    return processes.slurp("/proc/{}/cmdline".format(pid)).rstrip("\0 ")


def _listens(process: _Process) -> bool:
    said = _title(process.pid)
    return process.name == "sshd" and (not said.startswith("sshd: ") or " [listener]" in said)


def _tops(table: "Dict[int, _Process]", account: "Account") -> "Iterator[Tuple[int, List[int]]]":
    """Yield (the process of the connection, and all of sshd's of it) of each session of this login but our own."""
    ours = _ancestors(table, os.getpid())
    of_sshd = {pid for pid, each in table.items() if each.name in _SSHD and not _listens(each)}
    for pid in sorted(of_sshd - ours):
        if table[pid].uid != 0 or table[pid].parent in of_sshd:
            continue
        both = [pid] + [each for each in sorted(of_sshd) if table[each].parent == pid]
        if any(table[each].uid == account.uid and _is_for(each, account.name) for each in both):
            yield pid, both


def _is_for(pid: int, login: str) -> bool:
    """Whether this process of sshd's serves a session of this login, by its title; its monitor does not, nor a log-in."""
    name, _, whose = _title(pid).partition(": ")
    return name in _SSHD and (whose == login or (whose.startswith(login + "@") and " " not in whose))


# -- what each used ----------------------------------------------------------------------------------------------------


def _found(account: "Account", fingerprints: "List[str]") -> "List[Session]":
    table = _processes()
    peers = _peers()
    ticks, now = os.sysconf("SC_CLK_TCK"), time.time() - time.clock_gettime(processes.BOOTTIME)
    logs = None  # type: Optional[List[Tuple[int, List[str]]]]
    found = []
    for top, both in _tops(table, account):
        if logs is None:
            logs = _logged()
        source = next((peers[inode] for pid in both for inode in processes.sockets_of(pid) if inode in peers), "")
        since = now + table[top].begun / ticks
        known, told = (
            [words for pid, words in lines if pid == top and _is_of(words, account.name, source)]
            for lines in (_journal(top, since), logs)
        )
        used = _used(known, told, fingerprints)
        found.append(Session(top, table[top].begun, int(since), source, used))
    return found


def _used(known: "List[List[str]]", told: "List[List[str]]", fingerprints: "List[str]") -> str:
    """Return whether one of these keys opened a session: "yes", "maybe", or "" where something else did.

    known: what the journal has, which knows itself who said it. told: what logs have, where anybody may write any line; so they
    clear nobody, and say nothing against what the journal knows.
    """
    if any(fingerprint in words for words in known or told for fingerprint in fingerprints):
        return "yes"
    return "" if known else "maybe"


def _is_of(words: "List[str]", login: str, source: str) -> bool:
    """Whether this is about a login of this name, from where the session's connection comes, as far as that is known."""
    # publickey for LOGIN from ADDRESS port PORT ssh2: ED25519 SHA256:...
    if len(words) < 7 or words[1:6:2] != ["for", "from", "port"] or words[2] != login:
        return False
    return not source or source == "{} port {}".format(words[4], words[6])


def _logged() -> "List[Tuple[int, List[str]]]":
    """Return (pid, words) of each login that a log has."""
    found = []
    for path in _LOGS:
        try:
            with open(path, "rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - _MOST_LOG))
                content = stream.read(_MOST_LOG)
        except OSError:
            continue
        if b"Accepted " in content:
            found += [each for each in map(_accepted, content.decode("utf-8", "replace").split("\n")) if each]
    return found


def _accepted(line: str) -> "Optional[Tuple[int, List[str]]]":
    """Return (pid, words after "Accepted") of a line of syslog's.

    The word must be the first that sshd says: names that somebody tried stand in other lines, and may be anything.
    """
    ends = [(line.find(tag), len(tag)) for tag in _TAGS if tag in line]
    if not ends:
        return None
    place, length = min(ends)
    pid, _, said = line[place + length :].partition("]: ")
    if not pid.isdigit() or not said.startswith("Accepted "):
        return None
    return int(pid), said.split()[1:]


def _journal(pid: int, since: float) -> "List[Tuple[int, List[str]]]":
    """Return what systemd's journal has of the login that this process let in: it knows itself who said it."""
    program = next((path for path in _JOURNALCTL if os.path.exists(path)), "")
    if not program or not os.path.isdir("/run/systemd/system"):
        return []
    # A process may be a little older than the clock was set to; who else had this number before is told by name and port.
    begun = "@{}".format(int(since) - 2)
    said = processes.run([program, "-q", "--no-pager", "-o", "cat", "-b", "--since", begun, "_PID={}".format(pid), "_UID=0"])
    lines = [line for line in said.out.split("\n") if line.startswith("Accepted ")]
    return [(pid, line.split()[1:]) for line in lines]


def _peers() -> "Dict[str, str]":
    """Return inode -> "ADDRESS port PORT" of whom each TCP socket is connected with."""
    found = {}
    for path in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in processes.slurp(path).split("\n")[1:]:
            row = line.split()
            if len(row) > 9 and row[3] == "01":
                address, _, port = row[2].partition(":")
                found[row[9]] = "{} port {}".format(_readable(address), int(port, 16))
    return found


def _readable(address: str) -> str:
    """Return an address that /proc/net/tcp has as sshd writes it."""
    import socket  # where it is needed: slow to load

    words = [int(address[start : start + 8], 16) for start in range(0, len(address), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    if packed.startswith(bytes(10) + b"\xff\xff"):
        packed = packed[12:]
    return socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)
