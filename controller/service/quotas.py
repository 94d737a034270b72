"""Quotas: how much of what there may be."""

from concurrent.futures import Executor
from typing import get_args

from controller.errors import Invalid
from controller.model import Caller, QuotaName, Usage
from controller.model import Quotas as Defaults
from controller.service.roles import allow
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.quotas import EACH_USER

MOST = 1_000_000


class Quotas:
    """The quotas of the caller's tenant and of its users."""

    def __init__(self, store: Store, defaults: Defaults, executor: Executor | None = None) -> None:
        self._store = store
        self._defaults = defaults
        self._executor = executor

    async def show(self, who: Caller, user: str | None = None) -> list[Usage]:
        """Return the quotas of a user, or (None) of the tenant, with what is used of each."""
        user_id = await self._user(who, user)
        allow(who, "quota.see", "tenant" if user_id is None else "own" if user_id == who.user_id else "other", "quotas")
        return await off_loop(self._executor, self._store.usage, who.tenant_id, user_id, self._defaults)

    async def set(self, who: Caller, name: str, most: int | None, user: str | None = None) -> list[Usage]:
        """Set a quota, of a user or (None) of the tenant; most None: the default again. Returns what show() does.

        What there is more of than the quota allows stays.
        """
        allow(who, "quota.change", what=name)
        user_id = await self._user(who, user)
        known: dict[str, QuotaName] = {each: each for each in get_args(QuotaName) if user_id is None or each in EACH_USER}
        if name not in known:
            raise Invalid(
                "quota_unknown", f"{name}: no such quota{'' if user_id is None else ' of a user'}; one of {', '.join(known)}"
            )
        if most is not None and not 0 <= most <= MOST:
            raise Invalid("quota_unusable", f"{most}: a quota is 0 to {MOST}")
        await off_loop(self._executor, self._store.set_quota, who.tenant_id, user_id, known[name], most, who.user_id)
        return await off_loop(self._executor, self._store.usage, who.tenant_id, user_id, self._defaults)

    async def _user(self, who: Caller, user: str | None) -> str | None:
        if user is None:
            return None
        return (await off_loop(self._executor, self._store.user, who.tenant_id, user)).id
