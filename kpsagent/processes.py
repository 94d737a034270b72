"""The sshd of this machine: which one serves us, what it says of a configuration, and having it re-read one.

A program is run by its path and arguments; there is never a shell in between. /proc is described in proc(5).
"""

import os
import select
import signal
import sys
import time

from .host import MAIN_CONFIG, Daemon, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Set, Tuple

PID_FILE = "/run/sshd.pid"
SYSTEMCTL = ["/usr/bin/systemctl", "/bin/systemctl"]
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_KEPT_ARGUMENTS = "fophc46CgkuV"  # of sshd(8): those that change its configuration; -D -d -e -i -q -t -T do not
_WITH_VALUE = "bCcEfghkoputV"
_LARGEST_OUTPUT = 4 << 20
_RELOAD_SECONDS = 15  # a machine that is out of breath takes its time; the deadline is there all the same
_SECOND = 10**9
BOOTTIME = 7  # CLOCK_BOOTTIME, which the time module names only since Python 3.7
_LOST_SECONDS = 5  # after which a signal that shows no effect is given once more
SPARES_SESSIONS = ("KillMode=process", "KillMode=none")  # systemd.kill(5)
_SETTLE_SECONDS = 1  # for a reload of which nothing is to be seen


def run(arguments: "List[str]", given: bytes = b"", seconds: float = 20, account: "Any" = None) -> Output:
    """Run a program to its end and return what it said; code 124 where it took too long, 127 where it is not there.

    account: as this login, where we are root; else as ourselves.
    """
    pairs = [os.pipe() for _ in range(3)]
    child = os.fork()
    if child == 0:
        _become(arguments, pairs, account if os.geteuid() == 0 else None)
    for ours, theirs in ((pairs[0][1], pairs[0][0]), (pairs[1][0], pairs[1][1]), (pairs[2][0], pairs[2][1])):
        os.close(theirs)
        os.set_blocking(ours, False)
    return _talk(child, pairs[0][1], pairs[1][0], pairs[2][0], given, time.monotonic() + seconds)


def _become(arguments: "List[str]", pairs: "List[Any]", account: "Any") -> None:
    try:
        if account is not None:
            os.setgroups([account.gid] + list(account.group_ids))
            os.setgid(account.gid)
            os.setuid(account.uid)
        os.dup2(pairs[0][0], 0)
        os.dup2(pairs[1][1], 1)
        os.dup2(pairs[2][1], 2)
        os.closerange(3, 256)
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.execve(arguments[0], arguments, _ENVIRONMENT)
    except OSError:
        os._exit(127)


def _talk(child: int, into: int, out: int, err: int, given: bytes, until: float) -> Output:
    said = {out: b"", err: b""}
    reading, writing = [out, err], [into]
    code = None  # type: Optional[int]
    while reading:
        left = until - time.monotonic()
        readable, writable, _ = select.select(reading, writing, [], max(left, 0))
        if left <= 0:
            os.kill(child, signal.SIGKILL)
            code = 124
            break
        if writable:
            try:
                given = given[os.write(into, given[:65536]) :] if given else b""
            except BrokenPipeError:
                given = b""
            if not given:
                os.close(into)
                writing = []
        for each in readable:
            some = os.read(each, 65536)
            said[each] = (said[each] + some)[:_LARGEST_OUTPUT]
            if not some:
                reading.remove(each)
    for each in [out, err] + writing:
        os.close(each)
    _, status = os.waitpid(child, 0)
    if code is None:
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    return Output(code, said[out].decode("utf-8", "surrogateescape"), said[err].decode("utf-8", "surrogateescape"))


# -- which sshd --------------------------------------------------------------------------------------------------------


def find_daemon(connection: "Optional[List[str]]") -> Daemon:
    """Return the sshd at the server's end of this connection: one that listens, else one started for each connection."""
    if os.geteuid() != 0:
        return Daemon("hidden", 0, "", [], MAIN_CONFIG, "")
    if not _has_proc():
        return _daemon_by_files()
    ours = _serves_us()
    listener = ours if ours and _is_listener(ours) else _listener_on(connection)
    if listener:
        return _daemon("listener", listener)
    if ours:
        return _daemon("each", ours)
    return Daemon("none", 0, "", [], MAIN_CONFIG, "")


def _daemon(how: str, pid: int) -> Daemon:
    arguments = configuring(title(pid)[1:]) if how == "listener" else []
    config = MAIN_CONFIG
    for index, word in enumerate(arguments[:-1]):
        if word == "-f":
            config = os.path.abspath(arguments[index + 1])
    return Daemon(how, pid, _sshd_program(pid), arguments, config, _unit(pid))


def _has_proc() -> bool:
    return os.path.exists("/proc/self/stat")


def _daemon_by_files() -> Daemon:
    """The sshd of a server on which no process can be looked at (a chroot without /proc): as its own files name it."""
    pid = slurp(PID_FILE).strip()
    if not pid.isdigit():
        return Daemon("none", 0, "", [], MAIN_CONFIG, "")
    words = []  # type: List[str]
    for line in slurp("/etc/default/ssh").split("\n"):
        name, _, value = line.partition("=")
        if name.strip() == "SSHD_OPTS":
            words = value.strip().strip("\"'").split()
    return Daemon("listener", int(pid), _sshd_program(int(pid)), configuring(words), MAIN_CONFIG, "")


def configuring(arguments: "List[str]") -> "List[str]":
    """Return those of sshd's arguments that change its configuration, each value a word of its own."""
    return [word for option in _options(arguments) if option[0][1] in _KEPT_ARGUMENTS for word in option]


def _options(arguments: "List[str]") -> "List[List[str]]":
    """Return sshd's arguments one by one: [["-D"], ["-o", "UsePAM no"]]."""
    options = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        letters = word[1:] if word.startswith("-") else ""
        for place, letter in enumerate(letters):
            if letter in _WITH_VALUE:
                options.append(["-" + letter, letters[place + 1 :] or (words.pop(0) if words else "")])
                break
            options.append(["-" + letter])
    return options


def title(pid: int) -> "List[str]":
    """Return a process's arguments, also of an sshd that wrote `sshd: /usr/sbin/sshd -D [listener] 0 of 10 startups` there."""
    return title_of(slurp("/proc/{}/cmdline".format(pid)))


def title_of(said: str) -> "List[str]":
    """The same from what /proc has as its command line."""
    said = said.rstrip("\0")
    if said.startswith("sshd: ") and " [listener]" in said:
        return said[len("sshd: ") : said.index(" [listener]")].split()
    return said.split("\0")


def slurp(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read(1 << 20)
    except OSError:
        return ""


def _program(pid: int) -> str:
    try:
        return os.readlink("/proc/{}/exe".format(pid)).replace(" (deleted)", "")
    except OSError:
        return ""


def _sshd_program(pid: int) -> str:
    program = _program(pid)
    if os.path.basename(program) == "sshd":
        return program
    return next((path for path in ("/usr/sbin/sshd", "/usr/local/sbin/sshd") if os.path.exists(path)), "/usr/sbin/sshd")


def _is_sshd(pid: int) -> bool:
    return os.path.basename(_program(pid)) in ("sshd", "sshd-session", "sshd-auth")


def _is_listener(pid: int) -> bool:
    """Whether this sshd listens. Since OpenSSH 9.8 what serves a session is a program of its own; before, it is sshd too."""
    return listens(_program(pid), slurp("/proc/{}/cmdline".format(pid)))


def listens(program: str, said: str) -> bool:
    """The same from its program, and what /proc has as its command line."""
    if os.path.basename(program) != "sshd":
        return False
    if not said or said.startswith("sshd: "):
        return " [listener]" in said
    # A title that it has not written, or not yet: -i is what inetd starts, -R what it makes of itself for a connection; -t, -T
    # and -G only look at its configuration.
    return not any(option[0] in ("-i", "-R", "-t", "-T", "-G") for option in _options(title_of(said)[1:]))


def _serves_us() -> int:
    """Return the sshd above this process that all of its session comes from, or 0.

    Where it listens it is the parent of what serves the session. Farther up there may be another, from whose session it was
    started.
    """
    pid, found = os.getpid(), 0
    while pid > 1:
        pid = _parent(pid)
        if pid and _is_sshd(pid):
            found = pid
        elif found:
            break
    return found


def listening_inodes(address: str, port: int) -> "List[str]":
    """Return the inodes of the sockets that listen on this TCP port for this address."""
    return inodes_in([slurp("/proc/self/net/tcp"), slurp("/proc/self/net/tcp6")], as_proc_writes(address, sys.byteorder), port)


def inodes_in(tables: "List[str]", ours: str, port: int) -> "List[str]":
    """The same from the text of /proc/net/tcp and tcp6, and our address as it is written there."""
    found = []
    for table in tables:
        for line in table.split("\n")[1:]:
            row = line.split()
            if len(row) > 9 and row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port and _serves(row[1], ours):
                found.append(row[9])
    return found


def _serves(local: str, ours: str) -> bool:
    address = local.partition(":")[0]
    return not address.strip("0") or address == ours or address[-8:] == ours


def as_proc_writes(address: str, order: "Any") -> str:
    """Return an IP address as /proc/net/tcp has it: hexadecimal, each 32 bits in the machine's order ("little" or "big")."""
    import socket  # where it is needed: slow to load

    packed = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address.partition("%")[0])
    words = [packed[start : start + 4] for start in range(0, len(packed), 4)]
    return "".join("{:08X}".format(int.from_bytes(word, order)) for word in words)


def _listener_on(connection: "Optional[List[str]]") -> int:
    inodes = set(listening_inodes(connection[2], int(connection[3]))) if connection else set()
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) if inodes else []
    return next((pid for pid in pids if _is_listener(pid) and inodes & sockets_of(pid)), 0)


def is_here(pid: "object") -> bool:
    """Whether this is no process of a container's, nor of a machine that a container of ours runs on."""
    try:
        return os.path.samefile("/proc/{}/root".format(pid), "/")
    except OSError:
        return False  # it has ended


def sockets_of(pid: int) -> "Set[str]":
    """Return the inodes of the sockets that a process holds."""
    directory = "/proc/{}/fd".format(pid)
    try:
        names = os.listdir(directory)
    except OSError:
        return set()  # it has ended, or may not be looked at
    held = set()
    for name in names:
        try:
            kind, _, inode = os.readlink(os.path.join(directory, name)).partition(":[")
        except OSError:
            continue  # closed while we looked
        if kind == "socket":
            held.add(inode.rstrip("]"))
    return held


def _unit(pid: int) -> str:
    return unit_in(slurp("/proc/{}/cgroup".format(pid))) if os.path.isdir("/run/systemd/system") else ""


def unit_in(cgroup: str) -> str:
    """Return the systemd unit of an sshd that /proc has in this control group, or ""."""
    for line in cgroup.split("\n"):
        last = line.rpartition("/")[2]
        if last.endswith(".service") and last.startswith("ssh"):
            return last
    return ""


# -- asking and reloading ----------------------------------------------------------------------------------------------


def ask_sshd(
    daemon: Daemon, flags: "List[str]", text: "Optional[str]", candidate: str, beside: "Optional[Tuple[str, str]]" = None
) -> Output:
    """Return what this sshd says with its own arguments and these flags; with text, as if its main file held that.

    candidate: the path at which text is put for as long. beside: (path, text) of a file that it includes, as if it held that.
    """
    arguments = list(daemon.arguments)
    if text is not None:
        if beside is not None:
            text = text.replace(beside[0], candidate + "-door")
            _put(candidate + "-door", beside[1])
        _put(candidate, text)
        arguments = without_config(arguments) + ["-f", candidate]
    try:
        output = run([daemon.program] + flags + arguments)
        if output.code != 0 and "rivilege separation directory" in output.err:
            # Where sshd is started for each connection, nobody makes this directory for us beforehand.
            os.makedirs("/run/sshd", 0o755, exist_ok=True)
            output = run([daemon.program] + flags + arguments)
        return output._replace(err=output.err.replace(candidate, daemon.config))
    finally:
        if text is not None:
            os.unlink(candidate)
        if beside is not None:
            os.unlink(candidate + "-door")


def _put(path: str, text: str) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(opened, "wb") as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))


def without_config(arguments: "List[str]") -> "List[str]":
    kept, skip = [], False
    for word in arguments:
        if not skip and word != "-f":
            kept.append(word)
        skip = word == "-f"
    return kept


def unread(daemon: Daemon, pid_file: str, paths: "List[str]") -> "List[str]":
    """Return those of the paths that were changed since this sshd last read its configuration; [] where that can't be told.

    Its process is as old as its first start; what it writes each time that it reads its configuration is its PID file.
    """
    try:
        with open(pid_file, encoding="ascii", errors="replace") as stream:
            if stream.read(64).strip() != str(daemon.pid):
                return []
            read = os.fstat(stream.fileno()).st_mtime_ns
    except OSError:
        return []
    if read % _SECOND == 0:
        read += _SECOND  # a file system that knows whole seconds only: it was some time within this one
    # What was there before this boot has been read, also where the clock was wrong at first (a machine that keeps no time).
    read = max(read, int((time.time() - time.clock_gettime(BOOTTIME)) * _SECOND))
    return [path for path in paths if _changed(path) > read]


def _changed(path: str) -> int:
    """Return when the file was written, or one of an older date moved into its place, in nanoseconds; 0 where there is none.

    A chmod is no such change: it leaves the directory alone.
    """
    real = os.path.realpath(path)
    try:
        found, around = os.stat(real), os.stat(os.path.dirname(real))
        return max(found.st_mtime_ns, os.lstat(path).st_mtime_ns, min(found.st_ctime_ns, around.st_mtime_ns))
    except OSError:
        return 0


def reload(daemon: Daemon, connection: "Optional[List[str]]", revive: bool) -> bool:
    """Have sshd re-read its configuration, without ending a session; return whether it was seen to listen anew."""
    if not connection:
        return False
    address, port = connection[2], int(connection[3])
    before = _listening(address, port)
    until = time.monotonic() + _RELOAD_SECONDS
    while not before and _is_alive(daemon.pid) and time.monotonic() < until:
        # Somebody else has just had it start anew. A second one beside it would take its port.
        select.select([], [], [], 0.02)
        before = _listening(address, port)
    alive = _is_alive(daemon.pid) and bool(before)
    if not alive and not revive:
        return False
    handed_over = _is_handed_over(before)
    if not _tell(daemon, alive, handed_over):
        return False
    until = time.monotonic() + _RELOAD_SECONDS
    settled = time.monotonic() + _SETTLE_SECONDS
    again = time.monotonic() + _LOST_SECONDS
    while time.monotonic() < until:
        # After SIGHUP sshd starts anew and listens on a new socket; the old one would prove nothing. Whom it lets in is for the
        # proof to say: this machine itself may be one that a firewall or hosts.deny keeps out.
        if _listening(address, port) - before:
            _is_taken(address, port)  # so long it may still pass over the next SIGHUP; what it answers does not matter
            return True
        if handed_over and time.monotonic() > settled:
            return _is_taken(address, port)
        if alive and time.monotonic() > again and _is_alive(daemon.pid):
            # Somebody else may have had it start anew just before us: as long as it does it ignores the signal.
            _tell(daemon, True, handed_over)
            again += _LOST_SECONDS
        select.select([], [], [], 0.02)
    return False


def reload_others(
    daemon: Daemon, connection: "Optional[List[str]]", heard: "List[str]"
) -> "Tuple[List[int], List[int], List[str]]":
    """Have each sshd here that runs on the main file of this one re-read it, but for the one where this connection came in.

    connection: None where that one was not told either. heard: sockets, by their inodes: who listens on one has read the file as
    it is. Another is a second sshd on a port of its own, or the same one that its owner has moved since. One that is being
    started may have read the file before it was changed, and listens nowhere yet: it is told once it does. Returns (process ids
    of those that were told, of those that were not seen to listen anew, the sockets of all others).
    """
    told = set(listening_inodes(connection[2], int(connection[3]))) if connection and _has_proc() else set()
    told |= set(heard)
    late = set()  # type: Set[int]
    until = time.monotonic() + _RELOAD_SECONDS
    while True:
        ears = {pid: ears_of(pid) for pid in listeners_by(daemon.config)}
        starting = {pid for pid in ears if not ears[pid]}
        late |= starting
        if not starting or time.monotonic() > until:
            break
        select.select([], [], [], 0.02)
    others = [pid for pid in ears if ears[pid] and (pid in late or not ears[pid] & told)]
    # One that is told of a file that it does not take would end.
    asked = daemon._replace(program=daemon.program or _sshd_program(0))
    if others and ask_sshd(asked, ["-t"], None, "").code != 0:
        return [], others + sorted(starting), []
    deaf = [pid for pid in others if not _reloaded(pid)] + sorted(starting)
    return others, deaf, [inode for pid in ears if pid not in deaf for inode in sorted(ears_of(pid))]


def _reloaded(pid: int) -> bool:
    """Tell an sshd to re-read its configuration, and return whether it was seen to listen anew."""
    now = time.monotonic()
    # What has only just begun to listen would pass over the signal, or die of it. Old ones write no title.
    while time.monotonic() < now + _SETTLE_SECONDS and " [listener]" not in slurp("/proc/{}/cmdline".format(pid)):
        select.select([], [], [], 0.02)
    daemon, before, tell = _daemon("listener", pid), ears_of(pid), now
    while time.monotonic() < now + _RELOAD_SECONDS:
        if not _is_alive(pid) or ears_of(pid) - before:
            return True
        if time.monotonic() >= tell:
            if not _tell(daemon, True, _is_handed_over(before)):
                return False
            tell += _LOST_SECONDS
        select.select([], [], [], 0.02)
    return False


def listeners_by(config: str) -> "List[int]":
    """Return the sshds here that listen, or are about to, by this main file; without those that one has just forked."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()] if _has_proc() else []
    # One that is being replaced by itself has no command line for a moment.
    may = [pid for pid in pids if _is_listener(pid) or (_is_sshd(pid) and not slurp("/proc/{}/cmdline".format(pid)))]
    real = os.path.realpath(config)
    roots = [pid for pid in may if is_here(pid) and _is_roots(pid)]
    found = [pid for pid in roots if os.path.realpath(_daemon("listener", pid).config) == real]
    return [pid for pid in found if _parent(pid) not in found]


def _is_roots(pid: int) -> bool:
    """Whether it may become a login: what others have started lets nobody in, and may be called sshd to keep us waiting."""
    lines = slurp("/proc/{}/status".format(pid)).split("\n")
    return any(line.startswith("Uid:") and line.split()[2:3] == ["0"] for line in lines)


def _parent(pid: int) -> int:
    after = slurp("/proc/{}/stat".format(pid)).rpartition(")")[2].split()
    return int(after[1]) if len(after) > 1 else 0


def ears_of(pid: int) -> "Set[str]":
    """Return the inodes of the sockets on which this process listens."""
    tables = [slurp("/proc/{}/net/{}".format(pid, name)) for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.split("\n")[1:]]
    return sockets_of(pid) & {row[9] for row in rows if len(row) > 9 and row[3] == "0A"}


def _tell(daemon: Daemon, alive: bool, handed_over: bool) -> bool:
    """Tell sshd to re-read its configuration, or start it; return whether that could be told."""
    if daemon.unit:
        systemctl = next((path for path in SYSTEMCTL if os.path.exists(path)), SYSTEMCTL[0])
        if handed_over:
            # An sshd that starts anew by itself does not find systemd's socket again: its port is taken, and it ends. While
            # systemd starts another, connections wait in that socket; sessions live on where the unit does not kill them too.
            if run([systemctl, "show", "--property=KillMode", daemon.unit]).out.strip() not in SPARES_SESSIONS:
                return False
            alive = False
        # It ends with 0 once what the unit has for a reload has ended well: for sshd a check of its file and a SIGHUP.
        return bool(run([systemctl, "reload" if alive else "restart", daemon.unit]).code == 0)
    if alive:
        os.kill(daemon.pid, signal.SIGHUP)
        return True
    return bool(run([daemon.program] + daemon.arguments).code == 0)  # it goes into the background by itself


def _is_handed_over(sockets: "Set[str]") -> bool:
    """Whether process 1 holds these too: systemd made them (ssh.socket), and sshd keeps them when it starts anew."""
    return _has_proc() and bool(sockets & sockets_of(1))


def _listening(address: str, port: int) -> "Set[str]":
    """Return what changes when sshd begins to listen anew: its sockets, or where they can't be seen, its PID file."""
    if _has_proc():
        return set(listening_inodes(address, port))
    try:
        found = os.stat(PID_FILE)
    except FileNotFoundError:
        return set()
    return {"{}/{}".format(found.st_ino, found.st_mtime_ns)}


def _is_alive(pid: int) -> bool:
    if _has_proc():
        return _is_listener(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_taken(address: str, port: int) -> bool:
    """Whether somebody takes a connection to this port: greets, or closes it as hosts.deny has it. In a queue it stays silent."""
    import socket

    try:
        with socket.create_connection((address, port), 2) as there:
            there.recv(4)
            return True
    except ConnectionResetError:
        return True
    except OSError:
        return False
