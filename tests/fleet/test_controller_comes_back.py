"""A controller that died in the middle of a task and is started anew: what it has on record is soon what the server is."""

import json
import signal

import pytest

from tests.controller.test_killed import once_the_lease_has_run_out
from tests.fleet import judge
from tests.fleet.causes import STATE, Gate
from tests.fleet.looks import changed, picture, until
from tests.fleet.product import Product

# Twice what is promised and drilled (docs/faults.md): it looks again after twenty, and a busy machine adds to that.
ON_RECORD_SECONDS = 60
# As sshrc sees it: the proof that comes once the old key has been taken out, or passwords have been closed.
OLD_KEY_OUT = "! grep -q {old} /root/.ssh/authorized_keys"
PASSWORDS_OFF = "grep -q 'kps: begin' /etc/ssh/sshd_config"


@pytest.fixture
def mortal(tmp_path):
    """A controller of this test's own, which it may kill."""
    with Product(tmp_path / "home", connect_timeout_seconds=5, deadline_seconds=15) as product:
        yield product


def known(product, task_id):
    """Whether the task's end is on record; what it says is then returned."""
    task = product.task(task_id)
    return task if task["status"] == "failed" and task["server_state"] != "unknown" else None


def comes_back(product, task_id):
    """Start the controller anew and return the task once it is known, without anybody asking the server for it."""
    product.serve()
    until(lambda: known(product, task_id), ON_RECORD_SECONDS)
    return product.task(task_id)


def killed_after_the_commit(product, server, gate, task_id, says):
    """Have the agent commit, and the controller die before it can write down that it did; return the task once it is known."""
    dies_after_the_commit(product, server, gate, says)
    return comes_back(product, task_id)


def dies_after_the_commit(product, server, gate, says):
    gate.await_login()
    with product.recording_nothing():
        gate.open()
        until(lambda: says in server.run(["cat", "/var/lib/kps/state.json"], check=False).stdout)
        product.end(signal.SIGKILL)


def test_a_replace_that_was_committed_and_not_recorded_comes_on_record(server, mortal):
    mortal.add(server)
    old, new = mortal.keypair(), mortal.keypair()
    mortal.succeeds("bind", server, keypair=old, password=server.root_password)
    gate = Gate(server, OLD_KEY_OUT.format(old=old["public_key"].split()[1]))
    (task_id,) = mortal.begin("replace", server, keypair=new)
    task = killed_after_the_commit(mortal, server, gate, task_id, task_id)

    assert (task["status"], task["server_state"], task["cause"]) == ("failed", "as_asked", "interrupted")
    assert mortal.server(server)["keypair"] == new["name"]
    assert judge.key_login_works(server, "root", mortal.private(new))
    assert not judge.key_login_works(server, "root", mortal.private(old))
    # What is on record decides what the next order takes away.
    newest = mortal.keypair()
    mortal.succeeds("replace", server, keypair=newest)
    assert not judge.key_login_works(server, "root", mortal.private(new))


def test_until_it_is_on_record_the_only_key_that_gets_in_is_not_done_away_with(server, mortal):
    mortal.add(server)
    old, new = mortal.keypair(), mortal.keypair()
    mortal.succeeds("bind", server, keypair=old, password=server.root_password)
    gate = Gate(server, OLD_KEY_OUT.format(old=old["public_key"].split()[1]))
    (task_id,) = mortal.begin("replace", server, keypair=new)
    dies_after_the_commit(mortal, server, gate, task_id)
    once_the_lease_has_run_out(mortal.home)

    # On record is the old one, which lets nobody in any more.
    refused = {
        ("keypair", "delete", new["name"]): "keypair_in_doubt",
        ("keypair", "clear", new["name"]): "only_way_in",
        ("keypair", "clear", old["name"]): "only_way_in",
        ("task", "delete", task_id): "task_in_doubt",
    }
    for words, code in refused.items():
        assert json.loads(mortal.kps(*words, "--json", ends=4).stderr)["error"]["code"] == code, words
    assert json.loads(mortal.kps("task", "delete", "--all", "--json").stdout)["deleted"] == 0
    assert comes_back(mortal, task_id)["server_state"] == "as_asked"
    assert judge.key_login_works(server, "root", mortal.private(new))
    mortal.kps("keypair", "delete", old["name"])


def test_a_first_bind_that_was_committed_and_not_recorded_comes_on_record(server, mortal):
    mortal.add(server)
    pair = mortal.keypair()
    gate = Gate(server, PASSWORDS_OFF)
    (task_id,) = mortal.begin("bind", server, keypair=pair, password=server.root_password)
    task = killed_after_the_commit(mortal, server, gate, task_id, task_id)

    assert task["server_state"] == "as_asked"
    assert mortal.server(server)["keypair"] == pair["name"]
    # That the binding closed passwords is known too: taking it away opens them.
    mortal.succeeds("unbind", server)
    assert judge.password_login_works(server, "root", server.root_password)


def test_an_unbind_that_was_committed_and_not_recorded_comes_on_record(server, mortal):
    mortal.add(server)
    old = mortal.keypair()
    mortal.succeeds("bind", server, keypair=old, password=server.root_password)
    gate = Gate(server, OLD_KEY_OUT.format(old=old["public_key"].split()[1]))
    (task_id,) = mortal.begin("unbind", server, password=server.root_password)
    # The password that was given is gone with the controller, and the key is refused: that is all there is to be seen.
    task = killed_after_the_commit(mortal, server, gate, task_id, task_id)
    assert (task["status"], task["server_state"]) == ("failed", "as_asked")
    assert mortal.server(server)["keypair"] is None
    mortal.succeeds("bind", server, keypair=old, password=server.root_password)


def test_a_bind_that_died_before_its_proof_is_known_to_be_undone(server, mortal):
    mortal.add(server)
    before = picture(server)
    gate = Gate(server, PASSWORDS_OFF)
    pair = mortal.keypair()
    (task_id,) = mortal.begin("bind", server, keypair=pair, password=server.root_password)
    gate.await_login()
    mortal.end(signal.SIGKILL)
    task = comes_back(mortal, task_id)
    assert (task["server_state"], task["cause"]) == ("reverted", "interrupted")
    assert judge.password_login_works(server, "root", server.root_password)
    assert changed(before, picture(server)) - Gate.PATHS - {"/run/gate", "/etc/ssh/sshrc"} <= STATE
    assert mortal.retry(task, password=server.root_password)["status"] == "succeeded"
