"""An ssh-agent of one command: keys go in by a pipe, and it ends with the command, however that ends."""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from controller.cli.exits import REFUSED, UNAVAILABLE, Declined

# ssh-agent itself looks every ten seconds whether this shell lives. The shell ends with whoever holds its stdin open, at once.
_KEEPER = 'echo "$SSH_AGENT_PID"; exec >/dev/null; cat >/dev/null; kill "$SSH_AGENT_PID"'
_END_SECONDS = 10


class Agent:
    """A running ssh-agent at a socket; to be entered with `with`."""

    def __init__(self, path: Path) -> None:
        """Declined: agent_running, openssh_missing, agent_failed."""
        self.path = path
        if _answers(path):
            raise Declined(REFUSED, "agent_running", f"{path}: an ssh-agent is there already; it is used, or must be ended first")
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        # A session of its own: Ctrl-C is for the command.
        self._keeper = _started(
            ["ssh-agent", "-a", str(path), "sh", "-c", _KEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, own_session=True
        )
        assert self._keeper.stdout is not None  # noqa: S101
        if not self._keeper.stdout.readline().strip().isdigit():
            self.end()
            raise Declined(UNAVAILABLE, "agent_failed", f"{path}: ssh-agent could not be started")

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def load(self, private_key: str, seconds: int) -> None:
        """Give it a private key as OpenSSH text, for so many seconds at most. Declined(agent_failed)."""
        adding = _started(
            ["ssh-add", "-q", "-t", str(seconds), "-"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            environment={"SSH_AUTH_SOCK": str(self.path)},
        )
        _, said = adding.communicate(private_key.encode("utf-8"))
        if adding.returncode:
            raise Declined(UNAVAILABLE, "agent_failed", f"ssh-add: {said.decode('utf-8', 'replace').strip()}")

    def end(self) -> None:
        """End it, and with it what it holds."""
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._keeper.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._keeper.kill()  # the ssh-agent sees that, and ends
            self._keeper.wait()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


def run(words: Sequence[str], environment: dict[str, str] | None = None) -> int:
    """Run a program in the foreground, as a shell does, and return its exit code; 128 and its number for a signal.

    Ctrl-C is the program's, a stop stops us too, and what is to end us ends it. Declined(openssh_missing).
    """
    pid = 0

    def pass_on(number: int, _: FrameType | None) -> None:
        if pid and number in (signal.SIGTERM, signal.SIGHUP):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    taken = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
    # Handlers are not inherited by a program that is executed, as what is ignored would be.
    before = {number: signal.signal(number, pass_on) for number in taken}
    try:
        process = _started(list(words), environment=environment)
        pid = process.pid
        while True:
            _, status = os.waitpid(pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                code = process.returncode = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            os.kill(os.getpid(), signal.SIGSTOP)
            os.kill(pid, signal.SIGCONT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have the block end by an exception where this process is told to end, so that what it holds is let go."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _started(
    words: list[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    environment: dict[str, str] | None = None,
    own_session: bool = False,
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(
            words,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=os.environ | (environment or {}),
            start_new_session=own_session,
        )
    except FileNotFoundError as error:
        raise Declined(
            UNAVAILABLE, "openssh_missing", f"{words[0]}: there is no such program here; install OpenSSH's client"
        ) from error


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True
