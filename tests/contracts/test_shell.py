"""What the shell program does when nobody tells it what to do any more: end of file, kill -9, the deadline, the next run."""

import os
import posixpath
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from controller.transport.far import loader, payload
from kpsagent.errors import Refused
from kpsagent.host import (
    Clock,
    DropJournal,
    Ground,
    Lock,
    MakeDirectory,
    MoveJournal,
    ReadJournal,
    ReadState,
    Replace,
    SetMode,
    WriteJournal,
    WriteState,
)
from kpsagent.local import LocalHost
from kpsagent.transaction import drive
from kpsagent.undo import recover
from tests.contracts.shell_places import ShellDone, ShellPlace, shell_place
from tests.fleet.looks import until
from tests.needs import lacking

OLD, OURS, THEIRS = "old key\n", "ours \N{SNOWMAN} caf\udce9 'x' \\0101 %s\n", "theirs\n"
SHELLS = ("dash", "bash", "busybox")
SOON = 8  # seconds until a deadline that comes: all that goes before it is done by then, on however busy a machine


@pytest.fixture(autouse=True)
def _root():
    if os.geteuid() != 0:
        lacking("root: another login's files")


@pytest.fixture(params=SHELLS)
def place(request):
    with shell_place(request.param) as made:
        yield made


@pytest.fixture
def dash():
    with shell_place("dash") as made:
        yield made


class Work:
    """An operation of four steps on a home: a directory is made, a mode changed, a key added, a key removed."""

    def __init__(self, place: ShellPlace, deadline_seconds: float = 600) -> None:
        self.place = place
        self.host = place.host()
        login, home = place.account.name, place.home
        self.made, self.opened = f"{home}/.ssh", f"{home}/config"
        self.added, self.removed = f"{home}/.ssh/authorized_keys", f"{home}/keys"
        place.put(self.removed, OLD + THEIRS)
        place.put(self.opened, "setting\n", 0o664)
        self.before = self.look()
        self.steps = [
            ["directory", self.made, login, None, None],
            ["mode", self.opened, login, 0o664, 0o644],
            ["keys", self.added, login, None, OURS],
            ["keys", self.removed, login, OLD + THEIRS, THEIRS],
        ]
        self.journal: dict[str, Any] = {
            "operation": "op-1",
            "generation": 3,
            "login": login,
            "connection": None,
            "daemon": ["none", 0, "", [], "/etc/ssh/sshd_config", ""],
            "widening": 3,
            "steps": self.steps,
        }
        self.deadline_seconds = deadline_seconds

    def look(self) -> list[Any]:
        return [self.place.look(path) for path in (self.made, self.opened, self.added, self.removed)]

    def effects(self) -> list[Any]:
        """What an operation has done, one after the other, from its journal to its end."""
        account = self.place.account
        return [
            WriteJournal(self.journal),
            MakeDirectory(self.made, account),
            SetMode(self.opened, account, 0o664, 0o644),
            Replace(self.added, account, None, OURS),
            Replace(self.removed, account, OLD + THEIRS, THEIRS),
            MoveJournal("confirmed"),
            WriteState({"operation": "op-1", "generation": 3, "result": "succeeded"}),
            DropJournal(),
        ]

    def do(self, how_many: int) -> None:
        self.host.do(Lock(True))
        found = self.host.host
        found._accounts[self.place.account.name] = self.place.account
        now, self.journal["boot"] = self.host.do(Clock())
        self.journal["deadline"] = now + self.deadline_seconds
        paths = [step[1] for step in self.steps]
        self.journal["grounds"] = {path: list(self.host.do(Ground(path, self.place.account))) for path in paths}
        for effect in self.effects()[:how_many]:
            self.host.do(effect)

    def after(self) -> list[Any]:
        return [
            ("directory", "", 0o700, self.place.account.uid),
            ("file", "setting\n", 0o644, self.place.account.uid),
            ("file", OURS, 0o600, self.place.account.uid),
            ("file", THEIRS, 0o600, self.place.account.uid),
        ]


STEPS = 8
COMMITTED = 6


def kill(host: ShellDone) -> None:
    """kill -9: the program, and nothing that it started."""
    os.kill(host.process.pid, signal.SIGKILL)
    host._wait(host.process.wait())


def await_watcher(work: Work) -> None:
    """Return when the watcher of a killed program has left nothing, or has ended."""
    until(lambda: not left(work.place) or not _watched(work.host), what="the watcher goes on")


def _watched(host: ShellDone) -> bool:
    try:
        os.killpg(host.process.pid, 0)  # the program was the first of its group, and stays its name
    except ProcessLookupError:
        return False
    return True


def state(place: ShellPlace) -> Any:
    found = place.look(f"{place.state}/state.json")
    return None if found is None else found[1]


def left(place: ShellPlace) -> list[str]:
    """What of ours stands in the home and the state directory, beyond the state itself."""
    names = [name for name in place.names(place.home) if ".kps-" in name]
    there = place.names(place.state) if place.look(place.state) else []
    return names + [name for name in there if name != "state.json"]


def undone_or_done(work: Work, how_many: int) -> None:
    if how_many >= COMMITTED:
        assert work.look() == work.after()
    else:
        assert work.look() == work.before
    assert left(work.place) == []
    if 0 < how_many < STEPS:
        assert ("succeeded" if how_many >= COMMITTED else "reverted") in state(work.place)


@pytest.mark.parametrize("how_many", range(STEPS + 1))
def test_at_the_end_of_file_whatever_is_not_confirmed_is_undone(place, how_many):
    work = Work(place)
    work.do(how_many)
    work.host.end_rope()
    undone_or_done(work, how_many)


@pytest.mark.parametrize("how_many", range(1, STEPS + 1))
def test_after_a_kill_the_watcher_undoes_at_the_deadline_or_tidies_up_what_holds(dash, how_many):
    work = Work(dash, deadline_seconds=SOON if how_many < COMMITTED else 600)
    work.do(how_many)
    kill(work.host)
    await_watcher(work)
    undone_or_done(work, how_many)


@pytest.mark.parametrize("how_many", range(1, STEPS + 1))
@pytest.mark.parametrize("next_run", ["shell", "python"])
def test_after_a_kill_the_next_run_of_either_kind_undoes(place, how_many, next_run):
    if next_run == "python" and place.shell == "busybox":
        return  # nothing with Python is in there
    work = Work(place)
    work.do(how_many)
    kill(work.host)
    host = place.host() if next_run == "shell" else LocalHost(place.state)
    host.do(Lock(True))
    account = place.account
    if next_run == "shell":
        host.host._FindAccount = lambda effect: _answer(account)
    else:
        host._FindAccount = lambda effect: account
    told = drive(recover(), host)
    host.close()
    undone_or_done(work, how_many)
    assert told is None if how_many == STEPS else told["operation"] == "op-1"


@pytest.mark.parametrize("taken", [False, True], ids=["nothing taken", "one taken"])
@pytest.mark.parametrize("how", ["end of file", "watcher", "before the commit"])
def test_a_revoke_that_is_cut_off_is_finished_by_the_server_itself(place, how, taken):
    work = Work(place, deadline_seconds=SOON if how == "watcher" else 600)
    one, other = work.removed, f"{place.home}/more"
    place.put(other, THEIRS + OLD)
    gone = [["keys", one, place.account.name, OLD + THEIRS, THEIRS], ["keys", other, place.account.name, THEIRS + OLD, THEIRS]]
    work.steps.clear()
    work.journal.update(widening=0, gone=gone, revoke=[each[1:3] for each in gone], remove=[OLD])
    work.do(1)
    if how != "before the commit":
        work.host.do(MoveJournal("revoking"))
        if taken:
            work.host.do(Replace(one, place.account, OLD + THEIRS, THEIRS))
        place.put(other, THEIRS + OLD + OURS)  # by somebody else, meanwhile
    if how == "watcher":
        kill(work.host)
        await_watcher(work)
    else:
        work.host.end_rope()
    assert left(place) == []
    if how == "before the commit":
        assert (place.look(one)[1], place.look(other)[1]) == (OLD + THEIRS, THEIRS + OLD)
        assert "reverted" in state(place)
    else:
        assert (place.look(one)[1], place.look(other)[1]) == (THEIRS, THEIRS + OURS)
        assert "partial" in state(place)


async def _answer(account: Any) -> Any:
    return account


def test_a_journal_of_the_python_agent_is_left_alone_at_the_end_of_file_and_undone_by_the_next_run(dash):
    work = Work(dash)
    work.do(0)
    work.host.close()
    local = LocalHost(dash.state)
    local.do(Lock(True))
    local.do(WriteJournal(work.journal))
    local.do(Replace(work.removed, dash.account, OLD + THEIRS, THEIRS))
    os.close(local._locked)
    shell = dash.host()
    shell.do(Lock(True))
    shell.end_rope()
    assert dash.names(dash.state) == ["journal.reverting"]
    again = dash.host()
    again.do(Lock(True))
    again.host._FindAccount = lambda effect: _answer(dash.account)
    assert drive(recover(), again)["result"] == "reverted"
    assert work.look() == work.before


@pytest.mark.parametrize(
    ("before", "after", "now", "wanted"),
    [
        (OLD, OLD + OURS, OLD + OURS + THEIRS, OLD + THEIRS),
        (OLD, OLD + OURS, THEIRS + OLD + OURS, THEIRS + OLD),
        (OLD, OLD + OURS, OLD + OURS + "no end", OLD + "no end"),
        (OLD, OLD + OURS, OLD + OURS + "\n\n", OLD + "\n\n"),
        (OLD, OLD + OURS, THEIRS, THEIRS),
        (OLD, OLD + OURS, "", ""),
        (OLD + THEIRS, THEIRS, THEIRS + "new\n", THEIRS + "new\n" + OLD),
        (OLD + THEIRS, THEIRS, THEIRS + "no end", THEIRS + "no end\n" + OLD),
        (OLD + THEIRS, THEIRS, OLD + THEIRS + "new\n", OLD + THEIRS + "new\n"),
        (OLD, OURS, OURS + "twice\n" + OURS, "twice\n" + OURS + OLD),
        (None, OURS, OURS + THEIRS, THEIRS),
        (None, OURS, OURS, None),
        (OLD, OLD + OURS, None, None),
    ],
)
def test_what_others_wrote_since_stays_when_ours_is_taken_out(place, before, after, now, wanted):
    host, path = place.host(), f"{place.home}/authorized_keys"
    if before is not None:
        place.put(path, before, 0o640)
    host.do(Lock(True))
    found = list(host.do(Ground(path, place.account)))
    host.host._accounts[place.account.name] = place.account
    up, boot = host.do(Clock())
    host.do(
        WriteJournal(
            {
                "operation": "op-1",
                "generation": 1,
                "login": place.account.name,
                "connection": None,
                "daemon": ["none", 0, "", [], "", ""],
                "widening": 1,
                "grounds": {path: found},
                "deadline": up + 600,
                "boot": boot,
                "steps": [["keys", path, place.account.name, before, after]],
            }
        )
    )
    host.do(Replace(path, place.account, before, after))
    if now is None:
        place._real(path).unlink()
    elif now != after:
        place.put(path, now, 0o640)
    host.end_rope()
    there = place.look(path)
    assert (None if there is None else there[1]) == wanted
    assert left(place) == []


def test_what_holds_null_bytes_by_now_is_left_to_the_next_run(dash):
    work = Work(dash)
    work.do(4)
    dash.put(work.added, OURS + "a\0b\n")
    work.host.end_rope()
    assert dash.names(dash.state) == ["journal.reverting"]
    assert dash.look(work.added)[1] == OURS + "a\0b\n"
    again = dash.host()
    again.do(Lock(True))
    again.host._FindAccount = lambda effect: _answer(dash.account)
    assert drive(recover(), again)["result"] == "reverted"
    assert dash.look(work.added)[1] == "a\0b\n"


def test_an_undo_waits_for_the_home_that_is_not_there(place):
    work = Work(place)
    work.do(5)
    home = place._real(place.home)
    home.rename(f"{home}.away")
    work.host.end_rope()
    assert place.names(place.state) == ["journal.reverting"]
    os.rename(f"{home}.away", home)
    work2 = place.host()
    work2.do(Lock(True))
    work2.end_rope()
    assert work.look() == work.before


def test_what_widened_stays_while_what_narrowed_cannot_be_taken_back(dash):
    work = Work(dash)
    work.do(5)
    real = dash._real(work.removed)
    real.unlink()
    real.mkdir()
    work.host.end_rope()
    assert dash.look(work.added)[1] == OURS
    assert dash.names(dash.state) == ["journal.reverting"]


def test_a_watcher_does_nothing_to_the_next_operation(dash):
    work = Work(dash, deadline_seconds=SOON)
    work.do(STEPS)
    first = work.journal["deadline"]
    work.journal["operation"] = "op-2"
    work.deadline_seconds = 600
    for path in (work.added, work.made):
        real = dash._real(path)
        real.rmdir() if real.is_dir() else real.unlink()
    dash.put(work.removed, OLD + THEIRS)
    dash._real(work.opened).chmod(0o664)
    for effect in work.effects()[:3]:
        if isinstance(effect, WriteJournal):
            now, _ = work.host.do(Clock())
            work.journal["deadline"] = now + 600
        work.host.do(effect)
    while work.host.do(Clock())[0] < first + 2:
        time.sleep(0.1)  # past the first deadline: that a watcher does nothing has no event to wait for
    assert work.host.do(ReadJournal())[0] == "armed"
    assert dash.look(work.made) is not None


def test_a_replace_that_is_killed_leaves_old_or_new_and_only_what_a_sweep_takes(place):
    for attempt in range(12):
        host, path = place.host(), f"{place.home}/keys"
        place.put(path, "old\n" * 2000, 0o640)
        host.do(Lock(True))
        asked = host.host._far._process.stdin
        words = f"file ={place.account.name} =replace ={place.home} =keys =600 =one =feed{attempt} "
        old, new = "".join(["old\\0012"] * 2000), "".join(["new\\0012"] * 2000)
        asked.write(f"{words}={old} ={new}\n".encode())
        time.sleep(0.004 * attempt)  # wherever it has come to by then: that is what is tried
        kill(host)
        second = place.host()
        latest = time.monotonic() + 20
        while True:  # the lock is held until the file is what it is
            try:
                second.do(Lock(True))
                break
            except Refused:
                assert time.monotonic() < latest
        kind, text, mode, uid = place.look(path)
        assert (kind, mode, uid) == ("file", 0o640, place.account.uid)
        assert text in ("old\n" * 2000, "new\n" * 2000)
        second.end_rope()
        for name in place.names(place.home):
            if ".kps-" in name:
                assert name.startswith(".keys.kps-")
                place._real(posixpath.join(place.home, name)).unlink()


def test_nothing_of_ours_runs_when_all_is_done(dash):
    work = Work(dash)
    work.do(STEPS)
    work.host.close()
    until(lambda: _watchers(dash) == [], what="a watcher goes on living")
    assert work.host.process.returncode == 0
    assert dash.host().do(ReadState())["result"] == "succeeded"


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_a_password_that_sudo_did_not_ask_for_is_run_by_nobody(tmp_path, shell):
    word = f"touch {tmp_path}/run; echo heard".encode()
    words = [*shell.split(), "-c", loader(), "kps", "run", "", str(tmp_path / "state")]
    done = subprocess.run(words, input=word + b"\n" + payload() + b"marker\n", capture_output=True, timeout=60)
    assert done.stdout.startswith(b"kps-started\nmarker shell root="), done
    assert b"heard" not in done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


def _watchers(place: ShellPlace) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                said = stream.read()
        except OSError:
            continue
        if place.state.encode() in said and str(os.getpid()) != pid:
            found.append(pid)
    return found


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
@pytest.mark.parametrize("expected", ["one\n", "one\nno end"])
def test_what_somebody_appends_in_the_last_moment_is_kept_and_told(tmp_path, shell, expected):
    text = (Path(__file__).parents[2] / "kpsagent/shell/files.sh").read_text()
    moment = '        try mv -f "$temp" "$file"\n'
    assert text.count(moment) == 1
    environment = {"kps_verb": "replace", "kps_dir": str(tmp_path), "kps_name": "keys", "kps_random": "feed", "kps_copy": "-p"}
    (tmp_path / "keys").write_text(expected)
    done = subprocess.run(
        [*shell.split(), "-c", text.replace(moment, "        echo theirs >>keys\n" + moment), "kps"],
        input="=" + expected.replace("\n", "\\n") + "\n=two\\n\n",
        env=environment | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\nchanged"
    assert (tmp_path / "keys").read_text().split("\n")[0] == "two"
    assert "theirs\n" in (tmp_path / "keys").read_text()
    assert os.listdir(tmp_path) == ["keys"]
