"""Driving the faces: the real CLI as a program or in this process, and servers whose answer is a line in a dict."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from typer import testing
from typer.testing import CliRunner, Result

from controller.cli import app
from controller.dispatch import InProcess
from controller.model import Credential, Outcome, Task
from controller.run import Runner
from controller.settings import Settings

# typer's runner puts all commands together anew for each that it runs, which takes longer than most of them.
testing._get_command = functools.cache(testing._get_command)

KPS = Path(sys.executable).with_name("kps")

SUCCEEDED = Outcome(
    "succeeded",
    "as_asked",
    proofs=[
        {"way": "key", "login": "root", "method": "logged_in"},
        {"way": "password", "login": "root", "method": "refused"},
    ],
)
TIMED_OUT = Outcome(
    "failed",
    "as_before",
    phase="connect",
    cause="connection_timed_out",
    message="web-2: 192.0.2.2:22 does not answer",
    evidence={"host": "192.0.2.2", "port": 22},
    handling="Look whether it is up.\nAdmit 10.0.0.1 to port 22.",
    retryable=True,
)

Given = dict[str, Credential | None]


def answering(outcomes: Mapping[str, Outcome], given: Given) -> Callable[[Settings, Runner, str], InProcess]:
    """Return a stand-in for controller.app.dispatching: a server answers what outcomes says, else that all is as asked.

    What was given to open each server is noted in given.
    """

    def dispatching(settings: Settings, runner: Runner, owner: str) -> InProcess:
        store = runner.means.store

        async def run(task: Task, credential: Credential | None) -> None:
            given[task.server_name] = credential
            outcome = outcomes.get(task.server_name, SUCCEEDED)
            await runner.means.off(store.progress, task.id, owner, "look", {})
            await runner.means.off(store.finish, task.id, owner, task.generation, outcome)

        return InProcess(runner, run, owner, settings.concurrency)

    return dispatching


def here(home: Path, *words: str, stdin: str | None = None) -> Result:
    """Run kps in this process, where starting a program for it would prove nothing more."""
    return CliRunner().invoke(app, list(words), input=stdin, env={"KPS_HOME": str(home), "COLUMNS": None})


class Kps(Protocol):
    """Runs kps, and sees that it ends with this exit code."""

    def __call__(self, *words: object, stdin: str | None = None, code: int = 0) -> Result: ...


def ending(home: Path) -> Kps:
    """Return what runs kps in this process on a home."""

    def run(*words: object, stdin: str | None = None, code: int = 0) -> Result:
        result = here(home, *map(str, words), stdin=stdin)
        assert result.exit_code == code, (result.stdout, result.stderr)
        return result

    return run


def with_two_servers(home: Path) -> Kps:
    """Return what runs kps in this process on a home, to which web-1 and web-2 were added."""
    run = ending(home)
    for server in ("web-1", "web-2"):
        run("server", "add", server, "192.0.2.1", "--trust-on-first-use")
    return run


def program(home: Path, *words: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run kps as a user does, on this home."""
    return subprocess.run(
        [KPS, *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(home.parent), "KPS_HOME": str(home), **environment},
    )
