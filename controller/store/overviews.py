"""How a tenant's fleet stands, and where key pairs are bound: counted in the database, however large the fleet is."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, and_, case, func, or_, select

from controller.model import Binding
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.figures import AGES, OLDEST, age_word

FAILURE_DAYS = 14  # that failures are counted by, today included


@dataclass(frozen=True, slots=True)
class Aging:
    """How many bound key pairs are of an age, and on how many logins they are."""

    age: str  # of figures.AGES, or figures.OLDEST
    keypairs: int
    logins: int


@dataclass(frozen=True, slots=True)
class Failures:
    """How many tasks failed of a cause on a day, in UTC; of those that are still on record."""

    day: str  # 2026-11-01
    cause: str
    tasks: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a fleet stands at a moment. Numbers, and nobody's names."""

    at: datetime
    servers: int
    # Servers by the best of their bindings: custody (proved by a login with a private half that is kept here), proved (by a
    # login with another), accepted (asked of sshd only), and none.
    coverage: dict[str, int]
    passwords: dict[str, int]  # servers by password login
    ages: list[Aging]
    failures: list[Failures]
    tasks: dict[str, int]  # ready and running ones


class Overviews(Base):
    """Counts for the console's pages."""

    def fleet_standing(self, tenant_id: str) -> Standing:
        """Return how a tenant's fleet stands now. That costs what servers, bindings and failed tasks there are, not events."""
        now, task, server = self._now(), tables.tasks, tables.servers
        first = (now - timedelta(days=FAILURE_DAYS - 1)).replace(hour=0, minute=0, second=0, microsecond=0)
        ours = task.c.tenant_id == tenant_id
        with engine.reading(self._engine) as connection:
            passwords = dict.fromkeys(("on", "off", "unknown"), 0)
            by_password = select(server.c.password_login, func.count()).where(server.c.tenant_id == tenant_id)
            for word, count in connection.execute(by_password.group_by(server.c.password_login)):
                passwords[word] = count
            servers = sum(passwords.values())
            tasks = {
                status: connection.execute(select(func.count()).where(task.c.status == status, ours)).scalar_one()
                for status in ("ready", "running")
            }
            day = func.date(task.c.finished_at)
            failed = select(day, task.c.cause, func.count()).where(task.c.status == "failed", ours, task.c.finished_at >= first)
            return Standing(
                at=now,
                servers=servers,
                coverage=_coverage(connection, tenant_id, servers),
                passwords=passwords,
                ages=_ages(connection, tenant_id, now),
                failures=[
                    Failures(str(when), cause or "unexpected", count)
                    for when, cause, count in connection.execute(failed.group_by(day, task.c.cause))
                ],
                tasks=tasks,
            )

    def bound_counts(self, keypair_ids: Collection[str]) -> dict[str, int]:
        """Return on how many logins each of these key pairs is bound; one that is bound nowhere is not in it."""
        table = tables.bindings
        query = select(table.c.keypair_id, func.count()).where(table.c.keypair_id.in_(keypair_ids)).group_by(table.c.keypair_id)
        with engine.reading(self._engine) as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def bound_places(self, keypair_id: str, after: tuple[str, str], limit: int) -> list[tuple[str, Binding]]:
        """Return where a key pair is bound, each with its server's name, by that and login: those after one, so many."""
        table, server = tables.bindings, tables.servers
        later = or_(server.c.name > after[0], and_(server.c.name == after[0], table.c.login > after[1]))
        query = select(table, server.c.name).join(server).where(table.c.keypair_id == keypair_id, later)
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(server.c.name, table.c.login).limit(limit)).mappings()
            return [(row["name"], rows.binding(row)) for row in found]

    def sealed_counts(self, tenant_id: str) -> dict[str, int]:
        """Return how many private halves are sealed under each master key of a tenant."""
        table = tables.keypairs
        query = select(table.c.master_key_id, func.count()).where(table.c.tenant_id == tenant_id, table.c.managed)
        with engine.reading(self._engine) as connection:
            return {row[0]: row[1] for row in connection.execute(query.group_by(table.c.master_key_id))}

    def names_of(self, tenant_id: str, ids: Collection[str]) -> dict[str, str]:
        """Return what these users and servers of a tenant are called, by their ids; who is gone is not in it."""
        found = {}
        with engine.reading(self._engine) as connection:
            for table in (tables.users, tables.servers):
                query = select(table.c.id, table.c.name).where(table.c.id.in_(ids), table.c.tenant_id == tenant_id)
                found.update({row[0]: row[1] for row in connection.execute(query)})
        return found


def _coverage(connection: Connection, tenant_id: str, servers: int) -> dict[str, int]:
    binding, keypair, server = tables.bindings, tables.keypairs, tables.servers
    proved = binding.c.proof == "logged_in"
    rank = func.max(case((and_(proved, keypair.c.managed), 3), (proved, 2), else_=1)).label("rank")
    best = (
        select(rank)
        .select_from(binding.join(server).join(keypair))
        .where(server.c.tenant_id == tenant_id)
        .group_by(binding.c.server_id)
        .subquery()
    )
    counted = {row[0]: row[1] for row in connection.execute(select(best.c.rank, func.count()).group_by(best.c.rank))}
    found = {word: counted.get(number, 0) for word, number in (("custody", 3), ("proved", 2), ("accepted", 1))}
    return found | {"none": servers - sum(found.values())}


def _ages(connection: Connection, tenant_id: str, now: datetime) -> list[Aging]:
    keypair = tables.keypairs
    bound = select(tables.bindings.c.keypair_id, func.count().label("logins")).group_by(tables.bindings.c.keypair_id).subquery()
    word = age_word(now).label("age")
    query = select(word, func.count(), func.sum(bound.c.logins)).select_from(
        bound.join(keypair, keypair.c.id == bound.c.keypair_id)
    )
    found = {row[0]: row[1:] for row in connection.execute(query.where(keypair.c.tenant_id == tenant_id).group_by("age"))}
    return [Aging(each, *map(int, found.get(each, (0, 0)))) for each in (*AGES, OLDEST)]
