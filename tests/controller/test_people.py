"""Users, their access keys and where they ask from."""

import asyncio
import sqlite3
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.errors import AlreadyExists, Conflict, Damaged, Invalid, NotAllowed, NotFound, Problem
from controller.model import AccessKey, Caller, Task, User, now
from controller.service import sources
from controller.service.accesskeys import refusal
from controller.service.home import access_key_context
from controller.service.identity import Unknown
from tests.controller.world import World

run = asyncio.run


@pytest.fixture
def boss(world: World) -> Caller:
    return world.tenant()


def refused(work: Coroutine[Any, Any, Any], kind: type[Problem], code: str) -> Problem:
    with pytest.raises(kind) as caught:
        run(work)
    assert caught.value.code == code
    return caught.value


def unknown(world: World, access_key: str, address: str | None = "192.0.2.1") -> None:
    with pytest.raises(Unknown):
        run(world.identity.of_access_key(access_key, None, address))


# -- users


def test_a_user_is_taken_in_changed_and_deleted(world: World, boss: Caller) -> None:
    made = run(world.users.create(boss, "alice", "auditor", source_networks=["192.0.2.0/24"]))
    assert made in run(world.users.list(boss))
    assert run(world.users.get(boss, "alice")) == made == run(world.users.get(boss, made.id))
    changed = run(world.users.change(boss, "alice", role="operator", source_networks=[]))
    assert (changed.role, changed.source_networks, changed.enabled) == ("operator", [], True)
    assert not run(world.users.change(boss, "alice", enabled=False)).enabled
    assert run(world.users.delete(boss, "alice")) == []
    refused(world.users.get(boss, "alice"), NotFound, "user_not_found")
    refused(world.users.get(boss, made.id), NotFound, "user_not_found")
    again = run(world.users.create(boss, "alice"))  # the name is free again, and means somebody else
    assert again.id != made.id


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "../x", "a~b", "a\n", "0123456789abcdef0123456789abcdef"])
def test_a_name_that_could_be_something_else_is_refused(world: World, boss: Caller, name: str) -> None:
    refused(world.users.create(boss, name), Invalid, "name_unusable")


def test_names_and_ids_from_outside_are_one_users(world: World, boss: Caller) -> None:
    run(world.users.create(boss, "alice"))
    refused(world.users.create(boss, "alice"), AlreadyExists, "user_exists")
    run(world.users.create(boss, "bob", kind="federated", external_id="bob@idp"))
    refused(world.users.create(boss, "robert", kind="federated", external_id="bob@idp"), AlreadyExists, "user_exists")
    run(world.users.create(world.tenant(), "bob", kind="federated", external_id="bob@idp"))  # in another tenant


@pytest.mark.parametrize(("kind", "external_id"), [("local", "x"), ("delegated", "x"), ("federated", None), ("federated", "a b")])
def test_a_federated_user_has_an_id_from_outside_and_nobody_else(world: World, boss: Caller, kind: Any, external_id: Any) -> None:
    refused(world.users.create(boss, "bob", kind=kind, external_id=external_id), Invalid, "external_id_unusable")


def test_an_unknown_role_or_kind_is_refused(world: World, boss: Caller) -> None:
    unknown: Any = "root"
    refused(world.users.create(boss, "x", unknown), Invalid, "role_unknown")
    refused(world.users.create(boss, "x", kind=unknown), Invalid, "kind_unknown")
    run(world.users.create(boss, "x"))
    refused(world.users.change(boss, "x", role=unknown), Invalid, "role_unknown")


@pytest.mark.parametrize("how", ["demote", "disable", "delete"])
def test_the_last_enabled_administrator_stays_one(world: World, boss: Caller, how: str) -> None:
    def less(user: str) -> Coroutine[Any, Any, Any]:
        if how == "delete":
            return world.users.delete(boss, user)
        changes: dict[str, Any] = {"role": "operator"} if how == "demote" else {"enabled": False}
        return world.users.change(boss, user, **changes)

    other = world.user(boss, "administrator")
    run(world.users.change(boss, other.user_id, enabled=False))  # who is disabled looks after nobody
    refused(less(boss.user_id), Conflict, "last_administrator")
    run(world.users.change(boss, other.user_id, enabled=True))
    run(less(other.user_id))
    refused(less(boss.user_id), Conflict, "last_administrator")
    world.user(boss, "administrator", "delegated")  # who may change no users would be left alone with them
    refused(less(boss.user_id), Conflict, "last_administrator")


def test_whoever_owns_the_home_stays_its_administrator(world: World) -> None:
    owner = world.store.caller_by_local_home()
    world.user(owner, "administrator")
    refused(world.users.change(owner, owner.user_id, enabled=False), Conflict, "home_owner")
    refused(world.users.change(owner, owner.user_id, role="auditor"), Conflict, "home_owner")
    refused(world.users.delete(owner, owner.user_id), Conflict, "home_owner")


def test_a_user_who_owns_private_key_pairs_is_not_deleted_and_they_are_named(world: World, boss: Caller) -> None:
    alice, server = world.user(boss, "operator"), world.server(boss)
    loose, bound, shared = world.pair(alice), world.pair(alice), world.pair(alice, "account")
    world.bound(server, bound)
    problem = refused(world.users.delete(boss, alice.user_id), Conflict, "user_owns_keypairs")
    assert problem.evidence == {"keypairs": [loose.name, bound.name]}
    problem = refused(world.users.delete(boss, alice.user_id, with_keypairs=True), Conflict, "user_owns_keypairs")
    assert problem.evidence == {"keypairs": [bound.name]}
    assert world.store.keypair_by_id(loose.id) == loose  # all or nothing
    world.bound(server, shared)
    assert run(world.users.delete(boss, alice.user_id, with_keypairs=True)) == [loose.name, bound.name]
    assert run(world.keypairs.export(boss, shared.name)).open()  # what they made for the account stays, and opens


def test_a_user_with_a_task_under_way_is_not_deleted(world: World, boss: Caller) -> None:
    alice, server = world.user(boss, "operator"), world.server(boss)
    task = Task("busy", boss.tenant_id, alice.user_id, server.id, server.name, "root", "check", {}, now())
    world.store.add_tasks([task])
    assert "busy" in refused(world.users.delete(boss, alice.user_id), Conflict, "user_busy").message
    world.store.cancel(boss.tenant_id, "busy", "no")
    run(world.users.delete(boss, alice.user_id))


def test_what_happens_to_users_is_on_record(world: World, boss: Caller) -> None:
    run(world.users.create(boss, "alice"))
    run(world.users.change(boss, "alice", enabled=False))
    run(world.users.delete(boss, "alice"))
    happened = [each for each in world.store.events(boss.tenant_id) if each.kind.startswith("user_")]
    assert [each.kind for each in happened] == ["user_created", "user_changed", "user_deleted"]
    assert {(each.detail["name"], each.detail["user_id"]) for each in happened} == {("alice", boss.user_id)}


# -- access keys


def test_an_access_key_lets_its_user_in_and_its_secret_is_shown_once(world: World, boss: Caller) -> None:
    alice = world.user(boss, "operator", "delegated")
    key, secret = run(world.access_keys.create(boss, alice.user_id, days=30))
    assert (len(key.access_key), len(secret)) == (20, 40)
    caller, signed_with = run(world.identity.of_access_key(key.access_key, None, "192.0.2.1"))
    assert (caller, signed_with) == (alice, secret)
    assert key.expires_at is not None
    assert timedelta(days=29) < key.expires_at - now() <= timedelta(days=30)
    assert secret.open().decode() not in repr(run(world.access_keys.list(boss, alice.user_id)))
    run(world.identity.used(key.access_key))
    ((found, _),) = run(world.access_keys.list(boss, alice.user_id))
    assert found.last_used_at is not None


def test_the_database_alone_gives_no_secret_away_and_another_row_does_not_open(world: World, boss: Caller) -> None:
    alice, bob = world.user(boss, "operator"), world.user(boss, "operator")
    (one, secret), (other, _) = (run(world.access_keys.create(boss, each.user_id)) for each in (alice, bob))
    world.store._engine.dispose()
    for file in world.home.glob("kps.db*"):
        assert secret.open() not in file.read_bytes()
    with sqlite3.connect(world.settings.database) as connection:
        connection.execute(
            "UPDATE access_keys SET sealed = (SELECT sealed FROM access_keys WHERE access_key = ?) WHERE access_key = ?",
            (one.access_key, other.access_key),
        )
    connection.close()
    with pytest.raises(Damaged):
        run(world.identity.of_access_key(other.access_key, None, "192.0.2.1"))


def test_a_user_has_two_access_keys_at_most(world: World, boss: Caller) -> None:
    first, _ = run(world.access_keys.create(boss))  # beside the one that they began with
    problem = refused(world.access_keys.create(boss), Conflict, "access_key_quota")
    assert first.access_key in problem.message
    refused(world.access_keys.rotate(boss, first.access_key), Conflict, "access_key_quota")
    run(world.access_keys.delete(boss, first.access_key))
    run(world.access_keys.create(boss))


def test_after_a_rotation_both_work_for_a_while(world: World, boss: Caller) -> None:
    alice = world.user(boss, "operator")
    old, _ = run(world.access_keys.create(boss, alice.user_id))
    new, _secret = run(world.access_keys.rotate(alice, old.access_key, beside_hours=24))
    for key in (old, new):
        assert run(world.identity.of_access_key(key.access_key, None, "192.0.2.1"))[0] == alice
    ends = world.store.access_key_whole(old.access_key)[1].expires_at
    assert ends is not None
    assert timedelta(hours=23) < ends - now() <= timedelta(hours=24)
    run(world.access_keys.delete(alice, old.access_key))
    last, _ = run(world.access_keys.rotate(alice, new.access_key, beside_hours=0))
    unknown(world, new.access_key)
    assert run(world.identity.of_access_key(last.access_key, None, "192.0.2.1"))[0] == alice


def test_a_rotation_makes_no_old_key_last_longer(world: World, boss: Caller) -> None:
    alice = world.user(boss, "operator", "federated")
    old, _ = run(world.access_keys.create(boss, alice.user_id, days=1))
    new, _ = run(world.access_keys.rotate(boss, old.access_key, beside_hours=720))
    assert world.store.access_key_whole(old.access_key)[1].expires_at == old.expires_at
    assert new.expires_at is not None  # and a federated user's new one ends too


def test_a_disabled_access_key_or_user_and_a_strange_network_are_refused(world: World, boss: Caller) -> None:
    alice = world.user(boss, "operator")
    key, _ = run(world.access_keys.create(boss, alice.user_id))

    run(world.access_keys.enable(alice, key.access_key, enabled=False))
    unknown(world, key.access_key)
    run(world.access_keys.enable(alice, key.access_key))
    run(world.users.change(boss, alice.user_id, enabled=False))
    unknown(world, key.access_key)
    run(world.users.change(boss, alice.user_id, enabled=True, source_networks=["192.0.2.0/24"]))
    unknown(world, key.access_key, "198.51.100.1")
    unknown(world, key.access_key, None)
    run(world.identity.of_access_key(key.access_key, None, "192.0.2.1"))
    run(world.access_keys.delete(alice, key.access_key))
    unknown(world, key.access_key)


def test_another_users_access_key_is_not_there_for_an_operator(world: World, boss: Caller) -> None:
    alice, bob = world.user(boss, "operator"), world.user(boss, "operator")
    key, _ = run(world.access_keys.create(alice))
    for work in (world.access_keys.rotate, world.access_keys.enable, world.access_keys.delete):
        refused(work(bob, key.access_key), NotFound, "access_key_not_found")
    assert run(world.access_keys.list(bob)) == []
    assert [each.access_key for each, _ in run(world.access_keys.list(alice))] == [key.access_key]
    seen = {each.access_key for each, _ in run(world.access_keys.list(world.user(boss, "auditor")))}
    assert key.access_key in seen


def test_the_homes_owner_keeps_an_access_key(world: World) -> None:
    owner, access_key = world.store.local_owner()
    refused(world.access_keys.delete(owner, access_key), Conflict, "home_access_key")
    new, _ = run(world.access_keys.rotate(owner, access_key))
    run(world.access_keys.delete(owner, access_key))
    assert world.store.local_owner() == (owner, new.access_key)
    _, sealed = world.store.access_key(new.access_key)
    world.kms.open(sealed, access_key_context(owner, new.access_key)).wipe()


@pytest.mark.parametrize("kind", ["federated", "delegated"])
def test_an_access_key_of_a_federated_or_delegated_user_ends(world: World, boss: Caller, kind: Any) -> None:
    who = world.user(boss, "operator", kind)
    refused(world.access_keys.create(boss, who.user_id), Invalid, "expiry_needed")
    run(world.access_keys.create(boss, who.user_id, days=1))


def test_a_federated_user_lets_themselves_in_no_longer_than_they_were_let_in(world: World, boss: Caller) -> None:
    who = world.user(boss, "operator", "federated")
    refused(world.access_keys.create(who, days=3650), NotAllowed, "administrator_needed")
    first, _ = run(world.access_keys.create(boss, who.user_id, days=1))
    second, _ = run(world.access_keys.create(who, days=3650))
    assert second.expires_at == first.expires_at
    run(world.access_keys.delete(boss, second.access_key))
    third, _ = run(world.access_keys.rotate(who, first.access_key))
    assert third.expires_at == first.expires_at
    run(world.access_keys.enable(boss, first.access_key, enabled=False))
    run(world.access_keys.delete(boss, third.access_key))
    refused(world.access_keys.create(who, days=1), NotAllowed, "administrator_needed")


def test_why_an_access_key_is_refused_is_told_in_order() -> None:
    at = now()
    key = AccessKey("A", "u", "p", at)
    user = User("u", "t", "alice", "operator", source_networks=["192.0.2.0/24"])
    assert refusal(user, key, "192.0.2.9", at) is None
    assert refusal(user, key, "2001:db8::1", at) == "source_refused"
    user = replace(user, enabled=False)
    assert refusal(user, key, "2001:db8::1", at) == "user_disabled"
    key = replace(key, expires_at=at)
    assert refusal(user, key, "2001:db8::1", at) == "access_key_expired"
    assert refusal(user, replace(key, enabled=False), "2001:db8::1", at) == "access_key_disabled"


# -- tenants


def test_a_tenant_is_made_by_the_homes_owner_and_its_administrator_gets_in(world: World, boss: Caller) -> None:
    owner = world.store.caller_by_local_home()
    tenant, first, access_key, secret = run(world.tenants.create(owner, "acme"))
    assert run(world.identity.of_access_key(access_key, None, "192.0.2.1")) == (first, secret)
    assert [each.name for each in run(world.users.list(first))] == ["administrator"]
    assert tenant in run(world.tenants.list(owner))
    assert run(world.tenants.list(first)) == [tenant]
    refused(world.tenants.create(owner, "acme"), AlreadyExists, "tenant_exists")
    refused(world.tenants.create(first, "other"), NotAllowed, "home_owner_needed")


def test_an_administrator_who_has_lost_their_key_is_given_another_by_the_homes_owner(world: World) -> None:
    owner = world.store.caller_by_local_home()
    _, first, access_key, _ = run(world.tenants.create(owner, world.name("lost")))
    second, _ = run(world.access_keys.create(first))
    world.user(first, "administrator")
    name = world.store.tenant(first.tenant_id).name
    user, key, secret = run(world.tenants.access_key(owner, name))
    assert run(world.identity.of_access_key(key.access_key, None, "192.0.2.1")) == (first, secret)
    assert user.id == first.user_id
    for lost in (access_key, second.access_key):
        unknown(world, lost)
    refused(world.tenants.access_key(first, name), NotAllowed, "home_owner_needed")
    # Where nobody local is left, who comes from outside is let in for a day; who acts for others changes no users.
    outside = world.user(first, "administrator", "federated")
    world.user(first, "administrator", "delegated")
    for each in run(world.users.list(first)):
        if each.kind == "local":
            run(world.users.change(first, each.id, enabled=False))
    user, key, _ = run(world.tenants.access_key(owner, name))
    assert (user.id, key.expires_at is None) == (outside.user_id, False)
    refused(world.tenants.access_key(owner, "nowhere"), NotFound, "tenant_not_found")


# -- source networks


@pytest.mark.parametrize(
    ("networks", "address", "away"),
    [
        ([], "192.0.2.1", False),
        (["192.0.2.0/24"], "192.0.2.255", False),
        (["192.0.2.0/24"], "192.0.3.0", True),
        (["192.0.2.0/24"], "::ffff:192.0.2.1", False),
        (["192.0.2.0/24"], "::192.0.2.1", True),
        (["192.0.2.0/24", "2001:db8::/32"], "2001:db8::1", False),
        (["2001:db8::/32"], "192.0.2.1", True),
        (["192.0.2.7/32"], "192.0.2.7", False),
        (["192.0.2.0/24"], "", True),
        (["192.0.2.0/24"], "192.0.2.1, 10.0.0.1", True),
        (["192.0.2.0/24"], "192.0.2.01", True),
        (["0.0.0.0/0"], "2001:db8::1", True),
    ],
)
def test_an_address_is_in_one_of_the_networks_or_refused(networks: list[str], address: str, away: bool) -> None:
    assert sources.refused(networks, address) is away


@pytest.mark.parametrize(
    "given", ["", "x", "192.0.2.0/33", "192.0.2.1/24", "192.0.2", "::ffff:192.0.2.0/120", "a/b/c", "1.2.3.4/", "::%1/64"]
)
def test_what_is_no_network_is_refused(given: str) -> None:
    with pytest.raises(Invalid) as caught:
        sources.read([given])
    assert caught.value.code == "network_unusable"


def test_networks_are_kept_in_one_spelling() -> None:
    assert sources.read(["192.0.2.7", "2001:DB8:0::/32", "192.0.2.7/32"]) == ["192.0.2.7/32", "2001:db8::/32"]
    with pytest.raises(Invalid):
        sources.read(["192.0.2.7"] * 65)


@given(st.ip_addresses(), st.integers(0, 128))
def test_a_network_that_is_read_lets_its_own_addresses_in(address: Any, prefix: int) -> None:
    if getattr(address, "ipv4_mapped", None) is not None:
        return
    import ipaddress

    network = ipaddress.ip_network((address, min(prefix, address.max_prefixlen)), strict=False)
    (kept,) = sources.read([str(network)])
    assert not sources.refused([kept], str(address))
