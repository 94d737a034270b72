"""Two workers of one PostgreSQL roll out over many servers, while they are stopped and woken, killed, or lose the database.

A worker that stands still is taken for dead, and others take over what it had begun. Woken, it goes on with the orders that it
holds: it must record nothing, and the servers must refuse it. Who is asked are the database and the servers themselves.
"""

import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from controller.client import ENDINGS
from controller.demo.fleet import Server
from controller.model import FINAL
from controller.storeplace import address_of
from tests.fleet import judge
from tests.fleet.cable import Turnstile
from tests.fleet.fakes import FakeServer
from tests.fleet.product import KPS, SECONDS, Product
from tests.postgresql import Cluster

LEASE_SECONDS = 4
DEADLINE_SECONDS = 20
CONNECT_SECONDS = 300  # a connection that was begun outlives the sleep of whoever began it
CONCURRENCY = 8
STRATEGY = {"canary": "0", "batch": "100", "max_failures": "0", "tries": 20}
STOPS = {"told to stop": signal.SIGINT, "crashed": signal.SIGQUIT}  # of PostgreSQL: postgres(1)
LONGEST_AWAY_SECONDS = 3.0
TAKEN_OVER_SECONDS = 2 * SECONDS
AT_THE_END_SECONDS = 4 * SECONDS
UNFORESEEN = ('"unexpected"', "never retrieved", "Unhandled")
OVERHEARD, SAID = "/usr/local/bin/overheard", "/run/said"

Worked = Server | FakeServer


class Worker:
    """A kps worker on, as it were, another machine: its home is a copy of the controller's."""

    def __init__(self, product: Product, name: str, *words: str, at: Path | None = None) -> None:
        """at: the directory that it is started in."""
        self._at = at
        self.home = product.home.with_name(name)
        self.log = product.home / f"{name}.log"
        self._words = words
        self._environment = product.environment | {"KPS_HOME": str(self.home)}
        self.process: subprocess.Popen[str] | None = None
        shutil.copytree(product.home, self.home, ignore=shutil.ignore_patterns("*.sock", "*.lock", "*.log"))

    def start(self) -> subprocess.Popen[str]:
        """Start it; returns when it takes tasks."""
        with open(self.log, "a") as log:
            words = [KPS, "worker", *self._words]
            started = subprocess.Popen(words, env=self._environment, cwd=self._at, stdout=subprocess.PIPE, stderr=log, text=True)
        self.process = started
        assert started.stdout is not None
        assert "working for" in started.stdout.readline(), self.log.read_text()
        return started

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, what: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(what)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, also where it is stopped; one that does not end is killed, and that is an error."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(SECONDS)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


class Shared(Product):
    """A controller that takes no tasks itself, and two workers that do; their database is looked at from outside."""

    def __init__(self, home: Path, cluster: Cluster, database_url: str) -> None:
        super().__init__(
            home,
            database_url=database_url,
            serve_takes_tasks="false",
            lease_seconds=LEASE_SECONDS,
            deadline_seconds=DEADLINE_SECONDS,
            connect_timeout_seconds=CONNECT_SECONDS,
            concurrency=CONCURRENCY,
        )
        self.cluster = cluster
        self.workers = [Worker(self, f"worker-{number}") for number in (1, 2)]

    def __enter__(self) -> "Shared":
        self.serve()
        for each in self.workers:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as ending:
            ending.callback(self.end)
            for each in self.workers:
                ending.callback(each.end)

    def rows(self, query: str, *given: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(address_of(self.home, None), autocommit=True) as connection:
            return connection.execute(query, given).fetchall()

    def running(self, pid: int) -> dict[str, str]:
        """The tasks that a process has begun and not ended, with their servers, by their ids."""
        query = "SELECT id, server_id FROM tasks WHERE status = 'running' AND lease_owner LIKE %s"
        return dict(self.rows(query, f"%/{pid}/%"))

    def state(self, rollout_id: str) -> str:
        ((state,),) = self.rows("SELECT state FROM rollouts WHERE id = %s", rollout_id)
        return str(state)

    def logs(self) -> list[Path]:
        return [self.home / "serve.log", *(each.log for each in self.workers)]


@dataclass
class Seen:
    """What was done to workers and database, and what came of it."""

    rollouts: list[str] = field(default_factory=list)
    dead: dict[str, int] = field(default_factory=dict)  # tasks of stopped workers -> the event by which they were ended
    stops: int = 0
    dead_seconds: list[float] = field(default_factory=list)  # from a stop until the last of its tasks was ended
    kills: Counter[str] = field(default_factory=Counter)
    restarts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Story:
    """What happens to a fleet and its two workers, act by act; over() is its end."""

    def __init__(self, product: Shared, servers: Sequence[Worked], behind: Sequence[Turnstile], chance: random.Random) -> None:
        """behind: what leads to the first of the servers, which are real."""
        self.product, self.servers, self.behind, self.chance = product, servers, behind, chance
        self.seen = Seen()
        for server in servers[: len(behind)]:
            overhear(server)
        for server in servers[len(behind) :]:
            server.name = f"x{server.name}"  # a rollout goes by the names, and is to begin with those that are real
        known = [*(way.place for way in behind), *servers[len(behind) :]]
        lines = [f"{each.name},{each.host},{each.port},root,{each.host_key}" for each in known]
        inventory = product.home / "servers.csv"
        inventory.write_text("\n".join(["name,host,port,login,host_key", *lines, ""]))
        product.kps("server", "import", str(inventory))

    def rolls(self) -> str:
        """Return the rollout under way; where none is, begin the next one: a key pair for all, and then another in its place."""
        seen, product = self.seen, self.product
        if not seen.rollouts or product.state(seen.rollouts[-1]) != "running":
            pair = product.keypair()["name"]
            order: dict[str, Any] = {"operation": "replace" if seen.rollouts else "bind", "all": True, "keypair": pair}
            if not seen.rollouts:
                # Who comes late gets in with it all the same, and is refused for what it brings.
                order["keep_password_login"] = True
                order["credentials"] = {each.name: {"password": each.root_password} for each in self.servers}
            seen.rollouts.append(product.ask("POST", "/rollouts", body=order | {"strategy": STRATEGY})["id"])
        return seen.rollouts[-1]

    def first_stop(self) -> None:
        """Stop the worker that has just opened a connection to a real server, which has not heard of it yet."""
        for way in self.behind:
            way.hold()
        self.rolls()
        self._reached(lambda: all(each.waits.is_set() for each in self.behind), "no connection came to a real server")
        # Each is held by one of the two; who holds more of them is stopped, and the other one goes on.
        names = {each.place.name for each in self.behind}
        ids = dict(self.product.rows("SELECT name, id FROM servers"))
        held = {each.pid: set(self.product.running(each.pid).values()) for each in self.product.workers}
        worker = max(self.product.workers, key=lambda each: len(held[each.pid] & {ids[name] for name in names}))
        for way in self.behind:
            if ids[way.place.name] not in held[worker.pid]:
                way.let_go()
        self.stopped(worker, self._let_go)
        self._reached(lambda: refusals(self.servers)[0] > 0, "no real server has refused what the woken worker sent", SECONDS)

    def _let_go(self) -> None:
        for way in self.behind:
            way.let_go()

    def stopped(self, worker: Worker | None = None, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Stop a worker until it was declared dead and its tasks were taken over; then wake it. meanwhile: done just before."""
        product, seen = self.product, self.seen
        self.rolls()
        worker = worker or self.chance.choice(product.workers)
        worker.send(signal.SIGSTOP)
        begun = time.monotonic()
        seen.stops += 1
        held = product.running(worker.pid)
        self._reached(lambda: not product.running(worker.pid), "a stopped worker was not declared dead")
        seen.dead_seconds.append(time.monotonic() - begun)
        # What it had already sent as it was stopped may have ended a task as that came to its end.
        query = "SELECT task_id, id FROM events WHERE kind = 'task_interrupted' AND task_id = ANY(%s)"
        dead = dict(product.rows(query, list(held)))
        seen.dead |= dead
        later = (
            "SELECT count(DISTINCT t.id) FROM tasks t JOIN tasks l ON l.server_id = t.server_id AND l.seq > t.seq"
            " WHERE t.id = ANY(%s) AND l.server_state = 'as_asked'"
        )
        self._reached(
            lambda: product.rows(later, list(dead)) == [(len(dead),)] or product.state(seen.rollouts[-1]) != "running",
            "a stopped worker's tasks were not taken over",
        )
        meanwhile()
        worker.send(signal.SIGCONT)

    def killed(self, longest_seconds: float) -> None:
        """Kill a worker at a random moment, and start it anew."""
        self.rolls()
        time.sleep(self.chance.uniform(0, longest_seconds))
        worker = self.chance.choice(self.product.workers)
        pid = worker.pid
        worker.end(signal.SIGKILL)
        self.seen.kills["with tasks begun" if self.product.running(pid) else "between two tasks"] += 1
        worker.start()

    def restarted(self, longest_seconds: float) -> None:
        """Have PostgreSQL go away at a random moment, and come back."""
        self.rolls()
        time.sleep(self.chance.uniform(0, longest_seconds))
        how = list(STOPS)[self.seen.restarts.total() % len(STOPS)]
        self.product.cluster.stop(STOPS[how])
        try:
            time.sleep(self.chance.uniform(0, LONGEST_AWAY_SECONDS))
        finally:
            self.product.cluster.start()
        self.seen.restarts[how] += 1

    def over(self) -> None:
        """Let everything come to its end."""
        for each in self.seen.rollouts:
            self._reached(lambda id=each: self.product.state(id) != "running", f"rollout {each} goes on", AT_THE_END_SECONDS)
        unclear = (
            "SELECT count(*) FROM tasks t WHERE status IN ('ready', 'running') OR server_state = 'unknown' AND NOT EXISTS"
            " (SELECT FROM tasks l WHERE l.server_id = t.server_id AND l.seq > t.seq AND l.server_state <> 'unknown')"
        )
        self._reached(lambda: self.product.rows(unclear) == [(0,)], "of some servers nobody knows how they were left", SECONDS)

    def _reached(self, there: Callable[[], bool], wrong: str, seconds: float = TAKEN_OVER_SECONDS) -> None:
        until = time.monotonic() + seconds
        while not there():
            if time.monotonic() > until:
                self.seen.wrong.append(wrong)
                return
            time.sleep(0.1)


def overhear(server: Worked) -> None:
    """Have a real server keep what is said to the controller: root's login shell writes it down on the way."""
    assert isinstance(server, Server)
    server.write(OVERHEARD, f'#!/bin/bash\nset -o pipefail\n/bin/bash "$@" | tee -a {SAID}\n', mode=0o755)
    server.run(["sed", "-i", f"s|^\\(root:.*:\\)[^:]*$|\\1{OVERHEARD}|", "/etc/passwd"])


def refusals(servers: Sequence[Worked]) -> tuple[int, int]:
    """How often real servers, and fakes, have refused an order that was older than one that they had carried out."""
    real = [server.run(["sh", "-c", f"cat {SAID} || true"]).stdout for server in servers if isinstance(server, Server)]
    fakes = [server.refused_as_stale for server in servers if isinstance(server, FakeServer)]
    return sum(each.count('"stale_generation"') for each in real), sum(fakes)


def misses(product: Shared, servers: Sequence[Worked], seen: Seen) -> list[str]:
    """Return what is not as it was promised, in words: of each rollout, each task, each woken worker, and each server."""
    found = list(seen.wrong)
    for rollout_id in seen.rollouts:
        ((state, reason),) = product.rows("SELECT state, reason FROM rollouts WHERE id = %s", rollout_id)
        if (state, reason) != ("finished", f"{len(servers)} as asked"):
            found.append(f"rollout {rollout_id} is {state}: {reason}")
    told = product.rows("SELECT id, task_id, kind FROM events WHERE task_id IS NOT NULL")
    endings = Counter(task_id for _, task_id, kind in told if kind in ENDINGS)
    for task_id, status in product.rows("SELECT id, status FROM tasks"):
        if status not in FINAL or endings[task_id] != 1:
            found.append(f"task {task_id} is {status}, and has {endings[task_id]} ends")
    # What it did with a key stays on record, for it did it; of the task nothing is.
    for id, task_id, kind in told:
        if id > seen.dead.get(task_id, id) and kind.startswith("task_") and kind != "task_settled":
            found.append(f"{kind} of task {task_id} was recorded after its worker was declared dead")
    if left := product.rows("SELECT count(*) FROM credentials")[0][0]:
        found.append(f"{left} credentials are kept after the end")
    bound = "SELECT s.name, k.name FROM bindings b JOIN servers s ON s.id = b.server_id JOIN keypairs k ON k.id = b.keypair_id"
    on_record = dict(product.rows(bound))
    lines = dict(product.rows("SELECT name, public_key FROM keypairs"))
    private = {name: product.private({"name": name}) for name in lines}
    for server in servers:
        wanted = on_record.get(server.name, "nothing")
        if isinstance(server, FakeServer):
            let_in = [name for name, line in lines.items() if server.lets_in("key", "root", line)]
            left = server.left()
        else:
            let_in = [name for name in lines if judge.key_login_works(server, "root", private[name])]
            left = [each for each in server.run(["ls", "/var/lib/kps"]).stdout.split() if each != "state.json"]
        if let_in != [wanted]:
            found.append(f"{server.name}: on record {wanted}, let in {let_in}")
        found += [f"{server.name}: {each} is left" for each in left]
    for log in product.logs():
        # That a connection was lost libraries tell with a trace; these are what nobody has foreseen.
        told = [line for line in log.read_text().split("\n") if any(word in line for word in UNFORESEEN)]
        found += [f"{log.name}: {line[:300]} ... {line[-700:]}" for line in told]
    if product.kps("audit", "verify", ends=None).returncode:
        found.append("the audit trail is not whole")
    return found
