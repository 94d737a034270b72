"""Who recovers when nobody asks for it: the watcher at the deadline, and the boot. Real processes on real files."""

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kpsagent.host import Lock, MoveJournal, ReadJournal, ReadState, WriteJournal
from kpsagent.local import LocalHost, boot_clock

ROOT = Path(__file__).parents[2]
CODE = "import sys; from kpsagent.__main__ import main; main(sys.argv[1:])"
LONG = 3600.0


class Change:
    """A file that was changed and not confirmed, and the journal that says so."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "keys"
        self.state = directory / "state"
        self.file.write_text("after\n")

    def host(self) -> LocalHost:
        return LocalHost(str(self.state))

    def journal(self, left: float, name: str = "armed") -> None:
        """Write the journal as it is with this many seconds left, and let the lock go, as a killed agent does."""
        now, boot = boot_clock()
        steps = [["keys", str(self.file), None, "before\n", "after\n"]]
        host = self.host()
        host.do(Lock(True))
        host.do(
            WriteJournal(
                {
                    "operation": "op-1",
                    "generation": 1,
                    "login": "root",
                    "deadline": now + left,
                    "boot": boot,
                    "connection": None,
                    "daemon": ["none", 0, "", [], "/nowhere", ""],
                    "steps": steps,
                }
            )
        )
        if name != "armed":
            host.do(MoveJournal(name))
        host.close()

    def start(self, verb: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", CODE, verb, str(self.state)], cwd=ROOT)

    def run(self, verb: str) -> None:
        assert ended(self.start(verb)) == 0

    def is_undone(self) -> bool:
        state: Any = self.host().do(ReadState())
        assert state in ({}, {"operation": "op-1", "generation": 1, "result": "reverted"})
        undone = bool(state)
        assert self.file.read_text() == ("before\n" if undone else "after\n")
        return undone


def ended(process: "subprocess.Popen[bytes]", seconds: float = 20) -> int:
    """The exit code of a process, once it has ended; it is given this long."""
    watched = os.pidfd_open(process.pid)
    try:
        assert select.select([watched], [], [], seconds)[0], "it does not end"
    finally:
        os.close(watched)
        process.kill()
    return process.wait()


@pytest.fixture
def change(tmp_path):
    return Change(tmp_path)


def test_a_watcher_undoes_what_is_not_confirmed_at_the_deadline(change):
    change.journal(-1)
    change.run("watch")
    assert change.is_undone()


def test_a_watcher_does_nothing_before_the_deadline(change):
    change.journal(1.5)
    until = boot_clock()[0] + 1.5
    change.run("watch")
    assert boot_clock()[0] >= until - 0.1
    assert change.is_undone()


@pytest.mark.parametrize("left", [-1, LONG])
def test_a_watcher_leaves_what_is_confirmed(change, left):
    change.journal(left, "confirmed")
    change.run("watch")
    assert not change.is_undone()


def test_a_watcher_ends_when_the_change_is_confirmed(change):
    change.journal(LONG)
    watcher = change.start("watch")
    assert change.host().do(MoveJournal("confirmed"))
    assert ended(watcher) == 0
    assert not change.is_undone()


def test_a_watcher_goes_on_where_somebody_died_undoing(change):
    change.journal(-1, "reverting")
    change.run("watch")
    assert change.is_undone()


def test_a_watcher_does_not_leave_while_somebody_undoes_and_may_die_of_it(change):
    change.journal(1.5)
    watcher = change.start("watch")
    assert change.host().do(MoveJournal("reverting"))
    assert ended(watcher) == 0
    assert change.is_undone()


@pytest.mark.parametrize("name", ["armed", "reverting"])
def test_a_boot_undoes_at_once_whatever_the_deadline_was(change, name):
    change.journal(LONG, name)
    change.run("boot")
    assert change.is_undone()


def test_a_boot_finishes_what_was_confirmed(change):
    change.journal(LONG, "confirmed")
    change.run("boot")
    assert change.file.read_text() == "after\n"
    assert change.host().do(ReadState())["result"] == "succeeded"
    assert change.host().do(ReadJournal()) is None


def test_a_boot_of_a_server_with_nothing_to_undo_leaves_nothing(change):
    change.run("boot")
    assert not change.state.exists()


def test_two_watchers_at_once_undo_once(change):
    change.journal(-1)
    watchers = [change.start("watch") for _ in range(4)]
    assert [ended(watcher) for watcher in watchers] == [0] * 4
    assert change.is_undone()
