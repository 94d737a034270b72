"""A connection to one server: strict about the host key, one credential, nothing taken from this machine's own ~/.ssh."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from controller.model import Secret
from controller.transport import knock
from kpsagent.errors import Refused

# sshd(8) at MaxStartups, and from OpenSSH 9.8 on with an address that failed too often.
_SAID_BY_A_FULL_SSHD = ("Exceeded MaxStartups", "Not allowed at this time")
# Cheap where both ends have it; asyncssh builds a cipher context for every name it is asked to try.
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-ctr")


class NotConnected(Refused):
    """there is no session; the cause says why"""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is, and who it is. host_key: "ssh-ed25519 AAAA...", or None where it is not known yet."""

    name: str
    host: str
    port: int
    host_key: str | None
    timeout_seconds: float = 10.0


@dataclass(eq=False)
class Client(asyncssh.SSHClient):
    """Answers what a server asks during log-in, and remembers what it asked for.

    banner: what it said to whoever comes. verdict: what it said once it had been shown a credential.
    """

    password: Secret | None = None
    given: bool = False
    offered: set[str] = field(default_factory=set)
    seen_host_key: str = ""
    banner: str = ""
    verdict: str = ""
    shown: bool = False  # a credential has been sent
    asked_for_a_key: bool = False
    connection: asyncssh.SSHClientConnection | None = None

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.connection = conn

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.seen_host_key = key.export_public_key().decode("ascii").strip()
        return False

    def auth_banner_received(self, msg: str, lang: str) -> None:
        if self.shown:
            self._judged(msg)
        else:
            self.banner = (self.banner + msg)[:2000]

    def public_key_auth_requested(self) -> None:
        self.asked_for_a_key = True

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
        if [echo for _, echo in prompts] != [False]:
            return None
        password = self._password_once()
        return None if password is None else [password]

    def _password_once(self) -> str | None:
        if self.password is None or self.given:
            return None
        self.given = self.shown = True
        return self.password.open().decode("utf-8", "surrogateescape")

    def _judged(self, said: str) -> None:
        self.verdict = (self.verdict + said)[:2000]


async def connect(
    target: Target,
    login: str,
    *,
    keys: Sequence[asyncssh.SSHKeyPair] = (),
    password: Secret | None = None,
    methods: str = "",
    client: Client | None = None,
) -> asyncssh.SSHClientConnection:
    """Return a connection on which login is logged in, by one of these keys or by the password.

    Raises NotConnected with the cause. Nothing of the credential is sent before the host key has been checked.
    """
    if target.host_key is None:
        raise NotConnected(
            "host_key_unknown",
            f"{target.name}: its host key is not known; give it (kps server add --host-key) or trust the first use",
            server=target.name,
        )
    client = client or Client()
    client.password = password
    sock, address = await _reach(target)
    source = _source(sock)
    try:
        async with asyncio.timeout(target.timeout_seconds):
            return await asyncssh.connect(
                target.host,
                target.port,
                sock=sock,
                username=login,
                client_factory=lambda: client,
                client_keys=list(keys) or None,
                preferred_auth=methods or ("publickey" if keys else "password,keyboard-interactive"),
                known_hosts=([asyncssh.import_public_key(target.host_key)], [], []),
                config=None,
                agent_path=None,
                gss_host=None,
                gss_kex=False,
                gss_auth=False,
                host_based_auth=False,
                encryption_algs=CIPHERS,
                compression_algs=None,
                login_timeout=0,
                # A cable that is pulled says nothing: a server that leaves this many questions unanswered is gone.
                keepalive_interval=target.timeout_seconds,
                keepalive_count_max=2,
            )
    except (TimeoutError, OSError, asyncssh.Error) as error:
        sock.close()
        raise await _why(target, login, client, (source, address), error, bool(keys)) from None


async def _reach(target: Target) -> tuple[socket.socket, tuple[Any, ...]]:
    """Return a TCP connection to the first address of the server that answers, and that address."""
    loop = asyncio.get_running_loop()
    evidence = {"server": target.name, "host": target.host, "port": target.port}
    try:
        async with asyncio.timeout(target.timeout_seconds):
            found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotConnected(
            "name_not_resolved", f"{target.name}: {target.host}: {error}; check the name, and DNS on this machine", **evidence
        ) from None
    last: NotConnected | None = None
    for family, kind, protocol, _, address in found[:4]:
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.timeout(target.timeout_seconds):
                await loop.sock_connect(sock, address)
            return sock, address
        except OSError as error:  # TimeoutError is one
            last = _unreached(target, sock, error, evidence)
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise last or NotConnected("name_not_resolved", f"{target.name}: {target.host} has no address", **evidence)


def _unreached(target: Target, sock: socket.socket, error: OSError, evidence: dict[str, Any]) -> NotConnected:
    where = f"{target.name} ({target.host}:{target.port})"
    if isinstance(error, ConnectionRefusedError):
        return NotConnected(
            "connection_refused", f"{where}: refused; is sshd running, on this port? or a firewall rejects it", **evidence
        )
    if isinstance(error, ConnectionResetError):
        return NotConnected(
            "connection_closed", f"{where}: reset at once; see sshd's log and hosts.deny there", stage="banner", **evidence
        )
    source = _source(sock)
    said = "no answer" if isinstance(error, TimeoutError) else str(error.strerror or error)
    return NotConnected(
        "connection_timed_out",
        f"{where}: {said}; admit TCP port {target.port} from {source} in the firewall or security group",
        source=source,
        **evidence,
    )


def _source(sock: socket.socket) -> str:
    try:
        return str(sock.getsockname()[0])
    except OSError:
        return ""  # it is closed


async def _why(
    target: Target, login: str, client: Client, ends: tuple[str, tuple[Any, ...]], error: Exception, by_key: bool
) -> NotConnected:
    """Return the cause behind a failed log-in. ends: our own address, as the connection had it, and the server's."""
    source, address = ends
    where = f"{target.name} ({target.host}:{target.port})"
    evidence: dict[str, Any] = {"server": target.name, "host": target.host, "port": target.port, "source": source, "login": login}
    agreed = client.connection is not None and bool(client.connection.get_extra_info("send_cipher"))
    if client.seen_host_key:
        return _changed_host_key(target, client.seen_host_key, evidence)
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return NotConnected("host_key_changed", f"{where}: {error.reason}; not trusted", **evidence)
    if not agreed:
        return await _before_login(target, address, error, evidence)
    decided = isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error).lower()
    if decided or "expired" in client.verdict.lower():
        return _turned_away(where, login, client, by_key, evidence)
    return _broken_off(where, error, evidence)


def _changed_host_key(target: Target, seen: str, evidence: dict[str, Any]) -> NotConnected:
    pinned = fingerprint(target.host_key or "")
    return NotConnected(
        "host_key_changed",
        f"{target.name}: the host key is {fingerprint(seen)}, but {pinned} is on record. If the server was rebuilt, remove it "
        "and add it again; if not, somebody is in between. No credential was sent",
        pinned=pinned,
        seen=fingerprint(seen),
        **evidence,
    )


def _turned_away(where: str, login: str, client: Client, by_key: bool, evidence: dict[str, Any]) -> NotConnected:
    said = _safe(client.banner + client.verdict)
    if "expired" in client.verdict.lower():
        verdict = _safe(client.verdict)
        return NotConnected("login_expired", f"{where}: {login}: {verdict}", said=verdict, **evidence)
    if by_key:
        return NotConnected(
            "key_refused",
            f"{where}: sshd did not take the key for {login}: it is not (or no longer) in authorized_keys, or may not be used",
            said=said,
            **evidence,
        )
    if not client.offered:
        return NotConnected(
            "password_refused", f"{where}: sshd takes no password from {login}; use a key (--identity)", said=said, **evidence
        )
    return NotConnected(
        "wrong_password",
        f"{where}: the password for {login} was not accepted; it was tried once",
        said=said,
        offered=sorted(client.offered),
        **evidence,
    )


async def _before_login(target: Target, address: tuple[Any, ...], error: Exception, evidence: dict[str, Any]) -> NotConnected:
    """Return the cause where nothing was agreed on with whoever is behind the port: knock once more and listen.

    Who ends a key exchange that comes to nothing, and in which words, is a race; what the other end offers is not.
    """
    where = f"{target.name} ({target.host}:{target.port})"
    heard = await knock.knock(address, target.timeout_seconds)
    if heard.silent:
        return NotConnected(
            "connection_timed_out",
            f"{where}: it accepts the connection and then says nothing; is that sshd, and is it overloaded?",
            stage="banner",
            **evidence,
        )
    said = _safe(heard.first_line)
    if heard.said and not heard.greets and said not in _SAID_BY_A_FULL_SSHD:
        return NotConnected("not_ssh", f"{where}: that is not an SSH server; it says {said!r}", said=said, **evidence)
    if heard.greets:
        offered = knock.algorithms(heard.said)
        return (_not_agreed(target, offered, evidence) if offered else None) or _broken_off(where, error, evidence)
    return NotConnected(
        "connection_closed",
        f"{where}: closed before it said it is an SSH server ({said or _safe(str(error)) or 'no reason given'}); "
        "sshd may be at its limit (MaxStartups) or have banned this address",
        stage="banner",
        **evidence,
    )


def _not_agreed(target: Target, offered: dict[str, list[str]], evidence: dict[str, Any]) -> NotConnected | None:
    """Return why no secure connection can come about with a server that offers this; None where it can."""
    where = f"{target.name} ({target.host}:{target.port})"
    pinned = (target.host_key or "").partition(" ")[0]
    if not set(offered["host key"]) & set(_signed_by(pinned)):
        return NotConnected(
            "host_key_changed",
            f"{where}: {pinned} {fingerprint(target.host_key or '')} is on record, and it shows keys of other types only "
            f"({', '.join(offered['host key'])}). If the server was rebuilt, remove it and add it again. No credential was sent",
            pinned=fingerprint(target.host_key or ""),
            offered=offered["host key"],
            **evidence,
        )
    kind = knock.missing(offered, CIPHERS)
    if kind:
        return NotConnected(
            "algorithms_incompatible",
            f"{where}: no {kind} that is considered safe, only {', '.join(offered[kind])}",
            kind=kind,
            offered=offered[kind],
            **evidence,
        )
    return None


def _broken_off(where: str, error: Exception, evidence: dict[str, Any]) -> NotConnected:
    """Return the cause where a server that speaks SSH went silent, or away, before it decided about the login."""
    if isinstance(error, TimeoutError):
        return NotConnected("connection_timed_out", f"{where}: it stopped answering during the log-in", stage="login", **evidence)
    return NotConnected("connection_closed", f"{where}: closed during the log-in: {_safe(str(error))}", stage="login", **evidence)


def _signed_by(key_type: str) -> tuple[str, ...]:
    """The host key algorithms that a key of this type serves: RFC 8332."""
    return ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa") if key_type == "ssh-rsa" else (key_type,)


def fingerprint(public_line: str) -> str:
    """Return SHA256:... of a public key line, as ssh-keygen -l prints it."""
    return asyncssh.import_public_key(public_line).get_fingerprint("sha256")


def _safe(text: str) -> str:
    """Text from a server, for a log or a terminal: printable, short."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:300]
