"""What is wrong with what the caller gave: each caused on a real server, told apart from its neighbours, nothing changed."""

import base64
import subprocess

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.causes import STATE, install_key, unchanged

NO_PASSWORDS = "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"


def encrypted(private, tmp_path, passphrase):
    """The same private key, encrypted by ssh-keygen."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(private)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", passphrase, "-f", str(path)], check=True, capture_output=True)
    return path.read_text()


@pytest.mark.cause("wrong_password")
def test_a_wrong_password_where_the_banner_speaks_of_what_expires(product, make_server, told):
    server = make_server(
        sshd_config_top="Banner /etc/issue.net\n", files={"/etc/issue.net": "Accounts that have expired are removed\n"}
    )
    product.add(server)
    keypair = product.keypair()
    with unchanged(server):
        task = told(product.run("bind", server, keypair=keypair, password="not this one"))
    assert "expired" in task["evidence"]["said"]
    product.succeeds("bind", server, keypair=keypair, password=server.root_password)
    assert judge.offered_methods(server, "root") == {"publickey"}


@pytest.mark.cause("wrong_password")
def test_a_password_that_is_not_the_logins(product, server, told):
    product.add(server)
    with unchanged(server):
        task = told(product.run("bind", server, keypair=product.keypair(), password="not it"))
    assert task["phase"] == "connect"
    assert task["evidence"]["tried"] == [{"login": "root", "cause": "wrong_password"}]


@pytest.mark.cause("wrong_password")
def test_a_password_that_is_not_the_logins_where_keyboard_interactive_asks_for_it(product, make_server, told):
    server = make_server(sshd_config_top="PasswordAuthentication no\nKbdInteractiveAuthentication yes\n")
    product.add(server)
    with unchanged(server, password_works=False):
        told(product.run("bind", server, keypair=product.keypair(), password="not it"))
    assert judge.password_login_works(server, "root", server.root_password, "keyboard-interactive")


@pytest.mark.cause("wrong_password")
def test_the_right_password_of_root_where_only_a_key_lets_root_in(product, make_server, told):
    """sshd asks for the password and refuses the right one in the words for a wrong one: nobody outside can tell them apart."""
    server = make_server(sshd_config_top="PermitRootLogin prohibit-password\n")
    product.add(server)
    with unchanged(server, password_works=False):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))


@pytest.mark.cause("wrong_password")
def test_a_password_that_should_be_the_way_in_that_remains_and_is_not(product, server, told):
    product.add(server)
    keypair = product.keypair()
    product.succeeds("bind", server, keypair=keypair, password=server.root_password, keep_password_login=True)
    with unchanged(server, STATE):
        told(product.run("unbind", server, password="not it"), "reverted")
    assert judge.key_login_works(server, "root", product.private(keypair))


@pytest.mark.cause("password_refused")
def test_a_password_for_a_server_that_takes_none(product, make_server, told):
    server = make_server(sshd_config_top=NO_PASSWORDS)
    product.add(server)
    with unchanged(server, password_works=False):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))


@pytest.mark.cause("private_key_unreadable")
@pytest.mark.parametrize("text", ["ssh-ed25519 AAAA this is a public key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "x"])
def test_a_file_that_holds_no_private_key(product, server, told, text):
    product.add(server)
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), identity=text))


@pytest.mark.cause("private_key_unreadable")
def test_a_private_key_with_a_damaged_byte(product, server, told):
    product.add(server)
    private, _ = judge.new_key_pair("ecdsa", 256)
    lines = private.split("\n")
    lines[2] = "!" + lines[2][1:]
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), identity="\n".join(lines)))


@pytest.mark.cause("passphrase_wrong")
@pytest.mark.parametrize("passphrase", [None, "not it"], ids=["missing", "wrong"])
def test_an_encrypted_private_key_without_its_passphrase(product, server, told, tmp_path, passphrase):
    private, public = judge.new_key_pair()
    install_key(server, public)
    product.add(server)
    given = {"identity": encrypted(private, tmp_path, "open sesame")} | ({"passphrase": passphrase} if passphrase else {})
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), credentials={server.name: given}))


@pytest.mark.cause("key_mismatch")
def test_a_private_key_that_is_not_the_half_of_the_key_pair_on_record(product, server, told):
    private, public = judge.new_key_pair()
    other, _ = judge.new_key_pair()
    product.add(server)
    product.ask("POST", "/keypairs/import", body={"name": f"on-{server.name}", "public_key": public})
    product.succeeds("bind", server, keypair=f"on-{server.name}", password=server.root_password, keep_password_login=True)
    with unchanged(server):
        task = told(product.run("replace", server, keypair=product.keypair(), identity=other))
    assert task["evidence"]["given"] == judge.fingerprint(judge_public(other))
    assert task["evidence"]["on_record"] == judge.fingerprint(public)
    product.succeeds("replace", server, keypair=product.keypair(), identity=private)


@pytest.mark.cause("private_key_unreadable")
def test_a_private_key_file_whose_halves_are_of_two_pairs(product, server, told):
    product.add(server)
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), identity=chimera()))


@pytest.mark.cause("key_refused")
def test_a_private_key_that_opens_nothing_on_the_server(product, server, told):
    product.add(server)
    install_key(server, judge.new_key_pair()[1])
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), identity=judge.new_key_pair()[0]))


@pytest.mark.cause("key_refused")
def test_a_key_in_custody_that_somebody_took_off_the_server(product, server, told):
    product.add(server)
    product.succeeds("bind", server, keypair=product.keypair(), password=server.root_password, keep_password_login=True)
    server.run(["truncate", "-s", "0", "/root/.ssh/authorized_keys"])
    with unchanged(server):
        told(product.run("replace", server, keypair=product.keypair()))


@pytest.mark.cause("credential_needed")
@pytest.mark.parametrize("operation", ["bind", "password-login-disable"])
def test_an_order_with_nothing_that_gets_in(product, server, told, operation):
    product.add(server)
    with unchanged(server):
        told(product.run(operation, server, **({"keypair": product.keypair()} if operation == "bind" else {})))


@pytest.mark.cause("already_bound")
def test_a_second_key_pair_for_a_login_that_has_one(product, server, told):
    product.add(server)
    first = product.keypair()
    product.succeeds("bind", server, keypair=first, password=server.root_password, keep_password_login=True)
    with unchanged(server):
        task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    assert task["evidence"]["keypair"] == first["name"]
    assert judge.key_login_works(server, "root", product.private(first))


@pytest.mark.cause("not_bound")
@pytest.mark.parametrize("operation", ["unbind", "replace"])
def test_a_login_that_has_no_key_pair(product, make_server, told, operation):
    server = make_server(logins=(Login("deploy", "pw"),))
    product.add(server)
    with unchanged(server):
        request = {"keypair": product.keypair()} if operation == "replace" else {}
        told(product.run(operation, server, login="deploy", password=server.root_password, **request))


def judge_public(private):
    """The public half of a private key, as ssh-keygen derives it."""
    return subprocess.run(
        ["ssh-keygen", "-y", "-f", "/dev/stdin"], input=private, check=True, capture_output=True, text=True
    ).stdout


def chimera():
    """An OpenSSH private key file that shows the public half of one pair and holds the private half of another."""
    one, other = (base64.b64decode("".join(judge.new_key_pair()[0].split("\n")[1:-2])) for _ in range(2))
    # openssh/PROTOCOL.key: both are of the same length, and the private part begins at the same place.
    begins = one.index(b"ssh-ed25519") + 11 + 4 + 32
    body = base64.b64encode(one[:begins] + other[begins:]).decode()
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n"
