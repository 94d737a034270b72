"""What open pages cost while something happens: the controller's CPU for each event, by how many streams are open.

    python -m benchmarks.streams [--streams 1 50] [--events 40] [--home DIRECTORY]

A home (of benchmarks/home.py, or --home) is served by `kps serve`; users of their own open so many streams (/console/live) and
read them, as pages do. Then an event is written every half second, as another process of this home would. Told are the CPU of the
controller for each event, beyond what it takes while nothing happens, and how long it was until the last stream was told.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx

from benchmarks.home import fill
from benchmarks.pages import cpu, serving
from controller.errors import AlreadyExists
from controller.kms import Kms, root
from controller.service.auditkeys import AuditKeys
from controller.service.console import Console
from controller.service.people import Users
from controller.service.streams import OF_EACH
from controller.settings import Settings
from controller.store import Store, engine

BETWEEN = 0.5  # seconds, from event to event


def main() -> None:
    asks = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asks.add_argument("--streams", type=int, nargs="+", default=[1, 50])
    asks.add_argument("--events", type=int, default=40)
    asks.add_argument("--home", type=Path)
    asked = asks.parse_args()
    with tempfile.TemporaryDirectory() as place:
        home = asked.home or Path(place) / "home"
        if not home.exists():
            fill(home, 100, 1000)
        with serving(home) as (url, pid):
            for count in asked.streams:
                each, last = asyncio.run(measured(home, url, pid, count, asked.events))
                print(f"{count} streams: {each:.1f} ms of CPU for an event, told to the last after {last * 1000:.0f} ms")


async def measured(home: Path, url: str, pid: int, count: int, events: int) -> tuple[float, float]:
    """Return the controller's CPU for each event, in milliseconds, and how long the last stream waited for it, in seconds."""
    settings = Settings(home=home)
    store = Store(settings.database_url)
    store.sign_with(AuditKeys(store, Kms(store, *root.roots(settings.home, settings.root_key_uri))))
    verbs, owner = Console(store), store.caller_by_local_home()
    told: list[asyncio.Queue[float]] = [asyncio.Queue() for _ in range(count)]
    async with AsyncExitStack() as stack:
        for number in range(0, count, OF_EACH):
            name = f"looker-{number}"
            with suppress(AlreadyExists):  # of the run before
                await Users(store).create(owner, name, "auditor")
            _, token, _ = await verbs.link(owner, name)
            http = await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers={"origin": url}, timeout=60, trust_env=False)
            )
            await http.post("/console/link", data={"code": token.open().decode()})
            for queue in told[number : number + OF_EACH]:
                stream = await stack.enter_async_context(http.stream("GET", f"/console/live?after={store.newest_event()}"))
                assert stream.status_code == 200, stream.status_code
                reader = asyncio.ensure_future(read(stream, queue))
                stack.callback(reader.cancel)
        await asyncio.sleep(2)
        waited, before = [], cpu(pid)
        await asyncio.sleep(events * BETWEEN)
        idle = cpu(pid) - before
        before = cpu(pid)
        for _ in range(events):
            at = time.monotonic()
            with engine.writing(store._engine) as connection:
                store._event(connection, owner.tenant_id, "server_noted", {"password_login": "on"})
            waited.append(max([await queue.get() for queue in told]) - at)
            await asyncio.sleep(max(0.0, BETWEEN - (time.monotonic() - at)))
        used = cpu(pid) - before - idle
    verbs.close()
    store.close()
    return used / events, statistics.median(waited)


async def read(stream: httpx.Response, told: asyncio.Queue[float]) -> None:
    """Note when each piece of news comes."""
    async for line in stream.aiter_lines():
        if line.startswith("data: "):
            told.put_nowait(time.monotonic())


if __name__ == "__main__":
    main()
