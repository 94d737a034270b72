"""Servers without Python, through the product: everything that an agent in Python does, by a shell program."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from controller.demo.fleet import Login
from tests.drills.plants import PLANTS, Case
from tests.fleet import judge
from tests.fleet.causes import Gate, Place, unchanged
from tests.fleet.looks import until
from tests.fleet.product import SECONDS, Product, methods
from tests.fleet.test_armed_undo import reopened
from tests.needs import lacking

DEADLINE = 20

WORD = "walk the dog"
ROOT, NOPASSWD, SUDO, PLAIN = "root", "nopasswd", "password", "none"


def made(make_server, sudo):
    return make_server(python=False, logins=() if sudo == ROOT else (Login("deploy", WORD, sudo=sudo),))


@pytest.mark.parametrize("sudo", [ROOT, NOPASSWD, SUDO, PLAIN])
def test_a_key_pair_is_bound_replaced_and_unbound(product, make_server, sudo):
    server = made(make_server, sudo)
    login = "root" if sudo == ROOT else "deploy"
    product.add(server, login=login)
    word, first, second = server.passwords[login], product.keypair(), product.keypair()
    about = {"password": word, "keep_password_login": sudo == PLAIN, "accept_lockout": ["root"]}
    bound = product.succeeds("bind", server, keypair=first, **about)
    assert ("key", "logged_in") in methods(bound)
    assert any("no Python" in limit for limit in bound["evidence"]["limits"])
    assert judge.key_login_works(server, login, product.private(first))
    if sudo != PLAIN:
        assert ("password", "refused") in methods(bound)
        assert "detached process" in bound["evidence"]["armed"]
        assert not judge.password_login_works(server, login, word)
    product.succeeds("replace", server, keypair=second)
    assert judge.key_login_works(server, login, product.private(second))
    assert not judge.key_login_works(server, login, product.private(first))
    assert product.run("check", server)["status"] == "unchanged"
    unbound = product.succeeds("unbind", server, password=word)
    assert ("key", "refused") in methods(unbound)
    home = "/root" if login == "root" else "/home/deploy"
    assert server.run(["cat", f"{home}/.ssh/authorized_keys"]).stdout == ""
    assert server.run(["ls", "-A", home, f"{home}/.ssh"]).stdout.count(".kps-") == 0
    assert judge.password_login_works(server, login, word)


def test_a_check_says_why_a_key_is_refused_and_what_it_cannot_mend_here(product, make_server):
    server = made(make_server, NOPASSWD)
    case = Case(server, *judge.new_key_pair())
    case.install()
    given = {"identity": case.private, "password": server.root_password, "password_of": "root", "login": "deploy"}
    product.add(server)
    assert product.run("check", server, **given)["status"] == "unchanged"
    server.run(["chown", "root:root", case.keys])
    refused = product.fails("key_refused", "check", server, **given)
    assert [one["code"] for one in refused["evidence"]["findings"]] == ["path_unreadable"]
    task = product.fails("path_permissions", "check", server, repair=True, **given)
    assert task["server_state"] == "as_before"
    assert f"{case.keys}: its owner is not changed without Python on the server; use chown by hand" in task["message"]
    server.run(["chown", "deploy:deploy", case.keys])
    next(plant for plant in PLANTS if plant.name == "a list of logins").sow(case)
    turned_away = product.fails("login_not_allowed", "check", server, **given)
    assert [one["code"] for one in turned_away["evidence"]["findings"]] == ["pam_rule"]


def test_password_login_is_switched_off_and_on(product, make_server):
    server = made(make_server, ROOT)
    product.add(server)
    config = server.read("/etc/ssh/sshd_config")
    product.succeeds("bind", server, keypair=product.keypair(), password=server.root_password, keep_password_login=True)
    product.succeeds("password-login-disable", server)
    assert not judge.password_login_works(server, "root", server.root_password)
    product.succeeds("password-login-enable", server)
    assert judge.password_login_works(server, "root", server.root_password)
    assert server.read("/etc/ssh/sshd_config") == config


def test_a_plain_login_may_not_switch_password_login(product, make_server):
    server = made(make_server, PLAIN)
    product.add(server, login="deploy")
    with unchanged(server):
        product.fails("sudo_refused", "bind", server, keypair=product.keypair(), password=WORD)


# -- the undo that needs nobody


def ours(server):
    """The shell programs in a server: pid to parent."""
    found = [pid for pid, title in server.processes().items() if "kps-started" in title or "/var/lib/kps/agent" in title]
    parents = {}
    for pid in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            parents[pid] = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return parents


def kill_agent(server):
    """The one that has the session's ends; what watches beside it is its child."""
    found = ours(server)
    kill([pid for pid, parent in found.items() if parent not in found])


def kill(pids):
    assert pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended with another one
            os.kill(pid, signal.SIGKILL)


def kill_sessions(server):
    kill([pid for pid, title in server.processes().items() if title.startswith(("sshd: root@", "sshd-session: root@"))])


LOST = {
    "the controller": lambda server: None,
    "the controller and the agent": kill_agent,
    "the controller and every session": kill_sessions,
    "all, at a reboot": lambda server: server.reboot(),
    "all but the disk, and rebooted then": lambda server: (kill(list(ours(server))), server.reboot()),
    "all, at a reboot with cron": lambda server: (server.run(["rm", "-r", "/etc/rcS.d"]), server.reboot()),
}


@pytest.fixture
def frozen(tmp_path):
    """A controller that a test stops in the middle: it neither answers nor closes anything."""
    with Product(tmp_path / "home", deadline_seconds=DEADLINE, lease_seconds=600) as product:
        yield product
        product.process.send_signal(signal.SIGCONT)


def opens(server):
    try:
        return "password" in judge.offered_methods(server, "root")
    except judge.Puzzled:
        return False  # it is booting, or reloading


@pytest.mark.long
@pytest.mark.parametrize("what", LOST)
def test_whatever_is_lost_the_server_opens_again_by_itself(make_server, frozen, what):
    server, pair = make_server(python=False), frozen.keypair()
    gate = Gate(server, "grep -q 'kps: begin' /etc/ssh/sshd_config")
    before = server.read("/etc/ssh/sshd_config")
    frozen.add(server)
    task = frozen.begin("bind", server, keypair=pair, password=server.root_password)[0]
    gate.await_login()
    frozen.process.send_signal(signal.SIGSTOP)
    stopped = time.time()  # the deadline began before
    assert not opens(server)
    LOST[what](server)
    until(lambda: opens(server), SECONDS, "it does not open again")
    assert 0 < reopened(server) - stopped < DEADLINE + 10
    assert judge.password_login_works(server, "root", server.root_password)
    until(lambda: ours(server) == {}, what="a program goes on living")
    assert server.read("/etc/ssh/sshd_config") == before
    assert server.run(["ls", "/var/lib/kps"]).stdout == "state.json\n"
    for path in ("/etc/cron.d/kps-undo-at-boot", "/etc/rcS.d/S99kps-undo-at-boot", "/root/.ssh"):
        assert not server.exists(path), path
    frozen.process.send_signal(signal.SIGCONT)
    ended = frozen.ended(task)
    assert (ended["status"], ended["server_state"]) == ("failed", "reverted"), ended
    frozen.succeeds("bind", server, keypair=pair, password=server.root_password)


# -- dropbear


@pytest.fixture
def dropbear(make_server):
    """A server whose ssh is dropbear, and no Python: the place at which it is, and the server."""
    program = shutil.which("dropbear") or lacking("dropbear-bin")
    server = make_server(python=False)
    root = Path(f"/proc/{server.pid}/root")
    needed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
    for path in [program, shutil.which("dropbearkey"), *(word for word in needed if word.startswith("/"))]:
        if not server.exists(path):
            shutil.copy(os.path.realpath(path), root / path.lstrip("/"))
    made = server.run(["dropbearkey", "-t", "ed25519", "-f", "/etc/key"]).stdout
    line = next(each for each in made.split("\n") if each.startswith("ssh-ed25519 "))
    server.run(["sh", "-c", "kill $(cat /run/sshd.pid); rm /etc/ssh/sshd_config"])
    server.run(["dropbear", "-p", f"{server.host}:2222", "-r", "/etc/key"])
    return Place(server.name, server.host, 2222, " ".join(line.split()[:2])), server


def test_on_dropbear_keys_are_changed_and_password_login_is_not(product, dropbear):
    place, server = dropbear
    product.add(place)
    first, second = product.keypair(), product.keypair()
    refused = product.fails("sshd_config_missing", "bind", place, keypair=first, password=server.root_password)
    assert refused["server_state"] == "as_before"
    assert not server.exists("/root/.ssh")
    server.write("/root/.ssh/authorized_keys2", "# dropbear reads no such file\n", 0o600)
    about = {"password": server.root_password, "keep_password_login": True}
    bound = product.succeeds("bind", place, keypair=first, **about)
    assert any("dropbear" in limit for limit in bound["evidence"]["limits"])
    assert ("key", "logged_in") in methods(bound)
    assert ("key", "refused") in methods(product.succeeds("replace", place, keypair=second))
    assert second["public_key"].split()[1] in server.read("/root/.ssh/authorized_keys")
    product.succeeds("unbind", place, password=server.root_password, accept_lockout=["root"])
    assert server.read("/root/.ssh/authorized_keys") == ""
    assert server.read("/root/.ssh/authorized_keys2") == "# dropbear reads no such file\n"


# -- SFTP only


@pytest.fixture(params=["", "    ChrootDirectory %h\n"])
def sftp_only(make_server, request):
    """A login that may do nothing but SFTP, perhaps confined to a home that is root's."""
    rule = f"\nMatch User deploy\n    ForceCommand internal-sftp\n{request.param}"
    server = make_server(logins=(Login("deploy", WORD),), sshd_config_end=rule)
    if request.param:
        made = "cd /home/deploy; chown root .; mkdir .ssh .kps; chmod 711 .kps; chmod 700 .ssh; chown deploy:deploy .ssh .kps"
        server.run(["sh", "-c", made])
    return server


def test_over_sftp_alone_the_keys_of_the_login_are_changed(product, sftp_only):
    server, first, second = sftp_only, product.keypair(), product.keypair()
    product.add(server, login="deploy")
    with unchanged(server):
        product.fails("sudo_refused", "bind", server, keypair=first, password=WORD)
    bound = product.succeeds("bind", server, keypair=first, password=WORD, keep_password_login=True)
    assert ("key", "logged_in") in methods(bound)
    assert any("SFTP only" in limit for limit in bound["evidence"]["limits"])
    keys = server.run(["stat", "-c", "%a %U", "/home/deploy/.ssh/authorized_keys"]).stdout
    assert keys == "600 deploy\n"
    assert ("key", "refused") in methods(product.succeeds("replace", server, keypair=second))
    assert second["public_key"].split()[1] in server.read("/home/deploy/.ssh/authorized_keys")
    assert product.run("check", server)["status"] == "unchanged"
    assert ("key", "refused") in methods(product.succeeds("unbind", server, password=WORD))
    assert server.read("/home/deploy/.ssh/authorized_keys") == ""
    assert server.run(["ls", "-A", "/home/deploy/.kps", "/home/deploy/.ssh"]).stdout.split() == [
        "/home/deploy/.kps:",
        "state.json",
        "/home/deploy/.ssh:",
        "authorized_keys",
    ]


def test_over_sftp_what_was_cut_off_is_undone_by_the_next_run(product, make_server):
    server = make_server(logins=(Login("deploy", WORD),), sshd_config_end="\nMatch User deploy\n    ForceCommand internal-sftp\n")
    product.add(server, login="deploy")
    path, private_file = "/home/deploy/.ssh/authorized_keys", {"mode": 0o600, "owner": "deploy:deploy"}
    server.write(path, "theirs\nours\nnew\n", **private_file)
    journal = {
        "operation": "op-1", "generation": 1, "login": "deploy", "deadline": 1.0, "boot": "sftp", "connection": None,
        "daemon": ["hidden", 0, "", [], "/etc/ssh/sshd_config", ""], "grounds": {}, "widening": 1, "remove": [], "revoke": [],
        "steps": [["keys", path, "deploy", "theirs\n", "theirs\nours\n"]],
    }  # fmt: skip
    server.write("/home/deploy/.kps/journal.armed", json.dumps(journal), **private_file)
    server.write("/home/deploy/.kps/lock", "somebody", **private_file)
    server.run(["sh", "-c", "cd /home/deploy; chown -R deploy:deploy .; chmod 700 .ssh; chmod 711 .kps"])
    product.fails("busy", "check", server, password=WORD)
    server.run(["touch", "-d", "1 hour ago", "/home/deploy/.kps/lock"])
    product.run("check", server, password=WORD)
    assert server.read(path) == "theirs\nnew\n"
    assert server.run(["ls", "-A", "/home/deploy/.kps", "/home/deploy/.ssh"]).stdout.split() == [
        "/home/deploy/.kps:", "state.json", "/home/deploy/.ssh:", "authorized_keys"
    ]  # fmt: skip
