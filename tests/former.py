"""A store put back into the tables of the version before, with all that these have a place for: as that version left it."""

import os
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg.rows import dict_row
from sqlalchemy import Connection, text

from controller.store import engine, postgresql, schema
from controller.store.tables import VERSION, metadata

Row = dict[str, Any]
Rows = dict[str, list[Row]]

_OF_VERSION = "alembic_version"
_ALL = "SELECT * FROM {} ORDER BY {}"


def version_before() -> str:
    """Return the version whose tables the newest migration changes."""
    newest = ScriptDirectory(str(schema.MIGRATIONS)).get_revision(VERSION)
    assert newest is not None
    assert isinstance(newest.down_revision, str)
    return newest.down_revision


def put_back(url: str) -> None:
    """Put a store that nobody works with back into the tables of the version before; what has no place there is gone.

    It fails where the newest migration takes away what has to be there: then say here what that was.
    """
    if postgresql.is_address(url):
        _in_database(url)
    else:
        _in_file(engine.path_of(url))


def rows(url: str) -> Rows:
    """Return all that a store holds, by table."""
    if not postgresql.is_address(url):
        with closing(sqlite3.connect(engine.path_of(url))) as file:
            file.row_factory = sqlite3.Row
            names = file.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'").fetchall()
            ours = [name for (name,) in names if _is_ours(name)]
            return {name: [dict(row) for row in file.execute(_ALL.format(name, _order(name)))] for name in ours}
    with psycopg.connect(url, row_factory=dict_row) as connection:
        tables = connection.execute("SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public'").fetchall()
        ours = [each["name"] for each in tables if _is_ours(each["name"])]
        return {name: connection.execute(_ALL.format(name, _order(name)).encode()).fetchall() for name in ours}


def as_before(before: Rows, after: Rows) -> Rows:
    """Return of what is there now the tables and columns that were there before."""
    return {table: _columns(after[table], before[table][0]) if before[table] else after[table] for table in before}


def _columns(found: list[Row], wanted: Collection[str]) -> list[Row]:
    return [{name: row[name] for name in wanted} for row in found]


def _order(table: str) -> str:
    return ", ".join(each.name for each in metadata.tables[table].primary_key.columns)


def _is_ours(table: str) -> bool:
    return table in metadata.tables


def _in_database(url: str) -> None:
    made = engine.connect(url)
    with engine.writing(made) as connection:
        connection.execute(text("CREATE SCHEMA later"))
        for table in (*metadata.tables, _OF_VERSION):
            connection.execute(text(f"ALTER TABLE {table} SET SCHEMA later"))
        _migrate(connection)
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # references are not looked at
        known = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = '{}'"
        here, later = (connection.execute(text(known.format(each))).all() for each in ("public", "later"))
        for table in {table for table, _ in here if _is_ours(table)}:
            names = ", ".join(f'"{name}"' for of, name in here if of == table and (of, name) in later)
            connection.execute(text(f"INSERT INTO {table} ({names}) SELECT {names} FROM later.{table}"))  # noqa: S608
        for (number,) in connection.execute(text("SELECT sequencename FROM pg_sequences WHERE schemaname = 'later'")).all():
            goes_on = f"SELECT setval('public.{number}', last_value, is_called) FROM later.{number}"  # noqa: S608
            if connection.execute(text("SELECT to_regclass(:it)"), {"it": f"public.{number}"}).scalar():
                connection.execute(text(goes_on))
        connection.execute(text("DROP SCHEMA later CASCADE"))
    made.dispose()


def _in_file(path: Path) -> None:
    before = path.with_name("before.db")
    made = engine.connect(f"sqlite:///{before}")
    engine.make_file(before)
    with engine.writing(made) as connection:
        _migrate(connection)
    made.dispose()
    with closing(sqlite3.connect(before, isolation_level=None)) as file:
        file.execute("ATTACH ? AS later", [str(path)])
        tables = [name for (name,) in file.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'") if _is_ours(name)]
        for table in tables:
            here, later = (
                [name for _, name, *_ in file.execute(f"PRAGMA {place}.table_info({table})")] for place in ("main", "later")
            )
            names = ", ".join(f'"{name}"' for name in here if name in later)
            file.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM later.{table}")  # noqa: S608
        file.execute("DELETE FROM main.sqlite_sequence")
        file.execute("INSERT INTO main.sqlite_sequence SELECT * FROM later.sqlite_sequence")
        file.execute("DETACH later")
        file.execute("PRAGMA main.wal_checkpoint(TRUNCATE)")
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    os.replace(before, path)


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, version_before())
