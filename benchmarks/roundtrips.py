"""Round trips between the controller and a server, counted behind a proxy that delays what goes either way.

    python -m benchmarks.roundtrips          # as root: it starts a real sshd of its own

The same is done over a short and over a long way; what grows between the two, divided by what a round trip grows, is how many
there were: the time that Python, sshd and the disk take is the same over both. Each is done several times, and the quickest
counts. A proxy's port takes a connection at once, which over a real network takes a round trip: the proxy adds that.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import secrets
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import asyncssh
from rich.console import Console
from rich.table import Table

from benchmarks.table import Row, show
from controller.demo.fleet import Fleet, Server
from controller.measures import Measures
from controller.model import Secret
from controller.prover import Prover
from controller.transport import rope
from controller.transport.connect import Target, connect
from controller.transport.frames import Ask, Result
from controller.transport.handshake import Client
from controller.transport.offer import Offer, Signer

SHORT, LONG = 0.03, 0.13  # seconds, each way
FIRST, PROOF = "first connection until widened", "proof"
GOALS = {FIRST: 6, PROOF: 4}
CLOSE_ENOUGH = 0.4  # of a round trip: the machine is busy with other things too

# What each round trip is for, by the figure that it is part of.
_LOGIN = (
    "TCP",
    "the versions and what either can do: asyncssh says the second only once it has heard the server's version",
    "the key exchange",
    "the service: asyncssh waits for the answer before it says who wants to log in",
    "the method `none`, which asyncssh tries before any other",
)
_BY_KEY = (*_LOGIN, "whether sshd would take the key: asyncssh asks before it signs", "the signature")
_RUN = ("the session: asyncssh waits for it before it says what to run", "the command")
REASONS: dict[str, tuple[str, ...]] = {
    f"{FIRST}, by a password": (
        *_LOGIN,
        "the password",
        *_RUN,
        "the agent, which standard input takes only once the command runs, so that nobody reads it in ps",
    ),
    f"{FIRST}, by a key": (
        *_BY_KEY,
        *_RUN,
        "the agent, which standard input takes only once the command runs, so that nobody reads it in ps",
    ),
    f"{PROOF}: the key logs in": (*_BY_KEY, *_RUN),
    f"{PROOF}: a removed key is refused": (
        *_LOGIN,
        "whether sshd would take the removed key",
        "whether it would take the good one",
        "the signature by the good one",
        *_RUN,
    ),
    f"{PROOF}: no password is taken": _LOGIN,
}


class Proxy:
    """A port of this machine that leads to a server which is some way off, within an async with statement."""

    def __init__(self, server: Server, each_way: float) -> None:
        self._server = server
        self._each_way = each_way
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._listening = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port: int = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        # Over a network the client would know of its connection a round trip later than here.
        known = loop.time() + 2 * self._each_way
        await asyncio.sleep(known + self._each_way - loop.time())
        with contextlib.suppress(OSError), contextlib.closing(writer):
            theirs, ours = await asyncio.open_connection(self._server.host, self._server.port)
            with contextlib.closing(ours):
                await asyncio.gather(self._pass_on(reader, ours, known), self._pass_on(theirs, writer, known))

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, known: float) -> None:
        """Hand on what comes, each piece as much later as the way takes, and the end as well."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def arrive() -> None:
            while True:
                at, some = await under_way.get()
                await asyncio.sleep(max(0.0, at - loop.time()))
                if not some:
                    with contextlib.suppress(OSError):
                        sink.close()
                    return
                sink.write(some)

        arriving = asyncio.create_task(arrive())
        try:
            some = b"something"
            while some:
                try:
                    some = await source.read(1 << 16)
                except OSError:
                    some = b""
                under_way.put_nowait((max(loop.time(), known) + self._each_way, some))
            await arriving
        finally:
            arriving.cancel()


@dataclass
class Watch(Measures):
    """Keeps how long each proof took, in order."""

    took: list[float] = field(default_factory=list)

    def proved(self, result: str, took: float) -> None:
        self.took.append(took)


class Journey:
    """One server with what opens it, reached over ways of different lengths."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pairs = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(2)]
        self._lines = [" ".join(pair.export_public_key().decode("ascii").split()[:2]) for pair in self._pairs]
        self._generations = itertools.count(1)

    async def once(self, each_way: float) -> dict[str, float]:
        """Close passwords with a first key, replace that by a second, put all back; return the seconds of what is counted."""
        first, second = self._lines
        async with Proxy(self._server, each_way) as proxy:
            target = Target("web", "127.0.0.1", proxy.port, self._server.public_host_key, timeout_seconds=60)
            bound = await self._done(target, None, operation="bind", key=first, passwords="off")
            replaced = await self._done(target, 0, operation="replace", key=second, remove=[first])
            await self._done(target, 1, operation="unbind", remove=[second], passwords="restore")
        # After a reload the key is shown once more before passwords are asked for.
        widened_by_password, key, _, no_password = bound
        widened_by_key, _, refused = replaced
        return dict(zip(REASONS, (widened_by_password, widened_by_key, key, refused, no_password), strict=True))

    async def _done(self, target: Target, by: int | None, **wanted: Any) -> list[float]:
        """Carry out a plan, let in by one of the keys or by the password; return the seconds until widened, and of each proof."""
        loop = asyncio.get_running_loop()
        plan = {
            "id": secrets.token_hex(8),
            "generation": next(self._generations),
            "login": "root",
            "deadline_seconds": 120,
            **wanted,
        }
        watch, client, widened = Watch(), Client(), 0.0
        password = None if by is not None else Secret(self._server.root_password.encode())
        prover = Prover(target, plan, self._private_of, password, watch)
        began = loop.time()
        keys = [] if by is None else [Offer(self._lines[by], self._pairs[by], client)]
        connection = await connect(target, "root", client=client, keys=keys, password=password)
        try:
            agent = await rope.attach(connection, dict(plan, password_known=password is not None), "none")
            async for frame in agent.frames():
                if isinstance(frame, Ask):
                    widened = widened or loop.time() - began
                    await agent.answer(await prover.answers(frame))
                if isinstance(frame, Result) and frame.status != "succeeded":
                    raise RuntimeError(f"{wanted['operation']}: {frame.cause}: {frame.message}")
        finally:
            connection.close()
        return [widened, *watch.took]

    async def _private_of(self, line: str) -> Signer | None:
        return dict(zip(self._lines, self._pairs, strict=True)).get(line)


async def _counted(times: int) -> dict[str, float]:
    """Return how many round trips each took."""
    with Fleet(1) as fleet:
        journey = Journey(fleet.servers[0])
        await journey.once(0)  # what is made once for all is made now
        quickest: dict[float, dict[str, float]] = defaultdict(dict)
        for _ in range(times):
            for each_way in (SHORT, LONG):
                for name, seconds in (await journey.once(each_way)).items():
                    quickest[each_way][name] = min(seconds, quickest[each_way].get(name, seconds))
    return {name: (quickest[LONG][name] - quickest[SHORT][name]) / (2 * (LONG - SHORT)) for name in REASONS}


def rows(whole: bool) -> list[Row]:
    """Return the round trips of each kind of connection with their goals. whole: each is done more often."""
    return _rows(asyncio.run(_counted(5 if whole else 3)))


def _rows(counted: dict[str, float]) -> list[Row]:
    found = []
    for name, trips in counted.items():
        most = GOALS[name.partition(":")[0].partition(",")[0]]
        whole = round(trips)
        result = f"{whole}" if abs(trips - whole) <= CLOSE_ENOUGH else f"{trips:.1f}"
        found.append(Row(f"round trips: {name}", f"<= {most}", result, trips <= most + CLOSE_ENOUGH))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=3, help="how often each is done over either way")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    counted = asyncio.run(_counted(asked.times))
    console = Console(stderr=asked.json, width=None if sys.stdout.isatty() else 150)
    for name, trips in counted.items():
        table = Table("", "what for", title=f"{name}: {trips:.2f} measured", title_justify="left")
        for number, reason in enumerate(REASONS[name], 1):
            table.add_row(str(number), reason)
        console.print(table)
    show(_rows(counted), console)
    if asked.json:
        print(json.dumps(counted, indent=2))


if __name__ == "__main__":
    main()
