"""A plan that is only shown: the same steps, and not one effect that writes."""

import pytest
from model_host import STATE, ModelHost
from scenarios import SCENARIOS

from kpsagent.transaction import operation

WRITES = frozenset(
    {
        "Replace",
        "Delete",
        "MakeDirectory",
        "RemoveDirectory",
        "SetMode",
        "SetOwner",
        "SetPassword",
        "Sweep",
        "Reload",
        "WriteState",
    }
    | {"WriteJournal", "MoveJournal", "DropJournal", "Arm", "Disarm", "WriteNonce", "Ask"}
)
SHOWN = [each for each in SCENARIOS if each.order["operation"] not in ("reset", "check")]


@pytest.mark.parametrize("scenario", [pytest.param(each, id=each.name) for each in SHOWN])
def test_a_plan_yields_no_effect_that_writes(scenario):
    world, effects = scenario.world(), []
    before = dict(world.disk)
    host = ModelHost(world, scenario.rope())
    play = operation(scenario.plan()._replace(only_plan=True))
    answer = None
    try:
        while True:
            effect = play.send(answer)
            effects.append(type(effect).__name__)
            answer = host.do(effect)
    except StopIteration as done:
        result = done.value
    assert WRITES.isdisjoint(effects)
    assert (result["status"], result["server_state"]) == ("unchanged", "as_before"), result
    world.disk.pop(STATE)  # the directory that is locked; a real host takes it away again where nothing stayed in it
    assert world.disk == before
    assert {change["path"] for change in result["plan"]["changes"]} == set(scenario.wanted) | set(
        ["/etc/shadow"] * bool(scenario.wanted_passwords)
    )
