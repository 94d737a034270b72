"""What it costs to tell who signed a request, and whether what was wrong shows in the time that the answer takes.

    python -m benchmarks.signatures                  # or with --rounds 2000

Through the real gate, on a home of its own, without a network. The kinds of request take turns, in an order that is new in each
round, so that what else the machine does falls on all alike. Microseconds of processor time of the whole process, since waiting
is not ours; the median, and the middle half. A spread between the kinds that is far below that half is none that can be seen.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from controller import signing
from controller.app import Application
from controller.model import Secret
from controller.service.home import initialise
from controller.settings import Settings

BODY = b'{"keypair": {"name": "x"}}'
RIGHT, FIRST, LAST, UNKNOWN = "right", "wrong in the first digit", "wrong in the last digit", "unknown access key"
Ask = Callable[[signing.Request], Any]


def made_wrong(request: signing.Request, place: int) -> signing.Request:
    """Return a request with another digit at one place of its signature."""
    headers = []
    for name, value in request.headers:
        if name == b"authorization":
            start, signature = value[:-64], bytearray(value[-64:])
            signature[place] = ord("0") if signature[place] != ord("0") else ord("1")
            value = start + bytes(signature)
        headers.append((name, value))
    return replace(request, headers=headers)


def signed(method: str, path: str, body: bytes, access_key: str, secret_key: str) -> signing.Request:
    """Return a request as the SDK signs it."""
    usual = [(b"host", b"127.0.0.1:8443"), (b"content-type", b"application/json"), (b"user-agent", b"benchmark/1.0")]
    bare = signing.Request(method, path.encode(), b"", usual, body)
    added = signing.sign(bare, access_key, Secret(secret_key), datetime.now(UTC))
    size = [(b"content-length", str(len(body)).encode())] if body else []
    return replace(bare, headers=[*usual, *size, *((name.lower(), value) for name, value in added)])


def asking(gate: Any) -> Ask:
    """Return what sends a request through the gate, and returns the status of the answer."""

    async def ask(request: signing.Request) -> int:
        status = 0

        async def receive() -> Any:
            return {"type": "http.request", "body": request.body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        about = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
            "state": {},
        }
        target = {
            "method": request.method,
            "path": request.path.decode(),
            "raw_path": request.path,
            "query_string": request.query,
        }
        ends = {"headers": request.headers, "client": ("192.0.2.1", 4711), "server": ("kps", 80)}
        await gate(about | target | ends, receive, send)
        return status

    return ask


async def measured(settings: Settings, made: Any, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the microseconds of each request, by whether it has a body and by its kind."""
    found: dict[str, dict[str, list[float]]] = {}
    served = Application(settings)
    async with served.lifespan():
        ask = asking(served.networked)
        for title, method, path, body in (
            ("no body", "GET", "/v3/projects", b""),
            ("a small body", "PUT", f"/v3/{made['project_id']}/keypairs/none", BODY),
        ):
            times: dict[str, list[float]] = {RIGHT: [], FIRST: [], LAST: [], UNKNOWN: []}
            for turn in range(rounds + rounds // 10):
                right = signed(method, path, body, made["access_key"], made["secret_key"])
                nobody = "".join(random.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=20))
                kinds = {
                    RIGHT: right,
                    FIRST: made_wrong(right, 0),
                    LAST: made_wrong(right, 63),
                    UNKNOWN: signed(method, path, body, nobody, made["secret_key"]),
                }
                for kind in random.sample(sorted(kinds), len(kinds)):
                    began = time.process_time_ns()
                    status = await ask(kinds[kind])
                    took = (time.process_time_ns() - began) / 1000
                    if (status == 401) != (kind != RIGHT):
                        sys.exit(f"{kind}: answered with {status}")
                    if turn >= rounds // 10:  # the first ones warm up
                        times[kind].append(took)
            found[title] = times
    return found


def pure(made: Any, rounds: int) -> float:
    """Return the median of microseconds that claimed() and verify() alone take."""
    request = signed("POST", f"/v3/{made['project_id']}/keypairs", BODY, made["access_key"], made["secret_key"])
    secret, times = Secret(made["secret_key"]), []
    for _ in range(rounds):
        began = time.process_time_ns()
        signing.verify(request, signing.claimed(request, datetime.now(UTC)), secret)
        times.append((time.process_time_ns() - began) / 1000)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    with tempfile.TemporaryDirectory() as place:
        plenty = {"requests_per_second": 100_000, "requests_at_once": 1_000_000}
        plenty |= {"failures_per_second": 100_000, "failures_at_once": 1_000_000}
        settings = Settings(home=Path(place) / "home").model_copy(update=plenty)
        made = initialise(settings)
        alone = pure(made, asked.rounds)
        found = asyncio.run(measured(settings, made, asked.rounds))
    console = Console(stderr=asked.json, width=None if sys.stdout.isatty() else 120)
    rows: dict[str, Any] = {"signature_us": round(alone, 1)}
    for title, times in found.items():
        table = Table(title=f"microseconds of processor time for each request, {title}", title_justify="left")
        for name in ("request", "median", "middle half"):
            table.add_column(name, justify="left" if name == "request" else "right")
        for kind, took in times.items():
            low, middle, high = statistics.quantiles(took, n=4)
            table.add_row(kind, f"{middle:.0f}", f"{low:.0f} to {high:.0f}")
            rows[f"{title}: {kind}"] = [round(low, 1), round(middle, 1), round(high, 1)]
        console.print(table)
        refused = [statistics.median(times[kind]) for kind in (FIRST, LAST, UNKNOWN)]
        spread = max(refused) - min(refused)
        rows[f"{title}: spread"] = round(spread, 1)
        console.print(f"between the refused kinds: {spread:.0f} us, {spread / min(refused):.1%}")
    console.print(f"form and signature alone, without looking the access key up and opening its secret: {alone:.0f} us")
    if asked.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
