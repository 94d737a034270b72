"""A task that nobody heard the end of may have left its key as the only one: until that is known, nobody does away with it."""

import asyncio
import uuid
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from controller.errors import Conflict
from controller.model import Binding, Caller, KeyPair, Outcome, Server, Task, now
from controller.store.custody import standing
from tests.controller.world import World

UNHEARD = Outcome("failed", "unknown", "narrow", "connection_lost", "the line went dead")


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def refused(work: Coroutine[Any, Any, Any], code: str) -> str:
    with pytest.raises(Conflict) as found:
        run(work)
    assert found.value.code == code, found.value
    return found.value.message


@pytest.fixture
def boss(world: World) -> Caller:
    return world.tenant()


@pytest.fixture
def server(world: World, boss: Caller) -> Server:
    return world.server(boss)


@pytest.fixture
def old(world: World, boss: Caller, server: Server) -> KeyPair:
    """What is bound on record."""
    made = world.pair(boss, begins="old")
    world.bound(server, made)
    return made


def ended(
    world: World, who: Caller, server: Server, keypair: KeyPair | None, outcome: Outcome, operation: Any = "replace", **more: Any
) -> Task:
    """Have a task about a key pair end so."""
    request = {"keypair": keypair.name, "keypair_id": keypair.id} if keypair else {}
    made = Task(str(uuid.uuid4()), who.tenant_id, who.user_id, server.id, server.name, "root", operation, request | more, now())
    world.store.add_tasks([made])
    claimed = world.store.claim(made.id, "me", 30)
    assert claimed is not None
    binding = Binding(server.id, "root", keypair.id, "logged_in", True, made.id, now()) if keypair else None
    changes = {"binding": binding} if outcome.status == "succeeded" and not more else {}
    assert world.store.finish(made.id, "me", claimed.generation, outcome, **changes)
    return made


@pytest.fixture
def new(world: World, boss: Caller, server: Server, old: KeyPair) -> KeyPair:
    """What a replace was to put there, of which nobody heard the end."""
    made = world.pair(boss, begins="new")
    ended(world, boss, server, made, UNHEARD)
    return made


def test_neither_key_pair_is_done_away_with(world: World, boss: Caller, old: KeyPair, new: KeyPair, server: Server) -> None:
    said = refused(world.keypairs.delete(boss, new.name), "keypair_in_doubt")
    assert f"kps server check {server.name}" in said
    for each in (old, new):
        assert f"root@{server.name}" in refused(world.custody.clear(boss, each.name), "only_way_in")
    assert run(world.keypairs.get(boss, new.name)).managed
    assert not run(world.custody.clear(boss, new.name, even_if_only_way_in=True)).managed


def test_nor_the_master_key_that_the_new_one_is_under(world: World, boss: Caller, new: KeyPair) -> None:
    key = run(world.kms_verbs.keys.create(boss, "payments"))
    run(world.custody.move(boss, new.name, "payments"))
    refused(world.kms_verbs.keys.disable(boss, key.id), "only_way_in")
    refused(world.kms_verbs.keys.schedule_deletion(boss, key.id, 7), "only_way_in")
    run(world.kms_verbs.keys.disable(boss, key.id, even_if_only_way_in=True))


def test_nor_its_owner(world: World, boss: Caller, server: Server) -> None:
    alice = world.user(boss, "operator", begins="alice")
    ended(world, alice, server, world.pair(alice), UNHEARD, "bind")
    refused(world.users.delete(boss, alice.user_id, with_keypairs=True), "user_owns_keypairs")


def test_what_is_in_doubt_vouches_for_no_other_login(world: World, boss: Caller, old: KeyPair, server: Server) -> None:
    deploy = world.pair(boss, begins="deploy")
    world.bound(server, deploy, "deploy")
    ended(world, boss, server, None, UNHEARD, "unbind")  # root's own key may be gone
    with world.store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE servers SET password_login = 'off' WHERE id = ?", (server.id,))
        assert {each.certain for each in standing(connection, [deploy.id]) if each.login == "root"} == {False}
    refused(world.custody.clear(boss, deploy.name), "only_way_in")


def test_that_the_server_took_passwords_before_is_not_believed(world: World, boss: Caller, server: Server) -> None:
    new = world.pair(boss)
    ended(world, boss, server, new, UNHEARD, "bind")  # which closes them
    with world.store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE servers SET password_login = 'on' WHERE id = ?", (server.id,))
    refused(world.custody.clear(boss, new.name), "only_way_in")


@pytest.mark.parametrize("state", ["waiting", "running", "unheard", "seen since"])
def test_nor_while_somebody_closes_them(world: World, boss: Caller, old: KeyPair, server: Server, state: str) -> None:
    """That task proves itself by the very key, and would leave nothing that gets in."""
    with world.store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE servers SET password_login = 'on' WHERE id = ?", (server.id,))
    if state in ("unheard", "seen since"):
        ended(world, boss, server, None, UNHEARD, "password-login-disable")
    else:
        closing = Task(
            str(uuid.uuid4()), boss.tenant_id, boss.user_id, server.id, server.name, "ops", "password-login-disable", {}, now()
        )
        world.store.add_tasks([closing])
        if state == "running":
            assert world.store.claim(closing.id, "me", 30) is not None
    if state != "seen since":
        refused(world.custody.clear(boss, old.name), "only_way_in")
        return
    ended(world, boss, server, None, Outcome("unchanged", "as_asked"), "password-login-status")
    run(world.custody.clear(boss, old.name))


@pytest.mark.parametrize("how", ["settled", "done again", "unbound", "server removed"])
def test_once_it_is_known_it_may_go(world: World, boss: Caller, old: KeyPair, new: KeyPair, server: Server, how: str) -> None:
    if how == "settled":
        (unheard,) = world.store.unsettled(server.id)
        assert world.store.settle(unheard.id, "reverted")
    elif how == "done again":
        ended(world, boss, server, old, Outcome("succeeded", "as_asked"), "bind")
    elif how == "unbound":
        ended(world, boss, server, None, Outcome("succeeded", "as_asked"), "unbind")
    else:
        world.store.remove_server(server.id, boss.user_id, forget_bindings=True)
    run(world.keypairs.delete(boss, new.name))


@pytest.mark.parametrize(
    ("outcome", "operation", "more"),
    [
        (replace(UNHEARD, server_state="as_before"), "replace", {}),
        (replace(UNHEARD, server_state="reverted"), "replace", {}),
        (replace(UNHEARD, server_state="partial", phase="look"), "replace", {}),
        (UNHEARD, "replace", {"plan": True}),
        (UNHEARD, "check", {}),
    ],
)
def test_what_left_nothing_there_stands_in_nobodys_way(
    world: World, boss: Caller, old: KeyPair, server: Server, outcome: Outcome, operation: str, more: dict[str, Any]
) -> None:
    other = world.pair(boss)
    ended(world, boss, server, other, outcome, operation, **more)
    run(world.keypairs.delete(boss, other.name))


@pytest.mark.parametrize("plan", [True, False])
def test_a_plan_that_came_out_well_settles_nothing(
    world: World, boss: Caller, old: KeyPair, new: KeyPair, server: Server, plan: bool
) -> None:
    more = {"plan": True} if plan else {}
    ended(world, boss, server, old, Outcome("unchanged" if plan else "succeeded", "as_before"), "replace", **more)
    if plan:
        refused(world.keypairs.delete(boss, new.name), "keypair_in_doubt")
    else:
        run(world.keypairs.delete(boss, new.name))


def test_the_task_that_tells_of_it_stays_too(world: World, boss: Caller, new: KeyPair, server: Server) -> None:
    (unheard,) = world.store.unsettled(server.id)
    plain = world.failed(boss, world.server(boss))
    refused(world.tasks.delete(boss, unheard.id), "task_in_doubt")
    assert run(world.tasks.delete_failed(boss)) == 1
    assert [each.id for each in run(world.tasks.list(boss, failed=True))] == [unheard.id] != [plain.id]
    # Nor does it go as what a retry was of.
    again = run(world.tasks.retry(boss, unheard.id))
    claimed = world.store.claim(again.id, "me", 30)
    assert claimed is not None
    assert world.store.finish(again.id, "me", claimed.generation, replace(UNHEARD, server_state="as_before", phase="connect"))
    refused(world.tasks.delete(boss, again.id), "task_in_doubt")
    assert run(world.tasks.delete_failed(boss)) == 0
    assert world.store.settle(unheard.id, "as_asked")
    assert run(world.tasks.delete_failed(boss)) == 2
