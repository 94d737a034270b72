"""A private half comes into custody later, goes under another master key, and goes for good."""

import asyncio
import json
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from controller import keyfiles
from controller.errors import Conflict, Invalid, NotFound, Problem
from controller.kms import Kms, envelope
from controller.kms.keys import to_be_deleted
from controller.model import Binding, Caller, KeyPair, MasterKey, Server, Task, now
from controller.service.custody import Custody
from controller.service.keypairs import Keypairs
from controller.settings import Settings
from controller.store import Store
from tests import roots
from tests.controller import given
from tests.controller.faces import here

pytestmark = roots.wherever


@pytest.fixture
def keypairs(store: Store, kms: Kms) -> Keypairs:
    return Keypairs(store, kms)


@pytest.fixture
def custody(store: Store, kms: Kms) -> Custody:
    return Custody(store, kms)


@pytest.fixture
def payments(store: Store, kms: Kms, who: Caller) -> MasterKey:
    """A customer master key of the tenant's own."""
    key = MasterKey("0" * 8 + "-0000-4000-8000-" + "0" * 12, who.tenant_id, "payments", now())
    from controller.model import Secret

    return store.add_master_key(key, kms.wrapped(key, Secret(bytearray(range(32)))), who.user_id, 100)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def refused(work: Coroutine[Any, Any, Any], kind: type[Problem]) -> str:
    with pytest.raises(kind) as found:
        run(work)
    return found.value.code


def bound(store: Store, who: Caller, keypair: KeyPair, login: str = "root", server: str = "web-1", **more: Any) -> Server:
    found = {each.name: each for each in store.servers(who.tenant_id)}.get(server)
    if found is None:
        found = store.add_servers([Server(server, who.tenant_id, server, "192.0.2.1", password_login="off")])[0]
    given.bind(store, Binding(found.id, login, keypair.id, "logged_in", True, "t", now()))
    return found


def test_a_key_pair_that_was_given_out_is_taken_into_custody_later(
    keypairs: Keypairs, custody: Custody, who: Caller, store: Store
) -> None:
    keypair, text = run(keypairs.create(who, "ops", managed=False))
    kept = run(custody.manage(who, "ops", text))
    assert (kept.managed, kept.public_key, kept.version) == (True, keypair.public_key, 2)
    assert keyfiles.read_private(run(keypairs.export(who, "ops")))[0].fingerprint == keypair.fingerprint
    assert refused(custody.manage(who, "ops", text), Conflict) == "already_managed"
    assert [event.kind for event in store.events(who.tenant_id)][-3:] == ["keypair_managed", "keypair_opened", "keypair_exported"]


def test_another_key_pair_s_private_half_is_refused(keypairs: Keypairs, custody: Custody, who: Caller) -> None:
    run(keypairs.create(who, "ops", managed=False))
    _, other = run(keypairs.create(who, "other", managed=False))
    assert refused(custody.manage(who, "ops", other), Invalid) == "key_mismatch"
    assert not run(keypairs.get(who, "ops")).managed


def test_a_private_half_that_is_cleared_is_gone_and_its_ciphertext_too(
    keypairs: Keypairs, custody: Custody, who: Caller, store: Store, settings: Settings
) -> None:
    keypair, _ = run(keypairs.create(who, "ops"))
    text = run(keypairs.export(who, "ops"))
    record = store.sealed_private(keypair.id).record
    cleared = run(custody.clear(who, "ops"))
    assert (cleared.managed, cleared.master_key_id, cleared.public_key) == (False, None, keypair.public_key)
    assert refused(keypairs.export(who, "ops"), NotFound) == "private_key_not_kept"
    assert refused(custody.clear(who, "ops"), NotFound) == "private_key_not_kept"
    for file in (settings.database, settings.database.with_name("kps.db-wal")):
        assert record[-40:] not in file.read_bytes()
    # And it may come back, as another version: what was sealed before is not taken for it.
    assert run(custody.manage(who, "ops", text)).version == 2
    with sqlite3.connect(settings.database) as database:
        database.execute("UPDATE keypairs SET sealed = ?", (record,))
    database.close()
    with pytest.raises(Problem) as old:
        run(keypairs.export(who, "ops"))
    assert old.value.code == "secret_version_old"


@pytest.mark.parametrize("password_login", ["off", "unknown", "on"])
def test_the_only_proved_way_in_is_not_cleared_unless_that_is_said(
    keypairs: Keypairs, custody: Custody, who: Caller, store: Store, settings: Settings, password_login: str
) -> None:
    keypair, _ = run(keypairs.create(who, "ops"))
    bound(store, who, keypair, "deploy")
    with sqlite3.connect(settings.database) as database:
        database.execute("UPDATE servers SET password_login = ?", (password_login,))
    database.close()
    if password_login == "on":
        run(custody.clear(who, "ops"))
        return
    with pytest.raises(Conflict) as found:
        run(custody.clear(who, "ops"))
    assert found.value.code == "only_way_in"
    assert "deploy@web-1" in found.value.message
    assert run(keypairs.get(who, "ops")).managed
    run(custody.clear(who, "ops", even_if_only_way_in=True))
    assert store.events(who.tenant_id)[-1].detail["even_if_only_way_in"] is True
    assert store.bindings(who.tenant_id) != []


def test_root_s_other_key_pair_is_a_way_in_until_it_is_cleared_too(
    keypairs: Keypairs, custody: Custody, who: Caller, store: Store
) -> None:
    ops, _ = run(keypairs.create(who, "ops"))
    root, _ = run(keypairs.create(who, "root"))
    bound(store, who, ops, "deploy")
    bound(store, who, root, "root")
    run(custody.clear(who, "ops"))
    assert refused(custody.clear(who, "root"), Conflict) == "only_way_in"


def test_what_a_task_works_with_is_not_cleared(keypairs: Keypairs, custody: Custody, who: Caller, store: Store) -> None:
    keypair, _ = run(keypairs.create(who, "ops"))
    task = given.task(store, who)
    store.cancel(who.tenant_id, task.id, "")
    at_work = Task("t2", who.tenant_id, who.user_id, task.server_id, "web-1", "root", "bind", {"keypair_id": keypair.id}, now())
    store.add_tasks([at_work])
    assert refused(custody.clear(who, "ops"), Conflict) == "keypair_busy"


def test_a_move_wraps_the_data_key_anew_and_leaves_the_ciphertext(
    keypairs: Keypairs, custody: Custody, who: Caller, store: Store, payments: MasterKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    keypair, _ = run(keypairs.create(who, "ops"))
    before = envelope.record(store.sealed_private(keypair.id))
    with monkeypatch.context() as patched:
        patched.setattr(Kms, "open", lambda *_: pytest.fail("a private half was opened"))
        moved = run(custody.move(who, "ops", "payments"))
    after = envelope.record(store.sealed_private(keypair.id))
    assert (moved.master_key_id, after.master_key_id) == (payments.id, payments.id)
    assert (after.nonce, after.ciphertext) == (before.nonce, before.ciphertext)
    assert after.wrapped_key != before.wrapped_key
    assert [each.id for each in store.sealed_under(payments.id)] == [keypair.id]
    event = store.events(who.tenant_id)[-1]
    assert (event.kind, event.detail["before"]) == ("keypair_moved", keypair.master_key_id)
    run(keypairs.export(who, "ops"))
    assert refused(custody.move(who, "ops", "nowhere"), NotFound) == "master_key_not_found"


def test_a_key_pair_is_made_and_taken_in_under_a_master_key_of_choice(
    keypairs: Keypairs, custody: Custody, who: Caller, store: Store, payments: MasterKey
) -> None:
    made, _ = run(keypairs.create(who, "made", master_key="payments"))
    _, text = run(keypairs.create(who, "loose", managed=False))
    run(keypairs.delete(who, "loose"))
    taken = run(keypairs.import_(who, "taken", private_key=text, master_key=payments.id))
    _, text = run(keypairs.create(who, "later", managed=False))
    later = run(custody.manage(who, "later", text, master_key="payments"))
    assert {each.master_key_id for each in (made, taken, later)} == {payments.id}
    assert {each.name for each in store.sealed_under(payments.id)} == {"made", "taken", "later"}
    for name in ("made", "taken", "later"):
        run(keypairs.export(who, name))
    assert refused(keypairs.create(who, "no", master_key="nowhere"), NotFound) == "master_key_not_found"
    # An upgrade seals anew, and stays under it.
    assert run(keypairs.upgrade(who, "made")).master_key_id == payments.id


@pytest.mark.parametrize("how", ["create", "manage", "move", "upgrade"])
def test_what_is_sealed_while_its_master_key_is_taken_away_is_not_kept(
    keypairs: Keypairs,
    custody: Custody,
    who: Caller,
    store: Store,
    payments: MasterKey,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """Else it would be lost with the key, and nobody would have been asked whose only way in it is."""
    loose, text = run(keypairs.create(who, "loose", managed=False))
    kept, _ = run(keypairs.create(who, "kept", master_key="payments" if how == "upgrade" else None))
    verb = "rewrap" if how == "move" else "seal_private"
    as_ever = getattr(Kms, verb)

    def meanwhile(*given: Any) -> Any:
        sealed = as_ever(*given)
        store.change_master_key(payments.id, to_be_deleted(7, now()), "master_key_deletion_scheduled", who.user_id)
        return sealed

    monkeypatch.setattr(Kms, verb, meanwhile)
    work = {
        "create": lambda: keypairs.create(who, "new", master_key="payments"),
        "manage": lambda: custody.manage(who, "loose", text, master_key="payments"),
        "move": lambda: custody.move(who, "kept", "payments"),
        "upgrade": lambda: keypairs.upgrade(who, "kept"),
    }[how]
    before = run(keypairs.list(who))
    assert refused(work(), Conflict) == "master_key_changed"
    assert run(keypairs.list(who)) == before == [kept, loose]
    if how != "upgrade":
        run(keypairs.export(who, "kept"))


def test_a_key_pair_that_is_deleted_leaves_no_ciphertext(
    keypairs: Keypairs, who: Caller, store: Store, settings: Settings
) -> None:
    keypair, _ = run(keypairs.create(who, "ops"))
    record = store.sealed_private(keypair.id).record
    run(keypairs.delete(who, "ops"))
    for file in (settings.database, settings.database.with_name("kps.db-wal")):
        assert record[-40:] not in file.read_bytes()


# -- as commands


def kps(settings: Settings, *words: str, ends: int = 0, stdin: str | None = None) -> Any:
    result = here(settings.home, *words, "--json", stdin=stdin)
    assert result.exit_code == ends, result.output
    return json.loads(result.stdout if ends == 0 else result.stderr)


def test_the_commands(settings: Settings, made: Any, tmp_path: Path) -> None:
    out = tmp_path / "ops"
    loose = kps(settings, "keypair", "create", "ops", "--unmanaged", "--out", str(out))
    assert (loose["managed"], loose["master_key_id"]) == (False, None)
    kept = kps(settings, "keypair", "manage", "ops", "--private-key", str(out))
    assert kept["managed"]
    moved = kps(settings, "keypair", "move", "ops", "--master-key", kept["master_key_id"])
    assert moved["master_key_id"] == kept["master_key_id"]
    error = kps(settings, "keypair", "manage", "ops", "--private-key", str(out), ends=4)["error"]
    assert error["code"] == "already_managed"
    assert not kps(settings, "keypair", "clear", "ops")["managed"]
    kps(settings, "keypair", "create", "other", "--unmanaged", "--out", str(tmp_path / "other"))
    error = kps(settings, "keypair", "manage", "ops", "--private-key", str(tmp_path / "other"), ends=2)["error"]
    assert error["code"] == "key_mismatch"
    assert error["message"].startswith(str(tmp_path / "other"))
