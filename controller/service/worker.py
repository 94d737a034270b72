"""Blocking work, off the event loop."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def off_loop(executor: Executor | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what work returns, run in the executor (None: the loop's own) while the loop goes on.

    It sees the context of who calls: on whose behalf it works (controller.events.acting).
    """
    here = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(executor, partial(here.run, work, *args, **kwargs))
