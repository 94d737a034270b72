"""What the console's pages take in a large home: over HTTP, from a controller that serves it as ever (`kps serve`).

    python -m benchmarks.pages [--servers 10000] [--tasks 100000] [--times 100] [--home DIRECTORY] [--postgresql]
        [--json] [PATH...]

A home is filled (benchmarks/home.py) in a directory that goes away afterwards, or in --home, where it stays and is measured again
as it stands; with --postgresql a copy of it is moved to a PostgreSQL that is made for it. The owner signs in by a link, and asks
for every page --times over one connection, once before it counts. Told are the median and the 99th of a hundred of what they
took, the controller's CPU for each (its own and the system's), how large the page is, and the controller's peak memory before the
first page and after the last. The overview is counted at most every few seconds: that is a row of its own.
"""

import argparse
import asyncio
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import httpx
from rich.console import Console as Terminal
from rich.table import Table
from sqlalchemy import func, select

from benchmarks.home import fill
from benchmarks.queue import DURABLE
from controller.service.console import Console
from controller.service.overview import MOST_REST
from controller.settings import Settings
from controller.store import Store, engine, tables
from controller.web.orders import MOST_SHOWN
from tests.postgresql import Cluster

GOAL = 300.0  # milliseconds, of the 99th of a hundred
COUNTED = "/console/ (counted anew)"
_COUNTED_TIMES = 5
_TICK = 1000 / os.sysconf("SC_CLK_TCK")  # milliseconds


class Took(NamedTuple):
    """What a page takes: milliseconds from question to answer, and of the controller's CPU; and how large it is."""

    median: float
    p99: float
    cpu: float
    bytes: int


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asks.add_argument("paths", nargs="*")
    asks.add_argument("--home", type=Path)
    asks.add_argument("--servers", type=int, default=10_000)
    asks.add_argument("--tasks", type=int, default=100_000)
    asks.add_argument("--times", type=int, default=100)
    asks.add_argument("--postgresql", action="store_true")
    asks.add_argument("--json", action="store_true")
    asked = asks.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = asked.home or Path(place) / "home"
        if not home.exists():
            fill(home, asked.servers, asked.tasks)
        with moved(home, Path(place) / "moved") if asked.postgresql else nullcontext(home) as where:
            found, memory = measured(where, asked.paths, asked.times)
    table = Table(title="pages: ms over HTTP, and of the controller's CPU", title_justify="left")
    for name in ("page", "median", "p99", "CPU", "KB"):
        table.add_column(name, justify="left" if name == "page" else "right", overflow="fold")
    for path, took in found.items():
        table.add_row(path, f"{took.median:.0f}", f"{took.p99:.0f}", f"{took.cpu:.0f}", f"{took.bytes / 1024:.0f}")
    terminal = Terminal(stderr=asked.json, width=None if sys.stdout.isatty() else 140)
    terminal.print(table)
    terminal.print(
        f"peak memory of the controller: {memory[0]:.0f} MiB before the first page, {memory[1]:.0f} MiB after the last"
    )
    if asked.json:
        print(json.dumps({path: took._asdict() for path, took in found.items()} | {"memory": memory}, indent=2))
    slow = [path for path, took in found.items() if took.p99 > GOAL]
    if slow:
        sys.exit(f"over {GOAL:.0f} ms: {', '.join(slow)}")


@contextmanager
def moved(home: Path, copy: Path) -> Iterator[Path]:
    """Give a copy of a home whose store is a PostgreSQL that waits for its disk; it goes away with the block."""
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("*.sock"))
    cluster = Cluster()
    try:
        cluster.stop()
        cluster.start(*DURABLE)
        with cluster.database() as url:
            command = [sys.executable, "-m", "controller.cli", "migrate-store", "--to", url]
            subprocess.run(command, env=os.environ | {"KPS_HOME": str(copy)}, check=True, stdout=sys.stderr)
            yield copy
    finally:
        cluster.close()


def measured(home: Path, paths: list[str], times: int) -> tuple[dict[str, Took], tuple[float, float]]:
    """Return what each page takes, and the controller's peak memory before the first page and after the last, in MiB."""
    code, known = _known(home)
    with serving(home) as (url, pid), httpx.Client(base_url=url, headers={"origin": url}, timeout=60, trust_env=False) as http:
        signed = http.post("/console/link", data={"code": code}, follow_redirects=True)
        assert "Sign out" in signed.text, signed.text
        before, found = _peak(pid), {}
        for path in (each for each in paths or known if each != COUNTED):
            found[path] = _took(http, pid, path, times)
        if not paths or COUNTED in paths:
            found[COUNTED] = _took(http, pid, "/console/", _COUNTED_TIMES, MOST_REST + 0.1)
        return found, (before, _peak(pid))


def _took(http: httpx.Client, pid: int, path: str, times: int, rest: float = 0) -> Took:
    took, spent, size = [], 0.0, 0
    for number in range(times + 1):
        time.sleep(rest)
        used, began = cpu(pid), time.perf_counter()
        answer = http.get(path)
        took.append((time.perf_counter() - began) * 1000)
        size = len(answer.content)
        if number:
            spent += cpu(pid) - used
        if answer.status_code != 200 or not re.search("Sign out", answer.text):
            sys.exit(f"{path}: {answer.status_code}")
    counted = sorted(took[1:])
    return Took(statistics.median(counted), counted[math.ceil(len(counted) * 0.99) - 1], spent / times, size)


@contextmanager
def serving(home: Path) -> Iterator[tuple[str, int]]:
    """Serve a home over plain HTTP on loopback; gives the address, and the process's id."""
    limits = {"KPS_REQUESTS_PER_SECOND": "100000", "KPS_REQUESTS_AT_ONCE": "1000000"}
    process = subprocess.Popen(
        [sys.executable, "-m", "controller.cli", "serve", "--http", "127.0.0.1:0", "--json"],
        env=os.environ | limits | {"KPS_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = process.stdout.readline()
            assert line, "kps serve has ended"
            told += line
        yield json.loads(told)["url"], process.pid
    finally:
        process.terminate()
        process.wait()


def _known(home: Path) -> tuple[str, list[str]]:
    """Return what lets the owner in once, and the paths of the pages that this home has."""
    store = Store(Settings(home=home).database_url)
    verbs = Console(store)
    try:
        who = store.caller_by_local_home()
        _, token, _ = asyncio.run(verbs.link(who))
        names = [each.name for each in store.servers(who.tenant_id)]
        pairs = [each.name for each in store.keypairs(who.tenant_id, who.user_id) if each.scope == "account"]
        task, event = tables.tasks, tables.events
        with engine.reading(store._engine) as connection:
            failed = connection.execute(select(task.c.seq, task.c.id).where(task.c.status == "failed").order_by(task.c.seq)).all()
            events = connection.execute(select(func.max(event.c.number)).where(event.c.tenant_id == who.tenant_id)).scalar_one()
        rollouts = store.rollouts(who.tenant_id)
    finally:
        verbs.close()
        store.close()
    rollout = next(each.id for each in reversed(rollouts) if not each.plans)
    plan = next((each.id for each in rollouts if each.plans and each.servers > MOST_SHOWN), None)
    # A plan of more servers is shown on the rollout's page.
    small = next((each.id for each in rollouts if each.plans and each.servers <= MOST_SHOWN), None)
    plans = [] if plan is None else [f"/console/rollouts/{plan}"]
    plans += [] if small is None else [f"/console/orders/plans/{small}"]
    last, middle, size = names[-min(101, len(names))], names[len(names) // 2], len(names)
    failures, of_one = "/console/failed-tasks/", "/console/failed-tasks/?cause=wrong_password"
    return token.open().decode(), [
        "/console/", "/console/servers/", f"/console/servers/?after={last}", f"/console/servers/?q={middle[3:-1]}",
        "/console/servers/?q=zone%3Da", "/console/servers/?q=nothing-like-it", "/console/servers/?password=on",
        "/console/servers/?bound=no", "/console/servers/?failed=yes", f"/console/servers/?failed=yes&bound=yes&after={last}",
        f"/console/servers/{middle}", f"/console/orders/new?server={middle}", "/console/orders/new?everything=1",
        "/console/keypairs/?scope=account", f"/console/keypairs/?scope=account&after={pairs[-min(101, len(pairs))]}",
        "/console/keypairs/?scope=account&q=7", "/console/keypairs/?scope=private", "/console/keypairs/named/ops",
        "/console/keypairs/rotation", failures, of_one, f"{of_one}&before={failed[len(failed) // 50][0]}",
        f"{failures}?label=zone%3Db", f"{failures}?server={middle[3:-1]}", f"{failures}?since=day",
        f"{failures}?rollout={rollout}",
        f"{failures}{failed[-1][1]}", f"{failures}again?task={failed[-1][1]}", f"{failures}again?cause=wrong_password",
        f"{failures}delete", "/console/rollouts/", f"/console/rollouts/{rollout}",
        f"/console/rollouts/{rollout}?after={size - 101}", "/console/rollouts/new", "/console/emergency/",
        f"/console/emergency/?after={last}", "/console/audit/", f"/console/audit/?before={events // 100}",
        "/console/audit/?kind=task_finished", f"/console/audit/?kind=task_finished&server={middle}", "/console/audit/?user=admin",
        "/console/audit/?since=2020-01-01", "/console/audit/?keypair=ops", "/console/audit/verify", "/console/keys/",
        "/console/emergency/doors/new?servers=zone%3Da&reason=why&minutes=10", *plans,
        *(f"{each}?after={size - 201}" for each in plans[:1]),
    ]  # fmt: skip


def cpu(pid: int) -> float:
    """Return the milliseconds of CPU that a process has taken, its own and the system's for it; to the kernel's tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def _peak(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found.group(1)) / 1024


if __name__ == "__main__":
    main()
