"""Rollouts under way: begins their tasks, hears how they ended, and says when a rollout is over. One process drives each."""

import asyncio
import contextlib
import contextvars
import fcntl
import os
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from concurrent.futures import Executor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog

from controller.commits import Commits
from controller.errors import Conflict, Problem
from controller.events import Actor, acting
from controller.model import FINAL, Credential, EndedTask, Rollout, RolloutServer, RolloutState, Task, now
from controller.rollout.endings import Ending, wait
from controller.rollout.progress import Past, Progress
from controller.rollout.strategy import Member, Strategy
from controller.store import Store

LOOK_SECONDS = 3.0  # between two looks for what nobody has told: tasks that others ended, rollouts that others began
SHARED_LOOK_SECONDS = 0.5  # where tasks are run by other processes, nobody tells of any
RUNNING: tuple[RolloutState] = ("running",)
SEEN = "the canary has ended well; look at it, and resume"

T = TypeVar("T")
log = structlog.get_logger("kps.rollouts")


class Rings(Protocol):
    """Has tasks run. What is to be rung for is added to the store as held by owner."""

    owner: str
    lease_seconds: float

    def ring(self, task_ids: Collection[str], credentials: Mapping[str, Credential]) -> None:
        """Say that these tasks wait, with what opens their servers, by server id."""


class Rolling:
    """Drives the rollouts of a home, unless another process of the home does."""

    def __init__(
        self,
        store: Store,
        rings: Rings,
        home: Path,
        executor: Executor | None,
        halts: Callable[[], bool] = lambda: False,
        commits: Commits | None = None,
    ) -> None:
        """halts: whether this process is about to stop; nothing is begun then. commits: what the tasks write goes through."""
        self._store = store
        self._rings = rings
        self._lock = home / "rollouts.lock"
        self._executor = executor
        self._halts = halts
        self._commits = commits or Commits(store, executor)
        self._locked: int | None = None
        self._driven: dict[str, _Driven] = {}
        # By rollout and server id, each with its end.
        self._credentials: dict[str, dict[str, tuple[Credential, datetime | None]]] = {}

    def begin(self, rollout: Rollout, credentials: Mapping[str, Credential] | None = None, until: datetime | None = None) -> None:
        """Drive a rollout from now on, if it is for this process to do.

        credentials: by server id, used from this process's memory until then; a process that has none opens what is kept sealed.
        """
        if credentials:
            given = {server_id: (each, until) for server_id, each in credentials.items()}
            self._credentials.setdefault(rollout.id, {}).update(given)
        if rollout.id in self._driven:
            self._driven[rollout.id].begin_anew()
        elif self._may_drive():
            driven = self._driven[rollout.id] = _Driven(self, rollout)
            driven.work.add_done_callback(partial(self._is_through, rollout.id))

    @contextlib.asynccontextmanager
    async def reserved(self, rollout_id: str) -> AsyncIterator[None]:
        """Within the block a rollout is added and begun; no other controller drives it, however long that takes.

        What opens its servers may be in this process's memory alone.
        """
        await self.has_turn(rollout_id)
        try:
            yield
        finally:
            if rollout_id not in self._driven:  # it was refused, or this process is about to stop
                await self.leave_turn(rollout_id)

    def ended(self, task: Task) -> None:
        """Take note that a task has come to its end."""
        if task.rollout_id in self._driven:
            self._driven[task.rollout_id].ended(task.id)

    def changed(self, rollout_id: str) -> None:
        """Have a rollout looked at: it was paused, or one of its tasks has ended."""
        if rollout_id in self._driven:
            self._driven[rollout_id].bell.set()

    async def go_on(self) -> None:
        """Drive, ever again, what runs in the store and nobody drives."""
        while True:
            with contextlib.suppress(Problem):  # of the home or its disk; every request says so too
                for rollout in await self.off(self._store.rollouts, None, RUNNING):
                    if rollout.id not in self._driven:
                        self.begin(rollout)
            for rollout_id in self._credentials:
                self.forget_expired(rollout_id)
            await asyncio.sleep(LOOK_SECONDS)

    async def close(self) -> None:
        """Stop. Nothing is lost: whoever goes on with a rollout finds in the store how far it is."""
        driven = [each.work for each in self._driven.values()]
        for work in driven:
            work.cancel()
        if driven:
            await asyncio.wait(driven)
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    async def off(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a verb of the store off the event loop, on behalf of whom this is; it is not left half-way."""
        here = contextvars.copy_context()
        return await _through(
            asyncio.get_running_loop().run_in_executor(self._executor, partial(here.run, verb, *args, **kwargs))
        )

    async def kept(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Do the same, together with what tasks write at the same time (controller.commits)."""
        return await _through(asyncio.ensure_future(self._commits.kept(verb, *args, **kwargs)))

    def _at_hand(self, rollout_id: str, server_ids: Iterable[str]) -> Mapping[str, Credential]:
        """Return what this process has in memory for these servers of a rollout, by their ids."""
        held, at = self._credentials.get(rollout_id, {}), self._store.now()
        wanted = ((server_id, held[server_id]) for server_id in server_ids if server_id in held)
        return {server_id: each for server_id, (each, until) in wanted if until is None or at < until}

    def forget_expired(self, rollout_id: str) -> None:
        """Let go of what has come to its end in memory too."""
        held, at = self._credentials.get(rollout_id, {}), self._store.now()
        for server_id in [each for each, (_, until) in held.items() if until is not None and at >= until]:
            del held[server_id]

    @property
    def look_seconds(self) -> float:
        """How often it is looked for what nobody tells."""
        return SHARED_LOOK_SECONDS if self._store.shared else LOOK_SECONDS

    async def has_turn(self, rollout_id: str) -> bool:
        """Whether a rollout is ours to drive, of all controllers that share the store."""
        return not self._store.shared or await self.off(self._store.take_turn, f"rollout {rollout_id}")

    async def leave_turn(self, rollout_id: str) -> None:
        """Let another controller drive it."""
        if self._store.shared:
            await self.off(self._store.leave_turn, f"rollout {rollout_id}")

    def _may_drive(self) -> bool:
        """Whether this process drives the rollouts of its home; of a shared store each is driven by whoever has its turn."""
        if self._store.shared:
            return not self._halts()
        if self._locked is None:
            found = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(found)
                return False
            self._locked = found
        return True

    def _is_through(self, rollout_id: str, work: asyncio.Task[None]) -> None:
        driven = self._driven.pop(rollout_id)
        if driven.anew and not work.cancelled():
            self.begin(driven.rollout)  # it was told to go on as it came to its end
        elif not driven.elsewhere:  # else it may come back here before they expire
            self._credentials.pop(rollout_id, None)
        if not work.cancelled() and work.exception() is not None:
            log.error("rollout", id=rollout_id, code="unexpected", exc_info=work.exception())


async def _through(work: asyncio.Future[T]) -> T:
    """Wait for what is not to be left half-way, also where who waits is called off: the store is closed next."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


class _Driven:
    """One rollout that this process drives."""

    def __init__(self, rolling: Rolling, rollout: Rollout) -> None:
        self.bell = asyncio.Event()
        self._rolling = rolling
        self._store = rolling._store
        self.rollout = rollout
        self.anew = False  # how far it is has to be read again: somebody has said that it goes on, or what is tried again
        self._progress: Progress
        self._servers: dict[str, RolloutServer] = {}
        self._last: dict[str, str] = {}  # by server id: its last task
        self._running: dict[str, str] = {}  # by task id: its server
        self._told: set[str] = set()  # tasks of which we were told that they have ended
        self._looks_at = 0.0  # when all that runs is looked at next, by the loop's clock
        self._adopts_at = 0.0
        self.elsewhere = False  # another controller drives it
        self.work = asyncio.get_running_loop().create_task(self._drive())

    def begin_anew(self) -> None:
        """Find out once more how far the rollout is, and go on from there."""
        self.anew = True
        self.bell.set()

    def ended(self, task_id: str) -> None:
        """Take note that one of its tasks has ended."""
        self._told.add(task_id)
        self.bell.set()

    async def _drive(self) -> None:
        rollout = self.rollout
        acting.set(Actor(rollout.tenant_id, rollout.user_id))
        try:
            self.elsewhere = not await self._rolling.has_turn(rollout.id)
        except Problem:  # who looks next begins anew
            self.elsewhere = True
        if self.elsewhere:
            return
        self.anew = True
        try:
            await self._steps()
        finally:
            await self._rolling.leave_turn(rollout.id)

    async def _steps(self) -> None:
        rollout = self.rollout
        while True:
            try:
                if not await self._rolling.has_turn(rollout.id):
                    self.elsewhere = True  # the store was away, and another controller goes on with it
                    return
                if self.anew:
                    await self._load()
                await self._adopt()
                if await self._over():
                    return
            except Conflict:
                self.begin_anew()  # somebody has retried a task by hand, or has changed the rollout
            except Problem as problem:
                self.anew = True  # what was taken for begun may not be
                log.warning("rollout", id=rollout.id, code=problem.code, message=problem.message)
            await self._something()

    async def _load(self) -> None:
        """Find out from the store how far the rollout is."""
        self.anew = False
        self._looks_at = 0.0
        off, rollout = self._rolling.off, self.rollout
        rollout = self.rollout = await off(self._store.rollout, rollout.tenant_id, rollout.id)
        servers = await off(self._store.rollout_servers, rollout.id)
        self._servers = {each.server_id: each for each in servers}
        self._last = {each.server_id: each.task_id for each in servers if each.task_id}
        self._running = {each.task_id: each.server_id for each in servers if each.task_id and _under_way(each)}
        strategy = Strategy.read(rollout.strategy)
        strategy = strategy.looking() if rollout.plans else strategy
        begun = sorted((each for each in servers if each.tries or each.held), key=lambda each: str(each.finished_at or "9"))
        past = {each.server_id: _past(each, strategy) for each in begun}
        self._progress = Progress(strategy, [_member(each) for each in servers], past, go_on=rollout.go_on)

    async def _adopt(self) -> None:
        """Have run what an earlier controller has handed on, and nobody has taken: where none serves this home, it is for us."""
        loop, rings, rollout = asyncio.get_running_loop(), self._rolling._rings, self.rollout
        if loop.time() < self._adopts_at:
            return
        self._adopts_at = loop.time() + LOOK_SECONDS
        if adopted := await self._rolling.off(self._store.adopt, rings.owner, rings.lease_seconds, rollout.id):
            rings.ring([each.id for each in adopted], self._rolling._at_hand(rollout.id, [each.server_id for each in adopted]))

    async def _over(self) -> bool:
        """Do what there is to do now; say whether the rollout is not to be driven any more."""
        progress, rollout = self._progress, self.rollout
        told, self._told = self._told, set()
        turn, ended = await self._rolling.kept(self._store.rollout_turn, rollout.id, self._asked_for(told))
        for task in ended:
            server_id = self._running.pop(task.id)
            progress.ended(server_id, _ending(task), self._store.now())
            if progress.state(server_id) != "later":
                self._rolling._credentials.get(rollout.id, {}).pop(server_id, None)
        if turn is None or turn.state != "running":
            return True
        if turn.changes != rollout.changes:
            self.begin_anew()  # by another controller
            return False
        if self._rolling._halts():
            self.elsewhere = self._store.shared  # what runs here may take its time to end: another one goes on meanwhile
            return self.elsewhere
        step = progress.step(self._store.now())
        if step.begin or step.held:
            await self._begin([each.server_id for each in step.begin], {each.server_id: why for each, why in step.held})
        if progress.stopped is not None:
            return await self._leave("stopped", progress.stopped)
        if progress.over:
            return await self._leave("finished", _told(progress, rollout.plans))
        return progress.waits_for_go and await self._leave("paused", SEEN)

    def _asked_for(self, told: Collection[str]) -> list[str]:
        """Return the tasks that may have ended: those of which we were told, and now and then all that run."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._looks_at:
            return [each for each in told if each in self._running]
        self._looks_at = loop.time() + self._rolling.look_seconds
        self._rolling.forget_expired(self.rollout.id)
        return list(self._running)

    async def _begin(self, server_ids: list[str], held: dict[str, str]) -> None:
        rings = self._rolling._rings
        tasks = [self._task(self._servers[each]) for each in server_ids]
        kept = await self._rolling.kept(self._store.rollout_step, self.rollout.id, tasks, held, rings.owner, rings.lease_seconds)
        self._running |= {task.id: task.server_id for task in kept}
        self._last |= {task.server_id: task.id for task in kept}
        rings.ring([task.id for task in kept], self._rolling._at_hand(self.rollout.id, server_ids))
        if len(kept) != len(tasks):
            raise Conflict("rollout_is_not", f"rollout {self.rollout.id} does not run any more, or has lost servers")

    def _task(self, server: RolloutServer) -> Task:
        rollout = self.rollout
        return Task(
            id=str(uuid.uuid4()),
            tenant_id=rollout.tenant_id,
            user_id=rollout.user_id,
            server_id=server.server_id,
            server_name=server.server_name,
            login=server.login,
            operation=rollout.operation,
            request=rollout.request | server.given | ({} if server.seen is None else {"seen": server.seen}),
            created_at=now(),
            retry_of=self._last.get(server.server_id),
            private=rollout.private,
            rollout_id=rollout.id,
        )

    async def _leave(self, state: RolloutState, reason: str) -> bool:
        rollout = self.rollout
        of = (rollout.tenant_id, rollout.id, state, reason)
        await self._rolling.off(self._store.change_rollout, *of, of=RUNNING, seen=rollout.changes)
        return True

    async def _something(self) -> None:
        """Wait until something has happened, or may have."""
        at, most = self._store.now(), self._rolling.look_seconds
        look = None if self.anew else self._progress.next_look(at)
        seconds = most if look is None else min(most, max(0.0, (look - at).total_seconds()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.bell.wait()
        self.bell.clear()


def _member(server: RolloutServer) -> Member:
    return Member(server.server_id, server.label, server.quorum, tuple(server.bastions), server.subnet)


def _under_way(server: RolloutServer) -> bool:
    return server.status is not None and server.status not in FINAL


def _ending(ended: EndedTask | RolloutServer) -> Ending:
    # A task that is not there any more has failed and was taken off the list.
    cause = None if ended.status in ("succeeded", "unchanged", "cancelled") else ended.cause or "unexpected"
    return Ending(cause, ended.server_state not in ("partial", "unknown"), ended.status != "cancelled")


def _past(server: RolloutServer, strategy: Strategy) -> Past:
    if _under_way(server):
        return Past(server.tries)
    ending = _ending(server)
    again = ending.heals and server.tries < strategy.tries and server.finished_at is not None
    again_at = server.finished_at + wait(server.server_id, server.tries) if again and server.finished_at else None
    forgiven = server.forgiven and ending.cause is not None
    return Past(server.tries, ending, again_at, held=server.held is not None, forgiven=forgiven)


def _told(progress: Progress, plans: bool) -> str:
    counts = progress.counts
    failed = "would be refused, or could not be looked at" if plans else "failed"
    left = [f"{counts['failed']} {failed}" if counts["failed"] else "", f"{counts['held']} not begun" if counts["held"] else ""]
    return ", ".join([f"{counts['done']} {'planned' if plans else 'as asked'}", *filter(None, left)])
