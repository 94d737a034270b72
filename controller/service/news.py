"""That something has happened, and of what kind: for who looks again at what they have before them."""

import asyncio
from concurrent.futures import Executor

from controller.model import Caller
from controller.service.feed import Feed
from controller.service.roles import allow
from controller.service.worker import off_loop
from controller.store import Store


class News:
    """What has happened in the caller's tenant, by its kinds alone.

    Kinds are told of what the caller may not see too: that there was an event of such a kind, and nothing of it.
    """

    def __init__(self, store: Store, feed: Feed, executor: Executor | None = None) -> None:
        self._store = store
        self._feed = feed
        self._executor = executor

    async def newest(self) -> int:
        """Return the id of the newest event there is, of whatever tenant."""
        return await off_loop(self._executor, self._store.newest_event)

    async def after(self, who: Caller, after: int, seconds: float) -> tuple[dict[str, int], int]:
        """Return the kinds of what happened after an event, each with how often, and up to which event; waits for some.

        None after so many seconds, or where the controller stops.
        """
        allow(who, "event.see")
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while True:
            newest = self._feed.newest
            found, reached = await off_loop(self._executor, self._store.kinds_after, who.tenant_id, after)
            left = until - loop.time()
            if found or left <= 0 or not await self._feed.after(max(newest, reached), left):
                return found, reached
