"""For which servers a second user has to agree before a door of theirs is opened."""

import builtins
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from controller.doors import DoorRule
from controller.errors import Conflict, Invalid, NotFound
from controller.model import Caller, Server, now
from controller.ruled import rules_of
from controller.service.roles import allow
from controller.service.worker import off_loop
from controller.store import Store

MOST_MINUTES = 24 * 60

P = ParamSpec("P")
T = TypeVar("T")


class DoorRules:
    """The rules of the caller's tenant."""

    def __init__(self, store: Store, executor: Executor | None = None) -> None:
        self._store = store
        self._executor = executor

    async def list(self, who: Caller) -> builtins.list[DoorRule]:
        """Return for which servers a second user has to agree, and within how many minutes."""
        allow(who, "door.see")
        return await self._off(self._store.door_rules, who.tenant_id)

    async def of(self, who: Caller, servers: Collection[Server]) -> dict[str, builtins.list[DoorRule]]:
        """Return the rules that servers are under, by their ids."""
        refuse_others(who, servers)
        allow(who, "door.see")
        return await self._off(rules_of, self._store, who.tenant_id, servers)

    async def set(self, who: Caller, servers: str, minutes: int) -> DoorRule:
        """Have doors of servers with a label (label=value) opened only after a second user has agreed, within so many minutes.

        Invalid: selection_unusable, minutes_unusable.
        """
        allow(who, "door.rule", what=servers)
        label, value = selection(servers)
        if not 1 <= minutes <= MOST_MINUTES:
            raise Invalid("minutes_unusable", f"{minutes} minutes; give 1 to {MOST_MINUTES}")
        return await self._off(self._store.set_door_rule, DoorRule(who.tenant_id, label, value, minutes, who.user_id, now()))

    async def remove(self, who: Caller, servers: str) -> None:
        """Have doors of these servers opened without a second user. NotFound(door_rule_not_found)."""
        allow(who, "door.rule", what=servers)
        await self._off(self._store.remove_door_rule, who.tenant_id, *selection(servers), who.user_id)

    async def _off(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await off_loop(self._executor, verb, *args, **kwargs)


def refuse_others(who: Caller, servers: Collection[Server]) -> None:
    """NotFound(server_not_found): one of them is another tenant's."""
    for server in servers:
        if server.tenant_id != who.tenant_id:
            raise NotFound("server_not_found", f"{server.name}: no server of this name", server=server.name)


def selection(servers: str) -> tuple[str, str]:
    """Return the label and the value that a rule is about. Invalid(selection_unusable)."""
    label, equals, value = servers.partition("=")
    if not (label and equals and len(servers) <= 200):
        raise Invalid("selection_unusable", f"{servers[:200]!r}: a rule is about label=value")
    return label, value


def refuse_opened_for_good(store: Store, tenant_id: str, servers: Collection[Server]) -> None:
    """Conflict(password_login_under_rule): one of them is under a rule, which password login for good would pass by."""
    held = rules_of(store, tenant_id, servers)
    under = [each.name for each in servers if held[each.id]]
    if under:
        told = "a second user has to agree to a door here, so password login is not enabled for good"
        more = "open a door (kps emergency open), or have an administrator remove the rule (kps emergency rule remove)"
        raise Conflict("password_login_under_rule", f"{', '.join(under)}: {told}; {more}", servers=under)
