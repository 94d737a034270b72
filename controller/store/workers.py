"""Who takes the tasks of a database that several controllers share, and what waits there for them. On PostgreSQL alone."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, func, select, text

from controller.model import SERVING, TAKING, URGENT_QUEUE, WAITING_QUEUE, session_name
from controller.store import tables

# PostgreSQL knows of each session when it was asked last, and whoever takes tasks asks several times a second: nothing has to be
# written for it.
_HEARD = text(
    "SELECT application_name, extract(epoch FROM clock_timestamp() - max(state_change))::float8 FROM pg_stat_activity "
    "WHERE datname = current_database() AND state_change IS NOT NULL AND starts_with(application_name, :taking) "
    "GROUP BY 1 ORDER BY 1"
)
_HAS_QUEUE = text("SELECT to_regclass('procrastinate_jobs') IS NOT NULL")
# That of the lowest number was put there first.
_WAITING = text(
    "SELECT queue_name, number, extract(epoch FROM clock_timestamp() - at)::float8 "
    "FROM (SELECT queue_name, count(*) AS number, min(id) AS oldest FROM procrastinate_jobs WHERE status = 'todo' GROUP BY 1) q "
    "LEFT JOIN procrastinate_events ON job_id = oldest AND type = 'deferred'"
)


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that takes tasks. name: HOST/PID/WORD; heard: so many seconds ago."""

    name: str
    heard: float
    tasks: int  # that it runs


@dataclass(frozen=True, slots=True)
class Waiting:
    """The jobs in a queue that nobody has taken. oldest: waits for so many seconds."""

    jobs: int = 0
    oldest: float = 0.0


def workers(connection: Connection) -> list[Worker]:
    """Return the processes that take tasks and have a session with the database."""
    task = tables.tasks
    running = select(task.c.lease_owner, func.count()).where(task.c.status == "running").group_by(task.c.lease_owner)
    tasks = {session_name(owner or ""): number for owner, number in connection.execute(running)}
    heard = connection.execute(_HEARD, {"taking": TAKING})
    return [
        Worker(name.removeprefix(TAKING).removeprefix(SERVING), max(0.0, seconds), tasks.get(name, 0)) for name, seconds in heard
    ]


def waiting(connection: Connection) -> dict[str, Waiting]:
    """Return what waits, by queue; nothing where there is no queue yet."""
    if not connection.execute(_HAS_QUEUE).scalar_one():
        return {}
    names: Mapping[str, str] = {URGENT_QUEUE: "urgent", WAITING_QUEUE: "ordinary"}
    found = {name: Waiting() for name in names.values()}
    for queue, jobs, seconds in connection.execute(_WAITING):
        if queue in names:
            found[names[queue]] = Waiting(jobs, max(0.0, seconds or 0.0))
    return found
