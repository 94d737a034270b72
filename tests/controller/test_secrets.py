"""Secrets in custody: versions and stages, who is told what, passwords on their way to servers, and what waits to be sealed."""

import asyncio
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from controller import secretvalues, stages
from controller.app import opened
from controller.errors import AlreadyExists, Conflict, Damaged, Invalid, NotFound, Problem, Unavailable
from controller.kms import Kms, root
from controller.model import Caller, Outcome, Secret, Task, now
from controller.service.secrets import KEPT_DAYS, Secrets
from controller.settings import Settings
from controller.stages import CURRENT, PREVIOUS
from controller.store import Store, engine, tables
from tests.controller import secret_search
from tests.controller.world import Dispatch, World

T = TypeVar("T")
PROVED = [{"way": "password", "login": "root", "method": "logged_in"}]


def run(work: Awaitable[T]) -> T:
    async def waited() -> T:
        return await work

    return asyncio.run(waited())


@pytest.fixture(scope="module")
def who(world: World) -> Caller:
    """An administrator of a tenant of these tests' own."""
    return world.tenant("secrets")


def value(world: World, who: Caller, name: str, **which: str) -> bytes:
    return run(world.secrets.open(who, name, **which))[1].open()


def marked(world: World, who: Caller, name: str) -> dict[str, str]:
    """Stage -> version."""
    return {stage: each.name for each in run(world.secrets.get(who, name))[1] for stage in each.stages}


def ends(world: World, task: Task, status: str = "succeeded", state: str = "as_asked", cause: str | None = None) -> None:
    """Have a task end so, as its runner would."""
    claimed = world.store.claim(task.id, "me", 30)
    assert claimed is not None
    proofs = PROVED if status == "succeeded" else []
    outcome = Outcome(status, state, "done", cause, f"{task.server_name}: {cause}", proofs=proofs)  # type: ignore[arg-type]
    assert world.store.finish(task.id, "me", claimed.generation, outcome)


def a_password(world: World, who: Caller, first: str | None = None) -> str:
    """The name of a new password of root on a new server."""
    name, server = world.name("password"), world.server(who)
    run(world.secrets.create(who, name, None if first is None else Secret(first), server=server))
    return name


# -- versions and stages


def test_each_new_version_is_current_and_the_one_before_previous(world: World, who: Caller) -> None:
    name = world.name("text")
    run(world.secrets.create(who, name, Secret("one"), description="of a database"))
    assert marked(world, who, name) == {CURRENT: "v1"}
    run(world.secrets.keep(who, name, Secret("two")))
    assert marked(world, who, name) == {CURRENT: "v2", PREVIOUS: "v1"}
    run(world.secrets.keep(who, name, Secret("three"), stages=["next"]))
    assert marked(world, who, name) == {CURRENT: "v2", PREVIOUS: "v1", "next": "v3"}
    found = [value(world, who, name, **which) for which in ({}, {"stage": PREVIOUS}, {"version": "latest"}, {"version": "v1"})]
    assert found == [b"two", b"one", b"three", b"one"]
    run(world.secrets.set_stage(who, name, CURRENT, "v3"))
    assert marked(world, who, name) == {CURRENT: "v3", PREVIOUS: "v2", "next": "v3"}


def test_the_built_in_stages_cannot_be_deleted_and_others_can(world: World, who: Caller) -> None:
    name = world.name("text")
    run(world.secrets.create(who, name, Secret("one")))
    run(world.secrets.set_stage(who, name, "blue", "v1"))
    for stage in stages.BUILT_IN:
        with pytest.raises(Conflict) as refused:
            run(world.secrets.delete_stage(who, name, stage))
        assert refused.value.code == "stage_built_in"
    assert run(world.secrets.delete_stage(who, name, "blue")) == {CURRENT: 1}
    with pytest.raises(NotFound):
        run(world.secrets.delete_stage(who, name, "blue"))


def test_the_oldest_version_without_a_stage_makes_room(world: World, who: Caller) -> None:
    name = world.name("text")
    run(world.secrets.create(who, name, Secret("v1")))
    run(world.secrets.set_stage(who, name, "kept", "v1"))
    for number in range(2, stages.MOST_VERSIONS + 2):
        run(world.secrets.keep(who, name, Secret(f"v{number}")))
    names = [each.name for each in run(world.secrets.get(who, name))[1]]
    assert (len(names), names[0], names[1]) == (stages.MOST_VERSIONS, "v1", "v3")
    with pytest.raises(NotFound):
        value(world, who, name, version="v2")
    times = [each.created_at for each in run(world.secrets.get(who, name))[1]]
    assert times == sorted(set(times))


def test_where_every_version_has_a_stage_there_is_room_for_none() -> None:
    with pytest.raises(Conflict):
        stages.to_drop(range(1, stages.MOST_VERSIONS + 1), {f"s{each}": each for each in range(1, 21)}, None)
    with pytest.raises(Conflict):
        stages.with_stage({f"s{each}": 1 for each in range(stages.MOST_STAGES)}, "more", 1)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["blue", "green", CURRENT, PREVIOUS])), max_size=30))
def test_whatever_is_done_there_is_a_current_version_and_it_is_one_that_was_kept(steps: list[tuple[bool, str]]) -> None:
    found, newest = stages.with_version({}, 1, None), 1
    for new, stage in steps:
        if new:
            newest += 1
            found = stages.with_version(found, newest, [stage] if stage not in stages.BUILT_IN else None)
        else:
            found = stages.with_stage(found, stage, 1)
        assert CURRENT in found
        assert {*found.values()} <= set(range(1, newest + 1))


@given(st.lists(st.sampled_from(["new", "came", "lost"]), max_size=40))
def test_what_is_known_to_work_is_always_current_or_previous(steps: list[str]) -> None:
    """As rotations go: a new version only where the newest has come to its server."""
    found, newest, works = stages.with_version({}, 1, None, None), 1, 1
    for step in steps:
        if step == "new" and works == newest:
            newest += 1
            found = stages.with_version(found, newest, None, works)
        elif step == "came":
            works = newest
        assert works in (found[CURRENT], found.get(PREVIOUS))


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (lambda w, me: w.secrets.create(me, "a b", Secret("x")), "name_unusable"),
        (lambda w, me: w.secrets.create(me, "x" * 65, Secret("x")), "name_unusable"),
        (lambda w, me: w.secrets.create(me, w.name("s"), Secret("")), "secret_value_unusable"),
        (lambda w, me: w.secrets.create(me, w.name("s"), Secret(bytes(stages.VALUE_BYTES + 1))), "secret_value_unusable"),
        (lambda w, me: w.secrets.create(me, w.name("s"), None), "secret_missing"),
        (lambda w, me: w.secrets.create(me, w.name("s"), Secret("x"), description="x" * 2049), "description_unusable"),
        (lambda w, me: w.secrets.create(me, w.name("s"), Secret("a\nb"), server=w.server(me)), "secret_value_unusable"),
        (lambda w, me: w.secrets.create(me, w.name("s"), server=w.server(me), login="a,b*"), "login_unusable"),
        (lambda w, me: w.secrets.create(me, w.name("s"), Secret("x"), login="root"), "login_unusable"),
    ],
)
def test_what_cannot_be_a_secret_is_refused(world: World, who: Caller, what, code: str) -> None:
    with pytest.raises(Invalid) as refused:
        run(what(world, who))
    assert refused.value.code == code


@pytest.mark.parametrize("period", ["5h", "8761h", "30", "d", "1.5d", "-1d", "30 d", "٣d", "9999999999d", ""])
def test_what_is_no_period_is_refused(period: str) -> None:
    with pytest.raises(Invalid):
        stages.seconds_of(period)


def test_a_period_is_told_as_it_was_said() -> None:
    assert [stages.period(stages.seconds_of(each)) for each in ("6h", "30d", "8760h", "25h")] == ["6h", "30d", "365d", "25h"]


def test_an_expired_version_is_not_given_out(world: World, who: Caller) -> None:
    name = world.name("text")
    run(world.secrets.create(who, name, Secret("one"), expires_at=now() - timedelta(seconds=1)))
    with pytest.raises(Conflict) as refused:
        value(world, who, name)
    assert refused.value.code == "secret_expired"


def test_a_name_is_one_secret_to_everyone_who_may_see_it(world: World, who: Caller) -> None:
    other = world.user(who, "operator")
    name = world.name("text")
    run(world.secrets.create(who, name, Secret("mine")))
    with pytest.raises(AlreadyExists) as refused:
        run(world.secrets.create(who, name, Secret("again")))
    assert refused.value.code == "secret_exists"
    with pytest.raises(NotFound):
        run(world.secrets.get(other, name))
    run(world.secrets.create(other, name, Secret("theirs")))
    with pytest.raises(AlreadyExists) as refused:
        run(world.secrets.create(other, name, Secret("ours"), scope="account"))
    assert value(world, who, name) == b"mine"
    server = world.server(who)
    run(world.secrets.create(who, world.name("password"), server=server))
    with pytest.raises(AlreadyExists) as refused:
        run(world.secrets.create(who, world.name("password"), server=server))
    assert refused.value.code == "password_kept"


# -- custody


def test_no_opening_without_an_event_and_no_value_in_any(world: World, who: Caller) -> None:
    name, word = world.name("text"), "correct horse battery staple"
    run(world.secrets.create(who, name, Secret(word)))
    value(world, who, name)
    events = [each for each in world.store.events(who.tenant_id) if each.detail.get("secret") == name]
    assert [each.kind for each in events] == ["secret_created", "secret_stored", "secret_opened"]
    assert (events[-1].detail["purpose"], events[-1].detail["version"], events[-1].user_id) == ("show", 1, who.user_id)
    assert (
        secret_search.in_files(secret_search.text("value", word), [each for each in world.home.rglob("*") if each.is_file()])
        == []
    )
    assert word not in repr(events)


def test_events_of_a_private_secret_are_its_owners_alone(world: World, who: Caller) -> None:
    other, name = world.user(who, "administrator"), world.name("text")
    run(world.secrets.create(who, name, Secret("mine")))
    assert name not in repr(run(world.tasks.events(other)))
    assert name in repr(run(world.tasks.events(who)))


def test_a_value_opens_for_its_own_version_of_its_own_secret_alone(world: World, who: Caller) -> None:
    one, other = world.name("text"), world.name("text")
    for name in (one, other):
        run(world.secrets.create(who, name, Secret(name)))
        run(world.secrets.keep(who, name, Secret(f"{name} again")))
    table = tables.secret_versions
    ids = {name: run(world.secrets.get(who, name))[0].id for name in (one, other)}

    def sealed(name: str, version: int):
        with engine.reading(world.store._engine) as connection:
            query = select(table.c.sealed).where(table.c.secret_id == ids[name], table.c.version == version)
            return connection.execute(query).scalar_one()

    def put(record: bytes) -> None:
        with engine.writing(world.store._engine) as connection:
            where = (table.c.secret_id == ids[one], table.c.version == 2)
            connection.execute(update(table).where(*where).values(sealed=record))

    before = sealed(one, 2)
    for record, code in ((sealed(other, 2), "sealed_for_another"), (sealed(one, 1), "secret_version_old")):
        put(record)
        with pytest.raises(Damaged) as refused:
            value(world, who, one)
        assert refused.value.code == code
    put(before)
    with engine.writing(world.store._engine) as connection:
        connection.execute(update(tables.secrets).where(tables.secrets.c.id == ids[one]).values(scope="account"))
    with pytest.raises(Damaged) as refused:
        value(world, who, one)
    assert refused.value.code == "facts_changed"
    with engine.writing(world.store._engine) as connection:
        connection.execute(update(tables.secrets).where(tables.secrets.c.id == ids[one]).values(scope="private"))


def test_what_is_deleted_is_gone_from_the_files_too(world: World, who: Caller) -> None:
    name = world.name("text")
    run(world.secrets.create(who, name, Secret("one")))
    with engine.reading(world.store._engine) as connection:
        of = tables.secrets.c.id == tables.secret_versions.c.secret_id
        query = select(tables.secret_versions.c.sealed).join(tables.secrets, of).where(tables.secrets.c.name == name)
        record = connection.execute(query).scalar_one()
    run(world.secrets.delete(who, name))
    with pytest.raises(NotFound):
        run(world.secrets.get(who, name))
    found = secret_search.in_files(secret_search.raw("record", record[-40:]), [world.home / "kps.db", world.home / "kps.db-wal"])
    assert found == []


def test_whoever_is_deleted_leaves_no_private_secret_behind_that_nobody_can_see(world: World) -> None:
    boss = world.tenant("leaving")
    alice = world.user(boss, "operator")
    for scope in ("private", "account"):
        run(world.secrets.create(alice, f"of-{scope}", Secret("word"), scope=scope))
    with pytest.raises(Conflict) as refused:
        run(world.users.delete(boss, alice.user_id))
    assert (refused.value.code, refused.value.evidence) == ("user_owns_secrets", {"secrets": ["of-private"]})
    run(world.users.delete(boss, alice.user_id, with_keypairs=True))
    assert [each.name for each in run(world.secrets.list(boss))] == ["of-account"]
    assert value(world, boss, "of-account") == b"word"


# -- passwords on their way


def test_the_new_version_is_kept_before_its_task_is_and_works_when_that_has_ended(world: World, who: Caller) -> None:
    name = a_password(world, who, "f1rst")
    assert run(world.secrets.get(who, name))[0].works == 1
    rotation, task = run(world.secrets.rotate(who, name))
    assert (task.operation, task.request["version"], task.login) == ("password-set", 2, "root")
    secret, versions = run(world.secrets.get(who, name))
    assert (secret.version, secret.works, [each.stages for each in versions]) == (2, 1, [[PREVIOUS], [CURRENT]])
    with pytest.raises(Conflict) as refused:
        run(world.secrets.rotate(who, name))
    assert refused.value.code == "secret_busy"
    ends(world, task)
    assert run(world.secrets.get(who, name))[0].works == 2
    (found,) = run(world.secrets.rotations(who, name))
    assert (found.id, found.state, found.proved) == (rotation.id, "done", True)


@pytest.mark.parametrize("state", ["as_before", "reverted", "unknown"])
def test_what_has_not_come_to_its_server_is_tried_again_and_no_other_made(world: World, who: Caller, state: str) -> None:
    name = a_password(world, who, "f1rst")
    first, task = run(world.secrets.rotate(who, name))
    newest = value(world, who, name)
    ends(world, task, "failed", state, "connection_refused")
    (found,) = run(world.secrets.rotations(who, name, failed=True))
    assert (found.cause, found.tries, found.again_at is not None) == ("connection_refused", 1, True)
    again, task = run(world.secrets.rotate(who, name))
    assert (again.id, again.tries, task.request["version"]) == (first.id, 2, 2)
    assert marked(world, who, name) == {CURRENT: "v2", PREVIOUS: "v1"}
    assert (value(world, who, name), value(world, who, name, stage=PREVIOUS)) == (newest, b"f1rst")
    ends(world, task)
    assert [each.state for each in run(world.secrets.rotations(who, name))] == ["done"]


def test_an_end_that_is_heard_of_later_counts(world: World, who: Caller) -> None:
    name = a_password(world, who, "f1rst")
    _, task = run(world.secrets.rotate(who, name))
    ends(world, task, "failed", "unknown", "connection_lost")
    assert world.store.settle(task.id, "as_asked")
    assert run(world.secrets.get(who, name))[0].works == 2
    assert [each.state for each in run(world.secrets.rotations(who, name))] == ["done"]


def test_a_task_that_nobody_begins_any_more_leaves_a_failed_rotation(world: World, who: Caller) -> None:
    name = a_password(world, who, "f1rst")
    _, task = run(world.secrets.rotate(who, name))
    assert world.store.cancel(who.tenant_id, task.id, "not needed")
    (found,) = run(world.secrets.rotations(who, name))
    assert (found.state, found.cause) == ("failed", "cancelled")


def test_a_retried_task_takes_its_rotation_with_it(world: World, who: Caller) -> None:
    name = a_password(world, who, "f1rst")
    _, task = run(world.secrets.rotate(who, name))
    ends(world, task, "failed", "as_before", "connection_refused")
    again = run(world.tasks.retry(who, task.id))
    (found,) = run(world.secrets.rotations(who, name))
    assert (found.state, found.task_id, found.tries) == ("running", again.id, 2)
    ends(world, again)
    assert run(world.secrets.get(who, name))[0].works == 2


def test_versions_and_built_in_stages_of_a_password_are_not_made_by_hand(world: World, who: Caller) -> None:
    name = a_password(world, who, "f1rst")
    for work in (world.secrets.keep(who, name, Secret("x")), world.secrets.set_stage(who, name, CURRENT, "v1")):
        with pytest.raises(Conflict) as refused:
            run(work)
        assert refused.value.code == "secret_rotated"
    run(world.secrets.set_stage(who, name, "noted", "v1"))
    text = world.name("text")
    run(world.secrets.create(who, text, Secret("x")))
    for work in (world.secrets.rotate(who, text), world.secrets.schedule(who, text, "30d")):
        with pytest.raises(Conflict) as refused:
            run(work)
        assert refused.value.code == "not_a_password"


def test_passwords_are_rotated_when_their_time_has_come_and_failures_an_hour_later(world: World) -> None:
    who, at = world.tenant("timed"), now()
    clock = [at]
    secrets = Secrets(world.store, world.kms, Dispatch(), clock=lambda: clock[0])
    name = world.name("password")
    run(secrets.create(who, name, Secret("f1rst"), server=world.server(who)))
    run(secrets.schedule(who, name, "1d"))

    def rotations():
        return [(each.version, each.state, each.tries, each.by) for each in run(secrets.rotations(who, name))]

    def open_task() -> Task:
        (task,) = world.store.tasks(who.tenant_id, running=True)
        return task

    run(secrets.sweep())
    assert rotations() == []
    clock[0] = at + timedelta(days=1, seconds=1)
    run(secrets.sweep())
    run(secrets.sweep())
    assert rotations() == [(2, "running", 1, "schedule")]
    ends(world, open_task(), "failed", "as_before", "connection_refused")
    clock[0] = now() + timedelta(minutes=59)
    run(secrets.sweep())
    assert rotations() == [(2, "failed", 1, "schedule")]
    clock[0] = now() + timedelta(minutes=61)
    run(secrets.sweep())
    assert rotations() == [(2, "running", 2, "schedule")]
    ends(world, open_task())
    assert rotations() == [(2, "done", 2, "schedule")]
    assert run(secrets.get(who, name))[0].rotates_at is not None
    clock[0] = now() + timedelta(days=KEPT_DAYS, seconds=1)
    assert run(secrets.schedule(who, name, None)).rotates_at is None
    run(secrets.sweep())
    assert rotations() == []


def test_nobody_rotates_on_behalf_of_who_may_not_any_more(world: World) -> None:
    boss = world.tenant("changed")
    who = world.user(boss, "administrator")
    clock = [now()]
    secrets = Secrets(world.store, world.kms, Dispatch(), clock=lambda: clock[0])
    name = world.name("password")
    run(secrets.create(who, name, Secret("f1rst"), server=world.server(who)))
    run(secrets.schedule(who, name, "1d"))
    run(world.users.change(boss, who.user_id, role="auditor"))
    clock[0] += timedelta(days=2)
    run(secrets.sweep())
    assert run(secrets.rotations(boss, name)) == []
    assert run(secrets.get(boss, name))[0].version == 1


@pytest.mark.parametrize("state", ["as_before", "unknown"])
def test_what_was_shown_and_may_not_have_come_there_is_changed_all_the_same(world: World, who: Caller, state: str) -> None:
    server = world.server(who)
    made = run(world.secrets.make_password(who, server, "root"))
    shown = made.password.open()
    with pytest.raises(Conflict) as busy:
        run(world.secrets.change_password(who, server, "root"))
    assert busy.value.code == "secret_busy"
    ends(world, made.task, "failed", state, "connection_lost")
    changed = run(world.secrets.change_password(who, server, "root"))
    ends(world, world.store.task(who.tenant_id, changed.task_id))
    assert value(world, who, made.secret.name) != shown
    assert run(world.secrets.get(who, made.secret.name))[0].works == 2


def test_whoever_asks_for_a_password_sees_none_that_was_made_before(world: World, who: Caller) -> None:
    server = world.server(who)
    first = run(world.secrets.make_password(who, server, "root"))
    ends(world, first.task, "failed", "as_before", "connection_lost")
    second = run(world.secrets.make_password(who, server, "root"))
    assert second.password.open() != first.password.open()
    assert (first.rotation.version, second.rotation.version) == (1, 2)


# -- while the key service is away


def test_a_password_made_while_nothing_can_be_sealed_is_laid_by_and_sealed_later(world: World) -> None:
    who = world.tenant("away")
    run(world.secrets.sweep())  # all is well: the waiting key is made
    server = world.server(who)
    hidden = world.settings.root_key.with_name("elsewhere")
    world.settings.root_key.rename(hidden)
    try:
        made = run(_cold(world).make_password(who, server, "root"))
        word = made.password.open()
        secret = made.secret
        (version,) = world.store.secret_versions(secret.id)
        assert version.master_key_id is None
        files = [each for each in world.home.rglob("*") if each.is_file()]
        assert secret_search.in_files(secret_search.text("password", word), files) == []
        with pytest.raises(Unavailable):
            run(_cold(world).open(who, secret.name))
        run(_cold(world).sweep())
        assert world.store.laid_by()
    finally:
        hidden.rename(world.settings.root_key)
    run(_cold(world).sweep())
    assert world.store.laid_by() == []
    assert value(world, who, secret.name) == word
    (version,) = world.store.secret_versions(secret.id)
    assert (version.stages, version.master_key_id is not None) == ([CURRENT], True)
    kinds = [each.kind for each in world.store.events(who.tenant_id) if each.detail.get("secret") == secret.name]
    assert kinds[-2:] == ["secret_sealed", "secret_opened"]


def test_the_waiting_key_is_there_before_a_controller_lets_anybody_in(settings: Settings, made: Any, store: Store) -> None:
    owner = store.caller_by_local_home()

    async def story() -> bool:
        async with opened(settings, serving=True):
            return store.waiting_key(owner.tenant_id) is not None

    assert run(story())


def test_what_is_laid_by_opens_for_its_own_version_alone(world: World) -> None:
    who = world.tenant("laid")
    secretvalues.prepare(world.store, world.kms, who.tenant_id)
    secrets = {}
    for name in (world.name("password"), world.name("password")):
        run(world.secrets.create(who, name, server=world.server(who)))
        secrets[name] = run(world.secrets.get(who, name))[0]
    one, other = secrets.values()
    hidden = world.settings.root_key.with_name("elsewhere")
    world.settings.root_key.rename(hidden)
    try:
        laid = secretvalues.sealed_or_laid_by(world.store, _cold(world)._kms, one, 1, Secret("word"))
    finally:
        hidden.rename(world.settings.root_key)
    assert isinstance(laid, bytes)
    for secret, version in ((other, 1), (one, 2)):
        with pytest.raises(Damaged):
            secretvalues._value(world.store, world.kms, secret, version, laid)
    assert secretvalues._value(world.store, world.kms, one, 1, laid).open() == b"word"


def test_where_there_is_no_waiting_key_nothing_is_set_that_nobody_keeps(world: World) -> None:
    who = world.tenant("unprepared")
    name = a_password(world, who)
    hidden = world.settings.root_key.with_name("elsewhere")
    world.settings.root_key.rename(hidden)
    try:
        with pytest.raises(Problem):
            run(_cold(world).rotate(who, name))
    finally:
        hidden.rename(world.settings.root_key)
    assert run(world.secrets.get(who, name))[0].version == 0
    assert world.store.tasks(who.tenant_id, running=True) == []


def _cold(world: World) -> Secrets:
    """The services of a process that has opened no key yet."""
    return Secrets(world.store, Kms(world.store, *root.roots(world.home)), Dispatch())
