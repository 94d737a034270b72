"""The fleet itself: its servers are real, apart from each other, and nothing of them is left behind."""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from controller.demo import fleet as fleets
from controller.demo.fleet import Fleet, FleetUnavailable, Login, ServerFailed, Spec
from tests.fleet import judge
from tests.fleet.looks import until
from tests.needs import lacking

ISOLATIONS = ("namespace", "chroot")
TREES = ("host", "bullseye", "trixie")
VERSIONS = {"bullseye": "OpenSSH_8.4", "trixie": "OpenSSH_10.0"}
DEPLOY = Login("deploy", "walk the dog", sudo="nopasswd")


@pytest.fixture(scope="module", params=ISOLATIONS)
def both(request):
    """A fleet of each kind."""
    with _fleet(0, request.param) as fleet:
        yield fleet


@pytest.mark.parametrize("tree", TREES)
def test_a_server_lets_in_who_has_the_password_and_nobody_else(both, tree):
    server = both.add(Spec(tree=tree, logins=(DEPLOY,)))
    assert judge.offered_methods(server, "root") == {"publickey", "password"}
    assert judge.password_login_works(server, "root", server.root_password)
    assert judge.password_login_works(server, "deploy", "walk the dog")
    assert not judge.password_login_works(server, "deploy", server.root_password)
    if tree in VERSIONS:
        assert VERSIONS[tree] in server.run(["ssh", "-V"]).stderr
    both.remove(server)


def test_a_server_lets_in_a_key_from_authorized_keys_and_no_other(both):
    server = both.add(Spec(logins=(DEPLOY,)))
    private, public = judge.new_key_pair()
    other, _ = judge.new_key_pair("rsa", 2048)
    server.write("/home/deploy/.ssh/authorized_keys", public + "\n", 0o600, "deploy")
    assert judge.key_login_works(server, "deploy", private)
    assert not judge.key_login_works(server, "deploy", other)
    assert not judge.key_login_works(server, "root", private)
    both.remove(server)


def test_what_is_written_on_one_server_is_on_no_other_and_not_on_this_machine(both):
    one, other = both.add_all([Spec(), Spec()])
    paths = ["/etc/here", "/root/here", "/home/here", "/var/here", "/usr/bin/here", "/tmp/here", "/run/here"]
    for path in paths:
        one.write(path, "only here\n")
    assert [one.read(path) for path in paths] == ["only here\n"] * len(paths)
    assert not any(other.exists(path) or os.path.exists(path) for path in paths)
    for server in (one, other):
        both.remove(server)


def test_a_program_that_is_overwritten_on_one_server_is_the_old_one_everywhere_else(both):
    one, other = both.add_all([Spec(files={"/usr/bin/mawk": "the first\n"}), Spec()])
    before = other.read("/usr/bin/mawk"), other.read("/usr/bin/sudo")
    seen = one.run(["stat", "-c", "%a %u %g", "/usr/bin/sudo"]).stdout
    one.write("/usr/bin/sudo", "the second\n")
    assert (one.read("/usr/bin/mawk"), one.read("/usr/bin/sudo")) == ("the first\n", "the second\n")
    assert one.run(["stat", "-c", "%a %u %g", "/usr/bin/sudo"]).stdout == seen
    after = both.add()
    assert [(each.read("/usr/bin/mawk"), each.read("/usr/bin/sudo")) for each in (other, after)] == [before] * 2
    for server in (one, other, after):
        both.remove(server)


def test_files_survive_a_stop_a_start_and_a_reboot(both):
    server = both.add()
    private, public = judge.new_key_pair()
    server.write("/root/.ssh/authorized_keys", public + "\n", 0o600)
    key, password = server.host_key, server.root_password
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))
    server.start()
    server.reboot()
    assert (server.host_key, server.root_password) == (key, password)
    assert judge.key_login_works(server, "root", private)
    assert judge.password_login_works(server, "root", password)
    both.remove(server)


def test_the_disk_of_a_stopped_server_can_be_read_and_written_from_outside(both):
    server = both.add()
    private, public = judge.new_key_pair()
    server.write("/root/note", "from inside\n")
    server.stop()
    disk = server.mounted_root()
    assert (disk / "root/note").read_text() == "from inside\n"
    assert (disk / "usr/sbin/sshd").exists()
    (disk / "root/.ssh").mkdir(0o700)
    (disk / "root/.ssh/authorized_keys").write_text(public + "\n")
    with pytest.raises(ServerFailed, match="stopped"):
        server.read("/root/note")
    server.start()
    assert judge.key_login_works(server, "root", private)
    with pytest.raises(ServerFailed, match="while the server is stopped"):
        server.mounted_root()
    both.remove(server)


def test_an_open_session_ends_with_its_server_and_only_then(both):
    server = both.add(Spec(logins=(DEPLOY,)))
    with judge.OpenSession(server, "deploy", password="walk the dog") as session:
        assert server.sessions() == ["deploy@notty"]
        server.reload()
        assert session.lives()
        server.stop()
        assert not session.lives()
    both.remove(server)


def test_a_process_that_left_its_session_ends_with_its_server(both):
    server = both.add()
    before = server.processes()
    server.run(["sh", "-c", "setsid sleep 987 </dev/null >/dev/null 2>&1 &"])
    (pid,) = set(server.processes()) - set(before)
    server.stop()
    assert not _is_alive(pid)
    both.remove(server)


def test_each_boot_of_a_server_runs_its_boot_scripts_and_has_an_id_of_its_own(fleet):
    if fleet.isolation != "namespace":
        lacking("a server that boots alone needs namespaces: run with CAP_SYS_ADMIN")
    server = fleet.add(Spec(files={"/etc/rc.local": "#!/bin/sh\necho again >>/root/boots\n"}))
    first = server.read("/proc/sys/kernel/random/boot_id")
    assert first != Path("/proc/sys/kernel/random/boot_id").read_text()
    server.stop()  # for all that comes after sshd in its first boot
    (server.mounted_root() / "etc/rc.local").chmod(0o755)
    server.start()

    def boots():
        return server.run(["cat", "/root/boots"], check=False).stdout.count("again\n")

    until(lambda: boots() == 1, what="the script is not run")
    server.reboot()
    until(lambda: boots() == 2, what="the script is not run again")
    assert server.read("/proc/sys/kernel/random/boot_id") != first
    assert server.run(["hostname"]).stdout == f"{server.name}\n"
    fleet.remove(server)


def test_sudo_obeys_the_rule_of_each_login(make_server):
    logins = tuple(Login(name, "p", sudo=name) for name in ("none", "password", "nopasswd"))
    server = make_server(logins=logins)

    def sudo(login, password=""):
        return server.run(["su", login, "-c", "sudo -S -p '' id -u"], password + "\n", check=False).stdout

    assert [sudo(login.name) for login in logins] == ["", "", "0\n"]
    assert [sudo(login.name, "p") for login in logins] == ["", "0\n", "0\n"]


def test_a_server_can_be_without_python(make_server):
    without = make_server(python=False)
    assert without.run(["sh", "-c", "command -v python3 || ls /usr/bin/python3*"], check=False).stdout == ""
    assert make_server().run(["python3", "-c", "print(1)"]).stdout == "1\n"


def test_sshd_is_configured_as_asked(make_server):
    server = make_server(
        sshd_config_top="MaxAuthTries 3\n",
        sshd_config_end="Match User root\n    X11Forwarding no\n",
        drop_ins={"50-cloud.conf": "LoginGraceTime 33\n"},
        max_startups=77,
    )
    settings = judge.effective_settings(server)
    assert (settings["maxauthtries"], settings["logingracetime"]) == (["3"], ["33"])
    assert settings["maxstartups"][0].startswith("77")
    assert judge.effective_settings(server, "root")["x11forwarding"] == ["no"]


def test_a_server_that_does_not_come_up_says_what_its_sshd_said(fleet):
    with pytest.raises(ServerFailed, match="Bad configuration option: Nonsense"):
        fleet.add(Spec(name="broken", sshd_config_top="Nonsense yes\n"))
    fleet.remove(fleet["broken"])


def test_the_judge_does_not_take_a_wrong_host_key_for_a_refusal(make_server):
    server = make_server()
    server._host_keys = fleets._new_host_keys()
    with pytest.raises(judge.Puzzled, match="Host key verification failed"):
        judge.password_login_works(server, "root", server.root_password)


def test_the_judge_does_not_take_a_dead_server_for_a_refusal(make_server):
    server = make_server()
    server.stop()
    with pytest.raises(judge.Puzzled, match="Connection refused"):
        judge.password_login_works(server, "root", server.root_password)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_nothing_is_left_when_a_fleet_is_closed(isolation):
    with _fleet(3, isolation) as fleet:
        pids = _pids_of(fleet)
        assert len(pids) >= 6
        fleet["web-1"].stop()
        fleet["web-1"].mounted_root()
        fleet["web-2"].run(["chattr", "+i", "/etc/passwd"])
    _assert_nothing_is_left(fleet.directory, pids)


def test_a_fleet_works_with_async_with():
    async def use():
        async with Fleet(2) as fleet:
            return fleet.directory, _pids_of(fleet), len(fleet)

    directory, pids, size = asyncio.run(use())
    assert size == 2
    _assert_nothing_is_left(directory, pids)


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_the_owner_of_a_fleet_is_killed(isolation, ending):
    owner, directory, keeper, pids = _fleet_in_another_process(isolation)
    gone = _opened([keeper, *pids])
    owner.send_signal(ending)
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    _await_end(gone)
    _assert_nothing_is_left(directory, pids)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_no_process_is_left_when_the_keeper_of_a_fleet_is_killed_and_the_next_fleet_cleans_up(isolation, tmp_path, monkeypatch):
    # In a directory of its own, where the fleets of tests that run beside this one do not clean up first.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    owner, directory, keeper, pids = _fleet_in_another_process(isolation)
    gone = _opened(pids)
    os.kill(keeper, signal.SIGKILL)
    _await_end(gone)
    owner.kill()
    owner.communicate()
    assert directory.exists()
    fleets.remove_abandoned()
    _assert_nothing_is_left(directory, pids)


def test_a_fleet_ends_by_itself_when_it_is_too_old():
    with Fleet(1, max_age_seconds=10) as fleet:  # a busy machine needs some of them for its start
        gone = _opened(_pids_of(fleet))
        _await_end(gone)
        with pytest.raises(ServerFailed):
            fleet["web-1"].stop()


def test_a_kept_fleet_outlives_its_owner_until_it_is_ended():
    owner, directory, _, pids = _fleet_in_another_process("namespace", keep=True)
    owner.communicate()
    assert directory in fleets.kept_fleets()
    assert all(_is_alive(pid) for pid in pids)
    fleets.end_kept(directory)
    assert directory not in fleets.kept_fleets()
    _assert_nothing_is_left(directory, pids)


def test_two_fleets_do_not_share_an_address():
    with Fleet(2) as one, Fleet(2) as other:
        assert len({server.host for server in [*one, *other]}) == 4


def test_fifty_servers_start_at_once():
    with Fleet(50) as fleet:
        assert len({server.host for server in fleet}) == 50
        assert all(server.running for server in fleet)


_OWNER = """
import sys, json
from controller.demo.fleet import Fleet
with Fleet(2, isolation=sys.argv[1]) as fleet:
    fleet["web-1"].run(["sh", "-c", "setsid sleep 986 </dev/null >/dev/null 2>&1 &"])
    pids = [pid for server in fleet for pid in server.processes()]
    print(json.dumps([str(fleet.directory), pids]), flush=True)
    if sys.argv[2] == "keep":
        fleet.keep()
    else:
        sys.stdin.read()
"""


def _fleet(size, isolation):
    started = Fleet(size, isolation=isolation)
    try:
        started.open()
    except FleetUnavailable as error:
        lacking(str(error))
    return started


def _fleet_in_another_process(isolation, keep=False):
    """A process that owns a fleet; with it the fleet's directory, its keeper and what runs in its servers."""
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, isolation, "keep" if keep else "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    line = owner.stdout.readline()
    if not line:
        owner.wait()
        lacking(f"a fleet of kind {isolation} cannot be started here")
    directory, pids = json.loads(line)
    keeper = json.loads((Path(directory) / "fleet.json").read_text())["keeper"]
    return owner, Path(directory), keeper, pids


def _pids_of(fleet):
    return [pid for server in fleet for pid in server.processes()]


def _opened(pids):
    """A pidfd of each of these processes; some, that only started others, have ended by now."""
    found = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
    return found


def _await_end(pidfds):
    """Return when every one of these processes has ended: a pidfd becomes readable then."""
    for each in pidfds:
        ready, _, _ = select.select([each], [], [], 30)
        os.close(each)
        assert ready, "a process of the fleet goes on living"


def _assert_nothing_is_left(directory, pids):
    assert not directory.exists()
    assert [pid for pid in pids if _is_alive(pid)] == []
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            assert str(directory).encode() not in command


def _is_alive(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
