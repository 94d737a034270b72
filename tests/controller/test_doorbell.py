"""Who is told of doors: a real listener checks what it is sent, and nothing that it does stops a door."""

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from controller.errors import Invalid, NotAllowed
from controller.model import Caller, Secret
from controller.service.doorbell import Doorbell, signature
from tests.controller.world import World

SECRET = "correct horse battery staple"
run = asyncio.run


@pytest.fixture
def boss(world: World) -> Caller:
    return world.tenant()


class Listener(HTTPServer):
    """Keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.answer = 204

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/kps"


class Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append((dict(self.headers), body))
        self.send_response(self.server.answer)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


async def asked(world: World, who: Caller) -> None:
    await world.emergency.open(who, [world.server(who)], reason="no key gets in", seconds=60)


def test_what_is_told_is_signed(world: World, boss: Caller, listener: Listener) -> None:
    async def story() -> None:
        await world.doorbell.set_hook(boss, listener.url, Secret(SECRET))
        await asked(world, boss)
        await world.doorbell.tell_due()

    run(story())
    told = [json.loads(body) for _, body in listener.heard]
    assert [each["event"] for each in sorted(told, key=lambda each: each["event"])] == ["door_asked", "door_ordered"]
    assert all(each["reason"] == "no key gets in" and each["tenant_id"] == boss.tenant_id for each in told)
    for headers, body in listener.heard:
        stamp = headers["X-KPS-Timestamp"]
        expected = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        assert headers["X-KPS-Signature"] == f"v1={expected}" == signature(SECRET.encode(), stamp, body)
    assert world.store.door_alerts(10) == []


@pytest.mark.parametrize("answer", [500, 302, 404])
def test_what_is_not_taken_is_told_later_and_stops_no_door(world: World, boss: Caller, listener: Listener, answer: int) -> None:
    listener.answer = answer

    async def story() -> None:
        await world.doorbell.set_hook(boss, listener.url, Secret(SECRET))
        await asked(world, boss)
        await world.doorbell.tell_due()

    run(story())
    assert len(listener.heard) == 1  # the other waits, and nobody was sent elsewhere
    assert world.store.doors(boss.tenant_id)[0].state == "opening"
    store, before = world.store, world.store._now
    store._now = lambda: before().replace(year=before().year + 1)
    try:
        assert [each.tries for each in store.door_alerts(10)] == [1, 0]
        listener.answer = 200
        run(world.doorbell.tell_due())
        assert store.door_alerts(10) == []
    finally:
        store._now = before


def test_whoever_is_told_hears_that_it_is_somebody_else_from_now_on(world: World, boss: Caller, listener: Listener) -> None:
    async def story() -> None:
        await world.doorbell.set_hook(boss, listener.url, Secret(SECRET))
        await asked(world, boss)
        await world.doorbell.set_hook(boss, listener.url + "/other", Secret(SECRET))
        await world.doorbell.remove_hook(boss)

    run(story())
    told = [json.loads(body)["event"] for _, body in listener.heard]
    assert told == ["door_asked", "door_ordered", "door_hook_set", "door_hook_removed"]


def test_a_listener_that_takes_nothing_holds_up_nobody_elses(world: World, boss: Caller, listener: Listener) -> None:
    other = world.tenant()

    async def story() -> None:
        await world.doorbell.set_hook(boss, "http://127.0.0.1:1/", Secret(SECRET))
        await world.doorbell.set_hook(other, listener.url, Secret(SECRET))
        for _ in range(20):
            await asked(world, boss)
        await asked(world, other)
        await world.doorbell.tell_due()

    run(story())
    assert len(listener.heard) == 2
    assert sum(each.tries for each in world.store.door_alerts(100, boss.tenant_id)) == 0  # the one that was tried waits
    assert len(world.store.door_alerts(100, boss.tenant_id)) == 39


def test_only_the_owner_of_the_home_has_it_told_on_the_controllers_own_machine(
    world: World, boss: Caller, listener: Listener
) -> None:
    afar = replace(boss, at_home=False)
    bell = Doorbell(world.store, world.kms)
    with pytest.raises(Invalid) as refused:
        run(bell.set_hook(afar, listener.url, Secret(SECRET)))
    assert refused.value.code == "url_unusable"

    async def story() -> None:
        await bell.set_hook(afar, listener.url.replace("http:", "https:"), Secret(SECRET))
        await asked(world, boss)
        await bell.tell_due()

    run(story())
    assert listener.heard == []


@pytest.mark.parametrize(
    "url", ["ftp://x/", "https://", "https://user:pass@x/", "https://x:99999/", "https://x/\r\nHost: y", "x"]
)
def test_what_is_no_url_is_refused(world: World, boss: Caller, url: str) -> None:
    with pytest.raises(Invalid) as refused:
        run(world.doorbell.set_hook(boss, url, Secret(SECRET)))
    assert refused.value.code == "url_unusable"


def test_a_short_secret_and_somebody_elses_role_are_refused(world: World, boss: Caller) -> None:
    with pytest.raises(Invalid) as refused:
        run(world.doorbell.set_hook(boss, "https://alerts.example.com", Secret("short")))
    assert refused.value.code == "secret_unusable"
    with pytest.raises(NotAllowed):
        run(world.doorbell.set_hook(world.user(boss, "operator"), "https://alerts.example.com", Secret(SECRET)))


def test_the_secret_is_kept_sealed(world: World, boss: Caller) -> None:
    run(world.doorbell.set_hook(boss, "https://alerts.example.com", Secret(SECRET)))
    world.store.checkpoint()
    assert SECRET.encode() not in world.settings.database.read_bytes()
