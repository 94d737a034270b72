"""What is tried at one point: the agent killed there, or its system call failed; and what must hold from then on."""

import asyncio
import errno
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from controller.transport.frames import Result
from tests.drills.faults.files import STATE, Files, apart_from_state, difference, put_back
from tests.drills.faults.lab import CONFIG, Case, Lab, Way, left_over
from tests.drills.faults.tracer import Call, Tracer

GRACE = 5
ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES", "EPERM", "EBUSY")
LOCK_OUT, HALF_WRITTEN, BACK, LEFT_OVER, LATE, UNTOLD, WRONG_END = (
    "lock-out",
    "half-written file",
    "return of a revoked key",
    "leftover",
    "late recovery",
    "error not named",
    "wrong end",
)
ENDS_THE_AGENT = ("kill", "kill the shell")
_QUIET_SECONDS = 6  # a watcher looks once a second whether it is still needed


@dataclass(frozen=True)
class Point:
    """Where and how: how is a kill (shell_lab.KILLS) or an errno's name; of is "operation", "recovery", "boot" or "disk"."""

    of: str
    case: str
    at: int
    how: str
    call: str = ""

    def __str__(self) -> str:
        return f"{self.of} of {self.case}: {self.how} at {self.at} {self.call}"


@dataclass
class Trial:
    """What came of a point. state: as the agent told it; holding: the files that held the revoked key when it was last looked."""

    point: Point
    reached: bool = False
    misses: list[tuple[str, str]] = field(default_factory=list)
    late_seconds: float = 0.0  # after its deadline, when all was quiet again
    state: str = ""
    holding: set[str] | None = None

    def miss(self, kind: str, words: object) -> None:
        self.misses.append((kind, f"{kind}: {self.point}: {words}"))


def tracer_of(lab: Lab, point: Point) -> Tracer:
    return lab.tracer(point.at, point.how, point.call)


def like(files: Files, *others: Files) -> bool:
    return any(apart_from_state(files) == apart_from_state(other) for other in others)


def unlike(files: Files, other: Files) -> str:
    return ", ".join(difference(apart_from_state(files), apart_from_state(other)))


# -- the operation -----------------------------------------------------------------------------------------------------


async def calls(lab: Lab, case: Case) -> list[Call]:
    """Return the changing calls of one whole operation."""
    await lab.become(case.before)
    tracer = lab.tracer()
    await lab.run(case, case.plan, tracer, case.old)
    return tracer.calls


async def operation(lab: Lab, point: Point) -> Trial:
    """Disturb an operation at one point."""
    case, trial = lab.cases[point.case], Trial(point)
    await lab.become(case.before)
    tracer = tracer_of(lab, point)
    dies = point.how in ENDS_THE_AGENT
    result = await lab.run(case, case.plan | {"deadline_seconds": lab.deadline_seconds if dies else 60}, tracer, case.old)
    trial.reached = tracer.reached.is_set()
    if not trial.reached:
        return trial
    await asyncio.to_thread(tracer.ended.wait, 30)
    ends = ends_of(case, lab.files())
    if dies:
        await _alone(lab, case, trial)
    else:
        _told(lab, case, trial, result)
    await next_run(lab, case, trial, ends)
    return trial


def ends_of(case: Case, files: Files) -> tuple[Files, ...]:
    """Return how the server may be once all is finished: what is committed stays."""
    committed = any(f"{STATE}/journal.{name}" in files for name in ("confirmed", "revoking"))
    return (case.after,) if committed else (case.before, case.after)


async def _alone(lab: Lab, case: Case, trial: Trial) -> None:
    """The agent is dead, and nobody comes: what the server has to do by itself."""
    due = _due(lab.files())
    await judged(lab, case, trial, "right after")
    watched = bool(lab.agents())
    if not await lab.quiet(due + GRACE - time.monotonic()):
        trial.miss(LATE, f"{GRACE} s after the deadline these still run: {lab.agents()}")
        await lab.quiet(2 * lab.deadline_seconds)
    trial.late_seconds = time.monotonic() - due if watched else 0.0
    files = lab.files()
    undecided = [name for name in ("armed", "revoking", "reverting") if f"{STATE}/journal.{name}" in files]
    if watched:
        if undecided or not like(without_arms(files), case.before, case.after):
            trial.miss(WRONG_END, f"{undecided} after its own undo: {unlike(files, case.before)}")
        if left := left_over(files, lab.agents()):
            trial.miss(LEFT_OVER, f"after its own undo, or what it tidied up: {left}")
        await judged(lab, case, trial, "after its own undo")
    elif undecided and files.get(CONFIG) != case.before.get(CONFIG):
        trial.miss(WRONG_END, "sshd_config is changed, and no undo waits")


def _due(files: Files) -> float:
    """When the server's own undo is due, by this machine's clock: as its journal says; now, where there is none."""
    for path, entry in files.items():
        if path.startswith(f"{STATE}/journal."):
            return time.monotonic() + float(json.loads(entry.held)["deadline"]) - time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


async def judged(lab: Lab, case: Case, trial: Trial, when: str) -> Way | None:
    files = lab.files()
    half = [path for path in case.is_whole(files) if ".kps-" not in path and "kps-undo" not in path]
    if half:
        trial.miss(HALF_WRITTEN, f"{when}: {half}")
    holding = {path for path in case.holding(files) if ".kps-" not in path}
    if trial.holding is not None and holding - trial.holding:
        trial.miss(BACK, f"{when}: {sorted(holding - trial.holding)}")
    trial.holding = holding
    way = await lab.way_in(case)
    if way is None:
        trial.miss(LOCK_OUT, f"{when}: neither {case.old} nor {case.new}")
    return way


def _told(lab: Lab, case: Case, trial: Trial, result: Result | None) -> None:
    """The call failed, or who made it for the agent died: it lives, has to say so, and to have left the server as it says."""
    number = getattr(errno, trial.point.how, 0)
    if result is None:
        # The controller, which decides for it, has said why.
        if lab.stopped is None or lab.stopped.cause == "connection_lost":
            trial.miss(UNTOLD, "it ended without a word")
        return
    trial.state = result.server_state
    files = lab.files()
    if result.status == "failed":
        named = result.evidence.get("errno") == number or os.strerror(number) in " ".join([result.message, *result.remains])
        if number and not named:
            trial.miss(UNTOLD, f"{result.cause}: {result.message} {result.evidence}")
        if result.server_state in ("as_before", "reverted") and not like(files, case.before):
            trial.miss(WRONG_END, f"{result.server_state}, but {unlike(files, case.before)}")
        unnamed = [path for path in case.holding(files) if not any(path in each for each in result.remains)]
        if result.server_state == "partial" and unnamed:
            trial.miss(UNTOLD, f"partial, and these hold the key: {unnamed}; told is {result.remains}")
    elif not like(without_arms(files), case.after):
        trial.miss(WRONG_END, f"{result.status}, but {unlike(files, case.after)}")


def without_arms(files: Files) -> Files:
    return {path: entry for path, entry in files.items() if "kps-undo" not in path}


async def next_run(lab: Lab, case: Case, trial: Trial, ends: tuple[Files, ...]) -> None:
    """Whatever was left, the next order that comes finds and finishes."""
    way = await judged(lab, case, trial, "before the next run")
    if way is None:
        return
    way = await _roots(lab, case, way)
    plan = lab.plan("check", generation=20, login=case.plan["login"])
    result = await lab.run(case, plan, lab.unfollowed(), way)
    if result is not None and result.cause == "busy":
        # A watcher tidies up after its agent at this very moment, and has the lock.
        await lab.quiet(_QUIET_SECONDS)
        result = await lab.run(case, plan, lab.unfollowed(), way)
    if result is None or result.status != "unchanged":
        trial.miss(WRONG_END, f"the next run ended with {result}")
        return
    if not await lab.quiet(_QUIET_SECONDS, lambda: not left_over(lab.files(), lab.agents())):
        trial.miss(LEFT_OVER, left_over(lab.files(), lab.agents()))
    if not like(lab.files(), *ends):
        trial.miss(WRONG_END, f"after the next run: {unlike(lab.files(), ends[0])}")
    await judged(lab, case, trial, "after the next run")
    if case.revoked is not None and not trial.holding and await lab.lets_in(case.revoked):
        trial.miss(BACK, f"in no file, and {case.revoked} gets in")
    state = lab.files().get(f"{STATE}/state.json")
    if state is not None and b'"owed"' in state.held:
        trial.miss(WRONG_END, "a removal is owed, and nothing keeps it from being made")


# -- the undo ----------------------------------------------------------------------------------------------------------


async def broken(lab: Lab, case: Case) -> Files:
    """Return the files of a server on which all was done and nothing confirmed, its agent and its watchers dead.

    Of a revoke: on which all was committed and nothing removed.
    """
    if case.name not in lab.broken:
        steps = await calls(lab, case)
        place = next(number for number, call in enumerate(steps) if call.what.endswith(f"journal.{case.commit}"))
        at, call = lab.numbered(steps)[place + (case.revoked is not None)]
        await lab.become(case.before)
        await lab.run(case, case.plan, lab.tracer(at, "kill", str(call)), case.old)
        lab.kill_agents()
        lab.broken[case.name] = lab.files()
    return lab.broken[case.name]


async def recovery_calls(lab: Lab, case: Case, of: str) -> list[Call]:
    """Return the changing calls of the undo, by the next run or by what runs at boot."""
    tracer = lab.tracer()
    await lab.become(await broken(lab, case))
    await (_boots(lab, tracer) if of == "boot" else _recovers(lab, case, tracer))
    return tracer.calls


async def recovery(lab: Lab, point: Point) -> Trial:
    """Disturb the undo at one point; it is then begun anew, by the same and by the next run."""
    case, trial, tracer = lab.cases[point.case], Trial(point), tracer_of(lab, point)
    await lab.become(await broken(lab, case))
    if point.of == "boot":
        await _boots(lab, tracer)
    else:
        await _recovers(lab, case, tracer)
    trial.reached = tracer.reached.is_set()
    if not trial.reached:
        return trial
    await asyncio.to_thread(tracer.ended.wait, 30)
    lab.kill_agents()  # one that goes on trying
    await judged(lab, case, trial, "right after")
    if point.of == "boot" and f"{STATE}/agent" in lab.files():
        await _boots(lab, lab.unfollowed(), 30)
        if not like(without_arms(lab.files()), case.finished):
            trial.miss(WRONG_END, f"after the next boot: {unlike(lab.files(), case.finished)}")
    await next_run(lab, case, trial, (case.finished,))
    return trial


async def _recovers(lab: Lab, case: Case, tracer: Tracer) -> None:
    way = await lab.way_in(case)
    if way is not None:
        plan = lab.plan("check", generation=15, login=case.plan["login"])
        await lab.run(case, plan, tracer, await _roots(lab, case, way))


async def _roots(lab: Lab, case: Case, way: Way) -> Way:
    """Return root's way in, where it works: another login finds nothing of root's."""
    return case.old if case.old.login == "root" and await lab.lets_in(case.old) else way


async def _boots(lab: Lab, tracer: Tracer, seconds: float = 3) -> None:
    """Have what runs at boot run for so long; one that cannot get through tries again in 10 s, and that is not waited for."""
    process = await asyncio.create_subprocess_exec(
        *lab.server._way_in(),
        "/bin/sh",
        "-c",
        "read go; exec " + lab.boot.format(state=STATE),
        "kps-boots",
        stdin=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    await lab.quiet(5, lambda: _booting(lab))
    tracer.seize(_booting(lab)[0])
    process.stdin.write(b"\n")
    process.stdin.close()
    try:
        await asyncio.to_thread(tracer.ended.wait, seconds)
    finally:
        lab.kill_agents()
        await process.wait()


def _booting(lab: Lab) -> list[int]:
    return [pid for pid, title in lab.server.processes().items() if title.endswith(" kps-boots")]


# -- a disk at rest ----------------------------------------------------------------------------------------------------


async def _disk(lab: Lab, case: Case, files: Files | None) -> Path:
    if lab.server.running:
        await asyncio.to_thread(lab.server.stop)
    disk = await asyncio.to_thread(lab.server.mounted_root)
    if files is not None:
        put_back(disk, files)
    return disk


async def disk_calls(lab: Lab, case: Case) -> list[Call]:
    """Return the changing calls of a reset."""
    tracer = lab.tracer()
    await asyncio.to_thread(lab.at_rest, case.plan, tracer, await _disk(lab, case, case.before))
    return tracer.calls


async def disk(lab: Lab, point: Point) -> Trial:
    """Disturb a reset at one point; then the server boots, is shut down once more, and the reset is ordered again."""
    case, trial, tracer = lab.cases[point.case], Trial(point), tracer_of(lab, point)
    result = await asyncio.to_thread(lab.at_rest, case.plan, tracer, await _disk(lab, case, case.before))
    trial.reached = tracer.reached.is_set()
    if not trial.reached:
        return trial
    await asyncio.to_thread(lab.server.start)
    if hasattr(errno, point.how):
        _told(lab, case, trial, result)
    if case.old != case.new:
        await judged(lab, case, trial, "after a boot")
    where = await _disk(lab, case, None)
    result = await asyncio.to_thread(lab.at_rest, case.plan | {"generation": 20}, lab.unfollowed(), where)
    if result is None or result.status not in ("succeeded", "unchanged"):
        trial.miss(WRONG_END, f"the next reset ended with {result}")
    await asyncio.to_thread(lab.server.start)
    if left := left_over(lab.files(), []):
        trial.miss(LEFT_OVER, left)
    if not like(lab.files(), case.after, *case.on_the_way):
        trial.miss(WRONG_END, f"after the next reset: {unlike(lab.files(), case.after)}")
    if not await lab.lets_in(case.new):
        trial.miss(LOCK_OUT, f"after the next reset: {case.new}")
    return trial
