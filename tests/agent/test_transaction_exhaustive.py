"""The transaction, with everything that can go wrong in it going wrong at every effect: see exhaust.py for the promises."""

import errno
import functools
import gc
import hashlib
import itertools
import posixpath
from collections import Counter
from typing import Any

import pytest
from exhaust import (
    Broken,
    Fault,
    Judge,
    Race,
    Run,
    answered,
    both,
    broken_disk,
    deadline,
    edit,
    end_of_file,
    fail,
    os_error,
    sshd_dies,
    written,
)
from model_host import CONFIG, STATE, Credential, ModelHost, World, file
from scenarios import PASSWORDS, SCENARIOS, STRANGER, Scenario

from kpsagent import plan as plans
from kpsagent.errors import Failed, Refused
from kpsagent.host import (
    Arm,
    Ask,
    Clock,
    Listening,
    MakeDirectory,
    MoveJournal,
    Read,
    Reload,
    Replace,
    SetMode,
    SetOwner,
    SetPassword,
    Walk,
    WriteJournal,
    WriteState,
)
from kpsagent.plan import Step
from kpsagent.transaction import drive, operation
from kpsagent.undo import unattended

every_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
POINTS: Counter[str] = Counter()
UNTOUCHED = ("as_before", "reverted")


@functools.cache
def judge_of(name: str) -> Judge:
    return Judge(next(scenario for scenario in SCENARIOS if scenario.name == name), POINTS)


def commit_of(effects: list[Any]) -> int:
    """The effect after which all holds: where there is nothing to commit, the one before the result is written down.

    Before that stands the look at what is owed, which is kept.
    """
    written_down = next(at for at, effect in enumerate(effects) if isinstance(effect, WriteState))
    return next((at for at, effect in enumerate(effects) if isinstance(effect, MoveJournal)), written_down - 2)


def last_heard(effects: list[Any]) -> int:
    """The last effect before the commit in which the rope and the deadline count."""
    return max(at for at, effect in enumerate(effects[: commit_of(effects) + 1]) if isinstance(effect, Ask | Listening))


def of_another(effect: Any, scenario: Scenario) -> bool:
    """Whether this looks at another login's keys: where that fails, they count as none."""
    return isinstance(effect, Walk | Read) and effect.account is not None and effect.account.name != scenario.login


def of_no_root(effect: Any) -> bool:
    """Whether this looks for what an operation without root has left in the login's home."""
    return isinstance(effect, Read) and "/.kps/" in effect.path


def play(
    judge: Judge, what: str, first: int, before: Fault | None = None, after: Fault | None = None, again: bool = False
) -> tuple[Run, Any]:
    """Play to the end with a fault at the effect first or later.

    The result is held to be honest, and what a crash at any moment since leads to, to the promises.
    """
    run = Run(judge, before, after, first)
    POINTS[what] += 1
    try:
        result = run.play()
        honest(run, result)
        for state in [*run.trail, run.state()]:
            judge.explore(state, again)
        run.trail.clear()
    except Broken as broken:
        tail = [type(effect).__name__ for effect in run.effects[-12:]]
        raise Broken(f"{broken}; after effect {len(run.effects)}, the last: {tail}") from None
    return run, result


def honest(run: Run, result: Any) -> None:
    """Raise Broken unless the result says what is there."""
    status, state = result["status"], result["server_state"]
    if status == "succeeded" and not run.committed:
        raise Broken("succeeded without a commit")
    put_back = state == "partial" and result["cause"] in ("authorized_keys_changed", "sshd_config_changed")
    if status == "failed" and run.committed and state != "unknown" and not put_back:
        raise Broken(f"{state} after the commit")
    if "leftover" not in result and (status != "failed" or state in UNTOUCHED):
        run.judge.ended(run.world, status != "failed")


@pytest.fixture(scope="module", autouse=True)
def _no_collector():
    # Hundreds of thousands of small values stay; to look through them again and again takes longer than all the tests.
    gc.disable()
    yield
    gc.enable()
    judge_of.cache_clear()


@pytest.fixture(autouse=True)
def _points(request):
    POINTS.clear()
    yield
    request.node.user_properties.append(("counted", {f"transaction: {what}": number for what, number in POINTS.items()}))


@pytest.fixture
def judge(scenario):
    judge = judge_of(scenario.name)
    judge.theirs = {}
    return judge


@every_scenario
def test_an_operation_ends_as_asked_and_keeps_every_promise_on_the_way(scenario, judge):
    run, result = play(judge, "undisturbed", 0)
    assert result["status"] == ("succeeded" if scenario.changes else "unchanged"), result
    assert result["server_state"] == "as_asked"
    assert {path: run.world.disk.get(path) for path in scenario.wanted} == scenario.wanted
    proved = [(each["way"], each["login"], each["method"]) for each in result["proofs"]]
    assert sorted(proved) == sorted(shown(scenario))


@every_scenario
def test_the_digests_in_the_result_are_those_of_the_files_before_and_after(scenario, judge):
    run, result = play(judge, "undisturbed", 0)

    def digest(disk, path):
        entry = disk.get(path)
        if entry is None or entry.kind != "file":
            return None
        return hashlib.sha256(entry.text.encode("utf-8", "surrogateescape")).hexdigest()

    before, after = judge.before, run.world.disk
    changed = sorted(path for path in scenario.wanted if digest(before, path) != digest(after, path))
    assert result["files"] == [
        {"path": path, "before": digest(before, path), "after": digest(after, path)} for path in changed
    ]  # fmt: skip


def shown(scenario: Scenario) -> list[tuple[str, str, str]]:
    """What has to be proved of the login for this order, worked out from what it asks for: (way, login, method)."""
    order, login = scenario.order, scenario.login
    if order["operation"] == "reset":
        return []  # a disk at rest lets nobody in yet
    found = []
    if "key" in order:
        found.append(("key", login, "logged_in" if scenario.provable else "accepted"))
    if order["operation"] in ("unbind", "password-login-enable"):
        found.append(("password", login, "logged_in" if order["password_known"] else "password_offered"))
    if order["operation"] == "password-set" and scenario.works[1:]:
        found.append(("password", login, "logged_in"))
    if order.get("passwords") == "off":
        found.append(("password", login, "refused"))
    if "remove" in order:
        found.append(("key", login, "refused"))
    return found


def begun_of(effects):
    """Where the first thing is written: what comes before only looks."""
    return next(at for at, effect in enumerate(effects) if isinstance(effect, WriteJournal))


@every_scenario
def test_a_crash_at_any_effect_and_again_at_any_effect_of_the_recovery_keeps_every_promise(scenario, judge):
    play(judge, "undisturbed", 0, again=True)


ERRORS = [os_error(name) for name in ("ENOSPC", "EIO", "EROFS", "EPERM", "EACCES", "ELOOP")]
ERRORS += [Refused("path_unsafe", "a link"), Failed("unexpected", "odd"), ValueError("a mistake of ours")]


@every_scenario
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: errno.errorcode.get(getattr(error, "errno", 0), type(error).__name__))
def test_an_effect_that_fails_anywhere_is_undone_and_told_as_it_is(scenario, judge, error):
    effects = judge.undisturbed.effects
    for at, effect in enumerate(effects):
        _, result = play(judge, "failures", at, fail(at, error))
        if at <= commit_of(effects) and not of_another(effect, scenario):
            if scenario.order.get("repair") and at < begun_of(effects) and result["status"] == "succeeded":
                continue  # a doctor names what it cannot look at, and mends the rest
            if of_no_root(effect) and isinstance(error, PermissionError):
                continue  # the login keeps nothing where it gets no further itself
            assert result["status"] == "failed", (at, effect)
            if of_no_root(effect) and isinstance(error, Refused):
                assert result["cause"] == "undo_incomplete"  # there is something, whatever it is
                continue
            assert result["server_state"] in UNTOUCHED, (at, effect, result)


@every_scenario
def test_an_effect_that_takes_place_and_fails_all_the_same_is_undone_or_told_to_be_unknown(scenario, judge):
    effects = judge.undisturbed.effects
    commit = commit_of(effects)
    for at in [at for at, effect in enumerate(effects) if written(effect)]:
        _, result = play(judge, "failures", at, None, fail(at, os_error("EIO")))
        if at < commit:
            assert result["server_state"] in UNTOUCHED, (at, effects[at], result)
        if at == commit and scenario.changes:
            assert (result["status"], result["server_state"]) == ("failed", "unknown")


@every_scenario
def test_a_failure_followed_by_any_failure_of_the_undo_locks_nobody_out_and_is_made_good_by_the_next_run(scenario, judge):
    effects = judge.undisturbed.effects
    first = next((at for at, effect in enumerate(effects) if isinstance(effect, WriteJournal)), len(effects))
    for at in range(first, min(commit_of(effects) + 1, len(effects))):
        run, _ = play(judge, "failures", at, fail(at, os_error("EIO")))
        for second in range(at + 1, len(run.effects)):
            _, result = play(judge, "pairs of failures", at, both(fail(at, os_error("EIO")), fail(second, os_error("EROFS"))))
            assert result["status"] == "failed"


@every_scenario
@pytest.mark.parametrize("place", ["/", "/etc", "/root", "/home", "/var/lib/kps"])
def test_a_disk_that_takes_nothing_from_any_effect_on_locks_nobody_out(scenario, judge, place):
    for at in [at for at, effect in enumerate(judge.undisturbed.effects) if written(effect)]:
        for name in ("ENOSPC", "EROFS"):
            play(judge, "broken disks", at, broken_disk(at, os_error(name), place))


@every_scenario
def test_a_rope_that_ends_before_the_commit_is_never_a_success(scenario, judge):
    effects = judge.undisturbed.effects
    for at in range(len(effects)):
        _, result = play(judge, "ends of the rope", at, end_of_file(at))
        if at <= last_heard(effects):
            assert (result["status"], result["cause"]) == ("failed", "connection_lost"), (at, effects[at])
            assert result["server_state"] in UNTOUCHED


@every_scenario
def test_a_deadline_that_passes_before_the_commit_is_never_a_success(scenario, judge):
    effects = judge.undisturbed.effects
    begun = next((at for at, effect in enumerate(effects) if isinstance(effect, Clock)), len(effects))
    for at in range(begun + 1, len(effects)):
        _, result = play(judge, "deadlines", at, deadline(at))
        if at <= last_heard(effects):
            assert (result["status"], result["cause"]) == ("failed", "deadline_passed"), (at, effects[at])
            assert result["server_state"] in UNTOUCHED


@every_scenario
def test_the_last_thing_before_the_commit_is_to_see_that_the_rope_still_holds(scenario, judge):
    effects = judge.undisturbed.effects
    commit = commit_of(effects)
    assert isinstance(effects[commit - 1] if scenario.changes else effects[commit], Listening)


STEPS = MakeDirectory | Replace | SetMode | SetOwner | SetPassword


@every_scenario
def test_before_each_step_it_is_seen_that_the_rope_still_holds(scenario, judge):
    effects = judge.undisturbed.effects
    steps = [at for at, effect in enumerate(effects) if isinstance(effect, STEPS)]
    assert bool(steps) == bool(scenario.changes)
    assert all(isinstance(effects[at - 1], Listening) for at in steps)


@every_scenario
@pytest.mark.parametrize(
    ("place", "line", "cause"),
    [("keys", STRANGER, "authorized_keys_changed"), ("config", "Banner none", "sshd_config_changed")],
    ids=["keys", "config"],
)
def test_an_edit_by_somebody_else_after_ours_fails_the_operation(scenario, judge, place, line, cause):
    path = scenario.keys_path if place == "keys" else CONFIG
    effects = judge.undisturbed.effects
    ours = [at for at, effect in enumerate(effects) if isinstance(effect, Replace) and effect.path == path]
    assert bool(ours) == (path in scenario.wanted and not scenario.order.get("repair"))
    looks = [at for at, effect in enumerate(effects[: commit_of(effects)]) if isinstance(effect, Read) and effect.path == path]
    assert not ours or looks[-1] > ours[-1], "nobody looks again before the commit"
    for at in range(ours[-1] + 1, looks[-1] + 1) if ours else ():
        judge.theirs = {}
        _, result = play(judge, "edits by others", at, edit(at, path, line))
        assert (result["status"], result["cause"]) == ("failed", cause), (at, effects[at])


@every_scenario
def test_an_sshd_that_dies_of_a_reload_is_started_again_on_its_old_configuration(scenario, judge):
    for at in [at for at, effect in enumerate(judge.undisturbed.effects) if isinstance(effect, Reload)]:
        _, result = play(judge, "dead sshds", at, sshd_dies(at))
        assert (result["cause"], result["server_state"]) == ("reload_failed", "reverted")


def test_a_dead_sshd_is_what_the_armed_undo_is_for():
    scenario = SCENARIOS[0]
    judge = judge_of(scenario.name)
    (at,) = [at for at, effect in enumerate(judge.undisturbed.effects) if isinstance(effect, Reload)]
    run = Run(judge, sshd_dies(at), None, at)
    run.play()
    dead = [state for state in run.trail if state.world.loaded is None]
    assert dead
    assert all(state.world.armed for state in dead)


@every_scenario
@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(lambda given: [{"cause": "new_key_refused", "message": "no"}] * len(given), id="refused"),
        pytest.param(lambda given: [dict(each, nonce="of another machine") for each in given], id="another-machine"),
        pytest.param(lambda given: given[:-1], id="one-too-few"),
        pytest.param(lambda given: [dict(each, method="wished_for") for each in given], id="of-no-known-kind"),
        pytest.param(lambda given: [{}] * len(given), id="empty"),
        pytest.param(lambda given: ["yes"] * len(given), id="no-objects"),
        pytest.param(lambda given: 7, id="no-list"),
    ],
)
def test_a_proof_that_is_none_is_followed_by_the_undo(scenario, judge, answers):
    effects = judge.undisturbed.effects
    for at in [at for at, effect in enumerate(effects) if isinstance(effect, Ask)]:
        shown = any(each["want"] == "logged_in" or each["known"] for each in effects[at].questions) and scenario.provable
        _, result = play(judge, "bad proofs", at, answered(at, answers))
        if answers([{"method": "refused"}]) != [{"method": "refused", "nonce": "of another machine"}] or shown:
            assert result["status"] == "failed", (at, result)
            assert result["server_state"] in UNTOUCHED


@every_scenario
@pytest.mark.parametrize(("place", "line"), [("keys", STRANGER), ("config", "Banner none")], ids=["keys", "config"])
def test_what_somebody_else_writes_before_any_effect_stays_and_ours_goes(scenario, judge, place, line):
    path = scenario.keys_path if place == "keys" else CONFIG
    for at in range(len(judge.undisturbed.effects)):
        judge.theirs = {}
        _, result = play(judge, "edits by others", at, edit(at, path, line))
        assert result["server_state"] in ("as_asked", *UNTOUCHED), (at, result)


@pytest.mark.parametrize("scenario", [each for each in SCENARIOS if each.kind == "listener"], ids=lambda each: each.name)
def test_a_configuration_that_somebody_else_breaks_is_never_loaded_and_locks_nobody_out(scenario, judge):
    # Between the last `sshd -t` and the reload nobody can look.
    for at in [at for at, effect in enumerate(judge.undisturbed.effects) if not isinstance(effect, Reload)]:
        judge.theirs = {}
        run = Run(judge, edit(at, CONFIG, "Nonsense yes"), None, at)
        result = run.play()
        POINTS["broken by others"] += 1
        assert run.world.loaded is not None
        if result["server_state"] == "partial":
            assert result["remains"]
        entry = run.world.disk[CONFIG]
        run.world.disk[CONFIG] = entry._replace(text=entry.text.replace("Nonsense yes\n", ""))
        judge.theirs = {}
        judge.explore(run.state()._replace(world=run.world.unpowered().sshd_started()), False)


@every_scenario
def test_an_edit_of_somebody_elses_that_sshd_has_not_read_is_not_put_into_force(scenario, judge):
    edited = scenario._replace(disk={**scenario.disk, CONFIG: file(scenario.disk[CONFIG].text + "Banner none\n")})
    world, before = edited.world(), dict(edited.disk)
    loaded = world.loaded = scenario.world().loaded
    result = drive(operation(edited.plan()), ModelHost(world, edited.rope()))
    if scenario.kind == "listener" and CONFIG in scenario.wanted:
        assert (result["cause"], result["server_state"]) == ("setting_pending", "as_before")
        assert {path: entry for path, entry in world.disk.items() if not path.startswith(STATE)} == before
    else:
        assert result["server_state"] == "as_asked", result
    assert world.loaded == loaded


@every_scenario
def test_between_the_operation_and_a_watcher_exactly_one_wins(scenario, judge):
    effects = judge.undisturbed.effects
    armed = next((at for at, effect in enumerate(effects) if isinstance(effect, Arm)), len(effects))
    for at in range(armed + 1, len(effects)):
        for far in itertools.count():
            race = Race(at, far)
            run = Run(judge, race, None, at)
            result = run.play()
            race.finish()
            POINTS["races with a watcher"] += 1
            honest_after(run, result)
            if race.over:
                break


@pytest.mark.parametrize(
    "scenario",
    [each for each in SCENARIOS if "closing-passwords-root" in each.name or "close-pass" in each.name],
    ids=lambda each: each.name,
)
def test_a_watcher_that_wakes_up_in_the_next_operation_leaves_it_alone(scenario, judge):
    last = last_heard(judge.undisturbed.effects)
    following = plans.parse(dict(scenario.order, id="op-8", generation=8))
    for far in itertools.count():
        for at in itertools.count():
            race = Race(last, far)
            run = Run(judge, race, None, last)
            assert run.play()["status"] == "failed"
            run.looking = False
            host = ModelHost(run.world, scenario.rope(), lambda number, _, at=at, race=race: number == at and race.finish())
            result = drive(operation(following), host)
            host.close()
            POINTS["watchers in the next operation"] += 1
            assert (result["status"], result["server_state"]) == ("succeeded", "as_asked"), (far, at, result)
            judge.ended(run.world, True)
            if at > host.count:
                break
        if race.over:
            break


def undecided(judge: Judge) -> list[World]:
    """The server at each moment at which a power failure leaves something to undo."""
    worlds = [state.world.unpowered() for state, _ in judge.undisturbed.moments]
    return [world for world in worlds if world.journal() and f"{STATE}/journal.confirmed" not in world.disk]


def booted(world: World) -> Any:
    """What the undo at boot says, or what stops it."""
    host = ModelHost(world)
    try:
        return drive(unattended(), host)
    except Failed as failed:
        return failed
    finally:
        host.close()


@every_scenario
@pytest.mark.parametrize("gone", ["home", "home, under an empty directory", "login"])
def test_a_boot_at_which_the_login_or_its_home_is_not_there_yet_opens_sshd_and_is_not_through(scenario, judge, gone):
    login, home = scenario.login, posixpath.dirname(posixpath.dirname(scenario.keys_path))
    for world in undecided(judge):
        steps = [Step(*each) for each in world.journal()["steps"]]
        accounts, disk = world.accounts, dict(world.disk)
        if gone == "login":
            world.accounts = [account for account in accounts if account.name != login]
        else:
            for path in [path for path in disk if path.startswith(home)]:
                world.drop(path)
        if gone == "home, under an empty directory":
            world.put(home, disk[home])
            world.shadowed = {home}
        told = booted(world)
        POINTS["boots without the home"] += 1
        if any(step.login for step in steps if step.kind != "password"):
            assert isinstance(told, Failed), told
            assert told.cause == "undo_incomplete"
            assert world.journal() is not None
            closed = any(step.kind == "block" for step in steps[world.journal()["widening"] :])
            assert not closed or world.disk[CONFIG] == judge.before[CONFIG]
            assert not closed or gone == "login" or world.sshd_started().logs_in(Credential("password", login, PASSWORDS[login]))
        for path in [path for path in disk if path.startswith(home)]:
            world.put(path, disk[path])
        world.accounts, world.shadowed = accounts, set()
        told = booted(world) if isinstance(told, Failed) else told
        assert told["result"] == "reverted"
        judge.ended(world.sshd_started(), False)


@every_scenario
def test_a_file_that_somebody_removes_is_not_brought_back_by_the_undo(scenario, judge):
    for world in undecided(judge):
        world.drop(scenario.keys_path)
        assert booted(world)["result"] == "reverted"
        assert scenario.keys_path not in world.disk
        assert world.journal() is None


def honest_after(run: Run, result: Any) -> None:
    if result["status"] == "succeeded":
        assert run.committed
        run.judge.ended(run.world, True)
    else:
        assert not run.committed
        assert result["server_state"] in ("reverted", "partial", "unknown")
        run.judge.explore(run.state(), False)
