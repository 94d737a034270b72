"""Tasks that any controller may begin, of all that share a database: what they need is in it, and in nobody's memory."""

from collections.abc import Collection

from sqlalchemy import select

from controller.model import Task
from controller.store import engine, rows, tables
from controller.store.rollouts import Rollouts
from controller.store.workers import Waiting, Worker, waiting, workers


class Sharing(Rollouts):
    """What a queue between controllers needs to know."""

    def for_anybody(self, task_ids: Collection[str]) -> list[Task]:
        """Return those of these tasks that any controller may begin, oldest first."""
        table = tables.tasks
        with engine.reading(self._engine) as connection:
            found = connection.execute(select(table).where(table.c.id.in_(task_ids)).order_by(table.c.seq)).mappings()
            tasks = [rows.task(each) for each in found]
            return [task for task in tasks if _handed_on(task) or self._goes_on(connection, task)]

    def waiting_ids(self) -> list[str]:
        """Return the tasks that nobody has begun, whoever may."""
        return self._ids("ready")

    def open_ids(self) -> list[str]:
        """Return the tasks that have not ended."""
        return self._ids("ready", "running")

    def taking(self) -> tuple[list[Worker], dict[str, Waiting]]:
        """Return who takes tasks, and what waits by queue (PostgreSQL)."""
        with engine.reading(self._engine) as connection:
            return workers(connection), waiting(connection)

    def _ids(self, *statuses: str) -> list[str]:
        table = tables.tasks
        with engine.reading(self._engine) as connection:
            return list(connection.execute(select(table.c.id).where(table.c.status.in_(statuses))).scalars())


def _handed_on(task: Task) -> bool:
    return task.status == "ready" and task.lease_owner is None
