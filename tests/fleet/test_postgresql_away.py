"""PostgreSQL goes away and comes back in the middle of tasks on real servers."""

import signal
import time

import pytest

from tests.fleet import judge
from tests.fleet.causes import Gate
from tests.fleet.product import Product

OLD_KEY_OUT = "! grep -q {old} /root/.ssh/authorized_keys"
NEW_KEY_IN = "grep -q {new} /root/.ssh/authorized_keys"
AWAY_SECONDS = 10


@pytest.fixture
def product(tmp_path, database):
    with Product(tmp_path / "home", database_url=database) as product:
        yield product


def replacing(product, server, way):
    """A replace that is held at its proof: before the old key is out, or once it is."""
    product.add(server)
    old, new = product.keypair(), product.keypair()
    product.succeeds("bind", server, keypair=old, password=server.root_password)
    gate = Gate(server, way.format(old=old["public_key"].split()[1], new=new["public_key"].split()[1]))
    (task_id,) = product.begin("replace", server, keypair=new)
    gate.await_login()
    return old, new, gate, task_id


def ended_once(product, task_id):
    task = product.ended(task_id)
    events = product.ask("GET", "/events", params=[("after", 0), ("task", task_id)])
    assert [each["kind"] for each in events if each["kind"] in ("task_finished", "task_interrupted")] == ["task_finished"]
    return task


def replaced(product, server, old, new, task_id):
    task = ended_once(product, task_id)
    assert (task["status"], task["server_state"]) == ("succeeded", "as_asked"), task
    assert product.server(server)["keypair"] == new["name"]
    assert judge.key_login_works(server, "root", product.private(new))
    assert not judge.key_login_works(server, "root", product.private(old))


@pytest.mark.parametrize("way", [NEW_KEY_IN, OLD_KEY_OUT])
def test_a_crash_of_postgresql_in_the_middle_of_a_task_changes_nothing_about_how_it_ends(product, server, postgresql, way):
    old, new, gate, task_id = replacing(product, server, way)
    postgresql.stop(signal.SIGQUIT)
    postgresql.start()
    gate.open()
    replaced(product, server, old, new, task_id)
    product.kps("audit", "verify")


def test_while_postgresql_is_away_requests_are_to_come_again_and_nothing_is_committed(product, server, postgresql):
    old, new, gate, task_id = replacing(product, server, NEW_KEY_IN)
    postgresql.stop(signal.SIGQUIT)
    try:
        gate.open()
        until = time.monotonic() + AWAY_SECONDS
        refused = 0
        while time.monotonic() < until:
            answer = product.answer("GET", "/servers")
            assert (answer.status_code, answer.json()["code"]) == (503, "store_unusable")
            assert int(answer.headers["retry-after"]) > 0
            refused += 1
        assert refused > 1
        # What comes after the first proof is not on record, so the server has not been let go on to its end.
        assert task_id not in server.run(["cat", "/var/lib/kps/state.json"]).stdout
    finally:
        postgresql.start()
    replaced(product, server, old, new, task_id)
    product.kps("audit", "verify")


def test_an_end_that_could_not_be_recorded_is_recorded_once_postgresql_is_back(product, server, postgresql):
    old, new, gate, task_id = replacing(product, server, OLD_KEY_OUT)
    postgresql.stop(signal.SIGQUIT)
    try:
        gate.open()
        product.answer("GET", "/servers")
    finally:
        postgresql.start()
    replaced(product, server, old, new, task_id)
