"""No secret is left anywhere: one long use of the product on real servers, and a search by value for every secret of it."""

import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_ssh_private_key,
)

from controller.demo.fleet import Login, Server
from tests.fleet import judge, leaks
from tests.fleet.causes import install_key
from tests.fleet.leaks import Build, Executions, Found, Secrets, Watch
from tests.fleet.product import KPS, SECONDS

ROOT = Path(__file__).parents[2]
PATCHES = sorted((ROOT / "tests" / "leaks").glob("*.patch"))

# A sudo that shows what it was told, as one that somebody wraps to find out why it refuses.
CHATTY_SUDO = """#!/bin/sh
case "$*" in *-S*) echo "$4" >&2; read -r line; echo "sudo: '$line' is not the password" >&2 ;; esac
exit 1
"""


def odd_password(name: str) -> str:
    """A password that is spelt differently by whatever quotes it."""
    return f"""{name} "{secrets.token_urlsafe(9)}" \\'%41' +ü"""


@dataclass
class Servers:
    """The servers of the story."""

    alpha: Server
    beta: Server
    gamma: Server  # deploy becomes root with a password
    delta: Server
    chatty: Server

    @property
    def all(self) -> list[Server]:
        return [self.alpha, self.beta, self.gamma, self.delta, self.chatty]


@pytest.fixture
def servers(make_server: Callable[..., Server]) -> Servers:
    made = Servers(
        alpha=make_server(root_password=odd_password("alpha")),
        beta=make_server(root_password=odd_password("beta"), tree="trixie"),
        gamma=make_server(root_password=odd_password("gamma"), logins=(Login("deploy", odd_password("sudo"), sudo="password"),)),
        delta=make_server(root_password=odd_password("delta"), tree="bullseye"),
        chatty=make_server(
            root_password=odd_password("chatty"), logins=(Login("deploy", odd_password("told"), sudo="password"),)
        ),
    )
    made.chatty.write("/usr/bin/sudo", CHATTY_SUDO, 0o755)
    return made


def story(build: Build, servers: Servers) -> Secrets:
    """Use everything that takes a secret, with the right and with wrong ones; returns the secrets that went through."""
    alpha, beta, gamma, delta, chatty = servers.all
    gone_through: Secrets = {}
    for server in servers.all:
        for login, password in server.passwords.items():
            gone_through |= leaks.word(f"password of {login}@{server.name}", password)
    wrong, passphrase = odd_password("wrong"), odd_password("passphrase")
    gone_through |= leaks.word("wrong password", wrong) | leaks.word("passphrase", passphrase)

    def key_file(name: str, kind: str, size: int | None = None, encrypted: bool = False) -> tuple[str, str]:
        """A private key of the user's own: its file, and its public half."""
        private, public = judge.new_key_pair(kind, size)
        path = build.given / name
        path.touch(0o600)
        path.write_text(private)
        gone_through.update(leaks.private_text(name, private))
        if encrypted:
            # Not by ssh-keygen: it wants the passphrase on its command line, and that is looked at.
            key = load_ssh_private_key(private.encode(), None)
            seal = BestAvailableEncryption(passphrase.encode())
            path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, seal))
        return str(path), public

    [home] = build.told("init")
    gone_through |= leaks.word("secret access key", home["secret_key"])
    build.serve()
    (build.given / "servers.csv").write_text(
        "name,host,port,login,host_key\n"
        + "".join(
            f"{each.name},{each.host},{each.port},{'deploy' if each in (gamma, chatty) else 'root'},{each.host_key}\n"
            for each in servers.all
        )
    )
    build.kps("server", "import", str(build.given / "servers.csv"))

    # Key pairs: made, taken in, given out.
    for kind in ("ed25519", "ecdsa-nistp256", "ecdsa-nistp521", "rsa-2048", "rsa-3072"):
        build.kps("keypair", "create", kind, "--type", kind)
    [loose] = build.told("keypair", "create", "loose", "--type", "rsa-2048", "--unmanaged")
    gone_through |= leaks.private_text("loose", loose["private_key"])
    out = build.given / "filed"
    build.kps("keypair", "create", "filed", "--type", "ecdsa-nistp384", "--unmanaged", "--out", str(out))
    gone_through |= leaks.private_text("filed", out.read_text())
    path, _ = key_file("imported", "ecdsa", 256, encrypted=True)
    build.kps("keypair", "import", "imported", "--private-key", path, ends=2)
    build.kps("keypair", "import", "imported", "--private-key", path, "--passphrase-stdin", given=wrong, ends=2)
    build.kps("keypair", "import", "imported", "--private-key", path, "--passphrase-stdin", given=passphrase)
    path, _ = key_file("imported in the clear", "rsa", 3072)
    build.kps("keypair", "import", "clear", "--private-key", path)
    build.kps("keypair", "export", "ecdsa-nistp521")
    build.kps("keypair", "export", "rsa-3072", "--out", str(build.given / "exported"))
    for_export = odd_password("export")
    gone_through |= leaks.word("export passphrase", for_export)
    exported = ("keypair", "export", "ed25519", "--format", "ppk3", "--passphrase-stdin")
    build.kps(*exported, "--out", str(build.given / "exported.ppk"), given=for_export)

    # In custody later, under another wrapping, and out of it again.
    path, public = key_file("managed later", "ed25519", encrypted=True)
    (build.given / "later.pub").write_text(public)
    build.kps("keypair", "import", "later", "--public-key", str(build.given / "later.pub"))
    build.kps("keypair", "manage", "later", "--private-key", path, "--passphrase-stdin", given=wrong, ends=2)
    [kept] = build.told("keypair", "manage", "later", "--private-key", path, "--passphrase-stdin", given=passphrase)
    build.kps("keypair", "move", "later", "--master-key", kept["master_key_id"])
    build.kps("keypair", "clear", "later")

    # What fails: with a wrong password, a wrong key, a wrong passphrase; and is retried.
    [task] = build.told("bind", delta.name, "--keypair", "ed25519", "--password-stdin", given=wrong, ends=1)
    build.kps("task", "show", task["task_id"])
    path, _ = key_file("nobody's", "ed25519")
    build.kps("bind", delta.name, "--keypair", "ed25519", "--identity", path, ends=1)
    build.kps("task", "retry", task["task_id"], "--password-stdin", given=delta.root_password)
    build.kps("unbind", delta.name, "--password-stdin", given=delta.root_password)
    path, public = key_file("given", "ecdsa", 384, encrypted=True)
    install_key(delta, public)
    first = ("bind", delta.name, "--keypair", "imported", "--identity", path, "--passphrase-stdin")
    build.kps(*first, given=wrong, ends=1)
    build.kps(*first, given=passphrase)
    order = ("bind", chatty.name, "--keypair", "clear", "--login", "root", "--password-stdin")
    build.kps(*order, given=chatty.passwords["deploy"], ends=1)

    # Several servers, each with a password of its own; sudo with a password.
    several = f"{alpha.name}\t{alpha.root_password}\n{beta.name}\t{beta.root_password}\n"
    build.kps("bind", alpha.name, beta.name, "--keypair", "rsa-2048", "--password-stdin", given=several)
    sudo = gamma.passwords["deploy"]
    order = ("bind", gamma.name, "--keypair", "clear", "--password-stdin", "--accept-lockout", "root")
    build.kps(*order, given=wrong, ends=1)
    build.kps(*order, given=sudo)
    build.kps("replace", gamma.name, "--keypair", "ecdsa-nistp256", "--password-stdin", given=sudo)
    build.kps("replace", alpha.name, "--keypair", "rsa-3072")
    build.kps("password-login", "enable", alpha.name, "--password-stdin", given=alpha.root_password)
    build.kps("password-login", "status", alpha.name)
    build.kps("password-login", "disable", alpha.name)

    # An emergency door with a one-time password, which is kept as a secret, shown once, and changed when the door is closed.
    build.kps("emergency", "open", alpha.name, "--for", "10m", "--reason", "the search", "--set-password", "--json")
    made = alpha.run(["grep", "^root:", "/etc/shadow"]).stdout
    build.kps("emergency", "close", alpha.name)
    until = time.monotonic() + SECONDS
    while alpha.run(["grep", "^root:", "/etc/shadow"]).stdout == made:
        assert time.monotonic() < until, "the password of a door that is closed is still what it was"
        time.sleep(0.1)
    build.kps("unbind", gamma.name, "--password-stdin", given=sudo)

    # A disk, and a password that is shown once.
    delta.stop()
    disk = str(delta.mounted_root())
    [reset] = build.told("reset", delta.name, "--keypair", "rsa-3072", "--root", disk, "--set-password")
    gone_through |= leaks.word("one-time password", reset["password"])
    delta.start()
    build.kps("server", "check", delta.name)

    # Secrets: kept from stdin and from a file; and a password that is made, set, proved and changed again.
    build.kps("secret", "create", "text", given=odd_password("text"))
    (build.given / "text").write_text(odd_password("a second text"))
    build.kps("secret", "store", "text", "--file", str(build.given / "text"))
    build.kps("secret", "show", "text", "--out", str(build.given / "shown"))
    build.kps("secret", "create", "delta-root", "--server", delta.name, "--value-stdin", given=odd_password("taken for it"))
    build.kps("secret", "rotate", "delta-root")
    build.kps("secret", "rotate", "delta-root")
    build.kps("secret", "show", "delta-root", "--stage", "SYSPREVIOUS")
    build.kps("server", "check", delta.name)  # an answer that was just given is let go of with the next task

    # The home in one file, with what opens it and without.
    build.kps("backup", "--out", str(build.home.parent / "plain.backup"))
    build.kps("backup", "--out", str(build.home.parent / "whole.backup"), "--with-root-key")
    build.kps("backup", "verify", str(build.home.parent / "plain.backup"), "--root-key", f"file:{build.home}/root.key")

    # What serves the home has done all this, and now does nothing.
    build.dump()

    # The same application, in the process of the command.
    build.end()
    build.kps("unbind", beta.name, "--password-stdin", given=wrong, ends=1)
    build.kps("unbind", beta.name, "--password-stdin", given=beta.root_password)
    path, public = key_file("given in the clear", "rsa", 2048)
    install_key(beta, public)
    build.kps("bind", beta.name, "--keypair", "ecdsa-nistp521", "--identity", path)
    build.kps("task", "list")
    build.kps("keypair", "list")
    build.serve()
    return gone_through


def looked_through(build: Build, servers: Servers, record: Path, found: Found) -> dict[str, int]:
    """Have the story told and note where secrets of it were seen; returns how much was looked at."""
    since = time.time() - 60  # the servers are younger
    others = leaks.shared_names()
    executions = Executions(servers.all, record)
    try:
        with Watch([build.temporary, Path("/tmp")]) as watch:
            sought = story(build, servers)
            sought |= leaks.kept(build.home)
            for place, content in leaks.files(build, servers.all, since, others):
                found.look(sought, place, content)
    finally:
        executions.end()
        build.end()
    for place, content in build.printed:
        found.look(sought, place, content)
    for content, place in watch.views.items():
        found.look(sought, place, content)
    started = executions.told()
    found.look(sought, "programs started on the servers", started)
    assert watch.closed == set(), "nobody could say whether these are clean"
    return {
        "secrets": len(sought),
        "spellings": sum(map(len, sought.values())),
        "bytes": found.size,
        "places": found.places,
        "looks at the process list": watch.looks,
        "processes": len(watch.processes),
        "different views": len(watch.views),
        "programs started on the servers": started.count(b"execve("),
    }


# What is shown once, on purpose, to who asked for it.
SHOWN = {
    ("secret access key", "init --json: stdout"),
    ("root key", "user/home/root.key"),
    ("root key", "user/whole.backup"),
    ("root key", "memory of kps serve"),  # docs/threat-model.md: what is in memory
    *((f"loose: {number}", "keypair create loose: stdout") for number in "dpq"),
    ("ecdsa-nistp521: scalar", "keypair export ecdsa-nistp521: stdout"),
    ("delta-root v2", "secret show delta-root: stdout"),
}


@pytest.mark.long
def test_nothing_leaks(tmp_path: Path, servers: Servers, record_property: Callable[[str, dict[str, int]], None]) -> None:
    build = Build(tmp_path / "build", (KPS,))
    found = Found()
    counted = looked_through(build, servers, tmp_path / "executions", found)
    record_property("counted", {f"search for leaks: {what}": number for what, number in counted.items()})
    alpha, delta = servers.alpha.name, servers.delta.name
    assert found.seen == SHOWN | {
        ("one-time password", f"reset {delta} --keypair: stdout"),
        (f"{alpha}-root v1", f"emergency open {alpha}: stdout"),
    }


def leaking(directory: Path) -> Build:
    """A build of this tree that leaks in every way that tests/leaks holds."""
    tree = directory / "tree"
    for package in ("controller", "kpsagent"):
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for patch in PATCHES:
        argv = ["patch", "-p1", "--quiet", "--fuzz=2", "--no-backup-if-mismatch", "-d", str(tree)]
        done = subprocess.run(argv, input=patch.read_text(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{patch.name} does not fit this tree any more: {done.stdout}{done.stderr}"
    return Build(directory / "build", (sys.executable, "-P", "-m", "controller.cli"), {"PYTHONPATH": str(tree)})


@pytest.mark.long
def test_every_leak_is_found(tmp_path: Path, servers: Servers) -> None:
    """The same story, told by a build that leaks on purpose; each patch says what has to be found, and where."""
    wanted = [
        (patch.name, *line.removeprefix("# found: ").split(" | "))
        for patch in PATCHES
        for line in patch.read_text().split("\n")
        if line.startswith("# found: ")
    ]
    assert {name for name, _, _ in wanted} == {patch.name for patch in PATCHES}
    found = Found([(secret, place) for _, secret, place in wanted])  # the rest is looked for by the test above
    looked_through(leaking(tmp_path), servers, tmp_path / "executions", found)
    missed = [
        (name, secret, place)
        for name, secret, place in wanted
        if not any(fnmatch(seen, secret) and fnmatch(where, place) for seen, where in found.seen)
    ]
    assert missed == []
