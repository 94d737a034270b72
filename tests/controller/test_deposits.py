"""What is given with an order: sealed for it alone, there for who goes on with it, and gone at its end."""

import asyncio
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller import deposits
from controller.deposits import Deposits, Order
from controller.kms import DEFAULT_ALIAS, Kms
from controller.model import (
    Caller,
    Credential,
    Outcome,
    Rollout,
    RolloutServer,
    Sealed,
    SealedCredential,
    Secret,
    Server,
    Task,
    now,
)
from controller.rollout.strategy import Strategy
from controller.run import Runner
from controller.service import backup
from controller.service.kms.lives import MasterKeys
from controller.settings import Settings
from controller.store import Store
from kpsagent.errors import Refused
from tests.controller import secret_search

GIVEN = Credential(password=Secret("p\u00e4ss w\x00rd of a server"), password_of="root")
GOOD = Outcome("succeeded", "as_asked")
FULL = Outcome("failed", "as_before", cause="disk_full", message="full")
AWAY = Outcome("failed", "as_before", cause="connection_refused", message="away")


@pytest.fixture
def sealing(kms: Kms) -> Deposits:
    return Deposits(kms, 24)


@pytest.fixture
def server(store: Store, who: Caller) -> Server:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDaclKEGNhR/jEFxpeDpma+HzpS9VwXrTcQ/+cwPRCc1"
    return store.add_servers([Server("s", who.tenant_id, "web-1", "192.0.2.1", host_key=key)])[0]


def a_task(server: Server, who: Caller, id: str, **more: Any) -> Task:
    given = {"request": {"given": ["password"]}, "operation": "unbind"} | more
    return Task(id, who.tenant_id, who.user_id, server.id, server.name, "root", created_at=now(), **given)


def kept(store: Store) -> set[str]:
    with closing(sqlite3.connect(store._path)) as connection:
        return {owner_id for (owner_id,) in connection.execute("SELECT owner_id FROM credentials")}


def add(store: Store, sealing: Deposits, task: Task, hours: float | None = None, given: Credential = GIVEN) -> SealedCredential:
    (sealed,) = sealing.sealed([(Order.of_task(task), given)], sealing.until(hours))
    store.add_tasks([task], "me", 30, [sealed])
    return sealed


def needed(store: Store, kms: Kms, task: Task) -> Refused:
    with pytest.raises(Refused) as refused:
        deposits.opened(store, kms, task)
    assert refused.value.cause == "credential_needed"
    return refused.value


def put(store: Store, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(store._path)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def test_all_of_it_comes_back_and_its_opening_is_on_record(
    store: Store, kms: Kms, sealing: Deposits, who: Caller, server: Server
) -> None:
    whole = Credential(Secret(b"\x00\xff"), "root", Secret("key\nfile"), Secret(""), "/run/agent", "SHA256:x", "cert \udc80")
    for id, given in (("all", whole), ("some", Credential(identity=Secret("k"))), ("none", Credential())):
        task = a_task(server, who, id)
        add(store, sealing, task, given=given)
        assert deposits.opened(store, kms, task) == given
        told = [event for event in store.events(who.tenant_id, 0) if event.kind == "credential_opened"][-1]
        assert (told.task_id, told.server_id) == (id, server.id)


def test_it_opens_for_its_own_order_alone(store: Store, kms: Kms, sealing: Deposits, who: Caller, server: Server) -> None:
    task, other = a_task(server, who, "mine"), a_task(server, who, "others")
    mine, theirs = add(store, sealing, task), add(store, sealing, other)
    for changed in ({"login": "deploy"}, {"operation": "bind"}, {"tenant_id": "0" * 32}):
        assert needed(store, kms, replace(task, **changed)).evidence["custody"] == "facts_changed"
    put(store, "UPDATE credentials SET sealed = ? WHERE owner_id = 'mine'", theirs.sealed.record)
    assert needed(store, kms, task).evidence["custody"] == "sealed_for_another"
    put(
        store,
        "UPDATE credentials SET sealed = ?, expires_at = '2999-01-01 00:00:00.000000' WHERE owner_id = 'mine'",
        mine.sealed.record,
    )
    assert needed(store, kms, task).evidence["custody"] == "facts_changed"
    put(store, "DELETE FROM credentials WHERE owner_id = 'mine'")
    assert "not kept any more" in needed(store, kms, task).message
    assert deposits.opened(store, kms, other) == GIVEN


def test_it_expires(store: Store, kms: Kms, sealing: Deposits, who: Caller, server: Server) -> None:
    task = a_task(server, who, "t")
    add(store, sealing, task, hours=-0.1)
    assert "expired at" in needed(store, kms, task).message
    assert (store.drop_credentials(), kept(store)) == (1, set())


def test_a_rotated_master_key_opens_it_and_one_that_is_away_does_not(
    store: Store, kms: Kms, sealing: Deposits, who: Caller, server: Server
) -> None:
    task = a_task(server, who, "t")
    add(store, sealing, task)
    keys = MasterKeys(store, kms)
    store.change_master_key(
        kms.key(who.tenant_id).id, lambda key: replace(key, state="disabled"), "master_key_disabled", who.user_id
    )
    assert needed(store, kms, task).evidence["custody"] == "master_key_disabled"
    # What is given now is not refused for that; it lives in memory.
    assert sealing.sealed([(Order.of_task(task), GIVEN)], sealing.until()) == []
    store.change_master_key(
        kms.key(who.tenant_id).id, lambda key: replace(key, state="enabled"), "master_key_enabled", who.user_id
    )
    key = kms.key(who.tenant_id, DEFAULT_ALIAS)
    keys._rotate(key, lambda each: replace(each, version=each.version + 1), who.user_id)
    assert deposits.opened(store, kms, task) == GIVEN


@pytest.mark.parametrize("outcome", [GOOD, FULL, AWAY, replace(GOOD, status="unchanged")])
def test_it_goes_with_its_task(store: Store, sealing: Deposits, who: Caller, server: Server, outcome: Outcome) -> None:
    add(store, sealing, a_task(server, who, "t"))
    task = store.claim("t", "me", 30)
    assert task is not None
    assert kept(store) == {"t"}
    assert store.finish("t", "me", task.generation, outcome)
    assert kept(store) == set()


def test_it_goes_with_a_task_that_is_cancelled_or_never_begun(
    store: Store, sealing: Deposits, who: Caller, server: Server
) -> None:
    for id in ("cancelled", "abandoned"):
        add(store, sealing, a_task(server, who, id))
    store.cancel(who.tenant_id, "cancelled", "")
    assert kept(store) == {"abandoned"}
    store.abandon("me")
    assert kept(store) == set()


# -- in a rollout


@pytest.fixture
def rollout(store: Store, sealing: Deposits, who: Caller, server: Server) -> Rollout:
    made = Rollout("r", who.tenant_id, who.user_id, "unbind", {}, Strategy(tries=2).told(), 1, False, now())
    member = RolloutServer("r", 0, server.id, server.name, "root", given={"given": ["password"]})
    order = Order("r", "rollout", who.tenant_id, server.id, "root", "unbind")
    store.add_rollout(made, [member], sealing.sealed([(order, GIVEN)], sealing.until()))
    return made


def begin(store: Store, server: Server, who: Caller, id: str, last: str | None = None) -> Task:
    store.rollout_step("r", [a_task(server, who, id, rollout_id="r", retry_of=last)], {}, "me", 30)
    task = store.claim(id, "me", 30)
    assert task is not None
    return task


def end(store: Store, task: Task, outcome: Outcome) -> None:
    assert store.finish(task.id, "me", task.generation, outcome)


def test_what_is_tried_again_keeps_it_until_the_last_try(
    store: Store, kms: Kms, rollout: Rollout, server: Server, who: Caller
) -> None:
    first = begin(store, server, who, "first")
    end(store, first, AWAY)
    second = begin(store, server, who, "second", "first")
    assert deposits.opened(store, kms, second) == GIVEN
    end(store, second, AWAY)
    assert kept(store) == set()


@pytest.mark.parametrize("outcome", [GOOD, FULL, Outcome("failed", "as_before", cause="wrong_password")])
def test_what_is_not_tried_again_does_not(store: Store, rollout: Rollout, server: Server, who: Caller, outcome: Outcome) -> None:
    end(store, begin(store, server, who, "first"), outcome)
    assert kept(store) == set()


def test_a_rollout_that_waits_keeps_it_and_one_that_is_over_does_not(
    store: Store, rollout: Rollout, server: Server, who: Caller
) -> None:
    store.change_rollout(who.tenant_id, "r", "paused", "", of=["running"])
    assert kept(store) == {"r"}
    store.change_rollout(who.tenant_id, "r", "running", "", of=["paused"])
    task = begin(store, server, who, "first")
    store.change_rollout(who.tenant_id, "r", "cancelled", "", of=["running"])
    assert kept(store) == {"r"}  # what is under way comes to its end
    end(store, task, AWAY)
    assert kept(store) == set()


@pytest.mark.parametrize("state", ["cancelled", "finished"])
def test_what_was_never_begun_goes_with_the_rollout(store: Store, rollout: Rollout, who: Caller, state: Any) -> None:
    store.change_rollout(who.tenant_id, "r", state, "", of=["running"])
    assert kept(store) == set()


def test_it_goes_with_the_server_and_with_what_a_restore_leaves_behind(
    store: Store, sealing: Deposits, rollout: Rollout, server: Server, who: Caller
) -> None:
    store.remove_server(server.id, who.user_id)
    assert kept(store) == set()
    order = Order("r", "rollout", who.tenant_id, server.id, "root", "unbind")
    store.rollout_given(
        who.tenant_id, "r", {server.id: {"given": ["password"]}}, sealing.sealed([(order, GIVEN)], sealing.until())
    )
    assert kept(store) == {"r"}
    store.begin_anew(who.tenant_id, {})
    assert kept(store) == set()


def test_what_a_process_does_not_know_to_be_a_servers_last_task_it_does_not_begin_anew(
    store: Store, rollout: Rollout, server: Server, who: Caller
) -> None:
    from controller.errors import Conflict

    end(store, begin(store, server, who, "first"), AWAY)
    with pytest.raises(Conflict) as stale:
        store.rollout_step("r", [a_task(server, who, "woken", rollout_id="r")], {}, "woken", 30)
    assert stale.value.code == "rollout_went_on"
    assert [task.id for task in store.tasks(who.tenant_id)] == ["first"]


# -- on the disk


def test_what_is_erased_is_nowhere_in_the_home(
    store: Store, sealing: Deposits, who: Caller, server: Server, settings: Settings
) -> None:
    large = Credential(identity=Secret("k" * 20_000))  # of several pages
    records = [
        add(store, sealing, a_task(server, who, id), given=given).sealed.record for id, given in (("a", GIVEN), ("b", large))
    ]
    home = [settings.database, settings.database.with_name("kps.db-wal")]
    assert any(record[-40:] in path.read_bytes() for path in home for record in records)
    assert secret_search.in_files(secret_search.text("password", GIVEN.password.open().decode()), home) == []  # type: ignore[union-attr]
    for id in ("a", "b"):
        store.cancel(who.tenant_id, id, "")
    store.drop_credentials()
    assert [path.name for path in home for record in records if record[-40:] in path.read_bytes()] == []


def test_no_backup_has_it(
    store: Store, sealing: Deposits, who: Caller, server: Server, settings: Settings, tmp_path: Path
) -> None:
    record = add(store, sealing, a_task(server, who, "t")).sealed.record
    out = tmp_path / "a.backup"
    backup.back_up(settings, out, with_root_key=True)
    assert record[-40:] not in out.read_bytes()
    with tarfile.open(out) as archive:
        assert "kps.db" in archive.getnames()
    assert kept(store) == {"t"}  # the home itself goes on
    assert backup.verify(out).unopenable == {}


# -- at work


def run(store: Store, kms: Kms, settings: Settings, id: str) -> Task:
    """Have a controller that comes later run a task."""

    async def story() -> None:
        runner = Runner(store, kms, settings, "later", None)
        task = store.claim(id, "later", 30)
        assert task is not None
        await runner.run(task, None)

    asyncio.run(story())
    (found,) = store.tasks(None, ids=[id])
    return found


@pytest.mark.parametrize("operation", ["check", "password-login-disable"])
def test_a_task_whose_credential_is_lost_needs_it_anew(
    store: Store, kms: Kms, sealing: Deposits, who: Caller, server: Server, settings: Settings, operation: Any
) -> None:
    add(store, sealing, a_task(server, who, "t", operation=operation), hours=-1)
    found = run(store, kms, settings, "t")
    assert (found.status, found.cause, found.server_state, found.retryable) == ("failed", "credential_needed", "as_before", True)
    assert found.message.startswith("web-1: the password given with the order expired at")
    assert kept(store) == set()


def test_a_record_that_is_none_is_told(store: Store, kms: Kms, who: Caller, server: Server, settings: Settings) -> None:
    broken = SealedCredential("t", server.id, who.tenant_id, Sealed(b"none"), now() + timedelta(hours=1))
    store.add_tasks([a_task(server, who, "t", operation="password-login-disable")], "me", 30, [broken])
    assert run(store, kms, settings, "t").evidence["custody"] == "record_unreadable"


def test_what_somebody_has_done_by_hand_needs_its_password_no_more(
    store: Store, sealing: Deposits, rollout: Rollout, server: Server, who: Caller
) -> None:
    end(store, begin(store, server, who, "first"), AWAY)
    store.change_rollout(who.tenant_id, "r", "paused", "", of=["running"])
    assert kept(store) != set()
    store.add_tasks([a_task(server, who, "hand", rollout_id="r", retry_of="first", request={})], "me", 30)
    claimed = store.claim("hand", "me", 30)
    assert claimed is not None
    end(store, claimed, GOOD)
    assert kept(store) == set()


def test_what_is_given_for_a_server_that_is_as_asked_is_not_kept(
    store: Store, sealing: Deposits, rollout: Rollout, server: Server, who: Caller
) -> None:
    end(store, begin(store, server, who, "first"), GOOD)
    store.change_rollout(who.tenant_id, "r", "paused", "", of=["running"])
    order = Order("r", "rollout", who.tenant_id, server.id, "root", "unbind")
    sealed = sealing.sealed([(order, GIVEN)], sealing.until(720))
    store.rollout_given(who.tenant_id, "r", {server.id: {"given": ["password"]}}, sealed)
    assert kept(store) == set()
