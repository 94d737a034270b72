"""Transactions, and the connection to SQLite: durable, one writer at a time, readable by the owner only."""

import json
import os
import secrets
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from controller.errors import Invalid, Unavailable
from controller.store import postgresql

# How long a writer waits for the other processes that share the home.
BUSY_SECONDS = 30

_BEGIN = "kps_begin"
_LAST_STEPS = "kps_last_steps"

# What SQLite reports of the file or its disk, and the next step. All else it reports would be a fault of ours.
_NEXT_STEP = {
    sqlite3.SQLITE_NOTADB: "it is not a database of kps: restore the backup",
    sqlite3.SQLITE_CORRUPT: "it is damaged: restore the backup",
    sqlite3.SQLITE_CANTOPEN: "see that it is a file, and that file and directory may be read and written by you",
    sqlite3.SQLITE_PERM: "see that file and directory may be read and written by you",
    sqlite3.SQLITE_AUTH: "see that file and directory may be read and written by you",
    sqlite3.SQLITE_READONLY: "file and directory must be writable: see their modes, and how the disk is mounted",
    sqlite3.SQLITE_FULL: "free some space on its disk, then try again",
    sqlite3.SQLITE_IOERR: "see that its disk has space left, is mounted and answers, then try again",
    sqlite3.SQLITE_BUSY: "another process has held it for long: let it end, then try again",
}


class LastStep(Protocol):
    """What a transaction still does when all else in it is done."""

    def finish(self) -> None: ...


S = TypeVar("S", bound=LastStep)
_shared = threading.local()  # connection: of the transaction that several verbs on this thread are one of


def path_of(url: str) -> Path:
    """Return the file behind sqlite:///PATH."""
    if not url.startswith("sqlite:///") or url == "sqlite:///":
        raise Invalid("store_unknown", "the store is a file, sqlite:///PATH, or a database, postgresql://USER@HOST/DATABASE")
    return Path(url.removeprefix("sqlite:///"))


def make_file(path: Path) -> None:
    """Make the database's file, 0600 and empty, where there is none; SQLite gives -wal and -shm the same mode."""
    # A file that is there is not opened: closing it would drop the locks that SQLite holds on it in this process.
    try:
        with usable(path):
            if not path.exists():
                _make_file(path)
            found = path.stat().st_mode
    except OSError as error:
        step = "file and directory must be there for you to read and write, with space left on their disk"
        raise Unavailable("store_unusable", f"{path}: {error.strerror}; {step}") from error
    if not stat.S_ISREG(found):
        raise Unavailable("store_unusable", f"{path}: not a file; move it away, and restore the backup if there is one")
    mode = stat.S_IMODE(found)
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
    if postgresql.is_address(url):
        engine = postgresql.connect(url)
        event.listen(engine, "begin", _begin_there)
        return engine
    # Not the text as it is: in a URL "?" and "%" mean something, in a path they do not.
    engine = sqlalchemy.create_engine(
        URL.create("sqlite", database=str(path_of(url))),
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None},
        json_deserializer=_json,
        hide_parameters=True,  # an error would tell what was to be stored
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _json(text: str) -> Any:
    # What most columns hold.
    return {} if text == "{}" else [] if text == "[]" else json.loads(text)


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that holds the write lock from its start, so that what it read stays true."""
    shared: Connection | None = getattr(_shared, "connection", None)
    if shared is not None and shared.engine is engine:
        yield shared
        return
    with (
        usable(engine),
        engine.connect().execution_options(**{_BEGIN: "BEGIN IMMEDIATE"}) as connection,
        connection.begin() if engine.dialect.name == "sqlite" else postgresql.transaction(connection),
    ):
        steps: dict[object, LastStep] = {}
        connection.info[_LAST_STEPS] = steps
        yield connection
        for step in steps.values():
            step.finish()


@contextmanager
def together(engine: Engine) -> Iterator[None]:
    """What this thread writes and reads within the block is one transaction: on the disk when the block ends, or undone.

    An error that is caught within the block is no end to what it has left half done: let it out.
    """
    with writing(engine) as connection:
        _shared.connection = connection
        try:
            yield
        finally:
            _shared.connection = None


def before_writing(engine: Engine, get_ready: Callable[[], None]) -> None:
    """Have get_ready called before each writing() takes the write lock."""

    def before(connection: Connection) -> None:
        if _BEGIN in connection.get_execution_options():
            get_ready()

    event.listen(engine, "begin", before, insert=True)


def last_step(connection: Connection, of: object, make: Callable[[], S]) -> S:
    """Return what `of` has to do last in this transaction, before all of it is kept; made at the first asking."""
    steps: dict[object, Any] = connection.info[_LAST_STEPS]
    if of not in steps:
        steps[of] = make()
    found: S = steps[of]
    return found


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view, in which nothing is written; never waits for a writer."""
    shared: Connection | None = getattr(_shared, "connection", None)
    if shared is not None and shared.engine is engine:
        yield shared
        return
    with usable(engine), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def asking(engine: Engine) -> Iterator[Connection]:
    """A connection for one Prepared statement that reads: what that sees is one view by itself. Never waits for a writer."""
    shared: Connection | None = getattr(_shared, "connection", None)
    if shared is not None and shared.engine is engine:
        yield shared
        return
    with usable(engine), engine.connect() as connection:
        yield connection


@contextmanager
def usable(where: str | os.PathLike[str] | Engine) -> Iterator[None]:
    """Raise Unavailable(store_unusable), with place and next step, where the database, its disk or its server stops the block.

    On PostgreSQL also Invalid(text_unusable), where it was given a text that it cannot keep or look for.
    """
    try:
        yield
    except Exception as error:  # the driver for PostgreSQL need not be installed, so what it raises has no name here
        found = _unusable(where, error)
        if found is None:
            raise
        raise found from error


def _unusable(where: str | os.PathLike[str] | Engine, error: Exception) -> Invalid | Unavailable | None:
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error):
        # The primary code; the higher bits only say more of the same.
        step = _NEXT_STEP.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)
        place = where.url.database if isinstance(where, Engine) else where
        return None if step is None else Unavailable("store_unusable", f"{place}: {cause}; {step}")
    if cause is None or not isinstance(where, Engine) or where.dialect.name == "sqlite":
        return None
    return postgresql.unusable(where, cause)


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
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _begin_there(connection: Connection) -> None:
    if _BEGIN in connection.get_execution_options():
        postgresql.begin_writing(connection)
    else:
        postgresql.begin_reading(connection)
