"""What every store does, whatever keeps it: SQLite and PostgreSQL."""

import multiprocessing
import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from controller.errors import AlreadyExists, Conflict, NotFound, Unavailable
from controller.events import KINDS
from controller.model import (
    FINAL,
    Binding,
    BoundKey,
    Caller,
    EndedTask,
    KeyPair,
    MasterKey,
    MasterKeyVersion,
    Outcome,
    Rollout,
    Sealed,
    Server,
    ServerNotes,
    Task,
)
from controller.store import Store, engine, tables
from tests.controller import given

START = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
spawn = multiprocessing.get_context("spawn")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/kps.db" if request.param == "sqlite" else str(request.getfixturevalue("database"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[Store]:
    store = Store(url, clock)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def who(store: Store) -> Caller:
    made = Caller("a" * 32, "b" * 32, "c" * 32, "administrator")
    return store.first_tenant(made, "home", "administrator", "A" * 20, Sealed(b"sealed"))[0]


@pytest.fixture
def server(store: Store, who: Caller) -> Server:
    return store.add_servers([a_server(who)])[0]


@pytest.fixture
def keypair(store: Store, who: Caller) -> KeyPair:
    return store.add_keypair(a_keypair(who), Sealed(b"sealed"))


def a_server(who: Caller, name: str = "web-1", **more: Any) -> Server:
    return Server(str(uuid.uuid4()), who.tenant_id, name, "192.0.2.1", **more)


def a_keypair(who: Caller, name: str = "laptop", **more: Any) -> KeyPair:
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()), "tenant_id": who.tenant_id, "owner_id": who.user_id, "scope": "private", "name": name,
        "type": "ed25519", "managed": True, "public_key": "ssh-ed25519 AAAA laptop", "fingerprint": "SHA256:x",
        "fingerprint_md5": "aa:bb", "created_at": START,
    }  # fmt: skip
    return KeyPair(**values | more)


def a_task(server: Server, **more: Any) -> Task:
    values: dict[str, Any] = {
        "id": str(uuid.uuid4()), "tenant_id": server.tenant_id, "user_id": "c" * 32, "server_id": server.id,
        "server_name": server.name, "login": "root", "operation": "bind", "request": {"keypair": "laptop"},
        "created_at": START,
    }  # fmt: skip
    return Task(**values | more)


def a_binding(server: Server, keypair: KeyPair, login: str = "root", **more: Any) -> Binding:
    values: dict[str, Any] = {"proof": "logged_in", "closed_password_login": True, "task_id": "t", "created_at": START}
    return Binding(server.id, login, keypair.id, **values | more)


def running(store: Store, server: Server, owner: str = "me", lease_seconds: float = 30) -> Task:
    [task] = store.add_tasks([a_task(server)])
    claimed = store.claim(task.id, owner, lease_seconds)
    assert claimed is not None
    return claimed


def bound(store: Store, binding: Binding) -> Binding:
    """Have a task bind a key pair, as every binding comes about."""
    task = running(store, store.server_by_id(binding.server_id))
    assert store.finish(task.id, "me", task.generation, Outcome("succeeded", "as_asked"), binding=binding)
    return binding


def unbound(store: Store, server: Server, login: str) -> None:
    task = running(store, server)
    assert store.finish(task.id, "me", task.generation, Outcome("succeeded", "as_asked"), unbind=(server.id, login))


def noted(store: Store, server: Server, **notes: Any) -> Server:
    """Have a task record what it saw of a server; its generation is then one higher."""
    task = running(store, server)
    assert store.finish(task.id, "me", task.generation, Outcome("succeeded", "as_asked"), notes=notes)  # type: ignore[arg-type]
    return store.server_by_id(server.id)


# -- the home


def test_a_home_without_an_owner_says_so(store: Store) -> None:
    with pytest.raises(Unavailable) as refused:
        store.caller_by_local_home()
    assert refused.value.code == "not_initialised"


def test_a_home_without_a_database_says_so_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="kps init"):
        Store(f"sqlite:///{tmp_path}/none.db").local_owner()
    assert not list(tmp_path.iterdir())


def test_the_first_tenant_is_made_once(store: Store, who: Caller) -> None:
    other = Caller("d" * 32, "e" * 32, "f" * 32, "administrator")
    assert store.first_tenant(other, "home", "x", "B" * 20, Sealed(b"other")) == (who, "A" * 20)
    assert store.caller_by_local_home() == who
    assert store.access_key("A" * 20) == (who, Sealed(b"sealed"))
    with pytest.raises(NotFound):
        store.access_key("B" * 20)


def test_migrating_again_changes_nothing(store: Store, server: Server, who: Caller) -> None:
    store.migrate()
    assert store.servers(who.tenant_id) == [server]


# -- master keys


def a_version(key: MasterKey, wrapped: bytes = b"wrapped") -> MasterKeyVersion:
    return MasterKeyVersion(key.id, key.tenant_id, key.version, wrapped, "check", START)


def test_of_two_first_default_keys_one_is_kept(store: Store, who: Caller) -> None:
    first, second = (MasterKey(str(uuid.uuid4()), who.tenant_id, "kps/default", START, default=True) for _ in range(2))
    assert store.master_key(who.tenant_id, "kps/default") is None
    assert store.add_default_key(first, a_version(first)) == first
    assert store.add_default_key(second, a_version(second, b"other")) == first
    assert store.master_key(who.tenant_id, "kps/default") == first
    assert store.master_key_version(first.id, 1) == a_version(first)
    assert store.master_key_version(first.id, 2) is None
    assert store.master_key_version(second.id, 1) is None


def a_master_key(who: Caller, alias: str = "orders", **more: Any) -> MasterKey:
    return MasterKey(str(uuid.uuid4()), who.tenant_id, alias, START, **more)


def added(store: Store, who: Caller, alias: str = "orders", most: int = 100) -> MasterKey:
    key = a_master_key(who, alias)
    return store.add_master_key(key, a_version(key), who.user_id, most)


def test_a_master_key_comes_back_by_each_of_its_names(store: Store, who: Caller) -> None:
    key = added(store, who)
    store.add_key_alias(key, "alias/current", who.user_id, 50)
    for name in (key.id, "orders", "alias/current"):
        assert store.master_key(who.tenant_id, name) == key
        assert store.master_key("2" * 32, name) is None
    assert store.master_key_by_id(key.id) == key


def test_a_name_and_the_quota_hold_for_those_who_add_at_once(store: Store, who: Caller) -> None:
    with ThreadPoolExecutor(8) as several:
        done = [several.submit(added, store, who, "orders") for _ in range(8)]
    assert sorted(type(each.exception()).__name__ for each in done) == ["AlreadyExists"] * 7 + ["NoneType"]
    with ThreadPoolExecutor(8) as several:
        done = [several.submit(added, store, who, f"key-{number}", 5) for number in range(8)]
    assert sorted(type(each.exception()).__name__ for each in done) == ["Conflict"] * 4 + ["NoneType"] * 4
    assert store.own_master_keys(who.tenant_id) == 5


def test_a_step_that_is_refused_changes_nothing_and_is_no_event(store: Store, who: Caller) -> None:
    key = added(store, who)
    before = len(store.events(who.tenant_id))

    def refuse(now: MasterKey) -> MasterKey:
        raise Conflict("test", "no")

    for step in (store.change_master_key, store.drop_material):
        with pytest.raises(Conflict):
            step(key.id, refuse, "master_key_disabled", who.user_id)
    assert store.master_key_by_id(key.id) == key
    assert store.master_key_versions(key.id) == [a_version(key)]
    assert len(store.events(who.tenant_id)) == before


def test_versions_made_at_once_follow_each_other(store: Store, who: Caller) -> None:
    key = added(store, who)

    def rotate(_: int) -> None:
        seen = store.master_key_by_id(key.id)
        assert seen is not None
        after = replace(seen, version=seen.version + 1)
        store.change_master_key(
            key.id, lambda now: replace(now, version=now.version + 1), "master_key_rotated", None, version=a_version(after)
        )

    with ThreadPoolExecutor(8) as several:
        done = [several.submit(rotate, number) for number in range(8)]
    good = [each for each in done if each.exception() is None]
    assert {type(each.exception()) for each in done} <= {type(None), Conflict}
    assert [each.version for each in store.master_key_versions(key.id)] == list(range(1, 2 + len(good)))


def test_what_is_destroyed_stays_on_record_without_what_belonged_to_it(store: Store, who: Caller) -> None:
    key = added(store, who)
    store.tag_key(key, {"stage": "prod"}, who.user_id, 20)
    store.add_key_alias(key, "alias/current", who.user_id, 50)
    store.drop_material(key.id, lambda now: replace(now, state="destroyed"), "master_key_destroyed", None)
    assert store.checkpoint()
    assert store.master_key(who.tenant_id, "orders") is store.master_key(who.tenant_id, "alias/current") is None
    gone = store.master_key_by_id(key.id)
    assert gone is not None
    assert gone.state == "destroyed"
    assert (store.master_key_versions(key.id), store.key_tags(key.id), store.key_aliases(who.tenant_id)) == ([], {}, [])
    assert added(store, who).alias == "orders"


# -- servers


def test_a_server_comes_back_as_it_was_put_in(store: Store, who: Caller) -> None:
    server = a_server(
        who, port=2222, login="admin", labels={"role": "web"}, host_key="ssh-ed25519 AAAA", trust_on_first_use=True,
        password_login="on", boot_id="b", generation=7, after_reset={"remove": ["k"]},
    )  # fmt: skip
    store.add_servers([server])[0]
    assert store.server(who.tenant_id, "web-1") == server
    assert store.server(who.tenant_id, server.id) == server
    assert store.server_by_id(server.id) == server


def test_two_servers_do_not_share_a_name(store: Store, who: Caller, server: Server) -> None:
    with pytest.raises(AlreadyExists):
        store.add_servers([a_server(who)])[0]
    assert store.servers(who.tenant_id) == [server]


def test_another_tenant_sees_no_server(store: Store, server: Server) -> None:
    assert store.servers("z" * 32) == []
    with pytest.raises(NotFound):
        store.server("z" * 32, server.id)


def test_notes_change_what_they_name_and_nothing_else(store: Store, who: Caller, server: Server) -> None:
    first = noted(store, server, password_login="off", after_reset={"a": 1})
    assert first == replace(server, generation=1, password_login="off", after_reset={"a": 1})
    assert noted(store, server, after_reset=None) == replace(server, generation=2, password_login="off")


def test_a_pinned_host_key_is_never_replaced(store: Store, who: Caller, server: Server) -> None:
    assert store.pin_host_key(server.id, "ssh-ed25519 AAAA").host_key == "ssh-ed25519 AAAA"
    store.pin_host_key(server.id, "ssh-ed25519 AAAA")
    with pytest.raises(Conflict) as refused:
        store.pin_host_key(server.id, "ssh-ed25519 BBBB")
    assert refused.value.code == "host_key_changed"
    assert store.server(who.tenant_id, "web-1").host_key == "ssh-ed25519 AAAA"
    assert kinds(store, who).count("host_key_pinned") == 1


def test_a_server_with_a_binding_is_removed_only_on_purpose(store: Store, who: Caller, server: Server, keypair: KeyPair) -> None:
    bound(store, a_binding(server, keypair))
    with pytest.raises(Conflict, match="laptop on root"):
        store.remove_server(server.id, who.user_id)
    store.remove_server(server.id, who.user_id, forget_bindings=True)
    assert store.servers(who.tenant_id) == []
    assert store.bindings(who.tenant_id) == []
    assert store.events(who.tenant_id)[-1].detail["forgotten"] == [{"login": "root", "keypair_id": keypair.id}]


def test_a_server_added_again_goes_on_from_the_generation_of_its_address(store: Store, who: Caller, server: Server) -> None:
    for _ in range(3):
        task = running(store, server)
        assert store.finish(task.id, "me", task.generation, Outcome("succeeded", "as_asked"))
    store.remove_server(server.id, who.user_id)
    again, elsewhere = store.add_servers([a_server(who, "renamed"), a_server(who, "web-2", port=2222)])
    assert running(store, again).generation == 4
    assert running(store, elsewhere).generation == 1


def test_a_server_with_a_task_that_has_not_ended_is_not_removed(store: Store, who: Caller, server: Server) -> None:
    task = running(store, server)
    with pytest.raises(Conflict):
        store.remove_server(server.id, who.user_id, forget_bindings=True)
    store.finish(task.id, "me", task.generation, Outcome("succeeded", "as_asked"))
    store.remove_server(server.id, who.user_id)
    assert store.task(who.tenant_id, task.id).server_name == "web-1"


def test_how_a_server_is_reached_changes_and_is_recorded(store: Store, who: Caller, server: Server) -> None:
    jump = store.add_servers([a_server(who, "bastion")])[0]
    (changed,) = store.change_servers([server.id], {"jumps": [jump.id]})
    assert changed == store.server_by_id(server.id) == replace(server, jumps=[jump.id])
    store.change_servers([server.id], {"old_algorithms": ["ssh-rsa"]})
    assert store.server_by_id(server.id).jumps == [jump.id]
    told = [event.detail for event in store.events(who.tenant_id) if event.kind == "server_changed"]
    assert [each["after"]["old_algorithms"] for each in told] == [[], ["ssh-rsa"]]
    assert store.change_servers([server.id], {"jumps": [jump.id]})[0].old_algorithms == ["ssh-rsa"]
    assert len([event for event in store.events(who.tenant_id) if event.kind == "server_changed"]) == 2


def test_who_moves_to_an_address_goes_on_from_the_generation_that_was_seen_there(store: Store, who: Caller) -> None:
    def at(name: str, host: str, generation: int) -> Server:
        return replace(a_server(who, name), host=host, generation=generation)

    gone, moving, left = store.add_servers(
        [at("gone", "192.0.2.1", 70), at("moving", "192.0.2.2", 9), at("left", "192.0.2.3", 80)]
    )
    store.remove_server(gone.id, who.user_id)
    (moved,) = store.change_servers([moving.id], {"host": "192.0.2.1"})
    assert (moved.host, moved.port, moved.generation) == ("192.0.2.1", 22, 70)
    assert store.server_by_id(moving.id) == moved
    # And whoever comes to where one has been.
    store.change_servers([left.id], {"port": 2222})
    (fresh,) = store.add_servers([at("fresh", "192.0.2.3", 0)])
    assert fresh.generation == 80
    # And whoever comes to where another one still is: both may stand for one machine.
    (beside,) = store.change_servers([left.id], {"host": "192.0.2.1", "port": 22})
    (third,) = store.add_servers([at("third", "192.0.2.1", 0)])
    assert (beside.generation, third.generation) == (80, 80)
    (told,) = [
        each.detail for each in store.events(who.tenant_id) if each.server_id == moving.id and each.kind == "server_changed"
    ]
    assert (told["before"]["host"], told["after"]["host"]) == ("192.0.2.2", "192.0.2.1")


def test_servers_change_all_or_none(store: Store, who: Caller) -> None:
    near, far = store.add_servers([a_server(who, "near"), a_server(who, "far")])
    with pytest.raises(NotFound):
        store.change_servers([near.id, "0" * 36], {"port": 2222})
    with pytest.raises(Conflict):  # near would be reached through itself
        store.change_servers([far.id, near.id], {"jumps": [near.id]})
    assert [store.server_by_id(each.id) for each in (near, far)] == [near, far]


def test_no_way_leads_in_a_circle(store: Store, who: Caller) -> None:
    near, middle, far = (a_server(who, name) for name in ("near", "middle", "far"))
    store.add_servers([near, replace(middle, jumps=[near.id]), replace(far, jumps=[middle.id])])
    for jumps in ([far.id], [middle.id], [near.id]):
        with pytest.raises(Conflict) as refused:
            store.change_servers([near.id], {"jumps": jumps})
        assert refused.value.code == "jump_loop"
    assert store.server_by_id(near.id).jumps == []
    with pytest.raises(Conflict) as refused:
        store.change_servers([far.id], {"jumps": [middle.id, near.id]})  # near comes before middle already
    assert refused.value.code == "jump_loop"


def test_a_jump_server_in_use_is_not_removed(store: Store, who: Caller, server: Server) -> None:
    behind = store.add_servers([a_server(who, "behind", jumps=[server.id])])[0]
    with pytest.raises(Conflict, match="behind") as refused:
        store.remove_server(server.id, who.user_id, forget_bindings=True)
    assert refused.value.code == "jump_in_use"
    store.change_servers([behind.id], {"jumps": []})
    store.remove_server(server.id, who.user_id)


# -- key pairs


def test_a_key_pair_comes_back_as_it_was_put_in(store: Store, who: Caller, keypair: KeyPair) -> None:
    assert store.keypair(who.tenant_id, who.user_id, "laptop") == keypair == store.keypair_by_id(keypair.id)
    assert store.keypairs(who.tenant_id, who.user_id) == [keypair]
    assert store.sealed_private(keypair.id) == Sealed(b"sealed")


def test_an_unmanaged_key_pair_has_no_private_half(store: Store, who: Caller) -> None:
    keypair = store.add_keypair(a_keypair(who, managed=False), None)
    with pytest.raises(NotFound) as refused:
        store.sealed_private(keypair.id)
    assert refused.value.code == "private_key_not_kept"


RECORD = b"kps\x01\x01" + uuid.UUID(int=7).bytes + b"\0\0\0\1" + bytes(99)


def test_a_key_pair_is_found_by_the_master_key_that_seals_it(store: Store, who: Caller) -> None:
    kept = store.add_keypair(a_keypair(who), Sealed(RECORD))
    store.add_keypair(a_keypair(who, "other"), Sealed(RECORD.replace(b"\7\0\0\0\1", b"\x08\0\0\0\1")))
    assert store.sealed_under(str(uuid.UUID(int=7))) == [kept]
    assert kept.master_key_id == str(uuid.UUID(int=7))
    moved = store.move_private(kept.id, Sealed(RECORD), Sealed(RECORD.replace(b"\7\0\0\0\1", b"\x09\0\0\0\1")), who.user_id)
    assert store.sealed_under(str(uuid.UUID(int=9))) == [moved]
    with pytest.raises(Conflict) as refused:
        store.move_private(kept.id, Sealed(RECORD), Sealed(RECORD), who.user_id)
    assert refused.value.code == "keypair_changed"
    cleared = store.clear_private(kept.id, who.user_id, lambda bound: None)
    assert (cleared.managed, cleared.master_key_id) == (False, None)
    assert store.sealed_under(str(uuid.UUID(int=9))) == []
    again = store.keep_private(cleared, Sealed(RECORD), who.user_id)
    assert again == replace(kept, version=2)
    with pytest.raises(Conflict) as refused:
        store.keep_private(cleared, Sealed(RECORD), who.user_id)
    assert refused.value.code == "keypair_changed"
    assert [event.kind for event in store.events(who.tenant_id)][-3:] == ["keypair_moved", "keypair_cleared", "keypair_managed"]


def test_what_is_bound_on_the_servers_of_a_key_pair_is_told_together(store: Store, who: Caller, keypair: KeyPair) -> None:
    other = store.add_keypair(a_keypair(who, "other", managed=False), None)
    here, there = store.add_servers([a_server(who, password_login="off"), a_server(who, "web-2")])
    given.bind(store, a_binding(here, keypair, "deploy"))
    given.bind(store, a_binding(here, other, proof="accepted"))
    given.bind(store, a_binding(there, other))
    assert set(store.standing([keypair.id])) == {
        BoundKey("web-1", "deploy", keypair.id, "logged_in", True, "off", opens=False),
        BoundKey("web-1", "root", other.id, "accepted", False, "off", opens=False),
    }
    assert store.standing([]) == []


def test_clearing_asks_about_the_ways_in_and_changes_nothing_when_refused(store: Store, who: Caller, keypair: KeyPair) -> None:
    def refuse(bound: object) -> None:
        raise Conflict("only_way_in", "no")

    with pytest.raises(Conflict):
        store.clear_private(keypair.id, who.user_id, refuse)
    assert store.keypair_by_id(keypair.id) == keypair


OTHER = "9" * 32


def add_user(store: Store, who: Caller) -> None:
    with engine.writing(store._engine) as connection:
        connection.execute(tables.users.insert().values(id=OTHER, tenant_id=who.tenant_id, name="other", role="operator"))


def test_a_private_key_pair_is_seen_by_its_owner_alone(store: Store, who: Caller, keypair: KeyPair) -> None:
    add_user(store, who)
    assert store.keypairs(who.tenant_id, OTHER) == []
    with pytest.raises(NotFound):
        store.keypair(who.tenant_id, OTHER, "laptop")
    shared = store.add_keypair(a_keypair(who, "shared", scope="account"), Sealed(b"x"))
    assert store.keypairs(who.tenant_id, OTHER) == [shared]
    assert store.keypairs("z" * 32, OTHER) == []


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        (("c" * 32, "private"), ("c" * 32, "private"), True),
        (("c" * 32, "private"), (OTHER, "private"), False),
        (("c" * 32, "account"), (OTHER, "private"), True),
        (("c" * 32, "private"), (OTHER, "account"), True),
        (("c" * 32, "account"), (OTHER, "account"), True),
    ],
)
def test_a_name_is_one_key_pair_to_everyone_who_may_see_it(
    store: Store, who: Caller, first: tuple[str, str], second: tuple[str, str], taken: bool
) -> None:
    add_user(store, who)
    store.add_keypair(a_keypair(who, owner_id=first[0], scope=first[1]), Sealed(b"x"))
    again = a_keypair(who, owner_id=second[0], scope=second[1])
    if taken:
        with pytest.raises(AlreadyExists):
            store.add_keypair(again, Sealed(b"x"))
    else:
        store.add_keypair(again, Sealed(b"x"))


def test_a_bound_key_pair_is_not_deleted_and_the_servers_are_named(
    store: Store, who: Caller, server: Server, keypair: KeyPair
) -> None:
    bound(store, a_binding(server, keypair))
    with pytest.raises(Conflict, match="root@web-1") as refused:
        store.delete_keypair(keypair.id, who.user_id)
    assert (refused.value.code, refused.value.evidence) == ("already_bound", {"servers": ["web-1"]})
    unbound(store, server, "root")
    store.delete_keypair(keypair.id, who.user_id)
    assert store.keypairs(who.tenant_id, who.user_id) == []


def test_a_key_pair_that_a_task_works_with_is_not_deleted(store: Store, who: Caller, server: Server, keypair: KeyPair) -> None:
    [task] = store.add_tasks([a_task(server, request={"keypair_id": keypair.id})])
    with pytest.raises(Conflict) as refused:
        store.delete_keypair(keypair.id, who.user_id)
    assert refused.value.code == "keypair_busy"
    assert store.cancel(who.tenant_id, task.id, "not needed")
    store.delete_keypair(keypair.id, who.user_id)


def test_exports_are_on_record(store: Store, who: Caller, keypair: KeyPair) -> None:
    store.note_export(keypair.id, who.user_id)
    event = store.events(who.tenant_id)[-1]
    assert (event.kind, event.detail["name"], event.detail["user_id"]) == ("keypair_exported", "laptop", who.user_id)


def test_key_pairs_are_read_page_by_page_by_name(store: Store, who: Caller, url: str) -> None:
    add_user(store, who)
    for name in ("b", "a", "Z", "d", "c"):
        store.add_keypair(a_keypair(who, name), Sealed(b"x"))
    store.add_keypair(a_keypair(who, "bb", owner_id=OTHER), Sealed(b"x"))

    def page(after: str, limit: int | None = None) -> list[str]:
        return [each.name for each in store.keypairs(who.tenant_id, who.user_id, after=after, limit=limit)]

    assert [page("", 2), page("a", 2), page("c", 2), page("d", 2)] == [["Z", "a"], ["b", "c"], ["d"], []]
    store.delete_keypair(store.keypair(who.tenant_id, who.user_id, "a").id, who.user_id)
    assert page("a", 2) == ["b", "c"]  # what a page ended with may be gone
    assert page("") == ["Z", "b", "c", "d"]


# -- bindings


def test_a_login_has_one_binding_at_a_time(store: Store, who: Caller, server: Server, keypair: KeyPair) -> None:
    second = store.add_keypair(a_keypair(who, "second"), Sealed(b"x"))
    bound(store, a_binding(server, keypair))
    bound(store, a_binding(server, second))
    bound(store, a_binding(server, keypair, "admin"))
    assert store.bindings(who.tenant_id) == [a_binding(server, keypair, "admin"), a_binding(server, second)]
    assert store.bindings(who.tenant_id, keypair_id=keypair.id) == [a_binding(server, keypair, "admin")]
    assert store.bindings(who.tenant_id, server_id=server.id, keypair_id=second.id) == [a_binding(server, second)]
    assert store.named_bindings(who.tenant_id, who.user_id, [server.id])[0] == (a_binding(server, keypair, "admin"), "laptop")
    assert (store.bindings("z" * 32), store.named_bindings("z" * 32, who.user_id)) == ([], [])
    unbound(store, server, "root")
    assert store.bindings(who.tenant_id) == [a_binding(server, keypair, "admin")]
    unbound(store, server, "root")
    assert kinds(store, who).count("binding_removed") == 1


def test_servers_are_read_page_by_page_and_by_what_they_are_called(store: Store, who: Caller) -> None:
    names = ("b", "a", "d", "c")
    added = {one.name: one for one in store.add_servers([a_server(who, name) for name in names])}

    def page(**which: Any) -> list[str]:
        return [each.name for each in store.servers(who.tenant_id, **which)]

    assert [page(limit=3), page(after="c", limit=3), page(after="bb"), page(after="z")] == [
        ["a", "b", "c"],
        ["d"],
        ["c", "d"],
        [],
    ]
    assert page(called=["d", added["b"].id, "nobody", "d"]) == ["b", "d"]
    names = [{"env": "prod"}, {"env": "test"}, {"a.b/c-d": ""}]
    store.add_servers([replace(a_server(who, f"l{place}"), labels=labels) for place, labels in enumerate(names)])
    assert page(labelled=[("env", "prod"), ("a.b/c-d", "")]) == ["l0", "l2"]
    assert page(called=["d"], labelled=[("env", "prod")]) == ["d", "l0"]
    assert store.servers("z" * 32, labelled=[("env", "prod")]) == []
    # Text that is no label is asked of no database, in whatever way that spells the place of one.
    for text in ("", '"', "$", "env'", 'env"', "a b", "env,zone"):
        assert page(labelled=[(text, "prod")]) == []
    assert page(labelled=[]) == []
    assert page(called=["a", "b", "c"], after="a", limit=1) == ["b"]
    ids = [added["a"].id, "nobody"]
    assert store.server_names(who.tenant_id, ids) == {added["a"].id: "a"}
    assert (store.server_names("z" * 32, ids), store.servers("z" * 32, called=["a"])) == ({}, [])


# -- tasks


def test_a_page_of_tasks_comes_with_their_number(store: Store, who: Caller, server: Server) -> None:
    operations = ["bind", "check", "replace", "bind"]
    added = store.add_tasks([a_task(server, operation=each) for each in operations])

    def page(offset: int, limit: int = 2) -> tuple[list[int], int]:
        found, total = store.counted_tasks(who.tenant_id, ["bind", "replace"], running=True, offset=offset, limit=limit)
        return [task.seq for task in found], total

    assert [page(0), page(2), page(3), page(1, 1)] == [([1, 3], 3), ([4], 3), ([], 3), ([3], 3)]
    assert store.cancel(who.tenant_id, added[0].id, "not needed")
    more = store.add_tasks([a_task(server)])
    assert page(0, 9) == ([3, 4, more[0].seq], 3)
    assert store.counted_tasks(who.tenant_id, ["bind"], failed=True, offset=0, limit=9) == ([], 0)
    assert store.counted_tasks("z" * 32, ["bind"], running=True, offset=0, limit=9) == ([], 0)
    assert [task.seq for task in store.tasks(who.tenant_id, after=2, limit=2)] == [3, 4]


def test_tasks_keep_the_order_they_came_in(store: Store, who: Caller, server: Server, clock: Clock) -> None:
    first = store.add_tasks([a_task(server), a_task(server)])
    clock.forward(-3600)  # clocks do not give order
    second = store.add_tasks([a_task(server)])
    assert [task.seq for task in first + second] == [1, 2, 3]
    assert store.tasks(who.tenant_id) == first + second
    assert store.tasks(None) == first + second
    assert store.tasks("z" * 32) == []
    assert store.tasks(who.tenant_id, ids=[first[1].id]) == [first[1]]
    assert store.tasks(who.tenant_id, ids=[]) == []
    assert store.tasks(who.tenant_id, server_id="none") == []
    assert store.task(who.tenant_id, first[0].id) == first[0]
    with pytest.raises(NotFound):
        store.task("z" * 32, first[0].id)


def test_a_number_is_not_given_again_after_its_task_is_deleted(store: Store, who: Caller, server: Server) -> None:
    task = running(store, server)
    store.finish(task.id, "me", task.generation, Outcome("failed", "as_before"))
    store.delete_failed(who.tenant_id)
    assert store.add_tasks([a_task(server)])[0].seq == task.seq + 1


def test_a_claim_takes_the_task_and_raises_the_generation(store: Store, who: Caller, server: Server, clock: Clock) -> None:
    clock.forward(1)
    task = running(store, server, lease_seconds=30)
    assert (task.status, task.generation, task.lease_owner) == ("running", 1, "me")
    assert (task.started_at, task.lease_until) == (clock.now, clock.now + timedelta(seconds=30))
    assert store.task(who.tenant_id, task.id) == task
    assert store.server(who.tenant_id, "web-1").generation == 1
    assert store.claim(task.id, "other", 30) is None
    assert store.claim("no such task", "other", 30) is None


def test_a_server_has_one_running_task(store: Store, who: Caller, server: Server) -> None:
    first = running(store, server)
    [second] = store.add_tasks([a_task(server)])
    elsewhere = store.add_servers([a_server(who, "web-2")])[0]
    [third] = store.add_tasks([a_task(elsewhere)])
    assert store.claim(second.id, "you", 30) is None
    assert store.claim(third.id, "you", 30) is not None
    store.finish(first.id, "me", first.generation, Outcome("succeeded", "as_asked"))
    claimed = store.claim(second.id, "you", 30)
    assert claimed is not None
    assert claimed.generation == 2


def test_a_claim_past_a_lost_lease_interrupts_who_held_it(store: Store, who: Caller, server: Server, clock: Clock) -> None:
    first = running(store, server, lease_seconds=10)
    [second] = store.add_tasks([a_task(server)])
    clock.forward(9.9)
    assert store.claim(second.id, "you", 30) is None
    clock.forward(0.1)
    if store.shared:  # of who shares a store the sweep judges, which knows whether that was away
        assert store.claim(second.id, "you", 30) is None
        store.interrupt_expired()
    assert store.claim(second.id, "you", 30) is not None
    lost = store.task(who.tenant_id, first.id)
    assert (lost.status, lost.cause, lost.server_state, lost.retryable) == ("failed", "interrupted", "unknown", True)
    assert not store.finish(first.id, "me", first.generation, Outcome("succeeded", "as_asked"))


def test_a_lease_that_is_renewed_goes_on(store: Store, server: Server, clock: Clock) -> None:
    task = running(store, server, lease_seconds=10)
    clock.forward(8)
    assert store.renew([task.id, "none"], "me", 10) == {task.id}
    assert store.renew([task.id], "you", 10) == set()
    clock.forward(8)
    assert store.interrupt_expired() == []
    clock.forward(2)
    assert [lost.id for lost in store.interrupt_expired()] == [task.id]
    assert store.interrupt_expired() == []
    assert store.renew([task.id], "me", 10) == set()


def test_a_plan_is_begun_once_whoever_begins_it_in_the_same_moment(store: Store, who: Caller) -> None:
    def a_rollout(id: str, **more: Any) -> Rollout:
        return Rollout(id, who.tenant_id, who.user_id, "unbind", {}, {}, 0, False, START, **more)

    def begin(number: int) -> str:
        try:
            store.add_rollout(a_rollout(f"r{number}", plan_id="plan"), [])
        except Conflict as problem:
            return problem.code
        return "begun"

    store.add_rollout(a_rollout("plan", state="finished"), [])
    with ThreadPoolExecutor(8) as several:
        told = list(several.map(begin, range(8)))
    assert sorted(told) == ["begun"] + ["plan_begun"] * 7
    begun = f"r{told.index('begun')}"
    assert store.begun_from("plan") == begun
    store.change_rollout(who.tenant_id, begun, "cancelled", "", of=("running",))
    assert store.begun_from("plan") is None
    assert begin(9) == "begun"


@pytest.mark.parametrize("others", [0, 20])
def test_a_look_at_what_runs_tells_what_has_ended(store: Store, who: Caller, others: int) -> None:
    servers = store.add_servers([a_server(who, f"web-{number}") for number in range(2 + others)])
    [ended, *not_ended] = [running(store, each) for each in servers]
    assert store.finish(ended.id, "me", ended.generation, Outcome("succeeded", "as_asked"))
    asked = [*(each.id for each in not_ended), ended.id, "none"]
    assert store.rollout_turn("none", asked) == (None, [EndedTask(ended.id, "succeeded", "as_asked", None)])


def test_more_are_asked_for_than_one_statement_takes(store: Store, who: Caller, server: Server) -> None:
    task = running(store, server)
    many = [str(uuid.uuid4()) for _ in range(1 << 16)]
    assert store.renew([*many, task.id], "me", 10) == {task.id}
    for called in (server.name, server.id):
        assert [each.id for each in store.servers(who.tenant_id, called=[*many, called])] == [server.id]
    assert [each.id for each in store.servers(who.tenant_id, called=[*many, server.name, server.id])] == [server.id]
    assert store.server_names(who.tenant_id, [*many, server.id]) == {server.id: server.name}


def test_a_waiting_task_is_held_by_the_process_that_has_its_credentials(
    store: Store, who: Caller, server: Server, clock: Clock
) -> None:
    [mine, late] = store.add_tasks([a_task(server), a_task(server)], "me", 10)
    [theirs] = store.add_tasks([a_task(server)], "you", 10)
    [nobodys] = store.add_tasks([a_task(server)])
    assert (mine.status, mine.lease_owner, mine.lease_until) == ("ready", "me", clock.now + timedelta(seconds=10))
    clock.forward(8)
    assert store.renew([mine.id, theirs.id], "me", 10) == {mine.id}
    clock.forward(8)
    assert [lost.id for lost in store.interrupt_expired()] == [late.id, theirs.id]
    lost = store.task(who.tenant_id, theirs.id)
    assert (lost.status, lost.cause, lost.phase, lost.retryable) == ("failed", "interrupted", "queued", True)
    assert lost.server_state == "as_before"
    assert store.renew([theirs.id], "you", 10) == set()
    assert store.claim(theirs.id, "you", 10) is None
    clock.forward(100_000)
    store.interrupt_expired()
    assert store.task(who.tenant_id, nobodys.id) == nobodys


def test_who_was_slow_may_still_begin_what_nobody_has_given_up(store: Store, server: Server, clock: Clock) -> None:
    [task] = store.add_tasks([a_task(server)], "me", 10)
    clock.forward(11)
    assert store.claim(task.id, "me", 10) is not None


def test_who_ends_gives_up_what_it_holds_and_has_not_begun(store: Store, who: Caller, server: Server) -> None:
    begun = running(store, server)
    [mine] = store.add_tasks([a_task(server)], "me", 10)
    [theirs] = store.add_tasks([a_task(server)], "you", 10)
    [nobodys] = store.add_tasks([a_task(server)])
    assert [left.id for left in store.abandon("me")] == [mine.id]
    left = store.task(who.tenant_id, mine.id)
    assert (left.status, left.cause, left.server_state) == ("failed", "interrupted", "as_before")
    assert store.tasks(who.tenant_id, running=True) == [begun, theirs, nobodys]
    assert store.abandon("me") == []


def test_an_interrupted_task_keeps_the_phase_it_was_in(store: Store, server: Server, clock: Clock) -> None:
    task = running(store, server)
    assert store.progress(task.id, "me", "narrow", {"step": "remove"})
    clock.forward(31)
    assert store.interrupt_expired()[0].phase == "narrow"


def test_progress_is_for_who_runs_the_task(store: Store, who: Caller, server: Server) -> None:
    task = running(store, server)
    assert not store.progress(task.id, "you", "look", {})
    assert store.progress(task.id, "me", "look", {"os": "Debian"})
    assert store.task(who.tenant_id, task.id).phase == "look"
    assert [(e.phase, e.detail) for e in store.events(who.tenant_id) if e.kind == "task_phase"] == [("look", {"os": "Debian"})]


OUTCOME = Outcome("failed", "reverted", "prove", "new_key_refused", "no", {"line": 7}, [{"way": "key"}], "look at line 7", True)


def test_an_end_is_recorded_whole(store: Store, who: Caller, server: Server, keypair: KeyPair, clock: Clock) -> None:
    bound(store, a_binding(server, keypair, "admin"))
    task = running(store, server)
    clock.forward(5)
    binding = a_binding(server, keypair, task_id=task.id)
    notes: ServerNotes = {"password_login": "off"}
    assert store.finish(
        task.id, "me", task.generation, OUTCOME, binding=binding, unbind=(server.id, "admin"), notes=notes
    )  # fmt: skip
    ended = store.task(who.tenant_id, task.id)
    for name in ("status", "server_state", "phase", "cause", "message", "evidence", "proofs", "handling", "retryable"):
        assert getattr(ended, name) == getattr(OUTCOME, name)
    assert (ended.finished_at, ended.lease_owner, ended.lease_until) == (clock.now, None, None)
    assert store.bindings(who.tenant_id) == [binding]
    assert store.server(who.tenant_id, "web-1").password_login == "off"
    assert kinds(store, who)[-4:] == ["binding_removed", "binding_set", "server_noted", "task_finished"]


def test_an_end_that_cannot_be_recorded_whole_is_not_recorded(
    store: Store, who: Caller, server: Server, keypair: KeyPair
) -> None:
    bound(store, a_binding(server, keypair, "admin"))
    task = running(store, server)
    before = kinds(store, who)
    with pytest.raises(NotFound):
        store.finish(
            task.id, "me", task.generation, OUTCOME, unbind=(server.id, "admin"),
            binding=a_binding(server, replace(keypair, id="none")),
        )  # fmt: skip
    assert store.task(who.tenant_id, task.id) == task
    assert store.bindings(who.tenant_id) == [a_binding(server, keypair, "admin")]
    assert kinds(store, who) == before


@pytest.mark.parametrize(("owner", "generation"), [("you", 1), ("me", 0), ("me", 2)])
def test_an_end_told_by_somebody_else_is_refused(
    store: Store, who: Caller, server: Server, keypair: KeyPair, owner: str, generation: int
) -> None:
    task = running(store, server)
    assert not store.finish(task.id, owner, generation, OUTCOME, binding=a_binding(server, keypair))
    assert store.task(who.tenant_id, task.id) == task
    assert store.bindings(who.tenant_id) == []


@pytest.mark.parametrize("end", sorted(FINAL))
def test_a_final_state_never_changes(store: Store, who: Caller, server: Server, clock: Clock, end: Any) -> None:
    task = running(store, server)
    assert store.finish(task.id, "me", 1, Outcome(end, "as_before"))
    ended = store.task(who.tenant_id, task.id)
    clock.forward(10_000)
    assert not store.finish(task.id, "me", 1, OUTCOME)
    assert not store.progress(task.id, "me", "look", {})
    assert store.renew([task.id], "me", 30) == set()
    assert store.abandon("me") == []
    assert not store.cancel(who.tenant_id, task.id, "no")
    assert not store.settle(task.id, "reverted")
    assert store.claim(task.id, "me", 30) is None
    assert store.interrupt_expired() == []
    assert store.task(who.tenant_id, task.id) == ended


def test_only_an_end_is_an_end(store: Store, server: Server) -> None:
    task = running(store, server)
    with pytest.raises(ValueError, match="ready"):
        store.finish(task.id, "me", 1, Outcome("ready", "as_before"))


def test_an_unknown_state_is_settled_once(store: Store, who: Caller, server: Server, clock: Clock) -> None:
    task = running(store, server)
    assert not store.settle(task.id, "as_asked")  # it has not ended
    clock.forward(31)
    store.interrupt_expired()
    assert not store.settle(task.id, "unknown")
    assert store.settle(task.id, "reverted")
    assert not store.settle(task.id, "as_asked")
    settled = store.task(who.tenant_id, task.id)
    assert (settled.status, settled.cause, settled.server_state) == ("failed", "interrupted", "reverted")
    assert kinds(store, who)[-1] == "task_settled"


def test_what_a_settled_task_changed_comes_on_record_with_it(
    store: Store, who: Caller, server: Server, keypair: KeyPair, clock: Clock
) -> None:
    task = running(store, server)
    assert store.unsettled() == store.unsettled(server.id) == []
    clock.forward(31)
    lost = store.interrupt_expired()
    assert store.unsettled() == store.unsettled(server.id) == lost
    binding = a_binding(server, keypair)
    assert store.settle(task.id, "as_asked", binding=binding, notes={"password_login": "off"})
    assert store.unsettled() == []
    assert store.bindings(who.tenant_id) == [binding]
    assert store.server_by_id(server.id).password_login == "off"
    # What is known already changes nothing more.
    assert not store.settle(task.id, "as_asked", unbind=(server.id, "root"))
    assert store.bindings(who.tenant_id) == [binding]


def test_a_server_on_which_somebody_works_is_not_asked_how_it_was_left(store: Store, server: Server, clock: Clock) -> None:
    lost = running(store, server)
    clock.forward(31)
    store.interrupt_expired()
    store.add_tasks([a_task(server)])
    assert store.unsettled() == []
    assert [task.id for task in store.unsettled(server.id)] == [lost.id]


def test_what_a_dead_process_held_is_ended_at_once(store: Store, who: Caller, server: Server) -> None:
    other = store.add_servers([a_server(who, "web-2")])[0]
    dead = running(store, server, owner="serve/one")
    [held, waits] = store.add_tasks([a_task(server, request={"given": ["password"]}), a_task(server)], "serve/one", 30)
    alive = running(store, other, owner="served by another")
    assert [task.id for task in store.interrupt_expired("serve/")] == [dead.id, held.id]
    assert [task.server_state for task in store.tasks(None, ids=[dead.id, held.id])] == ["unknown", "as_before"]
    assert [task.id for task in store.adopt("serve/two", 30)] == [waits.id]
    assert store.task(who.tenant_id, alive.id).status == "running"


def test_only_a_task_that_nobody_has_begun_is_cancelled(store: Store, who: Caller, server: Server) -> None:
    [task] = store.add_tasks([a_task(server)])
    assert not store.cancel("z" * 32, task.id, "somebody else's")
    assert store.cancel(who.tenant_id, task.id, "the password is gone")
    cancelled = store.task(who.tenant_id, task.id)
    assert (cancelled.status, cancelled.server_state) == ("cancelled", "as_before")
    assert store.claim(task.id, "me", 30) is None
    assert not store.cancel(who.tenant_id, running(store, server).id, "too late")
    assert not store.cancel(who.tenant_id, "none", "there is none")


def test_failed_lists_what_nobody_has_retried(store: Store, who: Caller, server: Server) -> None:
    task = running(store, server)
    assert [t.id for t in store.tasks(who.tenant_id, running=True)] == [task.id]
    assert store.tasks(who.tenant_id, failed=True) == []
    store.finish(task.id, "me", 1, OUTCOME)
    assert store.tasks(who.tenant_id, running=True) == []
    assert [t.id for t in store.tasks(who.tenant_id, failed=True)] == [task.id]
    [again] = store.add_tasks([a_task(server, retry_of=task.id)])
    assert store.tasks(who.tenant_id, failed=True) == []
    assert [t.id for t in store.tasks(who.tenant_id, failed=True, running=True)] == [again.id]
    with pytest.raises(Conflict, match=again.id) as refused:
        store.add_tasks([a_task(server), a_task(server, retry_of=task.id)])
    assert refused.value.code == "task_retried"
    assert len(store.tasks(who.tenant_id)) == 2  # all or none


def test_deleting_a_failed_task_takes_along_what_it_retried(store: Store, who: Caller, server: Server) -> None:
    first = running(store, server)
    store.finish(first.id, "me", 1, OUTCOME)
    [second] = store.add_tasks([a_task(server, retry_of=first.id)])
    with pytest.raises(Conflict, match="ready"):
        store.delete_failed(who.tenant_id, [second.id])
    assert store.claim(second.id, "me", 30) is not None
    store.finish(second.id, "me", 2, OUTCOME)
    other = running(store, server)
    store.finish(other.id, "me", 3, OUTCOME)
    assert store.delete_failed(who.tenant_id, [second.id]) == 2
    assert [t.id for t in store.tasks(who.tenant_id)] == [other.id]
    with pytest.raises(NotFound):
        store.delete_failed(who.tenant_id, [other.id, "none"])
    assert store.delete_failed("z" * 32) == 0
    assert store.delete_failed(who.tenant_id) == 1
    assert store.tasks(who.tenant_id) == []
    assert [e.task_id for e in store.events(who.tenant_id) if e.kind == "task_deleted"] == [
        second.id, first.id, other.id,
    ]  # fmt: skip


# -- events


def kinds(store: Store, who: Caller) -> list[str]:
    return [event.kind for event in store.events(who.tenant_id)]


def test_every_change_of_a_task_is_an_event(store: Store, who: Caller, server: Server) -> None:
    task = running(store, server)
    store.progress(task.id, "me", "look", {})
    store.finish(task.id, "me", 1, OUTCOME)
    seen = store.events(who.tenant_id, task_ids=[task.id])
    assert [event.kind for event in seen] == ["task_ready", "task_running", "task_phase", "task_finished"]
    assert [event.phase for event in seen] == ["queued", "connect", "look", "prove"]
    assert {event.server_id for event in seen} == {server.id}
    assert seen[-1].detail == {
        "status": "failed", "server_state": "reverted", "cause": "new_key_refused", "message": "no",
    }  # fmt: skip


def test_events_go_on_after_the_last_one_seen(store: Store, who: Caller, server: Server) -> None:
    running(store, server)
    everything = store.events(who.tenant_id)
    assert [event.id for event in everything] == sorted(event.id for event in everything)
    assert store.events(who.tenant_id, everything[1].id) == everything[2:]
    assert store.events(who.tenant_id, limit=2) == everything[:2]
    assert store.events(who.tenant_id, everything[-1].id) == []
    assert store.events("z" * 32) == []
    assert store.events(who.tenant_id, task_ids=[]) == []


def test_every_kind_of_event_is_a_known_word(store: Store, who: Caller, server: Server, keypair: KeyPair) -> None:
    task = running(store, server)
    store.finish(task.id, "me", 1, OUTCOME, binding=a_binding(server, keypair))
    store.delete_failed(who.tenant_id)
    assert set(kinds(store, who)) <= KINDS.keys()


# -- several processes, and processes that die


def _claim(url: str, task_ids: list[str], owner: str, together: Barrier) -> list[str]:
    store = Store(url)
    together.wait()
    won = [task_id for task_id in task_ids if store.claim(task_id, owner, 60) is not None]
    store.close()
    return won


def _claim_into(results: Any, *arguments: Any) -> None:
    results.put(_claim(*arguments))


def test_of_processes_that_claim_at_once_one_wins_each_server(store: Store, who: Caller, url: str) -> None:
    servers = [store.add_servers([a_server(who, f"web-{number}")])[0] for number in range(20)]
    tasks = store.add_tasks([a_task(server) for server in servers for _ in range(3)])
    together, results = spawn.Barrier(3), spawn.Queue()
    ids = [task.id for task in tasks]
    racers = [
        spawn.Process(target=_claim_into, args=(results, url, ids[number:] + ids[:number], f"p{number}", together))
        for number in range(3)
    ]
    for racer in racers:
        racer.start()
    won = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(60)
    now_running = [task for task in store.tasks(who.tenant_id) if task.status == "running"]
    assert sorted(task.id for task in now_running) == sorted(task_id for each in won for task_id in each)
    assert sorted(task.server_id for task in now_running) == sorted(server.id for server in servers)
    assert {task.generation for task in now_running} == {1}


def _migrate(url: str, together: Barrier) -> None:
    store = Store(url)
    together.wait()
    store.migrate()
    store.close()


def test_processes_that_make_the_store_at_once_make_one(url: str) -> None:
    together = spawn.Barrier(3)
    makers = [spawn.Process(target=_migrate, args=(url, together)) for _ in range(3)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
    assert [maker.exitcode for maker in makers] == [0, 0, 0]


def _finish_and_die(url: str, task: Task, binding: Binding, place: str) -> None:
    """Finish a task and be killed in the middle: after the statement that writes to this place, or at COMMIT."""
    import psycopg
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    written = False

    def begins(statement: str) -> None:
        nonlocal written
        if written or (place == statement == "COMMIT"):
            os.kill(os.getpid(), signal.SIGKILL)
        written = statement.startswith(place)

    class Watched(psycopg.Cursor[Any]):
        def execute(self, query: Any, *arguments: Any, **more: Any) -> "Watched":
            begins(str(query))
            return super().execute(query, *arguments, **more)

        def executemany(self, query: Any, *arguments: Any, **more: Any) -> None:
            begins(str(query))
            super().executemany(query, *arguments, **more)

    def watch(driver: Any, _record: Any) -> None:
        if url.startswith("sqlite"):
            driver.set_trace_callback(begins)
        else:
            driver.cursor_factory = Watched

    event.listen(Engine, "connect", watch)
    event.listen(Engine, "commit", lambda _connection: url.startswith("sqlite") or begins("COMMIT"))
    store = Store(url, Clock())
    store.finish(task.id, "me", task.generation, OUTCOME, binding=binding, notes={"password_login": "off"})


@pytest.mark.parametrize(
    "place",
    ["DELETE FROM bindings", "INSERT INTO bindings", "UPDATE servers", "UPDATE tasks", "INSERT INTO events", "COMMIT"],
)
def test_a_writer_killed_in_the_middle_leaves_nothing_behind(
    store: Store, who: Caller, server: Server, keypair: KeyPair, url: str, place: str
) -> None:
    task = running(store, server)
    before = store.events(who.tenant_id)
    writer = spawn.Process(target=_finish_and_die, args=(url, task, a_binding(server, keypair), place))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    reopened = Store(url, Clock())
    reopened.migrate()
    assert reopened.task(who.tenant_id, task.id) == task
    assert reopened.bindings(who.tenant_id) == []
    assert reopened.server_by_id(server.id).password_login == "unknown"
    assert reopened.events(who.tenant_id) == before
    assert reopened.finish(task.id, "me", task.generation, OUTCOME)  # and no lock is left either
    reopened.close()


def test_threads_share_a_store(store: Store, who: Caller, server: Server) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: store.add_tasks([a_task(server)]), range(100)))
    assert [task.seq for task in store.tasks(who.tenant_id)] == list(range(1, 101))
