"""Servers whose algorithms are no longer safe: refused with what they offer, or allowed, each by its name, on request."""

import pytest

from tests.fleet import judge
from tests.fleet.causes import unchanged
from tests.fleet.product import methods

OLD = {
    "key exchange": ("KexAlgorithms diffie-hellman-group14-sha1", ["diffie-hellman-group14-sha1"]),
    "the oldest key exchange": ("KexAlgorithms diffie-hellman-group1-sha1", ["diffie-hellman-group1-sha1"]),
    "cipher": ("Ciphers aes128-cbc", ["aes128-cbc"]),
    "the oldest cipher": ("Ciphers 3des-cbc", ["3des-cbc"]),
    "MAC": ("Ciphers aes128-ctr\nMACs hmac-md5", ["hmac-md5"]),
}
ALL = "KexAlgorithms diffie-hellman-group1-sha1\nCiphers 3des-cbc\nMACs hmac-md5\nHostKeyAlgorithms ssh-rsa\n"


def with_rsa_host_key(make_server, settings, **more):
    """A server whose only host key is an RSA one, as OpenSSH 5 and 6 commonly have; and that key, to be put on record."""
    server = make_server(**more)
    private, public = judge.new_key_pair("rsa", 2048)
    server.write("/etc/ssh/rsa", private)
    server.run(["chmod", "600", "/etc/ssh/rsa"])
    server.write("/etc/ssh/sshd_config", f"HostKey /etc/ssh/rsa\n{settings}" + server.read("/etc/ssh/sshd_config"))
    server.reload()
    return server, public


@pytest.mark.parametrize("old", OLD)
def test_what_is_old_is_refused_and_works_once_it_is_allowed_by_name(make_server, product, old):
    setting, names = OLD[old]
    server = make_server(sshd_config_top=f"{setting}\n")
    product.add(server)
    pair = product.keypair()
    with unchanged(server, password_works=None):
        task = product.fails("algorithms_incompatible", "bind", server, keypair=pair, password=server.root_password)
    assert task["evidence"]["offered"] == task["evidence"]["would_help"] == names
    assert task["evidence"]["wanted"]
    assert f"--allow-old-algorithms {names[0]}" in task["message"]
    told = product.kps("server", "set", server.name, *(word for name in names for word in ("--allow-old-algorithms", name)))
    assert names[0] in told.stdout
    assert "update its sshd" in told.stderr
    assert product.server(server)["old_algorithms"] == names
    product.succeeds("bind", server, keypair=pair, password=server.root_password)
    product.kps("server", "set", server.name, "--no-old-algorithms")
    product.fails("algorithms_incompatible", "check", server)


@pytest.mark.parametrize("tree", ["host", "bullseye"])
def test_a_server_that_is_old_altogether(make_server, product, tree):
    server, public = with_rsa_host_key(make_server, ALL, tree=tree)
    product.add(server, host_key=public)
    pair = product.keypair(type="rsa-3072")
    task = product.fails("algorithms_incompatible", "bind", server, keypair=pair, password=server.root_password)
    assert (task["evidence"]["kind"], task["evidence"]["offered"]) == ("host key", ["ssh-rsa"])
    product.kps("server", "set", server.name, "--allow-old-algorithms", "all")
    product.succeeds("bind", server, keypair=pair, password=server.root_password)
    task = product.succeeds("replace", server, keypair=product.keypair())
    assert methods(task) == {("key", "logged_in"), ("key", "refused")}
    ours = product.server(server)["id"]
    changed = [each for each in every_event(product) if each["kind"] == "server_changed" and each["server_id"] == ours]
    assert "3des-cbc" in changed[-1]["detail"]["after"]["old_algorithms"]


def every_event(product):
    """All that has happened; the controller says some at a time."""
    found, more = [], product.ask("GET", "/events")
    while more:
        found += more
        more = product.ask("GET", f"/events?after={more[-1]['id']}")
    return found


def test_a_password_over_old_algorithms_is_warned_of(make_server, product):
    server = make_server(sshd_config_top="Ciphers aes128-cbc\n")
    product.kps("server", "add", server.name, server.host, "--port", str(server.port), "--host-key", server.host_key,
                "--allow-old-algorithms", "aes128-cbc")  # fmt: skip
    pair = product.keypair()
    done = product.kps("bind", server.name, "--keypair", pair["name"], "--password-stdin", given=server.root_password)
    assert f"a password goes over what old algorithms protect, which somebody in between may break: {server.name}" in done.stderr
    assert "old algorithms" not in product.kps("server", "check", server.name).stderr


def test_a_login_s_rsa_key_is_not_signed_for_with_sha1_unless_that_is_allowed(make_server, product):
    server = make_server(tree="trixie", sshd_config_top="PubkeyAcceptedAlgorithms ssh-rsa\n")
    private, public = judge.new_key_pair("rsa", 2048)
    server.run(["install", "-d", "-m", "700", "/root/.ssh"])
    server.write("/root/.ssh/authorized_keys", public + "\n")
    product.add(server)
    pair = product.keypair(type="rsa-2048")
    task = product.fails("algorithms_incompatible", "bind", server, keypair=pair, identity=private)
    assert task["evidence"]["kind"] == "signature"
    product.kps("server", "set", server.name, "--allow-old-algorithms", "ssh-rsa")
    product.succeeds("bind", server, keypair=pair, identity=private)


def test_an_algorithm_that_nobody_knows_cannot_be_allowed(product, server):
    product.add(server)
    refused = product.kps("server", "set", server.name, "--allow-old-algorithms", "none", "--json", ends=None)
    assert refused.returncode != 0
    assert "algorithm_unknown" in refused.stderr
