"""What every host says of sshd, and does to it: the model's, and a real one on loopback."""

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kpsagent import processes
from kpsagent.host import AskSshd, Daemon, FindDaemon, Lock, Output, Reload, Unread
from tests.agent import model_host as model
from tests.contracts.places import LocalPlace, ModelPlace, scratch
from tests.fleet.looks import until
from tests.needs import lacking

SSHD = "/usr/sbin/sshd"
SECONDS = 60  # in which it has come up, on however busy a machine


class ModelSshd(ModelPlace):
    """The model's sshd."""

    config = model.CONFIG
    connection = model.CONNECTION
    pid_file = "/run/sshd.pid"

    def __init__(self) -> None:
        super().__init__()
        self.daemon = Daemon("listener", 7, SSHD, [], self.config, "")
        self.configure("")
        self.world.loaded = ""

    def configure(self, text: str) -> None:
        self.world.put(self.config, model.file(text))

    def candidate(self, text: str) -> str:
        return text

    def greeting(self) -> str:
        return self.world.loaded or ""

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        yield

    def kill(self) -> None:
        self.world.loaded = None

    def names_left(self) -> list[str]:
        return self.names(model.STATE)


class LocalSshd(LocalPlace):
    """A real sshd, started for the test."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        os.makedirs("/run/sshd", 0o755, exist_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "host_key"], check=True)
        # Of its own: what is free there stays so until sshd listens, also while that starts anew.
        host = f"127.9.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
        with socket.create_server((host, 0)) as free:
            port = free.getsockname()[1]
        self.config = str(directory / "sshd_config")
        self.address = (host, port)
        self.connection = [host, "50000", host, str(port)]
        self.pid_file = str(directory / "pid")
        self._top = f"Port {port}\nListenAddress {host}\nHostKey {directory}/host_key\nPidFile {self.pid_file}\n"
        self.configure("")
        subprocess.run([SSHD, "-f", self.config], check=True)
        self._wait_for_pid()
        self.daemon = Daemon("listener", self.pid(), SSHD, ["-f", self.config], self.config, "")

    def configure(self, text: str) -> None:
        Path(self.config).write_text(self._top + text)

    def candidate(self, text: str) -> str:
        return self._top + text

    def greeting(self) -> str:
        with socket.create_connection(self.address, SECONDS) as there:
            return there.recv(200).decode()

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        with socket.create_connection(self.address, SECONDS) as there:
            assert there.recv(200)
            yield
            assert not select.select([there], [], [], 0)[0], "the session has ended"

    def pid(self) -> int:
        return int(Path(self.pid_file).read_text())

    def _wait_for_pid(self) -> None:
        def up() -> bool:
            with contextlib.suppress(OSError, ValueError):
                return bool(self.pid() and self.greeting())
            return False

        until(up, SECONDS, "sshd does not come up")

    def kill(self) -> None:
        pid = self.pid()
        watched = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        select.select([watched], [], [], 5)
        os.close(watched)

    def names_left(self) -> list[str]:
        return self.names(self.state)

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.kill()
        super().close()


@contextlib.contextmanager
def local() -> Iterator[LocalSshd]:
    if os.geteuid() != 0 or not os.path.exists(SSHD):
        lacking("root, and openssh-server")
    with scratch() as directory:
        made = LocalSshd(directory)
        try:
            yield made
        finally:
            made.close()


@pytest.fixture(params=["model", "local"])
def place(request) -> Iterator[Any]:
    if request.param == "model":
        yield ModelSshd()
        return
    with local() as made:
        yield made


@pytest.fixture
def host(place):
    host = place.host()
    host.do(Lock(True))
    host.do(FindDaemon(place.connection))
    yield host
    host.close()


@pytest.mark.parametrize(("text", "good"), [("UsePAM no\n", True), ("Nonsense yes\n", False)])
def test_sshd_judges_its_file_and_a_candidate_alike(host, place, text, good):
    said = host.do(AskSshd(place.daemon, ["-t"], place.candidate(text)))
    assert (said.code == 0) is good
    place.configure(text)
    assert (host.do(AskSshd(place.daemon, ["-t"], None)).code == 0) is good
    assert place.names_left() == []


def test_a_candidate_is_complained_about_by_the_name_of_the_file_it_is_for(host, place):
    said = host.do(AskSshd(place.daemon, ["-t"], place.candidate("Nonsense yes\n")))
    assert place.config in said.err
    assert "candidate" not in said.err


def test_sshd_says_what_holds_for_a_login(host, place):
    text = "PasswordAuthentication no\nMatch User root\n    PasswordAuthentication yes\n"
    place.configure("PasswordAuthentication yes\n")
    asked = {
        "everybody": AskSshd(place.daemon, ["-T"], place.candidate(text)),
        "root": AskSshd(place.daemon, ["-T", "-C", "user=root,host=127.0.0.1,addr=127.0.0.1"], place.candidate(text)),
        "as it stands": AskSshd(place.daemon, ["-T"], None),
    }
    said = {
        who: next(line for line in host.do(effect).out.split("\n") if line.startswith("passwordauthentication "))
        for who, effect in asked.items()
    }
    assert {who: line.split()[1] for who, line in said.items()} == {"everybody": "no", "root": "yes", "as it stands": "yes"}


def test_a_reload_has_sshd_run_on_its_file_and_sessions_live_on(host, place):
    with place.session():
        place.configure("VersionAddendum kps-two\n")
        assert "kps-two" not in place.greeting()
        assert host.do(Reload(place.daemon, False)) is True
        assert "kps-two" in place.greeting()


def test_what_was_changed_since_sshd_read_it_is_told_until_it_is_read(host, place):
    unread = Unread(place.daemon, place.pid_file, [place.config])
    assert host.do(unread) == []
    place.configure("VersionAddendum kps-two\n")
    assert host.do(unread) == [place.config]
    assert host.do(Reload(place.daemon, False)) is True
    assert host.do(unread) == []


@pytest.mark.parametrize("revive", [False, True])
def test_an_sshd_that_has_ended_is_started_again_only_to_revive_it(host, place, revive):
    place.kill()
    assert host.do(Reload(place.daemon, revive)) is revive
    if revive:
        place.greeting()


def test_a_reload_that_ends_sshd_is_told(host, place):
    place.configure("Nonsense yes\n")
    assert host.do(Reload(place.daemon, False)) is False


# -- with a service manager, which this machine need not have: what it is asked to run says what it would do


@pytest.fixture
def managed(monkeypatch):
    """A real sshd that systemd is said to run, and what reloads it: managed.systemctl(script)."""
    with local() as made:
        made.systemctl = str(made.directory / "systemctl")
        monkeypatch.setattr(processes, "SYSTEMCTL", [made.systemctl])
        made.daemon = made.daemon._replace(unit="ssh.service")
        yield made


def reloads(managed: Any, script: str) -> bool:
    Path(managed.systemctl).write_text(f"#!/bin/sh\n{script}\n")
    os.chmod(managed.systemctl, 0o755)  # noqa: S103
    host = managed.host()
    host.do(Lock(True))
    host.do(FindDaemon(managed.connection))
    try:
        return bool(host.do(Reload(managed.daemon, True)))
    finally:
        host.close()


def test_a_reload_by_systemd_is_believed_once_sshd_listens_anew(managed):
    managed.configure("VersionAddendum kps-two\n")
    assert reloads(managed, f'[ "$1 $2" = "reload ssh.service" ] && kill -HUP {managed.daemon.pid}') is True
    assert "kps-two" in managed.greeting()


def test_a_reload_by_systemd_that_does_nothing_is_none(managed, monkeypatch):
    monkeypatch.setattr(processes, "_RELOAD_SECONDS", 2)
    assert reloads(managed, "exit 0") is False


def test_a_reload_that_systemd_says_has_failed_is_none(managed):
    assert reloads(managed, f"kill -HUP {managed.daemon.pid}; exit 1") is False


RESTARTS = """case $1 in
show) echo KillMode={} ;;
restart) [ $2 = ssh.service ] && touch "$0-restarted" ;;
*) exit 1 ;;
esac"""


@pytest.mark.parametrize(
    ("kill_mode", "restarted"), [("process", True), ("none", True), ("control-group", False), ("mixed", False)]
)
def test_a_socket_that_systemd_has_handed_over_takes_a_restart_that_no_session_dies_of(
    managed, monkeypatch, kill_mode, restarted
):
    ours = processes.sockets_of(managed.daemon.pid)
    monkeypatch.setattr(processes, "sockets_of", lambda pid: ours if pid == 1 else set())
    assert reloads(managed, RESTARTS.format(kill_mode)) is restarted
    assert os.path.exists(f"{managed.systemctl}-restarted") is restarted


@pytest.mark.parametrize(("answer", "taken"), [(b"SSH-2.0-x\r\n", True), (b"", True), (None, False)])
def test_a_connection_that_is_greeted_or_closed_is_taken_and_one_in_a_queue_is_not(answer, taken):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answered() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(answer)

        thread = threading.Thread(target=answered) if answer is not None else None
        if thread is not None:
            thread.start()
        assert processes._is_taken(*listening.getsockname()) is taken
        if thread is not None:
            thread.join()


def test_the_sockets_of_a_process_are_those_it_listens_on():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        inodes = set(processes.listening_inodes(*listening.getsockname()))
        assert inodes
        assert inodes <= processes.sockets_of(os.getpid())
        assert not inodes & processes.sockets_of(os.getppid())


@pytest.mark.parametrize(
    ("program", "title", "listens"),
    [
        ("sshd", "/usr/sbin/sshd", True),
        ("sshd", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups", True),
        ("sshd", "sshd: root@pts/0", False),
        ("sshd", "sshd: root [priv]", False),
        ("sshd-session", "sshd-session: root [priv]", False),
        ("sshd-session", "/usr/lib/openssh/sshd-session", False),
        ("sshd-auth", "sshd-auth: root [net]", False),
        ("sleep", "/usr/sbin/sshd", False),
    ],
)
def test_a_listener_is_known_by_its_program_and_its_title(program, title, listens):
    with scratch() as directory:
        shutil.copy("/bin/sleep", directory / program)
        process = subprocess.Popen([title, "60"], executable=directory / program)
        try:
            while not Path(f"/proc/{process.pid}/cmdline").read_text():
                select.select([], [], [], 0.001)  # it is just being started
            assert processes._is_listener(process.pid) is listens
        finally:
            process.kill()
            process.wait()


def test_what_is_started_for_a_connection_is_no_listener(sshd):
    assert processes._is_listener(sshd.daemon.pid)
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen([SSHD, "-i", "-f", sshd.config], stdin=theirs, stdout=theirs) as process:
        try:
            assert not processes._is_listener(process.pid)
            assert ours.recv(4) == b"SSH-"
            assert not processes._is_listener(process.pid)
        finally:
            process.kill()


@pytest.fixture
def sshd():
    with local() as made:
        yield made


def unread(sshd: LocalSshd, *paths: str) -> list[str]:
    return processes.unread(sshd.daemon, sshd.pid_file, list(paths))


def test_a_file_that_was_moved_in_with_an_old_date_is_new_to_sshd(sshd):
    copy = f"{sshd.config}.new"
    Path(copy).write_text(Path(sshd.config).read_text())
    os.utime(copy, (0, 0))
    os.rename(copy, sshd.config)
    assert unread(sshd, sshd.config, "/etc/hostname", "/not/there") == [sshd.config]


def test_a_mode_or_an_owner_is_nothing_that_sshd_reads(sshd):
    os.chmod(sshd.config, 0o640)
    os.chown(sshd.config, 0, 1)
    assert unread(sshd, sshd.config, str(sshd.directory)) == []


def test_beside_an_sshd_that_is_just_starting_anew_no_other_is_started(sshd, monkeypatch):
    """Two may undo at once, so each may find what the other has told to re-read its configuration."""
    started = []
    monkeypatch.setattr(processes, "run", lambda words: started.append(words) or Output(1, "", ""))
    for _ in range(5):
        before = processes.listening_inodes(*sshd.address)
        os.kill(sshd.daemon.pid, signal.SIGHUP)
        while processes.listening_inodes(*sshd.address) == before:
            continue
        assert processes.reload(sshd.daemon, sshd.connection, True)
    assert started == []


def test_a_link_that_leads_elsewhere_now_is_new_to_sshd(sshd):
    other = sshd.directory / "other"
    other.write_text(Path(sshd.config).read_text())
    os.utime(other, (0, 0))
    os.symlink(other, f"{sshd.config}.new")
    os.rename(f"{sshd.config}.new", sshd.config)
    assert unread(sshd, sshd.config) == [sshd.config]


def test_a_directory_from_which_something_is_taken_is_new_to_sshd(sshd):
    directory = sshd.directory / "conf.d"
    directory.mkdir()
    (directory / "10.conf").touch()
    assert processes.reload(sshd.daemon, sshd.connection, False)
    assert unread(sshd, str(directory)) == []
    (directory / "10.conf").unlink()
    assert unread(sshd, str(directory)) == [str(directory)]


@pytest.mark.parametrize("said", ["1\n", "", None])
def test_where_the_pid_file_is_not_of_this_sshd_nobody_can_tell(sshd, said):
    Path(sshd.config).touch()
    assert unread(sshd, sshd.config) == [sshd.config]
    if said is None:
        os.unlink(sshd.pid_file)
    else:
        Path(sshd.pid_file).write_text(said)
    try:
        assert unread(sshd, sshd.config) == []
    finally:
        Path(sshd.pid_file).write_text(f"{sshd.daemon.pid}\n")


def test_a_pid_file_dated_in_whole_seconds_may_be_up_to_one_younger(sshd):
    Path(sshd.config).touch()
    changed = os.stat(sshd.config).st_ctime_ns
    second = changed // 10**9 * 10**9
    for written, told in ((second, []), (second - 10**9, [sshd.config]), (changed - 1, [sshd.config]), (changed, [])):
        os.utime(sshd.pid_file, ns=(written, written))
        assert unread(sshd, sshd.config) == told, written - changed
