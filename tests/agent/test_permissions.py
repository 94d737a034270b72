"""StrictModes, state by state: what keeps sshd from using a path is named, and a real sshd agrees."""

import grp
import os
import pwd
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hostile_keys
import judge
import pytest

from kpsagent.permissions import Component, Violation, check

UID, GID = 1000, 1000
KEY = hostile_keys.public_key(random.Random(5), "ssh-ed25519")


def part(
    path: str, mode: int = 0o755, kind: str = "directory", uid: int = UID, gid: int = GID, nlink: int = 2, private: bool = True
):
    return Component(path, kind, mode, uid, gid, nlink, private)


HOME, SSH = part("/home/al"), part("/home/al/.ssh", 0o700)
FILE = part("/home/al/.ssh/authorized_keys", 0o600, "file", nlink=1)


def test_an_ordinary_path_is_fine() -> None:
    assert check([HOME, SSH, FILE], UID) == []
    assert check([HOME, SSH, FILE._replace(mode=0o444, uid=0, gid=0, private_group=False)], UID) == []
    assert check([HOME, SSH._replace(kind="missing"), FILE._replace(kind="missing")], UID) == []
    assert check([], UID) == []


def test_a_component_is_named_with_what_it_is_and_must_be() -> None:
    assert check([HOME, SSH._replace(mode=0o775, private_group=False), FILE], UID) == [
        Violation("/home/al/.ssh", "mode 0775", "not writable by group", False, False, (0o775, 0o755))
    ]
    assert check([HOME._replace(mode=0o1777), SSH, FILE], UID) == [
        Violation("/home/al", "mode 1777", "not writable by group or others", False, False, None)
    ]
    assert check([HOME, SSH, FILE._replace(uid=2, mode=0o644)], UID) == [
        Violation(FILE.path, "owner uid 2", "owned by uid 1000 or root", False, False, None)
    ]


def test_what_only_debian_lets_pass_is_doubtful() -> None:
    (wrong,) = check([HOME, SSH, FILE._replace(mode=0o660)], UID)
    assert (wrong.doubtful, wrong.repair) == (True, (0o660, 0o640))
    (wrong,) = check([HOME, SSH, FILE._replace(mode=0o662)], UID)
    assert (wrong.doubtful, wrong.wanted) == (False, "not writable by group or others")


@pytest.mark.parametrize("kind", ["link", "fifo", "device", "socket", "directory"])
def test_a_thing_that_is_no_file_is_unsafe(kind: str) -> None:
    (wrong,) = check([HOME, SSH, FILE._replace(kind=kind, mode=0o777, uid=7)], UID)
    assert (wrong.path, wrong.unsafe, wrong.wanted) == (FILE.path, True, "a regular file")


def test_a_file_on_the_way_is_unsafe() -> None:
    (wrong,) = check([HOME, SSH._replace(kind="file"), FILE], UID)
    assert (wrong.path, wrong.unsafe, wrong.found, wrong.wanted) == (SSH.path, True, "a file", "a directory")


def test_a_file_with_two_names_is_unsafe() -> None:
    (wrong,) = check([HOME, SSH, FILE._replace(nlink=2)], UID)
    assert (wrong.unsafe, wrong.found) == (True, "a file with 2 names (hard links)")


def test_only_the_file_and_its_directory_are_ours_to_mend() -> None:
    components = [part("/"), part("/srv", 0o777, uid=0), part("/srv/keys", 0o777, uid=0), FILE._replace(mode=0o666)]
    assert [wrong.repair for wrong in check(components, UID)] == [None, (0o777, 0o755), (0o666, 0o644)]
    assert [wrong.repair for wrong in check([HOME._replace(mode=0o777), FILE], UID)] == [None]


def test_what_the_login_cannot_read_is_named() -> None:
    (wrong,) = check([HOME, SSH, FILE._replace(uid=0, gid=0, private_group=False)], UID)
    assert (wrong.found, wrong.wanted, wrong.doubtful) == ("mode 0600 of uid 0 and gid 0", "readable by the login itself", False)
    (wrong,) = check([HOME, SSH._replace(uid=0, gid=0, private_group=False), FILE], UID)
    assert wrong.wanted == "open to the login itself (x)"
    (wrong,) = check([HOME, SSH, FILE._replace(uid=0, mode=0o640, private_group=False)], UID)
    assert wrong.doubtful
    assert check([HOME, SSH, FILE._replace(uid=0, mode=0o640)], UID) == []


def test_root_reads_everything() -> None:
    assert check([part("/root", uid=0), FILE._replace(uid=0, mode=0)], 0) == []
    assert check([part("/root", uid=0), FILE], 0)[0].wanted == "owned by root"


# -- a real sshd -------------------------------------------------------------------------------------------------------

# File, directory and the directory above: (mode, owner, group), where "me" is the login and its own group.
FINE = (0o755, "me", "me")
STATES = [
    ("0600", (0o600, "me", "me"), (0o700, "me", "me"), FINE),
    ("0644", (0o644, "me", "me"), FINE, FINE),
    ("0400", (0o400, "me", "me"), FINE, FINE),
    ("0755", (0o755, "me", "me"), FINE, FINE),
    ("root's, readable", (0o644, "root", "root"), FINE, FINE),
    ("root's, for the group", (0o640, "root", "me"), FINE, FINE),
    ("root's 0600", (0o600, "root", "root"), FINE, FINE),
    ("0000", (0o000, "me", "me"), FINE, FINE),
    ("a third owner", (0o644, "bin", "me"), FINE, FINE),
    ("0666", (0o666, "me", "me"), FINE, FINE),
    ("0602", (0o602, "me", "me"), FINE, FINE),
    ("0660, own group", (0o660, "me", "me"), FINE, FINE),
    ("0620, own group", (0o620, "me", "me"), FINE, FINE),
    ("0660, another group", (0o660, "me", "users"), FINE, FINE),
    ("0660, root's group", (0o660, "me", "root"), FINE, FINE),
    ("directory 0777", (0o600, "me", "me"), (0o777, "me", "me"), FINE),
    ("directory 1777", (0o600, "me", "me"), (0o1777, "me", "me"), FINE),
    ("directory 0775, own group", (0o600, "me", "me"), (0o775, "me", "me"), FINE),
    ("directory 0775, another group", (0o600, "me", "me"), (0o775, "me", "users"), FINE),
    ("directory 2775, own group", (0o600, "me", "me"), (0o2775, "me", "me"), FINE),
    ("directory of a third", (0o600, "me", "me"), (0o755, "bin", "me"), FINE),
    ("root's directory 0700", (0o644, "me", "me"), (0o700, "root", "root"), FINE),
    ("root's directory 0711", (0o644, "me", "me"), (0o711, "root", "root"), FINE),
    ("own directory without x", (0o644, "me", "me"), (0o600, "me", "me"), FINE),
    ("above 0777", (0o600, "me", "me"), FINE, (0o777, "me", "me")),
    ("above 0770, own group", (0o600, "me", "me"), FINE, (0o770, "me", "me")),
    ("above 0775, another group", (0o600, "me", "me"), FINE, (0o775, "root", "users")),
    ("above of a third", (0o600, "me", "me"), FINE, (0o755, "bin", "bin")),
]


@pytest.fixture(scope="module")
def account() -> pwd.struct_passwd:
    """A login that is there anyway, with a group of its own and a password that is not locked by '!'."""
    for each in pwd.getpwall():
        group = grp.getgrgid(each.pw_gid)
        others = [other for other in pwd.getpwall() if other.pw_gid == each.pw_gid and other != each]
        if each.pw_name in ("games", "man", "lp", "news", "uucp") and not others and not group.gr_mem:
            return each
    pytest.fail("none of Debian's standard logins is here")


@pytest.fixture(scope="module")
def logins(account: pwd.struct_passwd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[judge.Logins]:
    judge.need(judge.SSHD, judge.KEYGEN)
    above = Path(tempfile.mkdtemp(dir="/run", prefix="kps-test-"))  # not in /tmp: that is writable by all
    (above / "keys").mkdir()
    logins = judge.Logins(tmp_path_factory.mktemp("logins"), above / "keys/authorized_keys", account.pw_name, "StrictModes yes")
    yield logins
    logins.close()
    shutil.rmtree(above)


def components(path: Path, account: pwd.struct_passwd) -> list[Component]:
    found = []
    for each in [*reversed(path.parents), path]:
        stat = each.stat()
        found.append(
            Component(
                str(each),
                "file" if each == path else "directory",
                stat.st_mode & 0o7777,
                stat.st_uid,
                stat.st_gid,
                stat.st_nlink,
                stat.st_gid == account.pw_gid,
            )
        )
    return found


@pytest.mark.parametrize(("name", "file", "directory", "above"), [pytest.param(*state, id=state[0]) for state in STATES])
def test_a_real_sshd_uses_a_path_where_we_find_nothing_wrong(
    name: str,
    file: tuple[int, str, str],
    directory: tuple[int, str, str],
    above: tuple[int, str, str],
    account: pwd.struct_passwd,
    logins: judge.Logins,
) -> None:
    path = logins.path
    path.write_text(KEY.line)
    for each, (mode, owner, group) in ((path, file), (path.parent, directory), (path.parent.parent, above)):
        uid = account.pw_uid if owner == "me" else pwd.getpwnam(owner).pw_uid
        gid = account.pw_gid if group == "me" else grp.getgrnam(group).gr_gid
        os.chown(each, uid, gid)
        os.chmod(each, mode)
    wrong = check(components(path, account), account.pw_uid)
    (accepted,) = logins.verdicts([(KEY.line, KEY.blob)])
    if not wrong:
        assert accepted
    elif all(each.doubtful for each in wrong):
        assert accepted  # this is Debian's sshd
    else:
        assert not accepted
