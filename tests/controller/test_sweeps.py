"""What is done ever again: it goes on after what fails, begins nothing once all stops, and is not left in the middle."""

import asyncio
import contextlib

import pytest

from controller.errors import Unavailable
from controller.service.stopping import Stopping
from controller.service.sweeps import Turn, ever_again

SOON = 30


async def cancelled(running: "asyncio.Task[None]") -> None:
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


def test_it_goes_on_after_what_the_home_refuses():
    async def run() -> None:
        done: list[int] = []
        enough = asyncio.Event()

        async def sweep() -> None:
            done.append(len(done))
            if len(done) == 3:
                enough.set()
            raise Unavailable("store_unusable", "the disk is full")

        running = asyncio.create_task(ever_again(sweep, 0))
        await asyncio.wait_for(enough.wait(), SOON)
        await cancelled(running)

    asyncio.run(run())


def test_a_fault_of_ours_ends_it_and_is_told_by_its_task():
    async def run() -> None:
        async def sweep() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await ever_again(sweep, 0)

    asyncio.run(run())


def test_what_is_under_way_comes_to_its_end_before_it_does():
    async def run() -> None:
        begun, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def sweep() -> None:
            begun.set()
            await go.wait()
            ended.set()

        running = asyncio.create_task(ever_again(sweep, SOON))
        await asyncio.wait_for(begun.wait(), SOON)
        running.cancel()
        for _ in range(10):
            await asyncio.sleep(0)  # a round of the loop, in which it has its turn
        assert not running.done()
        go.set()
        await asyncio.wait([running], timeout=SOON)
        assert ended.is_set()
        assert running.cancelled()

    asyncio.run(run())


def test_nothing_is_begun_once_all_stops():
    async def run() -> None:
        stopping, rounds = Stopping(), 0

        async def sweep() -> None:
            nonlocal rounds
            rounds += 1
            stopping.begin()

        running = asyncio.create_task(ever_again(sweep, 0, stopping))
        for _ in range(10):
            await asyncio.sleep(0)  # a round of the loop, in which it has its turn
        await cancelled(running)
        assert rounds == 1

    asyncio.run(run())


def test_once_all_stops_the_turn_is_another_s():
    async def run() -> None:
        stopping, told = Stopping(), []
        left = asyncio.Event()

        async def take() -> bool:
            told.append("taken")
            return True

        async def leave() -> None:
            told.append("left")
            left.set()

        async def sweep() -> None:
            told.append("done")
            stopping.begin()

        running = asyncio.create_task(ever_again(sweep, 0, stopping, Turn(take, leave)))
        await asyncio.wait_for(left.wait(), SOON)
        await cancelled(running)
        assert told[:3] == ["taken", "done", "left"]
        assert "taken" not in told[3:]

    asyncio.run(run())
