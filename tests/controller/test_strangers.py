"""Another user's private key pair that is bound to a server: a task neither uses it, nor names it, nor takes it away unasked."""

import asyncio
import uuid
from dataclasses import replace
from typing import Any

import pytest

from controller import order
from controller.entrance import Entrance
from controller.errors import NotFound
from controller.model import Caller, KeyPair, Outcome, Server, Task, now
from controller.order import Order
from controller.run.job import Job
from controller.run.keys import private_of
from controller.run.means import Means
from controller.run.preparing import prepare
from controller.run.road import ways_into
from controller.transport.connect import NotConnected
from controller.transport.offer import Held
from kpsagent.errors import Refused
from tests.controller.world import PUBLIC, World

run = asyncio.run


@pytest.fixture
def boss(world: World) -> Caller:
    return world.tenant()


@pytest.fixture
def alice(world: World, boss: Caller) -> Caller:
    return world.user(boss, "operator")


@pytest.fixture
def server(world: World, boss: Caller) -> Server:
    return world.server(boss)


def task(who: Caller, server: Server, operation: Any, keypair: KeyPair | None = None, **request: Any) -> Task:
    named = {} if keypair is None else {"keypair": keypair.name, "keypair_id": keypair.id}
    return Task(
        str(uuid.uuid4()), who.tenant_id, who.user_id, server.id, server.name, "root", operation, named | request, now()
    )  # fmt: skip


def job(world: World, asked: Task) -> Job:
    made = Job(Means(world.store, world.kms, world.settings, "me", None), asked, None)
    made.server = world.store.server_by_id(asked.server_id)
    return made


def ordered(world: World, asked: Task) -> tuple[Order, Job]:
    made = job(world, asked)
    run(prepare(made))
    return made.order, made


def test_a_strangers_private_key_pair_is_no_way_in_and_ones_own_and_the_accounts_are(
    world: World, boss: Caller, alice: Caller, server: Server
) -> None:
    strangers, own, shared = world.pair(alice), world.pair(boss), world.pair(boss, "account")
    for login, pair in (("root", strangers), ("deploy", own), ("backup", shared)):
        world.bound(server, pair, login)
    for operation in ("check", "password-login-enable", "password-login-status"):
        made, done = ordered(world, task(boss, server, operation))
        assert {way.keypair.name for way in made.ways if way.keypair} == {own.name, shared.name}
        assert done.private
    made, done = ordered(world, task(alice, server, "check"))
    assert {way.keypair.name for way in made.ways if way.keypair} == {strangers.name, shared.name}
    assert strangers.name in str(made.plan) or made.asked == strangers


def test_a_task_with_the_accounts_key_pairs_alone_is_told_to_everybody(world: World, boss: Caller, server: Server) -> None:
    world.bound(server, world.pair(boss, "account"))
    assert not ordered(world, task(boss, server, "check"))[1].private


def test_a_strangers_key_pair_opens_no_jump_server(world: World, boss: Caller, alice: Caller, server: Server) -> None:
    hop = world.server(boss)
    strangers = world.pair(alice)
    world.bound(hop, strangers)
    assert run(ways_into(job(world, task(boss, server, "check")), hop)) == []
    assert len(run(ways_into(job(world, task(alice, server, "check")), hop))) == 1


def test_what_a_strangers_task_may_have_left_there_is_not_tried(
    world: World, boss: Caller, alice: Caller, server: Server
) -> None:
    left = task(alice, server, "bind", world.pair(alice))
    world.store.add_tasks([left])
    claimed = world.store.claim(left.id, "me", 30)
    assert claimed is not None
    assert world.store.finish(left.id, "me", claimed.generation, Outcome("failed", "unknown", "widen", "connection_lost"))
    assert ordered(world, task(boss, server, "check"))[0].ways == []
    assert len(ordered(world, task(alice, server, "check"))[0].ways) == 1


def test_a_request_that_names_a_strangers_key_pair_is_not_carried_out(
    world: World, boss: Caller, alice: Caller, server: Server
) -> None:
    for stranger in (boss, world.tenant()):
        with pytest.raises(NotFound):
            ordered(world, task(replace(stranger, tenant_id=boss.tenant_id), server, "bind", world.pair(alice)))
    with pytest.raises(NotFound):  # of another tenant, although it is the account's there
        ordered(world, task(boss, server, "bind", world.pair(world.tenant(), "account")))


@pytest.mark.parametrize("operation", ["bind", "replace", "unbind", "reset"])
def test_what_would_take_it_away_is_refused_without_its_name(
    world: World, boss: Caller, alice: Caller, server: Server, operation: str
) -> None:
    strangers, shared = world.pair(alice), world.pair(boss, "account")
    world.bound(server, strangers)
    wanted = None if operation == "unbind" else shared
    with pytest.raises(Refused) as caught:
        ordered(world, task(boss, server, operation, wanted, root="/mnt"))
    assert caught.value.cause == "already_bound"
    assert strangers.name not in caught.value.message + str(caught.value.evidence)


@pytest.mark.parametrize("operation", ["replace", "unbind", "reset"])
def test_what_is_taken_over_is_taken_away_and_not_named(
    world: World, boss: Caller, alice: Caller, server: Server, operation: str
) -> None:
    strangers, shared = world.pair(alice), world.pair(boss, "account", fresh=True)
    world.bound(server, strangers)
    wanted = None if operation == "unbind" else shared
    made, _ = ordered(world, task(boss, server, operation, wanted, root="/mnt", take_over=True))
    removed = made.after_reset["root"]["remove"] if operation == "reset" else made.plan["remove"]
    assert removed == [order.bare(strangers.public_key)]
    assert strangers.name not in str(made.plan) + str(made.after_reset)
    assert all(way.keypair is None for way in made.ways)


def test_closing_passwords_beside_it_shows_sshd_its_public_half_and_proves_nothing_with_it(
    world: World, boss: Caller, alice: Caller, server: Server
) -> None:
    strangers = world.pair(alice)
    world.bound(server, strangers)
    made, done = ordered(world, task(boss, server, "password-login-disable"))
    assert (made.plan["key"], made.plan["provable"], made.keypair) == (order.bare(strangers.public_key), False, None)
    done.order = made
    assert run(private_of(done, made.plan["key"])) is None


def test_a_check_shows_sshd_its_public_half_and_logs_in_with_nothing(
    world: World, boss: Caller, alice: Caller, server: Server
) -> None:
    strangers = world.pair(alice)
    world.bound(server, strangers)
    made, done = ordered(world, task(boss, server, "check"))
    done.order = made
    assert (made.asked, made.ways) == (None, [])
    assert run(private_of(done, made.plan["diagnose"])) is None
    assert done.opened == {}
    assert strangers.name not in str(made.plan)


def test_after_a_reset_a_stranger_does_not_bring_it_to_its_end(world: World, boss: Caller, alice: Caller, server: Server) -> None:
    world.bound(server, world.pair(alice))
    waiting = {"after_reset": {"root": {"remove": [], "close_passwords": True}}}
    asked = task(alice, server, "check")
    bound = [
        order.Bound(binding, world.store.keypair_by_id(binding.keypair_id), strangers=strangers)
        for binding in world.store.bindings(boss.tenant_id)
        for strangers in [False]
    ]
    mine = order.make(asked, replace(server, **waiting), bound, None, None, None, 60)
    theirs = order.make(asked, replace(server, **waiting), [replace(bound[0], strangers=True)], None, None, None, 60)
    assert (mine.plan["operation"], theirs.plan["operation"]) == ("replace", "check")


def test_a_refused_key_is_compared_with_ones_own_and_with_no_strangers(
    world: World, boss: Caller, alice: Caller, server: Server
) -> None:
    bound = world.pair(alice, fresh=True)
    world.bound(server, bound)
    refused, way = NotConnected("key_refused", "no"), order.Way("root", None, "identity")
    given = Held(PUBLIC.line(), None)  # type: ignore[arg-type]
    for who in (boss, alice):
        made, _ = ordered(world, task(who, server, "check"))
        target: Any = server
        told = Entrance(target, made, None, given, None)._mismatched(refused, way)  # type: ignore[arg-type]
        assert (told is refused) == (who == boss)
        assert (bound.name in told.message) == (who == alice)
