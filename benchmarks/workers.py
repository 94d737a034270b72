"""What workers that share a PostgreSQL get done: tasks a second, and what a task costs each part; a model made of that.

    python -m benchmarks.workers [--servers 1000] [--processes 1 2]      # some minutes
    python -m benchmarks.workers --model                                 # from the constants that are kept here

A PostgreSQL is made for it on this machine, that waits for its disk as one in use does, and so many fake servers
(benchmarks/fakes.py). A rollout replaces the key pair of all of them (three connections each, two of them proofs), another one
looks at them (one connection): run by a command by itself and by `kps serve` alone, with the store in a file; by `kps serve`
with its store there; and by `kps worker` in so many processes, while `kps serve` takes no tasks and only drives. A few servers
go first and are not counted.

CPU is that of each part's whole tree of processes. All parts share the machine, so on few cores the rate says little of what
more machines do: the model goes by CPU a task, and by how long the one lock is held for which all writers wait (looked at fifty
times a second).
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from benchmarks.fakes import PASSWORD, Fakes
from benchmarks.queue import DURABLE
from controller.store import Store, engine, postgresql, tables
from tests.postgresql import Cluster

WARM = 64  # servers that go first: whatever is made at its first use is made with them
IN_ONE_FILE = 2000
AT_ONCE = 256  # servers that a rollout has under way
PLACES = 32  # of each process: KPS_CONCURRENCY
TOLD_SECONDS = 11.0  # PostgreSQL's counters are up to date when a session has been idle for ten
IDLE_SECONDS = 10.0
LOOKS_APART = 0.02
_TICK = os.sysconf("SC_CLK_TCK")
_HELD = """SELECT /* looked */ count(*) FILTER (WHERE granted), count(*) FILTER (WHERE NOT granted) FROM pg_locks
WHERE locktype = 'advisory' AND classid = %s AND objid = %s AND objsubid = 2"""
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_COUNTED = """SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8, pg_database_size(current_database()),
coalesce(sum(calls) FILTER (WHERE query NOT LIKE '%procrastinate%'), 0)::int8,
coalesce(sum(calls) FILTER (WHERE query LIKE '%procrastinate%'), 0)::int8
FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_%' AND query NOT LIKE '%/* looked */%'"""


class Counted(NamedTuple):
    """Of a PostgreSQL, since it was made."""

    transactions: float = 0
    wal: float = 0  # bytes
    size: float = 0  # bytes
    statements: float = 0  # of the store
    of_queue: float = 0  # statements


class Seen(NamedTuple):
    """Of one rollout, or of nothing at all (no tasks): seconds; per task, or per second where there are none."""

    tasks: int
    seconds: float  # from the first task's being asked for to the last one's end
    each: float  # that a task took, in the middle
    cpu: dict[str, float]  # by part
    counted: Counted
    locked: float  # for how long somebody had the write lock: seconds a task, or a second
    waiting: float  # how many waited for it, on average
    sessions: int  # the most at a time

    @property
    def rate(self) -> float:
        return self.tasks / self.seconds


class Constants(NamedTuple):
    """What a task costs, in milliseconds of CPU if nothing else is said."""

    worker: float
    driver: float  # kps serve that drives the rollout
    database: float
    locked: float  # milliseconds for which it holds the write lock
    statements: float  # of the store, one after the other, most of them under that lock
    transactions: float
    wal: float  # KB
    size: float  # KB that the database grows by
    sessions: int  # with PostgreSQL, of a worker process
    sessions_serve: int
    idle: float  # transactions a second of a worker process that has nothing to do


# Of two worker processes over 800 fakes, all on two cores, which that filled (docs/performance.md).
MEASURED = Constants(
    worker=43.5, driver=3.7, database=22.1, locked=42.8, statements=64.0, transactions=23.6, wal=36.9, size=16.8, sessions=8,
    sessions_serve=7, idle=16.6,
)  # fmt: skip
FETCHED = 420  # tasks a second that the queue hands out, with 100,000 waiting: python -m benchmarks.queue


class Forecast(NamedTuple):
    """What so many worker processes do."""

    processes: int
    rate: float  # tasks a second
    hours: float
    worker_cores: float
    database_cores: float
    driver_cores: float
    sessions: int
    transactions: float  # a second
    wal: float  # GB in all
    bound: str


def forecast(of: Constants, servers: int, processes: int, seconds: float, round_trip: float) -> Forecast:
    """Return what so many worker processes, on as many cores, make of a task for each of so many servers.

    seconds: that a task takes from its beginning to its end, for the most part waiting for its server. round_trip: milliseconds
    to PostgreSQL and back, which each statement under the write lock adds to it. Assumed are as many cores for PostgreSQL as it
    needs, and rollouts enough, each driven by another `kps serve`, that none of these is full.
    """
    most = {
        "write lock": 1000 / (of.locked + of.statements * round_trip),
        "workers' CPU": processes * 1000 / of.worker,
        "places": processes * PLACES / seconds,
        "queue": FETCHED,
    }
    bound = min(most, key=lambda name: most[name])
    rate = most[bound]
    return Forecast(
        processes,
        rate,
        servers / rate / 3600,
        rate * of.worker / 1000,
        rate * of.database / 1000,
        rate * of.driver / 1000,
        processes * of.sessions + max(1, round(rate * of.driver / 1000 + 0.5)) * of.sessions_serve,
        rate * of.transactions + processes * of.idle,
        servers * of.wal / 1e6,
        bound,
    )


def cpu(pid: int) -> float:
    """Return the seconds of CPU of a process and all it has started, those that have ended too."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15])) / _TICK + sum(cpu(int(child)) for child in children)


class Database:
    """A PostgreSQL and what is counted of it."""

    def __init__(self, cluster: Cluster, url: str) -> None:
        self.url = url
        self._postmaster = int((cluster.place / "data/postmaster.pid").read_text().split()[0])
        self._session = psycopg.connect(url, autocommit=True)
        self._looks = psycopg.connect(url, autocommit=True)
        self._session.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        # Ours are not what is measured.
        self._ours = [each.info.backend_pid for each in (self._session, self._looks)]

    def close(self) -> None:
        self._session.close()
        self._looks.close()

    def cpu(self) -> float:
        return cpu(self._postmaster) - sum(map(cpu, self._ours))

    def counted(self) -> Counted:
        found = self._session.execute(_COUNTED).fetchone()
        assert found is not None
        return Counted(*map(float, found))

    def look(self) -> tuple[int, int, int]:
        """Return how many have the write lock, wait for it, and are connected."""
        held = self._looks.execute(_HELD, [postgresql._OURS, postgresql._WRITE]).fetchone()
        sessions = self._looks.execute(_SESSIONS).fetchone()
        assert held is not None
        assert sessions is not None
        return held[0], held[1], sessions[0] - 1


@contextmanager
def looking(database: Database | None) -> Iterator[list[tuple[int, int, int]]]:
    """Look at the write lock ever again while the block runs."""
    found: list[tuple[int, int, int]] = []
    over = threading.Event()

    def look() -> None:
        while database is not None and not over.wait(LOOKS_APART):
            found.append(database.look())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


class Home:
    """A home that knows so many fakes, and what runs on it."""

    def __init__(self, place: Path, fakes: Fakes, database: Database | None) -> None:
        self.place, self._fakes, self.database = place, fakes, database
        self.environment = {**os.environ, "KPS_HOME": str(place / "home"), "KPS_CONCURRENCY": str(PLACES)}
        if database is not None:
            self.environment["KPS_DATABASE_URL"] = database.url
        self.store = Store(f"sqlite:///{place}/home/kps.db" if database is None else database.url)
        self.parts: dict[str, int] = {}  # by name: the process
        self._bound = "one"
        self.kps("init")
        rows = [f"s{number},{each},{fakes.port},root,{fakes.host_key},part={'warm' if number < WARM else 'rest'}"
                for number, each in enumerate(fakes.addresses)]  # fmt: skip
        for start in range(0, len(rows), IN_ONE_FILE):
            lines = ["name,host,port,login,host_key,labels", *rows[start : start + IN_ONE_FILE], ""]
            (place / "fleet.csv").write_text("\n".join(lines))
            self.kps("server", "import", str(place / "fleet.csv"))
        for name in ("one", "two"):
            self.kps("keypair", "create", name)
        passwords = "".join(f"s{number}\t{PASSWORD}\n" for number in range(len(rows)))
        self.roll("bind", "--all", "--keypair", "one", "--password-stdin", given=passwords)

    def kps(self, *words: str, given: str = "") -> str:
        """Run a command and return what it said; SystemExit where it did not end well."""
        done = subprocess.run(_words(*words, "--json"), input=given, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def roll(self, operation: str, *words: str, given: str = "") -> None:
        strategy = ("--canary", "0", "--batch", "100%", "--concurrency", str(AT_ONCE))
        self.kps("rollout", "start", operation, *strategy, *words, given=given)

    @contextmanager
    def run_by(self, processes: int) -> Iterator[None]:
        """Have it served within the block; processes: the workers that run the tasks, none: who serves does."""
        with ExitStack() as ending:
            serve = self.environment | {"KPS_SERVE_TAKES_TASKS": "false" if processes else "true"}
            self.parts["kps serve"] = ending.enter_context(_running(self.place, "serve", environment=serve))
            if processes:
                # As on another machine: a home of its own, which is a copy.
                there = self.place / "worker"
                shutil.rmtree(there, ignore_errors=True)
                shutil.copytree(self.place / "home", there, ignore=shutil.ignore_patterns("*.sock", "*.lock"))
                environment = self.environment | {"KPS_HOME": str(there)}
                words = ("worker", "--processes", str(processes))
                self.parts["workers"] = ending.enter_context(_running(self.place, *words, environment=environment))
            yield
        self.parts.clear()

    def measured(self) -> dict[str, Seen]:
        """Replace the key pair of all, then look at all, then rest; what each cost."""
        self._bound = "two" if self._bound == "one" else "one"
        orders = {"replace": ("replace", "--keypair", self._bound), "check": ("check",)}
        for words in orders.values():
            self.roll(*words, "part=warm")
        resting = self._resting()
        found = {name: self._rolled(words, resting) for name, words in orders.items()}
        return found | {"rest": resting}

    def _rolled(self, words: Sequence[str], resting: Seen) -> Seen:
        used, counted, began = self._cpu(), self._counted(), time.monotonic()
        with looking(self.database) as looks:
            self.roll(*words, "part=rest")
        wall = time.monotonic() - began
        spent = {name: now - used[name] for name, now in self._cpu().items()}
        tasks, seconds, each = self._told()
        if self.database is not None:
            time.sleep(TOLD_SECONDS)
        after = self._counted()
        # While it was waited for them to be told, transactions went on as at rest.
        more = Counted(*(rate * TOLD_SECONDS for rate in resting.counted))
        each_counted = Counted(*((b - a - c) / tasks for a, b, c in zip(counted, after, more, strict=True)))
        share, waiting, sessions = _of(looks)
        spent = {name: took / tasks for name, took in spent.items()}
        return Seen(tasks, seconds, each, spent, each_counted, share * wall / tasks, waiting, sessions)

    def _resting(self) -> Seen:
        if self.database is not None:
            time.sleep(TOLD_SECONDS)
        used, counted = self._cpu(), self._counted()
        with looking(self.database) as looks:
            time.sleep(IDLE_SECONDS)
        cpu = {name: (now - used[name]) / IDLE_SECONDS for name, now in self._cpu().items()}
        each = Counted(*((b - a) / IDLE_SECONDS for a, b in zip(counted, self._counted(), strict=True)))
        return Seen(0, IDLE_SECONDS, 0, cpu, each, *_of(looks))

    def _cpu(self) -> dict[str, float]:
        """Return the seconds of CPU so far, by part."""
        commands = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = {name: cpu(pid) for name, pid in self.parts.items()}
        found |= {"command": commands.ru_utime + commands.ru_stime, "fakes": self._fakes.seen()[0]}
        return found | ({} if self.database is None else {"PostgreSQL": self.database.cpu()})

    def _counted(self) -> Counted:
        return Counted() if self.database is None else self.database.counted()

    def _told(self) -> tuple[int, float, float]:
        """Return of the last rollout how many tasks it had, for how long, and how long the one in the middle took."""
        table = tables.tasks.c
        with engine.reading(self.store._engine) as connection:
            last = select(tables.rollouts.c.id).order_by(tables.rollouts.c.created_at.desc()).limit(1).scalar_subquery()
            query = select(table.status, table.created_at, table.started_at, table.finished_at).where(table.rollout_id == last)
            found = connection.execute(query).all()
        wrong = [status for status, *_ in found if status not in ("succeeded", "unchanged")]
        if wrong or not found:
            sys.exit(f"{len(wrong)} of {len(found)} tasks did not succeed")
        took = sorted((ended - begun).total_seconds() for _, _, begun, ended in found)
        first: datetime = min(asked for _, asked, _, _ in found)
        last_ended: datetime = max(ended for *_, ended in found)
        return len(found), (last_ended - first).total_seconds(), took[len(took) // 2]


def _words(*words: str) -> list[str]:
    return [sys.executable, "-m", "controller.cli", *words]


def _of(looks: Sequence[tuple[int, int, int]]) -> tuple[float, float, int]:
    """Return for which share of the time the write lock was held, how many waited for it on average, and the most sessions."""
    if not looks:
        return 0.0, 0.0, 0
    held, waiting, sessions = zip(*looks, strict=True)
    return sum(held) / len(looks), sum(waiting) / len(looks), max(sessions)


@contextmanager
def _running(place: Path, *words: str, environment: Mapping[str, str]) -> Iterator[int]:
    """Run a command of ours while the block runs, from when it says that it is ready; gives the process's id."""
    log = place / f"{words[0]}.log"
    with open(log, "wb") as told:
        process = subprocess.Popen(_words(*words, "--json"), env=environment, stdout=subprocess.PIPE, stderr=told)
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                sys.exit(f"{words[0]}: {log.read_text()[-2000:]}")
            yield process.pid
        finally:
            process.terminate()
            process.wait(120)


def _name(processes: int) -> str:
    return f"PostgreSQL, kps worker --processes {processes}" if processes else "PostgreSQL, kps serve alone"


def measure(servers: int, processes: Sequence[int], console: Console) -> dict[str, dict[str, Seen]]:
    """Return what each arrangement made of each rollout."""
    found = {}
    with tempfile.TemporaryDirectory() as place, Fakes(servers + WARM) as fakes:
        home = Home(Path(place), fakes, None)
        with closing(home.store):
            found["in a file, a command by itself"] = home.measured()
            with home.run_by(0):
                found["in a file, kps serve alone"] = home.measured()
    cluster = Cluster()
    try:
        cluster.stop()
        cluster.start(*DURABLE, "shared_preload_libraries=pg_stat_statements")
        with (
            cluster.database() as url, closing(Database(cluster, url)) as database,
            tempfile.TemporaryDirectory() as place, Fakes(servers + WARM) as fakes,
        ):  # fmt: skip
            home = Home(Path(place), fakes, database)
            for count in (0, *processes):
                with home.run_by(count):
                    found[_name(count)] = home.measured()
                console.print(_name(count), style="dim")
            home.store.close()
    finally:
        cluster.close()
    return found


def constants(found: Mapping[str, Mapping[str, Seen]], processes: Sequence[int]) -> Constants:
    """Return what the model goes by: of a replace, by the most workers. processes: two numbers of them at least."""
    least, most = min(processes), max(processes)
    few, many = found[_name(least)], found[_name(most)]
    seen, more = many["replace"], most - least
    sessions = round((seen.sessions - few["replace"].sessions) / more)
    return Constants(
        worker=seen.cpu["workers"] * 1000,
        driver=seen.cpu["kps serve"] * 1000,
        database=seen.cpu["PostgreSQL"] * 1000,
        locked=seen.locked * 1000,
        statements=seen.counted.statements,
        transactions=seen.counted.transactions,
        wal=seen.counted.wal / 1000,
        size=seen.counted.size / 1000,
        sessions=sessions,
        sessions_serve=seen.sessions - most * sessions,
        idle=(many["rest"].counted.transactions - few["rest"].counted.transactions) / more,
    )


def show(found: Mapping[str, Mapping[str, Seen]], console: Console) -> None:
    for operation in ("replace", "check"):
        table = Table(title=f"{operation}: a task, in ms of CPU if nothing else is said", title_justify="left")
        for name in ("run by", "tasks/s", "each s", "workers", "serve", "PostgreSQL", "fakes", "command", "all"):
            table.add_column(name, justify="left" if name == "run by" else "right")
        for name, of in found.items():
            seen = of[operation]
            spent = [seen.cpu.get(part, 0) * 1000 for part in ("workers", "kps serve", "PostgreSQL", "fakes", "command")]
            table.add_row(name, f"{seen.rate:.1f}", f"{seen.each:.2f}", *(f"{each:.1f}" for each in (*spent, sum(spent))))
        console.print(table)
        table = Table(title=f"{operation}: a task, in the database", title_justify="left")
        names = (
            "run by",
            "locked ms",
            "wait for it",
            "transactions",
            "statements",
            "of the queue",
            "WAL KB",
            "grows KB",
            "sessions",
        )
        for name in names:
            table.add_column(name, justify="left" if name == "run by" else "right")
        for name, of in list(found.items())[1:]:
            seen, counted = of[operation], of[operation].counted
            told = (seen.locked * 1000, seen.waiting, counted.transactions, counted.statements, counted.of_queue)
            sizes = (counted.wal / 1000, counted.size / 1000)
            table.add_row(name, *(f"{each:.2f}" for each in told), *(f"{each:.1f}" for each in sizes), str(seen.sessions))
        console.print(table)
    table = Table(title="at rest, a second", title_justify="left")
    for name in ("run by", "workers CPU ms", "serve CPU ms", "PostgreSQL CPU ms", "transactions", "WAL KB"):
        table.add_column(name, justify="left" if name == "run by" else "right")
    for name, of in found.items():
        seen = of["rest"]
        spent = [seen.cpu.get(part, 0) * 1000 for part in ("workers", "kps serve", "PostgreSQL")]
        table.add_row(name, *(f"{each:.1f}" for each in (*spent, seen.counted.transactions, seen.counted.wal / 1000)))
    console.print(table)


def model(of: Constants, seconds: float, round_trip: float, console: Console) -> None:
    """Print what more and more worker processes do, up to where more of them do no more."""
    for servers in (100_000, 1_000_000):
        title = f"{servers:,} servers, {seconds:g} s a task, PostgreSQL {round_trip:g} ms away"
        table = Table(title=title, title_justify="left")
        names = (
            "worker processes",
            "tasks/s",
            "hours",
            "cores: workers",
            "PostgreSQL",
            "kps serve",
            "sessions",
            "transactions/s",
        )
        for name in (*names, "WAL GB", "bound by"):
            table.add_column(name, justify="left" if name == "bound by" else "right")
        processes, before = 1, ""
        while before not in ("write lock", "queue"):
            made = forecast(of, servers, processes, seconds, round_trip)
            table.add_row(
                str(made.processes), f"{made.rate:.0f}", f"{made.hours:.2f}", f"{made.worker_cores:.1f}",
                f"{made.database_cores:.1f}", f"{made.driver_cores:.1f}", str(made.sessions), f"{made.transactions:.0f}",
                f"{made.wal:.1f}", made.bound,
            )  # fmt: skip
            processes, before = processes * 2, made.bound
        console.print(table)


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asks.add_argument("--servers", type=int, default=1000)
    asks.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    asks.add_argument("--model", action="store_true", help="measure nothing: go by the constants that are kept here")
    asks.add_argument("--task-seconds", type=float, default=3.0, help="that a task takes on a real server; for the model")
    asks.add_argument("--round-trip", type=float, default=0.3, help="ms from a controller to PostgreSQL; for the model")
    asks.add_argument("--locked", type=float, help="ms that a task holds the write lock, in place of what was measured")
    asked = asks.parse_args()
    if len(set(asked.processes)) < 2 or min(asked.processes) < 1:
        asks.error("what one more process does is told from two numbers of them: name at least two")
    console = Console(width=None if sys.stdout.isatty() else 150)
    of = MEASURED
    if not asked.model:
        found = measure(asked.servers, asked.processes, Console(stderr=True))
        show(found, console)
        of = constants(found, asked.processes)
        print(json.dumps(of._asdict()))
    of = of if asked.locked is None else of._replace(locked=asked.locked)
    model(of, asked.task_seconds, asked.round_trip, console)


if __name__ == "__main__":
    main()
