"""What the console's pages cost in a home that is large already: milliseconds of CPU on the server, for each path.

    python -m benchmarks.pages HOME [PATH...]

Each page is asked for in this process, through the door that the network comes through, by the home's owner: once to warm up, and
then --times. What is printed is the median and the slowest; what the database does is in it.
"""

import argparse
import asyncio
import re
import statistics
import sys
import time
from pathlib import Path

import httpx
import structlog
from rich.console import Console
from rich.table import Table

from controller.app import Application
from controller.settings import Settings

PATHS = (
    "/console/",
    "/console/servers/",
    "/console/keypairs/?scope=private",
    "/console/keypairs/rotation",
    "/console/keypairs/named/ops",
    "/console/failed-tasks/",
    "/console/rollouts/",
    "/console/audit/",
    "/console/audit/?kind=task_finished&server=web-000042",
    "/console/audit/verify",
    "/console/keys/",
)
GOAL = 300.0  # milliseconds


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asks.add_argument("home", type=Path)
    asks.add_argument("paths", nargs="*", default=PATHS)
    asks.add_argument("--times", type=int, default=20)
    asked = asks.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    found = asyncio.run(measured(asked.home, asked.paths, asked.times))
    table = Table(title="pages, CPU ms on the server", title_justify="left")
    for name in ("page", "median", "slowest", "KB"):
        table.add_column(name, justify="left" if name == "page" else "right")
    for path, (median, slowest, size) in found.items():
        table.add_row(path, f"{median:.0f}", f"{slowest:.0f}", f"{size / 1024:.0f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if any(slowest > GOAL for _, slowest, _ in found.values()):
        sys.exit(f"a page took more than {GOAL:.0f} ms")


async def measured(home: Path, paths: list[str], times: int) -> dict[str, tuple[float, float, int]]:
    """Return the median and the slowest of each path, in milliseconds of CPU, and how large the page is."""
    served = Application(Settings(home=home, requests_per_second=10_000, requests_at_once=10_000))
    async with served.lifespan():
        fleet = served.services
        _, code, _ = await fleet.console.link(fleet.owner)
        transport = httpx.ASGITransport(served.networked, client=("192.0.2.7", 4711))
        headers = {"accept": "text/html", "origin": "http://kps", "sec-fetch-site": "same-origin"}
        async with httpx.AsyncClient(transport=transport, base_url="http://kps", headers=headers) as http:
            await http.post("/console/link", data={"code": code.open().decode()})
            found = {}
            for path in paths:
                took = []
                for number in range(times + 1):
                    fleet.overview.forget()
                    before = time.process_time()
                    answer = await http.get(path)
                    if number:
                        took.append((time.process_time() - before) * 1000)
                    if answer.status_code != 200 or not re.search("Sign out", answer.text):
                        sys.exit(f"{path}: {answer.status_code}")
                found[path] = (statistics.median(took), max(took), len(answer.content))
            return found


if __name__ == "__main__":
    main()
