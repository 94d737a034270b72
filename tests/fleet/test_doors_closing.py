"""What might keep a door open though its time is over, on real servers: sshd that starts just then, a second one, a full disk."""

import contextlib
import copy
import errno
import os
import socket
import threading
from pathlib import Path

import pytest

from controller.demo.fleet import Login
from tests.fleet import judge
from tests.fleet.causes import mount
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
from tests.fleet.looks import until
from tests.fleet.test_doors_half_open import HalfOpen

LOGINS = (Login("alice", "pw-alice"), Login("bob", "pw-bob"))


@pytest.fixture
def doors(make_server):
    """Orders for the doors of a server that takes no passwords."""
    return Doors(make_server(logins=LOGINS, sshd_config_top=OFF))


def test_an_sshd_that_is_starting_at_the_deadline_does_not_keep_what_it_has_read(doors):
    server = doors.server
    doors.open("alice", password="pw-alice")
    end = "# kps: door end\n"
    server.run(["mkfifo", "/run/slow"])  # whoever reads it waits: after the door's own file, and before it listens
    server.write(CONFIG, server.read(CONFIG).replace(end, f"{end}Include /run/slow\n"))
    server.run(["sh", "-c", "kill -HUP $(cat /run/sshd.pid)"])
    with contextlib.ExitStack() as reads:
        until(lambda: _is_read(server, "/run/slow", reads))
        assert not _listens(server)
        time_is_over(server)
        until(lambda: "kps: door" not in server.read(CONFIG))
        server.run(["sh", "-c", "mv /run/slow /run/fifo; : >/run/slow"])
    server.await_greeting()
    until_gone(server)
    assert not lets_in(server, "alice")


def _shut(server):
    """Whether alice's password is refused; while sshd begins to listen anew, and the watchers see to it, nobody is answered."""
    try:
        return not lets_in(server, "alice")
    except judge.Puzzled:
        return False


def _is_left_alone(server):
    """Whether nobody ends who takes three seconds to log in; the watchers try once a second."""
    try:
        with socket.create_connection((server.host, server.port), 5) as slow:
            if not slow.makefile("rb").readline().startswith(b"SSH-"):
                return False
            slow.settimeout(3)
            slow.recv(1)  # it has been ended
    except TimeoutError:
        return True
    except ConnectionError:
        pass
    return False


def _is_read(server, path, reads):
    """Whether somebody has opened this pipe to read it; they hear nothing, and not the end, until reads is closed."""
    try:
        told = os.open(f"/proc/{server.pid}/root{path}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return False
        raise
    reads.callback(os.close, told)
    return True


def _listens(server):
    try:
        socket.create_connection((server.host, server.port), 2).close()
        return True
    except ConnectionRefusedError:
        return False


@pytest.mark.parametrize("by", [(), ("-f", "/etc/linked")])
def test_a_second_sshd_that_was_started_while_it_was_open_is_told_too(doors, by):
    server = doors.server
    server.run(["ln", "-s", CONFIG, "/etc/linked"])
    door = doors.open("alice", password="pw-alice")["door"]
    # As an upgrade of the whole system does.
    server.run(["/usr/sbin/sshd", *by, "-o", f"ListenAddress={server.host}:1022", "-o", "PidFile=none"])
    second = copy.copy(server)
    second.port = 1022
    second.await_greeting()
    assert lets_in(second, "alice")
    doors.order("close", "alice", door)
    second.await_greeting()
    assert not lets_in(second, "alice")
    assert not lets_in(server, "alice")


def test_an_sshd_that_was_moved_to_another_port_while_it_was_open_is_told_there(doors):
    server = doors.server
    doors.open("alice", password="pw-alice")
    moved = copy.copy(server)
    moved.port = 1022
    server.run(["sh", "-c", "kill $(cat /run/sshd.pid)"])
    server.run(["/usr/sbin/sshd", "-o", f"ListenAddress={server.host}:1022"])
    moved.await_greeting()
    assert lets_in(moved, "alice")
    time_is_over(server)
    until_gone(server)
    moved.await_greeting()
    assert not lets_in(moved, "alice")


def test_who_came_before_the_end_is_not_let_in_while_an_sshd_that_never_listens_is_waited_for(doors):
    server = doors.server
    door = doors.open("alice", password="pw-alice")["door"]
    server.run(["install", "-m", "755", "/bin/sleep", "/tmp/sshd"])
    server.run(["sh", "-c", "/tmp/sshd 600 >/dev/null 2>&1 & echo $! >/run/never"])
    waits = HalfOpen(server, "alice", False)
    task = []
    closing = threading.Thread(target=lambda: task.append(doors.order("close", "alice", door)))
    closing.start()
    try:
        until(lambda: not [title for title in server.processes().values() if "alice [" in title])
        assert not task  # the order waits for the other one still
    finally:
        server.run(["sh", "-c", "kill $(cat /run/never)"])
        closing.join()
    assert not waits.goes_on()
    assert (task[0]["status"], task[0]["door"]["state"]) == ("succeeded", "closed")


def test_who_came_to_a_second_sshd_does_not_get_in_after_the_end(doors):
    server = doors.server
    door = doors.open("alice", password="pw-alice")["door"]
    server.run(["/usr/sbin/sshd", "-o", f"ListenAddress={server.host}:1022", "-o", "PidFile=none"])
    second = copy.copy(server)
    second.port = 1022
    second.await_greeting()
    waits = HalfOpen(second, "alice", False)
    assert doors.order("close", "alice", door)["status"] == "succeeded"
    assert not waits.goes_on()


@pytest.mark.parametrize(
    ("who", "record"),
    [("watchers", ""), ("watchers", "{"), ("watchers", "\0" * 900), ("order", "{"), ("another order", "{"), ("boot", "{")],
)
def test_a_door_whose_record_is_damaged_is_closed(doors, who, record):
    server = doors.server
    before = server.read(CONFIG)
    door = doors.open("alice", password="pw-alice")["door"]
    if who != "watchers":
        kill_watchers(server)
    Path(f"/proc/{server.pid}/root{STATE}/door.open").write_text(record)
    if who == "boot":
        server.reboot()
    if who == "order":
        assert doors.order("close", "alice", door)["door"]["state"] == "closed"
    if who == "another order":
        task = doors.give("check", "root", {})
        assert (task["status"], task["door"]) == ("unchanged", None)
    until_gone(server)
    assert server.read(CONFIG) == before
    assert not lets_in(server, "alice")
    told = doors.order("status", "alice")["door"]
    assert (told["id"], told["state"], told["closed_by"]) == (door["id"], "closed", "damage")
    assert told["login"] == ("unknown" if who == "boot" else "alice")  # /run is in memory


def test_what_somebody_else_calls_sshd_is_not_waited_for(doors):
    server = doors.server
    door = doors.open("alice", password="pw-alice")["door"]
    server.run(["install", "-m", "755", "/bin/sleep", "/tmp/sshd"])
    server.run(["sh", "-c", "setpriv --reuid=bob --regid=bob --clear-groups /tmp/sshd 600 >/dev/null 2>&1 &"])
    until(lambda: "/tmp/sshd 600" in " ".join(server.processes().values()))
    task = doors.order("close", "alice", door)
    assert (task["status"], task["door"]["state"]) == ("succeeded", "closed")
    assert not lets_in(server, "alice")


@pytest.mark.parametrize("full", [STATE, "/etc/ssh"])
def test_on_a_full_disk_it_is_closed_and_nobody_else_is_hindered_until_there_is_room(doors, full):
    server = doors.server
    before = server.read(CONFIG)
    server.run(["sh", "-c", f"mkdir -p -m 711 {STATE}; cp -a {full} /tmp/kept"])
    mount(server, "tmpfs", "none", full, "size=1m")
    server.run(["sh", "-c", f"cp -a /tmp/kept/. {full}/"])
    door = doors.open("alice", password="pw-alice")["door"]
    server.run(["sh", "-c", f"cat /dev/zero >{full}/filler"], check=False)
    task = doors.order("close", "alice", door)
    assert (task["status"], task["door"]["state"]) == ("succeeded", "closed")
    until(lambda: _shut(server))
    until(lambda: _is_left_alone(server))  # once each of the watchers has seen to it
    assert not lets_in(server, "alice")
    server.run(["rm", f"{full}/filler"])
    until_gone(server)
    assert server.read(CONFIG) == before
    assert doors.order("status", "alice")["door"]["state"] == "closed"


@pytest.mark.parametrize("trouble", [f"cat /dev/zero >{STATE}/filler", f"mount -o remount,bind,ro {STATE}"])
def test_at_the_deadline_it_is_closed_whatever_cannot_be_written(doors, trouble):
    server = doors.server
    server.run(["mkdir", "-p", "-m", "711", STATE])
    mount(server, "tmpfs", "none", STATE, "size=1m")
    elsewhere = "/srv" + STATE
    server.run(["sh", "-c", f"mkdir -p {elsewhere}; mount --bind {STATE} {elsewhere}"])
    doors.open("alice", password="pw-alice")
    assert lets_in(server, "alice")
    server.run(["sh", "-c", trouble], check="remount" in trouble)
    time_is_over(server, Path(f"/proc/{server.pid}/root/srv"))  # where it can be written still
    until(lambda: _shut(server))
    until(lambda: "kps: door" not in server.read(CONFIG))


@pytest.mark.parametrize("who", ["watchers", "order"])
def test_before_include_was_known_a_full_disk_keeps_no_door_open_either(doors, who):
    server = doors.server
    before = before_include(server)
    server.run(["cp", "-a", "/etc/ssh", "/tmp/kept"])
    mount(server, "tmpfs", "none", "/etc/ssh", "size=1m")
    server.run(["sh", "-c", "cp -a /tmp/kept/. /etc/ssh/"])
    door = doors.open("alice", password="pw-alice")["door"]
    assert lets_in(server, "alice")
    server.run(["sh", "-c", "cat /dev/zero >/etc/ssh/filler"], check=False)
    if who == "watchers":
        time_is_over(server)
    else:
        assert doors.order("close", "alice", door)["door"]["state"] == "closed"
    until(lambda: _shut(server))
    until(lambda: _is_left_alone(server))
    server.run(["rm", "/etc/ssh/filler"])
    until_gone(server)
    assert server.read(CONFIG) == before
    assert not lets_in(server, "alice")


def test_whoever_deletes_our_directory_does_not_keep_it_open(doors):
    server = doors.server
    before = server.read(CONFIG)
    doors.open("alice", password="pw-alice")
    server.run(["rm", "-r", STATE])
    until(lambda: server.read(CONFIG) == before)
    until(lambda: not [title for title in server.processes().values() if "door-" in title])
    assert not lets_in(server, "alice")
    assert not server.exists("/run/kps-door")
    assert doors.order("status", "alice")["door"] is None
    assert nothing_left(server) == []
