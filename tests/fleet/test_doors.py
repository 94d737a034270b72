"""Emergency doors on real servers: who gets in while one is open, and that the server closes it by itself whatever is lost."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from controller.demo.fleet import Login
from controller.transport import at_rest
from tests.fleet import judge
from tests.fleet.doors import (
    CONFIG,
    OFF,
    STATE,
    Doors,
    before_include,
    kill_watchers,
    lets_in,
    nothing_left,
    time_is_over,
    until_gone,
)
from tests.fleet.looks import changed, picture, until

LOGINS = (Login("alice", "pw-alice"), Login("bob", "pw-bob"))
NEAR, FAR = "127.0.0.0/24", "127.9.9.0/24"
SOMEBODY_ELSE = "Match User bob Address 10.0.0.0/8\n    PasswordAuthentication yes\nMatch User carol\n    X11Forwarding no\n"
# What each server lets a password do otherwise, and what of that has to be opened too.
KINDS = {
    "host": {"sshd_config_top": OFF, "sshd_config_end": SOMEBODY_ELSE},
    "bullseye": {"sshd_config_top": OFF, "sshd_config_end": SOMEBODY_ELSE},
    "trixie": {"sshd_config_top": OFF, "sshd_config_end": SOMEBODY_ELSE},
    "methods": {"sshd_config_top": OFF + "AuthenticationMethods publickey,keyboard-interactive publickey\n"},
    "our block": {"sshd_config_top": f"# kps: begin. ours\n{OFF}# kps: end\n"},
    "no final newline": {"sshd_config_top": OFF, "sshd_config_end": "# the last line"},
}


@pytest.fixture
def doors(make_server):
    """Orders for the doors of a server that takes no passwords."""
    return Doors(make_server(logins=LOGINS, sshd_config_top=OFF))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_open_for_that_login_from_there_alone_and_once_closed_the_file_is_what_it_was(make_server, kind):
    server = make_server(tree=kind if kind in ("bullseye", "trixie") else "host", logins=LOGINS, **KINDS[kind])
    doors = Doors(server)
    before = picture(server)
    assert not lets_in(server, "alice")
    task = doors.open("alice", network=NEAR, password="pw-alice")
    assert (task["status"], task["proofs"]) == ("succeeded", [{"way": "password", "login": "alice", "method": "logged_in"}])
    assert lets_in(server, "alice", "127.0.0.9")
    assert not lets_in(server, "alice", "127.0.1.9")
    assert not lets_in(server, "bob", "127.0.0.10")
    assert not lets_in(server, "root", "127.0.0.11")
    task = doors.order("close", "alice", task["door"])
    assert (task["status"], task["door"]["state"], task["door"]["closed_by"]) == ("succeeded", "closed", "order")
    assert task["proofs"] == [{"way": "password", "login": "alice", "method": "refused"}]
    assert not lets_in(server, "alice", "127.0.0.9")
    until_gone(server)
    assert changed(before, picture(server)) <= {"/var/lib", STATE, f"{STATE}/state.json", "/etc/ssh", "/etc/cron.d", "/etc/rcS.d"}
    assert doors.order("status", "alice")["door"] == task["door"]


@pytest.mark.parametrize("root", ["prohibit-password", "yes"])
def test_root_s_door_lets_root_in_by_password(make_server, root):
    server = make_server(sshd_config_top=f"{OFF}PermitRootLogin {root}\n")
    doors = Doors(server)
    door = doors.open("root", password=server.root_password)["door"]
    assert lets_in(server, "root")
    assert ("PermitRootLogin" in server.read("/run/kps-door")) == (root != "yes")
    doors.order("close", "root", door)
    assert not lets_in(server, "root")


def test_from_where_it_is_not_open_it_is_seen_that_nothing_is(doors):
    task = doors.open("alice", network=FAR)
    assert task["proofs"] == [{"way": "password", "login": "alice", "method": "refused"}]
    assert lets_in(doors.server, "alice", "127.9.9.9")
    assert not lets_in(doors.server, "alice")


def test_where_no_password_gets_in_the_door_is_closed_again(doors):
    before = doors.server.read(CONFIG)
    task = doors.open("alice", password="not hers")
    assert (task["status"], task["server_state"], task["cause"]) == ("failed", "reverted", "wrong_password")
    until_gone(doors.server)
    assert doors.server.read(CONFIG) == before
    assert not lets_in(doors.server, "alice")


def test_it_is_open_for_as_long_as_was_said_last(doors):
    door = doors.open("alice", 15, password="pw-alice")["door"]
    later = doors.order("extend", "alice", {"id": door["id"], "from": None, "seconds": 600})["door"]
    assert later["deadline"] - door["deadline"] > 580
    time.sleep(max(0.0, door["deadline"] + 2 - time.time()))  # what would not be so is what does not happen
    assert lets_in(doors.server, "alice")
    doors.order("extend", "alice", {"id": door["id"], "from": None, "seconds": 1})
    until_gone(doors.server)
    assert doors.order("status", "alice")["door"]["closed_by"] == "deadline"


def test_keys_are_bound_while_it_is_open(doors):
    door = doors.open("alice", password="pw-alice")["door"]
    private, public = judge.new_key_pair()
    bind = {"operation": "bind", "key": public, "provable": False, "accept_unproved": True}
    task = doors.give("check", "alice", {}, **bind)
    assert (task["status"], task["door"]["id"]) == ("succeeded", door["id"])
    assert judge.key_login_works(doors.server, "alice", private)
    assert lets_in(doors.server, "alice")
    doors.order("close", "alice", door)
    assert judge.key_login_works(doors.server, "alice", private)
    assert not lets_in(doors.server, "alice")


def test_what_others_write_meanwhile_stays(doors):
    before = doors.server.read(CONFIG)
    door = doors.open("alice", password="pw-alice")["door"]
    now = doors.server.read(CONFIG)
    begin, include, end, rest = now.split("\n", 3)
    doors.server.write(CONFIG, f"# theirs\n{begin}\n{include}\nX11Forwarding no\n{end}\n{rest}# and theirs\n")
    doors.order("close", "alice", door)
    assert doors.server.read(CONFIG) == f"# theirs\nX11Forwarding no\n{before}# and theirs\n"
    assert not lets_in(doors.server, "alice")


@pytest.mark.parametrize("over", [True, False])
@pytest.mark.parametrize("hook", ["rcS.d", "cron.d"])
def test_a_reboot_closes_what_is_over_and_keeps_what_is_not(make_server, hook, over):
    server = make_server(logins=LOGINS, sshd_config_top=OFF)
    if hook == "cron.d":
        server.run(["rm", "-r", "/etc/rcS.d"])
    doors = Doors(server)
    before = server.read(CONFIG)
    doors.open("alice", password="pw-alice")
    server.stop()
    if over:
        time_is_over(server, server.mounted_root())
    server.start()
    if over:
        assert not lets_in(server, "alice")
    else:
        until(lambda: lets_in(server, "alice"))  # cron comes after sshd
        time_is_over(server)
    until_gone(server)
    assert server.read(CONFIG) == before
    # What runs at boot by cron may be at it still.
    assert doors.order("status", "alice")["door"]["closed_by"] in (["boot"] if over else ["boot", "deadline"])


def test_a_clock_that_is_before_the_opening_is_not_believed(doors):
    doors.open("alice", password="pw-alice")
    server = doors.server
    kept = Path(f"/proc/{server.pid}/root{STATE}/door.open")
    door = kept.read_text()
    opened_at = doors.order("status", "alice")["door"]["opened_at"]
    kept.write_text(
        door.replace(str(opened_at), str(opened_at + 3600)).replace(f'"deadline":{opened_at + 600}', '"deadline":9999999999')
    )
    server.reboot()
    assert not lets_in(server, "alice")
    until_gone(server)


def test_an_order_that_comes_when_every_watcher_is_dead_closes_first_what_is_over(doors):
    doors.open("alice", password="pw-alice")
    kill_watchers(doors.server)
    time_is_over(doors.server)
    assert lets_in(doors.server, "alice")  # nobody was left to close it
    assert doors.give("check", "root", {})["door"] is None
    assert not lets_in(doors.server, "alice")
    assert nothing_left(doors.server) == []


def test_an_agent_that_dies_while_it_opens_leaves_no_door(doors):
    """Killed in its proof, with sshd told to let alice in: the watcher closes at the deadline."""
    server = doors.server
    before = server.read(CONFIG)
    server.run(
        [
            "sh",
            "-c",
            "printf '#!/bin/sh\nsleep 60\n' >/bin/slow; chmod 755 /bin/slow; usermod -s /bin/slow alice",
        ]
    )
    pid = os.fork()
    if pid == 0:
        try:
            doors.open("alice", 600, password="pw-alice", deadline_seconds=120)
        finally:
            os._exit(0)  # it is no second one that runs tests
    try:
        until(lambda: "kps: door" in server.read(CONFIG))
        until(lambda: [title for title in server.processes().values() if "slow" in title])
        for process, title in server.processes().items():
            if "-I -S -E -B" in title and "door-" not in title:
                os.kill(process, signal.SIGKILL)
        time_is_over(server)
        until_gone(server)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert server.read(CONFIG) == before
    assert doors.order("status", "alice")["door"] is None


@pytest.mark.parametrize("end", ["", "# the last line", "Match User carol\n    X11Forwarding no\n"])
def test_before_include_was_known_the_lines_stand_before_the_first_match(make_server, end):
    """Debian's own sshd, in which that keyword is called something else."""
    server = make_server(logins=LOGINS, sshd_config_top=OFF)
    text = before_include(server, end)
    doors = Doors(server)
    door = doors.open("alice", network=NEAR, password="pw-alice")["door"]
    now = server.read(CONFIG)
    assert "Match User alice Address 127.0.0.0/24\n    PasswordAuthentication yes\n# kps: door end\n" in now
    assert now.endswith("# kps: door end\n") != end.startswith("Match")
    assert lets_in(server, "alice", "127.0.0.9")
    assert not lets_in(server, "alice")
    assert not lets_in(server, "bob", "127.0.0.9")
    server.reboot()
    assert lets_in(server, "alice", "127.0.0.9")
    doors.order("close", "alice", door)
    until_gone(server)
    assert server.read(CONFIG) == text
    assert not lets_in(server, "alice", "127.0.0.9")


def test_a_reset_of_the_disk_closes_the_door_that_stands_on_it(doors):
    server = doors.server
    before = server.read(CONFIG)
    doors.open("alice", password="pw-alice")
    server.stop()
    _, public = judge.new_key_pair()
    plan = {"operation": "reset", "id": "reset", "generation": 9, "login": "root", "key": public, "deadline_seconds": 30}
    result = asyncio.run(at_rest.run(str(server.mounted_root()), plan))
    assert result["status"] == "succeeded", result
    server.start()
    assert server.read(CONFIG) == before
    assert nothing_left(server) == []
    assert not lets_in(server, "alice")


@pytest.mark.parametrize("what", ["close", "status"])
def test_the_door_of_a_login_that_is_no_more_is_closed_and_told_as_closed(doors, what):
    door = doors.open("alice", password="pw-alice")["door"]
    doors.server.run(["sed", "-i", "/^alice:/d", "/etc/passwd"])
    task = doors.order("close", "alice", door)
    assert (task["status"], task["server_state"], task["door"]["state"]) == ("succeeded", "as_asked", "closed")
    assert task["evidence"]["notes"] == ["closed, and not seen from outside: there is no login alice on this server"]
    until_gone(doors.server)
    again = doors.order(what, "alice", door)
    assert (again["status"], again["door"]) == ("unchanged", task["door"])


# What systemd makes of it is for `make fleet` to show; here, what it is told. The unit runs in the background.
_SYSTEMD_RUN = """#!/bin/sh
echo "$@" >>/run/told
case "$*" in *Type=exec*) test ! -e /run/old || exit 1 ;; esac
while [ "$1" != -- ]; do shift; done
shift
setsid "$@" </dev/null >/dev/null 2>&1 &
"""


@pytest.mark.parametrize("old", [False, True], ids=["systemd 240", "systemd 239"])
def test_a_unit_s_end_is_not_the_end_of_the_other_watcher_in_it(doors, old):
    server = doors.server
    for path, text in (("/usr/bin/systemd-run", _SYSTEMD_RUN), ("/usr/bin/systemctl", "#!/bin/sh\nexit 3\n")):
        server.run(["rm", "-f", path])
        server.write(path, text, mode=0o755)
    server.run(["sh", "-c", f"mkdir -p /run/systemd/system /etc/systemd/system; {'touch /run/old' if old else ':'}"])
    door = doors.open("alice", password="pw-alice")["door"]
    assert door["watchers"] == ["boot unit", "systemd unit", "detached process"]
    told = server.read("/run/told").split("\n")[-2]
    assert "--unit=kps-door -p KillMode=process -p OOMScoreAdjust=-900" in told
    assert f"Type={'simple' if old else 'exec'} -- " in told
    doors.order("close", "alice", door)
    until_gone(server)
