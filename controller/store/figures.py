"""Figures over all tenants, for who runs the controller: counted in the database, and naming nobody."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, exists, func, literal, select

from controller.model import FINAL
from controller.store import engine, tables
from controller.store.base import Base
from controller.store.doubt import in_doubt
from controller.store.queries import DOOR_MAY_BE_OPEN
from controller.store.workers import Waiting, Worker, waiting, workers

# A server in one of these can have its undo pending.
UNDO_PHASES = ("widen", "prove", "narrow", "commit", "undo")
AGES = {"under_30d": 30, "30d_to_90d": 90, "90d_to_180d": 180, "180d_to_365d": 365}  # days, exclusive; what is older: OLDEST
OLDEST = "over_365d"
SOON_DAYS = 30


@dataclass(frozen=True, slots=True)
class Figures:
    """What is in the store at a moment. Numbers, by words of closed lists."""

    at: datetime
    tasks: Mapping[str, int]  # by status
    failed: Mapping[str, int]  # by cause
    oldest_waiting: datetime | None
    undo_open: int  # tasks that run and have begun to write
    in_doubt: int  # tasks that ended, and nobody knows what opens their login since (store.doubt)
    rollouts: Mapping[str, int]  # by state
    held: int  # servers of rollouts that are not over
    servers: int
    bindings: Mapping[str, int]  # by proof
    keypairs: Mapping[bool, int]  # by whether the private half is in custody
    bound_ages: Mapping[str, int]  # bound key pairs, by age
    oldest_bound: datetime | None
    access_keys_soon: int  # enabled ones that end within SOON_DAYS
    access_keys_over: int  # enabled ones that have ended
    doors: int  # that are or may be open; one whose password is being set is not
    doors_in_doubt: int  # of these: nobody could ask whether they are closed
    events: int  # ever written
    workers: Sequence[Worker]  # of controllers that share a database; else none
    waiting: Mapping[str, Waiting]  # by queue


class Counted(Base):
    """Counts what is there."""

    def figures(self) -> Figures:
        """Return the figures of this moment. What that costs grows with the failed tasks and the bindings, not with all tasks."""
        task, member, rollout = tables.tasks, tables.rollout_servers, tables.rollouts
        key, now = tables.access_keys, self._now()
        running = task.c.status == "running"
        not_over = select(rollout.c.id).where(rollout.c.state.in_(("running", "paused", "stopped")))
        soon = now + timedelta(days=SOON_DAYS)
        with engine.reading(self._engine) as connection:
            ages = dict.fromkeys((*AGES, OLDEST), 0)
            age = age_word(now).label("age")
            for name, count in connection.execute(_bound(age, func.count()).group_by("age")):
                ages[name] = count
            return Figures(
                at=now,
                tasks=_by(connection, task.c.status),
                failed=_by(connection, task.c.cause, task.c.status == "failed"),
                oldest_waiting=connection.execute(
                    select(func.min(task.c.created_at)).where(task.c.status == "ready")
                ).scalar_one(),
                undo_open=_count(connection, running, task.c.phase.in_(UNDO_PHASES)),
                in_doubt=len(in_doubt(connection, task.c.status.in_(FINAL))),
                rollouts=_by(connection, rollout.c.state),
                held=_count(connection, member.c.rollout_id.in_(not_over), member.c.held.is_not(None)),
                servers=connection.execute(select(func.count()).select_from(tables.servers)).scalar_one(),
                bindings=_by(connection, tables.bindings.c.proof),
                keypairs=_by(connection, tables.keypairs.c.managed),
                bound_ages=ages,
                oldest_bound=connection.execute(_bound(func.min(tables.keypairs.c.created_at))).scalar_one(),
                access_keys_soon=_count(connection, key.c.enabled, key.c.expires_at > now, key.c.expires_at <= soon),
                access_keys_over=_count(connection, key.c.enabled, key.c.expires_at <= now),
                doors=_count(connection, DOOR_MAY_BE_OPEN),
                doors_in_doubt=_count(connection, tables.doors.c.state == "closing", tables.doors.c.asks > 0),
                events=connection.execute(select(func.max(tables.events.c.id))).scalar_one() or 0,
                workers=workers(connection) if self.shared else (),
                waiting=waiting(connection) if self.shared else {},
            )


def _by(connection: Connection, column: ColumnElement[Any], *where: ColumnElement[bool]) -> dict[Any, int]:
    found = connection.execute(select(column, func.count()).where(*where).group_by(column))
    return {row[0]: row[1] for row in found}


def _count(connection: Connection, *where: ColumnElement[bool]) -> int:
    return connection.execute(select(func.count()).where(*where)).scalar_one()


def age_word(now: datetime) -> ColumnElement[str]:
    """The word for the age of a key pair."""
    made = tables.keypairs.c.created_at
    return case(*((made > now - timedelta(days=days), literal(name)) for name, days in AGES.items()), else_=literal(OLDEST))


def _bound(what: ColumnElement[Any], *grouped: ColumnElement[Any]) -> Select[Any]:
    """What is asked of the key pairs that are bound anywhere, each counted once."""
    keypairs = tables.keypairs
    bound = exists().where(tables.bindings.c.keypair_id == keypairs.c.id)
    return select(what, *grouped).where(bound)
