"""Runs the tasks of one process, one at a time on each server, and records how each ended."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from controller.causes import CAUSES
from controller.errors import Problem, Unavailable
from controller.events import Actor, acting
from controller.kms import Kms
from controller.model import Credential, Outcome, Task
from controller.run.aftermath import told_by_server
from controller.run.course import done
from controller.run.failing import failed
from controller.run.job import Job
from controller.run.means import Means
from controller.run.preparing import recall
from controller.settings import Settings
from controller.store import Store
from kpsagent.errors import Failed, Refused, Stop

_SETTLE_APART_SECONDS = 0.02  # hundreds of servers that stay away, asked all at once, would hold up whoever looks at a page
_TIDY_SECONDS = 1.0


class Runner:
    """Runs tasks for one process."""

    def __init__(self, store: Store, kms: Kms, settings: Settings, owner: str, executor: Executor | None) -> None:
        self.means = Means(store, kms, settings, owner, executor)
        self._on_server: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.ended: Callable[[Task], None] = lambda task: None  # told of each that was run
        self._tidying: asyncio.TimerHandle | None = None

    async def run(self, task: Task, given: Credential | None) -> None:
        """Carry out a task that has been claimed, and record how it ended. Never raises for what went wrong with it."""
        acting.set(Actor(task.tenant_id, task.user_id, task.id))
        job = Job(self.means, task, given)
        try:
            await self._ended(task, job)
        finally:
            job.forget()
            self._tidy()
            self.ended(task)

    async def _ended(self, task: Task, job: Job) -> None:
        try:
            await recall(job)
            await self._settle_before(task, job.given)
            async with self._one_at_a_time(task.server_id):
                outcome, changes = await done(job)
        except asyncio.CancelledError:
            outcome = failed(job, Failed("interrupted", "the controller was told to stop"))
            job.measured(outcome)
            self.means.patience.end()  # who stops waits for no store
            await self._finish(task, outcome, {})
            raise
        except Stop as stop:
            outcome, changes = failed(job, stop), {}
        except Problem as problem:
            code = problem.code if problem.code in CAUSES else "unexpected"
            kind = Failed if job.handed_over else Refused
            outcome, changes = failed(job, kind(code, problem.message, **problem.evidence)), {}
        except Exception as error:  # whatever it is, the task must not stay open, and nobody else would say it
            outcome, changes = failed(job, Failed("unexpected", f"{type(error).__name__}: {error}")), {}
        job.measured(outcome)
        await self._finish(task, replace(outcome, private=job.private), changes)

    def _tidy(self) -> None:
        """Have soon collected what goes in circles: how a task stopped holds its frames, and those what opened its server."""

        def collect() -> None:
            self._tidying = None
            gc.collect()

        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(_TIDY_SECONDS, collect)

    async def _settle_before(self, task: Task, given: Credential | None) -> None:
        """What is on record decides what a task wants and how it gets in, so that is brought up to date first."""
        for other in await self.means.kept(self.means.store.unsettled, task.server_id):
            kept = given
            if given is not None and given.password_of is None and other.login != task.login:
                # Seen from another login's task it would be that login's password, and shown to its sessions.
                kept = replace(given, password=None)
            await self.settle(other, kept)

    async def settle(self, task: Task, given: Credential | None = None) -> bool:
        """Have the server of an ended task say how it was left, where nobody heard that; return whether it is on record now.

        Never raises for what went wrong: the server may be away still.
        """
        job = Job(self.means, task, given)
        try:
            async with self._one_at_a_time(task.server_id):
                found = await told_by_server(job)
        except Exception:  # whatever it is: what is not known yet is asked for again
            return False
        finally:
            job.forget()
            self._tidy()
        if found is None:
            return False
        state, changes = found
        return await self.means.off(partial(self.means.store.settle, task.id, state, **changes))

    async def settle_all(self, due: Callable[[Task], bool]) -> list[Task]:
        """Settle each task that is due and whose server nobody works on now; return those that nobody could settle."""
        tasks = await self.means.at_once(self.means.store.unsettled)
        wanted = [task for task in tasks if due(task)]
        places = asyncio.Semaphore(self.means.settings.concurrency)

        async def settled(number: int, task: Task) -> bool:
            await asyncio.sleep(number * _SETTLE_APART_SECONDS)
            async with places:
                return await self.settle(task)

        known = await asyncio.gather(*(settled(number, task) for number, task in enumerate(wanted)))
        return [task for task, is_known in zip(wanted, known, strict=True) if not is_known]

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, server_id: str) -> AsyncIterator[None]:
        """In this process nobody else is on this server within the block: an agent that finds another there gives up at once."""
        lock = self._on_server.setdefault(server_id, asyncio.Lock())
        async with lock:
            yield

    async def _finish(self, task: Task, outcome: Outcome, changes: dict[str, Any]) -> None:
        """Record how a task has ended: however long the store is away, for that is known here alone."""
        means = self.means
        finish = partial(means.commits.kept, means.store.finish, task.id, means.owner, task.generation, outcome, **changes)
        await means.patience.with_(finish, twice=True)  # the second time it is not ours any more

    # -- what dispatch asks of the store

    async def claim(self, task_id: str, owner: str, lease_seconds: float) -> Task | None:
        """Take a task. However long the store is away: what nobody has begun loses nothing by waiting."""
        means = self.means
        try:
            return await means.patience.with_(partial(means.commits.kept, means.store.claim, task_id, owner, lease_seconds))
        except Unavailable as doubt:
            if doubt.code != "store_in_doubt":
                raise
        # Nobody else has this name, and nobody here asks for one task twice: where it is ours it was claimed just now.
        found = await means.patience.with_(partial(means.at_once, means.store.tasks, None, ids=[task_id]))
        return next((task for task in found if task.status == "running" and task.lease_owner == owner), None)

    async def renew(self, task_ids: Collection[str], owner: str, lease_seconds: float) -> set[str]:
        return await self.means.at_once(self.means.store.renew, task_ids, owner, lease_seconds)

    async def is_ready(self, task_id: str) -> bool:
        return any(task.status == "ready" for task in await self.means.off(self.means.store.tasks, None, ids=[task_id]))

    async def for_anybody(self, task_ids: Collection[str]) -> list[Task]:
        return await self.means.at_once(self.means.store.for_anybody, task_ids)

    async def waiting_ids(self) -> list[str]:
        return await self.means.at_once(self.means.store.waiting_ids)

    async def open_ids(self) -> list[str]:
        return await self.means.at_once(self.means.store.open_ids)

    async def abandon(self, owner: str) -> None:
        await self.means.at_once(self.means.store.abandon, owner)
