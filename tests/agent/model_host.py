"""A server in memory that does the effects of kpsagent/host.py, and can be killed, cut from power or made to fail at each.

    world = World(...)                      what there is: files, logins, the running sshd, what was armed
    ModelHost(world, rope).do(effect)       one process that acts on it

Who gets in (World.logs_in) is worked out here by itself, from the text of the files: it shares nothing with the judgement
of kpsagent, so that a mistake there is seen here.
"""

import errno
import fnmatch
import functools
import json
import posixpath
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kpsagent.doors import tidied
from kpsagent.errors import Changed, Lost, Refused
from kpsagent.host import Account, Daemon, File, Output, Session
from kpsagent.permissions import Component
from kpsagent.transaction import drive

STATE = "/var/lib/kps"
CONFIG = "/etc/ssh/sshd_config"
BOOT_UNIT = "/etc/cron.d/kps-undo-at-boot"
DOOR = "/run/kps-door"  # goes with the power
DOOR_AT_BOOT = "/etc/cron.d/kps-door-at-boot"
DOORS = ("opening", "open", "closing")
JOURNALS = ("armed", "revoking", "confirmed", "reverting")
CLIENT = "198.51.100.1"
CONNECTION = [CLIENT, "50000", "198.51.100.2", "22"]


class Crash(BaseException):
    """the process that acts on the server is gone"""


class Entry(NamedTuple):
    """One name on the disk."""

    kind: str
    text: str
    mode: int
    uid: int
    gid: int
    label: str = ""  # SELinux's; the policy of this world has "right" for whatever has one


def directory(mode: int = 0o755, uid: int = 0) -> Entry:
    return Entry("directory", "", mode, uid, uid)


def file(text: str, mode: int = 0o644, uid: int = 0) -> Entry:
    return Entry("file", text, mode, uid, uid)


class Credential(NamedTuple):
    """What somebody holds: the public half of a key, or a password."""

    way: str
    login: str
    secret: str


# -- what sshd makes of its configuration, in twenty lines of our own -------------------------------------------------------

KNOWN = {
    "port": "22",
    "permitrootlogin": "without-password",
    "passwordauthentication": "yes",
    "kbdinteractiveauthentication": "yes",
    "pubkeyauthentication": "yes",
    "usepam": "no",
    "strictmodes": "yes",
    "authorizedkeysfile": ".ssh/authorized_keys .ssh/authorized_keys2",
    "authenticationmethods": "any",
    "x11forwarding": "no",
    "versionaddendum": "none",
    "banner": "none",
}


@functools.lru_cache(maxsize=4096)
def accepted(text: str) -> bool:
    """Whether sshd would start with this configuration."""
    words = [line.split() for line in text.split("\n")]
    return all(not each or each[0].startswith("#") or each[0].lower() in (*KNOWN, "match", _END_OF_FILE) for each in words)


_END_OF_FILE = "end-of-file"


def whole(text: str, disk: dict[str, Entry]) -> str:
    """What sshd reads where its main file holds text: with what that includes, and where the included file ends."""
    if "Include " not in text:
        return text
    lines = []
    for line in text.split("\n"):
        if line.startswith("Include "):
            inner = disk.get(line.split('"')[1])
            line = "" if inner is None else f"{inner.text}\n{_END_OF_FILE}"
        lines.append(line)
    return "\n".join(lines)


@functools.lru_cache(maxsize=4096)
def settings(text: str, login: str | None) -> dict[str, str]:
    """What holds for this login; None asks for what stands outside every Match."""
    outside: dict[str, str] = {}
    inside: dict[str, str] = {}
    into: dict[str, str] | None = outside
    for line in text.split("\n"):
        keyword, _, value = line.strip().partition(" ")
        if not keyword or keyword.startswith("#"):
            continue
        if keyword == _END_OF_FILE:
            into = outside
        elif keyword.lower() == "match":
            who = value.split()
            hit = who == ["all"] or (login is not None and who[0].lower() == "user" and fnmatch.fnmatchcase(login, who[1]))
            into = inside if hit else None
        elif into is not None:
            into.setdefault(keyword.lower(), value.strip())
    return KNOWN | outside | inside


@functools.lru_cache(maxsize=4096)
def lets_in(text: str, blob: str) -> str:
    """What a file of authorized keys gives the holder of this key: "", "forced" (another command) or "shell"."""
    for line in text.split("\n"):
        words = line.split()
        if blob not in words or line.startswith("#"):
            continue
        options = "" if words[0].startswith(("ssh-", "ecdsa-")) else words[0]
        if "from=" in options and f'from="{CLIENT}"' not in options:
            continue
        return "forced" if "command=" in options else "shell"
    return ""


# -- the server ------------------------------------------------------------------------------------------------------------


class World:
    """Everything that outlives a process: the disk, the running sshd, what was armed; and, of other kinds, the clock."""

    def __init__(
        self, accounts: list[Account], passwords: dict[str, str], disk: dict[str, Entry], kind: str = "listener"
    ) -> None:
        self.accounts = accounts
        self.passwords = {name: f"{word}:19000" for name, word in passwords.items()}  # in this world a hash is the word itself
        self.disk = dict(disk)
        self.kind = kind  # "listener", "each", or "rest" for a disk at rest
        self.loaded: str | None = disk[CONFIG].text if kind == "listener" else None
        self.boot = 1
        self.clock = 1000.0
        self.wall = 1_000_000_000.0
        self.watchers = False
        self.door_watchers = False
        self.sessions: tuple[tuple[str, Session], ...] = ()  # (login, session) that are open, but for our own
        self.shadowed: set[str] = set()  # directories that are not the ones of before: their file systems are not mounted
        self.holder: object = None
        self._disk_key: object = None

    def copy(self) -> "World":
        other = World.__new__(World)
        other.__dict__.update(self.__dict__)
        other.disk = dict(self.disk)
        other.passwords = dict(self.passwords)
        return other

    def put(self, path: str, entry: Entry) -> None:
        self.disk[path] = entry
        self._disk_key = None

    def drop(self, path: str) -> Entry | None:
        if path in self.disk:
            self._disk_key = None
        return self.disk.pop(path, None)

    def key(self) -> Any:
        """Equal for worlds that nothing can tell apart but the time."""
        if self._disk_key is None:
            # The nonce is always new: which one it is says nothing.
            seen = {**self.disk, f"{STATE}/nonce": None} if f"{STATE}/nonce" in self.disk else self.disk
            self._disk_key = hash(frozenset(seen.items()))
        return (
            self._disk_key,
            self.loaded,
            self.boot,
            self.watchers,
            self.door_watchers,
            self.sessions,
            tuple(self.passwords.values()),
        )

    def killed(self) -> "World":
        """The same server after the process that acted on it was killed."""
        other = self.copy()
        other.holder = None
        return other

    def unpowered(self) -> "World":
        """The same server after the power failed, before its sshd is started again."""
        other = self.killed()
        other.boot += 1
        other.watchers = other.door_watchers = False
        other.drop(DOOR)
        other.sessions = ()
        other.loaded = None
        return other

    def sshd_started(self) -> "World":
        """The same server once its system has started sshd; one that does not accept its configuration stays away."""
        other = self.copy()
        text = whole(other.disk[CONFIG].text, other.disk)
        if other.kind == "listener" and other.loaded is None and accepted(text):
            other.loaded = text
        return other

    def in_use(self) -> "World":
        """The same disk, if a server were started from it now."""
        other = self.copy()
        other.kind = "each"
        return other

    @property
    def armed(self) -> bool:
        """Whether somebody will come to recover: at the deadline, or at the next boot."""
        left = any(f"{STATE}/journal.{name}" in self.disk for name in ("armed", "revoking", "reverting"))
        return left and f"{STATE}/agent" in self.disk and (self.watchers or BOOT_UNIT in self.disk)

    def journal(self) -> Any:
        """The journal that stands there, or None."""
        found = (self.disk.get(f"{STATE}/journal.{name}") for name in JOURNALS)
        return next((json.loads(entry.text) for entry in found if entry is not None), None)

    def account(self, name: str) -> Account | None:
        return next((account for account in self.accounts if account.name == name), None)

    def in_force(self) -> str | None:
        """The configuration by which sshd judges a login now; None where nobody answers."""
        if self.kind == "rest":
            return None
        if self.kind == "listener":
            return self.loaded
        text = whole(self.disk[CONFIG].text, self.disk)
        return text if accepted(text) else None

    def logs_in(self, held: Credential) -> str:
        """What a login with this, over a new connection, gives now: "", "forced" or "shell"."""
        text, account = self.in_force(), self.account(held.login)
        if text is None or account is None:
            return ""
        found = settings(text, held.login)
        root = found["permitrootlogin"] if account.uid == 0 else "yes"
        if root == "no":
            return ""
        if held.way == "password":
            asked = found["passwordauthentication"] == "yes" or (found["kbdinteractiveauthentication"], found["usepam"]) == (
                "yes",
                "yes",
            )
            return "shell" if asked and root == "yes" and self.word(held.login) == held.secret else ""
        if found["pubkeyauthentication"] != "yes":
            return ""
        for name in found["authorizedkeysfile"].split():
            path = posixpath.join(account.home, name)
            if self._trusted(path, account):
                got = lets_in(self.disk[path].text, held.secret.split()[1])
                if got:
                    return got
        return ""

    def word(self, login: str) -> str:
        return self.passwords.get(login, "").partition(":")[0]

    def password_asked(self, login: str) -> bool:
        """Whether sshd would ask this login for a password."""
        text = self.in_force()
        found = settings(text, login) if text is not None else {}
        asked = found.get("passwordauthentication") == "yes" or (
            found.get("kbdinteractiveauthentication"),
            found.get("usepam"),
        ) == ("yes", "yes")
        return asked and (login != "root" or found["permitrootlogin"] == "yes")

    def _trusted(self, path: str, account: Account) -> bool:
        if path not in self.disk:
            return False
        while True:
            entry = self.disk[path]
            readable = account.uid == 0 or entry.uid == account.uid or entry.mode & 0o004
            if entry.uid not in (0, account.uid) or entry.mode & 0o022 or not readable:
                return False
            if path == account.home:
                return True
            path = posixpath.dirname(path)


# -- a process that acts on it ---------------------------------------------------------------------------------------------


class Rope:
    """The controller at the other end: answers every question by trying what it holds, as the real one does.

    holds: the credentials in its hands. proved: those that have got in by a new connection since the operation began.
    """

    def __init__(self, holds: list[Credential], provable: bool = True) -> None:
        self.holds = holds
        self.provable = provable
        self.proved: list[Credential] = []
        self.ended = False
        self.bent: Callable[[Any], Any] | None = None

    def answers(self, world: World, questions: list[dict[str, Any]], path: str) -> Any:
        true = [self._answer(world, question, path) for question in questions]
        return true if self.bent is None else self.bent(true)

    def _answer(self, world: World, question: dict[str, Any], path: str) -> dict[str, Any]:
        login, way = question["login"], question["way"]
        if way == "password":
            return self._password(world, login, question["want"], path)
        key = Credential("key", login, question["key"])
        if question["want"] == "refused":
            if world.logs_in(key):
                return {"cause": "old_key_still_accepted", "message": "it still gets in"}
            if question["known"] is None:
                return {"method": "refused"}
            return self._logged_in(world, Credential("key", login, question["known"]), path, "refused")
        return self._logged_in(world, key, path, "logged_in")

    def _logged_in(self, world: World, key: Credential, path: str, method: str) -> dict[str, Any]:
        got = world.logs_in(key)
        if got and not self.provable:
            self.proved.append(key)
            return {"method": "accepted" if method == "logged_in" else method}
        if got != "shell":
            return {"cause": "new_key_refused", "message": "the key does not get in"}
        self.proved.append(key)
        return {"method": method, "nonce": world.disk[path].text.strip()}

    def _password(self, world: World, login: str, want: str, path: str) -> dict[str, Any]:
        if want == "refused":
            if world.password_asked(login):
                return {"cause": "password_still_accepted", "message": "passwords are still asked for"}
            return {"method": "refused"}
        held = next((each for each in self.holds if each[:2] == ("password", login)), None)
        if want == "password_offered" or held is None:
            if not world.password_asked(login):
                return {"cause": "password_refused", "message": "no password is asked for"}
            self.proved.append(Credential("password", login, world.word(login)))
            return {"method": "password_offered"}
        if not world.logs_in(held):
            return {"cause": "password_refused", "message": "the password does not get in"}
        self.proved.append(held)
        return {"method": "logged_in", "nonce": world.disk[path].text.strip()}


Hook = Callable[[int, Any], Any]


def nothing(_: int, __: Any) -> None:
    return None


class ModelHost:
    """One process on a World. before and after are called around every effect with its number, and may raise or change things.

    only: the journal of the one operation that it is for, as LocalHost has it.
    """

    def __init__(
        self, world: World, rope: Rope | None = None, before: Hook = nothing, after: Hook = nothing, only: Any = None
    ) -> None:
        self.world = world
        self.rope = rope
        self.only = only
        self.before = before
        self.after = after
        self.count = 0
        self.mine = False

    def do(self, effect: Any) -> Any:
        """Do one effect and answer it."""
        number = self.count
        self.count += 1
        self.before(number, effect)
        if self.only is not None and self.world.journal() != self.only:
            raise Lost("deadline_passed", "the operation is over")
        answer = getattr(self, "_" + type(effect).__name__)(effect)
        self.after(number, effect)
        return answer

    def close(self) -> None:
        if self.world.holder is self:
            self.world.holder = None

    def _entry(self, path: str, kind: str) -> Entry | None:
        entry = self.world.disk.get(path)
        if entry is not None and entry.kind != kind:
            raise Refused("path_unsafe", f"{path} is a {entry.kind}", path=path)
        return entry

    def _parent(self, path: str) -> None:
        if posixpath.dirname(path) not in self.world.disk:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    # -- reading

    def _FindAccount(self, effect: Any) -> Account | None:
        return self.world.account(effect.name)

    def _ListAccounts(self, effect: Any) -> tuple[list[Account], bool]:
        return list(self.world.accounts), False

    def _FindDaemon(self, effect: Any) -> Daemon:
        if self.world.kind == "each":
            return Daemon("each", 7, "/usr/sbin/sshd", [], CONFIG, "")
        if self.world.loaded is not None:
            return Daemon("listener", 7, "/usr/sbin/sshd", [], CONFIG, "")
        return Daemon("none", 0, "", [], CONFIG, "")

    def _AskSshd(self, effect: Any) -> Output:
        text = self.world.disk[CONFIG].text if effect.text is None else effect.text
        beside = getattr(effect, "beside", None)
        text = whole(text, self.world.disk | ({beside[0]: file(beside[1])} if beside else {}))
        if not accepted(text):
            return Output(255, "", f"{CONFIG}: line 1: Bad configuration option\n")
        if "-T" not in effect.flags:
            return Output(0, "", "")
        login = effect.flags[2].split(",")[0].removeprefix("user=") if "-C" in effect.flags else None
        return Output(0, "".join(f"{word} {value}\n" for word, value in settings(text, login).items()), "")

    def _Unread(self, effect: Any) -> list[str]:
        text = whole(self.world.disk[CONFIG].text, self.world.disk)
        changed = self.world.kind == "listener" and self.world.loaded not in (None, text)
        return [CONFIG] if changed and CONFIG in effect.paths else []

    def _Walk(self, effect: Any) -> list[Component]:
        path, found = effect.path, []
        while True:
            entry = self.world.disk.get(path, Entry("missing", "", 0, 0, 0))
            found.append(Component(path, entry.kind, entry.mode, entry.uid, entry.gid, 1, False))
            if path in (effect.account.home, "/"):
                return found[::-1]
            path = posixpath.dirname(path)

    def _Read(self, effect: Any) -> File:
        if effect.path == "/etc/shadow":
            rows = [f"{name}:{hashed}:0:99999:7:::\n" for name, hashed in self.world.passwords.items()]
            return File(effect.path, "".join(rows), 0o640, 0, 42)
        entry = self._entry(effect.path, "file")
        return File(effect.path, None, 0, 0, 0) if entry is None else File(effect.path, entry.text, *entry[2:])

    def _ReadFollowed(self, effect: Any) -> File:
        entry, account = self.world.disk.get(effect.path), effect.account
        if entry is not None and account.uid not in (0, entry.uid) and not entry.mode & 0o004:
            raise PermissionError(errno.EACCES, "Permission denied", effect.path)
        return self._Read(effect)

    def _Follow(self, effect: Any) -> str:
        return str(effect.path)

    def _Ground(self, effect: Any) -> tuple[str, int | None]:
        home, path = effect.account.home, effect.path
        if path.startswith(home):
            path = home
        while path != home and self.world.disk.get(path, file("")).kind != "directory":
            path = posixpath.dirname(path)
        return path, (2 if path in self.world.shadowed else 1) if path in self.world.disk else None

    def _Glob(self, effect: Any) -> list[str]:
        within = [path for path in self.world.disk if posixpath.dirname(path) == posixpath.dirname(effect.pattern)]
        return sorted(path for path in fnmatch.filter(within, effect.pattern) if not posixpath.basename(path).startswith("."))

    def _Mislabelled(self, effect: Any) -> list[tuple[str, str, str]]:
        return [(path, self.world.disk[path].label, "right") for path in effect.paths if self.world.disk[path].label == "wrong"]

    def _Limits(self, effect: Any) -> list[str]:
        return []

    def _Clock(self, effect: Any) -> tuple[float, str]:
        return self.world.clock, f"boot-{self.world.boot}"

    # -- writing

    def _Replace(self, effect: Any) -> None:
        self._parent(effect.path)
        entry = self._entry(effect.path, "file")
        if (None if entry is None else entry.text) != effect.expected:
            raise Changed("authorized_keys_changed", f"{effect.path}: somebody else changed it", path=effect.path)
        owner = effect.account.uid if effect.account is not None else 0
        self.world.put(effect.path, (entry or file("", 0o600, owner))._replace(text=effect.text))

    def _Delete(self, effect: Any) -> None:
        entry = self._entry(effect.path, "file")
        if (None if entry is None else entry.text) != effect.expected:
            raise Changed("authorized_keys_changed", f"{effect.path}: somebody else changed it", path=effect.path)
        self.world.drop(effect.path)

    def _MakeDirectory(self, effect: Any) -> None:
        self._parent(effect.path)
        if effect.path in self.world.disk:
            raise Changed("authorized_keys_changed", f"{effect.path}: somebody else made it", path=effect.path)
        self.world.put(effect.path, directory(0o700, effect.account.uid))

    def _RemoveDirectory(self, effect: Any) -> bool:
        entry = self.world.disk.get(effect.path)
        if entry is None:
            return True
        if entry.kind != "directory" or any(posixpath.dirname(path) == effect.path for path in self.world.disk):
            return False
        self.world.drop(effect.path)
        return True

    def _SetMode(self, effect: Any) -> None:
        entry = self.world.disk.get(effect.path)
        if entry is None or entry.mode != effect.expected:
            raise Changed("authorized_keys_changed", f"{effect.path}: somebody else changed its mode", path=effect.path)
        self.world.put(effect.path, entry._replace(mode=effect.mode))

    def _SetOwner(self, effect: Any) -> None:
        entry = self.world.disk.get(effect.path)
        if entry is None or [entry.uid, entry.gid] != effect.expected:
            raise Changed("authorized_keys_changed", f"{effect.path}: somebody else changed its owner", path=effect.path)
        if entry.kind == "file" and not all(line.startswith(("ssh-", "#")) for line in entry.text.split("\n") if line):
            raise Refused("path_unsafe", f"{effect.path}: holds more than keys", path=effect.path)
        self.world.put(effect.path, entry._replace(uid=effect.owner[0], gid=effect.owner[1]))

    def _SetLabel(self, effect: Any) -> None:
        entry = self.world.disk.get(effect.path)
        if entry is None or entry.label != effect.expected:
            raise Changed("authorized_keys_changed", f"{effect.path}: somebody else changed its label", path=effect.path)
        if entry.uid != effect.account.uid:
            raise Refused("path_unsafe", f"{effect.path}: not {effect.account.name}'s alone", path=effect.path)
        self.world.put(effect.path, entry._replace(label=effect.label))

    def _SetPassword(self, effect: Any) -> None:
        name = effect.account.name
        if self.world.passwords[name].partition(":")[0] != effect.expected.partition(":")[0]:
            raise Changed("unexpected", "/etc/shadow: the hash is not what it was")
        self.world.passwords[name] = effect.hash if ":" in effect.hash else f"{effect.hash}:today"

    def _Sweep(self, effect: Any) -> None:
        self.world.drop(temporary(effect.path))

    def _Reload(self, effect: Any) -> bool:
        world = self.world
        if world.kind != "listener" or (world.loaded is None and not effect.revive):
            return False
        text = whole(world.disk[CONFIG].text, world.disk)
        world.loaded = text if accepted(text) else None
        return world.loaded is not None

    def _Sessions(self, effect: Any) -> list[Session]:
        return [session for login, session in self.world.sessions if login == effect.account.name]

    def _EndSession(self, effect: Any) -> bool:
        self.world.sessions = tuple(each for each in self.world.sessions if each[1] != effect.session)
        return True

    # -- our own state

    def _Lock(self, effect: Any) -> bool:
        if self.world.holder not in (None, self):
            if effect.must:
                raise Refused("busy", "another operation is at work on this server")
            return False
        if STATE not in self.world.disk:
            self.world.put(STATE, directory(0o711))
        self.world.holder = self
        return True

    def _load(self, name: str) -> Any:
        entry = self.world.disk.get(f"{STATE}/{name}")
        return None if entry is None else json.loads(entry.text)

    def _ReadState(self, effect: Any) -> Any:
        return self._load("state.json") or {}

    def _WriteState(self, effect: Any) -> None:
        if effect.state.get("generation", 0) < self._ReadState(effect).get("generation", 0):
            return
        self.world.put(f"{STATE}/state.json", file(json.dumps(effect.state), 0o600))

    def _ReadJournal(self, effect: Any) -> Any:
        for name in ("new", "candidate", "nonce", "door-agent.new") if self.world.holder is self else ():
            self.world.drop(f"{STATE}/{name}")
        for name in JOURNALS:
            journal = self._load(f"journal.{name}")
            if journal is not None:
                return name, journal
        return None

    def _WriteJournal(self, effect: Any) -> None:
        self.world.put(f"{STATE}/journal.armed", file(json.dumps(effect.journal), 0o600))
        self.mine = True

    def _MoveJournal(self, effect: Any) -> bool:
        entry = self.world.drop(f"{STATE}/journal.armed")
        if entry is None:
            return False
        self.world.put(f"{STATE}/journal.{effect.to}", entry)
        self.mine = False
        return True

    def _DropJournal(self, effect: Any) -> None:
        for name in ("nonce", *(f"journal.{each}" for each in JOURNALS)):
            self.world.drop(f"{STATE}/{name}")
        self.only = None

    def _Arm(self, effect: Any) -> list[str]:
        self.world.put(f"{STATE}/agent", file("the agent", 0o600))
        self.world.put(BOOT_UNIT, file("@reboot root\n"))
        self.world.watchers = True
        return ["cron at boot", "detached process"]

    def _Disarm(self, effect: Any) -> None:
        self.world.drop(f"{STATE}/agent")
        self.world.drop(BOOT_UNIT)
        self.world.watchers = False

    # -- a door

    def _standing(self) -> Any:
        found = [(name, self._load(f"door.{name}")) for name in DOORS]
        return next(((name, door) for name, door in reversed(found) if door is not None), None)

    def _Door(self, effect: Any) -> Any:
        if f"{STATE}/door-agent" in self.world.disk:
            drive(tidied(), ModelHost(self.world))
        found = self._standing()
        return None if found is None else found[1]

    def _DoorPlace(self, effect: Any) -> tuple[str, bool, list[str]]:
        return DOOR, True, ["cron at boot"]

    def _AskBeside(self, effect: Any) -> Output:
        return self._AskSshd(effect)

    def _Wall(self, effect: Any) -> float:
        return self.world.wall

    def _ReadDoor(self, effect: Any) -> Any:
        return self._standing()

    def _WriteDoor(self, effect: Any) -> None:
        self.world.put(f"{STATE}/door.{effect.name}", file(json.dumps(effect.door), 0o600))

    def _MoveDoor(self, effect: Any) -> bool:
        for name in ("open", "opening") if effect.to == "closing" else ("opening",):
            entry = self.world.drop(f"{STATE}/door.{name}")
            if entry is not None:
                self.world.put(f"{STATE}/door.{effect.to}", entry)
                return True
        return False

    def _DropDoor(self, effect: Any) -> None:
        for name in DOORS:
            self.world.drop(f"{STATE}/door.{name}")

    def _ArmDoor(self, effect: Any) -> list[str]:
        if effect.boot:
            self.world.put(f"{STATE}/door-agent", file("the agent", 0o600))
            self.world.put(DOOR_AT_BOOT, file("@reboot root\n"))
        self.world.door_watchers = True
        return ["cron at boot", "detached process"]

    def _DisarmDoor(self, effect: Any) -> None:
        for path in (f"{STATE}/door-agent", f"{STATE}/door-agent.new", DOOR_AT_BOOT):
            self.world.drop(path)
        self.world.door_watchers = False

    def _ReloadOthers(self, effect: Any) -> tuple[list[int], list[int], list[str]]:
        return [], [], []  # in this world there is one sshd

    def _EndHalfOpen(self, effect: Any) -> int:
        return 0  # in this world nobody takes time to log in

    # -- the rope

    def _WriteNonce(self, effect: Any) -> tuple[str, str]:
        nonce = f"nonce-{self.count}-{id(self)}"
        self.world.put(f"{STATE}/nonce", file(nonce + "\n"))
        return nonce, f"{STATE}/nonce"

    def _Ask(self, effect: Any) -> list[dict[str, Any]]:
        self._heard(effect.deadline)
        assert self.rope is not None
        return self.rope.answers(self.world, effect.questions, effect.path)

    def _Listening(self, effect: Any) -> None:
        if self.mine and f"{STATE}/journal.armed" not in self.world.disk:
            raise Lost("deadline_passed", "the undo has begun without us")
        self._heard(effect.deadline)

    def _heard(self, deadline: float) -> None:
        if self.rope is None or self.rope.ended:
            raise Lost("connection_lost", "the controller is gone")
        if self.world.clock >= deadline:
            raise Lost("deadline_passed", "no proof came before the deadline")

    def _Say(self, effect: Any) -> None:
        return None


def temporary(path: str) -> str:
    """The name at which a Replace that was killed leaves what it had written so far."""
    return posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.kps")


def between(world: World, effect: Any) -> Iterator[World]:
    """Every state of the server in which the process, or the power, may end in the middle of this effect."""
    name = type(effect).__name__
    if name == "Replace" and posixpath.dirname(effect.path) in world.disk:
        half = file(effect.text[: len(effect.text) // 2], 0o600)
        yield _with(world, {temporary(effect.path): half})
        if effect.expected is None and effect.path not in world.disk:
            # A new file is linked to its name, and only then loses the temporary one.
            made = file(effect.text, 0o600, 0 if effect.account is None else effect.account.uid)
            yield _with(world, {temporary(effect.path): made, effect.path: made})
    elif name in ("WriteJournal", "WriteState"):
        yield _with(world, {f"{STATE}/new": file('{"operat', 0o600)})
    elif name == "AskSshd" and effect.text is not None:
        yield _with(world, {f"{STATE}/candidate": file(effect.text[:9], 0o600)})
    elif name == "WriteNonce":
        yield _with(world, {f"{STATE}/new": file("", 0o600)})
    elif name == "Arm":
        yield _with(world, {f"{STATE}/agent": file("the ag", 0o600)})
        yield _with(world, {f"{STATE}/agent": file("the agent", 0o600), BOOT_UNIT: file("@reboot root\n")})
    elif name == "ArmDoor":
        yield _with(world, {f"{STATE}/door-agent.new": file("the ag", 0o600)})
        yield _with(world, {f"{STATE}/door-agent": file("the agent", 0o600)})
        yield _with(world, {f"{STATE}/door-agent": file("the agent", 0o600), DOOR_AT_BOOT: file("@reboot root\n")})
    elif name == "DisarmDoor":
        yield _without(world, DOOR_AT_BOOT)
    elif name == "WriteDoor":
        yield _with(world, {f"{STATE}/new": file('{"id', 0o600)})
    elif name == "Disarm":
        yield _without(world, BOOT_UNIT)
    elif name == "DropJournal":
        yield _without(world, f"{STATE}/nonce")


def _with(world: World, entries: dict[str, Entry]) -> World:
    other = world.copy()
    for path, entry in entries.items():
        other.put(path, entry)
    return other


def _without(world: World, path: str) -> World:
    other = world.copy()
    other.drop(path)
    return other
