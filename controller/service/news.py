"""That something has happened, and of what kind: for who looks again at what they have before them."""

import asyncio
from concurrent.futures import Executor

from controller.model import Caller
from controller.service.feed import Feed
from controller.service.roles import allow
from controller.service.worker import off_loop
from controller.store import Store

_MOST_ASKED = 1000


class News:
    """What has happened in the caller's tenant, by its kinds alone.

    Kinds are told of what the caller may not see too: that there was an event of such a kind, and nothing of it.
    """

    def __init__(self, store: Store, feed: Feed, executor: Executor | None = None) -> None:
        self._store = store
        self._feed = feed
        self._executor = executor
        # What the store said, by tenant, after which event, and the newest one there was: whoever waits beside asks the same.
        self._asked: dict[tuple[str, int, int], asyncio.Future[tuple[dict[str, int], int]]] = {}

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
            found, reached = await self._kinds(who.tenant_id, after, newest)
            left = until - loop.time()
            if found or left <= 0 or not await self._feed.after(max(newest, reached), left):
                return found, reached

    async def _kinds(self, tenant_id: str, after: int, newest: int) -> tuple[dict[str, int], int]:
        """Return what the store says; once for all who ask the same while nothing newer was seen."""
        key = (tenant_id, after, newest)
        if key not in self._asked:
            # From which event on is the caller's to say: nobody has as much kept here as they like.
            full = len(self._asked) >= _MOST_ASKED
            self._asked = {
                each: said for each, said in self._asked.items() if each[2] == newest and not (full and said.done())
            }  # fmt: skip
            self._asked[key] = asyncio.ensure_future(off_loop(self._executor, self._store.kinds_after, tenant_id, after))
        asked = self._asked[key]
        try:
            # Shielded: whoever leaves takes the answer from nobody.
            return await asyncio.shield(asked)
        finally:
            if asked.done() and (asked.cancelled() or asked.exception() is not None):
                self._asked.pop(key, None)
