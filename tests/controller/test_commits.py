"""Verbs that wait at the same time are kept by one commit, each as if it were alone."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.dialects import sqlite

from controller import kps_audit_verify as verifier
from controller.commits import Commits
from controller.errors import Conflict
from controller.events import Actor, acting
from controller.kms import Kms
from controller.model import Caller, Outcome
from controller.service.auditkeys import AuditKeys
from controller.store import Store
from controller.store import tasks as tasks_of_store
from tests.controller import given

GOOD = Outcome("succeeded", "as_asked")


@pytest.fixture
def commits(store: Store) -> list[int]:
    """How many transactions have come to their end; grows."""
    kept: list[int] = []
    event.listen(store._engine, "commit", lambda connection: kept.append(1))
    return kept


def together(store: Store, *verbs: Callable[[], Any]) -> list[Any]:
    """What verbs that are called together have come to."""
    return [each.raised or each.returned for each in store.together([(contextvars.copy_context(), verb) for verb in verbs])]


def test_many_tasks_are_claimed_and_ended_by_two_commits(store: Store, kms: Kms, who: Caller, commits: list[int]) -> None:
    store.sign_with(AuditKeys(store, kms))
    tasks = [given.task(store, who, f"web-{number}") for number in range(20)]
    commits.clear()
    claimed = together(store, *(lambda task=task: store.claim(task.id, "me", 30) for task in tasks))
    assert len(commits) == 1
    assert [each.id for each in claimed] == [each.id for each in tasks]
    assert all(together(store, *(lambda task=task: store.finish(task.id, "me", task.generation, GOOD) for task in claimed)))
    assert len(commits) == 2
    assert {each.status for each in store.tasks(who.tenant_id)} == {"succeeded"}
    with verifier.trails(str(store._path)) as trails:
        assert [verifier.check(trail)["unsigned"] for trail in trails] == [0]


def test_two_that_want_one_server_are_told_apart_within_one_commit(store: Store, who: Caller) -> None:
    task = given.task(store, who)
    first, second = together(store, *[lambda: store.claim(task.id, "me", 30)] * 2)
    assert first.status == "running"
    assert second is None


def test_one_that_fails_takes_nothing_from_the_others_and_leaves_nothing(store: Store, who: Caller) -> None:
    tasks = [given.task(store, who, f"web-{number}") for number in range(3)]
    before = store.newest_event()

    def fails() -> None:
        store.claim(tasks[2].id, "me", 30)
        raise Conflict("some_code", "what it did before is undone too, where it is one of several")

    first, failed, last = together(
        store, lambda: store.claim(tasks[0].id, "me", 30), fails, lambda: store.claim(tasks[1].id, "me", 30)
    )
    assert (first.status, last.status) == ("running", "running")
    assert isinstance(failed, Conflict)
    # Alone it is two transactions, and its first one was kept.
    assert store.newest_event() == before + 3


def test_what_waits_while_a_commit_is_under_way_is_kept_by_the_next_one(store: Store, who: Caller, commits: list[int]) -> None:
    tasks = [given.task(store, who, f"web-{number}") for number in range(30)]

    async def story() -> list[Any]:
        with ThreadPoolExecutor(1) as worker:
            kept = Commits(store, worker).kept
            return await asyncio.gather(*(kept(store.claim, task.id, "me", 30) for task in tasks))

    commits.clear()
    assert [each.id for each in asyncio.run(story())] == [each.id for each in tasks]
    assert len(commits) <= 2


def test_who_no_longer_waits_holds_up_nobody(store: Store, who: Caller) -> None:
    tasks = [given.task(store, who, f"web-{number}") for number in range(2)]

    async def story() -> None:
        kept = Commits(store, None).kept
        gone = asyncio.ensure_future(kept(store.claim, tasks[0].id, "me", 30))
        await asyncio.sleep(0)
        gone.cancel()
        found = await kept(store.claim, tasks[1].id, "me", 30)
        assert found is not None
        await asyncio.wait([gone])

    asyncio.run(story())
    assert {each.status for each in store.tasks(who.tenant_id)} == {"running"}


def test_who_asked_is_told_only_what_is_on_the_disk(store: Store, who: Caller, commits: list[int]) -> None:
    task = given.task(store, who)
    seen: list[Any] = []

    def looks() -> None:
        other = Store(f"sqlite:///{store._path}")
        seen.append(other.task(who.tenant_id, task.id).status)
        other.close()

    together(store, lambda: store.claim(task.id, "me", 30), looks)
    assert seen == ["ready"]
    assert store.task(who.tenant_id, task.id).status == "running"


def test_what_was_asked_for_as_everything_is_called_off_is_done(store: Store, who: Caller) -> None:
    """A loop that ends cancels all its tasks, and waits for them: each has its end put on record, and none hangs."""
    tasks = [given.task(store, who, f"web-{number}") for number in range(5)]
    under_way, go_on = threading.Event(), threading.Event()

    def held() -> None:
        under_way.set()
        assert go_on.wait(30)

    async def job(kept: Callable[..., Any], task_id: str, all_begun: asyncio.Barrier) -> None:
        claimed = await kept(store.claim, task_id, "me", 30)
        await all_begun.wait()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await kept(store.finish, task_id, "me", claimed.generation, GOOD)
            raise

    async def story() -> None:
        kept, all_begun = Commits(store, None).kept, asyncio.Barrier(len(tasks) + 1)
        jobs = [asyncio.ensure_future(job(kept, task.id, all_begun)) for task in tasks]
        await all_begun.wait()
        busy = asyncio.ensure_future(kept(held))
        await asyncio.to_thread(under_way.wait, 30)
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        # Whoever was to keep it comes last: the jobs ask while it has not heard yet that it is over.
        for called_off in (*jobs, *(asyncio.all_tasks() - {asyncio.current_task(), *jobs})):
            called_off.cancel()
        await asyncio.wait([busy, *jobs], timeout=30)
        assert all(each.done() for each in jobs)

    asyncio.run(story())
    assert {each.status for each in store.tasks(who.tenant_id)} == {"succeeded"}


def test_the_trouble_of_one_tenant_is_nobody_elses(store: Store, who: Caller) -> None:
    task = given.task(store, who)

    class Broken:
        def ready(self, tenant_id: str) -> None:
            if tenant_id == "another":
                raise ValueError("a library's own")

        def sign(self, tenant_id: str, digest: bytes) -> None:
            return None

    store.sign_with(Broken())  # type: ignore[arg-type]
    theirs = contextvars.copy_context()
    theirs.run(acting.set, Actor("another", None, None))
    verbs = [(contextvars.copy_context(), lambda: store.claim(task.id, "me", 30)), (theirs, lambda: store.claim("x", "me", 30))]
    found = store.together(verbs)
    assert found[0].returned.status == "running"
    assert isinstance(found[1].raised, ValueError)


@pytest.mark.parametrize("name", ["_UNSETTLED", "_UNSETTLED_THERE", "_OTHERS_THERE", "_DOUBTFUL_THERE", "_RETRY_OF"])
def test_what_is_asked_for_each_task_goes_through_no_table(store: Store, name: str) -> None:
    """The store's own statements, as it asks them."""
    asked = getattr(tasks_of_store, name)
    said = str(asked.statement.compile(dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True}))
    with store._engine.connect() as connection:
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + said, ("x",) * said.count("?")).all()
    steps = [str(step[-1]) for step in plan]
    assert not [step for step in steps if step.startswith("SCAN") and "INDEX" not in step], steps


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ("SELECT * FROM tasks WHERE server_id = ? AND tenant_id = ? AND seq > 0 ORDER BY seq", "tasks_by_server"),
        ("SELECT * FROM tasks WHERE lease_until <= ?", "tasks_held"),
        ("SELECT * FROM tasks WHERE status || ? = ? AND tasks.server_state IN ('unknown', 'partial')", "tasks_in_doubt"),
        ("SELECT * FROM events WHERE tenant_id = ? AND number > 5 ORDER BY number", "events_by_number"),
    ],
)
def test_no_question_of_a_task_goes_through_all_tasks(store: Store, asked: str, index: str) -> None:
    with store._engine.connect() as connection:
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + asked, ("x",) * asked.count("?")).all()
    assert index in str(plan), plan


def test_what_is_asked_for_in_one_turn_is_one_commit(store: Store, who: Caller, commits: list[int]) -> None:
    """And so is the next step of all that were told together."""
    tasks = [given.task(store, who, f"web-{number}") for number in range(8)]

    async def story() -> None:
        with ThreadPoolExecutor(1) as worker:
            kept = Commits(store, worker).kept

            async def steps(task_id: str) -> None:
                assert await kept(store.claim, task_id, "me", 30)
                assert await kept(store.progress, task_id, "me", "look", {})

            await asyncio.gather(*(steps(task.id) for task in tasks))

    commits.clear()
    asyncio.run(story())
    assert len(commits) == 2


def test_a_verb_that_stops_like_an_iterator_stops_nothing_else(store: Store, who: Caller) -> None:
    def empty() -> None:
        next(iter(()))

    async def story() -> list[Any]:
        kept = Commits(store, None).kept
        return await asyncio.gather(kept(empty), kept(store.servers, who.tenant_id), kept(empty), return_exceptions=True)

    first, second, third = asyncio.run(asyncio.wait_for(story(), 30))
    assert (type(first), second, type(third)) == (RuntimeError, [], RuntimeError)
