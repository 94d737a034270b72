"""That something has happened: one look at the store for everybody who waits for it."""

import asyncio
from concurrent.futures import Executor

from controller.service.stopping import Stopping
from controller.service.worker import off_loop
from controller.store import Store

LOOK_SECONDS = 0.05  # how often it is looked for what other processes of the same home have done


class Feed:
    """The newest event there is, as last seen. While nobody waits nobody looks."""

    def __init__(self, store: Store, executor: Executor | None, stopping: Stopping) -> None:
        self.newest = 0  # its id; of whatever tenant
        self._store = store
        self._executor = executor
        self._stopping = stopping
        self._looking: asyncio.Task[None] | None = None

    async def after(self, newest: int, seconds: float) -> bool:
        """Return whether an event newer than this one came; False after so many seconds, or where the controller stops."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.newest <= newest and loop.time() < until and not self._stopping.over:
            if self._looking is None or self._looking.done():
                self._looking = loop.create_task(self._look())
            # Shielded: the others wait for the same look.
            await asyncio.wait([self._looking], timeout=max(0.0, until - loop.time()))
            if self._looking.done():
                self._looking.result()
        return self.newest > newest

    async def _look(self) -> None:
        await self._stopping.rest(LOOK_SECONDS)
        self.newest = await off_loop(self._executor, self._store.newest_event)
