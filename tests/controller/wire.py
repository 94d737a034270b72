"""The v3 API on a port of loopback: for the public service's own SDK, and for requests put together by hand.

Everything is real but the servers: the gate, the home, dispatch, HTTP. What a server answers, and when, is the test's to say.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import huaweicloudsdkkps.v3 as v3
import pytest
from huaweicloudsdkcore.auth.credentials import BasicCredentials

import controller.app
from controller import keyfiles, serving, signing
from controller.api.fleet import Fleet
from controller.app import Application
from controller.dispatch import InProcess
from controller.model import Binding, Caller, Credential, Outcome, Secret, Server, Task, now
from controller.run import Runner
from controller.settings import Settings
from tests import homes

SUCCEEDED = Outcome("succeeded", "as_asked")
SECONDS = 60
# One of each for all tests of a worker: making them takes its time.
PUBLIC, STORED = keyfiles.generate("ed25519")
LINE = PUBLIC.line()
PRIVATE = keyfiles.openssh_private("ed25519", STORED).open().decode()
OTHER_PUBLIC, OTHER_STORED = keyfiles.generate("ecdsa-nistp256")
OTHER_PRIVATE = keyfiles.openssh_private("ecdsa-nistp256", OTHER_STORED).open().decode()

Json = dict[str, Any]


@dataclass
class Wire:
    """A home that is served, and its owner's keys."""

    url: str
    home: Path
    made: Json
    fleet: Fleet
    loop: asyncio.AbstractEventLoop
    outcomes: dict[str, Outcome]  # by the server's name
    held: dict[str, asyncio.Event]  # servers that say nothing until their event is set
    given: list[tuple[Task, Credential | None]] = field(default_factory=list)

    @property
    def project(self) -> str:
        """The path of the owner's project."""
        return f"/v3/{self.made['project_id']}"

    def sdk(self, **other: str) -> v3.KpsClient:
        """The SDK's client: the owner's, or with another access_key, secret_key or project_id."""
        keys = {name: self.made[name] for name in ("access_key", "secret_key", "project_id")} | other
        credentials = BasicCredentials(keys["access_key"], keys["secret_key"], keys["project_id"])
        client: v3.KpsClient = v3.KpsClient.new_builder().with_credentials(credentials).with_endpoint(self.url).build()
        return client

    def ask(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, **headers: str) -> httpx.Response:
        """Ask by hand, signed by the owner; path: below the project, or from the root where it begins with /v3."""
        target = (path if path.startswith("/v3") else self.project + path).encode()
        bare, _, query = target.partition(b"?")
        sent = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        given = [(b"Host", self.url.partition("//")[2].encode())]
        given += [(name.encode(), value.encode()) for name, value in named.items()]
        asked = signing.Request(method, bare, query, given, sent)
        signed = signing.sign(asked, self.made["access_key"], Secret(self.made["secret_key"]), datetime.now(UTC))
        url = httpx.URL(self.url).copy_with(raw_path=target)
        return httpx.request(method, url, content=sent, headers=[*given, *signed], trust_env=False, timeout=SECONDS)

    def do(self, work: Callable[[], Any]) -> Any:
        """Have a coroutine of the services run where they are, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(SECONDS)

    @property
    def owner(self) -> Caller:
        """Who asks."""
        return self.fleet.owner

    def server(self, name: str, outcome: Outcome = SUCCEEDED, *, held: bool = False, **more: Any) -> Server:
        """Take in a server that answers in this way, once it is let go where it is held."""
        self.outcomes[name] = outcome
        if held:
            self.held[name] = asyncio.Event()
        added: Server = self.do(lambda: self.fleet.servers.add(self.owner, name, "192.0.2.1", **more))
        return added

    def let_go(self, name: str) -> None:
        """Have a server that was held answer."""
        self.loop.call_soon_threadsafe(self.held.pop(name).set)

    def become(self, task_id: str, word: str) -> Json:
        """Ask for a task until it has come to this word, and return the answer."""
        until = time.monotonic() + SECONDS
        while (answer := self.ask("GET", f"/tasks/{task_id}").json()).get("task_status") != word:
            assert time.monotonic() < until, answer
            time.sleep(0.005)  # between two questions, as every client waits
        return dict(answer)


def _dispatching(wire: dict[str, Any]) -> Callable[[Settings, Runner, str], InProcess]:
    """Return a stand-in for controller.app.dispatching, whose servers answer what the test says."""

    def dispatching(settings: Settings, runner: Runner, owner: str) -> InProcess:
        store = runner.means.store

        async def run(task: Task, credential: Credential | None) -> None:
            wire["given"].append((task, credential))
            if task.server_name in wire["held"]:
                await wire["held"][task.server_name].wait()
            outcome: Outcome = wire["outcomes"].get(task.server_name, SUCCEEDED)
            changed: dict[str, Any] = {}
            if outcome.status == "succeeded" and task.operation == "unbind":
                changed["unbind"] = (task.server_id, task.login)
            elif outcome.status == "succeeded" and task.request.get("keypair_id"):
                pair = task.request["keypair_id"]
                changed["binding"] = Binding(task.server_id, task.login, pair, "logged_in", True, task.id, now())

            def finish(*about: Any) -> bool:
                return store.finish(*about, **changed)

            await runner.means.off(finish, task.id, owner, task.generation, replace(outcome))

        return InProcess(runner, run, owner, settings.concurrency)

    return dispatching


@contextlib.contextmanager
def serve(home: Path) -> Iterator[Wire]:
    """Serve a new home on loopback, in a thread, until the block ends."""
    settings = Settings(home=home, requests_per_second=100_000, requests_at_once=1_000_000, quota_private_keypairs=100_000)
    made = homes.made(settings)
    shared: dict[str, Any] = {"outcomes": {}, "held": {}, "given": []}
    ready: threading.Event = threading.Event()
    stop: list[serving.Server] = []
    found: list[Wire] = []

    async def told() -> None:
        served = Application(settings)
        with serving.on_network(serving.place("127.0.0.1:0", None, None)) as listener:
            async with served.lifespan():
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                found.append(Wire(url, home, made, served.services, asyncio.get_running_loop(), **shared))
                server = serving.Server(served.networked, ready.set)
                stop.append(server)
                await server.serve(sockets=[listener])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(controller.app, "dispatching", _dispatching(shared))
        thread = threading.Thread(target=asyncio.run, args=[told()])
        thread.start()
        try:
            assert ready.wait(SECONDS)
            yield found[0]
        finally:
            if stop:
                stop[0].should_exit = True
            thread.join(SECONDS)
