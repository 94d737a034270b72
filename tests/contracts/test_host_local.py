"""LocalHost on a real machine: attributes, links, hostile logins, full and odd disks, kill -9, and what is on the disk when."""

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kpsagent import arming, files, local
from kpsagent.errors import Refused, Stop
from kpsagent.host import Ground, Limits, Lock, MakeDirectory, Read, RemoveDirectory, Replace, SetMode, Sweep
from tests.contracts.places import local_place, scratch
from tests.contracts.traced import NAMES, Child
from tests.needs import lacking

ROOT = Path(__file__).parents[2]
THIRD = 1  # a user id that is neither root's nor the login's


@pytest.fixture(autouse=True)
def _root():
    if os.geteuid() != 0:
        lacking("root: another login's files, mounts, attributes")


@pytest.fixture
def place():
    with local_place() as made:
        yield made


@pytest.fixture
def host(place):
    host = place.host()
    host.do(Lock(True))
    yield host
    host.close()


@pytest.fixture
def path(place):
    return f"{place.home}/authorized_keys"


# -- owner, mode, attributes

USER, NAMED, GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
NOBODY_NAMED = 0xFFFFFFFF


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel keeps it; each entry is (tag, permissions, id). acl(5), linux/posix_acl_xattr.h."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def set_attribute(path: str, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        lacking(f"a file system with {name}: {error}")


@pytest.mark.parametrize(
    ("uid", "gid", "mode"), [(0, 0, 0o644), (THIRD, THIRD, 0o644), (None, THIRD, 0o604), (None, None, 0o400)]
)
def test_owner_group_and_mode_outlive_a_replace_whoever_they_are(host, place, path, uid, gid, mode):
    place.put(path, "before\n", mode)
    owner = (place.account.uid if uid is None else uid, place.account.gid if gid is None else gid)
    os.chown(path, *owner)
    host.do(Replace(path, place.account, "before\n", "after\n"))
    found = os.stat(path)
    assert Path(path).read_text() == "after\n"
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (*owner, mode)


def test_acl_and_other_attributes_outlive_a_replace(host, place, path):
    place.put(path, "before\n", 0o640)
    kept = acl(
        (USER, 6, NOBODY_NAMED), (NAMED, 4, THIRD), (GROUP, 0, NOBODY_NAMED), (MASK, 4, NOBODY_NAMED), (OTHERS, 0, NOBODY_NAMED)
    )
    set_attribute(path, "system.posix_acl_access", kept)
    set_attribute(path, "user.colour", b"blue")
    set_attribute(path, "trusted.keep", b"this")
    mode = os.stat(path).st_mode
    host.do(Replace(path, place.account, "before\n", "after\n"))
    assert os.getxattr(path, "system.posix_acl_access") == kept
    assert os.getxattr(path, "user.colour") == b"blue"
    assert os.getxattr(path, "trusted.keep") == b"this"
    assert os.stat(path).st_mode == mode


def test_what_root_s_own_file_has_outlives_a_replace_also_through_a_link(host, place):
    """As sshd_config: the file changes, the link to it stays."""
    real, path = f"{place.home}/real", f"{place.home}/link"
    place.put(real, "before\n", 0o640)
    os.chown(real, 0, THIRD)
    os.symlink("real", path)
    kept = acl(
        (USER, 6, NOBODY_NAMED), (NAMED, 4, THIRD), (GROUP, 0, NOBODY_NAMED), (MASK, 4, NOBODY_NAMED), (OTHERS, 0, NOBODY_NAMED)
    )
    attributes = {"system.posix_acl_access": kept, "user.colour": b"blue", "trusted.keep": b"this"}
    for name, value in attributes.items():
        set_attribute(real, name, value)
    before = os.stat(real)
    host.do(Replace(path, None, "before\n", "after\n"))
    after = os.stat(real)
    assert os.readlink(path) == "real"
    assert Path(real).read_text() == "after\n"
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert {name: os.getxattr(real, name) for name in attributes} == attributes


@pytest.mark.parametrize("whose", ["None", "zoe"])
def test_the_label_of_selinux_is_put_on_the_new_file_before_that_takes_the_name(place, path, child, whose):
    """Any security.* attribute goes the way of security.selinux, which is set by whoever may relabel: root."""
    place.put(path, "before\n")
    label = b"system_u:object_r:ssh_home_t:s0"
    set_attribute(path, "security.selinux", label)
    calls = child.calls(f"files.replace(path, {whose}, 'before\\n', 'after\\n')")
    at = [number for number, call in enumerate(calls) if call.name == "fsetxattr" and "security.selinux" in call.arguments]
    shown = next(number for number, call in enumerate(calls) if call.name in NAMES and '"authorized_keys"' in call.arguments)
    assert len(at) == 1
    assert ".authorized_keys.kps-" in calls[at[0]].arguments
    assert label.decode() in calls[at[0]].arguments
    assert calls[at[0]].result == "0"
    assert at[0] < shown
    assert os.getxattr(path, "security.selinux") == label


RESTORECON = """#!/bin/sh
echo "$1 $(stat -c %F "$1") by $(id -u)" >>/tmp/labelled
"""


@pytest.mark.parametrize("on", [True, False])
def test_what_is_new_is_labelled_by_the_policy_where_selinux_is_on(place, host, monkeypatch, on):
    said = place.directory / "labelled"
    program = place.directory / "restorecon"
    program.write_text(RESTORECON.replace("/tmp/labelled", str(said)))
    program.chmod(0o755)
    place.directory.chmod(0o777)
    enforce = place.directory / "enforce"
    if on:
        enforce.touch()
    monkeypatch.setattr(local, "RESTORECON", ("/not/there", str(program)))
    monkeypatch.setattr(local, "SELINUX", str(enforce))
    host.do(MakeDirectory(f"{place.home}/.ssh", place.account))
    host.do(Replace(f"{place.home}/.ssh/keys", place.account, None, "one\n"))
    host.do(Replace(f"{place.home}/.ssh/keys", place.account, "one\n", "two\n"))  # that one has its label
    uid = place.account.uid
    wanted = [f"{place.home}/.ssh directory by {uid}", f"{place.home}/.ssh/keys regular file by {uid}"]
    assert (said.read_text().split("\n")[:-1] if said.exists() else []) == (wanted if on else [])


def test_the_default_acl_of_a_directory_gives_nobody_more(host, place, path):
    place.put(path, "before\n", 0o640)
    default = acl(
        (USER, 6, NOBODY_NAMED), (NAMED, 6, THIRD), (GROUP, 6, NOBODY_NAMED), (MASK, 6, NOBODY_NAMED), (OTHERS, 0, NOBODY_NAMED)
    )
    set_attribute(place.home, "system.posix_acl_default", default)
    host.do(Replace(path, place.account, "before\n", "after\n"))
    assert "system.posix_acl_access" not in os.listxattr(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


def test_a_replace_makes_no_set_user_id_file(host, place, path):
    place.put(path, "before\n")
    os.chmod(path, 0o4755)  # noqa: S103
    host.do(Replace(path, place.account, "before\n", "after\n"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o755


def test_what_is_made_where_only_root_may_write_is_root_s_and_open_to_the_login(host, place):
    home = Path(tempfile.mkdtemp(prefix="kps-host-", dir="/var/lib"))
    try:
        home.chmod(0o755)
        account = place.account._replace(home=str(home))
        host.do(MakeDirectory(f"{home}/.ssh", account))
        host.do(Replace(f"{home}/keys", account, None, "one\n"))
        for path, mode in ((home / ".ssh", 0o755), (home / "keys", 0o644)):
            seen = path.stat()
            assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (0, 0, mode)
        assert host.do(RemoveDirectory(f"{home}/.ssh", account)) is True
    finally:
        shutil.rmtree(home)


# -- what is not a file of the login


@pytest.fixture
def victim(place):
    """A directory of root's, which the login can see and not change."""
    made = place.directory / "victim"
    made.mkdir(mode=0o755)
    (made / "authorized_keys").write_text("victim\n")
    (made / "secret").write_text("victim's secret\n")
    (made / "secret").chmod(0o600)
    (made / "empty").mkdir()
    return made


def snapshot(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    return {
        str(path): (path.stat().st_mode, path.stat().st_uid, path.stat().st_nlink, path.read_bytes() if path.is_file() else b"")
        for path in [directory, *sorted(directory.rglob("*"))]
    }


def odd(kind: str, path: str, victim: Path) -> None:
    if kind == "link to a file of root's":
        os.symlink(victim / "authorized_keys", path)
    elif kind == "link to nowhere":
        os.symlink(victim / "not-there", path)
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind == "directory":
        os.mkdir(path)
    elif kind == "hard link to a file of root's":
        os.link(victim / "authorized_keys", path)


ODD = ["link to a file of root's", "link to nowhere", "named pipe", "directory", "hard link to a file of root's"]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("expected", ["victim\n", None, ""])
def test_what_is_no_plain_file_is_refused_and_never_followed(host, place, path, victim, kind, expected):
    odd(kind, path, victim)
    before = snapshot(victim)
    for effect in (Read(path, place.account), Replace(path, place.account, expected, "ours\n")):
        with pytest.raises((Stop, OSError)):
            host.do(effect)
    assert snapshot(victim) == before
    assert place.names(place.home) == ["authorized_keys"]


@pytest.mark.parametrize(
    "effect",
    [
        lambda path, account: Replace(f"{path}/authorized_keys", account, "victim\n", "ours\n"),
        lambda path, account: Replace(f"{path}/new", account, None, "ours\n"),
        lambda path, account: MakeDirectory(f"{path}/new", account),
        lambda path, account: RemoveDirectory(f"{path}/empty", account),
        lambda path, account: SetMode(f"{path}/authorized_keys", account, 0o644, 0o600),
        lambda path, account: Read(f"{path}/secret", account),
    ],
    ids=["replace", "new", "make-directory", "remove-directory", "set-mode", "read"],
)
def test_through_a_link_to_roots_directory_the_login_gets_no_further_than_it_could_by_itself(host, place, victim, effect):
    os.symlink(victim, f"{place.home}/.ssh")
    before = snapshot(victim)
    with pytest.raises((Stop, OSError)):
        host.do(effect(f"{place.home}/.ssh", place.account))
    host.do(Sweep(f"{place.home}/.ssh/authorized_keys", place.account))
    assert snapshot(victim) == before


def test_a_link_to_a_directory_of_the_logins_own_is_followed(host, place):
    place.make_directory(f"{place.home}/dotfiles")
    os.symlink("dotfiles", f"{place.home}/.ssh")
    host.do(Replace(f"{place.home}/.ssh/authorized_keys", place.account, None, "one\n"))
    assert place.look(f"{place.home}/dotfiles/authorized_keys") == ("file", "one\n", 0o600, place.account.uid)


def test_another_directory_in_the_place_of_the_home_is_other_ground(host, place):
    path = f"{place.home}/.ssh/authorized_keys"
    before = host.do(Ground(path, place.account))
    os.rename(place.home, f"{place.home}-away")
    assert host.do(Ground(path, place.account)) == (place.home, None)
    place.make_directory(place.home)
    assert host.do(Ground(path, place.account)) != before
    os.rmdir(place.home)
    os.rename(f"{place.home}-away", place.home)
    assert host.do(Ground(before[0], place.account)) == before


def test_where_a_link_leads_out_of_the_home_the_ground_is_there(host, place):
    kept = place.directory / "kept"
    os.mkdir(kept, 0o755)
    os.symlink(kept, f"{place.home}/.ssh")
    directory, number = host.do(Ground(f"{place.home}/.ssh/authorized_keys", place.account))
    assert (directory, number) == (str(kept), os.stat(kept).st_ino)


@contextlib.contextmanager
def hostile(act: Callable[[], None], uid: int, gid: int) -> Iterator[None]:
    """A process of this user's does act over and over."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            while True:
                with contextlib.suppress(OSError):
                    act()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def swaps(home: str, victim: Path) -> Callable[[], None]:
    """What a hostile login does at the same time: its directory, and the file in it, are now this and now that."""

    def act() -> None:
        os.rename(f"{home}/.ssh", f"{home}/real")
        os.symlink(victim, f"{home}/.ssh")
        os.unlink(f"{home}/.ssh")
        os.rename(f"{home}/real", f"{home}/.ssh")
        os.rename(f"{home}/.ssh/authorized_keys", f"{home}/kept")
        os.symlink(victim / "authorized_keys", f"{home}/.ssh/authorized_keys")
        os.unlink(f"{home}/.ssh/authorized_keys")
        os.mkfifo(f"{home}/.ssh/authorized_keys")
        os.unlink(f"{home}/.ssh/authorized_keys")
        os.rename(f"{home}/kept", f"{home}/.ssh/authorized_keys")

    return act


def test_a_login_that_swaps_its_files_meanwhile_gets_root_to_touch_nothing_else(host, place, victim):
    keys = f"{place.home}/.ssh/authorized_keys"
    place.make_directory(f"{place.home}/.ssh")
    place.put(keys, "mine\n")
    before = snapshot(victim)
    effects = [
        Read(keys, place.account),
        Replace(keys, place.account, "mine\n", "mine\n"),
        Replace(keys, place.account, "victim\n", "ours\n"),
        Read(f"{place.home}/.ssh/secret", place.account),
        SetMode(keys, place.account, 0o644, 0o666),
        Sweep(keys, place.account),
        MakeDirectory(f"{place.home}/.ssh/made", place.account),
        RemoveDirectory(f"{place.home}/.ssh/empty", place.account),
    ]
    came_through = 0
    with hostile(swaps(place.home, victim), place.account.uid, place.account.gid):
        for turn in range(2400):
            try:
                answer = host.do(effects[turn % len(effects)])
            except (Stop, OSError):
                continue
            came_through += 1
            assert "secret" not in (getattr(answer, "text", None) or "")
    assert came_through
    assert snapshot(victim) == before


def test_two_that_write_the_same_file_at_once_never_mix_their_texts(host, place, path):
    texts = ["".join(f"{letter}{number}\n" for number in range(20_000)) for letter in "ab"]
    place.put(path, texts[0])

    def other() -> None:
        for one, two in (texts, texts[::-1]):
            with contextlib.suppress(Stop, OSError):
                files.replace(path, place.account, one, two)

    with hostile(other, place.account.uid, place.account.gid):
        for turn in range(300):
            with contextlib.suppress(Stop):
                host.do(Replace(path, place.account, texts[turn % 2], texts[1 - turn % 2]))
            assert host.do(Read(path, place.account)).text in texts


# -- disks


def machine(verb: str, *arguments: str):
    """Run a verb of machine.py in a mount namespace of its own, and return what it says."""
    if not shutil.which("unshare"):
        lacking("unshare")
    command = ["unshare", "-m", "--propagation", "private", sys.executable, "-m", "tests.contracts.machine", verb, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode and "permitted" in done.stderr:
        lacking(f"mounts: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("disk", "causes"),
    [
        ("tiny", {"replace": "disk_full", "new": "disk_full", "sweep": "done"}),
        ("read_only", {"replace": "read_only", "new": "read_only", "sweep": "done", "mode": "read_only"}),
        ("mounted_over", {"replace": "immutable"}),
    ],
)
def test_a_disk_that_takes_nothing_says_why_and_keeps_what_it_has(place, disk, causes):
    said, left = machine(disk, place.home)
    assert said == causes
    assert left == {"authorized_keys": "before\n"}


@pytest.mark.parametrize("attribute", ["i", "a"])
@pytest.mark.parametrize("what", ["file", "directory"])
def test_an_immutable_file_or_directory_is_told_as_such_and_left(host, place, path, attribute, what):
    place.put(path, "before\n")
    target = path if what == "file" else place.home
    if not shutil.which("chattr") or subprocess.run(["chattr", f"+{attribute}", target], capture_output=True).returncode:
        lacking("chattr, and a file system that knows it")
    try:
        with pytest.raises(OSError) as raised:  # noqa: PT011 - which it is, is what is looked at
            host.do(Replace(path, place.account, "before\n", "after\n"))
        assert raised.value.errno in (1, 13)
        assert place.look(path)[1] == "before\n"
    finally:
        subprocess.run(["chattr", f"-{attribute}", target], check=True)
    left = [name for name in place.names(place.home) if name != "authorized_keys"]
    assert len(left) == (1 if (attribute, what) == ("a", "directory") else 0)  # to such a directory one can only add
    host.do(Sweep(path, place.account))
    assert place.names(place.home) == ["authorized_keys"]


@pytest.mark.parametrize("attribute", ["i", "a"])
@pytest.mark.parametrize("what", ["file", "directory"])
@pytest.mark.parametrize("whose", ["root's", "the login's"])
def test_what_cannot_be_replaced_is_seen_before_it_is_tried(host, place, path, attribute, what, whose):
    place.put(path, "before\n")
    account = place.account if whose == "the login's" else None
    assert host.do(Read(path, account)).stuck == ""
    target = path if what == "file" else place.home
    if not shutil.which("chattr") or subprocess.run(["chattr", f"+{attribute}", target], capture_output=True).returncode:
        lacking("chattr, and a file system that knows it")
    wanted = {"i": "immutable", "a": "append only"}[attribute]
    try:
        assert host.do(Read(path, account)) == (path, "before\n", 0o600, place.account.uid, place.account.gid, wanted)
        missing = {host.do(Read(f"{place.home}/{name}", account)).stuck for name in ("new", "new/keys", "new/new/keys")}
        assert missing == {wanted if what == "directory" else ""}
    finally:
        subprocess.run(["chattr", f"-{attribute}", target], check=True)


@pytest.mark.parametrize(("disk", "wanted"), [("read_only", "read-only"), ("mounted_over", "mount point"), ("tiny", "")])
def test_a_mount_that_cannot_be_replaced_is_seen_before_it_is_tried(place, disk, wanted):
    assert machine("stuck", disk, place.home) == [wanted, wanted]


def test_a_password_on_a_disk_at_rest_is_set_and_set_back_to_the_byte():
    shadow = "root:*:19000:0:99999:7:::\nzoe:$6$old:19000:0:99999:7:::\n"
    with scratch() as root:
        for name in ("etc", "var", "var/lib"):
            (root / name).mkdir()
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nzoe:x:1000:1000::/home/zoe:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\nzoe:x:1000:\n")
        (root / "etc/shadow").write_text(shadow)
        (refused, set_to, set_back), left = machine("at_rest", str(root))
    assert refused == "unexpected"
    assert set_to.startswith("root:*:19000:0:99999:7:::\nzoe:$6$new:")
    assert "19000:0:99999:7:::\n" not in set_to.partition("zoe:")[2]
    assert set_back == shadow
    assert left == []


# -- seen from outside

VARIANTS = {
    "roots": ("files.replace(path, None, 'before\\n', 'after\\n')", True),
    "logins": ("files.replace(path, zoe, 'before\\n', 'after\\n')", True),
    "new": ("files.replace(path, zoe, None, 'after\\n')", False),
}


@pytest.fixture
def child(place):
    return Child(place.directory, place.home, place.account.uid, place.account.gid)


def prepare(place, path: str, exists: bool) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    if exists:
        place.put(path, "before\n", 0o640)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_replace_is_on_the_disk_before_it_shows_and_stays_once_it_is_answered(place, path, child, variant):
    act, exists = VARIANTS[variant]
    prepare(place, path, exists)
    said = [(call.name, call.arguments) for call in child.calls(act) if call.changes]
    shown = next(
        at for at, (name, what) in enumerate(said) if name in NAMES and '"authorized_keys"' in what and name[:6] != "unlink"
    )
    synced = [(at, what) for at, (name, what) in enumerate(said) if name == "fsync"]
    written = [at for at, (name, what) in enumerate(said) if name == "write" and _is_new(what)]
    assert written
    assert any(_is_new(what) and max(written) < at < shown for at, what in synced), said
    assert not any(_is_new(what) for name, what in said[shown:] if name in ("write", "fchmod", "fchown", "fsetxattr"))
    assert said[-1][0] == "fsync", said
    assert f"<{place.home}>" in said[-1][1], said


def _is_new(arguments: str) -> bool:
    """Whether the file of this descriptor is the new one, which has not got its name yet."""
    return ".authorized_keys.kps" in arguments.partition(">")[0]


@pytest.mark.hazard("S10")
@pytest.mark.parametrize("whose", ["None", "zoe"])
@pytest.mark.parametrize("exists", [True, False])
def test_no_other_name_that_an_include_would_take_up_is_ever_there(place, child, whose, exists):
    """sshd_config(5), Include: *.conf, and no name that begins with a dot. One that is half written would be read."""
    path = f"{place.home}/50-ours.conf"
    if exists:
        place.put(path, "before\n", 0o640)
    calls = child.calls(f"files.replace(home + '/50-ours.conf', {whose}, {'before' + chr(10) if exists else None!r}, 'after')")
    made = [
        name
        for call in calls
        if (call.name == "openat" and "O_CREAT" in call.arguments) or call.name in NAMES
        for name in re.findall(r'"([^"]*)"', call.arguments)
    ]
    assert len(made) >= 3
    others = {name.rpartition("/")[2] for name in made} - {"50-ours.conf"}
    assert others
    assert all(name.startswith(".") and not name.endswith(".conf") for name in others)


# Nothing of this machine's is touched: what runs at its boot lies in the home, and nobody watches.
ARMING = """from kpsagent import arming
arming.BOOT_UNIT = arming.BOOT_LINK = arming.BOOT_SCRIPT = "/nowhere/undo"
arming.BOOT_CRON = home + "/cron.d/undo"
arming.detached = lambda command: None
os.path.isdir = lambda path, really=os.path.isdir: path != "/run/systemd/system" and really(path)
os.mkdir(home + "/cron.d")
here.bundle = b"agent"
"""
NEW_FILE = ["fsync:new", "rename", "fsync:state"]


ANSWERED = [
    ("here.do(host.WriteJournal({}))", "", NEW_FILE),
    ("here.do(host.WriteState({}))", "", NEW_FILE),
    ("here.do(host.WriteNonce())", "", NEW_FILE),
    (
        "here.do(host.Arm(0))",
        ARMING,
        ["write", "fsync:agent", "fsync:state", "openat", "write", "fsync:undo", "fsync:cron.d"],
    ),
    ("here.do(host.Disarm())", f"{ARMING}here.do(host.Arm(0))", ["unlink", "fsync:cron.d", "unlink", "fsync:state"]),
    ("here.do(host.MoveJournal('confirmed'))", "here.do(host.WriteJournal({}))", ["rename", "fsync:state"]),
    ("here.do(host.DropJournal())", "here.do(host.WriteJournal({}))", ["unlink", "fsync:state"]),
    ("here.do(host.MakeDirectory(path, zoe))", "", ["mkdirat", "fsync:home"]),
    ("here.do(host.RemoveDirectory(path, zoe))", "os.mkdir(path); os.chown(path, uid, gid)", ["unlinkat", "fsync:home"]),
    ("here.do(host.Delete(path, zoe, ''))", "open(path, 'w').close()", ["unlinkat", "fsync:home"]),
    (
        "here.do(host.SetMode(path, zoe, 0o640, 0o600))",
        "open(path, 'w').close(); os.chmod(path, 0o640); os.chown(path, uid, gid)",
        ["fchmod", "fsync:authorized_keys"],
    ),
]


@pytest.mark.parametrize(
    ("act", "before", "last"), ANSWERED, ids=[act.partition(".do(host.")[2].partition("(")[0] for act, _, _ in ANSWERED]
)
def test_what_is_answered_outlives_a_power_failure(child, act, before, last):
    calls = [call for call in child.calls(act, before) if call.changes]
    said = [f"fsync:{_name(call.arguments)}" if call.name == "fsync" else call.name for call in calls]
    # A name that was not there to be taken away changes nothing.
    said = [name for name, call in zip(said, calls, strict=True) if not call.result.startswith("-1 ENOENT")]
    assert said[-len(last) :] == last


def _name(arguments: str) -> str:
    """The last name of the file in `3</tmp/a/b>`, without the number that makes it unique."""
    return arguments.partition("<")[2].rpartition(">")[0].rpartition("/")[2].partition("-")[0]


@pytest.mark.hazard("S9")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_replace_that_is_killed_at_any_system_call_leaves_old_or_new_and_only_what_a_sweep_takes(place, path, child, variant):
    act, exists = VARIANTS[variant]
    prepare(place, path, exists)
    calls = [call for call in child.calls(act) if call.changes and call.known]
    assert len(calls) >= 5
    old = ("file", "before\n", 0o640, place.account.uid) if exists else None
    new = ("file", "after\n", 0o640 if exists else 0o600, place.account.uid)
    seen = set()
    for call in calls:
        prepare(place, path, exists)
        child.killed_at(act, call)
        assert place.look(path) in (old, new), call
        seen.add(place.look(path))
        place.host().do(Sweep(path, None if variant == "roots" else place.account))
        assert place.names(place.home) == (["authorized_keys"] if place.look(path) else []), call
        if place.look(path):
            assert os.stat(path).st_nlink == 1
            assert os.stat(path).st_gid == place.account.gid
    assert seen == {old, new}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("error", ["ENOSPC", "EIO", "EDQUOT"])
def test_a_replace_in_which_any_system_call_fails_leaves_old_or_new_and_nothing_else(place, path, child, variant, error):
    act, exists = VARIANTS[variant]
    prepare(place, path, exists)
    calls = [call for call in child.calls(act) if call.changes and call.known and not call.name.startswith("unlink")]
    for call in calls:
        prepare(place, path, exists)
        assert child.failed_at(act, call, error) == 1, call
        answered = place.look(path)
        shown = call == calls[-1]  # the directory's fsync: the new name stands, and nobody knows for how long
        assert (answered[1] if answered else None) == ("after\n" if shown else "before\n" if exists else None), call
        assert place.names(place.home) == (["authorized_keys"] if answered else []), call


@pytest.mark.parametrize(
    ("root", "ways", "told"), [(True, ["cron at boot"], []), (True, [], ["boot"]), (False, [], ["without root"])]
)
def test_what_would_not_be_undone_is_told(host, monkeypatch, root, ways, told):
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(arming, "boot_ways", lambda: ways)
    said = host.do(Limits())
    assert len(said) == len(told)
    assert all(word in sentence for word, sentence in zip(told, said, strict=True))


def test_our_own_directory_is_refused_where_somebody_else_made_it(place):
    os.mkdir(place.state)
    os.chown(place.state, place.account.uid, -1)
    with pytest.raises(Refused) as refused:
        place.host().do(Lock(True))
    assert refused.value.cause == "path_unsafe"
