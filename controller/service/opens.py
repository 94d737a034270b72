"""Whether the root key of this process opens what is in the store."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from controller.errors import Away, Problem
from controller.service.worker import off_loop

# It may be far away, and is asked where the store is asked.
AGAIN_SECONDS = 10.0


class Opens:
    """Whoever cannot open anything leaves to others what needs it: of many who share a store one may lack the root key."""

    def __init__(self, open_root: Callable[[], object], executor: Executor | None = None) -> None:
        """open_root: opens it, and sees that it is the one; does nothing where it is open."""
        self._open_root = open_root
        self._executor = executor
        self.why: Problem | None = None  # it did not, when it was looked at last
        self._found = False
        self._look_at = float("-inf")
        self._one = asyncio.Lock()

    async def __call__(self) -> bool:
        """Say whether it opens, or did a moment ago."""
        loop = asyncio.get_running_loop()
        async with self._one:
            if loop.time() >= self._look_at:
                try:
                    await off_loop(self._executor, self._open_root)
                    self._found, self.why = True, None
                except Problem as problem:
                    self.why = problem
                    if not isinstance(problem, Away):  # of the store: nothing is known that was not known before
                        self._found = False
                self._look_at = loop.time() + AGAIN_SECONDS
            return self._found
