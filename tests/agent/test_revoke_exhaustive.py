"""Revoking, with everything that can go wrong in it going wrong at every effect: see exhaust.py for the promises.

Until its removal begins it is undone like anything else. From then on the way in that was proved stays, whoever recovers takes
the rest of the key away, and no line with the key comes back: that is what "committed" means here.
"""

import functools
import gc
import json
from collections import Counter
from typing import Any

import pytest
from exhaust import Broken, Fault, Judge, Race, Run, answered, broken_disk, deadline, edit, end_of_file, fail, os_error, written
from model_host import CONFIG, STATE, Credential, ModelHost, World, file
from scenarios import OLD, OPEN, REVOKES, STRANGER, Scenario

from kpsagent.errors import Refused
from kpsagent.host import Ask, Clock, EndSession, MoveJournal, Read, Replace, Session, Walk
from kpsagent.transaction import drive, operation

every_revoke = pytest.mark.parametrize("scenario", REVOKES, ids=lambda scenario: scenario.name)
POINTS: Counter[str] = Counter()
UNTOUCHED = ("as_before", "reverted")
BLOB = OLD.split()[1]


class RevokeJudge(Judge):
    """Holds besides that the key, once it is gone from a file, does not come back into it."""

    def explore(self, state: Any, again: bool = True) -> None:
        gone = self.without_key(state.world) if state.committed else set()
        super().explore(state, again)
        back = gone - self.without_key(state.world)
        if back:
            raise Broken(f"the key is back in {back}")

    def look(self, state: Any) -> None:
        super().look(state)
        if state.committed and not state.proved:
            raise Broken("the removal begins without a proof")

    def without_key(self, world: World) -> set[str]:
        return {path for path in self.scenario.wanted if path in world.disk and BLOB not in world.disk[path].text}


@functools.cache
def judge_of(name: str) -> RevokeJudge:
    return RevokeJudge(next(scenario for scenario in REVOKES if scenario.name == name), POINTS)


@pytest.fixture
def judge(scenario):
    judge = judge_of(scenario.name)
    judge.theirs = {}
    return judge


@pytest.fixture(scope="module", autouse=True)
def _no_collector():
    gc.disable()  # as in test_transaction_exhaustive.py
    yield
    gc.enable()
    judge_of.cache_clear()


@pytest.fixture(autouse=True)
def _points(request):
    POINTS.clear()
    yield
    request.node.user_properties.append(("counted", {f"revoking: {what}": number for what, number in POINTS.items()}))


def commit_of(effects: list[Any]) -> int:
    return next(at for at, effect in enumerate(effects) if isinstance(effect, MoveJournal))


def play(
    judge: Judge, what: str, first: int, before: Fault | None = None, after: Fault | None = None, again: bool = False
) -> Any:
    """Play to the end with a fault at the effect first or later; hold the result, and what a crash leads to, to the promises."""
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
    return result


def honest(run: Run, result: Any) -> None:
    status, state = result["status"], result["server_state"]
    if status == "succeeded" and not run.committed:
        raise Broken("succeeded without a removal")
    if status == "failed" and state not in (("partial", "unknown") if run.committed or "remains" in result else UNTOUCHED):
        raise Broken(f"{state}, {'after' if run.committed else 'before'} the removal began: {result}")
    if "leftover" in result:
        return
    if status == "succeeded" or state in UNTOUCHED:
        run.judge.ended(run.world, status == "succeeded")
    elif state == "partial" and run.committed and result["phase"] != "undo":
        # All that was asked of us is done; only the proof is missing.
        run.judge.ended(run.world, True)


@every_revoke
def test_a_revoke_ends_as_asked_and_keeps_every_promise_on_the_way(scenario, judge):
    result = play(judge, "undisturbed", 0)
    assert (result["status"], result["server_state"]) == ("succeeded", "as_asked"), result
    assert ("key", scenario.login, "refused") in [tuple(each.values()) for each in result["proofs"]]


@every_revoke
def test_nothing_is_removed_before_a_proof_and_the_commit(scenario, judge):
    effects = judge.undisturbed.effects
    removals = [
        at
        for at, each in enumerate(effects)
        if isinstance(each, Replace) and BLOB in (each.expected or "") and BLOB not in each.text
    ]
    asked = next(at for at, each in enumerate(effects) if isinstance(each, Ask))
    assert len(removals) == sum(BLOB in judge.before[path].text for path in scenario.wanted if path != CONFIG)
    assert asked < commit_of(effects) < removals[0]


@every_revoke
def test_a_crash_at_any_effect_and_again_at_any_effect_of_the_recovery_keeps_every_promise(scenario, judge):
    play(judge, "undisturbed", 0, again=True)


ERRORS = [os_error(name) for name in ("EIO", "EROFS", "EACCES")] + [
    Refused("path_unsafe", "a link"),
    ValueError("a mistake of ours"),
]


@every_revoke
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:9])
def test_a_failure_anywhere_ends_honestly(scenario, judge, error):
    effects = judge.undisturbed.effects
    for at, effect in enumerate(effects):
        if isinstance(effect, Walk | Read) and effect.account is not None and at < commit_of(effects):
            continue  # a file of keys that cannot be read is passed over: then this is another scenario
        result = play(judge, "failures", at, fail(at, error))
        if at < commit_of(effects):
            assert result["status"] == "failed", (at, effect)


@every_revoke
def test_an_effect_that_takes_place_and_fails_all_the_same_ends_honestly(scenario, judge):
    effects = judge.undisturbed.effects
    for at in [at for at, effect in enumerate(effects) if written(effect)]:
        result = play(judge, "failures", at, None, fail(at, os_error("EIO")))
        if at == commit_of(effects):
            assert (result["status"], result["server_state"]) == ("failed", "unknown")


@every_revoke
def test_a_disk_that_takes_nothing_from_any_effect_on_brings_no_key_back(scenario, judge):
    for at in [at for at, effect in enumerate(judge.undisturbed.effects) if written(effect)]:
        for place in ("/", "/etc", "/root", "/home", STATE):
            play(judge, "broken disks", at, broken_disk(at, os_error("EROFS"), place))


@every_revoke
@pytest.mark.parametrize("fault", [end_of_file, deadline])
def test_silence_before_the_removal_undoes_and_after_it_takes_the_key_away_all_the_same(scenario, judge, fault):
    effects = judge.undisturbed.effects
    begun = next(at for at, effect in enumerate(effects) if isinstance(effect, Clock))
    asked = max(at for at, effect in enumerate(effects) if isinstance(effect, Ask))
    for at in range(begun + 1, len(effects)):
        result = play(judge, "silence", at, fault(at))
        if at <= asked:
            assert result["status"] == "failed", (at, effects[at])
        if commit_of(effects) < at <= asked:
            assert result["server_state"] == "partial"


@every_revoke
@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(lambda given: [{"cause": "old_key_still_accepted", "message": "no"}] * len(given), id="still-accepted"),
        pytest.param(lambda given: [dict(each, nonce="of another machine") for each in given], id="another-machine"),
        pytest.param(lambda given: given[:-1], id="one-too-few"),
    ],
)
def test_a_proof_that_fails_after_the_removal_brings_nothing_back(scenario, judge, answers):
    effects = judge.undisturbed.effects
    asked = [at for at, effect in enumerate(effects) if isinstance(effect, Ask)]
    assert asked[-1] > commit_of(effects)
    for at in asked:
        result = play(judge, "bad proofs", at, answered(at, answers))
        bent = answers([{"method": "refused"}]) != [{"method": "refused", "nonce": "of another machine"}]
        if bent or scenario.order.get("key"):
            assert result["status"] == "failed"
            assert result["server_state"] in (("partial",) if at > commit_of(effects) else UNTOUCHED)


@every_revoke
@pytest.mark.parametrize(("place", "line"), [("keys", STRANGER), ("config", "Banner none")], ids=["keys", "config"])
def test_what_somebody_else_writes_before_any_effect_stays(scenario, judge, place, line):
    path = scenario.keys_path if place == "keys" else CONFIG
    for at in range(len(judge.undisturbed.effects)):
        judge.theirs = {}
        play(judge, "edits by others", at, edit(at, path, line))


@pytest.mark.parametrize("scenario", [each for each in REVOKES if "passwords" in each.name], ids=lambda scenario: scenario.name)
def test_between_the_removal_and_a_watcher_exactly_one_wins(scenario, judge):
    effects = judge.undisturbed.effects
    for at in [at for at, effect in enumerate(effects) if isinstance(effect, Ask)]:
        for far in range(40):
            race = Race(at, far)
            run = Run(judge, race, None, at)
            result = run.play()
            race.finish()
            POINTS["races with a watcher"] += 1
            assert result["status"] == "failed"
            judge.explore(run.state(), False)
            if race.over:
                break


def session(pid: int, used: str) -> Session:
    return Session(pid, 1, 1000, "203.0.113.9 port 4", used)


@every_revoke
def test_sessions_of_the_login_end_and_nobody_elses(scenario, judge):
    world = scenario.world()
    other = "bob"
    theirs = (other, session(9, "maybe" if scenario.plan().everywhere else "yes"))
    world.sessions = ((scenario.login, session(7, "yes")), (scenario.login, session(8, "maybe")), theirs)
    plan = scenario.plan()._replace(end_sessions=True)
    result = drive(operation(plan), ModelHost(world, scenario.rope()))
    assert result["ended"] == [7, 8]
    assert world.sessions == (theirs,)
    world = scenario.world()
    world.sessions = ((scenario.login, session(7, "yes")), theirs)
    host = ModelHost(
        world, scenario.rope(), before=lambda _, effect: None if not isinstance(effect, EndSession) else pytest.fail("ended")
    )
    result = drive(operation(plan._replace(end_sessions=False)), host)
    assert [each["pid"] for each in result["sessions"]] == ([7, 9] if scenario.plan().everywhere else [7])
    assert len(world.sessions) == 2


@every_revoke
def test_a_second_time_there_is_nothing_to_remove_and_the_proof_is_made_all_the_same(scenario: Scenario, judge: Judge):
    world = scenario.world()
    drive(operation(scenario.plan()), ModelHost(world, scenario.rope()))
    world.holder = None
    before = dict(world.disk)
    result = drive(operation(scenario.plan()), ModelHost(world, scenario.rope()))
    assert (result["status"], result["server_state"], result["removed"]) == ("unchanged", "as_asked", []), result
    assert {path: entry for path, entry in world.disk.items() if STATE not in path} == {
        path: entry for path, entry in before.items() if STATE not in path
    }
    assert not world.logs_in(Credential("key", scenario.login, OLD))


@pytest.mark.parametrize("scenario", [each for each in REVOKES if "everywhere" in each.name], ids=lambda scenario: scenario.name)
def test_another_login_that_keeps_the_key_is_named_and_that_is_no_success(scenario):
    world = scenario.world()
    result = drive(operation(scenario.plan()._replace(everywhere=False)), ModelHost(world, scenario.rope()))
    assert (result["status"], result["server_state"], result["cause"]) == ("failed", "partial", "key_remains")
    assert result["remains"] == ["bob: /home/bob/.ssh/authorized_keys:2 holds it"]
    assert not world.logs_in(Credential("key", scenario.login, OLD))
    assert world.logs_in(Credential("key", "bob", OLD))


@pytest.mark.parametrize("scenario", [each for each in REVOKES if "everywhere" in each.name], ids=lambda scenario: scenario.name)
def test_a_login_with_nothing_but_the_key_is_not_locked_out_unasked(scenario):
    world = scenario.world()
    world.put("/home/bob/.ssh/authorized_keys", file(OLD + "\n", 0o600, 1001))
    before = dict(world.disk)
    result = drive(operation(scenario.plan()), ModelHost(world, scenario.rope()))
    assert (result["cause"], result["server_state"]) == ("others_locked_out", "as_before")
    assert {path: entry for path, entry in world.disk.items() if STATE not in path} == before
    world.holder = None
    result = drive(operation(scenario.plan()._replace(accept_lockout=["bob"])), ModelHost(world, scenario.rope()))
    assert result["status"] == "succeeded", result


@every_revoke
def test_a_file_that_holds_the_key_again_after_it_was_replaced_is_looked_at_again(scenario):
    class Undoes(ModelHost):
        undone = 0

        def _Replace(self, effect: Any) -> None:
            super()._Replace(effect)
            if BLOB in effect.expected and BLOB not in effect.text and not self.undone:
                self.undone += 1
                super()._Replace(effect._replace(expected=effect.text, text=effect.expected))

    world = scenario.world()
    host = Undoes(world, scenario.rope())
    result = drive(operation(scenario.plan()), host)
    assert (result["status"], host.undone) == ("succeeded", 1), result
    assert all(BLOB not in world.disk[path].text for path in scenario.wanted if path != CONFIG)


EVERYWHERE = pytest.mark.parametrize(
    "scenario", [each for each in REVOKES if "everywhere" in each.name], ids=lambda scenario: scenario.name
)
BOBS_FILE = "/home/bob/.ssh/authorized_keys"


def in_the_way(_: int, effect: Any) -> None:
    """Bob has something there that nobody can put another file in the place of."""
    if isinstance(effect, Replace) and effect.path == BOBS_FILE:
        raise Refused("path_unsafe", "it has two names")


def ordered(world: World, scenario: Scenario, before: Any, **changes: Any) -> Any:
    host = ModelHost(world, scenario.rope(), before)
    try:
        return drive(operation(scenario.plan()._replace(**changes)), host)
    finally:
        host.close()


def nothing(*_: Any) -> None:
    return None


@EVERYWHERE
def test_a_file_that_the_key_cannot_be_taken_out_of_holds_no_other_order_up_and_is_not_forgotten(scenario):
    world = scenario.world()
    first = ordered(world, scenario, in_the_way)
    assert (first["status"], first["server_state"]) == ("failed", "partial")
    assert any("two names" in each for each in first["remains"])
    for number in (2, 3):
        later = ordered(world, scenario, in_the_way, id=f"op-later-{number}", everywhere=False, revoke=False, remove=[])
        assert later["status"] in ("succeeded", "unchanged"), later
        assert "two names" in later["leftover"]
        assert BLOB in world.disk[BOBS_FILE].text
    assert "owed" not in later["last"]
    last = ordered(world, scenario, nothing, id="op-last", everywhere=False, revoke=False, remove=[])
    assert last["status"] in ("succeeded", "unchanged")
    assert "leftover" not in last
    assert BLOB not in world.disk[BOBS_FILE].text
    assert "owed" not in json.loads(world.disk[f"{STATE}/state.json"].text)


@EVERYWHERE
def test_what_is_owed_is_no_key_to_bind_and_nobodys_way_in(scenario):
    world = scenario.world()
    world.put(BOBS_FILE, file(OLD + "\n", 0o600, 1001))
    world.put(CONFIG, file(OPEN))
    world.loaded = OPEN
    first = ordered(world, scenario, in_the_way, accept_lockout=["bob"])
    assert first["server_state"] == "partial"
    again = ordered(world, scenario, in_the_way, id="op-8", operation="bind", key=OLD, revoke=False, remove=[])
    assert (again["status"], again["cause"]) == ("failed", "undo_incomplete")
    closing = ordered(world, scenario, in_the_way, id="op-9", passwords="off", everywhere=False, revoke=False, remove=[])
    assert closing["cause"] == "others_locked_out", closing


@EVERYWHERE
def test_what_the_key_opened_at_another_login_that_it_was_taken_from_is_told_and_ends(scenario):
    world = scenario.world()
    maybe = ("bob", session(10, "maybe"))
    world.sessions = (("bob", session(9, "yes")), maybe)
    result = ordered(world, scenario, nothing, end_sessions=True)
    assert ([each["pid"] for each in result["sessions"]], result["ended"]) == ([9, 10], [9])
    assert world.sessions == (maybe,)
