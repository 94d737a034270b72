"""What a run brings on record before it begins, and with what it may go there."""

import asyncio

import pytest

from controller.errors import Unavailable
from controller.kms import Kms
from controller.model import Caller, Credential, Outcome, Secret, Server, Task, now
from controller.run import Runner
from controller.settings import Settings
from controller.store import Store


def task(who: Caller, id: str, login: str) -> Task:
    return Task(id, who.tenant_id, who.user_id, "s1", "web-1", login, "bind", {}, now())


@pytest.mark.parametrize(
    ("login", "password_of", "kept"), [("deploy", None, False), ("alice", None, True), ("deploy", "deploy", True)]
)
def test_only_whose_it_is_is_told_a_password_to_settle_what_is_older(
    store: Store,
    kms: Kms,
    settings: Settings,
    who: Caller,
    monkeypatch: pytest.MonkeyPatch,
    login: str,
    password_of: str | None,
    kept: bool,
) -> None:
    store.add_servers([Server("s1", who.tenant_id, "web-1", "192.0.2.1")])
    store.add_tasks([task(who, "older", login)])
    claimed = store.claim("older", "me", 30)
    assert claimed is not None
    assert store.finish("older", "me", claimed.generation, Outcome("failed", "unknown", "widen", "connection_lost", "gone"))
    runner = Runner(store, kms, settings, "me", None)
    seen: list[tuple[str, Credential | None]] = []

    async def settle(older: Task, given: Credential | None = None) -> bool:
        seen.append((older.id, given))
        return False

    monkeypatch.setattr(runner, "settle", settle)
    given = Credential(password=Secret(b"alice's own word"), password_of=password_of, identity=Secret(b"a key"))
    asyncio.run(runner._settle_before(task(who, "newer", "alice"), given))
    ((older, told),) = seen
    assert (older, told is not None and told.password is not None) == ("older", kept)
    assert told is not None
    assert told.identity is given.identity


def test_what_the_store_refuses_while_servers_are_settled_is_told_as_it_is(
    store: Store, kms: Kms, settings: Settings, who: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever settles ever again passes over a Problem (controller.app.settle), and over nothing else."""
    for number in ("1", "2"):
        store.add_servers([Server(f"s{number}", who.tenant_id, f"web-{number}", "192.0.2.1")])
        given = Task(number, who.tenant_id, who.user_id, f"s{number}", f"web-{number}", "root", "bind", {}, now())
        store.add_tasks([given])
        claimed = store.claim(number, "me", 30)
        assert claimed is not None
        assert store.finish(number, "me", claimed.generation, Outcome("failed", "unknown", "widen", "connection_lost", "gone"))
    runner = Runner(store, kms, settings, "me", None)

    async def settle(older: Task, given: Credential | None = None) -> bool:
        raise Unavailable("store_unusable", "the disk is full")

    monkeypatch.setattr(runner, "settle", settle)
    with pytest.raises(Unavailable, match="the disk is full"):
        asyncio.run(runner.settle_all(lambda task: True))
