"""How the caller's fleet stands, for the first page."""

import asyncio
from concurrent.futures import Executor

from controller.model import Caller
from controller.service.roles import allow
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.failures import Failing, Which
from controller.store.overviews import Standing

REST = 10.0  # after counting, so many times as long as that took
MOST_REST = 5.0  # seconds


class Overview:
    """Counts; however many look at it, and however often it changes, that takes no more than a share of the time."""

    def __init__(self, store: Store, executor: Executor | None = None) -> None:
        self._store = store
        self._executor = executor
        self._counted: dict[str, tuple[float, Standing, list[Failing]]] = {}  # by tenant: until when that will do

    async def standing(self, who: Caller) -> tuple[Standing, list[Failing]]:
        """Return how the tenant's fleet stands, and how many tasks stand failed by each cause; now or a moment ago."""
        for verb in ("server.see", "binding.see", "task.see"):
            allow(who, verb)
        loop = asyncio.get_running_loop()
        kept = self._counted.get(who.tenant_id)
        if kept is None or loop.time() >= kept[0]:
            began = loop.time()
            found = await off_loop(self._executor, self._store.fleet_standing, who.tenant_id)
            failing = await off_loop(self._executor, self._store.failing, who.tenant_id, Which())
            kept = (loop.time() + min(MOST_REST, REST * (loop.time() - began)), found, failing)
            self._counted[who.tenant_id] = kept
        return kept[1], kept[2]

    def forget(self) -> None:
        """Count anew at the next question."""
        self._counted.clear()
