"""Which task runs now, and that no two run on one server.

A ring may be lost: the task's row is the truth, and a sweep rings again.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from time import monotonic
from typing import Protocol

from controller.errors import Problem
from controller.model import SERVING, Credential, Task

LEASE_SECONDS = 30.0
_AFTER_URGENT_SECONDS = 1.0
_HELD_AGAIN_SECONDS = 1.0  # after the store could not be written


class Claims(Protocol):
    """What dispatch needs of the store, off the event loop."""

    async def claim(self, task_id: str, owner: str, lease_seconds: float) -> Task | None: ...
    async def renew(self, task_ids: Collection[str], owner: str, lease_seconds: float) -> set[str]: ...
    async def is_ready(self, task_id: str) -> bool: ...
    async def abandon(self, owner: str) -> None: ...


Run = Callable[[Task, Credential | None], Awaitable[None]]
Place = contextlib.AbstractAsyncContextManager[None]


def owner_name(serving: bool = False) -> str:
    """Return a name for this process that no other has, nor will have."""
    return f"{SERVING if serving else ''}{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"


class InProcess:
    """Runs tasks in this process, up to concurrency at a time; credentials are kept in memory until their task has ended.

    Tasks are added as held by owner, for lease_seconds; from the ring on their lease is renewed here until they have
    ended. So a task whose lease ran out is one whose process is gone, and whose credentials are.
    """

    another_look_seconds = 0.1  # at a task that something stands in the way of

    def __init__(
        self,
        claims: Claims,
        run: Run,
        owner: str,
        concurrency: int,
        lease_seconds: float = LEASE_SECONDS,
        *,
        among_others: bool = False,
    ) -> None:
        """among_others: on other machines tasks of the same store are run too."""
        self.owner = owner
        self.lease_seconds = lease_seconds
        self._claims = claims
        self._run = run
        self._places = asyncio.Semaphore(concurrency)
        # What is urgent waits for nobody's place; while some of it waits the store gives out nothing else of its tenant.
        self._urgent_places = asyncio.Semaphore(concurrency)
        self._urgent: set[str] = set()
        self._calm = asyncio.Event()
        self._calm.set()
        self._working: set[asyncio.Task[None]] = set()
        self._begun: set[asyncio.Task[None]] = set()  # of these: what has claimed its task, or is about to
        self._claiming: set[asyncio.Task[None]] = set()  # of these: the store is at it, and cannot be called off
        self._held: set[str] = set()
        self._here: set[str] = set()  # what runs, or is about to
        self._heart: asyncio.Task[None] | None = None
        self._has_held = False
        self._draining = False
        self._closed = False
        self._among_others = among_others
        self._judges_from = 0.0
        self._keep(())

    @property
    def running(self) -> int:
        """How many tasks run."""
        return len(self._begun)

    def ring(self, task_ids: Collection[str], credentials: Mapping[str, Credential], *, urgent: bool = False) -> None:
        """Say that these tasks wait, with what opens their servers, by server id. urgent: ahead of all that are not."""
        self._keep(task_ids)
        for task_id in task_ids:
            self._answering(task_id, credentials, urgent)

    def _keep(self, task_ids: Collection[str]) -> None:
        """Renew the leases of these tasks from now on."""
        self._held.update(task_ids)
        self._has_held = self._has_held or bool(self._held)
        if self._beats and (self._heart is None or self._heart.done()):
            self._heart = asyncio.get_running_loop().create_task(self._beat())

    @property
    def _beats(self) -> bool:
        return self._among_others or bool(self._held)

    def _answering(
        self, task_id: str, credentials: Mapping[str, Credential], urgent: bool, place: Place | None = None
    ) -> asyncio.Task[None]:
        if urgent:
            self._urgent.add(task_id)
            self._calm.clear()
        place = place or (self._urgent_places if urgent else self._places)
        working = asyncio.get_running_loop().create_task(self._answer(task_id, credentials, place))
        self._working.add(working)
        working.add_done_callback(self._working.discard)
        return working

    def called_off(self, task_id: str) -> None:
        """Say that a task is not to be run any more: nothing waits for it to go first, though it has no place yet to see that."""
        self._held.discard(task_id)
        self._waits_no_more(task_id)

    @property
    def may_judge(self) -> bool:
        """Whether who is not heard any more is dead. Not soon after the store was away, or slow: others were not heard either."""
        return monotonic() >= self._judges_from

    async def hold(self) -> None:
        """Renew, now, the leases of all that is held here; what the store raises.

        Among others also where nothing is held: who judges them has to have seen all the time that they could be heard.
        """
        asked = set(self._held)
        if self._beats:
            with self._noticing():
                self._are_ours(asked, await self._claims.renew(asked, self.owner, self.lease_seconds))

    def _are_ours(self, asked: set[str], ours: set[str]) -> None:
        """Take note of which of these tasks are held here still."""

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        """Notice where the store does not answer within the block, or late."""
        began, answered = monotonic(), False
        try:
            yield
            # They ask as often as this, and one whose question waits as long as this one did is heard just in time.
            answered = monotonic() - began < self.lease_seconds / 3
        finally:
            if not answered and self._among_others:
                self._judges_from = monotonic() + self.lease_seconds

    async def idle(self) -> None:
        """Wait until nothing that was rung for is left."""
        while self._working:
            await asyncio.wait(self._working)

    async def drain(self) -> None:
        """Begin nothing more, and wait until what runs has ended. What waits goes on being held."""
        self._draining = True
        while self._begun:
            await asyncio.wait(self._begun)

    async def close(self) -> None:
        """Stop: what runs is let go, and its server undoes what was not confirmed; what waits is given up, or handed on."""
        self._draining = self._closed = True
        for working in self._working - self._claiming:
            working.cancel()
        if self._working:
            await asyncio.wait(self._working)
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait([self._heart])
        if self._has_held:
            await self._claims.abandon(self.owner)

    async def _answer(self, task_id: str, credentials: Mapping[str, Credential], place: Place) -> None:
        try:
            async with place:
                try:
                    task = await self._claimed(task_id)
                finally:
                    self._waits_no_more(task_id)
                if task is not None:
                    await self._run(task, credentials.get(task.server_id))
        finally:
            me = _current()
            # What was not begun is held until it is handed on.
            if not self._draining or me in self._begun:
                self._held.discard(task_id)
            self._begun.discard(me)
            self._here.discard(task_id)

    async def _claimed(self, task_id: str) -> Task | None:
        """Return the task, claimed; None where somebody else has it, it is over, or nothing more is begun."""
        me = _current()
        while not self._draining:
            self._begun.add(me)
            self._here.add(task_id)
            self._claiming.add(me)
            try:
                task = await self._claims.claim(task_id, self.owner, self.lease_seconds)
            finally:
                self._claiming.discard(me)
            if task is not None:
                self._keep([task_id])
                if self._closed:
                    me.cancel()  # it runs, so it has to be recorded how that ended
                return task
            self._begun.discard(me)
            self._here.discard(task_id)
            if not await self._claims.is_ready(task_id):
                self._held.discard(task_id)
                return None
            await self._something(task_id)
        return None

    async def _something(self, task_id: str) -> None:
        """Wait for a moment: another task of this server runs, here or in another process, or an urgent one goes first."""
        if not self._urgent or task_id in self._urgent:
            await asyncio.sleep(self.another_look_seconds)
            return
        # So many look at once that they would hold up what they wait for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_AFTER_URGENT_SECONDS):
                await self._calm.wait()

    def _waits_no_more(self, task_id: str) -> None:
        self._urgent.discard(task_id)
        if not self._urgent:
            self._calm.set()

    async def _beat(self) -> None:
        """Hold what is held. What was handed on all the same is not ours any more: the server refuses its generation."""
        wait = self.lease_seconds / 3
        while self._beats:
            await asyncio.sleep(wait)
            wait = self.lease_seconds / 3
            try:
                await self.hold()
            except Problem:
                wait = min(wait, _HELD_AGAIN_SECONDS)  # a full disk or a server that is away: every request says so too


def _current() -> asyncio.Task[None]:
    found = asyncio.current_task()
    if found is None:
        raise RuntimeError("this runs in a task")
    return found
