"""A terminal on which commands are typed and run, with all that it shows and when: asciicast v2.

Format: https://docs.asciinema.org/manual/asciicast/v2/
"""

import fcntl
import json
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROMPT = "\x1b[1;32m$\x1b[0m "
KEY_SECONDS, ENTER_SECONDS = 0.02, 0.6  # between two letters that are typed, and before what follows the last one


@dataclass
class Recording:
    """What a terminal of so many columns and rows has shown: moments in seconds, with what was written then."""

    columns: int
    rows: int
    shown: list[tuple[float, str]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.shown[-1][0] if self.shown else 0.0

    def run(self, command: str, env: Mapping[str, str], cwd: Path) -> int:
        """Type a command, of several lines perhaps, run it by the shell, and return its exit code."""
        now = self.seconds + ENTER_SECONDS
        self._show(now, PROMPT)
        for letter in command:
            now += KEY_SECONDS
            self._show(now, "\r\n" if letter == "\n" else letter)
        now += ENTER_SECONDS
        self._show(now, "\r\n")
        pid, terminal = pty.fork()
        if pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.columns, 0, 0))
            os.chdir(cwd)
            # Some programs believe these before they ask the terminal.
            size = {"COLUMNS": str(self.columns), "LINES": str(self.rows)}
            os.execvpe("/bin/sh", ["/bin/sh", "-c", command], {**env, **size, "TERM": "xterm-256color"})  # noqa: S606 - ours
        began, unread = time.monotonic(), b""
        while piece := _read(terminal):
            unread += piece
            try:
                text, unread = unread.decode(), b""
            except UnicodeDecodeError:
                continue  # a letter is cut in two
            self._show(now + time.monotonic() - began, text)
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _show(self, at: float, text: str) -> None:
        self.shown.append((at, text))

    def write(self, path: Path) -> None:
        """Write it as asciicast v2."""
        lines = [
            {"version": 2, "width": self.columns, "height": self.rows},
            *([round(at, 3), "o", text] for at, text in self.shown),
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def read(cls, path: Path) -> "Recording":
        """Return what write() has written."""
        head, *lines = map(json.loads, path.read_text().splitlines())
        return cls(head["width"], head["height"], [(at, text) for at, kind, text in lines if kind == "o"])


def _read(terminal: int) -> bytes:
    """Return what comes next, or nothing at the end."""
    select.select([terminal], [], [])
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux tells the end of the last process there so: EIO
        return b""
