"""Servers that are not set up as most are: keys elsewhere, another configuration, another address; sshd decides what counts."""

import copy
import socket

import pytest

from controller.demo.fleet import Fleet, FleetUnavailable, Login, Spec
from tests.fleet import judge
from tests.fleet.looks import changed, free_port, left, paramiko_lets_in, picture
from tests.fleet.product import methods
from tests.needs import lacking

ALICE = Login("alice", "alice's own word")
STATE = {"/var/lib/kps", "/var/lib/kps/state.json"}


def listening(server, options):
    """Have the server's sshd run with other arguments."""
    server.write("/etc/default/ssh", f'SSHD_OPTS="{options}"\n')
    server.reboot()


# -- where sshd looks for keys -----------------------------------------------------------------------------------------

ELSEWHERE = {
    "a directory of root's": ("/etc/ssh/keys/%u", ["/etc/ssh/keys/alice"]),
    "a file named after the home": ("/etc/ssh/keys%h/%U", ["/etc/ssh/keys/home/alice/1000"]),
    "another place in the home": ("%h/.ssh/%u-keys /nowhere/%u", ["/home/alice/.ssh/alice-keys"]),
    "several files": (".ssh/authorized_keys .ssh/authorized_keys2", ["/home/alice/.ssh/authorized_keys2"]),
}


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_key_goes_where_sshd_looks_for_it_and_nowhere_else(make_server, product, where):
    setting, (path,) = ELSEWHERE[where]
    private, public = judge.new_key_pair()
    server = make_server(logins=(ALICE,), sshd_config_top=f"AuthorizedKeysFile {setting}\n")
    in_home = path.startswith("/home/alice/")
    owner = "alice:alice" if in_home else "root:root"
    server.write(path, public + "\n", 0o600 if in_home else 0o644, owner)
    if in_home:
        server.run(["chown", "alice:alice", "/home/alice/.ssh"])
    assert judge.key_login_works(server, "alice", private)
    product.add(server)
    before = picture(server)
    first, second = product.keypair(), product.keypair()
    order = {"login": "alice", "password": server.root_password}
    product.succeeds("bind", server, keypair=first, keep_password_login=True, **order)
    after = picture(server)
    assert changed(before, after) == {path} | STATE
    assert after[path] == (*before[path][:4], f"{public}\n{first['public_key']}\n")
    product.succeeds("replace", server, keypair=second, **order)
    assert judge.key_login_works(server, "alice", product.private(second))
    assert not judge.key_login_works(server, "alice", product.private(first))
    product.succeeds("unbind", server, login="alice", password=server.root_password)
    assert judge.key_login_works(server, "alice", private)
    assert not judge.key_login_works(server, "alice", product.private(second))
    assert left(before, picture(server)) == STATE


@pytest.mark.hazard("H3")
def test_a_key_is_removed_from_every_file_in_which_sshd_reads_it(make_server, product):
    server = make_server(sshd_config_top="AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2 /etc/ssh/keys/%u\n")
    product.add(server)
    old, new = product.keypair(), product.keypair()
    product.succeeds("bind", server, keypair=old, password=server.root_password)
    server.write("/root/.ssh/authorized_keys2", f"# second\n{old['public_key']} twin\n", 0o600)
    server.write("/etc/ssh/keys/root", f"# third\nno-pty {old['public_key']}\n", 0o644)
    product.succeeds("replace", server, keypair=new)
    assert not judge.key_login_works(server, "root", product.private(old))
    assert judge.key_login_works(server, "root", product.private(new))
    assert server.read("/root/.ssh/authorized_keys2") == "# second\n"
    assert server.read("/etc/ssh/keys/root") == "# third\n"


def test_a_home_that_is_reached_through_a_link_is_used_as_sshd_uses_it(make_server, product):
    server = make_server(logins=(ALICE,))
    server.run(["sh", "-c", "mkdir -p /srv/homes && mv /home/alice /srv/homes/ && ln -s /srv/homes/alice /home/alice"])
    product.add(server)
    pair = product.keypair()
    before = picture(server)
    product.succeeds("bind", server, login="alice", keypair=pair, password=server.root_password, keep_password_login=True)
    after = picture(server)
    assert judge.key_login_works(server, "alice", product.private(pair))
    assert changed(before, after) == {"/srv/homes/alice/.ssh", "/srv/homes/alice/.ssh/authorized_keys"} | STATE
    assert after["/srv/homes/alice/.ssh"][:4] == ("d", 0o700, 1000, 1000)
    assert after["/srv/homes/alice/.ssh/authorized_keys"][:4] == ("-", 0o600, 1000, 1000)
    product.succeeds("unbind", server, login="alice", password=server.root_password)
    assert left(before, picture(server)) == STATE


ROOTS_OWN = {
    "a link to a directory of root's": ("/etc/cron.daily", "ln -s /etc/cron.daily /home/alice/.ssh"),
    "a link to nothing in a directory of root's": ("/etc/cron.daily", "ln -s /etc/cron.daily/new /home/alice/.ssh"),
    "a directory with a link in it": ("/etc/cron.daily", "mkdir .ssh && ln -s /etc/cron.daily/new .ssh/authorized_keys"),
}


@pytest.mark.parametrize("where", ROOTS_OWN)
def test_no_login_has_root_write_where_it_could_not_itself(make_server, product, where):
    server = make_server(logins=(ALICE,))
    place, done = ROOTS_OWN[where]
    server.run(["mkdir", "-p", place])
    server.run(["su", "alice", "-c", f"cd && {done}"])
    product.add(server)
    before = picture(server)
    order = {"login": "alice", "password": server.root_password, "keep_password_login": True}
    task = product.run("bind", server, keypair=product.keypair(), **order)
    assert (task["status"], task["server_state"]) == ("failed", "as_before")
    assert task["cause"] in ("path_permissions", "path_unsafe")
    assert changed(before, picture(server)) == set()


@pytest.mark.parametrize("linked", [False, True])
def test_what_root_keeps_for_a_login_stays_root_s(make_server, product, linked):
    server = make_server(logins=(ALICE,), sshd_config_top="AuthorizedKeysFile /etc/ssh/keys/%u/authorized_keys\n")
    if linked:
        server.run(["mkdir", "-p", "/srv/keys"])
        server.run(["ln", "-s", "/srv/keys", "/etc/ssh/keys"])
    else:
        server.run(["mkdir", "-p", "/etc/ssh/keys"])
    product.add(server)
    pair = product.keypair()
    order = {"login": "alice", "password": server.root_password, "keep_password_login": True}
    product.succeeds("bind", server, keypair=pair, **order)
    assert judge.key_login_works(server, "alice", product.private(pair))
    after, place = picture(server), "/srv/keys/alice" if linked else "/etc/ssh/keys/alice"
    assert after[place][:4] == ("d", 0o755, 0, 0)
    assert after[f"{place}/authorized_keys"][:4] == ("-", 0o644, 0, 0)


# -- what else lets passwords in ---------------------------------------------------------------------------------------


@pytest.mark.hazard("S1")
def test_a_drop_in_of_cloud_init_does_not_keep_passwords_open(make_server, product):
    server = make_server(drop_ins={"50-cloud-init.conf": "PasswordAuthentication yes\n"})
    product.add(server)
    before = picture(server)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password)
    assert judge.offered_methods(server, "root") == {"publickey"}
    assert not paramiko_lets_in(server, "root", server.root_password)
    product.succeeds("unbind", server, password=server.root_password)
    assert left(before, picture(server)) == STATE


def test_a_login_that_is_kept_out_is_not_said_to_get_in_by_its_password(make_server, product):
    """Alice may come from elsewhere, from where nobody asked; bob's word would do as well, if it were taken from him."""
    rule = "AllowUsers root alice@198.51.100.0/24\n"
    server = make_server(sshd_config_top=rule, logins=(ALICE, Login("bob", "bob's own word")))
    product.add(server)
    task = product.run("password-login-status", server, password=server.root_password)
    assert task["evidence"]["logins"] == {"root": "on", "alice": "unknown", "bob": "unknown"}
    assert not judge.password_login_works(server, "alice", server.passwords["alice"])


@pytest.mark.hazard("S1")
@pytest.mark.parametrize("tree", ["host", "bullseye", "trixie"])
def test_a_prompt_of_pam_is_a_password_too(make_server, product, tree):
    words = "ChallengeResponseAuthentication" if tree == "bullseye" else "KbdInteractiveAuthentication"
    server = make_server(tree=tree, sshd_config_top=f"PasswordAuthentication no\n{words} yes\n")
    assert judge.password_login_works(server, "root", server.root_password, "keyboard-interactive")
    product.add(server)
    before = picture(server)
    pair = product.keypair()
    task = product.succeeds("bind", server, keypair=pair, password=server.root_password)
    assert ("password", "refused") in methods(task)
    assert judge.offered_methods(server, "root") == {"publickey"}
    assert not judge.password_login_works(server, "root", server.root_password, "keyboard-interactive")
    assert judge.key_login_works(server, "root", product.private(pair))
    product.succeeds("unbind", server, password=server.root_password)
    assert judge.password_login_works(server, "root", server.root_password, "keyboard-interactive")
    assert left(before, picture(server)) == STATE


def test_without_pam_a_login_with_no_password_at_all_is_bound(make_server, product):
    server = make_server(logins=(Login("cloud"),), sshd_config_top="UsePAM no\n")
    server.run(["usermod", "-p", "*", "cloud"])
    product.add(server)
    pair = product.keypair()
    order = {"keypair": pair, "password": server.root_password, "accept_lockout": ["root"]}
    product.succeeds("bind", server, login="cloud", **order)
    assert judge.key_login_works(server, "cloud", product.private(pair))
    assert judge.effective_settings(server)["usepam"] == ["no"]
    assert not judge.password_login_works(server, "root", server.root_password)


@pytest.mark.hazard("S1")
def test_a_match_block_that_keeps_passwords_open_is_named_and_left_alone(make_server, product):
    server = make_server(logins=(ALICE,), sshd_config_end="Match User alice\n    PasswordAuthentication yes\n")
    product.add(server)
    before = picture(server)
    order = {"keypair": product.keypair(), "password": server.root_password, "accept_lockout": ["alice"]}
    task = product.fails("setting_overridden", "bind", server, **order)
    lines = server.read("/etc/ssh/sshd_config").split("\n")
    assert f"/etc/ssh/sshd_config:{lines.index('    PasswordAuthentication yes') + 1}" in task["message"]
    assert changed(before, picture(server)) == set()


OPENED = {
    "an address": "Match Address 127.99.0.0/16\n    PasswordAuthentication yes\n",
    "a port": "Match LocalPort 2299\n    PasswordAuthentication yes\n",
    "a login without a shell": "Match User files\n    PasswordAuthentication yes\n",
    "a prompt of PAM's": "Match Address 127.99.0.0/16\n    KbdInteractiveAuthentication yes\n",
}


@pytest.mark.hazard("S1")
@pytest.mark.parametrize("where", OPENED)
def test_a_match_that_opens_passwords_for_others_than_us_is_named(make_server, product, where):
    files = Login("files", "the word of files", "none", "/usr/sbin/nologin")
    server = make_server(logins=(files,), sshd_config_end=OPENED[where] + "Match all\n")
    product.add(server)
    before = picture(server)
    order = {"keypair": product.keypair(), "password": server.root_password}
    task = product.fails("setting_overridden", "bind", server, **order)
    number = server.read("/etc/ssh/sshd_config").split("\n").index(OPENED[where].split("\n")[1]) + 1
    assert f"/etc/ssh/sshd_config:{number}: {OPENED[where].split(chr(10))[0]}" in task["message"]
    assert changed(before, picture(server)) == set()

    task = product.succeeds("bind", server, keep_password_login=True, **order)
    server.write(
        "/etc/ssh/sshd_config",
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\n" + server.read("/etc/ssh/sshd_config"),
    )
    task = product.run("password-login-status", server)
    assert task["status"] == "unchanged", task["message"]
    assert task["evidence"]["logins"]["root"] == ("off" if "User" in OPENED[where] else "unknown")
    assert product.server(server)["password_login"] == task["evidence"]["logins"]["root"]


def test_a_key_is_removed_also_where_sshd_reads_it_for_other_addresses_only(make_server, product):
    elsewhere = "Match Address 127.99.0.0/16\n    AuthorizedKeysFile /etc/ssh/extra/%u\n"
    server = make_server(sshd_config_end=elsewhere)
    product.add(server)
    old, new = product.keypair(), product.keypair()
    product.succeeds("bind", server, keypair=old, password=server.root_password, keep_password_login=True)
    server.write("/etc/ssh/extra/root", old["public_key"] + "\n", 0o600)
    assert judge.key_login_works(server, "root", product.private(old), source="127.99.1.1")
    product.succeeds("replace", server, keypair=new)
    assert not judge.key_login_works(server, "root", product.private(old), source="127.99.1.1")
    assert judge.key_login_works(server, "root", product.private(new))
    assert server.read("/etc/ssh/extra/root") == ""


@pytest.mark.parametrize("kind", ["without a shell, for files", "with no password at all"])
def test_a_login_of_an_odd_kind_is_locked_out_neither(make_server, product, kind):
    odd = Login("odd", "odd's own word", "none", "/usr/sbin/nologin" if "files" in kind else "/bin/sh")
    sftp = "Match User odd\n    ForceCommand internal-sftp\n"
    server = make_server(
        logins=(odd,), sshd_config_top="" if "files" in kind else "PermitEmptyPasswords yes\n", sshd_config_end=sftp
    )
    word = odd.password
    if "files" not in kind:
        server.run(["passwd", "-d", "odd"])
        word = ""
    assert paramiko_lets_in(server, "odd", word)
    product.add(server)
    order = {"keypair": product.keypair(), "password": server.root_password}
    task = product.fails("others_locked_out", "bind", server, **order)
    assert task["evidence"]["logins"] == ["odd"]
    assert paramiko_lets_in(server, "odd", word)
    product.succeeds("bind", server, accept_lockout=["odd"], **order)
    assert not paramiko_lets_in(server, "odd", word)


def test_passwords_that_are_asked_for_but_open_nothing_are_closed_too(make_server, product):
    private, public = judge.new_key_pair()
    server = make_server(
        sshd_config_top="PermitRootLogin prohibit-password\n", files={"/root/.ssh/authorized_keys": public + "\n"}
    )
    server.run(["chmod", "-R", "go=", "/root/.ssh"])
    original = server.read("/etc/ssh/sshd_config")
    product.add(server)
    pair = product.keypair()
    assert "password" in judge.offered_methods(server, "root")
    product.succeeds("bind", server, keypair=pair, identity=private)
    assert judge.offered_methods(server, "root") == {"publickey"}
    assert product.run("password-login-disable", server)["status"] == "unchanged"
    product.succeeds("unbind", server, accept_lockout=["root"])
    assert server.read("/etc/ssh/sshd_config") == original


# -- what kind of machine it is ----------------------------------------------------------------------------------------


def test_a_server_in_a_chroot_without_proc_is_a_server_like_any_other(product):
    fleet = Fleet(isolation="chroot")
    try:
        fleet.open()
    except FleetUnavailable as error:
        lacking(str(error))
    with fleet:
        server = fleet.add(Spec(name="in-a-chroot"))
        product.add(server)
        before = picture(server)
        old, new = product.keypair(), product.keypair()
        with judge.OpenSession(server, "root", password=server.root_password) as session:
            product.succeeds("bind", server, keypair=old, password=server.root_password)
            product.succeeds("replace", server, keypair=new)
            assert session.lives()
        assert not judge.password_login_works(server, "root", server.root_password)
        assert judge.key_login_works(server, "root", product.private(new))
        assert not judge.key_login_works(server, "root", product.private(old))
        product.succeeds("unbind", server, password=server.root_password)
        assert left(before, picture(server)) == STATE


# -- which sshd it is --------------------------------------------------------------------------------------------------


def test_an_sshd_with_a_configuration_and_options_of_its_own_is_asked_and_changed(make_server, product):
    server = make_server()
    server.run(["cp", "-a", "/etc/ssh/sshd_config", "/etc/ssh/other"])
    server.write("/etc/ssh/other", "AuthorizedKeysFile /etc/ssh/keys/%u\n" + server.read("/etc/ssh/other"))
    server.run(["mkdir", "/etc/ssh/keys"])
    listening(server, f"-f /etc/ssh/other -o ListenAddress={server.host}:{server.port} -o MaxAuthTries=3")
    product.add(server)
    before = picture(server)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password)
    assert changed(before, picture(server)) == {"/etc/ssh/other", "/etc/ssh/keys/root"} | STATE
    assert judge.key_login_works(server, "root", product.private(pair))
    assert judge.offered_methods(server, "root") == {"publickey"}
    product.succeeds("unbind", server, password=server.root_password)
    assert left(before, picture(server)) == STATE


def test_a_setting_on_sshd_s_command_line_that_keeps_passwords_open_is_not_overlooked(make_server, product):
    server = make_server()
    listening(server, f"-o ListenAddress={server.host}:{server.port} -o PasswordAuthentication=yes")
    product.add(server)
    before = picture(server)
    product.fails("setting_overridden", "bind", server, keypair=product.keypair(), password=server.root_password)
    assert changed(before, picture(server)) == set()
    assert judge.password_login_works(server, "root", server.root_password)


@pytest.mark.parametrize("place", ["another port", "an IPv6 address", "two sshds"])
def test_the_sshd_that_answers_there_is_the_one_that_is_changed(make_server, product, place):
    server = make_server()
    host = "::1" if place == "an IPv6 address" else server.host
    try:
        port = free_port(host, socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        lacking(f"nobody can listen at {host} here: {error}")
    if place == "two sshds":
        server.run(["cp", "-a", "/etc/ssh/sshd_config", "/etc/ssh/other"])
        own = f"-o ListenAddress={server.host}:{port} -o PidFile=none"
        server.write("/etc/rc.local", f"#!/bin/sh\nexec /usr/sbin/sshd -f /etc/ssh/other {own}\n", 0o755)
        server.reboot()
        beside = copy.copy(server)  # it comes up after the one that greets first
        beside.port = port
        beside.await_greeting()
    else:
        bracketed = f"[{host}]" if ":" in host else host
        listening(server, f"-o ListenAddress={server.host}:{server.port} -o ListenAddress={bracketed}:{port}")
    product.add(server, host=host, port=port)
    before = picture(server)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password)
    assert judge.password_login_works(server, "root", server.root_password) == (place == "two sshds")
    assert judge.key_login_works(server, "root", product.private(pair))
    config = "/etc/ssh/other" if place == "two sshds" else "/etc/ssh/sshd_config"
    assert changed(before, picture(server)) == {config, "/root/.ssh", "/root/.ssh/authorized_keys"} | STATE
    product.succeeds("unbind", server, password=server.root_password)
    assert left(before, picture(server)) == STATE
