"""A process of ours that goes into a server of the fleet: its files and programs, a network of its own, and an sshd in it.

The process is forked, so it brings along every module that was loaded before; nothing can be loaded once it is inside.
"""

import asyncio
import contextlib
import fcntl
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import asyncssh

from controller.demo import kernel
from controller.demo.fleet import Server

HERE = "192.0.2.1"  # where the server answers, in the network of its own (RFC 5737)
SOURCES = ("192.0.2.9", "10.0.0.5", "203.0.113.7", "127.0.0.1")
PORT = 22
SSHD = "/usr/sbin/sshd"
CONFIG = "/etc/ssh/sshd_config"
CLEAN = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
LOGIN_SECONDS = 20

_NEW_NETWORK = 0x40000000
_SET_ADDRESS, _SET_MASK, _SET_FLAGS, _UP = 0x8916, 0x891C, 0x8914, 0x1


class Failed(Exception):
    """what was to be done inside a server raised; the message is its traceback"""


def started(server: Server, work: Callable[..., Any], *given: Any) -> "Running":
    """Begin work(*given) in a process inside the server; its answer comes back through a pipe."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        kernel.set_death_signal(signal.SIGKILL)
        try:
            _enter(server)
            answer = (True, work(*given))
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(theirs, "wb") as stream:
            pickle.dump(answer, stream)
        os._exit(0)
    os.close(theirs)
    return Running(child, ours)


class Running:
    """A process inside a server."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid, self._pipe = pid, pipe

    def ended(self) -> Any:
        """Wait for its answer. Raises Failed where it raised, or ended without one."""
        with os.fdopen(self._pipe, "rb") as stream:
            said = stream.read()
        os.waitpid(self.pid, 0)
        if not said:
            raise Failed("it ended without an answer")
        good, answer = pickle.loads(said)  # noqa: S301 - from our own child
        if not good:
            raise Failed(answer)
        return answer


def _enter(server: Server) -> None:
    _load_what_is_loaded_late()
    with open(f"/proc/{server.pid}/ns/mnt", "rb") as namespace:
        kernel.enter(namespace.fileno(), kernel.NEW_MOUNTS)
    kernel.unshare(_NEW_NETWORK | kernel.NEW_MOUNTS)
    os.environ.clear()
    # asyncssh looks into ~/.ssh, at a moment at which another thread may have taken on the rights of a login.
    os.environ.update(CLEAN, HOME="/run")
    _bring_up()


def _load_what_is_loaded_late() -> None:
    for name in (
        "glob",
        "hashlib",
        "stringprep",
        *(f"encodings.{each}" for each in ("ascii", "idna", "latin_1", "unicode_escape")),
    ):
        importlib.import_module(name)


def _bring_up() -> None:
    """Give the loopback interface of this new network the addresses that servers and clients have. netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for number, address in enumerate(("127.0.0.1", HERE, *(each for each in SOURCES if each != "127.0.0.1"))):
            name = b"lo" if number == 0 else b"lo:%d" % number
            if number:
                fcntl.ioctl(control, _SET_ADDRESS, _request(name, address))
                fcntl.ioctl(control, _SET_MASK, _request(name, "255.255.255.255"))
            fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sH14s", name, _UP, b""))


def _request(name: bytes, address: str) -> bytes:
    return struct.pack("16sHH4s8s", name, socket.AF_INET, 0, socket.inet_aton(address), b"")


def on_memory(*directories: str) -> None:
    """Have these directories of the server lie in memory, with the files that they hold: durable writes cost nothing there."""
    for directory in directories:
        os.makedirs(directory, exist_ok=True)
        seen = os.stat(directory)
        held = [(path, os.lstat(path), path.read_bytes()) for path in Path(directory).iterdir() if path.is_file()]
        below = [(path, os.lstat(path)) for path in Path(directory).iterdir() if path.is_dir()]
        kernel.mount("tmpfs", directory, "tmpfs", 0, f"mode={seen.st_mode & 0o7777:o},uid={seen.st_uid},gid={seen.st_gid}")
        for path, found in below:
            path.mkdir()
            _as_it_was(path, found)
        for path, found, content in held:
            path.write_bytes(content)
            _as_it_was(path, found)


def _as_it_was(path: Path, found: os.stat_result) -> None:
    os.chown(path, found.st_uid, found.st_gid)
    os.chmod(path, found.st_mode & 0o7777)


@contextlib.contextmanager
def inetd(*services: tuple[int, Sequence[str]]) -> Iterator[None]:
    """An sshd for each connection, as inetd starts it: each service is a port and the arguments beside -i."""
    listening = {}
    for port, arguments in services:
        listener = socket.create_server((HERE, port), backlog=64)
        listening[listener.fileno()] = (listener, [SSHD, "-i", *arguments])
    child = os.fork()
    if child == 0:
        kernel.set_death_signal(signal.SIGKILL)
        _serve(listening)
    for listener, _ in listening.values():
        listener.close()
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _serve(listening: dict[int, tuple[socket.socket, list[str]]]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    nothing = os.open("/dev/null", os.O_RDWR)
    while True:
        for each in select.select(list(listening), [], [])[0]:
            listener, argv = listening[each]
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.dup2(connection.fileno(), 0)
                os.dup2(connection.fileno(), 1)
                os.dup2(nothing, 2)
                os.closerange(3, 1024)
                os.execve(argv[0], argv, CLEAN)  # noqa: S606
            connection.close()


# -- logins ------------------------------------------------------------------------------------------------------------


class Attempt(NamedTuple):
    """How a login went. got_in: sshd let it in; printed: what the command then printed, None where none ran."""

    got_in: bool
    printed: str | None
    why: str


class Puzzled(Exception):
    """the client was neither let in nor refused"""


async def attempt(
    login: str,
    source: str,
    key: asyncssh.SSHKey | None = None,
    password: str | None = None,
    command: str | None = None,
    port: int = PORT,
) -> Attempt:
    """Log in for real, with this key or this password and nothing else, from this address."""
    try:
        connection = await asyncio.wait_for(
            asyncssh.connect(
                HERE,
                port,
                username=login,
                local_addr=(source, 0),
                client_keys=[key] if key is not None else [],
                password=password,
                preferred_auth="publickey" if key is not None else "password,keyboard-interactive",
                known_hosts=None,
                config=None,
                agent_path=None,
                gss_host=None,
                kex_algs=["curve25519-sha256"],
                encryption_algs=["aes128-ctr", "aes256-ctr"],
                mac_algs=["hmac-sha2-256", "hmac-sha2-256-etm@openssh.com"],
                compression_algs=None,
            ),
            LOGIN_SECONDS,
        )
    except asyncssh.PermissionDenied as error:
        return Attempt(False, None, error.reason)
    except (asyncssh.Error, OSError, TimeoutError) as error:
        if "no authentication methods enabled" in str(error):  # sshd's word where AuthenticationMethods has none that is on
            return Attempt(False, None, str(error))
        raise Puzzled(f"{login} from {source}: {type(error).__name__}: {error}") from error
    try:
        if command is None:
            return Attempt(True, None, "")
        try:
            done = await asyncio.wait_for(connection.run(command, stdin=asyncssh.DEVNULL), LOGIN_SECONDS)
        except (asyncssh.Error, TimeoutError) as error:
            return Attempt(True, None, str(error))
        return Attempt(True, str(done.stdout), "")
    finally:
        connection.abort()


def wait_for(seconds: float) -> Callable[[], bool]:
    """Return what says whether so many seconds have passed since now."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until
