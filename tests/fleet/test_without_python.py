"""Servers without Python, through the product: everything that an agent in Python does, by a shell program."""

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.causes import unchanged
from tests.fleet.product import methods

WORD = "walk the dog"
ROOT, NOPASSWD, SUDO, PLAIN = "root", "nopasswd", "password", "none"


def made(make_server, sudo):
    return make_server(python=False, logins=() if sudo == ROOT else (Login("deploy", WORD, sudo=sudo),))


@pytest.mark.parametrize("sudo", [ROOT, NOPASSWD, SUDO, PLAIN])
def test_a_key_pair_is_bound_replaced_and_unbound(product, make_server, sudo):
    server = made(make_server, sudo)
    login = "root" if sudo == ROOT else "deploy"
    product.add(server, login=login)
    word, first, second = server.passwords[login], product.keypair(), product.keypair()
    about = {"password": word, "keep_password_login": sudo == PLAIN, "accept_lockout": ["root"]}
    bound = product.succeeds("bind", server, keypair=first, **about)
    assert ("key", "logged_in") in methods(bound)
    assert any("no Python" in limit for limit in bound["evidence"]["limits"])
    assert judge.key_login_works(server, login, product.private(first))
    if sudo != PLAIN:
        assert ("password", "refused") in methods(bound)
        assert "detached process" in bound["evidence"]["armed"]
        assert not judge.password_login_works(server, login, word)
    product.succeeds("replace", server, keypair=second)
    assert judge.key_login_works(server, login, product.private(second))
    assert not judge.key_login_works(server, login, product.private(first))
    assert product.run("check", server)["status"] == "unchanged"
    unbound = product.succeeds("unbind", server, password=word)
    assert ("key", "refused") in methods(unbound)
    home = "/root" if login == "root" else "/home/deploy"
    assert server.run(["cat", f"{home}/.ssh/authorized_keys"]).stdout == ""
    assert server.run(["ls", "-A", home, f"{home}/.ssh"]).stdout.count(".kps-") == 0
    assert judge.password_login_works(server, login, word)


def test_password_login_is_switched_off_and_on(product, make_server):
    server = made(make_server, ROOT)
    product.add(server)
    config = server.read("/etc/ssh/sshd_config")
    product.succeeds("bind", server, keypair=product.keypair(), password=server.root_password, keep_password_login=True)
    product.succeeds("password-login-disable", server)
    assert not judge.password_login_works(server, "root", server.root_password)
    product.succeeds("password-login-enable", server)
    assert judge.password_login_works(server, "root", server.root_password)
    assert server.read("/etc/ssh/sshd_config") == config


def test_a_plain_login_may_not_switch_password_login(product, make_server):
    server = made(make_server, PLAIN)
    product.add(server, login="deploy")
    with unchanged(server):
        product.fails("sudo_refused", "bind", server, keypair=product.keypair(), password=WORD)
