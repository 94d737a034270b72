"""Doors that a second user has to agree to: what is asked for waits for that, for as long as its rule says."""

import builtins
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import ParamSpec, TypeVar

from controller.doors import Door, DoorOrder
from controller.errors import Conflict, NotFound
from controller.model import Caller, Credential, Operation, SealedCredential, Task
from controller.service.doortasks import DoorTasks, Opens, given_for, nothing, task
from controller.service.roles import allow, refusal
from controller.service.tasks import given
from controller.service.worker import off_loop
from controller.store import Store

P = ParamSpec("P")
T = TypeVar("T")


class DoorApprovals:
    """The orders of the caller's tenant that wait for a second user; and, for whoever serves the home, those of all tenants."""

    def __init__(
        self, store: Store, tasks: DoorTasks, executor: Executor | None, longest_seconds: int, rung: Callable[[], None]
    ) -> None:
        """longest_seconds: that a door may be open. rung: told when there is something to tell of."""
        self._store = store
        self._tasks = tasks
        self._executor = executor
        self._longest_seconds = longest_seconds
        self._rung = rung
        # What came with orders that wait, by order and server: where it could not be sealed, say.
        self._held: dict[str, dict[str, Credential]] = {}

    async def list(self, who: Caller, *, ids: Collection[str] | None = None) -> builtins.list[DoorOrder]:
        """Return the orders to which somebody has to agree, or these orders, the newest first."""
        allow(who, "door.see")
        return await self._off(self._store.door_orders, who.tenant_id, ids=ids, asked=ids is None)

    async def approve(self, who: Caller, order_id: str, opens: Opens = nothing) -> tuple[DoorOrder, builtins.list[Door]]:
        """Agree, as the second user, to what somebody asked for: it is done from now on.

        NotAllowed(approved_by_requester), Conflict: approval_expired, door_order_decided, requester_gone.
        """
        return await self._decide(who, order_id, agreed=True, opens=opens)

    async def refuse(self, who: Caller, order_id: str) -> tuple[DoorOrder, builtins.list[Door]]:
        """Say no to what somebody asked for; whoever asked takes it back so. Conflict: approval_expired, door_order_decided."""
        return await self._decide(who, order_id, agreed=False)

    async def take_back(self, who: Caller, order_id: str, some: Sequence[Door]) -> None:
        """Have doors not be opened that nobody has agreed to yet; the whole order where none of its doors would be left."""
        order, doors = await self._off(self._store.door_order, who.tenant_id, order_id)
        if {each.id for each in doors} <= {each.id for each in some}:
            await self._decide(who, order_id, agreed=False)
            return
        if who.user_id != order.user_id:
            allow(who, "door.approve", what=order_id)
        await self._off(self._store.take_back_doors, order_id, some, who.user_id)

    def hold(self, order: DoorOrder, doors: Sequence[Door], given_: Mapping[str, Credential]) -> None:
        """Have what came with an order at hand until somebody has agreed to it. given_: by server id."""
        held = {each.server_id: given_[each.server_id] for each in doors if each.server_id in given_}
        if held:
            self._held[order.id] = held

    async def lapse(self) -> None:
        """End what nobody agreed to in time."""
        for order_id in await self._off(self._store.lapse_doors):
            self._held.pop(order_id, None)
            self._rung()

    # -- steps

    async def _decide(
        self, who: Caller, order_id: str, *, agreed: bool, opens: Opens = nothing
    ) -> tuple[DoorOrder, builtins.list[Door]]:
        order, doors = await self._off(self._store.door_order, who.tenant_id, order_id)
        if not (who.user_id == order.user_id and not agreed):  # whoever asked may take it back
            allow(who, "door.approve", what=order_id)
        tasks: builtins.list[Task] = []
        by_server: dict[str, Credential] = {}
        sealed: builtins.list[SealedCredential] = []
        if agreed:
            await self._off(self._refuse_gone, order)
            given_ = given_for(who, {each.server_id: each.server_name for each in doors}, opens)
            doing: Operation = "door-open" if order.does == "open" else "door-extend"
            doors = [
                replace(each, given=given("door-open", given_[each.server_id])) if each.server_id in given_ else each
                for each in doors
            ]
            tasks = [task(each, doing, order.user_id, seconds=order.seconds) for each in doors]
            by_server = self._held.get(order_id, {}) | given_
            sealed = await self._tasks.sealed(tasks, given_)
        holder, lease_seconds = self._tasks.holder
        decided = await self._off(
            self._store.decide_doors,
            who.tenant_id,
            order_id,
            who.user_id,
            agreed=agreed,
            tasks=tasks,
            holder=holder,
            lease_seconds=lease_seconds,
            credentials=sealed,
            longest_seconds=self._longest_seconds,
        )
        self._held.pop(order_id, None)
        if tasks:
            self._tasks.ring(tasks, by_server)
        self._rung()
        found = await self._off(self._store.doors, who.tenant_id, ids=decided.doors)
        if decided.does == "extend":
            # As for who extends alone: with the task that does it, to be followed.
            of = {each.request["door_id"]: each.id for each in tasks}
            found = [replace(each, closing_task_id=of.get(each.id)) if each.state == "open" else each for each in found]
        return decided, found

    def _refuse_gone(self, order: DoorOrder) -> None:
        """Conflict(requester_gone): whoever asked is no user any more, or may not open doors now."""
        try:
            user = self._store.user(order.tenant_id, order.user_id)
            fits = user.enabled and refusal(user.role, user.kind, "door.approve", "tenant") is None
        except NotFound:
            fits = False
        if not fits:
            told = "whoever asked for it was deleted or disabled since, or may not any more; ask for it yourself"
            raise Conflict("requester_gone", f"order {order.id}: {told}", order=order.id)

    async def _off(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await off_loop(self._executor, verb, *args, **kwargs)
