"""For scripts without asyncio: the controller that `kps` would ask, and what opens its servers.

from controller.scripts import client

with client() as kps:
    print([server["name"] for server in kps.servers(["stage=prod"])])

The client is the KpsClient of controller.client, whose verbs are written once for it and for the async one. Here it is only
found out which controller is meant, by the words that `kps` goes by (--profile, --home, KPS_URL, KPS_PROFILE, KPS_HOME).
"""

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from controller.cli.session import home_of, somebody_listens
from controller.cli.where import network
from controller.client import AsyncKpsClient, KpsClient
from controller.client.call import Flowing
from controller.client.reaching import Hop, way, ways
from controller.client.refusals import Refused
from controller.settings import Settings

__all__ = ["Controller", "Hop", "client"]

T = TypeVar("T")


@contextlib.contextmanager
def client(profile: str | None = None, home: str | os.PathLike[str] | None = None) -> Iterator[KpsClient]:
    """Give a client of the controller that is meant: on the network, or the home's; with nobody serving it, in this process.

    profile, home: as --profile and --home. Declined (controller.cli.exits): what is said there cannot be used.
    """
    meant = network(None if home is None else os.fspath(home), profile)
    if meant is not None:
        with KpsClient.over_network(meant.remote()) as over_network:
            yield over_network
        return
    settings = Settings.read(Path(os.path.abspath(home_of(None if home is None else os.fspath(home)))))
    if somebody_listens(settings.socket):
        with KpsClient.over_socket(settings.socket) as over_socket:
            yield over_socket
        return
    with _Beside(settings) as beside:
        yield beside


class Controller:
    """The servers of a controller, as they are reached: asked for when they are needed, and each private half opened once."""

    def __init__(self, profile: str | None = None, home: str | os.PathLike[str] | None = None) -> None:
        """profile, home: as client()."""
        self._client = functools.partial(client, profile, home)
        self._turn = threading.Lock()
        self._private: dict[str, str] = {}

    def way(self, name: str, login: str | None = None) -> list[Hop]:
        """Return the servers on the way to one, the nearest first and itself last (controller.client.reaching.way)."""
        with self._client() as kps:
            return kps.play(functools.partial(way, name, login))

    def ways(self, words: Sequence[str], *, every: bool = False) -> list[list[Hop]]:
        """Return the ways to all servers that words select, or to every server. Refused(selection_empty): neither is said."""
        if not words and not every:
            raise Refused(400, "selection_empty", "name a server, give label=value, or say every=True for all of them")
        with self._client() as kps:
            return kps.play(functools.partial(ways, words, every=every))

    def private_key(self, hop: Hop) -> str:
        """Return the private half for a login as OpenSSH text; the controller records each opening.

        Refused: private_key_not_kept, or what the caller's role does not allow.
        """
        name = str(hop.keypair)
        with self._turn:  # of several threads one opens it
            if name not in self._private:
                with self._client() as kps:
                    self._private[name] = kps.export_keypair(name)
            return self._private[name]


class _Beside(KpsClient):
    """A client of a home that nobody serves: the application runs in this process, on a thread beside."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(httpx.Client(trust_env=False), str(settings.home))
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kps", daemon=True)
        self._open = contextlib.AsyncExitStack()
        self._asked: AsyncKpsClient | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._asked = self._there(self._opened())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._there(self._open.aclose())
        finally:
            self._end()

    def play(self, described: Callable[[], Flowing[T]]) -> T:
        """Have the async client play it, and wait."""
        assert self._asked is not None  # noqa: S101
        found: T = self._there(self._asked.play(described))
        return found

    async def _opened(self) -> AsyncKpsClient:
        from controller.app import in_process  # slow to load, and no part of a client of somebody who serves

        application = await self._open.enter_async_context(in_process(self._settings))
        return await self._open.enter_async_context(AsyncKpsClient.in_process(application))

    def _there(self, wanted: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(wanted, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._http.close()
