"""A connection to one server: strict about the host key, one credential, nothing taken from this machine's own ~/.ssh."""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import asyncssh

from controller.model import Secret
from controller.transport import algorithms, knock
from controller.transport.corked import CorkedSocket
from controller.transport.handshake import Client, Kind, Way, logged_in
from controller.transport.offer import Offer, public_key
from controller.transport.pace import FAILED, UNTRIED, Pace
from kpsagent.errors import Refused

# sshd(8) at MaxStartups; and from OpenSSH 9.8 on with an address that failed too often.
_FULL, _PENALTY = "Exceeded MaxStartups", "Not allowed at this time"


class NotConnected(Refused):
    """there is no session; the cause says why"""


class Through(Protocol):
    """A jump server that leads to others: jumps.Jump."""

    @property
    def name(self) -> str: ...
    @property
    def host(self) -> str: ...

    async def connection(self) -> asyncssh.SSHClientConnection:
        """Return a connection on which it is logged in to. NotConnected names it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a server is, and who it is. host_key: "ssh-ed25519 AAAA...", or None where it is not known yet.

    through: the jump server that leads there. old: the old algorithms that it is allowed. pace: what our failures there cost.
    """

    name: str
    host: str
    port: int
    host_key: str | None
    timeout_seconds: float = 10.0
    through: Through | None = None
    old: tuple[str, ...] = ()
    pace: Pace | None = None
    admits: Callable[[str], bool] | None = None  # whether an address may be tried; None: each may

    @property
    def where(self) -> str:
        """Return it in words."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.name} ({host}:{self.port}{f' through {self.through.name}' if self.through else ''})"

    @property
    def evidence(self) -> dict[str, Any]:
        """Return it as the facts of a failure."""
        return {"server": self.name, "host": self.host, "port": self.port}


@dataclass(frozen=True, slots=True)
class Line:
    """A connection to a server's port that is about to be used. source: our own address there, or the jump server's.

    opens: makes another such connection. sock: ours, where there is no jump server.
    """

    source: str
    opens: knock.Opens
    sock: socket.socket | None = None
    tunnel: asyncssh.SSHClientConnection | None = None


async def connect(
    target: Target,
    login: str,
    *,
    keys: Sequence[asyncssh.SSHKeyPair] = (),
    password: Secret | None = None,
    methods: str = "",
    client: Client | None = None,
    passing: bool = False,
) -> asyncssh.SSHClientConnection:
    """Return a connection on which login is logged in, by one of these keys or by the password.

    passing: it is for a proof, which says nothing that is worth recording, and waits for nothing without a limit of its own.
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
    for key in keys:
        if isinstance(key, Offer):
            key.restrict(target.old)
    if target.pace is not None:
        await target.pace.turn((target.host, target.port))
    line = await _reach(target)
    try:
        async with asyncio.timeout(target.timeout_seconds):
            connection = await _opened(target, login, client, line, keys, methods, passing)
        _signed(keys)  # a connection that was given up within the log-in also comes back so
        return connection
    except (TimeoutError, OSError, asyncssh.Error) as error:
        if line.sock is not None:
            line.sock.close()
        _signed(keys)
        client.tried = client.tried or (bool(keys) and _agreed(client))
        _took_note(target, client)
        raise await _why(target, login, client, line, error, keys) from None


def _signed(keys: Sequence[asyncssh.SSHKeyPair]) -> None:
    """Raise why one of the keys could not be signed for, if there is such a one."""
    for key in keys:
        if isinstance(key, Offer) and key.failed is not None:
            raise key.failed from None


async def _opened(
    target: Target, login: str, client: Client, line: Line, keys: Sequence[asyncssh.SSHKeyPair], methods: str, passing: bool
) -> asyncssh.SSHClientConnection:
    pinned = target.host_key
    client.keys = keys
    client.host_key = None if pinned is None else public_key(pinned)
    kind = Kind(
        login,
        methods or ("publickey" if keys else "password,keyboard-interactive"),
        host_key_type="" if pinned is None else pinned.partition(" ")[0],
        old=target.old,
        only_asked=tuple(name for key in keys if isinstance(key, Offer) for name in key.only_asked),
        keeps_nothing=passing and client.password is None,
        silent_seconds=0.0 if passing else target.timeout_seconds,
    )
    way: Way | None = line.tunnel if line.sock is None else CorkedSocket(line.sock)
    if way is None:
        raise ValueError("a line is a socket, or leads through a jump server")
    return await logged_in(way, target.host, target.port, kind, client)


async def first_host_key(target: Target) -> str:
    """Return the host key that a server shows, "type blob", without offering it any credential. NotConnected: it shows none."""
    client = Client()
    line = await _reach(target)
    try:
        async with asyncio.timeout(target.timeout_seconds):
            # No host key is trusted, so this ends where the server has shown its own.
            (await _opened(target, "nobody", client, line, (), "", passing=True)).abort()
    except (TimeoutError, OSError, asyncssh.Error) as error:
        if line.sock is not None:
            line.sock.close()
        _took_note(target, client)
        if not client.seen_host_key:
            raise await _why(target, "nobody", client, line, error, ()) from None
    return " ".join(client.seen_host_key.split()[:2])


def _took_note(target: Target, client: Client) -> None:
    if target.pace is not None:
        cost = FAILED if client.tried else UNTRIED
        target.pace.failed((target.host, target.port), cost, _greeting(client))


def _greeting(client: Client) -> str:
    return "" if client.connection is None else str(client.connection.get_extra_info("server_version") or "")


async def _reach(target: Target) -> Line:
    """Return a connection to the first address of the server that answers, or the jump server's that leads there."""
    if target.through is not None:
        tunnel = await target.through.connection()

        async def forwarded() -> tuple[knock.Reader, knock.Writer]:
            return await tunnel.open_connection(target.host, target.port)

        return Line(target.through.host, forwarded, tunnel=tunnel)
    sock, address = await _reach_directly(target)

    async def again() -> tuple[knock.Reader, knock.Writer]:
        return await asyncio.open_connection(*address[:2])

    return Line(_source(sock), again, sock=sock)


async def _reach_directly(target: Target) -> tuple[socket.socket, tuple[Any, ...]]:
    """Return a TCP connection to the first address of the server that answers, and that address."""
    loop = asyncio.get_running_loop()
    evidence = target.evidence
    try:
        found = _literal(target)
        if not found:
            async with asyncio.timeout(target.timeout_seconds):
                found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotConnected(
            "name_not_resolved", f"{target.name}: {target.host}: {error}; check the name, and DNS on this machine", **evidence
        ) from None
    if target.admits is not None:
        # What a name means is looked up once, and no other address is tried than those that were looked at.
        refused = [str(address[0]) for *_, address in found if not target.admits(str(address[0]))]
        found = [each for each in found if str(each[4][0]) not in refused]
        if refused and not found:
            raise NotConnected(
                "address_not_allowed",
                f"{target.name}: {target.host} is {refused[0]}, an address of the controller's own machine or link",
                **dict(evidence, address=refused[0]),
            )
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
            last = _unreached(target, error, _source(sock))
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise last or NotConnected("name_not_resolved", f"{target.name}: {target.host} has no address", **evidence)


def _literal(target: Target) -> list[Any]:
    """Return what getaddrinfo(3) says of a host that is an address already, without a thread that asks it; [] for a name."""
    try:
        here = ipaddress.ip_address(target.host)
    except ValueError:
        return []
    if getattr(here, "scope_id", None) is not None:
        return []  # fe80::1%eth0: which number the link has is for getaddrinfo to say
    family, place = (socket.AF_INET, ()) if here.version == 4 else (socket.AF_INET6, (0, 0))
    return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (target.host, target.port, *place))]


def _unreached(target: Target, error: OSError, source: str) -> NotConnected:
    where, evidence = target.where, target.evidence
    if isinstance(error, ConnectionRefusedError):
        return NotConnected(
            "connection_refused", f"{where}: refused; is sshd running, on this port? or a firewall rejects it", **evidence
        )
    if isinstance(error, ConnectionResetError):
        return NotConnected(
            "connection_closed", f"{where}: reset at once; see sshd's log and hosts.deny there", stage="banner", **evidence
        )
    said = "no answer" if isinstance(error, TimeoutError) else str(error.strerror or error)
    return NotConnected(
        "connection_timed_out",
        f"{where}: {said}; admit TCP port {target.port} from {source} in the firewall or security group",
        source=source,
        **evidence,
    )


def _not_forwarded(target: Target, through: Through, error: asyncssh.ChannelOpenError) -> NotConnected:
    """Return why a jump server did not lead to the server."""
    evidence, said = dict(target.evidence, source=through.host), _safe(error.reason)
    if error.code in (asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE):
        return NotConnected(
            "jump_forbids_forwarding",
            f"jump server {through.name} lets us in, and may not lead on to {target.host}:{target.port} "
            f"({said or 'no reason given'}); see AllowTcpForwarding, DisableForwarding and PermitOpen in its sshd_config, and "
            "the options of our key there",
            **dict(evidence, hop=through.name, said=said),
        )
    if "refused" in said.lower():
        return _unreached(target, ConnectionRefusedError(), through.host)
    if re.search("resol|not known|no address|unknown host", said, re.IGNORECASE):  # gai_strerror(3)
        return NotConnected(
            "name_not_resolved", f"{target.where}: {through.name} finds no address of {target.host} ({said})", **evidence
        )
    return _unreached(target, OSError(said or "no connection, and no reason given"), through.host)


def _source(sock: socket.socket) -> str:
    try:
        return str(sock.getsockname()[0])
    except OSError:
        return ""  # it is closed


async def _why(
    target: Target, login: str, client: Client, line: Line, error: Exception, keys: Sequence[asyncssh.SSHKeyPair]
) -> NotConnected:
    """Return the cause behind a failed log-in."""
    where = target.where
    evidence: dict[str, Any] = dict(target.evidence, source=line.source, login=login)
    if client.seen_host_key:
        return _changed_host_key(target, client.seen_host_key, evidence)
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return NotConnected("host_key_changed", f"{where}: {error.reason}; not trusted", **evidence)
    if target.through is not None and client.connection is None:
        if isinstance(error, asyncssh.ChannelOpenError):
            return _not_forwarded(target, target.through, error)
        return _unreached(target, TimeoutError(), line.source)
    if not _agreed(client):
        return await _before_login(target, line, error, evidence)
    decided = isinstance(error, asyncssh.PermissionDenied) or "authentication failures" in str(error).lower()
    if decided or "expired" in client.verdict.lower():
        return _turned_away(where, login, client, keys, evidence)
    return _broken_off(where, error, evidence)


def _agreed(client: Client) -> bool:
    """Whether a secure connection came about, with the host key that is on record."""
    return client.connection is not None and bool(client.connection.get_extra_info("send_cipher"))


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


def _turned_away(
    where: str, login: str, client: Client, keys: Sequence[asyncssh.SSHKeyPair], evidence: dict[str, Any]
) -> NotConnected:
    said = _safe(client.banner + client.verdict)
    if "expired" in client.verdict.lower():
        verdict = _safe(client.verdict)
        return NotConnected("login_expired", f"{where}: {login}: {verdict}", said=verdict, **evidence)
    if client.other_prompt and not client.given:
        asked = _safe(client.other_prompt)
        return NotConnected(
            "prompt_not_password", _asks_for(where, login, asked, "nothing was answered"), asked=asked, **evidence
        )
    if client.other_prompt:
        asked = _safe(client.other_prompt)
        told = "the password was taken; to this, nothing was answered"
        return NotConnected("prompt_not_password", _asks_for(where, login, asked, told), asked=asked, **evidence)
    if any(isinstance(key, Offer) and key.only_sha1 for key in keys):
        name = evidence["server"]
        return NotConnected(
            "algorithms_incompatible",
            f"{where}: it takes RSA keys with SHA-1 only (ssh-rsa), or not the key of {login} at all; use an ed25519 key, or "
            f"where the server is too old for that: kps server set {name} --allow-old-algorithms ssh-rsa",
            said=said, kind="signature", wanted=["rsa-sha2-512", "rsa-sha2-256"], **evidence,
        )  # fmt: skip
    if keys:
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


def _asks_for(where: str, login: str, asked: str, told: str) -> str:
    return f"{where}: for {login} the server asks {asked!r}, which is no question for the login's password: {told}"


async def _before_login(target: Target, line: Line, error: Exception, evidence: dict[str, Any]) -> NotConnected:
    """Return the cause where nothing was agreed on with whoever is behind the port: knock once more and listen.

    Who ends a key exchange that comes to nothing, and in which words, is a race; what the other end offers is not.
    """
    where = target.where
    heard = await knock.knock(line.opens, target.timeout_seconds)
    # Who is denied by hosts.deny is kept waiting for as long as we listen here, and then sent away.
    if heard.silent and isinstance(error, TimeoutError):
        return NotConnected(
            "connection_timed_out",
            f"{where}: it accepts the connection and then says nothing; is that sshd, and is it overloaded?",
            stage="banner",
            **evidence,
        )
    said = _safe(heard.first_line)
    if said == _PENALTY:
        return NotConnected(
            "source_penalized",
            f"{where}: its sshd takes no connection from {line.source} for a while, because logins from there failed too often "
            "(PerSourcePenalties): wait a minute, longer after many failures, and try once",
            said=said,
            **evidence,
        )
    if not heard.greets and not heard.broken_off and said != _FULL:
        return NotConnected("not_ssh", f"{where}: that is not an SSH server; it says {said!r}", said=said, **evidence)
    if heard.greets:
        offered = knock.algorithms(heard.said)
        return (_not_agreed(target, offered, evidence) if offered else None) or _broken_off(where, error, evidence)
    if isinstance(error, TimeoutError):
        return _broken_off(where, error, evidence)
    return NotConnected(
        "connection_closed",
        f"{where}: closed before it said it is an SSH server ({said or _safe(str(error)) or 'no reason given'}); "
        "sshd may be at its limit (MaxStartups) or have banned this address",
        stage="banner",
        **evidence,
    )


def _not_agreed(target: Target, offered: algorithms.Offered, evidence: dict[str, Any]) -> NotConnected | None:
    """Return why no secure connection can come about with a server that offers this; None where it can."""
    where = target.where
    pinned = (target.host_key or "").partition(" ")[0]
    if pinned and not set(offered["host key"]) & set(algorithms.serves(pinned)):
        return NotConnected(
            "host_key_changed",
            f"{where}: {pinned} {fingerprint(target.host_key or '')} is on record, and it shows keys of other types only "
            f"({', '.join(offered['host key'])}). If the server was rebuilt, remove it and add it again. No credential was sent",
            pinned=fingerprint(target.host_key or ""),
            offered=offered["host key"],
            **evidence,
        )
    signatures = algorithms.signed_by(pinned, target.old) if pinned else algorithms.wanted("host key", target.old)
    kind = "" if set(offered["host key"]) & set(signatures) else "host key"
    kind = kind or algorithms.missing(offered, target.old)
    if not kind:
        return None
    wanted = list(signatures if kind == "host key" else algorithms.wanted(kind, target.old))
    helps = algorithms.would_help(offered, kind)
    more = "".join(f" --allow-old-algorithms {name}" for name in helps[:1])
    next_step = f"; bring its sshd up to date, or allow that one: kps server set {target.name}{more}" if helps else ""
    return NotConnected(
        "algorithms_incompatible",
        f"{where}: it offers no {kind} algorithm that is considered safe, only {', '.join(offered[kind])}; we take "
        f"{', '.join(wanted)}{next_step}",
        kind=kind,
        offered=offered[kind],
        wanted=wanted,
        would_help=helps,
        **evidence,
    )


def _broken_off(where: str, error: Exception, evidence: dict[str, Any]) -> NotConnected:
    """Return the cause where a server that speaks SSH went silent, or away, before it decided about the login."""
    if isinstance(error, TimeoutError):
        return NotConnected("connection_timed_out", f"{where}: it stopped answering during the log-in", stage="login", **evidence)
    said = _safe(str(error)) or "no reason given"
    told = (
        f"it greets as an SSH server, and what follows is not SSH: {said}"
        if _nonsense(error)
        else f"closed during the log-in: {said}"
    )
    return NotConnected("connection_closed", f"{where}: {told}", stage="login", **evidence)


def _nonsense(error: Exception) -> bool:
    """Whether what came breaks the protocol, and does not just end."""
    return isinstance(error, asyncssh.ProtocolError | asyncssh.MACError | asyncssh.CompressionError)


def fingerprint(public_line: str) -> str:
    """Return SHA256:... of a public key line, as ssh-keygen -l prints it."""
    return public_key(public_line).get_fingerprint("sha256")


def _safe(text: str) -> str:
    """Text from a server, for a log or a terminal: printable, short."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:300]
