"""What opens servers, sealed in the rows of what it was given for, and erased at the end of that."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, select

from controller.model import Sealed, SealedCredential, Task
from controller.store import engine, tables
from controller.store.base import Base
from controller.store.prepared import Prepared
from controller.store.queries import one

MOST_AT_ONCE = 500  # of the variables of one statement
_ERASE: Prepared[None] = Prepared(
    delete(tables.credentials).where(
        tables.credentials.c.owner_id == bindparam("owner"), tables.credentials.c.server_id == bindparam("server")
    )
)


class Credentials(Base):
    """Credentials of tasks and rollouts, none of them open.

    SQLite overwrites what is deleted (secure_delete); what the write-ahead log still holds of it goes with checkpoint().
    """

    # Whether the log may hold what was erased; also what a process before this one erased.
    _in_the_log = True

    def credential(self, task: Task) -> SealedCredential | None:
        """Return what is kept for a task, expired or not."""
        table = tables.credentials
        with engine.reading(self._engine) as connection:
            found = one(connection, table, *of_task(task))
        return None if found is None else SealedCredential(**{**found, "sealed": Sealed(found["sealed"])})

    def note_credential(self, task: Task) -> None:
        """Record that what is kept for a task is opened for it."""
        with engine.writing(self._engine) as connection:
            detail = {"of": "task" if task.rollout_id is None else "rollout"}
            self._event(connection, task.tenant_id, "credential_opened", detail, task_id=task.id, server_id=task.server_id)

    def drop_credentials(self) -> int:
        """Erase what has expired, and take what was erased out of the write-ahead log too; returns how many had expired."""
        table, at = tables.credentials, self._now()
        with engine.reading(self._engine) as connection:
            due = one(connection, table, table.c.expires_at <= at) is not None
        dropped = 0
        if due:
            with engine.writing(self._engine) as connection:
                dropped = self._erase(connection, table.c.expires_at <= at)
        if self._in_the_log:
            self._in_the_log = not self.checkpoint()
        return dropped

    # -- steps inside a transaction

    def _keep_credentials(self, connection: Connection, kept: Sequence[SealedCredential]) -> None:
        """Keep credentials, each in the place of what was kept there before."""
        table = tables.credentials
        for start in range(0, len(kept), MOST_AT_ONCE):
            some = kept[start : start + MOST_AT_ONCE]
            for owner_id in {each.owner_id for each in some}:
                of = [each.server_id for each in some if each.owner_id == owner_id]
                self._erase(connection, table.c.owner_id == owner_id, table.c.server_id.in_(of))
            connection.execute(table.insert(), [_row(each) for each in some])

    def _erase(self, connection: Connection, *which: ColumnElement[bool]) -> int:
        gone = connection.execute(delete(tables.credentials).where(*which)).rowcount
        self._in_the_log = self._in_the_log or gone > 0
        return gone

    def _erase_of(self, connection: Connection, task: Task) -> None:
        gone = _ERASE.run(connection, owner=task.rollout_id or task.id, server=task.server_id)
        self._in_the_log = self._in_the_log or gone > 0

    def _is_kept(self, connection: Connection, task: Task) -> bool:
        query = select(tables.credentials.c.server_id).where(*of_task(task), tables.credentials.c.expires_at > self._now())
        return connection.execute(query).first() is not None


def of_task(task: Task) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the conditions for what is kept for a task: by itself, or as one of its rollout."""
    table = tables.credentials
    return table.c.owner_id == (task.rollout_id or task.id), table.c.server_id == task.server_id


def _row(kept: SealedCredential) -> dict[str, Any]:
    return {
        "owner_id": kept.owner_id,
        "server_id": kept.server_id,
        "tenant_id": kept.tenant_id,
        "sealed": kept.sealed.record,
        "expires_at": kept.expires_at,
    }
