"""What the store promises on PostgreSQL beyond what every store does: its server goes, comes back, and is shared with nobody."""

import asyncio
import contextvars
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text

from controller import deposits, model, storeplace
from controller.app import opened
from controller.errors import Away, Conflict, Invalid, Problem, Unavailable
from controller.kms import FileRootKey, Kms, root
from controller.model import Caller, Credential, Outcome, Rollout, Sealed, Secret, Task, Token
from controller.service import backup, doctor, home, moving, rootkeys
from controller.settings import Settings
from controller.store import Store, engine, tables
from controller.store import postgresql as store_on_postgresql
from controller.store.prepared import Prepared
from controller.store.tables import metadata
from tests.controller import given
from tests.needs import lacking
from tests.postgresql import Cluster

SECONDS = 90  # nothing of these tests takes longer, on however busy a machine
WHO = Caller("a" * 32, "b" * 32, "c" * 32, "administrator")


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store(database)
    yield store
    store.close()


@pytest.fixture
def who(store: Store) -> Caller:
    return store.first_tenant(WHO, "home", "administrator", "A" * 20, Sealed(b"sealed"))[0]


def test_the_migrations_make_the_tables_of_the_code(postgresql: Cluster) -> None:
    # A database of its own: where controllers have served, the tables of their queue are too.
    with postgresql.database() as url, closing(Store(url)) as store:
        store.migrate()
        with engine.reading(store._engine) as connection:
            assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
            index = "SELECT indexdef FROM pg_indexes WHERE indexname = 'one_running_task'"
            defined = connection.exec_driver_sql(index).scalar_one()
    assert "UNIQUE" in defined
    assert "WHERE (status = 'running'" in defined


# -- what is refused, and in which words


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://kps:hunter2@db/kps", "store_password_shown"),
        ("postgresql://kps@db/kps?password=hunter2", "store_password_shown"),
        ("postgresql://kps@db", "store_unknown"),
        ("postgresql+psycopg2://kps:hunter2@db/kps", "store_unknown"),
        ("postgresql://kps:hunter2@db:port/kps", "store_unknown"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_not_repeated(url: str, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        Store(url)
    assert refused.value.code == code
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None or "hunter2" not in repr(refused.value.__cause__)


def unusable(url: str) -> str:
    with closing(Store(url)) as store, pytest.raises(Unavailable) as refused:
        store.migrate()
    assert "sqlalche.me" not in refused.value.message
    return refused.value.message


def test_what_the_server_refuses_is_told_with_the_next_step(postgresql: Cluster) -> None:
    assert "createdb" in unusable(postgresql.url("nowhere"))
    assert "pg_hba.conf" in unusable(postgresql.url("postgres").replace("kps@", "nobody@"))
    assert "see that PostgreSQL runs" in unusable(f"postgresql://kps@/kps?host={postgresql.place}/none")
    with postgresql.database() as url:
        name = url.partition("/t")[2].partition("?")[0]
        with postgresql.session() as connection:
            connection.execute("DROP ROLE IF EXISTS guest")
            connection.execute("CREATE ROLE guest LOGIN")
        assert "own the database" in unusable(url.replace("kps@", "guest@"))
        with postgresql.session() as connection:
            connection.execute(f"ALTER DATABASE t{name} SET default_transaction_read_only = on")
        assert "name the primary" in unusable(url)


def test_a_postgresql_that_ends_nobodys_turns_is_refused() -> None:
    there = SimpleNamespace(info=SimpleNamespace(server_version=130022))
    with pytest.raises(Unavailable) as refused:
        store_on_postgresql._prepare(store_on_postgresql.Clock(), there, None)  # type: ignore[arg-type]
    assert refused.value.code == "store_unsuitable"
    assert "14 or newer" in refused.value.message


def test_a_database_that_orders_names_in_another_way_is_refused(full: Settings, postgresql: Cluster) -> None:
    with postgresql.session() as connection:
        connection.execute("DROP DATABASE IF EXISTS sorted")
        connection.execute("CREATE DATABASE sorted TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    assert "--encoding=UTF8" in unusable(postgresql.url("sorted"))
    with pytest.raises(Unavailable, match="--encoding=UTF8"):  # before anything is moved there
        moving.move(full, postgresql.url("sorted"))
    assert full.in_file
    with pytest.raises(Unavailable, match="see that PostgreSQL runs"):
        moving.move(full, f"postgresql://kps@/kps?host={postgresql.place}/none")


def test_a_text_with_a_nul_is_the_fault_of_who_gave_it(store: Store, who: Caller) -> None:
    for verb in (lambda: store.task(who.tenant_id, "a\0b"), lambda: given.task(store, who, "web\0")):
        with pytest.raises(Invalid) as refused:
            verb()
        assert refused.value.code == "text_unusable"


def test_a_session_is_not_ended_for_its_silence_and_a_silent_server_is_given_up(postgresql: Cluster) -> None:
    with postgresql.database() as url, postgresql.session() as connection:
        connection.execute(f"ALTER DATABASE {url.partition('@/')[2].partition('?')[0]} SET idle_session_timeout = '1h'")
        with closing(Store(url)) as store, closing(store._engine.raw_connection()) as session:
            driver = session.driver_connection
            assert driver is not None
            assert driver.execute("SHOW idle_session_timeout").fetchone() == ("0",)
            told = driver.info.get_parameters()
    assert (told["connect_timeout"], told["tcp_user_timeout"]) == ("5", "15000")


def test_a_limit_of_the_database_s_own_breaks_off_nothing(postgresql: Cluster) -> None:
    with postgresql.database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET statement_timeout = '1s'")
        with closing(Store(url)) as store:
            store.migrate()
            with engine.writing(store._engine) as connection:
                connection.execute(text("SELECT pg_sleep(1.2)"))


def test_a_process_that_holds_the_write_lock_for_long_is_named_as_the_cause(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on working, so nobody ends it."""
    with engine.writing(store._engine) as holding, closing(Store(database)) as other, ThreadPoolExecutor() as pool:
        monkeypatch.setattr("controller.store.postgresql.WRITER_IDLE_SECONDS", 1)  # of who waits
        writing = pool.submit(other.can_write)
        while not writing.done():
            holding.execute(text("SELECT 1"))
        with pytest.raises(Unavailable, match="another process has held it for long"):
            writing.result()


# -- one writer, one view


def test_what_a_writer_read_stays_true_and_a_reader_sees_one_state(store: Store, who: Caller) -> None:
    count = select(tables.servers.c.id)
    with engine.reading(store._engine) as reader:
        assert reader.execute(count).all() == []
        with ThreadPoolExecutor(1) as threads:
            with engine.writing(store._engine) as writer:
                assert writer.execute(count).all() == []
                waiting = threads.submit(given.task, store, who)
                with pytest.raises(TimeoutError):
                    waiting.result(0.3)
                assert writer.execute(count).all() == []  # nobody else has written meanwhile
            waiting.result(30)
        assert reader.execute(count).all() == []
        with pytest.raises(Exception, match="read-only"):
            reader.execute(tables.servers.delete())


def test_no_event_is_numbered_twice_by_many_writers(store: Store, who: Caller, database: str) -> None:
    others = [Store(database) for _ in range(4)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: given.task(others[n % 4], who, f"web-{n}"), range(40)))
    for other in others:
        other.close()
    events = store.events(who.tenant_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [event.id for event in events] == sorted(event.id for event in events)


# -- the server goes, and comes back


def test_a_server_that_goes_is_told_and_one_that_comes_back_is_used(store: Store, who: Caller, postgresql: Cluster) -> None:
    task = given.task(store, who)
    for how in (signal.SIGINT, signal.SIGQUIT):
        postgresql.stop(how)
        try:
            for verb in (lambda: store.claim(task.id, "me", 30), lambda: store.task(who.tenant_id, task.id), store.can_write):
                with pytest.raises(Unavailable, match="see that PostgreSQL runs") as refused:
                    verb()
                assert refused.value.code == "store_unusable"
        finally:
            postgresql.start()
        assert store.task(who.tenant_id, task.id) == task  # at once, and with nobody's help
    assert store.claim(task.id, "me", 30) is not None


def test_a_transaction_that_the_server_left_in_the_middle_is_undone_and_told(
    store: Store, who: Caller, postgresql: Cluster
) -> None:
    task = given.task(store, who)
    ask: Prepared[Any] = Prepared(select(tables.tasks.c.id))

    def in_the_middle() -> None:
        with engine.writing(store._engine) as connection:
            connection.execute(tables.tasks.delete())
            postgresql.stop(signal.SIGQUIT)
            postgresql.start()
            ask.all(connection)

    with pytest.raises(Unavailable, match="see that PostgreSQL runs"):
        in_the_middle()
    assert store.task(who.tenant_id, task.id) == task


@contextmanager
def cut(cluster: Cluster, place: Path, after: bool, *more: bytes, unheard: bool = False) -> Iterator[Path]:
    """A way to the server that breaks at COMMIT: before the server hears of it, or when it has done it and cannot say so.

    Then once more at each of more, before the server hears of it. unheard: nor does it hear that the way is broken.
    """
    path = place / ".s.PGSQL.5432"
    open_sockets: list[socket.socket] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen(20)
    commit = b"COMMIT\0"
    cuts = [commit, *more]

    def carry(source: socket.socket, to: socket.socket, other: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if asks and cuts and cuts[0] in data:
                    if cuts.pop(0) == commit and after:
                        to.sendall(data)
                        to.recv(1)  # it has answered
                    if unheard:
                        source.shutdown(socket.SHUT_RDWR)
                        return
                    break
                to.sendall(data)
        for each in (source, to):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{cluster.place}/.s.PGSQL.5432")
                open_sockets.extend((client, server))
                threading.Thread(target=carry, args=(client, server, client, True), daemon=True).start()
                if not (after and commit in cuts):
                    threading.Thread(target=carry, args=(server, client, server, False), daemon=True).start()
                else:
                    threading.Thread(target=answers, args=(server, client), daemon=True).start()

    def answers(server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while True:
                # Looked at, not taken: what answers the COMMIT belongs to who cuts there.
                server.recv(1, socket.MSG_PEEK)
                if commit not in cuts:
                    return
                client.sendall(server.recv(65536))

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield place
        assert not cuts
    finally:
        listener.close()
        for each in open_sockets:
            each.close()


def through(place: Path, url: str) -> str:
    """The same database, reached by way of another directory's socket."""
    address, _, _ = url.partition("?")
    return f"{address}?host={place}"


@pytest.mark.parametrize("after", [False, True])
def test_of_a_commit_that_nobody_answered_the_server_is_asked(
    store: Store, who: Caller, database: str, postgresql: Cluster, tmp_path: Path, after: bool
) -> None:
    """Done once where it was kept, and once where it was not: never twice, and never told wrongly."""
    task = given.task(store, who)
    before = store.newest_event()
    with cut(postgresql, tmp_path, after) as place, closing(Store(through(place, database))) as far:
        verbs = [(contextvars.copy_context(), verb) for verb in (lambda: far.claim(task.id, "me", 30), far.can_write)]
        claimed, written = far.together(verbs)
    assert written.raised is None
    assert claimed.raised is None
    assert claimed.returned.status == "running"
    assert store.newest_event() == before + 1


def test_a_question_that_nobody_answered_is_asked_again(
    store: Store, who: Caller, database: str, postgresql: Cluster, tmp_path: Path
) -> None:
    task = given.task(store, who)
    asked = b"pg_xact_status"
    with cut(postgresql, tmp_path, True, asked, asked) as place, closing(Store(through(place, database))) as far:
        claimed = far.claim(task.id, "me", 30)
    assert claimed is not None
    assert claimed.status == "running"


def test_a_session_whose_commit_never_came_holds_up_nobody(
    store: Store, who: Caller, database: str, postgresql: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.store.postgresql.WRITER_IDLE_SECONDS", 600)
    task = given.task(store, who)
    with cut(postgresql, tmp_path, False, unheard=True) as place, closing(Store(through(place, database))) as far:
        verbs = [(contextvars.copy_context(), verb) for verb in (lambda: far.claim(task.id, "me", 30), far.can_write)]
        claimed, written = far.together(verbs)
    assert (claimed.raised, written.raised) == (None, None)
    assert claimed.returned.status == "running"


def test_who_is_away_is_not_asked_for_each_of_many(store: Store, postgresql: Cluster) -> None:
    """A server that is silent, not gone, would have each of them wait for it, and all that comes after them."""
    asked: list[int] = []

    def verb() -> None:
        asked.append(1)
        store.can_write()

    postgresql.stop()
    try:
        found = store.together([(contextvars.copy_context(), verb) for _ in range(64)])
    finally:
        postgresql.start()
    assert [type(each.raised) for each in found] == [Away] * 64
    assert len(asked) == 2
    assert [each.raised for each in store.together([(contextvars.copy_context(), store.can_write)] * 3)] == [None] * 3


def test_where_the_server_stays_away_a_commit_is_in_doubt_and_not_repeated(
    store: Store, who: Caller, database: str, postgresql: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.store.postgresql.IN_DOUBT_SECONDS", 0.5)
    task = given.task(store, who)
    asked: list[int] = []
    with cut(postgresql, tmp_path, after=False) as place, closing(Store(through(place, database))) as far:

        def claims() -> Any:
            asked.append(1)
            if len(asked) == 1:
                (place / ".s.PGSQL.5432").unlink()  # nobody gets there any more
            return far.claim(task.id, "me", 30)

        done = far.together([(contextvars.copy_context(), claims), (contextvars.copy_context(), lambda: None)])
    assert {each.raised.code for each in done if isinstance(each.raised, Problem)} == {"store_in_doubt"}
    assert len(done) == 2
    assert len(asked) == 1


# -- shared with nobody


def test_one_controller_alone_has_a_turn_until_it_leaves_or_loses_it(store: Store, database: str, postgresql: Cluster) -> None:
    with closing(Store(database)) as other:
        assert store.take_turn("doors")
        assert store.take_turn("doors")
        assert not other.take_turn("doors")
        assert other.take_turn("keys")
        store.leave_turn("doors")
        assert other.take_turn("doors")
        postgresql.stop()
        postgresql.start()
        for each in (other, store):
            with pytest.raises(Unavailable):
                each.take_turn("doors")
        assert store.take_turn("doors")
        assert not other.take_turn("doors")
    with closing(Store(database)) as third:
        assert third.take_turn("keys")  # who has ended has no turn


def test_who_stands_still_loses_its_turns(store: Store, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as soon:
        soon.setattr("controller.store.postgresql.IDLE_SECONDS", 1)
        assert store.take_turn("queue")
    with closing(Store(database)) as other:
        until = time.monotonic() + SECONDS
        while not other.take_turn("queue"):
            assert time.monotonic() < until
            time.sleep(0.1)  # PostgreSQL ends a session, and tells nobody
        with pytest.raises(Away):
            store.take_turn("queue")
        assert not store.take_turn("queue")


def test_who_stands_still_in_the_middle_of_writing_keeps_nobody_else_from_it_for_long(
    store: Store, who: Caller, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Store(database)) as other:

        def stands_still() -> None:
            with monkeypatch.context() as soon, ExitStack() as writing:
                soon.setattr("controller.store.postgresql.WRITER_IDLE_SECONDS", 1)
                connection = writing.enter_context(engine.writing(store._engine))
                soon.undo()  # the other one may take its time
                given.task(other, who)  # waits for this one, which says nothing
                connection.execute(select(tables.tasks.c.id))

        with pytest.raises(Away, match="stopped in the middle"):
            stands_still()
        assert len(other.tasks(None)) == 1


_STANDS_STILL = """
import os, signal, sys
from controller.errors import Away
from controller.store import Store
from controller.store.prepared import Prepared

def rows(each):
    for row in each:
        yield row
        os.kill(os.getpid(), signal.SIGSTOP)

written = Prepared.run_each
Prepared.run_each = lambda self, connection, each: written(self, connection, rows(each))
try:
    Store(sys.argv[1]).claim(sys.argv[2], "me", 30)
except Away as error:
    print(error.code)
"""


def test_who_stands_still_with_half_of_its_rows_sent_keeps_nobody_else_from_writing(
    store: Store, who: Caller, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session never is idle, as the server sees it: it waits for the next row."""
    task = given.task(store, who)
    words = [sys.executable, "-c", _STANDS_STILL, database, task.id]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            until_its_session_waits(database)
            with monkeypatch.context() as soon:
                soon.setattr("controller.store.postgresql.WRITER_IDLE_SECONDS", 1)
                store.can_write()
            claimed = store.claim(task.id, "another", 30)
            process.send_signal(signal.SIGCONT)
            told, _ = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    assert claimed is not None
    assert told == "store_unusable\n"
    assert store.task(task.tenant_id, task.id).lease_owner == "another"


_IS_ANSWERED = """
import os, signal, sys
from controller.store import Store, engine

with engine.writing(Store(sys.argv[1])._engine) as connection:
    driver = connection.connection.driver_connection.pgconn
    driver.send_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 100000)")
    driver.flush()
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_who_stands_still_with_half_of_an_answer_read_keeps_nobody_else_from_writing(
    store: Store, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server waits for it to take the rest, and so its session never is idle."""
    monkeypatch.setattr("controller.store.postgresql.WRITER_IDLE_SECONDS", 1)
    with subprocess.Popen([sys.executable, "-c", _IS_ANSWERED, database]) as process:
        try:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            until_its_session_waits(database)
            store.can_write()
        finally:
            process.kill()


def until_its_session_waits(database: str) -> None:
    """Return once who has the write lock is waited for by the server."""
    query = (
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND wait_event IN ('ClientRead', 'ClientWrite')"
    )
    until_it_says(database, query, 1)


def test_a_command_that_is_refused_has_changed_nothing(tmp_path: Path, postgresql: Cluster) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.home.mkdir(mode=0o700)

    async def serve() -> None:
        async with opened(settings, serving=True):
            pass

    with postgresql.database() as url, closing(Store(url)) as other:
        storeplace.record(settings.home, url)
        with other.alone(), pytest.raises(Conflict) as refused:
            asyncio.run(serve())
        assert refused.value.code == "root_rotating"
        for look in (rootkeys.check, rootkeys.show):
            with other.alone(), pytest.raises(Conflict) as refused:
                look(settings)
            assert refused.value.code == "root_rotating"
        with engine.reading(other._engine) as connection:
            assert inspect(connection).get_table_names() == []


def test_who_works_there_takes_its_place_again_after_a_restart(
    store: Store, who: Caller, database: str, postgresql: Cluster
) -> None:
    with closing(Store(database)) as other, store.working():
        postgresql.stop()
        postgresql.start()
        store.can_write()
        with pytest.raises(Conflict), other.alone():
            pass
        postgresql.stop()
        postgresql.start()
        with other.alone(), pytest.raises(Conflict) as refused:
            store.can_write()
        assert refused.value.code == "root_rotating"
        store.can_write()


def test_a_process_that_was_taken_for_ended_writes_nothing_into_newer_tables(
    store: Store, who: Caller, database: str, postgresql: Cluster
) -> None:
    with store.working():
        postgresql.stop()  # its session ends, and others may have the database alone
        postgresql.start()
        with closing(Store(database)) as newer, newer.alone():
            version_is(newer, "9999")
        try:
            for _ in range(2):
                with pytest.raises(Unavailable) as refused:
                    store.can_write()
                assert refused.value.code == "store_too_new"
            with closing(Store(database)) as other, other.alone():  # nor does it keep anybody out
                pass
        finally:
            with closing(Store(database)) as newer:
                version_is(newer, tables.VERSION)


def version_is(store: Store, version: str) -> None:
    with engine.writing(store._engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :version"), {"version": version})


def test_a_root_key_is_not_changed_while_anybody_works_there(store: Store, database: str) -> None:
    with closing(Store(database)) as other:
        with (
            store.working(),
            other.working(),
            closing(Store(database)) as third,
            pytest.raises(Conflict) as refused,
            third.alone(),
        ):
            pass
        assert refused.value.code == "home_in_use"
        with store.alone(), pytest.raises(Conflict) as refused, other.working():
            pass
        assert refused.value.code == "root_rotating"


def test_what_has_the_former_root_key_seals_nothing_with_it_and_is_not_ready(tmp_path: Path, database: str) -> None:
    """Another home of the same database was given another root key: the one on record here may be destroyed any day."""
    here = Settings(home=tmp_path / "here", store_url=database)
    home.initialise(here)
    shutil.copytree(here.home, tmp_path / "there")
    there = Settings(home=tmp_path / "there", store_url=database)
    rootkeys.rotate(here, "file:new.key")

    async def served() -> tuple[list[str], str]:
        told: list[str] = []
        async with opened(there, serving=True, warn=lambda problem: told.append(problem.code)) as fleet:
            report = await fleet.readiness.report()
            await fleet.kms.keys.create(fleet.owner, "another")
            return told, report.checks["root_key"]

    async def refused() -> None:
        async with opened(there, serving=True) as fleet:
            report = await fleet.readiness.report()
            assert (report.status, report.checks["root_key"]) == ("not_ready", "root_key_wrong")
            with pytest.raises(Unavailable, match=r"copy its root\.json here") as no:
                await fleet.kms.keys.create(fleet.owner, "another")
            assert no.value.code == "root_key_wrong"

    asyncio.run(refused())
    for name in ("root.json", "new.key"):
        shutil.copy(here.home / name, there.home / name)
    assert asyncio.run(served()) == ([], "ok")
    assert rootkeys.check(here) > 1


# -- what may be in between


@contextmanager
def pooled(postgresql: Cluster, database: str, mode: str) -> Iterator[str]:
    """A PgBouncer before a database, and its address."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    if program is None:
        lacking("no PgBouncer here: apt-get install pgbouncer")
    name = database.partition("@/")[2].partition("?")[0]
    with tempfile.TemporaryDirectory(prefix="kps-pgb-") as socket_place:
        # Its own log says when it listens; it does not run as root.
        settings = [
            "[databases]", f"kps = host={postgresql.place} dbname={name} user=kps", "[pgbouncer]", f"pool_mode = {mode}",
            f"unix_socket_dir = {socket_place}", "listen_addr =", "auth_type = any", "listen_port = 6432",
        ]  # fmt: skip
        (Path(socket_place) / "ini").write_text("\n".join(settings))
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            postgres = pwd.getpwnam("postgres")
            os.chown(socket_place, postgres.pw_uid, postgres.pw_gid)
            as_user = {"user": postgres.pw_uid, "group": postgres.pw_gid, "extra_groups": []}
        with subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", program, f"{socket_place}/ini"], stderr=subprocess.PIPE, text=True, **as_user
        ) as running:
            assert running.stderr is not None
            assert any("process up" in line for line in running.stderr)
            threading.Thread(target=running.stderr.read, daemon=True).start()
            try:
                yield f"postgresql://kps@/kps?host={socket_place}&port=6432"
            finally:
                running.terminate()


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_keeps_a_session_for_each_or_is_refused(postgresql: Cluster, tmp_path: Path, mode: str) -> None:
    """With one that lends them two processes would have one turn at the same time."""
    with postgresql.database() as direct, pooled(postgresql, direct, mode) as url:
        with closing(Store(direct)) as store:
            store.migrate()
        settings = Settings(home=tmp_path / "home", store_url=url)
        if mode == "session":
            home.initialise(settings)
            with closing(Store(url)) as mine, closing(Store(url)) as theirs, mine.working(), theirs.working():
                assert mine.take_turn("doors")
                assert not theirs.take_turn("doors")
            return
        with pytest.raises(Unavailable) as refused:
            home.initialise(settings)
        assert refused.value.code == "store_unsuitable"
        assert "pool_mode" in refused.value.message
        with closing(Store(url)) as store, pytest.raises(Unavailable), store.working():
            pass


# -- whose clock it is


@contextmanager
def whose_clock_is_off(monkeypatch: pytest.MonkeyPatch, database: str, by: timedelta) -> Iterator[Store]:
    """Give the store as it is for a machine whose clock differs by so much."""

    class Off(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + by

    with monkeypatch.context() as there, closing(Store(database)) as store:
        there.setattr("controller.model.datetime", Off)
        yield store


@pytest.mark.parametrize("by", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_machine_whose_clock_is_wrong_takes_nobody_for_dead_nor_is_taken_so(
    store: Store, who: Caller, database: str, monkeypatch: pytest.MonkeyPatch, by: timedelta
) -> None:
    """Nor does it hold for an hour what it had begun when it died."""
    tasks = [given.task(store, who, name) for name in ("web-1", "web-2", "web-3")]
    assert store.claim(tasks[0].id, "right", 30) is not None
    with whose_clock_is_off(monkeypatch, database, by) as theirs:
        assert theirs.interrupt_expired() == []
        assert theirs.claim(tasks[1].id, "wrong", 30) is not None
        assert theirs.renew([tasks[1].id], "wrong", 30) == {tasks[1].id}
        assert theirs.claim(tasks[2].id, "dead", 0) is not None
    ended = {each.id for each in store.interrupt_expired()}
    assert ended == {tasks[2].id}


def test_a_door_that_was_asked_for_where_the_clock_is_behind_is_not_taken_for_one_of_long_ago(
    store: Store, who: Caller, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with whose_clock_is_off(monkeypatch, database, timedelta(hours=-2)) as theirs:
        server = given.server(theirs, who)
        request = {"door_id": "d"}
        opening = Task("t", who.tenant_id, who.user_id, server.id, server.name, "root", "door-open", request, model.now())
        theirs.add_tasks([opening])
    assert store.claim("t", "worker", 30) is not None


def test_what_was_given_with_an_order_lives_as_long_as_was_said_whose_clock_ever_is_off(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path / "home", store_url=database)
    home.initialise(settings)
    with closing(Store(database)) as store:
        kms = Kms(store, *root.roots(settings.home))
        task = replace(given.task(store, store.caller_by_local_home()), id="t", request={"given": ["password"]})
        order, opens = deposits.Order.of_task(task), Credential(password=Secret("x"))
        with whose_clock_is_off(monkeypatch, database, timedelta(hours=-25)) as behind:
            behind.can_write()  # as who begins looks at the tables
            sealing = deposits.Deposits(kms, 24, behind.now)
            behind.add_tasks([task], credentials=sealing.sealed([(order, opens)], sealing.until()))
        assert deposits.opened(store, kms, task).password == opens.password
        with whose_clock_is_off(monkeypatch, database, timedelta(hours=25)) as ahead:
            assert deposits.opened(ahead, kms, task).password == opens.password


def test_a_new_rollout_is_driven_by_who_was_asked_however_long_it_takes_to_be_added(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What opens its servers may be in the memory of that one alone."""
    settings = Settings(home=tmp_path / "home", store_url=database)
    home.initialise(settings)
    taken: list[bool] = []

    async def story() -> None:
        async with opened(settings, serving=True) as services:
            who = services.owner
            server = given.server(services.rollouts._store, who)
            add = services.rollouts._store.add_rollout

            def added(rollout: Rollout, *more: Any) -> None:
                add(rollout, *more)
                taken.append(other.take_turn(f"rollout {rollout.id}"))

            monkeypatch.setattr(services.rollouts._store, "add_rollout", added)
            await services.rollouts.start(who, "check", [server], {}, {}, {})

    with closing(Store(database)) as other:
        asyncio.run(story())
    assert taken == [False]


@pytest.mark.parametrize("by", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_token_ends_for_all_at_the_same_time(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, by: timedelta
) -> None:
    settings = Settings(home=tmp_path / "home", store_url=database)
    home.initialise(settings)

    async def given_and_known(known: list[Secret]) -> Token:
        async with opened(settings) as services:
            for each in known:
                await services.people.of_token(each.open().decode(), None)
            made, _, token = await services.tokens.create(services.owner, seconds=600)
            known.append(token)
            return made

    known: list[Secret] = []
    asyncio.run(given_and_known(known))
    with whose_clock_is_off(monkeypatch, database, by):
        made = asyncio.run(given_and_known(known))
    assert abs(made.expires_at - datetime.now(UTC) - timedelta(seconds=600)) < timedelta(seconds=120)
    asyncio.run(given_and_known(known))


def test_a_lease_begins_when_it_can_be_written(store: Store, who: Caller, database: str) -> None:
    """Who waited for others that write does not have less of it."""
    task = given.task(store, who)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with closing(Store(database, lambda: at)) as mine, ThreadPoolExecutor(1) as thread:
        assert mine.claim(task.id, "me", 30) is not None
        with engine.writing(store._engine):
            renewing = thread.submit(mine.renew, [task.id], "me", 30)
            until_somebody_waits(database)
            at += timedelta(seconds=25)
        assert renewing.result() == {task.id}
        assert mine.task(who.tenant_id, task.id).lease_until == at + timedelta(seconds=30)


def until_somebody_waits(database: str) -> None:
    """Return once a session waits for a lock."""
    until_it_says(database, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", 1)


def until_it_says(database: str, query: str, number: int) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        until = time.monotonic() + SECONDS
        while connection.execute(query.encode()).fetchone() != (number,):
            assert time.monotonic() < until
            time.sleep(0.01)  # it tells nobody of what waits there


def test_the_doctor_tells_that_postgresql_has_another_time(tmp_path: Path, database: str) -> None:
    settings = Settings(home=tmp_path / "home", store_url=database)
    home.initialise(settings)

    def off() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=20)

    found = [each for each in doctor.look(settings, clock=off) if each.about == "clock"]
    assert any("PostgreSQL" in each.seen and each.code == "clock_differs" for each in found)


# -- a home there


def test_the_doctor_tells_what_the_database_lacks(tmp_path: Path, postgresql: Cluster) -> None:
    with postgresql.database() as url:
        settings = Settings(home=tmp_path / "home", store_url=url)
        home.initialise(settings)
        assert {each.code for each in doctor.look(settings) if each.about == "database"} == {""}
        for gone, table in (
            ("ALTER TABLE event_heads DROP COLUMN signature", "event_heads.signature"),
            ("DROP TABLE quotas", "quotas"),
        ):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(gone)
            (found,) = (each for each in doctor.look(settings) if each.about == "database")
            assert (found.code, found.level) == ("store_incomplete", "error")
            assert table in found.seen


def test_one_more_home_is_made_for_a_database_by_its_root_key(tmp_path: Path, database: str) -> None:
    FileRootKey.make(tmp_path / "shared.key")
    FileRootKey.make(tmp_path / "another.key")
    uri = f"file:{tmp_path}/shared.key"
    first = home.initialise(Settings(home=tmp_path / "first", store_url=database, root_key_uri=uri))
    with pytest.raises(Problem):
        home.initialise(Settings(home=tmp_path / "wrong", store_url=database, root_key_uri=f"file:{tmp_path}/another.key"))
    assert not root.known(tmp_path / "wrong")
    made = home.initialise(Settings(home=tmp_path / "second", store_url=database, root_key_uri=uri))
    assert (made["access_key"], made["secret_key"]) == (first["access_key"], None)
    assert rootkeys.check(Settings(home=tmp_path / "second")) > 0  # it remembers both


def test_a_home_remembers_its_database_and_is_mistaken_for_no_other(tmp_path: Path, database: str) -> None:
    settings = Settings(home=tmp_path / "home", store_url=database)
    made = home.initialise(settings)
    again = Settings(home=settings.home)
    assert again.database_url == database
    assert not again.database.exists()
    assert stat.S_IMODE((settings.home / storeplace.RECORD).stat().st_mode) == 0o600
    assert home.initialise(again)["access_key"] == made["access_key"]
    assert rootkeys.check(again) > 0
    assert rootkeys.rotate(again, "file:second.key").rewrapped > 0
    with pytest.raises(Unavailable, match="pg_dump"):
        backup.back_up(again, tmp_path / "b")
    other = Settings(home=settings.home, store_url=f"{database}&connect_timeout=4&password=hunter2")
    with pytest.raises(Conflict, match=r"database\.url") as refused:
        _ = other.database_url
    assert refused.value.code == "store_elsewhere"
    assert "hunter2" not in refused.value.message
    with pytest.raises(Problem):  # another home has another root key
        home.initialise(Settings(home=tmp_path / "other", store_url=database))
    plain = Settings(home=tmp_path / "plain")
    home.initialise(plain)
    with pytest.raises(Conflict, match="kps migrate-store"):
        home.initialise(Settings(home=plain.home, store_url=database))


# -- moved there


@pytest.fixture
def full(tmp_path: Path) -> Settings:
    """A home with its own file, and something of most kinds in it."""
    settings = Settings(home=tmp_path / "full")
    home.initialise(settings)
    with closing(Store(settings.database_url)) as store:
        who = store.caller_by_local_home()
        for number in range(3):
            task = given.task(store, who, f"wéb-{number}")
            claimed = store.claim(task.id, "me", 30)
            assert claimed is not None
            ended = Outcome("failed", "unknown", cause="interrupted", evidence={"files": ["ü\u2028", 1.5, None]})
            store.finish(task.id, "me", claimed.generation, ended)
        store.add_checkpoint(who.tenant_id)
    return settings


def contents(settings: Settings) -> dict[str, list[Any]]:
    found = engine.connect(settings.database_url)
    with engine.reading(found) as connection:
        told = {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in metadata.sorted_tables
        }
    found.dispose()
    return told


def test_a_home_moves_with_all_that_it_knows(full: Settings, postgresql: Cluster, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    backup.back_up(full, kept)
    before = contents(full)
    with postgresql.database() as url:
        moved = moving.move(full, url)
        after = Settings(home=full.home)
        assert after.database_url == url
        assert contents(after) == before
        assert {each.table: each.rows for each in moved} == {name: len(rows) for name, rows in before.items()}
        assert sorted(each.name for each in full.home.glob("kps.db*")) == [storeplace.MOVED]
        with pytest.raises(Conflict, match="already"):
            moving.move(full, url)
        with pytest.raises(Conflict) as refused:
            backup.restore(kept, after)
        assert refused.value.code == "home_exists"
        (full.home / storeplace.RECORD).unlink()
        with pytest.raises(Conflict) as refused:
            backup.restore(kept, after)
        assert refused.value.code == "home_exists"
        with pytest.raises(Conflict, match="was moved to PostgreSQL") as refused:
            home.initialise(after)
        with postgresql.database() as empty, pytest.raises(Conflict, match="holds none of it"):
            home.initialise(Settings(home=full.home, store_url=empty))
        assert not after.database.exists()
        assert home.initialise(Settings(home=full.home, store_url=url))["secret_key"] is None
        assert after.database_url == url
        with closing(Store(url)) as store:
            who = store.caller_by_local_home()
            kms = Kms(store, *root.roots(full.home))
            owner, sealed = store.access_key(store.local_owner()[1])
            kms.open(sealed, home.access_key_context(owner, store.local_owner()[1])).wipe()
            highest = max(row[0] for row in before["tasks"])
            assert given.task(store, who, "new").seq == highest + 1


def test_a_home_is_not_moved_while_somebody_works_with_it_nor_onto_something(full: Settings, postgresql: Cluster) -> None:
    with postgresql.database() as url:
        with root.in_use(full.home), pytest.raises(Conflict) as refused:
            moving.move(full, url)
        assert refused.value.code == "home_in_use"
        home.initialise(Settings(home=full.home.with_name("other"), store_url=url))
        with pytest.raises(Conflict) as refused:
            moving.move(full, url)
        assert refused.value.code == "target_not_empty"
    assert full.in_file


def breaks_off(full: Settings, url: str, monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: str) -> None:
    """Move a home, and die at this step."""

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, step, dies)
        with pytest.raises(KeyboardInterrupt):
            moving.move(full, url)


def test_a_move_that_was_kept_and_not_recorded_is_ended_by_the_next_one(
    full: Settings, postgresql: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgresql.database() as url:
        breaks_off(full, url, monkeypatch, storeplace, "record")
        assert full.in_file
        assert moving.move(full, url)
        assert Settings(home=full.home).database_url == url


def test_a_move_that_was_recorded_puts_the_file_aside_the_next_time(
    full: Settings, postgresql: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgresql.database() as url:
        breaks_off(full, url, monkeypatch, moving, "_put_aside")
        assert moving.move(full, url) == []
        assert sorted(each.name for each in full.home.glob("kps.db*")) == [storeplace.MOVED]
        with pytest.raises(Conflict) as refused:
            moving.move(full, url)
        assert refused.value.code == "store_elsewhere"


def test_what_is_not_there_as_it_was_here_is_not_kept(
    full: Settings, postgresql: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that changes what it is given; that a trigger does it stands for all other ways."""
    from controller.store import moving as store_moving

    whole = store_moving._count_on

    def and_spoil(here: Any, there: Any) -> None:
        whole(here, there)
        there.exec_driver_sql("UPDATE servers SET port = port + 1 WHERE name = 'wéb-1'")

    monkeypatch.setattr(store_moving, "_count_on", and_spoil)
    with postgresql.database() as url:
        with pytest.raises(Problem) as refused:
            moving.move(full, url)
        assert refused.value.code == "moved_wrong"
        with closing(Store(url)) as store, pytest.raises(Unavailable, match="no owner"):
            store.local_owner()
    assert full.in_file


def test_a_move_killed_in_the_middle_leaves_both_as_they_were(full: Settings, postgresql: Cluster) -> None:
    before = contents(full)
    program = """
import os, signal, sys
from pathlib import Path
from controller.service import moving
from controller.settings import Settings

def told(table, rows):
    if table == "events":
        os.kill(os.getpid(), signal.SIGKILL)

moving.move(Settings(home=Path(sys.argv[1])), sys.argv[2], told)
"""
    with postgresql.database() as url:
        done = subprocess.run([sys.executable, "-c", program, full.home, url], check=False)
        assert done.returncode == -signal.SIGKILL
        assert full.in_file
        assert contents(full) == before
        with closing(Store(url)) as store, pytest.raises(Unavailable, match="no owner"):
            store.local_owner()
        until = time.monotonic() + 30
        while True:  # until the server has seen that its client is gone
            try:
                moving.move(full, url)
                break
            except Conflict:
                assert time.monotonic() < until
                time.sleep(0.05)
        assert contents(Settings(home=full.home)) == before
