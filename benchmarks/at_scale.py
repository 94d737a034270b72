"""What a server costs the controller, from a hundred servers to ten thousand: CPU, connections a second, memory.

    python -m benchmarks.at_scale                       # fakes: 100, 1,000 and 10,000; some minutes
    python -m benchmarks.at_scale --servers 100 1000

The servers are fakes (benchmarks/fakes.py) in a process of their own, on another core than the controller where there are two.
Every command is a process of its own too, and works on a home of its own with a real store. CPU is user and system time from
wait4(2). What a server costs is marginal: the difference between two sizes, so that the start counts nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.fakes import PASSWORD, Fakes, bare
from benchmarks.table import Row, show

IN_ONE_FILE = 2000  # servers: a larger file is refused
ROLLOUT = ("--all", "--canary", "0", "--batch", "100%")


class Cost(NamedTuple):
    """Of one command: seconds of CPU and of the wall clock, MiB at its peak, and how many connections the servers saw."""

    cpu: float
    wall: float
    peak: float
    connections: int


class Goal(NamedTuple):
    """A figure, and what it should be at most, or at least."""

    name: str
    unit: str
    most: float | None = None
    least: float | None = None

    def met(self, value: float) -> bool:
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)

    def said(self) -> str:
        return f"<= {self.most:g}" if self.most is not None else f">= {self.least:g}"


GOALS = {
    "connection": Goal("client CPU of one more connection", "ms", most=1.5),
    "check": Goal("client CPU of an operation without a proof", "ms", most=1.6),
    "replace": Goal("client CPU of a replace with its proofs", "ms", most=4.5),
    "bind": Goal("client CPU of a bind that closes passwords", "ms", most=6.0),
    "rate": Goal("connections a second, one core", "/s", least=500),
    "peak": Goal("peak memory of the largest rollout", "MiB", most=100),
    "flat": Goal("cost of a replace, largest against smallest", "%", most=20),
}


class Fleet:
    """A home, and so many fakes that it knows."""

    def __init__(self, fakes: Fakes, place: Path, cores: Sequence[int]) -> None:
        self._fakes = fakes
        self._cores = cores
        self._environment = {**os.environ, "KPS_HOME": str(place / "home")}
        self.kps("init")
        rows = [f"s{number},{each},{fakes.port},root,{fakes.host_key}" for number, each in enumerate(fakes.addresses)]
        for start in range(0, len(rows), IN_ONE_FILE):
            lines = ["name,host,port,login,host_key", *rows[start : start + IN_ONE_FILE], ""]
            (place / "fleet.csv").write_text("\n".join(lines))
            self.kps("server", "import", str(place / "fleet.csv"))
        for name in ("one", "two"):
            self.kps("keypair", "create", name)

    def kps(self, *words: str, given: str = "") -> Cost:
        """Run a command and return what it cost; SystemExit where it did not end well."""
        command = [sys.executable, "-m", "controller.cli", *words, "--json"]
        before = self._connections()
        began = time.monotonic()
        with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as told:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=told, text=True, env=self._environment)
            if self._cores:
                os.sched_setaffinity(process.pid, self._cores)
            if process.stdin is None:
                raise RuntimeError("a pipe was asked for")
            process.stdin.write(given)
            process.stdin.close()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                said.seek(0)
                told.seek(0)
                sys.exit(f"{' '.join(words)}: {said.read()[-2000:]}{told.read()[-2000:]}")
        wall = time.monotonic() - began
        return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024, self._connections() - before)

    def _connections(self) -> int:
        return sum(each["connections"] for each in self._fakes.seen()[1].values())

    def operations(self) -> dict[str, Cost]:
        """Bind, replace and check all servers, and see that each was left as asked."""
        passwords = "".join(f"s{number}\t{PASSWORD}\n" for number in range(len(self._fakes.addresses)))
        costs = {"bind": self.kps("rollout", "start", "bind", *ROLLOUT, "--keypair", "one", "--password-stdin", given=passwords)}
        costs["replace"] = self.kps("rollout", "start", "replace", *ROLLOUT, "--keypair", "two")
        costs["check"] = self.kps("rollout", "start", "check", *ROLLOUT)
        public = subprocess.run(
            [sys.executable, "-m", "controller.cli", "keypair", "show", "two", "--json"],
            env=self._environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        wanted = {bare(json.loads(public)["public_key"])}
        wrong = [name for name, each in self._fakes.seen()[1].items() if each["keys"] != wanted or each["passwords"]]
        if wrong:
            sys.exit(f"{len(wrong)} servers are not as they were to be left, such as {wrong[0]}")
        return costs


def measure(servers: Sequence[int], console: Console) -> dict[int, dict[str, Cost]]:
    """Return what the operations cost at each of these sizes."""
    cores = sorted(os.sched_getaffinity(0))
    ours, theirs = (cores[:1], cores[1:2]) if len(cores) > 1 else ((), ())
    found = {}
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("servers", total=sum(servers))
        for count in servers:
            with tempfile.TemporaryDirectory() as place, Fakes(count, theirs) as fakes:
                found[count] = Fleet(fakes, Path(place), ours).operations()
            progress.advance(bar, count)
    return found


def figures(found: dict[int, dict[str, Cost]]) -> dict[str, float]:
    """Return the figures of GOALS."""
    sizes = sorted(found)
    small, large = found[sizes[0]], found[sizes[-1]]
    more = sizes[-1] - sizes[0]

    def each_more(operation: str) -> float:
        return (large[operation].cpu - small[operation].cpu) * 1000 / more

    connections = sum(cost.connections for cost in large.values())
    told = {operation: each_more(operation) for operation in ("check", "replace", "bind")}
    told["connection"] = sum(told.values()) * more / (connections - sum(cost.connections for cost in small.values()))
    told["rate"] = connections / sum(cost.wall for cost in large.values())
    told["peak"] = max(cost.peak for cost in large.values())
    if len(sizes) > 2:
        middle = found[sizes[1]]["replace"].cpu
        first = (middle - small["replace"].cpu) / (sizes[1] - sizes[0])
        last = (large["replace"].cpu - middle) / (sizes[-1] - sizes[1])
        told["flat"] = (last / first - 1) * 100
    return told


def rows(whole: bool) -> list[Row]:
    """Return the figures with their goals: over 100 and 1,000 servers, or (whole) over 10,000 too."""
    sizes = [100, 1000, 10000] if whole else [100, 1000]
    return _rows(measure(sizes, Console(stderr=True)))


def _rows(found: dict[int, dict[str, Cost]]) -> list[Row]:
    sizes, told = sorted(found), figures(found)
    span = f"{sizes[0]:,} to {sizes[-1]:,} fake servers"
    return [
        Row(f"{goal.name}, {span}", f"{goal.said()} {goal.unit}", f"{told[name]:.3g} {goal.unit}", goal.met(told[name]))
        for name, goal in GOALS.items()
        if name in told
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--servers", type=int, nargs="+", default=[100, 1000, 10000], help="sizes of the fleet; at least two")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    sizes = sorted(set(asked.servers))
    if len(sizes) < 2 or sizes[0] < 1:
        parser.error("what one more server costs is told from two sizes of the fleet: name at least two")
    console = Console(stderr=asked.json, width=None if sys.stdout.isatty() else 120)
    found = measure(sizes, console)
    told = figures(found)
    table = Table(title="each command", title_justify="left")
    for name in ("servers", "operation", "connections", "CPU s", "CPU ms a server", "wall s", "connections /s", "peak MiB"):
        table.add_column(name, justify="left" if name == "operation" else "right")
    for count, costs in found.items():
        for operation, cost in costs.items():
            table.add_row(
                f"{count:,}", operation, f"{cost.connections:,}", f"{cost.cpu:.1f}", f"{cost.cpu * 1000 / count:.2f}",
                f"{cost.wall:.1f}", f"{cost.connections / cost.wall:.0f}", f"{cost.peak:.0f}",
            )  # fmt: skip
    console.print(table)
    show(_rows(found), console)
    if asked.json:
        commands = {str(count): {name: cost._asdict() for name, cost in each.items()} for count, each in found.items()}
        print(json.dumps({"commands": commands, "figures": told}, indent=2))


if __name__ == "__main__":
    main()
