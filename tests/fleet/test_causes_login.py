"""What keeps a login, or the agent, from getting started on a server: each caused on a real one, nothing changed by us."""

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.causes import bind, install_key, unchanged

DEPLOY = Login("deploy", "walk the dog")


@pytest.mark.cause("no_python")
def test_a_server_without_python_nor_the_tools_of_a_shell_agent(product, make_server, told):
    server = make_server(python=False)
    server.run(["rm", "/usr/bin/flock"])
    product.add(server)
    told(bind(product, server))


@pytest.mark.cause("sudo_refused")
def test_a_login_that_sudo_does_not_know(product, make_server, told):
    server = make_server(logins=(DEPLOY,))
    product.add(server, login="deploy")
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), password="walk the dog"))


@pytest.mark.cause("sudo_refused")
def test_a_login_that_sudo_asks_for_a_password_which_nobody_gave(product, make_server, told):
    server = make_server(logins=(Login("deploy", "walk the dog", sudo="password"),))
    product.add(server, login="deploy")
    keypair = product.keypair()
    product.succeeds("bind", server, keypair=keypair, password="walk the dog", keep_password_login=True)
    with unchanged(server):
        told(product.run("password-login-disable", server, accept_lockout=["root"]))
    assert judge.key_login_works(server, "deploy", product.private(keypair))


@pytest.mark.cause("sudo_refused")
def test_a_login_that_would_have_to_become_another(product, make_server, told):
    server = make_server(logins=(DEPLOY, Login("other", "fetch")))
    private, public = judge.new_key_pair()
    install_key(server, public, "deploy")
    product.add(server, login="deploy")
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), login="other", identity=private))


@pytest.mark.cause("session_disturbed")
@pytest.mark.parametrize("command", ["/bin/false", "/bin/echo welcome", "/usr/bin/yes"])
def test_a_forced_command(product, make_server, told, command):
    server = make_server(sshd_config_top=f"ForceCommand {command}\n")
    product.add(server)
    task = told(bind(product, server, password_works=None))
    assert ("welcome" in task["message"]) == ("welcome" in command)


@pytest.mark.cause("session_disturbed")
def test_a_start_up_file_that_ends_the_session(product, server, told):
    server.write("/root/.bashrc", "echo no commands here; exit 1\n")
    product.add(server)
    task = told(bind(product, server, password_works=None))
    assert task["evidence"]["said"] == "no commands here"


@pytest.mark.cause("session_disturbed")
def test_an_sshd_that_opens_no_sessions(product, make_server, told):
    server = make_server(sshd_config_top="MaxSessions 0\n")
    product.add(server)
    task = told(bind(product, server, password_works=None))
    assert "MaxSessions" in task["message"]


@pytest.mark.cause("login_missing")
def test_a_login_that_nobody_made(product, server, told):
    product.add(server)
    told(bind(product, server, login="nobody-made-me"))


@pytest.mark.cause("login_locked")
def test_a_locked_password_where_sshd_runs_without_pam(product, make_server, told):
    server = make_server(sshd_config_top="UsePAM no\n", logins=(Login("deploy"),))
    product.add(server)
    told(bind(product, server, login="deploy"))


@pytest.mark.cause("login_expired")
@pytest.mark.parametrize("how", [["chage", "-E", "0"], ["chage", "-d", "0"]], ids=["account", "password"])
def test_a_login_that_has_expired_seen_from_root(product, make_server, told, how):
    server = make_server(logins=(DEPLOY,))
    server.run([*how, "deploy"])
    product.add(server)
    told(bind(product, server, login="deploy"))


@pytest.mark.cause("login_expired")
@pytest.mark.parametrize("how", [["chage", "-E", "0"], ["chage", "-d", "0"]], ids=["account", "password"])
def test_the_right_password_of_a_login_that_has_expired(product, make_server, told, how):
    server = make_server(logins=(DEPLOY,))
    server.run([*how, "deploy"])
    product.add(server, login="deploy")
    with unchanged(server):
        told(product.run("bind", server, keypair=product.keypair(), password="walk the dog"))


@pytest.mark.cause("login_not_allowed")
@pytest.mark.parametrize(
    "setting", ["AllowUsers root", "DenyUsers deploy", "AllowGroups root", "Match User deploy\n  PubkeyAuthentication no"]
)
def test_a_rule_of_sshd_that_keeps_the_login_out(product, make_server, told, setting):
    server = make_server(sshd_config_end=setting + "\n", logins=(DEPLOY,))
    product.add(server)
    task = told(bind(product, server, login="deploy"))
    assert setting.split()[-2] in task["message"]


@pytest.mark.cause("login_not_allowed")
@pytest.mark.parametrize("shell", ["/usr/sbin/nologin", "/bin/not-there", "/etc/passwd"])
def test_a_login_whose_shell_lets_nobody_in(product, make_server, told, shell):
    server = make_server(logins=(Login("deploy", "walk the dog", shell=shell),))
    product.add(server)
    assert shell in told(bind(product, server, login="deploy"))["message"]


@pytest.mark.cause("login_not_allowed")
def test_a_server_on_which_only_root_may_log_in_now(product, make_server, told):
    server = make_server(logins=(DEPLOY,))
    product.add(server)
    server.write("/etc/nologin", "maintenance\n")
    assert "/etc/nologin" in told(bind(product, server, login="deploy"))["message"]
