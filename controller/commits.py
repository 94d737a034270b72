"""Verbs of the store that wait at the same time are kept by one commit: a commit costs as much as all that many tasks write."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from controller.store import Store

P = ParamSpec("P")
T = TypeVar("T")
MOST_AT_ONCE = 64  # verbs in one transaction: other processes wait for it


class Commits:
    """Calls verbs of the store off the event loop. While one transaction is under way the next one gathers."""

    def __init__(self, store: Store, executor: Executor | None) -> None:
        self._store = store
        self._executor = executor
        self._waiting: list[tuple[contextvars.Context, Callable[[], Any], asyncio.Future[Any]]] = []
        self._work: asyncio.Task[None] | None = None

    async def kept(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a verb returns, once what it did is on the disk. It only reads and writes the store (Store.together).

        Called for whom this is (controller.events.acting). Once it was asked for it is done, whoever no longer waits for it.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._waiting.append((contextvars.copy_context(), partial(verb, *args, **kwargs), done))
        if self._work is None or self._work.done():
            self._work = loop.create_task(self._keep())
        return await done

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            now, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            try:
                found = await loop.run_in_executor(
                    self._executor, self._store.together, [(context, verb) for context, verb, _ in now]
                )
            except asyncio.CancelledError:
                for _, _, done in now:
                    done.cancel()
                raise
            except Exception as error:  # the executor's own: it is shut
                for _, _, done in now:
                    if not done.done():
                        done.set_exception(error)
                continue
            for (_, _, done), each in zip(now, found, strict=True):
                if done.done():  # who asked no longer waits
                    continue
                if each.raised is None:
                    done.set_result(each.returned)
                else:
                    done.set_exception(each.raised)
