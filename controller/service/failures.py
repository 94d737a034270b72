"""What failed and stands so: by cause, looked for, tried again and taken off the list, one or many at a time."""

import builtins
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from controller.errors import Conflict, NotFound, Problem
from controller.model import Caller, Credential, Task
from controller.service import sight
from controller.service.roles import allow
from controller.service.tasks import Tasks
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.failures import Failing, Which

_AT_ONCE = 500  # tasks of one commit: nobody waits for thousands


@dataclass
class Done:
    """What came of many tasks. refused: how often each code refused one, with what it said of the first."""

    tasks: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)

    def turned_down(self, problems: Sequence[Problem]) -> None:
        """Count what refused some."""
        for each in problems:
            self.refused[each.code] += 1
            self.messages.setdefault(each.code, each.message)


class Failures:
    """The failed tasks of the caller's tenant that nobody has tried again."""

    def __init__(self, store: Store, tasks: Tasks, executor: Executor | None = None) -> None:
        self._store = store
        self._tasks = tasks
        self._executor = executor

    async def causes(self, who: Caller, which: Which) -> builtins.list[Failing]:
        """Return how many there are by each cause: first those that left a server nobody knows how, then by their number."""
        allow(who, "task.see")
        return await off_loop(self._executor, self._store.failing, who.tenant_id, which)

    async def list(self, who: Caller, which: Which, before: int | None = None, limit: int | None = None) -> builtins.list[Task]:
        """Return them, the newest first: of those before this place in the order (seq), so many."""
        allow(who, "task.see")
        found = await off_loop(self._executor, self._store.failures, who.tenant_id, which, before, limit)
        return [sight.task(who, each) for each in found]

    async def retries(self, who: Caller, limit: int) -> builtins.list[Task]:
        """Return the last tasks that are retries, the newest first."""
        allow(who, "task.see")
        found = await off_loop(self._executor, self._store.retries, who.tenant_id, limit)
        return [sight.task(who, each) for each in found]

    async def retried_as(self, who: Caller, id: str) -> str | None:
        """Return the id of the task that is the retry of this one."""
        allow(who, "task.see")
        return await off_loop(self._executor, self._store.retried_as, who.tenant_id, id)

    async def retry(self, who: Caller, which: Which, credential: Credential | None = None) -> Done:
        """Ask once more for all of these that stand failed now, with what opens their servers, the same for each."""
        allow(who, "task.change")
        done = Done()
        for ids in await self._in_parts(who, which):
            tasks, refused = await self._tasks.retry_all(who, ids, credential)
            done.tasks += len(tasks)
            done.turned_down(refused)
        return done

    async def delete(self, who: Caller, which: Which) -> Done:
        """Take all of these that stand failed now off the list; one that may have left its key as the only one stays."""
        allow(who, "task.change")
        done = Done()
        for ids in await self._in_parts(who, which):
            try:
                await off_loop(self._executor, self._store.delete_failed, who.tenant_id, ids)
                done.tasks += len(ids)
            except (Conflict, NotFound):
                await self._delete_each(who, ids, done)
        return done

    async def _delete_each(self, who: Caller, ids: Sequence[str], done: Done) -> None:
        for id in ids:
            try:
                await off_loop(self._executor, self._store.delete_failed, who.tenant_id, [id])
                done.tasks += 1
            except (Conflict, NotFound) as problem:
                done.turned_down([problem])

    async def _in_parts(self, who: Caller, which: Which) -> builtins.list[builtins.list[str]]:
        """Return the ids of those that are meant, the oldest first, so many at a time."""
        found = await off_loop(self._executor, self._store.failure_ids, who.tenant_id, which)
        return [found[start : start + _AT_ONCE] for start in range(0, len(found), _AT_ONCE)]
