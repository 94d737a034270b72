"""Tasks that failed and that nobody has tried again: counted by cause, and looked for; and other things that pages list."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Text, case, cast, exists, func, select

from controller.model import Event, PasswordLogin, Rollout, Server, Task
from controller.store import engine, rows, tables
from controller.store.rollouts import Rollouts

UNNAMED = "unexpected"  # what a failed task without a cause is counted as
_TASK = tables.tasks
_AGAIN = _TASK.alias("again")


@dataclass(frozen=True, slots=True)
class Which:
    """Which failed tasks are meant: those to which all that is given here applies."""

    ids: tuple[str, ...] = ()
    cause: str | None = None
    rollout_id: str | None = None
    label: tuple[str, str] | None = None  # of the server, as it is now
    server: str = ""  # a part of its name
    since: datetime | None = None  # that it ended, not before
    ended_by: datetime | None = None  # that it ended, not after
    until: int | None = None  # its place in the order (seq), not after


@dataclass(frozen=True, slots=True)
class Failing:
    """How many tasks stand failed by one cause. unclear: of which nobody knows how they left their server, or only in part."""

    cause: str
    tasks: int
    unclear: int
    last: datetime | None
    newest: int  # the highest place of one in the order (seq)


class Failures(Rollouts):
    """What failed and stands so."""

    def failing(self, tenant_id: str, which: Which) -> list[Failing]:
        """Return how many tasks stand failed by each cause; those first of which something is unclear, then by their number."""
        unclear = func.sum(case((_TASK.c.server_state.in_(("unknown", "partial")), 1), else_=0))
        columns = (_TASK.c.cause, func.count(), unclear, func.max(_TASK.c.finished_at), func.max(_TASK.c.seq))
        query = select(*columns).where(*_stand(tenant_id, which)).group_by(_TASK.c.cause)
        with engine.reading(self._engine) as connection:
            found = [Failing(cause or UNNAMED, *others) for cause, *others in connection.execute(query)]
        return sorted(found, key=lambda each: (not each.unclear, -each.tasks, each.cause))

    def failures(self, tenant_id: str, which: Which, before: int | None = None, limit: int | None = None) -> list[Task]:
        """Return tasks that stand failed, the newest first: of those before this place in the order (seq), so many."""
        # By a sum: by the number itself the database would go through all tasks in their order, where few have failed.
        places = select(_TASK.c.seq).where(*_stand(tenant_id, which)).order_by((_TASK.c.seq + 0).desc()).limit(limit)
        if before is not None:
            places = places.where(_TASK.c.seq < before)
        query = select(_TASK).where(_TASK.c.seq.in_(places)).order_by(_TASK.c.seq.desc())
        with engine.reading(self._engine) as connection:
            return [rows.task(found) for found in connection.execute(query).mappings()]

    def failure_ids(self, tenant_id: str, which: Which) -> list[str]:
        """Return the ids of all of these that stand failed, the oldest first."""
        query = select(_TASK.c.id).where(*_stand(tenant_id, which)).order_by(_TASK.c.seq + 0)
        with engine.reading(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def retries(self, tenant_id: str, limit: int) -> list[Task]:
        """Return the last tasks that are retries, the newest first."""
        query = select(_TASK).where(_TASK.c.tenant_id == tenant_id, _TASK.c.retry_of.is_not(None))
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(_TASK.c.seq.desc()).limit(limit)).mappings()
            return [rows.task(each) for each in found]

    def retried_as(self, tenant_id: str, task_id: str) -> str | None:
        """Return the id of the task that is the retry of this one."""
        query = select(_TASK.c.id).where(_TASK.c.tenant_id == tenant_id, _TASK.c.retry_of == task_id)
        with engine.reading(self._engine) as connection:
            return connection.execute(query).scalar_one_or_none()

    def rollouts_before(self, tenant_id: str, before: Rollout | None, limit: int) -> list[Rollout]:
        """Return rollouts of a tenant, the newest first: of those asked for before this one, so many."""
        table = tables.rollouts
        query = select(table).where(table.c.tenant_id == tenant_id)
        if before is not None:
            same = (table.c.created_at == before.created_at) & (table.c.id < before.id)
            query = query.where((table.c.created_at < before.created_at) | same)
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)).mappings()
            return [rows.rollout(each) for each in found]

    def rollout_ended_since(self, rollout_id: str, since: datetime) -> int:
        """Return how many tasks of a rollout have ended since then."""
        ended = _TASK.c.finished_at >= since
        query = select(func.count()).select_from(_TASK).where(_TASK.c.rollout_id == rollout_id, ended)
        with engine.reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def labels(self, tenant_id: str) -> list[tuple[dict[str, str], int]]:
        """Return which labels a tenant's servers have together, and how many have just these."""
        table = tables.servers
        spelt = cast(table.c.labels, Text)  # JSON itself has no equals in PostgreSQL
        query = select(spelt, func.count()).where(table.c.tenant_id == tenant_id).group_by(spelt)
        with engine.reading(self._engine) as connection:
            return [(json.loads(labels), count) for labels, count in connection.execute(query)]

    def servers_taking(
        self, tenant_id: str, password_login: PasswordLogin, after: str = "", limit: int | None = None
    ) -> tuple[list[Server], int]:
        """Return a tenant's servers on which password login is so, as last seen, by name after one; and how many in all."""
        table = tables.servers
        where = (table.c.tenant_id == tenant_id, table.c.password_login == password_login)
        query = select(table).where(*where, table.c.name > after).order_by(table.c.name).limit(limit)
        with engine.reading(self._engine) as connection:
            total = connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
            return [rows.server(found) for found in connection.execute(query).mappings()], total

    def last_noted(self, server_id: str, password_login: PasswordLogin, looked: int = 200) -> Event | None:
        """Return the event since which password login is known to be so on a server without a break; None: not among its last."""
        table = tables.events
        query = select(table).where(
            table.c.tenant_id == select(tables.servers.c.tenant_id).where(tables.servers.c.id == server_id).scalar_subquery(),
            table.c.server_id == server_id,
            table.c.kind.concat("") == "server_noted",
        )
        first: Event | None = None
        with engine.reading(self._engine) as connection:
            for found in connection.execute(query.order_by(table.c.number.desc()).limit(looked)).mappings():
                seen = found["detail"].get("password_login")
                if seen is not None and seen != password_login:
                    break
                first = rows.event(found) if seen is not None else first
        return first


def _stand(tenant_id: str, which: Which) -> Sequence[ColumnElement[bool]]:
    """Return the conditions that a task has failed, that nobody has retried it, and that it is one of those meant."""
    where: list[ColumnElement[bool]] = [
        _TASK.c.tenant_id == tenant_id,
        _TASK.c.status == "failed",
        ~exists().where(_AGAIN.c.retry_of == _TASK.c.id),
    ]
    if which.ids:
        where.append(_TASK.c.id.in_(which.ids))
    if which.cause is not None:
        named = _TASK.c.cause == which.cause
        where.append(named | _TASK.c.cause.is_(None) if which.cause == UNNAMED else named)
    if which.rollout_id is not None:
        where.append(_TASK.c.rollout_id == which.rollout_id)
    if which.server:
        where.append(_TASK.c.server_name.icontains(which.server, autoescape=True))
    if which.label is not None:
        name, value = which.label
        of = tables.servers
        labelled = select(of.c.id).where(of.c.tenant_id == tenant_id, of.c.labels[name].as_string() == value)
        where.append(_TASK.c.server_id.in_(labelled))
    if which.since is not None:
        where.append(_TASK.c.finished_at >= which.since)
    if which.ended_by is not None:
        where.append(_TASK.c.finished_at <= which.ended_by)
    if which.until is not None:
        where.append(_TASK.c.seq + 0 <= which.until)  # by a sum, as above
    return where
