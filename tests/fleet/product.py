"""The product as its users drive it: a home, `kps serve` on it, its API over the socket, and `kps` as a program."""

import contextlib
import itertools
import os
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from controller.client import ENDINGS
from controller.demo.fleet import Server
from controller.settings import Settings
from tests import homes

KPS = str(Path(sys.executable).with_name("kps"))
NO_TLS = ssl.create_default_context()  # made once: it takes longer than the request
SECONDS = 90  # no operation of these tests takes longer, on however busy a machine

Json = dict[str, Any]


class NotEnded(AssertionError):
    """a task did not end in time"""


class Product:
    """A home of its own and a controller that serves it.

    fresh: nothing in the home is as in another one of these tests. settings: KPS_* without the prefix, in small letters.
    """

    def __init__(self, home: Path, *, fresh: bool = False, **settings: object) -> None:
        self.home = home
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(home.parent), "KPS_HOME": str(home)}
        # One user makes the key pairs of all tests.
        self.environment |= {"KPS_QUOTA_PRIVATE_KEYPAIRS": "100000"}
        self.environment |= {f"KPS_{name.upper()}": str(value) for name, value in settings.items()}
        # A mutant of the suite is a tree beside the one that is installed.
        self.environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
        self.process: subprocess.Popen[str] | None = None
        self._numbers = itertools.count(1001)  # as many digits for each, so that names keep their order
        if home.exists():  # it is one that was made before
            return
        if fresh or "database_url" in settings:
            self.kps("init")
        else:
            home.parent.mkdir(parents=True, exist_ok=True)
            homes.made(Settings(home=home))

    def __enter__(self) -> "Product":
        self.serve()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # -- the program

    def kps(self, *words: str, given: str = "", ends: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run kps as a user does and return what it printed; ends: the exit code it must have."""
        done = subprocess.run(
            [KPS, *words], input=given, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert ends in (None, done.returncode), f"kps {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def serve(self) -> None:
        """Have a controller serve the home; returns when it takes requests."""
        with open(self.home / "serve.log", "a") as log:
            self.process = subprocess.Popen(
                [KPS, "serve"], env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        assert "kps.sock" in self.process.stdout.readline(), (self.home / "serve.log").read_text()

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the controller; nothing happens where there is none."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(how)
        self.process.communicate(timeout=SECONDS)
        self.process = None

    @contextlib.contextmanager
    def recording_nothing(self) -> Iterator[None]:
        """Within the block the controller cannot write down anything, and so stops at the next event of whatever it runs."""
        with contextlib.closing(sqlite3.connect(self.home / "kps.db", timeout=SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    def events(self, task_id: str) -> list[tuple[str, str]]:
        """The events of a task so far, as (kind, phase), read from under the controller."""
        with contextlib.closing(sqlite3.connect(self.home / "kps.db", timeout=SECONDS)) as connection:
            query = "SELECT kind, phase FROM events WHERE task_id = ? ORDER BY id"
            return [(kind, phase or "") for kind, phase in connection.execute(query, (task_id,))]

    def descendants(self) -> list[int]:
        """The controller and every process that it started."""
        assert self.process is not None
        found = [self.process.pid]
        for pid in found:
            for thread in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, thread.read_text().split())
        return found

    # -- its API

    def ask(self, method: str, path: str, *, body: Any = None, params: Any = None) -> Any:
        """Ask the controller and return its answer; what it refuses fails the test."""
        answer = self.answer(method, path, body=body, params=params)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def answer(self, method: str, path: str, *, body: Any = None, params: Any = None) -> httpx.Response:
        """Ask the controller and return what it says, a refusal too."""
        transport = httpx.HTTPTransport(uds=str(self.home / "kps.sock"), verify=NO_TLS)
        with httpx.Client(transport=transport, base_url="http://kps/fleet/v1", timeout=SECONDS, trust_env=False) as http:
            return http.request(method, path, json=body, params=params)

    def add(self, server: Server, login: str = "root", **more: Any) -> Json:
        """Take a server of the fleet in, with the host key that it has."""
        about = {"name": server.name, "host": server.host, "port": server.port, "login": login}
        return self.ask("POST", "/servers", body=about | {"host_key": server.host_key} | more)

    def server(self, server: Server) -> Json:
        return self.ask("GET", f"/servers/{server.name}")

    def keypair(self, **how: Any) -> Json:
        """Make a key pair with a name of its own."""
        return self.ask("POST", "/keypairs", body={"name": f"k{next(self._numbers)}"} | how)

    def private(self, keypair: Json) -> str:
        """The private half of a managed key pair, as OpenSSH reads it."""
        return self.ask("POST", f"/keypairs/{keypair['name']}/export")["private_key"]

    def begin(self, operation: str, *servers: Server, **request: Any) -> list[str]:
        """Order an operation on servers and return the ids of its tasks; a password or private key is given for each of them."""
        given = {
            name: request.pop(name)
            for name in ("password", "password_of", "identity", "agent_socket", "agent_key", "certificate")
            if name in request
        }
        given = {name: value for name, value in given.items() if value}
        if isinstance(request.get("keypair"), dict):
            request["keypair"] = request["keypair"]["name"]
        names = [server.name for server in servers]
        order = {"operation": operation, "servers": names, "credentials": {name: given for name in names if given}} | request
        return [task["id"] for task in self.ask("POST", "/operations", body=order)]

    def ended(self, task_id: str) -> Json:
        """Wait until a task has ended and return it."""
        after, until = 0, time.monotonic() + SECONDS
        while time.monotonic() < until:
            events = self.ask("GET", "/events", params=[("after", after), ("wait", 20), ("task", task_id)])
            after = max([after, *(event["id"] for event in events)])
            if any(event["kind"] in ENDINGS for event in events):
                return self.task(task_id)
        raise NotEnded(self.task(task_id))

    def at_phase(self, task_id: str, phase: str) -> None:
        """Wait until a task has come to a phase."""
        after, until = 0, time.monotonic() + SECONDS
        while time.monotonic() < until:
            events = self.ask("GET", "/events", params=[("after", after), ("wait", 20), ("task", task_id)])
            if any(event["phase"] == phase for event in events):
                return
            after = max([after, *(event["id"] for event in events)])
        raise NotEnded(self.task(task_id))

    def task(self, task_id: str) -> Json:
        return self.ask("GET", f"/tasks/{task_id}")

    def run(self, operation: str, server: Server, **request: Any) -> Json:
        """Carry an operation out on one server and return its task."""
        return self.ended(self.begin(operation, server, **request)[0])

    def succeeds(self, operation: str, server: Server, **request: Any) -> Json:
        """Carry an operation out; it must succeed."""
        task = self.run(operation, server, **request)
        assert (task["status"], task["server_state"]) == ("succeeded", "as_asked"), task
        return task

    def fails(self, cause: str, operation: str, server: Server, **request: Any) -> Json:
        """Carry an operation out; it must fail for this cause."""
        task = self.run(operation, server, **request)
        assert (task["status"], task["cause"]) == ("failed", cause), task
        return task

    def retry(self, task: Json, **given: str) -> Json:
        """Ask once more for what failed, with what is given now, and return the new task when it has ended."""
        again = self.ask("POST", f"/tasks/{task['id']}/retry", body={"credential": given or None})
        return self.ended(again["id"])


def methods(task: Json) -> set[tuple[str, str]]:
    """The proofs of a task as (way, method)."""
    return {(each["way"], each["method"]) for each in task["proof"]}
