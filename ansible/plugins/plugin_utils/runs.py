# SPDX-License-Identifier: Apache-2.0
"""What one run of Ansible keeps while it runs: an ssh-agent, and for each host what ssh is told. No private key is in a file."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ansible import constants as C
from ansible.errors import AnsibleConnectionFailure

KEEPER = Path(__file__).with_name("keeper.py")


def directory():
    """Return the directory of this run; with the agent's socket and public things; whoever comes first makes it."""
    # Ansible's own directory for this run: of this user alone, the same for all its workers, gone when it ends.
    own = Path(C.DEFAULT_LOCAL_TMP)
    with alone(own / "kps.lock"):
        said = own / "kps"
        if said.exists():
            found = Path(said.read_text())
            if (found / "agent").exists():
                return found
        # Apart from that: the path of a socket must be short.
        found = Path(tempfile.mkdtemp(prefix="kps-"))
        main = multiprocessing.parent_process()
        pid = os.getpid() if main is None else main.pid
        keeper = subprocess.Popen(
            [sys.executable, str(KEEPER), str(found), str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        # Not until there is a socket: it is there before anybody listens.
        with keeper.stdout as told:
            if not told.readline():
                raise AnsibleConnectionFailure("no ssh-agent could be started; is OpenSSH's client installed?")
        said.write_text(str(found))
        return found


def place(run, name):
    """Return where what concerns a host is kept."""
    return run / hashlib.sha256(name.encode("utf-8")).hexdigest()[:16]


def kept(run, name):
    """Return what was kept for a host, or None."""
    try:
        return json.loads(Path(f"{place(run, name)}.json").read_text())
    except FileNotFoundError:
        return None


def keep(run, name, what):
    """Keep what concerns a host for the rest of this run."""
    put(Path(f"{place(run, name)}.json"), json.dumps(what))


def put(at, text):
    """Write a file whole, in the place of what is there: the ssh of another worker may be reading that."""
    new = at.with_name(f"{at.name}.{os.getpid()}")
    new.write_text(text)
    new.replace(at)


def forget(name):
    """Have a host asked about anew: what is bound there has changed. Does nothing where nothing is kept."""
    with contextlib.suppress(FileNotFoundError):
        Path(f"{place(Path((Path(C.DEFAULT_LOCAL_TMP) / 'kps').read_text()), name)}.json").unlink()


def load(run, private_key, seconds):
    """Load a private key into the agent of this run, for so many seconds at most; it goes there by a pipe."""
    done = subprocess.run(
        ["ssh-add", "-q", "-t", str(seconds), "-"],
        input=private_key.encode("utf-8"),
        env={**os.environ, "SSH_AUTH_SOCK": str(run / "agent")},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise AnsibleConnectionFailure(f"ssh-add: {done.stderr.decode('utf-8', 'replace').strip()}")


def loaded(run, public_key):
    """Return whether the agent of this run has a key."""
    words = ["ssh-add", "-L"]
    env = {**os.environ, "SSH_AUTH_SOCK": str(run / "agent")}
    done = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return any(line.split()[:2] == public_key.split()[:2] for line in done.stdout.split("\n"))


@contextlib.contextmanager
def alone(path):
    """Have the block run by one worker at a time."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
