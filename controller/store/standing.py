"""How servers stand: found by what somebody types, each with the last tasks that say something about it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import ColumnElement, Text, case, cast, exists, func, or_, select

from controller.model import DOOR_OPERATIONS, PasswordLogin, Server, Task
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.queries import LABEL


@dataclass(frozen=True, slots=True)
class Sought:
    """Which servers. words: each is part of a name, an address, a login or a label, or is label=value; all of them hold."""

    words: Sequence[str] = ()
    password_login: PasswordLogin | None = None
    bound: bool | None = None  # whether a key pair is bound there
    failed: bool = False  # a task there has failed, and nobody has retried it


class LastTasks(NamedTuple):
    """The last task of a server that failed and was not retried, and the last one that proved a way in which stays."""

    failed: Task | None
    proved: Task | None


class Standing(Base):
    """Servers by how they stand."""

    def found_servers(
        self, tenant_id: str, sought: Sought, after: str = "", limit: int | None = None
    ) -> tuple[list[Server], int]:
        """Return the servers that are sought, by name, so many after a name; and how many there are in all."""
        table = tables.servers
        which = [table.c.tenant_id == tenant_id, *_conditions(tenant_id, sought)]
        page = select(table).where(*which, table.c.name > after).order_by(table.c.name).limit(limit)
        with engine.reading(self._engine) as connection:
            total = connection.execute(select(func.count()).select_from(table).where(*which)).scalar_one()
            return [rows.server(found) for found in connection.execute(page).mappings()], total

    def last_tasks(self, tenant_id: str, server_ids: Collection[str]) -> dict[str, LastTasks]:
        """Return the last tasks of servers, by their ids; of a server without tasks, none."""
        table = tables.tasks
        # What lets in through a door, or did, says nothing of the way in that stays.
        proves = (
            table.c.status.in_(("succeeded", "unchanged"))
            & (cast(table.c.proofs, Text) != "[]")
            & table.c.operation.not_in(DOOR_OPERATIONS)
        )
        places = select(table.c.server_id, func.max(case((_failed(), table.c.seq))), func.max(case((proves, table.c.seq)))).where(
            table.c.server_id.in_(server_ids), table.c.tenant_id.concat("") == tenant_id
        )
        with engine.reading(self._engine) as connection:
            last = connection.execute(places.group_by(table.c.server_id)).all()
            wanted = [place for _, failed, proved in last for place in (failed, proved) if place is not None]
            found = connection.execute(select(table).where(table.c.seq.in_(wanted))).mappings()
            by_place = {row["seq"]: rows.task(row) for row in found}
        return {of: LastTasks(by_place.get(failed), by_place.get(proved)) for of, failed, proved in last}

    def tasks_of_server(
        self, tenant_id: str, server_id: str, before: int | None, limit: int, *, checks: bool = False
    ) -> list[Task]:
        """Return a server's tasks, the newest first: of those before a place in the order, so many.

        checks: only those by which the doctor has looked.
        """
        table = tables.tasks
        query = select(table).where(table.c.server_id == server_id, table.c.tenant_id.concat("") == tenant_id)
        if before is not None:
            query = query.where(table.c.seq < before)
        if checks:
            looked = table.c.finished_at.is_not(None) & (table.c.status != "cancelled")
            query = query.where(table.c.operation == "check", looked)
        with engine.reading(self._engine) as connection:
            return [rows.task(row) for row in connection.execute(query.order_by(table.c.seq.desc()).limit(limit)).mappings()]


def _failed() -> ColumnElement[bool]:
    """Return the condition that a task has failed, and nobody has retried it."""
    table, again = tables.tasks, tables.tasks.alias("again")
    return (table.c.status == "failed") & ~exists().where(again.c.retry_of == table.c.id)


def _conditions(tenant_id: str, sought: Sought) -> list[ColumnElement[bool]]:
    table = tables.servers
    found = [_word(word) for word in sought.words]
    if sought.password_login is not None:
        found.append(table.c.password_login == sought.password_login)
    if sought.bound is not None:
        bound = exists().where(tables.bindings.c.server_id == table.c.id)
        found.append(bound if sought.bound else ~bound)
    if sought.failed:
        # From the few that failed, by their own index, and not from each server's tasks.
        failed = select(tables.tasks.c.server_id).where(tables.tasks.c.tenant_id == tenant_id, _failed())
        found.append(table.c.id.in_(failed))
    return found


def _word(word: str) -> ColumnElement[bool]:
    table = tables.servers
    label, equals, value = word.partition("=")
    if equals and LABEL.fullmatch(label):
        is_so: ColumnElement[bool] = table.c.labels[label].as_string() == value
        return is_so
    in_text = (table.c.name, table.c.host, table.c.login, cast(table.c.labels, Text))
    return or_(*(each.icontains(word, autoescape=True) for each in in_text))
