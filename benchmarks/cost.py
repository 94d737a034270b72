"""What a command costs with every process that it starts, those that it leaves behind included.

CPU is user and system time as wait(2) tells it; memory is what all its processes hold at the same time, each page that several
share counted once (Pss: proc(5)), looked at a few times a second. A tool may leave processes that go on in the background, as
Ansible does with OpenSSH's shared connections, in which its key exchanges are: these come to whoever started the tool
(PR_SET_CHILD_SUBREAPER: prctl(2)), are ended, and count too.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LOOK_SECONDS = 0.25
PATIENCE_SECONDS = 10.0


class Cost(NamedTuple):
    """Seconds of CPU and of the wall clock, MiB at the peak of all processes together, and how it ended."""

    cpu: float
    wall: float
    peak: float
    status: int
    said: str  # the end of what it wrote


def cost_of(argv: Sequence[str], *, given: str = "", env: Mapping[str, str] | None = None) -> Cost:
    """Run a command to its end, in this checkout and given this as its input, and return what it cost."""
    with tempfile.TemporaryFile("w+") as said, tempfile.NamedTemporaryFile("r") as told:
        command = [sys.executable, "-m", "benchmarks.cost", told.name, *argv]
        subprocess.run(command, input=given, text=True, stdout=said, stderr=said, env=env, cwd=ROOT, check=True)
        said.seek(0)
        found = json.load(told)
        return Cost(*found, said.read()[-4000:])


def _main(told: str, argv: Sequence[str]) -> None:
    from controller.demo.kernel import adopt_orphans

    adopt_orphans()
    peak, over = 0, threading.Event()
    began = time.monotonic()
    process = subprocess.Popen(argv)

    def look() -> None:
        nonlocal peak
        pause = 0.0
        while not over.wait(pause):
            before = time.monotonic()
            peak = max(peak, sum(map(_held, _descendants())))
            # A look at hundreds of processes takes its time: at most a tenth of one core.
            pause = max(LOOK_SECONDS, 10 * (time.monotonic() - before))

    looker = threading.Thread(target=look)
    looker.start()
    status = process.wait()
    wall = time.monotonic() - began
    over.set()
    looker.join()
    _end_the_rest()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    largest = max(peak / 1024, used.ru_maxrss / 1024)  # of one that was gone before it was looked at
    Path(told).write_text(json.dumps([used.ru_utime + used.ru_stime, wall, largest, status]))


def _descendants() -> list[int]:
    """Return the processes below this one."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(name))
    found = list(children.get(os.getpid(), ()))
    for pid in found:
        found += children.get(pid, ())
    return found


def _held(pid: int) -> int:
    """Return the KiB that a process holds; its share of what it shares."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n"):
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _end_the_rest() -> None:
    """End what the command left running, and collect it."""
    until = time.monotonic() + PATIENCE_SECONDS
    while left := _descendants():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
