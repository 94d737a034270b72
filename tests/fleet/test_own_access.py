"""How the controller itself gets in: by one key of an ssh-agent, by a certificate, by an encrypted key, by a password asked for.

And by nothing else: what lies about on its own machine (~/.ssh/config, default identities, an agent) is not looked at.
"""

import re
import socket
import subprocess
from pathlib import Path

import pytest

from controller.transport.prompts import asks_for_password
from tests.fleet import judge
from tests.fleet.causes import Place, install_key
from tests.fleet.looks import free_port
from tests.fleet.product import Product
from tests.fleet.test_causes_reaching import ssh_agent, with_log
from tests.needs import lacking

LOG = "/var/log/sshd.log"


def fingerprints_offered(server):
    """The keys that a server's sshd was shown, in the order in which they came."""
    return list(
        dict.fromkeys(re.findall(r"^(?:Failed|Postponed|Accepted) publickey .*(SHA256:\S+)", server.read(LOG), re.MULTILINE))
    )


# -- one key of an ssh-agent -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_of_ten_keys_in_the_agent_the_one_that_is_named_is_offered_and_no_other(make_server, product, kind):
    """MaxAuthTries is 6: who offers all of them is turned away before the right one comes."""
    server = make_server()
    pairs = [judge.new_key_pair(comment=f"other-{number}") for number in range(9)]
    private, public = judge.new_key_pair(kind, comment="the right one")
    install_key(server, public)
    with_log(server)
    product.add(server)
    with ssh_agent(*[each for each, _ in pairs], private) as agent:
        for named in (judge.fingerprint(public), "the right one", public):
            task = product.run("check", server, agent_socket=agent, agent_key=named)
            assert task["status"] == "unchanged", task
        product.succeeds("bind", server, keypair=product.keypair(), agent_socket=agent, agent_key=public)
    assert fingerprints_offered(server)[0] == judge.fingerprint(public)
    assert not {judge.fingerprint(each) for _, each in pairs} & set(fingerprints_offered(server))


def test_kps_takes_the_agent_of_whoever_calls_it(make_server, product):
    server = make_server()
    private, public = judge.new_key_pair()
    install_key(server, public)
    product.add(server)
    pair = product.keypair()
    words = ["bind", server.name, "--keypair", pair["name"], "--agent", judge.fingerprint(public)]
    assert "SSH_AUTH_SOCK" in product.kps(*words, ends=2).stderr
    with ssh_agent(private) as agent:
        product.environment["SSH_AUTH_SOCK"] = agent
        try:
            product.kps(*words)
        finally:
            del product.environment["SSH_AUTH_SOCK"]
    assert judge.key_login_works(server, "root", product.private(pair))


# -- a certificate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["in a file", "in an agent"])
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_certificate_opens_a_server_that_knows_its_ca_and_no_key(make_server, product, tmp_path, kept, kind):
    ca, ca_public = judge.new_key_pair()
    private, public = judge.new_key_pair(kind)
    (tmp_path / "ca").write_text(ca)
    (tmp_path / "ca").chmod(0o600)
    (tmp_path / "key.pub").write_text(public + "\n")
    made = [
        "ssh-keygen",
        "-q",
        "-s",
        str(tmp_path / "ca"),
        "-I",
        "somebody",
        "-n",
        "root",
        "-V",
        "+1h",
        str(tmp_path / "key.pub"),
    ]
    subprocess.run(made, check=True)
    certificate = (tmp_path / "key-cert.pub").read_text().strip()
    server = make_server(sshd_config_top="TrustedUserCAKeys /etc/ssh/ca.pub\n", files={"/etc/ssh/ca.pub": ca_public + "\n"})
    product.add(server)
    pair = product.keypair()
    with ssh_agent(private) as agent:
        key = {"identity": private} if kept == "in a file" else {"agent_socket": agent, "agent_key": public}
        product.fails("key_refused", "bind", server, keypair=pair, **key)
        product.succeeds("bind", server, keypair=pair, certificate=certificate, **key)
    assert judge.key_login_works(server, "root", product.private(pair))
    # The key of the certificate is in no authorized_keys, and did not come there.
    assert public.split()[1] not in server.read("/root/.ssh/authorized_keys")


# -- an encrypted key --------------------------------------------------------------------------------------------------


def test_an_encrypted_private_key_is_opened_by_its_passphrase(make_server, product, tmp_path):
    server = make_server()
    file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "its own passphrase", "-f", str(file)], check=True)
    install_key(server, Path(f"{file}.pub").read_text().strip())
    product.add(server)
    pair = product.keypair()
    words = ["bind", server.name, "--keypair", pair["name"], "--identity", str(file)]
    assert "passphrase" in product.kps(*words, ends=1).stdout
    product.kps(*words, "--passphrase-stdin", given="its own passphrase\n")
    assert judge.key_login_works(server, "root", product.private(pair))


# -- keyboard-interactive ----------------------------------------------------------------------------------------------


def test_a_password_answers_a_question_for_it(make_server, product):
    server = make_server(sshd_config_top="PasswordAuthentication no\nKbdInteractiveAuthentication yes\n")
    product.add(server)
    with_log(server)
    product.succeeds("bind", server, keypair=product.keypair(), password=server.root_password, keep_password_login=True)
    assert "Accepted keyboard-interactive/pam for root" in server.read(LOG)


QUESTIONS = [
    "Password: ", "password:", "(root@web-1) Password: ", "Password for root@192.0.2.1:", "UNIX password: ", "Passwort: ",
    "Mot de passe : ", "Contraseña: ", "パスワード:",
]  # fmt: skip
OTHERS = [
    "Verification code: ", "(root@web-1) Verification code: ", "One-time password (OATH) for `root': ", "OTP: ",
    "Enter PASSCODE: ", "New password: ", "Retype new password: ", "(current) UNIX password: ", "Current password: ",
    "Password & verification code: ",
    "Duo two-factor login for root\nPasscode or option (1-3): ", "Your PIN: ", "Challenge: 12 34\nPassword: ", "Password again: ",
    "Token password: ", "", " ", "Old password: ", "Enter new UNIX password: ", "Password (and code): ",
]  # fmt: skip


@pytest.mark.parametrize("text", QUESTIONS)
def test_what_is_surely_a_question_for_the_password(text):
    assert asks_for_password([(text, False)])
    assert not asks_for_password([(text, True)])
    assert not asks_for_password([(text, False), ("Verification code: ", False)])


@pytest.mark.parametrize("text", OTHERS)
def test_what_a_password_is_no_answer_to(text):
    assert not asks_for_password([(text, False)])


# -- nothing of this machine's own -------------------------------------------------------------------------------------


def test_nothing_of_the_operator_s_own_ssh_is_used(make_server, tmp_path):
    """An evil ProxyCommand, a known_hosts that trusts everybody, default identities and an agent: none of them is looked at."""
    server = make_server()
    with_log(server)
    home = tmp_path / "operator"
    ssh = home / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    ran = tmp_path / "ran"
    (ssh / "config").write_text(
        f"Host *\n  ProxyCommand touch {ran}\n  LocalCommand touch {ran}\n  PermitLocalCommand yes\n  StrictHostKeyChecking no\n"
        f"  User nobody\n  Port 1\n  HostKeyAlgorithms ssh-rsa\n  KnownHostsCommand touch {ran}\n"
    )
    private, public = judge.new_key_pair()
    install_key(server, public)
    for name in ("id_ed25519", "id_rsa", "id_ecdsa"):
        (ssh / name).write_text(private)
        (ssh / name).chmod(0o600)
    with ssh_agent(private) as agent, Product(home / "kps") as product:
        product.end()
        product.environment["SSH_AUTH_SOCK"] = agent
        product.serve()
        product.add(server)
        # The key that would open the server lies about in three places, and nobody has given it.
        task = product.fails("wrong_password", "bind", server, keypair=product.keypair(), password="not this one")
        assert task["server_state"] == "as_before"
        product.fails("credential_needed", "bind", server, keypair=product.keypair())
        product.succeeds("bind", server, keypair=product.keypair(), password=server.root_password, keep_password_login=True)
    assert not ran.exists()
    assert judge.fingerprint(public) not in fingerprints_offered(server)


# -- addresses ---------------------------------------------------------------------------------------------------------


def link_local():
    """An address of this machine that needs its zone to be reached: proc_net(5), if_inet6."""
    for line in Path("/proc/net/if_inet6").read_text().split("\n")[:-1]:
        digits, _, _, scope, _, name = line.split()
        if scope == "20":
            return f"{':'.join(digits[at : at + 4] for at in range(0, 32, 4))}%{name}"
    return lacking("there is no network interface with a link-local address here")


@pytest.mark.parametrize("zoned", [False, True])
def test_a_server_at_an_ipv6_address(make_server, product, zoned):
    host = link_local() if zoned else "::1"
    port = free_port("::1", socket.AF_INET6)
    server = make_server(sshd_config_top=f"ListenAddress [{host}]:{port}\n")
    place = Place(f"{server.name}-6", host, port, server.host_key)
    product.add(place)
    assert f"[{host}]:{port}" in product.kps("server", "show", place.name).stdout
    pair = product.keypair()
    product.succeeds("bind", place, keypair=pair, password=server.root_password)
    assert judge.key_login_works(server, "root", product.private(pair))
    assert product.run("check", place)["status"] == "unchanged"
    server.stop()
    task = product.fails("connection_refused", "check", place)
    assert f"[{host}]:{port}" in task["message"]
