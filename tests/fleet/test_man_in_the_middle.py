"""Whoever answers in a server's place gets nothing: not a password, not a signature, not even the name of a login.

Each attacker is a real sshd that would take anything, and says in its log what it was asked.
"""

import re

import pytest

from tests.fleet import judge
from tests.fleet.causes import Place
from tests.fleet.test_causes_reaching import ssh_agent, with_log

LOG = "/var/log/sshd.log"
TRUSTING = "PermitRootLogin yes\nPermitEmptyPasswords yes\n"


def rsa_only(attacker, settings):
    """Give the attacker one RSA host key and settings of its own; returns the key's public line."""
    private, public = judge.new_key_pair("rsa", 2048)
    attacker.write("/etc/ssh/rsa", private)
    attacker.run(["chmod", "600", "/etc/ssh/rsa"])
    attacker.write("/etc/ssh/sshd_config", f"HostKey /etc/ssh/rsa\n{settings}" + attacker.read("/etc/ssh/sshd_config"))
    return public


def another_key(attacker, server):
    return server.host_key


def another_type(attacker, server):
    attacker.run(["rm", "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"])
    return server.host_key


def no_key_on_record(attacker, server):
    return None


def only_sha1_signatures(attacker, server):
    """It has the server's own RSA key, and signs with what SHA-1 leaves of it."""
    return rsa_only(attacker, "HostKeyAlgorithms ssh-rsa\n")


def only_an_old_key_exchange(attacker, server):
    attacker.write("/etc/ssh/sshd_config", "KexAlgorithms diffie-hellman-group1-sha1\n" + attacker.read("/etc/ssh/sshd_config"))
    return attacker.host_key


def only_a_cipher_without_integrity(attacker, server):
    attacker.write("/etc/ssh/sshd_config", "Ciphers aes128-cbc\nMACs hmac-md5\n" + attacker.read("/etc/ssh/sshd_config"))
    return attacker.host_key


ATTACKS = [
    (another_key, "host_key_changed"),
    (another_type, "host_key_changed"),
    (no_key_on_record, "host_key_unknown"),
    (only_sha1_signatures, "algorithms_incompatible"),
    (only_an_old_key_exchange, "algorithms_incompatible"),
    (only_a_cipher_without_integrity, "algorithms_incompatible"),
]


def asked(attacker):
    """What an attacker's sshd was asked: how many connections came, and every request to log in."""
    log = attacker.read(LOG)
    return len(re.findall("^Connection from", log, re.MULTILINE)), re.findall(
        "userauth-request.*|^Accepted.*|^Failed.*", log, re.MULTILINE
    )


@pytest.mark.parametrize("hops", [0, 1])
@pytest.mark.parametrize(("attack", "cause"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_nothing_is_shown_to_who_answers_in_a_server_s_place(make_server, product, attack, cause, hops):
    server, attacker = make_server(), make_server(sshd_config_top=TRUSTING)
    host_key = attack(attacker, server)
    with_log(attacker)
    private, public = judge.new_key_pair()
    jumps = []
    if hops:
        jump = make_server()
        product.add(jump)
        product.succeeds("bind", jump, keypair=product.keypair(), password=jump.root_password, keep_password_login=True)
        jumps = [jump.name]
    place = Place(f"at-{attacker.name}-{hops}", attacker.host, attacker.port)
    product.add(place, host_key=host_key, jump=jumps)
    before, requests = asked(attacker)
    assert requests == []
    with ssh_agent(private) as socket:
        for given in (
            {"password": server.root_password},
            {"identity": private},
            {"identity": private, "password": server.root_password},
            {"agent_socket": socket, "agent_key": public},
        ):
            for operation, more in (("bind", {"keypair": product.keypair()}), ("check", {}), ("password-login-status", {})):
                task = product.fails(cause, operation, place, **more, **given)
                assert task["server_state"] == "as_before"
    came, requests = asked(attacker)
    assert requests == []
    # It was really asked to be the server, and refused: save where nothing on record says who it should be.
    assert came - before >= (0 if host_key is None else 12)


def test_such_an_attacker_s_log_would_tell(make_server, product):
    """The same sshd with the key that is on record: what the other tests look for is in its log."""
    server = make_server(sshd_config_top=TRUSTING)
    with_log(server)
    product.add(server)
    product.succeeds("bind", server, keypair=product.keypair(), password=server.root_password)
    _, requests = asked(server)
    assert any("method password" in each for each in requests)
    assert any(each.startswith("Accepted publickey") for each in requests)
