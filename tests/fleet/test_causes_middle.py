"""What goes wrong in the middle of an operation: caused from outside while a login is held that should prove the change."""

import os
import signal

import pytest

from tests.fleet import judge
from tests.fleet.causes import CONFIG, KEYS, STATE, Gate, at_the_proof, install_key, proxy, unchanged
from tests.fleet.looks import begun, changed, picture, until
from tests.fleet.product import Product

STAYS = STATE | Gate.PATHS | {"/run/gate"}
NARROWED = "grep -q 'kps: begin' /etc/ssh/sshd_config"


def begin(product, server, **request):
    """Begin to bind a key pair with root's password; password login is to be switched off."""
    product.add(server)
    (task_id,) = product.begin("bind", server, keypair=product.keypair(), password=server.root_password, **request)
    return task_id


def end_rope(server):
    """Kill the session that carries the agent: of the sessions that are open, the one that came first."""
    sessions = [pid for pid, title in server.processes().items() if title.startswith(("sshd: root@", "sshd-session: root@"))]
    os.kill(min(sessions, key=begun), signal.SIGKILL)


def opens_no_session(server):
    try:
        judge.password_login_works(server, "root", server.root_password)
    except judge.Puzzled as puzzled:
        return "open failed" in str(puzzled)
    return False


@pytest.mark.cause("connection_lost")
@pytest.mark.parametrize("when", ["true", NARROWED], ids=["key added", "passwords off"])
def test_the_session_of_the_agent_is_killed(product, server, told, when):
    gate = Gate(server, when)
    with unchanged(server, STAYS):
        task_id = begin(product, server)
        gate.await_login()
        end_rope(server)
        gate.open()
        told(product.ended(task_id), "reverted")


@pytest.mark.cause("connection_lost")
def test_a_server_that_opens_no_sessions_when_it_is_asked_how_it_ended(product, server, told):
    gate = Gate(server)
    limit = "/etc/ssh/sshd_config.d/50-limit.conf"
    with unchanged(server, STAYS | {limit}, password_works=None):
        task_id = begin(product, server)
        gate.await_login()
        server.write(limit, "MaxSessions 0\n")
        server.run(["sh", "-c", "kill -HUP $(cat /run/sshd.pid)"])
        until(lambda: opens_no_session(server))
        end_rope(server)
        gate.open()
        task = told(product.ended(task_id), "unknown")
        assert "MaxSessions" in task["message"]


@pytest.mark.cause("connection_lost")
def test_a_server_that_falls_silent(hurried, server, told):
    """Nothing comes any more, not even an end: a cable was pulled, or the machine hangs."""
    gate = Gate(server)
    before = picture(server)
    task_id = begin(hurried, server)
    gate.await_login()
    frozen = [pid for pid, title in server.processes().items() if "sshd: root" in title or "-I -S -E -B" in title]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        told(hurried.ended(task_id), "unknown")
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    until(lambda: changed(before, picture(server)) <= STAYS)


@pytest.mark.cause("server_rebooted")
@pytest.mark.parametrize("when", ["true", NARROWED], ids=["key added", "passwords off"])
def test_a_server_that_is_rebooted(product, server, told, when):
    gate = Gate(server, when)
    with unchanged(server, STAYS):
        task_id = begin(product, server)
        gate.await_login()
        server.reboot()
        task = told(product.ended(task_id), "reverted")
    assert product.retry(task, password=server.root_password)["status"] == "succeeded"


@pytest.mark.cause("server_shut_down")
def test_a_server_that_is_shut_down_and_stays_off(hurried, server, told):
    gate = Gate(server, NARROWED)
    before = picture(server)
    task_id = begin(hurried, server)
    gate.await_login()
    server.stop()
    task = told(hurried.ended(task_id), "unknown")
    server.start()
    until(lambda: changed(before, picture(server)) <= STAYS, what="the undo at boot")
    assert judge.password_login_works(server, "root", server.root_password)
    assert hurried.retry(task, password=server.root_password)["status"] == "succeeded"
    assert hurried.task(task_id)["server_state"] == "reverted"


@pytest.mark.cause("deadline_passed")
def test_a_proof_that_takes_too_long(hurried, server, told):
    gate = Gate(server)
    with unchanged(server, STAYS):
        task_id = begin(hurried, server)
        gate.await_login()
        until(lambda: "reverted" in server.run(["cat", "/var/lib/kps/state.json"], check=False).stdout)
        gate.open()
        told(hurried.ended(task_id), "reverted")


@pytest.mark.cause("busy")
def test_an_operation_of_another_controller_on_the_same_server(product, stranger, server, told):
    gate = Gate(server)
    task_id = begin(product, server, keep_password_login=True)
    gate.await_login()
    before = picture(server)
    told(stranger.ended(begin(stranger, server)))
    assert changed(before, picture(server)) == set()
    gate.open()
    assert product.ended(task_id)["status"] == "succeeded"


@pytest.mark.cause("stale_generation")
def test_an_order_of_a_controller_that_does_not_know_of_newer_ones(product, stranger, server, told):
    product.add(server)
    first = product.keypair()
    product.succeeds("bind", server, keypair=first, password=server.root_password, keep_password_login=True)
    product.succeeds("replace", server, keypair=product.keypair())
    with unchanged(server):
        task = told(stranger.ended(begin(stranger, server, keep_password_login=True)))
    assert stranger.retry(task, password=server.root_password)["status"] == "succeeded"


@pytest.mark.cause("authorized_keys_changed")
@pytest.mark.parametrize("there", [True, False], ids=["a file that was there", "a file that we made"])
def test_somebody_who_edits_the_file_while_we_do(product, server, told, there):
    if there:
        install_key(server, judge.new_key_pair()[1])
    private, public = judge.new_key_pair()
    before = server.read(KEYS) if there else ""
    server.write("/root/theirs", public + "\n")
    at_the_proof(server, f"grep -q -f /root/theirs {KEYS} || cat /root/theirs >>{KEYS}")
    with unchanged(server, STATE | {KEYS, "/root/.ssh"}):
        task = told(product.ended(begin(product, server)), "reverted")
    assert task["evidence"]["path"] == KEYS
    assert server.read(KEYS) == before + public + "\n"
    assert judge.key_login_works(server, "root", private)


@pytest.mark.cause("sshd_config_changed")
@pytest.mark.parametrize("when", ["before ours is written", "after"])
def test_somebody_who_edits_sshd_s_configuration_while_we_do(product, server, told, when):
    theirs = "# theirs\n"
    present = "!" if when == "before ours is written" else ""
    at_the_proof(
        server, f"{present} grep -q 'kps: begin' {CONFIG} || exit 0\ngrep -q theirs {CONFIG} || echo '# theirs' >>{CONFIG}"
    )
    before = server.read(CONFIG)
    with unchanged(server, STAYS | {CONFIG}):
        task = told(product.ended(begin(product, server)), "reverted")
    assert task["evidence"]["path"] == CONFIG
    assert server.read(CONFIG) == before + theirs


@pytest.mark.cause("sshd_config_changed")
def test_a_drop_in_that_is_written_meanwhile_is_not_put_into_force(product, server, told):
    """As cloud-init does at a boot, or a configuration manager: the reload of ours would be theirs too."""
    drop_in = "/etc/ssh/sshd_config.d/50-cloud-init.conf"
    at_the_proof(server, f"echo 'AllowUsers nobody' >{drop_in}")
    with unchanged(server, STAYS | {drop_in}):
        task = told(product.ended(begin(product, server)), "reverted")
    assert drop_in.startswith(task["evidence"]["path"])
    assert server.read(drop_in) == "AllowUsers nobody\n"


EDITORS = {
    "by rename, as vim does": "cp -p {0} {0}~ && cat {0} /root/theirs >{0}.swp && chmod 600 {0}.swp && mv {0}.swp {0} && rm {0}~",
    "by sed -i": "sed -i '$r /root/theirs' {0}",
    "in place, as nano does": "cat {0} /root/theirs >/root/all && cat /root/all >{0} && rm /root/all",
}


@pytest.mark.cause("authorized_keys_changed")
@pytest.mark.parametrize("editor", EDITORS)
def test_somebody_who_edits_the_file_with_an_editor_while_we_do(product, server, told, editor):
    install_key(server, judge.new_key_pair()[1])
    private, public = judge.new_key_pair()
    before = server.read(KEYS)
    server.write("/root/theirs", public + "\n")
    at_the_proof(server, f"grep -q -f /root/theirs {KEYS} || {{ {EDITORS[editor].format(KEYS)}; }}")
    with unchanged(server, STATE | {KEYS}):
        task = told(product.ended(begin(product, server)), "reverted")
    assert task["evidence"]["path"] == KEYS
    assert server.read(KEYS) == before + public + "\n"
    assert judge.key_login_works(server, "root", private)


@pytest.mark.cause("undo_incomplete")
def test_a_file_that_becomes_immutable_before_the_undo(product, server, told):
    install_key(server, judge.new_key_pair()[1])
    gate = Gate(server)
    with unchanged(server, STAYS):
        task_id = begin(product, server)
        gate.await_login()
        server.run(["chattr", "+i", KEYS])
        end_rope(server)
        gate.open()
        task = told(product.ended(task_id), "partial")
        again = told(product.retry(task, password=server.root_password), "partial")
        assert all(KEYS in str(each["evidence"]["remains"]) for each in (task, again))
        server.run(["chattr", "-i", KEYS])
        assert product.run("check", server, password=server.root_password)["status"] == "unchanged"
    assert product.retry(again, password=server.root_password)["status"] == "succeeded"


@pytest.mark.cause("wrong_machine")
def test_two_servers_behind_one_address(product, make_server, told):
    one, other = make_server(), make_server()
    for path in ("/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"):
        other.write(path, one.read(path))
    other.reboot()
    keypair = product.keypair()
    install_key(other, keypair["public_key"])  # a clone knows the same keys
    came = iter([one])
    with proxy(lambda: next(came, other), f"{one.name}-cloned", one.host_key) as place:
        product.add(place)
        with unchanged(one, STATE), unchanged(other, password_works=None):  # the judge knows the host key it had before
            told(product.run("bind", place, keypair=keypair, password=one.root_password), "reverted")


@pytest.mark.cause("interrupted")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["told to stop", "killed"])
def test_a_controller_that_ends(tmp_path, server, told, how):
    gate = Gate(server, NARROWED)
    with Product(tmp_path / "home", lease_seconds=2, stop_seconds=0) as product:
        with unchanged(server, STAYS):
            task_id = begin(product, server)
            gate.await_login()
            product.end(how)
            gate.open()
            product.serve()
            task = told(product.ended(task_id), "unknown")
            until(lambda: not server.exists("/var/lib/kps/journal.armed") and not server.exists("/var/lib/kps/journal.reverting"))
        assert product.retry(task, password=server.root_password)["status"] == "succeeded"
        assert product.task(task_id)["server_state"] == "reverted"
