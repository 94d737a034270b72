"""Reset: a server that is shut down gets a key through its mounted disk; what takes something away waits for the first proof."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.looks import changed, disk_picture, fingerprint_of, paramiko_lets_in, picture
from tests.fleet.product import methods

ALICE = Login("alice", "alice's own word")
STATE = {"/var/lib/kps", "/var/lib/kps/state.json"}
# What of this machine a reset could touch by mistake: whatever a disk has that the agent reads, writes or arms.
OURS = [
    *("/etc/ssh", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/sudoers.d"),
    *("/etc/cron.d", "/etc/rcS.d", "/etc/systemd/system", "/root/.ssh", "/var/lib/kps"),
]
TREES = ("host", "bullseye", "trixie")


def key_works(server, private, login="root"):
    return judge.key_login_works(server, login, private)


def reset(product, server, **order):
    """Reset a stopped server through its disk; this machine's own files must not change with it."""
    before = fingerprint_of(OURS)
    task = product.succeeds("reset", server, root=str(server.mounted_root()), **order)
    assert fingerprint_of(OURS) == before
    return task


@pytest.fixture
def locked(make_server, product, request):
    """A server of which the one key that opens it is lost; with it the tree that it is of, and the lost private half."""
    server = make_server(tree=getattr(request, "param", "host"))
    product.add(server)
    made = product.keypair(managed=False)
    order = {"keypair": made, "password": server.root_password, "accept_unproved": True}
    product.succeeds("bind", server, **order)
    server.stop()
    return server, made["private_key"]


@pytest.mark.parametrize("locked", TREES, indirect=True)
def test_the_new_key_opens_the_server_and_its_first_proof_takes_the_old_one_away(locked, product):
    server, lost = locked
    before = disk_picture(server.mounted_root())
    new = product.keypair()
    task = reset(product, server, keypair=new)
    assert methods(task) == {("key", "not_applicable")}
    assert changed(before, disk_picture(server.mounted_root())) == {"/root/.ssh/authorized_keys", "/var/lib/kps/state.json"}

    server.start()
    assert key_works(server, product.private(new))
    assert key_works(server, lost)
    assert product.server(server)["keypair"] == new["name"]
    task = product.succeeds("check", server)
    assert methods(task) == {("key", "logged_in"), ("key", "refused"), ("password", "refused")}
    assert key_works(server, product.private(new))
    assert not key_works(server, lost)
    assert not judge.password_login_works(server, "root", server.root_password)
    assert product.server(server)["after_reset"] is None
    assert product.run("check", server)["status"] == "unchanged"


def test_a_server_that_was_never_bound_is_opened_and_its_passwords_close_with_the_first_proof(make_server, product):
    server = make_server(
        logins=(ALICE,), sshd_config_top="PubkeyAuthentication no\nPermitRootLogin no\nPasswordAuthentication yes\n"
    )
    original = server.read("/etc/ssh/sshd_config")
    product.add(server)
    server.stop()
    new = product.keypair()
    reset(product, server, keypair=new)
    server.start()
    assert key_works(server, product.private(new))
    assert not judge.password_login_works(server, "root", server.root_password)  # it had none, and gets none
    assert judge.password_login_works(server, "alice", "alice's own word")

    task = product.fails("others_locked_out", "check", server)
    assert task["evidence"]["logins"] == ["alice"]
    assert judge.password_login_works(server, "alice", "alice's own word")
    product.succeeds("check", server, accept_lockout=["alice"])
    assert not judge.password_login_works(server, "alice", "alice's own word")
    assert key_works(server, product.private(new))
    assert server.read("/etc/ssh/sshd_config").endswith(original)


@pytest.mark.parametrize("tree", TREES)
def test_a_password_that_was_set_lets_in_until_the_first_proof(make_server, product, tree):
    server = make_server(tree=tree, sshd_config_top="PermitRootLogin prohibit-password\nPasswordAuthentication no\n")
    before = picture(server)
    product.add(server)
    server.stop()
    new = product.keypair()
    told = _reset_with_password(product, server, new)
    server.start()
    assert told["status"] == "succeeded"
    password = told["password"]
    assert judge.password_login_works(server, "root", password)
    assert paramiko_lets_in(server, "root", password)
    assert not judge.password_login_works(server, "root", server.root_password)
    assert key_works(server, product.private(new))
    after = picture(server)
    hashed = after["/etc/shadow"][4].split("\n")[0].split(":")[1]
    assert after["/etc/shadow"][:4] == before["/etc/shadow"][:4]
    assert after["/etc/shadow"][4].split("\n")[1:] == before["/etc/shadow"][4].split("\n")[1:]
    assert hashed.startswith("$6$")
    product.succeeds("check", server)
    assert not judge.password_login_works(server, "root", password)
    assert key_works(server, product.private(new))


def _reset_with_password(product, server, keypair):
    """Reset by the command line, which shows the password once, and return what it printed."""
    words = ["reset", server.name, "--keypair", keypair["name"], "--root", str(server.mounted_root()), "--set-password"]
    before = fingerprint_of(OURS)
    done = product.kps(*words, "--json")
    assert fingerprint_of(OURS) == before
    (told,) = json.loads(done.stdout)
    shown = product.task(told["task_id"])
    assert told["password"] not in json.dumps(shown)
    return told


def test_two_resets_forget_neither_of_the_keys_that_went_before(locked, product):
    server, lost = locked
    first, second = product.keypair(), product.keypair()
    reset(product, server, keypair=first)
    reset(product, server, keypair=second)
    server.start()
    product.succeeds("check", server)
    assert key_works(server, product.private(second))
    assert not key_works(server, lost)
    assert not key_works(server, product.private(first))
    assert not judge.password_login_works(server, "root", server.root_password)


def test_a_replace_right_after_a_reset_does_what_the_check_would_have_done(locked, product):
    server, lost = locked
    first, second = product.keypair(), product.keypair()
    reset(product, server, keypair=first)
    server.start()
    product.succeeds("replace", server, keypair=second)
    assert key_works(server, product.private(second))
    assert not key_works(server, lost)
    assert not key_works(server, product.private(first))
    assert product.server(server)["after_reset"] is None


@pytest.mark.parametrize("tree", TREES)
def test_a_reset_of_another_login_is_proved_for_that_login(make_server, product, tree):
    server = make_server(tree=tree, logins=(ALICE,))
    product.add(server)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password, accept_lockout=["alice"])
    server.stop()
    new = product.keypair()
    reset(product, server, keypair=new, login="alice")
    server.start()
    assert key_works(server, product.private(new), "alice")
    assert product.server(server)["after_reset"].keys() == {"alice"}
    task = product.run("check", server)
    assert (task["server_state"], task["login"]) == ("as_asked", "alice"), task
    assert methods(task) == {("key", "logged_in"), ("password", "refused")}
    assert key_works(server, product.private(new), "alice")
    assert key_works(server, product.private(pair))
    assert {each["login"]: each["keypair"] for each in product.server(server)["bindings"]} == {
        "root": pair["name"],
        "alice": new["name"],
    }


@pytest.mark.parametrize("tree", TREES)
def test_the_old_key_of_another_login_is_refused_after_the_first_proof(make_server, product, tree):
    server = make_server(tree=tree, logins=(ALICE,))
    product.add(server)
    lost, pair = product.keypair(managed=False), product.keypair()
    order = {"password": server.root_password, "keep_password_login": True}
    product.succeeds("bind", server, keypair=lost, login="alice", accept_unproved=True, **order)
    product.succeeds("bind", server, keypair=pair, **order)
    assert key_works(server, lost["private_key"], "alice")
    server.stop()
    new = product.keypair()
    reset(product, server, keypair=new, login="alice")
    server.start()
    assert key_works(server, product.private(new), "alice")
    assert key_works(server, lost["private_key"], "alice")
    task = product.succeeds("check", server)
    assert ("key", "refused") in methods(task)
    assert key_works(server, product.private(new), "alice")
    assert not key_works(server, lost["private_key"], "alice")
    assert key_works(server, product.private(pair))


# -- whose files they are ----------------------------------------------------------------------------------------------

LINKS = {
    "the home, as an absolute link": "mv /home/alice /var/alice && ln -s /var/alice /home/alice",
    "the key directory, as an absolute link": "install -d -m 700 -o alice -g alice /home/alice/keys /home/alice/.ssh "
    "&& rmdir /home/alice/.ssh && ln -s /home/alice/keys /home/alice/.ssh",
}


@pytest.mark.parametrize("how", LINKS)
def test_absolute_links_on_the_disk_lead_to_the_disk_and_not_to_this_machine(make_server, product, how):
    server = make_server(logins=(ALICE,))
    server.run(["sh", "-c", LINKS[how]])
    product.add(server)
    server.stop()
    here = [path for path in ("/var/alice", "/home/alice") if os.path.lexists(path)]
    new = product.keypair()
    reset(product, server, keypair=new, login="alice")
    assert [path for path in ("/var/alice", "/home/alice") if os.path.lexists(path)] == here
    server.start()
    assert key_works(server, product.private(new), "alice")


def test_a_link_to_root_s_keys_reaches_neither_this_machine_s_nor_the_disk_s(make_server, product):
    server = make_server(logins=(ALICE,))
    server.run(["sh", "-c", "install -d -o alice /home/alice/.ssh; ln -s /root/.ssh/authorized_keys /home/alice/.ssh/"])
    product.add(server)
    server.stop()
    before = disk_picture(server.mounted_root())
    ours = fingerprint_of(OURS)
    task = product.fails(
        "path_unsafe", "reset", server, root=str(server.mounted_root()), keypair=product.keypair(), login="alice"
    )
    assert task["server_state"] == "as_before"
    assert fingerprint_of(OURS) == ours
    assert changed(before, disk_picture(server.mounted_root())) <= STATE


def test_modes_that_keep_the_key_out_are_mended_on_the_disk(make_server, product):
    server = make_server(logins=(ALICE,))
    server.run(["sh", "-c", "install -d -m 775 -o alice -g alice /home/alice/.ssh"])
    server.write("/home/alice/.ssh/authorized_keys", "# mine\n", 0o666, "alice:users")
    product.add(server)
    server.stop()
    new = product.keypair()
    reset(product, server, keypair=new, login="alice")
    disk = Path(server.mounted_root(), "home/alice/.ssh")
    assert [oct((disk / name).stat().st_mode & 0o777) for name in (".", "authorized_keys")] == ["0o755", "0o644"]
    server.start()
    assert key_works(server, product.private(new), "alice")
    assert server.read("/home/alice/.ssh/authorized_keys") == f"# mine\n{new['public_key']}\n"


_WITHOUT_CHROOT = """import asyncio, json, sys
from controller.transport import at_rest
plan = {"operation": "reset", "id": "op-1", "generation": 1, "login": "root", "deadline_seconds": 60, "key": sys.argv[2]}
print(json.dumps(asyncio.run(at_rest.run(sys.argv[1], plan))))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, as a reset does")
def test_a_root_that_may_not_go_into_the_disk_is_told_so(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    before = disk_picture(tmp_path)
    less = ["setpriv", "--bounding-set=-sys_chroot", "--inh-caps=-sys_chroot"]
    words = [sys.executable, "-c", _WITHOUT_CHROOT, str(tmp_path), judge.new_key_pair()[1]]
    ran = subprocess.run([*less, *words], capture_output=True, text=True, check=True, timeout=60)
    result = json.loads(ran.stdout)
    assert (result["status"], result["server_state"], result["cause"]) == ("failed", "as_before", "sudo_refused"), result
    assert str(tmp_path) in result["message"]
    assert "CAP_SYS_CHROOT" in result["message"]
    assert disk_picture(tmp_path) == before
