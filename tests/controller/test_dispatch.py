"""Dispatch: what waits or runs is held as long as its process lives, and given up when it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from controller.app import end_unheard
from controller.dispatch import InProcess
from controller.errors import Unavailable
from controller.kms import Kms
from controller.model import Caller, Credential, Outcome, Secret, Server, Task, now
from controller.run import Runner
from controller.settings import Settings
from controller.store import Store

LEASE_SECONDS = 3
SUCCEEDED = Outcome("succeeded", "as_asked")

Run = Callable[[Task, Credential | None], Awaitable[None]]


class Claims(Runner):
    """The store's own claims, which say when a lease was renewed."""

    def __init__(self, store: Store, kms: Kms, settings: Settings, owner: str) -> None:
        super().__init__(store, kms, settings, owner, None)
        self.renewed = asyncio.Event()
        self.failing = 0  # so many renewals fail

    async def renew(self, task_ids: object, owner: str, lease_seconds: float) -> set[str]:
        if self.failing:
            self.failing -= 1
            raise Unavailable("store_unusable", "it is away")
        held = await super().renew(task_ids, owner, lease_seconds)  # type: ignore[arg-type]
        self.renewed.set()
        return held


@pytest.fixture
def servers(store: Store, who: Caller) -> list[Server]:
    return store.add_servers([Server(f"s{number}", who.tenant_id, f"web-{number}", "192.0.2.1") for number in range(3)])


def ordered(store: Store, who: Caller, servers: list[Server], owner: str) -> list[Task]:
    """One task for each server, held by owner as the services do it."""
    tasks = [
        Task(f"t-{each.id}-{owner}", who.tenant_id, who.user_id, each.id, each.name, "root", "check", {}, now())
        for each in servers
    ]  # fmt: skip
    return store.add_tasks(tasks, owner, LEASE_SECONDS)


def statuses(store: Store, who: Caller) -> list[str]:
    return [task.status for task in store.tasks(who.tenant_id)]


def test_what_waits_in_a_living_process_is_touched_by_no_other(
    store: Store, kms: Kms, settings: Settings, who: Caller, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    at = now()
    monkeypatch.setattr(store, "_now", lambda: at)

    async def story() -> None:
        nonlocal at
        begun, go_on = asyncio.Event(), asyncio.Event()
        claims = Claims(store, kms, settings, "me")

        async def run(task: Task, given: Credential | None) -> None:
            begun.set()
            await go_on.wait()
            await claims.means.off(store.finish, task.id, "me", task.generation, SUCCEEDED)

        dispatch = InProcess(claims, run, "me", 1, LEASE_SECONDS)
        dispatch.ring([task.id for task in ordered(store, who, servers, "me")], {})
        await begun.wait()
        elsewhere = Store(settings.database_url, lambda: at)
        for _ in range(3):  # longer than any lease that is not renewed
            claims.renewed.clear()
            at += timedelta(seconds=0.9 * LEASE_SECONDS)
            await claims.renewed.wait()
            assert await asyncio.to_thread(elsewhere.interrupt_expired) == []
        assert statuses(store, who) == ["running", "ready", "ready"]
        go_on.set()
        await dispatch.idle()
        assert statuses(store, who) == ["succeeded"] * 3
        await dispatch.close()
        elsewhere.close()

    asyncio.run(story())


def test_who_is_told_to_stop_gives_up_what_waits_and_nobody_elses(
    store: Store, kms: Kms, settings: Settings, who: Caller, servers: list[Server]
) -> None:
    async def story() -> None:
        begun = asyncio.Event()
        claims = Claims(store, kms, settings, "me")

        async def run(task: Task, given: Credential | None) -> None:
            begun.set()
            await asyncio.Event().wait()

        dispatch = InProcess(claims, run, "me", 1, LEASE_SECONDS)
        dispatch.ring([task.id for task in ordered(store, who, servers, "me")], {})
        ordered(store, who, servers, "you")
        await begun.wait()
        await dispatch.close()

    asyncio.run(story())
    assert statuses(store, who) == ["running", "failed", "failed", "ready", "ready", "ready"]
    left = store.tasks(who.tenant_id, failed=True)
    assert {(task.cause, task.server_state, task.retryable) for task in left} == {("interrupted", "as_before", True)}


def test_what_was_cancelled_while_it_waited_is_not_run(
    store: Store, kms: Kms, settings: Settings, who: Caller, servers: list[Server]
) -> None:
    ran: list[str] = []

    async def story() -> None:
        go_on = asyncio.Event()
        claims = Claims(store, kms, settings, "me")

        async def run(task: Task, given: Credential | None) -> None:
            ran.append(task.server_name)
            await go_on.wait()
            await claims.means.off(store.finish, task.id, "me", task.generation, SUCCEEDED)

        dispatch = InProcess(claims, run, "me", 1, LEASE_SECONDS)
        tasks = ordered(store, who, servers, "me")
        dispatch.ring([task.id for task in tasks], {each.id: Credential(password=Secret("x")) for each in servers})
        assert await asyncio.to_thread(store.cancel, who.tenant_id, tasks[1].id, "not needed")
        go_on.set()
        await dispatch.idle()
        await dispatch.close()

    asyncio.run(story())
    assert ran == ["web-0", "web-2"]
    assert statuses(store, who) == ["succeeded", "cancelled", "succeeded"]


def test_a_store_that_is_away_for_a_while_has_nothing_that_runs_interrupted(
    store: Store, kms: Kms, settings: Settings, who: Caller, servers: list[Server]
) -> None:
    async def story() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()
        claims = Claims(store, kms, settings, "me")

        async def run(task: Task, given: Credential | None) -> None:
            begun.set()
            await go_on.wait()

        dispatch = InProcess(claims, run, "me", 1, LEASE_SECONDS)
        task = ordered(store, who, servers[:1], "me")[0]
        dispatch.ring([task.id], {})
        await begun.wait()
        claims.failing = 1
        async with asyncio.timeout(10 * LEASE_SECONDS):
            await claims.renewed.wait()  # all the same, and before anybody else looks
        with ThreadPoolExecutor(1) as worker:
            store.renew([task.id], "me", -1)  # away for longer than the lease
            claims.failing = 1
            with pytest.raises(Unavailable):
                await end_unheard(store, worker, dispatch)
            await end_unheard(store, worker, dispatch)
        assert statuses(store, who) == ["running"]
        go_on.set()
        await dispatch.idle()
        await dispatch.close()

    asyncio.run(story())
