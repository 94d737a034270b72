"""What kps has in its memory stays there: no core dump, and no look from a process of the same user."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.settings import Settings
from tests.controller.faces import KPS
from tests.needs import lacking


@pytest.fixture
def serving(made: Any, settings: Settings) -> Iterator["subprocess.Popen[str]"]:
    """kps serve, started by somebody who lets programs dump as much as they like."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    process = subprocess.Popen(
        [KPS, "serve"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=settings.home.parent,
        env={"PATH": os.environ["PATH"], "KPS_HOME": str(settings.home)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("serving")
    yield process
    process.kill()
    process.communicate()


def test_a_controller_that_crashes_leaves_no_core_dump(serving: "subprocess.Popen[str]", settings: Settings) -> None:
    limits = Path(f"/proc/{serving.pid}/limits").read_text().split("\n")
    assert next(line for line in limits if line.startswith("Max core file size")).split()[4:6] == ["0", "0"]
    os.kill(serving.pid, signal.SIGABRT)
    _, status = os.waitpid(serving.pid, 0)
    assert (os.WTERMSIG(status), os.WCOREDUMP(status)) == (signal.SIGABRT, False)
    assert not [path for path in settings.home.parent.iterdir() if path.name.startswith("core")]


# Run as a user without rights: what root may do says nothing.
SECRETIVE = """
import os, sys
from controller.privacy import keep_memory_private
os.setgroups([]); os.setgid(65534); os.setuid(65534)
import ctypes
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # changing the user has ended dumpable; a program that is started begins with it
if sys.argv[1] == "private":
    keep_memory_private()
print("ready", flush=True)
sys.stdin.read()
"""
CURIOUS = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for name in ("environ", "mem"):
    try:
        open(f"/proc/{sys.argv[1]}/{name}", "rb").close()
        print(name, "open")
    except PermissionError:
        print(name, "closed")
"""


@pytest.mark.parametrize(("how", "seen"), [("private", "closed"), ("as usual", "open")])
def test_another_process_of_the_same_user_does_not_look_in(how: str, seen: str) -> None:
    if os.geteuid() != 0:
        lacking("this takes root, to become two processes of another user; run the tests as root")
    # Without a capability: where CAP_SYS_PTRACE is, everything can be looked into.
    with subprocess.Popen(
        [sys.executable, "-c", SECRETIVE, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        looked = subprocess.run([sys.executable, "-c", CURIOUS, str(process.pid)], check=True, capture_output=True, text=True)
        process.stdin.close()
    assert looked.stdout.split("\n")[:-1] == [f"environ {seen}", f"mem {seen}"]


ANY_COMMAND = """
import atexit, ctypes, resource, sys
import controller.cli
atexit.register(lambda: print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)))
sys.argv = ["kps", "keypair", "list", "--home", "/nonexistent"]
controller.cli.main()
"""


def test_every_command_begins_with_it() -> None:
    begun = subprocess.run([sys.executable, "-c", ANY_COMMAND], capture_output=True, text=True, check=False)
    assert (begun.returncode, begun.stdout) == (5, "0 (0, 0)\n")
