"""Emergency doors that are not opened, extended or closed, each for a cause of its own; and nothing is changed by that."""

import pytest
from passlib.hash import sha512_crypt

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.cable import Cable
from tests.fleet.causes import install_key, mount, unchanged
from tests.fleet.doors import CONFIG, OFF, STATE, Doors, lets_in, nothing_left, until_gone
from tests.fleet.looks import changed, picture

ALICE = (Login("alice", "pw-alice"), Login("locked"))


@pytest.fixture
def doors(make_server):
    """Orders for the doors of a server that takes no passwords."""
    return Doors(make_server(logins=ALICE, sshd_config_top=OFF))


@pytest.fixture
def is_told(told):
    """is_told(doors, order) checks that an order is refused for the test's cause, and that nothing is changed by it."""

    def check(doors, order):
        before = picture(doors.server)
        task = told(order())
        assert changed(before, picture(doors.server)) <= {STATE, f"{STATE}/state.json", "/var/lib"}
        return task

    return check


@pytest.mark.cause("login_is_pattern")
@pytest.mark.parametrize("login", ["al*", "alice,bob", "!bob", "ali?e", "alice bob", "al#ice"])
def test_a_login_that_is_a_pattern(doors, is_told, login):
    assert "pattern" in is_told(doors, lambda: doors.open(login))["message"]


@pytest.mark.cause("no_usable_password")
def test_a_login_without_a_password(doors, is_told):
    assert "it is locked" in is_told(doors, lambda: doors.open("locked"))["message"]


@pytest.mark.cause("door_needless")
def test_a_login_that_passwords_get_in_already(make_server, is_told):
    doors = Doors(make_server(logins=ALICE))
    is_told(doors, lambda: doors.open("alice"))


WIDER = {
    "Match Address 127.0.0.0/8\n": "127.0.0.0/24",
    "Match User alice\n": "127.0.0.0/24",
    "Match LocalPort 22\n": "203.0.113.0/24",
    "Match Group alice Address 127.0.0.1,10.0.0.0/8\n": "127.0.0.0/8",
}


@pytest.mark.cause("door_wider")
@pytest.mark.parametrize("header", WIDER)
def test_an_owner_s_match_that_lets_more_in(make_server, is_told, header):
    server = make_server(logins=ALICE, sshd_config_top=OFF, sshd_config_end=f"{header}    PasswordAuthentication yes\n")
    doors = Doors(server)
    task = is_told(doors, lambda: doors.open("alice", network=WIDER[header]))
    number = server.read(CONFIG).rstrip("\n").count("\n") + 1
    assert f"{CONFIG}:{number}: {header.strip()}: PasswordAuthentication yes" in task["message"]


@pytest.mark.cause("door_wider")
def test_an_owner_s_include_that_would_take_the_door_s_file_in(make_server, is_told):
    doors = Doors(make_server(logins=ALICE, sshd_config_top="Include /run/*-door\n" + OFF))
    assert f"{CONFIG}:1: it includes" in is_told(doors, lambda: doors.open("alice"))["message"]


@pytest.mark.cause("door_open")
def test_a_second_door(doors, is_told):
    assert doors.open("alice", password="pw-alice")["status"] == "succeeded"
    before = picture(doors.server)
    assert "for alice" in is_told(doors, lambda: doors.open("root"))["message"]
    assert {path for path in changed(before, picture(doors.server)) if path.startswith(STATE)} == set()
    assert lets_in(doors.server, "alice")


@pytest.mark.cause("door_open")
@pytest.mark.parametrize("wish", [{"passwords": "off"}, {"passwords": "on"}, {"passwords": "restore"}])
def test_an_order_that_changes_password_login_while_a_door_is_open(doors, is_told, wish):
    door = doors.open("alice", password="pw-alice")["door"]
    enable = ("password-login-enable", "root", {})
    is_told(doors, lambda: doors.give(*enable, **wish))
    assert doors.order("close", "alice", door)["status"] == "succeeded"
    assert doors.give(*enable, **wish)["cause"] != "door_open"


@pytest.mark.cause("door_unknown")
@pytest.mark.parametrize("what", ["close", "extend"])
def test_a_door_that_does_not_stand(doors, is_told, what):
    door = {"id": "ab" * 16, "from": None, "seconds": 60}
    assert "none is open here" in is_told(doors, lambda: doors.order(what, "alice", door))["message"]


@pytest.mark.cause("door_unwatched")
def test_a_server_without_python(make_server, is_told):
    doors = Doors(make_server(python=False, logins=ALICE, sshd_config_top=OFF))
    is_told(doors, lambda: doors.open("alice"))


@pytest.mark.cause("door_unwatched")
def test_a_server_on_which_nothing_would_close_a_door_after_a_reboot(make_server, is_told):
    """Its /run is on the disk, as in a container, and nothing runs at its boot."""
    server = make_server(logins=ALICE, sshd_config_top=OFF)
    server.run(["sh", "-c", "rm -rf /etc/rcS.d /etc/cron.d; cp -a /run /run-on-disk"])
    mount(server, "none", "/run-on-disk", "/run", "bind")
    doors = Doors(server)
    is_told(doors, lambda: doors.open("alice"))


@pytest.mark.cause("door_unwatched")
@pytest.mark.parametrize("has", ["its image's directories", "an init of another kind", "a cron"])
def test_a_container_whose_directories_of_the_boot_nothing_looks_into(make_server, is_told, has):
    """Its /run is on the disk; Debian's cron takes no start but the first for a boot there."""
    server = make_server(logins=ALICE, sshd_config_top=OFF)
    inittab = {"an init of another kind": "::sysinit:/etc/rc\n# si::sysinit:/etc/init.d/rcS\n"}.get(has, "")
    server.write("/etc/inittab", inittab)
    server.run(["sh", "-c", "mkdir -p /etc/rcS.d /etc/cron.d; cp -a /run /run-on-disk"])
    mount(server, "none", "/run-on-disk", "/run", "bind")
    if has != "a cron":
        server.run(["sh", "-c", "kill $(cat /run/crond.pid)"], check=False)
    doors = Doors(server)
    assert "reboot" in is_told(doors, lambda: doors.open("alice"))["message"]


def test_in_memory_it_is_the_reboot_that_closes_where_nothing_runs_at_boot(make_server):
    server = make_server(logins=ALICE, sshd_config_top=OFF)
    server.run(["sh", "-c", "rm /etc/inittab; kill $(cat /run/crond.pid)"], check=False)
    task = Doors(server).open("alice", password="pw-alice")
    assert (task["status"], task["evidence"]["limits"]) == (
        "succeeded",
        ["nothing here runs at boot: a reboot closes the door at once, whatever its deadline"],
    )
    assert task["evidence"]["armed"] == ["two detached processes"]
    server.reboot()
    assert not lets_in(server, "alice")


@pytest.mark.cause("door_stuck")
def test_a_door_that_sshd_cannot_be_told_to_close(doors, told):
    server = doors.server
    before = server.read(CONFIG)
    door = doors.open("alice", password="pw-alice")["door"]
    server.write(CONFIG, server.read(CONFIG) + "Pasword yes\n")
    assert "Pasword" in told(doors.order("close", "alice", door))["message"]
    # It is told: what runs is as it was, and the server goes on trying.
    server.write(CONFIG, server.read(CONFIG).replace("Pasword yes\n", ""))
    until_gone(server, 20)
    assert server.read(CONFIG) == before
    assert not lets_in(server, "alice")
    assert nothing_left(server) == []


@pytest.mark.cause("stale_generation")
@pytest.mark.parametrize("asked", ["status", "close"])
def test_an_opening_that_comes_after_somebody_was_told_that_none_stands(doors, is_told, asked):
    late = {"id": "a" * 32, "seconds": 60, "from": None}
    doors.order(asked, "alice", late, generation=8, ended=7)
    assert "too late" in is_told(doors, lambda: doors.order("open", "alice", late, generation=7))["message"]
    assert doors.order("open", "alice", late, generation=9)["status"] == "succeeded"


# -- passwords for good, where a second user has to agree to doors


@pytest.fixture
def ruled(product, make_server):
    """A server whose password login binding has closed, and whose doors need a second user; with its key pair's name."""
    server = make_server()
    product.add(server, labels={"doors-of": server.name})
    keypair = product.keypair()
    product.succeeds("bind", server, keypair=keypair, password=server.root_password)
    product.ask("PUT", "/door-rules", body={"servers": f"doors-of={server.name}", "minutes": 15})
    return server, keypair


@pytest.mark.cause("password_login_under_rule")
@pytest.mark.parametrize("how", [{}, {"revoke": True}, {"plan": True}])
def test_the_last_key_pair_that_had_closed_passwords_is_not_taken_off_alone_under_a_rule(product, ruled, told, how):
    server, _ = ruled
    with unchanged(server, password_works=False):
        task = told(product.run("unbind", server, password=server.root_password, **how))
    assert "kps replace" in task["message"]
    assert "--keep-password-login" in task["message"]
    assert product.server(server)["bindings"]


@pytest.mark.cause("password_login_under_rule")
def test_of_two_that_are_taken_off_at_once_the_second_is_the_last(product, make_server, told):
    server = make_server(logins=(Login("deploy", "walk the dog"),))
    product.add(server, labels={"doors-of": server.name})
    for login, password in (("root", server.root_password), ("deploy", "walk the dog")):
        product.succeeds("bind", server, login=login, keypair=product.keypair(), password=password, accept_lockout=["deploy"])
    product.ask("PUT", "/door-rules", body={"servers": f"doors-of={server.name}", "minutes": 15})
    ids = product.begin("unbind", server, login="deploy", accept_lockout=["deploy"])
    ids += product.begin("unbind", server, accept_lockout=["root"])
    ended = [product.ended(each) for each in ids]
    (gone,) = [each for each in ended if each["status"] == "succeeded"]
    (stays,) = [each for each in ended if each is not gone]
    told(stays)
    assert [each["login"] for each in product.server(server)["bindings"]] == [stays["login"]]
    assert not judge.password_login_works(server, "deploy", "walk the dog")


@pytest.mark.cause("password_login_under_rule")
def test_another_name_of_the_machine_is_known_by_the_host_key_that_it_shows(product, ruled, told):
    server, _ = ruled
    private, public = judge.new_key_pair()
    install_key(server, public)
    with Cable(server) as way:
        # With old algorithms allowed its host key is not fetched as it is added.
        alias = {"name": f"alias-{server.name}", "host": way.place.host, "port": way.place.port, "old_algorithms": ["all"]}
        product.ask("POST", "/servers", body=alias | {"trust_on_first_use": True})
        order = {"servers": [alias["name"]], "seconds": 60, "reason": "x", "identity": private}
        with unchanged(server, password_works=False):
            asked = product.ask("POST", "/doors", body=order)
            assert [each["state"] for each in asked["orders"]] == ["given"]  # nobody knows yet which machine it is
            told(product.ended(asked["doors"][0]["task_id"]))
        asked = product.ask("POST", "/doors", body=order)
        assert [each["state"] for each in asked["orders"]] == ["asked"]
        product.ask("POST", f"/door-orders/{asked['orders'][0]['id']}/refuse")


def test_with_passwords_kept_off_it_is_taken_off_and_nobody_is_locked_out_unnamed(product, ruled):
    server, _ = ruled
    kept = {"keep_password_login": True, "password": server.root_password}
    product.fails("no_way_in_remains", "unbind", server, **kept)
    product.succeeds("unbind", server, accept_lockout=["root"], **kept)
    assert not judge.password_login_works(server, "root", server.root_password)
    assert "PasswordAuthentication no" in server.read(CONFIG)


def test_another_key_pair_takes_its_place_and_without_the_rule_passwords_come_back(product, ruled):
    server, _ = ruled
    product.succeeds("replace", server, keypair=product.keypair())
    assert not judge.password_login_works(server, "root", server.root_password)
    product.ask("DELETE", "/door-rules", params={"servers": f"doors-of={server.name}"})
    product.succeeds("unbind", server, password=server.root_password)
    assert judge.password_login_works(server, "root", server.root_password)


# -- what comes after it has ended on record, and has nothing to prove

LATE = {
    "door-open": {"door_id": "a" * 32, "door_from": "203.0.113.0/24", "door_seconds": 60},  # closed to whoever asks for it
    "password-set": {},
}


@pytest.mark.cause("stale_generation")
@pytest.mark.parametrize("late", LATE)
def test_an_order_that_comes_after_its_server_was_asked_how_it_ended(doors, is_told, late):
    server, hashed = doors.server, sha512_crypt.using(rounds=5000).hash("late")
    assert doors.give("check", "root", {}, generation=5, ended=5)["status"] == "unchanged"
    more = {"password_hash": hashed} if late == "password-set" else {}
    before = picture(server)
    task = is_told(doors, lambda: doors.give(late, "alice", LATE[late], generation=5, **more))
    assert "too late" in task["message"]
    assert changed(before, picture(server)) == set()
    assert doors.give(late, "alice", LATE[late], generation=6, **more)["status"] == "succeeded"
