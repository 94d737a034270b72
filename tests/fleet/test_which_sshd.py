"""Which process is the sshd that serves us: one that listens, or one that somebody starts for each connection.

From OpenSSH 9.8 on sessions are programs of their own; up to then they are sshd under another title.
"""

import pytest

from tests.fleet import judge
from tests.fleet.causes import STATE, Gate, agents, at_the_proof, proxy, unchanged
from tests.fleet.looks import until

TREES = ["bullseye", "host", "trixie"]
NARROWED = "grep -q 'kps: begin' /etc/ssh/sshd_config"

# Starts sshd for each connection as inetd(8) does.
INETD = """
import os, signal, socket, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind((sys.argv[1], int(sys.argv[2])))
listening.listen(20)
if os.fork():
    os._exit(0)
os.setsid()
while True:
    connection, _ = listening.accept()
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(connection.fileno(), 0)
        os.dup2(connection.fileno(), 1)
        os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-i"])
    connection.close()
"""


def listeners(server):
    """The processes of a server that listen as sshd, by their titles."""
    return [title for title in server.processes().values() if "[listener]" in title]


@pytest.fixture
def by_inetd(make_server):
    """Makes a server on which no sshd listens: each is started for its connection."""

    def make(tree):
        server = make_server(tree=tree, files={"/root/inetd.py": INETD})
        server.run(
            [
                "sh",
                "-c",
                "p=$(cat /run/sshd.pid); kill $p && while kill -0 $p 2>/dev/null; do sleep 0.01; done; mkdir -p /run/sshd",
            ]
        )
        server.run(["sh", "-c", f"python3 /root/inetd.py {server.host} {server.port} </dev/null >/dev/null 2>&1"])
        server.await_greeting()
        return server

    return make


@pytest.mark.hazard("S9")
@pytest.mark.parametrize("tree", TREES)
def test_an_sshd_that_is_started_for_each_connection_is_told_nothing_and_none_is_started(product, by_inetd, tree):
    server = by_inetd(tree)
    product.add(server)
    keypair = product.keypair()
    product.succeeds("bind", server, keypair=keypair, password=server.root_password)
    assert judge.key_login_works(server, "root", product.private(keypair))
    assert not judge.password_login_works(server, "root", server.root_password)
    product.succeeds("unbind", server, password=server.root_password)
    assert judge.password_login_works(server, "root", server.root_password)
    until(lambda: agents(server) == [])
    assert listeners(server) == []


@pytest.mark.parametrize("tree", TREES)
def test_where_it_is_started_for_each_connection_an_undo_starts_none(product, by_inetd, tree):
    server = by_inetd(tree)
    product.add(server)
    at_the_proof(server, f"{NARROWED} && echo another >/var/lib/kps/nonce")
    with unchanged(server, STATE):
        task = product.fails("wrong_machine", "bind", server, keypair=product.keypair(), password=server.root_password)
    assert task["server_state"] == "reverted"
    assert listeners(server) == []


@pytest.mark.parametrize("tree", TREES)
def test_a_listener_that_dies_in_the_middle_is_started_again_with_the_arguments_that_it_had(product, make_server, tree):
    server = make_server(tree=tree)
    product.add(server)
    before = listeners(server)
    gate = Gate(server, NARROWED)
    with judge.OpenSession(server, "root", password=server.root_password) as session:
        (task_id,) = product.begin("bind", server, keypair=product.keypair(), password=server.root_password)
        gate.await_login()
        server.run(["sh", "-c", "kill -9 $(cat /run/sshd.pid)"])
        until(lambda: listeners(server) == [])
        gate.open()
        task = product.ended(task_id)
        assert (task["status"], task["server_state"]) == ("failed", "reverted"), task
        assert session.lives()
    until(lambda: agents(server) == [])
    arguments = [title.partition(" [listener]")[0].replace(" -D", "") for title in before]
    assert [title.partition(" [listener]")[0] for title in listeners(server)] == arguments
    assert judge.password_login_works(server, "root", server.root_password)


@pytest.mark.parametrize("tree", ["host", "trixie"])
def test_a_server_that_keeps_itself_out_is_reloaded_all_the_same(product, make_server, tree):
    """tcp wrappers: the controller's network may come, the server itself may not."""
    controllers = "127.99.1.1"
    server = make_server(tree=tree)
    server.write("/etc/hosts.allow", f"sshd: {controllers}\n")
    server.write("/etc/hosts.deny", "sshd: ALL\n")
    with pytest.raises(judge.Puzzled):
        judge.password_login_works(server, "root", server.root_password, source="127.0.0.1")
    with proxy(lambda: server, f"{server.name}-from-there", server.host_key, controllers) as place:
        product.add(place)
        keypair = product.keypair()
        product.succeeds("bind", place, keypair=keypair, password=server.root_password)
        assert judge.key_login_works(server, "root", product.private(keypair), source=controllers)
        assert not judge.password_login_works(server, "root", server.root_password, source=controllers)
