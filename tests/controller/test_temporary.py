"""Temporary access keys and tokens: whose they are, how they end, and what they do not give."""

import asyncio
import sqlite3
from collections.abc import Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest

from controller.errors import Conflict, Invalid, NotAllowed, NotFound, Problem
from controller.model import Caller, Secret, now
from controller.service.identity import Identity, Unknown
from controller.service.temporary import GivenOut
from controller.store.temporary import MOST_TEMPORARY_KEYS, MOST_TOKENS
from tests.controller.world import World

HERE = "192.0.2.1"
T = TypeVar("T")
run = asyncio.run


def refused(work: Coroutine[Any, Any, Any], kind: type[Problem], code: str) -> None:
    with pytest.raises(kind) as caught:
        run(work)
    assert caught.value.code == code


@pytest.fixture
def boss(world: World) -> Caller:
    return world.tenant()


@pytest.fixture
def alice(world: World, boss: Caller) -> Caller:
    """An operator with an access key, and here by it."""
    who = world.user(boss, "operator")
    key, _ = run(world.access_keys.create(boss, who.user_id))
    return replace(who, access_key=key.access_key, at_home=False)


def signing(world: World, given: GivenOut, token: str | None = None, address: str = HERE) -> tuple[Caller, Secret]:
    """Who signs with a temporary access key, and shows its token or another."""
    shown = given.token.open().decode() if token is None else token
    return run(world.identity.of_access_key(given.key.access_key, shown, address))


def is_unknown(world: World, given: GivenOut, token: str | None = None, address: str = HERE) -> None:
    with pytest.raises(Unknown):
        signing(world, given, token, address)


def shows(world: World, token: Secret, address: str = HERE) -> Caller:
    return run(world.identity.of_token(token.open().decode(), address))[0]


def shows_nothing(world: World, token: Secret, address: str = HERE) -> None:
    with pytest.raises(Unknown):
        shows(world, token, address)


def later(world: World, by: timedelta) -> Identity:
    """The same, at another time."""
    return Identity(world.store, world.kms, clock=lambda: now() + by)


def test_a_temporary_access_key_asks_as_its_user_with_its_token_until_it_ends(world: World, alice: Caller) -> None:
    given = run(world.temporary_keys.create(alice, seconds=3600))
    who, secret = signing(world, given)
    assert (who, secret) == (alice, given.secret)
    assert (who.passing, who.access_key) == (True, given.key.parent)
    for token in ("", "x", given.token.open().decode() + "x"):
        is_unknown(world, given, token)
    with pytest.raises(Unknown):  # without its token it is none
        run(world.identity.of_access_key(given.key.access_key, None, HERE))
    other = run(world.temporary_keys.create(alice))
    is_unknown(world, given, other.token.open().decode())
    with pytest.raises(Unknown):  # and a lasting one has none
        run(world.identity.of_access_key(given.key.parent, given.token.open().decode(), HERE))
    asked = given.key.access_key, given.token.open().decode(), HERE
    run(later(world, timedelta(seconds=3500)).of_access_key(*asked))
    with pytest.raises(Unknown):
        run(later(world, timedelta(seconds=3601)).of_access_key(*asked))


def test_a_token_is_its_user_with_the_role_of_today_until_it_ends(world: World, boss: Caller, alice: Caller) -> None:
    made, name, token = run(world.tokens.create(alice, seconds=3600, description="for a script"))
    who = shows(world, token)
    assert (who, who.passing, who.access_key) == (alice, True, None)
    run(world.users.change(boss, alice.user_id, role="auditor"))
    assert shows(world, token).role == "auditor"
    for text in ("", "x", "kpst_" + "A" * 43):
        shows_nothing(world, Secret(text))
    with pytest.raises(Unknown):
        run(later(world, timedelta(seconds=3601)).of_token(token.open().decode(), HERE))
    run(world.identity.token_used(made.id))
    ((found, whose),) = run(world.tokens.list(alice))
    assert (found.id, found.description, whose) == (made.id, "for a script", name)
    assert found.last_used_at is not None


@pytest.mark.parametrize("how", ["disable user", "delete user", "disable key", "delete key", "revoke"])
def test_what_ends_them(world: World, boss: Caller, alice: Caller, how: str) -> None:
    given, (token, _, shown) = run(world.temporary_keys.create(alice)), run(world.tokens.create(alice))
    parent = given.key.parent
    work: dict[str, list[Coroutine[Any, Any, Any]]] = {
        "disable user": [world.users.change(boss, alice.user_id, enabled=False)],
        "delete user": [world.users.delete(boss, alice.user_id)],
        "disable key": [world.access_keys.enable(alice, parent, enabled=False)],
        "delete key": [world.access_keys.delete(alice, parent)],
        "revoke": [world.temporary_keys.revoke(alice, given.key.access_key), world.tokens.revoke(alice, token.id)],
    }
    for name, verbs in work.items():
        for each in verbs:
            if name == how:
                run(each)
            else:
                each.close()
    is_unknown(world, given)
    shows_nothing(world, shown)
    # For good: what is enabled again later brings none of them back.
    if how == "disable user":
        run(world.users.change(boss, alice.user_id, enabled=True))
    if how == "disable key":
        run(world.access_keys.enable(alice, parent))
    is_unknown(world, given)
    shows_nothing(world, shown)
    kinds = [each.kind for each in world.store.events(boss.tenant_id)]
    assert {"temporary_key_created", "token_created"} <= set(kinds)
    told = [each.detail for each in world.store.events(boss.tenant_id) if "tokens_ended" in each.detail]
    assert [each["temporary_keys_ended"] for each in told] == ([] if how == "revoke" else [1])


def test_it_ends_with_the_access_key_that_it_stands_on(world: World, boss: Caller, alice: Caller) -> None:
    given = run(world.temporary_keys.create(alice))
    run(world.access_keys.rotate(alice, given.key.parent, beside_hours=0))
    is_unknown(world, given)
    ends = run(world.access_keys.create(boss, world.user(boss, "operator", "delegated").user_id, days=1))[0]
    on_it = run(world.temporary_keys.create(boss, ends.access_key, 24 * 3600))
    assert ends.expires_at is not None
    assert on_it.key.expires_at <= ends.expires_at
    asked = replace(boss, access_key=ends.access_key)
    assert run(world.tokens.create(asked, seconds=30 * 24 * 3600))[0].expires_at <= ends.expires_at


def test_a_token_that_was_asked_for_at_home_outlives_access_keys(world: World, boss: Caller, alice: Caller) -> None:
    _, _, token = run(world.tokens.create(boss, alice.user_id))
    run(world.access_keys.enable(boss, str(alice.access_key), enabled=False))
    assert shows(world, token) == alice


def test_source_networks_hold_for_them_too(world: World, boss: Caller, alice: Caller) -> None:
    given, (_, _, token) = run(world.temporary_keys.create(alice)), run(world.tokens.create(alice))
    run(world.users.change(boss, alice.user_id, source_networks=["192.0.2.0/24"]))
    signing(world, given)
    shows(world, token)
    is_unknown(world, given, address="198.51.100.1")
    shows_nothing(world, token, "198.51.100.1")


@pytest.mark.parametrize("by", ["token", "temporary key"])
def test_who_came_by_one_is_given_nothing_that_lets_somebody_in(world: World, boss: Caller, by: str) -> None:
    key, _ = run(world.access_keys.create(boss))
    came = replace(boss, access_key=key.access_key)
    if by == "token":
        who = shows(world, run(world.tokens.create(came))[2])
    else:
        who, _ = signing(world, run(world.temporary_keys.create(came)))
    for work in (
        world.access_keys.create(who),
        world.access_keys.rotate(who, key.access_key),
        world.temporary_keys.create(who),
        world.tokens.create(who),
        world.tenants.create(who, "acme"),
        world.tenants.access_key(who, "acme"),
    ):
        refused(work, NotAllowed, "passing_credential")
    run(world.access_keys.enable(who, key.access_key, enabled=False))  # but what is in wrong hands is closed


def test_another_users_are_not_there_for_an_operator_and_an_administrators_to_end(
    world: World, boss: Caller, alice: Caller
) -> None:
    given, (token, _, _) = run(world.temporary_keys.create(alice)), run(world.tokens.create(alice))
    bob, auditor = world.user(boss, "operator"), world.user(boss, "auditor")
    refused(world.temporary_keys.create(bob, given.key.parent), NotFound, "access_key_not_found")
    refused(world.temporary_keys.revoke(bob, given.key.access_key), NotFound, "temporary_key_not_found")
    refused(world.tokens.revoke(bob, token.id), NotFound, "token_not_found")
    refused(world.tokens.create(bob, alice.user_id), NotAllowed, "administrator_needed")
    refused(world.tokens.list(bob, alice.user_id), NotAllowed, "administrator_needed")
    assert (run(world.tokens.list(bob)), run(world.temporary_keys.list(bob))) == ([], [])
    assert token.id in {each.id for each, _ in run(world.tokens.list(auditor))}
    refused(world.tokens.revoke(auditor, token.id), NotAllowed, "role_reads_only")
    run(world.tokens.revoke(boss, token.id))
    run(world.temporary_keys.revoke(boss, given.key.access_key))
    is_unknown(world, given)


def test_a_temporary_access_key_needs_one_to_stand_on(world: World, boss: Caller) -> None:
    bob = world.user(boss, "operator")
    refused(world.temporary_keys.create(bob), Conflict, "access_key_needed")
    key, _ = run(world.access_keys.create(bob))
    assert run(world.temporary_keys.create(bob)).key.parent == key.access_key
    run(world.access_keys.enable(bob, key.access_key, enabled=False))
    refused(world.temporary_keys.create(bob), Conflict, "access_key_needed")
    refused(world.temporary_keys.create(bob, key.access_key), Conflict, "access_key_needed")


@pytest.mark.parametrize("days", [0, -1, 59 / 86400, 30 + 1 / 86400])
def test_they_last_as_long_as_they_may(world: World, alice: Caller, days: float) -> None:
    seconds = round(days * 86400)
    refused(world.temporary_keys.create(alice, seconds=min(seconds, 86401)), Invalid, "time_unusable")
    refused(world.tokens.create(alice, seconds=seconds), Invalid, "time_unusable")


def test_there_are_so_many_of_a_user_and_what_has_ended_does_not_count_and_is_swept(
    world: World, boss: Caller, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.store.temporary.MOST_TEMPORARY_KEYS", 2)
    monkeypatch.setattr("controller.store.temporary.MOST_TOKENS", 2)
    assert (MOST_TEMPORARY_KEYS, MOST_TOKENS) == (100, 20)
    for _ in range(2):
        run(world.temporary_keys.create(alice))
        run(world.tokens.create(alice))
    refused(world.temporary_keys.create(alice), Conflict, "temporary_key_quota")
    refused(world.tokens.create(alice), Conflict, "token_quota")
    run(world.tokens.create(boss))
    assert world.store.drop_ended() == 0
    _make_older(world, alice)
    assert (run(world.temporary_keys.list(alice)), run(world.tokens.list(alice))) == ([], [])
    run(world.temporary_keys.create(alice))
    run(world.tokens.create(alice))
    assert world.store.drop_ended() == 4
    assert len(world.store.tokens(alice.tenant_id, alice.user_id)) == 1


def _make_older(world: World, who: Caller) -> None:
    with sqlite3.connect(world.settings.database) as connection:
        ended = "2000-01-01 00:00:00"
        connection.execute("UPDATE tokens SET expires_at = ? WHERE user_id = ?", (ended, who.user_id))
        connection.execute(
            "UPDATE temporary_keys SET expires_at = ? WHERE parent IN (SELECT access_key FROM access_keys WHERE user_id = ?)",
            (ended, who.user_id),
        )
    connection.close()


def test_the_database_gives_neither_secret_nor_token_away(world: World, alice: Caller) -> None:
    given, (_, _, token) = run(world.temporary_keys.create(alice)), run(world.tokens.create(alice))
    world.store._engine.dispose()
    for file in world.home.glob("kps.db*"):
        for secret in (given.secret, given.token, token):
            assert secret.open() not in file.read_bytes()
    told = [run(world.tokens.list(alice)), run(world.temporary_keys.list(alice)), world.store.events(alice.tenant_id)]
    for secret in (given.secret, given.token, token):
        assert secret.open().decode() not in repr(told)


def test_a_restored_home_has_none_of_them(world: World, boss: Caller, alice: Caller) -> None:
    given, (_, _, token) = run(world.temporary_keys.create(alice)), run(world.tokens.create(alice))
    world.store.begin_anew(boss.tenant_id, {"user_id": boss.user_id})
    is_unknown(world, given)
    shows_nothing(world, token)


def test_an_unknown_access_key_has_a_decoy_to_work_with_as_long_as_a_secret_and_nobodys(world: World, alice: Caller) -> None:
    given = run(world.temporary_keys.create(alice))
    lasting, decoys = str(alice.access_key), []
    for asked in (("A" * 20, None), (lasting, "x"), (given.key.access_key, None), (given.key.access_key, "x")):
        with pytest.raises(Unknown) as caught:
            run(world.identity.of_access_key(*asked, HERE))
        decoys.append(caught.value.decoy)
        assert not run(world.identity.known(*asked, HERE))
    assert decoys == [decoys[0]] * 4
    assert decoys[0] is not None
    assert len(decoys[0]) == len(given.secret)
    assert decoys[0] not in (given.secret, run(world.identity.of_access_key(lasting, None, HERE))[1])
    assert run(world.identity.known(lasting, None, HERE))
