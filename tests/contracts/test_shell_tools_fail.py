"""The shell program where a tool of the server's fails: it is told by its name, and nothing is taken for done that is not."""

import errno
import os
import socket
import subprocess
from pathlib import Path

import pytest

from kpsagent import local
from kpsagent.host import Arm, AskSshd, Daemon, Lock, MoveJournal, Replace, WriteJournal, WriteNonce
from tests.contracts.shell_places import ShellPlace, shell_place, with_program
from tests.contracts.test_shell import THEIRS, Work, left, state
from tests.needs import lacking

AGENT = Path(local.__file__).with_name("shell") / "agent.sh"
_NO_PROGRAM = Daemon("listener", 0, "/bin/echo", [], "/etc/ssh/sshd_config", "")


@pytest.fixture(autouse=True)
def _root():
    if os.geteuid() != 0:
        lacking("root: another login's files")


@pytest.fixture
def bare():
    """A root directory of its own, where any tool can be another: BusyBox's shell would do without them."""
    with shell_place("busybox") as made:
        with_program(made.root, "dash", "sh")
        yield made


def fail(place: ShellPlace, tool: str, where: str, what: str) -> Path:
    """Have the tool fail, as it does of this error, where its last argument ends so; until the file returned is gone."""
    broken = place.root / "tmp/broken"
    broken.write_text("")
    there = place.root / "bin" / tool
    there.unlink()
    there.write_text(
        "#!/bin/sh\nfor last; do :; done\n"
        f'case $last in *{where}) [ ! -e /tmp/broken ] || {{ echo "{tool}: $last: {what}" >&2; exit 1; }} ;; esac\n'
        f'exec /bin/busybox {tool} "$@"\n'
    )
    there.chmod(0o755)
    return broken


DISK = "Input/output error"


def test_what_could_not_be_made_durable_is_no_success(bare):
    work = Work(bare)
    work.host.do(Lock(True))
    fail(bare, "sync", "", DISK)
    with pytest.raises(OSError, match=DISK) as told:
        work.host.do(Replace(work.removed, bare.account, bare.look(work.removed)[1], THEIRS))
    assert told.value.errno == errno.EIO


@pytest.mark.parametrize(("tool", "where"), [("sync", "state"), ("mv", "journal.armed"), ("chmod", "/new-*")])
def test_a_journal_that_does_not_stand_is_told_by_the_error(bare, tool, where):
    work = Work(bare)
    work.do(0)
    broken = fail(bare, tool, where, "No space left on device")
    with pytest.raises(OSError, match="No space left") as told:
        work.host.do(WriteJournal(work.journal))
    assert told.value.errno == errno.ENOSPC
    broken.unlink()
    work.host.end_rope()
    assert left(bare) == []


def test_a_commit_that_failed_is_not_taken_for_one_that_came_too_late(bare):
    work = Work(bare)
    work.do(5)
    broken = fail(bare, "mv", "journal.confirmed", "Read-only file system")
    with pytest.raises(OSError, match="Read-only") as told:
        work.host.do(MoveJournal("confirmed"))
    assert told.value.errno == errno.EROFS
    broken.unlink()
    assert work.host.do(MoveJournal("confirmed")) is True
    assert work.host.do(MoveJournal("confirmed")) is False


def test_an_undo_that_was_not_put_in_place_is_told(bare):
    host = bare.host()
    host.do(Lock(True))
    fail(bare, "chmod", "/agent", "Disk quota exceeded")
    with pytest.raises(OSError, match="quota") as told:
        host.do(Arm(1e9))
    assert told.value.errno == errno.EDQUOT


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_half_of_what_sshd_says_is_not_gone_by(shell):
    with shell_place(shell) as place:
        host = place.host(seconds=10)  # who reads what is written there, /dev/full, finds no end
        host.do(Lock(True))
        whole = host.do(AskSshd(_NO_PROGRAM, ["passwordauthentication no"], None))
        assert (whole.code, whole.out) == (0, "passwordauthentication no\n")
        (place.root / f"{place.state}/new-out".lstrip("/")).symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left") as told:
            host.do(AskSshd(_NO_PROGRAM, ["passwordauthentication no"], None))
        assert told.value.errno == errno.ENOSPC


def test_a_nonce_that_was_not_written_whole_is_told(bare):
    host = bare.host()
    host.do(Lock(True))
    fail(bare, "cat", "", "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        host.do(WriteNonce())
    assert left(bare) == []


def test_a_copy_that_cannot_be_taken_away_is_no_success(bare):
    work = Work(bare)
    work.host.do(Lock(True))
    broken = fail(bare, "rm", ".want", DISK)
    with pytest.raises(OSError, match=DISK):
        work.host.do(Replace(work.removed, bare.account, bare.look(work.removed)[1], THEIRS))
    broken.unlink()


@pytest.mark.parametrize("tool", ["awk", "cat"])
def test_an_undo_that_cannot_be_written_whole_leaves_what_others_wrote(bare, tool):
    work = Work(bare)
    work.do(5)
    edited = "somebody's\n" + THEIRS + "and somebody else's\n"
    bare.put(work.removed, edited)
    fail(bare, tool, "", "No space left on device")
    work.host.end_rope()
    assert bare.look(work.removed)[1] == edited


def dies(place: ShellPlace, tool: str, at: int) -> Path:
    """Have the tool killed at its so manyth call from now on. The file returned has a line for each call."""
    calls = place.root / "tmp/calls"
    there = place.root / "bin" / tool
    there.unlink()
    there.write_text(
        "#!/bin/sh\n"
        f"if [ -e /tmp/calls ]; then echo >>/tmp/calls; if [ $(wc -l </tmp/calls) = {at} ]; then kill -9 $$; fi; fi\n"
        f'exec /bin/busybox {tool} "$@"\n'
    )
    there.chmod(0o755)
    calls.write_text("")
    return calls


@pytest.mark.parametrize("at", range(1, 13))
def test_whoever_reads_the_journal_may_be_killed_and_all_is_undone(bare, at):
    work = Work(bare)
    work.do(5)
    calls = dies(bare, "sed", at)
    work.host.end_rope()
    assert len(calls.read_text()) >= at
    assert work.look() == work.before
    assert left(bare) == []
    assert "reverted" in state(bare)


def test_an_sshd_that_was_not_found_is_not_taken_for_reloaded(tmp_path):
    """What looks for it is killed, once."""
    with socket.create_server(("127.0.0.1", 0)) as listens:
        port = listens.getsockname()[1]
        journal = tmp_path / "journal.reverting"
        journal.write_text(f'"sshd {port:04X} 0100007F {local._which_boot()} = /bin/true"\n')
        program = (
            f'. {AGENT}\nawk() {{ if [ -e {tmp_path}/once ]; then rm {tmp_path}/once; return 137; fi; command awk "$@"; }}\n'
            f"journal={journal}\nreload_after_undo && echo reloaded || echo not"
        )
        (tmp_path / "once").write_text("")
        said = subprocess.run(["sh", "-c", program, "sh", "none"], capture_output=True, text=True, timeout=60)
    assert said.stdout == "not\n", said.stderr
