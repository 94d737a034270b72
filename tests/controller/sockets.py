"""A controller that is served over HTTP on loopback, and bytes sent to it as no HTTP library would send them."""

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controller import signing
from controller.model import Secret
from tests.controller.faces import KPS

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Answered:
    """status 0: the connection ended without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A home that is served, with what its first user signs with."""

    port: int
    home: Path
    made: dict[str, Any]
    process: "subprocess.Popen[str]"
    log: list[str]

    @property
    def project(self) -> str:
        """The path of the v3 API's calls."""
        return f"/v3/{self.made['project_id']}"

    @property
    def host(self) -> bytes:
        """The Host of requests."""
        return f"127.0.0.1:{self.port}".encode()

    def signed(self, method: str, target: str | bytes, body: bytes = b"", headers: Headers = ()) -> list[tuple[bytes, bytes]]:
        """Return headers that sign a request over its Host alone."""
        raw = target.encode() if isinstance(target, str) else target
        path, _, query = raw.partition(b"?")
        asked = signing.Request(method, path, query, [(b"Host", self.host)], body)
        by = signing.sign(asked, self.made["access_key"], Secret(self.made["secret_key"]), datetime.now(UTC))
        return [(b"Host", self.host), *by, *headers]

    def ask(
        self, method: str, target: str | bytes, body: bytes = b"", headers: Headers = (), version: bytes = b"1.1"
    ) -> Answered:
        """Send a signed request; a body as JSON, where headers do not say otherwise."""
        if body and not any(name.lower() == b"content-type" for name, _ in headers):
            headers = [*headers, (b"Content-Type", b"application/json")]
        raw = target.encode() if isinstance(target, str) else target
        lines = [method.encode() + b" " + raw + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in self.signed(method, raw, body, headers)]
        if body:
            lines.append(b"Content-Length: %d" % len(body))
        return self.send(b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body)

    def send(self, data: bytes, *, to_the_end: bool = False, seconds: float = 60) -> Answered:
        """Send bytes and return the answer; to_the_end: with all that comes after it until the connection ends."""
        with self.connected(seconds) as wire:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                wire.sendall(data)
            return read(wire, to_the_end=to_the_end)

    def connected(self, seconds: float = 60) -> socket.socket:
        """Return a connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)

    def memory(self) -> int:
        """Return the most memory that the process has had, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.split("\n") if line.startswith("VmHWM"))


def read(wire: socket.socket, *, to_the_end: bool = False) -> Answered:
    """Read one answer; to_the_end: with all that comes after it until the connection ends."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while more := wire.recv(65536):
            data += more
            answer = _answered(bytes(data))
            if not to_the_end and b"\r\n\r\n" in data and len(answer.body) >= int(answer.headers.get("content-length", 0)):
                return answer
    return _answered(bytes(data))


def _answered(data: bytes) -> Answered:
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answered(int(first.split()[1]) if first else 0, headers, body)


@contextlib.contextmanager
def serving(home: Path, **environment: str) -> Iterator[Served]:
    """Make a home and serve it; at the end it has to stop as it should, and to have had no fault."""
    made = json.loads(subprocess.run([KPS, "init", "--home", home, "--json"], check=True, capture_output=True).stdout)
    process = subprocess.Popen(
        [KPS, "serve", "--home", home, "--http", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home.parent), "PYTHONUNBUFFERED": "1", **environment},
    )
    assert process.stdout is not None
    told = ""
    while not told.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, told
        told += line
    log: list[str] = []
    # A log that nobody reads stops the controller once the pipe is full.
    reading = threading.Thread(target=log.extend, args=(process.stdout,), daemon=True)
    reading.start()
    try:
        yield Served(int(json.loads(told)["url"].rpartition(":")[2]), home, made, process, log)
    finally:
        process.terminate()
        process.wait(timeout=60)
        reading.join(timeout=60)
        process.stdout.close()
    assert process.returncode == 0, log[-20:]
    assert not [line for line in log if "Traceback" in line], log
