"""Real Ansible, in an environment of its own, with the collection of this tree, and a controller that it can ask over TLS."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fleet.product import KPS, Json, Product
from tests.needs import lacking

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).with_name("ansible.lock")
OLDEST = Path(__file__).with_name("ansible-oldest.lock")  # that the collection says it runs with
PLAYS = Path(__file__).with_name("plays")
SECONDS = 300


def environment(lock: Path = LOCK) -> Path:
    """Return the directory with Ansible's programs; made once for all workers, and anew where the lock has changed."""
    place = ROOT / ".cache" / f"ansible-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    place.parent.mkdir(exist_ok=True)
    with open(f"{place}.busy", "w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        if not (place / "made").exists():
            shutil.rmtree(place, ignore_errors=True)
            for words in (
                [sys.executable, "-m", "venv", place],
                [place / "bin/python", "-m", "pip", "install", "-q", "--require-hashes", "-r", lock],
            ):
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode:
                    lacking(f"ansible-core of {lock.name}; pip install --require-hashes -r {lock}: {done.stderr[-1000:]}")
            (place / "made").touch()
    return place / "bin"


class OnNetwork(Product):
    """A controller that serves TLS on loopback too, and lets its users name servers there."""

    url: str
    fingerprint: str
    access_key: str
    secret_key: str

    def __init__(self, home: Path) -> None:
        super().__init__(home, allow_networks="127.0.0.0/8", requests_per_second=200)
        made = json.loads(self.kps("access-key", "create", "--json").stdout)
        self.access_key, self.secret_key = made["access_key"], made["secret_key"]

    def serve(self) -> None:
        with open(self.home / "serve.log", "a") as log:
            self.process = subprocess.Popen(
                [KPS, "serve", "--listen", "127.0.0.1:0", "--json"],
                env=self.environment | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, (self.home / "serve.log").read_text()
            told += line
        said = json.loads(told)
        self.url, self.fingerprint = said["url"], said["fingerprint"]


@dataclass
class Played:
    """What a run of Ansible came to. told: of each task and host; printed: all that it said."""

    code: int
    printed: str
    told: list[Json]

    def of(self, task: str) -> dict[str, Json]:
        """The results of a task, by host."""
        return {each["host"]: each["result"] for each in self.told if each["task"] == task}

    def changed(self) -> set[tuple[str, str]]:
        """What changed, or would: (task, host)."""
        return {(each["task"], each["host"]) for each in self.told if each["result"].get("changed")}

    def failed(self) -> set[tuple[str, str]]:
        """What failed: (task, host)."""
        return {(each["task"], each["host"]) for each in self.told if each["came"] != "ok"}


class Ansible:
    """Ansible in a directory of its own. place: it, with the plays, inventories and temporary files."""

    def __init__(self, place: Path, served: OnNetwork, lock: Path = LOCK) -> None:
        self.programs = environment(lock)
        self.place = place
        self.served = served
        collection = place / "collections/ansible_collections/kps"
        collection.mkdir(parents=True)
        (collection / "fleet").symlink_to(ROOT / "ansible")
        for name in ("home", "temporary"):
            (place / name).mkdir()
        self.environment = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(place / "home"),
            "TMPDIR": str(place / "temporary"),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(place / "collections"),
            "ANSIBLE_CALLBACK_PLUGINS": str(PLAYS),
            "ANSIBLE_CALLBACKS_ENABLED": "told",
            "ANSIBLE_FORKS": "3",
            "ANSIBLE_TIMEOUT": "60",  # ssh's for a greeting, which a jump server in between and strace may make late
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=no",  # a socket of ssh would have too long a path here
            "ANSIBLE_LOG_PATH": str(place / "ansible.log"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "KPS_TOLD": str(place / "told"),
            "KPS_URL": served.url,
            "KPS_ACCESS_KEY": served.access_key,
            "KPS_SECRET_KEY": served.secret_key,
            "KPS_FINGERPRINT": served.fingerprint,
        }

    def run(self, program: str, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs."""
        return subprocess.run(
            [self.programs / program, *words],
            cwd=self.place,
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def play(self, play: str, inventory: Any, *words: str | Path, **more: str) -> Played:
        """Play one of the tests' plays. inventory: as Ansible reads it in JSON, or the text of a file for a plugin."""
        at = self.place / ("hosts.yml" if isinstance(inventory, dict) else "servers.kps.yml")
        at.write_text(json.dumps(inventory) if isinstance(inventory, dict) else inventory)
        told = Path(self.environment["KPS_TOLD"])
        told.unlink(missing_ok=True)
        done = self.run("ansible-playbook", "-i", at, PLAYS / play, *words, **more)
        lines = told.read_text().splitlines() if told.exists() else []
        return Played(done.returncode, done.stdout + done.stderr, [json.loads(line) for line in lines])
