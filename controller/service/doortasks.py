"""What servers are asked about doors: tasks that go ahead of all that waits, and what opens the servers for them."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor

from controller.deposits import Deposits, Order
from controller.doors import Door
from controller.errors import Problem
from controller.model import Caller, Credential, Operation, SealedCredential, Task, now
from controller.service.roles import may_name_places
from controller.service.tasks import Dispatch, kept_sealed

Opens = Callable[[str], Credential | None]  # what opens a server, by its name, where anything was given for it


def nothing(server: str) -> None:
    """Say that nothing was given."""


def given_for(who: Caller, names: Mapping[str, str], opens: Opens) -> dict[str, Credential]:
    """Return what was given for servers, by their ids. names: of the servers, by their ids. NotAllowed: an ssh-agent's place."""
    found = {id: opens(name) for id, name in names.items()}
    kept = {id: each for id, each in found.items() if each is not None}
    if any(each.agent_socket for each in kept.values()):
        may_name_places(who, "an ssh-agent")
    return kept


def task(door: Door, operation: Operation, user_id: str, seconds: int | None = None) -> Task:
    """Return a task about a door: with the door's own id for the one that opens it."""
    request = {"door_id": door.id, "door_from": door.network, "door_seconds": seconds or door.seconds}
    opens = operation == "door-open"
    return Task(
        id=door.task_id if opens else str(uuid.uuid4()),
        tenant_id=door.tenant_id,
        user_id=user_id,
        server_id=door.server_id,
        server_name=door.server_name,
        login=door.login,
        operation=operation,
        request=request | (door.given if opens else {}),
        created_at=now(),
    )


class DoorTasks:
    """Has the tasks of doors run."""

    def __init__(self, dispatch: Dispatch, executor: Executor | None = None, deposits: Deposits | None = None) -> None:
        """deposits: as in Bindings."""
        self._dispatch = dispatch
        self._executor = executor
        self._deposits = deposits

    @property
    def holder(self) -> tuple[str, float]:
        """As whose tasks are kept that are rung for then, and for how many seconds."""
        return self._dispatch.owner, self._dispatch.lease_seconds

    async def sealed(self, tasks: Sequence[Task], by_server: Mapping[str, Credential]) -> list[SealedCredential]:
        """Return what came for tasks, sealed. None of it where the root key is away: an emergency does not wait for it."""
        orders = [(Order.of_task(each), by_server.get(each.server_id)) for each in tasks]
        try:
            return await kept_sealed(self._deposits, self._executor, orders)
        except Problem as problem:
            if problem.code == "store_unusable":
                raise
            return []

    def called_off(self, task_ids: Sequence[str]) -> None:
        """Say that tasks which waited are not to be run any more."""
        for each in task_ids:
            self._dispatch.called_off(each)

    def ring(self, tasks: Sequence[Task], by_server: Mapping[str, Credential]) -> None:
        """Have tasks that are kept begin now, ahead of all that waits. by_server: what opens the servers, by their ids."""
        self._dispatch.ring([each.id for each in tasks], by_server, urgent=True)
