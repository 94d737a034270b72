"""How soon doors are open where much else waits: 200 real servers by one command, while 1,000 ordinary tasks are queued.

    python -m benchmarks.emergency                      # some minutes
    python -m benchmarks.emergency --doors 20 --queued 100

The ordinary tasks are looks at fakes (benchmarks/fakes.py); the doors are opened on real sshd of this machine. All go through one
`kps serve`. What began when is read from its database afterwards: no ordinary task may have begun between the moment at which the
doors were asked for and that at which the last of them was begun.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from benchmarks.fakes import PASSWORD, Fakes
from benchmarks.table import Row, show
from controller.demo.fleet import Fleet, Server, Spec

REASON = ("--reason", "measured", "--for", "10m")
SHUT = "PasswordAuthentication yes\nPermitRootLogin yes\n"


class Seen(NamedTuple):
    """What became of it. Times in seconds from when the doors were asked for; overtaken: ordinary tasks that began first."""

    doors: int
    open: int
    waiting: int  # ordinary tasks that had not begun when the doors were asked for
    overtaken: int
    first: float
    last: float
    begun: float  # the last of them
    command: float


class Home:
    """A home that is served, and its commands."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.environment = {**os.environ, "KPS_HOME": str(place / "home")}

    def kps(self, *words: str, given: str = "", check: bool = True) -> str:
        """Run a command and return what it said; SystemExit where it did not end well."""
        done = subprocess.run(self.words(*words), input=given, env=self.environment, capture_output=True, text=True)
        if check and done.returncode:
            sys.exit(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "controller.cli", *words]

    @contextmanager
    def served(self) -> Iterator[None]:
        """Have the home served while the block runs."""
        socket = self.place / "home/kps.sock"
        with open(self.place / "serve.log", "wb") as log:
            process = subprocess.Popen(self.words("serve"), env=self.environment, stdout=log, stderr=log)
            try:
                while not socket.exists():
                    if process.poll() is not None:
                        sys.exit((self.place / "serve.log").read_text()[-2000:])
                    time.sleep(0.05)
                yield
            finally:
                process.terminate()
                process.wait(120)

    def asked(self, query: str) -> list[tuple[Any, ...]]:
        """Return rows of the database."""
        with closing(sqlite3.connect(f"file:{self.place}/home/kps.db?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()


def prepared(home: Home, real: list[Server], fakes: Fakes) -> None:
    """Have a home that knows both, and the real ones bound, so that they take no password."""
    home.kps("init")
    home.kps("keypair", "create", "ops")
    rows = [f"{each.name},{each.host},{each.port},root,kind=real,{each.public_host_key}" for each in real]
    rows += [f"fake-{number},{each},{fakes.port},root,kind=fake,{fakes.host_key}" for number, each in enumerate(fakes.addresses)]
    (home.place / "fleet.csv").write_text("\n".join(["name,host,port,login,labels,host_key", *rows, ""]))
    home.kps("server", "import", str(home.place / "fleet.csv"))
    passwords = "".join(f"{each.name}\t{each.root_password}\n" for each in real)
    home.kps("bind", "kind=real", "--keypair", "ops", "--password-stdin", "--json", given=passwords)


def measure(doors: int, queued: int, console: Console) -> Seen:
    """Open so many doors while so many ordinary tasks are queued."""
    with tempfile.TemporaryDirectory() as place, Fleet(max_age_seconds=3600) as fleet, Fakes(queued) as fakes:
        home = Home(Path(place))
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("servers are made and bound", total=doors + 1)
            real = []
            for _ in range(doors):
                real.append(fleet.add(Spec(sshd_config_top=SHUT)))
                progress.advance(bar)
            prepared(home, real, fakes)
        with home.served():
            given = "".join(f"fake-{number}\t{PASSWORD}\n" for number in range(queued))
            ordinary = subprocess.Popen(
                home.words("server", "check", "kind=fake", "--password-stdin", "--json"), env=home.environment,
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
            )  # fmt: skip
            if ordinary.stdin is None:
                raise RuntimeError("a pipe was asked for")
            ordinary.stdin.write(given)
            ordinary.stdin.close()
            while not home.asked("SELECT 1 FROM tasks WHERE operation = 'check' AND started_at IS NOT NULL"):
                time.sleep(0.02)
            began = time.monotonic()
            home.kps("emergency", "open", "kind=real", *REASON, "--json", check=False)
            command = time.monotonic() - began
            ordinary.wait(600)
        return judged(home, command)


def judged(home: Home, command: float) -> Seen:
    """Tell from the database what began when. Events' ids tell the order: a clock is read before a task is on the disk."""
    told: dict[tuple[str, str], list[tuple[int, float]]] = {}
    query = "SELECT operation, kind, events.id, at FROM events JOIN tasks ON task_id = tasks.id ORDER BY events.id"
    for operation, kind, number, at in home.asked(query):
        told.setdefault((operation, kind), []).append((number, datetime.fromisoformat(at).timestamp()))
    (first, asked), (last, begun) = told["door-open", "task_ready"][0], told["door-open", "task_running"][-1]
    ordinary = [number for number, _ in told["check", "task_running"]]
    ended = home.asked("SELECT finished_at FROM tasks WHERE operation = 'door-open' AND status = 'succeeded'")
    opened = sorted(datetime.fromisoformat(at).timestamp() - asked for (at,) in ended) or [float("nan")]
    return Seen(
        doors=len(told["door-open", "task_ready"]),
        open=len(ended),
        waiting=sum(number > first for number in ordinary),
        overtaken=sum(first < number < last for number in ordinary),
        first=opened[0],
        last=opened[-1],
        begun=begun - asked,
        command=command,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--doors", type=int, default=200)
    parser.add_argument("--queued", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    console = Console(stderr=asked.json, width=None if sys.stdout.isatty() else 120)
    seen = measure(asked.doors, asked.queued, Console(stderr=True))
    rows = [
        Row("doors that are open, of those that were asked for", f"{seen.doors}", f"{seen.open}", seen.open == seen.doors),
        Row("ordinary tasks that waited when the doors were asked for", "", f"{seen.waiting}", None),
        Row("ordinary tasks that began before the last door did", "0", f"{seen.overtaken}", seen.overtaken == 0),
        Row("until the first door is open", "", f"{seen.first:.1f} s", None),
        Row("until the last door is begun", "", f"{seen.begun:.1f} s", None),
        Row("until the last door is open", "", f"{seen.last:.1f} s", None),
        Row("until the command has ended", "", f"{seen.command:.1f} s", None),
    ]
    show(rows, console)
    if asked.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))


if __name__ == "__main__":
    main()
