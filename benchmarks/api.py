"""Requests per second, p50 and p99 of list and detail calls, in a small database and in a large one, side by side.

    python -m benchmarks.api [--many 10000] [--seconds 4] [--connections 8] [--json]

`kps serve` with TLS in one process, clients in another that keep their connections and sign as the SDK does, both on the same
two cores. "empty" holds one of each (a detail call needs something to show), "page" as many as one page lists, "many" --many
key pairs and as many servers, each with a key pair bound and a task that ended. CPU is the server's own, per request. Ratios
count; absolute figures move with the machine, and what else runs on it.
"""

import argparse
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from controller import keyfiles, signing
from controller.model import Binding, Caller, KeyPair, Secret, Server, Task, now
from controller.service.home import initialise
from controller.settings import Settings
from controller.store import Store, engine, rows, tables

PAGE = 50  # what a list call of the v3 API answers with where nothing else is asked
CORES = 2
DIFFERENT = 64  # names that the detail calls go through
FAILED_EACH = 10  # one task in so many has failed
WARM_UP_SECONDS = 0.5
FULL_PAGE = 1000

Json = dict[str, Any]


class Figure(NamedTuple):
    """What one call did: requests per second, milliseconds of half and of 99 in 100 of them, the server's CPU for each in ms."""

    per_second: float
    p50: float
    p99: float
    cpu: float


# -- what is in the database


def fill(store: Store, who: Caller, count: int) -> None:
    """Put so many key pairs and servers in, each server with a key pair bound, and a task that ended."""
    public, _ = keyfiles.generate("ed25519")
    at = now()
    pairs, servers, bindings, tasks = [], [], [], []
    for number in range(count):
        name = f"pair-{number:05}"
        pair = KeyPair(
            str(uuid.uuid4()), who.tenant_id, who.user_id, "account", name, public.type, False, public.line(name),
            public.fingerprint, public.fingerprint_md5, created_at=at, number=number + 1,
        )  # fmt: skip
        server = Server(str(uuid.uuid4()), who.tenant_id, f"web-{number:05}", "192.0.2.1", labels={"n": str(number % 10)})
        failed = number % FAILED_EACH == 0
        task = Task(
            str(uuid.uuid4()), who.tenant_id, who.user_id, server.id, server.name, "root", "bind",
            {"keypair": name, "keypair_id": pair.id}, at, seq=number + 1,
            status="failed" if failed else "succeeded", finished_at=at,
            cause="wrong_password" if failed else None, message="the password is wrong" if failed else "",
        )  # fmt: skip
        pairs.append(rows.row(pair) | {"sealed": None})
        servers.append(rows.row(server))
        bindings.append(rows.row(Binding(server.id, "root", pair.id, "logged_in", True, task.id, at)))
        tasks.append(rows.row(task))
    with engine.writing(store._engine) as connection:
        for table, values in (
            (tables.keypairs, pairs),
            (tables.servers, servers),
            (tables.bindings, bindings),
            (tables.tasks, tasks),
        ):
            connection.execute(table.insert(), values)


# -- the server


@contextmanager
def served(place: Path, count: int) -> Iterator[Json]:
    """Serve a home that holds so many of each; gives what a client needs, and the server's process id."""
    settings = Settings(home=place / "home")
    made = initialise(settings)
    store = Store(settings.database_url)
    fill(store, store.caller_by_local_home(), count)
    store.close()
    environment = {**os.environ, "KPS_REQUESTS_PER_SECOND": "100000", "KPS_REQUESTS_AT_ONCE": "1000000"}
    command = [sys.executable, "-m", "controller.cli", "serve", "--home", str(settings.home), "--listen", "127.0.0.1:0", "--json"]
    with (
        open(place / "log", "w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process,
    ):
        try:
            told = ""
            while not told.rstrip().endswith("}"):
                line = process.stdout.readline() if process.stdout else ""
                if not line:
                    sys.exit((place / "log").read_text()[-2000:])
                told += line
            # Its log comes there too, and nobody would write on where nobody reads.
            threading.Thread(target=deque, args=(process.stdout, 0), daemon=True).start()
            where = {"url": json.loads(told)["url"], "certificate": str(settings.home / "tls.crt"), "process": process.pid}
            yield where | {name: made[name] for name in ("access_key", "secret_key", "project_id")}
        finally:
            process.terminate()
            process.wait(30)


def calls(project: str, count: int) -> dict[str, list[str]]:
    """Return the calls that are measured, by what they are called: the targets that each goes through."""
    v3, ours = f"/v3/{project}", "/fleet/v1"
    some = sorted({number * count // DIFFERENT for number in range(DIFFERENT)})
    half = count // 2
    return {
        "v3 key pairs, first page": [f"{v3}/keypairs"],
        "v3 key pairs, a page in the middle": [f"{v3}/keypairs?marker=pair-{max(0, half - PAGE // 2):05}"],
        "v3 key pair": [f"{v3}/keypairs/pair-{number:05}" for number in some],
        "v3 failed tasks": [f"{v3}/failed-tasks?limit={PAGE}"],
        "fleet key pairs": [f"{ours}/keypairs?limit={PAGE}"],
        "fleet key pair": [f"{ours}/keypairs/pair-{number:05}" for number in some],
        "fleet servers": [f"{ours}/servers?limit={PAGE}"],
        f"fleet servers, pages of {FULL_PAGE}": [f"{ours}/servers"],
        "fleet server": [f"{ours}/servers/web-{number:05}" for number in some],
        "fleet tasks": [f"{ours}/tasks?limit={PAGE}"],
    }


# -- the clients, in a process of their own


def signed(where: Json, target: str) -> dict[str, str]:
    """Return the headers of a GET, signed."""
    path, _, query = target.partition("?")
    headers = {"Host": where["url"].partition("//")[2], "Content-Type": "application/json", "User-Agent": "kps-bench"}
    sent = [(name.encode(), value.encode()) for name, value in headers.items()]
    request = signing.Request("GET", path.encode(), query.encode(), sent, b"")
    added = signing.sign(request, where["access_key"], Secret(where["secret_key"]), datetime.now(UTC))
    return headers | {name.decode(): value.decode() for name, value in added}


def ask(where: Json, targets: list[str], seconds: float, connections: int) -> list[float]:
    """Go through the targets on so many connections for so long; return how long each request took."""
    host, port = where["url"].partition("//")[2].split(":")
    context = ssl.create_default_context(cafile=where["certificate"])
    # The same request in the same second has the same signature anyway: it is signed beforehand, or the client would be measured.
    asked = [(target, signed(where, target)) for target in targets]
    took: list[list[float]] = [[] for _ in range(connections)]
    until = time.perf_counter() + seconds

    def one(mine: list[float], place: int) -> None:
        connection = http.client.HTTPSConnection(host, int(port), context=context)
        while not mine or time.perf_counter() < until:
            target, headers = asked[place % len(asked)]
            place += 1
            began = time.perf_counter()
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            answer.read()
            mine.append(time.perf_counter() - began)
            if answer.status != 200:
                raise SystemExit(f"{target}: {answer.status}")
        connection.close()

    threads = [threading.Thread(target=one, args=(mine, place)) for place, mine in enumerate(took)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(each for mine in took for each in mine)


def client() -> None:
    """Read what to ask from stdin, a JSON object for each call on a line of its own, and print a figure for each."""
    for line in sys.stdin:
        given = json.loads(line)
        where = given["where"]
        ask(where, given["targets"], WARM_UP_SECONDS, given["connections"])
        before, began = cpu_seconds(where["process"]), time.perf_counter()
        took = ask(where, given["targets"], given["seconds"], given["connections"])
        spent, lasted = cpu_seconds(where["process"]) - before, time.perf_counter() - began
        at = [took[min(len(took) - 1, len(took) * share // 100)] * 1000 for share in (50, 99)]
        print(json.dumps(Figure(len(took) / lasted, *at, spent / len(took) * 1000)), flush=True)


def cpu_seconds(process: int) -> float:
    """Return the processor time that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(place: Path, count: int, seconds: float, connections: int) -> dict[str, Figure]:
    """Return the figures of all calls in a database of this size."""
    with (
        served(place, count) as where,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.api", "--client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as asking,
    ):
        found = {}
        for name, targets in calls(where["project_id"], count).items():
            given = {"where": where, "targets": targets, "seconds": seconds, "connections": connections}
            assert asking.stdin is not None
            assert asking.stdout is not None
            asking.stdin.write(json.dumps(given) + "\n")
            asking.stdin.flush()
            line = asking.stdout.readline()
            if not line:
                sys.exit(f"{name}: the client ended")
            found[name] = Figure(*json.loads(line))
        asking.stdin.close()
        return found


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asks.add_argument("--many", type=int, default=10_000)
    asks.add_argument("--seconds", type=float, default=4)
    asks.add_argument("--connections", type=int, default=8)
    asks.add_argument("--json", action="store_true")
    asks.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    asked = asks.parse_args()
    if asked.client:
        client()
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    sizes = {"empty": 1, "page": PAGE, "many": asked.many}
    found: dict[str, dict[str, Figure]] = {}
    for name, count in sizes.items():
        with tempfile.TemporaryDirectory() as place:
            found[name] = measured(Path(place), count, asked.seconds, asked.connections)
    title = f"{asked.connections} connections, {asked.many} key pairs and servers; load before: {os.getloadavg()[0]:.1f}"
    table = Table(title=title, title_justify="left")
    for column in (
        "call",
        *(f"{name} {what}" for name in sizes for what in ("req/s", "p50", "p99", "CPU")),
        "many / page",
        "/ empty",
    ):
        table.add_column(column, justify="left" if column == "call" else "right")
    for call in found["many"]:
        shown = [f"{value:.{0 if value > 100 else 1}f}" for name in sizes for value in found[name][call]]
        ratios = [f"{found['many'][call].cpu / found[other][call].cpu:.2f}" for other in ("page", "empty")]
        table.add_row(call, *shown, *ratios)
    Console(stderr=asked.json, width=None if sys.stdout.isatty() else 170).print(table)
    print("milliseconds; the ratios are of the server's CPU per request", file=sys.stderr)
    if asked.json:
        print(
            json.dumps({name: {call: each._asdict() for call, each in calls.items()} for name, calls in found.items()}, indent=2)
        )


if __name__ == "__main__":
    main()
