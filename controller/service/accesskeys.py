"""Access keys: what a user's programs sign requests with."""

import builtins
from collections.abc import Iterable
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import TypeVar

from controller.errors import Invalid, NotAllowed, NotFound
from controller.kms import Kms
from controller.model import AccessKey, Caller, Secret, User
from controller.service import roles, sources
from controller.service.home import new_access_key
from controller.service.roles import allow
from controller.service.worker import off_loop
from controller.store import Store

T = TypeVar("T")
MOST_DAYS = 3650
MOST_BESIDE_HOURS = 24 * 30


def refusal(user: User, key: AccessKey, address: str, at: datetime) -> str | None:
    """Return the code for which an access key is refused now, from this address; None where it may be used."""
    if not key.enabled:
        return "access_key_disabled"
    if key.expires_at is not None and key.expires_at <= at:
        return "access_key_expired"
    if not user.enabled:
        return "user_disabled"
    return "source_refused" if sources.refused(user.source_networks, address) else None


class AccessKeys:
    """The access keys of the caller's tenant: one's own, and for administrators everybody's."""

    def __init__(self, store: Store, kms: Kms, executor: Executor | None = None) -> None:
        self._store = store
        self._kms = kms
        self._executor = executor

    async def create(self, who: Caller, user: str | None = None, days: int | None = None) -> tuple[AccessKey, Secret]:
        """Make an access key, of the caller or of another user; its secret comes back this once.

        days: after which it ends by itself; federated and delegated users' do. What a federated user makes for themselves ends no
        later than what they have been given. Conflict(access_key_quota): two at most.
        """
        roles.may_give_out(who)
        whose = await self._user(who, user)
        allow_change(who, whose.id)
        return await off_loop(self._executor, self._make, who, whose, who.project_id, days, None)

    async def list(self, who: Caller, user: str | None = None) -> builtins.list[tuple[AccessKey, str]]:
        """Return the access keys of a user, or (None) all that the caller may see, each with its user's name."""
        user_id = await off_loop(self._executor, whose, self._store, who, user)
        found = await off_loop(self._executor, self._store.access_keys, who.tenant_id, user_id)
        return await off_loop(self._executor, named, self._store, who, [(key, key.user_id) for key in found])

    async def rotate(self, who: Caller, access_key: str, beside_hours: int = 24) -> tuple[AccessKey, Secret]:
        """Make an access key in the place of one; both work for so many hours more. Its secret comes back this once."""
        roles.may_give_out(who)
        if not 0 <= beside_hours <= MOST_BESIDE_HOURS:
            raise Invalid("time_unusable", f"{beside_hours}: an old access key goes on for 0 to {MOST_BESIDE_HOURS} hours")
        old = await self._own(who, access_key, "access_key.change")
        whose = await self._user(who, old.user_id)
        left = None if old.expires_at is None else max((old.expires_at - old.created_at).days, 1)
        until = self._store.now() + timedelta(hours=beside_hours)
        return await off_loop(self._executor, self._make, who, whose, old.project_id, left, (access_key, until))

    async def enable(self, who: Caller, access_key: str, *, enabled: bool = True) -> AccessKey:
        """Let an access key be used again, or (enabled False) no more until then."""
        await self._own(who, access_key, "access_key.change")
        return await off_loop(
            self._executor, self._store.change_access_key, who.tenant_id, access_key, enabled=enabled, by=who.user_id
        )

    async def delete(self, who: Caller, access_key: str) -> None:
        """Delete an access key. Conflict(home_access_key) for the last one of whoever owns the home."""
        await self._own(who, access_key, "access_key.change")
        await off_loop(self._executor, self._store.delete_access_key, who.tenant_id, access_key, who.user_id)

    def _make(
        self, who: Caller, whose: User, project_id: str, days: int | None, instead_of: tuple[str, datetime] | None
    ) -> tuple[AccessKey, Secret]:
        if days is not None and not 1 <= days <= MOST_DAYS:
            raise Invalid("time_unusable", f"{days}: an access key ends after 1 to {MOST_DAYS} days")
        if days is None and whose.kind != "local":
            raise Invalid(
                "expiry_needed", f"{whose.name}: an access key of a {whose.kind} user ends by itself; say after how many days"
            )
        caller = Caller(whose.tenant_id, project_id, whose.id, whose.role, whose.kind)
        access_key, secret, sealed = new_access_key(self._kms, caller)
        at = self._store.now()
        ends = None if days is None else at + timedelta(days=days)
        if ends is not None and whose.kind == "federated" and whose.id == who.user_id:
            # Else whoever was let in for a day could let themselves in for years.
            ends = min(ends, self._given_until(whose, at))
        key = AccessKey(access_key, whose.id, project_id, at, expires_at=ends)
        return self._store.add_access_key(who.tenant_id, key, sealed, who.user_id, instead_of=instead_of), secret

    def _given_until(self, whose: User, at: datetime) -> datetime:
        """Return when the last of a user's access keys ends. NotAllowed(administrator_needed) where none may be used now."""
        kept = [each.expires_at for each in self._store.access_keys(whose.tenant_id, whose.id) if each.enabled]
        ends = [each for each in kept if each is not None and each > at]
        if not ends:
            raise NotAllowed("administrator_needed", f"access keys: {roles.REFUSALS['administrator_needed']}")
        return max(ends)

    async def _user(self, who: Caller, user: str | None) -> User:
        return await off_loop(self._executor, self._store.user, who.tenant_id, user or who.user_id)

    async def _own(self, who: Caller, access_key: str, verb: str) -> AccessKey:
        """Return an access key of the tenant that the caller may do this with."""
        found = await off_loop(self._executor, self._store.access_keys, who.tenant_id)
        key = next((each for each in found if each.access_key == access_key), None)
        if key is None or not sees(who, key.user_id):
            raise NotFound("access_key_not_found", f"no access key {access_key}")
        _allow(who, verb, key.user_id)
        return key


def _allow(who: Caller, verb: str, user_id: str) -> None:
    allow(who, verb, "own" if user_id == who.user_id else "other", "access keys")


# Of whatever users are given to ask with, the same holds (service/temporary.py).


def allow_change(who: Caller, user_id: str) -> None:
    """NotAllowed where the caller may not change what this user has been given."""
    _allow(who, "access_key.change", user_id)


def sees(who: Caller, user_id: str) -> bool:
    """Whether the caller may know what this user has been given."""
    return user_id == who.user_id or roles.refusal(who.role, who.kind, "access_key.see", "other") is None


def whose(store: Store, who: Caller, user: str | None) -> str | None:
    """Return the id of the user whose there is to list; None for everybody's.

    user: by name or id, else all whom the caller may look at. NotFound, NotAllowed.
    """
    if user is None:
        return None if sees(who, "") else who.user_id
    found = store.user(who.tenant_id, user)
    _allow(who, "access_key.see", found.id)
    return found.id


def named(store: Store, who: Caller, found: Iterable[tuple[T, str]]) -> list[tuple[T, str]]:
    """Return what was found, each with its user's name in the place of their id; without users that were deleted meanwhile."""
    names = {each.id: each.name for each in store.users(who.tenant_id)}
    return [(each, names[user_id]) for each, user_id in found if user_id in names]
