"""What is done ever again in the background, whatever it meets."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from controller.errors import Problem
from controller.service.stopping import Stopping


async def _always() -> bool:
    return True


async def _nobody_else() -> None:
    """Where nobody shares the store, nobody else could go on."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one does for all that share a store. take: whether that is this process. leave: let another do it."""

    take: Callable[[], Awaitable[bool]] = _always
    leave: Callable[[], Awaitable[None]] = _nobody_else


ALWAYS = Turn()


async def ever_again(
    sweep: Callable[[], Awaitable[object]], seconds: float, stopping: Stopping | None = None, turn: Turn = ALWAYS
) -> None:
    """Do what is due, at once and whenever so many seconds have passed since; nothing more is begun once stopping has.

    What runs then may take its time to end: until it has, another one does what is due.

    Whoever cancels it has it end when a sweep that is under way has: that is at work on the store's thread, and the store is
    closed next.
    """
    while True:
        stops = stopping is not None and stopping.begun
        work = asyncio.ensure_future(turn.leave() if stops else _in_turn(sweep, turn))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise
        except Problem:
            pass  # of the home or its disk; every request says so too
        await asyncio.sleep(seconds)


async def _in_turn(sweep: Callable[[], Awaitable[object]], turn: Turn) -> None:
    if await turn.take():
        await sweep()
