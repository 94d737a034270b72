"""Who recovers when nobody asks for it: the watcher at the deadline, and the boot. Real processes on real files."""

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kpsagent import __main__ as agent_main
from kpsagent import local
from kpsagent.errors import Refused, Stop
from kpsagent.host import DropJournal, Lock, MoveJournal, ReadJournal, ReadState, WriteJournal, WriteNonce, WriteState
from kpsagent.local import LocalHost, boot_clock, standing
from kpsagent.transaction import drive
from kpsagent.undo import unattended

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

    def watcher(self) -> LocalHost:
        """What a watcher that was started by now acts on the machine by."""
        return LocalHost(str(self.state), only=standing(str(self.state)))

    def journal(self, left: float, name: str = "armed", number: int = 1, ground: "list[object] | None" = None) -> None:
        """Write the journal as it is with this many seconds left, and let the lock go, as a killed agent does."""
        host = self.host()
        host.do(Lock(True))
        self.journal_by(host, left, number, ground)
        if name != "armed":
            host.do(MoveJournal(name))
        host.close()

    def journal_by(self, host: LocalHost, left: float, number: int = 1, ground: "list[object] | None" = None) -> None:
        """ground: what the file stands on, if it is a login's and not root's own."""
        now, boot = boot_clock()
        host.do(
            WriteJournal(
                {
                    "operation": f"op-{number}",
                    "generation": number,
                    "login": "root",
                    "deadline": now + left,
                    "boot": boot,
                    "connection": None,
                    "daemon": ["none", 0, "", [], "/nowhere", ""],
                    "widening": 1,
                    "grounds": {} if ground is None else {str(self.file): ground},
                    "steps": [["keys", str(self.file), "root" if ground else None, "before\n", "after\n"]],
                }
            )
        )

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
    begun = boot_clock()[0]  # before the journal says until when, which a slow disk takes its time to write
    change.journal(1.5)
    change.run("watch")
    assert boot_clock()[0] >= begun + 1.5
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


def test_a_watcher_takes_away_what_an_agent_left_that_died_after_its_commit(change, monkeypatch):
    change.journal(LONG)
    agent = change.host()
    agent.do(Lock(True))
    looked = []

    def pass_time(seconds):
        looked.append(change.host().do(ReadState()))
        if len(looked) == 1:
            assert agent.do(MoveJournal("confirmed"))
        if len(looked) == 4:
            agent.close()  # as it dies

    monkeypatch.setattr(agent_main.time, "sleep", pass_time)
    agent_main.watch(str(change.state))
    assert looked == [{}, {}, {}, {}]
    assert change.host().do(ReadState()) == {"operation": "op-1", "generation": 1, "result": "succeeded"}
    assert change.host().do(ReadJournal()) is None
    assert change.file.read_text() == "after\n"


def test_a_watcher_takes_away_what_an_agent_had_armed_that_died_before_it_did_so(change, monkeypatch):
    change.journal(LONG)
    armed = change.state / "agent"
    armed.write_text("the agent")

    def pass_time(seconds):
        if standing(str(change.state)) is not None:
            host = change.host()
            host.do(Lock(True))
            host.do(MoveJournal("confirmed"))
            host.do(DropJournal())
            host.close()

    monkeypatch.setattr(agent_main.time, "sleep", pass_time)
    agent_main.watch(str(change.state))
    assert not armed.exists()


def test_a_watcher_leaves_the_next_operation_alone_when_its_own_was_confirmed(change, monkeypatch):
    change.journal(LONG)
    agent = change.host()
    agent.do(Lock(True))

    def pass_time(seconds):
        if change.host().do(ReadState()) == {}:
            agent.do(MoveJournal("confirmed"))
            agent.do(WriteState({"operation": "op-1", "generation": 1, "result": "succeeded"}))
            agent.do(DropJournal())
            change.journal_by(agent, LONG, 2)
            agent.do(MoveJournal("confirmed"))
            agent.close()

    monkeypatch.setattr(agent_main.time, "sleep", pass_time)
    agent_main.watch(str(change.state))
    assert standing(str(change.state))["operation"] == "op-2"


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


def test_a_boot_waits_for_one_try_and_goes_on_until_the_directory_is_mounted(tmp_path):
    there, away = tmp_path / "there", tmp_path / "away"
    there.mkdir()
    change = Change(there)
    change.state = tmp_path / "state"
    change.journal(LONG, ground=[str(there), there.stat().st_ino])
    there.rename(away)
    change.run("boot")
    assert change.host().do(ReadState()) == {}
    away.rename(there)
    for _ in range(2000):
        if change.host().do(ReadState()):
            assert change.is_undone()
            return
        select.select([], [], [], 0.01)
    pytest.fail("nobody has gone on trying")


def test_two_watchers_at_once_undo_once(change):
    change.journal(-1)
    watchers = [change.start("watch") for _ in range(4)]
    assert [ended(watcher) for watcher in watchers] == [0] * 4
    assert change.is_undone()


# -- beside others


def test_a_watcher_ends_where_the_next_operation_has_begun(change):
    change.journal(LONG)
    watcher = change.start("watch")
    awaits_its_deadline(watcher)
    change.host().do(DropJournal())
    change.journal(-1, number=2)
    assert ended(watcher) == 0
    assert not change.is_undone()
    assert standing(str(change.state))["operation"] == "op-2"


def awaits_its_deadline(process: "subprocess.Popen[bytes]") -> None:
    """Return when the watcher has read its journal and sleeps."""
    for _ in range(2000):
        if "nanosleep" in Path(f"/proc/{process.pid}/wchan").read_text():
            return
        select.select([], [], [], 0.01)
    pytest.fail("it does not come to wait")


@pytest.fixture
def holder(change, monkeypatch):
    """An agent that has lost its operation, and still holds the lock."""
    monkeypatch.setattr(local, "PATIENCE_SECONDS", 0)
    holder = change.host()
    holder.do(Lock(True))
    change.journal_by(holder, -1)
    yield holder
    holder.close()


def test_beside_an_agent_that_holds_the_lock_a_watcher_undoes_and_leaves_the_tidying(change, holder):
    with pytest.raises(Refused) as refused:
        drive(unattended(), change.watcher())
    assert refused.value.cause == "busy"
    assert change.file.read_text() == "before\n"
    assert change.host().do(ReadJournal())[0] == "reverting"
    assert change.host().do(ReadState()) == {}
    holder.close()
    host = change.watcher()
    drive(unattended(), host)
    host.close()
    assert change.is_undone()


@pytest.mark.parametrize("done", range(7))
def test_a_watcher_that_wakes_up_in_the_next_operation_changes_nothing_of_it(change, holder, done):
    """It got in beside the agent that held the lock, did so many effects, and was held up; that agent ended, the next began."""
    watcher, play = change.watcher(), unattended()
    effect = play.send(None)
    for _ in range(done):
        effect = play.send(watcher.do(effect))
    holder.do(MoveJournal("reverting"))
    holder.do(DropJournal())
    holder.close()
    change.file.write_text("after\n")
    following = change.host()
    following.do(Lock(True))
    following.do(WriteState({"operation": "op-6", "generation": 6, "result": "succeeded"}))
    change.journal_by(following, LONG, number=7)
    _, nonce = following.do(WriteNonce())
    (change.state / "agent").write_text("the undo of op-7")
    for act in (lambda: watcher.do(effect), lambda: drive(unattended(), watcher)):
        with pytest.raises(Stop):
            act()
    assert change.file.read_text() == "after\n"
    assert change.host().do(ReadState())["generation"] == 6
    assert standing(str(change.state))["operation"] == "op-7"
    assert (change.state / "journal.armed").exists()
    assert os.path.exists(nonce)
    assert (change.state / "agent").exists()
    following.close()
