"""Trouble, made for real: what a test needs to bring a server or a network into a state, and to see that nothing stays of us."""

import contextlib
import os
import select
import shlex
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.demo.fleet import Server
from tests.fleet import judge
from tests.fleet.looks import changed, picture, until
from tests.fleet.product import Json, Product
from tests.needs import lacking

SECONDS = 30
KEYS = "/root/.ssh/authorized_keys"
CONFIG = "/etc/ssh/sshd_config"

# What stays on a server where an operation went as far as writing: decision 0007.
STATE = frozenset({"/var/lib/kps", "/var/lib/kps/state.json"})


@contextlib.contextmanager
def unchanged(server: Server, but: frozenset[str] = frozenset(), password_works: bool | None = True) -> Iterator[None]:
    """What happens in the block leaves the server as it was, byte for byte, owners and modes included, save the paths in but.

    password_works: whether root's password opens it, before and after, in the eyes of OpenSSH's client; None: it can't tell.
    """
    before = picture(server)
    yield
    left = changed(before, picture(server))
    assert left <= but, left - but
    if password_works is not None:
        assert judge.password_login_works(server, "root", server.root_password) == password_works
    until(lambda: agents(server) == [], what="an agent goes on living")


def bind(
    product: Product,
    server: Server,
    login: str = "root",
    but: frozenset[str] = frozenset(),
    password_works: bool | None = True,
    **request: Any,
) -> Json:
    """Try to bind a key pair to a login of a server that root gets into with a key; nothing changes by it. Returns the task."""
    private, public = judge.new_key_pair()
    install_key(server, public)
    with unchanged(server, but, password_works):
        return product.run("bind", server, keypair=product.keypair(), login=login, identity=private, **request)


_AGENTS = ("-I -S -E -B", "kps-started", "/var/lib/kps/agent")


def is_agent(title: str) -> bool:
    """Whether a command line is of a process of ours, in Python or in shell, watchers too."""
    return any(words in title for words in _AGENTS)


def agents(server: Server) -> list[str]:
    """The processes of ours in a server, by their command lines."""
    return [title for title in server.processes().values() if is_agent(title)]


# -- servers -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """An address at which something else than a server of the fleet may be."""

    name: str
    host: str
    port: int
    host_key: str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDaclKEGNhR/jEFxpeDpma+HzpS9VwXrTcQ/+cwPRCc1"


def install_key(server: Server, public: str, login: str = "root", options: str = "") -> None:
    """Put a key into the login's authorized_keys, as its owner would."""
    home = "/root" if login == "root" else f"/home/{login}"
    server.run(["install", "-d", "-m", "700", "-o", login, "-g", login, f"{home}/.ssh"])
    server.write(f"{home}/.ssh/authorized_keys", f"{options}{' ' if options else ''}{public}\n", 0o600, f"{login}:{login}")


def mount(server: Server, kind: str, source: str, directory: str, options: str = "") -> None:
    """Mount a file system in a server, with the owner and mode that directory has now."""
    if os.readlink("/proc/self/ns/mnt") == os.readlink(f"/proc/{server.pid}/ns/mnt"):
        lacking("servers have no mounts of their own here: run as root where namespaces are allowed")
    owner = server.run(["stat", "-c", "%u:%g %a", directory]).stdout.split()
    words = ["mount", "-t", kind, *(["-o", options] if options else []), source, directory]
    finished = server.run(words, check=False)
    if finished.returncode:
        lacking(f"{shlex.join(words)} is not allowed here: {finished.stderr.strip()}")
    server.run(["chown", owner[0], directory])
    server.run(["chmod", owner[1], directory])


@contextlib.contextmanager
def block_device(server: Server, mebibytes: int = 8) -> Iterator[str]:
    """A disk with an empty ext4 on it, which the server sees as the device at the path given."""
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory, "disk")
        image.touch()
        os.truncate(image, mebibytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        attached = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
        if attached.returncode:
            lacking(f"no loop device is to be had here: {attached.stderr.strip()}; modprobe loop, or run where it is allowed")
        device = attached.stdout.strip()
        try:
            found = os.stat(device).st_rdev
            server.run(["mknod", "/dev/disk", "b", str(os.major(found)), str(os.minor(found))])
            yield "/dev/disk"
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)


class Gate:
    """Holds one login that comes while an operation waits for its proof, from the server's own /etc/ssh/sshrc.

    The login that carries the agent passes: then there is no nonce yet. So do the logins after the one that is held.
    """

    PATHS = frozenset({"/run/gate", "/run/gate/held", "/run/gate/open", "/run/gate/taken"})

    def __init__(self, server: Server, when: str = "true") -> None:
        """when: a shell command in the server; a login at which it fails passes."""
        self._server = server
        server.run(["sh", "-c", "mkdir -m 1777 /run/gate && umask 0 && mkfifo /run/gate/held /run/gate/open"])
        # Opened before anybody is told, so that what open() writes is never lost.
        hold = "exec 3<>/run/gate/open; echo >/run/gate/held; read word <&3"
        at_the_proof(server, f"{when} && mkdir /run/gate/taken 2>/dev/null || exit 0\n{hold}")

    def await_login(self) -> None:
        """Return when a login is held."""
        held = os.open(self._path("held"), os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert select.select([held], [], [], SECONDS)[0], "no login came to prove anything"
        finally:
            os.close(held)

    def open(self) -> None:
        """Let the login that is held go on, if it is still there."""
        gate = os.open(self._path("open"), os.O_RDWR | os.O_NONBLOCK)
        os.write(gate, b"go\n")
        os.close(gate)

    def _path(self, name: str) -> str:
        return f"/proc/{self._server.pid}/root/run/gate/{name}"


def at_the_proof(server: Server, script: str) -> None:
    """Have the server run a script, as the login, at every login that comes while an operation waits for its proof."""
    server.write("/etc/ssh/sshrc", f"[ -e /var/lib/kps/nonce ] || exit 0\n{script}\n")


# -- what is no server -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[Place]:
    """A TCP port of this machine where every connection gets this answer, each in a thread, and is then closed."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def one(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                answer(connection)

        def serve() -> None:
            while True:
                connection, _ = listening.accept()
                if ended.is_set():
                    connection.close()
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        try:
            yield Place(f"place-{port}", "127.0.0.1", port)
        finally:
            ended.set()
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


@contextlib.contextmanager
def deaf() -> Iterator[Place]:
    """A TCP port that drops whoever knocks, as a firewall does: its queue is full, and nobody takes anyone from it."""
    with contextlib.ExitStack() as closing:
        listening = closing.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        while True:
            knocking = closing.enter_context(socket.socket())
            knocking.settimeout(0.2)
            try:
                knocking.connect(("127.0.0.1", port))
            except TimeoutError:
                break
        yield Place(f"place-{port}", "127.0.0.1", port)


@contextlib.contextmanager
def proxy(choose: Callable[[], Server | None], name: str, host_key: str, source: str = "") -> Iterator[Place]:
    """An address that hands each new connection on, from source, to the server that choose() names; None: it is reset."""

    def hand_on(connection: socket.socket) -> None:
        server = choose()
        if server is None:
            reset(connection)
            return
        with socket.create_connection((server.host, server.port), source_address=(source, 0)) as there:
            pair = {connection: there, there: connection}
            while True:
                for each in select.select(list(pair), [], [])[0]:
                    some = each.recv(65536)
                    if not some:
                        return
                    pair[each].sendall(some)

    with listener(hand_on) as place:
        yield Place(name, place.host, place.port, host_key)


def reset(connection: socket.socket) -> None:
    """End a connection with a reset: socket(7), SO_LINGER of zero."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
