"""The demo as it is typed: its story is told to the end, or ends with Ctrl-C, and nothing of it stays."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.fleet.product import KPS
from tests.needs import lacking

SECONDS = 240
NO_FLEET, INTERRUPTED = 5, 130


class Demo:
    """`kps demo --json` in a process group of its own, as a terminal starts it."""

    def __init__(self, temporary: Path) -> None:
        self.temporary = temporary
        environment = os.environ | {"TMPDIR": str(temporary)}
        self.process = subprocess.Popen(
            [KPS, "demo", "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Wait until it ends and return its exit code and what it printed."""
        out, errors = self.process.communicate(timeout=SECONDS)
        if self.process.returncode == NO_FLEET:
            lacking(errors)
        return self.process.returncode, out, errors

    def left(self) -> list[str]:
        """What there is of it on this machine: files, mounts, processes."""
        own = str(self.temporary)
        found = [str(path) for path in self.temporary.iterdir()]
        found += [line for line in Path("/proc/mounts").read_text().split("\n") if own in line]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue  # it has ended, or was there before us
            if own.encode() in told and int(process.name) != os.getpid():
                found.append(f"{process.name}: {told!r}")
        return found


@pytest.fixture
def demo(tmp_path):
    started = Demo(tmp_path)
    yield started
    if started.process.poll() is None:
        os.killpg(started.process.pid, signal.SIGKILL)
        started.process.communicate()


@pytest.mark.long
def test_the_story_is_told_to_its_end_and_every_check_holds(demo):
    code, out, errors = demo.end()
    assert code == 0, errors
    told = json.loads(out)
    assert [check for check in told["checks"] if not check["held"]] == []
    assert told["held"] == len(told["checks"]) >= 25
    assert len({check["step"] for check in told["checks"]}) >= 7
    assert demo.left() == []


@pytest.mark.long
def test_ctrl_c_in_the_middle_of_the_story_ends_it_and_leaves_nothing(demo):
    said = ""
    while "passwords go off" not in said:
        line = demo.process.stderr.readline()
        if not line:
            demo.end()
        assert line, said
        said += line
    os.killpg(demo.process.pid, signal.SIGINT)
    code, out, errors = demo.end()
    assert code == INTERRUPTED, errors
    assert out == ""
    assert "Replace" not in errors, "the story went on"
    assert demo.left() == []
