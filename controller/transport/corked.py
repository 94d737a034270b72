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
        transport, _ = await loop.create_connection(lambda: _Uncorked(protocol, loop), sock=self._sock)
        return transport, protocol


class _Uncorked(asyncio.Protocol):
    """What comes from the socket, handed on as it comes."""

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.data_received = protocol.data_received  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]
        self._made = protocol.connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made(CorkedTransport(cast(asyncio.Transport, transport), self._loop))


class CorkedTransport(asyncio.Transport):
    """A transport that writes what it was given in one turn of the loop together, at the end of that turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []
        self.get_extra_info = transport.get_extra_info  # type: ignore[method-assign]
        self.pause_reading = transport.pause_reading  # type: ignore[method-assign]
        self.resume_reading = transport.resume_reading  # type: ignore[method-assign]
        self.is_closing = transport.is_closing  # type: ignore[method-assign]

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
