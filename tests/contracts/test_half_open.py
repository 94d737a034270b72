"""A connection that sshd has just forked for is told from sshd itself, by a process tree that stands still at that moment."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from kpsagent import halfopen

_LISTENER = "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"
# Takes one connection and forks for it, as sshd does. The child has the listener's title and, if asked, what it listens on, until
# it is told to go on; then it is what sshd is before a login is named.
_SSHD = """
import os, socket, sys
listening, program, told = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
connection, _ = socket.socket(fileno=os.dup(listening)).accept()
with open("/proc/self/comm", "w") as name:
    name.write("sshd")
if not os.fork():
    if "closed" in sys.argv:
        os.close(listening)
    connection.set_inheritable(True)
    os.write(told, b"%d\\n" % os.getpid())
    os.set_inheritable(told, False)
    sys.stdin.readline()
    os.execv(program, ["sshd: [accepted]"])
os.close(told)
connection.close()
os.wait()
"""


class Forked:
    """What listens, and its child for the connection: that one holds still until goes_on()."""

    def __init__(self, directory: Path, holds: str) -> None:
        program = directory / "sshd"
        program.symlink_to(shutil.which("cat") or "/bin/cat")  # waits for input
        reads, told = os.pipe()
        self._told = os.fdopen(reads)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._client = socket.create_connection(listening.getsockname())
            given = [str(listening.fileno()), program, str(told), holds]
            self.listener = subprocess.Popen(
                [_LISTENER, "-Sc", _SSHD, *given],
                executable=sys.executable,
                env={**os.environ, "PYTHONHOME": sys.base_prefix},
                stdin=subprocess.PIPE,
                pass_fds=[listening.fileno(), told],
            )
        os.close(told)
        self.connection = [str(each) for end in (self._client.getsockname(), self._client.getpeername()) for each in end]
        self._child = os.pidfd_open(int(self._told.readline()))

    def goes_on(self, _: float) -> None:
        """Have the child write its own title, and return once it has."""
        assert self.listener.stdin is not None
        self.listener.stdin.write(b"\n")
        self.listener.stdin.flush()
        assert self._told.read() == ""

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._child, signal.SIGKILL)
        os.close(self._child)
        self.listener.communicate()
        self._client.close()
        self._told.close()


@pytest.fixture(params=["held", "closed"])
def forked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Forked]:
    """What sshd listens on is held by the child too, or closed there."""
    found = Forked(tmp_path, request.param)
    yield found
    found.close()


def test_who_has_just_been_forked_is_waited_for_and_ended(forked, monkeypatch):
    monkeypatch.setattr(halfopen, "time", SimpleNamespace(sleep=forked.goes_on))
    assert halfopen.end("alice", "", forked.connection) == 1
    assert forked.listener.wait(30) == 0  # it waits for its child
