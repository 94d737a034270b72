"""What users are given for a while: temporary access keys with their security tokens, and tokens."""

import builtins
import hashlib
import secrets
import uuid
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import NamedTuple

from controller.errors import Conflict, Invalid, NotFound
from controller.kms import Context, Kms
from controller.model import AccessKey, Caller, Secret, TemporaryKey, Token, User
from controller.service import accesskeys, roles
from controller.service.home import new_secret
from controller.service.worker import off_loop
from controller.store import Store

LEAST_SECONDS = 60
MOST_KEY_SECONDS = 24 * 3600
MOST_TOKEN_SECONDS = 30 * 24 * 3600
KEY_SECONDS = 3600  # where nothing is said
TOKEN_SECONDS = 24 * 3600
_TOKEN = "kpst_"  # noqa: S105  (by which whoever searches for secrets knows one)


def digest(token: str) -> bytes:
    """Return what is kept of a token: it is random enough for a plain hash to tell nothing, and to be looked up by."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def temporary_context(user: User, key: TemporaryKey) -> Context:
    """Return what the secret of a temporary access key is sealed for."""
    facts = {"tenant": user.tenant_id, "user": user.id, "parent": key.parent}
    return Context("temporary access key", key.access_key, facts=facts)


class GivenOut(NamedTuple):
    """A temporary access key as it is given out, once: with whose it is, by name, and all that it takes to ask with it."""

    key: TemporaryKey
    user: str
    project_id: str
    secret: Secret
    token: Secret


class TemporaryKeys:
    """The temporary access keys of the caller's tenant: one's own, and for administrators everybody's."""

    def __init__(self, store: Store, kms: Kms, executor: Executor | None = None) -> None:
        self._store = store
        self._kms = kms
        self._executor = executor

    async def create(self, who: Caller, access_key: str | None = None, seconds: int = KEY_SECONDS) -> GivenOut:
        """Make a temporary access key; its secret and its security token come back this once.

        access_key: the one that it stands on, and ends with; else the one that the caller came with, else the caller's oldest
        that may be used. Conflict: access_key_needed, temporary_key_quota.
        """
        roles.may_give_out(who)
        _lasts(seconds, MOST_KEY_SECONDS, "a temporary access key")
        return await off_loop(self._executor, self._make, who, access_key or who.access_key, seconds)

    async def list(self, who: Caller, user: str | None = None) -> builtins.list[tuple[TemporaryKey, str]]:
        """Return those that have not ended, of a user or (None) all that the caller may see, each with its user's name."""
        return await off_loop(self._executor, self._list, who, user)

    async def revoke(self, who: Caller, access_key: str) -> None:
        """End one now."""
        await off_loop(self._executor, self._revoke, who, access_key)

    def _make(self, who: Caller, access_key: str | None, seconds: int) -> GivenOut:
        at = self._store.now()
        parent = self._parent(who, access_key, at)
        user = self._store.user(who.tenant_id, parent.user_id)
        ends = at + timedelta(seconds=seconds)
        name, secret = new_secret()
        key = TemporaryKey(name, parent.access_key, at, ends if parent.expires_at is None else min(ends, parent.expires_at))
        token = secrets.token_urlsafe(32)
        sealed = self._kms.seal(user.tenant_id, secret, temporary_context(user, key))
        kept = self._store.add_temporary_key(who.tenant_id, key, sealed, digest(token), who.user_id)
        return GivenOut(kept, user.name, parent.project_id, secret, Secret(token))

    def _parent(self, who: Caller, access_key: str | None, at: datetime) -> AccessKey:
        keys = self._store.access_keys(who.tenant_id)
        if access_key is None:
            keys = [each for each in keys if each.user_id == who.user_id]
        found = [each for each in keys if access_key in (None, each.access_key)]
        if access_key is not None and (not found or not accesskeys.sees(who, found[0].user_id)):
            raise NotFound("access_key_not_found", f"no access key {access_key}")
        for each in found:
            accesskeys.allow_change(who, each.user_id)
            if each.enabled and (each.expires_at is None or each.expires_at > at):
                return each
        whose = "you have no access key" if access_key is None else f"{access_key} is none"
        raise Conflict("access_key_needed", f"{whose} that may be used now, to stand on; make one (kps access-key create)")

    def _list(self, who: Caller, user: str | None) -> builtins.list[tuple[TemporaryKey, str]]:
        found = self._store.temporary_keys(who.tenant_id, accesskeys.whose(self._store, who, user))
        return accesskeys.named(self._store, who, [(key, owner) for key, owner in found if key.expires_at > self._store.now()])

    def _revoke(self, who: Caller, access_key: str) -> None:
        owner = next((own for key, own in self._store.temporary_keys(who.tenant_id) if key.access_key == access_key), None)
        if owner is None or not accesskeys.sees(who, owner):
            raise NotFound("temporary_key_not_found", f"no temporary access key {access_key}")
        accesskeys.allow_change(who, owner)
        self._store.revoke_temporary_key(who.tenant_id, access_key, who.user_id)


class Tokens:
    """The tokens of the caller's tenant: one's own, and for administrators everybody's."""

    def __init__(self, store: Store, executor: Executor | None = None) -> None:
        self._store = store
        self._executor = executor

    async def create(
        self, who: Caller, user: str | None = None, seconds: int = TOKEN_SECONDS, description: str = ""
    ) -> tuple[Token, str, Secret]:
        """Make a token of the caller or of another user: with the user's name, and the token itself, which comes back this once.

        Whoever shows it is that user, with the role that they have by then. Conflict(token_quota).
        """
        roles.may_give_out(who)
        _lasts(seconds, MOST_TOKEN_SECONDS, "a token")
        return await off_loop(self._executor, self._make, who, user, seconds, description)

    async def list(self, who: Caller, user: str | None = None) -> builtins.list[tuple[Token, str]]:
        """Return those that have not ended, of a user or (None) all that the caller may see, each with its user's name."""
        return await off_loop(self._executor, self._list, who, user)

    async def revoke(self, who: Caller, token_id: str) -> None:
        """End one now."""
        await off_loop(self._executor, self._revoke, who, token_id)

    def _make(self, who: Caller, user: str | None, seconds: int, description: str) -> tuple[Token, str, Secret]:
        whose = self._store.user(who.tenant_id, user or who.user_id)
        accesskeys.allow_change(who, whose.id)
        at = self._store.now()
        ends = at + timedelta(seconds=seconds)
        # Who asks by an access key that ends is given nothing that goes on.
        by = None if who.access_key is None else self._store.access_key_whole(who.access_key)[1].expires_at
        ends = ends if by is None else min(ends, by)
        made = Token(uuid.uuid4().hex, whose.id, who.project_id, description, at, ends, who.access_key)
        token = Secret(_TOKEN + secrets.token_urlsafe(32))
        kept = self._store.add_token(who.tenant_id, made, digest(token.open().decode()), who.user_id)
        return kept, whose.name, token

    def _list(self, who: Caller, user: str | None) -> builtins.list[tuple[Token, str]]:
        found = self._store.tokens(who.tenant_id, accesskeys.whose(self._store, who, user))
        return accesskeys.named(
            self._store, who, [(token, token.user_id) for token in found if token.expires_at > self._store.now()]
        )

    def _revoke(self, who: Caller, token_id: str) -> None:
        found = next((each for each in self._store.tokens(who.tenant_id) if each.id == token_id), None)
        if found is None or not accesskeys.sees(who, found.user_id):
            raise NotFound("token_not_found", f"no token {token_id}")
        accesskeys.allow_change(who, found.user_id)
        self._store.revoke_token(who.tenant_id, token_id, who.user_id)


def _lasts(seconds: int, most: int, what: str) -> None:
    if not LEAST_SECONDS <= seconds <= most:
        raise Invalid("time_unusable", f"{seconds} s: {what} is for {LEAST_SECONDS} s to {most // 3600} h")
