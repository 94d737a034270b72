"""A controller that is told to stop: what runs may end, what waits is handed on, and nobody who is idle holds it up."""

import asyncio
import json
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.app import Application
from controller.dispatch import SERVING
from controller.model import Caller, Sealed, SealedCredential, Server, Task, now
from controller.settings import Settings
from controller.store import Store
from tests.controller.faces import KPS
from tests.controller.test_gate import Signed
from tests.fleet.causes import Place, deaf
from tests.fleet.product import Product

POLLED_SECONDS = 30


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[tuple[Product, str, str]]:
    """A controller that works on one server at a time, which never answers; a task for another one waits. Nothing was given."""
    with (
        deaf() as one,
        deaf() as other,
        Product(tmp_path / "home", concurrency=1, connect_timeout_seconds=300, stop_seconds=300) as product,
    ):
        places: list[Place] = sorted([one, other], key=lambda place: place.name)
        for place in places:
            product.add(place)  # type: ignore[arg-type]
        begun, waiting = product.begin("check", *places)  # type: ignore[arg-type]
        product.at_phase(begun, "connect")
        yield product, begun, waiting
        product.end(signal.SIGKILL)


def over_socket(product: Product) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(product.home / "kps.sock"))
    return httpx.Client(transport=transport, base_url="http://kps/fleet/v1", timeout=60)


def kinds(product: Product, task_id: str) -> list[str]:
    return [kind for kind, _ in product.events(task_id)]


def test_while_a_task_runs_it_answers_and_begins_nothing_and_is_told_twice_to_stop_at_once(
    busy: tuple[Product, str, str],
) -> None:
    product, begun, waiting = busy
    assert product.process is not None
    with over_socket(product) as http:
        assert http.get("/ready").json()["status"] == "ready"
        product.process.send_signal(signal.SIGTERM)
        while http.get("/health").is_success and http.get("/ready").is_success:
            time.sleep(0.02)
        told = http.get("/ready")
        assert (told.status_code, told.json()["code"]) == (503, "stopping")
        refused = http.post("/keypairs", json={"name": "late"})
        assert (refused.status_code, refused.json()["code"], "retry-after" in refused.headers) == (503, "stopping", True)
        assert {task["id"]: task["status"] for task in http.get("/tasks").json()} == {begun: "running", waiting: "ready"}
        process = product.process
        product.end(signal.SIGTERM)
        assert process.returncode == 0
    assert "stopping once 1 task under way has ended, in 300 s at most" in (product.home / "serve.log").read_text()
    assert kinds(product, begun)[-1] == "task_finished"
    assert kinds(product, waiting) == ["task_ready", "task_handed_on"]
    # The next one begins what this one had not, and gives no other end to what it had.
    product.serve()
    product.at_phase(waiting, "connect")
    assert product.task(begun)["cause"] == "interrupted"
    assert kinds(product, waiting)[:3] == ["task_ready", "task_handed_on", "task_running"]


def test_what_a_killed_one_had_not_begun_is_begun_by_the_next(busy: tuple[Product, str, str]) -> None:
    product, begun, waiting = busy
    product.end(signal.SIGKILL)
    product.serve()
    product.at_phase(waiting, "connect")
    assert (product.task(begun)["cause"], kinds(product, begun)[-1]) == ("interrupted", "task_interrupted")


def test_what_runs_may_end_within_its_time(tmp_path: Path) -> None:
    with (
        deaf() as place,
        Product(tmp_path / "home", connect_timeout_seconds=3, stop_seconds=60) as product,
    ):
        product.add(place)  # type: ignore[arg-type]
        (begun,) = product.begin("check", place)  # type: ignore[arg-type]
        product.at_phase(begun, "connect")
        product.end(signal.SIGTERM)
        assert kinds(product, begun)[-1] == "task_finished"
        product.serve()
        assert product.task(begun)["cause"] == "connection_timed_out"


def a_task(server: Server, who: Caller, id: str, operation: Any = "check", **request: Any) -> Task:
    return Task(id, who.tenant_id, who.user_id, server.id, server.name, "root", operation, request, now())


def test_what_needs_nothing_of_who_held_it_is_handed_on_and_nothing_else(store: Store, who: Caller, other: Caller) -> None:
    (server,) = store.add_servers([Server("s", who.tenant_id, "web-1", "192.0.2.1")])
    old, new = f"{SERVING}old", f"{SERVING}new"
    wanted = [
        a_task(server, who, "plain"),
        a_task(server, who, "password", given=["password"]),
        a_task(server, who, "sealed password", given=["password"]),
        a_task(server, who, "one-time", "reset", set_password=True),
        a_task(server, who, "disk", "reset"),
        a_task(server, other, "strangers"),
    ]
    kept = SealedCredential("sealed password", server.id, who.tenant_id, Sealed(b"x"), now() + timedelta(hours=1))
    store.add_tasks(wanted, old, 30, [kept])
    store.add_tasks([a_task(server, who, "own process")], "command", 30)
    assert [task.id for task in store.abandon(old)] == ["password", "one-time"]
    assert [task.id for task in store.abandon("command")] == ["own process"]
    with_nobody = {task.id for task in store.tasks(who.tenant_id, running=True)}
    assert with_nobody == {"plain", "sealed password", "disk", "strangers"}
    assert store.interrupt_expired(SERVING) == []
    store.change_user(who.tenant_id, other.user_id, {"enabled": False}, who.user_id)
    assert [task.id for task in store.adopt(new, 30)] == ["plain", "sealed password", "disk"]
    assert store.task(who.tenant_id, "strangers").status == "cancelled"
    assert store.adopt(new, 30) == []
    # The next one was killed.
    assert store.interrupt_expired(SERVING) == []
    assert [task.id for task in store.adopt(f"{SERVING}newest", 30)] == ["plain", "sealed password", "disk"]
    assert store.claim("plain", f"{SERVING}newest", 30) is not None


def test_once_it_stops_both_apis_refuse_to_begin_anything(settings: Settings, made: dict[str, Any]) -> None:
    async def told() -> None:
        served = Application(settings)
        async with served.lifespan():
            transport = httpx.ASGITransport(served.networked, client=("192.0.2.7", 4711))
            mine = Signed(made["access_key"], made["secret_key"])
            async with httpx.AsyncClient(transport=transport, base_url="http://kps", auth=mine) as http:
                served.stopping.begin()
                calls = f"/v3/{made['project_id']}/keypairs"
                assert (await http.get(calls)).status_code == 200
                public = await http.post(calls, json={"keypair": {"name": "late"}})
                ours = await http.post("/fleet/v1/keypairs", json={"name": "late"})
                assert (public.status_code, public.json()["error_code"]) == (503, "KPS.0003")
                assert (ours.status_code, ours.json()["code"]) == (503, "stopping")
                assert public.headers["retry-after"] == ours.headers["retry-after"] == "5"
                assert (await http.get(calls)).json()["keypairs"] == []

    asyncio.run(told())


def test_who_is_idle_over_tls_or_waits_for_news_does_not_hold_it_up(settings: Settings, made: dict[str, Any]) -> None:
    words = [KPS, "serve", "--home", str(settings.home), "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = ""
        while not told.rstrip().endswith("}"):
            told += process.stdout.readline()
        port = int(json.loads(told)["url"].rpartition(":")[2])
        trust = ssl.create_default_context(cafile=settings.certificate)
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            trust.wrap_socket(raw, server_hostname="localhost") as idle,
            socket.socket(socket.AF_UNIX) as polling,
        ):
            idle.sendall(b"GET / HTTP/1.1\r\nHost: kps\r\n\r\n")
            assert idle.recv(12) == b"HTTP/1.1 200"
            polling.connect(str(settings.socket))
            polling.sendall(f"GET /fleet/v1/events?after=1000000&wait={POLLED_SECONDS} HTTP/1.1\r\nHost: kps\r\n\r\n".encode())
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(settings.socket)), base_url="http://kps") as http:
                assert http.get("/fleet/v1/health").is_success  # after which the other one is being answered too
            begun = time.monotonic()
            process.terminate()
            answered = b""
            while chunk := polling.recv(4096):
                answered += chunk
            assert process.wait(60) == 0
            assert time.monotonic() - begun < POLLED_SECONDS  # and usually within one
        assert answered.startswith(b"HTTP/1.1 200")
        assert answered.endswith(b"\r\n\r\n[]")
    finally:
        process.kill()
        _, errors = process.communicate(timeout=30)
    logged = [json.loads(line) for line in errors.splitlines()]
    assert [(line["event"], line["status"], line["path"]) for line in logged] == [("request", 200, "/")]
