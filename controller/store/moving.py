"""A store moved as it is from a home's own file into a database of PostgreSQL: every row, compared afterwards."""

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import JSON, Column, Connection, Engine, Table, Text, cast, func, inspect, literal, select, text
from sqlalchemy.exc import DataError

from controller import kps_audit_verify as verifier
from controller.errors import Conflict, Damaged, Invalid
from controller.store import engine, postgresql, schema, tables
from controller.store.chain import Spelt, spelt

ROWS_AT_ONCE = 1000

Told = Callable[[str, int], None]  # of which table, and how many rows of it


class Moved(NamedTuple):
    """What a table held, there as here: so many rows, and the SHA-256 over all of them in order."""

    table: str
    rows: int
    digest: str


def move(source: Engine, target: Engine, told: Told = lambda table, rows: None) -> list[Moved]:
    """Copy all that a store holds into an empty database, in one transaction: all of it is there afterwards, or nothing.

    The source is only read. Where the target holds just what the source does, it was moved before, and that is all.
    Conflict(target_not_empty); Damaged(moved_wrong) where what is there then is not what is here; Invalid(text_not_movable).
    """
    with engine.writing(source) as here, engine.writing(target) as there:
        postgresql.usable(there)  # else the controller would refuse it afterwards
        there.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        before = inspect(there).get_table_names()
        if not before:
            schema.upgrade(there)
            for table in tables.metadata.sorted_tables:
                _copy(here, there, table, told)
            _count_on(here, there)
        elif schema.version(there) != tables.VERSION:
            raise _not_empty(target)
        moved = []
        for table in tables.metadata.sorted_tables:
            ours, theirs = _content(here, table), _content(there, table)
            if ours != theirs and before:
                raise _not_empty(target)
            if ours != theirs:
                raise Damaged(
                    "moved_wrong", f"{table.name}: {theirs.rows} rows of {ours.rows} came over as they were; nothing was kept"
                )
            moved.append(ours)
        for tenant_id in here.execute(select(tables.tenants.c.id)).scalars().all():
            if _verified(here, tenant_id) != _verified(there, tenant_id):
                raise Damaged("moved_wrong", f"the events of tenant {tenant_id} do not verify there as here; nothing was kept")
        return moved


def _not_empty(target: Engine) -> Conflict:
    where = target.url.render_as_string(hide_password=True)
    return Conflict("target_not_empty", f"{where}: it holds something already; give an empty database (createdb)")


def _copy(here: Connection, there: Connection, table: Table, told: Told) -> None:
    # JSON goes as the text that it is kept as: what was signed is spelt as it was.
    insert = table.insert().values({each: literal(None, Spelt()) for each in table.c if isinstance(each.type, JSON)})
    done = 0
    try:
        for rows in _rows(here, table).partitions(ROWS_AT_ONCE):
            there.execute(insert, [_named(table, row) for row in rows])
            done += len(rows)
            told(table.name, done)
    except DataError as error:
        message = (
            f"{table.name}: a row from {done + 1} on holds text that PostgreSQL cannot keep ({error.orig}); nothing was moved"
        )
        raise Invalid("text_not_movable", message) from error


def _rows(connection: Connection, table: Table) -> Any:
    query = select(*(_plain(each) for each in table.c)).order_by(*table.primary_key.columns)
    return connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE})


def _plain(column: Column[Any]) -> Any:
    return cast(column, Text).label(column.name) if isinstance(column.type, JSON) else column


def _named(table: Table, row: Sequence[Any]) -> dict[str, Any]:
    return {column.name: value for column, value in zip(table.c, row, strict=True)}


def _content(connection: Connection, table: Table) -> Moved:
    digest, rows = hashlib.sha256(), 0
    for row in _rows(connection, table):
        rows += 1
        for value in row:
            spelling = _spelling(value)
            digest.update(len(spelling).to_bytes(8, "big") + spelling)
    return Moved(table.name, rows, digest.hexdigest())


def _spelling(value: Any) -> bytes:
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, datetime):
        return b"t" + spelt(value).encode()
    return type(value).__name__.encode() + b" " + str(value).encode("utf-8", "surrogatepass")


def _count_on(here: Connection, there: Connection) -> None:
    """Have numbers that are given out once go on where they were, also those that no row has any more."""
    last: dict[str, int] = {row[0]: row[1] for row in here.execute(text("SELECT name, seq FROM sqlite_sequence"))}
    for table in tables.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None:
            continue
        sequence = there.execute(select(func.pg_get_serial_sequence(table.name, column.name))).scalar_one()
        highest = max(last.get(table.name, 0), here.execute(select(func.max(column))).scalar_one() or 0)
        if sequence is not None and highest:
            there.execute(select(func.setval(sequence, highest)))


def _verified(connection: Connection, tenant_id: str) -> tuple[str, Any]:
    """Return what verifying a tenant's events comes to; the same, well or not, wherever the same is kept."""
    trail = _trail(connection, tenant_id)
    try:
        with closing(trail.events):  # type: ignore[type-var]
            return "well", verifier.check(trail)
    except verifier.Wrong as wrong:
        return "wrong", (wrong.number, str(wrong))


def _trail(connection: Connection, tenant_id: str) -> verifier.Trail:
    def rows(table: Table, *columns: Any) -> Generator[dict[str, Any]]:
        found = select(*(columns or table.c)).where(table.c.tenant_id == tenant_id)
        if "number" in table.c:
            found = found.order_by(table.c.number)
        with connection.execute(found, execution_options={"yield_per": ROWS_AT_ONCE}) as result:
            for row in result.mappings():
                yield dict(row, at=spelt(row["at"]))

    def events() -> Generator[dict[str, Any]]:
        with closing(rows(tables.events, *(_plain(each) for each in tables.events.c))) as found:
            for row in found:
                detail = json.loads(row["detail"])
                fault = None if json.dumps(detail, sort_keys=True) == row["detail"] else "its detail is spelt otherwise"
                yield dict(row, detail=detail, fault=fault)

    keys = tables.event_keys
    key = connection.execute(select(keys.c.public_key).where(keys.c.tenant_id == tenant_id)).scalar_one_or_none()
    head = [*rows(tables.event_heads), None][0]
    return verifier.Trail(tenant_id, "head", head, key, list(rows(tables.event_checkpoints)), events())
