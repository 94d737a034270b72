"""The trials of `controller` once more where systemd is process 1, in containers: a session is a scope that may be killed.

With KillUserProcesses logind ends what a session leaves as soon as it is over, so the agent of a controller that dies is ended in
the middle of its undo. A server that is shut down in order ends them one by one, and what watches, before it goes.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.drills.faults import Scale
from tests.drills.faults.controller import LOSSES, OPERATIONS, Kind, try_all
from tests.drills.figures import Figure, Report
from tests.drills.fleet import flavours
from tests.drills.fleet.boxes import Box, Boxes
from tests.drills.fleet.docker import answering
from tests.fleet import judge
from tests.fleet.causes import is_agent

FLAVOUR = "debian-12-systemd"
AT_ONCE = 5
DEADLINE = 10  # arming asks systemd and each login asks logind, while this many servers boot beside
_LEFT_SECONDS = 10  # in which logind ends what a session left
_LEFT = "sleep 4711"
_REBOOTS = {"restarted": Box.restart, "process 1 killed": Box.reboot}
# logind.conf(5): where the list is empty root is spared all the same.
_LOGIND = "[Login]\nKillUserProcesses={kills}\nKillExcludeUsers=nobody\n"
_PYTHON_GONE = "rm -r /usr/bin/python3* /usr/lib/python3*"


def controller_systemd(report: Report, scale: Scale) -> None:
    """The part. A sample is of two operations of the first kind."""
    with answering() as client, Boxes(client) as boxes:
        for kind, kills in kinds(boxes):
            if scale.sample:
                try_kind(report, scale, replace(kind, operations=kind.operations[:2]), kills)
                return
            try_kind(report, scale, kind, kills)


def kinds(boxes: Boxes) -> Iterator[tuple[Kind, bool]]:
    """Yield each kind of server, and whether what a session leaves is ended there."""
    one_by_one = threading.Lock()
    (flavour,) = (each for each in flavours.every() if each.name == FLAVOUR)

    def kind(
        name: str,
        *before: str,
        kills: bool = True,
        operations: tuple[str, ...] = OPERATIONS,
        losses: tuple[str, ...] = LOSSES,
        reboots: bool = True,
    ) -> tuple[Kind, bool]:
        def add() -> Box:
            with one_by_one:
                box = boxes.start(flavour)
            box.write("/etc/systemd/logind.conf.d/zz-drill.conf", _LOGIND.format(kills="yes" if kills else "no"))
            # Whom a bind would lock out, bob, has no password then.
            for command in ("systemctl restart systemd-logind", "passwd --quiet --lock bob", *before):
                box.run(["sh", "-c", command])
            return box

        def remove(box: Box) -> None:
            with one_by_one:
                boxes.remove(box)

        return Kind(name, add, remove, _REBOOTS if reboots else {}, operations, losses, DEADLINE, _units), kills

    yield kind("controller: systemd")
    yield kind("controller: systemd, KillUserProcesses=no", kills=False, losses=("killed",), reboots=False)
    yield kind("controller: systemd, no Python", _PYTHON_GONE, operations=("bind", "replace"), losses=("killed",))


def try_kind(report: Report, scale: Scale, kind: Kind, kills: bool) -> None:
    """Try one kind; what its figures stand on is shown first and last: what a session leaves is ended, and agents are in one."""
    left = int(not kills)
    report.add(Figure(f"{kind.name}: what a session left that goes on", _outlives_its_session(kind), at_least=left, at_most=left))
    trials = try_all(report, scale, kind, AT_ONCE)
    met = [trial.where for trial in trials if trial.where]
    in_session = sum(any(unit.startswith("session-") for unit in units) for units in met)
    report.add(
        Figure(f"{kind.name}: agents met in a session", in_session, at_least=len(met) if scale.sample else max(len(met), 1))
    )


def _units(box: Box) -> set[str]:
    """The units of systemd that our processes in a server are part of."""
    found = set()
    for pid, title in box.processes().items():
        if is_agent(title):
            with contextlib.suppress(OSError):  # it has ended
                found.add(Path(f"/proc/{pid}/cgroup").read_text().rstrip().rpartition("/")[2])
    return found


def _outlives_its_session(kind: Kind) -> int:
    """The control: how many processes go on that a session has left in the background. That nothing ends them has no event."""
    box = kind.add()
    try:
        judge.said(box, "root", f"setsid {_LEFT} </dev/null >/dev/null 2>&1 &", password=box.root_password)
        until = time.monotonic() + _LEFT_SECONDS
        while (lives := sum(_LEFT in title for title in box.processes().values())) and time.monotonic() < until:
            time.sleep(0.1)
        return lives
    finally:
        kind.remove(box)
