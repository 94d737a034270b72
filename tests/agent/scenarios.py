"""What the transaction is put through: servers as they are before, what is asked, and what must be there afterwards."""

import base64
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from model_host import CONFIG, CONNECTION, Credential, Entry, Rope, World, directory, file

from kpsagent import plan as plans
from kpsagent.host import Account


def key_line(number: int, comment: str) -> str:
    blob = b"".join(struct.pack(">I", len(part)) + part for part in (b"ssh-ed25519", bytes([number]) * 32))
    return f"ssh-ed25519 {base64.b64encode(blob).decode()} {comment}"


OLD, NEW, BOBS, FOREIGN, STRANGER = (
    key_line(number, name) for number, name in enumerate(("old", "new", "bob", "foreign", "stranger"), 1)
)
THEIRS = "# kept by hand\n"

ACCOUNTS = [
    Account("root", 0, 0, ["root"], [], "/root", "/bin/bash", "usable", ""),
    Account("alice", 1000, 1000, ["alice"], [], "/home/alice", "/bin/bash", "usable", ""),
    Account("bob", 1001, 1001, ["bob"], [], "/home/bob", "/bin/bash", "usable", ""),
    Account("sync", 4, 4, ["sync"], [], "/bin", "/bin/sync", "none", ""),
]
PASSWORDS = {"root": "r00t", "alice": "al1ce", "bob": "b0b"}

SET = Credential("password", "", "$6$set")  # in the model's world a hash is the word itself

OPEN = "Port 22\nPermitRootLogin yes\nKbdInteractiveAuthentication yes\nUsePAM yes\nMatch User git\n    X11Forwarding no\n"
BEGIN, END = "# kps: begin. kps keeps these lines, and takes them out again\n", "# kps: end\n"
CLOSED = f"{BEGIN}PasswordAuthentication no\nKbdInteractiveAuthentication no\n{END}{OPEN}"
OWNER_SAYS_NO = "PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM yes\n"
FORCED = f"{BEGIN}PasswordAuthentication yes\nKbdInteractiveAuthentication yes\n{END}{OWNER_SAYS_NO}"


class Scenario(NamedTuple):
    """One operation on one server.

    wanted: what is different on the disk when it has succeeded. passing: texts that a file may hold on the way, besides the
    one before and the one wanted. works, refused: what gets in afterwards, and what does not. recovered: what is told of it where
    somebody had to finish it after its commit.
    """

    name: str
    disk: dict[str, Entry]
    order: dict[str, Any]
    wanted: dict[str, Entry]
    holds: list[Credential]
    works: list[Credential]
    refused: list[Credential]
    passing: Mapping[str, list[str]] = MappingProxyType({})
    kind: str = "listener"
    provable: bool = True
    wanted_passwords: Mapping[str, str] = MappingProxyType({})
    recovered: str = "succeeded"

    def world(self) -> World:
        return World(ACCOUNTS, PASSWORDS, self.disk, self.kind)

    def rope(self) -> Rope:
        return Rope(list(self.holds), self.provable)

    def plan(self) -> plans.Plan:
        return plans.parse(self.order)

    @property
    def login(self) -> str:
        return str(self.order["login"])

    @property
    def changes(self) -> bool:
        return bool(self.wanted or self.wanted_passwords)

    @property
    def keys_path(self) -> str:
        return keys_path(self.login)


def home(login: str) -> str:
    return next(account.home for account in ACCOUNTS if account.name == login)


def keys_path(login: str) -> str:
    return home(login) + "/.ssh/authorized_keys"


def disk(login: str, keys: str | None, config: str = OPEN) -> dict[str, Entry]:
    """A disk on which this login's keys are these; None for a home without .ssh."""
    found = {path: directory() for path in ("/", "/etc", "/etc/ssh", "/etc/cron.d", "/home", "/var", "/var/lib")}
    found[CONFIG] = file(config)
    found["/etc/motd"] = file("welcome\n")
    for account in ACCOUNTS[:3]:
        found[account.home] = directory(0o700 if account.uid == 0 else 0o755, account.uid)
    found["/home/bob/.ssh"] = directory(0o700, 1001)
    found["/home/bob/.ssh/authorized_keys"] = file(BOBS + "\n", 0o600, 1001)
    other = "alice" if login == "root" else "root"
    for name, text in ((login, keys), (other, FOREIGN + "\n")):
        uid = next(account.uid for account in ACCOUNTS if account.name == name)
        if text is not None:
            found[home(name) + "/.ssh"] = directory(0o700, uid)
            found[keys_path(name)] = file(text, 0o640 if name == login else 0o600, uid)
    return found


def key(login: str, line: str) -> Credential:
    return Credential("key", login, line)


def password(login: str) -> Credential:
    return Credential("password", login, PASSWORDS[login])


def _order(operation: str, login: str, **more: Any) -> dict[str, Any]:
    connection = None if operation == "reset" else CONNECTION
    return {"operation": operation, "id": "op-7", "generation": 7, "login": login, "connection": connection, **more}


def _of(login: str) -> list[Scenario]:
    path, uid = keys_path(login), 0 if login == "root" else 1000
    own = file("", 0o640, uid)
    keys = {name: own._replace(text=text) for name, text in _texts().items()}
    closed, opened = {CONFIG: file(CLOSED)}, {CONFIG: file(OPEN)}
    new, old, word = key(login, NEW), key(login, OLD), password(login)
    everybody = [password("root"), password("alice"), password("bob")]
    lock = {"accept_lockout": []}
    bind = _order("bind", login, key=NEW, **lock)
    unbind = _order("unbind", login, remove=[OLD], password_known=True)

    def scenario(name: str, *rest: Any, **more: Any) -> Scenario:
        return Scenario(f"{name}-{login}", *rest, **more)

    return [
        scenario(
            "bind-closing-passwords",
            disk(login, THEIRS),
            dict(bind, passwords="off"),
            {path: keys["theirs, new"], **closed},
            [word, new],
            [new],
            everybody,
        ),
        scenario(
            "bind-closing-passwords-where-sshd-is-started-for-each-connection",
            disk(login, THEIRS + FOREIGN + "\n"),
            dict(bind, passwords="off"),
            {path: own._replace(text=f"{THEIRS}{FOREIGN}\n{NEW}\n"), **closed},
            [word, new],
            [new, key(login, FOREIGN)],
            everybody,
            kind="each",
        ),
        scenario("bind-keeping-passwords", disk(login, THEIRS), bind, {path: keys["theirs, new"]}, [word, new], [new, word], []),
        scenario(
            "bind-into-a-home-without-ssh",
            disk(login, None),
            dict(bind, passwords="off"),
            {path: file(NEW + "\n", 0o600, uid), home(login) + "/.ssh": directory(0o700, uid), **closed},
            [word, new],
            [new],
            everybody,
        ),
        scenario(
            "bind-into-an-empty-ssh",
            {name: entry for name, entry in disk(login, "").items() if name != path},
            bind,
            {path: file(NEW + "\n", 0o600, uid)},
            [word, new],
            [new, word],
            [],
        ),
        scenario(
            "bind-mending-modes",
            dict(disk(login, THEIRS), **{path: file(THEIRS, 0o664, uid), home(login) + "/.ssh": directory(0o777, uid)}),
            dict(bind, passwords="off", fix_permissions=True),
            {path: file(f"{THEIRS}{NEW}\n", 0o644, uid), home(login) + "/.ssh": directory(0o755, uid), **closed},
            [word, new],
            [new],
            everybody,
        ),
        scenario(
            "bind-of-a-key-that-nobody-holds",
            disk(login, THEIRS),
            dict(bind, passwords="off", provable=False, accept_unproved=True),
            {path: keys["theirs, new"], **closed},
            [word],
            [new],
            everybody,
            provable=False,
        ),
        scenario(
            "bind-of-what-is-bound-already",
            disk(login, f"{THEIRS}{NEW}\n", CLOSED),
            dict(bind, passwords="off"),
            {},
            [new],
            [new],
            everybody,
        ),
        scenario(
            "replace-while-passwords-are-closed",
            disk(login, f"{OLD}\n{THEIRS}", CLOSED),
            _order("replace", login, key=NEW, remove=[OLD]),
            {path: own._replace(text=f"{NEW}\n{THEIRS}")},
            [old, new],
            [new],
            [old, *everybody],
            {path: [f"{OLD}\n{NEW}\n{THEIRS}"]},
        ),
        scenario(
            "replace-and-close-passwords",
            disk(login, f"{OLD}\n{THEIRS}"),
            _order("replace", login, key=NEW, remove=[OLD], passwords="off"),
            {path: own._replace(text=f"{NEW}\n{THEIRS}"), **closed},
            [old, new],
            [new],
            [old, *everybody],
            {path: [f"{OLD}\n{NEW}\n{THEIRS}"]},
        ),
        scenario(
            "replace-with-options",
            disk(login, f'{THEIRS}no-pty,from="198.51.100.1" {OLD}\n{FOREIGN}', CLOSED),
            _order("replace", login, key=NEW, remove=[OLD]),
            {path: own._replace(text=f'{THEIRS}no-pty,from="198.51.100.1" {NEW}\n{FOREIGN}')},
            [old, new],
            [new, key(login, FOREIGN)],
            [old],
            {path: [f'{THEIRS}no-pty,from="198.51.100.1" {OLD}\nno-pty,from="198.51.100.1" {NEW}\n{FOREIGN}']},
        ),
        scenario(
            "unbind-opening-passwords",
            disk(login, f"{THEIRS}{OLD}\n", CLOSED),
            dict(unbind, passwords="restore"),
            {path: keys["theirs"], **opened},
            [old, word],
            [word],
            [old],
        ),
        scenario(
            "unbind-opening-passwords-of-which-none-is-known",
            disk(login, f"{THEIRS}{OLD}\n", CLOSED),
            dict(unbind, passwords="restore", password_known=False),
            {path: keys["theirs"], **opened},
            [old],
            [word],
            [old],
        ),
        scenario(
            "unbind-beside-other-bindings",
            disk(login, f"{THEIRS}{OLD}\n{FOREIGN}\n"),
            unbind,
            {path: own._replace(text=f"{THEIRS}{FOREIGN}\n")},
            [old, word],
            [word, key(login, FOREIGN)],
            [old],
        ),
        scenario(
            "password-login-enable",
            disk(login, f"{OLD}\n", CLOSED),
            _order("password-login-enable", login, passwords="on", password_known=True),
            opened,
            [old, word],
            [old, word],
            [],
        ),
        scenario(
            "password-login-enable-by-force",
            disk(login, f"{OLD}\n", OWNER_SAYS_NO),
            _order("password-login-enable", login, passwords="on", password_known=True, force=True),
            {CONFIG: file(FORCED)},
            [old, word],
            [old, word],
            [],
        ),
        scenario(
            "password-login-disable",
            disk(login, f"{OLD}\n"),
            _order("password-login-disable", login, key=OLD, passwords="off"),
            closed,
            [old, word],
            [old],
            everybody,
        ),
        scenario(
            "password-set",
            disk(login, f"{OLD}\n"),
            _order("password-set", login, password_hash=SET.secret),
            {},
            [old, SET._replace(login=login)],
            [old, SET._replace(login=login)],
            [word],
            wanted_passwords={login: f"{SET.secret}:today"},
        ),
        scenario(
            "password-set-where-none-gets-in",
            disk(login, f"{OLD}\n", CLOSED),
            _order("password-set", login, password_hash=SET.secret),
            {},
            [old],
            [old],
            everybody,
            wanted_passwords={login: f"{SET.secret}:today"},
        ),
        scenario(
            "check-repairing-owners-and-modes",
            dict(
                disk(login, None),
                **{
                    path: file(f"{THEIRS}{NEW}\n", 0o664, 33)._replace(label="wrong"),
                    home(login) + "/.ssh": directory(0o777, 33)._replace(label="wrong"),
                },
            ),
            _order("check", login, key=NEW, diagnose=NEW, repair=True),
            {
                path: file(f"{THEIRS}{NEW}\n", 0o644, uid)._replace(label="right"),
                home(login) + "/.ssh": directory(0o755, uid)._replace(label="right"),
            },
            [word, new],
            [new, word],
            [],
        ),
        scenario(
            "reset",
            disk(login, THEIRS),
            _order("reset", login, key=NEW),
            {path: keys["theirs, new"]},
            [],
            [new],
            [],
            kind="rest",
        ),
        scenario(
            "reset-of-a-server-that-lets-nobody-in",
            disk(login, None, "PubkeyAuthentication no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"),
            _order("reset", login, key=NEW, password_hash="new-hash"),
            {
                path: file(NEW + "\n", 0o600, uid),
                home(login) + "/.ssh": directory(0o700, uid),
                CONFIG: file(
                    f"{BEGIN}PubkeyAuthentication yes\nPasswordAuthentication yes\nKbdInteractiveAuthentication yes\n"
                    f"{'PermitRootLogin yes' + chr(10) if uid == 0 else ''}{END}"
                    "PubkeyAuthentication no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
                ),
            },
            [],
            [new],
            [],
            kind="rest",
            wanted_passwords={login: "new-hash:today"},
        ),
    ]


def _revokes_of(login: str) -> list[Scenario]:
    path, second, uid = keys_path(login), keys_path(login) + "2", 0 if login == "root" else 1000
    first, other = file("", 0o640, uid), file("", 0o600, uid)
    new, old, word, foreign = key(login, NEW), key(login, OLD), password(login), key(login, FOREIGN)
    everybody = [password("root"), password("alice"), password("bob")]
    stolen = f"{THEIRS}no-pty {OLD}\n{OLD}\n{FOREIGN}\n"
    at_second = {second: other._replace(text=f"{OLD}\n")}
    closed = disk(login, stolen, CLOSED) | at_second
    kept = {path: first._replace(text=f"{THEIRS}{FOREIGN}\n"), second: other._replace(text="")}
    heirs = {**kept, path: first._replace(text=f"{THEIRS}no-pty {NEW}\n{NEW}\n{FOREIGN}\n")}
    passing = {path: [f"{THEIRS}no-pty {OLD}\nno-pty {NEW}\n{OLD}\n{NEW}\n{FOREIGN}\n"]}
    replace = _order("replace", login, key=NEW, remove=[OLD], revoke=True, end_sessions=True, accept_lockout=[])
    unbind = _order("unbind", login, remove=[OLD], revoke=True, accept_lockout=[])
    bobs = "/home/bob/.ssh/authorized_keys"

    def scenario(name: str, *rest: Any, **more: Any) -> Scenario:
        return Scenario(f"{name}-{login}", *rest, recovered="partial", **more)

    return [
        scenario("replace", closed, replace, heirs, [old, new], [new, foreign], [old, *everybody], passing),
        scenario(
            "replace-and-close-passwords",
            disk(login, stolen) | at_second,
            dict(replace, passwords="off"),
            {**heirs, CONFIG: file(CLOSED)},
            [old, new],
            [new, foreign],
            [old, *everybody],
            passing,
        ),
        scenario(
            "unbind-opening-passwords",
            closed,
            dict(unbind, passwords="restore", password_known=True),
            {**kept, CONFIG: file(OPEN)},
            [old, word],
            [word, foreign],
            [old],
        ),
        scenario(
            "unbind-with-another-key", closed, dict(unbind, key=FOREIGN), kept, [old, foreign], [foreign], [old, *everybody]
        ),
        scenario(
            "replace-everywhere",
            dict(closed, **{bobs: file(f"{BOBS}\n{OLD}\n", 0o600, 1001)}),
            dict(replace, everywhere=True),
            {**heirs, bobs: file(f"{BOBS}\n", 0o600, 1001)},
            [old, new],
            [new, key("bob", BOBS)],
            [old, key("bob", OLD), *everybody],
            passing,
        ),
    ]


def _texts() -> dict[str, str]:
    return {"theirs": THEIRS, "theirs, new": f"{THEIRS}{NEW}\n"}


SCENARIOS = _of("root") + _of("alice")
REVOKES = _revokes_of("root") + _revokes_of("alice")
