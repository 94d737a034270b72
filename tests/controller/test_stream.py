"""Events as server-sent events: in order, each once, for whoever may read them, and never more than is taken."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from controller import serving
from controller.errors import TooMany
from controller.service.streams import OF_EACH, Streams
from tests.fleet.product import Product

STREAM = "/fleet/v1/events/stream"


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with Product(tmp_path_factory.mktemp("stream") / "home") as served:
        for name in ("first", "second"):
            served.ask("POST", "/keypairs", body={"name": name})
        yield served


def over_socket(product: Product) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(product.home / "kps.sock"))
    return httpx.Client(transport=transport, base_url="http://kps", timeout=60)


@pytest.fixture
def http(product: Product) -> Iterator[httpx.Client]:
    with over_socket(product) as client:
        yield client


def messages(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """What a client of the standard makes of a stream: for each block with data its id and the data."""
    last, data = "", []
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                yield last, json.loads("\n".join(data))
            data = []
        elif field == "id":
            last = value
        elif field == "data":
            data.append(value)


def test_what_has_happened_comes_first_and_then_what_happens(product: Product, http: httpx.Client) -> None:
    known = product.ask("GET", "/events")
    with http.stream("GET", STREAM) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
        told = messages(answer.iter_lines())
        assert [next(told) for _ in known] == [(str(event["id"]), event) for event in known]
        product.ask("POST", "/keypairs", body={"name": "third"})
        # The controller makes keys of its own meanwhile.
        event = next(each for _, each in told if each["kind"] == "keypair_created")
        assert "third" in event["detail"].values()


def test_who_comes_back_is_told_what_they_have_missed(product: Product, http: httpx.Client) -> None:
    ids = [event["id"] for event in product.ask("GET", "/events")]
    for params, headers in (({"after": ids[2]}, {}), ({"after": 0}, {"Last-Event-ID": str(ids[2])})):
        with http.stream("GET", STREAM, params=params, headers=headers) as answer:
            told = messages(answer.iter_lines())
            assert [int(next(told)[0]) for _ in ids[3:]] == ids[3:]


def test_only_of_the_tasks_that_are_named(product: Product, http: httpx.Client) -> None:
    with http.stream("GET", STREAM, params={"task": "none", "after": 0}) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("retry: ")
    assert http.get(STREAM, params={"after": -1}).status_code == 422
    assert http.get(STREAM, headers={"Last-Event-ID": "x"}).status_code == 422


@pytest.fixture
def http_of_its_own(tmp_path: Path) -> Iterator[httpx.Client]:
    """A controller that nobody has had a stream of: that one was left is noticed in its own time."""
    with Product(tmp_path / "home") as served, over_socket(served) as client:
        yield client


def test_a_user_has_so_many_and_each_that_ends_makes_room(http_of_its_own: httpx.Client) -> None:
    http, open_ones = http_of_its_own, []
    while True:
        answer = http.send(http.build_request("GET", STREAM), stream=True)
        if answer.status_code != 200:
            break
        open_ones.append(answer)
    answer.read()
    assert (answer.status_code, answer.json()["code"], len(open_ones)) == (429, "too_many_streams", OF_EACH)
    for each in open_ones:
        each.close()
    for _ in range(600):  # until it has heard that they are gone
        with http.stream("GET", STREAM) as again:
            if again.status_code == 200:
                break
    assert again.status_code == 200


def test_places_are_counted_for_each_and_in_all() -> None:
    streams = Streams(of_each=2, in_all=3)
    backs = [streams.take("a"), streams.take("a"), streams.take("b")]
    for user in ("a", "c"):
        with pytest.raises(TooMany):
            streams.take(user)
    backs[0]()
    streams.take("c")


def test_one_that_reads_nothing_is_sent_no_more_and_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "UNREAD_SECONDS", 0.5)
    chunk, sent, gone = b"x" * 16384, 0, asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await_gone := asyncio.ensure_future(receive())) and not gone.is_set():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            sent += len(chunk)
            await asyncio.sleep(0)
            if await_gone.done() and await_gone.result()["type"] == "http.disconnect":
                gone.set()
            await_gone.cancel()

    async def story() -> None:
        with serving.listening(tmp_path / "sock") as listener:
            ready = asyncio.Event()
            server = serving.Server(endless, ready.set)
            running = asyncio.create_task(server.serve(sockets=[listener]))
            await ready.wait()
            _, writer = await asyncio.open_unix_connection(str(tmp_path / "sock"), limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET / HTTP/1.1\r\nHost: kps\r\n\r\n")
            await asyncio.wait_for(gone.wait(), 60)
            writer.transport.abort()
            server.should_exit = True
            await running

    asyncio.run(story())
    assert 0 < sent < 4 * 2**20  # what fits into the buffers on the way
