"""The lives of customer master keys: every step and every use in every state; rotation, import, grants, and the end."""

import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from controller.errors import Problem
from controller.kms import Context, FileRootKey, Kms
from controller.kms.signing import oaep
from controller.model import Caller, MasterKey, Secret, User
from controller.service.kms import KeyService
from controller.settings import Settings
from controller.store import Store
from tests.controller import given

pytestmark = pytest.mark.anyio
START = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
CONTEXT = Context("test", "1")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **time: float) -> None:
        self.now += timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(store: Store, settings: Settings, clock: Clock) -> Kms:
    return Kms(store, FileRootKey(settings.root_key), clock=clock)


@pytest.fixture
def keys(store: Store, timed: Kms, clock: Clock) -> KeyService:
    made = KeyService.of(store, timed)
    for part in (made.keys, made.names, made.grants, made.imports, made.uses):
        part._now = clock
    return made


async def code_of(asked: Awaitable[Any]) -> str:
    """Return the code with which it was refused, or nothing."""
    try:
        await asked
    except Problem as problem:
        return problem.code
    return ""


async def brought(keys: KeyService, who: Caller, name: str, material: bytes = bytes(range(32)), **more: Any) -> MasterKey:
    """Have material imported as its owner would do it."""
    given = await keys.imports.parameters(who, name)
    public = load_der_public_key(given.public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    return await keys.imports.import_(who, name, given.token, public.encrypt(material, oaep()), **more)


# -- states and what they allow


async def a_default(keys: KeyService, who: Caller) -> None:
    pass


async def an_enabled(keys: KeyService, who: Caller) -> None:
    await keys.keys.create(who, "one")


async def a_rotating(keys: KeyService, who: Caller) -> None:
    await an_enabled(keys, who)
    await keys.keys.enable_rotation(who, "one")


async def a_disabled(keys: KeyService, who: Caller) -> None:
    await an_enabled(keys, who)
    await keys.keys.disable(who, "one")


async def a_pending(keys: KeyService, who: Caller) -> None:
    await an_enabled(keys, who)
    await keys.keys.schedule_deletion(who, "one", 7)


async def a_waiting(keys: KeyService, who: Caller) -> None:
    await keys.keys.create(who, "one", origin="external")


async def an_imported(keys: KeyService, who: Caller) -> None:
    await a_waiting(keys, who)
    await brought(keys, who, "one")


async def an_expired(keys: KeyService, who: Caller) -> None:
    """Its date has come, and nobody has taken the material away yet."""
    await a_waiting(keys, who)
    await brought(keys, who, "one", expires_at=START + timedelta(seconds=1))
    keys.uses._now.forward(seconds=2)  # type: ignore[attr-defined]


State = Callable[[KeyService, Caller], Awaitable[None]]
STATES: dict[str, State] = {
    "default": a_default, "enabled": an_enabled, "rotating": a_rotating, "disabled": a_disabled, "pending": a_pending,
    "waiting": a_waiting, "imported": an_imported, "expired": an_expired,
}  # fmt: skip
D, P, W, X = "master_key_disabled", "master_key_pending_deletion", "master_key_without_material", "master_key_default"
I = "imported_key_not_rotated"  # noqa: E741
N = "master_key_not_external"
Step = Callable[[KeyService, Caller, str], Awaitable[Any]]
# By step: how it is refused in each state, in the order of STATES.
TABLE: dict[str, tuple[Step, list[str]]] = {
    "get": (lambda keys, who, name: keys.keys.get(who, name), [""] * 8),
    "encrypt": (lambda keys, who, name: keys.uses.encrypt(who, name, Secret(b"x")), ["", "", "", D, P, W, "", W]),
    "data key": (lambda keys, who, name: keys.uses.create_data_key(who, name), ["", "", "", D, P, W, "", W]),
    "enable": (lambda keys, who, name: keys.keys.enable(who, name), [X, *["master_key_not_disabled"] * 2, "", P, W,
               *["master_key_not_disabled"] * 2]),
    "disable": (lambda keys, who, name: keys.keys.disable(who, name), [X, "", "", "master_key_not_enabled", P, W, "", ""]),
    "schedule deletion": (lambda keys, who, name: keys.keys.schedule_deletion(who, name, 7), [X, "", "", "",
                          "deletion_already_scheduled", "", "", ""]),
    "cancel deletion": (lambda keys, who, name: keys.keys.cancel_deletion(who, name),
                        [*["deletion_not_scheduled"] * 4, "", *["deletion_not_scheduled"] * 3]),
    "rename": (lambda keys, who, name: keys.keys.rename(who, name, "two"), [X, "", "", "", P, "", "", ""]),
    "describe": (lambda keys, who, name: keys.keys.describe(who, name, "text"), [X, "", "", "", P, "", "", ""]),
    "rotate": (lambda keys, who, name: keys.keys.rotate(who, name), [X, "", "", D, P, I, I, I]),
    "enable rotation": (lambda keys, who, name: keys.keys.enable_rotation(who, name, 30),
                        [X, "", "rotation_already_on", D, P, I, I, I]),
    "disable rotation": (lambda keys, who, name: keys.keys.disable_rotation(who, name),
                         [X, "rotation_not_on", "", D, P, I, I, I]),
    "change rotation": (lambda keys, who, name: keys.keys.change_rotation(who, name, 90),
                        [X, "rotation_not_on", "", D, P, I, I, I]),
    "import parameters": (lambda keys, who, name: keys.imports.parameters(who, name),
                          [N, N, N, N, N, "", *["master_key_not_waiting"] * 2]),
    "delete material": (lambda keys, who, name: keys.imports.delete(who, name), [N, N, N, N, N, W, "", ""]),
    "grant": (lambda keys, who, name: keys.grants.create(who, name, who.user_id, ["encrypt-data"]), [X, "", "", D, P, W, "", W]),
    "further alias": (lambda keys, who, name: keys.names.add_alias(who, name, "alias/a"), [X, *[""] * 7]),
    "tag": (lambda keys, who, name: keys.names.tag(who, name, {"a": "b"}), [""] * 8),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
async def test_each_step_in_each_state(
    keys: KeyService, who: Caller, state: str, store: Store, settings: Settings, tmp_path: Path
) -> None:
    await STATES[state](keys, who)
    store.checkpoint()
    before = settings.database.read_bytes()
    name = "kps/default" if state == "default" else "one"
    found = {}
    for step, (asked, _) in TABLE.items():
        found[step] = await code_of(asked(keys, who, name))
        # Each step begins where the first did.
        store.close()
        for leftover in ("-wal", "-shm"):
            settings.database.with_name(settings.database.name + leftover).unlink(missing_ok=True)
        settings.database.write_bytes(before)
    assert found == {step: codes[list(STATES).index(state)] for step, (_, codes) in TABLE.items()}


async def test_the_steps_lead_where_they_say(keys: KeyService, who: Caller) -> None:
    made = await keys.keys.create(who, "one", description="what for")
    assert (made.state, made.version, made.description, made.default) == ("enabled", 1, "what for", False)
    assert (await keys.keys.disable(who, "one")).state == "disabled"
    assert (await keys.keys.enable(who, made.id)).state == "enabled"
    pending = await keys.keys.schedule_deletion(who, "one", 7)
    assert (pending.state, pending.deletes_at) == ("pending_deletion", START + timedelta(days=7))
    kept = await keys.keys.cancel_deletion(who, "one")
    assert (kept.state, kept.deletes_at) == ("disabled", None)
    await keys.keys.rename(who, "one", "two")
    assert await code_of(keys.keys.get(who, "one")) == "master_key_not_found"
    assert (await keys.keys.describe(who, "two", "")).description == ""


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"alias": "a b"}, "alias_unusable"),
        ({"alias": ""}, "alias_unusable"),
        ({"alias": "a" * 256}, "alias_unusable"),
        ({"alias": "a\n"}, "alias_unusable"),
        ({"alias": "mine/default"}, "alias_unusable"),
        ({"alias": "kps/default"}, "alias_unusable"),
        ({"description": "x" * 256}, "description_unusable"),
        ({"description": "two\nlines"}, "description_unusable"),
        ({"spec": "SM4"}, "key_spec_unknown"),
        ({"spec": "ED25519"}, "key_spec_unknown"),
        ({"spec": "EC_P256", "usage": "ENCRYPT_DECRYPT"}, "ec_key_cannot_encrypt"),
        ({"usage": "SIGN_VERIFY"}, "symmetric_key_cannot_sign"),
        ({"spec": "HMAC_256", "usage": "ENCRYPT_DECRYPT"}, "key_usage_unfit"),
        ({"usage": "OTHER"}, "key_usage_unfit"),
        ({"origin": "elsewhere"}, "key_origin_unknown"),
    ],
)
async def test_what_no_key_can_be_is_refused(keys: KeyService, who: Caller, given: dict[str, Any], code: str) -> None:
    alias = given.pop("alias", "one")
    assert await code_of(keys.keys.create(who, alias, **given)) == code
    assert (await keys.keys.list(who))[1] == 1  # the home's own


async def test_names_are_nobody_elses(keys: KeyService, who: Caller) -> None:
    one, two = await keys.keys.create(who, "one"), await keys.keys.create(who, "two")
    taken = "alias_taken"
    assert await code_of(keys.keys.create(who, "one")) == taken
    assert await code_of(keys.keys.rename(who, "two", "one")) == taken
    assert await code_of(keys.keys.rename(who, "two", one.id)) == taken
    assert await code_of(keys.keys.rename(who, "two", "mine/default")) == "alias_unusable"
    await keys.names.add_alias(who, "one", "alias/orders")
    assert await code_of(keys.names.add_alias(who, "two", "alias/orders")) == taken
    assert await code_of(keys.keys.create(who, "alias/orders")) == taken
    assert await code_of(keys.names.add_alias(who, "two", "orders")) == "alias_unusable"
    assert await code_of(keys.names.add_alias(who, "two", "alias/")) == "alias_unusable"
    assert (await keys.keys.get(who, "alias/orders")).id == one.id
    await keys.names.move_alias(who, "alias/orders", "two")
    assert (await keys.keys.get(who, "alias/orders")).id == two.id
    assert [each.alias for each in await keys.names.aliases(who, "two")] == ["alias/orders"]
    await keys.names.delete_alias(who, "alias/orders")
    assert await code_of(keys.keys.get(who, "alias/orders")) == "master_key_not_found"
    assert await code_of(keys.names.delete_alias(who, "alias/orders")) == "alias_not_found"
    assert await code_of(keys.names.move_alias(who, "alias/orders", "two")) == "alias_not_found"


async def test_tags(keys: KeyService, who: Caller) -> None:
    await keys.keys.create(who, "one")
    await keys.keys.create(who, "two")
    assert await keys.names.tag(who, "one", {"stage": "prod", "team": "ops"}) == {"stage": "prod", "team": "ops"}
    assert await keys.names.tag(who, "one", {"stage": "test"}) == {"stage": "test", "team": "ops"}
    await keys.names.tag(who, "two", {"stage": "prod"})
    assert await keys.names.all_tags(who) == {"stage": ["prod", "test"], "team": ["ops"]}
    found, total = await keys.keys.list(who, tags={"stage": ["prod", "none"]})
    assert ([key.alias for key in found], total) == (["two"], 1)
    assert {key.alias for key in (await keys.keys.list(who, tags={"stage": []}))[0]} == {"one", "two"}
    await keys.names.untag(who, "one", ["team"])
    assert await code_of(keys.names.untag(who, "one", ["team"])) == "tag_not_found"
    await keys.names.untag(who, "one", ["team"], all_there=False)
    for bad in ({"": "x"}, {"a" * 37: "x"}, {"a=b": "x"}, {"a\n": "x"}, {"a*": "x"}):
        assert await code_of(keys.names.tag(who, "one", bad)) == "tag_name_unusable"
    for bad in ({"a": "x" * 44}, {"a": "<"}, {"a": "\\"}):
        assert await code_of(keys.names.tag(who, "one", bad)) == "tag_value_unusable"
    assert await code_of(keys.names.tag(who, "one", {})) == "tags_missing"
    assert await code_of(keys.names.tag(who, "one", {f"t{n}": "" for n in range(20)})) == "tag_quota"
    assert await keys.names.tags(who, "one") == {"stage": "test"}


async def test_lists_are_filtered_and_paged(keys: KeyService, who: Caller) -> None:
    for name in ("one", "two", "three"):
        await keys.keys.create(who, name)
    await keys.keys.create(who, "mac", spec="HMAC_256")
    await keys.keys.disable(who, "two")

    async def listed(**which: Any) -> tuple[list[str], int]:
        found, total = await keys.keys.list(who, **which)
        return sorted(key.alias for key in found), total

    assert await listed() == (["kps/default", "mac", "one", "three", "two"], 5)
    assert await listed(spec="HMAC_256") == (["mac"], 1)
    assert await listed(state="disabled") == (["two"], 1)
    assert await listed(part_of_name="t") == (["kps/default", "three", "two"], 3)
    assert await listed(part_of_name="%") == ([], 0)
    pages = [key.alias for offset in range(5) for key in (await keys.keys.list(who, limit=1, offset=offset))[0]]
    assert sorted(pages) == ["kps/default", "mac", "one", "three", "two"]
    assert (await keys.keys.list(who, limit=2))[1] == 5


async def test_at_most_100_keys_and_the_services_own_are_not_counted(keys: KeyService, who: Caller) -> None:
    for number in range(100):
        await keys.keys.create(who, f"key-{number}", origin="external" if number % 2 else "kms")
    await keys.keys.disable(who, "key-0")
    await keys.keys.schedule_deletion(who, "key-2", 7)
    assert (await keys.keys.quota(who)).used == 100
    assert await code_of(keys.keys.create(who, "one-more")) == "master_key_quota"
    assert (await keys.uses.encrypt(who, "csms/default", Secret(b"x"))).key.default
    stranger = replace(who, tenant_id="2" * 32)
    assert (await keys.keys.create(stranger, "theirs")).alias == "theirs"


async def test_default_keys_are_made_at_first_use_and_only_those_of_services(keys: KeyService, who: Caller) -> None:
    assert await code_of(keys.keys.get(who, "csms/default")) == "master_key_not_found"
    made = (await keys.uses.encrypt(who, "csms/default", Secret(b"x"))).key
    assert (made.default, (await keys.keys.get(who, "csms/default")).id) == (True, made.id)
    assert await code_of(keys.uses.encrypt(who, "other/default", Secret(b"x"))) == "master_key_not_found"


# -- rotation


async def test_rotation_is_done_when_it_is_due(keys: KeyService, who: Caller, clock: Clock) -> None:
    await keys.keys.create(who, "one")
    for days in (29, 366, 0, -1):
        assert await code_of(keys.keys.enable_rotation(who, "one", days)) == "rotation_interval_unusable"
    assert (await keys.keys.enable_rotation(who, "one")).rotates_every == 365
    await keys.keys.change_rotation(who, "one", 30)
    made = await keys.uses.encrypt(who, "one", Secret(b"x"))
    clock.forward(days=29, hours=23)
    assert await keys.keys.sweep() == 0
    clock.forward(hours=1)
    assert await keys.keys.sweep() == 1
    assert await keys.keys.sweep() == 0
    rotated = await keys.keys.get(who, "one")
    assert (rotated.version, rotated.rotations, rotated.rotated_at) == (2, 1, clock.now)
    assert (await keys.uses.decrypt(who, made.ciphertext)).plaintext.open() == b"x"
    # Not while it is disabled; then as soon as it is enabled.
    await keys.keys.disable(who, "one")
    clock.forward(days=100)
    assert await keys.keys.sweep() == 0
    await keys.keys.enable(who, "one")
    assert await keys.keys.sweep() == 1
    assert (await keys.keys.get(who, "one")).version == 3
    await keys.keys.disable_rotation(who, "one")
    clock.forward(days=1000)
    assert await keys.keys.sweep() == 0
    # What was last said holds when it is put on again.
    assert (await keys.keys.enable_rotation(who, "one")).rotates_every == 30
    assert [number for number, _ in await keys.keys.versions(who, "one")] == [1, 2, 3]


async def test_secrets_in_custody_open_over_rotations(keys: KeyService, who: Caller, timed: Kms) -> None:
    await keys.keys.create(who, "one")
    first = timed.seal(who.tenant_id, Secret(b"x"), CONTEXT, alias="one")
    await keys.keys.rotate(who, "one")
    second = timed.seal(who.tenant_id, Secret(b"x"), CONTEXT, alias="one")
    assert timed.open(first, CONTEXT) == timed.open(second, CONTEXT) == Secret(b"x")


@pytest.mark.parametrize(
    ("spec", "code"),
    [("HMAC_256", "mac_key_not_rotated"), ("RSA_2048", "asymmetric_key_not_rotated"), ("EC_P256", "asymmetric_key_not_rotated")],
)
async def test_only_symmetric_keys_made_here_are_rotated(keys: KeyService, who: Caller, spec: str, code: str) -> None:
    await keys.keys.create(who, "one", spec=spec)
    assert await code_of(keys.keys.rotate(who, "one")) == await code_of(keys.keys.enable_rotation(who, "one")) == code


async def test_two_who_rotate_at_once_make_one_version_each(keys: KeyService, who: Caller, store: Store, timed: Kms) -> None:
    key = await keys.keys.create(who, "one")
    stale = timed.wrapped(replace(key, version=2), Secret(bytes(32)))
    await keys.keys.rotate(who, "one")

    def step(now: MasterKey) -> MasterKey:
        return replace(now, version=now.version + 1)

    with pytest.raises(Problem, match="changed meanwhile"):
        store.change_master_key(key.id, step, "master_key_rotated", None, version=stale)
    assert [each.version for each in store.master_key_versions(key.id)] == [1, 2]


# -- custody under a key that is not usable


@pytest.mark.parametrize(("state", "code"), [("disabled", D), ("pending", P), ("expired", W), ("waiting", W)])
async def test_custody_says_why_a_key_does_not_open(keys: KeyService, who: Caller, timed: Kms, state: str, code: str) -> None:
    if state == "waiting":
        await an_imported(keys, who)
    elif state == "expired":
        await a_waiting(keys, who)
        await brought(keys, who, "one", expires_at=START + timedelta(seconds=1))
    else:
        await an_enabled(keys, who)
    sealed = timed.seal(who.tenant_id, Secret(b"x"), CONTEXT, alias="one")
    after = {
        "disabled": lambda: keys.keys.disable(who, "one"),
        "pending": lambda: keys.keys.schedule_deletion(who, "one", 7),
        "waiting": lambda: keys.imports.delete(who, "one"),
        "expired": lambda: keys.keys.get(who, "one"),
    }[state]
    await after()
    timed._now.forward(seconds=2)  # type: ignore[attr-defined]
    for use in (lambda: timed.open(sealed, CONTEXT), lambda: timed.seal(who.tenant_id, Secret(b"x"), CONTEXT, alias="one")):
        with pytest.raises(Problem) as problem:
            use()
        assert problem.value.code == code


@pytest.mark.parametrize(("spec", "code"), [("RSA_2048", "asymmetric_key_not_possible"), ("HMAC_256", "mac_key_not_possible")])
async def test_custody_takes_symmetric_keys_only(keys: KeyService, who: Caller, timed: Kms, spec: str, code: str) -> None:
    await keys.keys.create(who, "one", spec=spec)
    with pytest.raises(Problem) as problem:
        timed.seal(who.tenant_id, Secret(b"x"), CONTEXT, alias="one")
    assert problem.value.code == code


async def test_the_master_key_of_an_only_way_in_is_not_taken_away_unless_that_is_said(
    keys: KeyService, who: Caller, store: Store, timed: Kms, clock: Clock
) -> None:
    from controller.model import Binding, Server
    from controller.service.keypairs import Keypairs

    key = await keys.keys.create(who, "one", origin="external")
    await brought(keys, who, "one")
    pair, _ = await Keypairs(store, timed).create(who, "ops")
    before = store.sealed_private(pair.id)
    store.move_private(pair.id, before, timed.rewrap(who.tenant_id, before, "one"), who.user_id)
    [server] = store.add_servers([Server("s1", who.tenant_id, "web-1", "192.0.2.1", password_login="off")])
    given.bind(store, Binding(server.id, "root", pair.id, "logged_in", True, "t", START))
    steps: list[Callable[..., Awaitable[MasterKey]]] = [
        lambda **said: keys.keys.disable(who, "one", **said),
        lambda **said: keys.keys.schedule_deletion(who, "one", 7, **said),
        lambda **said: keys.imports.delete(who, "one", **said),
    ]
    for step in steps:
        with pytest.raises(Problem, match="root@web-1") as problem:
            await step()
        assert problem.value.code == "only_way_in"
    assert (await keys.keys.get(who, key.id)).state == "enabled"
    assert (await steps[0](even_if_only_way_in=True)).state == "disabled"
    await keys.keys.enable(who, "one")
    assert (await steps[2](even_if_only_way_in=True)).state == "pending_import"
    # What goes by itself asks nobody, and is told.
    await brought(keys, who, "one", expires_at=START + timedelta(days=1))
    clock.forward(days=1)
    await keys.keys.sweep()
    told = [event.kind for event in store.events(who.tenant_id) if event.detail.get("only_way_in_of") == ["root@web-1"]]
    assert told == ["master_key_disabled", "master_key_material_deleted", "master_key_material_expired"]


# -- the end


async def test_a_destroyed_key_leaves_nothing_behind_that_opens_what_it_sealed(
    keys: KeyService, who: Caller, clock: Clock, store: Store, settings: Settings, timed: Kms, tmp_path: Path
) -> None:
    """Crypto-shred: the wrapped material is in no file of the home any more, nor in a backup that is made then."""
    key = await keys.keys.create(who, "one")
    signer = await keys.keys.create(who, "signer", spec="EC_P256")
    await keys.keys.rotate(who, "one")
    made = await keys.uses.encrypt(who, "one", Secret(b"x"))
    sealed = timed.seal(who.tenant_id, Secret(b"x"), CONTEXT, alias="one")
    versions = [*store.master_key_versions(key.id), *store.master_key_versions(signer.id)]
    gone = [each.wrapped for each in versions] + [each.sealed for each in versions if each.sealed]
    assert len(gone) == 4
    assert all(_somewhere(settings.home, each) for each in gone)
    for name in ("one", "signer"):
        await keys.keys.schedule_deletion(who, name, 7)
    clock.forward(days=6, hours=23)
    assert await keys.keys.sweep() == 0
    clock.forward(hours=1)
    assert await keys.keys.sweep() == 2
    assert not any(_somewhere(settings.home, each) for each in gone)
    with closing(sqlite3.connect(settings.database)) as database, closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        database.backup(backup)
    assert not any(each in (tmp_path / "backup.db").read_bytes() for each in gone)
    # With all that is left, the root key too, it does not open; and it is said why.
    for use in (lambda: timed.open(sealed, CONTEXT), lambda: timed.seal(who.tenant_id, Secret(b"x"), CONTEXT, alias=key.id)):
        with pytest.raises(Problem) as problem:
            use()
        assert problem.value.code in ("master_key_destroyed", "master_key_not_found")
    assert await code_of(keys.uses.decrypt(who, made.ciphertext)) == "master_key_destroyed"
    assert await code_of(keys.keys.get(who, key.id)) == "master_key_not_found"
    assert await code_of(keys.keys.cancel_deletion(who, key.id)) == "master_key_not_found"
    assert [event.kind for event in store.events(who.tenant_id)].count("master_key_destroyed") == 2
    # Its name is free.
    assert (await keys.keys.create(who, "one")).id != key.id


async def test_what_is_due_is_judged_by_the_clock_of_all_who_share_a_store(
    store: Store, kms: Kms, who: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of theirs may be wrong by days, and what it destroys is gone for all."""
    keys = KeyService.of(store, kms).keys
    await keys.create(who, "one")
    began = store.now()
    await keys.schedule_deletion(who, "one", 7)
    assert await keys.sweep() == 0
    monkeypatch.setattr(store, "_now", lambda: began + timedelta(days=7, minutes=1))
    assert await keys.sweep() == 1


def _somewhere(home: Path, value: bytes) -> bool:
    return any(value in path.read_bytes() for path in home.iterdir() if path.is_file())


async def test_the_end_takes_all_that_belonged_to_the_key(
    keys: KeyService, who: Caller, clock: Clock, settings: Settings
) -> None:
    await keys.keys.create(who, "one", origin="external")
    await keys.imports.parameters(who, "one")
    await brought(keys, who, "one")
    await keys.names.tag(who, "one", {"a": "b"})
    await keys.names.add_alias(who, "one", "alias/one")
    await keys.grants.create(who, "one", who.user_id, ["encrypt-data"])
    await keys.keys.schedule_deletion(who, "one", 1096)
    clock.forward(days=1096)
    assert await keys.keys.sweep() == 1
    with closing(sqlite3.connect(settings.database)) as database:
        for table in ("aliases", "tags", "grants"):
            assert database.execute(f"SELECT count(*) FROM master_key_{table}").fetchone() == (0,)  # noqa: S608
        assert database.execute("SELECT count(*) FROM import_tokens").fetchone() == (0,)
        assert database.execute("SELECT material_digest, public_key FROM master_keys WHERE alias = 'one'").fetchone() == (
            None,
            None,
        )


async def test_a_deletion_waits_7_to_1096_days(keys: KeyService, who: Caller) -> None:
    await keys.keys.create(who, "one")
    for days in (6, 1097, 0, -7):
        assert await code_of(keys.keys.schedule_deletion(who, "one", days)) == "pending_days_unusable"
    assert (await keys.keys.get(who, "one")).state == "enabled"


async def test_a_sweep_without_the_root_key_does_what_needs_none_and_the_rest_later(
    keys: KeyService, who: Caller, clock: Clock, store: Store, settings: Settings
) -> None:
    await keys.keys.create(who, "one")
    await keys.keys.create(who, "two")
    await keys.keys.enable_rotation(who, "one", 30)
    await keys.keys.schedule_deletion(who, "two", 7)
    clock.forward(days=40)

    class Away:
        check_value = "away"

        def wrap(self, key: Secret, context: bytes) -> bytes:
            from controller.errors import Unavailable

            raise Unavailable("root_key_unreachable", "the token is gone")

        unwrap = wrap

    without = KeyService.of(store, Kms(store, Away(), clock=clock))  # type: ignore[arg-type]
    without.keys._now = clock
    assert await without.keys.sweep() == 1
    assert await code_of(keys.keys.get(who, "two")) == "master_key_not_found"
    assert (await keys.keys.get(who, "one")).version == 1
    assert await keys.keys.sweep() == 1
    assert (await keys.keys.get(who, "one")).version == 2


async def test_what_was_kept_at_the_last_moment_is_not_destroyed(
    keys: KeyService, who: Caller, clock: Clock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep looked, then somebody cancelled, then the sweep goes on with what it saw."""
    await keys.keys.create(who, "one")
    await keys.keys.schedule_deletion(who, "one", 7)
    clock.forward(days=7)
    seen = store.master_keys_due(clock.now)
    assert [key.alias for key in seen] == ["one"]
    await keys.keys.cancel_deletion(who, "one")
    await keys.keys.schedule_deletion(who, "one", 30)
    monkeypatch.setattr(store, "master_keys_due", lambda at: seen)
    assert await keys.keys.sweep() == 0
    assert (await keys.keys.get(who, "one")).state == "pending_deletion"


async def test_a_destroyed_key_of_another_tenant_is_not_told(keys: KeyService, who: Caller, clock: Clock) -> None:
    await keys.keys.create(who, "one")
    made = (await keys.uses.encrypt(who, "one", Secret(b"x"))).ciphertext
    await keys.keys.schedule_deletion(who, "one", 7)
    clock.forward(days=7)
    await keys.keys.sweep()
    assert await code_of(keys.uses.decrypt(who, made)) == "master_key_destroyed"
    assert await code_of(keys.uses.decrypt(replace(who, tenant_id="2" * 32), made)) == "master_key_not_found"


# -- imported material


async def test_imported_material_is_used_deleted_and_imported_again(
    keys: KeyService, who: Caller, store: Store, settings: Settings
) -> None:
    waiting = await keys.keys.create(who, "one", origin="external")
    assert (waiting.state, waiting.version) == ("pending_import", 0)
    assert (await brought(keys, who, "one")).state == "enabled"
    made = await keys.uses.encrypt(who, "one", Secret(b"x"))
    [version] = store.master_key_versions(waiting.id)
    assert (await keys.imports.delete(who, "one")).state == "pending_import"
    assert not _somewhere(settings.home, version.wrapped)
    assert await code_of(keys.uses.decrypt(who, made.ciphertext)) == W
    assert await code_of(brought(keys, who, "one", bytes(32))) == "import_material_differs"
    assert await code_of(keys.uses.decrypt(who, made.ciphertext)) == W
    await brought(keys, who, "one")
    assert (await keys.uses.decrypt(who, made.ciphertext)).plaintext.open() == b"x"


async def test_imported_material_expires_at_its_date(keys: KeyService, who: Caller, clock: Clock) -> None:
    await keys.keys.create(who, "one", origin="external")
    assert await code_of(brought(keys, who, "one", expires_at=START)) == "import_expiry_in_past"
    await brought(keys, who, "one", expires_at=START + timedelta(days=1))
    made = await keys.uses.encrypt(who, "one", Secret(b"x"))
    clock.forward(days=1)
    assert await code_of(keys.uses.decrypt(who, made.ciphertext)) == W
    assert await keys.keys.sweep() == 1
    assert (await keys.keys.get(who, "one")).state == "pending_import"
    await brought(keys, who, "one")
    assert (await keys.uses.decrypt(who, made.ciphertext)).plaintext.open() == b"x"
    clock.forward(days=1000)
    assert await keys.keys.sweep() == 0


async def test_material_that_expires_while_the_deletion_is_pending_leaves_that_pending(
    keys: KeyService, who: Caller, clock: Clock
) -> None:
    await keys.keys.create(who, "one", origin="external")
    await brought(keys, who, "one", expires_at=START + timedelta(days=1))
    await keys.keys.schedule_deletion(who, "one", 30)
    clock.forward(days=2)
    assert await keys.keys.sweep() == 1
    assert (await keys.keys.get(who, "one")).state == "pending_deletion"
    assert (await keys.keys.cancel_deletion(who, "one")).state == "pending_import"


async def test_each_refusal_of_an_import_has_its_code(keys: KeyService, who: Caller, clock: Clock) -> None:
    await keys.keys.create(who, "one", origin="external")
    await keys.keys.create(who, "two", origin="external")
    await keys.keys.create(who, "rsa", origin="external", spec="RSA_2048")
    given, other = await keys.imports.parameters(who, "one"), await keys.imports.parameters(who, "two")
    public = load_der_public_key(given.public_key)
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.key_size == 2048
    assert 200 <= len(given.token) * 4 / 3 <= 6144  # as Base64
    good = public.encrypt(bytes(32), oaep())

    async def code(token: bytes = given.token, material: bytes = good, name: str = "one", **more: Any) -> str:
        return await code_of(keys.imports.import_(who, name, token, material, **more))

    assert await code(token=other.token) == "import_token_of_another_key"
    for place in (0, 30, len(given.token) - 1):
        changed = bytearray(given.token)
        changed[place] ^= 1
        assert await code(token=bytes(changed)) == "import_token_unusable"
    for token in (b"", b"x", given.token[:-1], given.token + b"x", os.urandom(300)):
        assert await code(token=token) == "import_token_unusable"
    for material in (b"", b"x" * 256, good[:-1], other.public_key):
        assert await code(material=material) == "import_material_unreadable"
    for size in (0, 16, 31, 33, 64):
        assert await code(material=public.encrypt(bytes(size), oaep())) == "import_material_length_wrong"
    assert await code(private_key=b"x") == "import_private_key_unusable"
    assert await code_of(keys.imports.parameters(who, "one", "SM2_ENCRYPT")) == "algorithm_not_here"
    assert await code_of(keys.imports.parameters(who, "one", "NONE")) == "algorithm_unfit"
    theirs = await keys.imports.parameters(who, "rsa")
    wrapping = load_der_public_key(theirs.public_key)
    assert isinstance(wrapping, rsa.RSAPublicKey)
    temporary = wrapping.encrypt(bytes(32), oaep())
    assert await code(theirs.token, temporary, "rsa") == "import_private_key_missing"
    assert await code(theirs.token, temporary, "rsa", private_key=b"x" * 40) == "import_private_key_unusable"
    short = wrapping.encrypt(bytes(24), oaep())
    assert await code(theirs.token, short, "rsa", private_key=b"x" * 40) == "import_temporary_key_length_wrong"
    assert await code_of(keys.imports.delete(who, "rsa")) == "asymmetric_material_stays"
    clock.forward(hours=24)
    assert await code() == "import_token_expired"
    await keys.keys.sweep()  # what opens it is forgotten then
    assert await code() == "import_token_expired"
    for _ in range(20):
        await keys.imports.parameters(who, "one")
    assert await code_of(keys.imports.parameters(who, "one")) == "import_token_quota"


# -- grants


@pytest.fixture
def auditor(store: Store, who: Caller) -> Caller:
    user = User("7" * 32, who.tenant_id, "auditor", "auditor")
    store.add_user(user, who.user_id)
    return replace(who, user_id=user.id, role="auditor")


GRANTABLE: dict[str, Step] = {
    "encrypt-data": lambda keys, who, name: keys.uses.encrypt(who, name, Secret(b"x")),
    "create-datakey": lambda keys, who, name: keys.uses.create_data_key(who, name),
    "create-datakey-without-plaintext": lambda keys, who, name: keys.uses.create_data_key(who, name, with_plaintext=False),
    "encrypt-datakey": lambda keys, who, name: keys.uses.encrypt_data_key(who, name, Secret(b"x"), bytes(32), 1),
    "decrypt-datakey": lambda keys, who, name: keys.uses.decrypt_data_key(who, name, b"nothing"),
    "create-grant": lambda keys, who, name: keys.grants.create(who, name, who.user_id, ["encrypt-data"]),
}


@pytest.mark.parametrize("granted", GRANTABLE)
async def test_a_grant_allows_what_it_says_and_no_more(
    keys: KeyService, who: Caller, auditor: Caller, granted: str, store: Store
) -> None:
    await keys.keys.create(who, "one")
    await keys.keys.create(who, "two")
    for asked in GRANTABLE.values():
        assert await code_of(asked(keys, auditor, "one")) == "role_reads_only"
    operations = [granted, "describe-key"] if granted == "create-grant" else [granted]
    grant = await keys.grants.create(who, "one", auditor.user_id, operations)
    for operation, asked in GRANTABLE.items():
        allowed = await code_of(asked(keys, auditor, "one")) != "role_reads_only"
        assert allowed == (operation == granted), operation
        assert await code_of(asked(keys, auditor, "two")) == "role_reads_only"
    assert await code_of(keys.uses.sign(auditor, "one", bytes(32), "ECDSA_SHA_256")) == "role_reads_only"
    await keys.grants.revoke(who, "one", grant.id)
    assert await code_of(GRANTABLE[granted](keys, auditor, "one")) == "role_reads_only"


async def test_decrypting_may_be_granted_and_is_recorded_with_the_grant(
    keys: KeyService, who: Caller, auditor: Caller, store: Store
) -> None:
    await keys.keys.create(who, "one")
    made = (await keys.uses.encrypt(who, "one", Secret(b"x"))).ciphertext
    assert await code_of(keys.uses.decrypt(auditor, made)) == "role_reads_only"
    grant = await keys.grants.create(who, "one", who.tenant_id, ["decrypt-data"])  # to all of the tenant
    assert (await keys.uses.decrypt(auditor, made)).plaintext.open() == b"x"
    used = [event.detail for event in store.events(who.tenant_id) if event.kind == "master_key_used"][-1]
    assert (used["operation"], used["user_id"], used["grant_id"]) == ("decrypt", auditor.user_id, grant.id)
    # A disabled key is of no use to anybody.
    await keys.keys.disable(who, "one")
    assert await code_of(keys.uses.decrypt(auditor, made)) == D


async def test_what_was_granted_may_be_passed_on_where_that_was_granted_too(
    keys: KeyService, who: Caller, auditor: Caller, other: Caller
) -> None:
    await keys.keys.create(who, "one")
    await keys.grants.create(who, "one", auditor.user_id, ["encrypt-data", "create-grant"])
    passed = await keys.grants.create(auditor, "one", other.user_id, ["encrypt-data"])
    assert passed.issuer == auditor.user_id
    assert await code_of(keys.grants.create(auditor, "one", other.user_id, ["decrypt-data"])) == "grant_exceeds_own"
    assert await code_of(keys.grants.create(other, "one", auditor.user_id, ["encrypt-data"])) == "administrator_needed"


async def test_who_ends_a_grant(keys: KeyService, who: Caller, auditor: Caller, other: Caller) -> None:
    await keys.keys.create(who, "one")
    await keys.keys.create(who, "two")
    grant = await keys.grants.create(who, "one", auditor.user_id, ["encrypt-data", "retire-grant"], grant_name="a-while")
    assert len(grant.id) == 64
    assert await code_of(keys.grants.revoke(other, "one", grant.id)) == "administrator_needed"
    assert await code_of(keys.grants.retire(other, "one", grant.id)) == "grant_not_yours"
    assert await code_of(keys.grants.revoke(who, "two", grant.id)) == "grant_of_another_key"
    assert await code_of(keys.grants.revoke(who, "one", "0" * 64)) == "grant_not_found"
    assert [each.id for each in await keys.grants.retirable(auditor)] == [grant.id]
    assert await keys.grants.retirable(other) == []
    await keys.grants.retire(auditor, "one", grant.id)
    assert await keys.grants.list(who, "one") == []
    named = await keys.grants.create(who, "one", auditor.user_id, ["encrypt-data"], retiring=other.user_id)
    assert await code_of(keys.grants.retire(auditor, "one", named.id)) == "grant_not_yours"
    await keys.grants.retire(other, "one", named.id)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"operations": []}, "grant_operations_unusable"),
        ({"operations": ["create-grant"]}, "grant_operations_unusable"),
        ({"operations": ["sign"]}, "grant_operations_unusable"),
        ({"grantee": "nobody"}, "grantee_unusable"),
        ({"grantee": "a b"}, "grantee_unusable"),
        ({"grantee": ""}, "grantee_unusable"),
        ({"grant_name": "x" * 256}, "grant_name_unusable"),
        ({"retiring": "nobody"}, "grantee_unusable"),
    ],
)
async def test_what_cannot_be_granted(keys: KeyService, who: Caller, given: dict[str, Any], code: str) -> None:
    await keys.keys.create(who, "one")
    asked = {"grantee": who.user_id, "operations": ["encrypt-data"]} | given
    assert await code_of(keys.grants.create(who, "one", **asked)) == code


async def test_at_most_100_grants_for_a_key(keys: KeyService, who: Caller) -> None:
    await keys.keys.create(who, "one")
    for _ in range(100):
        await keys.grants.create(who, "one", who.user_id, ["encrypt-data"])
    assert await code_of(keys.grants.create(who, "one", who.user_id, ["encrypt-data"])) == "grant_quota"


async def test_an_operator_uses_keys_and_changes_none(keys: KeyService, who: Caller, other: Caller) -> None:
    await keys.keys.create(who, "one")
    assert await code_of(keys.uses.encrypt(other, "one", Secret(b"x"))) == ""
    changing = set(TABLE) - {"get", "encrypt", "data key"}
    for step in changing:
        assert await code_of(TABLE[step][0](keys, other, "one")) == "administrator_needed", step
    assert await code_of(keys.keys.create(other, "two")) == "administrator_needed"
