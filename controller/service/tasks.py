"""Tasks: look, retry, delete, follow."""

import asyncio
import builtins
import uuid
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Literal, Protocol

from controller.deposits import Deposits, Order
from controller.doors import URGENT
from controller.errors import Conflict, NotFound, Problem
from controller.model import DOOR_OPERATIONS, Caller, Credential, Event, KeyPair, Operation, SealedCredential, Server, Task, now
from controller.service import sight
from controller.service.doorrules import refuse_opened_for_good
from controller.service.feed import Feed
from controller.service.roles import allow, may_name_places
from controller.service.stopping import Stopping
from controller.service.worker import off_loop
from controller.store import Store

WAIT_SECONDS = 30.0
EVENTS_AT_ONCE = 1000
_OF_CREDENTIAL = ("given", "password_of")


def given(operation: str, credential: Credential | None) -> dict[str, list[str] | str]:
    """Return what a task keeps of a credential: which kinds were given, and whose password that was said to be.

    So a retry can say what it needs again.
    """
    # What comes with a reset is what it sets.
    if credential is None or operation == "reset":
        return {}
    kinds = {
        "password": credential.password,
        "identity": credential.identity,
        "passphrase": credential.passphrase,
        "agent": credential.agent_key,
        "certificate": credential.certificate,
    }
    kept: dict[str, list[str] | str] = {"given": [name for name, secret in kinds.items() if secret is not None]}
    return kept | ({"password_of": credential.password_of} if credential.password_of else {})


async def kept_sealed(
    deposits: Deposits | None,
    executor: Executor | None,
    given: Sequence[tuple[Order, Credential | None]],
    hours: float | None = None,
) -> list[SealedCredential]:
    """Return what was given with orders as it is to be kept: sealed, for so long (None: as the setting says)."""
    wanted = [(order, credential) for order, credential in given if credential is not None]
    if deposits is None or not wanted:
        return []
    return await off_loop(executor, deposits.sealed, wanted, deposits.until(hours))


class Dispatch(Protocol):
    """Has tasks run. What is to be rung for is added to the store as held by owner."""

    owner: str
    lease_seconds: float

    def ring(self, task_ids: Collection[str], credentials: Mapping[str, Credential], *, urgent: bool = False) -> None:
        """Say that these tasks wait, with what opens their servers, by server id. urgent: ahead of all that are not."""

    def called_off(self, task_id: str) -> None:
        """Say that a task that waited is not to be run any more."""

    @property
    def running(self) -> int:
        """How many tasks run."""

    async def drain(self) -> None:
        """Begin nothing more, and wait until what runs has ended."""


class Tasks:
    """The tasks of the caller's tenant."""

    def __init__(
        self,
        store: Store,
        dispatch: Dispatch,
        executor: Executor | None = None,
        stopping: Stopping | None = None,
        deposits: Deposits | None = None,
    ) -> None:
        """deposits: as in Bindings."""
        self._store = store
        self._deposits = deposits
        self._dispatch = dispatch
        self._executor = executor
        self._stopping = stopping or Stopping()
        self.feed = Feed(store, executor, self._stopping)

    @property
    def running(self) -> int:
        """How many tasks run in this process."""
        return self._dispatch.running

    async def adopt(self) -> None:
        """Begin, in their turn, the tasks that an earlier controller has handed on."""
        if self._stopping.begun:
            return
        found = await off_loop(self._executor, self._store.adopt, self._dispatch.owner, self._dispatch.lease_seconds)
        for urgent in (True, False):
            some = [task.id for task in found if (task.operation in URGENT) is urgent]
            if some:
                self._dispatch.ring(some, {}, urgent=urgent)

    async def drain(self) -> None:
        """Begin no task any more, and wait until those that run have ended."""
        await self._dispatch.drain()

    async def list(
        self,
        who: Caller,
        failed: bool = False,
        running: bool = False,
        ids: Collection[str] | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> builtins.list[Task]:
        """Return tasks, oldest first. failed: those that nobody has retried; running: those that have not ended.

        after, limit: of those after this place in the order (seq), the first so many.
        """
        which: dict[str, Any] = {"ids": ids, "failed": failed, "running": running, "after": after, "limit": limit}
        found = await off_loop(self._executor, self._store.tasks, who.tenant_id, **which)
        return [sight.task(who, task) for task in found]

    async def counted(
        self, who: Caller, operations: Collection[str], *, failed: bool = False, running: bool = False, offset: int, limit: int
    ) -> tuple[builtins.list[Task], int]:
        """Return so many tasks of these operations after the first few, oldest first, and how many there are in all."""
        which: dict[str, Any] = {"failed": failed, "running": running, "offset": offset, "limit": limit}
        found, total = await off_loop(self._executor, self._store.counted_tasks, who.tenant_id, operations, **which)
        return [sight.task(who, task) for task in found], total

    async def get(self, who: Caller, id: str) -> Task:
        """Return one task."""
        return sight.task(who, await off_loop(self._executor, self._store.task, who.tenant_id, id))

    async def retry(self, who: Caller, id: str, credential: Credential | None = None) -> Task:
        """Ask once more for what a task that failed, or was cancelled, was asked; returns the new task.

        Conflict: task_not_failed, task_retried (the newer one is named).
        """
        allow(who, "task.change")
        if credential is not None and credential.agent_socket:
            may_name_places(who, "an ssh-agent")
        again = await off_loop(self._executor, self._again, who, id, credential)
        orders = [] if again.operation == "reset" else [(Order.of_task(again), credential)]
        sealed = await kept_sealed(self._deposits, self._executor, orders)
        holder = (self._dispatch.owner, self._dispatch.lease_seconds)
        (task,) = await off_loop(self._executor, self._store.add_tasks, [again], *holder, sealed)
        self._dispatch.ring([task.id], {} if credential is None else {task.server_id: credential})
        return task

    async def retry_all(
        self, who: Caller, ids: Sequence[str], credential: Credential | None = None
    ) -> tuple[builtins.list[Task], builtins.list[Problem]]:
        """Ask once more for each of these tasks, as retry() does; returns the new tasks, and what refused each of the others.

        Conflict(password_told_once) is among these for a reset that sets a password: whoever retries that is told it.
        """
        allow(who, "task.change")
        if credential is not None and credential.agent_socket:
            may_name_places(who, "an ssh-agent")
        again, refused = await off_loop(self._executor, self._all_again, who, ids, credential)
        # What comes with a reset is what it sets, and nothing that opens a server.
        opened = [each for each in again if each.operation != "reset"]
        sealed = await kept_sealed(self._deposits, self._executor, [(Order.of_task(each), credential) for each in opened])
        holder = (self._dispatch.owner, self._dispatch.lease_seconds)
        try:
            tasks = await off_loop(self._executor, self._store.add_tasks, again, *holder, sealed)
        except Conflict:  # somebody was faster with one of them
            if len(again) == 1:
                raise
            tasks = []
            for id in [str(each.retry_of) for each in again]:
                try:
                    tasks += (await self.retry_all(who, [id], credential))[0]
                except Problem as problem:
                    refused.append(problem)
            return tasks, refused
        given = {} if credential is None else {each.server_id: credential for each in opened}
        self._dispatch.ring([each.id for each in tasks], given)
        return tasks, refused

    async def delete(self, who: Caller, id: str) -> Literal["cancelled", "deleted"]:
        """Cancel a task that nobody has begun, take a failed one off the list; Conflict(task_not_failed) for any other."""
        allow(who, "task.change")
        if await off_loop(self._executor, self._store.cancel, who.tenant_id, id, "cancelled before it was begun"):
            self._dispatch.called_off(id)
            return "cancelled"
        await off_loop(self._executor, self._store.delete_failed, who.tenant_id, [id])
        return "deleted"

    async def delete_failed(self, who: Caller, operations: Collection[Operation] | None = None) -> int:
        """Take all failed tasks off the list, or those of some operations; returns how many."""
        allow(who, "task.change")
        return await off_loop(self._executor, partial(self._store.delete_failed, who.tenant_id, operations=operations))

    async def events(
        self,
        who: Caller,
        after: int = 0,
        task_ids: Collection[str] | None = None,
        wait_seconds: float = 0,
        limit: int = EVENTS_AT_ONCE,
    ) -> builtins.list[Event]:
        """Return what happened after an event, in order; waits for something when there is nothing yet."""
        loop = asyncio.get_running_loop()
        until = loop.time() + min(wait_seconds, WAIT_SECONDS)
        while True:
            newest = self.feed.newest
            happened = await off_loop(self._executor, self._store.events, who.tenant_id, after, task_ids, limit)
            found = [event for event in (sight.event(who, each) for each in happened) if event is not None]
            left = until - loop.time()
            if found or (not happened and (left <= 0 or self._stopping.over)):
                return found
            if happened:
                after = happened[-1].id  # none of these is the caller's to see
                continue
            await self.feed.after(newest, left)

    def _all_again(
        self, who: Caller, ids: Sequence[str], credential: Credential | None
    ) -> tuple[builtins.list[Task], builtins.list[Problem]]:
        """Return what tasks come to when they are asked for once more, and what refuses the others."""
        old = self._store.tasks(who.tenant_id, ids=ids)
        servers = {each.id: each for each in self._store.servers(who.tenant_id, called=[task.server_id for task in old])}
        keypairs = {each.id: each for each in self._store.keypairs(who.tenant_id, who.user_id)}
        again: builtins.list[Task] = []
        refused: builtins.list[Problem] = []
        for task in old:
            try:
                if task.operation == "reset" and task.request.get("set_password"):
                    told = f"task {task.id} sets a password, which is told once; kps task retry {task.id} tells it"
                    raise Conflict("password_told_once", f"{task.server_name}: {told}", task=task.id)
                if task.server_id not in servers:
                    told = "this server is not in the inventory any more"
                    raise NotFound("server_not_found", f"{task.server_name}: {told}", server=task.server_name)
                again.append(self._once_more(who, task, servers[task.server_id], keypairs, credential))
            except Problem as problem:
                refused.append(problem)
        return again, refused

    def _again(self, who: Caller, id: str, credential: Credential | None) -> Task:
        old = self._store.task(who.tenant_id, id)
        _refuse_not_failed(old)
        server = self._store.server(who.tenant_id, old.server_id)
        keypairs = {each.id: each for each in self._store.keypairs(who.tenant_id, who.user_id)}
        return self._once_more(who, old, server, keypairs, credential)

    def _once_more(
        self, who: Caller, old: Task, server: Server, keypairs: Mapping[str, KeyPair], credential: Credential | None
    ) -> Task:
        again = _again(who, old, server, keypairs, credential)
        if old.operation == "password-login-enable":
            refuse_opened_for_good(self._store, who.tenant_id, [server])
        return again


def _refuse_not_failed(task: Task) -> None:
    if task.status not in ("failed", "cancelled"):
        raise Conflict("task_not_failed", f"task {task.id} is {task.status}; only a failed task is retried", task=task.id)


def _again(who: Caller, old: Task, server: Server, keypairs: Mapping[str, KeyPair], credential: Credential | None) -> Task:
    """Return a task that asks for what an old one was asked. keypairs: those that the caller sees, by their ids."""
    _refuse_not_failed(old)
    if old.operation in DOOR_OPERATIONS:
        # Who may, for how long and with whose word is asked anew.
        raise Conflict(
            "door_not_retried", f"{old.server_name}: a door is asked for anew (kps emergency open), not retried", task=old.id
        )
    # Whoever retries asks for themselves: somebody else's private key pair is not theirs to use.
    if old.request.get("take_over"):
        allow(who, "binding.take", "other", old.operation)
    wanted = old.request.get("keypair_id")
    keypair = None if wanted is None else keypairs.get(str(wanted))
    if keypair is not None:
        allow(who, "keypair.use", keypair.scope, keypair.name)
    elif wanted is not None:
        name = sight.task(who, old).request.get("keypair")
        message = (
            f"{name}: no key pair of this name any more" if name else f"task {old.id} is about no key pair that is yours to use"
        )
        raise NotFound("keypair_not_found", message, **({"keypair": name} if name else {}))
    return Task(
        id=str(uuid.uuid4()),
        tenant_id=who.tenant_id,
        user_id=who.user_id,
        server_id=server.id,
        server_name=server.name,
        login=old.login,
        operation=old.operation,
        request={name: value for name, value in old.request.items() if name not in _OF_CREDENTIAL}
        | given(old.operation, credential),
        created_at=now(),
        retry_of=old.id,
        rollout_id=old.rollout_id,
        private=keypair is not None and keypair.scope == "private",
    )
