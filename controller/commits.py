"""Verbs of the store that wait at the same time are kept by one commit: a commit costs as much as all that many tasks write."""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from controller.errors import Away, Unavailable
from controller.store import Store
from controller.store.base import Done

P = ParamSpec("P")
T = TypeVar("T")
MOST_AT_ONCE = 64  # verbs in one transaction: other processes wait for it
AGAIN_SECONDS = 0.5  # before a store that is away is asked again


class Patience:
    """Asks a store that is away again, until it is back or this process is about to end."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    def end(self) -> None:
        """Wait for no store any more."""
        self._over.set()

    async def with_(self, ask: Callable[[], Awaitable[T]], *, seconds: float | None = None, twice: bool = False) -> T:
        """Return what asking returns. What was away has kept nothing, so it is asked again.

        seconds: for so long at most; None: until it is back.
        twice: what is asked may be done twice, so it is asked again too where nobody could say whether it was kept.
        """
        loop = asyncio.get_running_loop()
        until = None if seconds is None else loop.time() + seconds
        while True:
            try:
                return await ask()
            except Unavailable as away:
                passes = isinstance(away, Away) or (twice and away.code == "store_in_doubt")
                if not passes or self._over.is_set() or (until is not None and loop.time() >= until):
                    raise
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._over.wait()


class Commits:
    """Calls verbs of the store off the event loop. While one transaction is under way the next one gathers."""

    def __init__(self, store: Store, executor: Executor | None) -> None:
        self._store = store
        self._executor = executor
        self._waiting: list[tuple[contextvars.Context, Callable[[], Any], asyncio.Future[Any]]] = []
        self._busy = False

    async def kept(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a verb returns, once what it did is on the disk. It only reads and writes the store (Store.together).

        Called for whom this is (controller.events.acting). Once it was asked for it is done, whoever no longer waits for it.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((contextvars.copy_context(), partial(verb, *args, **kwargs), done))
        if len(self._waiting) == 1:
            loop.call_soon(self._go_on)  # after all else that is asked for at this moment
        return await done

    def _go_on(self) -> None:
        while self._waiting and not self._busy:
            self._begin()

    def _begin(self) -> None:
        now, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
        waiting = [done for _, _, done in now]
        verbs = [(context, verb) for context, verb, _ in now]
        try:
            # No task waits for it: those are all cancelled when the loop ends, and what was asked for is done all the same.
            work = asyncio.get_running_loop().run_in_executor(self._executor, self._store.together, verbs)
        except RuntimeError as error:  # the executor is shut
            _tell(waiting, [Done(None, error)] * len(waiting))
            return
        self._busy = True
        work.add_done_callback(partial(self._ended, waiting))

    def _ended(self, waiting: list[asyncio.Future[Any]], work: asyncio.Future[list[Done]]) -> None:
        self._busy = False
        # Who is told now may have the next thing to keep: that goes with what waits.
        asyncio.get_running_loop().call_soon(self._go_on)
        raised = asyncio.CancelledError() if work.cancelled() else work.exception()
        _tell(waiting, work.result() if raised is None else [Done(None, raised)] * len(waiting))


def _tell(waiting: list[asyncio.Future[Any]], found: list[Done]) -> None:
    for done, each in zip(waiting, found, strict=True):
        if done.done():  # who asked no longer waits
            continue
        if each.raised is None:
            done.set_result(each.returned)
        elif isinstance(each.raised, StopIteration):  # no future takes that one
            done.set_exception(RuntimeError(repr(each.raised)))
        else:
            done.set_exception(each.raised)
