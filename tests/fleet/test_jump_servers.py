"""Servers behind jump servers: real sshds through real sshds, over one hop and two, and one on the way that breaks down."""

import contextlib
import os
import re
import signal

import pytest

from tests.fleet import judge
from tests.fleet.causes import Gate, install_key
from tests.fleet.looks import until
from tests.fleet.product import Product, methods

LOG = "/var/log/sshd.log"


def opened_by_us(product, server, **more):
    """Take a server in and bind a managed key pair to it, so that it can be a jump server."""
    product.add(server, **more)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    return pair


def with_log(server, level="VERBOSE"):
    """Have the server's sshd write a log that a test can read."""
    options = f"-o ListenAddress={server.host}:{server.port} -o LogLevel={level} -E {LOG}"
    server.write("/etc/default/ssh", f'SSHD_OPTS="{options}"\n')
    server.reboot()


def came(server):
    """How many SSH clients a server's sshd has seen: not the agent, which looks on the server itself whether sshd listens."""
    log = server.read(LOG)
    return len(re.findall("^Connection from", log, re.MULTILINE)) - len(
        re.findall("^kex_exchange_identification", log, re.MULTILINE)
    )


def led_on(jump, server):
    """How many connections a jump server has made to a server."""
    return len(re.findall(rf"target {re.escape(server.host)} port {server.port}\b", jump.read(LOG)))


def end_sessions(server):
    """Kill every process of a server's sshd that serves a connection, and not the one that listens."""
    for pid, words in server.processes().items():
        if re.match(r"sshd(-session)?: ", words) and "listener" not in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# -- the way works -----------------------------------------------------------------------------------------------------


def test_every_operation_and_every_proof_goes_through_the_jump_server(make_server, product):
    jump, server = make_server(), make_server()
    opened_by_us(product, jump)
    with_log(jump, "DEBUG")
    with_log(server)
    until(lambda: came(server) == 0, what="who looked whether it listens has not left")
    product.add(server, jump=[jump.name])
    assert product.server(server)["jump"] == [jump.name]
    first, second = product.keypair(), product.keypair()
    product.succeeds("bind", server, keypair=first, password=server.root_password)
    task = product.succeeds("replace", server, keypair=second)
    assert methods(task) == {("key", "logged_in"), ("key", "refused")}
    assert product.run("check", server)["status"] == "unchanged"
    task = product.succeeds("unbind", server, password=server.root_password)
    assert methods(task) == {("password", "logged_in"), ("key", "refused")}
    # Ropes and proofs: none came to the server but by the jump server.
    until(lambda: came(server) == led_on(jump, server) >= 9, what="some came otherwise, or are not in the log yet")
    assert judge.password_login_works(server, "root", server.root_password)
    assert not judge.key_login_works(server, "root", product.private(second))


@pytest.mark.parametrize("chained", [True, False], ids=["each knows its own", "both are named"])
def test_two_hops(make_server, product, chained):
    outer, inner, server = make_server(), make_server(), make_server()
    opened_by_us(product, outer)
    opened_by_us(product, inner, jump=[outer.name])
    jumps = [inner.name] if chained else [outer.name, inner.name]
    with_log(inner, "DEBUG")
    product.add(server, jump=jumps, host_key=None, trust_on_first_use=True)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password)
    assert product.server(server)["host_key"].split()[:2] == server.public_host_key.split()[:2]
    assert judge.key_login_works(server, "root", product.private(pair))
    assert f"target {server.host} port {server.port}" in inner.read(LOG)


def test_the_key_that_is_given_opens_a_jump_server_where_none_is_bound(make_server, product):
    jump, server = make_server(), make_server()
    private, public = judge.new_key_pair()
    for each in (jump, server):
        install_key(each, public)
    product.add(jump)
    product.add(server, jump=[jump.name])
    product.succeeds("bind", server, keypair=product.keypair(), identity=private)


def test_a_password_is_never_shown_to_a_jump_server(make_server, product):
    jump, server = make_server(root_password="the very same word"), make_server(root_password="the very same word")
    with_log(jump)
    product.add(jump)
    product.add(server, jump=[jump.name])
    task = product.fails("jump_refused", "bind", server, keypair=product.keypair(), password="the very same word")
    assert task["evidence"]["hop_cause"] == "credential_needed"
    assert "password" not in jump.read(LOG)


# -- the way is broken -------------------------------------------------------------------------------------------------


def test_a_way_in_a_circle_is_refused_and_a_jump_server_in_use_stays(make_server, product):
    one, two = make_server(), make_server()
    product.add(one)
    product.add(two, jump=[one.name])
    assert "jump_loop" in product.kps("server", "set", one.name, "--jump", two.name, "--json", ends=None).stderr
    assert "jump_loop" in product.kps("server", "set", one.name, "--jump", one.name, "--json", ends=None).stderr
    assert "jump_in_use" in product.kps("server", "remove", one.name, "--json", ends=None).stderr
    assert product.server(one)["jump"] == []
    product.kps("server", "set", two.name, "--no-jump")
    product.kps("server", "remove", one.name)


def test_a_jump_server_that_lets_us_in_no_more_is_never_a_proof_that_a_key_was_refused(make_server, hurried):
    """Whether the removed key is refused is asked over the jump server. What that one refuses is no answer."""
    jump, server = make_server(), make_server()
    opened_by_us(hurried, jump)
    hurried.add(server, jump=[jump.name])
    pair = hurried.keypair()
    hurried.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    gate = Gate(server)
    task_id = hurried.begin("replace", server, keypair=hurried.keypair())[0]
    gate.await_login()
    jump.run(["rm", "/root/.ssh/authorized_keys"])
    end_sessions(jump)
    gate.open()
    task = hurried.ended(task_id)
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", "connection_lost", "unknown")
    until(lambda: judge.key_login_works(server, "root", hurried.private(pair)))


@pytest.mark.parametrize("hops", [1, 2])
def test_a_jump_server_whose_connections_are_killed_in_the_middle(make_server, hurried, hops):
    """The server undoes at once; and as the jump server still takes connections, the task can say so."""
    jumps = [make_server() for _ in range(hops)]
    server = make_server()
    before = None
    for jump in jumps:
        opened_by_us(hurried, jump, jump=[before.name] if before else [])
        before = jump
    hurried.add(server, jump=[jumps[-1].name])
    pair = hurried.keypair()
    gate = Gate(server)
    task_id = hurried.begin("bind", server, keypair=pair, password=server.root_password)[0]
    gate.await_login()
    end_sessions(jumps[0])
    gate.open()
    task = hurried.ended(task_id)
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", "connection_lost", "reverted")
    assert judge.password_login_works(server, "root", server.root_password)
    assert not judge.key_login_works(server, "root", hurried.private(pair))
    hurried.succeeds("bind", server, keypair=pair, password=server.root_password)


def test_a_jump_server_that_goes_away_in_the_middle(make_server, hurried):
    """Nobody can say how it ended, so it is unknown; the server has undone, and the next look settles it."""
    jump, server = make_server(), make_server()
    opened_by_us(hurried, jump)
    hurried.add(server, jump=[jump.name])
    pair = hurried.keypair()
    gate = Gate(server)
    task_id = hurried.begin("bind", server, keypair=pair, password=server.root_password)[0]
    gate.await_login()
    jump.stop()
    gate.open()
    task = hurried.ended(task_id)
    assert (task["status"], task["cause"], task["server_state"]) == ("failed", "connection_lost", "unknown")
    assert jump.name in task["message"]
    until(lambda: judge.password_login_works(server, "root", server.root_password))
    jump.start()
    assert hurried.run("check", server, password=server.root_password)["status"] == "unchanged"
    assert hurried.task(task_id)["server_state"] == "reverted"


# -- how many at once --------------------------------------------------------------------------------------------------


def test_a_jump_server_sees_no_more_connections_at_once_than_it_is_set_to_carry(make_server, tmp_path):
    jump = make_server()
    servers = [make_server() for _ in range(6)]
    with Product(tmp_path / "home", jump_connections=2) as product:
        opened_by_us(product, jump)
        with_log(jump)
        for server in servers:
            product.add(server, jump=[jump.name])
        pair = product.keypair()
        ids = []
        for server in servers:
            ids += product.begin("bind", server, keypair=pair, password=server.root_password)
        ended = [product.ended(each) for each in ids]
    assert [task["status"] for task in ended] == ["succeeded"] * 6
    assert most_at_once(jump.read(LOG)) == 2


def most_at_once(log):
    """How many connections were logged in at the same time, by what an sshd says of each port as it comes and goes."""
    open_now, most = set(), 0
    for line in log.split("\n"):
        port = re.search(r" port (\d+)", line)
        if line.startswith(("Accepted publickey", "Accepted password")):
            open_now.add(port[1])
        elif line.startswith(("Disconnected from", "Connection closed", "Connection reset")):
            open_now.discard(port[1])
        most = max(most, len(open_now))
    return most
