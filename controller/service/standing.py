"""How the servers of a tenant stand, for whoever looks at many of them."""

import builtins
from concurrent.futures import Executor
from dataclasses import dataclass

from controller.model import Binding, Caller, Server, Task
from controller.service import sight
from controller.service.roles import allow
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.standing import Sought as Sought  # for who asks


@dataclass(frozen=True, slots=True)
class Stands:
    """One server: what is bound there, each with the key pair's name (None: another user's private one), and its last tasks."""

    server: Server
    bound: list[tuple[Binding, str | None]]
    failed: Task | None  # the last that failed and was not retried
    proved: Task | None  # the last that proved a way in, but for doors


class Standing:
    """How servers stand."""

    def __init__(self, store: Store, executor: Executor | None = None) -> None:
        self._store = store
        self._executor = executor

    async def servers(self, who: Caller, sought: Sought, after: str = "", limit: int = 100) -> tuple[builtins.list[Stands], int]:
        """Return the servers that are sought, by name, so many after a name; and how many there are in all."""
        allow(who, "server.see")
        return await off_loop(self._executor, self._servers, who, sought, after, limit)

    async def found(self, who: Caller, sought: Sought, limit: int) -> tuple[builtins.list[Server], int]:
        """Return the servers that are sought, and nothing about them: the first so many; and how many there are in all."""
        allow(who, "server.see")
        return await off_loop(self._executor, self._store.found_servers, who.tenant_id, sought, "", limit)

    async def one(self, who: Caller, name: str) -> Stands:
        """Return one server, by name or id."""
        allow(who, "server.see")
        return await off_loop(self._executor, self._one, who, name)

    async def tasks(self, who: Caller, name: str, before: int | None = None, limit: int = 50) -> builtins.list[Task]:
        """Return a server's tasks, the newest first: of those before a place in the order (seq), so many."""
        allow(who, "task.see")
        return await off_loop(self._executor, self._tasks, who, name, before, limit)

    async def checked(self, who: Caller, name: str) -> Task | None:
        """Return the last look of a server's doctor that has ended; None where nobody has looked."""
        allow(who, "task.see")
        return next(iter(await off_loop(self._executor, self._tasks, who, name, None, 1, checks=True)), None)

    def _servers(self, who: Caller, sought: Sought, after: str, limit: int) -> tuple[builtins.list[Stands], int]:
        found, total = self._store.found_servers(who.tenant_id, sought, after, limit)
        return self._standing(who, found), total

    def _one(self, who: Caller, name: str) -> Stands:
        return self._standing(who, [self._store.server(who.tenant_id, name)])[0]

    def _tasks(self, who: Caller, name: str, before: int | None, limit: int, *, checks: bool = False) -> builtins.list[Task]:
        server = self._store.server(who.tenant_id, name)
        found = self._store.tasks_of_server(who.tenant_id, server.id, before, limit, checks=checks)
        return [sight.task(who, task) for task in found]

    def _standing(self, who: Caller, servers: builtins.list[Server]) -> builtins.list[Stands]:
        ids = [each.id for each in servers]
        bound: dict[str, list[tuple[Binding, str | None]]] = {each: [] for each in ids}
        for pair in self._store.named_bindings(who.tenant_id, who.user_id, ids):
            bound[pair[0].server_id].append(pair)
        last = self._store.last_tasks(who.tenant_id, ids)

        def seen(task: Task | None) -> Task | None:
            return None if task is None else sight.task(who, task)

        nothing = (None, None)
        return [Stands(each, bound[each.id], *map(seen, last.get(each.id, nothing))) for each in servers]
