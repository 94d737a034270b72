"""Who serves a home, and where it listens: one process, on the owner's Unix socket and, if asked, on the network."""

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import os
import signal
import socket
import ssl
import stat
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h11
import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from controller.admission import HEAD_BYTES, Counted, Listener
from controller.errors import Conflict, Invalid, Unavailable

SOCKET_PATH_BYTES = 107  # unix(7): sun_path, without its final NUL
GOODBYE_SECONDS = 5  # for requests under way when the controller stops
LAST_WORDS_SECONDS = 0.3  # for answers on their way, and for the other end to say that it heard; then connections are cut
_LOOK_SECONDS = 0.02
TLS_SECONDS = 10  # for a handshake
TLS_GOODBYE_SECONDS = 5  # of a connection that is closed, for the other side to say so too
HEAD_SECONDS = 10  # for the head of a request
UNREAD_SECONDS = 30  # for a client to take something of what waits for it
LINGER_SECONDS = 2  # after what is no request was refused: what comes meanwhile is thrown away
UNWANTED_BYTES = 8 * 1024 * 1024  # of a body whose request was answered before it had come: so much more is thrown away
IDLE_SECONDS = 15  # of a connection between two requests
BACKLOG = 128

log = structlog.get_logger("kps.access")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the network is listened to. certificate, key: files; None: plain HTTP, on loopback only."""

    host: str
    port: int
    certificate: Path | None = None
    key: Path | None = None

    @property
    def url(self) -> str:
        """The address as clients give it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.certificate is None else 'https'}://{host}:{self.port}"

    def url_of(self, listener: socket.socket | None) -> str:
        """Return the same with the port that was taken, where any would do."""
        return self.url if listener is None else replace(self, port=listener.getsockname()[1]).url


def place(text: str, certificate: Path | None, key: Path | None) -> Place:
    """Return HOST:PORT as a place. Invalid(listen_unusable): no such address, or plain HTTP where others could listen in."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise Invalid("listen_unusable", f"{text!r}: give HOST:PORT, as 0.0.0.0:8443 or [::1]:8443")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise Invalid("listen_unusable", f"{text!r}: give an address, not a name") from None
    if certificate is None and not loopback:
        raise Invalid("listen_unusable", f"{text}: plain HTTP is for loopback only; requests carry passwords and keys")
    return Place(host, int(port), certificate, key)


class Patient(H11Protocol):
    """HTTP as uvicorn speaks it, to clients that say what they want within HEAD_SECONDS; the body has its own time (gate).

    Who does not take the answer is left: what waits for them (64 KiB of asyncio's) would be held for as long as they like.
    """

    _late: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _turned_away = False
    _unwanted = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            return
        between = self.cycle is None or self.cycle.response_complete
        if self._late is None and between:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        self._unwanted = self._unwanted + len(data) if between and self.conn.their_state is h11.SEND_BODY else 0
        if self._unwanted > UNWANTED_BYTES:
            # Whoever still sends has not read the answer, and needs a moment for it once they can send no more.
            self._turned_away = True
            self.transport.pause_reading()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
            return
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        asked = self.cycle is not None and not self.cycle.response_complete
        if self._late is not None and asked:
            self._late.cancel()
            self._late = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request of HTTP, or has too long a head: numbered, on record and as JSON, like all refusals."""
        number = uuid.uuid4().hex
        log.info("request", id=number, status=400, address=str(self.client[0]) if self.client else None)
        if self.cycle is not None:
            # Whoever answers its beginning (the gate reads no stranger's body) is not to say anything after this.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer is under way, and nothing more can be said
            body = json.dumps({"error_code": "APIGW.0201", "error_msg": msg, "request_id": number}).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("x-request-id", number),
                ("cache-control", "no-store"),
                ("connection", "close"),
            ]
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        # Closed at once, with something still unread, the connection is reset, and who sends may lose the answer.
        self._turned_away = True
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        # Not close(): that would wait until all has been taken.
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._late, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """uvicorn, told to stop by whoever runs it, so that stopping is an ordinary end."""

    def __init__(self, served: ASGIApp, ready: Callable[[], None], where: Place | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                served,
                lifespan="off",
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who asks is who connects
                http=Patient,
                ws="none",
                timeout_graceful_shutdown=GOODBYE_SECONDS,
                h11_max_incomplete_event_size=HEAD_BYTES,
                timeout_keep_alive=IDLE_SECONDS,
                ssl_certfile=None if where is None else where.certificate,
                ssl_keyfile=None if where is None else where.key,
            )
        )
        self._ready = ready
        self._where = where

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections. uvicorn's own does the same, and leaves a TLS handshake a minute."""
        loop, config = asyncio.get_running_loop(), self.config

        def protocol() -> asyncio.Protocol:
            return Patient(config, self.server_state, self.lifespan.state)

        self.servers = [
            await loop.create_server(
                protocol,
                sock=each,
                ssl=config.ssl,
                backlog=BACKLOG,
                ssl_handshake_timeout=TLS_SECONDS if config.is_ssl else None,
                ssl_shutdown_timeout=TLS_GOODBYE_SECONDS if config.is_ssl else None,
            )
            for each in sockets or []
        ]
        self.started = True
        self._ready()

    def take_up_certificate(self) -> None:
        """Show the certificate that lies there now to who connects next. Unavailable(certificate_unusable): the old one stays."""
        where, context = self._where, self.config.ssl
        if where is None or where.certificate is None or context is None:
            return
        _tried(where)  # half of a pair that does not go together would stay
        context.load_cert_chain(where.certificate, where.key)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, finish the answers under way, and leave; whoever is idle is left at once."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        here = self.server_state
        for connection in list(here.connections):
            connection.shutdown()
        await self._while(lambda: bool(here.tasks), GOODBYE_SECONDS)
        for answering in here.tasks:
            answering.cancel()
        # The last bytes of an answer; and over TLS a close waits for the other end's, which an idle client sends much later.
        await self._while(lambda: bool(here.connections), LAST_WORDS_SECONDS)
        for connection in list(here.connections):
            connection.transport.abort()

    async def _while(self, waiting: Callable[[], bool], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while waiting() and loop.time() < until and not self.force_exit:  # noqa: ASYNC110  (uvicorn keeps sets, and tells nobody)
            await asyncio.sleep(_LOOK_SECONDS)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


Leave = Callable[[asyncio.Event], Awaitable[None]]


async def until_told(servers: list[tuple[Server, socket.socket]], leave: Leave, again: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, or until one of the servers ends; again is called at SIGHUP.

    leave is then awaited, while requests are still taken: the event that it is given says to be done at once. That is the
    second signal; a third ends the process as it would any other.
    """
    loop = asyncio.get_running_loop()
    told, hurry = asyncio.Event(), asyncio.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def deaf() -> None:
        for number in (*numbers, signal.SIGHUP):
            loop.remove_signal_handler(number)

    def stop() -> None:
        if not told.is_set():
            told.set()
            return
        hurry.set()
        for server, _ in servers:
            server.force_exit = True
        deaf()

    for number in numbers:
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, again)
    try:
        running = [asyncio.create_task(server.serve(sockets=[listener])) for server, listener in servers]
        waiting = asyncio.create_task(told.wait())
        await asyncio.wait([*running, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        told.set()
        await leave(hurry)
        for server, _ in servers:
            server.should_exit = True
        await asyncio.gather(*running)
    finally:
        deaf()


@contextlib.contextmanager
def on_network(where: Place) -> Iterator[socket.socket]:
    """Listen at a place. Unavailable(listen_failed): it is taken, or not ours to take; or its certificate cannot be used."""
    _tried(where)
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    # Where the protocol is left out asyncio leaves Nagle's algorithm on, and half an answer waits 40 ms for an acknowledgement.
    with Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.counted = Counted()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((where.host, where.port))
        except OSError as error:
            raise Unavailable("listen_failed", f"{where.url}: {error.strerror}; choose another --listen") from error
        listener.listen(BACKLOG)
        yield listener


def _tried(where: Place) -> None:
    """See that certificate and key go together. Unavailable(certificate_unusable)."""
    if where.certificate is None:
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(where.certificate, where.key)
    except (OSError, ssl.SSLError) as error:
        message = f"{where.certificate}, {where.key}: {error}; give a certificate and its key as PEM"
        raise Unavailable("certificate_unusable", message) from error


@contextlib.contextmanager
def sole(home: Path) -> Iterator[None]:
    """Be the only one who serves this home, for as long as the block or the process lasts."""
    with _lock(home / "serve.lock") as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict("already_served", f"{home}: somebody serves this home already") from error
        yield


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable("home_unusable", f"{path}: {error.strerror}; see the mode of the home, and its disk") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def as_worker(home: Path) -> Iterator[socket.socket]:
    """Listen where a process that only works for this home is asked how it is. What dead ones have left there is taken away."""
    with contextlib.ExitStack() as held:
        # One after the other: what is bound and not listened to yet looks as if a dead one had left it, and a new process may
        # have the number of one that is dead.
        with _lock(home / "workers.lock") as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for each in home.glob("worker-*.sock"):
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    try:
                        probe.connect(os.fspath(each))
                    except ConnectionRefusedError:
                        each.unlink()
            listener = held.enter_context(listening(home / f"worker-{os.getpid()}.sock"))
        yield listener


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Listen on a Unix socket for this user alone. What a controller that died has left there is taken away."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise Unavailable("socket_path_too_long", f"{path}: longer than {SOCKET_PATH_BYTES} bytes; choose another home")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Unavailable("socket_in_the_way", f"{path}: not a socket; move it away")
        path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            message = f"{path}: {error.strerror}; see the mode of the home, and its disk"
            raise Unavailable("home_unusable", message) from error
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
