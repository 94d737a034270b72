"""What happened, to be read; the keys and checkpoints of the chain; and what is let go of it."""

import base64
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, func, select, update

from controller.errors import Conflict
from controller.model import Event, Sealed
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.chain import Reach, event_message, head
from controller.store.generations import keep_generation

_SIGNED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events; what is None is not asked about. Events of these tasks, that server, and so on: all that is said holds."""

    kinds: Collection[str] = ()
    user_id: str | None = None
    server_id: str | None = None
    keypair_id: str | None = None
    task_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None  # not including it


class Events(Base):
    """The events of all tenants, in order."""

    def events(
        self, tenant_id: str, after_id: int = 0, task_ids: Collection[str] | None = None, limit: int = 1000
    ) -> list[Event]:
        """Return what happened after an event, in order, at most limit of it; of some tasks, or all of the tenant."""
        table = tables.events
        query = select(table).where(table.c.id > after_id, table.c.tenant_id == tenant_id)
        if task_ids is not None:
            query = query.where(table.c.task_id.in_(task_ids))
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(table.c.id).limit(limit)).mappings()
            return [rows.event(row) for row in found]

    def newest_event(self) -> int:
        """Return the id of the newest event, of whatever tenant; 0 where there is none."""
        with engine.reading(self._engine) as connection:
            return connection.execute(select(func.max(tables.events.c.id))).scalar_one() or 0

    def kinds_after(self, tenant_id: str, after_id: int) -> tuple[dict[str, int], int]:
        """Return how many events of each kind a tenant has after an event, and the newest event there is, of whatever tenant."""
        table = tables.events
        query = select(table.c.kind, func.count()).where(table.c.id > after_id, table.c.tenant_id == tenant_id)
        with engine.reading(self._engine) as connection:
            newest = connection.execute(select(func.max(table.c.id))).scalar_one() or 0
            found = connection.execute(query.group_by(table.c.kind)).all()
            return {kind: number for kind, number in found}, newest  # noqa: C416  (rows are no pairs to a type checker)

    def trail(
        self, tenant_id: str, wanted: Wanted | None = None, *, after: int = 0, before: int | None = None, limit: int = 1000
    ) -> list[Event]:
        """Return wanted events with numbers after one and before another: the oldest first, or with before the newest first."""
        table = tables.events
        query = select(table).where(table.c.tenant_id == tenant_id, table.c.number > after)
        if before is not None:
            query = query.where(table.c.number < before)
        query = _asked(query, wanted or Wanted())
        query = query.order_by(table.c.number if before is None else table.c.number.desc()).limit(limit)
        with engine.reading(self._engine) as connection:
            return [rows.event(row) for row in connection.execute(query).mappings()]

    def reach(self, tenant_id: str) -> Reach:
        """Return how far the tenant's events reach, as on record."""
        with engine.reading(self._engine) as connection:
            return head(connection, tenant_id)

    def last_before(self, tenant_id: str, until: datetime) -> int:
        """Return the number of the last event before the first one that is not before this time; 0 where there is none."""
        table = tables.events
        later = select(func.min(table.c.number)).where(table.c.tenant_id == tenant_id, table.c.at >= until)
        with engine.reading(self._engine) as connection:
            first_later = connection.execute(later).scalar_one()
            return head(connection, tenant_id).number if first_later is None else first_later - 1

    def slice(self, tenant_id: str, first: int, number: int) -> Reach:
        """Return the statement that these events follow one another; unsigned where the end of the trail is not proved.

        Conflict(events_gone) where they are not all kept.
        """
        with engine.reading(self._engine) as connection:
            reached = head(connection, tenant_id)
            if not reached.first <= first <= number <= reached.number:
                raise Conflict(
                    "events_gone", f"events {first} to {number} are not all here: {reached.first} to {reached.number} are"
                )
            previous = reached.previous if first == reached.first else _digest(connection, tenant_id, first - 1)
            digest = _digest(connection, tenant_id, number)
        said = Reach(tenant_id, first, previous, number, digest, self._now())
        # What stood at a cut off end must not come to look whole in what is given out.
        doubted = reached.signature is None or self._chains.doubt(reached)
        return said if doubted else replace(said, signature=self._chains.signature(tenant_id, said.message("export")))

    def checkpoints(self, tenant_id: str) -> list[Reach]:
        """Return the tenant's checkpoints, the oldest first."""
        table = tables.event_checkpoints
        query = select(table).where(table.c.tenant_id == tenant_id).order_by(table.c.number)
        with engine.reading(self._engine) as connection:
            return [Reach(**found) for found in connection.execute(query).mappings()]

    def add_checkpoint(self, tenant_id: str) -> Reach | None:
        """Keep for good how far the tenant's events reach now; None where there is nothing, or no key to sign it."""
        with engine.writing(self._engine) as connection:
            found = head(connection, tenant_id)
            if found.number == 0 or found.signature is None or self._chains.doubt(found):
                return None
            return self._chains.keep_checkpoint(connection, found)

    def audit_key(self, tenant_id: str) -> tuple[str, Sealed] | None:
        """Return the public half (Base64) and the sealed private half of the key that signs the tenant's events."""
        table = tables.event_keys
        with engine.reading(self._engine) as connection:
            found = connection.execute(select(table).where(table.c.tenant_id == tenant_id)).mappings().first()
        return None if found is None else (found["public_key"], Sealed(found["sealed"]))

    def add_audit_key(self, tenant_id: str, public_key: str, sealed: Sealed, sign: Callable[[bytes], bytes]) -> bool:
        """Keep the key of a tenant and sign with it what has happened so far; False where there is a key already."""
        table = tables.event_keys
        with ExitStack() as afterwards, engine.writing(self._engine) as connection:
            known = select(table.c.tenant_id).where(table.c.tenant_id == tenant_id)
            if connection.execute(known).first() is not None:
                return False
            # Only now, under the write lock: nobody else's event is signed with a key that may come to nothing.
            afterwards.enter_context(self._chains.new_key(tenant_id, sign))
            connection.execute(
                table.insert().values(tenant_id=tenant_id, public_key=public_key, sealed=sealed.record, created_at=self._now())
            )
            signed = _sign_all(connection, tenant_id, sign)
            detail = {"public_key": public_key, "signed": signed}
            self._event(connection, tenant_id, "audit_key_made", detail)
            return True

    def tenants_without_audit_key(self) -> list[str]:
        """Return the tenants whose events nobody signs yet."""
        tenants, keys = tables.tenants, tables.event_keys
        query = select(tenants.c.id).where(tenants.c.id.not_in(select(keys.c.tenant_id)))
        with engine.reading(self._engine) as connection:
            return list(connection.execute(query).scalars())

    def note_refusal(self, tenant_id: str, user_id: str, detail: dict[str, Any]) -> None:
        """Record that somebody asked for what they may not do."""
        with engine.writing(self._engine) as connection:
            self._event(connection, tenant_id, "request_refused", detail, user_id=user_id)

    def note_audit_export(self, tenant_id: str, user_id: str, first: int, number: int, digest: str) -> None:
        """Record that these events were given out. Conflict(events_changed) where the last of them has another digest."""
        with engine.writing(self._engine) as connection:
            if _digest(connection, tenant_id, number) != digest:
                raise Conflict("events_changed", f"event {number} is not what was given out; run kps audit verify")
            detail = {"first": first, "number": number, "digest": digest}
            self._event(connection, tenant_id, "audit_exported", detail, user_id=user_id)

    def prune_events(self, tenant_id: str, user_id: str, number: int) -> int:
        """Delete the tenant's events up to a number; returns how many. Conflict(not_exported) unless they were given out.

        The signed head says from then on where the chain begins, and after which digest. To which generation removed
        servers had come stays known.
        """
        table = tables.events
        ours = (table.c.tenant_id == tenant_id) & (table.c.number <= number)
        with engine.writing(self._engine) as connection:
            found = head(connection, tenant_id)
            if not found.first <= number < found.number:
                return 0
            exported = _exported(connection, found)
            if exported < number:
                raise Conflict(
                    "not_exported",
                    f"events {max(found.first, exported + 1)} to {number} were never exported as a whole; kps audit export first",
                    exported=exported,
                )
            if self._chains.doubt(found):
                raise Conflict("trail_unproved", f"event {found.number} is not signed as the last one; run kps audit verify")
            digest = _digest(connection, tenant_id, number)
            self._chains.keep_checkpoint(connection, found)
            _keep_generations(connection, tenant_id, number)
            deleted = connection.execute(delete(table).where(ours)).rowcount
            older = tables.event_checkpoints.c
            connection.execute(delete(tables.event_checkpoints).where(older.tenant_id == tenant_id, older.number < number))
            self._chains.keep_head(connection, replace(found, first=number + 1, previous=digest))
            detail = {"first": found.first, "number": number, "digest": digest}
            self._event(connection, tenant_id, "audit_pruned", detail, user_id=user_id)
            return deleted


def _asked(query: Select[Any], wanted: Wanted) -> Select[Any]:
    column = tables.events.c
    if wanted.kinds:
        query = query.where(column.kind.in_(wanted.kinds))
    for name in ("user_id", "server_id", "keypair_id", "task_id"):
        value = getattr(wanted, name)
        if value is not None:
            query = query.where(column[name] == value)
    if wanted.since is not None:
        query = query.where(column.at >= wanted.since)
    if wanted.until is not None:
        query = query.where(column.at < wanted.until)
    return query


def _digest(connection: Connection, tenant_id: str, number: int) -> str:
    table = tables.events
    query = select(table.c.digest).where(table.c.tenant_id == tenant_id, table.c.number == number)
    found = connection.execute(query).scalar_one_or_none()
    if found is None:
        raise Conflict("events_gone", f"event {number} is not here; run kps audit verify")
    return str(found)


def _sign_all(connection: Connection, tenant_id: str, sign: Callable[[bytes], bytes]) -> int:
    """Sign every event that has no signature; returns how many."""
    table = tables.events
    unsigned = select(table.c.number, table.c.digest).where(table.c.tenant_id == tenant_id, table.c.signature.is_(None))
    keep = (
        update(table)
        .where(table.c.tenant_id == tenant_id, table.c.number == bindparam("at_number"))
        .values(signature=bindparam("made"))
    )
    signed, last = 0, 0
    while found := connection.execute(
        unsigned.where(table.c.number > last).order_by(table.c.number).limit(_SIGNED_AT_ONCE)
    ).all():
        made = [base64.b64encode(sign(event_message(digest))).decode("ascii") for _, digest in found]
        connection.execute(keep, [{"at_number": number, "made": each} for (number, _), each in zip(found, made, strict=True)])
        signed, last = signed + len(found), found[-1][0]
    return signed


def _exported(connection: Connection, reached: Reach) -> int:
    """Return up to which event all that is kept was given out; what was exported in pieces counts where they join."""
    table = tables.events
    query = select(table.c.detail).where(table.c.tenant_id == reached.tenant_id, table.c.kind == "audit_exported")
    ranges = sorted((detail["first"], detail["number"]) for detail in connection.execute(query).scalars())
    upto = reached.first - 1
    for first, number in ranges:
        if first <= upto + 1:
            upto = max(upto, number)
    return upto


def _keep_generations(connection: Connection, tenant_id: str, number: int) -> None:
    """Keep what add_servers needs of the events that go: the generation of servers that were removed, by address."""
    table = tables.events
    query = select(table.c.detail).where(
        table.c.tenant_id == tenant_id, table.c.kind == "server_removed", table.c.number <= number
    )
    for detail in connection.execute(query).scalars():
        if "generation" not in detail:
            continue
        keep_generation(connection, tenant_id, detail["host"], detail["port"], detail["generation"])
