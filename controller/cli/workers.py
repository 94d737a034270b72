"""kps worker: processes that run the tasks of a home on PostgreSQL."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from controller.cli import output
from controller.cli.command import command
from controller.cli.exits import ALL_AS_ASKED
from controller.cli.session import Session, complain, through_with_start
from controller.errors import Problem

_MOST = 256
_AGAIN_SECONDS = 1.0
_MOST_SECONDS = 256.0  # between two tries to have another one in the place of one that worked: what it needs may be away
_LOOK_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Add the command."""

    @command(app, "worker", "kps worker", "kps worker --processes 4", "KPS_DATABASE_URL=postgresql://kps@db/kps kps worker")
    async def worker(
        session: Session,
        *,
        processes: Annotated[int, typer.Option("--processes", min=1, max=_MOST, help="How many; one for each core.")] = 1,
        of: Annotated[int | None, typer.Option("--of", hidden=True)] = None,
    ) -> int:
        """Run tasks together with every kps serve and kps worker of the same PostgreSQL, until interrupted.

        What runs when it is told to stop comes to its end first, for KPS_STOP_SECONDS at most; told again it stops at once. What
        a worker has begun that dies is interrupted once it is heard no more (KPS_LEASE_SECONDS), and what it has not begun others
        take.
        """
        session.at_home("this command")
        settings = session.settings()
        if processes > 1:
            return await _supervised(settings.home, processes, session.json)
        from controller.app import work
        from controller.privacy import forget_what_is_freed, keep_out_of_swap

        forget_what_is_freed()
        through_with_start()
        kept_out = keep_out_of_swap()

        def ready() -> None:
            if session.json:
                output.as_json({"home": str(settings.home), "pid": os.getpid(), "out_of_swap": kept_out})
                return
            output.say(f"working for {settings.home}")
            if not kept_out:
                output.say("its memory may be swapped out: encrypt the swap, or allow it LimitMEMLOCK=infinity")

        def warn(problem: Problem) -> None:
            complain(problem.code, problem.message, json=session.json)

        def waits(tasks: int, seconds: float) -> None:
            told = f"stopping once what runs has ended ({tasks}), in {seconds:g} s at most; told to stop again, it stops at once"
            complain("stopping", told, json=session.json)

        leaving = None if of is None else asyncio.create_task(_leave_with(of))
        try:
            await work(settings, ready, warn, waits)
        finally:
            if leaving is not None:
                leaving.cancel()
        return ALL_AS_ASKED


async def _leave_with(parent: int) -> None:
    """Stop, as if told to, once the process that started this one is gone."""
    while os.getppid() == parent:  # noqa: ASYNC110 (nobody tells)
        await asyncio.sleep(_LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


async def _supervised(home: Path, processes: int, as_json: bool) -> int:
    """Run so many workers until told to stop; one that ends by itself is started again."""
    from controller import supervisor

    through_with_start()
    async with _told_to_stop() as (told, children):
        first = [asyncio.Event() for _ in range(processes)]
        running = [asyncio.create_task(_one(home, as_json, told, children, each)) for each in first]

        async def all_ready() -> None:
            for each in first:
                await each.wait()
            supervisor.notify("READY=1", f"MAINPID={os.getpid()}")
            output.as_json({"home": str(home), "pids": sorted(children)}) if as_json else output.say(
                f"working for {home}, {processes} processes"
            )

        telling = asyncio.create_task(all_ready())
        ended = await asyncio.gather(*running)
        telling.cancel()
    return max(ended, default=ALL_AS_ASKED)


@asynccontextmanager
async def _told_to_stop() -> AsyncIterator[tuple[asyncio.Event, dict[int, asyncio.subprocess.Process]]]:
    """Give what says that this process was told to stop, and its children, who are told the same each time."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    children: dict[int, asyncio.subprocess.Process] = {}

    def stop() -> None:
        told.set()
        tell(children)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield told, children
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _one(
    home: Path, as_json: bool, told: asyncio.Event, children: dict[int, asyncio.subprocess.Process], ready: asyncio.Event
) -> int:
    words = [sys.executable, "-P", "-m", "controller.cli", "worker", "--home", str(home), "--of", str(os.getpid())]
    words += ["--json"] if as_json else []
    environment = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    pause, was_ever_ready = _AGAIN_SECONDS, False
    while True:
        was_ready = False
        # A group of its own: Ctrl-C is told by this process alone, and once.
        child = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, env=environment, start_new_session=True
        )
        children[child.pid] = child
        if told.is_set():
            tell({child.pid: child})
        try:
            if child.stdout is not None and await child.stdout.readline():
                was_ready = was_ever_ready = True
                ready.set()
            code = await child.wait()
        finally:
            del children[child.pid]
        if told.is_set():
            return code
        if was_ready:
            pause = _AGAIN_SECONDS
        # The next one would end as this one did. Others that live have tasks, which wait with them for what is away.
        elif not was_ever_ready or (pause >= _MOST_SECONDS and not children):
            told.set()
            tell(children)
            return code or 1
        complain("worker_ended", f"a worker has ended by itself ({code}); another one is started in {pause:g} s", json=as_json)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await told.wait()
        if told.is_set():
            return code
        pause = min(2 * pause, _MOST_SECONDS)


def tell(children: Mapping[int, asyncio.subprocess.Process]) -> None:
    """Tell workers to stop."""
    for child in children.values():
        with suppress(ProcessLookupError):
            child.send_signal(signal.SIGTERM)
