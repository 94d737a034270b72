"""LocalHost: does effects on this machine, or on a disk at rest that this process has been confined to (chroot)."""

import fcntl
import os
import time

from . import accounts, arming, files, labels, processes, wire
from .doorstate import load, standing_door
from .errors import Changed, Lost, Refused
from .host import MAIN_CONFIG, OF_DOORS, Daemon

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

PATIENCE_SECONDS = 2  # with whoever holds the lock at the deadline, before an undo goes on beside them
_NAMES = ("armed", "revoking", "confirmed", "reverting")
_NEW = "new-"
_LEFT = ("candidate", "candidate-door", "nonce", "door-agent.new")
SELINUX = labels.ENFORCE
RESTORECON = labels.RESTORECON

NO_ROOT = (
    "without root no undo outlives this session: if the agent is killed or the server reboots in the middle, what was changed "
    "stays until the next run here, which undoes it"
)
NOTHING_AT_BOOT = (
    "nothing here would run an undo at boot (no systemd, no rcS.d, no cron): if the server reboots in the middle, what was "
    "changed stays until the next run here, which undoes it"
)


class LocalHost:
    """This machine. directory: where our own state is kept. rope: asks and tells the controller; None where nobody is there.

    only: the journal of the one operation that this host is for. Once another stands there, or none, every effect is Lost: who
    works beside the holder of the lock may find the next operation begun.
    """

    def __init__(
        self, directory: str, rope: "Any" = None, bundle: bytes = b"", at_rest: bool = False, only: "Any" = None
    ) -> None:
        self.directory = directory
        self.rope = rope
        self.bundle = bundle
        self.at_rest = at_rest
        self.only = only
        self._locked = -1
        self._armed = False
        self._connection = None  # type: Optional[List[str]]

    def do(self, effect: "Any") -> "Any":
        """Do one effect of host.py and answer it."""
        if self.only is not None and standing(self.directory) != self.only:
            raise Lost("deadline_passed", "the operation is over; the undo of another is not for this process")
        if type(effect) in OF_DOORS:
            from . import doorhost  # shipped for these only

            return doorhost.do(self.directory, self.bundle, effect)
        return getattr(self, "_" + type(effect).__name__)(effect)

    def close(self) -> None:
        """Let the lock go; a directory of ours in which nothing stayed goes too."""
        if self._locked < 0:
            return
        if not os.listdir(self.directory):
            os.rmdir(self.directory)
        os.close(self._locked)
        self._locked = -1

    # -- logins, files -----------------------------------------------------------------------------------------------

    def _FindAccount(self, effect: "Any") -> "Any":
        return accounts.find(effect.name, self.at_rest)

    def _ListAccounts(self, effect: "Any") -> "Any":
        return accounts.listed(self.at_rest)

    def _Walk(self, effect: "Any") -> "Any":
        return files.walk(effect.path, effect.account, accounts.private_group(effect.account))

    def _Follow(self, effect: "Any") -> str:
        return files.follow(effect.path, effect.account)

    def _Ground(self, effect: "Any") -> "Tuple[str, Optional[int]]":
        return files.ground(effect.path, effect.account)

    def _Read(self, effect: "Any") -> "Any":
        return files.read(effect.path, effect.account)

    def _ReadFollowed(self, effect: "Any") -> "Any":
        return files.read(effect.path, effect.account, True)

    def _Mislabelled(self, effect: "Any") -> "List[Tuple[str, str, str]]":
        program = _restorecon()
        if program is None or self.at_rest or processes.slurp(SELINUX).strip() != "1" or not effect.paths:
            return []
        answer = processes.run(labels.question(program, effect.paths), account=effect.account)
        return labels.wrong(answer.out + "\n" + answer.err, effect.paths)

    def _Glob(self, effect: "Any") -> "Any":
        return files.glob(effect.pattern)

    def _Replace(self, effect: "Any") -> None:
        files.replace(effect.path, effect.account, effect.expected, effect.text, effect.insist)
        if effect.expected is None:
            self._label(effect.path, effect.account)

    def _Delete(self, effect: "Any") -> None:
        files.delete(effect.path, effect.account, effect.expected)

    def _MakeDirectory(self, effect: "Any") -> None:
        files.make_directory(effect.path, effect.account)
        self._label(effect.path, effect.account)

    def _label(self, path: str, account: "Any") -> None:
        """Give what is new the label that SELinux's policy has for it; without it sshd might not be allowed to read it."""
        program = _restorecon()
        if program is None or self.at_rest or not os.path.exists(SELINUX):
            return
        # As the login, which may swap any component of this path: then it gets nothing labelled but what is its own.
        processes.run([program, path], account=account)  # where it cannot, the proof will tell

    def _RemoveDirectory(self, effect: "Any") -> bool:
        return files.remove_directory(effect.path, effect.account)

    def _SetMode(self, effect: "Any") -> None:
        files.set_mode(effect.path, effect.account, effect.expected, effect.mode)

    def _SetOwner(self, effect: "Any") -> None:
        files.set_owner(effect.path, effect.account, effect.expected, effect.owner)

    def _SetLabel(self, effect: "Any") -> None:
        files.set_label(effect.path, effect.account, effect.expected, effect.label)

    def _SetPassword(self, effect: "Any") -> None:
        _refuse_other_hash(effect)  # an undo with nothing to undo waits for nobody
        lock = -1 if self.at_rest else accounts.lock()
        try:
            _refuse_other_hash(effect)
            shadow = files.read("/etc/shadow", None)
            text = accounts.with_hash(shadow.text, effect.account.name, effect.hash)
            files.replace("/etc/shadow", None, shadow.text, text)
        finally:
            if lock >= 0:
                os.close(lock)

    def _Sweep(self, effect: "Any") -> None:
        files.sweep(effect.path, effect.account)

    # -- sshd --------------------------------------------------------------------------------------------------------

    def _FindDaemon(self, effect: "Any") -> "Any":
        self._connection = effect.connection
        if self.at_rest:
            return Daemon("none", 0, "", [], MAIN_CONFIG, "")
        return processes.find_daemon(effect.connection)

    def _AskSshd(self, effect: "Any") -> "Any":
        return processes.ask_sshd(effect.daemon, effect.flags, effect.text, self._path("candidate"))

    def _Unread(self, effect: "Any") -> "List[str]":
        return processes.unread(effect.daemon, effect.pid_file, effect.paths)

    def _Reload(self, effect: "Any") -> bool:
        return processes.reload(effect.daemon, self._connection, effect.revive)

    def _Sessions(self, effect: "Any") -> "Any":
        from . import sessions  # for what removes a key only

        return sessions.open_sessions(effect.account, effect.fingerprints)

    def _EndSession(self, effect: "Any") -> bool:
        from . import sessions

        return sessions.end(effect.session)

    def _EndHalfOpen(self, effect: "Any") -> int:
        if self.at_rest:
            return 0
        from . import halfopen  # shipped with doors only

        return halfopen.end(effect.login, effect.config, effect.connection)

    # -- our own state -----------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _Lock(self, effect: "Any") -> bool:
        until = time.monotonic() + (0 if effect.must else PATIENCE_SECONDS)
        while True:
            os.makedirs(os.path.dirname(self.directory), exist_ok=True)
            try:
                os.mkdir(self.directory, 0o711)
                os.chmod(self.directory, 0o711)  # noqa: S103 - whatever the umask: a proof reads the nonce as its own login
            except FileExistsError:
                self._refuse_foreign()
            held = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(held)
                if effect.must:
                    raise Refused("busy", "another operation is at work on this server; retry when it is done")
                if time.monotonic() > until:
                    return False  # the deadline has passed: whoever holds it no longer has the journal
                time.sleep(0.05)
                continue
            if os.path.isdir(self.directory) and os.path.samestat(os.fstat(held), os.stat(self.directory)):
                self._locked = held
                return True
            os.close(held)  # its last holder took it away as it left

    def _refuse_foreign(self) -> None:
        found = os.lstat(self.directory)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022 or os.path.islink(self.directory):
            raise Refused(
                "path_unsafe",
                "{} is not ours: owner {}, mode {:04o}; look who made it".format(
                    self.directory, found.st_uid, found.st_mode & 0o7777
                ),
                path=self.directory,
            )

    def _write(self, name: str, content: bytes, mode: int = 0o600) -> None:
        # A name of its own: at the deadline a watcher may write beside us.
        temporary = self._path("{}{}".format(_NEW, os.getpid()))
        opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(opened, "wb") as stream:
                os.fchmod(opened, mode)
                stream.write(content)
                stream.flush()
                os.fsync(opened)
            os.rename(temporary, self._path(name))
        except OSError:
            self._remove(os.path.basename(temporary))
            raise
        self._sync()

    def _sync(self) -> None:
        opened = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

    def _remove(self, *names: str) -> None:
        for name in names:
            try:
                os.unlink(self._path(name))
            except FileNotFoundError:
                continue
        self._sync()

    def _ReadState(self, effect: "Any") -> "Dict[str, Any]":
        return load(self._path("state.json")) or {}

    def _WriteState(self, effect: "Any") -> None:
        if effect.state.get("generation", 0) < self._ReadState(effect).get("generation", 0):
            return
        self._write("state.json", wire.encode(effect.state).encode("ascii") + b"\n")

    def _ReadJournal(self, effect: "Any") -> "Optional[Tuple[str, Dict[str, Any]]]":
        if self._locked >= 0:  # else it is in use
            left = [name for name in os.listdir(self.directory) if name.startswith(_NEW) or name in _LEFT]
            if left:
                self._remove(*left)
        return _journal(self.directory, _NAMES)

    def _WriteJournal(self, effect: "Any") -> None:
        self._write("journal.armed", wire.encode(effect.journal).encode("ascii"))
        self._armed = True

    def _MoveJournal(self, effect: "Any") -> bool:
        try:
            os.rename(self._path("journal.armed"), self._path("journal." + effect.to))
        except FileNotFoundError:
            return False
        self._sync()
        self._armed = False
        return True

    def _DropJournal(self, effect: "Any") -> None:
        self._remove("nonce", *("journal." + name for name in _NAMES))
        self.only = None

    def _Arm(self, effect: "Any") -> "List[str]":
        return arming.arm(self.directory, self.bundle)

    def _Disarm(self, effect: "Any") -> None:
        arming.disarm(self.directory)

    def _Clock(self, effect: "Any") -> "Tuple[float, str]":
        return boot_clock()

    def _Limits(self, effect: "Any") -> "List[str]":
        if self.at_rest:
            return []
        if os.geteuid() != 0:
            return [NO_ROOT]
        return [] if arming.boot_ways() else [NOTHING_AT_BOOT]

    def _Door(self, effect: "Any") -> "Optional[Dict[str, Any]]":
        agent = self._path("door-agent")
        if os.path.exists(agent) and not self.at_rest:
            processes.run(arming.command(agent, "door-tidy", self.directory))
        try:
            found = standing_door(self.directory)
        except ValueError as error:
            told = "what is on record here of an emergency door cannot be made out ({}): close it (kps emergency close)"
            raise Refused("door_stuck", told.format(error))
        return None if found is None else found[1]

    # -- the rope ----------------------------------------------------------------------------------------------------

    def _WriteNonce(self, effect: "Any") -> "Tuple[str, str]":
        nonce = os.urandom(16).hex()
        self._write("nonce", nonce.encode("ascii") + b"\n", 0o644)
        return nonce, self._path("nonce")

    def _Ask(self, effect: "Any") -> "Any":
        return self.rope.ask(effect.phase, effect.questions, effect.path, effect.deadline)

    def _Listening(self, effect: "Any") -> None:
        if self._armed and not os.path.exists(self._path("journal.armed")):
            raise Lost("deadline_passed", "the undo has begun without us")
        self.rope.listening(effect.deadline)

    def _Say(self, effect: "Any") -> None:
        if self.rope is not None:
            self.rope.say(effect.phase, effect.detail)


def _refuse_other_hash(effect: "Any") -> None:
    if accounts.hash_of(effect.account.name).partition(":")[0] != effect.expected.partition(":")[0]:
        raise Changed("unexpected", "/etc/shadow: the hash of {} is not what it was".format(effect.account.name))


def _restorecon() -> "Optional[str]":
    return next((each for each in RESTORECON if os.path.exists(each)), None)


def _journal(directory: str, names: "Tuple[str, ...]") -> "Optional[Tuple[str, Dict[str, Any]]]":
    # In the order of names: what is moved from one to the next between two looks is found under the second.
    for name in names:
        journal = load(os.path.join(directory, "journal." + name))
        if journal is not None:
            return name, journal
    return None


def standing(directory: str, names: "Tuple[str, ...]" = _NAMES) -> "Optional[Dict[str, Any]]":
    """Return the journal in our directory that has one of these names, or None. No two operations have the same."""
    found = _journal(directory, names)
    return None if found is None else found[1]


_boot = []  # type: List[str]


def boot_clock() -> "Tuple[float, str]":
    """Return the seconds since boot, sleep included, and which boot this is: the kernel's word and when process 1 began.

    "" for the latter where there is no /proc.
    """
    if not _boot:
        _boot.append(_which_boot())
    return time.clock_gettime(processes.BOOTTIME), _boot[0]


def _which_boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            boot = stream.read().strip()
        with open("/proc/1/stat", encoding="utf-8", errors="replace") as stream:
            return "{}/{}".format(boot, stream.read().rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return ""
