"""Where processes of one home listen, though they begin at the same moment."""

import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WORKS = """
import socket, sys
from pathlib import Path
from controller import serving

listen = socket.socket.listen
def slowly(self, *more):
    print("bound", flush=True)
    sys.stdin.readline()
    listen(self, *more)
if sys.argv[2] == "slowly":
    socket.socket.listen = slowly
with serving.as_worker(Path(sys.argv[1])):
    print("listens", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def working(home: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", _WORKS, str(home), how]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_workers_that_begin_at_the_same_moment_take_no_socket_from_each_other(tmp_path: Path) -> None:
    """What is bound and not listened to yet looks as if a dead one had left it."""
    dead = tmp_path / "worker-1.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(dead))
    with working(tmp_path, "slowly") as first:
        assert said(first) == "bound"
        with working(tmp_path, "at once") as second:
            until_through_or_waiting(second)
            go_on(first)
            assert (said(first), said(second)) == ("listens", "listens")
            assert {int(each.stem.removeprefix("worker-")) for each in tmp_path.glob("worker-*.sock")} == {first.pid, second.pid}


def until_through_or_waiting(process: subprocess.Popen[str]) -> None:
    """Return once a process has said something, or waits for a lock of a file."""
    assert process.stdout is not None
    until = time.monotonic() + 30
    while not select.select([process.stdout], [], [], 0.02)[0]:
        if any("->" in line and f" {process.pid} " in line for line in Path("/proc/locks").read_text().splitlines()):
            return
        assert time.monotonic() < until
