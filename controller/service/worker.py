"""Blocking work, off the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def off_loop(executor: Executor | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what work returns, run in the executor (None: the loop's own) while the loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(executor, partial(work, *args, **kwargs))
