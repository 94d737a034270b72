"""The queue that controllers share: tasks fetched per second with much waiting, by fetchers, and what a task costs each store.

    python -m benchmarks.queue [--waiting 100000] [--fetchers 1 8 32] [--seconds 10] [--tasks 500]

So many jobs of different servers wait in a PostgreSQL that is made for it (on this machine, waiting for its disk as one in use
does). Fetchers with a connection each take one after the other and end it at once, for so many seconds; with the index that we
add to Procrastinate's tables, and without. Then tasks go through the store alone, from adding to their end, with their four
events: in a file of SQLite, and there, one after the other. Absolute figures move with the machine; ratios count.
"""

import argparse
import asyncio
import logging
import tempfile
import time
import uuid
from contextlib import closing
from pathlib import Path

import psycopg
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status
from rich.console import Console
from rich.table import Table

from controller.dispatch.queue import ORDINARY, Queue
from controller.model import Caller, Outcome, Sealed, Server, Task, now
from controller.store import Store
from tests.postgresql import Cluster

WHO = Caller("1" * 32, "2" * 32, "3" * 32, "administrator")
DURABLE = ("fsync=on", "full_page_writes=on", "autovacuum=on", "shared_buffers=128MB", "max_connections=100")


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asks.add_argument("--waiting", type=int, default=100_000)
    asks.add_argument("--fetchers", type=int, nargs="+", default=[1, 8, 32])
    asks.add_argument("--seconds", type=float, default=10)
    asks.add_argument("--tasks", type=int, default=500)
    asked = asks.parse_args()
    logging.getLogger("procrastinate").setLevel(logging.ERROR)  # it would have its App in another module than this one
    cluster = Cluster()
    try:
        cluster.stop()
        cluster.start(*DURABLE)
        with cluster.database() as url:
            show(asyncio.run(fetching(url, asked.waiting, asked.fetchers, asked.seconds)), asked.waiting)
        with cluster.database() as url, tempfile.TemporaryDirectory() as place:
            file, there = cost(f"sqlite:///{Path(place) / 'kps.db'}", asked.tasks), cost(url, asked.tasks)
        print(f"a task through the store alone: SQLite {file:.2f} ms, PostgreSQL {there:.2f} ms, ratio {there / file:.2f}")
    finally:
        cluster.close()


def show(rates: dict[tuple[int, bool], float], waiting: int) -> None:
    table = Table(title=f"tasks fetched per second, {waiting:,} waiting", title_justify="left")
    for name in ("fetchers", "with our index", "without", "ratio"):
        table.add_column(name, justify="right")
    for count in sorted({count for count, _ in rates}):
        with_, without = rates[count, True], rates[count, False]
        table.add_row(str(count), f"{with_:.0f}", f"{without:.0f}", f"{with_ / without:.1f}" if without else "-")
    Console(width=100).print(table)


async def fetching(url: str, waiting: int, counts: list[int], seconds: float) -> dict[tuple[int, bool], float]:
    """Return how many jobs were fetched a second, by how many fetchers, with the index and without."""
    queue = Queue(url, 30)
    await queue.open()
    await queue.put([task(str(uuid.uuid4())) for _ in range(waiting)])
    await queue.close()
    rates = {}
    for index in (True, False):
        with psycopg.connect(url, autocommit=True) as connection:
            if not index:
                connection.execute("DROP INDEX kps_jobs_by_lock")
            connection.execute("VACUUM ANALYZE procrastinate_jobs")
        for count in counts:
            rates[count, index] = await rate(url, count, seconds)
    return rates


async def rate(url: str, count: int, seconds: float) -> float:
    app = App(connector=PsycopgConnector(conninfo=url, min_size=count, max_size=count))
    done = 0
    async with app.open_async():
        manager = app.job_manager
        workers = [await manager.register_worker() for _ in range(count)]
        began = time.monotonic()

        async def fetcher(worker: int) -> None:
            nonlocal done
            while time.monotonic() - began < seconds:
                job = await manager.fetch_job(queues=[ORDINARY], worker_id=worker)
                if job is None:
                    return
                await manager.finish_job(job, status=Status.SUCCEEDED, delete_job=True)
                done += 1

        await asyncio.gather(*map(fetcher, workers))
        return done / (time.monotonic() - began)


def cost(url: str, count: int) -> float:
    """Return the milliseconds of wall clock that a task takes through a store, one after the other."""
    with closing(Store(url)) as store:
        store.migrate()
        who = store.first_tenant(WHO, "home", "administrator", "A" * 20, Sealed(b"sealed"))[0]
        servers = [Server(str(uuid.uuid4()), who.tenant_id, f"web-{number}", "192.0.2.1") for number in range(count)]
        store.add_servers(servers)
        tasks = [task(each.id, who) for each in servers]
        began = time.monotonic()
        for each in tasks:
            through(store, each)
        return (time.monotonic() - began) / count * 1000


def through(store: Store, each: Task) -> None:
    store.add_tasks([each], "me", 30)
    claimed = store.claim(each.id, "me", 30)
    assert claimed is not None
    store.progress(each.id, "me", "prove", {})
    assert store.finish(each.id, "me", claimed.generation, Outcome("succeeded", "as_asked"))


def task(server_id: str, who: Caller = WHO) -> Task:
    return Task(str(uuid.uuid4()), who.tenant_id, who.user_id, server_id, server_id, "root", "check", {}, now())


if __name__ == "__main__":
    main()
