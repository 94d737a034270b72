"""Rollouts under a controller that is killed again and again, and what is to hold when all of them are over."""

import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from signal import SIGKILL
from typing import Any

from controller.client import ENDINGS
from controller.demo.fleet import Server
from controller.model import FINAL
from tests.fleet.fakes import FakeServer
from tests.fleet.product import SECONDS, Product

# Of a task, as its row says. Looking and deciding are between two of them, and nobody hears of them.
PHASES = ("queued", "connect", "widen", "prove", "narrow")
ORDERS = ("bind", "unbind")
TRIES = 20
MOST = 3  # times as many kills, for the sake of a phase that is met seldom

Rolled = Server | FakeServer


@dataclass
class Seen:
    """What was done to a controller, and when."""

    kills: int = 0
    phases: Counter[str] = field(default_factory=Counter)  # kills in which some task was in this phase
    waves: Counter[str] = field(default_factory=Counter)  # kills in the canary, and in the batches
    rollouts: list[str] = field(default_factory=list)
    opened: int = 0  # credentials that a later controller had to open
    wrong: list[str] = field(default_factory=list)


class Killed(Product):
    """A controller that is killed, with its database looked at from outside."""

    @contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.home / "kps.db", timeout=SECONDS)) as connection:
            yield connection

    def rows(self, query: str, *given: Any) -> list[tuple[Any, ...]]:
        with self.database() as connection:
            return connection.execute(query, given).fetchall()

    def under_way(self) -> Counter[str]:
        """How many tasks are in which phase."""
        query = "SELECT CASE status WHEN 'ready' THEN 'queued' ELSE phase END, count(*) FROM tasks"
        return Counter(dict(self.rows(f"{query} WHERE status IN ('ready', 'running') GROUP BY 1")))  # type: ignore[arg-type]

    def state(self, rollout_id: str) -> str:
        ((state,),) = self.rows("SELECT state FROM rollouts WHERE id = ?", rollout_id)
        return str(state)


def story(
    product: Killed, servers: Sequence[Rolled], kills: int, each_phase: int, chance: random.Random, longest_seconds: float
) -> Seen:
    """Roll out, and kill the controller so often, in each phase at least so often; then all comes to its end."""
    product.serve()
    pair = product.keypair(name="rolled")
    for server in servers:
        product.add(server)  # type: ignore[arg-type]
    seen = Seen()
    rollout_id = ""
    while seen.kills < kills or (_too_seldom(seen, each_phase) and seen.kills < MOST * kills):
        if not rollout_id or product.state(rollout_id) != "running":
            rollout_id = _started(product, servers, pair, seen)
        phase = _too_seldom(seen, each_phase)
        # Half of them at any moment; the others wait for a phase that was met too seldom.
        if phase is not None and seen.kills % 2:
            _until(lambda id=rollout_id, phase=phase: product.under_way()[phase] > 0 or product.state(id) != "running", SECONDS)
        else:
            time.sleep(chance.uniform(0, longest_seconds))
        _killed(product, rollout_id, seen)
    for each in seen.rollouts:
        _until(lambda id=each: product.state(id) != "running", 60 * SECONDS)
    ((seen.opened,),) = product.rows("SELECT count(*) FROM events WHERE kind = 'credential_opened'")
    return seen


def _too_seldom(seen: Seen, each_phase: int) -> str | None:
    # The last first: whoever waits for these lets the others pass.
    return next((each for each in reversed(PHASES) if seen.phases[each] < each_phase), None)


def _started(product: Killed, servers: Sequence[Rolled], pair: Any, seen: Seen) -> str:
    operation = ORDERS[len(seen.rollouts) % len(ORDERS)]
    opens = {server.name: {"password": server.root_password} for server in servers}
    strategy = {"canary": "1", "batch": "25%", "max_failures": "0", "tries": TRIES}
    order = {"operation": operation, "all": True, "credentials": opens, "strategy": strategy}
    if operation == "bind":
        order |= {"keypair": pair["name"]}
    seen.rollouts.append(product.ask("POST", "/rollouts", body=order)["id"])
    return seen.rollouts[-1]


def _killed(product: Killed, rollout_id: str, seen: Seen) -> None:
    product.end(SIGKILL)
    there = product.under_way()
    seen.kills += 1
    seen.phases.update({each: 1 for each in PHASES if there[each]})
    if there:
        begun = product.rows("SELECT count(*) FROM rollout_servers WHERE rollout_id = ? AND tries > 0", rollout_id)
        seen.waves["canary" if begun == [(1,)] else "batches"] += 1
    else:
        seen.waves["between"] += 1
    product.serve()


def misses(product: Killed, servers: Sequence[Rolled], seen: Seen) -> list[str]:
    """Return what is not as it was promised, in words: of each rollout, each task, and each server."""
    found = list(seen.wrong)
    for rollout_id in seen.rollouts:
        ((state, reason),) = product.rows("SELECT state, reason FROM rollouts WHERE id = ?", rollout_id)
        if (state, reason) != ("finished", f"{len(servers)} as asked"):
            found.append(f"rollout {rollout_id} is {state}: {reason}")
    endings = Counter(
        id for id, kind in product.rows("SELECT task_id, kind FROM events WHERE task_id IS NOT NULL") if kind in ENDINGS
    )
    for id, status in product.rows("SELECT id, status FROM tasks"):
        if status not in FINAL or endings[id] != 1:
            found.append(f"task {id} is {status}, and has {endings[id]} ends")
    if left := product.rows("SELECT count(*) FROM credentials")[0][0]:
        found.append(f"{left} credentials are kept after the end")
    last = "SELECT s.server_name, t.server_state, t.operation FROM rollout_servers s JOIN tasks t ON t.id = s.task_id"
    told = {
        name: (state, operation) for name, state, operation in product.rows(f"{last} WHERE s.rollout_id = ?", seen.rollouts[-1])
    }
    ((line,),) = product.rows("SELECT public_key FROM keypairs WHERE name = 'rolled'")
    blob = line.split(" ")[1]
    for server in servers:
        found += [f"{server.name}: {each}" for each in _wrong(server, blob, *told.get(server.name, ("nobody", "")))]
    return found


def _wrong(server: Rolled, blob: str, state: str, operation: str) -> list[str]:
    """Return what of a server is not as its last task says."""
    fake = isinstance(server, FakeServer)
    keys = server.keys() if isinstance(server, FakeServer) else _keys(server)
    count, wanted = keys.count(blob), int(operation == "bind")
    found = [] if state == "as_asked" else [f"left {state}"]
    found += (
        [] if count == wanted and len(keys.split("\n")) <= 2 else [f"{count} times the key, where {operation} asked for {wanted}"]
    )
    if fake:
        found += [f"{path} is left" for path in server.left()]
        if server.lets_in("password", "root", server.root_password) == bool(wanted):
            found.append(f"passwords are otherwise than {operation} asked for")
    else:
        there = server.run(["sh", "-c", "ls /var/lib/kps"]).stdout.split()
        found += [f"{name} is left" for name in there if name != "state.json"]
    return found


def _keys(server: Server) -> str:
    return server.run(["sh", "-c", "cat /root/.ssh/authorized_keys 2>/dev/null || true"]).stdout


def _until(reached: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not reached() and time.monotonic() < until:
        time.sleep(0.01)
