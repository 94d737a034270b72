"""The connection to SQLite: durable, one writer at a time, readable by the owner only."""

import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event

from controller.errors import Invalid, Unavailable

# How long a writer waits for the other processes that share the home.
BUSY_SECONDS = 30


def path_of(url: str) -> Path:
    """Return the file behind sqlite:///PATH."""
    if not url.startswith("sqlite:///") or url == "sqlite:///":
        raise Invalid("store_unknown", f"{url}: the store is a file: give sqlite:///PATH")
    return Path(url.removeprefix("sqlite:///"))


def make_file(path: Path) -> None:
    """Make the database's file, 0600 and empty, where there is none; SQLite gives -wal and -shm the same mode."""
    # A file that is there is not opened: closing it would drop the locks that SQLite holds on it in this process.
    if not path.exists():
        _make_file(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise Unavailable("store_exposed", f"{path}: mode {mode:04o} lets others read it; chmod 600 {path}")


def _make_file(path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        # Before anybody else sees the file: where another has a lock on it, this does not wait for them but fails.
        with closing(sqlite3.connect(unfinished)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        with suppress(FileExistsError):
            os.link(unfinished, path)
    finally:
        os.unlink(unfinished)


def connect(url: str) -> Engine:
    """Return an engine whose transactions begin where writing() and reading() say, not where the driver guesses."""
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": BUSY_SECONDS, "isolation_level": None})
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that holds the write lock from its start, so that what it read stays true."""
    with engine.connect().execution_options(kps_begin="BEGIN IMMEDIATE") as connection, connection.begin():
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view; never waits for a writer."""
    with engine.connect() as connection, connection.begin():
        yield connection


def _prepare(driver: sqlite3.Connection, _record: Any) -> None:
    cursor = driver.cursor()
    # The mode of the journal stays in the file: asking for it again would take a lock for nothing.
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA secure_delete = ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("kps_begin", "BEGIN"))
