"""One-time passwords of doors: none is set before all else is clear, and each is changed once its door is over."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from controller import doors as rules
from controller.doors import Door
from controller.errors import Conflict, Invalid, NotAllowed, NotFound, Problem
from controller.model import Caller, Credential, Outcome, Secret, Server, Task, User, now
from controller.service.emergency import Emergency
from controller.stages import SecretRotation
from tests.controller.test_emergency import nothing_changed, refused
from tests.controller.world import Dispatch, World

run = asyncio.run
ASKED: dict[str, Any] = {"reason": "no key gets in", "seconds": 60}


@pytest.fixture
def boss(world: World) -> Caller:
    return world.tenant()


@pytest.fixture
def alice(world: World, boss: Caller) -> Caller:
    return world.user(boss, "operator", begins="alice")


@pytest.fixture
def server(world: World, boss: Caller) -> Server:
    return replace(world.server(boss), labels={"zone": "prod"})


@pytest.fixture
def name(world: World, boss: Caller, server: Server) -> str:
    """The password of root there, kept."""
    found = world.name("password")
    run(world.secrets.create(boss, found, Secret("as it is"), server=server, login="root"))
    return found


def ends(world: World, task_id: str, status: Any = "succeeded", state: Any = "as_asked", **more: Any) -> None:
    claimed = world.store.claim(task_id, "me", 30)
    assert claimed is not None
    assert world.store.finish(task_id, "me", claimed.generation, Outcome(status, state, **more))


def the_door(world: World, who: Caller) -> Door:
    (found,) = world.store.doors(who.tenant_id)
    return found


def over(world: World, who: Caller, server: Server) -> Door:
    """Have a door opened by a one-time password, and closed."""
    order, _, (made,) = run(world.emergency.open_by_password(who, [server], **ASKED))
    ends(world, made.task.id)
    run(world.emergency.begin(who, order.id))
    door = the_door(world, who)
    told = {"id": door.id, "login": "root", "from": None, "opened_at": 1, "deadline": 2, "state": "open", "closed_by": None}
    ends(world, door.task_id, evidence={"door": told | {"watchers": []}})
    run(world.emergency.close(who, [door.id]))
    ends(world, str(the_door(world, who).closing_task_id))
    assert the_door(world, who).state == "closed"
    return the_door(world, who)


def changing(world: World, who: Caller) -> list[Task]:
    return [each for each in world.store.tasks(who.tenant_id) if each.operation == "password-set" and each.status == "ready"]


def fails(world: World, who: Caller) -> SecretRotation:
    """Have the change that waits fail."""
    (task,) = changing(world, who)
    ends(world, task.id, "failed", "as_before", cause="connection_refused")
    (rotation,) = [each for each in run(world.secrets.rotations(who, failed=True)) if each.task_id == task.id]
    return rotation


# -- nothing is set that is refused


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"reason": " "}, "reason_missing"),
        ({"seconds": 9 * 3600}, "door_too_long"),
        ({"network": "1.2.3.4/24"}, "network_unusable"),
        ({"login": "a*"}, "login_is_pattern"),
    ],
)
def test_what_open_refuses_sets_no_password(world: World, alice: Caller, server: Server, asked: Any, code: str) -> None:
    refused(world.emergency.open_by_password(alice, [server], **ASKED | asked), Invalid, code)
    assert nothing_changed(world, alice)


def test_where_one_has_a_door_no_password_is_set_at_all(world: World, alice: Caller, boss: Caller, server: Server) -> None:
    other = world.server(boss)
    run(world.emergency.open(alice, [server], **ASKED))
    refused(world.emergency.open_by_password(alice, [other, server], **ASKED), Conflict, "door_is_open")
    assert changing(world, alice) == []
    assert [each.server_id for each in world.store.doors(alice.tenant_id)] == [server.id]


def test_before_a_second_user_agrees_no_password_is_set(world: World, alice: Caller, boss: Caller, server: Server) -> None:
    run(world.emergency.rules.set(boss, "zone=prod", 15))
    work = world.emergency.open_by_password(alice, [world.server(boss), server], **ASKED)
    refused(work, Conflict, "password_before_approval")
    assert nothing_changed(world, alice)


def test_where_one_password_cannot_be_made_the_others_are_told(
    world: World, alice: Caller, boss: Caller, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, make = world.server(boss), world.secrets.make_password

    async def some(who: Caller, where: Server, *rest: Any) -> Any:
        if where.id == other.id:
            raise Problem("secret_busy", "a task is setting it")
        return await make(who, where, *rest)

    monkeypatch.setattr(world.secrets, "make_password", some)
    _, doors, made = run(world.emergency.open_by_password(alice, [other, server], **ASKED))
    assert [each.task.server_id for each in made] == [server.id]
    assert {each.server_id: (each.state, each.one_time) for each in doors} == {
        other.id: ("failed", False),
        server.id: ("opening", True),
    }


# -- the door is opened once the password is set


def test_a_door_is_begun_once_its_password_is_set_and_once_only(
    world: World, alice: Caller, boss: Caller, server: Server
) -> None:
    order, (door,), (made,) = run(world.emergency.open_by_password(alice, [server], **ASKED))
    refused(world.emergency.begin(alice, order.id), Conflict, "password_not_set")
    ends(world, made.task.id)
    refused(world.emergency.begin(world.user(boss, "operator"), order.id), NotFound, "door_order_not_found")
    refused(world.emergency.begin(world.user(boss, "auditor"), order.id), NotAllowed, "role_reads_only")
    run(world.emergency.begin(alice, order.id))
    assert world.store.task(alice.tenant_id, door.task_id).operation == "door-open"
    refused(world.emergency.begin(alice, order.id), Conflict, "door_not_open")


def test_without_a_password_no_door(world: World, alice: Caller, server: Server) -> None:
    order, _, (made,) = run(world.emergency.open_by_password(alice, [server], **ASKED))
    ends(world, made.task.id, "failed", "unknown", cause="connection_lost")
    _, (door,) = run(world.emergency.begin(alice, order.id))
    assert (door.state, door.password_works) == ("failed", True)
    run(world.emergency.sweep())
    assert len(changing(world, alice)) == 1


def test_where_whoever_asked_does_not_go_on_the_password_is_changed(
    world: World, alice: Caller, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.service.emergency.BEGUN_WITHIN", timedelta(0))
    _, _, (made,) = run(world.emergency.open_by_password(alice, [server], **ASKED))
    ends(world, made.task.id)
    run(world.emergency.sweep())
    assert the_door(world, alice).state == "failed"
    run(world.emergency.sweep())
    assert len(changing(world, alice)) == 1
    assert timedelta(minutes=5) < rules.BEGUN_WITHIN


# -- once it is over


def test_it_works_until_the_change_has_come_to_the_server(world: World, boss: Caller, alice: Caller, server: Server) -> None:
    door = over(world, alice, server)
    assert door.password_works
    run(world.emergency.sweep())
    fails(world, alice)
    run(world.emergency.sweep())
    assert the_door(world, alice).password_works
    assert [each.id for each in run(world.emergency.list(alice))] == [door.id]
    (rotation,) = run(world.secrets.rotations(alice, failed=True))
    run(world.secrets.rotate(boss, rotation.name))
    (task,) = changing(world, alice)
    ends(world, task.id)
    run(world.emergency.sweep())
    assert not the_door(world, alice).password_works
    assert run(world.emergency.list(alice)) == []
    assert world.store.events(alice.tenant_id)[-1].kind == "door_password_changed"


def test_it_stays_where_another_door_of_the_login_is_opened_in_that_moment(
    world: World, alice: Caller, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, change = over(world, alice, server), world.secrets.change_password

    async def overtaken(*args: Any, **more: Any) -> Any:
        await world.emergency.open(alice, [server], **ASKED)
        return await change(*args, **more)

    monkeypatch.setattr(world.secrets, "change_password", overtaken)
    run(world.emergency.sweep())
    assert changing(world, alice) == []
    second, _ = world.store.doors(alice.tenant_id)
    assert (second.state, second.one_time, world.store.door(alice.tenant_id, first.id).password_works) == ("opening", False, True)
    monkeypatch.undo()
    run(world.emergency.close(alice, [second.id]))
    assert world.store.door(alice.tenant_id, second.id).state == "failed"  # it was not begun
    world.emergency._made._not_before.clear()
    run(world.emergency.sweep())
    assert len(changing(world, alice)) == 1


def test_what_failed_is_not_tried_again_while_another_door_of_the_login_is_open(
    world: World, alice: Caller, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    over(world, alice, server)
    run(world.emergency.sweep())
    rotation = fails(world, alice)
    run(world.emergency.open(alice, [server], **ASKED))
    monkeypatch.setattr(world.secrets, "_now", lambda: rotation.again_at)
    run(world.secrets.sweep())
    assert changing(world, alice) == []
    (held,) = run(world.secrets.rotations(alice, failed=True))
    assert "a door for root is opening" in held.message


def test_a_schedule_leaves_a_password_alone_while_a_door_of_its_login_is_open(
    world: World, boss: Caller, alice: Caller, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world.secrets.schedule(boss, name, "1d"))
    run(world.emergency.open(alice, [server], **ASKED))
    monkeypatch.setattr(world.secrets, "_now", lambda: now() + timedelta(days=1, minutes=1))
    run(world.secrets.sweep())
    assert changing(world, boss) == []
    run(world.emergency.close(alice, [the_door(world, alice).id]))
    run(world.secrets.sweep())
    assert len(changing(world, boss)) == 1


def test_what_was_ordered_by_hand_and_failed_is_not_tried_again_while_a_door_is_open(
    world: World, boss: Caller, alice: Caller, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world.secrets.rotate(boss, name))
    rotation = fails(world, boss)
    run(world.emergency.open(alice, [server], **ASKED))
    monkeypatch.setattr(world.secrets, "_now", lambda: rotation.again_at)
    run(world.secrets.sweep())
    assert changing(world, boss) == []


def test_a_schedule_whose_turn_comes_after_a_door_was_ordered_leaves_its_password_alone(
    world: World, boss: Caller, alice: Caller, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world.secrets.schedule(boss, name, "1d"))
    monkeypatch.setattr(world.secrets, "_now", lambda: now() + timedelta(days=1, minutes=1))
    run(world.secrets.sweep())
    (task,) = changing(world, boss)
    _, (door,) = run(world.emergency.open(alice, [server], **ASKED))
    ends(world, door.task_id, "failed", "unknown", cause="connection_lost")  # it may be open
    assert world.store.claim(task.id, "me", 30) is None
    (rotation,) = run(world.secrets.rotations(boss, failed=True))
    assert (rotation.cause, "is closing" in rotation.message, rotation.again_at is not None) == ("cancelled", True, True)


def test_a_door_that_nobody_asks_about_any_more_holds_up_no_password(
    world: World, boss: Caller, alice: Caller, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world.secrets.schedule(boss, name, "1d"))
    _, (door,) = run(world.emergency.open(alice, [server], **ASKED))
    ends(world, door.task_id, "failed", "unknown", cause="connection_lost")
    gone = [timedelta(0)]
    monkeypatch.setattr(world.store, "_now", lambda: now() + gone[0])
    monkeypatch.setattr(world.secrets, "_now", lambda: now() + timedelta(days=9))
    run(world.secrets.sweep())
    assert changing(world, boss) == []
    gone[0] = timedelta(days=1)
    run(world.secrets.sweep())
    assert changing(world, boss) == []
    gone[0] = timedelta(days=2, minutes=2)
    run(world.secrets.sweep())
    assert len(changing(world, boss)) == 1


def test_all_that_failed_is_tried_again_also_where_a_newer_password_was_made_since(
    world: World, boss: Caller, alice: Caller, server: Server
) -> None:
    order, _, (made,) = run(world.emergency.open_by_password(alice, [server], **ASKED))
    ends(world, made.task.id, "failed", "unknown", cause="connection_lost")
    run(world.emergency.begin(alice, order.id))
    run(world.emergency.sweep())
    newer = fails(world, alice)
    for each in (made.task.id, newer.task_id):
        run(world.tasks.retry(boss, each))
    running = [each for each in run(world.secrets.rotations(boss)) if each.state == "running"]
    assert [each.version for each in running] == [2]


def test_an_emergency_waits_for_no_change_that_nobody_has_begun(
    world: World, boss: Caller, alice: Caller, server: Server, name: str
) -> None:
    run(world.secrets.rotate(boss, name))
    (waits,) = changing(world, boss)
    _, _, (made,) = run(world.emergency.open_by_password(alice, [server], **ASKED))
    assert world.store.task(boss.tenant_id, waits.id).status == "cancelled"
    ends(world, made.task.id)
    assert [(each.version, each.state) for each in run(world.secrets.rotations(boss, name))] == [(2, "failed"), (3, "done")]
    run(world.emergency.sweep())
    run(world.secrets.rotate(boss, name))
    (task,) = changing(world, boss)
    assert world.store.claim(task.id, "me", 30) is not None
    with pytest.raises(Conflict) as refused_:
        run(world.secrets.rotate(boss, name))
    assert refused_.value.code == "secret_busy"


@pytest.mark.parametrize("how", ["deleted", "disabled", "demoted"])
def test_whoever_asked_is_gone_and_it_is_changed_all_the_same(
    world: World, boss: Caller, alice: Caller, server: Server, how: str
) -> None:
    over(world, alice, server)
    user = world.store.user(alice.tenant_id, alice.user_id)
    gone(world, boss, user, how)
    run(world.emergency.sweep())
    rotation = fails(world, boss)
    who = world.secrets._acting_for(run(world.secrets.get(boss, rotation.name))[0], alice.user_id, rotation.by)
    run(world.secrets._rotated(who, run(world.secrets.get(boss, rotation.name))[0], rotation.by, None))
    (task,) = changing(world, boss)
    ends(world, task.id)
    run(world.emergency.sweep())
    assert not the_door(world, boss).one_time


def gone(world: World, boss: Caller, user: User, how: str) -> None:
    if how == "deleted":
        world.store.delete_user(user.tenant_id, user.id, boss.user_id, with_keypairs=True)
    elif how == "disabled":
        world.store.change_user(user.tenant_id, user.id, {"enabled": False}, boss.user_id)
    else:
        world.store.change_user(user.tenant_id, user.id, {"role": "auditor"}, boss.user_id)


def test_though_its_secret_was_deleted_it_is_changed(world: World, boss: Caller, alice: Caller, server: Server) -> None:
    over(world, alice, server)
    (secret,) = run(world.secrets.list(boss))
    run(world.secrets.delete(boss, secret.name))
    run(world.emergency.sweep())
    assert len(changing(world, boss)) == 1


def test_only_where_the_server_was_removed_nobody_can(world: World, boss: Caller, alice: Caller, server: Server) -> None:
    over(world, alice, server)
    run(world.servers.remove(boss, server.name))
    run(world.emergency.sweep())
    assert not the_door(world, boss).one_time
    assert world.store.events(boss.tenant_id)[-1].kind == "door_password_left"


def test_an_order_to_close_changes_it_with_the_key_that_came(world: World, alice: Caller, server: Server) -> None:
    rung: list[dict[str, Credential]] = []

    class Heard(Dispatch):
        lease_seconds = 0.0

        def ring(self, task_ids: Any, credentials: Any, *, urgent: bool = False) -> None:
            rung.append(dict(credentials))

    order, _, (made,) = run(world.emergency.open_by_password(alice, [server], **ASKED))
    ends(world, made.task.id)
    run(world.emergency.begin(alice, order.id))
    world.secrets._dispatch = Heard()
    key = Credential(identity=Secret("a key"))
    run(world.emergency.close(alice, [the_door(world, alice).id], lambda name: key))
    assert [each[server.id].identity for each in rung] == [key.identity]
    assert len(changing(world, alice)) == 1
    assert the_door(world, alice).rotation_id is not None


def test_none_is_made_where_nothing_makes_them(world: World, alice: Caller, server: Server) -> None:
    bare = Emergency(world.store, Dispatch())
    refused(bare.open_by_password(alice, [server], **ASKED), Invalid, "option_unknown")


def test_for_a_name_not_every_secret_there_is_is_read(world, boss, alice, monkeypatch):
    servers = [replace(world.server(boss), name=name) for name in ("web.1", "web-1", "web-2")]

    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("a thousand passwords would read a million secrets")

    monkeypatch.setattr(world.store, "secrets", read)
    _, _, made = run(world.emergency.open_by_password(alice, servers, **ASKED))
    names = [each.secret.name for each in made]
    assert (names[0], names[2]) == ("web-1-root", "web-2-root")
    assert names[1].startswith("web-1-root-")


def test_however_many_doors_their_passwords_are_asked_for_at_once(world: World, alice: Caller, boss: Caller) -> None:
    asked: list[str] = []
    event.listen(world.store._engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement))

    def questions(count: int) -> int:
        chosen = [world.server(boss) for _ in range(count)]
        _, _, made = run(world.emergency.open_by_password(alice, chosen, **ASKED))
        ends(world, made[0].task.id)
        asked.clear()
        found = run(world.secrets.of_logins(alice, {(each.id, "root") for each in chosen} | {(chosen[0].id, "nobody")}))
        states = {server_id: rotation.state for (server_id, _), (_, rotation) in found.items() if rotation is not None}
        assert states == {each.id: "running" if each is not chosen[0] else "done" for each in chosen}
        return len(asked)

    assert questions(2) == questions(20)
    logins = {(each.server_id, "root") for each in world.store.doors(alice.tenant_id)}
    found = run(world.secrets.of_logins(alice, logins)).values()
    secret, rotation = next((each, its) for each, its in found if its is not None and its.state == "running")
    ends(world, rotation.task_id)
    run(world.secrets.change_password(boss, world.store.server(boss.tenant_id, str(secret.server_name)), "root"))
    ((_, newest),) = run(world.secrets.of_logins(alice, {(str(secret.server_id), "root")})).values()
    assert newest is not None
    assert (newest.version, newest.state) == (2, "running")
    assert run(world.secrets.of_logins(world.tenant(), {(str(secret.server_id), "root")})) == {}
