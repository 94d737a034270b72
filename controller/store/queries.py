"""Queries that several nouns share; each a step inside somebody's transaction."""

import re
from collections.abc import Collection, Iterator
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, RowMapping, Table, Update, and_, bindparam, not_, select, update

from controller.doors import MAY_BE_OPEN, Door, in_use
from controller.errors import NotFound
from controller.model import KeyPair, Server, Task
from controller.store import rows, tables
from controller.store.prepared import Prepared, columns

_AT_ONCE = 500
LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,62}")  # as a server's labels are called
_SERVER = Prepared(select(*columns(tables.servers, Server)).where(tables.servers.c.id == bindparam("of")), Server)
_NAME: Prepared[tuple[str, str]] = Prepared(
    select(tables.servers.c.tenant_id, tables.servers.c.name).where(tables.servers.c.id == bindparam("of")), lambda *row: row
)
# One whose password is being set is not open yet (Door.unbegun).
DOOR_MAY_BE_OPEN = and_(
    tables.doors.c.state.in_(MAY_BE_OPEN), not_(and_(tables.doors.c.state == "opening", tables.doors.c.ask_at.is_not(None)))
)
_KEYPAIR = Prepared(select(*columns(tables.keypairs, KeyPair)).where(tables.keypairs.c.id == bindparam("of")), KeyPair)


def some(ids: Collection[str]) -> Iterator[list[str]]:
    """Give ids in lots: PostgreSQL takes 65,535 in one statement, SQLite half as many."""
    ordered = sorted(ids)
    for start in range(0, len(ordered), _AT_ONCE):
        yield ordered[start : start + _AT_ONCE]


def one(connection: Connection, table: Table, *where: ColumnElement[bool]) -> RowMapping | None:
    return connection.execute(select(table).where(*where)).mappings().first()


def server_name(connection: Connection, server_id: str) -> tuple[str, str]:
    """Return the tenant of a server, and what it is called."""
    found = _NAME.first(connection, of=server_id)
    if found is None:
        raise no_server(server_id)
    return found


def server_where(connection: Connection, tenant_id: str, which: ColumnElement[bool]) -> Server | None:
    found = one(connection, tables.servers, tables.servers.c.tenant_id == tenant_id, which)
    return None if found is None else rows.server(found)


def server_row(connection: Connection, server_id: str) -> Server:
    found = _SERVER.first(connection, of=server_id)
    if found is None:
        raise no_server(server_id)
    return found


def door_in_use(connection: Connection, server_id: str | None, login: str | None, at: datetime) -> Door | None:
    """Return a door of a login by which somebody may get in, or may be about to."""
    table = tables.doors
    query = select(table).where(table.c.server_id == server_id, table.c.login == login, table.c.state.in_(MAY_BE_OPEN))
    found = [rows.door(each) for each in connection.execute(query).mappings()]
    return next((each for each in found if in_use(each, at)), None)


def no_server(server_id: str) -> NotFound:
    return NotFound("server_not_found", f"{server_id}: no server of this id", server=server_id)


def update_server(server_id: str) -> Update:
    return update(tables.servers).where(tables.servers.c.id == server_id)


def keypair_of(connection: Connection, keypair_id: str) -> KeyPair:
    found = _KEYPAIR.first(connection, of=keypair_id)
    if found is None:
        raise no_keypair(keypair_id)
    return found


def keypair_row(connection: Connection, keypair_id: str) -> RowMapping:
    """Return a key pair with its sealed private half."""
    found = one(connection, tables.keypairs, tables.keypairs.c.id == keypair_id)
    if found is None:
        raise no_keypair(keypair_id)
    return found


def no_keypair(keypair_id: str) -> NotFound:
    return NotFound("keypair_not_found", f"{keypair_id}: no key pair of this id", keypair=keypair_id)


def seen_by(found: RowMapping, user_id: str) -> bool:
    """Whether a user may know of the key pair whose scope and owner_id are in a row: KeyPair.seen_by."""
    return bool(found["scope"] == "account" or found["owner_id"] == user_id)


def task_where(connection: Connection, *where: ColumnElement[bool]) -> Task | None:
    found = one(connection, tables.tasks, *where)
    return None if found is None else rows.task(found)


def of_server(server_id: str) -> ColumnElement[bool]:
    return tables.tasks.c.server_id == server_id
