"""Rotation policies: real store, dispatch and rollouts; what a server would do is said here, and what time it is."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controller import keyfiles
from controller.dispatch import InProcess
from controller.errors import Conflict, Invalid, NotAllowed, NotFound
from controller.kms import Kms, root
from controller.model import FINAL, Binding, Caller, KeyPair, Outcome, Server, Task
from controller.policy import Rotation
from controller.rolling import Rolling
from controller.run import Runner
from controller.service.bindings import Bindings
from controller.service.custody import Custody
from controller.service.keypairs import Keypairs
from controller.service.policies import Policies
from controller.service.rollouts import Rollouts
from controller.settings import Settings
from controller.store import Store
from tests.controller.given import bind

START = datetime(2030, 1, 1, 12, tzinfo=UTC)
AWAY = Outcome("failed", "as_before", "connect", "connection_refused", "away")
FULL = Outcome("failed", "as_before", "look", "disk_full", "full")
ALL_AT_ONCE = {"canary": "0", "batch": "100%", "max_failures": "100%", "tries": 1}


class Clock:
    def __init__(self) -> None:
        self.at = START

    def __call__(self) -> datetime:
        return self.at

    def on(self, days: float) -> None:
        self.at += timedelta(days=days)


class Killed(BaseException):
    """The process is gone: nothing after it happens."""


class Fleet:
    """Servers, by name: whether they answer. What is bound on one is what a task has put there."""

    def __init__(self) -> None:
        self.fails: dict[str, Outcome] = {}
        self.ran: list[Task] = []


class Controller:
    """A process: dispatch, the one who drives, the policies. kill() lets go of it as kill -9 would."""

    def __init__(self, store: Store, kms: Kms, settings: Settings, fleet: Fleet, clock: Clock, owner: str = "me") -> None:
        self.store = store
        self.fleet = fleet
        self.hold: asyncio.Event | None = None
        self.begun = asyncio.Event()
        runner = Runner(store, kms, settings, owner, None)

        async def run(task: Task, given: object) -> None:
            fleet.ran.append(task)
            self.begun.set()
            if self.hold is not None:
                await self.hold.wait()
            outcome = fleet.fails.get(task.server_name, Outcome("succeeded", "as_asked"))
            changes: dict[str, Any] = {}
            if outcome.status == "succeeded":
                new = str(task.request["keypair_id"])
                store.sealed_private(new)  # nothing is put on a server whose private half is not in custody
                changes["binding"] = Binding(task.server_id, task.login, new, "logged_in", False, task.id, clock())
            await runner.means.off(store.finish, task.id, owner, task.generation, outcome, **changes)
            self.rolling.ended(task)

        self.dispatch = InProcess(runner, run, owner, 8, 1e9)
        self.rolling = Rolling(store, self.dispatch, settings.home, None)
        self.rollouts = Rollouts(store, Bindings(store, self.dispatch), self.rolling)
        self.policies = Policies(store, kms, self.rolling, clock=clock)

    async def rolled(self) -> None:
        """Wait until this process drives no rollout any more."""
        while self.rolling._driven:
            await asyncio.wait([each.work for each in self.rolling._driven.values()])
            await asyncio.sleep(0)
        await self.dispatch.idle()

    async def swept(self) -> None:
        """Sweep and wait for the rollouts that came of it, until nothing more comes of it."""
        while True:
            await self.policies.sweep()
            if not self.rolling._driven:
                return
            await self.rolled()

    async def close(self) -> None:
        await self.rolling.close()
        await self.dispatch.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of all: what may be tried again may be so at once."""
    clock = Clock()
    monkeypatch.setattr("controller.rolling.now", clock)
    monkeypatch.setattr("controller.rolling.wait", lambda *_: timedelta())
    monkeypatch.setattr("controller.rollout.progress.wait", lambda *_: timedelta())
    return clock


@pytest.fixture
def store(settings: Settings, made: dict[str, Any], clock: Clock) -> Iterator[Store]:
    store = Store(settings.database_url, clock)
    yield store
    store.close()


@pytest.fixture
def kms(store: Store, settings: Settings, clock: Clock) -> Kms:
    return Kms(store, *root.roots(settings.home))


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def servers(store: Store, who: Caller) -> list[Server]:
    return store.add_servers(
        [Server(f"s{n}", who.tenant_id, f"web-{n}", f"192.0.2.{n}", labels={"zone": "ab"[n % 2]}) for n in range(6)]
    )


@pytest.fixture
def ops(store: Store, kms: Kms, who: Caller, servers: list[Server], clock: Clock) -> KeyPair:
    """A key pair of the account on root of every server."""
    made = pair(store, kms, who, "ops", clock)
    for server in servers:
        bind(store, Binding(server.id, "root", made.id, "logged_in", False, "t", clock()))
    return made


def pair(
    store: Store, kms: Kms, who: Caller, name: str, clock: Clock, scope: Any = "account", *, managed: bool = True
) -> KeyPair:
    public, stored = keyfiles.generate("ed25519")
    made = KeyPair(
        f"id-of-{name}", who.tenant_id, who.user_id, scope, name, "ed25519", managed, public.line(name), public.fingerprint,
        public.fingerprint_md5, clock(),
    )  # fmt: skip
    return store.add_keypair(made, kms.seal_private(made, stored) if managed else None)


@pytest.fixture
def told(store: Store, kms: Kms, settings: Settings, fleet: Fleet, clock: Clock) -> Callable[..., None]:
    """Run a story with a controller."""

    def run(story: Callable[[Controller], Awaitable[None]]) -> None:
        async def whole() -> None:
            controller = Controller(store, kms, settings, fleet, clock)
            try:
                async with asyncio.timeout(600):
                    await story(controller)
            finally:
                await controller.close()

        asyncio.run(whole())

    return run


def bound(store: Store, who: Caller) -> dict[str, str]:
    """Return by server and login what is bound there."""
    names = {each.id: each.name for each in store.servers(who.tenant_id)}
    return {
        f"{each.login}@{names[each.server_id]}": store.keypair_by_id(each.keypair_id).name
        for each in store.bindings(who.tenant_id)
    }


def only(store: Store, who: Caller) -> Rotation:
    (found,) = store.rotations(who.tenant_id)
    return found


def kinds(store: Store, who: Caller, *begins: str) -> list[str]:
    return [each.kind for each in store.events(who.tenant_id, limit=10_000) if each.kind.startswith(begins)]


def test_a_key_pair_is_rotated_when_it_is_due_and_cleared_after_grace(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=7)
        clock.on(89.9)
        await controller.swept()
        assert fleet.ran == []
        assert store.rotations(who.tenant_id) == []
        clock.on(0.1)
        await controller.swept()
        assert set(bound(store, who).values()) == {"ops-v2"}
        rotation = only(store, who)
        assert (rotation.state, rotation.removed_at) == ("waiting", clock.at)
        assert store.keypair_by_id(ops.id).managed
        new = store.keypair_by_id(rotation.new_id)
        assert (new.managed, new.scope, new.type, new.master_key_id) == (True, "account", "ed25519", ops.master_key_id)
        clock.on(6.9)
        await controller.swept()
        assert store.keypair_by_id(ops.id).managed
        clock.on(0.1)
        await controller.swept()
        assert only(store, who).state == "done"
        assert not store.keypair_by_id(ops.id).managed
        await controller.swept()
        assert len(fleet.ran) == 6
        (due,) = await controller.policies.due(who, all=True)
        assert (due.name, due.standing, due.age_days) == ("ops-v2", "fresh", 7)

    told(story)
    assert kinds(store, who, "key_due", "rotation", "keypair_cleared") == [
        "key_due_soon",
        "key_due",
        "rotation_begun",
        "rotation_round",
        "rotation_removed",
        "keypair_cleared",
        "rotation_done",
    ]


def test_the_old_private_half_waits_for_the_server_that_is_away(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0, strategy=ALL_AT_ONCE)
        clock.on(90)
        fleet.fails["web-3"] = AWAY
        await controller.swept()
        assert [name for name, key in bound(store, who).items() if key == "ops"] == ["root@web-3"]
        for _ in range(3):
            clock.on(1)
            await controller.swept()
        assert [task.server_name for task in fleet.ran].count("web-3") == 4
        assert [task.server_name for task in fleet.ran].count("web-2") == 1
        assert store.keypair_by_id(ops.id).managed
        assert only(store, who).state == "rolling"
        del fleet.fails["web-3"]
        clock.on(1)
        await controller.swept()
        ended = only(store, who)
        assert (ended.state, ended.removed_at) == ("done", ended.ended_at)
        assert not store.keypair_by_id(ops.id).managed

    told(story)


def test_a_server_that_a_person_has_removed_is_not_waited_for(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0, strategy=ALL_AT_ONCE)
        clock.on(90)
        fleet.fails["web-3"] = AWAY
        await controller.swept()
        assert store.keypair_by_id(ops.id).managed
        store.remove_server("s3", who.user_id, forget_bindings=True)
        await controller.swept()
        assert only(store, who).state == "done"

    told(story)


def test_a_server_removed_while_its_rollout_runs_does_not_hold_it_up(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0, strategy={"concurrency": 1})
        clock.on(90)
        controller.hold = asyncio.Event()
        await controller.policies.sweep()
        await controller.begun.wait()
        store.remove_server("s5", who.user_id, forget_bindings=True)
        controller.hold.set()
        await controller.rolled()
        await controller.swept()
        assert only(store, who).state == "done"

    told(story)


def test_a_rollout_that_stops_at_its_canary_clears_nothing_and_waits_for_a_person(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0)
        clock.on(90)
        fleet.fails["web-0"] = FULL
        await controller.swept()
        rotation = only(store, who)
        assert rotation.state == "held"
        assert "disk_full" in rotation.reason
        for _ in range(5):
            clock.on(10)
            await controller.swept()
        await controller.policies.run(who, "fleet")
        assert len(fleet.ran) == 1
        assert store.keypair_by_id(ops.id).managed
        del fleet.fails["web-0"]
        assert rotation.rollout_id is not None
        await controller.rollouts.retry(who, rotation.rollout_id, None, {})
        await controller.rolled()
        await controller.swept()
        assert only(store, who).state == "done"

    told(story)
    assert kinds(store, who, "rotation_held") == ["rotation_held"]


def test_a_cancelled_rollout_is_begun_again_when_somebody_says_so(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0)
        clock.on(90)
        fleet.fails["web-0"] = FULL
        await controller.swept()
        first = only(store, who).rollout_id
        assert first is not None
        await controller.rollouts.cancel(who, first)
        fleet.fails.clear()
        clock.on(5)
        await controller.swept()
        assert only(store, who).state == "held"
        assert len(fleet.ran) == 1
        await controller.policies.run(who, "fleet")
        await controller.rolled()
        await controller.swept()
        clock.on(1)
        await controller.swept()
        assert only(store, who).state == "done"
        assert only(store, who).rollout_id != first

    told(story)


def test_a_policy_touches_its_label_alone_and_clears_nothing_that_others_need(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "a", "zone=a", 90, grace_days=0)
        clock.on(90)
        await controller.swept()
        assert {name for name, key in bound(store, who).items() if key == "ops"} == {"root@web-1", "root@web-3", "root@web-5"}
        clock.on(30)
        await controller.swept()
        rotation = only(store, who)
        assert (rotation.state, rotation.reason) == ("waiting", "the old key pair is bound on 3 logins of other servers")
        assert store.keypair_by_id(ops.id).managed
        # The other half of the fleet follows, with the next version that there is.
        await controller.policies.set(who, "b", "zone=b", 90, grace_days=0)
        await controller.swept()
        assert set(bound(store, who).values()) == {"ops-v2"}
        await controller.swept()
        assert [each.state for each in store.rotations(who.tenant_id)] == ["done", "done"]
        assert not store.keypair_by_id(ops.id).managed

    told(story)


def test_every_login_of_a_server_comes_in_its_round(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    for number in (0, 1):
        bind(store, Binding(f"s{number}", "deploy", ops.id, "logged_in", False, "t", clock()))

    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0)
        clock.on(90)
        await controller.swept()
        assert set(bound(store, who).values()) == {"ops-v2"}
        assert len(fleet.ran) == 8
        assert len(store.rollouts(who.tenant_id)) == 2
        assert only(store, who).state == "done"

    told(story)


def test_what_is_bound_once_more_during_grace_is_rotated_too(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=7)
        clock.on(90)
        await controller.swept()
        clock.on(6)
        bind(store, Binding("s2", "deploy", ops.id, "logged_in", False, "t", clock()))
        fleet.fails["web-2"] = AWAY
        await controller.policies.sweep()
        await controller.rolled()
        assert only(store, who).removed_at is None
        clock.on(7)
        await controller.swept()
        assert store.keypair_by_id(ops.id).managed

    told(story)


def test_another_key_pair_that_somebody_bound_meanwhile_is_not_taken_away(store: Store, kms: Kms, who: Caller) -> None:
    from controller import order
    from controller.order import REPLACES, Bound
    from kpsagent.errors import Refused

    server = store.add_servers([Server("s1", who.tenant_id, "web-1", "192.0.2.1")])[0]
    old, new, other = (pair(store, kms, who, name, Clock()) for name in ("old", "new", "other"))
    request = {"keypair": "new", "keypair_id": new.id, REPLACES: old.id}
    task = Task("t", who.tenant_id, who.user_id, server.id, server.name, "root", "replace", request, START)

    def made(here: KeyPair | None) -> order.Order:
        bound = [] if here is None else [Bound(Binding(server.id, "root", here.id, "logged_in", False, "t", START), here)]
        return order.make(task, server, bound, new, None, None, 60)

    assert made(old).plan["remove"] == [order.bare(old.line)]
    assert made(new).plan["remove"] == []
    for here in (other, None):
        with pytest.raises(Refused) as refused:
            made(here)
        assert refused.value.cause == "not_bound"


def test_what_cannot_be_rotated_is_told_and_left_alone(
    told: Any, store: Store, kms: Kms, who: Caller, other: Caller, servers: list[Server], clock: Clock, fleet: Fleet
) -> None:
    unmanaged = pair(store, kms, who, "by-hand", clock, managed=False)
    theirs = pair(store, kms, other, "theirs", clock, "private")
    for keypair, server in ((unmanaged, servers[0]), (theirs, servers[1])):
        bind(store, Binding(server.id, "root", keypair.id, "accepted", False, "t", clock()))

    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90)
        clock.on(100)
        await controller.swept()
        await controller.swept()
        assert fleet.ran == []
        assert store.rotations(who.tenant_id) == []
        found = await controller.policies.due(who)
        assert {each.name: each.obstacle.split(";")[0] for each in found} == {
            "by-hand": "its private half is not in custody",
            None: "another user's private key pair",
        }
        assert {each.name for each in await controller.policies.due(other)} == {"by-hand", "theirs"}

    told(story)
    assert sorted(kinds(store, who, "key_due", "rotation")) == ["key_due"] * 2 + ["rotation_refused"] * 2


def test_reminders_come_once_each_and_the_last_that_counts(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, remind_days=[14, 7, 1])
        await controller.policies.pause(who, "fleet")
        clock.on(76)
        for _ in range(3):
            await controller.policies.sweep()
        clock.on(13.5)
        await controller.policies.sweep()
        clock.on(0.5)
        for _ in range(3):
            await controller.policies.sweep()
        assert store.rotations(who.tenant_id) == []

    told(story)
    said = [
        (each.kind, each.detail["days"]) for each in store.events(who.tenant_id, limit=10_000) if each.kind.startswith("key_due")
    ]
    assert said == [("key_due_soon", 14), ("key_due_soon", 1), ("key_due", 0)]


def test_two_processes_rotate_once(
    store: Store, kms: Kms, settings: Settings, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story() -> None:
        both = [Controller(store, kms, settings, fleet, clock, name) for name in ("one", "two")]
        await both[0].policies.set(who, "fleet", None, 90, grace_days=0)
        clock.on(90)
        for _ in range(4):
            await asyncio.gather(*(each.policies.sweep() for each in both))
            for each in both:
                await each.rolled()
        assert only(store, who).state == "done"
        assert len(fleet.ran) == 6
        assert len(store.rollouts(who.tenant_id)) == 1
        assert {each.name for each in store.keypairs(who.tenant_id, who.user_id)} == {"ops", "ops-v2"}
        for each in both:
            await each.close()

    asyncio.run(asyncio.wait_for(story(), 600))


STEPS = ("begin_rotation", "begin_round", "rollout_step", "finish", "change_rollout", "note_rotation", "finish_rotation")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_any_step_loses_nothing_and_does_nothing_twice(
    step: str, after: bool, store: Store, kms: Kms, settings: Settings, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The process is let go of at its first step of this name, before or after what it has written."""
    original = getattr(store, step)
    killed: list[str] = []
    loop: list[asyncio.AbstractEventLoop] = []
    dying = asyncio.Event()

    def dies(*args: Any, **kwargs: Any) -> Any:
        if killed:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        killed.append(step)
        loop[0].call_soon_threadsafe(dying.set)
        raise Killed

    async def story() -> None:
        loop.append(asyncio.get_running_loop())
        first = Controller(store, kms, settings, fleet, clock, "first")
        await first.policies.set(who, "fleet", None, 90, grace_days=1)
        clock.on(90)
        monkeypatch.setattr(store, step, dies)

        async def to_the_end() -> None:
            for _ in range(3):
                await first.swept()
                clock.on(1)

        works = asyncio.ensure_future(to_the_end())
        dead = asyncio.ensure_future(dying.wait())
        await asyncio.wait([works, dead], return_when=asyncio.FIRST_COMPLETED)
        assert dying.is_set()
        works.cancel()
        await asyncio.wait([works])
        await first.rolling.close()
        monkeypatch.setattr(store, step, original)
        first.dispatch._held.clear()
        store.interrupt_expired("first")
        second = Controller(store, kms, settings, fleet, clock, "second")
        for _ in range(3):
            for rollout in store.rollouts(who.tenant_id, ("running",)):
                second.rolling.begin(rollout)
            await second.rolled()
            await second.swept()
            clock.on(1)
        assert only(store, who).state == "done"
        assert set(bound(store, who).values()) == {"ops-v2"}
        assert not store.keypair_by_id(ops.id).managed
        assert {each.name for each in store.keypairs(who.tenant_id, who.user_id)} == {"ops", "ops-v2"}
        assert all(task.status in FINAL for task in store.tasks(who.tenant_id))
        await second.close()
        await first.dispatch.close()

    asyncio.run(asyncio.wait_for(story(), 600))


def test_a_paused_policy_stands_still_and_goes_on(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0, strategy={"concurrency": 1})
        clock.on(90)
        controller.hold = asyncio.Event()
        await controller.policies.sweep()
        await controller.begun.wait()
        await controller.policies.pause(who, "fleet")
        controller.hold.set()
        await controller.rolled()
        await controller.swept()
        begun = len(fleet.ran)
        assert begun < 6
        assert store.rollouts(who.tenant_id)[0].state == "paused"
        with pytest.raises(Conflict) as paused:
            await controller.policies.run(who, "fleet")
        assert paused.value.code == "policy_paused"
        clock.on(30)
        await controller.swept()
        assert len(fleet.ran) == begun
        await controller.policies.resume(who, "fleet")
        await controller.rolled()
        await controller.swept()
        assert only(store, who).state == "done"
        assert len(fleet.ran) == 6

    told(story)


def test_a_policy_is_deleted_with_what_it_has_under_way_only_when_that_is_said(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0)
        clock.on(90)
        fleet.fails["web-0"] = FULL
        await controller.swept()
        with pytest.raises(Conflict) as busy:
            await controller.policies.delete(who, "fleet")
        assert busy.value.code == "policy_busy"
        await controller.policies.delete(who, "fleet", give_up=True)
        clock.on(400)
        await controller.swept()
        assert only(store, who).state == "given_up"
        assert store.keypair_by_id(ops.id).managed
        assert store.rollouts(who.tenant_id)[0].state == "cancelled"
        with pytest.raises(NotFound):
            await controller.policies.get(who, "fleet")

    told(story)


def test_who_has_set_a_policy_and_is_no_administrator_any_more_rotates_nothing(
    told: Any, store: Store, who: Caller, other: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    boss = replace(other, role="administrator")
    store.change_user(who.tenant_id, other.user_id, {"role": "administrator"}, who.user_id)

    async def story(controller: Controller) -> None:
        await controller.policies.set(boss, "fleet", None, 90, grace_days=7)
        clock.on(90)
        await controller.swept()
        assert only(store, who).state == "waiting"
        store.change_user(who.tenant_id, other.user_id, {"role": "operator"}, who.user_id)
        clock.on(8)
        await controller.swept()
        assert only(store, who).state == "held"
        assert store.keypair_by_id(ops.id).managed
        _, blocked, _ = await controller.policies.get(who, "fleet")
        assert "may not do so any more" in blocked
        for verb in (
            controller.policies.set(other, "x", None, 9),
            controller.policies.run(other),
            controller.policies.pause(other, "fleet"),
        ):
            with pytest.raises(NotAllowed):
                await verb
        await controller.policies.set(who, "fleet", None, 90, grace_days=7)
        await controller.swept()
        assert only(store, who).state == "done"

    told(story)


def test_a_new_pair_that_is_due_before_the_last_server_has_it_is_rotated_all_the_same(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 10, grace_days=0, strategy=ALL_AT_ONCE, remind_days=[])
        fleet.fails["web-3"] = AWAY
        for _ in range(3):
            clock.on(10)
            await controller.swept()
        keys = bound(store, who)
        assert keys.pop("root@web-3") == "ops"
        assert set(keys.values()) == {"ops-v4"}
        assert [store.keypair(who.tenant_id, who.user_id, name).managed for name in ("ops", "ops-v2", "ops-v3", "ops-v4")] == [
            True, False, False, True,
        ]  # fmt: skip
        del fleet.fails["web-3"]
        clock.on(1)
        await controller.swept()
        assert set(bound(store, who).values()) == {"ops-v4"}
        assert not store.keypair_by_id(ops.id).managed

    told(story)


def test_early_is_said_and_of_one_key_pair_alone(
    told: Any, store: Store, kms: Kms, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    ci = pair(store, kms, who, "ci", clock)
    bind(store, Binding("s1", "deploy", ci.id, "logged_in", False, "t", clock()))

    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90)
        assert await controller.policies.run(who, "fleet") == []
        with pytest.raises(NotFound):
            await controller.policies.run(who, "fleet", keypairs=["nobody"], early=True)
        (found,) = await controller.policies.run(who, "fleet", keypairs=["ci"], early=True)
        assert found[1:] == ("ci", "ci-v2")
        await controller.rolled()
        await controller.policies.run(who, "fleet", keypairs=["ci-v2"], early=True)  # its own rotation is not over
        await controller.rolled()
        assert [task.login for task in fleet.ran] == ["deploy"]

    told(story)


def test_what_cannot_be_meant_is_refused(told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock) -> None:
    async def story(controller: Controller) -> None:
        refused: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
            (("../x", None, 90), {}, "name_unusable"),
            (("x", "web-1", 90), {}, "selection_unusable"),
            (("x", None, 0), {}, "days_unusable"),
            (("x", None, 90), {"grace_days": -1}, "days_unusable"),
            (("x", None, 90), {"remind_days": [90]}, "days_unusable"),
            (("x", None, 90), {"strategy": {"canary": "many"}}, "amount_unusable"),
            (("x", None, 90), {"strategy": {"window": "at night"}}, "window_unusable"),
            (("x", None, 90), {"key_type": "dsa"}, "key_type_unknown"),
        ]
        for args, more, code in refused:
            with pytest.raises(Invalid) as error:
                await controller.policies.set(who, *args, **more)
            assert error.value.code == code
        assert await controller.policies.list(who) == []

    told(story)


def test_a_master_key_that_is_disabled_keeps_a_rotation_from_beginning(
    told: Any, store: Store, kms: Kms, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90)
        clock.on(90)
        assert ops.master_key_id is not None
        key = kms.key(who.tenant_id, ops.master_key_id)
        store.change_master_key(key.id, lambda key: replace(key, state="disabled"), "master_key_disabled", who.user_id)
        await controller.swept()
        (found,) = await controller.policies.due(who)
        assert found.obstacle
        assert store.rotations(who.tenant_id) == []
        assert fleet.ran == []
        store.change_master_key(key.id, lambda key: replace(key, state="enabled"), "master_key_enabled", who.user_id)
        clock.on(0.1)
        await controller.swept()
        assert await controller.policies.due(who) == []
        assert len(fleet.ran) == 6

    told(story)


def test_nobody_is_left_without_a_way_in(
    told: Any, store: Store, kms: Kms, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    """A task that nobody heard the end of may have left the old key pair alone on a login: it is kept."""

    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0)
        clock.on(90)
        await controller.policies.sweep()
        await controller.rolled()
        request = {"keypair": "ops", "keypair_id": ops.id}
        lost = Task("lost", who.tenant_id, who.user_id, "s4", "web-4", "root", "replace", request, clock())
        store.add_tasks([lost])
        claimed = store.claim(lost.id, "x", 30)
        assert claimed is not None
        store.finish(lost.id, "x", claimed.generation, Outcome("failed", "unknown", "prove", "connection_lost", "lost"))
        for _ in range(3):
            clock.on(10)
            await controller.swept()
        assert store.keypair_by_id(ops.id).managed
        assert "kps server check web-4" in only(store, who).reason
        assert store.settle(lost.id, "reverted")
        await controller.swept()
        assert only(store, who).state == "done"

    told(story)


def test_used_by_keypairs_and_custody_too(told: Any, store: Store, kms: Kms, who: Caller, ops: KeyPair, clock: Clock) -> None:
    """What a person does by hand is taken as it is: unbound and deleted key pairs end a rotation, and lose nothing."""

    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=7)
        clock.on(90)
        await controller.swept()
        await Custody(store, kms).clear(who, "ops")
        await Keypairs(store, kms).delete(who, "ops")
        await controller.swept()
        assert only(store, who).state == "done"

    told(story)


def test_a_next_version_that_somebody_deleted_holds_its_own_rotation_only(
    told: Any, store: Store, kms: Kms, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    other = pair(store, kms, who, "zci", clock)
    bind(store, Binding("s1", "deploy", other.id, "logged_in", False, "t", clock()))

    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0, strategy=ALL_AT_ONCE)
        clock.on(90)
        fleet.fails.update({f"web-{number}": AWAY for number in range(6)})
        await controller.swept()
        await Custody(store, kms).clear(who, "ops-v2")
        await Keypairs(store, kms).delete(who, "ops-v2")
        fleet.fails.clear()
        for _ in range(3):
            clock.on(1)
            await controller.swept()
        states = {each.old_id: (each.state, each.reason) for each in store.rotations(who.tenant_id)}
        assert states[ops.id] == ("held", "the new private half is not in custody any more; nothing is rolled out")
        assert states[other.id][0] == "done"
        assert store.keypair_by_id(ops.id).managed

    told(story)


def test_a_grace_that_is_made_longer_while_a_look_is_under_way_counts(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=7)
        clock.on(90)
        await controller.swept()
        clock.on(7)
        finish = store.finish_rotation

        def set_first(*given: Any) -> Any:
            store.set_policy(replace(store.policy(who.tenant_id, "fleet"), grace_days=365), who.user_id)
            return finish(*given)

        with monkeypatch.context() as patch:
            patch.setattr(store, "finish_rotation", set_first)
            await controller.policies.sweep()
        assert store.keypair_by_id(ops.id).managed
        await controller.policies.sweep()
        assert (only(store, who).state, store.keypair_by_id(ops.id).managed) == ("waiting", True)

    told(story)


def test_a_pause_holds_an_earlier_round_that_somebody_tries_once_more(
    told: Any, store: Store, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0, strategy=ALL_AT_ONCE)
        clock.on(90)
        fleet.fails.update({f"web-{number}": AWAY for number in range(6)})
        await controller.swept()
        first = only(store, who).rollout_id
        assert first is not None
        clock.on(1)
        await controller.swept()
        assert only(store, who).rollout_id != first
        fleet.fails.clear()
        controller.begun.clear()
        controller.hold = asyncio.Event()
        await controller.rollouts.retry(who, first, None, {})
        await controller.begun.wait()
        await controller.policies.pause(who, "fleet")
        assert {each.id: each.state for each in store.rollouts(who.tenant_id)}[first] == "paused"
        controller.hold.set()
        await controller.rolled()

    told(story)


def test_a_key_pair_that_is_named_presses_no_other_rotation(
    told: Any, store: Store, kms: Kms, who: Caller, ops: KeyPair, clock: Clock, fleet: Fleet
) -> None:
    async def story(controller: Controller) -> None:
        await controller.policies.set(who, "fleet", None, 90, grace_days=0)
        clock.on(90)
        fleet.fails["web-0"] = FULL
        await controller.swept()
        first = only(store, who).rollout_id
        assert first is not None
        await controller.rollouts.cancel(who, first)
        await controller.swept()
        other = pair(store, kms, who, "ci", clock)
        bind(store, Binding("s1", "deploy", other.id, "logged_in", False, "t", clock()))
        fleet.fails.clear()
        fleet.ran.clear()
        await controller.policies.run(who, "fleet", keypairs=["ci"], early=True)
        await controller.rolled()
        assert [(each.login, each.server_name) for each in fleet.ran] == [("deploy", "web-1")]

    told(story)
