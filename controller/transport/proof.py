"""Proofs: each over a fresh connection, with one credential and nothing else to fall back on."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from typing import Any

import asyncssh

from controller.model import Secret
from controller.transport.connect import NotConnected, Target, connect
from controller.transport.handshake import Client
from controller.transport.offer import Offer, Signer, public_key

# A listener that re-reads its configuration refuses connections for a moment.
PATIENCE_SECONDS = 6.0
_PASSING = ("connection_refused", "connection_closed", "connection_timed_out", "jump_unreachable")
# How a removed RSA key is shown: an sshd may name better signatures than SHA-1 and take only that from this login. Each on a
# connection of its own: MaxAuthTries may be 2.
_RSA_BY = ((b"rsa-sha2-512", b"rsa-sha2-256", b"ssh-rsa"), (b"ssh-rsa",))
_MOST_PRINTED = 1 << 16  # by a login's start-up files, and the nonce


def answer_failed(error: NotConnected, cause: str | None = None) -> dict[str, Any]:
    """Return the answer to a question whose proof failed."""
    return {"cause": cause or error.cause, "message": error.message, "evidence": error.evidence}


async def patiently(target: Target, login: str, client_of: Any, **how: Any) -> asyncssh.SSHClientConnection:
    """connect(), again for a few seconds where nobody listens at this moment. client_of makes a new Client each time."""
    until = time.monotonic() + PATIENCE_SECONDS
    wait = 0.05
    while True:
        try:
            client, keys = client_of()
            return await connect(target, login, client=client, keys=keys, passing=True, **how)
        except NotConnected as error:
            if error.cause not in _PASSING or time.monotonic() + wait > until:
                raise
        await asyncio.sleep(wait)
        wait = min(wait * 2, 1.0)


class _Heard(asyncssh.SSHClientSession[bytes]):
    """What a command says, without the streams and tasks of a process: there is one for each proof."""

    def __init__(self) -> None:
        self.said = b""
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._channel: asyncssh.SSHClientChannel[bytes]

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None:
            self.said += data
            if len(self.said) > _MOST_PRINTED:
                self._channel.abort()

    def eof_received(self) -> bool:
        self._end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def read_nonce(connection: asyncssh.SSHClientConnection, path: str) -> str | None:
    """Return what the login reads at path over this connection: "" where there is nothing, None where it can run nothing.

    A login that prints without end counts as one that can run nothing.
    """
    ran, heard = secrets.token_hex(8), _Heard()
    try:
        async with asyncio.timeout(15):
            channel, _ = await connection.create_session(
                lambda: heard, f"echo {ran}; exec /bin/cat {path}", encoding=None, window=_MOST_PRINTED
            )
            channel.write_eof()
            await heard.ended
    except (TimeoutError, asyncssh.Error, OSError):
        return None
    if len(heard.said) > _MOST_PRINTED:
        return None
    # Start-up files of the login may print something before, and a forced command anything at all.
    lines = [line.strip() for line in heard.said[-4096:].decode("ascii", "replace").split("\n")]
    return "".join(lines[lines.index(ran) + 1 :][:1]) if ran in lines else None


async def _close(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    try:
        async with asyncio.timeout(2):
            await connection.wait_closed()
    except (TimeoutError, asyncssh.Error, OSError):
        connection.abort()


async def key_logs_in(target: Target, login: str, public_line: str, private: Signer, path: str) -> dict[str, Any]:
    """Prove that this key, and nothing else, logs in and can run a command.

    Where it does not, evidence says so: let_in, to run nothing; taken, where sshd would have the key and then closed.
    """
    offers: list[Offer] = []

    def client_of() -> tuple[Client, list[asyncssh.SSHKeyPair]]:
        client = Client()
        offers.append(Offer(public_line, private, client))
        return client, [offers[-1]]

    try:
        connection = await patiently(target, login, client_of)
    except NotConnected as error:
        if error.cause == "connection_closed" and offers and offers[-1].accepted:
            # What OpenSSH does where PAM's account rules say no: auth2.c.
            error.evidence["taken"] = True
        return answer_failed(error, "new_key_refused" if error.cause == "key_refused" else None)
    return await _with_nonce(connection, path, login, "new_key_refused")


async def _with_nonce(connection: asyncssh.SSHClientConnection, path: str, login: str, cause: str) -> dict[str, Any]:
    nonce = await read_nonce(connection, path)
    if nonce is None:
        nonce = await _nonce_by_sftp(connection, path)
    await _close(connection)
    if nonce is None:
        return {
            "cause": cause,
            "message": f"sshd let {login} in, but no command could be run: a forced command, a shell that ends at "
            "once, or start-up files that print without end",
            "evidence": {"login": login, "let_in": True},
        }
    return {"method": "logged_in", "nonce": nonce}


async def _nonce_by_sftp(connection: asyncssh.SSHClientConnection, path: str) -> str | None:
    """Return what a login reads at path that may do nothing but SFTP; None where it may not do that, or reads nothing."""
    try:
        async with asyncio.timeout(15):
            client = await connection.start_sftp_client()
            async with client.open(path, "rb", encoding=None) as stream:
                said: Any = await stream.read(100)
            return bytes(said).decode("ascii", "replace").strip() or None
    except (TimeoutError, asyncssh.Error, OSError):
        return None


async def key_accepted(target: Target, login: str, public_line: str) -> dict[str, Any]:
    """Ask whether sshd would take this key; the private half is not known, so nobody logs in."""
    offers: list[Offer] = []

    def client_of() -> tuple[Client, list[asyncssh.SSHKeyPair]]:
        client = Client()
        offers.append(Offer(public_line, None, client))
        return client, [offers[-1]]

    try:
        await _close(await patiently(target, login, client_of))
    except NotConnected as error:
        if offers and offers[-1].accepted:
            return {"method": "accepted"}
        return answer_failed(error, "new_key_refused" if error.cause == "key_refused" else None)
    return {"method": "accepted"}


async def key_refused(
    target: Target,
    login: str,
    removed_line: str,
    path: str,
    good: tuple[str, Signer] | None = None,
    password: Secret | None = None,
) -> dict[str, Any]:
    """Prove that sshd no longer takes the removed key, offered first on a connection on which the good one then logs in.

    One connection, so that OpenSSH 9.8 and later see no failed login. Without a good key or a password nothing can follow,
    and the server's refusal is all there is.
    """
    answer: dict[str, Any] = {}
    for by in _RSA_BY if public_key(removed_line).algorithm == b"ssh-rsa" else ((),):
        answer = await _key_refused(target, login, removed_line, path, good, password, by)
        if "cause" in answer:
            break
    return answer


async def _key_refused(
    target: Target,
    login: str,
    removed_line: str,
    path: str,
    good: tuple[str, Signer] | None,
    password: Secret | None,
    by: Sequence[bytes],
) -> dict[str, Any]:
    offers: list[Offer] = []

    def client_of() -> tuple[Client, list[asyncssh.SSHKeyPair]]:
        client = Client()
        offers.append(Offer(removed_line, None, client, by=by))
        return client, [offers[-1], *([Offer(good[0], good[1], client)] if good else [])]

    methods = "publickey,password,keyboard-interactive" if password is not None else "publickey"
    try:
        connection = await patiently(target, login, client_of, password=password, methods=methods)
    except NotConnected as error:
        if offers and offers[-1].accepted:
            return _still_accepted(login)
        if good is None and error.cause == "key_refused":
            return {"method": "refused"}
        return answer_failed(error, "new_key_refused" if error.cause == "key_refused" else None)
    if offers[-1].accepted:
        await _close(connection)
        return _still_accepted(login)
    answer = await _with_nonce(connection, path, login, "new_key_refused")
    return answer if "cause" in answer else {"method": "refused", "nonce": answer["nonce"]}


def _still_accepted(login: str) -> dict[str, Any]:
    return {
        "cause": "old_key_still_accepted",
        "message": f"sshd still takes the removed key for {login}: another file, an AuthorizedKeysCommand or a CA lets it in",
        "evidence": {"login": login},
    }


async def password_logs_in(target: Target, login: str, password: Secret, path: str) -> dict[str, Any]:
    """Prove that this password logs in and can run a command."""
    try:
        connection = await patiently(target, login, lambda: (Client(), []), password=password)
    except NotConnected as error:
        return answer_failed(error)
    return await _with_nonce(connection, path, login, "password_refused")


async def methods_offered(target: Target, login: str) -> dict[str, Any]:
    """Return by which methods sshd would take a login (offers), and its banner; no credential is shown. Or the failed answer."""
    clients: list[Client] = []

    def client_of() -> tuple[Client, list[asyncssh.SSHKeyPair]]:
        clients.append(Client())
        return clients[-1], []

    try:
        await _close(await patiently(target, login, client_of, methods="publickey,password,keyboard-interactive"))
    except NotConnected as error:
        if error.cause not in ("wrong_password", "password_refused", "key_refused"):
            return answer_failed(error)
    offers = sorted(clients[-1].offered | ({"publickey"} if clients[-1].asked_for_a_key else set()))
    return {"offers": offers, "banner": clients[-1].banner.strip()[:300]}


async def password_offered(target: Target, login: str) -> bool | dict[str, Any]:
    """Return whether sshd would take a password from this login; none is sent. Where that can't be told, the failed answer."""
    clients: list[Client] = []

    def client_of() -> tuple[Client, list[asyncssh.SSHKeyPair]]:
        clients.append(Client())
        return clients[-1], []

    try:
        await _close(await patiently(target, login, client_of))
    except NotConnected as error:
        if error.cause in ("wrong_password", "password_refused"):
            return bool(clients[-1].offered)
        return answer_failed(error)
    return True  # it let the login in without asking for anything
