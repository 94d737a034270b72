"""SELinux labels without a kernel that has SELinux: the attribute is real, and the policy's tool is a script in its place.

That a kernel obeys them is not tried here.
"""

import os
import stat

import pytest

from kpsagent import labels, local
from kpsagent.errors import Changed, Refused
from kpsagent.host import Lock, Mislabelled, SetLabel
from tests.contracts.places import local_place
from tests.contracts.shell_places import shell_place
from tests.needs import lacking

WRONG, RIGHT = "unconfined_u:object_r:user_home_t:s0", "unconfined_u:object_r:ssh_home_t:s0"
# In the words of policycoreutils 3.4, seen of its setfiles, which is the same program.
RESTORECON = f"""#!/bin/sh
echo "$(id -u) $*" >>"${{0%/*}}/asked"
shift 2
for each; do echo "Would relabel $each from {WRONG} to {RIGHT}"; done
"""


@pytest.fixture(autouse=True)
def _root():
    if os.geteuid() != 0:
        lacking("root: another login's files, attributes")


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
    path = f"{place.home}/authorized_keys"
    place.put(path, "# none\n", 0o600)
    give(path, WRONG)
    return path


def give(path, label):
    try:
        os.setxattr(path, "security.selinux", label.encode() + b"\0")
    except OSError:
        lacking("a file system with security attributes")


def label(path):
    return os.getxattr(path, "security.selinux")


@pytest.mark.parametrize("enforce", ["1", "0", ""])
@pytest.mark.parametrize("kind", ["local", "dash", "busybox"])
def test_the_policy_s_tool_is_asked_and_changes_nothing_where_selinux_denies(monkeypatch, kind, enforce):
    with local_place() if kind == "local" else shell_place(kind) as place:
        paths = [place.home, f"{place.home}/authorized_keys"]
        for path, text, mode in ((paths[1], "", 0o600), (f"{place.home}/enforce", enforce, 0o644)):
            place.put(path, text, mode)
        place.put(f"{place.home}/restorecon", RESTORECON, 0o755)
        for module, names in ((labels, ("ENFORCE", "RESTORECON")), (local, ("SELINUX", "RESTORECON"))):
            monkeypatch.setattr(module, names[0], f"{place.home}/enforce")
            monkeypatch.setattr(module, names[1], ("/not/there", f"{place.home}/restorecon"))
        host = place.host()
        host.do(Lock(True))
        said = host.do(Mislabelled(paths, place.account))
        host.close()
        asked = place.look(f"{place.home}/asked")
        if enforce == "1":
            assert said == [(paths[0], WRONG, RIGHT), (paths[1], WRONG, RIGHT)]
            assert asked[1] == f"{place.account.uid if kind == 'local' else 0} -n -v {' '.join(paths)}\n"
        else:
            assert (said, asked) == ([], None)


def test_a_label_is_changed_only_from_the_one_expected(host, place, path):
    host.do(SetLabel(path, place.account, WRONG, RIGHT))
    assert label(path) == RIGHT.encode() + b"\0"
    with pytest.raises(Changed):
        host.do(SetLabel(path, place.account, WRONG, RIGHT))
    host.do(SetLabel(path, place.account, RIGHT, WRONG))
    assert label(path) == WRONG.encode() + b"\0"
    give(place.home, WRONG)
    host.do(SetLabel(place.home, place.account, WRONG, RIGHT))
    assert label(place.home) == RIGHT.encode() + b"\0"


def test_what_is_gone_or_has_no_label_is_not_as_expected(host, place, path):
    for gone in (f"{path}2", f"{path}/below"):
        with pytest.raises((Changed, NotADirectoryError)):
            host.do(SetLabel(gone, place.account, WRONG, RIGHT))
    os.removexattr(path, "security.selinux")
    with pytest.raises(Changed):
        host.do(SetLabel(path, place.account, WRONG, RIGHT))


@pytest.mark.parametrize("how", ["of-root", "two-names", "a-link", "a-pipe"])
def test_what_is_not_the_login_s_alone_keeps_its_label(host, place, path, how):
    other = f"{place.directory}/shadow"
    if how == "of-root":
        os.chown(path, 0, 0)
        os.chmod(path, 0o644)
    elif how == "two-names":
        os.link(path, other)
    else:
        os.rename(path, other)
        os.symlink(other, path) if how == "a-link" else os.mkfifo(path)
    with pytest.raises((Refused, OSError)):
        host.do(SetLabel(path, place.account, WRONG, RIGHT))
    kept = path if how == "of-root" else other
    assert stat.S_ISREG(os.lstat(kept).st_mode)
    assert label(kept) == WRONG.encode() + b"\0"


def test_both_wordings_of_the_tool_are_known():
    said = f"""Would relabel /h/.ssh from {WRONG} to {RIGHT}
restorecon reset /h/.ssh/keys context {WRONG}->{RIGHT}:c0.c1023
Would relabel /h/none from (null) to {RIGHT}
Would relabel /h/.ssh/keys2 from {WRONG} to the moon
Would relabel /h/.ssh/keys2 from {WRONG} to u:object_r:caf\xe9_t:s0
restorecon: something else about /h/other
"""
    asked = ["/h/.ssh", "/h/.ssh/keys", "/h/none", "/h/.ssh/keys2", "/h/other", "/h"]
    assert labels.wrong(said, asked) == [("/h/.ssh", WRONG, RIGHT), ("/h/.ssh/keys", WRONG, f"{RIGHT}:c0.c1023")]


def test_no_name_of_a_file_is_taken_for_a_label():
    path = f"/h/x from {WRONG} to a:b:shadow_t:s0"
    assert labels.wrong(f"Would relabel {path} from {WRONG} to {RIGHT}\n", [path]) == [(path, WRONG, RIGHT)]
    assert labels.wrong(f"Would relabel {path} from {WRONG} to {RIGHT}\n", ["/h/x"]) == []
