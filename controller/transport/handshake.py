"""The handshake on a line that is open: who answers what the server asks, and how asyncssh's connections are made.

asyncssh.connect() prepares its options anew for each connection, on another thread: that costs as much as the cryptography.
listen_reverse() prepares them once, for whoever comes to its listener. Ours listens to nobody: it only keeps what a connection
is made with. What is a connection's own (its key, its password, the host key that it must see) its Client answers.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import asyncssh

from controller.model import Secret
from controller.transport import algorithms
from controller.transport.prompts import asks_for_password

_MOST_KINDS = 1000


@dataclass(frozen=True, slots=True)
class Kind:
    """What connections that are alike have in common. Nothing of it is a secret.

    methods: of a log-in, in their order. host_key_type: "" where the key is not known yet. old: the old algorithms that the
    server is allowed. only_asked: how keys are offered that are never signed for. keeps_nothing: what goes over it is worth
    nothing to who records it. silent_seconds: how long nothing may come before the server is asked whether it is there; 0:
    whoever waits looks to that.
    """

    login: str
    methods: str
    host_key_type: str
    old: tuple[str, ...] = ()
    only_asked: tuple[str, ...] = ()
    keeps_nothing: bool = False
    silent_seconds: float = 0.0

    @property
    def options(self) -> dict[str, Any]:
        """Return it in asyncssh's words."""
        known, old = self.host_key_type, self.old
        return {
            "username": self.login,
            "client_factory": _AT_HAND.get,
            "client_keys": None,
            "preferred_auth": self.methods,
            "known_hosts": ([], [], []),
            "server_host_key_algs": algorithms.signed_by(known, old) if known else algorithms.wanted("host key", old),
            "kex_algs": algorithms.key_exchanges(old, keeps_nothing=self.keeps_nothing),
            "encryption_algs": algorithms.wanted("cipher", old),
            "mac_algs": algorithms.wanted("MAC", old),
            "signature_algs": algorithms.shown(self.only_asked, old),
            "compression_algs": None,
            # Nothing of this machine's: no ssh_config, no agent, no default identity, no ticket.
            "config": None,
            "agent_path": None,
            "gss_host": None,
            "gss_kex": False,
            "gss_auth": False,
            "host_based_auth": False,
            "login_timeout": 0,
            # A cable that is pulled says nothing: a server that leaves this many questions unanswered is gone.
            "keepalive_interval": self.silent_seconds,
            "keepalive_count_max": 2,
        }


@dataclass(eq=False)
class Client(asyncssh.SSHClient):
    """Answers what a server asks during log-in, and remembers what it asked for.

    host_key: the only one that is trusted. banner: what it said to whoever comes. verdict: what it said once it had been shown a
    credential.
    """

    password: Secret | None = None
    keys: Sequence[asyncssh.SSHKeyPair] = ()
    host_key: asyncssh.SSHKey | None = None
    given: bool = False
    offered: set[str] = field(default_factory=set)
    seen_host_key: str = ""
    banner: str = ""
    verdict: str = ""
    shown: bool = False  # a credential has been sent
    asked_for_a_key: bool = False
    tried: bool = False  # a login has been tried, if only by offering a public key
    other_prompt: str = ""  # what it asked for that is no login's password: it got no answer
    connection: asyncssh.SSHClientConnection | None = None
    ended: asyncio.Future[asyncssh.SSHClientConnection] | None = None  # the handshake

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.connection = conn

    def auth_completed(self) -> None:
        if self.ended is not None and not self.ended.done() and self.connection is not None:
            self.ended.set_result(self.connection)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.ended is not None and not self.ended.done():
            self.ended.set_exception(exc or asyncssh.ConnectionLost("the server ended it"))

    def give_up(self) -> None:
        """Break off within the log-in: what was to be learned is known."""
        if self.connection is not None:
            self.auth_completed()
            self.connection.abort()

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        if self.host_key is not None and key.public_data == self.host_key.public_data:
            return True
        self.seen_host_key = key.export_public_key().decode("ascii").strip()
        return False

    def auth_banner_received(self, msg: str, lang: str) -> None:
        if self.shown:
            self._judged(msg)
        else:
            self.banner = (self.banner + msg)[:2000]

    def public_key_auth_requested(self) -> list[asyncssh.SSHKeyPair] | None:
        self.asked_for_a_key = True
        keys, self.keys = list(self.keys), ()
        return keys or None

    def password_auth_requested(self) -> str | None:
        self.offered.add("password")
        return self._password_once()

    def password_change_requested(self, prompt: str, lang: str) -> tuple[str, str]:
        self._judged(prompt or "password expired")
        raise asyncssh.PermissionDenied("the password has expired")

    def kbdint_auth_requested(self) -> str | None:
        self.offered.add("keyboard-interactive")
        return "" if self.password is not None and not self.given else None

    def kbdint_challenge_received(
        self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
    ) -> Sequence[str] | None:
        self._judged(instructions)
        if not prompts:
            return []
        if self.password is None:
            return None
        if not asks_for_password(prompts):
            self.other_prompt = " ".join(text for text, _ in prompts)[:300] or "(an empty prompt)"
            return None
        password = self._password_once()
        return None if password is None else [password]

    def _password_once(self) -> str | None:
        if self.password is None or self.given:
            return None
        self.given = self.shown = self.tried = True
        return self.password.open().decode("utf-8", "surrogateescape")

    def _judged(self, said: str) -> None:
        self.verdict = (self.verdict + said)[:2000]


class Way(Protocol):
    """What leads to a server: a socket that is connected to it (corked), or a connection to a jump server."""

    async def create_connection(self, session_factory: Any, remote_host: str, remote_port: int, /) -> tuple[Any, Any]: ...


async def logged_in(way: Way, host: str, port: int, kind: Kind, client: Client) -> asyncssh.SSHClientConnection:
    """Return a connection on which the client has come to the end of its log-in. Raises what asyncssh.connect() raises."""
    made = await _how_made(kind)
    client.ended = asyncio.get_running_loop().create_future()
    before = _AT_HAND.set(client)
    try:
        await way.create_connection(made, host, port)
        return await client.ended
    except BaseException:
        if not client.ended.cancel() and not client.ended.cancelled():
            client.ended.exception()  # it has been heard
        if client.connection is not None:
            client.connection.abort()
            await client.connection.wait_closed()
        raise
    finally:
        _AT_HAND.reset(before)
        # A timer that was cancelled keeps its context, and so the client, until its time would have come.
        client.password, client.keys = None, ()


_AT_HAND: ContextVar[Client] = ContextVar("the client whose connection is being made")
_Makes = Callable[[str, int], Any]


class _Kept:
    """Stands where asyncssh expects a server that listens for it, and keeps what it would make a connection with."""

    def __init__(self) -> None:
        self.made: _Makes

    async def create_server(self, session_factory: _Makes, listen_host: str, listen_port: int) -> "_Kept":
        self.made = session_factory
        return self


class _Kinds:
    """How connections of each kind are made, for one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.made: dict[Kind, Callable[[], Any]] = {}


_kinds = _Kinds(None)


async def _how_made(kind: Kind) -> Callable[[], Any]:
    global _kinds
    loop = asyncio.get_running_loop()
    if _kinds.loop is not loop:
        _kinds = _Kinds(loop)
    kinds = _kinds
    if kind not in kinds.made:
        kept: Any = _Kept()
        await asyncssh.listen_reverse(tunnel=kept, **kind.options)
        if len(kinds.made) >= _MOST_KINDS:
            kinds.made.clear()
        kinds.made[kind] = lambda: kept.made("", 0)
    return kinds.made[kind]
