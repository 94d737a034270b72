"""The agent killed, and its system calls failed, at each of them by which it changes anything; its undo likewise."""

import asyncio
import functools
import multiprocessing
import multiprocessing.util
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress

from tests.drills.faults import Scale, points, power
from tests.drills.faults.kept import Kept
from tests.drills.faults.lab import Lab
from tests.drills.faults.points import BACK, ERRORS, HALF_WRITTEN, LATE, LEFT_OVER, LOCK_OUT, UNTOLD, WRONG_END, Point, Trial
from tests.drills.faults.power import Disk
from tests.drills.faults.shell_lab import KILLS, ShellLab
from tests.drills.faults.tracer import Call
from tests.drills.figures import Figure, Report, zero

WORKERS = int(os.environ.get("KPS_DRILL_WORKERS", "6"))  # more than cores: most of the time one waits for a deadline
MOST_SECONDS = 90 * 60  # a whole run of errors; kills need a quarter of an hour
LEAST_POINTS = 20  # of each operation, on an average, in a whole run
_SHOWN = 40  # misses of one part; the rest is counted
_DISK = ("reset", "reset of a shut server")
_GRAVE = ERRORS[:5]
_ARMED = ("bind", "unbind", "password-login-enable", "password-login-disable")
_REVOKES = ("unbind --revoke", "replace --revoke")

_labs: dict[str, Lab] = {}  # of this process, by the suffix of its cases; each from when on one of them is asked for
_sample: list[bool] = []
_loop: list[asyncio.AbstractEventLoop] = []
_disk: list[Disk] = []  # that the servers of this process are on, where their power is to fail


# -- in a process of the pool ------------------------------------------------------------------------------------------


def _open(on_a_disk: bool, sample: bool) -> None:
    _sample.append(sample)
    _loop.append(asyncio.new_event_loop())
    if on_a_disk:
        _disk.append(Disk())
        multiprocessing.util.Finalize(None, _disk[0].close, exitpriority=5)
        # Where a fleet makes its servers, and what of.
        tempfile.tempdir, os.environ["KPS_FLEET_CACHE"] = str(_disk[0].directory), str(_disk[0].trees)


def _lab(case: str) -> Lab:
    kind: type[Lab] = ShellLab if case.endswith(ShellLab.suffix) else Lab
    if kind.suffix not in _labs:
        lab = _labs[kind.suffix] = kind()
        multiprocessing.util.Finalize(None, lab.close, exitpriority=10)
        _loop[0].run_until_complete(lab.prepare(_sample[0]))
    return _labs[kind.suffix]


def _calls(of: str, name: str) -> list[tuple[int, Call]]:
    """Return the changing calls of an operation or an undo, each with its number."""
    lab = _lab(name)
    case = lab.cases[name]
    how = {"operation": points.calls, "disk": points.disk_calls}.get(of) or functools.partial(points.recovery_calls, of=of)
    return lab.numbered(_loop[0].run_until_complete(how(lab, case)))


def _try(point: Point) -> Trial:
    how = {"operation": points.operation, "disk": points.disk, "power": _power}.get(point.of, points.recovery)
    lab = _lab(point.case)
    for _ in range(2):
        try:
            trial = _loop[0].run_until_complete(how(lab, point))
        except Exception as error:  # one trial that cannot be made is a miss, not the end of the drill
            trial = Trial(point, reached=True)
            trial.miss(WRONG_END, f"the drill itself failed: {type(error).__name__}: {error}")
            multiprocessing.util.Finalize(None, _labs.pop(lab.suffix).close, exitpriority=10)
            lab = _lab(point.case)  # another, whatever became of this one
        if trial.reached:  # else a deadline has passed, or a signal was given twice, on a busy machine
            break
    return trial


async def _power(lab: Lab, point: Point) -> Trial:
    return await power.power(lab, _disk[0], point)


# -- here --------------------------------------------------------------------------------------------------------------


def _pool(on_a_disk: bool, workers: int, sample: bool) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _open, (on_a_disk, sample))


def _listed(pool: ProcessPoolExecutor, wanted: list[tuple[str, str]]) -> Iterator[tuple[str, str, int, Call]]:
    asked = {each: pool.submit(_calls, *each) for each in wanted}
    for (of, name), calls in asked.items():
        for at, call in calls.result():
            yield of, name, at, call


_OPERATIONS = [("operation", name) for name in (*_ARMED, "replace", "bind of another login", *_REVOKES, "check --repair")]
_EVERYTHING = [
    *_OPERATIONS,
    *(("disk", name) for name in _DISK),
    *(("recovery", name) for _, name in _OPERATIONS),
    *(("boot", name) for name in (*_ARMED, "unbind --revoke")),
]
_OF_SHELL = [
    (of, name + ShellLab.suffix)
    for of, name in (
        *(("operation", name) for name in ("bind", "replace", "unbind", "password-login-disable", "unbind --revoke")),
        *((of, name) for name in ("bind", "unbind", "unbind --revoke") for of in ("recovery", "boot")),
    )
]
_SAMPLE_OF_SHELL = [_OF_SHELL[0]]


def _tried(pool: ProcessPoolExecutor, every: list[Point], until: float) -> Iterator[Trial]:
    """Yield the trials of all points, until there is no time left."""
    waiting: set[Future[Trial]] = set()
    rest = list(reversed(every))
    while rest or waiting:
        while rest and len(waiting) < 2 * WORKERS and time.monotonic() < until:
            waiting.add(pool.submit(_try, rest.pop()))
        if not waiting:
            return
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for each in done:
            yield each.result()


def _drill(
    report: Report,
    scale: Scale,
    name: str,
    points_of: Callable[[Any], list[Point]],
    most: int,
    listing: list[tuple[str, str]] = _EVERYTHING,
    on_a_disk: bool = False,
) -> list[Trial]:
    begun = time.monotonic()
    # Each process has servers of its own to make ready.
    with _pool(on_a_disk, min(WORKERS, most if scale.sample else WORKERS), scale.sample) as pool:
        listed = list(_listed(pool, listing))
        every = scale.some(points_of(listed), most)
        kept = Kept(None if scale.sample else scale.keep, name)
        trials = [trial for point in every if (trial := kept.of(point)) is not None]
        known = {trial.point for trial in trials}
        rest = [point for point in every if point not in known]
        until = begun + min(MOST_SECONDS, scale.within)
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
            for trial in progress.track(_tried(pool, rest, until), total=len(rest), description=name):
                kept.add(trial)
                trials.append(trial)
    reached = [trial for trial in trials if trial.reached]
    # An operation of which the tracer lists no call would otherwise go missing without a word.
    empty = sorted(set(listing) - {(of, operation) for of, operation, *_ in listed})
    report.misses += [f"{name}: nothing to try in {of} of {operation}" for of, operation in empty]
    report.add(
        Figure(f"{name}: points", len(reached), at_least=1 if scale.sample else LEAST_POINTS * len(listing)),
        zero(f"{name}: points not tried", len(every) - len(reached)),
        zero(f"{name}: operations without a point", len(empty)),
    )
    if len(reached) < len(every):
        report.misses.append(f"{name}: {len(every) - len(trials)} points for which no time was left")
        report.misses += [f"{name}: not reached: {trial.point}" for trial in trials if not trial.reached][:_SHOWN]
    counted = Counter(kind for trial in reached for kind, _ in trial.misses)
    for kind in (LOCK_OUT, HALF_WRITTEN, LEFT_OVER, WRONG_END):
        report.add(zero(f"{name}: {kind}s", counted[kind]))
    report.add(zero(f"{name}: revoked keys back", counted[BACK]), zero(f"{name}: late recoveries", counted[LATE]))
    report.misses += [words for trial in reached for _, words in trial.misses][:_SHOWN]
    return reached


def kills(report: Report, scale: Scale) -> None:
    """kill -9 of the agent, and of its undo, at every changing call."""

    def wanted(listed: list[tuple[str, str, int, Call]]) -> list[Point]:
        return [Point(of, name, at, "kill", str(call)) for of, name, at, call in listed]

    def of_shell(listed: list[tuple[str, str, int, Call]]) -> list[Point]:
        return [
            Point(of, name, at, how, str(call))
            for how in KILLS
            for of, name, at, call in _once(listed)
            # What goes through a pipe changes nothing but what comes of it: whole, it is the next call's turn.
            if call.can_fail or how == "kill one"
        ]

    reached = _drill(report, scale, "kills", wanted, 30)
    reached += _drill(report, scale, "kills without Python", of_shell, 3, _of_shell(scale))
    slowest = max((trial.late_seconds for trial in reached), default=0.0)
    report.add(Figure("kills: slowest recovery", round(slowest, 1), at_most=points.GRACE, unit=" s after its deadline"))


def _of_shell(scale: Scale) -> list[tuple[str, str]]:
    return _SAMPLE_OF_SHELL if scale.sample else _OF_SHELL


def _once(listed: list[tuple[str, str, int, Call]]) -> list[tuple[str, str, int, Call]]:
    """Return every call of the shell agent's once: it does many the same way, over and over."""
    return [each for each in listed if each[2] == 0]


def power_failures(report: Report, scale: Scale) -> None:
    """The power fails at every changing call of an operation, and the server boots from what was durable."""

    def wanted(listed: list[tuple[str, str, int, Call]]) -> list[Point]:
        return [Point("power", name, at, "kill", str(call)) for _, name, at, call in listed]

    _drill(report, scale, "power", wanted, 14, _OPERATIONS, True)


def _may_be(error: str, of: str, call: Call) -> bool:
    """Whether this error is tried here: in an undo those of disks; what chattr and mounts refuse, where names change."""
    if of in ("recovery", "boot"):
        return error in _GRAVE
    return error not in ("EPERM", "EBUSY") or call.name.startswith(("rename", "link", "unlink", "rmdir"))


def errors(report: Report, scale: Scale) -> None:
    """Each changing call about a file fails with each error that a disk can give."""

    def wanted(listed: list[tuple[str, str, int, Call]]) -> list[Point]:
        return [
            Point(of, name, at, error, str(call))
            for error in ERRORS
            for of, name, at, call in listed
            if call.can_fail and _may_be(error, of, call)
        ]

    def of_shell(listed: list[tuple[str, str, int, Call]]) -> list[Point]:
        once = [each for each in _once(listed) if each[3].can_fail]
        return [
            Point(of, name, at, error, str(call))
            for turn, (of, name, at, call) in enumerate(once)
            for place, error in enumerate(_GRAVE)
            # Its tools say what failed, and it takes no error for another: of most calls each fails with one, in turn.
            if (name.startswith("bind ") and of == "operation") or turn % len(_GRAVE) == place
        ]

    reached = _drill(report, scale, "errors", wanted, 36)
    reached += _drill(report, scale, "errors without Python", of_shell, 3, _of_shell(scale))
    told = Counter(trial.state for trial in reached if trial.point.of in ("operation", "disk"))
    report.add(zero("errors: not named in the evidence", sum(kind == UNTOLD for trial in reached for kind, _ in trial.misses)))
    report.add(*(Figure(f"errors: ended {state}", told[state]) for state in sorted(told) if state))
