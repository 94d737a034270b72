"""Emergency doors: who may, what is refused, who else has to agree, and that they go ahead of everything that waits."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from controller.errors import Conflict, Invalid, NotAllowed, NotFound, Problem
from controller.model import Caller, Credential, Outcome, Secret, Server, Task, User, now
from controller.service.emergency import Emergency
from tests.controller.world import HOST_KEY, Dispatch, World

run = asyncio.run


@pytest.fixture
def boss(world: World) -> Caller:
    return world.tenant()


@pytest.fixture
def alice(world: World, boss: Caller) -> Caller:
    return world.user(boss, "operator", begins="alice")


@pytest.fixture
def bob(world: World, boss: Caller) -> Caller:
    return world.user(boss, "operator", begins="bob")


@pytest.fixture
def server(world: World, boss: Caller) -> Server:
    return replace(world.server(boss), labels={"zone": "prod"})


@pytest.fixture
def ruled(world: World, boss: Caller) -> None:
    run(world.emergency.rules.set(boss, "zone=prod", 15))


@pytest.fixture
def later(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Have time go by."""
    gone = [0.0]

    def clock() -> datetime:
        return now() + timedelta(seconds=gone[0])

    monkeypatch.setattr(world.store, "_now", clock)

    def go(seconds: float) -> None:
        gone[0] += seconds

    return go


def refused(work: Coroutine[Any, Any, Any], kind: type[Problem], code: str) -> Problem:
    with pytest.raises(kind) as caught:
        run(work)
    assert caught.value.code == code
    return caught.value


def nothing_changed(world: World, who: Caller) -> bool:
    return not world.store.doors(who.tenant_id) and not world.store.tasks(who.tenant_id)


# -- refusals, each by its code


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"reason": ""}, "reason_missing"),
        ({"reason": " \n\t"}, "reason_missing"),
        ({"reason": "x" * 501}, "reason_too_long"),
        ({"seconds": 4 * 3600 + 1}, "door_too_long"),
        ({"seconds": 0}, "door_too_short"),
        ({"login": "alice,*"}, "login_is_pattern"),
        ({"login": "a?"}, "login_is_pattern"),
        ({"login": "!root"}, "login_is_pattern"),
        ({"login": "-oProxyCommand"}, "login_unusable"),
        ({"network": "203.0.113.7/24"}, "network_unusable"),
        ({"network": "0.0.0.0/0 User *"}, "network_unusable"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_changes(
    world: World, alice: Caller, server: Server, asked: dict[str, Any], code: str
) -> None:
    wanted: dict[str, Any] = {"reason": "no key gets in", "seconds": 60} | asked
    refused(world.emergency.open(alice, [server], **wanted), Invalid, code)
    assert nothing_changed(world, alice)


def test_the_servers_own_login_is_held_to_the_same(world: World, alice: Caller, server: Server) -> None:
    refused(world.emergency.open(alice, [replace(server, login="*")], reason="x", seconds=60), Invalid, "login_is_pattern")
    assert nothing_changed(world, alice)


def test_no_role_no_door(world: World, boss: Caller, server: Server) -> None:
    auditor = world.user(boss, "auditor")
    refused(world.emergency.open(auditor, [server], reason="x", seconds=60), NotAllowed, "role_reads_only")
    refused(world.emergency.rules.set(auditor, "zone=prod", 15), NotAllowed, "role_reads_only")
    refused(world.emergency.rules.set(world.user(boss, "operator"), "zone=prod", 15), NotAllowed, "administrator_needed")
    assert nothing_changed(world, boss)


def test_a_door_is_opened_by_no_other_order(world: World, alice: Caller, server: Server) -> None:
    refused(world.bindings.start(alice, "door-open", [server], {}, {}), Invalid, "operation_unknown")
    _, (door,) = run(world.emergency.open(alice, [server], reason="x", seconds=60))
    claimed = world.store.claim(door.task_id, "me", 30)
    assert claimed is not None
    world.store.finish(door.task_id, "me", claimed.generation, Outcome("failed", "as_before", cause="connection_refused"))
    refused(world.tasks.retry(alice, door.task_id), Conflict, "door_not_retried")


def test_a_login_that_has_a_door_keeps_it(world: World, alice: Caller, boss: Caller, server: Server) -> None:
    _, (first,) = run(world.emergency.open(alice, [server], reason="x", seconds=60))
    refused(world.emergency.open(alice, [server], reason="x", seconds=60), Conflict, "door_is_open")
    other = world.server(boss)
    orders, doors = run(world.emergency.open(alice, [server, other], reason="x", seconds=60))
    assert first.id in [each.id for each in doors]
    assert [len(order.doors) for order in orders] == [1]


def test_a_door_is_not_extended_beyond_the_limit(world: World, alice: Caller, server: Server) -> None:
    short = Emergency(world.store, Dispatch(), longest_hours=0.5)
    _, (door,) = run(short.open(alice, [server], reason="x", seconds=1800))
    refused(short.extend(alice, [door.id], 60, "x"), Conflict, "door_not_open")
    opened(world, door.task_id, door.id)
    refused(short.extend(alice, [door.id], 1801, "x"), Invalid, "door_too_long")
    refused(short.extend(alice, [door.id], 60, " "), Invalid, "reason_missing")
    run(short.extend(alice, [door.id], 60, "not through"))


def opened(world: World, task_id: str, door_id: str) -> None:
    """Have a door come open."""
    claimed = world.store.claim(task_id, "me", 30)
    assert claimed is not None
    told = {"id": door_id, "login": "root", "from": None, "opened_at": 1, "deadline": 2, "state": "open", "closed_by": None}
    outcome = Outcome("succeeded", "as_asked", evidence={"door": told | {"watchers": []}})
    assert world.store.finish(task_id, "me", claimed.generation, outcome)


def test_a_door_whose_opening_nobody_heard_counts_from_when_it_was_asked_for(
    world: World, alice: Caller, server: Server, later: Callable[[float], None]
) -> None:
    short = Emergency(world.store, Dispatch(), longest_hours=0.5)
    _, (door,) = run(short.open(alice, [server], reason="x", seconds=1200))
    claimed = world.store.claim(door.task_id, "me", 30)
    assert claimed is not None
    gone = Outcome("failed", "unknown", cause="connection_lost", message="gone")
    assert world.store.finish(door.task_id, "me", claimed.generation, gone)
    later(600)
    run(short.sweep())
    (asked,) = [each for each in world.store.tasks(alice.tenant_id) if each.operation == "door-status"]
    opened(world, asked.id, door.id)
    assert world.store.door(alice.tenant_id, door.id).state == "open"
    refused(short.extend(alice, [door.id], 1260, "x"), Invalid, "door_too_long")
    run(short.extend(alice, [door.id], 1140, "x"))


# -- two persons


@pytest.mark.usefixtures("ruled")
def test_a_second_user_has_to_agree(world: World, alice: Caller, bob: Caller, server: Server) -> None:
    (order,), (door,) = run(world.emergency.open(alice, [server], reason="x", seconds=60))
    assert (order.state, order.rules, door.state) == ("asked", ["zone=prod"], "asked")
    assert world.store.tasks(alice.tenant_id) == []
    refused(world.emergency.approvals.approve(alice, order.id), NotAllowed, "approved_by_requester")
    auditor = world.user(alice, "auditor")
    refused(world.emergency.approvals.approve(auditor, order.id), NotAllowed, "role_reads_only")
    assert world.store.tasks(alice.tenant_id) == []
    decided, (door,) = run(world.emergency.approvals.approve(bob, order.id))
    assert (decided.decided_by, door.state) == (bob.user_id, "opening")
    (task,) = world.store.tasks(alice.tenant_id)
    assert (task.id, task.user_id, task.operation) == (door.task_id, alice.user_id, "door-open")
    refused(world.emergency.approvals.approve(bob, order.id), Conflict, "door_order_decided")
    trail = [
        (each.kind, each.user_id) for each in world.store.events(alice.tenant_id) if each.kind in ("door_asked", "door_approved")
    ]
    assert trail == [("door_asked", alice.user_id), ("door_approved", bob.user_id)]


@pytest.mark.usefixtures("ruled")
def test_an_approval_that_comes_too_late_is_refused(world: World, alice: Caller, bob: Caller, server: Server) -> None:
    (order,), _ = run(world.emergency.open(alice, [server], reason="x", seconds=60))
    store = world.store
    before, at = store._now, order.approve_until
    assert at is not None
    store._now = lambda: at
    try:
        refused(world.emergency.approvals.approve(bob, order.id), Conflict, "approval_expired")
        run(world.emergency.sweep())
        refused(world.emergency.approvals.approve(bob, order.id), Conflict, "approval_expired")
    finally:
        store._now = before
    assert run(world.emergency.list(alice, all=True))[0].state == "lapsed"
    assert store.tasks(alice.tenant_id) == []


@pytest.mark.usefixtures("ruled")
def test_nobody_agrees_to_what_somebody_asked_who_is_gone(world: World, alice: Caller, bob: Caller, server: Server) -> None:
    (order,), _ = run(world.emergency.open(alice, [server], reason="x", seconds=60))
    user: User = world.store.user(alice.tenant_id, alice.user_id)
    world.store.change_user(alice.tenant_id, user.id, {"enabled": False}, bob.user_id)
    refused(world.emergency.approvals.approve(bob, order.id), Conflict, "requester_gone")
    assert world.store.tasks(alice.tenant_id) == []


@pytest.mark.usefixtures("ruled")
def test_what_needs_nobody_else_is_opened_at_once(world: World, alice: Caller, boss: Caller, server: Server) -> None:
    free = world.server(boss)
    orders, doors = run(world.emergency.open(alice, [server, free], reason="x", seconds=60))
    assert {order.state for order in orders} == {"asked", "given"}
    assert {door.server_id: door.state for door in doors} == {server.id: "asked", free.id: "opening"}
    assert [task.server_id for task in world.store.tasks(alice.tenant_id)] == [free.id]


def test_a_door_that_needed_a_second_user_is_not_extended_by_one(
    world: World, alice: Caller, bob: Caller, boss: Caller, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = replace(world.store.add_servers([replace(server, id=str(uuid.uuid4()), name=world.name("prod"))])[0])
    _, (door,) = run(world.emergency.open(alice, [kept], reason="x", seconds=60))
    opened(world, door.task_id, door.id)
    run(world.emergency.rules.set(boss, "zone=prod", 15))
    before = len(world.store.tasks(alice.tenant_id))
    (order,), _ = run(world.emergency.extend(alice, [door.id], 120, "x"))
    assert (order.state, order.does) == ("asked", "extend")
    assert len(world.store.tasks(alice.tenant_id)) == before
    _, (door,) = run(world.emergency.approvals.approve(bob, order.id))
    task = world.store.tasks(alice.tenant_id)[-1]
    assert (task.operation, task.id) == ("door-extend", door.closing_task_id)  # whoever agrees can follow it


@pytest.mark.usefixtures("ruled")
def test_what_is_agreed_to_late_is_held_to_the_limit(
    world: World, alice: Caller, bob: Caller, server: Server, later: Callable[[float], None]
) -> None:
    short = Emergency(world.store, Dispatch(), longest_hours=0.5)
    kept = prod(world, server)
    (order,), (door,) = run(short.open(alice, [kept], reason="x", seconds=1200))
    run(short.approvals.approve(bob, order.id))
    opened(world, door.task_id, door.id)
    (order,), _ = run(short.extend(alice, [door.id], 1500, "x"))
    later(600)
    refused(short.approvals.approve(bob, order.id), Invalid, "door_too_long")
    assert [each.operation for each in world.store.tasks(alice.tenant_id)] == ["door-open"]
    run(short.approvals.refuse(bob, order.id))  # it is not decided by that


@pytest.mark.usefixtures("ruled")
def test_of_doors_that_are_to_stay_open_one_that_closed_meanwhile_keeps_nobody_from_the_others(
    world: World, alice: Caller, bob: Caller, server: Server
) -> None:
    servers = [prod(world, server, host=f"192.0.2.{number}") for number in (8, 9)]
    (order,), doors = run(world.emergency.open(alice, servers, reason="x", seconds=600))
    run(world.emergency.approvals.approve(bob, order.id))
    for door in doors:
        opened(world, door.task_id, door.id)
    orders = [run(world.emergency.extend(alice, [each.id for each in doors], 600, "x"))[0][0] for _ in range(2)]
    run(world.emergency.close(bob, [doors[0].id]))
    run(world.emergency.approvals.approve(bob, orders[0].id))
    extends = [each for each in world.store.tasks(alice.tenant_id) if each.operation == "door-extend"]
    assert [each.request["door_id"] for each in extends] == [doors[1].id]
    run(world.emergency.close(bob, [doors[1].id]))
    refused(world.emergency.approvals.approve(bob, orders[1].id), Conflict, "door_not_open")


def prod(world: World, server: Server, **more: Any) -> Server:
    """A server that is under the rule, in the inventory."""
    return world.store.add_servers([replace(server, id=str(uuid.uuid4()), name=world.name("prod"), **more)])[0]


KEY = " ".join(HOST_KEY.split()[:2])


@pytest.mark.usefixtures("ruled")
@pytest.mark.parametrize(
    ("ruled_one", "other", "same"),
    [
        ({"host": "web.example.net"}, {"host": "WEB.example.net."}, True),
        ({"host": "192.0.2.7"}, {"host": "::ffff:192.0.2.7"}, True),
        ({"host": "192.0.2.7", "host_key": KEY}, {"host": "alias", "host_key": f"{KEY} note"}, True),
        ({"host": "192.0.2.7", "host_key": KEY}, {"host": "alias", "port": 2222, "host_key": KEY}, True),
        ({"host": "192.0.2.7"}, {"host": "192.0.2.8"}, False),
        ({"host": "192.0.2.7"}, {"host": "192.0.2.7", "port": 2222}, False),
        ({"host": "192.0.2.7", "host_key": KEY}, {"host": "192.0.2.8", "host_key": "ssh-ed25519 AAAA"}, False),
    ],
)
def test_a_rule_is_not_got_round_by_another_entry_for_the_machine(
    world: World, alice: Caller, server: Server, ruled_one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    prod(world, server, **ruled_one)
    again = prod(world, server, labels={}, **other)
    (order,), _ = run(world.emergency.open(alice, [again], reason="x", seconds=60))
    assert (order.state, order.rules) == (("asked", ["zone=prod"]) if same else ("given", []))


@pytest.mark.usefixtures("ruled")
def test_a_server_under_a_rule_is_taken_out_or_moved_by_an_administrator_alone(
    world: World, alice: Caller, boss: Caller, server: Server
) -> None:
    kept, pinned, free = prod(world, server), prod(world, server, host_key=KEY), prod(world, server, labels={})
    refused(world.servers.remove(alice, kept.name), NotAllowed, "administrator_needed")
    refused(world.servers.change(alice, kept.name, host="192.0.2.9"), NotAllowed, "administrator_needed")
    refused(world.servers.change_all(alice, [kept.id], port=2222), NotAllowed, "administrator_needed")
    run(world.servers.change(alice, pinned.name, host="192.0.2.9"))  # it is known by its key
    run(world.servers.remove(alice, free.name))
    run(world.servers.remove(boss, kept.name))


@pytest.mark.usefixtures("ruled")
def test_whoever_asked_takes_it_back(world: World, alice: Caller, server: Server) -> None:
    (order,), (door,) = run(world.emergency.open(alice, [server], reason="x", seconds=60))
    run(world.emergency.close(alice, [door.id]))
    assert [each.state for each in run(world.emergency.list(alice, all=True))] == ["refused"]
    refused(world.emergency.approvals.refuse(alice, order.id), Conflict, "door_order_decided")


@pytest.mark.usefixtures("ruled")
def test_closing_one_door_that_was_asked_for_takes_back_that_one(
    world: World, alice: Caller, bob: Caller, server: Server
) -> None:
    (order,), doors = run(world.emergency.open(alice, [prod(world, server), prod(world, server)], reason="x", seconds=60))
    run(world.emergency.close(alice, [doors[0].id]))
    assert [each.id for each in run(world.emergency.list(alice))] == [doors[1].id]
    run(world.emergency.approvals.approve(bob, order.id))
    assert [each.id for each in world.store.tasks(alice.tenant_id)] == [doors[1].task_id]


@pytest.mark.usefixtures("ruled")
def test_a_delegated_user_is_no_second_one(world: World, alice: Caller, server: Server) -> None:
    (order,), _ = run(world.emergency.open(alice, [server], reason="x", seconds=60))
    robot = world.user(alice, "operator", "delegated")
    refused(world.emergency.approvals.approve(robot, order.id), NotAllowed, "delegated_acts_for_others")


@pytest.mark.usefixtures("ruled")
def test_what_came_to_extend_a_door_outlives_another_orders_lapse(
    world: World, alice: Caller, bob: Caller, server: Server, later: Callable[[float], None]
) -> None:
    rung: list[dict[str, Credential]] = []

    class Heard(Dispatch):
        def ring(self, task_ids: Any, credentials: Any, *, urgent: bool = False) -> None:
            rung.append(dict(credentials))

    short, kept, other = Emergency(world.store, Heard()), prod(world, server), prod(world, server)
    (order,), (door,) = run(short.open(alice, [kept], reason="x", seconds=3600))
    run(short.approvals.approve(bob, order.id))
    opened(world, door.task_id, door.id)
    run(short.open(alice, [other], reason="x", seconds=60))
    later(14 * 60)
    given = Credential(password=Secret("open sesame"))
    (order,), _ = run(short.extend(alice, [door.id], 3600, "x", opens=lambda name: given))
    later(60)
    run(short.sweep())
    assert "lapsed" in [each.state for each in run(short.list(alice, all=True))]
    rung.clear()
    run(short.approvals.approve(bob, order.id))
    assert rung == [{kept.id: given}]


def test_rules_say_which_servers(world: World, boss: Caller) -> None:
    refused(world.emergency.rules.set(boss, "zone", 15), Invalid, "selection_unusable")
    refused(world.emergency.rules.set(boss, "zone=prod", 0), Invalid, "minutes_unusable")
    refused(world.emergency.rules.remove(boss, "zone=prod"), NotFound, "door_rule_not_found")


@pytest.mark.usefixtures("ruled")
def test_what_came_for_a_door_is_there_once_somebody_has_agreed(world: World, alice: Caller, bob: Caller, server: Server) -> None:
    rung: list[dict[str, Credential]] = []

    class Heard(Dispatch):
        def ring(self, task_ids: Any, credentials: Any, *, urgent: bool = False) -> None:
            assert urgent
            rung.append(dict(credentials))

    emergency = Emergency(world.store, Heard())
    given = Credential(password=Secret("open sesame"))
    (order,), _ = run(emergency.open(alice, [server], reason="x", seconds=60, opens=lambda name: given))
    assert rung == []
    run(emergency.approvals.approve(bob, order.id))
    assert rung == [{server.id: given}]


# -- another way


@pytest.mark.parametrize("has_it", ["by its own way", "by a detour"])
def test_once_an_agent_has_the_order_no_other_way_is_tried(
    world: World, boss: Caller, monkeypatch: pytest.MonkeyPatch, has_it: str
) -> None:
    from controller.run import course
    from controller.run.job import Job
    from controller.run.means import Means
    from controller.transport.connect import NotConnected

    server = world.server(boss)
    for _ in range(3):
        jump = world.server(boss)
        world.store.add_servers([replace(server, id=str(uuid.uuid4()), name=world.name("behind"), jumps=[jump.id])])
    _, (door,) = run(world.emergency.open(boss, [server], reason="x", seconds=60))
    (task,) = world.store.tasks(boss.tenant_id, ids=[door.task_id])
    job = Job(Means(world.store, world.kms, world.settings, "me", None), task, None)
    came_by: list[list[str]] = []

    async def lost(job: Job, target: Any) -> Any:
        came_by.append(job.server.jumps)
        job.handed_over = has_it == "by its own way" or len(came_by) > 1
        raise NotConnected("connection_closed", "it was closed")

    monkeypatch.setattr(course, "online", lost)
    with pytest.raises(NotConnected):
        run(course.done(job))
    assert len(came_by) == (1 if has_it == "by its own way" else 2)


# -- first of all


def test_urgent_tasks_go_first_though_many_wait(world: World, boss: Caller) -> None:
    from controller.dispatch import InProcess
    from controller.run import Runner

    async def story() -> list[str]:
        began: list[str] = []
        claims = Runner(world.store, world.kms, world.settings, "me", None)

        async def ran(task: Task, given: Credential | None) -> None:
            began.append(task.operation)
            await asyncio.sleep(0)
            await claims.means.off(world.store.finish, task.id, "me", task.generation, Outcome("succeeded", "as_asked"))

        dispatch = InProcess(claims, ran, "me", 4, 30)
        servers = [world.server(boss) for _ in range(60)]
        ordinary = world.store.add_tasks([_ordinary(boss, each) for each in servers[:50]], "me", 30)
        emergency = Emergency(world.store, dispatch)
        dispatch.ring([each.id for each in ordinary], {})
        await emergency.open(boss, servers[40:], reason="x", seconds=60)
        await dispatch.idle()
        await dispatch.close()
        return began

    began = run(story())
    assert len(began) == 70  # what waited went on
    first = began.index("door-open")  # what had begun when they were asked for is before it
    assert began[first : first + 20] == ["door-open"] * 20


def test_an_urgent_task_that_was_called_off_holds_nobody_up(world: World, boss: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for a place that another one has, and whoever waits for it looks by itself only in an hour."""
    from controller import dispatch as dispatching
    from controller.run import Runner
    from controller.service.tasks import Tasks

    monkeypatch.setattr(dispatching, "_AFTER_URGENT_SECONDS", 3600)

    async def story() -> list[str]:
        began: list[str] = []
        looked, go_on, checked = asyncio.Event(), asyncio.Event(), asyncio.Event()

        class Claims(Runner):
            async def claim(self, task_id: str, owner: str, lease_seconds: float) -> Task | None:
                found = await super().claim(task_id, owner, lease_seconds)
                if found is None:
                    looked.set()
                return found

        claims = Claims(world.store, world.kms, world.settings, "me", None)

        async def ran(task: Task, given: Credential | None) -> None:
            began.append(task.operation)
            if task.operation == "check":
                checked.set()
            else:
                await go_on.wait()
            await claims.means.off(world.store.finish, task.id, "me", task.generation, Outcome("succeeded", "as_asked"))

        dispatch = dispatching.InProcess(claims, ran, "me", 1, 30)
        emergency = Emergency(world.store, dispatch)
        servers = [world.server(boss) for _ in range(3)]
        _, (_, waits) = await emergency.open(boss, servers[:2], reason="x", seconds=60)
        (ordinary,) = world.store.add_tasks([_ordinary(boss, servers[2])], "me", 30)
        dispatch.ring([ordinary.id], {})
        await looked.wait()  # and had to wait
        assert await Tasks(world.store, dispatch).delete(boss, waits.task_id) == "cancelled"
        async with asyncio.timeout(30):
            await checked.wait()
        go_on.set()
        await dispatch.idle()
        await dispatch.close()
        return began

    assert run(story()) == ["door-open", "check"]


def _ordinary(who: Caller, server: Server) -> Task:
    return Task(str(uuid.uuid4()), who.tenant_id, who.user_id, server.id, server.name, "root", "check", {}, now())


# -- password login for good is no way round


def test_password_login_is_not_enabled_for_good_where_a_second_user_has_to_agree(world, boss, alice, server, ruled):
    other = world.server(boss)
    order = ("password-login-enable", [other, server], {}, {})
    why = refused(world.bindings.start(alice, *order), Conflict, "password_login_under_rule")
    assert server.name in why.message
    assert other.name not in why.message
    assert not world.store.tasks(boss.tenant_id)
    refused(world.rollouts.start(boss, "password-login-enable", [server], {}, {}, {}), Conflict, "password_login_under_rule")
    run(world.bindings.start(alice, "password-login-disable", [server], {}, {}))
    run(world.emergency.rules.remove(boss, "zone=prod"))
    assert len(run(world.bindings.start(alice, *order))) == 2


def test_nor_is_it_by_trying_again_what_failed_before_there_was_a_rule(world, boss, alice):
    prod = Server(str(uuid.uuid4()), boss.tenant_id, world.name("server"), "192.0.2.7", labels={"zone": "prod"})
    (server,) = world.store.add_servers([prod])
    (task,) = run(world.bindings.start(alice, "password-login-enable", [server], {}, {}))
    claimed = world.store.claim(task.id, "me", 30)
    assert claimed is not None
    assert world.store.finish(task.id, "me", claimed.generation, Outcome("failed", "as_before"))
    run(world.emergency.rules.set(boss, "zone=prod", 15))
    refused(world.tasks.retry(alice, task.id), Conflict, "password_login_under_rule")
    run(world.emergency.rules.remove(boss, "zone=prod"))
    run(world.tasks.retry(alice, task.id))


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("password-login-enable", {}),
        ("password-login-enable", {"plan": True}),
        ("reset", {"set_password": True, "root": "/mnt/prod", "keypair": "rescue"}),
    ],
)
def test_what_was_ordered_before_there_was_a_rule_is_refused_as_it_begins(world, boss, operation, request_):
    from controller.run import course
    from controller.run.job import Job
    from controller.run.means import Means
    from controller.run.preparing import prepare
    from controller.transport.connect import Target
    from kpsagent.errors import Refused

    prod = Server(str(uuid.uuid4()), boss.tenant_id, world.name("server"), "192.0.2.7", labels={"zone": "prod"})
    (server,) = world.store.add_servers([prod])
    if "keypair" in request_:
        request_ = request_ | {"keypair": run(world.keypairs.create(boss, world.name("rescue"), scope="account"))[0].name}
    home = replace(boss, at_home=True)
    (task,) = run(world.bindings.start(home, operation, [server], request_, {server.id: Credential(password=Secret("x"))}))
    run(world.emergency.rules.set(boss, "zone=prod", 15))
    job = Job(Means(world.store, world.kms, world.settings, "me", None), task, None)

    async def begins() -> None:
        if operation == "reset":
            await course.done(job)
        await prepare(job)
        await course.online(job, Target(server.name, server.host, server.port, None, 1))

    with pytest.raises(Refused) as refused:
        run(begins())
    assert refused.value.cause == "password_login_under_rule"
    assert "zone=prod" in refused.value.message


# -- closed before it was opened


def test_a_door_that_is_closed_before_its_opening_has_begun_is_never_opened(world: World, alice: Caller, boss: Caller) -> None:
    called_off: list[str] = []

    class Heard(Dispatch):
        def called_off(self, task_id: str) -> None:
            called_off.append(task_id)

    doors, servers = Emergency(world.store, Heard()), [world.server(boss), world.server(boss)]
    (busy,) = world.store.add_tasks([_ordinary(boss, servers[0])], "me", 30)
    assert world.store.claim(busy.id, "me", 30) is not None  # so that nobody can begin there
    _, (waits, opens) = run(doors.open(alice, servers, reason="x", seconds=60))
    assert world.store.claim(waits.task_id, "me", 30) is None
    claimed = world.store.claim(opens.task_id, "me", 30)
    assert claimed is not None
    found = {each.id: each for each in run(doors.close(alice, [waits.id, opens.id]))}
    assert (found[waits.id].state, found[opens.id].state) == ("failed", "closing")
    assert found[waits.id].note == "taken back before it was opened"
    assert called_off == [waits.task_id]
    tasks = {each.id: each for each in world.store.tasks(alice.tenant_id)}
    assert tasks[waits.task_id].status == "cancelled"
    closing = [each for each in tasks.values() if each.operation == "door-close"]
    assert [each.server_id for each in closing] == [servers[1].id]
    opened_anew, _ = run(doors.open(alice, servers[:1], reason="x", seconds=60))
    assert opened_anew[0].state == "given"


def test_an_order_that_was_left_lying_opens_nothing_an_hour_later(
    world: World, alice: Caller, boss: Caller, later: Callable[[float], None]
) -> None:
    servers = [world.server(boss) for _ in range(3)]
    _, (left, in_time, open_) = run(world.emergency.open(alice, servers, reason="x", seconds=2 * 3600))
    opened(world, open_.task_id, open_.id)
    run(world.emergency.extend(alice, [open_.id], 2 * 3600, "x"))
    (extends,) = [each for each in world.store.tasks(alice.tenant_id) if each.operation == "door-extend"]
    run(world.emergency.close(alice, [open_.id]))
    (closes,) = [each for each in world.store.tasks(alice.tenant_id) if each.operation == "door-close"]
    later(3500)
    assert world.store.claim(in_time.task_id, "me", 30) is not None
    later(120)
    assert world.store.claim(left.task_id, "me", 30) is None
    assert world.store.claim(extends.id, "me", 30) is None
    assert world.store.claim(closes.id, "me", 30) is not None
    door = world.store.door(alice.tenant_id, left.id)
    assert (door.state, "within an hour" in door.note) == ("failed", True)
    assert world.store.task(alice.tenant_id, extends.id).status == "cancelled"


@pytest.mark.usefixtures("ruled")
def test_a_delegated_user_asks_for_no_door_that_takes_two(
    world: World, alice: Caller, bob: Caller, boss: Caller, server: Server
) -> None:
    robot, kept, free = (
        world.user(alice, "operator", "delegated"),
        prod(world, server),
        prod(world, server, labels={}, host="192.0.2.99"),
    )
    refused(world.emergency.open(robot, [free, kept], reason="x", seconds=60), NotAllowed, "delegated_acts_for_others")
    assert nothing_changed(world, boss)
    (order,), (door,) = run(world.emergency.open(alice, [kept], reason="x", seconds=60))
    run(world.emergency.approvals.approve(bob, order.id))
    opened(world, door.task_id, door.id)
    refused(world.emergency.extend(robot, [door.id], 60, "x"), NotAllowed, "delegated_acts_for_others")
    run(world.emergency.open(robot, [free], reason="x", seconds=60))


def test_a_door_of_a_server_that_has_left_the_inventory_ends(
    world: World, boss: Caller, alice: Caller, server: Server, later: Callable[[float], None]
) -> None:
    _, (door,) = run(world.emergency.open(alice, [server], reason="x", seconds=60))
    opened(world, door.task_id, door.id)
    run(world.servers.remove(boss, server.name))
    (closing,) = run(world.emergency.close(alice, [door.id]))  # it may stand open still, and nobody gets there
    assert world.store.claim(str(closing.closing_task_id), "me", 30) is None
    task = world.store.task(alice.tenant_id, str(closing.closing_task_id))
    assert (task.status, task.server_state, "not in the inventory" in task.message) == ("cancelled", "as_before", True)
    assert world.store.door(alice.tenant_id, door.id).state == "closing"
    later(120)
    (left,) = run(world.emergency.close(alice, [door.id]))
    assert (left.state, left.closed_by, "nobody has seen" in left.note) == ("closed", None, True)
    assert world.store.tasks(alice.tenant_id, running=True) == []
    assert run(world.emergency.list(alice)) == []
