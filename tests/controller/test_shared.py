"""Dispatch of controllers that share a PostgreSQL: each task is run by one of them, whoever dies or wakes up."""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import Any

import psycopg
import pytest
from procrastinate.exceptions import ConnectorException
from procrastinate.schema import SchemaManager

from controller.app import dispatching, end_unheard, sharing
from controller.dispatch import InProcess
from controller.dispatch.queue import Queue
from controller.dispatch.shared import Shared
from controller.doors import URGENT
from controller.errors import Away
from controller.kms import Kms
from controller.model import SERVING, Caller, Credential, Operation, Outcome, Sealed, Secret, Server, Task, now
from controller.run import Runner
from controller.service.sweeps import ALWAYS
from controller.settings import Settings
from controller.store import Store, engine
from controller.transport.jumps import SharedPlaces
from tests.postgresql import Cluster

LEASE_SECONDS = 3
SECONDS = 90  # nothing of these tests takes longer, on however busy a machine
SUCCEEDED = Outcome("succeeded", "as_asked")
WHO = Caller("1" * 32, "2" * 32, "3" * 32, "administrator")
A, B = f"{SERVING}a", f"{SERVING}b"


class Instance:
    """A controller that runs nothing on servers, and notes what it was to run."""

    def __init__(self, store: Store, kms: Kms, settings: Settings, database: str, owner: str, places: int) -> None:
        self.ran: list[str] = []
        self.given: list[Credential | None] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.queue = Queue(database, LEASE_SECONDS)
        self._runner = Runner(store, kms, settings, owner, None)
        self._store = store
        self._owner = owner
        self.dispatch = Shared(self._runner, self._run, owner, places, LEASE_SECONDS, self.queue, URGENT)

    async def _run(self, task: Task, given: Credential | None) -> None:
        self.ran.append(task.server_id)
        self.given.append(given)
        self.begun.set()
        await self.go_on.wait()
        await asyncio.to_thread(self._store.finish, task.id, self._owner, task.generation, SUCCEEDED)


class World:
    def __init__(self, store: Store, kms: Kms, settings: Settings, who: Caller, database: str) -> None:
        self.store, self.who, self.database = store, who, database
        self.kms = kms
        there = {"home": settings.home / "shared", "store_url": database, "lease_seconds": LEASE_SECONDS}
        self.settings = settings.model_copy(update=there)
        made = [Server(f"s{number}", who.tenant_id, f"web-{number}", "192.0.2.1") for number in range(6)]
        self.servers = store.add_servers(made)

    @asynccontextmanager
    async def instance(self, owner: str, takes: bool = True, places: int = 2) -> AsyncIterator[Instance]:
        made = Instance(self.store, self.kms, self.settings, self.database, owner, places)
        await made.queue.open()
        if takes:
            await made.dispatch.take(ALWAYS.take)
        try:
            yield made
        finally:
            made.go_on.set()
            await made.dispatch.close()

    @asynccontextmanager
    async def command(self) -> AsyncIterator[InProcess]:
        """What a command that runs in its own process has."""
        made = dispatching(self.settings, Runner(self.store, self.kms, self.settings, "command", None), "command")
        try:
            yield made
        finally:
            await made.close()

    @asynccontextmanager
    async def while_one_runs(self, *numbers: int, places: int = 2) -> AsyncIterator[tuple[Instance, Instance]]:
        """Two controllers: b has begun what a was asked for, and ends it once b.go_on is set. b.begun: another one has begun."""
        async with self.instance(A, takes=False) as a, self.instance(B, places=places) as b:
            b.go_on.clear()
            a.dispatch.ring(self.ordered(A, *numbers), {})
            await b.begun.wait()
            b.begun.clear()
            yield a, b

    def ordered(self, owner: str, *numbers: int, operation: Operation = "check", given: bool = False) -> list[str]:
        request = {"given": ["password"]} if given else {}
        who = self.who
        tasks = [
            Task(f"t{each.id[1:]}-{operation}", who.tenant_id, who.user_id, each.id, each.name, "root", operation, request, now())
            for each in (self.servers[number] for number in numbers)
        ]
        return [task.id for task in self.store.add_tasks(tasks, owner, LEASE_SECONDS)]

    async def until_ended(self, count: int, sweeps: Instance | None = None) -> None:
        """sweeps: who looks after the queue meanwhile, ever again: soon after the store was slow it takes nobody for dead."""
        await self.until(lambda: sum(task.status == "succeeded" for task in self.store.tasks(None)) >= count, sweeps)

    async def until(self, holds: Callable[[], object], sweeps: Instance | None = None) -> None:
        async with asyncio.timeout(SECONDS):
            while not holds():
                if sweeps is not None:
                    with suppress(Away):
                        await sweeps.dispatch.ring_again()
                await asyncio.sleep(0.05)  # it is seen from outside

    def jobs(self) -> list[tuple[str, str]]:
        with psycopg.connect(self.database) as connection:
            rows = connection.execute("SELECT queueing_lock, status::text FROM procrastinate_jobs ORDER BY id").fetchall()
        return [(str(task), str(status)) for task, status in rows]

    def change(self, statement: str) -> None:
        with psycopg.connect(self.database) as connection:
            connection.execute(statement.encode())


@pytest.fixture
def world(kms: Kms, settings: Settings, postgresql: Cluster) -> Iterator[World]:
    # A database of its own: the queue's tables are not the store's.
    with postgresql.database() as url, closing(Store(url)) as store:
        store.migrate()
        who = store.first_tenant(WHO, "home", "administrator", "A" * 20, Sealed(b"sealed"))[0]
        yield World(store, kms, settings, who, url)


def test_what_one_is_asked_for_another_runs_once(world: World) -> None:
    async def story() -> None:
        async with world.instance(A, takes=False) as a, world.instance(B) as b:
            a.dispatch.ring(world.ordered(A, 0, 1, 2, 3), {})
            await world.until_ended(4)
            assert a.ran == []
            assert sorted(b.ran) == ["s0", "s1", "s2", "s3"]

    asyncio.run(story())
    assert world.jobs() == []


def test_what_needs_a_memory_is_run_by_whoever_has_it(world: World) -> None:
    secret = Credential(password=Secret(b"only here"))

    async def story() -> None:
        async with world.instance(A, takes=False) as a, world.instance(B) as b:
            a.dispatch.ring(world.ordered(A, 0, given=True), {"s0": secret})
            a.dispatch.ring(world.ordered(A, 1), {})
            await world.until_ended(2)
            assert (a.ran, a.given) == (["s0"], [secret])
            assert (b.ran, b.given) == (["s1"], [None])

    asyncio.run(story())


def test_what_is_urgent_waits_for_no_place(world: World) -> None:
    async def story() -> None:
        async with world.while_one_runs(0, 1, places=1) as (a, b):
            a.dispatch.ring(world.ordered(A, 2, operation="door-close"), {}, urgent=True)
            await b.begun.wait()
            assert b.ran[1:] == ["s2"]

    asyncio.run(story())


def test_the_queues_tables_are_those_that_databases_have() -> None:
    """Where a newer library has others, the databases that there are need them too: that is not done by itself."""
    made = hashlib.sha256(SchemaManager.get_schema().encode()).hexdigest()
    assert made == "c70ec4b400a60ad9592787653aae5ae77ae41bf801d56b5bd2712751a07f2009"


def test_who_begins_waits_for_nobody_who_writes_to_the_queue(world: World) -> None:
    """What writes there may be a vacuum, which takes its time; and whoever writes next would wait for who waits."""

    async def story() -> None:
        async with world.instance(A, takes=False), await psycopg.AsyncConnection.connect(world.database) as writer:
            await writer.execute("LOCK TABLE procrastinate_jobs IN ROW EXCLUSIVE MODE")
            async with asyncio.timeout(SECONDS), world.instance(B, takes=False):
                pass

    asyncio.run(story())


_MAKES_THE_TABLES = """
import asyncio, os, signal, sys
from controller.dispatch import queue

class Stops(queue.SchemaManager):
    @staticmethod
    def get_schema():
        os.kill(os.getpid(), signal.SIGSTOP)

queue.SchemaManager, queue._MAKER_IDLE_SECONDS = Stops, 1
asyncio.run(queue.Queue(sys.argv[1], 30).open())
"""


def test_who_stands_still_as_it_makes_the_queues_tables_keeps_nobody_from_starting(postgresql: Cluster) -> None:
    async def story(url: str) -> None:
        queue = Queue(url, LEASE_SECONDS)
        async with asyncio.timeout(SECONDS):
            await queue.open()
        await queue.close()

    with postgresql.database() as url, subprocess.Popen([sys.executable, "-c", _MAKES_THE_TABLES, url]) as process:
        try:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            asyncio.run(story(url))
        finally:
            process.kill()


@pytest.mark.parametrize("isolation", [None, "repeatable read"])
def test_who_begin_at_once_make_the_queues_tables_once(postgresql: Cluster, isolation: str | None) -> None:
    """Both have seen that there are none, and what a session has seen of names it remembers."""

    async def story(url: str) -> None:
        several = [Queue(url, LEASE_SECONDS) for _ in range(3)]
        async with asyncio.timeout(SECONDS), await psycopg.AsyncConnection.connect(url, autocommit=True) as before:
            await before.execute("SELECT pg_advisory_lock(7041907)")
            opening = [asyncio.create_task(each.open()) for each in several]
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7041907 AND NOT granted"
            while await (await before.execute(waiting)).fetchone() != (len(several),):
                assert not any(each.done() for each in opening)
            await before.execute("SELECT pg_advisory_unlock(7041907)")
            await asyncio.gather(*opening)
        for each in several:
            await each.close()

    with postgresql.database() as url:
        if isolation is not None:
            with psycopg.connect(url, autocommit=True) as owner:
                owner.execute(f"ALTER DATABASE {owner.info.dbname} SET default_transaction_isolation = '{isolation}'")
        asyncio.run(story(url))


async def answers(queue: Queue) -> bool:
    with suppress(Away):
        await queue.lacking([])
        return True
    return False


def test_once_postgresql_is_back_the_queue_is(postgresql: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it was away: here the pool of connections looks again after two minutes, as it does at last by itself."""

    async def story(url: str) -> None:
        queue = Queue(url, LEASE_SECONDS)
        await queue.open()
        postgresql.stop()
        try:
            while await answers(queue):
                pass
        finally:
            postgresql.start()
        async with asyncio.timeout(60):
            while not await answers(queue):
                pass
        await queue.close()

    monkeypatch.setattr("psycopg_pool.base.AttemptWithBackoff.INITIAL_DELAY", 120)
    with postgresql.database() as url:
        asyncio.run(story(url))


def test_the_queues_sessions_have_the_limits_of_the_stores(world: World) -> None:
    """Else who waits there waits for ever, and those of a machine that is gone are kept for hours."""

    async def story() -> None:
        shared = await sharing(world.settings, Runner(world.store, world.kms, world.settings, A, None), A, takes=None)
        async with shared._queue._app.connector.pool.connection() as connection:
            found = await connection.execute("SELECT current_setting('lock_timeout'), current_setting('TimeZone')")
            assert await found.fetchone() == ("30s", "UTC")
        await shared.close()

    asyncio.run(story())


def test_a_job_that_is_lost_is_put_there_again(world: World) -> None:
    async def story() -> None:
        async with world.instance(A, takes=False) as a:
            a.dispatch.ring(world.ordered(A, 0, 1), {})
            await a.dispatch.idle()
            world.change("DELETE FROM procrastinate_jobs WHERE queueing_lock LIKE 't0%'")
            await a.dispatch.ring_again()
            assert sorted(world.jobs()) == [("t0-check", "todo"), ("t1-check", "todo")]

    asyncio.run(story())


def test_a_server_whose_worker_died_goes_to_the_next(world: World) -> None:
    """The dead one's job keeps all others of that server waiting until it is taken from it."""

    async def story() -> None:
        async with world.instance(A, takes=False) as a:
            a.dispatch.ring(world.ordered(A, 0), {})
            await a.dispatch.idle()
            # As it is left by a process that has taken it, and was killed: its row goes when it is not heard.
            world.change("UPDATE procrastinate_jobs SET status = 'doing'")
            a.dispatch.ring(world.ordered(A, 0, operation="bind"), {})
            await a.dispatch.idle()
            async with world.instance(B) as b:
                await world.until_ended(2, sweeps=a)
                assert b.ran == ["s0", "s0"]

    asyncio.run(story())


def test_a_job_that_could_not_be_ended_keeps_no_other_waiting(world: World) -> None:
    """Whoever had it lives, so it is not stalled; its task is over, and stays over at the next look."""

    async def story() -> None:
        async with world.instance(A, takes=False) as a:
            [over] = world.ordered(A, 0)
            a.dispatch.ring([over], {})
            await a.dispatch.idle()
            world.change("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() + interval '1 hour')")
            world.change(
                "UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT max(id) FROM procrastinate_workers)"
            )
            claimed = world.store.claim(over, A, LEASE_SECONDS)
            assert claimed is not None
            await a.dispatch.ring_again()
            await a.dispatch.ring_again()
            assert world.jobs() == [(over, "doing")]  # it runs
            world.store.finish(over, A, claimed.generation, SUCCEEDED)
            await a.dispatch.ring_again()
            assert world.jobs() == [(over, "doing")]  # perhaps it is just being ended
            await a.dispatch.ring_again()
            assert world.jobs() == []

    asyncio.run(story())


def test_a_job_that_was_taken_and_whose_answer_was_lost_is_put_there_again(world: World) -> None:
    """Whoever has it lives and does not know of it; it would keep its task and its server waiting for as long as that lives."""

    async def story() -> None:
        async with world.instance(A, takes=False) as a, world.instance(B) as b:
            lost = losing_an_answer(b)
            a.dispatch.ring(world.ordered(A, 0), {})
            await world.until_ended(1, sweeps=a)
            assert lost == ["t0-check"]

    asyncio.run(story())
    assert world.jobs() == []


def losing_an_answer(instance: Instance) -> list[str]:
    """Have the connection break once, as a job is taken: after the server has done so. Returns whose job."""
    lost: list[str] = []
    connector = instance.queue._manager.connector
    ask = connector.execute_query_one_async

    async def broken(query: str, **arguments: Any) -> dict[str, Any]:
        found = await ask(query, **arguments)
        if found.get("queueing_lock") and not lost:
            lost.append(found["queueing_lock"])
            raise ConnectorException from psycopg.OperationalError("server closed the connection unexpectedly")
        return found

    connector.execute_query_one_async = broken  # type: ignore[method-assign]
    return lost


def test_whoever_takes_goes_on_once_postgresql_is_back(world: World, postgresql: Cluster) -> None:
    async def story() -> None:
        async with world.while_one_runs(0) as (a, b):
            postgresql.stop()
            with pytest.raises(Away):
                await a.dispatch.ring_again()
            assert not a.dispatch.may_judge  # nobody was heard meanwhile
            postgresql.start()
            a.dispatch.ring(world.ordered(A, 1), {})
            await world.until(b.begun.is_set, sweeps=a)  # while the first one still runs
            b.go_on.set()
            await world.until_ended(2)

    asyncio.run(story())
    assert world.jobs() == []


def test_who_has_nothing_to_do_notices_too_that_postgresql_is_away(
    world: World, postgresql: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would be the first there once that is back, and end what the others run. So would a command by itself."""
    [running] = world.ordered(B, 0)
    assert world.store.claim(running, B, 0) is not None

    async def story() -> None:
        with ThreadPoolExecutor(1) as pool:
            async with world.instance(A, takes=False) as a, world.command() as command:
                assert a.dispatch.may_judge
                assert command.may_judge
                postgresql.stop()
                try:
                    await world.until(lambda: not a.dispatch.may_judge and not command.may_judge)
                finally:
                    postgresql.start()
                for each in (a.dispatch, command):
                    await end_unheard(world.store, pool, each)
                    assert not each.may_judge

    monkeypatch.setattr("controller.dispatch.monotonic", lambda: 0.0)  # however long PostgreSQL takes to start, it is soon after
    asyncio.run(story())
    assert [task.status for task in world.store.tasks(None)] == ["running"]


def test_nobody_is_taken_for_dead_soon_after_postgresql_stood_still(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers all, in the end, and whoever it answers first would find the leases of all others run out."""
    at = 0.0

    async def late(*_: object) -> set[str]:
        nonlocal at
        at += LEASE_SECONDS
        return set()

    async def story() -> None:
        nonlocal at
        async with world.instance(A, takes=False) as a, world.command() as command:
            for each in (a.dispatch, command):
                assert each.may_judge
                monkeypatch.setattr(each._claims, "renew", late)
                await each.hold()
                assert not each.may_judge
                at += LEASE_SECONDS
                assert each.may_judge

    monkeypatch.setattr("controller.dispatch.monotonic", lambda: at)
    asyncio.run(story())


def test_what_runs_out_while_who_judges_waits_to_write_is_not_ended(world: World) -> None:
    """Whoever runs it waits to write as well, and so could not renew it."""
    [running] = world.ordered(B, 0)
    claimed = world.store.claim(running, B, 1)
    assert claimed is not None
    assert claimed.lease_until is not None
    runs_out = claimed.lease_until

    async def story() -> None:
        runner = Runner(world.store, world.kms, world.settings, A, None)
        with closing(Store(world.database)) as other, ThreadPoolExecutor(1) as pool:
            with engine.writing(other._engine):
                judging = asyncio.create_task(end_unheard(world.store, pool, InProcess(runner, runner.run, A, 1)))
                while world.store.now() < runs_out:  # noqa: ASYNC110 (a clock tells nobody)
                    await asyncio.sleep(0.05)
                assert not judging.done()
            await judging

    asyncio.run(story())
    assert [task.status for task in world.store.tasks(None)] == ["running"]
    assert [task.id for task in world.store.interrupt_expired()] == [running]


def test_who_was_taken_for_dead_takes_again_when_it_wakes_up(world: World) -> None:
    async def story() -> None:
        async with world.instance(A, takes=False) as a, world.instance(B) as b:
            a.dispatch.ring(world.ordered(A, 0), {})
            await world.until_ended(1)
            world.change("DELETE FROM procrastinate_workers")
            a.dispatch.ring(world.ordered(A, 1), {})
            await world.until_ended(2)
            assert b.ran == ["s0", "s1"]

    asyncio.run(story())


def test_who_stands_still_as_it_speaks_to_the_queue_keeps_nobody_from_it(world: World) -> None:
    async def story() -> None:
        async with world.while_one_runs(0, places=1) as (a, b), b.queue._app.connector.pool.connection() as spoken:
            said = "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'"
            world.change(said)
            await spoken.execute(said)  # and says nothing more; whoever begins first takes such ones off the list
            async with world.instance("c") as c:
                a.dispatch.ring(world.ordered(A, 1), {})
                await world.until_ended(1)
                assert c.ran == ["s1"]
            b.go_on.set()

    asyncio.run(story())


def test_what_another_has_begun_is_not_held_any_more(world: World) -> None:
    async def story() -> None:
        async with world.while_one_runs(0) as (a, b):
            await a.dispatch.hold()
            assert not a.dispatch._held
            await b.dispatch.hold()
            assert b.dispatch._held == {"t0-check"}

    asyncio.run(story())


def test_who_is_told_to_stop_takes_nothing_more_and_ends_what_runs(world: World) -> None:
    async def story() -> None:
        async with world.while_one_runs(0, 1, places=1) as (_, b):
            draining = asyncio.ensure_future(b.dispatch.drain())
            await asyncio.sleep(0)
            b.go_on.set()
            await draining
            assert len(b.ran) == 1

    asyncio.run(story())
    assert sorted(task.status for task in world.store.tasks(None)) == ["ready", "succeeded"]


def test_a_jump_server_carries_no_more_for_all_of_them_than_for_one(world: World) -> None:
    most, carried, busiest = 2, 0, 0

    async def story() -> None:
        nonlocal busiest
        full = asyncio.Event()

        async def pass_through(places: SharedPlaces) -> None:
            nonlocal carried, busiest
            async with places.taken(["jump-1"]):
                carried += 1
                busiest = max(busiest, carried)
                if carried == most:
                    full.set()
                await full.wait()
                await asyncio.sleep(0.05)  # in which one too many would come
                carried -= 1

        def places(store: Store) -> SharedPlaces:
            return SharedPlaces(most, partial(asyncio.to_thread, store.take_turn), partial(asyncio.to_thread, store.leave_turn))

        with closing(Store(world.database)) as other:
            here, there = places(world.store), places(other)
            await asyncio.gather(*(pass_through(each) for _ in range(5) for each in (here, there)))

    asyncio.run(story())
    assert (carried, busiest) == (0, most)


def test_of_all_that_wait_for_a_jump_server_one_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is a question for each place, and all of a process's questions go one after the other."""
    asking, busiest = 0, 0
    enough = asyncio.Event()

    async def take(_: str) -> bool:
        nonlocal asking, busiest
        asking += 1
        busiest = max(busiest, asking)
        looks.append(None)
        if len(looks) == 12:
            enough.set()
        await asyncio.sleep(0)  # as the way to the store and back: others go on
        asking -= 1
        return False

    async def through(places: SharedPlaces) -> None:
        async with places.taken(["j"]):
            pass

    async def story() -> None:
        places = SharedPlaces(3, take, take)
        waiting = [asyncio.create_task(through(places)) for _ in range(3)]
        await enough.wait()
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)

    looks: list[None] = []
    monkeypatch.setattr("controller.transport.jumps._ANOTHER_LOOK_SECONDS", 0)
    asyncio.run(story())
    assert busiest == 1
