"""Tasks on real servers: one at a time for each server, kept when they fail, asked for again when what was wrong is mended."""

import asyncio
import itertools
import json
import signal
import subprocess

import pytest

from controller.app import in_process
from controller.client import AsyncKpsClient
from controller.demo.fleet import Login
from controller.settings import Settings
from tests.fleet import judge
from tests.fleet.causes import CONFIG, KEYS, Gate, at_the_proof
from tests.fleet.looks import changed, picture, until
from tests.fleet.product import KPS, Product

ALICE = Login("alice", "alice's own word")


def prepared(home, server):
    """A home that nobody serves, with this server and a key pair called ops in it."""
    product = Product(home)

    async def prepare():
        async with in_process(Settings(home=home)) as application, AsyncKpsClient.in_process(application) as client:
            about = {"name": server.name, "host": server.host, "port": server.port, "host_key": server.host_key}
            await client.add_server(about)
            await client.create_keypair({"name": "ops"})

    asyncio.run(prepare())
    return product


def command(product, *words, given=""):
    """kps as a process of its own that goes on in the background."""
    process = subprocess.Popen(
        [KPS, *words, "--json"],
        env=product.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdin.write(given)
    process.stdin.close()
    process.stdin = None
    return process


def test_a_failed_task_is_kept_explained_asked_for_again_and_forgotten(make_server, product):
    server = make_server(logins=(ALICE,))
    product.add(server)
    pair = product.keypair()
    right, wrong = server.root_password + "\n", "not this one\n"

    def failed():
        return [each for each in product.ask("GET", "/tasks", params={"failed": True}) if each["server"] == server.name]

    before = picture(server)
    product.kps("bind", server.name, "--keypair", pair["name"], "--password-stdin", given=wrong, ends=1)
    (kept,) = failed()
    assert (kept["cause"], kept["server_state"], kept["retryable"]) == ("wrong_password", "as_before", True)
    assert "kps task retry" in product.kps("task", "show", kept["id"]).stdout

    # A retry may fail for another reason, and takes the place of what it retries.
    product.kps("task", "retry", kept["id"], "--password-stdin", given=right, ends=1)
    (other,) = failed()
    assert (other["cause"], other["evidence"]["logins"], other["retry_of"]) == ("others_locked_out", ["alice"], kept["id"])
    assert changed(before, picture(server)) == set()
    server.run(["passwd", "-l", "alice"])  # what was wrong is mended, on the server
    product.kps("task", "retry", other["id"], "--password-stdin", given=right)
    assert failed() == []
    assert not judge.password_login_works(server, "root", server.root_password)

    # One that stays failed is in nobody's way, and goes when it is told to.
    product.fails("already_bound", "bind", server, keypair=product.keypair())
    (left,) = failed()
    assert product.run("check", server)["status"] == "unchanged"
    product.kps("task", "delete", left["id"])
    assert failed() == []
    product.kps("task", "show", left["id"], ends=3)


def test_operations_on_one_server_wait_for_each_other(make_server, product):
    server = make_server(logins=(ALICE,))
    product.add(server)
    pair = product.keypair()
    gate = Gate(server)
    order = {"keypair": pair, "password": server.root_password, "accept_lockout": ["alice"]}
    (first,) = product.begin("bind", server, **order)
    gate.await_login()
    rest = [product.begin("replace", server, keypair=product.keypair())[0] for _ in range(3)]
    rest.append(product.begin("password-login-enable", server)[0])
    rest.append(product.begin("password-login-disable", server, accept_lockout=["alice"])[0])
    assert {product.task(task_id)["status"] for task_id in rest} == {"ready"}
    gate.open()
    tasks = [product.ended(task_id) for task_id in [first, *rest]]
    assert {task["status"] for task in tasks} <= {"succeeded", "unchanged"}, tasks
    spans = sorted((task["started_at"], task["finished_at"]) for task in tasks)
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans)), spans
    assert server.read("/root/.ssh/authorized_keys").count("\n") <= 1


def test_operations_on_one_server_wait_for_each_other_in_processes_that_know_nothing_of_each_other(make_server, tmp_path):
    server = make_server()
    product = prepared(tmp_path / "home", server)
    gate = Gate(server)
    first = command(product, "bind", server.name, "--keypair", "ops", "--password-stdin", given=f"{server.root_password}\n")
    gate.await_login()
    second = command(product, "password-login", "status", server.name)
    until(lambda: len(json.loads(product.kps("task", "list", "--running", "--json").stdout)) == 2)
    gate.open()
    (bound,), (status,) = (json.loads(each.communicate(timeout=60)[0]) for each in (first, second))
    assert (bound["status"], status["status"]) == ("succeeded", "unchanged")
    assert bound["finished_at"] <= status["started_at"]
    assert status["logins"]["root"] == "off"


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_what_a_controller_runs_outlives_the_command_that_asked_for_it(make_server, product, ending):
    server = make_server()
    product.add(server)
    pair = product.keypair()
    gate = Gate(server)
    asking = command(
        product, "bind", server.name, "--keypair", pair["name"], "--password-stdin", given=f"{server.root_password}\n"
    )
    gate.await_login()
    (task,) = [each for each in product.ask("GET", "/tasks", params={"running": True}) if each["server"] == server.name]
    asking.send_signal(ending)
    asking.communicate(timeout=60)
    gate.open()
    assert product.ended(task["id"])["status"] == "succeeded"
    assert judge.key_login_works(server, "root", product.private(pair))
    assert not judge.password_login_works(server, "root", server.root_password)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_runs_its_operation_itself_takes_it_back_when_it_is_ended(make_server, tmp_path, ending):
    server = make_server()
    product = prepared(tmp_path / "home", server)
    gate = Gate(server, "grep -q 'kps: begin' /etc/ssh/sshd_config")
    original = server.read("/etc/ssh/sshd_config")
    asking = command(product, "bind", server.name, "--keypair", "ops", "--password-stdin", given=f"{server.root_password}\n")
    gate.await_login()
    asking.send_signal(ending)
    asking.communicate(timeout=60)
    until(lambda: "reverted" in server.run(["cat", "/var/lib/kps/state.json"], check=False).stdout)
    assert server.read("/etc/ssh/sshd_config") == original
    assert judge.password_login_works(server, "root", server.root_password)


# -- what could not be taken back --------------------------------------------------------------------------------------

BAD = "/etc/ssh/sshd_config.d/zz-somebody.conf"
# At the proof that passwords are off, somebody breaks sshd's configuration, and the proof fails.
BREAKS_SSHD = f"""
grep -q 'kps: begin' {CONFIG} && mkdir /root/broken 2>/dev/null || exit 0
echo Bogus yes >{BAD}
echo stop >/var/lib/kps/nonce
"""


@pytest.fixture
def shut(make_server, product):
    """A first bind that ended partial: sshd runs on without passwords, and only the new key gets in."""
    server = make_server()
    at_the_proof(server, BREAKS_SSHD)
    product.add(server)
    keypair = product.keypair()
    task = product.run("bind", server, keypair=keypair, password=server.root_password)
    assert (task["status"], task["server_state"]) == ("failed", "partial")
    assert judge.offered_methods(server, "root") == {"publickey"}
    assert judge.key_login_works(server, "root", product.private(keypair))
    return server, task


def test_what_is_left_of_a_bind_is_undone_by_its_retry(product, shut):
    server, task = shut
    again = product.retry(task, password=server.root_password)
    assert (again["cause"], again["server_state"]) == ("undo_incomplete", "partial")
    other = product.run("bind", server, keypair=product.keypair(), password=server.root_password)
    assert (other["cause"], other["server_state"]) == ("undo_incomplete", "partial")
    server.run(["rm", BAD])
    assert product.retry(again, password=server.root_password)["status"] == "succeeded"


@pytest.mark.parametrize("operation", ["check", "password-login-enable", "password-login-status"])
@pytest.mark.parametrize("given", [True, False])
def test_what_is_left_of_a_bind_is_undone_by_whatever_is_ordered_next(product, shut, operation, given):
    server, _ = shut
    server.run(["rm", BAD])
    task = product.run(operation, server, password=server.root_password if given else "")
    assert task["status"] in ("unchanged", "succeeded"), task
    assert judge.password_login_works(server, "root", server.root_password)
    assert "kps: begin" not in server.read(CONFIG)


def test_a_key_that_is_not_known_there_keeps_nobody_from_looking(product, shut):
    server, _ = shut
    server.run(["rm", BAD, KEYS])
    task = product.run("check", server)
    assert (task["status"], task["evidence"]["logins"]) == ("unchanged", {"root": "off"})


# At the proof that the old key is refused, the key file becomes a mount point, over which nothing can be renamed.
PINS_KEYS = """
grep -q OLD {keys} && exit 0
mkdir /root/pinned 2>/dev/null || exit 0
mount --bind {keys} {keys}
echo stop >/var/lib/kps/nonce
"""


@pytest.mark.parametrize("next_order", ["replace", "unbind"])
def test_the_new_key_gets_in_where_the_old_one_could_not_be_put_back(product, server, next_order):
    product.add(server)
    old, new = product.keypair(), product.keypair()
    product.succeeds("bind", server, keypair=old, password=server.root_password)
    at_the_proof(server, PINS_KEYS.format(keys=KEYS).replace("OLD", old["public_key"].split()[1]))
    task = product.run("replace", server, keypair=new)
    assert (task["status"], task["server_state"]) == ("failed", "partial"), task
    assert not judge.key_login_works(server, "root", product.private(old))
    server.run(["umount", KEYS])
    if next_order == "replace":
        assert product.retry(task)["status"] == "succeeded"
    else:
        product.succeeds("unbind", server, password=server.root_password)
