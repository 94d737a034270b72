"""Who sees, uses and changes what: each rule of scopes, tenants and roles by its name, on real stores."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller import opening
from controller.api import gate
from controller.app import in_process
from controller.errors import AlreadyExists, Conflict, NotAllowed, NotFound, Problem
from controller.model import Caller, KeyPair, Outcome, Task, Usage, now
from tests.controller.world import PUBLIC, STORED, World

PAGE = Path(__file__).parents[2] / "docs/roles.md"
run = asyncio.run


@pytest.fixture
def boss(world: World) -> Caller:
    """The administrator of a tenant with nothing in it."""
    return world.tenant()


@pytest.fixture
def alice(world: World, boss: Caller) -> Caller:
    return world.user(boss, "operator", begins="alice")


@pytest.fixture
def bob(world: World, boss: Caller) -> Caller:
    return world.user(boss, "operator", begins="bob")


def refused(work: Coroutine[Any, Any, Any], kind: type[Problem], code: str) -> Problem:
    with pytest.raises(kind) as caught:
        run(work)
    assert caught.value.code == code
    return caught.value


# -- private and account key pairs


def test_a_private_key_pair_is_seen_and_used_by_its_owner_only(world: World, boss: Caller, alice: Caller) -> None:
    name, server = world.pair(alice).name, world.server(boss)
    assert run(world.keypairs.get(alice, name)).name == name
    (task,) = run(world.bindings.start(alice, "bind", [server], {"keypair": name}, {}))
    assert task.private
    for stranger in (boss, world.user(boss, "operator"), world.user(boss, "auditor")):
        assert run(world.keypairs.list(stranger)) == []
        refused(world.keypairs.get(stranger, name), NotFound, "keypair_not_found")
    refused(world.bindings.start(boss, "bind", [server], {"keypair": name}, {}), NotFound, "keypair_not_found")


@pytest.mark.parametrize("verb", ["get", "export", "upgrade", "delete"])
def test_somebody_elses_private_key_pair_is_told_as_one_that_is_nowhere(
    world: World, boss: Caller, alice: Caller, verb: str
) -> None:
    theirs, nobodys = world.pair(alice).name, world.name("nobodys")
    told = [refused(getattr(world.keypairs, verb)(boss, name), NotFound, "keypair_not_found") for name in (theirs, nobodys)]
    assert told[0].message.replace(theirs, nobodys) == told[1].message
    assert told[0].evidence == {"keypair": theirs}
    assert run(world.keypairs.get(alice, theirs)).scope == "private"


def test_an_account_key_pair_is_seen_and_used_by_all_users_of_the_tenant(world: World, boss: Caller, alice: Caller) -> None:
    name, server = world.pair(boss, "account").name, world.server(boss)
    assert run(world.keypairs.get(alice, name)).name == name
    (task,) = run(world.bindings.start(alice, "bind", [server], {"keypair": name}, {}))
    assert not task.private


def test_to_give_out_or_delete_an_account_key_pair_takes_an_administrator(world: World, boss: Caller, alice: Caller) -> None:
    name = world.pair(alice, "account").name  # also where it was their own before
    refused(world.keypairs.export(alice, name), NotAllowed, "administrator_needed")
    refused(world.keypairs.delete(alice, name), NotAllowed, "administrator_needed")
    run(world.keypairs.export(boss, name))
    run(world.keypairs.delete(boss, name))


def test_the_first_account_key_pair_is_made_by_an_administrator_and_then_operators_make_them(
    world: World, boss: Caller, alice: Caller
) -> None:
    refused(_import(world, alice, "a", "account"), NotAllowed, "first_account_keypair")
    run(_import(world, boss, "b", "account"))
    run(_import(world, alice, "c", "account"))
    run(world.keypairs.delete(boss, "b"))
    run(world.keypairs.delete(boss, "c"))
    run(_import(world, alice, "d", "account"))  # it was allowed once: that there is none now takes it back from nobody


def test_the_first_account_key_pair_is_upgraded_by_an_administrator_and_then_operators_upgrade(
    world: World, boss: Caller, alice: Caller
) -> None:
    name = world.pair(alice).name
    refused(world.keypairs.upgrade(alice, name), NotAllowed, "first_account_keypair")
    assert not _opened_for(world, boss, opening.UPGRADE)  # nothing is opened for what is refused
    run(world.keypairs.upgrade(boss, world.pair(boss).name))
    assert run(world.keypairs.upgrade(alice, name)).scope == "account"


def test_an_upgraded_key_pair_is_everybodys_and_no_more_among_its_owners_private_ones(
    world: World, boss: Caller, alice: Caller, bob: Caller
) -> None:
    world.pair(boss, "account")
    before = world.pair(alice)
    after = run(world.keypairs.upgrade(alice, before.name))
    assert (after.scope, after.version, after.id) == ("account", before.version + 1, before.id)
    assert after in run(world.keypairs.list(bob))
    assert [each for each in run(world.keypairs.list(alice)) if each.scope == "private"] == []
    assert run(world.keypairs.export(boss, before.name)).open()
    (happened,) = [each for each in world.store.events(boss.tenant_id) if each.kind == "keypair_upgraded"]
    assert (happened.detail["keypair_id"], happened.detail["user_id"]) == (before.id, alice.user_id)


def test_the_private_half_of_an_upgraded_key_pair_opens_as_the_accounts_only(world: World, boss: Caller, alice: Caller) -> None:
    world.pair(boss, "account")
    before = world.pair(alice)
    _, private = world.store.keypair_in_custody(before.id)
    run(world.keypairs.upgrade(alice, before.name))
    after, sealed = world.store.keypair_in_custody(before.id)
    assert world.kms.open_private(after, sealed) == STORED
    for keypair, record in ((before, sealed), (after, private)):
        with pytest.raises(Problem):
            world.kms.open_private(keypair, record)


def test_an_unmanaged_key_pair_is_upgraded_too(world: World, boss: Caller, alice: Caller) -> None:
    world.pair(boss, "account")
    after = run(world.keypairs.upgrade(alice, world.pair(alice, managed=False).name))
    assert (after.scope, after.managed) == ("account", False)


def test_an_upgrade_while_a_key_pair_was_changed_is_refused_and_changes_nothing(
    world: World, boss: Caller, alice: Caller
) -> None:
    world.pair(boss, "account")
    before = world.pair(alice)
    with pytest.raises(Conflict) as caught:
        world.store.upgrade_keypair(replace(before, version=7), None)
    assert caught.value.code == "keypair_changed"
    assert world.store.keypair_by_id(before.id) == before
    # Nor is it upgraded twice, where two ask at once.
    after = run(world.keypairs.upgrade(alice, before.name))
    with pytest.raises(Conflict) as caught:
        world.store.upgrade_keypair(after, world.store.sealed_private(after.id))
    assert caught.value.code == "keypair_changed"


def test_what_is_the_accounts_already_is_not_upgraded(world: World, boss: Caller) -> None:
    refused(world.keypairs.upgrade(boss, world.pair(boss, "account").name), Conflict, "already_account")


@pytest.mark.parametrize("how", ["create", "upgrade"])
def test_another_users_private_name_blocks_one_of_the_account_and_that_is_said(
    world: World, boss: Caller, alice: Caller, how: str
) -> None:
    name = world.pair(alice).name
    if how == "upgrade":
        run(_import(world, boss, name, "private"))
        problem = refused(world.keypairs.upgrade(boss, name), AlreadyExists, "keypair_name_taken")
    else:
        problem = refused(_import(world, boss, name, "account"), AlreadyExists, "keypair_name_taken")
    assert "another user has a private key pair of this name" in problem.message
    assert world.store.tenant(boss.tenant_id).account_keypairs_since is None  # it was not the first one after all


def test_names_are_unique_where_both_would_be_visible(world: World, boss: Caller, alice: Caller, bob: Caller) -> None:
    name = world.name("same")
    run(_import(world, alice, name, "private"))
    run(_import(world, bob, name, "private"))  # neither sees the other's
    refused(_import(world, alice, name, "private"), AlreadyExists, "keypair_exists")
    shared = world.pair(boss, "account").name
    refused(_import(world, alice, shared, "private"), AlreadyExists, "keypair_exists")
    refused(_import(world, boss, shared, "account"), AlreadyExists, "keypair_exists")


@pytest.mark.parametrize("kind", ["federated", "delegated"])
def test_federated_and_delegated_users_own_no_private_key_pair_and_use_the_accounts(
    world: World, boss: Caller, kind: Any
) -> None:
    shared, server = world.pair(boss, "account").name, world.server(boss)
    for role in ("administrator", "operator"):
        who = world.user(boss, role, kind)
        refused(_import(world, who, world.name("mine"), "private"), NotAllowed, "kind_owns_no_keypair")
        run(world.bindings.start(who, "bind", [server], {"keypair": shared}, {}))
        run(_import(world, who, world.name("ours"), "account"))


def test_an_auditor_reads_and_opens_no_key(world: World, boss: Caller) -> None:
    auditor = world.user(boss, "auditor")
    name, server = world.pair(boss, "account").name, world.server(boss)
    assert run(world.keypairs.get(auditor, name)).name == name
    assert run(world.servers.list(auditor)) == [server]
    refused(world.keypairs.export(auditor, name), NotAllowed, "role_reads_only")
    # A check gets in with a key from custody.
    for operation in ("check", "password-login-status", "bind"):
        refused(world.bindings.start(auditor, operation, [server], {}, {}), NotAllowed, "role_reads_only")


# -- quotas


def test_an_upgraded_key_pair_counts_against_the_accounts_quota(world: World, boss: Caller, alice: Caller) -> None:
    world.pair(boss, "account")
    name = world.pair(alice).name
    run(world.quotas.set(boss, "account_keypairs", 1))
    problem = refused(world.keypairs.upgrade(alice, name), Conflict, "quota_exceeded")
    assert problem.evidence == {"quota": "account_keypairs", "used": 1, "limit": 1}
    run(world.quotas.set(boss, "account_keypairs", 2))
    run(world.keypairs.upgrade(alice, name))
    assert _usage(world, boss, "account_keypairs").used == 2
    (private,) = run(world.quotas.show(alice, alice.user_id))
    assert private.used == 0


def test_a_users_own_quota_goes_before_the_tenants_and_that_before_the_default(world: World, boss: Caller, alice: Caller) -> None:
    def limit() -> tuple[int, bool]:
        (found,) = run(world.quotas.show(alice, alice.user_id))
        return found.limit, found.set

    assert limit() == (1000, False)
    run(world.quotas.set(boss, "private_keypairs", 5))
    assert limit() == (5, True)
    run(world.quotas.set(boss, "private_keypairs", 0, alice.user_id))
    assert limit() == (0, True)
    refused(_import(world, alice, world.name("new"), "private"), Conflict, "quota_exceeded")
    run(world.quotas.set(boss, "private_keypairs", None, alice.user_id))
    run(_import(world, alice, world.name("new"), "private"))
    run(world.quotas.set(boss, "private_keypairs", None))
    assert limit() == (1000, False)


def test_the_quota_of_users_counts_those_that_are_there(world: World, boss: Caller) -> None:
    run(world.quotas.set(boss, "users", 2))
    run(world.users.create(boss, "first"))
    refused(world.users.create(boss, "second"), Conflict, "quota_exceeded")
    run(world.users.delete(boss, "first"))
    run(world.users.create(boss, "second"))


def test_a_quota_that_nobody_knows_is_refused(world: World, boss: Caller, alice: Caller) -> None:
    refused(world.quotas.set(boss, "servers", 1), Problem, "quota_unknown")
    refused(world.quotas.set(boss, "users", 1, alice.user_id), Problem, "quota_unknown")
    refused(world.quotas.set(boss, "users", -1), Problem, "quota_unusable")


def test_quotas_hold_while_many_ask_at_once(world: World, boss: Caller, alice: Caller) -> None:
    run(world.quotas.set(boss, "private_keypairs", 3, alice.user_id))

    async def together() -> list[Any]:
        return await asyncio.gather(*(_import(world, alice, f"q{n}", "private") for n in range(8)), return_exceptions=True)

    ended = run(together())
    assert sum(isinstance(each, KeyPair) for each in ended) == 3
    assert {each.code for each in ended if isinstance(each, Problem)} == {"quota_exceeded"}


# -- tasks, bindings and events about another user's private key pair


def test_a_stranger_does_not_break_a_binding_of_a_private_key_pair(
    world: World, boss: Caller, alice: Caller, bob: Caller
) -> None:
    server, mine = world.server(boss), world.pair(alice)
    world.bound(server, mine)
    shared = world.pair(boss, "account").name
    for operation, options in _takes_away(shared):
        problem = refused(world.bindings.start(bob, operation, [server], options, {}), NotAllowed, "administrator_needed")
        assert mine.name not in problem.message
        refused(
            world.bindings.start(bob, operation, [server], options | {"take_over": True}, {}), NotAllowed, "administrator_needed"
        )
        problem = refused(world.bindings.start(boss, operation, [server], options, {}), Conflict, "bound_by_another")
        assert mine.name not in problem.message
    refused(world.servers.remove(bob, server.name, force=True), NotAllowed, "administrator_needed")
    assert [each.keypair_id for each in world.store.bindings(boss.tenant_id)] == [mine.id]


def test_an_administrator_takes_a_strangers_private_key_pair_away_by_saying_so(world: World, boss: Caller, alice: Caller) -> None:
    server, shared = world.server(boss), world.pair(boss, "account").name
    world.bound(server, world.pair(alice))
    for operation, options in _takes_away(shared):
        run(world.bindings.start(boss, operation, [server], options | {"take_over": True}, {}))


def test_the_owner_of_a_binding_takes_it_away_as_ever(world: World, boss: Caller, alice: Caller) -> None:
    server, shared = world.server(boss), world.pair(boss, "account").name
    world.bound(server, world.pair(alice))
    for operation, options in _takes_away(shared):
        run(world.bindings.start(alice, operation, [server], options, {}))


def test_a_server_with_a_strangers_binding_is_removed_without_its_name(world: World, boss: Caller, alice: Caller) -> None:
    server, mine = world.server(boss), world.pair(alice)
    world.bound(server, mine)
    problem = refused(world.servers.remove(boss, server.name), Conflict, "already_bound")
    assert mine.name not in problem.message + str(problem.evidence)
    assert mine.name in refused(world.servers.remove(alice, server.name), Conflict, "already_bound").message
    run(world.servers.remove(boss, server.name, force=True))


def test_a_task_about_a_private_key_pair_tells_others_how_it_ended_and_no_name(
    world: World, boss: Caller, alice: Caller, bob: Caller
) -> None:
    mine, server = world.pair(alice), world.server(boss)
    failed = world.failed(alice, server, mine)
    assert run(world.tasks.get(alice, failed.id)) == failed
    for stranger in (boss, bob):
        seen = run(world.tasks.get(stranger, failed.id))
        assert (seen.status, seen.cause, seen.server_name, seen.user_id) == ("failed", "key_refused", server.name, alice.user_id)
        assert seen.message.startswith(f"{server.name}: sshd did not take the key")
        assert mine.name not in str(seen)
        assert mine.id not in str(seen)
        assert seen in run(world.tasks.list(stranger))
        assert mine.name not in refused(world.tasks.retry(stranger, failed.id), NotFound, "keypair_not_found").message
    assert run(world.tasks.retry(alice, failed.id)).private


def test_events_about_a_private_key_pair_are_its_owners(world: World, boss: Caller, alice: Caller, bob: Caller) -> None:
    mine, shared, server = world.pair(alice, begins="hush"), world.pair(boss, "account"), world.server(boss)
    world.bound(server, mine)
    world.failed(alice, server, mine)
    run(world.keypairs.export(alice, mine.name))
    world.store.note_refusal(boss.tenant_id, alice.user_id, {"code": "x", "request": f"DELETE /keypairs/{mine.name}"})
    bind = Task("unbound", boss.tenant_id, alice.user_id, server.id, server.name, "root", "unbind", {}, now())
    world.store.add_tasks([bind])
    claimed = world.store.claim(bind.id, "me", 30)
    assert claimed is not None
    done = Outcome("succeeded", "as_asked", private=True)
    assert world.store.finish(bind.id, "me", claimed.generation, done, unbind=(server.id, "root"))
    own, others = run(world.tasks.events(alice)), run(world.tasks.events(bob))
    assert {"keypair_exported", "binding_set"} <= {each.kind for each in own if mine.id in str(each)}
    assert mine.name not in str(others)
    assert mine.id not in str(others)
    assert shared.name in str(others)
    assert {"binding_set", "binding_removed"} <= {each.kind for each in others}  # that something was is everybody's


def test_whoever_follows_is_not_stopped_by_events_that_are_not_theirs(world: World, boss: Caller, alice: Caller) -> None:
    world.pair(alice)  # with the first one comes a master key
    start = world.store.events(boss.tenant_id)[-1].id
    for _ in range(3):
        world.pair(alice)
    assert run(world.tasks.events(boss, after=start)) == []
    server = world.server(boss)
    (seen,) = run(world.tasks.events(boss, after=start))
    assert (seen.kind, seen.server_id) == ("server_added", server.id)


def test_a_task_of_another_user_about_the_account_is_told_whole(world: World, boss: Caller, alice: Caller) -> None:
    failed = world.failed(alice, world.server(boss), world.pair(boss, "account"))
    assert run(world.tasks.get(boss, failed.id)) == failed


# -- through the API


def test_nothing_of_a_private_key_pair_comes_through_the_api_to_another_user(world: World, boss: Caller, alice: Caller) -> None:
    mine, server = world.pair(alice, begins="hush"), world.server(boss)
    world.bound(server, mine)
    task = world.failed(alice, server, mine)
    paths = ["/keypairs", "/servers", f"/servers/{server.name}", "/tasks", f"/tasks/{task.id}", "/events", "/users", "/quotas"]

    async def asked(who: Caller) -> str:
        async with in_process(world.settings) as served:
            theirs = gate.Local(served.application, lambda: who)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(theirs), base_url="http://kps/fleet/v1") as http:
                answers = [await http.get(path) for path in paths]
                assert {each.status_code for each in answers} == {200}
                missing = await http.get(f"/keypairs/{mine.name}")
                assert missing.status_code == (200 if who == alice else 404)
                return "".join(each.text for each in answers)

    assert mine.name in run(asked(alice))
    for stranger in (boss, world.user(boss, "auditor")):
        told = run(asked(stranger))
        assert mine.name not in told
        assert mine.id not in told
        assert '"another_users":true' in told


def _import(world: World, who: Caller, name: str, scope: Any) -> Coroutine[Any, Any, KeyPair]:
    return world.keypairs.import_(who, name, scope, public_key=PUBLIC.line())


def _takes_away(keypair: str) -> list[tuple[str, dict[str, Any]]]:
    return [("replace", {"keypair": keypair}), ("unbind", {}), ("reset", {"keypair": keypair, "root": "/mnt"})]


def _usage(world: World, who: Caller, name: str) -> Usage:
    return next(each for each in run(world.quotas.show(who)) if each.name == name)


def _opened_for(world: World, who: Caller, purpose: str) -> list[str]:
    happened = world.store.events(who.tenant_id)
    return [each.detail["keypair_id"] for each in happened if each.kind == "keypair_opened" and each.detail["purpose"] == purpose]
