"""A process that does one thing to files, seen from outside by strace: what it asks of the kernel, in order; killed at any of it.

What it does is marked by a system call before and after that nothing else makes.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.needs import lacking

ROOT = Path(__file__).parents[2]
MARK = "getpriority"
CHANGES = ("write", "fsync", "fdatasync", "fchown", "fchmod", "fchmodat", "fchownat", "fsetxattr", "fremovexattr", "ftruncate")
NAMES = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir")
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)\) += (.*)$")
_UNFINISHED = " <unfinished ...>"

CHILD = f"""
import os, sys
sys.path.insert(0, sys.argv[1])
from kpsagent import files, host, local
home, state, uid, gid = sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
zoe = host.Account("zoe", uid, gid, [], [], home, "/bin/sh", "none", "")
path = home + "/authorized_keys"
here = local.LocalHost(state)
here.do(host.Lock(True))
{{before}}
os.{MARK}(os.PRIO_PROCESS, 0)
{{act}}
os.{MARK}(os.PRIO_PROCESS, 0)
"""


class Call(NamedTuple):
    """One system call. count: which of its name it is, from the start of the process on.

    by_child: a child makes it; one that is killed there has not done it, and its parent goes on.
    """

    name: str
    arguments: str
    result: str
    count: int
    by_child: bool

    @property
    def known(self) -> bool:
        """Whether it can be told from the others of its name in the other process: they are counted for each."""
        return not self.by_child or self.name == "renameat2"

    @property
    def changes(self) -> bool:
        return self.name in CHANGES + NAMES or (self.name == "openat" and "O_CREAT" in self.arguments)


class Child:
    """The process, ready to be run as often as one likes."""

    def __init__(self, directory: Path, home: str, uid: int, gid: int) -> None:
        if not shutil.which("strace"):
            lacking("strace")
        # A copy of its own: nobody else's compiled files come and go in it, so that every run makes the same calls.
        self.agent = directory / "agent"
        shutil.copytree(ROOT / "kpsagent", self.agent / "kpsagent", ignore=shutil.ignore_patterns("__pycache__"))
        self.trace = directory / "trace"
        self.arguments = [str(self.agent), home, str(directory / "state"), str(uid), str(gid)]

    def run(self, act: str, *strace: str, before: str = "") -> int:
        """Run act after before, and return the exit code: -9 where the process was killed."""
        code = CHILD.format(act=act, before=before)
        command = ["strace", "-f", "-y", "-s", "64", "-o", str(self.trace), *strace]
        python = [os.path.realpath(sys.executable), "-I", "-S", "-E", "-B", "-c", code]
        return subprocess.run([*command, *python, *self.arguments], stderr=subprocess.DEVNULL, check=False).returncode

    def calls(self, act: str, before: str = "") -> list[Call]:
        """Run act to its end and return the calls between the marks."""
        assert self.run(act, before=before) == 0
        counts: dict[str, int] = {}
        inside, marks, first = [], 0, ""
        begun: dict[str, str] = {}  # of a process that another came in between
        for line in self.trace.read_text(errors="replace").split("\n"):
            pid, _, rest = line.partition(" ")
            if line.endswith(_UNFINISHED):
                begun[pid] = line[: -len(_UNFINISHED)]
                continue
            if rest.lstrip().startswith("<... "):
                line = begun.pop(pid, "") + rest.partition(" resumed>")[2]
            call = _CALL.match(line)
            if call is None:
                continue
            first = first or call[1]
            name = call[2]
            counts[call[1] + name] = counts.get(call[1] + name, 0) + 1
            marks += name == MARK
            if marks == 1 and name != MARK:
                inside.append(Call(name, call[3], call[4], counts[call[1] + name], call[1] != first))
        assert marks == 2
        return inside

    def killed_at(self, act: str, call: Call, before: str = "") -> None:
        """Run act, and kill whoever makes this call as they make it."""
        code = self.run(act, "-e", f"trace={call.name}", "-e", f"inject={call.name}:signal=KILL:when={call.count}", before=before)
        assert code in ((0,) if call.by_child else (-9, 137)), (code, call)

    def failed_at(self, act: str, call: Call, error: str, before: str = "") -> int:
        """Run act, and have this call fail."""
        return self.run(
            act, "-e", f"trace={call.name}", "-e", f"inject={call.name}:error={error}:when={call.count}", before=before
        )
