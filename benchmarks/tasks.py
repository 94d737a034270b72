"""What driver, tasks and events of a rollout cost in the store, and how quick its lists are: in a small home beside a large one.

    python -m benchmarks.tasks [--few 1000] [--many 100000] [--servers 200] [--json]

In the home are so many servers, each with a task that ended, all of one rollout, one in fifty failed; these were written at
once, with three signed events each. Then a further rollout goes over --servers more. The work on its servers is a stub: nobody
is connected to, and each task ends at once as this file says. All else of it is real: driver, dispatch, the store on the disk,
signed events. A stub asks the store for what a bind of a key pair in custody asks, and writes its eight events. Ratios count;
absolute figures move with the machine.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.table import Row
from controller import dossier
from controller.dispatch import InProcess
from controller.kms import Kms, root
from controller.model import (
    Binding,
    Caller,
    Credential,
    Outcome,
    Rollout,
    RolloutServer,
    Secret,
    Server,
    ServerNotes,
    Task,
    now,
)
from controller.opening import LOGIN
from controller.rolling import Rolling
from controller.rollout.strategy import Strategy
from controller.run import Runner
from controller.service.auditkeys import AuditKeys
from controller.service.bindings import Bindings
from controller.service.home import initialise
from controller.service.keypairs import Keypairs
from controller.service.rollouts import Rollouts
from controller.settings import Settings
from controller.store import Store, engine, tables
from controller.store.chain import digest_of, event_message, head
from controller.store.rows import row

CAUSES = ("wrong_password", "disk_full", "key_refused", "path_unsafe", "setting_overridden")
FAILED_EACH = 50  # one in so many fails
RUN, LOOK, LIST = "run, CPU ms a server", "a look of kps rollout watch, of all, CPU ms", "kps task list --failed, CPU s"
# What they should be at most in the larger home. A list is a command with Python's start; that is a third of a second.
GOALS = {RUN: 2.0, LOOK: 100.0, LIST: 2.0}
ALL = {"canary": "0", "batch": "100%", "max_failures": "100%"}

Json = dict[str, Any]


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asks.add_argument("--few", type=int, default=1000)
    asks.add_argument("--many", type=int, default=100_000)
    asks.add_argument("--servers", type=int, default=200)
    asks.add_argument("--no-lists", action="store_true")
    asks.add_argument("--json", action="store_true")
    asks.add_argument("--rollout", type=Path, help=argparse.SUPPRESS)  # in a process of its own: a rollout in this home
    asked = asks.parse_args()
    if asked.rollout:
        print(json.dumps(asyncio.run(rollout(asked.rollout, asked.servers))))
        return
    found = [measured(count, asked.servers, not asked.no_lists) for count in (asked.few, asked.many)]
    table = Table(title="a rollout whose work is a stub, and lists, by how many tasks there are", title_justify="left")
    for name in ("", f"{asked.few} tasks", f"{asked.many} tasks", "ratio"):
        table.add_column(name, justify="right" if name else "left")
    for name in found[0]:
        few, many = (each[name] for each in found)
        table.add_row(name, f"{few:g}", f"{many:g}", f"{many / few:.2f}" if few else "-")
    Console(stderr=asked.json, width=None if sys.stdout.isatty() else 120).print(table)
    if asked.json:
        print(json.dumps(dict(zip((str(asked.few), str(asked.many)), found, strict=True)), indent=2))


def rows(whole: bool) -> list[Row]:
    """Return the figures with their goals, in a home of 20,000 tasks or (whole) of 100,000."""
    count = 100_000 if whole else 20_000
    found = measured(count, 200, lists=True)
    return [
        Row(f"{name}, among {count:,} tasks", f"<= {most:g}", f"{found[name]:.3g}", found[name] <= most)
        for name, most in GOALS.items()
    ]


def measured(count: int, more: int, lists: bool) -> Json:
    """Return the figures of a home with so many tasks, and of a rollout over some more servers in it; lists: of commands too."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        old = prepare(home, count, more)
        told: Json = {"database, KB a task": round((home / "kps.db").stat().st_size / count / 1024, 2)}
        command = [sys.executable, "-m", "benchmarks.tasks", "--rollout", str(home), "--servers", str(more)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        told |= json.loads(done.stdout)
        commands = {
            "kps --version": ["--version"],
            "kps task list --failed": ["task", "list", "--failed"],
            "kps task list --json": ["task", "list", "--json"],
            "kps rollout show, of all": ["rollout", "show", old],
            "kps rollout show --servers --json, of all": ["rollout", "show", old, "--servers", "--json"],
            "kps task delete --all": ["task", "delete", "--all"],
        }
        for name, words in commands.items() if lists else ():
            took = cpu_of([sys.executable, "-m", "controller.cli", *words], {"KPS_HOME": str(home)})
            told[f"{name}, CPU s"] = round(took, 2)
        return told


def cpu_of(command: list[str], environment: dict[str, str]) -> float:
    """Return the seconds of CPU that a command takes, start-up included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(home: Path, count: int, more: int) -> str:
    """Make a home with a key pair in custody, so many ended tasks of one rollout, and more servers; return that rollout's id."""
    settings = Settings(home=home)
    initialise(settings)
    store = Store(settings.database_url)
    who = store.caller_by_local_home()
    kms = Kms(store, *root.roots(settings.home, settings.root_key_uri))
    asyncio.run(Keypairs(store, kms, None, settings.quotas).create(who, "ops"))
    store.sign_with(AuditKeys(store, kms))
    servers = [_server(who, number) for number in range(count)]
    old = Rollout(str(uuid.uuid4()), who.tenant_id, who.user_id, "bind", {"keypair": "ops"}, Strategy.read(ALL).told(), count,
                  False, now(), "finished")  # fmt: skip
    tasks = [_ended(who, server, old.id, number) for number, server in enumerate(servers)]
    members = [
        RolloutServer(old.id, number, task.server_id, task.server_name, "root", "abcd"[number % 4], tries=1, task_id=task.id)
        for number, task in enumerate(tasks)
    ]
    columns = [column.name for column in tables.rollout_servers.c]
    with engine.writing(store._engine) as connection:
        connection.execute(tables.servers.insert(), [row(each) for each in servers])
        connection.execute(tables.tasks.insert(), [row(each) for each in tasks])
        connection.execute(tables.rollouts.insert(), [row(old)])
        connection.execute(tables.rollout_servers.insert(), [{name: getattr(each, name) for name in columns} for each in members])
    write_events(store, who, tasks)
    store.add_servers([_server(who, number) for number in range(count, count + more)])
    store.close()
    return old.id


def write_events(store: Store, who: Caller, tasks: Sequence[Task]) -> None:
    """Write three events of each task at the end of the tenant's chain, as the store would, in few statements."""
    chains = store._chains
    with engine.writing(store._engine) as connection:
        reached = head(connection, who.tenant_id)
        number, digest = reached.number, reached.digest
        last = store.newest_event()
        for start in range(0, len(tasks), 1000):
            written = []
            for task in tasks[start : start + 1000]:
                for kind in ("task_ready", "task_running", "task_finished"):
                    number, last = number + 1, last + 1
                    event = {
                        "tenant_id": who.tenant_id, "user_id": who.user_id, "task_id": task.id, "server_id": task.server_id,
                        "keypair_id": None, "kind": kind, "phase": task.phase, "detail": {"server": task.server_name},
                        "id": last, "number": number, "at": task.created_at,
                    }  # fmt: skip
                    digest = digest_of(event, digest)
                    signature = chains.signature(who.tenant_id, event_message(digest))
                    written.append(event | {"digest": digest, "signature": signature})
            connection.execute(tables.events.insert(), written)
        chains.keep_head(connection, replace(reached, number=number, digest=digest))


def _server(who: Caller, number: int) -> Server:
    # What is in doubt is asked for, ever again, by whoever serves this home: of this machine, where nobody listens.
    host = f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    return Server(str(uuid.uuid4()), who.tenant_id, f"web-{number:06}", host, port=1, labels={"zone": "abcd"[number % 4]})


def _ended(who: Caller, server: Server, rollout_id: str, number: int) -> Task:
    failed = number % FAILED_EACH == FAILED_EACH - 1
    return Task(
        str(uuid.uuid4()), who.tenant_id, who.user_id, server.id, server.name, "root", "bind", {"keypair": "ops"}, now(),
        seq=number + 1, status="failed" if failed else "succeeded", server_state="as_before" if failed else "as_asked",
        phase="connect" if failed else "done", cause=CAUSES[number // FAILED_EACH % len(CAUSES)] if failed else None,
        message="as the benchmark says" if failed else "", started_at=now(), finished_at=now(), rollout_id=rollout_id,
    )  # fmt: skip


async def rollout(home: Path, count: int) -> Json:
    """Run a rollout over the last servers of a home, as a process that serves it would; return its figures."""
    settings = Settings(home=home)
    with ThreadPoolExecutor(1, "store") as worker:
        store = Store(settings.database_url)
        store.migrate()
        kms = Kms(store, *root.roots(settings.home, settings.root_key_uri))
        keys = AuditKeys(store, kms)
        store.sign_with(keys)
        who = store.caller_by_local_home()
        keypair = store.keypair(who.tenant_id, who.user_id, "ops")
        runner = Runner(store, kms, settings, "bench", worker)

        async def run(task: Task, given: Credential | None) -> None:
            await stub(runner, task, keypair.id)
            rolling.ended(task)

        dispatch = InProcess(runner, run, "bench", settings.concurrency, settings.lease_seconds)
        rolling = Rolling(store, dispatch, home, worker, commits=runner.means.commits)
        verbs = Rollouts(store, Bindings(store, dispatch, worker), rolling, worker)
        servers = store.servers(who.tenant_id)[-count:]
        secret = {each.id: Credential(password=Secret("x")) for each in servers}
        first = store.newest_event()
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        begun = await verbs.start(who, "bind", servers, {"keypair": "ops"}, ALL, secret)
        started = resource.getrusage(resource.RUSAGE_SELF)
        del servers, secret
        await asyncio.wait([rolling._driven[begun.id].work])
        after, ended = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        found, counts = await verbs.get(who, begun.id)
        oldest = (await verbs.list(who))[0]
        looks = time.process_time()
        await verbs.get(who, oldest.id)
        look = time.process_time() - looks
        counting = time.process_time()
        store.figures()
        count_all = time.process_time() - counting
        assert found.state == "finished", found
        assert counts["states"]["running"] == counts["states"]["waiting"] == 0, counts
        events = store.newest_event() - first
        await rolling.close()
        await dispatch.close()
        store.close()
    cpu = _cpu(after) - _cpu(started)
    return {
        "start, CPU ms a server": round((_cpu(started) - _cpu(before)) * 1000 / count, 3),
        RUN: round(cpu * 1000 / count, 3),
        "run, servers/s": round(count / (ended - began), 1),
        "events a server": round(events / count, 2),
        LOOK: round(look * 1000, 1),
        "figures of /metrics, CPU ms": round(count_all * 1000, 1),
        "peak memory, MB": round(after.ru_maxrss / 1024, 1),
    }


async def stub(runner: Runner, task: Task, keypair_id: str) -> None:
    """Ask the store for what a bind asks, and record how it is said to have ended."""
    store = runner.means.store
    await runner.means.kept(store.unsettled, task.server_id)
    await runner.means.kept(dossier.look_up, store, task)
    await runner.means.kept(store.note_opening, keypair_id, LOGIN, task.user_id, task_id=task.id, server_id=task.server_id)
    for phase in ("widen", "prove"):
        await runner.means.kept(store.progress, task.id, "bench", phase, {"steps": 1})
    number = int(task.server_name.rpartition("-")[2])
    if number % FAILED_EACH == FAILED_EACH - 1:
        cause = CAUSES[number // FAILED_EACH % len(CAUSES)]
        ended, changes = Outcome("failed", "as_before", cause=cause, message="as the benchmark says"), {}
    else:
        ended = Outcome("succeeded", "as_asked", proofs=[{"way": "key", "login": task.login, "method": "logged_in"}])
        binding = Binding(task.server_id, task.login, keypair_id, "logged_in", False, task.id, now())
        changes = {"binding": binding, "notes": ServerNotes(boot_id=str(uuid.uuid4()))}
    await runner.means.kept(store.finish, task.id, "bench", task.generation, ended, **changes)


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
