"""Rollouts on real servers: damage that ends with the canary, kills that nobody notices, and a process that was declared dead."""

import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.fleet import judge
from tests.fleet.causes import KEYS, STATE
from tests.fleet.looks import changed, listening_sshd, picture, until
from tests.fleet.product import SECONDS, Product

ALL_AT_ONCE = {"canary": "0", "batch": "100%", "max_failures": "0"}


def order(product, servers, pair, strategy, **more):
    """Begin to bind a key pair to servers, by their passwords; returns the rollout's id."""
    opens = {server.name: {"password": server.root_password} for server in servers}
    asked = {"operation": "bind", "servers": list(opens), "keypair": pair["name"], "credentials": opens, "strategy": strategy}
    return product.ask("POST", "/rollouts", body=asked | more)["id"]


def over(product, rollout_id):
    """Wait until a rollout does not run any more, and return it."""
    found = {}

    def ended():
        found.update(product.ask("GET", f"/rollouts/{rollout_id}"))
        return found["state"] != "running" and not found["states"]["running"]

    until(ended, SECONDS, what="the rollout goes on")
    return found


def last_tasks(product, rollout_id):
    return {each["server"]: each for each in product.ask("GET", f"/rollouts/{rollout_id}/servers")}


def test_a_fault_of_one_label_costs_no_more_than_the_canary_and_is_named(product, make_server):
    well, ill = ([make_server(sshd_config_top=top) for _ in range(3)] for top in ("", "PubkeyAuthentication no\n"))
    for zone, servers in (("well", well), ("ill", ill)):
        for server in servers:
            product.add(server, labels={"zone": zone})
    pair, before = product.keypair(), {server.name: picture(server) for server in well + ill}
    strategy = {"canary": "2", "per_label": "zone", "batch": "100%", "max_failures": "0"}
    rollout_id = order(product, well + ill, pair, strategy)
    found = over(product, rollout_id)
    states = {"waiting": 4, "succeeded": 1, "failed": 1}
    assert found["states"] | states == found["states"], [
        product.task(each["task_id"]) for each in last_tasks(product, rollout_id).values() if each["task_id"]
    ]
    assert found["causes"] == {"login_not_allowed": 1}
    assert (found["state"], found["reason"]) == ("stopped", "a server of the canary failed (login_not_allowed)")
    report = product.kps("rollout", "report", rollout_id).stdout
    assert "Failed by `login_not_allowed`: 1 server" in report
    assert "PubkeyAuthentication" in report
    assert found["labels"] == {"well": {"succeeded": 1, "waiting": 2}, "ill": {"failed": 1, "waiting": 2}}
    private = product.private(pair)
    for name, each in last_tasks(product, rollout_id).items():
        server = next(server for server in well + ill if server.name == name)
        left = changed(before[name], picture(server))
        assert judge.key_login_works(server, "root", private) == (each["status"] == "succeeded")
        if each["status"] == "failed":
            assert (each["server_state"] in ("as_before", "reverted"), left <= STATE) == (True, True)
        elif each["status"] != "succeeded":
            assert left == set()


def test_who_listens_elsewhere_is_tried_again_there(product, make_server):
    there, moved, gone = make_server(), make_server(), make_server()
    for server in (there, moved, gone):
        product.add(server)
    for server in (moved, gone):
        product.kps("server", "set", server.name, "--port", "1")
    pair, strategy = product.keypair(), {"canary": "0", "batch": "100%", "max_failures": "100%", "tries": 1}
    rollout_id = order(product, [there, moved, gone], pair, strategy)
    assert over(product, rollout_id)["causes"] == {"connection_refused": 2}
    product.kps("server", "set", gone.name, "--address", "127.0.0.9", "--port", "1")
    # Nothing is changed where nothing is tried again.
    product.kps("rollout", "retry", rollout_id, "--cause", "disk_full", "--set", "port=2", ends=4)
    assert product.ask("GET", f"/servers/{moved.name}")["port"] == 1
    # What opens a server was erased with its last try.
    again = ["rollout", "retry", rollout_id, "--cause", "connection_refused", "--password-stdin"]
    given = "".join(f"{each.name}\t{each.root_password}\n" for each in (moved, gone))
    told = product.kps(*again, "--set", f"port={there.port}", given=given, ends=1)
    assert product.server(moved)["password_login"] == "off", told.stdout
    tasks = last_tasks(product, rollout_id)
    assert {each.name: tasks[each.name]["status"] for each in (there, moved)} == dict.fromkeys(
        (there.name, moved.name), "succeeded"
    )
    product.kps("server", "set", gone.name, "--address", gone.host, "--port", str(gone.port))
    product.kps(*again, given=given)
    assert over(product, rollout_id)["reason"] == "3 as asked"


def test_who_serves_after_a_kill_has_what_was_given(tmp_path, make_server):
    servers = [make_server() for _ in range(3)]
    with Product(tmp_path / "home", concurrency=1) as product:
        for server in servers:
            product.add(server)
        pair = product.keypair()
        rollout_id = order(product, servers, pair, ALL_AT_ONCE)
        until(lambda: any(each["task_id"] for each in last_tasks(product, rollout_id).values()), SECONDS, what="nothing begins")
        product.end(signal.SIGKILL)
        product.serve()
        assert over(product, rollout_id)["reason"] == "3 as asked"
        private = product.private(pair)
        assert all(judge.key_login_works(server, "root", private) for server in servers)
        assert rows(product.home, "SELECT count(*) FROM credentials") == [(0,)]
        assert rows(product.home, "SELECT count(*) FROM events WHERE kind = 'credential_opened'") != [(0,)]


@pytest.mark.cause("credential_needed")
def test_a_rollout_whose_passwords_have_expired_says_so_and_takes_new_ones(tmp_path, make_server, told):
    server = make_server()
    with Product(tmp_path / "home") as product:
        product.add(server)
        pair = product.keypair()
        outside_hours = {"window": "00:00-00:01", "canary": "0", "max_failures": "0"}
        rollout_id = order(product, [server], pair, outside_hours, credential_hours=0.0001)
        product.end(signal.SIGKILL)
        with closing(sqlite3.connect(product.home / "kps.db")) as connection, connection:
            anytime = json.dumps(outside_hours | {"window": None, "tries": 3})
            connection.execute("UPDATE rollouts SET strategy = ?", (anytime,))
        product.serve()
        assert over(product, rollout_id)["reason"].startswith("1 server failed, most of them by credential_needed")
        (last,) = last_tasks(product, rollout_id).values()
        told(product.task(last["task_id"]))
        anew = {"cause": "credential_needed", "credentials": {server.name: {"password": server.root_password}}}
        product.ask("POST", f"/rollouts/{rollout_id}/retry", body=anew)
        assert over(product, rollout_id)["reason"] == "1 as asked"
        assert judge.key_login_works(server, "root", product.private(pair))


def test_a_process_that_was_declared_dead_and_wakes_changes_nothing(tmp_path, make_server):
    server = make_server()
    product = Product(tmp_path / "home", lease_seconds=2, connect_timeout_seconds=300)
    product.serve()
    assert product.process is not None
    sleeper, address = product.process, (server.host, server.port)
    listener = listening_sshd(server)
    try:
        product.add(server)
        pair = product.keypair()
        os.kill(listener, signal.SIGSTOP)  # who connects hears nothing yet
        rollout_id = order(product, [server], pair, ALL_AT_ONCE | {"tries": 5}, keep_password_login=True)
        until(lambda: connected(*address), SECONDS, what="nobody connects")
        sleeper.send_signal(signal.SIGSTOP)
        os.kill(listener, signal.SIGCONT)
        # Whoever declares it dead takes its place: its socket, and the right to drive rollouts.
        for name in ("kps.sock", "rollouts.lock"):
            (product.home / name).unlink()
        until(lambda: lease_is_over(product.home), SECONDS, what="the lease goes on")
        told = json.loads(product.kps("rollout", "resume", rollout_id, "--json").stdout)
        assert (told["state"], told["reason"]) == ("finished", "1 as asked")
        product.kps("unbind", server.name)  # what the sleeper would put on again stands out
        before = picture(server)
        sleeper.send_signal(signal.SIGCONT)
        until(lambda: not connected(*address), SECONDS, what="the woken one goes on")
        assert changed(before, picture(server)) == set()
        assert pair["public_key"].split(" ")[1] not in server.run(["sh", "-c", f"cat {KEYS} 2>/dev/null || true"]).stdout
        endings = rows(product.home, "SELECT kind FROM events WHERE task_id IN (SELECT id FROM tasks) AND kind IN"
                       " ('task_finished', 'task_interrupted') ORDER BY id")  # fmt: skip
        assert [kind for (kind,) in endings] == ["task_interrupted", "task_finished", "task_finished"]
        assert rows(product.home, "SELECT count(*) FROM tasks WHERE status IN ('ready', 'running')") == [(0,)]
    finally:
        os.kill(listener, signal.SIGCONT)
        sleeper.send_signal(signal.SIGCONT)
        product.end(signal.SIGKILL)


def rows(home, query):
    with closing(sqlite3.connect(home / "kps.db", timeout=SECONDS)) as connection:
        return connection.execute(query).fetchall()


def lease_is_over(home):
    query = "SELECT count(*) FROM tasks WHERE lease_until > strftime('%Y-%m-%d %H:%M:%f000', 'now')"
    return rows(home, query) == [(0,)]


def connected(host, port):
    """Whether somebody on this machine has a connection to an address, of IPv4."""
    address = "".join(f"{int(part):02X}" for part in reversed(host.split("."))) + f":{port:04X}"
    lines = [line.split() for line in Path("/proc/self/net/tcp").read_text().split("\n")[1:] if line]
    return any(words[2] == address and words[3] == "01" for words in lines)
