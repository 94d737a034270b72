"""A home's database looked at from outside: read only, whatever version it has, and however damaged it is."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from controller.store import engine, schema, tables

# What SQLite itself has beside its tables, and what kps never makes: whatever acts by itself.
FOREIGN = "SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%'"
_COLUMNS = "SELECT m.name, c.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'"


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found."""

    version: str | None  # the newest migration that it has seen; None: it has no tables of ours
    damage: str  # in SQLite's words; "": none was found
    foreign: str | None  # the name of something that acts by itself
    lacking: list[str]  # tables and columns of this version that are not there
    busy: bool  # somebody has held the right to write for longer than was waited

    @property
    def behind(self) -> bool:
        """Whether the next command will migrate it."""
        return self.version is None or self.version < tables.VERSION

    @property
    def ahead(self) -> bool:
        """Whether a newer kps has migrated it."""
        return self.version is not None and self.version > tables.VERSION


def examine(path: Path, wait_seconds: float) -> Examined:
    """Look through all pages of the database at path, and take the right to write for a moment; nothing is written.

    Unavailable(store_unusable): it cannot be opened, read or written, or is none.
    """
    with engine.usable(path), closing(_opened(path, "rw", wait_seconds)) as connection:
        # The pragma that any other connection here would send: rows are asked for, and none is changed.
        said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        foreign = connection.execute(FOREIGN).fetchone()
        there = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        version = connection.execute("SELECT version_num FROM alembic_version").fetchone() if there else None
        # What somebody else has put there may not be readable at all.
        lacking = [] if foreign else schema.lacking(set(connection.execute(_COLUMNS).fetchall()))
        busy = _busy(connection)
    return Examined(version and str(version[0]), "" if said == "ok" else said, foreign and str(foreign[0]), lacking, busy)


def _opened(path: Path, mode: str, wait_seconds: float) -> sqlite3.Connection:
    # Not made where it is not there.
    quoted = str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"file:{quoted}?mode={mode}", uri=True, isolation_level=None, timeout=wait_seconds)


def _busy(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            return True
        raise
    connection.execute("ROLLBACK")
    return False
