"""What sshd's configuration, or the keys that are there, forbid: each caused on a real sshd, nothing changed by us."""

import copy
import os
from pathlib import Path

import pytest

from controller.demo.fleet import Login
from tests.controller.test_keyfiles_formats import dsa_line
from tests.fleet import judge
from tests.fleet.causes import CONFIG, KEYS, STATE, at_the_proof, bind, install_key, proxy, unchanged
from tests.fleet.looks import free_port

DEPLOY = Login("deploy", "walk the dog")
NO_PASSWORDS = "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"


@pytest.fixture
def bound(product, make_server):
    """Makes a server with a key pair bound to root by its password; returns both."""

    def make(keep_password_login=True, unmanaged=False, **wanted):
        server = make_server(**wanted)
        product.add(server)
        keypair = product.keypair()
        request = {"keypair": keypair, "keep_password_login": keep_password_login, "accept_unproved": unmanaged}
        product.succeeds("bind", server, password=server.root_password, **request)
        return server, keypair

    return make


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.cause("key_type_refused")
@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ("PubkeyAcceptedAlgorithms rsa-sha2-256,ssh-ed25519", "ecdsa-nistp256"),
        ("RequiredRSASize 3072", "rsa-2048"),
        ("Match User root\n  PubkeyAcceptedAlgorithms -ssh-ed25519", "ed25519"),
    ],
)
def test_a_key_of_a_type_that_this_sshd_does_not_take(product, make_server, told, setting, kind):
    server = make_server(sshd_config_end=setting + "\n")
    product.add(server)
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(type=kind), password=server.root_password))


@pytest.mark.cause("key_type_refused")
def test_a_dsa_key_that_was_taken_in_is_refused_before_anything_is_written(product, make_server, told):
    server = make_server()
    product.add(server)
    old = product.ask("POST", "/keypairs/import", body={"name": "old-dsa", "public_key": dsa_line()})
    assert (old["type"], old["managed"], len(old["warnings"])) == ("dsa", False, 1)
    with unchanged(server):
        told(product.run("bind", server, keypair=old, password=server.root_password, accept_unproved=True))


@pytest.mark.cause("options_block_proof")
@pytest.mark.parametrize("options", ['command="/bin/date"', 'from="127.0.0.0/8",expiry-time="20991231"'])
def test_options_of_the_old_line_under_which_nothing_can_be_proved(product, bound, told, options):
    server, keypair = bound()
    install_key(server, keypair["public_key"], options=options)
    with unchanged(server):
        task = told(product.run("replace", server, keypair=product.keypair(), password=server.root_password))
    assert task["evidence"]["path"] == f"{KEYS}:1"


@pytest.mark.hazard("H12")
@pytest.mark.cause("login_not_allowed")
@pytest.mark.parametrize("listed", [False, True], ids=["no list", "listed"])
def test_an_sshd_that_holds_the_key_for_revoked(product, make_server, told, listed):
    """Where its list is not there, sshd holds every key for revoked."""
    server = make_server(sshd_config_top="RevokedKeys /etc/ssh/revoked\n")
    product.add(server)
    keypair = product.keypair()
    if listed:
        server.write("/etc/ssh/revoked", keypair["public_key"] + "\n")
        server.reload()
    with unchanged(server):
        task = told(product.run("bind", server, keypair=keypair, password=server.root_password))
    assert task["evidence"]["path"] == "/etc/ssh/revoked"


@pytest.mark.cause("new_key_refused")
def test_a_session_that_ends_before_it_can_show_anything(product, server, told):
    product.add(server)
    server.write("/root/.bashrc", "[ ! -e /var/lib/kps/nonce ] || exit 1\n")
    with unchanged(server, STATE):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password), "reverted")


@pytest.mark.cause("old_key_still_accepted")
def test_a_second_source_that_still_gives_the_old_key(product, bound, told):
    command = "AuthorizedKeysCommand /usr/local/bin/keys\nAuthorizedKeysCommandUser nobody\n"
    server, keypair = bound(sshd_config_top=command, files={"/usr/local/bin/keys": "#!/bin/sh\ncat /etc/more-keys\n"})
    server.run(["chmod", "755", "/usr/local/bin/keys"])
    server.write("/etc/more-keys", keypair["public_key"] + "\n")
    new = product.keypair()
    with unchanged(server, STATE):
        told(product.run("replace", server, keypair=new), "reverted")
    assert judge.key_login_works(server, "root", product.private(keypair))
    assert not judge.key_login_works(server, "root", product.private(new))


# -- passwords ---------------------------------------------------------------------------------------------------------


@pytest.mark.cause("setting_overridden")
@pytest.mark.parametrize("where", ["main", "drop-in"])
def test_a_match_block_that_keeps_passwords_open(product, make_server, told, where):
    text = "Match Address 127.0.0.0/8\n    PasswordAuthentication yes\n"
    server = make_server(**({"sshd_config_end": text} if where == "main" else {"drop_ins": {"50-ours.conf": text}}))
    product.add(server)
    with unchanged(server):
        task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    path = CONFIG if where == "main" else "/etc/ssh/sshd_config.d/50-ours.conf"
    line = server.read(path).split("\n").index("    PasswordAuthentication yes") + 1
    assert task["evidence"]["places"] == [[path, line, "PasswordAuthentication yes", "Match Address 127.0.0.0/8"]]
    assert f"{path}:{line}" in task["message"]


@pytest.mark.cause("setting_overridden")
@pytest.mark.parametrize("where", ["comment", "name"])
def test_a_match_block_whose_text_or_file_name_is_not_utf_8(product, server, told, where):
    """What is shown to people spells such a byte out; the file itself stays as it is."""
    product.add(server)
    root = f"/proc/{server.pid}/root".encode()
    block = b"Match Address 127.0.0.0/8\n    PasswordAuthentication yes"
    if where == "name":
        Path(os.fsdecode(root + b"/etc/ssh/sshd_config.d/50-f\xfcr.conf")).write_bytes(block + b"\n")
    else:
        with open(root + CONFIG.encode(), "ab") as config:
            config.write(block + b" # f\xfcr alle\n")
    with unchanged(server):
        task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    ((path, line, said, _),) = task["evidence"]["places"]
    if where == "name":
        assert (path, line) == (r"/etc/ssh/sshd_config.d/50-f\xfcr.conf", 2)
    else:
        assert (path, said) == (CONFIG, r"PasswordAuthentication yes # f\xfcr alle")
    assert f"{path}:{line}" in task["message"]


@pytest.mark.cause("password_still_accepted")
def test_another_sshd_behind_the_same_address(product, server, told):
    """Nobody can foretell which one a connection meets: only the proof sees that this one goes on asking for passwords."""
    port = free_port(server.host)
    own = f"-o ListenAddress={server.host}:{port} -o PidFile=none -o PasswordAuthentication=yes"
    server.write("/etc/rc.local", f"#!/bin/sh\nexec /usr/sbin/sshd {own}\n", 0o755)
    server.reboot()
    beside = copy.copy(server)  # it comes up after the one that greets first
    beside.port = port
    beside.await_greeting()
    came = iter([server])
    with proxy(lambda: next(came, beside), f"{server.name}-twice", server.host_key) as place:
        product.add(place)
        with unchanged(server, STATE):
            told(product.run("bind", place, keypair=product.keypair(), password=server.root_password), "reverted")


@pytest.mark.cause("password_off_by_owner")
def test_passwords_that_the_owner_switched_off(product, make_server, told):
    server = make_server(sshd_config_top=NO_PASSWORDS)
    product.add(server)
    private, public = judge.new_key_pair()
    install_key(server, public)
    with unchanged(server, password_works=False):
        task = told(product.run("password-login-enable", server, identity=private))
    assert [CONFIG, 1, "PasswordAuthentication no", None] in task["evidence"]["places"]


@pytest.mark.cause("password_refused")
@pytest.mark.parametrize("known", [True, False], ids=["password given", "password not known"])
def test_a_password_that_shall_get_in_again_and_is_not_asked_for(product, make_server, told, known):
    """sshd looks the client's name up, which nobody can foretell: only the proof sees that this block counts."""
    closed = "".join(f"    {line}\n" for line in NO_PASSWORDS.split("\n") if line)
    server = make_server(sshd_config_end=f"UseDNS yes\nMatch Host localhost\n{closed}")
    product.add(server)
    private, public = judge.new_key_pair()
    install_key(server, public)
    keypair = product.keypair()
    product.succeeds("bind", server, keypair=keypair, identity=private, keep_password_login=True)
    with unchanged(server, STATE, password_works=None):
        given = {"password": server.root_password} if known else {}
        told(product.run("unbind", server, **given), "reverted")
    assert judge.key_login_works(server, "root", product.private(keypair))


@pytest.mark.cause("others_locked_out")
def test_another_login_that_has_a_password_and_no_key(product, make_server, told):
    server = make_server(logins=(DEPLOY, Login("locked")))
    product.add(server)
    with unchanged(server):
        task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    assert task["evidence"]["logins"] == ["deploy"]
    assert judge.password_login_works(server, "deploy", "walk the dog")


@pytest.mark.cause("no_way_in_remains")
@pytest.mark.parametrize("way", ["no passwords", "no usable password"])
def test_the_last_way_into_a_login(product, bound, told, way):
    server, keypair = bound()
    if way == "no passwords":
        server.write(CONFIG, NO_PASSWORDS + server.read(CONFIG))
        server.reload()
    else:
        server.run(["usermod", "-p", "*", "root"])
    with unchanged(server, password_works=False):
        told(product.run("unbind", server))
    assert judge.key_login_works(server, "root", product.private(keypair))


@pytest.mark.cause("no_way_in_remains")
def test_passwords_off_for_a_login_without_any_key(product, server, told):
    product.add(server)
    with unchanged(server):
        told(product.run("password-login-disable", server, password=server.root_password))


@pytest.mark.cause("proof_too_weak")
@pytest.mark.parametrize("operation", ["bind", "replace"])
def test_a_key_whose_private_half_nobody_has_shown(product, bound, told, operation):
    server, keypair = bound()
    unmanaged = product.keypair(managed=False)
    if operation == "bind":
        product.succeeds("unbind", server, password=server.root_password)
    with unchanged(server):
        told(product.run(operation, server, keypair=unmanaged, password=server.root_password))
    assert judge.key_login_works(server, "root", product.private(keypair)) == (operation == "replace")


# -- sshd_config -------------------------------------------------------------------------------------------------------


@pytest.mark.hazard("S3")
@pytest.mark.cause("authentication_methods")
def test_a_login_for_which_a_key_is_not_enough(product, make_server, told):
    setting = "Match User deploy\n    AuthenticationMethods publickey,password\n"
    server = make_server(sshd_config_end=setting, logins=(DEPLOY,))
    product.add(server)
    told(bind(product, server, "deploy"))


@pytest.mark.cause("sshd_config_invalid")
@pytest.mark.parametrize("line", ["PasswordAuthentication perhaps", "Match Nonsense yes", "NoSuchKeyword yes", "\x0bPort 22"])
def test_a_broken_line_that_the_running_sshd_has_not_read(product, server, told, line):
    product.add(server)
    server.write(CONFIG, server.read(CONFIG) + line + "\n")
    with unchanged(server):
        task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    assert CONFIG in task["message"]
    assert f"line {server.read(CONFIG).split(chr(10)).index(line) + 1}" in task["message"]


@pytest.mark.hazard("S7")
@pytest.mark.cause("sshd_config_missing")
def test_a_vendors_configuration_without_one_of_the_owners(product, make_server, told):
    """An sshd as SUSE builds it: its own file is elsewhere, and /etc/ssh/sshd_config would hide that."""
    server = make_server()
    server.run(["mkdir", "-p", "/usr/etc"])
    server.run(["mv", CONFIG, "/usr/etc/sshd_config"])
    server.run(["sed", "-i", "s|/etc/ssh/sshd_config\\x00|/usr/etc/sshd_config\\x00|g", "/usr/sbin/sshd"])
    server.reboot()
    product.add(server)
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    assert not server.exists(CONFIG)


@pytest.mark.cause("sshd_config_missing")
def test_a_main_file_that_was_taken_from_under_a_running_sshd(product, server, told):
    product.add(server)
    server.run(["rm", CONFIG])
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))


@pytest.mark.hazard("S8")
@pytest.mark.cause("sshd_config_odd")
def test_a_line_that_sshd_reads_differently_than_people_do(product, server, told):
    server.write(CONFIG, server.read(CONFIG) + "# a comment\0with a NUL\nX11Forwarding no\n")
    server.reboot()
    product.add(server)
    with unchanged(server):
        task = told(product.run("bind", server, keypair=product.keypair(), password=server.root_password))
    assert task["evidence"]["line"] == server.read(CONFIG).split("\n").index("# a comment\0with a NUL") + 1


@pytest.mark.hazard("S4")
@pytest.mark.cause("setting_pending")
@pytest.mark.parametrize("change", ["drop-in", "main file", "drop-in taken away"])
def test_somebody_elses_edit_that_sshd_has_not_read(product, make_server, told, change):
    drop_in = "/etc/ssh/sshd_config.d/10-theirs.conf"
    server = make_server(logins=(Login("alice"),), drop_ins={"10-theirs.conf": "MaxSessions 9\n"})
    private, public = judge.new_key_pair()
    install_key(server, public, "alice")
    product.add(server)
    keypair = product.keypair()
    product.succeeds("bind", server, keypair=keypair, password=server.root_password)  # our own edit is none of theirs
    if change == "drop-in":
        server.write(drop_in, "AllowUsers root\n")
    elif change == "main file":
        server.write(CONFIG, server.read(CONFIG) + "AllowUsers root\n")
    else:
        server.run(["rm", drop_in])
    with unchanged(server, password_works=False):
        task = told(product.run("password-login-enable", server, password=server.root_password))
    expected = {"drop-in": drop_in, "main file": CONFIG, "drop-in taken away": "/etc/ssh/sshd_config.d"}[change]
    assert expected in task["evidence"]["paths"]  # beside a new file its directory may be named
    assert judge.key_login_works(server, "alice", private)
    # Until the listener that greets is the new one.
    reload = "touch -d @0 /run/sshd.pid; kill -HUP $(cat /run/sshd.pid); while [ $(stat -c %Y /run/sshd.pid) = 0 ]; do :; done"
    server.run(["sh", "-c", reload])
    server.await_greeting()
    again = product.retry(task, password=server.root_password)
    assert (again["status"], again["cause"]) == ("succeeded", None), again["message"]


@pytest.mark.cause("reload_failed")
def test_an_sshd_that_dies_of_the_reload_though_its_configuration_is_good(product, server, told):
    """It was upgraded half: the program still runs, and the path by which it starts itself anew leads nowhere."""
    server.run(["sh", "-c", "mkdir -p /opt/ssh && mv /usr/sbin/sshd /opt/ssh/sshd && ln -s /opt/ssh/sshd /usr/sbin/sshd"])
    server.reboot()
    product.add(server)
    at_the_proof(server, "ln -sf /opt/ssh/gone /usr/sbin/sshd")
    session = judge.OpenSession(server, "root", password=server.root_password)
    with session, unchanged(server, STATE):
        told(product.run("bind", server, keypair=product.keypair(), password=server.root_password), "reverted")
        assert session.lives()
