"""What every host says of open sessions, and how it ends one: the model's, and those of a real sshd on loopback."""

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kpsagent import keys, sessions
from kpsagent.host import Account, EndSession, Lock, Session, Sessions
from tests.agent import model_host as model
from tests.contracts.places import ModelPlace
from tests.contracts.test_host_sshd import SECONDS, local
from tests.fleet.looks import until

ROOT = Account("root", 0, 0, ["root"], [], "/root", "/bin/bash", "usable", "")
OTHER = Account("nobody", 65534, 65534, ["nogroup"], [], "/", "/bin/sh", "none", "")


class ModelSessions(ModelPlace):
    """The model's sessions."""

    def open(self) -> Any:
        session = Session(100 + len(self.world.sessions), 1, 1000, "198.51.100.7 port 50000", "maybe")
        self.world.sessions += (("root", session),)
        return session

    def answers(self, session: Any) -> bool:
        return ("root", session) in self.world.sessions

    def found(self, account: Account) -> list[Session]:
        return list(self.host().do(Sessions(account, [])))

    def close(self) -> None:
        return None


class LocalSessions:
    """Sessions that OpenSSH's client opens on an sshd of this machine; those of other sshds do not concern it."""

    def __init__(self, sshd: Any) -> None:
        self.sshd = sshd
        self.key = sshd.directory / "key"
        self.clients: list[Any] = []
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        (sshd.directory / "keys").write_text(self.key.with_suffix(".pub").read_text())
        sshd.configure(f"AuthorizedKeysFile {sshd.directory}/keys\nStrictModes no\nPermitRootLogin yes\nUsePAM no\n")
        before = self._written()
        os.kill(sshd.pid(), signal.SIGHUP)
        until(lambda: self._written() not in (0, before))  # the PID file, by the one that has read the configuration
        sshd._wait_for_pid()

    def _written(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self.sshd.pid_file).st_mtime_ns
        return 0

    def host(self) -> Any:
        return self.sshd.host()

    def open(self) -> Any:
        """A client with a child of its session in the background; returned once it has said so."""
        options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "BatchMode=yes",
        ]
        words = ["ssh", "-F", "none", *[word for option in options for word in ("-o", option)], "-i", str(self.key)]
        user = pwd.getpwuid(0).pw_name
        host, port = self.sshd.address
        command = [*words, "-p", str(port), f"{user}@{host}", "sleep 1000 & echo $!; exec cat"]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.clients.append(client)
        client.background = client.stdout.readline().strip()  # type: ignore[attr-defined]
        assert client.background, "the client was not let in"
        return client

    def answers(self, client: Any) -> bool:
        if int(client.background) in sessions._processes():  # one that only waits to be collected is not there
            assert client.poll() is None
            return True
        client.wait(SECONDS)
        return False

    def found(self, account: Account) -> list[Session]:
        """What is found of our own sshd's: by the ports of our clients."""
        listening = f":{self.sshd.address[1]}"
        found = self.host().do(
            Sessions(account, [keys.fingerprint(keys.parse(self.key.with_suffix(".pub").read_text().strip()))])
        )
        peers = sessions._peers()
        ours = {peers[inode] for inode in self._inodes(listening) if inode in peers}
        return [each for each in found if each.source in ours]

    def _inodes(self, listening: str) -> list[str]:
        port = f":{int(listening[1:]):04X}"
        rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().split("\n")[1:] if line]
        return [row[9] for row in rows if row[1].endswith(port)]

    def close(self) -> None:
        for client in self.clients:
            client.kill()
            client.communicate()


@pytest.fixture(params=["model", "local"])
def place(request: Any) -> Iterator[Any]:
    if request.param == "model":
        yield ModelSessions()
        return
    with local() as sshd:
        made = LocalSessions(sshd)
        try:
            yield made
        finally:
            made.close()


def test_a_session_is_found_for_its_login_and_for_no_other(place):
    assert place.found(ROOT) == []
    place.open()
    place.open()
    assert len({each.pid for each in place.found(ROOT)}) == 2
    assert place.found(OTHER) == []


def test_a_session_ends_with_all_that_runs_in_it_and_the_others_live(place):
    first = place.open()
    (found,) = place.found(ROOT)
    second = place.open()
    host = place.host()
    host.do(Lock(True))
    assert host.do(EndSession(found)) is True
    assert not place.answers(first)
    assert place.answers(second)
    assert found not in place.found(ROOT)
    assert host.do(EndSession(found)) is True
    host.close()


def test_a_session_tells_since_when_and_from_where(place):
    place.open()
    (found,) = place.found(ROOT)
    address, word, port = found.source.split()
    assert (address.count("."), word, port.isdigit()) == (3, "port", True)
    assert found.since > 0
    assert found.used in ("yes", "maybe")


def test_a_process_of_that_number_that_came_later_is_left_alone():
    with local() as sshd:
        made = LocalSessions(sshd)
        try:
            client = made.open()
            (found,) = made.found(ROOT)
            assert sessions.end(found._replace(begun=found.begun + 1)) is True
            assert made.answers(client)
        finally:
            made.close()


def test_our_own_session_is_never_ended(monkeypatch):
    with local() as sshd:
        made = LocalSessions(sshd)
        try:
            client = made.open()
            (found,) = made.found(ROOT)
            monkeypatch.setattr(sessions.os, "getpid", lambda: int(client.background))
            assert made.found(ROOT) == []
            assert sessions.end(found) is False
            monkeypatch.undo()
            assert made.answers(client)
        finally:
            made.close()


LINE = "Nov 26 00:00:00 web sshd[77]: Accepted publickey for root from 192.0.2.1 port 50000 ssh2: ED25519 SHA256:abc"


@pytest.mark.parametrize(
    ("line", "pid"),
    [
        (LINE, 77),
        (LINE.replace("sshd[", "sshd-session["), 77),
        (LINE.replace("Accepted", "Invalid user x Accepted"), None),
        ("Nov 26 00:00:00 web sshd[5]: Invalid user sshd[77]: Accepted publickey for root from 192.0.2.1 port 50000 ssh2", None),
        (LINE.replace("sshd[77]", "mysshd[77]"), None),
        ("", None),
    ],
)
def test_only_what_sshd_says_itself_counts_as_a_login(line, pid):
    found = sessions._accepted(line)
    assert (found and found[0]) == pid


KEYS, OF_KEY, OF_ANOTHER = ["SHA256:abc"], ["publickey", "SHA256:abc"], ["publickey", "SHA256:other"]


@pytest.mark.parametrize(
    ("known", "told", "used"),
    [
        ([], [], "maybe"),
        ([], [OF_KEY], "yes"),
        ([], [OF_ANOTHER], "maybe"),
        ([], [OF_ANOTHER, OF_KEY], "yes"),
        ([OF_KEY], [OF_ANOTHER], "yes"),
        ([OF_ANOTHER], [OF_KEY], ""),
        ([OF_ANOTHER], [], ""),
    ],
)
def test_a_line_that_anybody_can_write_clears_nobody_and_says_nothing_against_the_journal(known, told, used):
    assert sessions._used(known, told, KEYS) == used


@pytest.mark.parametrize(
    ("address", "readable"),
    [
        ("0100007F", "127.0.0.1"),
        ("0000000000000000FFFF00000100007F", "127.0.0.1"),
        ("B80D0120000000000000000001000000", "2001:db8::1"),
    ],
)
def test_addresses_are_written_as_sshd_writes_them(address, readable):
    assert sessions._readable(address) == readable


def test_the_model_knows_no_sessions_of_others():
    place = ModelSessions()
    place.open()
    assert place.found(OTHER) == []
    assert isinstance(place.host(), model.ModelHost)
