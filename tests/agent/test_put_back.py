"""Somebody saves an older copy of a file that we have changed: whenever it is, the result says so, or comes before it."""

import pytest
from model_host import CONFIG, ModelHost
from scenarios import SCENARIOS

from kpsagent.host import Ask, MoveJournal, Read, Replace
from kpsagent.transaction import drive, operation

SERVED = [each for each in SCENARIOS if each.kind == "listener" and not each.order.get("repair")]
CAUSES = {"keys": "authorized_keys_changed", "config": "sshd_config_changed"}
CHANGED = [
    (scenario, place)
    for scenario in SERVED
    for place, path in (("keys", scenario.keys_path), ("config", CONFIG))
    if path in scenario.disk and path in scenario.wanted
]


def played(scenario, at=None, theirs=None):
    """Play, and have somebody else do theirs(world) before the effect number at; return the result and the effects."""
    world, effects = scenario.world(), []

    def before(number, effect):
        effects.append(effect)
        if number == at:
            theirs(world)

    return drive(operation(scenario.plan()), ModelHost(world, scenario.rope(), before)), effects


@pytest.mark.parametrize(("scenario", "place"), CHANGED, ids=[f"{place}-{each.name}" for each, place in CHANGED])
def test_an_older_copy_that_comes_back_is_told_up_to_the_last_look(scenario, place):
    path, cause = scenario.keys_path if place == "keys" else CONFIG, CAUSES[place]
    old = scenario.disk[path].text
    result, effects = played(scenario)
    assert result["server_state"] == "as_asked"
    ours = [at for at, effect in enumerate(effects) if isinstance(effect, Replace) and effect.path == path]
    looks = [at for at, effect in enumerate(effects) if isinstance(effect, Read) and effect.path == path]
    (commit,) = [at for at, effect in enumerate(effects) if isinstance(effect, MoveJournal)]
    proved = max(at for at, effect in enumerate(effects) if isinstance(effect, Ask))  # before it a proof may be what tells
    assert looks[-1] > commit > proved
    ends = set()
    for at in range(ours[-1] + 1, looks[-1] + 1):
        result, _ = played(scenario, at, lambda world: world.put(path, world.disk[path]._replace(text=old)))
        assert result["status"] == "failed", (at, effects[at], result)
        if at > proved:
            assert result["cause"] == cause, (at, effects[at], result)
            assert path in result["message"]
        ends.add(result["server_state"])
    assert ends == {"reverted", "partial"}


def test_a_line_of_theirs_that_comes_late_is_no_older_copy():
    scenario = next(each for each in SERVED if each.name == "bind-closing-passwords-alice")
    path = scenario.keys_path
    _, effects = played(scenario)
    (commit,) = [at for at, effect in enumerate(effects) if isinstance(effect, MoveJournal)]
    for at in range(commit + 1, len(effects)):
        result, _ = played(
            scenario, at, lambda world: world.put(path, world.disk[path]._replace(text=world.disk[path].text + "# theirs\n"))
        )
        assert (result["status"], result["server_state"]) == ("succeeded", "as_asked"), (at, effects[at])
