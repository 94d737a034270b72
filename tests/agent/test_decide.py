"""What decide() makes of what was seen, where that is worse than it looks."""

import base64

import pytest

from kpsagent import plan as plans
from kpsagent.errors import Refused
from kpsagent.look import look
from kpsagent.transaction import drive
from tests.agent import hostile_keys
from tests.agent.model_host import CONNECTION, ModelHost
from tests.agent.scenarios import BOBS, OPEN, SCENARIOS

CONFIG, BOBS_KEYS = "/etc/ssh/sshd_config", "/home/bob/.ssh/authorized_keys"


def seen_and_plan(text: str = OPEN, lockout: tuple[str, ...] = ("alice", "bob"), bobs: str = BOBS):
    """What is seen of a server with this sshd_config and these keys of bob's, and the plan to close password login for root."""
    scenario = next(each for each in SCENARIOS if each.order["operation"] == "password-login-disable" and each.login == "root")
    plan = plans.parse(dict(scenario.order, connection=CONNECTION, accept_lockout=list(lockout)))
    world = scenario.world()
    world.disk[CONFIG] = world.disk[CONFIG]._replace(text=text)
    world.disk[BOBS_KEYS] = world.disk[BOBS_KEYS]._replace(text=f"{bobs}\n")
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


@pytest.mark.parametrize("why", ["immutable", "append only", "mount point", "read-only"])
def test_a_file_that_cannot_be_replaced_is_refused_before_the_first_write(why):
    seen, plan = seen_and_plan()
    with pytest.raises(Refused) as refused:
        plans.decide(plan, seen._replace(config=seen.config._replace(stuck=why)))
    assert refused.value.cause == ("read_only" if why == "read-only" else "immutable")
    assert refused.value.evidence["path"] == CONFIG


def test_a_key_in_a_spelling_that_not_every_sshd_takes_is_nobody_s_way_in():
    """OpenSSH 10 refuses the short name within a blob: whoever has no other key is locked out when passwords go."""
    seen, plan = seen_and_plan(lockout=("alice",))
    assert plans.decide(plan, seen).narrow
    kind, word, _ = BOBS.split()
    blob = base64.b64decode(word)
    short = base64.b64encode(hostile_keys.packed(b"ed25519") + blob[4 + len(kind) :]).decode()
    seen, plan = seen_and_plan(lockout=("alice",), bobs=f"{kind} {short}")
    with pytest.raises(Refused) as refused:
        plans.decide(plan, seen)
    assert (refused.value.cause, refused.value.evidence["logins"]) == ("others_locked_out", ["bob"])


def test_a_login_that_the_system_keeps_out_is_refused():
    scenario = next(each for each in SCENARIOS if each.order["operation"] == "bind" and each.login == "alice")
    plan = scenario.plan()
    seen = drive(look(plan), ModelHost(scenario.world(), scenario.rope()))
    assert plans.decide(plan, seen).widen
    with pytest.raises(Refused) as refused:
        plans.decide(plan, seen._replace(account=seen.account._replace(barred="its shell is not there")))
    assert refused.value.cause == "login_not_allowed"
