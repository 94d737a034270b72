"""What the tasks of one process share: the store off the event loop, the key service, and what limits them together."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar

from controller.commits import Commits, Patience
from controller.keysgiven import KeysGiven
from controller.kms import Kms
from controller.measures import UNMEASURED
from controller.ruled import Ruled
from controller.settings import Settings
from controller.store import Store
from controller.transport.jumps import Places, SharedPlaces
from controller.transport.pace import Pace

T = TypeVar("T")
PATIENCE_SECONDS = 300.0  # that a store which is away is waited for within a task


class Means:
    """What tasks are run with. owner: this process, as a lease names it."""

    def __init__(self, store: Store, kms: Kms, settings: Settings, owner: str, executor: Executor | None) -> None:
        self.store = store
        self.kms = kms
        self.settings = settings
        self.owner = owner
        self._executor = executor
        self.ruled = Ruled(store)
        self.commits = Commits(store, executor)  # many tasks write at the same time
        self.patience = Patience()
        self.pace = Pace()
        self.keys_given = KeysGiven()
        most = settings.jump_connections
        turns = partial(self.off, store.take_turn), partial(self.off, store.leave_turn)
        self.places = SharedPlaces(most, *turns) if store.shared else Places(most)
        self.measures = UNMEASURED

    async def kept(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what a verb of the store returns, kept with what others write. A store that is away is waited for."""
        return await self.patience.with_(partial(self.commits.kept, verb, *args, **kwargs), seconds=PATIENCE_SECONDS)

    async def off(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a verb of the store, or of the key service, off the event loop. A store that is away is waited for."""
        return await self.patience.with_(partial(self.at_once, verb, *args, **kwargs), seconds=PATIENCE_SECONDS)

    async def at_once(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Do the same, and wait for no store."""
        here = contextvars.copy_context()  # on whose behalf this is, for the events
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(here.run, verb, *args, **kwargs))
