"""Who may connect, on real sockets: how many of one address, how long a handshake may take; and what is said on a connection."""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from controller import serving
from controller.admission import CONNECTIONS, OF_ONE_ADDRESS, Counted, Listener, party
from controller.app import Application
from controller.service.certificate import ensure
from controller.settings import Settings

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Asgi = Callable[..., Awaitable[None]]


async def says_ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def served(where: serving.Place, story: Callable[[int, Any], Awaitable[None]], application: Asgi) -> None:
    """Serve at a place, and run a story with the port and the listener."""
    ready = asyncio.Event()
    with serving.on_network(where) as listener:
        server = serving.Server(application, ready.set, where)
        running = asyncio.create_task(server.serve(sockets=[listener]))
        await ready.wait()
        try:
            await asyncio.wait_for(story(listener.getsockname()[1], listener), 60)
        finally:
            server.should_exit = True
            await running


def at_a_place(where: serving.Place, story: Callable[[int, Any], Awaitable[None]]) -> None:
    asyncio.run(served(where, story, says_ok))


HERE = serving.Place("127.0.0.1", 0)


class Told(Counted):
    """Says when nobody is connected any more."""

    def __init__(self, most: int, of_one: int) -> None:
        super().__init__(most, of_one)
        self.empty = asyncio.Event()

    def left(self, whom: str) -> None:
        super().left(whom)
        if not len(self):
            self.empty.set()


@contextlib.asynccontextmanager
async def connected(port: int, **how: Any) -> AsyncIterator[Ends]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **how)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answer(ends: Ends, sent: bytes) -> bytes:
    """Send, and return all that comes until the other side closes."""
    ends[1].write(sent)
    return await ends[0].read()


async def is_closed(ends: Ends) -> bool:
    """Whether the other side closes without a word."""
    try:
        return await ends[0].read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::1%eth1", False),
        ("::1", "::2", False),
        ("", "x", False),
    ],
)
def test_who_counts_as_one(one: str, other: str, is_same: bool) -> None:
    assert (party(one) == party(other)) == is_same


def test_one_address_cannot_take_all_connections() -> None:
    assert OF_ONE_ADDRESS * 2 < CONNECTIONS
    counted = Counted(most=3, of_one=2)
    assert [counted.admits("a") for _ in range(3)] == [True, True, False]
    assert [counted.admits(each) for each in "bc"] == [True, False]
    counted.left("a")
    assert counted.admits("c")
    assert len(counted) == 3


def test_one_too_many_is_closed_at_once_and_the_place_of_one_that_went_is_free() -> None:
    async def story(port: int, listener: Any) -> None:
        listener.counted = counted = Told(most=10, of_one=2)
        asked = b"GET / HTTP/1.1\r\nHost: kps\r\nConnection: close\r\n\r\n"
        async with connected(port), connected(port) as second, connected(port) as third:
            assert await is_closed(third)
            assert b"ok" in await answer(second, asked)
        await counted.empty.wait()
        async with connected(port) as again:
            assert b"ok" in await answer(again, asked)

    at_a_place(HERE, story)


@pytest.fixture
def with_tls(tmp_path: Path) -> serving.Place:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    ensure(certificate, key)
    return serving.Place("127.0.0.1", 0, certificate, key)


def test_a_handshake_that_does_not_come_is_not_waited_for(with_tls: serving.Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert serving.TLS_SECONDS == 10
    monkeypatch.setattr(serving, "TLS_SECONDS", 0.2)

    async def story(port: int, listener: Any) -> None:
        listener.counted = counted = Told(most=10, of_one=10)
        async with connected(port) as silent, connected(port) as junk:
            junk[1].write(b"GET / HTTP/1.1\r\n\r\n")
            assert await is_closed(silent)
            await counted.empty.wait()

    at_a_place(with_tls, story)


def test_tls_goes_through(with_tls: serving.Place) -> None:
    trust = ssl.create_default_context(cafile=with_tls.certificate)

    async def story(port: int, listener: Any) -> None:
        async with connected(port, ssl=trust, server_hostname="localhost") as ends:
            assert b"ok" in await answer(ends, b"GET / HTTP/1.1\r\nHost: kps\r\nConnection: close\r\n\r\n")

    at_a_place(with_tls, story)


def through_the_gate(settings: Settings, sent: bytes) -> bytes:
    """Send bytes to a home that is served, and return all that comes back."""
    came = b""

    async def story(port: int, listener: Any) -> None:
        nonlocal came
        async with connected(port) as ends:
            came = await answer(ends, sent)

    async def told() -> None:
        application = Application(settings)
        async with application.lifespan():
            await served(HERE, story, application.networked)

    asyncio.run(told())
    return came


def test_what_was_not_asked_to_go_on_is_told_no_and_nothing_after_it_is_heard(settings: Settings, made: Any) -> None:
    asked = b"POST /v3/x/keypairs HTTP/1.1\r\nHost: kps\r\nContent-Length: 90\r\nExpect: 100-continue\r\n\r\n"
    # What some would take for a body, and others for the next request.
    came = through_the_gate(settings, asked + b"GET / HTTP/1.1\r\nHost: kps\r\n\r\n")
    assert came.startswith(b"HTTP/1.1 401 ")
    assert b"connection: close" in came.lower()
    assert (came.count(b"HTTP/1.1"), b"100 Continue" in came) == (1, False)


def test_requests_in_one_go_are_each_answered_in_order(settings: Settings, made: Any) -> None:
    health = b"GET /fleet/v1/health HTTP/1.1\r\nHost: kps\r\n\r\n"
    refused = b"POST /v3/x/keypairs HTTP/1.1\r\nHost: kps\r\nContent-Length: 5\r\n\r\nGET /"
    chunked = b"POST /v3/x/keypairs HTTP/1.1\r\nHost: kps\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nGET\r\n0\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: kps\r\nConnection: close\r\n\r\n"
    came = through_the_gate(settings, health + refused + health + chunked + last)
    codes = re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", came)
    assert codes == [b"200", b"401", b"200", b"401", b"200"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: kps\r\nX-A: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: kps\r\nX-A : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: kps\r\nHost: other\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: kps\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: kps\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ],
)
def test_what_is_no_request_ends_the_connection(settings: Settings, made: Any, head: bytes) -> None:
    came = through_the_gate(settings, head + b"GET / HTTP/1.1\r\nHost: kps\r\n\r\n")
    assert came.split()[1][:1] in (b"4", b"5")
    assert came.count(b"HTTP/1.1 ") == 1


def test_a_listener_is_an_ordinary_socket_otherwise() -> None:
    with serving.on_network(HERE) as listener:
        assert isinstance(listener, socket.socket)
        with socket.create_connection(listener.getsockname()) as one:
            there, address = listener.accept()
            assert address == one.getsockname()
            there.close()
            there.close()


def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_first_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nagle's algorithm is off (TCP_NODELAY, tcp(7)): head and body are sent apart."""
    accepted: list[socket.socket] = []
    accept = Listener.accept

    def kept(listener: Listener) -> tuple[socket.socket, object]:
        connection, address = accept(listener)
        accepted.append(connection.dup())
        return connection, address

    async def story(port: int, _: Any) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: kps\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()

    monkeypatch.setattr(Listener, "accept", kept)
    at_a_place(HERE, story)
    with accepted[0] as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
