"""What every verb about customer master keys stands on."""

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from controller.errors import NotFound
from controller.kms import Kms
from controller.model import BoundKey, Caller, MasterKey
from controller.service import ways_in
from controller.service.roles import allow
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.masterkeys import Check

P = ParamSpec("P")
T = TypeVar("T")


class Verbs:
    """The store, the key service, the clock, and the thread on which the work is done."""

    def __init__(self, store: Store, kms: Kms, executor: Executor | None = None) -> None:
        self._store = store
        self._kms = kms
        self._executor = executor
        self._now = store.now  # what is due is due for all who share it

    async def _off(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await off_loop(self._executor, work, *args, **kwargs)

    def _seen(self, who: Caller, name: str) -> MasterKey:
        """Return a master key of the caller's tenant by id, alias or further alias. NotFound(master_key_not_found)."""
        allow(who, "masterkey.see", what=name)
        found = self._store.master_key(who.tenant_id, name)
        if found is None:
            raise NotFound("master_key_not_found", f"{name}: no master key of this id or alias", key=name)
        return found

    def _changed(self, who: Caller, name: str) -> MasterKey:
        """Return a master key that the caller may change."""
        found = self._seen(who, name)
        allow(who, "masterkey.change", what=found.alias)
        return found


def unless_only_way_in(what: str, even_if: bool) -> Check:
    """Return what refuses to take a master key away that opens some login's only proved way in, unless that was consented to.

    Conflict(only_way_in).
    """

    def check(bound: Sequence[BoundKey], lost: Collection[str]) -> list[str]:
        lose = ways_in.only_way_in(bound, lost)
        if not even_if:
            ways_in.refuse(lose, what)
        return [f"{each.login}@{each.server}" for each in lose]

    return check
