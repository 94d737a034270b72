"""Fake servers: asyncssh in the place of sshd, a disk in memory, and on it the agent's own transaction. Each says so in its name.

What is real: the key exchange, host key, signature or password of each connection; whether a key gets in, which is read from
the authorized_keys of the disk as it is at that moment; the agent's frames, its transaction, and its undo where the controller
is gone. What is not: sshd, and the agent's way to the files. Their disk is that of the exhaustive tests
(tests/agent/model_host.py).

    with Fakes(1000) as fakes:
        fakes.servers[0].host, .port, .host_key, .root_password
"""

import asyncio
import contextlib
import json
import random
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import asyncssh

from kpsagent import plan as plans
from kpsagent import wire
from kpsagent.errors import Lost
from kpsagent.host import Account, Ask, Say
from kpsagent.transaction import operation

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))
from model_host import CONFIG, STATE, Credential, ModelHost, Rope, World, directory, file

PORT = 2222
_NETWORKS = range(88, 120)  # 127.N
KEYS = "/root/.ssh/authorized_keys"
STARTED = b"kps-started\n"
PAUSE_SECONDS = 0.05  # at most, between two phases: a server takes its time
_AGENT = re.compile(r"exec /bin/sh -c '.*' kps ([0-9a-f]{32}) none \S+", re.DOTALL)
_NONCE = re.compile(r"echo ([0-9a-f]{16}); exec /bin/cat (/\S+)")
_CONFIG = "Port 22\nPermitRootLogin yes\nKbdInteractiveAuthentication no\nUsePAM yes\n"


class FakeServer:
    """One of them."""

    def __init__(self, number: int, network: int) -> None:
        self.name = f"fake-{number}"
        self.host, self.port = f"127.{network}.{number // 250}.{1 + number % 250}", PORT
        self.root_password = f"a password of {self.name}"
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.host_key = " ".join(self.key.export_public_key().decode().split()[:2])
        disk = {path: directory() for path in ("/", "/etc", "/etc/ssh", "/etc/cron.d", "/var", "/var/lib")}
        disk |= {"/root": directory(0o700), CONFIG: file(_CONFIG)}
        root = Account("root", 0, 0, ["root"], [], "/root", "/bin/bash", "usable", "")
        self.world = World([root], {"root": self.root_password}, disk)
        self.refused_as_stale = 0  # orders older than one that it has carried out

    def keys(self) -> str:
        """The text of root's authorized_keys; "" where there is none."""
        entry = self.world.disk.get(KEYS)
        return "" if entry is None else entry.text

    def left(self) -> list[str]:
        """What of an operation has stayed besides its result: journals, a nonce, an armed undo."""
        return [path for path in self.world.disk if path.startswith(f"{STATE}/") and path != f"{STATE}/state.json"]

    def lets_in(self, way: str, login: str, secret: str) -> bool:
        return bool(self.world.logs_in(Credential(way, login, secret)))


class _Door(asyncssh.SSHServer):
    """sshd's part: who gets in."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._login = ""

    def begin_auth(self, username: str) -> bool:
        self._login = username
        return True

    def password_auth_supported(self) -> bool:
        return bool(self._server.world.password_asked(self._login))

    def validate_password(self, username: str, password: str) -> bool:
        return self._server.lets_in("password", username, password)

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self._server.lets_in("key", username, key.export_public_key().decode().strip())


class _Session:
    """The agent's far end of a rope: frames in and out, the transaction on the server's disk."""

    def __init__(self, server: FakeServer, process: Any, marker: str) -> None:
        self._server, self._process, self._marker = server, process, marker
        self._rope = Rope([])
        self._host = ModelHost(server.world, self._rope)

    async def run(self) -> None:
        stdin = self._process.stdin
        self._process.stdout.write(STARTED)
        size = int((await stdin.readline()).split()[1])
        await stdin.readexactly(size)
        order = json.loads(await stdin.readline())
        plan = plans.parse(dict(order["plan"], connection=["127.0.0.1", "50000", self._server.host, str(PORT)]))
        self._say({"say": "hello", "boot": "boot-1", "python": "3.11.0", "root": True})
        try:
            result = await self._played(operation(plan))
        finally:
            self._host.close()
        self._server.refused_as_stale += result.get("cause") == "stale_generation"
        self._say(dict(result, say="result"))

    async def _played(self, play: Any) -> Any:
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                effect = play.throw(error) if error is not None else play.send(answer)
                answer, error = None, None
                try:
                    answer = await self._done(effect)
                except Exception as raised:  # whatever it is, the answer is to undo
                    error = raised
        except StopIteration as done:
            return done.value

    async def _done(self, effect: Any) -> Any:
        self._server.world.clock = time.monotonic()
        self._rope.ended = self._process.stdin.at_eof()
        if isinstance(effect, Say):
            self._say({"say": "phase", "phase": effect.phase, "detail": effect.detail})
            await asyncio.sleep(random.uniform(0, PAUSE_SECONDS))
            return None
        if isinstance(effect, Ask):
            return await self._asked(effect)
        return self._host.do(effect)

    async def _asked(self, effect: Any) -> Any:
        left = effect.deadline - time.monotonic()
        about = {"phase": effect.phase, "questions": effect.questions, "path": effect.path, "seconds": left}
        self._say({"say": "ask"} | about)
        try:
            async with asyncio.timeout(left):
                line = await self._process.stdin.readline()
        except TimeoutError:
            raise Lost("deadline_passed", "no proof came before the deadline") from None
        if not line.endswith(b"\n"):
            raise Lost("connection_lost", "the controller is gone")
        return json.loads(line)["answers"]

    def _say(self, frame: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, asyncssh.Error):
            self._process.stdout.write(f"{self._marker} {wire.encode(wire.readable(frame))}\n".encode("ascii"))


async def _command(server: FakeServer, process: Any) -> None:
    """Run what a login asks for: the agent, or the nonce read back. Nothing else is known here."""
    agent, nonce = _AGENT.fullmatch(process.command or ""), _NONCE.fullmatch(process.command or "")
    with contextlib.suppress(OSError, asyncssh.Error, asyncio.IncompleteReadError):
        if agent:
            await _Session(server, process, agent[1]).run()
        elif nonce:
            entry = server.world.disk.get(nonce[2])
            process.stdout.write(f"{nonce[1]}\n{'' if entry is None else entry.text}".encode())
        process.exit(0 if agent or nonce else 127)


def _network() -> tuple[socket.socket, int]:
    """Return a network of loopback addresses that no other process of these has, and what keeps the others from it."""
    for network in _NETWORKS:
        with contextlib.suppress(OSError):
            return socket.create_server((f"127.{network}.255.254", PORT)), network
    raise RuntimeError("all networks of fakes are taken")


class Fakes:
    """So many fake servers, on a thread of their own."""

    def __init__(self, count: int) -> None:
        self._network, network = _network()
        self.servers = [FakeServer(number, network) for number in range(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fakes", daemon=True)

    def __enter__(self) -> "Fakes":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()
        self._network.close()

    def __iter__(self) -> Iterator[FakeServer]:
        return iter(self.servers)

    async def _listen(self) -> None:
        self._listening = [await self._door(server) for server in self.servers]

    async def _door(self, server: FakeServer) -> asyncssh.SSHAcceptor:
        return await asyncssh.create_server(
            lambda: _Door(server),
            server.host,
            server.port,
            server_host_keys=[server.key],
            process_factory=lambda process: _command(server, process),
            encoding=None,
            server_version="kps_fake",
            login_timeout=60,
            backlog=64,
        )

    async def _close(self) -> None:
        for each in self._listening:
            each.close()
        for waiting in [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            waiting.cancel()
        await asyncio.sleep(0)
