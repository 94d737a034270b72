"""The connection to PostgreSQL: one writer at a time, one view for a reader, and words for what is wrong with the server.

Writers wait for one another on an advisory lock, as they do in SQLite on its file (docs/decisions/0098).
"""

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from controller.errors import Away, Conflict, Invalid, Unavailable
from controller.model import now
from controller.store import tables

if TYPE_CHECKING:
    from psycopg import Connection as Driver

WAIT_SECONDS = 30  # for another writer
# A process that stands still, or a machine that is gone, keeps the others no longer from writing, as from renewing their leases.
WRITER_IDLE_SECONDS = 15
IDLE_SECONDS = 60  # and keeps no longer what it has begun to read, nor its turns
IN_DOUBT_SECONDS = 20.0  # that the server is asked, ever again, what became of a commit that it did not answer
OLDEST = 14  # an older one does not end the session, and with it the turns, of a process that stands still
_AGAIN_SECONDS = 0.3

# Advisory locks are numbers; the first of two is ours.
_OURS = 0x6B7073  # "kps"
_WRITE, _WORK = 1, 3
_TURNS = 0x6B7075  # goes into the number of a turn
_MARK = 0x6B7074  # goes with a number that one process alone knows
_XACT, _GUARD = "kps_xact", "kps_guard"

_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# Each statement sees what was committed before it began: so what comes after the lock sees all that those before have written.
_WRITING = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL idle_in_transaction_session_timeout = '{0}s'; SET LOCAL lock_timeout = '{0}s'; "
    f"SELECT pg_advisory_xact_lock({_OURS}, {_WRITE}); SET LOCAL lock_timeout = '{WAIT_SECONDS}s'; "
)
# The server's own limit begins with the end of a statement. A process that stands still between two of many that are sent as
# one, as the driver does with rows, has no end to it, nor has one that stands still while it is sent an answer.
_END_STILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid) "
    "WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND objsubid = 2 AND granted AND datname = current_database() "
    "AND wait_event IN ('ClientRead', 'ClientWrite') AND state_change < clock_timestamp() - make_interval(secs => %s)"
)
_TIME = "extract(epoch FROM clock_timestamp())::float8"
_ENDS_IDLE = "SET idle_session_timeout = '{}s'"
# Of a commit that never came the server waits for more: with the write lock, so that nobody could write until it gives up. One
# that it is at comes to its end.
_END_LOST = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE backend_xid = %s::xid8::xid AND state LIKE 'idle in transaction%%'"
)
# Who waits for the write lock has to come so far as to see that its holder stands still.
_NO_OTHER_LIMITS = (
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', 'transaction_timeout')"
)
SESSION = (
    f"{_NO_OTHER_LIMITS}; "
    f"SET default_transaction_isolation = 'read committed'; SET timezone = 'UTC'; SET lock_timeout = '{WAIT_SECONDS}s'; "
    f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'; "
    # The locks of a machine that is gone are let go as soon; over a Unix socket these mean nothing.
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 30000; "
    # What holds a place says nothing for long.
    f"{_ENDS_IDLE.format(0)}; "
    # What was answered is on the disk, whatever the server does with other databases.
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
_DEFAULTS = {
    "application_name": "kps", "client_encoding": "UTF8", "connect_timeout": "5", "tcp_user_timeout": "15000",
    "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3",
}  # fmt: skip

_TEXTS = ("22021", "22P05")  # character_not_in_repertoire, untranslatable_character

_RUNS = "see that PostgreSQL runs and can be reached, then try again"
_MAY = "see the user in the address, pg_hba.conf, and the password in the file that PGPASSFILE names"
_MINE = "the user in the address must own the database, or have been granted CREATE on its schema public"
# What PostgreSQL reports of itself, of its disk or of who may what, and the next step: by SQLSTATE, or by how that begins.
_NEXT_STEP = {
    "08": _RUNS,
    "28": _MAY,
    "3D": "make the database: createdb --template=template0 --encoding=UTF8 --locale=C NAME",
    "42501": _MINE,
    "3F": _MINE,
    "25006": "this server takes no writes: name the primary in the address",
    "25P03": "this process was stopped in the middle of what it did, and that was undone; try again",
    "40": "another transaction was in the way; try again",
    "53100": "free some space on the disk of the PostgreSQL server, then try again",
    "53200": "the PostgreSQL server is out of memory: see its log",
    "53300": "PostgreSQL takes no more connections: raise max_connections, or let others go",
    "53": "see the log of the PostgreSQL server",
    "55P03": "another process has held it for long: let it end, then try again",
    "57014": "somebody had PostgreSQL break it off; try again",
    "57": _RUNS,
    "58": "see the disk and the log of the PostgreSQL server",
    "XX001": "the database is damaged: restore it from a dump",
    "XX002": "an index is damaged: REINDEX DATABASE, and look for what has done that",
}

# Of these, what passes with nobody's help, or while somebody sees to it: the transaction was undone, and may be begun again. A
# server that is being started, or a replica that is being made the primary, is among it.
_PASSES = ("08", "25006", "25P03", "40", "53", "55P03", "57")


def is_address(url: str) -> bool:
    """Whether a store's URL means PostgreSQL."""
    return url.startswith("postgres")


def address(url: str) -> URL:
    """Return the address of a database. Invalid: store_unknown, store_password_shown."""
    # What is given may hold a password, so no error repeats it.
    try:
        made = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise Invalid("store_unknown", "the store's address is none: postgresql://USER@HOST/DATABASE") from error
    if made.drivername != "postgresql" or not (made.database or "service" in made.query):
        raise Invalid("store_unknown", "the store's address has to read postgresql://USER@HOST/DATABASE")
    if made.password is not None or {"password", "sslpassword"} & set(made.query):
        raise Invalid(
            "store_password_shown",
            "the store's address holds a password, which lists of processes and logs would show: take it out, and put it into a "
            "file of mode 0600 that PGPASSFILE names (HOST:PORT:DATABASE:USER:PASSWORD)",
        )
    return made


def shown(engine: Engine) -> str:
    """Return where a database is, for people."""
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=True)


def defaults(url: str) -> dict[str, str]:
    """Return what a connection to a database is made with beside its address: how long is waited, above all."""
    made = address(url)
    return {name: value for name, value in _DEFAULTS.items() if name not in made.query}


def connect(url: str) -> Engine:
    """Return an engine for a database; nobody is connected yet. Invalid: store_unknown, postgresql_missing."""
    made = address(url)
    try:
        import psycopg  # noqa: F401 - to see whether it is there
    except ImportError as error:
        message = "what speaks to PostgreSQL is not installed; install kps with its extra postgresql: docs/packages.md"
        raise Invalid("postgresql_missing", message) from error
    engine = sqlalchemy.create_engine(
        made.set(drivername="postgresql+psycopg"),
        connect_args={"autocommit": True} | defaults(url),
        paramstyle="format",  # by place, as SQLite has it: Prepared fills places
        pool_pre_ping=True,  # a server that was started anew is found by who comes next, and fails nobody
        pool_size=8,
        max_overflow=24,
        pool_timeout=WAIT_SECONDS,
        use_native_hstore=False,
        hide_parameters=True,  # an error would tell what was to be stored
    )
    event.listen(engine, "connect", partial(_prepare, clock(engine)))
    return engine


class Clock:
    """The time of the server: what it said last, and what has passed since by the clock that nobody sets.

    Many machines write leases, and each judges those of all: by its own clock one that is ahead would take all others for dead.
    """

    def __init__(self) -> None:
        self._told: tuple[float, float] | None = None

    def __call__(self) -> datetime:
        """Return the time, in UTC; this machine's as long as no server was asked."""
        if self._told is None:
            return now()
        said, then = self._told
        return datetime.fromtimestamp(said + _passed() - then, UTC)

    def tell(self, said: float) -> None:
        """Take note of what the server says, just now."""
        self._told = said, _passed()


_clocks: WeakKeyDictionary[Engine, Clock] = WeakKeyDictionary()


def clock(engine: Engine) -> Clock:
    """Return the clock of the server behind an engine."""
    return _clocks.setdefault(engine, Clock())


def time_there(engine: Engine) -> datetime:
    """Ask the server what time it is."""
    with engine.connect() as connection:
        clock(engine).tell(_asked_for_time(_driver(connection)))
    return clock(engine)()


def _asked_for_time(driver: "Driver") -> float:
    return float(_row(driver, f"SELECT {_TIME}")[0])


def _passed() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # that of a virtual machine which stood still goes on too


def begin_reading(connection: Connection) -> None:
    """One view for all that is read."""
    _driver(connection).execute(_READ, prepare=False)


def begin_writing(connection: Connection) -> None:
    """Wait for the write lock; what is read from then on stays true until the transaction ends.

    Conflict(root_rotating) where this process lost its place, and another has it now.
    """
    guards = _guards.get(connection.engine, [])[:]
    held = "".join(f", NOT pg_try_advisory_xact_lock_shared({_MARK}, {each.mark})" for each in guards)
    begin = _WRITING.format(WRITER_IDLE_SECONDS)
    connection.info[_XACT], said, *holds = _waited(
        _driver(connection), f"{begin}SELECT pg_current_xact_id()::text, {_TIME}{held}"
    )
    clock(connection.engine).tell(said)
    for guard, holds_it in zip(guards, holds, strict=True):
        if not holds_it:
            guard.take()  # whoever has it meanwhile needs the write lock for anything they do, and that is ours
            _not_newer(connection, guard)


def _waited(driver: "Driver", begin: str) -> tuple[Any, ...]:
    """Begin, once more where that lasted so long that whoever has the lock may stand still; return what was asked for."""
    import psycopg

    try:
        cursor = driver.execute(begin, prepare=False)
    except psycopg.errors.LockNotAvailable:
        driver.execute("ROLLBACK", prepare=False)
        driver.execute(_END_STILL, [_OURS, _WRITE, WRITER_IDLE_SECONDS])
        cursor = driver.execute(begin, prepare=False)
    while cursor.nextset():
        pass
    return cursor.fetchone()  # type: ignore[return-value]


def _not_newer(connection: Connection, guard: "Guard") -> None:
    """Unavailable(store_too_new) where others took this process for ended and changed the tables; the guard stays let go."""
    query = "SELECT version_num FROM alembic_version WHERE version_num > %s"
    found = _driver(connection).execute(query, [tables.VERSION]).fetchone()
    if found is not None:
        guard.let_go()
        message = (
            f"{shown(connection.engine)}: a newer kps has changed its tables ({found[0]}) meanwhile; start that one here too"
        )
        raise Unavailable("store_too_new", message)


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """One transaction that writes. Where the server did not answer the commit, it is asked what became of it.

    Unavailable(store_in_doubt) where it does not answer that either.
    """
    begun = connection.begin()
    try:
        yield
    except BaseException:
        with suppress(DBAPIError):  # of a connection that is lost: the server undoes it
            begun.rollback()
        raise
    written = connection.info[_XACT]
    try:
        begun.commit()
    except DBAPIError as error:
        if not error.connection_invalidated or not _was_kept(connection.engine, written, error):
            raise


def _was_kept(engine: Engine, written: str, lost: DBAPIError) -> bool:
    import psycopg

    until = time.monotonic() + IN_DOUBT_SECONDS
    while True:
        # Whatever hinders the question, the answer is not known: let out, it would have the caller begin anew.
        with suppress(SQLAlchemyError, psycopg.Error), engine.connect() as connection:
            (state,) = _row(_driver(connection), "SELECT pg_xact_status(%s::xid8)", [written])
            if state in ("committed", "aborted"):
                return bool(state == "committed")
            _driver(connection).execute(_END_LOST, [written])
        if time.monotonic() > until:
            message = f"{shown(engine)}: it did not answer whether what was written is kept; look before you repeat it; {_RUNS}"
            raise Unavailable("store_in_doubt", message) from lost
        time.sleep(_AGAIN_SECONDS)


def unusable(engine: Engine, error: BaseException) -> Invalid | Unavailable | None:
    """Return what PostgreSQL says of itself, with place and next step (store_unusable); None where the fault is ours.

    Invalid(text_unusable) where it was given a text with a NUL in it.
    """
    import psycopg

    # psycopg itself refuses to send it, and has no SQLSTATE then.
    if isinstance(error, psycopg.DataError) and (error.sqlstate in _TEXTS or "NUL" in str(error)):
        return Invalid("text_unusable", "a text that was given holds a NUL: take it out")
    said = _told(error)
    if said is None:
        return None
    passes = said.endswith(_RUNS) or str(getattr(error, "sqlstate", None) or "").startswith(_PASSES)
    return (Away if passes else Unavailable)("store_unusable", f"{shown(engine)}: {said}")


def _told(error: BaseException) -> str | None:
    import psycopg

    if not isinstance(error, psycopg.Error):
        return None
    said = error.diag.message_primary or " ".join(str(error).split())
    state = error.sqlstate or ""
    step = _NEXT_STEP.get(state) or _NEXT_STEP.get(state[:2])
    if step is None and not state and isinstance(error, psycopg.OperationalError):
        step = _unconnected(said)
    return None if step is None else f"{said.rstrip('.')}; {step}"


def _unconnected(said: str) -> str:
    # Before there is a connection the words are all that there is; where the server speaks another language: the first.
    for words, state in (
        ("password authentication failed", "28"), ("no password supplied", "28"), ("pg_hba.conf", "28"),
        ("authentication failed", "28"), ("does not exist", "3D" if "database" in said else "28"),
        ("too many", "53300"), ("remaining connection slots", "53300"),
    ):  # fmt: skip
        if words in said:
            return _NEXT_STEP[state]
    return _RUNS


def usable(connection: Connection) -> None:
    """Unavailable(store_unsuitable) where the database does not order and keep text as SQLite does."""
    query = "SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database WHERE datname = current_database()"
    encoding, collate, _ = _row(_driver(connection), query)
    if encoding != "UTF8" or collate.upper().replace("-", "") not in ("C", "POSIX", "C.UTF8"):
        raise Unavailable(
            "store_unsuitable",
            f"{shown(connection.engine)}: encoding {encoding}, collation {collate}; names are in the order of their bytes here: "
            "make another database, createdb --template=template0 --encoding=UTF8 --locale=C NAME",
        )


class Guard:
    """A session whose locks say what this process does with a database; while it does that, it writes nothing without them."""

    def __init__(self, engine: Engine, what: int, shared: bool, code: str, why: str) -> None:
        self.mark = 0
        self.engine = engine
        self._what = f"advisory_lock{'_shared' if shared else ''}({_OURS}, {what})"
        self._code, self._why = code, why
        self._session: Driver | None = None

    def take(self, wait: bool = False) -> None:
        """Take the locks, or take them again. Conflict where somebody else has them, unless wait; Unavailable(store_unusable)."""
        try:
            self._take(wait)
        except Exception as error:  # of a driver that need not be installed
            found = unusable(self.engine, error)
            if found is None:
                raise
            raise found from error

    def _take(self, wait: bool) -> None:
        self.let_go()
        self.mark = secrets.randbits(31)  # another each time: whoever found the last one gone holds it now
        borrowed = self.engine.raw_connection()
        session: Driver = borrowed.driver_connection  # type: ignore[assignment]
        borrowed.detach()  # from the pool: it is nobody else's as long as it lives
        self._session = session
        try:
            _keeps_sessions(self.engine, session)
            if wait:
                session.execute(f"SELECT pg_{self._what}")
            lock = f"pg_try_{self._what} AND pg_try_advisory_lock({_MARK}, {self.mark})"
            held = session.execute(f"SELECT {lock}").fetchone()
        except BaseException:
            self.let_go()
            raise
        if held is None or not held[0]:
            self.let_go()
            raise Conflict(self._code, f"{shown(self.engine)}: {self._why}")

    def let_go(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        with suppress(Exception):  # where it is gone, so are its locks
            session.execute("SELECT pg_advisory_unlock_all()")  # whoever comes next need not wait until the server sees the end
        session.close()


def _keeps_sessions(engine: Engine, driver: "Driver") -> None:
    """Unavailable(store_unsuitable) where what is in between lends sessions for a transaction: their locks would be anybody's."""
    process = _process_of(driver)
    if process == driver.info.backend_pid:
        return  # nothing is in between
    with engine.connect() as another:
        lent = process == _process_of(_driver(another)) or process != _process_of(driver)
    if lent:
        raise Unavailable(
            "store_unsuitable",
            f"{shown(engine)}: a pooler that lends its sessions for one transaction, and locks are held by sessions: name the "
            "server itself in the address, or have the pooler keep a session for each client (PgBouncer: pool_mode = session)",
        )


def _process_of(driver: "Driver") -> int:
    return int(_row(driver, "SELECT pg_backend_pid()")[0])


_guards: dict[Engine, list[Guard]] = {}


@contextmanager
def working(engine: Engine) -> Iterator[None]:
    """Work with what is in a database. Conflict(root_rotating) while somebody has it alone."""
    why = "its root key is being changed, or it is being filled; try again when that is done"
    yield from _held(Guard(engine, _WORK, True, "root_rotating", why))


@contextmanager
def alone(engine: Engine, wait: bool = False) -> Iterator[None]:
    """Have a database alone. Conflict(home_in_use) while anybody works with it, unless wait."""
    why = "a kps works with it; stop kps serve, and let commands end"
    yield from _held(Guard(engine, _WORK, False, "home_in_use", why), wait)


class Turns:
    """What one process alone does of all that work with a database, as long as its session lasts. From any thread.

    The session of a process that stands still ends where it has asked nothing for IDLE_SECONDS: who lives asks, ever again,
    whether it has its turns.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._session: Driver | None = None
        self._held: set[str] = set()
        self._one = threading.Lock()

    def take(self, name: str) -> bool:
        """Whether a turn is ours: taken now, or before and held since. Unavailable(store_unusable)."""
        with self._one:
            try:
                return self._take(name)
            except Exception as error:  # of a driver that need not be installed
                self._let_go()
                found = unusable(self._engine, error)
                if found is None:
                    raise
                raise found from error

    def _take(self, name: str) -> bool:
        if self._session is None:
            borrowed = self._engine.raw_connection()
            self._session = cast("Driver", borrowed.driver_connection)
            borrowed.detach()
            self._session.execute(_ENDS_IDLE.format(IDLE_SECONDS))
        session = self._session
        if name in self._held:
            session.execute("SELECT 1")  # a session that is lost has lost its turns
            return True
        found = session.execute(f"SELECT pg_try_advisory_lock(hashtextextended(%s, {_TURNS}))", [name]).fetchone()
        if found is not None and found[0]:
            self._held.add(name)
        return name in self._held

    def leave(self, name: str) -> None:
        """Let another have it."""
        with self._one:
            if name not in self._held or self._session is None:
                return
            self._held.discard(name)
            try:
                self._session.execute(f"SELECT pg_advisory_unlock(hashtextextended(%s, {_TURNS}))", [name])
            except Exception:  # the session is lost, and its turns with it
                self._let_go()

    def close(self) -> None:
        """Let others have them all."""
        with self._one:
            self._let_go()

    def _let_go(self) -> None:
        session, self._session = self._session, None
        self._held.clear()
        if session is not None:
            with suppress(Exception):  # where it is gone, so are its locks
                session.execute("SELECT pg_advisory_unlock_all()")
            session.close()


def _held(guard: Guard, wait: bool = False) -> Iterator[None]:
    guard.take(wait)
    _guards[guard.engine] = [*_guards.get(guard.engine, []), guard]
    try:
        yield
    finally:
        left = [each for each in _guards.pop(guard.engine) if each is not guard]
        if left:
            _guards[guard.engine] = left
        guard.let_go()


def _prepare(there: Clock, driver: "Driver", _record: Any) -> None:
    found = driver.info.server_version // 10000
    if found < OLDEST:
        raise Unavailable("store_unsuitable", f"PostgreSQL {found}: it has to be {OLDEST} or newer; upgrade it")
    driver.execute(SESSION, prepare=False)
    there.tell(_asked_for_time(driver))


def _driver(connection: Connection) -> "Driver":
    found: Driver = connection.connection.driver_connection  # type: ignore[assignment]
    return found


def _row(driver: "Driver", query: str, given: Sequence[Any] | None = None) -> tuple[Any, ...]:
    """Return the one row that answers a question which always has one."""
    found: tuple[Any, ...] | None = driver.execute(query.encode(), given, prepare=False).fetchone()
    if found is None:
        raise LookupError("no row")
    return found
