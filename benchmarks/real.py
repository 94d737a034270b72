"""Client CPU per server of a proved bind and replace, beside other ways to make as many logins, on the same real servers.

    python -m benchmarks.real --servers 50

CPU is user and system time of all processes of the client, from wait4(2): in all, start-up included, for one command over all
servers; and marginal, what each further server costs, from that run and one over a few. Ratios count; absolute figures move
with the machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from controller.demo.fleet import Fleet, Server

FEW = 5
LOGINS = {"bind": 4, "replace": 3}  # connections a proved operation makes; the baselines make as many
GOAL_MS = {"bind": 6.0, "replace": 4.5}


class Figure(NamedTuple):
    """What a run cost: seconds of CPU of the client's processes, and of the wall clock."""

    cpu: float
    wall: float


def measured(work: Callable[[], object]) -> Figure:
    """Run work and return what its child processes cost; it must wait for them."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Figure(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - began)


class Bench:
    """The product and its baselines on one fleet."""

    def __init__(self, fleet: Fleet, place: Path) -> None:
        self.servers = fleet.servers
        self.place = place
        self.environment = {**os.environ, "KPS_HOME": str(place / "home")}

    def kps(self, *words: str, given: str = "") -> list[dict[str, str]]:
        """Run the product's command in process and return what it said; SystemExit where a server did not end as asked."""
        command = [sys.executable, "-m", "controller.cli", *words, "--json"]
        done = subprocess.run(command, input=given, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        found: list[dict[str, str]] = json.loads(done.stdout)
        return found

    def prepare(self) -> None:
        """Make a home that knows the servers, two key pairs, and what the baselines need."""
        self.kps("init")
        rows = [f"{each.name},{each.host},{each.port},root,{each.public_host_key}" for each in self.servers]
        inventory = self.place / "fleet.csv"
        inventory.write_text("\n".join(["name,host,port,login,host_key", *rows, ""]))
        self.kps("server", "import", str(inventory))
        (self.place / "known_hosts").write_text("".join(f"{each.host_key}\n" for each in self.servers))
        for name in ("one", "two"):
            self.kps("keypair", "create", name)
            self.kps("keypair", "export", name, "--out", str(self.place / name))

    def bind(self, servers: Sequence[Server]) -> Figure:
        known = "".join(f"{each.name}\t{each.root_password}\n" for each in servers)
        names = [each.name for each in servers]
        return measured(lambda: self.kps("bind", *names, "--keypair", "one", "--password-stdin", given=known))

    def replace(self, servers: Sequence[Server]) -> Figure:
        return measured(lambda: self.kps("replace", *(each.name for each in servers), "--keypair", "two"))

    def openssh(self, servers: Sequence[Server], logins: int) -> Figure:
        """As many logins by OpenSSH's client, each running `true`."""

        def log_in(server: Server) -> None:
            command = ["ssh", "-F", "none", "-o", f"UserKnownHostsFile={self.place}/known_hosts", "-o", "IdentitiesOnly=yes"]
            command += ["-o", "KexAlgorithms=curve25519-sha256", "-i", str(self.place / "two"), "-p", str(server.port)]
            subprocess.run([*command, f"root@{server.host}", "true"], check=True, capture_output=True)

        def all_of_them() -> None:
            with ThreadPoolExecutor(8) as several:
                list(several.map(log_in, list(servers) * logins))

        return measured(all_of_them)

    def asyncssh(self, servers: Sequence[Server], logins: int) -> Figure:
        """As many logins by asyncssh as it comes, with a known_hosts file, each running `true`; nothing proved."""
        code = """
import asyncio, asyncssh, sys
key, hosts, logins = sys.argv[1], sys.argv[2], int(sys.argv[3])
places = asyncio.Semaphore(32)
async def one(host, port):
    how = dict(username="root", client_keys=[key], known_hosts=hosts, config=None)
    async with places, asyncssh.connect(host, int(port), **how) as there:
        await there.run("true", check=True)
async def main():
    await asyncio.gather(*(one(*each.split("=")) for each in sys.argv[4:] for _ in range(logins)))
asyncio.run(main())
"""
        words = [str(self.place / "two"), str(self.place / "known_hosts"), str(logins)]
        words += [f"{each.host}={each.port}" for each in servers]
        return measured(lambda: subprocess.run([sys.executable, "-c", code, *words], check=True))


def marginal(many: Figure, few: Figure, more: int) -> float:
    """Milliseconds of CPU for each further server."""
    return (many.cpu - few.cpu) * 1000 / more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--servers", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.servers <= FEW:
        parser.error(
            f"what each further server costs is told from runs over {FEW} and over more servers: ask for more than {FEW}"
        )
    console = Console(stderr=asked.json, width=None if sys.stdout.isatty() else 120)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place, Fleet(asked.servers + FEW) as fleet:
        bench = Bench(fleet, Path(place))
        bench.prepare()
        few, many = bench.servers[:FEW], bench.servers[FEW:]
        small, large = {}, {}
        for operation, work in (("bind", bench.bind), ("replace", bench.replace)):
            small[operation] = work(few)
            large[operation] = work(many)
        for operation, logins in LOGINS.items():
            ours = marginal(large[operation], small[operation], len(many) - FEW)
            ssh = bench.openssh(many, logins).cpu * 1000 / len(many)
            few_plain = bench.asyncssh(few, logins)
            plain = marginal(bench.asyncssh(many, logins), few_plain, len(many) - FEW)
            rows[operation] = {
                "servers": len(many),
                "logins": logins,
                "ours_ms": round(ours, 1),
                "ours_total_s": round(large[operation].cpu, 2),
                "goal_ms": GOAL_MS[operation],
                "asyncssh_ms": round(plain, 1),
                "openssh_ms": round(ssh, 1),
                "wall_s": round(large[operation].wall, 1),
                "servers_per_s": round(len(many) / large[operation].wall, 1),
            }
    table = Table(title="client CPU per server, proved, all processes (marginal)", title_justify="left")
    names = (
        "operation",
        "logins each",
        "kps ms",
        "kps in all s",
        "goal ms",
        "asyncssh ms",
        "kps / asyncssh",
        "ssh ms",
        "kps / ssh",
        "wall s",
    )
    for name in names:
        table.add_column(name, justify="left" if name == "operation" else "right")
    for operation, row in rows.items():
        table.add_row(
            operation,
            f"{row['logins']}",
            f"{row['ours_ms']}",
            f"{row['ours_total_s']}",
            f"<= {row['goal_ms']}",
            f"{row['asyncssh_ms']}",
            f"{row['ours_ms'] / row['asyncssh_ms']:.2f}",
            f"{row['openssh_ms']}",
            f"{row['ours_ms'] / row['openssh_ms']:.2f}",
            f"{row['wall_s']}",
        )
    console.print(table)
    met = sum(row["ours_ms"] <= row["goal_ms"] for row in rows.values())
    console.print(f"goals met: {met} of {len(rows)}")
    if asked.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
