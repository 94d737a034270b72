"""The way into a server: a login that works, and the agent started there with the rights that the plan needs."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import asyncssh

from controller.keyfiles.signing import SigningKey
from controller.measures import UNMEASURED, Measures
from controller.model import Credential, KeyPair, Secret
from controller.order import Order, Way, same
from controller.transport import played, rope
from controller.transport.connect import NotConnected, Target, connect, fingerprint
from controller.transport.frames import Frame, Hello, Result
from controller.transport.handshake import Client
from controller.transport.offer import Held, Offer
from kpsagent.errors import Failed, Refused

# After one of these another way in may still work; after anything else it would meet the same.
_NOTHING_SENT = ("password_refused", "custody_damaged", "root_key_missing", "master_key_unusable")
_NEXT_WAY = ("wrong_password", "key_refused", "key_mismatch", *_NOTHING_SENT)
_MOST_FAILED_LOGINS = 2  # OpenSSH 9.8 and later slow down an address that fails more often
_MOST_OF_A_CHECK = 3  # which nothing comes after that the address would have to wait for

_START_SECONDS = 20.0  # from a login to the agent's first word

Attach = Callable[..., Awaitable[rope.Rope | played.Played]]
PrivateHalf = Callable[[KeyPair], Awaitable[SigningKey]]


@dataclass(frozen=True, slots=True)
class Inside:
    """The agent runs. password: the one given, where it may be that of the login in question; plan: what the agent was told."""

    way: Way
    connection: asyncssh.SSHClientConnection
    rope: rope.Rope | played.Played
    frames: AsyncIterator[Frame]
    boot: str
    plan: dict[str, Any]
    password: Secret | None
    as_root: bool = True
    how: str = "none"  # the agent became root


class Entrance:
    """The ways into one server, for one task."""

    def __init__(
        self,
        target: Target,
        order: Order,
        given: Credential | None,
        identity: Held | None,
        private_half: PrivateHalf,
        measures: Measures = UNMEASURED,
    ) -> None:
        """identity: the private key given. private_half: takes one out of custody."""
        self._target = target
        self._order = order
        self._measures = measures
        self._login: str = order.plan["login"]
        self._password = None if given is None else given.password
        self._password_of = None if given is None else given.password_of
        self._identity = identity
        self._private_half = private_half
        self._attach: Attach = rope.attach  # until it turns out that there is no Python
        self._only_sftp = False

    def try_first(self, way: Way) -> None:
        """Put a way before all others."""
        self._order = replace(self._order, ways=[way, *self._order.ways])

    async def enter(self, plan: dict[str, Any]) -> Inside:
        """Start the agent with this plan: as root by the first way that leads there, else as the login itself.

        NotConnected where no way gets in; Refused sudo_refused where one does, and neither root nor the login can be had.
        """
        most = _MOST_OF_A_CHECK if plan["operation"] == "check" else _MOST_FAILED_LOGINS
        failed: list[NotConnected] = []
        opened: list[tuple[Way, asyncssh.SSHClientConnection]] = []
        refused: Refused | None = None
        disturbed: Refused | None = None
        inside: Inside | None = None
        try:
            for way in self._order.ways:
                if way.by != "custody" and way.by in [known.by for known, _ in opened]:
                    continue  # what has opened one login is not tried on another
                try:
                    opened.append((way, await self._connected(way)))
                    inside = await self._as_root(*opened[-1], plan)
                    return inside
                except rope.SudoRefused as error:
                    refused = refused or error
                except Refused as error:
                    if not isinstance(error, NotConnected):
                        # Why this login can run nothing is what a check is to find out, by another way.
                        if plan["operation"] != "check" or error.cause not in ("session_disturbed", "login_expired"):
                            raise
                        disturbed = disturbed or error
                        opened.pop()[1].close()
                        continue
                    failed.append(self._mismatched(error, way))
                    attempts = [each for each in failed if each.cause not in _NOTHING_SENT]
                    if failed[-1].cause not in _NEXT_WAY or len(attempts) >= most:
                        break
            for way, connection in opened:
                if way.login == self._login:
                    inside = await self._started(way, connection, plan, "none")
                    return inside
            raise refused or disturbed or _told(failed)
        finally:
            for _, connection in opened:
                if inside is None or connection is not inside.connection:
                    connection.close()

    async def _connected(self, way: Way) -> asyncssh.SSHClientConnection:
        began, result = time.monotonic(), "unexpected"
        try:
            connection = await self._logged_in(way)
            result = "let_in"
            return connection
        except Refused as refused:
            result = refused.cause
            raise
        finally:
            self._measures.connected(result, time.monotonic() - began)

    async def _logged_in(self, way: Way) -> asyncssh.SSHClientConnection:
        if way.by == "password":
            return await connect(self._target, way.login, password=self._password)
        held = await self._key_of(way)
        client = Client()
        return await connect(self._target, way.login, client=client, keys=[Offer.of(held, client)])

    async def _key_of(self, way: Way) -> Held:
        if way.keypair is not None:
            return Held(way.keypair.line, await self._private_half(way.keypair))
        if self._identity is None:
            raise Refused("credential_needed", f"{self._target.name}: no private key is at hand")
        return self._identity

    def _mismatched(self, refused: NotConnected, way: Way) -> NotConnected:
        """Return why a way failed, in better words where the key given is refused and is not the one on record either."""
        known = [each for each in self._order.bound if not each.strangers]
        here = next((each.keypair for each in known if each.binding.login == way.login), None)
        if refused.cause != "key_refused" or way.by != "identity" or self._identity is None or here is None:
            return refused
        if self._identity.certificate is not None or same(self._identity.line, here.line):
            return refused
        given = fingerprint(self._identity.line)
        return NotConnected(
            "key_mismatch",
            f"{self._target.name}: the private key given is the half of {given}, but {here.name} ({here.fingerprint}) is on "
            f"record for {way.login}, and sshd did not take the one given",
            **dict(refused.evidence, given=given, on_record=here.fingerprint, keypair=here.name),
        )

    async def _as_root(self, way: Way, connection: asyncssh.SSHClientConnection, plan: dict[str, Any]) -> Inside:
        if way.login == "root":
            return await self._started(way, connection, plan, "none")
        try:
            return await self._started(way, connection, plan, "ask")
        except rope.SudoRefused as refused:
            if self._password is None:
                raise
            if not self._is_of(way):
                raise rope.SudoRefused(
                    "sudo_refused",
                    f"{refused.message}; whose password was given is not clear, so sudo was not told it: "
                    f"say --password-of {way.login} if it is that of {way.login}",
                ) from None
        return await self._started(way, connection, plan, "password")

    def _is_of(self, way: Way) -> bool:
        """Whether the password given is surely that of the login by which we came: no other login's is shown to its session."""
        if self._password_of is not None:
            return self._password_of == way.login
        return way.by == "password" or way.login == self._login == self._order.server_login

    async def _started(self, way: Way, connection: asyncssh.SSHClientConnection, plan: dict[str, Any], how: str) -> Inside:
        password = self._password
        if self._password_of not in (None, self._login) or (way.login != self._login and "password" in (way.by, how)):
            password = None  # it is another login's
        plan = dict(plan, password_known=password is not None)
        try:
            async with asyncio.timeout(_START_SECONDS):
                line = await self._attach(connection, plan, how, self._password if how == "password" else None)
                frames = line.frames()
                hello = await anext(frames)
            if not isinstance(hello, Hello):
                raise Failed("session_disturbed", f"{self._target.name}: the agent does not begin as it should")
        except TimeoutError:
            raise rope.disturbed("") from None
        except rope.SudoRefused as refused:
            raise rope.SudoRefused("sudo_refused", f"{self._target.name}: {way.login}: {refused.message}") from None
        except Refused as refused:
            if refused.cause == "no_python" and self._attach is rope.attach:
                self._attach = played.attach
                return await self._started(way, connection, plan, how)
            if refused.cause == "session_disturbed" and way.login == self._login:
                return await self._by_sftp(way, connection, plan, refused)
            raise
        return Inside(way, connection, line, frames, hello.boot, plan, password, hello.root, how)

    async def _by_sftp(
        self, way: Way, connection: asyncssh.SSHClientConnection, plan: dict[str, Any], refused: Refused
    ) -> Inside:
        """Start anew for a login that may perhaps do nothing but SFTP; where it may not do that either, raise refused."""
        if self._only_sftp:
            raise refused
        before, self._attach = self._attach, partial(played.attach_by_sftp, because=refused.message)
        self._only_sftp = True
        try:
            return await self._started(way, connection, plan, "none")
        except Refused:
            self._attach, self._only_sftp = before, False
            raise refused from None

    async def again(self, inside: Inside, plan: dict[str, Any]) -> Inside:
        """Start a second agent with another plan over the connection of the first, which has ended."""
        return await self._started(inside.way, inside.connection, plan, inside.how)

    async def look_again(self, inside: Inside, plan: dict[str, Any]) -> dict[str, Any]:
        """Run a second agent over the connection of the first, which has ended; it only looks. Return what it found."""
        again = await self._started(inside.way, inside.connection, plan, inside.how)
        async for frame in again.frames:
            if isinstance(frame, Result):
                return frame.model_dump()
        raise Failed("connection_lost", "the agent ended without a result")


def _told(failed: list[NotConnected]) -> NotConnected:
    # What the caller gave is what they want to hear about.
    told = next((error for error in failed if error.cause == "wrong_password"), failed[0])
    tried = [{"login": error.evidence.get("login", ""), "cause": error.cause} for error in failed]
    return NotConnected(told.cause, told.message, **dict(told.evidence, tried=tried))
