"""Tasks of a database that several controllers share: each is run by whichever takes it from the queue."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from controller.dispatch import Claims, InProcess, Run
from controller.dispatch.queue import Queue
from controller.errors import Problem
from controller.model import Credential, Task

_AT_ONCE = 5000  # ids in one question
_AGAIN_SECONDS = 1.0
_GOODBYE_SECONDS = 10.0
_NO_PLACE: contextlib.nullcontext[None] = contextlib.nullcontext()


class SharedClaims(Claims, Protocol):
    """What it needs of the store besides."""

    async def for_anybody(self, task_ids: Collection[str]) -> list[Task]: ...
    async def waiting_ids(self) -> list[str]: ...
    async def open_ids(self) -> list[str]: ...


class Shared(InProcess):
    """Runs in this process what needs its memory, and puts all else into the queue; takes from it what it has places for.

    What it has put there is held here all the same until somebody begins it: so it is handed on where this process dies.
    """

    another_look_seconds = 0.5  # all look at one database

    def __init__(
        self,
        claims: SharedClaims,
        run: Run,
        owner: str,
        concurrency: int,
        lease_seconds: float,
        queue: Queue,
        urgent: Collection[str],
    ) -> None:
        """urgent: the operations that go ahead of all others."""
        super().__init__(claims, run, owner, concurrency, lease_seconds, among_others=True)
        self._shared = claims
        self._queue = queue
        self._concurrency = concurrency
        self._urgent_operations = urgent
        self._opens: Callable[[], Awaitable[bool]] | None = None
        self._putting: set[asyncio.Task[None]] = set()
        self._taking: asyncio.Task[None] | None = None

    def ring(self, task_ids: Collection[str], credentials: Mapping[str, Credential], *, urgent: bool = False) -> None:
        """As InProcess does; credentials are for those tasks that have to run here."""
        if not task_ids:
            return
        self._keep(task_ids)
        putting = asyncio.get_running_loop().create_task(self._put(list(task_ids), credentials, urgent))
        self._putting.add(putting)
        putting.add_done_callback(self._putting.discard)

    async def take(self, opens: Callable[[], Awaitable[bool]]) -> None:
        """Take from the queue what there are places for, from now on.

        opens: whether the root key does. Who takes a task without it fails it, at once, and takes the next: soon all there are.
        """
        self._opens = opens
        await self.see_what_opens()
        self._taking = asyncio.get_running_loop().create_task(self._queue.take(self._taken, self._concurrency))

    async def see_what_opens(self) -> None:
        """Take nothing as long as the root key does not open."""
        if self._opens is not None:
            self._queue.rests = not await self._opens()

    async def ring_again(self) -> None:
        """Put into the queue what waits and is not in it, and take from it what dead processes had. Away."""
        with self._noticing():
            if self.may_judge:
                await self._queue.end_stalled()
            await self._queue.end_over(set(await self._shared.open_ids()))
            lacking = await self._queue.lacking(await self._shared.waiting_ids())
            tasks = await self._for_anybody(lacking)
        for urgent in (True, False):
            await self._queue.put([each for each in tasks if (each.operation in self._urgent_operations) is urgent], urgent)

    def _are_ours(self, asked: set[str], ours: set[str]) -> None:
        self._held -= asked - ours - self._here  # another process has begun it

    async def idle(self) -> None:
        """Wait until nothing is left of what was rung for and runs here."""
        while self._putting:
            await asyncio.wait(self._putting)
        await super().idle()

    async def drain(self) -> None:
        self._draining = True
        self._queue.stop()
        await super().drain()

    async def close(self) -> None:
        self._queue.stop()
        for putting in self._putting:
            putting.cancel()
        try:
            if self._putting:
                await asyncio.wait(self._putting)
            await super().close()
        finally:
            if self._taking is not None:
                # What keeps it from saying goodbye is known to the others by its silence.
                await asyncio.wait([self._taking], timeout=_GOODBYE_SECONDS)
                self._taking.cancel()
            await self._queue.close()

    async def _put(self, task_ids: list[str], credentials: Mapping[str, Credential], urgent: bool) -> None:
        while True:
            try:
                for_anybody = await self._for_anybody(task_ids)
                break
            except Problem:  # they are held here meanwhile, and some of them nobody else can run
                await asyncio.sleep(_AGAIN_SECONDS)
        shared = {each.id for each in for_anybody}
        super().ring([each for each in task_ids if each not in shared], credentials, urgent=urgent)
        await self._queue.put(for_anybody, urgent)

    async def _taken(self, task_id: str, urgent: bool) -> None:
        # A job may come twice.
        if not self._draining and task_id not in self._here:
            await asyncio.wait([self._answering(task_id, {}, urgent, _NO_PLACE)])  # the queue counts what is taken

    async def _for_anybody(self, task_ids: Sequence[str]) -> list[Task]:
        found = []
        for start in range(0, len(task_ids), _AT_ONCE):
            found += await self._shared.for_anybody(task_ids[start : start + _AT_ONCE])
        return found
