"""Who may log in: every state of paths and accounts that is known to matter, set for real; what the agent says, and a real login.

Each row begins from a login that gets in, changes one thing, and asks twice: the product, whether a key could be bound and proved
for this login, and sshd, whether a key that stands in the file gets in and runs a command.
"""

import asyncio
import os
import re
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import asyncssh

from controller.demo.fleet import Login
from kpsagent import permissions
from kpsagent.errors import Stop, from_os_error
from kpsagent.look import look
from kpsagent.plan import decide
from kpsagent.transaction import drive
from tests.drills import inside
from tests.drills.fuzz.host import Host, Prover, ordered

LOGINS = (Login("alice", "pw-alice"), Login("bob", "pw-bob"))
UIDS = {"root": 0, "alice": 1000, "bob": 1001, "bin": 2}
SOURCE = "192.0.2.9"
CONNECTION = [SOURCE, "40000", inside.HERE, str(inside.PORT)]
CONFIG = "PermitRootLogin yes\nUsePAM yes\nKbdInteractiveAuthentication no\n"
OLD_CONFIG = CONFIG.replace("KbdInteractive", "ChallengeResponse")
HASH = "$6$rounds=1000$saltsalt$"  # of no password that anybody has
BOB_MAY_WRITE = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 0xFFFFFFFF), (2, 6, 1001), (4, 0, 0xFFFFFFFF), (16, 6, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF))
)


class Row(NamedTuple):
    """One state. open: whether a login works is for the proof to say, because nobody can know what a command does."""

    name: str
    make: Callable[["Bench"], None]
    login: str = "alice"
    open: bool = False


class Bench:
    """A server whose logins are put into one state after the other."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.tally: Counter[str] = Counter()
        self.misses: list[str] = []
        self.table: list[str] = []
        self.generation = 0
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.line = self.key.export_public_key().decode().strip()
        # On the disk below, not in memory: flags of ext4 are among the states.
        inside.on_memory("/etc/ssh", "/var/lib")
        self.base = {name: Path("/etc", name).read_text() for name in ("passwd", "group", "shadow")}
        self.config = CONFIG
        self.set_config(CONFIG)
        if subprocess.run([inside.SSHD, "-t"], capture_output=True, check=False).returncode:
            self.config = OLD_CONFIG

    # -- what rows use

    def path(self, name: str, login: str = "alice") -> str:
        home = "/root" if login == "root" else f"/home/{login}"
        return {"home": home, "ssh": f"{home}/.ssh", "keys": f"{home}/.ssh/authorized_keys"}.get(name, name)

    def own(self, name: str, owner: str, group: str | int, mode: int, login: str = "alice") -> None:
        path = self.path(name, login)
        os.chown(path, UIDS[owner], group if isinstance(group, int) else self.gid(group))
        os.chmod(path, mode)

    def gid(self, group: str) -> int:
        return int(
            next(line.split(":")[2] for line in Path("/etc/group").read_text().split("\n") if line.startswith(f"{group}:"))
        )

    def edit(self, name: str, pattern: str, by: str) -> None:
        path = Path("/etc", name)
        text, count = re.subn(pattern, by, path.read_text(), flags=re.MULTILINE)
        assert count, (name, pattern)
        path.write_text(text)

    def set_config(self, text: str) -> None:
        Path(inside.CONFIG).write_text(text)

    def top(self, lines: str) -> None:
        self.set_config(f"{lines}\n{self.config}")

    # -- a row

    def try_one(self, row: Row) -> None:
        self.reset(row.login)
        row.make(self)
        said = self.said(row.login)
        if said == "yes" and row.open:
            said = "left to the proof"
        really = "yes" if self.gets_in(row.login) else "no"
        self.tally["rows"] += 1
        self.table.append(f"{row.name}: said {said}, login {really}")
        if said in ("doubtful", "not written through", "left to the proof"):
            self.tally[said] += 1
        elif said.partition(" ")[0] != really:
            self.tally["disagreements"] += 1
            self.misses.append(f"permissions: {row.name}: the agent says {said}, a real login says {really}")
        else:
            self.tally["agreed"] += 1

    def reset(self, login: str) -> None:
        for each, text in self.base.items():
            Path("/etc", each).write_text(text)
        self.set_config(self.config)
        for path in ("/etc/nologin", "/srv/keys", "/tmp/linked", "/etc/keys-of-alice", "/elsewhere", "/etc/revoked"):
            remove(path)
        os.chown("/home", 0, 0)
        os.chmod("/home", 0o755)  # noqa: S103
        for each in {login, "alice"}:
            home = self.path("home", each)
            remove(home)
            os.mkdir(home, 0o755)
            os.mkdir(f"{home}/.ssh", 0o700)
            Path(self.path("keys", each)).write_text(self.line + "\n")
            for name, mode in (("home", 0o755), ("ssh", 0o700), ("keys", 0o600)):
                os.chown(self.path(name, each), UIDS[each], UIDS[each])
                os.chmod(self.path(name, each), mode)

    def said(self, login: str) -> str:
        """What the product says of a bind: "yes", "no CAUSE", or how it leaves it open."""
        self.generation += 1
        plan = ordered(self.generation, CONNECTION, operation="bind", login=login, key=self.line)
        try:
            seen = drive(look(plan), Host(Prover(self.loop, SOURCE, {})))
            steps = decide(plan, seen)
        except (Stop, OSError) as error:
            stop = error if isinstance(error, Stop) else from_os_error(error, error.filename or "")
            return "not written through" if stop.cause == "path_unsafe" else f"no {stop.cause}"
        if any(step.kind == "keys" for step in steps.widen):
            return "left to the proof"  # another file than the one with the key: not the question of this row
        wrong = [each for file in seen.files[login] for each in permissions.check(file.components, UIDS[login])]
        return "doubtful" if wrong else "yes"

    def gets_in(self, login: str) -> bool:
        try:
            went = self.loop.run_until_complete(inside.attempt(login, SOURCE, key=self.key, command="echo here"))
        except inside.Puzzled:
            return False
        return went.printed == "here\n"


def remove(path: str) -> None:
    if not os.path.lexists(path):
        return
    subprocess.run(["chattr", "-R", "-i", "-a", path], capture_output=True, check=False)
    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


# -- the rows ----------------------------------------------------------------------------------------------------------


def owned(name: str, owner: str, group: str | int, mode: int, login: str = "alice") -> Row:
    def make(bench: Bench) -> None:
        bench.own(name, owner, group, mode, login)

    return Row(f"{name} of {login}: {owner}:{group} {mode:04o}", make, login)


def with_second_member(name: str, mode: int) -> Row:
    def make(bench: Bench) -> None:
        bench.edit("group", "^alice:.*$", "alice:x:1000:bob")
        bench.own(name, "alice", "alice", mode)

    return Row(f"{name} of alice: {mode:04o} of her group, which bob is in too", make)


def linked(target: str, roots: bool = False) -> Callable[[Bench], None]:
    """authorized_keys is a link to where the file now is, root's there or still the login's."""

    def make(bench: Bench) -> None:
        shutil.move(bench.path("keys"), target)
        os.symlink(target, bench.path("keys"))
        if roots:
            bench.own(target, "root", "root", 0o644)

    return make


def writable_for_bob(name: str) -> Callable[[Bench], None]:
    return lambda bench: os.setxattr(bench.path(name), "system.posix_acl_access", BOB_MAY_WRITE)


def ssh_elsewhere(mode: int) -> Callable[[Bench], None]:
    def make(bench: Bench) -> None:
        os.makedirs("/srv/keys")
        shutil.move(bench.path("ssh"), "/srv/keys/alice")
        os.symlink("/srv/keys/alice", bench.path("ssh"))
        os.chmod("/srv/keys", mode)

    return make


def home_through_a_link(bench: Bench) -> None:
    shutil.move(bench.path("home"), "/elsewhere")
    os.symlink("/elsewhere", bench.path("home"))


def replaced_by(kind: str) -> Callable[[Bench], None]:
    def make(bench: Bench) -> None:
        path = bench.path("keys")
        if kind == "hard link":
            os.link(path, f"{bench.path('home')}/second")
            return
        os.unlink(path)
        if kind == "pipe":
            os.mkfifo(path)
            os.chown(path, 1000, 1000)
        elif kind == "directory":
            os.mkdir(path)

    return make


def home_missing(bench: Bench) -> None:
    remove(bench.path("home"))


def flagged(name: str, flag: str) -> Callable[[Bench], None]:
    return lambda bench: subprocess.run(["chattr", flag, bench.path(name)], check=True) and None


PATHS = [
    *(owned("keys", "alice", "alice", mode) for mode in (0o600, 0o644, 0o640, 0o400, 0o755, 0o700)),
    owned("keys", "root", "root", 0o644),
    owned("keys", "root", "alice", 0o640),
    owned("keys", "root", "root", 0o600),
    owned("keys", "root", "root", 0o640),
    owned("keys", "alice", "alice", 0o000),
    owned("keys", "alice", "alice", 0o200),
    owned("keys", "bob", "bob", 0o644),
    owned("keys", "bin", "bin", 0o644),
    *(owned("keys", "alice", "alice", mode) for mode in (0o666, 0o602, 0o660, 0o620)),
    *(owned("ssh", "alice", "alice", mode) for mode in (0o777, 0o1777, 0o775, 0o755, 0o500, 0o600)),
    *(owned("home", "alice", "alice", mode) for mode in (0o777, 0o1777, 0o775, 0o770, 0o2775, 0o700, 0o711)),
    *(owned("keys", "alice", group, 0o660) for group in ("users", "root")),
    *(owned("ssh", "alice", group, 0o775) for group in ("users", "root")),
    *(owned("home", "alice", group, 0o775) for group in ("users", "root")),
    *(with_second_member(name, mode) for name, mode in (("keys", 0o660), ("ssh", 0o775), ("home", 0o775))),
    owned("ssh", "root", "root", 0o755),
    owned("ssh", "root", "root", 0o700),
    owned("ssh", "bob", "bob", 0o755),
    owned("home", "root", "root", 0o755),
    owned("home", "bob", "bob", 0o755),
    owned("keys", "root", "root", 0o660, "root"),
    owned("home", "root", "root", 0o770, "root"),
    owned("home", "root", "root", 0o700, "root"),
    Row("keys of alice: an ACL lets bob write", writable_for_bob("keys")),
    Row("home of alice: an ACL lets bob write", writable_for_bob("home")),
    owned("/home", "root", "root", 0o777),
    owned("/home", "bob", "bob", 0o755),
    Row("keys: a link to another file in the home", linked("/home/alice/dotfile")),
    Row("keys: a link to a file of root's under /etc", linked("/etc/keys-of-alice", True)),
    Row("keys: a link to a file in /tmp", linked("/tmp/linked")),
    Row(".ssh: a link to /srv/keys/alice, /srv/keys 0775", ssh_elsewhere(0o775)),
    Row(".ssh: a link to /srv/keys/alice, /srv/keys 0755", ssh_elsewhere(0o755)),
    Row("home: a link", home_through_a_link),
    Row("home: missing", home_missing),
    Row("keys: a second name (hard link)", replaced_by("hard link")),
    Row("keys: a named pipe", replaced_by("pipe")),
    Row("keys: a directory", replaced_by("directory")),
    Row("keys: chattr +i", flagged("keys", "+i")),
    Row("ssh: chattr +i", flagged("ssh", "+i")),
]  # fmt: skip


def shadow(field: str, *, pam: bool = True, rest: str = "19000:0:99999:7:::", top: str = "") -> Row:
    def make(bench: Bench) -> None:
        bench.edit("shadow", "^alice:.*$", f"alice:{field}:{rest}")
        lines = ([] if pam else ["UsePAM no"]) + ([top] if top else [])
        bench.top("\n".join(lines))

    return Row(f"alice: {field or 'no'} password, {rest}, {'with' if pam else 'without'} PAM {top}".strip(), make)


def shell(path: str) -> Row:
    return Row(f"alice: shell {path}", lambda bench: bench.edit("passwd", "^(alice:.*:)[^:]*$", rf"\g<1>{path}"))


def setting(lines: str, login: str = "alice") -> Row:
    return Row(f"{login}: {lines!r}", lambda bench: bench.top(lines), login)


def no_logins_now(bench: Bench) -> None:
    Path("/etc/nologin").write_text("maintenance\n")


def revoked(bench: Bench) -> None:
    Path("/etc/revoked").write_text(bench.line + "\n")
    bench.top("RevokedKeys /etc/revoked")


def none_revoked(bench: Bench) -> None:
    Path("/etc/revoked").write_text("")
    bench.top("RevokedKeys /etc/revoked")


ACCOUNTS = [
    *(shadow(field, pam=pam) for pam in (True, False) for field in ("*", "!", "!!", f"!{HASH}x", f"{HASH}x", "")),
    *(shadow(f"{HASH}x", pam=pam, rest="19000:0:99999:7::18000:") for pam in (True, False)),
    *(shadow(f"{HASH}x", pam=pam, rest="0:0:99999:7:::") for pam in (True, False)),
    *(shadow(f"{HASH}x", pam=pam, rest="18000:0:30:7:::") for pam in (True, False)),
    *(shadow(f"{HASH}x", pam=pam, rest="18000:0:30:7:30::") for pam in (True, False)),
    *(shadow("*", pam=pam, rest="18000:0:30:7:::") for pam in (True, False)),
    *(shell(path) for path in ("/bin/sh", "/usr/sbin/nologin", "/bin/false", "/bin/not-there", "/etc/passwd")),
    Row("alice: /etc/nologin", no_logins_now),
    Row("root: /etc/nologin", no_logins_now, "root"),
    *(setting(f"PermitRootLogin {value}", "root") for value in ("yes", "no", "prohibit-password", "forced-commands-only")),
    *(
        setting(line)
        for line in (
            "AllowUsers alice", "AllowUsers bob", "AllowUsers alice@192.0.2.*", "AllowUsers alice@198.51.100.0/24",
            "AllowUsers a*", "DenyUsers alice", "DenyUsers bob", "DenyUsers alice@192.0.2.0/24", "DenyGroups alice",
            "AllowGroups alice", "AllowGroups wheel", "AllowGroups wheel ali*", "PubkeyAuthentication no",
            "AuthorizedKeysFile none", "AuthorizedKeysFile /etc/keys/%u", "AuthenticationMethods publickey,password",
            "AuthenticationMethods publickey", "AuthenticationMethods password publickey", "StrictModes no",
            "PubkeyAcceptedKeyTypes ssh-rsa,ecdsa-sha2-nistp256", "PubkeyAcceptedKeyTypes ssh-ed25519",
            "RevokedKeys /not/there", "PermitTTY no", "MaxAuthTries 1",
            "AuthorizedKeysCommand /bin/false\nAuthorizedKeysCommandUser nobody",
        )
    ),
    *(setting(line)._replace(open=True) for line in ("ForceCommand /bin/true", "ChrootDirectory /not/there")),
    Row("alice: her key is revoked", revoked),
    Row("alice: none of her keys is revoked", none_revoked),
]  # fmt: skip


def tried() -> tuple[Counter[str], list[str], list[str]]:
    """Inside a server: every row once."""
    bench = Bench()
    with inside.inetd((inside.PORT, [])):
        for row in [*PATHS, *ACCOUNTS]:
            bench.try_one(row)
        bench.reset("alice")
        remove("/home/alice")
    return bench.tally, bench.misses, bench.table
