# SPDX-License-Identifier: Apache-2.0
"""Keeps an ssh-agent for one run of Ansible: it ends with that, however that ends, and the keys with it.

Run as a program: keeper.py DIRECTORY PID. The socket is DIRECTORY/agent; PID is Ansible's main process. It prints a line when the
agent listens there, and none where it does not.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import time

LOOK_AGAIN_SECONDS = 0.5
CLOSE_SECONDS = 5


def keep(directory, pid):
    """Have an ssh-agent in a directory until a process has ended; then both are gone."""
    os.setsid()
    for ends in (signal.SIGINT, signal.SIGHUP):
        # Ctrl-C ends Ansible, and the agent when Ansible has ended: its last tasks may still need the keys.
        signal.signal(ends, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    began = _began(pid)
    # An ssh-agent that has a command ends some seconds after it. This one reads from us, so it ends with us, even where we are
    # killed; no signal upon a parent's death (prctl) is left to a program that is setgid, as ssh-agent is.
    words = ["ssh-agent", "-a", f"{directory}/agent", "sh", "-c", 'echo "$SSH_AGENT_PID"; exec cat']
    agent = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    agent_pid = None
    try:
        agent_pid = int(agent.stdout.readline() or 0)
        if agent_pid:
            os.write(sys.stdout.fileno(), b"listens\n")
        while agent_pid and _began(agent_pid) and began and _began(pid) == began:
            time.sleep(LOOK_AGAIN_SECONDS)  # Ansible is not our child: nobody tells us when it ends
    finally:
        _close_connections(directory)
        # Its number is nobody else's: its parent, which would have to wait for it first, lives until the pipe is closed.
        if agent_pid and agent.poll() is None:
            with contextlib.suppress(OSError):
                os.kill(agent_pid, signal.SIGTERM)
        agent.stdin.close()
        agent.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _close_connections(directory):
    """Have each ssh end that keeps a connection open from this directory."""
    for path in glob.glob(f"{glob.escape(directory)}/*.cp"):
        words = ["ssh", "-F", "none", "-O", "exit", "-o", "ControlPath={}".format(path.replace("%", "%%")), "kps"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=CLOSE_SECONDS,
                check=False,
            )


def _began(pid):
    """Return what is of this process alone that has a number, or None where it has ended, waited for or not.

    When it began, as Linux tells it; elsewhere only that there is one.
    """
    try:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
            return None if fields[0] in ("Z", "X") else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if os.path.isdir("/proc/self"):
            return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "lives"
    except ProcessLookupError:
        return None
    return "lives"


if __name__ == "__main__":
    keep(sys.argv[1], int(sys.argv[2]))
