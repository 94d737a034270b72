"""The two clients: the same verbs, awaited or not."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from controller.client.call import Call, Flowing
from controller.client.refusals import NotTrusted, Unreachable
from controller.client.remote import Remote, Signed, why_not_trusted
from controller.client.verbs import Verbs

T = TypeVar("T")

CONNECT_SECONDS = 10
ANSWER_SECONDS = 120  # for one answer, unless the call says otherwise
_HERE = "http://kps/fleet/v1"  # where no name is looked up: a socket, or an application in this process


class AsyncKpsClient(Verbs):
    """An async client of /fleet/v1. Values are the JSON of the API, unchanged. To be entered with `async with`.

    Each verb raises Refused where the controller says no, and Unreachable where it does not answer (controller/client/refusals).
    """

    def __init__(self, http: httpx.AsyncClient, where: str = "the controller") -> None:
        self._http = http
        self._where = where

    @classmethod
    def over_network(cls, remote: Remote, answer_seconds: float = ANSWER_SECONDS) -> Self:
        """Reach a controller on the network; requests are signed. Invalid: its CA certificate cannot be used."""
        transport = httpx.AsyncHTTPTransport(verify=remote.context())
        return cls(httpx.AsyncClient(transport=transport, **_signed(remote, answer_seconds)), remote.url)

    @classmethod
    def over_socket(cls, path: Path, answer_seconds: float = ANSWER_SECONDS) -> Self:
        """Reach the controller that listens on the Unix socket at path."""
        return cls(httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), **_plain(_HERE, answer_seconds)))

    @classmethod
    def in_process(cls, application: Any, answer_seconds: float = ANSWER_SECONDS) -> Self:
        """Reach an ASGI application in this process; its lifespan is the caller's business."""
        return cls(httpx.AsyncClient(transport=httpx.ASGITransport(application), **_plain(_HERE, answer_seconds)))

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def play(self, described: Callable[[], Flowing[T]]) -> T:
        """Send what a verb describes, and return what comes of it."""
        flow = iter(described())
        try:
            step = next(flow)
            while True:
                if isinstance(step, Call):
                    try:
                        answer = await self._http.request(**step.wanted)
                    except httpx.TransportError as error:
                        step = flow.throw(_lost(self._where, error))
                    else:
                        step = flow.send(answer)
                else:
                    await asyncio.sleep(step)
                    step = next(flow)
        except StopIteration as ended:
            found: T = ended.value
            return found


class KpsClient(Verbs):
    """A client of /fleet/v1 for programs without asyncio: the verbs of AsyncKpsClient, not awaited. To be entered with `with`."""

    def __init__(self, http: httpx.Client, where: str = "the controller") -> None:
        self._http = http
        self._where = where

    @classmethod
    def over_network(cls, remote: Remote, answer_seconds: float = ANSWER_SECONDS) -> Self:
        """Reach a controller on the network; requests are signed. Invalid: its CA certificate cannot be used."""
        transport = httpx.HTTPTransport(verify=remote.context())
        return cls(httpx.Client(transport=transport, **_signed(remote, answer_seconds)), remote.url)

    @classmethod
    def over_socket(cls, path: Path, answer_seconds: float = ANSWER_SECONDS) -> Self:
        """Reach the controller that listens on the Unix socket at path."""
        return cls(httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), **_plain(_HERE, answer_seconds)))

    def __enter__(self) -> Self:
        self._http.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.__exit__(kind, error, trace)

    def play(self, described: Callable[[], Flowing[T]]) -> T:
        """Send what a verb describes, and return what comes of it."""
        flow = iter(described())
        try:
            step = next(flow)
            while True:
                if isinstance(step, Call):
                    try:
                        answer = self._http.request(**step.wanted)
                    except httpx.TransportError as error:
                        step = flow.throw(_lost(self._where, error))
                    else:
                        step = flow.send(answer)
                else:
                    time.sleep(step)
                    step = next(flow)
        except StopIteration as ended:
            found: T = ended.value
            return found


def _plain(base_url: str, answer_seconds: float) -> dict[str, Any]:
    # What connects is what the caller says: no proxy, and no password of a .netrc, from the environment.
    timeout = httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS)
    return {"base_url": base_url, "timeout": timeout, "trust_env": False}


def _signed(remote: Remote, answer_seconds: float) -> dict[str, Any]:
    return _plain(f"{remote.url}/fleet/v1", answer_seconds) | {"auth": Signed(remote)}


def _lost(where: str, error: httpx.TransportError) -> Unreachable:
    """Return what it means that a request was not answered."""
    why = why_not_trusted(error)
    if why is not None:
        found: Unreachable = NotTrusted(f"{where}: its certificate is not trusted: {why}")
    else:
        found = Unreachable(f"{where} did not answer: {str(error) or type(error).__name__}")
    found.__cause__ = error
    return found
