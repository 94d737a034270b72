# SPDX-License-Identifier: Apache-2.0
"""Keeps an ssh-agent for one run of Ansible: it ends with that, however that ends, and the keys with it.

Run as a program: keeper.py DIRECTORY PID. The socket is DIRECTORY/agent; PID is Ansible's main process.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

READY_SECONDS = 10
LOOK_AGAIN_SECONDS = 0.5


def keep(directory, pid):
    """Have an ssh-agent in a directory until a process has ended; then both are gone."""
    os.setsid()
    for ends in (signal.SIGINT, signal.SIGHUP):
        # Ctrl-C ends Ansible, and the agent when Ansible has ended: its last tasks may still need the keys.
        signal.signal(ends, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", f"{directory}/agent"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while agent.poll() is None and _lives(pid):
            time.sleep(LOOK_AGAIN_SECONDS)
    finally:
        agent.terminate()
        agent.wait()
        shutil.rmtree(directory, ignore_errors=True)


def _lives(pid):
    """Return whether a process has not ended; one that has, and is not waited for, has."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    keep(sys.argv[1], int(sys.argv[2]))
