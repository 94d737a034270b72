"""Emergency doors as people have them: `kps emergency` on real servers, judged by OpenSSH; and the line for a console."""

import json
import os
import shlex
import signal

import pytest

from controller.demo.fleet import Login
from controller.doorbyhand import by_hand
from tests.fleet import doors, judge
from tests.fleet.conftest import CONSOLE_COMMAND
from tests.fleet.looks import until

LOGINS = (Login("alice", "pw-alice"), Login("bob", "pw-bob"))
OFF = "PasswordAuthentication no\nKbdInteractiveAuthentication no\nChallengeResponseAuthentication no\n"
CONFIG = "/etc/ssh/sshd_config"
WHY = ("--reason", "no key gets in since the update")


def lets_in(server, login, password, source=None):
    """Say whether a password gets in."""
    return doors.lets_in(server, login, source, password)


# -- by hand, at the console


def waiting(server):
    """What waits for the end of a door that was opened by hand."""
    return [pid for pid, title in server.processes().items() if title == "sleep 600"]


def time_is_over(server):
    """Have what waits for that wait no more."""
    until(lambda: waiting(server), what="nothing waits for its end")  # in the background it may come to that later than we do
    (pid,) = waiting(server)
    os.kill(pid, signal.SIGTERM)


@pytest.mark.parametrize("tree", ["host", "bullseye", "trixie"])
def test_the_line_for_the_console_opens_for_one_login_and_closes_by_itself(make_server, tree):
    server = make_server(tree=tree, logins=LOGINS, sshd_config_top=OFF, sshd_config_end="Match User bob\n    X11Forwarding no\n")
    before = server.read(CONFIG)
    server.run(["/bin/sh", "-c", by_hand("alice", 600, "127.0.0.0/24")])
    assert lets_in(server, "alice", "pw-alice", "127.0.0.9")
    assert not lets_in(server, "alice", "pw-alice", "127.0.1.9")
    assert not lets_in(server, "bob", "pw-bob", "127.0.0.10")
    time_is_over(server)
    until(lambda: server.read(CONFIG) == before)
    until(lambda: not lets_in(server, "alice", "pw-alice", "127.0.0.11"))
    assert not server.exists("/run/kps-door.conf")


def test_the_line_for_the_console_changes_nothing_where_sshd_does_not_take_it(make_server):
    server = make_server(logins=LOGINS, sshd_config_top=OFF)
    server.write(CONFIG, server.read(CONFIG) + "NoSuchKeyword yes\n")
    before = server.read(CONFIG)
    server.run(["/bin/sh", "-c", by_hand("alice", 600)], check=False)
    assert server.read(CONFIG) == before
    assert not server.exists("/run/kps-door.conf")
    assert not lets_in(server, "alice", "pw-alice")


def test_the_line_for_the_console_closes_once_what_somebody_broke_meanwhile_is_mended(make_server):
    server = make_server(logins=LOGINS, sshd_config_top=OFF)
    server.run(["/bin/sh", "-c", by_hand("alice", 600)])
    server.write(CONFIG, server.read(CONFIG) + "NoSuchKeyword yes\n")
    time_is_over(server)
    until(lambda: not server.exists("/run/kps-door.conf"))
    assert lets_in(server, "alice", "pw-alice")  # sshd could not be told
    server.write(CONFIG, server.read(CONFIG).replace("NoSuchKeyword yes\n", ""))
    until(lambda: not lets_in(server, "alice", "pw-alice"))


def test_root_s_line_lets_root_in(make_server):
    server = make_server(sshd_config_top=OFF + "PermitRootLogin prohibit-password\n")
    server.run(["/bin/sh", "-c", by_hand("root", 600)])
    assert lets_in(server, "root", server.root_password)


# -- by kps


@pytest.fixture
def bound(make_server, product):
    """A server that takes no passwords, and that a managed key opens."""
    server = make_server(logins=LOGINS, sshd_config_top="PasswordAuthentication yes\nPermitRootLogin yes\n")
    product.add(server)
    task = product.ended(
        product.begin(
            "bind", server, keypair=product.keypair()["name"], password=server.root_password, accept_lockout=["alice", "bob"]
        )[0]
    )
    assert task["status"] == "succeeded", task
    return server


def test_open_log_in_close_and_refused_again(product, bound):
    before = bound.read(CONFIG)
    assert not lets_in(bound, "alice", "pw-alice")
    told = product.kps("emergency", "open", bound.name, "--login", "alice", "--for", "10m", *WHY).stdout
    assert "open" in told
    assert lets_in(bound, "alice", "pw-alice")
    assert not lets_in(bound, "bob", "pw-bob")
    listed = json.loads(product.kps("emergency", "list", "--json").stdout)
    (door,) = [each for each in listed["doors"] if each["server"] == bound.name]
    assert (door["state"], door["login"], 500 < door["left_seconds"] <= 600) == ("open", "alice", True)
    product.kps("emergency", "extend", bound.name, "--for", "20m", *WHY)
    assert json.loads(product.kps("emergency", "show", bound.name, "--json").stdout)["left_seconds"] > 1000
    product.kps("emergency", "close", bound.name)
    assert not lets_in(bound, "alice", "pw-alice")
    shown = json.loads(product.kps("emergency", "show", bound.name, "--json").stdout)
    assert (shown["state"], shown["closed_by"], shown["confirmed"]) == ("closed", "order", True)
    until(lambda: bound.read(CONFIG) == before)


def test_a_door_closes_by_itself_and_the_server_says_so(product, bound):
    product.kps("emergency", "open", bound.name, "--login", "alice", "--for", "20s", *WHY)
    assert lets_in(bound, "alice", "pw-alice")

    def shown():
        return json.loads(product.kps("emergency", "show", bound.name, "--json").stdout)

    until(lambda: shown()["state"] == "closed", 60)
    assert (shown()["closed_by"], shown()["confirmed"]) == ("deadline", True)
    assert not lets_in(bound, "alice", "pw-alice")


def test_where_a_second_user_has_to_agree_nothing_is_opened_before(make_server, product):
    server = make_server(logins=LOGINS, sshd_config_top=OFF + "PermitRootLogin yes\n")
    private, public = judge.new_key_pair()
    from tests.fleet.causes import install_key

    install_key(server, public)
    zone = server.name
    product.add(server, labels={"zone": zone})
    product.kps("emergency", "rule", "add", "--label", f"zone={zone}", "--minutes", "5")
    key = product.home.parent / f"{server.name}.key"
    key.write_text(private)
    key.chmod(0o600)
    asked = json.loads(
        product.kps(
            "emergency", "open", server.name, "--login", "alice", "--for", "5m", *WHY, "--identity", str(key), "--json", ends=1
        ).stdout
    )
    (order,) = asked["orders"]
    assert not lets_in(server, "alice", "pw-alice")
    refused = product.kps("emergency", "approve", order["id"], "--json", ends=4)
    assert json.loads(refused.stderr)["error"]["code"] == "approved_by_requester"
    product.kps("emergency", "refuse", order["id"])
    product.kps("emergency", "rule", "remove", "--label", f"zone={zone}")


def test_a_drill_opens_proves_and_closes(product, bound):
    told = json.loads(product.kps("emergency", "drill", "--select", bound.name, "--login", "alice", "--json").stdout)
    (row,) = told["servers"]
    assert (row["state"], row["proof"] != "") == ("closed", True)
    assert row["opened_seconds"] > 0
    assert row["closed_seconds"] > 0
    assert not lets_in(bound, "alice", "pw-alice")


def test_a_one_time_password_opens_the_door_and_works_no_more_once_it_is_closed(product, bound):
    told = json.loads(
        product.kps("emergency", "open", bound.name, "--login", "bob", "--for", "10m", *WHY, "--set-password", "--json").stdout
    )
    (made,) = told["passwords"]
    (task,) = told["tasks"]
    assert {"way": "password", "login": "bob", "method": "logged_in"} in task["proof"]
    assert lets_in(bound, "bob", made["password"])
    assert not lets_in(bound, "bob", "pw-bob")
    shown = json.loads(product.kps("secret", "show", made["secret"], "--json").stdout)
    assert shown["value"] == made["password"]  # sealed; opening it is on record
    hash_ = bound.run(["sh", "-c", "grep ^bob: /etc/shadow"]).stdout
    product.kps("emergency", "close", bound.name)
    until(lambda: bound.run(["sh", "-c", "grep ^bob: /etc/shadow"]).stdout != hash_, 60)
    log = (product.home / "serve.log").read_text()
    assert made["password"] not in log
    assert made["password"] not in json.dumps(product.ask("GET", "/events", params=[("after", 0)]))


def test_another_jump_server_is_tried_where_the_server_s_own_one_is_down(make_server, hurried):
    own, other = make_server(), make_server()
    for jump in (own, other):
        hurried.add(jump)
        hurried.succeeds("bind", jump, keypair=hurried.keypair(), password=jump.root_password, keep_password_login=True)
    server = make_server(logins=LOGINS, sshd_config_top="PasswordAuthentication yes\nPermitRootLogin yes\n")
    behind = make_server()
    hurried.add(server, jump=[own.name])
    hurried.add(behind, jump=[other.name])  # so it is known as a jump server
    hurried.succeeds("bind", server, keypair=hurried.keypair(), password=server.root_password, accept_lockout=["alice", "bob"])
    own.stop()
    told = json.loads(hurried.kps("emergency", "open", server.name, "--login", "alice", "--for", "10m", *WHY, "--json").stdout)
    assert lets_in(server, "alice", "pw-alice")
    (door,) = told["doors"]
    task = hurried.task(door["task_id"])
    assert task["status"] == "succeeded"
    first, last = task["evidence"]["paths"]
    assert (first["cause"], last) == ("jump_unreachable", {"via": other.name, "cause": ""})


def test_where_nothing_gets_in_the_disk_at_rest_and_the_console_are_shown_and_the_disk_s_line_helps(make_server, hurried):
    server = make_server(logins=LOGINS, sshd_config_top=OFF)
    hurried.add(server)
    rescue = hurried.keypair()
    server.stop()
    hurried.kps("server", "set", server.name, "--shut-down", str(server.mounted_root()))
    told = hurried.kps("emergency", "open", server.name, "--login", "alice", "--for", "10m", *WHY, ends=1).stdout
    lines = [each.strip() for each in told.split("\n")]
    assert by_hand("alice", 600) in lines
    assert f"to its console: {CONSOLE_COMMAND.format(server=server.name)}" in lines
    (reset,) = [each for each in lines if each.startswith("kps reset ")]
    hurried.kps(*shlex.split(reset.replace("NAME", rescue["name"]))[1:])
    server.start()
    assert judge.key_login_works(server, "alice", hurried.private(rescue))
