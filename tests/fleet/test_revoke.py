"""A key in wrong hands, on real servers: taken out for good where that is ours to do, named where it is not.

Judged by OpenSSH's client. Another way in is proved before. What the key had opened is told, and ended where that is asked for.
"""

import contextlib
import shlex
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.causes import Gate, agents, install_key
from tests.fleet.looks import begun, changed, picture, until
from tests.fleet.product import Product, methods
from tests.fleet.test_causes_reaching import with_log
from tests.fleet.test_penalties import greeted, penalties

TREES = ("host", "bullseye", "trixie")
STATE = {"/var/lib/kps", "/var/lib/kps/state.json"}
KEYS = "/root/.ssh/authorized_keys"
WORD = "tuesday"
every_version = pytest.mark.parametrize("tree", TREES)


def add(product, server, login="root"):
    product.add(server, login)
    return server


def works(server, key, login="root"):
    return judge.key_login_works(server, login, key)


def bound(product, server, **request):
    """Bind a key pair whose private half gets out."""
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True, **request)
    return pair, product.private(pair)


def spellings(line):
    """Four spellings of one RSA key, each of which sshd takes; no text search for one finds another."""
    _, blob, *_ = line.split()
    return [
        f'no-pty,environment="A=b # {blob[:20]}"   {line}',
        f"rsa-sha2-512 {blob} under another name",
        f"\t ssh-rsa {blob[:40]}\x0b{blob[40:]} with white space in it",
        line,
    ]


@pytest.mark.hazard("H2", "H3")
@every_version
@pytest.mark.parametrize("operation", ["replace", "unbind"])
def test_a_stolen_key_is_gone_from_every_file_in_every_spelling(make_server, product, tree, operation):
    server = add(product, make_server(tree=tree))
    private, public = judge.new_key_pair("rsa", 2048)
    other_private, other = judge.new_key_pair()
    pair = product.ask("POST", "/keypairs/import", body={"name": f"stolen-{tree}-{operation}", "private_key": private})
    server.write(KEYS, f"# ours\n{other}\r\n" + "\n".join(spellings(public)[:2]) + "\n", 0o600)
    product.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    extra = "Match Address 203.0.113.0/24\n    AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/more_keys\n"
    server.write("/etc/ssh/sshd_config", server.read("/etc/ssh/sshd_config") + extra)
    server.write("/root/.ssh/authorized_keys2", "\n".join(spellings(public)[2:]) + "\n", 0o600)
    server.write("/etc/ssh/more_keys", f"cert-authority {public}\n", 0o644)
    server.reload()
    assert works(server, private)
    before = picture(server)

    new = product.keypair()
    how = {"keypair": new} if operation == "replace" else {"password": server.root_password}
    task = product.succeeds(operation, server, revoke=True, **how)

    assert not works(server, private)
    assert works(server, other_private)
    after = picture(server)
    files = {KEYS, "/root/.ssh/authorized_keys2", "/etc/ssh/more_keys"}
    assert files <= changed(before, after) <= files | STATE
    assert {path: after[path][1:4] for path in files} == {path: before[path][1:4] for path in files}
    heirs = f"\n{new['public_key']}\n" if operation == "replace" else "\n"
    assert after[KEYS][4].startswith(f"# ours\n{other}\r\n")
    assert [line for line in after[KEYS][4].split("\n")[2:] if line and new["public_key"] not in line] == []
    assert (new["public_key"] in after[KEYS][4]) == (len(heirs) > 1)
    assert after["/etc/ssh/more_keys"][4] == ""
    assert sorted(task["evidence"]["removed"]) == sorted(f"root: {path}" for path in files)
    assert ("key", "refused") in methods(task)


@every_version
def test_a_key_that_stands_in_the_second_file_only_is_gone(make_server, product, tree):
    server = add(product, make_server(tree=tree))
    _, private = bound(product, server)
    server.write("/root/.ssh/authorized_keys2", server.read(KEYS), 0o600)
    server.write(KEYS, "")
    assert works(server, private)
    product.succeeds("unbind", server, revoke=True, password=server.root_password)
    assert not works(server, private)
    assert server.read("/root/.ssh/authorized_keys2") == ""


def certificate(directory, authority, principal):
    """A new key with a certificate from this authority; returns the path of its private half."""
    path = Path(directory, "minted")
    Path(directory, "authority").write_text(authority)
    Path(directory, "authority").chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    sign = ["ssh-keygen", "-q", "-s", f"{directory}/authority", "-I", "minted", "-n", principal, f"{path}.pub"]
    subprocess.run(sign, check=True)
    return path


def minted_gets_in(server, path):
    options = [
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "BatchMode=yes",
    ]
    words = [word for option in options for word in ("-o", option)]
    command = ["ssh", "-F", "none", *words, "-i", str(path), "-p", str(server.port), f"root@{server.host}", "echo", "in"]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout == "in\n"


@every_version
def test_a_stolen_key_that_makes_certificates_makes_no_good_ones_any_more(make_server, product, tree, tmp_path):
    server = add(product, make_server(tree=tree))
    pair, private = bound(product, server)
    server.write(KEYS, f"{server.read(KEYS)}cert-authority {pair['public_key']}\n", 0o600)
    minted = certificate(tmp_path, private, "root")
    assert minted_gets_in(server, minted)
    new = product.keypair()
    product.succeeds("replace", server, keypair=new, revoke=True)
    assert not minted_gets_in(server, minted)
    assert not works(server, private)
    assert works(server, product.private(new))
    assert server.read(KEYS) == new["public_key"] + "\n"


@pytest.mark.hazard("H3")
@pytest.mark.cause("key_remains")
@every_version
def test_a_trusted_authority_that_holds_the_key_is_named(make_server, product, told, tree, tmp_path):
    server = add(product, make_server(tree=tree))
    pair, private = bound(product, server)
    server.write("/etc/ssh/ca.pub", f"# who makes certificates\n{pair['public_key']}\n", 0o644)
    config = server.read("/etc/ssh/sshd_config")
    server.write("/etc/ssh/sshd_config", "TrustedUserCAKeys /etc/ssh/ca.pub\n" + config)
    server.reload()
    minted = certificate(tmp_path, private, "root")
    assert minted_gets_in(server, minted)
    new = product.keypair()
    task = told(product.run("replace", server, keypair=new, revoke=True), "partial")
    assert "/etc/ssh/ca.pub:2" in task["message"]
    assert not works(server, private)
    assert works(server, product.private(new))
    assert minted_gets_in(server, minted)

    server.write("/etc/ssh/ca.pub", "")
    again = product.retry(task)
    assert again["status"] in ("succeeded", "unchanged"), again
    assert not minted_gets_in(server, minted)
    assert ("key", "refused") in methods(again)
    assert product.server(server)["keypair"] == new["name"]


@pytest.mark.hazard("H3")
@pytest.mark.cause("old_key_still_accepted")
@every_version
@pytest.mark.parametrize("operation", ["replace", "unbind"])
def test_a_command_that_hands_the_key_out_is_named_and_nothing_comes_back(make_server, product, told, tree, operation):
    server = add(product, make_server(tree=tree))
    pair, private = bound(product, server)
    server.write("/etc/ssh/hand-out", f"#!/bin/sh\necho '{pair['public_key']}'\n", 0o755)
    top = "AuthorizedKeysCommand /etc/ssh/hand-out %u\nAuthorizedKeysCommandUser nobody\n"
    server.write("/etc/ssh/sshd_config", top + server.read("/etc/ssh/sshd_config"))
    server.reload()
    new = product.keypair()
    how = {"keypair": new} if operation == "replace" else {"password": server.root_password}
    task = told(product.run(operation, server, revoke=True, **how), "partial")
    assert "AuthorizedKeysCommand /etc/ssh/hand-out %u is asked for keys (/etc/ssh/sshd_config:1)" in task["evidence"]["remains"]
    assert pair["public_key"] not in server.read(KEYS)
    assert works(server, private)  # as the task says
    if operation == "replace":
        assert works(server, product.private(new))

    server.write("/etc/ssh/hand-out", "#!/bin/sh\n", 0o755)
    assert not works(server, private)
    again = product.retry(task, **({} if operation == "replace" else {"password": server.root_password}))
    assert again["status"] in ("succeeded", "unchanged"), again
    assert any("AuthorizedKeysCommand" in note for note in again["evidence"]["notes"])
    assert "mind: AuthorizedKeysCommand" in again["message"]


@pytest.mark.parametrize("made", ["mkdir", "mkfifo", "ln -s /etc/shadow", "ln /root/.profile"])
def test_a_second_file_that_cannot_be_read_does_not_save_the_key_in_the_first(make_server, product, made):
    server = add(product, make_server())
    _, private = bound(product, server)
    server.run(["sh", "-c", f"{made} /root/.ssh/authorized_keys2"])
    new = product.keypair()
    task = product.succeeds("replace", server, keypair=new, revoke=True)
    assert not works(server, private)
    assert works(server, product.private(new))
    assert any("/root/.ssh/authorized_keys2 could not be read" in note for note in task["evidence"]["notes"])


def test_what_a_revoke_would_do_is_shown_and_nothing_written(make_server, product):
    server = add(product, with_others(make_server))
    pair, private = bound(product, server)
    install_key(server, pair["public_key"], "bob")
    before = picture(server)
    task = product.run("replace", server, keypair=product.keypair(), revoke=True, plan=True)
    assert task["status"] == "unchanged", task
    removed = [each for each in task["evidence"]["plan"]["changes"] if any(line.startswith("-ssh-") for line in each["diff"])]
    assert [each["path"] for each in removed] == [KEYS]
    assert task["evidence"]["remains"] == ["bob: /home/bob/.ssh/authorized_keys:1 holds it"]
    assert changed(before, picture(server)) == set()
    assert works(server, private)


def with_others(make_server, **more):
    return make_server(logins=(Login("alice", WORD), Login("bob", WORD)), **more)


@pytest.mark.cause("key_remains")
def test_another_login_that_holds_the_key_is_named_and_can_be_rid_of_it(make_server, product, told):
    server = add(product, with_others(make_server))
    pair, private = bound(product, server)
    install_key(server, pair["public_key"], "bob")
    new = product.keypair()
    task = told(product.run("replace", server, keypair=new, revoke=True), "partial")
    assert "bob: /home/bob/.ssh/authorized_keys:1 holds it" in task["evidence"]["remains"]
    assert works(server, private, "bob")
    assert not works(server, private)
    again = product.succeeds("replace", server, keypair=new, revoke=True, everywhere=True)
    assert not works(server, private, "bob")
    assert works(server, product.private(new))
    assert again["evidence"]["removed"] == ["bob: /home/bob/.ssh/authorized_keys"]


@pytest.mark.cause("others_locked_out")
def test_a_login_that_has_nothing_but_the_stolen_key_is_not_locked_out_unasked(make_server, product, told):
    server = add(
        product,
        with_others(
            make_server, sshd_config_end="Match User bob\n    PasswordAuthentication no\n    KbdInteractiveAuthentication no\n"
        ),
    )
    pair, private = bound(product, server)
    install_key(server, pair["public_key"], "bob")
    before = picture(server)
    new = product.keypair()
    task = told(product.run("replace", server, keypair=new, revoke=True, everywhere=True), "as_before")
    assert task["evidence"]["logins"] == ["bob"]
    assert changed(before, picture(server)) == set()
    product.succeeds("replace", server, keypair=new, revoke=True, everywhere=True, accept_lockout=["bob"])
    assert not works(server, private, "bob")


def test_a_login_that_shares_the_home_loses_the_key_too(make_server, product):
    server = make_server(logins=(Login("alice", WORD),))
    server.write(
        "/etc/passwd",
        server.read("/etc/passwd") + "twin:x:1000:1000::/home/alice:/bin/bash\ndouble:x:1000:1000::/home/double:/bin/bash\n",
    )
    server.write("/etc/shadow", server.read("/etc/shadow") + "twin:*:19000:0:99999:7:::\ndouble:*:19000:0:99999:7:::\n")
    add(product, server, "alice")
    pair = product.keypair()
    product.succeeds("bind", server, keypair=pair, password=WORD, keep_password_login=True)
    private = product.private(pair)
    server.run(["install", "-d", "-m", "755", "-o", "alice", "-g", "alice", "/home/double", "/home/double/.ssh"])
    server.write("/home/double/.ssh/authorized_keys", pair["public_key"] + "\n", 0o600, "alice:alice")
    assert works(server, private, "twin")
    assert works(server, private, "double")
    new = product.keypair()
    # Without root the files of others are out of reach, and that is told.
    task = product.run("replace", server, keypair=new, revoke=True, accept_lockout=["twin", "double"], identity=private)
    assert task["server_state"] == "as_asked", task["evidence"]
    for login in ("alice", "twin", "double"):
        assert not works(server, private, login), login
    assert works(server, product.private(new), "alice")


# -- another way in is proved before -----------------------------------------------------------------------------------------


@pytest.mark.cause("proof_too_weak")
def test_a_password_that_nobody_gave_is_no_way_in_to_rely_on(make_server, product, told):
    server = add(product, make_server())
    _, private = bound(product, server)
    before = picture(server)
    told(product.run("unbind", server, revoke=True), "as_before")
    assert works(server, private)
    assert changed(before, picture(server)) == set()


@every_version
def test_another_key_that_is_given_is_proved_and_stays(make_server, product, tree):
    server = add(product, make_server(tree=tree))
    _, private = bound(product, server)
    mine, public = judge.new_key_pair()
    server.write(KEYS, f"{server.read(KEYS)}{public}\n", 0o600)
    task = product.succeeds("unbind", server, revoke=True, identity=mine)
    assert methods(task) == {("key", "logged_in"), ("key", "refused")}
    assert works(server, mine)
    assert not works(server, private)
    assert product.server(server)["keypair"] is None


@pytest.mark.cause("new_key_refused")
def test_another_key_that_does_not_get_in_leaves_the_stolen_one_where_it_is(make_server, product, told):
    server = add(product, make_server())
    _, private = bound(product, server)
    mine, _ = judge.new_key_pair()
    told(product.run("unbind", server, revoke=True, identity=mine), "reverted")
    assert works(server, private)


@pytest.mark.cause("login_not_allowed")
def test_a_new_key_that_sshd_refuses_leaves_the_stolen_one_where_it_is(make_server, product, told):
    server = add(product, make_server())
    _, private = bound(product, server)
    new = product.keypair()
    server.write("/etc/ssh/revoked", new["public_key"] + "\n", 0o644)
    server.write("/etc/ssh/sshd_config", "RevokedKeys /etc/ssh/revoked\n" + server.read("/etc/ssh/sshd_config"))
    server.reload()
    told(product.run("replace", server, keypair=new, revoke=True), "as_before")
    assert works(server, private)
    assert new["public_key"] not in server.read(KEYS)


# -- never undone -----------------------------------------------------------------------------------------------------------


@every_version
@pytest.mark.parametrize("lost", ["the controller", "the agent", "the session"])
def test_whatever_is_lost_after_the_removal_the_key_stays_away(make_server, tmp_path, tree, lost):
    server = make_server(tree=tree)
    with Product(tmp_path / "home", deadline_seconds=8, connect_timeout_seconds=5) as product:
        add(product, server)
        pair, private = bound(product, server)
        new = product.keypair()
        gate = Gate(server, f"! grep -q '{pair['public_key'].split()[1]}' {KEYS}")
        (task_id,) = product.begin("replace", server, keypair=new, revoke=True)
        gate.await_login()
        if lost == "the controller":
            product.end(signal.SIGKILL)
        elif lost == "the agent":
            for pid in [pid for pid, title in server.processes().items() if "-I -S -E -B" in title]:
                subprocess.run(["kill", "-9", str(pid)], check=False)
        else:
            titles = ("sshd: root@", "sshd-session: root@")
            first = min((pid for pid, title in server.processes().items() if title.startswith(titles)), key=begun)
            subprocess.run(["kill", "-9", str(first)], check=True)
        until(lambda: agents(server) == [], what="an agent goes on living")
        gate.open()
        assert not works(server, private)
        if lost != "the controller":
            task = product.ended(task_id)
            assert task["status"] == "failed"
            assert task["server_state"] == "partial", task
        else:
            product.serve()
            until(lambda: product.task(task_id)["server_state"] == "partial", seconds=120)
        assert not works(server, private)
        assert works(server, product.private(new))
        assert product.server(server)["keypair"] == new["name"]
        again = product.run("replace", server, keypair=new, revoke=True)
        assert again["server_state"] == "as_asked", again
        assert ("key", "refused") in methods(again)
        assert product.server(server)["after_reset"] is None
        assert not works(server, private)
        assert not server.exists("/var/lib/kps/journal.revoking")


# -- sessions ---------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def master(server, private, login="root"):
    """An OpenSSH client that keeps a connection open for others to share; yields what runs a command through it."""
    with tempfile.TemporaryDirectory() as directory:
        identity = Path(directory, "identity")
        identity.touch(0o600)
        identity.write_text(private)
        socket = f"{directory}/mux"
        options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
        ]
        words = ["ssh", "-F", "none", *[word for option in options for word in ("-o", option)], "-p", str(server.port)]
        place = f"{login}@{server.host}"
        subprocess.run([*words, "-i", str(identity), "-M", "-S", socket, "-o", "ControlPersist=600", "-fN", place], check=True)

        def through(command):
            shared = [*words, "-i", "/dev/null", "-S", socket, place, command]
            return subprocess.run(shared, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20).stdout

        try:
            yield through
        finally:
            subprocess.run([*words, "-S", socket, "-O", "exit", place], capture_output=True)


@contextlib.contextmanager
def logging(server):
    """A small syslogd: what sshd says ends in /var/log/auth.log."""
    script = (
        "import os,socket;p='/dev/log';os.path.lexists(p) and os.unlink(p);s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM);"
        "s.bind(p);os.chmod(p,0o666);f=open('/var/log/auth.log','a',1)\n"
        "while 1:f.write('Nov 26 00:00:00 web '+s.recv(9999).decode().partition('>')[2].split(' ',3)[-1].rstrip('\\0\\n')+'\\n')"
    )
    way = server._way_in()
    process = subprocess.Popen([*way, "python3", "-c", script], stdin=subprocess.DEVNULL)
    try:
        until(lambda: server.exists("/var/log/auth.log"))
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.hazard("H4")
@every_version
@pytest.mark.parametrize("login", ["root", "deploy"])
def test_a_shared_connection_is_told_and_ended_when_that_is_asked(make_server, product, tree, login):
    server = make_server(tree=tree, logins=(Login("deploy", WORD, sudo="nopasswd"), Login("other", WORD)))
    add(product, server, login)
    pair = product.keypair()
    password = server.passwords[login]
    product.succeeds("bind", server, keypair=pair, password=password, keep_password_login=True)
    second = product.keypair()
    with master(server, product.private(pair), login) as through, judge.OpenSession(server, "other", password=WORD) as others:
        assert through("echo there") == "there\n"
        task = product.succeeds("replace", server, keypair=second)
        assert through("echo there") == "there\n"  # the key is gone, and still a shell opens
        assert [(each["used"], each["ended"]) for each in task["evidence"]["sessions"]] == [("maybe", False)]
        assert "1 live session" in task["message"]

        third = product.keypair()
        planned = product.run("replace", server, keypair=third, revoke=True, end_sessions=True, plan=True)
        assert "1 live session" in planned["message"]
        assert planned["evidence"]["plan"]["for_good"].endswith("the sessions that the key has opened are ended")
        task = product.succeeds("replace", server, keypair=third, revoke=True, end_sessions=True)
        assert [each["ended"] for each in task["evidence"]["sessions"]] == [True]
        assert through("echo there") == ""
        # Ours has told how it ended, and sshd may still be about to see it go.
        until(lambda: not any(title.startswith((f"sshd: {login}@", f"sshd-session: {login}@")) for title in titles(server)))
        assert others.lives()
    assert works(server, product.private(third), login)


def titles(server):
    return server.processes().values()


@every_version
def test_a_log_tells_which_sessions_the_key_opened_but_clears_none_of_the_others(make_server, product, tree):
    server = add(product, make_server(tree=tree))
    with logging(server):
        _, private = bound(product, server)
        mine, public = judge.new_key_pair()
        server.write(KEYS, f"{server.read(KEYS)}{public}\n", 0o600)
        by_mine = judge.OpenSession(server, "root", private_key=mine)
        by_word = judge.OpenSession(server, "root", password=server.root_password)
        by_stolen = judge.OpenSession(server, "root", private_key=private)
        with by_mine, by_word, by_stolen:
            task = product.succeeds("replace", server, keypair=product.keypair(), revoke=True, end_sessions=True)
            told = sorted((each["used"], each["ended"]) for each in task["evidence"]["sessions"])
            assert told == [("maybe", True), ("maybe", True), ("yes", True)]
            assert not any(each.lives() for each in (by_stolen, by_mine, by_word))


@every_version
def test_what_runs_in_the_background_of_a_session_ends_with_it(make_server, product, tree):
    server = add(product, make_server(tree=tree))
    _, private = bound(product, server)
    with master(server, private) as through:
        loop = "while :; do sleep 0.1; done"  # of a shell that stays, so that it is still of the session
        command = f"sh -c {shlex.quote(loop)} evil & exec sh -c {shlex.quote(loop)} evil"
        threading.Thread(target=lambda: through(command), daemon=True).start()
        until(lambda: sum("evil" in title for title in server.processes().values()) >= 2)
        product.succeeds("replace", server, keypair=product.keypair(), revoke=True, end_sessions=True)
        assert not [title for title in server.processes().values() if "evil" in title]


@pytest.mark.hazard("H4")
def test_a_session_that_used_the_key_is_told_by_an_ordinary_unbind(make_server, product):
    server = add(product, make_server())
    _, private = bound(product, server)
    with judge.OpenSession(server, "root", private_key=private) as session:
        name = server.name
        done = product.kps("unbind", name, "--password-stdin", given=server.root_password + "\n")
        assert "1 live session" in done.stdout.replace("\n", " ")
        assert session.lives()


@pytest.mark.hazard("H14")
def test_ten_in_a_row_meet_no_penalty(make_server, product):
    server = add(product, make_server(tree="trixie"))
    with_log(server)
    bound(product, server)
    at_first = greeted(server)
    for _ in range(10):
        product.succeeds("replace", server, keypair=product.keypair(), revoke=True)
    assert penalties(server) == (at_first, [])
