"""A corked socket: what is said in one turn of the loop goes out together, in order, and nothing of it is lost."""

import asyncio
import socket

from controller.transport.corked import CorkedSocket


class Kept(asyncio.Protocol):
    """Keeps the transport that it was given, and what it has heard."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.heard = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


async def both_ends() -> tuple[Kept, socket.socket]:
    """Our end, corked, and the other end: a socket that keeps apart what was sent apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in (ours, theirs):
        each.setblocking(False)
    # asyncio wants a stream; that this one tells one write from the next is what shows them here.
    stream = socket.socket(fileno=ours.detach(), family=socket.AF_UNIX, type=socket.SOCK_STREAM)
    _, protocol = await CorkedSocket(stream).create_connection(Kept, "the other end", 22)
    assert isinstance(protocol, Kept)
    return protocol, theirs


async def received(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 4096)


def test_what_is_said_in_one_turn_goes_out_together() -> None:
    async def told() -> None:
        ours, theirs = await both_ends()
        ours.transport.write(b"one ")
        ours.transport.write(b"two")
        assert await received(theirs) == b"one two"
        ours.transport.write(b"three")
        assert await received(theirs) == b"three"
        theirs.close()

    asyncio.run(told())


def test_what_was_said_before_the_end_goes_out() -> None:
    async def told() -> None:
        ours, theirs = await both_ends()
        ours.transport.write(b"last words")
        ours.transport.close()
        assert await received(theirs) == b"last words"
        assert await ours.lost is None
        theirs.close()

    asyncio.run(told())


def test_who_gives_up_says_nothing_more() -> None:
    async def told() -> None:
        ours, theirs = await both_ends()
        ours.transport.write(b"never mind")
        ours.transport.abort()
        assert await received(theirs) == b""
        await ours.lost
        theirs.close()

    asyncio.run(told())


def test_what_comes_is_handed_on() -> None:
    async def told() -> None:
        ours, theirs = await both_ends()
        theirs.send(b"hello")
        theirs.close()
        await ours.lost
        assert ours.heard == b"hello"

    asyncio.run(told())
