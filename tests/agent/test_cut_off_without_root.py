"""What an operation without root has left in a login's home: root neither does it, nor changes the login's keys over it."""

import pytest
from model_host import ModelHost, file
from scenarios import REVOKES, SCENARIOS

from kpsagent.errors import Refused
from kpsagent.transaction import operation

SCENARIO = next(each for each in SCENARIOS if each.name == "bind-closing-passwords-alice")
REVOKE = next(each for each in REVOKES if each.login == "alice")
JOURNALS = ("armed", "revoking", "reverting")


def played(scenario, world, plan=None):
    host = ModelHost(world, scenario.rope())
    play, answer, error = operation(plan or scenario.plan()), None, None
    try:
        while True:
            effect = play.throw(error) if error else play.send(answer)
            answer, error = None, None
            try:
                answer = host.do(effect)
            except (Refused, OSError) as raised:
                error = raised
    except StopIteration as done:
        return done.value


def left_by_alice(scenario, name):
    world, path = scenario.world(), f"/home/alice/.kps/journal.{name}"
    world.put(path, file("no JSON: nobody reads it\n", 0o600, 1000))
    return world, path


@pytest.mark.parametrize("only_plan", [False, True])
@pytest.mark.parametrize("name", JOURNALS)
def test_an_operation_that_stands_undecided_in_the_home_is_neither_obeyed_nor_passed_over(name, only_plan):
    world, path = left_by_alice(SCENARIO, name)
    before = dict(world.disk)
    result = played(SCENARIO, world, SCENARIO.plan()._replace(only_plan=only_plan))
    assert (result["status"], result["server_state"], result["cause"]) == ("failed", "partial", "undo_incomplete")
    assert [path in each for each in result["evidence"]["remains"]] == [True]
    assert {each: entry for each, entry in world.disk.items() if not each.startswith("/var/lib/kps")} == before


def test_one_that_is_decided_is_nobody_s_business():
    world, _ = left_by_alice(SCENARIO, "confirmed")
    assert played(SCENARIO, world)["status"] == "succeeded"


@pytest.mark.parametrize("name", JOURNALS)
def test_it_keeps_no_key_from_being_revoked_and_is_named(name):
    world, path = left_by_alice(REVOKE, name)
    result = played(REVOKE, world)
    assert (result["status"], result["server_state"], result["cause"]) == ("failed", "partial", "key_remains"), result
    assert [path in each for each in result["remains"]] == [True]
    for changed, entry in REVOKE.wanted.items():
        assert world.disk[changed] == entry
