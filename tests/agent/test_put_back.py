"""Somebody saves an older copy of a file that we have changed: whenever it is, the result says so, or comes before it."""

import pytest
from model_host import CONFIG, ModelHost
from scenarios import REVOKES, SCENARIOS

from kpsagent.host import Ask, MoveJournal, Read, Replace
from kpsagent.transaction import drive, operation

SERVED = [each for each in SCENARIOS + REVOKES if each.kind == "listener" and not each.order.get("repair")]
CHANGED = [
    (scenario, path)
    for scenario in SERVED
    for path in sorted(scenario.disk.keys() & scenario.wanted.keys())
    if scenario.disk[path].text != scenario.wanted[path].text
]


def played(scenario, at=None, theirs=None):
    """Play, and have somebody else do theirs(world) before effect number at; return the result, the effects, the world."""
    world, effects = scenario.world(), []

    def before(number, effect):
        effects.append(effect)
        if number == at:
            theirs(world)

    return drive(operation(scenario.plan()), ModelHost(world, scenario.rope(), before)), effects, world


@pytest.mark.parametrize(("scenario", "path"), CHANGED, ids=[f"{each.name} {path}" for each, path in CHANGED])
def test_an_older_copy_that_comes_back_is_told_up_to_the_last_look(scenario, path):
    cause = "sshd_config_changed" if path == CONFIG else "authorized_keys_changed"
    old = scenario.disk[path].text
    result, effects, _ = played(scenario)
    assert result["server_state"] == "as_asked"
    ours = [at for at, effect in enumerate(effects) if isinstance(effect, Replace) and effect.path == path]
    looks = [at for at, effect in enumerate(effects) if isinstance(effect, Read) and effect.path == path]
    (commit,) = [at for at, effect in enumerate(effects) if isinstance(effect, MoveJournal)]
    proved = max(at for at, effect in enumerate(effects) if isinstance(effect, Ask))  # before it a proof may be what tells
    assert looks[-1] > max(commit, proved)
    ends = set()
    for at in range(ours[-1] + 1, looks[-1] + 1):
        result, _, world = played(scenario, at, lambda world: world.put(path, world.disk[path]._replace(text=old)))
        if result["status"] == "succeeded" and at < looks[-1]:  # a revoke sees it at once, and does it again
            assert world.disk[path].text == scenario.wanted[path].text
            continue
        assert result["status"] == "failed", (at, effects[at], result)
        if at > proved:
            assert result["cause"] == cause, (at, effects[at], result)
            assert path in result["message"]
            assert not result.get("removed"), "on record, the new key would be taken for bound"
        ends.add(result["server_state"])
    # What a revoke takes out goes after its commit.
    assert ends == ({"partial"} if ours[-1] > commit else {"reverted", "partial"})


def test_a_line_of_theirs_that_comes_late_is_no_older_copy():
    scenario = next(each for each in SERVED if each.name == "bind-closing-passwords-alice")
    path = scenario.keys_path
    _, effects, _ = played(scenario)
    (commit,) = [at for at, effect in enumerate(effects) if isinstance(effect, MoveJournal)]
    for at in range(commit + 1, len(effects)):
        result, _, _ = played(
            scenario, at, lambda world: world.put(path, world.disk[path]._replace(text=world.disk[path].text + "# theirs\n"))
        )
        assert (result["status"], result["server_state"]) == ("succeeded", "as_asked"), (at, effects[at])
