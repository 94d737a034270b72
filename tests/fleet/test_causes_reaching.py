"""What is wrong on the way over jump servers, with an ssh-agent, with a certificate, and at an sshd that penalizes."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet import judge
from tests.fleet.causes import Place, install_key, listener, unchanged
from tests.fleet.looks import free_port

LOG = "/var/log/sshd.log"


def with_log(server, level="DEBUG"):
    options = f"-o ListenAddress={server.host}:{server.port} -o LogLevel={level} -E {LOG}"
    server.write("/etc/default/ssh", f'SSHD_OPTS="{options}"\n')
    server.reboot()


def jump_to(product, jump, server, **more):
    """Take both in, the server behind the jump server, which a managed key pair opens."""
    product.add(jump, **more)
    pair = product.keypair()
    if not more:
        product.succeeds("bind", jump, keypair=pair, password=jump.root_password, keep_password_login=True)
    product.add(server, jump=[jump.name])


def arrive(product, server):
    return product.run("bind", server, keypair=product.keypair(), password=server.root_password)


# -- jump servers ------------------------------------------------------------------------------------------------------


@pytest.mark.cause("jump_unreachable")
def test_a_jump_server_that_is_shut_down(make_server, product, told):
    jump, server = make_server(), make_server()
    jump_to(product, jump, server)
    jump.stop()
    with unchanged(server):
        task = told(arrive(product, server))
    assert (task["evidence"]["hop"], task["evidence"]["hop_cause"]) == (jump.name, "connection_refused")
    assert jump.name in task["message"]


@pytest.mark.cause("jump_unreachable")
def test_a_jump_server_that_says_nothing(server, impatient, told):
    with listener(lambda connection: connection.recv(1 << 16) and connection.recv(1)) as place:
        impatient.add(place)
        impatient.add(server, jump=[place.name])
        private, _ = judge.new_key_pair()
        task = told(impatient.run("bind", server, keypair=impatient.keypair(), identity=private))
    assert (task["evidence"]["hop"], task["evidence"]["hop_cause"]) == (place.name, "connection_timed_out")


@pytest.mark.cause("jump_unreachable")
def test_the_second_jump_server_is_down_and_named(make_server, product, told):
    outer, inner, server = make_server(), make_server(), make_server()
    jump_to(product, outer, inner)
    product.add(server, jump=[inner.name])
    inner.stop()
    private, _ = judge.new_key_pair()
    task = told(product.run("bind", server, keypair=product.keypair(), identity=private))
    assert (task["evidence"]["hop"], task["evidence"]["hop_cause"]) == (inner.name, "connection_refused")


@pytest.mark.cause("jump_refused")
def test_a_jump_server_from_which_our_key_was_taken(make_server, product, told):
    jump, server = make_server(), make_server()
    jump_to(product, jump, server)
    jump.run(["rm", "/root/.ssh/authorized_keys"])
    with unchanged(server):
        task = told(arrive(product, server))
    assert (task["evidence"]["hop"], task["evidence"]["hop_cause"]) == (jump.name, "key_refused")


@pytest.mark.cause("jump_forbids_forwarding")
@pytest.mark.parametrize("how", ["AllowTcpForwarding no", "DisableForwarding yes", "PermitOpen 192.0.2.1:22", "restrict"])
def test_a_jump_server_that_does_not_lead_on(make_server, product, told, how):
    jump, server = make_server(), make_server()
    jump_to(product, jump, server)
    if how == "restrict":
        jump.write("/root/.ssh/authorized_keys", f"restrict {jump.read('/root/.ssh/authorized_keys')}")
    else:
        jump.write("/etc/ssh/sshd_config", f"{how}\n" + jump.read("/etc/ssh/sshd_config"))
        jump.reload()
    with unchanged(server):
        task = told(arrive(product, server))
    assert task["evidence"]["hop"] == jump.name


@pytest.mark.cause("host_key_changed")
def test_a_jump_server_that_was_given_another_host_key(make_server, product, told):
    jump, server = make_server(), make_server()
    jump_to(product, jump, server)
    private, public = judge.new_key_pair()
    jump.write("/etc/ssh/ssh_host_ed25519_key", private)
    jump.write("/etc/ssh/ssh_host_ed25519_key.pub", public + "\n")
    with_log(jump)
    with unchanged(server):
        task = told(arrive(product, server))
    assert (task["evidence"]["hop"], task["evidence"]["seen"]) == (jump.name, judge.fingerprint(public))
    assert "Accepted" not in jump.read(LOG)
    assert "userauth-request" not in jump.read(LOG)


@pytest.mark.cause("host_key_changed")
def test_a_jump_server_that_leads_to_another_machine_than_the_one_on_record(make_server, product, told):
    """Whoever holds the jump server may lead us anywhere: the host key of the server itself is looked at all the same."""
    jump, server, impostor = make_server(), make_server(), make_server()
    jump_to(product, jump, Place(server.name, impostor.host, impostor.port, server.host_key))
    with unchanged(server), unchanged(impostor):
        task = told(arrive(product, server))
    assert "hop" not in task["evidence"]


@pytest.mark.cause("connection_refused")
def test_a_port_behind_a_jump_server_on_which_nobody_listens(server, product, told):
    place = Place(f"behind-{server.name}", server.host, free_port(server.host))
    jump_to(product, server, place)
    task = told(product.run("bind", place, keypair=product.keypair(), password="never to be sent"))
    assert f"through {server.name}" in task["message"]


@pytest.mark.cause("name_not_resolved")
def test_a_name_behind_a_jump_server_that_has_no_address_there(server, product, told):
    place = Place(f"nameless-{server.name}", "nowhere.invalid", 22)
    jump_to(product, server, place)
    task = told(product.run("bind", place, keypair=product.keypair(), password="never to be sent"))
    assert server.name in task["message"]


# -- an sshd that penalizes --------------------------------------------------------------------------------------------


@pytest.mark.cause("source_penalized")
def test_an_address_from_which_others_failed_too_often(make_server, product, told):
    server = make_server(tree="trixie")
    private, _ = judge.new_key_pair()
    product.add(server)
    # Somebody else on our address, who does not wait.
    while judge_fails(server, private):
        pass
    task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    assert task["evidence"]["said"] == "Not allowed at this time"


def judge_fails(server, private):
    """Fail to log in, as OpenSSH's client does it; False where the server does not even let us try."""
    try:
        return not judge.key_login_works(server, "root", private, source="127.0.0.1")
    except judge.Puzzled:
        return False


# -- a key of an ssh-agent ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ssh_agent(*private_keys: str) -> Iterator[str]:
    """OpenSSH's ssh-agent with these keys, and the path of its socket."""
    with tempfile.TemporaryDirectory() as directory:
        socket = str(Path(directory, "agent"))
        running = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
        try:
            environment = os.environ | {"SSH_AUTH_SOCK": socket}
            while subprocess.run(["ssh-add", "-l"], env=environment, capture_output=True).returncode == 2:
                pass  # it does not listen yet
            for private in private_keys:
                subprocess.run(["ssh-add", "-q", "-"], input=private, env=environment, check=True, text=True, capture_output=True)
            yield socket
        finally:
            running.terminate()
            running.wait()


@pytest.mark.cause("agent_unusable")
@pytest.mark.parametrize("lacks", ["the key", "the agent", "its password"])
def test_an_ssh_agent_that_cannot_sign(server, product, told, lacks):
    private, public = judge.new_key_pair()
    install_key(server, public)
    product.add(server)
    with ssh_agent(*([] if lacks == "the key" else [private])) as socket, unchanged(server):
        environment = os.environ | {"SSH_AUTH_SOCK": socket}
        given = {"agent_socket": socket, "agent_key": public}
        if lacks == "the agent":
            given["agent_socket"] += "-is-gone"
        if lacks == "its password":
            # Listed, and not to be signed with: nobody is there to confirm it.
            subprocess.run(["ssh-add", "-q", "-D"], env=environment, check=True, capture_output=True)
            confirm = environment | {"SSH_ASKPASS": "/bin/false", "DISPLAY": ""}
            subprocess.run(["ssh-add", "-q", "-c", "-"], input=private, env=confirm, check=True, text=True, capture_output=True)
        told(product.run("bind", server, keypair=product.keypair(), **given))


# -- a certificate -----------------------------------------------------------------------------------------------------


def certificate(public: str, *words: str) -> str:
    """A certificate for a public key, made by ssh-keygen with a CA of its own, and the CA's public line."""
    with tempfile.TemporaryDirectory() as directory:
        ca, key = Path(directory, "ca"), Path(directory, "key.pub")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ca)], check=True)
        key.write_text(public + "\n")
        subprocess.run(["ssh-keygen", "-q", "-s", str(ca), "-I", "somebody", *words, str(key)], check=True)
        return Path(directory, "key-cert.pub").read_text().strip()


@pytest.mark.cause("certificate_unusable")
@pytest.mark.parametrize("wrong", ["of another key", "of a host", "expired", "not yet valid", "no certificate"])
def test_a_certificate_that_is_not_one_for_this_key_now(server, product, told, wrong):
    private, public = judge.new_key_pair()
    words = {
        "of a host": ["-h", "-n", "web-1"],
        "expired": ["-n", "root", "-V", "20200101:20200102"],
        "not yet valid": ["-n", "root", "-V", "+52w:+53w"],
    }.get(wrong, ["-n", "root"])
    given = certificate(judge.new_key_pair()[1] if wrong == "of another key" else public, *words)
    if wrong == "no certificate":
        given = public
    product.add(server)
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), identity=private, certificate=given))


# -- a question that a password is no answer to ------------------------------------------------------------------------


@pytest.mark.cause("prompt_not_password")
def test_a_server_that_asks_for_a_new_password(make_server, product, told):
    """PAM has the login change an expired password within keyboard-interactive: sshd_config(5), and pam_unix(8)."""
    server = make_server(sshd_config_top="PasswordAuthentication no\nKbdInteractiveAuthentication yes\n")
    server.run(["chage", "-d", "0", "root"])
    product.add(server)
    with_log(server)
    shadow = server.read("/etc/shadow")
    task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    assert "password" in task["evidence"]["asked"].lower()
    assert server.read("/etc/shadow") == shadow
