"""Key pairs: who sees them, what is kept, what is given out."""

import asyncio
import sqlite3
import subprocess
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller import keyfiles
from controller.errors import AlreadyExists, Conflict, Damaged, Invalid, NotAllowed, NotFound, Problem
from controller.keyfiles import apart
from controller.kms import Kms
from controller.model import KEY_TYPES, Binding, Caller, KeyType, Secret, Server, now
from controller.service.keypairs import Keypairs
from controller.settings import Settings
from controller.store import Store
from tests import roots
from tests.controller.given import bind

run = asyncio.run


def refused(work: Coroutine[Any, Any, Any], kind: type[Problem]) -> str:
    with pytest.raises(kind) as caught:
        run(work)
    return caught.value.code


@pytest.fixture
def keypairs(store: Store, kms: Kms) -> Keypairs:
    return Keypairs(store, kms)


def fingerprint(text: Secret, tmp_path: Path) -> str:
    file = tmp_path / "exported"
    file.touch(0o600)
    file.write_bytes(text.open())
    ran = subprocess.run(["ssh-keygen", "-l", "-f", file], capture_output=True, text=True, check=True)
    return ran.stdout.split()[1]


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_a_managed_key_pair_is_kept_and_comes_back_on_export(
    keypairs: Keypairs, who: Caller, key_type: KeyType, tmp_path: Path
) -> None:
    keypair, given = run(keypairs.create(who, "laptop", key_type))
    assert (keypair.type, keypair.managed, keypair.scope, given) == (key_type, True, "private", None)
    assert keypair.public_key.endswith(" laptop")
    assert run(keypairs.list(who)) == [keypair] == [run(keypairs.get(who, "laptop"))]
    assert fingerprint(run(keypairs.export(who, "laptop")), tmp_path) == keypair.fingerprint


def test_an_unmanaged_key_pair_is_given_and_not_kept(keypairs: Keypairs, who: Caller, tmp_path: Path) -> None:
    keypair, given = run(keypairs.create(who, "laptop", managed=False))
    assert given is not None
    assert fingerprint(given, tmp_path) == keypair.fingerprint
    assert not keypair.managed
    assert refused(keypairs.export(who, "laptop"), NotFound) == "private_key_not_kept"


def test_a_public_key_is_taken_in_unmanaged(keypairs: Keypairs, who: Caller) -> None:
    public, _ = keyfiles.generate("ed25519")
    keypair = run(keypairs.import_(who, "theirs", public_key=public.line("somebody@somewhere")))
    assert (keypair.managed, keypair.fingerprint) == (False, public.fingerprint)
    assert (keypair.public_key, keypair.line) == (public.line("somebody@somewhere"), public.line("theirs"))


@roots.wherever
@pytest.mark.parametrize("with_public", [False, True])
def test_a_private_key_is_taken_in_managed(keypairs: Keypairs, who: Caller, with_public: bool, tmp_path: Path) -> None:
    public, stored = keyfiles.generate("ecdsa-nistp384")
    text = keyfiles.openssh_private("ecdsa-nistp384", stored)
    keypair = run(keypairs.import_(who, "mine", private_key=text, public_key=public.line() if with_public else None))
    assert (keypair.managed, keypair.fingerprint) == (True, public.fingerprint)
    assert fingerprint(run(keypairs.export(who, "mine")), tmp_path) == public.fingerprint
    assert keyfiles.read_private(text)[1] == stored  # what was given is left as it is


def test_two_halves_of_different_pairs_are_refused(keypairs: Keypairs, who: Caller) -> None:
    other, _ = keyfiles.generate("ed25519")
    text = keyfiles.openssh_private("ed25519", keyfiles.generate("ed25519")[1])
    assert refused(keypairs.import_(who, "x", private_key=text, public_key=other.line()), Invalid) == "key_mismatch"
    assert run(keypairs.list(who)) == []


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, "key_missing"),
        ({"public_key": "x"}, "public_key_unreadable"),
        ({"private_key": Secret("x")}, "private_key_unreadable"),
    ],
)
def test_what_cannot_be_read_is_not_taken_in(keypairs: Keypairs, who: Caller, given: Any, code: str) -> None:
    assert refused(keypairs.import_(who, "x", **given), Invalid) == code
    assert run(keypairs.list(who)) == []


@pytest.mark.parametrize("name", ["", "a b", "../x", "-/", "ä", "a\n", "a" * 256, "a.b", "a/b", "\u202ea"])
def test_a_name_that_could_be_something_else_is_refused(keypairs: Keypairs, who: Caller, name: str) -> None:
    assert refused(keypairs.create(who, name), Invalid) == "name_unusable"
    public, _ = keyfiles.generate("ed25519")
    assert refused(keypairs.import_(who, name, public_key=public.line()), Invalid) == "name_unusable"


def test_an_unknown_type_or_scope_is_refused(keypairs: Keypairs, who: Caller) -> None:
    unknown: Any = "dsa"
    assert refused(keypairs.create(who, "x", unknown), Invalid) == "key_type_unknown"
    assert refused(keypairs.create(who, "x", scope=unknown), Invalid) == "scope_unknown"


def test_a_name_is_taken_once(keypairs: Keypairs, who: Caller) -> None:
    run(keypairs.create(who, "laptop"))
    assert refused(keypairs.create(who, "laptop"), AlreadyExists) == "keypair_exists"


def test_somebody_elses_private_key_pair_is_not_found(keypairs: Keypairs, who: Caller, other: Caller) -> None:
    run(keypairs.create(who, "laptop"))
    assert run(keypairs.list(other)) == []
    for work in (keypairs.get, keypairs.export, keypairs.delete):
        assert refused(work(other, "laptop"), NotFound) == "keypair_not_found"
    run(keypairs.create(other, "laptop"))  # a name of their own


def test_an_accounts_key_pair_is_seen_by_all_and_changed_by_administrators(
    keypairs: Keypairs, who: Caller, other: Caller
) -> None:
    keypair, _ = run(keypairs.create(who, "shared", scope="account"))
    assert run(keypairs.get(other, "shared")) == keypair
    for work in (keypairs.export(other, "shared"), keypairs.delete(other, "shared")):
        assert refused(work, NotAllowed) == "administrator_needed"
    run(keypairs.export(who, "shared"))
    run(keypairs.delete(who, "shared"))


def test_an_auditor_only_looks(keypairs: Keypairs, who: Caller) -> None:
    run(keypairs.create(who, "laptop"))
    auditor = replace(who, role="auditor")
    assert [keypair.name for keypair in run(keypairs.list(auditor))] == ["laptop"]
    for work in (keypairs.create(auditor, "x"), keypairs.export(auditor, "laptop"), keypairs.delete(auditor, "laptop"),
                 keypairs.import_(auditor, "x", public_key="y")):  # fmt: skip
        assert refused(work, NotAllowed) == "role_reads_only"


def test_another_tenant_sees_nothing(keypairs: Keypairs, who: Caller) -> None:
    run(keypairs.create(who, "shared", scope="account"))
    stranger = replace(who, tenant_id="f" * 32)
    assert run(keypairs.list(stranger)) == []
    assert refused(keypairs.export(stranger, "shared"), NotFound) == "keypair_not_found"


def test_a_bound_key_pair_is_not_deleted(keypairs: Keypairs, who: Caller, store: Store) -> None:
    keypair, _ = run(keypairs.create(who, "laptop"))
    server = store.add_servers([Server("s1", who.tenant_id, "web-1", "192.0.2.1")])[0]
    bind(store, Binding(server.id, "root", keypair.id, "logged_in", True, "t", now()))
    assert refused(keypairs.delete(who, "laptop"), Conflict) == "already_bound"
    run(keypairs.export(who, "laptop"))


@roots.wherever
def test_what_happened_is_on_record_without_the_secret(keypairs: Keypairs, who: Caller, store: Store) -> None:
    before = store.events(who.tenant_id)[-1].id
    run(keypairs.create(who, "laptop"))
    run(keypairs.export(who, "laptop"))
    run(keypairs.delete(who, "laptop"))
    happened = store.events(who.tenant_id, before)
    kinds = ["keypair_created", "keypair_opened", "keypair_exported", "keypair_deleted"]
    assert [event.kind for event in happened] == kinds
    assert (happened[1].detail["purpose"], happened[1].task_id) == ("export", None)
    assert {event.detail["user_id"] for event in happened} == {who.user_id}


@roots.wherever
@pytest.mark.parametrize("swap", ["sealed", "owner_id", "id"])
def test_rows_swapped_in_the_database_do_not_open(
    keypairs: Keypairs, who: Caller, other: Caller, settings: Settings, swap: str
) -> None:
    run(keypairs.create(who, "mine"))
    run(keypairs.create(other, "theirs"))
    with sqlite3.connect(settings.database) as database:
        database.execute("PRAGMA foreign_keys = OFF")
        if swap == "sealed":
            database.execute("UPDATE keypairs SET sealed = (SELECT sealed FROM keypairs WHERE name = 'mine')")
        elif swap == "owner_id":
            database.execute("UPDATE keypairs SET owner_id = ?", (other.user_id,))
        else:
            database.execute("UPDATE keypairs SET id = 'x' || id")
    database.close()
    moved = {"sealed": (other, "theirs"), "owner_id": (other, "mine"), "id": (who, "mine")}[swap]
    code = "facts_changed" if swap == "owner_id" else "sealed_for_another"
    assert refused(keypairs.export(*moved), Damaged) == code


@roots.wherever
@pytest.mark.parametrize("work", ["create", "import", "export"])
def test_nothing_of_the_stored_form_is_left_in_our_own_hands(
    store: Store, kms: Kms, who: Caller, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    held: list[Secret] = []

    def holding(function: Callable[..., Any], place: int | None) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            held.append(result if place is None else result[place])
            return result

        return call

    read_private = apart.read_private

    async def reading(*arguments: Any, **options: Any) -> Any:
        result = await read_private(*arguments, **options)
        held.append(result[1])
        return result

    keypairs = Keypairs(store, kms)
    text = keyfiles.openssh_private("ed25519", keyfiles.generate("ed25519")[1])
    if work == "export":
        run(keypairs.create(who, "laptop"))
    monkeypatch.setattr(keyfiles, "generate", holding(keyfiles.generate, 1))
    monkeypatch.setattr(apart, "read_private", reading)
    monkeypatch.setattr(Kms, "open_private", holding(Kms.open_private, None))
    if work == "create":
        run(keypairs.create(who, "laptop"))
    elif work == "import":
        run(keypairs.import_(who, "laptop", private_key=text))
    else:
        run(keypairs.export(who, "laptop"))
    assert [secret.open() for secret in held] == [bytes(32)]
