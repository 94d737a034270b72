"""A candidate for sshd_config by which anything else would change than what was asked for is never put in place."""

import pytest

from kpsagent import plan as plans
from kpsagent.errors import Refused
from kpsagent.transaction import drive, look
from tests.agent.model_host import CONNECTION, ModelHost
from tests.agent.scenarios import OPEN, SCENARIOS


def seen_and_plan(text: str = OPEN):
    """What is seen of a server with this sshd_config, and the plan to close password login for root."""
    scenario = next(each for each in SCENARIOS if each.order["operation"] == "password-login-disable" and each.login == "root")
    plan = plans.parse(dict(scenario.order, connection=CONNECTION, accept_lockout=["alice", "bob"]))
    world = scenario.world()
    world.disk["/etc/ssh/sshd_config"] = world.disk["/etc/ssh/sshd_config"]._replace(text=text)
    world.loaded = text
    return drive(look(plan), ModelHost(world, scenario.rope())), plan


@pytest.mark.hazard("S5")
@pytest.mark.parametrize("keyword", ["usepam", "pubkeyauthentication", "permitrootlogin", "x11forwarding", "port"])
def test_a_candidate_that_changes_another_setting_is_refused(keyword):
    seen, plan = seen_and_plan()
    assert seen.candidate.differs <= {"passwordauthentication", "kbdinteractiveauthentication"}
    assert plans.decide(plan, seen).narrow
    worse = seen._replace(candidate=seen.candidate._replace(differs=seen.candidate.differs | {keyword}))
    with pytest.raises(Refused) as refused:
        plans.decide(plan, worse)
    assert refused.value.cause == "setting_overridden"
    assert keyword in refused.value.evidence["differs"]


def test_what_our_own_block_sets_already_may_come_to_count_as_it_moves_to_the_top():
    seen, plan = seen_and_plan(f"UsePAM yes\n# kps: begin. \nUsePAM no\n# kps: end\n{OPEN}")
    assert "usepam" in seen.candidate.differs
    assert plans.decide(plan, seen).narrow
