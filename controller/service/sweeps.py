"""What is done ever again in the background, whatever it meets."""

import asyncio
from collections.abc import Awaitable, Callable

from controller.errors import Problem
from controller.service.stopping import Stopping

Turn = Callable[[], Awaitable[bool]]


async def always() -> bool:
    """It is always this process's turn."""
    return True


async def ever_again(
    sweep: Callable[[], Awaitable[object]], seconds: float, stopping: Stopping | None = None, turn: Turn = always
) -> None:
    """Do what is due, at once and whenever so many seconds have passed since; nothing more is begun once stopping has.

    turn: whether it is for this process to do, of all that share a store.

    Whoever cancels it has it end when a sweep that is under way has: that is at work on the store's thread, and the store is
    closed next.
    """
    while True:
        if stopping is None or not stopping.begun:
            work = asyncio.ensure_future(_in_turn(sweep, turn))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])
                raise
            except Problem:
                pass  # of the home or its disk; every request says so too
        await asyncio.sleep(seconds)


async def _in_turn(sweep: Callable[[], Awaitable[object]], turn: Turn) -> None:
    if await turn():
        await sweep()
