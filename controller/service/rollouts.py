"""Rollouts: one order for many servers, that goes on by itself and can be held, resumed and looked at."""

import asyncio
import builtins
import ipaddress
import uuid
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from controller.deposits import Deposits, Order
from controller.errors import Conflict, Invalid
from controller.model import (
    Caller,
    Credential,
    Rollout,
    RolloutServer,
    RolloutState,
    SealedCredential,
    Server,
    route,
)
from controller.rollout.strategy import Strategy
from controller.service import sight
from controller.service.bindings import Bindings, login_of
from controller.service.roles import allow
from controller.service.tasks import given, kept_sealed
from controller.service.worker import off_loop
from controller.store import Store

OPERATIONS = ("bind", "replace", "unbind", "password-login-enable", "password-login-disable", "check")
MOST_SERVERS = 100_000
GOOD_FOR = timedelta(hours=24)  # a plan
REST = 10  # so many times longer than counting took nobody counts the servers of a rollout that runs again, ...
MOST_REST = 5.0  # ... nor for longer than this
_SUBNETS = {4: 24, 6: 64}
_RUNNING: tuple[RolloutState, ...] = ("running",)
_HALTED: tuple[RolloutState, ...] = ("paused", "stopped")
_NOT_CANCELLED: tuple[RolloutState, ...] = (*_RUNNING, *_HALTED, "finished")


# What a plan has of its request that is not the caller's word for what it does.
NOT_KEPT = frozenset({"plan", "keypair_id", "given", "password_of"})


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan that a rollout comes from, and what its servers must be like, by their ids."""

    plan: Rollout
    seen: Mapping[str, str]


class Drives(Protocol):
    """Drives rollouts from now on, and looks at one that was changed."""

    def begin(
        self, rollout: Rollout, credentials: Mapping[str, Credential] | None = None, until: datetime | None = None
    ) -> None: ...
    def changed(self, rollout_id: str) -> None: ...
    def reserved(self, rollout_id: str) -> AbstractAsyncContextManager[None]: ...


class Rollouts:
    """The rollouts of the caller's tenant."""

    def __init__(
        self,
        store: Store,
        bindings: Bindings,
        drives: Drives,
        executor: Executor | None = None,
        deposits: Deposits | None = None,
    ) -> None:
        """deposits: as in Bindings."""
        self._store = store
        self._deposits = deposits
        self._bindings = bindings
        self._drives = drives
        self._executor = executor
        self._counted: dict[str, tuple[float, dict[str, Any]]] = {}  # by rollout: until when that will do

    async def start(
        self,
        who: Caller,
        operation: str,
        servers: Sequence[Server],
        request: Mapping[str, Any],
        strategy: Mapping[str, Any],
        credentials: Mapping[str, Credential],
        hours: float | None = None,
        *,
        good_for: timedelta = GOOD_FOR,
        planned: Planned | None = None,
    ) -> Rollout:
        """Order an operation on servers, as a rollout that runs from now on. strategy: in words (Strategy.read).

        request, credentials: as in Bindings.checked(); hours: how long credentials live, else as the setting says. With plan in
        the request servers are only looked at, for a plan that may be started for so long (good_for). planned: the plan that this
        is what comes of. Invalid: operation_unknown, amount_unusable, window_unusable, and what Bindings.checked() refuses.
        Conflict(plan_outdated): the key pair of that name is another one by now.
        """
        if operation not in OPERATIONS:
            raise Invalid("operation_unknown", f"a rollout does one of {', '.join(OPERATIONS)}, not {operation}")
        if len(servers) > MOST_SERVERS:
            raise Invalid("too_many_servers", f"a rollout takes {MOST_SERVERS} servers, not {len(servers)}; select fewer")
        how = Strategy.read(strategy)
        kept, private = await self._bindings.checked(who, operation, servers, request, credentials)
        if planned is not None and kept.get("keypair_id") != planned.plan.request.get("keypair_id"):
            told = f"the key pair {kept.get('keypair')} is another one than when it was made; plan anew"
            raise Conflict("plan_outdated", f"plan {planned.plan.id}: {told}", plan=planned.plan.id)
        rollout = Rollout(
            id=str(uuid.uuid4()),
            tenant_id=who.tenant_id,
            user_id=who.user_id,
            operation=operation,  # type: ignore[arg-type]
            request=kept,
            strategy=how.told(),
            servers=len(servers),
            private=private,
            created_at=self._store.now(),
            plan_id=None if planned is None else planned.plan.id,
        )
        if rollout.plans:
            rollout = replace(rollout, good_until=rollout.created_at + good_for)
        known = await self._on_the_way(who, servers)
        members = [
            replace(
                member(rollout, position, server, login_of(server, operation, request.get("login")), how, known),
                given=given(operation, credentials.get(server.id)),
                seen=None if planned is None else planned.seen[server.id],
            )
            for position, server in enumerate(sorted(servers, key=lambda each: each.name))
        ]
        sealed = await self._sealed(rollout, members, credentials, hours)
        async with self._drives.reserved(rollout.id):
            await off_loop(self._executor, self._store.add_rollout, rollout, members, sealed)
            self._drives.begin(rollout, credentials, self._until(hours))
        return rollout

    async def _on_the_way(self, who: Caller, servers: Sequence[Server]) -> dict[str, Server]:
        """Return these servers, and the jump servers that lead to them, by id: not all that there are."""
        known, found = {each.id: each for each in servers}, servers
        while wanted := {jump for each in found for jump in each.jumps} - known.keys():
            found = await off_loop(self._executor, self._store.servers, who.tenant_id, called=wanted)
            known |= {each.id: each for each in found}
        return known

    async def list(self, who: Caller, states: Collection[RolloutState] | None = None) -> builtins.list[Rollout]:
        """Return the tenant's rollouts, or those in these states, the oldest first."""
        found = await off_loop(self._executor, self._store.rollouts, who.tenant_id, states)
        return [sight.rollout(who, each) for each in found]

    async def page(self, who: Caller, before: str | None, limit: int) -> builtins.list[Rollout]:
        """Return the tenant's rollouts, the newest first: of those asked for before this one (an id), so many."""
        last = None if before is None else await off_loop(self._executor, self._store.rollout, who.tenant_id, before)
        found = await off_loop(self._executor, self._store.rollouts_before, who.tenant_id, last, limit)
        return [sight.rollout(who, each) for each in found]

    async def get(self, who: Caller, id: str, lately: bool = False) -> tuple[Rollout, dict[str, Any]]:
        """Return one rollout and how far it is: servers in each state, by cause, by label, and not begun for what reason.

        Where counting takes long it is as it was a moment ago: while it runs, and for whoever lately will do for.
        """
        rollout = await off_loop(self._executor, self._store.rollout, who.tenant_id, id)
        counts = await self._counts(rollout, lately)
        if rollout.plan_id is not None:
            plan = await off_loop(self._executor, self._store.rollout, who.tenant_id, rollout.plan_id)
            if plan.servers > rollout.servers:
                told = f"left out by the plan; kps rollout show {plan.id} says why"
                counts = counts | {"held": counts["held"] | {told: plan.servers - rollout.servers}}
        return sight.rollout(who, rollout), counts

    async def _counts(self, rollout: Rollout, lately: bool) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        until, counts = self._counted.get(rollout.id, (0.0, {}))
        if (rollout.state != "running" and not lately) or loop.time() >= until:
            began = loop.time()
            counts = _counted(await off_loop(self._executor, self._store.rollout_counts, rollout.id))
            self._counted = {id: each for id, each in self._counted.items() if each[0] > began}
            self._counted[rollout.id] = (loop.time() + min(MOST_REST, REST * (loop.time() - began)), counts)
        return counts

    async def servers(self, who: Caller, id: str, after: int = -1, limit: int | None = None) -> builtins.list[RolloutServer]:
        """Return the servers of a rollout in their order, each with what its last task has come to: after a position, so many."""
        rollout = await off_loop(self._executor, self._store.rollout, who.tenant_id, id)
        return await off_loop(self._executor, self._store.rollout_servers, rollout.id, after, limit)

    async def pause(self, who: Caller, id: str) -> Rollout:
        """Begin no further server; those that are begun come to their end. Conflict(rollout_is_not) where it does not run."""
        return await self._change(who, id, "paused", "as somebody asked", of=_RUNNING)

    async def cancel(self, who: Caller, id: str) -> Rollout:
        """Begin no further server, now or ever. Conflict(rollout_is_not) where it is over."""
        return await self._change(who, id, "cancelled", "as somebody asked", of=_RUNNING + _HALTED)

    async def resume(
        self, who: Caller, id: str, credentials: Mapping[str, Credential] | None = None, hours: float | None = None
    ) -> Rollout:
        """Go on with a rollout that was paused or stopped, or that nobody drives; what failed before counts no more.

        credentials: by server id, in the place of those that came before. Conflict(rollout_is_not) where it is over.
        """
        rollout = await off_loop(self._executor, self._store.rollout, who.tenant_id, id)
        allow(who, "binding.order", what=rollout.operation)
        if credentials:
            anew = await self._anew(rollout, credentials, hours)
            await off_loop(self._executor, self._store.rollout_given, who.tenant_id, id, *anew)
        if rollout.state != "running":
            rollout = await self._change(who, id, "running", "", of=_HALTED, go_on=True, forgive=True)
        self._drives.begin(rollout, credentials, self._until(hours))
        return rollout

    async def failures(self, who: Caller, id: str) -> builtins.list[tuple[str, int, datetime]]:
        """Return on how many servers a rollout stands failed just now, by cause, and when the last of these came to its end."""
        rollout = await off_loop(self._executor, self._store.rollout, who.tenant_id, id)
        return await off_loop(self._executor, self._store.rollout_failures, rollout)

    async def failed(self, who: Caller, id: str, cause: str | None, ended_by: datetime | None = None) -> builtins.list[str]:
        """Return the ids of the servers that retry() would try once more. Conflict: as there."""
        rollout = await off_loop(self._executor, self._store.rollout, who.tenant_id, id)
        allow(who, "binding.order", what=rollout.operation)
        if rollout.state == "cancelled":
            raise Conflict("rollout_is_not", f"rollout {id} is cancelled; start another one", state=rollout.state)
        members = await off_loop(self._executor, self._store.rollout_servers, rollout.id)
        failed = [each for each in members if each.status == "failed" and cause in (None, each.cause)]
        ids = [each.server_id for each in failed if ended_by is None or (each.finished_at and each.finished_at <= ended_by)]
        if not ids:
            raise _nothing_failed(id, cause)
        return ids

    async def retry(
        self,
        who: Caller,
        id: str,
        cause: str | None,
        credentials: Mapping[str, Credential],
        hours: float | None = None,
        ended_by: datetime | None = None,
    ) -> Rollout:
        """Have servers that failed, by a cause or (None) by any, tried once more, and go on.

        ended_by: only those that had failed then.
        Conflict: rollout_is_not (cancelled), nothing_failed.
        """
        rollout = await off_loop(self._executor, self._store.rollout, who.tenant_id, id)
        allow(who, "binding.order", what=rollout.operation)
        anew = await self._anew(rollout, credentials, hours)
        if not await off_loop(self._executor, self._store.rollout_again, who.tenant_id, id, cause, *anew, ended_by):
            raise _nothing_failed(id, cause)
        # Also where it runs: it may come to its end in this moment.
        halted = rollout.state != "running"
        rollout = await self._change(who, id, "running", "", of=_NOT_CANCELLED, go_on=True, forgive=halted)
        self._drives.begin(rollout, credentials, self._until(hours))
        return rollout

    async def _anew(
        self, rollout: Rollout, credentials: Mapping[str, Credential], hours: float | None
    ) -> tuple[dict[str, Any], builtins.list[SealedCredential]]:
        """Return what tasks keep of new credentials, by server id, and the credentials sealed."""
        servers = await off_loop(self._executor, self._store.rollout_servers, rollout.id) if credentials else []
        kept = {server_id: given(rollout.operation, each) for server_id, each in credentials.items()}
        return kept, await self._sealed(rollout, servers, credentials, hours)

    async def _sealed(
        self,
        rollout: Rollout,
        servers: Sequence[RolloutServer],
        credentials: Mapping[str, Credential],
        hours: float | None,
    ) -> builtins.list[SealedCredential]:
        of = [
            (Order(rollout.id, "rollout", rollout.tenant_id, each.server_id, each.login, rollout.operation), each.server_id)
            for each in servers
        ]
        orders = [(order, credentials.get(server_id)) for order, server_id in of]
        return await kept_sealed(self._deposits, self._executor, orders, hours)

    def _until(self, hours: float | None) -> datetime | None:
        return None if self._deposits is None else self._deposits.until(hours)

    async def _change(
        self, who: Caller, id: str, state: RolloutState, reason: str, *, of: Collection[RolloutState], **more: bool
    ) -> Rollout:
        allow(who, "task.change")
        change = self._store.change_rollout
        changed = await off_loop(self._executor, change, who.tenant_id, id, state, reason, of=of, **more)
        self._drives.changed(id)
        return changed


def member(
    rollout: Rollout,
    position: int,
    server: Server,
    login: str,
    how: Strategy,
    known: Mapping[str, Server],
) -> RolloutServer:
    """Return a server as one of a rollout, at its place in the order. known: servers by id."""
    return RolloutServer(
        rollout_id=rollout.id,
        position=position,
        server_id=server.id,
        server_name=server.name,
        login=login,
        label=server.labels.get(how.per_label) if how.per_label else None,
        quorum=server.labels.get(how.quorum) if how.quorum else None,
        bastions=[hop.id for hop in route(server, known)],
        subnet=_subnet(server.host),
    )


def _subnet(host: str) -> str | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None  # a name; which network it is in is not asked
    return str(ipaddress.ip_network((address, _SUBNETS[address.version]), strict=False))


def _counted(rows: builtins.list[tuple[str | None, str | None, str | None, str | None, int]]) -> dict[str, Any]:
    states: dict[str, int] = dict.fromkeys(("waiting", "running", "succeeded", "unchanged", "failed", "cancelled", "held"), 0)
    causes: dict[str, int] = {}
    labels: dict[str, dict[str, int]] = {}
    held: dict[str, int] = {}
    for status, cause, why, label, count in rows:
        state = "held" if why else "waiting" if status is None else "running" if status == "ready" else status
        states[state] += count
        if status == "failed":
            causes[str(cause)] = causes.get(str(cause), 0) + count
        if why:
            held[why] = held.get(why, 0) + count
        if label is not None:
            of = labels.setdefault(label, {})
            of[state] = of.get(state, 0) + count
    return {"states": states, "causes": causes, "labels": labels, "held": held}


def _nothing_failed(id: str, cause: str | None) -> Conflict:
    return Conflict("nothing_failed", f"no server of rollout {id} has failed" + (f" by {cause}" if cause else ""))
