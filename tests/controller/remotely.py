"""A controller served over TLS, and people at other machines who have an access key and nothing else."""

import json
import os
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from controller.cli import app
from controller.client import Remote
from controller.model import Secret
from controller.service.certificate import ensure
from tests.controller.faces import KPS, here

SECONDS = 120


def elsewhere(environment: Mapping[str, str], *words: str, stdin: str = "") -> Result:
    """Run kps in this process with this environment, in which nothing else speaks of a controller."""
    silent = dict.fromkeys([*(name for name in os.environ if name.startswith("KPS_")), "XDG_CONFIG_HOME", "COLUMNS"])
    return CliRunner().invoke(app, list(words), input=stdin, env=silent | dict(environment))


@dataclass
class Person:
    """Somebody at another machine: an access key, and a directory of their own in which there is no home."""

    place: Path
    access_key: str
    secret_key: str

    def kps(self, served: "Served", *words: str, stdin: str = "", **environment: str) -> Result:
        """Run kps as they do, with all that it needs in the environment."""
        return elsewhere(self.environment(served) | environment, *words, stdin=stdin)

    def environment(self, served: "Served") -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.place),
            "KPS_URL": served.url,
            "KPS_ACCESS_KEY": self.access_key,
            "KPS_SECRET_KEY": self.secret_key,
            "KPS_FINGERPRINT": served.fingerprint,
        }


class Served:
    """A home, and the controller that serves it over TLS; started again it takes the same port."""

    def __init__(self, home: Path) -> None:
        self.home = home
        # Bound all the time, by who does not listen: nobody else is given the port while the controller is away.
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", 0))
        self.port = self._kept.getsockname()[1]
        assert here(home, "init").exit_code == 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [KPS, "serve", "--listen", f"127.0.0.1:{self.port}", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={"PATH": os.environ["PATH"], "KPS_HOME": str(self.home), "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        told = ""
        while not told.endswith("}\n"):
            line = self.process.stdout.readline()
            assert line, told
            told += line
        self.url, self.fingerprint = json.loads(told)["url"], json.loads(told)["fingerprint"]

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=SECONDS)
        self._kept.close()

    def kill(self) -> None:
        """End it without a word: told to stop it would let its tasks end first."""
        self.process.kill()
        self.process.communicate(timeout=SECONDS)

    def person(self, name: str, role: str, place: Path) -> Person:
        place.mkdir()
        assert here(self.home, "user", "create", name, "--role", role).exit_code == 0
        made = json.loads(here(self.home, "access-key", "create", "--user", name, "--json").stdout)
        return Person(place, made["access_key"], made["secret_key"])

    def remote(self, person: Person, **changes: Any) -> Remote:
        known = {"fingerprint": self.fingerprint} | changes
        return Remote(self.url, person.access_key, Secret(person.secret_key), **known)


def another_certificate(place: Path) -> Path:
    ensure(place / "another.crt", place / "another.key")
    return place / "another.crt"
