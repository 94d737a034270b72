"""Signing in to the console: passwords, links that let somebody in once, and sessions."""

import hashlib
import hmac
import os
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn, ParamSpec, TypeVar

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from controller.errors import Conflict, Invalid, NotAllowed, NotFound, TooMany
from controller.model import Caller, ConsoleSession, Secret, SignInBy, User, now
from controller.service import sources
from controller.service.allowances import Allowances
from controller.service.roles import allow, may_give_out
from controller.service.worker import off_loop
from controller.store import Store

P = ParamSpec("P")
T = TypeVar("T")

IDLE = timedelta(hours=1)  # that nobody did anything in a session
LONGEST = timedelta(hours=12)  # of a session, whatever is done in it
LINK_MINUTES = 10
MOST_LINK_MINUTES = 24 * 60
LEAST_CHARACTERS = 12  # of a password
MOST_BYTES = 1024
AT_ONCE = 2  # passwords that are tried
MOST_WAITING = 16
# RFC 9106, section 4, the second recommended: 64 MiB, three passes, four lanes.
_MEMORY_KIB, _PASSES, _LANES, _SALT_BYTES, _HASH_BYTES = 64 * 1024, 3, 4, 16, 32


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session that lets somebody in: who they are. digest: by which it is kept, and told apart."""

    who: Caller
    user: User
    session: ConsoleSession
    digest: bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """A session that has just begun. id: what the browser is to show from now on; here this once."""

    id: Secret
    signed_in: SignedIn


class Console:
    """Who may come into the console."""

    def __init__(self, store: Store, executor: Executor | None = None, clock: Callable[[], datetime] = now) -> None:
        self._store = store
        self._executor = executor
        self._now = clock
        self._refusals = Allowances()
        self._hashers = ThreadPoolExecutor(AT_ONCE, "argon2")
        self._trying = 0
        self._decoy: str | None = None  # the hash of a password that nobody has
        self.url: str | None = None  # where the console is served, once it is

    def close(self) -> None:
        """Let go of the threads that try passwords."""
        self._hashers.shutdown(wait=False, cancel_futures=True)

    async def set_password(self, who: Caller, name: str, password: Secret) -> User:
        """Set a user's password for the console; whoever is signed in as them is no more.

        Invalid(password_unusable). Conflict(not_local): a federated or delegated user is let in by somebody else.
        """
        user = await off_loop(self._executor, self._store.user, who.tenant_id, name)
        may_give_out(who)
        allow(who, "console.enter", "own" if user.id == who.user_id else "other", user.name)
        await self._set(user, password, who.user_id)
        return user

    async def change_password(self, signed_in: SignedIn, old: Secret, new: Secret, address: str) -> Begun:
        """Change the password of whoever is signed in, by the one that it has; all their sessions end, and another one begins.

        NotAllowed(password_wrong). Invalid(password_unusable). Conflict(not_local).
        """
        user = signed_in.user
        allow(signed_in.who, "console.enter", "own", user.name)
        entry = await off_loop(self._executor, self._store.console_entry, user.tenant_id, user.name)
        if not await self._fits(old, entry.hash):
            await self._note_refused(user.tenant_id, user, "password_change", address)
            raise NotAllowed(
                "password_wrong", "the password until now is another one; who has none is given it by an administrator"
            )
        hash = await self._set(user, new, user.id)
        return await self._begun(user, "password", address, None, hash=hash)

    async def _set(self, user: User, password: Secret, by: str) -> str:
        """Keep a new password of a user; returns its hash."""
        if user.kind != "local":
            raise Conflict(
                "not_local", f"{user.name}: a {user.kind} user has no password here; give them a link (kps console link)"
            )
        usable = _usable(password, user.name)
        try:
            hash = await self._hashed(usable)
        finally:
            usable.wipe()
        await off_loop(self._executor, self._store.set_console_password, user, hash, by)
        return hash

    async def link(self, who: Caller, name: str | None = None, minutes: int = LINK_MINUTES) -> tuple[User, Secret, datetime]:
        """Make what lets a user in once (None: the caller), good for so many minutes; it comes back this once."""
        may_give_out(who)
        if not 1 <= minutes <= MOST_LINK_MINUTES:
            raise Invalid("lifetime_unusable", f"{minutes}: a link is good for 1 to {MOST_LINK_MINUTES} minutes")
        user = await off_loop(self._executor, self._store.user, who.tenant_id, name or who.user_id)
        own = user.id == who.user_id
        allow(who, "console.enter", "own" if own else "other", user.name)
        token, ends = secrets.token_urlsafe(32), self._now() + timedelta(minutes=minutes)
        asked_with = who.access_key if own else None
        await off_loop(self._executor, self._store.add_console_link, user, digest(token), ends, who.user_id, asked_with)
        return user, Secret(token), ends

    async def sign_in(self, tenant: str | None, name: str, password: Secret, address: str, before: bytes | None) -> Begun:
        """Begin a session with a password. before: the session that it takes the place of, by its digest.

        NotAllowed(sign_in_refused) for everything else, and it takes as long. TooMany(sign_in_busy).
        """
        entry = await off_loop(self._executor, self._store.console_entry, tenant, name)
        fits = await self._fits(password, entry.hash)
        if entry.user is None or not fits:
            await self._refused(entry.tenant_id, entry.user, "password", address)
        try:
            return await self._begun(entry.user, "password", address, before, hash=entry.hash)
        except NotFound:  # the password was set anew, or the user disabled, while this one was tried
            await self._refused(entry.tenant_id, entry.user, "password", address)

    async def canonical(self, tenant: str | None, name: str) -> str:
        """Return what tries to sign in are counted by: the same however the tenant is spelt, for users that are not there too."""
        entry = await off_loop(self._executor, self._store.console_entry, tenant, name)
        return f"{entry.tenant_id}/{name}"

    async def follow(self, token: str, address: str, before: bytes | None) -> Begun:
        """Begin a session by a link, which is used up. NotAllowed(link_refused)."""
        kept = digest(token)
        try:
            user = await off_loop(self._executor, self._store.console_link, kept)
            return await self._begun(user, "link", address, before, kept)
        except NotFound:
            raise NotAllowed("link_refused", "this link was used, has ended, or never was; ask for another one") from None

    async def known(self, session_id: str, address: str) -> SignedIn | None:
        """Say who is signed in by this id, from this address; None where nobody is."""
        return await off_loop(self._executor, self._known, digest(session_id), address)

    async def still(self, signed_in: SignedIn, address: str) -> SignedIn | None:
        """Say the same of somebody who was signed in a moment ago."""
        return await off_loop(self._executor, self._known, signed_in.digest, address)

    async def seen(self, signed_in: SignedIn) -> None:
        """Note that somebody does something in their session."""
        await off_loop(self._executor, self._store.console_session_seen, signed_in.digest, signed_in.session)

    async def sessions(self, signed_in: SignedIn) -> list[tuple[str, ConsoleSession]]:
        """Return the sessions in which this user is signed in, the last used first; each with what the access log calls it by."""
        found = await off_loop(self._executor, self._store.console_sessions, signed_in.user.id)
        at = self._now()
        return [(called(digest), each) for digest, each in found if not _over(each, at)]

    async def end_session(self, signed_in: SignedIn, which: str | None) -> int:
        """End one of this user's other sessions, by what the access log calls it by, or (None) all others; returns how many.

        NotFound(session_not_found).
        """
        found = await off_loop(self._executor, self._store.console_sessions, signed_in.user.id)
        others = [digest for digest, _ in found if digest != signed_in.digest and which in (None, called(digest))]
        if which is not None and not others:
            raise NotFound("session_not_found", f"{which[:64]}: no such session of yours but this one; it may have ended")
        for digest in others:
            await off_loop(self._executor, self._store.end_console_session, digest, signed_in.user)
        return len(others)

    async def sign_out(self, signed_in: SignedIn) -> None:
        """End a session."""
        await off_loop(self._executor, self._store.end_console_session, signed_in.digest, signed_in.user)

    def _known(self, kept: bytes, address: str) -> SignedIn | None:
        try:
            user, session = self._store.console_session(kept)
        except NotFound:
            return None
        if not user.enabled or _over(session, self._now()) or sources.refused(user.source_networks, address):
            return None
        # They came by what ends by itself.
        who = Caller(user.tenant_id, session.project_id, user.id, user.role, user.kind, passing=True)
        return SignedIn(who, user, session, kept)

    async def _begun(
        self,
        user: User,
        how: SignInBy,
        address: str,
        before: bytes | None,
        link: bytes | None = None,
        hash: str | None = None,
    ) -> Begun:
        if not user.enabled:
            await self._refused(user.tenant_id, user, "disabled", address)
        if sources.refused(user.source_networks, address):
            await self._refused(user.tenant_id, user, "address", address)
        id, ends = secrets.token_urlsafe(32), self._now() + LONGEST
        session = await off_loop(
            self._executor,
            self._store.begin_console_session,
            user, how, digest(id), ends, instead_of=before, link=link, hash=hash, where=address,
        )  # fmt: skip
        who = Caller(user.tenant_id, session.project_id, user.id, user.role, user.kind, passing=True)
        return Begun(Secret(id), SignedIn(who, user, session, digest(id)))

    async def _refused(self, tenant_id: str, user: User | None, why: str, address: str) -> NoReturn:
        await self._note_refused(tenant_id, user, why, address)
        raise NotAllowed("sign_in_refused", "this name and password let nobody in; or they do, and not from this address")

    async def _note_refused(self, tenant_id: str, user: User | None, why: str, address: str) -> None:
        # Of each user by themselves, and of all names together that nobody has: these cover nothing up of those.
        unrecorded = self._refusals.take(tenant_id if user is None else user.id)
        if unrecorded is not None:
            await off_loop(self._executor, self._store.note_refused_sign_in, tenant_id, user, why, address, unrecorded)

    async def _fits(self, password: Secret, hash: str | None) -> bool:
        """Whether a password is the one of a hash; None: of nobody's, which takes as long."""
        if self._decoy is None:
            self._decoy = await self._hashed(Secret(os.urandom(16)))
        taken = Secret(_composed(password)[: MOST_BYTES + 1])
        try:
            found = await self._try(_verify, taken, hash or self._decoy)
            return found and hash is not None and len(taken) <= MOST_BYTES
        finally:
            taken.wipe()

    async def _hashed(self, password: Secret) -> str:
        return await self._try(_hash, password)

    async def _try(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work on a password on a thread of its own kind: it takes memory, so never more than AT_ONCE."""
        if self._trying >= AT_ONCE + MOST_WAITING:
            raise TooMany("sign_in_busy", "too many people sign in at this moment; try again in a few seconds")
        self._trying += 1
        try:
            return await off_loop(self._hashers, work, *args, **kwargs)
        finally:
            self._trying -= 1


def digest(token: str) -> bytes:
    """Return what is kept of a session's id, or of what a link carries: random enough for a plain hash."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def called(session: bytes) -> str:
    """Return what a session is called by, in the access log and to its user: the beginning of its digest."""
    return session.hex()[:12]


def _over(session: ConsoleSession, at: datetime) -> bool:
    return at >= min(session.expires_at, session.seen_at + IDLE)


def form_token(session_id: str) -> str:
    """Return what every form of a session carries, so that nobody else's page sends one: made from its id, which only it has."""
    return hmac.new(session_id.encode(), b"kps console form", hashlib.sha256).hexdigest()


def _composed(password: Secret) -> bytearray:
    """Return a password the way it is hashed: keyboards differ in how they send the same letter."""
    return bytearray(
        unicodedata.normalize("NFC", password.open().decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    )


def _usable(password: Secret, name: str) -> Secret:
    usable = Secret(_composed(password))
    characters = len(usable.open().decode("utf-8", "replace"))
    if characters < LEAST_CHARACTERS or len(usable) > MOST_BYTES:
        raise Invalid(
            "password_unusable", f"{name}: a password has at least {LEAST_CHARACTERS} characters, and at most {MOST_BYTES} bytes"
        )
    return usable


def _kdf() -> Argon2id:
    return Argon2id(salt=os.urandom(_SALT_BYTES), length=_HASH_BYTES, iterations=_PASSES, lanes=_LANES, memory_cost=_MEMORY_KIB)


def _hash(password: Secret) -> str:
    return _kdf().derive_phc_encoded(password.open())


def _verify(password: Secret, hash: str) -> bool:
    try:
        Argon2id.verify_phc_encoded(password.open(), hash)
    except InvalidKey:
        return False
    return True
