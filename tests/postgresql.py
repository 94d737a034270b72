"""A real PostgreSQL for tests: a cluster on a Unix socket in a directory of its own, and a database for each test."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from controller.store import Store
from controller.store.tables import metadata
from tests.needs import lacking

OWNER = "kps"
_SHARED = "kps_shared"
_START_SECONDS = 30


def programs() -> Path:
    """Return where the server's programs are; the newest of them."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parents[1].name))
    if not found:
        lacking("no PostgreSQL here: apt-get install postgresql")
    return found[-1].parent


class Cluster:
    """A server that nobody but this machine reaches, over its socket. Nothing in it has to last: it waits for no disk."""

    def __init__(self) -> None:
        self._bin = programs()
        self.place = Path(tempfile.mkdtemp(prefix="kps-pg-"))
        # It refuses to run as root.
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            postgres = pwd.getpwnam("postgres")
            os.chown(self.place, postgres.pw_uid, postgres.pw_gid)
            self._as = {"user": postgres.pw_uid, "group": postgres.pw_gid, "extra_groups": []}
        self._server: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", self.place / "data", "-A", "trust", "-U", OWNER, "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    def start(self, *more: str) -> None:
        """Start it, with more settings (NAME=VALUE), and wait until it answers."""
        settings = (
            f"unix_socket_directories={self.place}", "listen_addresses=", "fsync=off", "full_page_writes=off",
            "max_connections=60", "shared_buffers=32MB", "autovacuum=off", *more,
        )  # fmt: skip
        words = [word for each in settings for word in ("-c", each)]
        with open(self.place / "log", "ab") as log:
            # Where the tests are killed it ends too.
            self._server = subprocess.Popen(
                ["setpriv", "--pdeathsig", "INT", self._bin / "postgres", "-D", self.place / "data", *words],
                stdout=log,
                stderr=log,
                cwd=self.place,
                **self._as,
            )
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg.connect(self._conninfo("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self._server.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT breaks off what is under way; SIGQUIT is a crash."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(30)
            self._server = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.place)

    def url(self, database: str) -> str:
        return f"postgresql://{OWNER}@/{database}?host={self.place}"

    @contextmanager
    def session(self, database: str = "postgres") -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self._conninfo(database), autocommit=True) as connection:
            yield connection

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the URL of a new database with nothing in it."""
        name = f"t{uuid.uuid4().hex}"
        with self.session() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield self.url(name)
        finally:
            with self.session() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def emptied(self) -> str:
        """Return the URL of a database with this version's tables, all empty: the same one each time, which is quicker."""
        with self.session() as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [_SHARED]).fetchone():
                connection.execute(f"CREATE DATABASE {_SHARED} TEMPLATE template0")
                store = Store(self.url(_SHARED))
                store.migrate()
                store.close()
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [_SHARED])
        with self.session(_SHARED) as connection, connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")  # references are not looked at
            for table in metadata.tables:
                connection.execute(f"DELETE FROM {table}")  # noqa: S608
            for (sequence,) in connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S'").fetchall():
                connection.execute(f"SELECT setval('{sequence}', 1, false)")
        return self.url(_SHARED)

    def _conninfo(self, database: str) -> str:
        return f"host={self.place} user={OWNER} dbname={database}"

    def program(self, name: str, *words: object) -> None:
        """Run one of PostgreSQL's programs, as whoever runs the tests."""
        subprocess.run([self._bin / name, *map(str, words)], check=True, capture_output=True)

    def _run(self, program: str, *words: object) -> None:
        subprocess.run([self._bin / program, *map(str, words)], check=True, capture_output=True, cwd=self.place, **self._as)
