"""A socket on which what is said within one turn of the event loop goes out at once: asyncssh sends every packet by itself.

Of a log-in's packets every second one is an empty one that hides lengths; each costs a system call here and a wake-up there.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast


class CorkedSocket:
    """A connected socket, as the tunnel by which asyncssh connects: it is asked for one connection, and where to is settled."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def create_connection(
        self, session_factory: Callable[[], asyncio.Protocol], remote_host: str, remote_port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Return the transport and the protocol that session_factory makes; the address is only what asyncssh calls it."""
        protocol = session_factory()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: _Passed(protocol, loop, (remote_host, remote_port)), sock=self._sock)
        return transport, protocol


class _Passed(asyncio.Protocol):
    """Hands on what comes from the socket, as it comes."""

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop, peer: tuple[str, int]) -> None:
        self._protocol = protocol
        self._loop = loop
        self._peer = peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._protocol.connection_made(CorkedTransport(cast(asyncio.Transport, transport), self._loop, self._peer))

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class CorkedTransport(asyncio.Transport):
    """A transport that writes what it was given in one turn of the loop together, at the end of that turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, peer: tuple[str, int]) -> None:
        super().__init__()
        self._transport = transport
        self._peer = peer
        self._loop = loop
        self._waiting: list[bytes] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        found = self._transport.get_extra_info(name, default)
        # Of a connection that was reset already the kernel does not say any more who it was with.
        return self._peer if name == "peername" and found is None else found

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def write(self, data: Any) -> None:
        if not self._waiting:
            self._loop.call_soon(self._uncork)
        self._waiting.append(data)

    def _uncork(self) -> None:
        if self._waiting:
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()

    def close(self) -> None:
        self._uncork()
        self._transport.close()

    def abort(self) -> None:
        self._waiting.clear()
        self._transport.abort()
