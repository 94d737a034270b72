"""Who connects, with what, and for whom: every way in that an operation may start from, and what may be taken away after it."""

import re
from pathlib import Path

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.looks import changed, left, picture
from tests.fleet.product import methods
from tests.needs import lacking

ALICE = Login("alice", "alice's own word")
DEPLOY = Login("deploy", "deploy's own word", sudo="nopasswd")
ASKED = Login("deploy", "deploy's own word", sudo="password")
EVERYBODY = ["root", "alice", "deploy"]


def key_works(server, login, private):
    return judge.key_login_works(server, login, private)


def password_works(server, login):
    return judge.password_login_works(server, login, server.passwords[login])


# -- who connects ------------------------------------------------------------------------------------------------------

MATRIX = [
    # the server's login, the login in question, whose password is given, what deploy may do by sudo, whether passwords go
    ("root", "alice", "root", DEPLOY, False),
    ("root", "alice", "alice", DEPLOY, False),
    ("deploy", "alice", "deploy", DEPLOY, False),
    ("deploy", "alice", "deploy", ASKED, False),
    ("deploy", "root", "deploy", DEPLOY, True),
    ("deploy", "root", "deploy", ASKED, True),
    ("deploy", "root", "root", DEPLOY, True),
]


@pytest.mark.parametrize(("through", "target", "whose", "deploy", "closes"), MATRIX)
def test_a_login_is_bound_and_unbound_through_itself_or_the_server_s_own_login(
    make_server, product, through, target, whose, deploy, closes
):
    server = make_server(logins=(ALICE, deploy))
    product.add(server, through)
    pair = product.keypair()
    before = picture(server)
    more = {"accept_lockout": EVERYBODY} if closes else {"keep_password_login": True}
    product.succeeds("bind", server, login=target, keypair=pair, password=server.passwords[whose], **more)
    assert key_works(server, target, product.private(pair))
    assert not any(key_works(server, other, product.private(pair)) for other in EVERYBODY if other != target)
    assert password_works(server, target) == (not closes)
    assert [each["login"] for each in product.server(server)["bindings"]] == [target]

    product.succeeds("unbind", server, login=target, password=server.passwords[target])
    assert not key_works(server, target, product.private(pair))
    assert password_works(server, target)
    assert {path for path in left(before, picture(server)) if "kps" not in path} == set()


@pytest.mark.parametrize("sudo", ["none", "nopasswd", "password"])
def test_the_shell_of_a_login_may_be_a_csh(make_server, product, sudo):
    """It runs nothing of what it is given for /bin/sh, and hands it on whole: tcsh(1), at the quoting of newlines and !."""
    if not Path("/bin/tcsh").exists():
        lacking("there is no /bin/tcsh here")
    deploy = Login("deploy", "deploy's own word", sudo, "/bin/tcsh")
    server = make_server(logins=(deploy,))
    product.add(server, "deploy")
    pair = product.keypair()
    closes = sudo != "none"
    more = {"accept_lockout": EVERYBODY} if closes else {"keep_password_login": True}
    product.succeeds("bind", server, login="deploy", keypair=pair, password=deploy.password, **more)
    assert key_works(server, "deploy", product.private(pair))
    assert password_works(server, "deploy") == (not closes)
    if sudo != "password":
        product.succeeds("unbind", server, login="deploy", accept_lockout=EVERYBODY)
        assert not key_works(server, "deploy", product.private(pair))


def test_a_password_for_sudo_is_tried_once(make_server, product):
    server = make_server(logins=(ASKED,))
    private, public = judge.new_key_pair()
    server.run(["install", "-d", "-o", "deploy", "-g", "deploy", "/home/deploy/.ssh"])
    server.write("/home/deploy/.ssh/authorized_keys", public + "\n", 0o600, "deploy:deploy")
    product.add(server, "deploy")
    server.write("/etc/sudoers.d/log", "Defaults logfile=/root/sudo.log\n", 0o440)
    order = {"login": "root", "keypair": product.keypair(), "identity": private}
    order |= {"password": "not this one", "password_of": "deploy"}
    task = product.fails("sudo_refused", "bind", server, **order)
    assert task["server_state"] == "as_before"
    assert re.findall(r"\d+ incorrect password attempt", server.read("/root/sudo.log")) == ["1 incorrect password attempt"]


# A start-up file that keeps whatever its login's sessions are told.
CAPTURE = 'tee -a ~/heard | exec bash --norc -c "$BASH_EXECUTION_STRING"\nexit\n'


@pytest.mark.parametrize("deploy", [Login("deploy", "deploy's own word"), ASKED], ids=["no sudo", "sudo that asks"])
def test_no_login_s_session_hears_the_password_of_another(make_server, product, deploy):
    server = make_server(logins=(deploy,))
    product.add(server, "deploy")
    word = server.passwords["deploy"]
    product.succeeds("bind", server, login="deploy", keypair=product.keypair(), password=word, keep_password_login=True)
    root_key, root_private = product.keypair(), judge.new_key_pair()
    order = {"login": "root", "password": server.root_password}
    server.write("/home/deploy/.bashrc", CAPTURE, 0o644, "deploy:deploy")
    for operation, more in (
        ("password-login-enable", {}),
        ("bind", {"keypair": root_key, "identity": root_private[0], "keep_password_login": True}),
        ("unbind", {}),
    ):
        product.run(operation, server, **(order | more))
        assert server.root_password not in server.read("/home/deploy/heard")


def test_sudo_is_told_a_password_of_which_was_said_whose_it_is(make_server, product):
    server = make_server(logins=(ASKED,))
    product.add(server, "deploy")
    word = server.passwords["deploy"]
    product.succeeds("bind", server, login="deploy", keypair=product.keypair(), password=word, keep_password_login=True)
    order = {"login": "root", "keypair": product.keypair(), "password": word, "keep_password_login": True}
    server.write("/etc/ssh/sshd_config", "PasswordAuthentication no\n" + server.read("/etc/ssh/sshd_config"))
    server.reboot()
    before = picture(server)
    task = product.fails("sudo_refused", "bind", server, **order)
    assert "--password-of deploy" in task["message"]
    assert changed(before, picture(server)) == set()
    product.succeeds("bind", server, password_of="deploy", **order)
    assert key_works(server, "root", product.private(order["keypair"]))


def test_a_key_that_works_today_binds_another_without_a_password(make_server, product):
    private, public = judge.new_key_pair()
    server = make_server(files={"/root/.ssh/authorized_keys": public + "\n"})
    server.run(["chmod", "-R", "go=", "/root/.ssh"])
    product.add(server)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, identity=private)
    assert key_works(server, "root", product.private(pair))
    assert key_works(server, "root", private)
    assert not password_works(server, "root")
    product.succeeds("replace", server, keypair=product.keypair())
    assert not key_works(server, "root", product.private(pair))
    assert key_works(server, "root", private)


def test_replace_starts_from_a_key_that_nobody_bound_when_its_private_half_is_given(make_server, product):
    private, public = judge.new_key_pair("rsa", 2048)
    server = make_server(files={"/root/.ssh/authorized_keys": public + "\n"})
    server.run(["chmod", "-R", "go=", "/root/.ssh"])
    product.add(server)
    pair = product.keypair()
    product.succeeds("replace", server, keypair=pair, identity=private)
    assert key_works(server, "root", product.private(pair))
    assert not key_works(server, "root", private)
    assert password_works(server, "root")  # nobody asked for that to change


def test_one_bound_login_opens_the_server_for_another(make_server, product):
    server = make_server(logins=(ALICE,))
    product.add(server)
    first, second = product.keypair(), product.keypair()
    product.succeeds("bind", server, keypair=first, password=server.root_password, accept_lockout=["alice"])
    product.succeeds("bind", server, login="alice", keypair=second)
    assert key_works(server, "alice", product.private(second))
    assert not key_works(server, "alice", product.private(first))


def test_what_the_caller_gives_is_tried_though_every_bound_key_is_gone(make_server, product):
    server = make_server(logins=(DEPLOY,))
    product.add(server)
    for login in ("root", "deploy"):
        order = {"login": login, "keypair": product.keypair(), "password": server.root_password}
        product.succeeds("bind", server, keep_password_login=True, **order)
    server.run(["rm", "/root/.ssh/authorized_keys", "/home/deploy/.ssh/authorized_keys"])
    for login in ("deploy", "root"):
        task = product.run("unbind", server, login=login, password=server.passwords[login])
        assert (task["status"], methods(task)) == ("unchanged", {("password", "logged_in"), ("key", "refused")})
    assert product.server(server)["bindings"] == []


def test_a_check_shows_the_key_on_record_to_get_in_or_says_that_it_does_not(make_server, product):
    server = make_server(logins=(DEPLOY,))
    product.add(server)
    for login in ("root", "deploy"):
        order = {"login": login, "keypair": product.keypair(), "password": server.root_password}
        product.succeeds("bind", server, keep_password_login=True, **order)
    shown = [{"way": "key", "login": "deploy", "method": "logged_in"}]
    task = product.run("check", server, login="deploy")
    assert (task["status"], task["proof"]) == ("unchanged", shown)
    server.run(["rm", "/home/deploy/.ssh/authorized_keys"])
    task = product.fails("key_refused", "check", server, login="deploy")
    assert task["server_state"] == "as_before"
    assert product.run("check", server)["proof"] == [{"way": "key", "login": "root", "method": "logged_in"}]


def test_a_check_of_an_unmanaged_key_tells_what_can_be_told(make_server, product):
    server = make_server()
    product.add(server)
    pair, private = unmanaged(product)
    product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    assert product.run("check", server)["proof"] == [{"way": "key", "login": "root", "method": "accepted"}]
    assert product.run("check", server, identity=private)["proof"] == [{"way": "key", "login": "root", "method": "logged_in"}]
    server.run(["rm", "/root/.ssh/authorized_keys"])
    product.fails("key_refused", "check", server)
    product.fails("key_refused", "check", server, password=server.root_password)


def test_that_a_password_is_asked_for_does_not_say_that_one_gets_in(make_server, product):
    server = make_server(sshd_config_top="PermitRootLogin prohibit-password\n")
    product.add(server)
    task = product.run("password-login-status", server)
    assert (task["status"], task["evidence"]["logins"]) == ("unchanged", {"root": "unknown"})
    assert "from outside" in task["message"]
    assert product.server(server)["password_login"] == "unknown"


# -- who has shown to hold the private half ----------------------------------------------------------------------------


def unmanaged(product):
    """A key pair of which the product knows the public half only, and its private half."""
    made = product.keypair(managed=False)
    return made, made["private_key"]


def test_an_unmanaged_key_closes_no_password_on_sshd_s_word_alone(make_server, product):
    server = make_server()
    product.add(server)
    pair, private = unmanaged(product)
    before = picture(server)
    task = product.fails("proof_too_weak", "bind", server, keypair=pair, password=server.root_password)
    assert task["server_state"] == "as_before"
    assert changed(before, picture(server)) == set()

    task = product.succeeds("bind", server, keypair=pair, password=server.root_password, accept_unproved=True)
    assert methods(task) == {("key", "accepted"), ("password", "refused")}
    assert key_works(server, "root", private)
    assert not password_works(server, "root")
    assert product.server(server)["bindings"][0]["proof"] == "accepted"


def test_an_unmanaged_key_is_bound_beside_the_password_with_the_weaker_proof(make_server, product):
    server = make_server()
    product.add(server)
    pair, private = unmanaged(product)
    task = product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    assert methods(task) == {("key", "accepted")}
    assert key_works(server, "root", private)
    assert password_works(server, "root")


def test_the_private_half_given_with_the_order_proves_an_unmanaged_key(make_server, product):
    server = make_server()
    product.add(server)
    pair, private = unmanaged(product)
    product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    task = product.succeeds("password-login-disable", server, identity=private)
    assert methods(task) == {("key", "logged_in"), ("password", "refused")}
    assert key_works(server, "root", private)
    assert not password_works(server, "root")

    other, its_private = unmanaged(product)
    product.fails("proof_too_weak", "replace", server, keypair=other, identity=private)
    assert key_works(server, "root", private)
    assert not key_works(server, "root", its_private)


def test_a_password_lets_in_and_the_private_half_given_beside_it_proves_the_key(make_server, product):
    server = make_server()
    product.add(server)
    pair, private = unmanaged(product)
    order = {"keypair": pair, "password": server.root_password, "identity": private}
    task = product.succeeds("bind", server, **order)
    assert methods(task) == {("key", "logged_in"), ("password", "refused")}
    assert key_works(server, "root", private)
    assert not password_works(server, "root")


# -- what may be taken away --------------------------------------------------------------------------------------------


def test_password_login_comes_back_with_the_last_binding_that_closed_it_and_not_before(make_server, product):
    server = make_server(logins=(DEPLOY,))
    original = server.read("/etc/ssh/sshd_config")
    product.add(server)
    for login in ("root", "deploy"):
        order = {"login": login, "keypair": product.keypair(), "password": server.passwords[login]}
        product.succeeds("bind", server, accept_lockout=["deploy"], **order)
    assert [each["closed_password_login"] for each in product.server(server)["bindings"]] == [True, True]

    product.fails("no_way_in_remains", "unbind", server, login="deploy")
    product.succeeds("unbind", server, login="deploy", accept_lockout=["deploy"])
    assert not password_works(server, "deploy")
    assert not password_works(server, "root")
    task = product.succeeds("unbind", server)
    assert password_works(server, "deploy")
    assert password_works(server, "root")
    assert server.read("/etc/ssh/sshd_config") == original
    assert methods(task) == {("password", "password_offered"), ("key", "refused")}


def test_unbind_proves_the_password_that_is_given_and_a_wrong_one_keeps_the_key(make_server, product):
    server = make_server()
    product.add(server)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password)
    before = picture(server)
    task = product.fails("wrong_password", "unbind", server, password="not this one")
    assert task["server_state"] == "reverted"
    assert changed(before, picture(server)) == {"/var/lib/kps/state.json"}
    assert key_works(server, "root", product.private(pair))
    assert not password_works(server, "root")
    assert ("password", "logged_in") in methods(product.succeeds("unbind", server, password=server.root_password))


def test_unbind_is_refused_where_no_password_would_let_in_unless_the_lockout_is_accepted(make_server, product):
    server = make_server(sshd_config_top="PasswordAuthentication no\n")
    private, public = judge.new_key_pair()
    server.write("/root/.ssh/authorized_keys", public + "\n")
    server.run(["chmod", "-R", "go=", "/root/.ssh"])
    product.add(server)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, identity=private)
    before = picture(server)
    task = product.fails("no_way_in_remains", "unbind", server)
    assert task["server_state"] == "as_before"
    assert changed(before, picture(server)) == set()
    assert key_works(server, "root", product.private(pair))
    product.succeeds("unbind", server, accept_lockout=["root"])
    assert not key_works(server, "root", product.private(pair))
    assert server.read("/root/.ssh/authorized_keys") == public + "\n"


def test_nobody_else_is_locked_out_unless_each_is_named(make_server, product):
    with_key, public = judge.new_key_pair()
    server = make_server(logins=(ALICE, DEPLOY, Login("locked")))
    server.write("/home/alice/.ssh/authorized_keys", public + "\n", 0o600, "alice:alice")
    server.run(["chown", "alice:alice", "/home/alice/.ssh"])
    server.run(["chmod", "700", "/home/alice/.ssh"])
    product.add(server)
    order = {"keypair": product.keypair(), "password": server.root_password}
    before = picture(server)
    task = product.fails("others_locked_out", "bind", server, **order)
    assert task["evidence"]["logins"] == ["deploy"]
    assert changed(before, picture(server)) == set()
    product.succeeds("bind", server, accept_lockout=["deploy"], **order)
    assert key_works(server, "alice", with_key)
    assert not password_works(server, "deploy")


# -- what the old line allowed -----------------------------------------------------------------------------------------

OPTIONS = 'from="127.0.0.0/8",environment="LANG=C",no-agent-forwarding '


@pytest.mark.hazard("H9")
def test_replace_inherits_what_the_old_line_allowed(make_server, product):
    private, public = judge.new_key_pair()
    server = make_server(files={"/root/.ssh/authorized_keys": f"# head\n{OPTIONS}{public}\n# tail\n"})
    server.run(["chmod", "-R", "go=", "/root/.ssh"])
    product.add(server)
    pair = product.keypair()
    product.succeeds("replace", server, keypair=pair, identity=private)
    assert server.read("/root/.ssh/authorized_keys") == f"# head\n{OPTIONS}{pair['public_key']}\n# tail\n"
    assert key_works(server, "root", product.private(pair))


@pytest.mark.parametrize(
    ("options", "cause", "state"),
    [
        ('from="192.0.2.0/24"', "new_key_refused", "reverted"),
        ('command="/bin/true"', "options_block_proof", "as_before"),
    ],
)
def test_replace_fails_and_leaves_all_as_it_was_where_the_old_options_keep_the_proof_out(
    make_server, product, options, cause, state
):
    server = make_server()
    product.add(server)
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    server.write("/root/.ssh/authorized_keys", f"# others\n{options} {pair['public_key']}\n")
    before = picture(server)
    new = product.keypair()
    task = product.fails(cause, "replace", server, keypair=new, password=server.root_password)
    assert task["server_state"] == state
    assert changed(before, picture(server)) <= {"/var/lib/kps/state.json"}
    assert not key_works(server, "root", product.private(new))
    assert password_works(server, "root")
