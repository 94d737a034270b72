"""Each operation, for each kind of login, on three versions of OpenSSH; judged by OpenSSH's own client, never by ourselves.

What holds after each of them: the new way in works, the old one is refused, sessions that were open live on, and no byte, mode
or owner has changed but what the operation is about.
"""

from dataclasses import dataclass

import pytest

from controller.demo.fleet import Login, Server
from tests.fleet import judge
from tests.fleet.looks import changed, paramiko_lets_in, picture
from tests.fleet.product import methods

TREES = {"host": "OpenSSH_9.2", "bullseye": "OpenSSH_8.4", "trixie": "OpenSSH_10.0"}
KINDS = ("root", "sudo without password", "sudo with password", "no sudo")
MAY_SUDO = KINDS[:3]
WORD = "mother's maiden name"
STATE = {"/var/lib/kps", "/var/lib/kps/state.json"}
OTHERS = '# who else may\nfrom="192.0.2.0/24",no-pty  {other}\r\n\n  {third}'  # without a final newline


@dataclass
class Case:
    """A server, and the login that it is about."""

    server: Server
    login: str
    kind: str
    password: str
    session: judge.OpenSession
    others: str

    @property
    def home(self):
        return "/root" if self.login == "root" else f"/home/{self.login}"

    @property
    def keys(self):
        return f"{self.home}/.ssh/authorized_keys"

    @property
    def state(self):
        own = {f"{self.home}/.kps", f"{self.home}/.kps/state.json"}
        return own if self.kind == "no sudo" else STATE

    @property
    def given(self):
        """What a user has to give with each order: the password, where sudo asks for it."""
        return {"password": self.password} if self.kind == "sudo with password" else {}

    @property
    def closes(self):
        return {"keep_password_login": True} if self.kind == "no sudo" else {"accept_lockout": ["root"]}

    def key_works(self, private):
        return judge.key_login_works(self.server, self.login, private)

    def password_works(self):
        """What OpenSSH's client and paramiko agree on."""
        works = judge.password_login_works(self.server, self.login, self.password)
        assert paramiko_lets_in(self.server, self.login, self.password) == works
        return works

    def settings(self):
        found = judge.effective_settings(self.server, self.login)
        words = ("passwordauthentication", "kbdinteractiveauthentication", "challengeresponseauthentication")
        return {found[word][0] for word in words if word in found}


@pytest.fixture
def case(make_server, product, request):
    """A server with an authorized_keys of somebody else's, and a session that was open before we came."""
    tree, kind = request.param
    sudo = {"sudo without password": "nopasswd", "sudo with password": "password"}.get(kind, "none")
    login = "root" if kind == "root" else "deploy"
    server = make_server(tree=tree, logins=() if login == "root" else (Login("deploy", WORD, sudo=sudo),))
    others = OTHERS.format(other=judge.new_key_pair()[1], third=judge.new_key_pair("ecdsa", 256)[1])
    password = server.passwords[login]
    with judge.OpenSession(server, login, password=password) as session:
        found = Case(server, login, kind, password, session, others)
        server.run(["install", "-d", "-m", "755", "-o", login, "-g", login, f"{found.home}/.ssh"])
        server.write(found.keys, others, 0o640, f"{login}:{login}")
        product.add(server, login)
        yield found


def every(kinds):
    return pytest.mark.parametrize("case", [(tree, kind) for tree in TREES for kind in kinds], indirect=True, ids=" ".join)


def bound(product, case):
    """Bind a new key pair and return it."""
    pair = product.keypair()
    product.succeeds("bind", case.server, keypair=pair, password=case.password, **case.closes)
    return pair


def test_the_versions_are_the_ones_meant(make_server):
    for tree, version in TREES.items():
        assert version in make_server(tree=tree).run(["ssh", "-V"]).stderr


@every(KINDS)
def test_bind_lets_the_new_key_in_and_the_password_out(case, product):
    before = picture(case.server)
    pair = product.keypair()
    order = {"keypair": pair, "password": case.password, **case.closes}
    task = product.succeeds("bind", case.server, **order)
    after = picture(case.server)

    assert case.key_works(product.private(pair))
    assert case.session.lives()
    assert after[case.keys] == (*before[case.keys][:4], f"{case.others}\n{pair['public_key']}")
    assert judge.fingerprint(after[case.keys][4].split("\n")[-1]) == pair["fingerprint"]
    if case.kind == "no sudo":
        assert case.password_works()
        assert changed(before, after) == {case.keys} | case.state
        assert methods(task) == {("key", "logged_in")}
    else:
        assert not case.password_works()
        assert case.settings() == {"no"}
        assert changed(before, after) == {case.keys, "/etc/ssh/sshd_config"} | case.state
        assert after["/etc/ssh/sshd_config"][:4] == before["/etc/ssh/sshd_config"][:4]
        assert after["/etc/ssh/sshd_config"][4].endswith("\n" + before["/etc/ssh/sshd_config"][4])
        assert methods(task) == {("key", "logged_in"), ("password", "refused")}
    assert after[max(case.state)][1:4] == (0o600, *((1000, 1000) if case.kind == "no sudo" else (0, 0)))

    again = product.run("bind", case.server, **order)
    assert (again["status"], again["server_state"]) == ("unchanged", "as_asked"), again
    assert changed(after, picture(case.server)) <= case.state


@every(KINDS)
def test_replace_lets_the_new_key_in_and_the_old_one_out(case, product):
    old, new = bound(product, case), product.keypair(type="ecdsa-nistp256")
    before = picture(case.server)
    with judge.OpenSession(case.server, case.login, private_key=product.private(old)) as by_the_old_key:
        task = product.succeeds("replace", case.server, keypair=new, **case.given)
        assert by_the_old_key.lives()
    after = picture(case.server)

    assert case.key_works(product.private(new))
    assert not case.key_works(product.private(old))
    assert case.session.lives()
    assert after[case.keys] == (*before[case.keys][:4], f"{case.others}\n{new['public_key']}")
    assert changed(before, after) == {case.keys, max(case.state)}
    assert methods(task) == {("key", "logged_in"), ("key", "refused")}
    assert product.server(case.server)["keypair"] == new["name"]

    again = product.run("replace", case.server, keypair=new, **case.given)
    assert (again["status"], again["server_state"]) == ("unchanged", "as_asked"), again
    assert changed(after, picture(case.server)) <= case.state


@every(KINDS)
def test_unbind_gives_back_every_byte_and_the_password(case, product):
    before = picture(case.server)
    pair = bound(product, case)
    task = product.succeeds("unbind", case.server, password=case.password)
    after = picture(case.server)

    assert case.password_works()
    assert not case.key_works(product.private(pair))
    assert case.session.lives()
    assert changed(before, after) == case.state
    assert methods(task) == {("password", "logged_in")} | ({("key", "refused")} if case.kind else set())
    assert product.server(case.server)["keypair"] is None
    assert product.fails("not_bound", "unbind", case.server, password=case.password)["server_state"] == "as_before"


@every(MAY_SUDO)
def test_password_login_goes_on_and_off_and_says_which(case, product):
    pair = bound(product, case)
    closed = picture(case.server)

    def status():
        told = product.run("password-login-status", case.server, **case.given)
        assert told["status"] == "unchanged", told
        return told["evidence"]["logins"][case.login]

    assert status() == "off"
    task = product.succeeds("password-login-enable", case.server, **case.given)
    assert methods(task) == {("password", "logged_in" if case.given else "password_offered")}
    assert case.password_works()
    assert case.key_works(product.private(pair))
    assert status() == "on"
    assert product.run("password-login-enable", case.server, **case.given)["status"] == "unchanged"

    off = {**case.given, "accept_lockout": ["root"]}
    task = product.succeeds("password-login-disable", case.server, **off)
    assert methods(task) == {("key", "logged_in"), ("password", "refused")}
    assert not case.password_works()
    assert case.key_works(product.private(pair))
    assert status() == "off"
    assert product.run("password-login-disable", case.server, **off)["status"] == "unchanged"
    assert case.session.lives()
    assert changed(closed, picture(case.server)) <= case.state


@every(KINDS)
def test_check_logs_in_with_the_bound_key_and_changes_nothing(case, product):
    bound(product, case)
    before = picture(case.server)
    task = product.run("check", case.server, **case.given)
    assert (task["status"], task["server_state"]) == ("unchanged", "as_asked"), task
    assert methods(task) == {("key", "logged_in")}
    assert changed(before, picture(case.server)) == set()
    assert product.server(case.server)["password_login"] == ("on" if case.kind == "no sudo" else "off")
