"""`kps server check` as a doctor, and --plan: on real servers. The whole of what it can name is planted by `make causes`."""

import stat
import subprocess
import tempfile

import pytest

from controller.demo.fleet import Login
from tests.drills.plants import ALONE, HEALTHY, PLANTS, Case, case, labelled
from tests.fleet import judge
from tests.fleet.causes import install_key
from tests.fleet.looks import changed, picture

DEPLOY = Login("deploy", "walk the dog")
SEEN_FIRST = (
    "password locked, no PAM", "shell nologin", "DenyUsers", "file of root, closed", "commented out", "forced command before it",
    "list of revoked keys gone", "link into /tmp", "edit not yet read", "access.conf", "no line in shadow", "keys from a program",
)  # fmt: skip
NO_ALARM = ("home 2775, private group", "a link to root's file", "in the second file, the first closed", "reloaded twice")


def named(plants, names):
    found = [plant for plant in plants if plant.name in names]
    assert len(found) == len(names)
    return [pytest.param(plant, id=plant.name.replace(" ", "-")) for plant in found]


def planted(make_server, product, plant):
    made = case(plant, lambda spec: make_server(logins=spec.logins, tree=spec.tree), judge.new_key_pair)
    plant.sow(made)
    made.settle()
    product.add(made.server)
    return made


def check(product, made, **more):
    given = {"identity": made.private, "password": made.server.root_password, "password_of": "root"}
    return product.run("check", made.server, login=made.login, **given | more)


def codes(task):
    return [one["code"] for one in task["evidence"].get("findings", [])]


def mode_and_owner(server, path):
    mode, owner = server.run(["stat", "-c", "%f %U", path]).stdout.split()
    return stat.S_IMODE(int(mode, 16)), owner


@pytest.mark.parametrize("plant", named(PLANTS, SEEN_FIRST))
def test_what_keeps_a_key_out_is_named_first(product, make_server, plant):
    task = check(product, planted(make_server, product, plant))
    assert codes(task)[0] in plant.codes, task
    assert task["status"] == ("unchanged" if plant.warns else "failed")
    assert all(one["repair"] and one["message"] for one in task["evidence"]["findings"])


@pytest.mark.parametrize("state", named(HEALTHY, NO_ALARM))
def test_a_login_that_works_raises_no_alarm(product, make_server, state):
    made = planted(make_server, product, state)
    task = check(product, made)
    assert (task["status"], codes(task)) == ("unchanged", []), task
    assert judge.key_login_works(made.server, made.login, made.private)


def test_a_file_of_very_many_odd_lines_is_told_of_as_far_as_one_can_read(product, make_server):
    server = make_server(logins=(DEPLOY,))
    _, public = judge.new_key_pair()
    install_key(server, "\n".join([f"# {public}"] * 100), "deploy")
    product.add(server)
    task = product.run("check", server, login="deploy", public_key=public, password=server.root_password, password_of="root")
    assert (task["cause"], set(codes(task))) == ("key_refused", {"line_commented_out"})
    assert 10 < len(codes(task)) < 100


def test_a_check_changes_nothing(product, make_server):
    made = planted(make_server, product, next(plant for plant in PLANTS if plant.name == "file of root, closed"))
    before = picture(made.server)
    check(product, made)
    assert changed(before, picture(made.server)) == set()


def test_a_public_key_is_enough_to_ask_about(product, make_server):
    server = make_server(logins=(DEPLOY,))
    _, public = judge.new_key_pair()
    product.add(server)
    task = product.run("check", server, login="deploy", public_key=public, password=server.root_password, password_of="root")
    assert (task["cause"], codes(task)) == ("key_refused", ["keys_file_missing"])
    install_key(server, public, "deploy")
    task = product.run("check", server, login="deploy", public_key=public, password=server.root_password, password_of="root")
    assert task["proof"] == [{"way": "key", "login": "deploy", "method": "accepted"}]
    server.run(["usermod", "-s", "/usr/sbin/nologin", "deploy"])
    task = product.run("check", server, login="deploy", public_key=public, password=server.root_password, password_of="root")
    assert (task["cause"], codes(task)) == ("session_disturbed", ["shell_ends_at_once"])


# -- repair ------------------------------------------------------------------------------------------------------------


def test_a_repair_gives_the_login_its_keys_back(product, make_server):
    server = make_server(logins=(DEPLOY,))
    private, public = judge.new_key_pair()
    install_key(server, public, "deploy")
    server.run(["sh", "-c", "chown -R root:root /home/deploy/.ssh; chmod 777 /home/deploy/.ssh"])
    product.add(server)
    given = {"identity": private, "password": server.root_password, "password_of": "root"}
    task = product.succeeds("check", server, login="deploy", repair=True, **given)
    assert task["proof"] == [{"way": "key", "login": "deploy", "method": "logged_in"}]
    uid, gid = server.run(["sh", "-c", "id -u deploy; id -g deploy"]).stdout.split()
    assert f"mended: /home/deploy/.ssh 0:0 -> {uid}:{gid}, /home/deploy/.ssh 0777 -> 0755" in task["message"]
    assert mode_and_owner(server, "/home/deploy/.ssh") == (0o755, "deploy")
    assert mode_and_owner(server, "/home/deploy/.ssh/authorized_keys") == (0o600, "deploy")
    assert judge.key_login_works(server, "deploy", private)
    assert product.run("check", server, login="deploy", repair=True, **given)["status"] == "unchanged"


def test_a_repair_that_lets_nobody_in_is_taken_back(product, make_server):
    server = make_server(logins=(DEPLOY,))
    private, public = judge.new_key_pair()
    install_key(server, f"# {public}", "deploy")
    server.run(["sh", "-c", "chown root:bin /home/deploy/.ssh/authorized_keys; chmod 666 /home/deploy/.ssh/authorized_keys"])
    product.add(server)
    before = picture(server)
    given = {"identity": private, "password": server.root_password, "password_of": "root"}
    task = product.fails("key_refused", "check", server, login="deploy", repair=True, **given)
    assert task["server_state"] == "reverted"
    assert codes(task)[:2] == ["path_writable", "line_commented_out"]
    assert task["message"].endswith(task["evidence"]["findings"][0]["message"])
    assert "mended" not in task["message"]
    assert changed(before, picture(server)) <= {"/var/lib/kps", "/var/lib/kps/state.json"}


def test_a_repair_gives_away_nothing_that_holds_more_than_keys(product, make_server):
    server = make_server(logins=(DEPLOY,))
    private, public = judge.new_key_pair()
    server.run(["install", "-d", "-o", "deploy", "/home/deploy/.ssh"])
    # Root's own file, in a directory that is the login's: it may be moved to any name there.
    server.write("/home/deploy/.ssh/authorized_keys", f"{public}\nroot's own notes\n", 0o600, "root:root")
    product.add(server)
    given = {"identity": private, "password": server.root_password, "password_of": "root"}
    task = product.fails("path_unsafe", "check", server, login="deploy", repair=True, **given)
    assert task["server_state"] == "reverted"
    assert mode_and_owner(server, "/home/deploy/.ssh/authorized_keys") == (0o600, "root")


# SELinux is played (tests/drills/plants.py): a script says what its policy wants, and no kernel obeys the label, a real attribute
# of the file.


def shown_label(server, path):
    return server.run(
        ["python3", "-c", f"import os; print(os.getxattr('{path}', 'security.selinux').decode().rstrip(chr(0)))"]
    ).stdout


def test_a_repair_gives_what_is_the_login_s_the_label_of_the_policy_selinux_played(product, make_server):
    server = make_server(logins=(DEPLOY,))
    private, public = judge.new_key_pair()
    made = Case(server, private, public)
    made.install()
    labelled(made)
    labelled(made, "system_u:object_r:var_t:s0", "/home/deploy/.ssh")
    labelled(made, "system_u:object_r:var_t:s0", "/home/deploy")  # the policy of the script has no word on a home
    server.run(["chmod", "777", "/home/deploy/.ssh"])
    product.add(server)
    task = check(product, made, repair=True)
    assert task["status"] == "succeeded", task
    assert f"{made.keys} unconfined_u:object_r:user_home_t:s0 -> unconfined_u:object_r:ssh_home_t:s0" in task["message"]
    assert shown_label(server, made.keys) == "unconfined_u:object_r:ssh_home_t:s0\n"
    assert shown_label(server, "/home/deploy/.ssh") == "system_u:object_r:ssh_home_t:s0\n"
    assert shown_label(server, "/home/deploy") == "system_u:object_r:var_t:s0\n"
    assert judge.key_login_works(server, "deploy", private)


def test_a_label_that_was_not_the_reason_is_put_back_selinux_played(product, make_server):
    plant = next(plant for plant in ALONE if plant.codes == ("path_label",))
    made = planted(make_server, product, plant)
    assert not judge.key_login_works(made.server, "deploy", made.private, plant.source)
    task = check(product, made, repair=True)
    assert (task["cause"], task["server_state"], codes(task)) == ("key_refused", "reverted", ["path_label"])
    assert task["evidence"]["findings"][0]["seen"] == {
        "label": "unconfined_u:object_r:user_home_t:s0", "wanted": "unconfined_u:object_r:ssh_home_t:s0",
    }  # fmt: skip
    assert shown_label(made.server, made.keys) == "unconfined_u:object_r:user_home_t:s0\n"


# -- failed tasks ------------------------------------------------------------------------------------------------------


def test_a_failed_bind_says_why_the_key_did_not_get_in(product, make_server):
    server = make_server(sshd_config_end="Match User deploy\n  ForceCommand /bin/echo welcome\n", logins=(DEPLOY,))
    product.add(server)
    task = product.fails(
        "new_key_refused", "bind", server, login="deploy", keypair=product.keypair(), keep_password_login=True,
        password=server.root_password, password_of="root",
    )  # fmt: skip
    assert (task["server_state"], codes(task)) == ("reverted", ["force_command"])


def test_a_bind_that_is_refused_says_what_else_is_wrong(product, make_server):
    server = make_server(logins=(DEPLOY,))
    install_key(server, "# none", "deploy")
    server.run(["sh", "-c", "chmod 777 /home/deploy/.ssh; usermod -s /usr/sbin/nologin deploy"])
    product.add(server)
    task = product.fails(
        "login_not_allowed", "bind", server, login="deploy", keypair=product.keypair(), password=server.root_password,
        password_of="root",
    )  # fmt: skip
    assert sorted(codes(task)) == ["path_writable", "shell_ends_at_once"]
    assert "login_not_allowed" in {one["cause"] for one in task["evidence"]["findings"]}


def test_a_bind_that_pam_turns_away_says_so(product, make_server):
    server = make_server(logins=(DEPLOY,))
    made = Case(server, *judge.new_key_pair())
    next(plant for plant in PLANTS if plant.name == "a list of logins").sow(made)
    product.add(server)
    task = product.fails(
        "connection_closed", "bind", server, login="deploy", keypair=product.keypair(), keep_password_login=True,
        password=server.root_password, password_of="root",
    )  # fmt: skip
    assert (task["server_state"], codes(task)) == ("reverted", ["pam_rule"])
    assert "/etc/pam.d/sshd:1 pam_listfile" in task["evidence"]["findings"][0]["message"]


def test_where_nothing_gets_in_it_is_told_what_can_be_seen_from_outside(product, make_server):
    server = make_server(sshd_config_top="PubkeyAuthentication no\n")
    private, _ = judge.new_key_pair()
    product.add(server)
    task = product.run("check", server, identity=private)
    assert codes(task) == ["keys_off"]
    assert task["evidence"]["outside"] == {"offers": ["password"], "host_key": "as on record"}
    assert "--password-stdin" in task["evidence"]["findings"][0]["message"]


# -- plan --------------------------------------------------------------------------------------------------------------


def test_a_plan_shows_what_then_happens_and_writes_nothing(product, server):
    private, public = judge.new_key_pair()
    install_key(server, public)
    product.add(server)
    keypair, before = product.keypair(), picture(server)
    texts = {path: server.read(path) for path in ("/root/.ssh/authorized_keys", "/etc/ssh/sshd_config")}
    task = product.run("bind", server, keypair=keypair, identity=private, plan=True)
    assert changed(before, picture(server)) == set()
    assert (task["status"], task["server_state"], task["retryable"]) == ("unchanged", "as_before", False)
    assert product.server(server)["bindings"] == []
    plan = task["evidence"]["plan"]
    assert [change["path"] for change in plan["changes"]] == list(texts)
    assert plan["locked_out"] == []
    assert "sshd" in plan["reload"]
    assert plan["armed"]
    product.succeeds("bind", server, keypair=keypair, identity=private)
    for change in plan["changes"]:
        assert patched(texts[change["path"]], change["diff"]) == server.read(change["path"])
    for operation, more in (
        ("replace", {"keypair": product.keypair()}),
        ("unbind", {}),
        ("password-login-enable", {"force": True}),
    ):
        before = picture(server)
        planned = product.run(operation, server, plan=True, **more)
        assert planned["status"] == "unchanged", planned
        assert planned["evidence"]["plan"]["changes"]
        assert changed(before, picture(server)) == set()
    assert judge.key_login_works(server, "root", product.private(keypair))


def patched(text, diff):
    """What patch(1) makes of a text."""
    with tempfile.NamedTemporaryFile("w") as file, tempfile.NamedTemporaryFile("w") as old:
        file.write("\n".join(diff) + "\n")
        old.write(text)
        file.flush()
        old.flush()
        command = ["patch", "--silent", "--output=-", old.name, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("plan", [True, False], ids=["planned", "done"])
def test_a_plan_is_refused_as_the_operation_is(product, make_server, plan):
    server = make_server(logins=(DEPLOY,))
    private, public = judge.new_key_pair()
    install_key(server, public)
    product.add(server)
    before = picture(server)
    task = product.fails("others_locked_out", "bind", server, keypair=product.keypair(), identity=private, plan=plan)
    assert task["evidence"]["logins"] == ["deploy"]
    assert task["retryable"] is not plan
    assert changed(before, picture(server)) == set()
