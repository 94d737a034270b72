"""What goes through a login's own shell, whatever that is: it must reach /bin/sh as it was meant."""

import re
import shutil
import subprocess
import zlib

import pytest

from controller.transport import rope
from tests.needs import lacking

MARKER = "0123456789abcdef0123456789abcdef"
# Each reads single quotes in a way of its own. tcsh comes with the packages for tests; the others are tried where they are.
NEEDED = ("sh", "bash", "dash", "tcsh")
OTHERS = ("csh", "fish", "zsh", "ksh", "mksh", "yash", "busybox")
AGENT = zlib.compress(b"import os,sys; os.write(1, repr(sys.argv).encode())")


@pytest.mark.parametrize("how", ["none", "ask", "password"])
def test_the_command_line_holds_nothing_that_a_shell_reads_within_single_quotes(how):
    """csh takes a line's end for an unmatched quote and ! for history, fish a backslash for an escape."""
    line = rope.command_line(MARKER, how)
    assert re.fullmatch(r"exec /bin/sh -c '[^'\\!\n]*' kps [0-9a-f]{32} [a-z]+ [A-Za-z0-9+/=]*", line)
    assert line.isascii()
    assert line.isprintable()
    # Some csh have no room for longer words.
    assert all(len(word) < 1000 for word in line.replace("'", " ").split())
    assert len(line) < 2000


@pytest.mark.parametrize("shell", [*NEEDED, *filter(shutil.which, OTHERS)])
def test_a_shell_starts_the_agent(shell):
    program = shutil.which(shell)
    if program is None:
        lacking(f"there is no {shell} here")
    words = [program, *(["sh"] if shell == "busybox" else []), "-c", rope.command_line(MARKER, "none")]
    given = b"noise\nkps-agent %d\n" % len(AGENT) + AGENT
    done = subprocess.run(
        words,
        input=given,
        capture_output=True,
        timeout=20,
        check=True,
        env={"SSH_CONNECTION": "a 1 b 2", "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout == b"kps-started\n['-c', 'run', 'a 1 b 2']"
    assert done.stderr == b""
