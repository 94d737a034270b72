"""Rollouts under way: their tasks run by the real dispatch on the real store; what a server would do is said here."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, text

from controller import rolling
from controller.dispatch import InProcess
from controller.errors import Away, Conflict, Invalid, NotAllowed
from controller.kms import Kms
from controller.model import Caller, Credential, Outcome, Rollout, Sealed, Secret, Server, Task
from controller.rolling import Rolling
from controller.run import Runner
from controller.service.bindings import Bindings
from controller.service.rollouts import Rollouts
from controller.settings import Settings
from controller.store import Store

WHO = Caller("1" * 32, "2" * 32, "3" * 32, "administrator")
GOOD = Outcome("succeeded", "as_asked")
FULL = Outcome("failed", "as_before", cause="disk_full", message="full")
AWAY = Outcome("failed", "as_before", cause="connection_refused", message="away")
CAREFUL = {"canary": "1", "batch": "100%", "max_failures": "0"}

Ends = Callable[[Task], Outcome]


class Controller:
    """What a process has of a rollout: dispatch, the one who drives, and the verbs. Each task ends as ends says."""

    def __init__(self, store: Store, kms: Kms, settings: Settings, ends: Ends, owner: str = "me") -> None:
        self.store = store
        self.ran: list[Task] = []
        self.given: dict[str, Credential | None] = {}
        self.hold: asyncio.Event | None = None  # what runs waits for it
        self.begun = asyncio.Event()
        runner = Runner(store, kms, settings, owner, None)

        async def run(task: Task, given: Credential | None) -> None:
            self.ran.append(task)
            self.given[task.server_name] = given
            self.begun.set()
            if self.hold is not None:
                await self.hold.wait()
            await runner.means.off(store.finish, task.id, owner, task.generation, ends(task))
            self.rolling.ended(task)

        self.dispatch = InProcess(runner, run, owner, 8, 30)
        self.rolling = Rolling(store, self.dispatch, settings.home, None)
        self.verbs = Rollouts(store, Bindings(store, self.dispatch), self.rolling)

    async def through(self, who: Caller, rollout: Rollout) -> Rollout:
        """Return the rollout once it does not run any more."""
        while True:
            found, _ = await self.verbs.get(who, rollout.id)
            if found.state != "running" and not self.rolling._driven:
                return found
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self.rolling.close()
        await self.dispatch.close()


@pytest.fixture
def servers(store: Store, who: Caller) -> list[Server]:
    return six(store, who)


def six(store: Store, who: Caller) -> list[Server]:
    found = [
        Server(f"s{number}", who.tenant_id, f"web-{number}", f"192.0.2.{number}", labels={"zone": "ab"[number % 2]})
        for number in range(6)
    ]
    return store.add_servers(found)


@pytest.fixture
def told(store: Store, kms: Kms, settings: Settings) -> Callable[..., None]:
    """Run a story with a controller."""

    def run(story: Callable[[Controller], Awaitable[None]], ends: Ends = lambda task: GOOD) -> None:
        async def whole() -> None:
            controller = Controller(store, kms, settings, ends)
            try:
                async with asyncio.timeout(60):
                    await story(controller)
            finally:
                await controller.close()

        asyncio.run(whole())

    return run


def start(
    controller: Controller, who: Caller, servers: list[Server], strategy: dict[str, Any], **more: Any
) -> Awaitable[Rollout]:
    return controller.verbs.start(who, "check", servers, {}, strategy, more.get("credentials", {}))


def test_every_server_comes_to_its_end_once(told: Any, store: Store, who: Caller, servers: list[Server]) -> None:
    async def story(controller: Controller) -> None:
        secret = {servers[2].id: Credential(password=Secret("x"))}
        rollout = await start(controller, who, servers, {}, credentials=secret)
        ended = await controller.through(who, rollout)
        assert (ended.state, ended.reason) == ("finished", "6 as asked")
        assert Counter(task.server_name for task in controller.ran) == {server.name: 1 for server in servers}
        assert [name for name, given in controller.given.items() if given is not None] == ["web-2"]
        assert not controller.rolling._credentials
        _, counts = await controller.verbs.get(who, rollout.id)
        assert counts["states"]["succeeded"] == 6
        assert {task.rollout_id for task in store.tasks(who.tenant_id)} == {rollout.id}

    told(story)
    kinds = [event.kind for event in store.events(who.tenant_id, 0) if event.kind.startswith("rollout")]
    assert kinds == ["rollout_started", "rollout_changed"]


class AwayOnce:
    """A store that is away as one thing is first asked of it."""

    def __init__(self, store: Store, verb: str) -> None:
        self.store = store
        self.verb = verb
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        return self._asked if name == self.verb else getattr(self.store, name)

    def _asked(self, *given: Any) -> Any:
        self.asked += 1
        if self.asked == 1:
            raise Away("store_unusable", "it is being started anew")
        return getattr(self.store, self.verb)(*given)


@pytest.mark.parametrize("verb", ["rollout", "rollout_servers", "rollout_turn", "rollout_step"])
def test_a_store_that_is_away_for_a_moment_loses_nothing_of_a_rollout(
    told: Any, who: Caller, servers: list[Server], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr(rolling, "LOOK_SECONDS", 0.05)

    async def story(controller: Controller) -> None:
        away = AwayOnce(controller.store, verb)
        monkeypatch.setattr(controller.rolling, "_store", away)
        secret = {servers[2].id: Credential(password=Secret("x"))}
        rollout = await start(controller, who, servers, {}, credentials=secret)
        assert (await controller.through(who, rollout)).state == "finished"
        assert away.asked >= 2
        assert Counter(task.server_name for task in controller.ran) == {server.name: 1 for server in servers}
        assert [name for name, given in controller.given.items() if given is not None] == ["web-2"]

    told(story)


def test_a_rollout_whose_driver_loses_its_session_as_it_begins_servers_begins_them_all_the_same(
    kms: Kms, settings: Settings, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is started anew, say, or took a controller that stood still for gone."""
    added, lost = Store._add_task, []

    def broken(self: Store, connection: Connection, task: Task, *more: Any) -> Task:
        if not lost:
            lost.append(task.server_name)
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return added(self, connection, task, *more)

    monkeypatch.setattr(Store, "_add_task", broken)
    with closing(Store(database)) as store:
        who = store.first_tenant(WHO, "home", "administrator", "A" * 20, Sealed(b"sealed"))[0]
        servers = six(store, who)

        async def story() -> None:
            controller = Controller(store, kms, settings, lambda task: GOOD)
            try:
                rollout = await start(controller, who, servers, {})
                async with asyncio.timeout(30):
                    ended = await controller.through(who, rollout)
                assert (ended.state, ended.reason) == ("finished", "6 as asked")
            finally:
                await controller.close()

        asyncio.run(story())
    assert lost == ["web-0"]


def test_the_canary_fails_alone(told: Any, who: Caller, servers: list[Server]) -> None:
    async def story(controller: Controller) -> None:
        rollout = await start(controller, who, servers, CAREFUL | {"canary": "2", "per_label": "zone"})
        ended = await controller.through(who, rollout)
        assert (ended.state, ended.reason) == ("stopped", "a server of the canary failed (disk_full)")
        assert len(controller.ran) == 2
        _, counts = await controller.verbs.get(who, rollout.id)
        assert counts["causes"] == {"disk_full": 1}
        assert counts["labels"]["b"] == {"failed": 1, "waiting": 2}

    told(story, lambda task: FULL if task.server_name == "web-1" else GOOD)


def test_who_was_stopped_goes_on_when_somebody_says_so_and_retries_one_cause(
    told: Any, store: Store, who: Caller, servers: list[Server]
) -> None:
    well: list[str] = []

    async def story(controller: Controller) -> None:
        rollout = await start(controller, who, servers, CAREFUL)
        assert (await controller.through(who, rollout)).state == "stopped"
        await controller.verbs.resume(who, rollout.id)
        ended = await controller.through(who, rollout)
        assert (ended.state, ended.reason) == ("finished", "5 as asked, 1 failed")
        with pytest.raises(Conflict) as nothing:
            await controller.verbs.retry(who, rollout.id, "busy", {})
        assert nothing.value.code == "nothing_failed"
        well.append("web-0")
        await controller.verbs.retry(who, rollout.id, "disk_full", {})
        ended = await controller.through(who, rollout)
        assert (ended.state, ended.reason) == ("finished", "6 as asked")
        assert [task.server_name for task in controller.ran].count("web-0") == 2

    told(story, lambda task: FULL if task.server_name == "web-0" and not well else GOOD)
    assert store.tasks(who.tenant_id, failed=True) == []


def test_what_may_heal_is_tried_again(told: Any, who: Caller, servers: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    tries: Counter[str] = Counter()

    def ends(task: Task) -> Outcome:
        tries[task.server_name] += 1
        return AWAY if tries[task.server_name] < 3 and task.server_name == "web-3" else GOOD

    async def story(controller: Controller) -> None:
        ended = await controller.through(who, await start(controller, who, servers, CAREFUL))
        assert (ended.state, ended.reason) == ("finished", "6 as asked")
        assert tries["web-3"] == 3

    monkeypatch.setattr("controller.rollout.progress.wait", lambda *_: rolling.now() - rolling.now())
    told(story, ends)


def test_what_failed_is_retried_while_the_others_go_on(told: Any, who: Caller, servers: list[Server]) -> None:
    well: list[str] = []

    async def story(controller: Controller) -> None:
        rollout = await start(
            controller, who, servers, {"canary": "0", "batch": "100%", "max_failures": "100%", "concurrency": 1}
        )
        while not (await controller.verbs.get(who, rollout.id))[1]["causes"]:
            await controller.begun.wait()
            await asyncio.sleep(0)
        well.append("web-0")
        controller.hold = asyncio.Event()
        await controller.verbs.retry(who, rollout.id, "disk_full", {})
        controller.hold.set()
        assert (await controller.through(who, rollout)).reason == "6 as asked"
        assert [task.server_name for task in controller.ran].count("web-0") == 2

    told(story, lambda task: FULL if task.server_name == "web-0" and not well else GOOD)


def test_what_is_retried_elsewhere_as_its_driver_ends_a_rollout_is_retried(
    told: Any, store: Store, who: Caller, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another controller has it tried once more; who drives it has read all before, and is about to write that it is over."""
    well: list[str] = []
    change = store.change_rollout

    def overtaken(tenant_id: str, rollout_id: str, state: Any, reason: str, **more: Any) -> Rollout:
        if state == "finished" and not well:
            well.append("web-0")
            assert store.rollout_again(tenant_id, rollout_id, "disk_full", {}, [])
            change(tenant_id, rollout_id, "running", "", of=("running", "finished"), go_on=True)
        return change(tenant_id, rollout_id, state, reason, **more)

    async def story(controller: Controller) -> None:
        rollout = await start(controller, who, servers, {"canary": "0", "batch": "100%", "max_failures": "100%"})
        assert (await controller.through(who, rollout)).reason == "6 as asked"
        assert [task.server_name for task in controller.ran].count("web-0") == 2

    monkeypatch.setattr(store, "change_rollout", overtaken)
    told(story, lambda task: FULL if task.server_name == "web-0" and not well else GOOD)


def test_paused_resumed_and_cancelled(told: Any, store: Store, who: Caller, servers: list[Server]) -> None:
    async def story(controller: Controller) -> None:
        controller.hold = asyncio.Event()
        rollout = await start(controller, who, servers, {"canary": "0", "concurrency": 2})
        await controller.begun.wait()
        await controller.verbs.pause(who, rollout.id)
        controller.hold.set()
        assert (await controller.through(who, rollout)).state == "paused"
        await controller.dispatch.idle()
        begun = len(controller.ran)
        assert begun <= 2
        await controller.verbs.resume(who, rollout.id)
        assert (await controller.through(who, rollout)).state == "finished"
        assert Counter(task.server_name for task in controller.ran) == {server.name: 1 for server in servers}
        for verb in (controller.verbs.pause, controller.verbs.cancel, controller.verbs.resume):
            with pytest.raises(Conflict) as over:
                await verb(who, rollout.id)
            assert over.value.code == "rollout_is_not"

    told(story)


def test_somebody_looks_at_the_canary(told: Any, who: Caller, servers: list[Server]) -> None:
    async def story(controller: Controller) -> None:
        rollout = await start(controller, who, servers, {"pause_after_canary": True})
        ended = await controller.through(who, rollout)
        assert (ended.state, ended.reason) == ("paused", rolling.SEEN)
        assert len(controller.ran) == 1
        await controller.verbs.resume(who, rollout.id)
        assert (await controller.through(who, rollout)).reason == "6 as asked"

    told(story)


def test_who_comes_next_goes_on_where_a_dead_controller_was(
    store: Store, kms: Kms, settings: Settings, who: Caller, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is not told to stop: it is let go of with two tasks begun, as a kill would leave it."""
    monkeypatch.setattr("controller.rolling.wait", lambda *_: rolling.now() - rolling.now())

    async def story() -> None:
        first = Controller(store, kms, settings, lambda task: GOOD, "first")
        first.hold = asyncio.Event()
        rollout = await start(first, who, servers, {"canary": "0", "batch": "100%", "concurrency": 2})
        while len(first.ran) < 2:
            first.begun.clear()
            await first.begun.wait()
        second = Controller(store, kms, settings, lambda task: GOOD, "second")
        second.rolling.begin(rollout)
        assert not second.rolling._driven  # one process drives them all
        await first.rolling.close()
        assert len(store.interrupt_expired("first")) == 2
        second.rolling.begin(rollout)
        ended = await second.through(who, rollout)
        assert (ended.state, ended.reason) == ("finished", "6 as asked")
        assert Counter(task.server_name for task in second.ran) == {server.name: 1 for server in servers}
        found = store.rollout_servers(rollout.id)
        assert sorted(each.tries for each in found) == [1, 1, 1, 1, 2, 2]
        assert {each.status for each in found} == {"succeeded"}
        first.hold.set()
        await first.dispatch.idle()
        assert {each.status for each in store.rollout_servers(rollout.id)} == {"succeeded"}
        await second.close()
        await first.dispatch.close()

    asyncio.run(story())


def test_a_task_retried_by_hand_is_the_servers_last(told: Any, store: Store, who: Caller, servers: list[Server]) -> None:
    async def story(controller: Controller) -> None:
        from controller.service.tasks import Tasks

        rollout = await start(controller, who, servers, CAREFUL | {"max_failures": "100%", "canary": "0"})
        await controller.through(who, rollout)
        (failed,) = store.tasks(who.tenant_id, failed=True)
        await Tasks(store, controller.dispatch).retry(who, failed.id)
        await controller.dispatch.idle()
        assert store.rollout_servers(rollout.id)[4].task_id != failed.id

    told(story, lambda task: FULL if task.server_name == "web-4" else GOOD)


def test_what_cannot_be_meant_is_refused(told: Any, store: Store, who: Caller, servers: list[Server]) -> None:
    async def story(controller: Controller) -> None:
        for operation, strategy, code in (
            ("reset", {}, "operation_unknown"),
            ("check", {"canary": "many"}, "amount_unusable"),
            ("check", {"window": "always"}, "window_unusable"),
            ("check", {"max_failures_of": {"bad_luck": "1"}}, "cause_unknown"),
        ):
            with pytest.raises(Invalid) as refused:
                await controller.verbs.start(who, operation, servers, {}, strategy, {})
            assert refused.value.code == code
        auditor = Caller(who.tenant_id, who.project_id, who.user_id, "auditor")
        with pytest.raises(NotAllowed):
            await controller.verbs.start(auditor, "check", servers, {}, {}, {})

    told(story)
    assert store.rollouts(who.tenant_id) == []
    assert store.tasks(who.tenant_id) == []


def test_each_credential_has_its_own_end_in_memory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given anew for one server makes those of the others live no longer."""
    at = rolling.now()
    driver = Rolling(SimpleNamespace(now=lambda: at), None, tmp_path, None)  # type: ignore[arg-type]
    monkeypatch.setattr(driver, "_may_drive", lambda: False)
    some = Credential(password=Secret(b"x"))
    driver.begin(SimpleNamespace(id="r"), {"a": some, "b": some}, at + timedelta(hours=1))  # type: ignore[arg-type]
    driver.begin(SimpleNamespace(id="r"), {"a": some}, at + timedelta(hours=720))  # type: ignore[arg-type]
    assert set(driver._at_hand("r", "abc")) == {"a", "b"}
    at += timedelta(hours=2)
    assert set(driver._at_hand("r", "ab")) == {"a"}
    driver.forget_expired("r")
    assert set(driver._credentials["r"]) == {"a"}
