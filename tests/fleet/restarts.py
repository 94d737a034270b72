"""A controller that is ended again and again while clients submit and poll: what they were told, and what became of it.

The clients are the public service's own SDK, and our API with signed requests. Each submits, follows its task to the end, and
submits the next; where it hears nothing, or 503, it comes again. Every task that was taken on has to come to exactly one end.
"""

import contextlib
import itertools
import json
import logging
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import huaweicloudsdkkps.v3 as v3
from huaweicloudsdkcore.auth.credentials import BasicCredentials
from huaweicloudsdkcore.exceptions.exceptions import SdkException, ServiceResponseException

from controller import signing
from controller.client import ENDINGS
from controller.demo.fleet import Server
from controller.model import FINAL, Secret
from tests.fleet import judge
from tests.fleet.looks import free_port
from tests.fleet.product import KPS, SECONDS, Product

PAIRS = ("one", "other")
ENDS = ("told", "killed", "told twice")
COME_AGAIN_SECONDS = 0.2


@dataclass
class Seen:
    """What clients and the one who ends the controller have seen."""

    accepted: dict[str, str] = field(default_factory=dict)  # task id -> which client was told so, with 2xx
    followed: Counter[str] = field(default_factory=Counter)  # how tasks ended, as their clients were told
    refused: Counter[str] = field(default_factory=Counter)  # submissions that were refused, or got no answer
    wrong: list[str] = field(default_factory=list)  # answers that no client should get
    ends: Counter[str] = field(default_factory=Counter)
    down_seconds: list[float] = field(default_factory=list)  # from the signal until requests are taken again


class Restarted(Product):
    """A controller that also listens on loopback, at one port as often as it is started.

    Of an address of its own, from which nobody connects: at 127.0.0.1 somebody might, by this port, while nobody listens.
    """

    def __init__(self, *place: Any, **settings: Any) -> None:
        super().__init__(*place, requests_per_second=10_000, requests_at_once=100_000, **settings)
        self.place = f"127.200.{random.randint(0, 255)}.{random.randint(1, 254)}"
        self.port = free_port(self.place)
        made = json.loads(self.kps("access-key", "create", "--json").stdout)
        self.access_key, self.secret_key, self.project = made["access_key"], made["secret_key"], made["project_id"]

    @property
    def url(self) -> str:
        return f"http://{self.place}:{self.port}"

    def serve(self) -> None:
        """Have a controller serve the home; returns when it takes requests."""
        with open(self.home / "serve.log", "a") as log:
            words = [KPS, "serve", "--http", f"{self.place}:{self.port}"]
            self.process = subprocess.Popen(
                words, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        told = [self.process.stdout.readline() for _ in range(2)]
        assert "http://" in told[1], (self.home / "serve.log").read_text()[-2000:]

    def end_as(self, how: str) -> None:
        """End the controller in one of ENDS."""
        assert self.process is not None
        if how == "told twice":
            self.process.send_signal(signal.SIGTERM)
        self.end(signal.SIGKILL if how == "killed" else signal.SIGTERM)

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.home / "kps.db", timeout=SECONDS)) as connection:
            yield connection

    def count(self, query: str, *given: Any) -> int:
        with self.database() as connection:
            return int(connection.execute(query, given).fetchone()[0])


class Client(threading.Thread):
    """One that submits, follows, and submits again, until told that it is enough."""

    def __init__(self, name: str, product: Restarted, servers: dict[str, str], seen: Seen, enough: threading.Event) -> None:
        """servers: their ids, by name."""
        super().__init__(name=name, daemon=True)
        self.product, self.servers, self.seen, self.enough = product, servers, seen, enough
        self.chance = random.Random(name)
        self.broken: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                name = self.chance.choice(sorted(self.servers))
                task_id = self.submitted(name, self.chance.choice(PAIRS))
                if task_id is None:
                    self.enough.wait(COME_AGAIN_SECONDS)
                    continue
                self.seen.accepted[task_id] = self.name
                self.seen.followed[self.ended(task_id)] += 1
        except BaseException as error:  # a thread's own end is seen by nobody
            self.broken = error
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the connections."""
        raise NotImplementedError

    def ended(self, task_id: str) -> str:
        """Poll a task to its end, and return its word; a controller that is away is waited for."""
        while True:
            word = self.word(task_id)
            if word is not None and word.lower().partition("_")[0] not in ("ready", "running"):
                return word
            time.sleep(COME_AGAIN_SECONDS)

    def submitted(self, server: str, keypair: str) -> str | None:
        """Submit, and return the id of the task; None where it was refused for now, or nobody answered."""
        raise NotImplementedError

    def word(self, task_id: str) -> str | None:
        """Return what a task has come to; None where that was not to be had."""
        raise NotImplementedError


class Sdk(Client):
    """The public service's own."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        credentials = BasicCredentials(self.product.access_key, self.product.secret_key, self.product.project)
        logging.getLogger("HuaweiCloud-SDK-KpsClient").disabled = True  # each connection that is refused would be a line
        self.kps = v3.KpsClient.new_builder().with_credentials(credentials).with_endpoint(self.product.url).build()

    def close(self) -> None:
        self.kps.get_http_client()._session.close()

    def asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except ServiceResponseException as error:
            if error.status_code != 503:
                self.seen.wrong.append(f"{self.name}: {error.status_code} {error.error_code} {error.error_msg}")
            self.seen.refused[str(error.status_code)] += 1
        except SdkException as error:
            self.seen.refused[type(error).__name__] += 1
        return None

    def submitted(self, server: str, keypair: str) -> str | None:
        about = v3.EcsServerInfo(id=self.servers[server])
        asked = v3.AssociateKeypairRequestBody(keypair_name=keypair, server=about)
        answer = self.asked(lambda: self.kps.associate_keypair(v3.AssociateKeypairRequest(body=asked)))
        return None if answer is None else str(answer.task_id)

    def word(self, task_id: str) -> str | None:
        answer = self.asked(lambda: self.kps.list_keypair_task(v3.ListKeypairTaskRequest(task_id=task_id)))
        return None if answer is None else str(answer.task_status)


class Ours(Client):
    """Our own API, with signed requests; it follows by long polls."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.http = httpx.Client(base_url=self.product.url, timeout=SECONDS, trust_env=False)
        self.after = 0

    def close(self) -> None:
        self.http.close()

    def asked(self, method: str, path: str, query: str = "", body: Any = None) -> Any:
        sent = b"" if body is None else json.dumps(body).encode()
        place = f"/fleet/v1{path}"
        headers = [(b"Host", self.product.url.partition("//")[2].encode()), (b"Content-Type", b"application/json")]
        bare = signing.Request(method, place.encode(), query.encode(), headers, sent)
        signed = signing.sign(bare, self.product.access_key, Secret(self.product.secret_key), datetime.now(UTC))
        try:
            answer = self.http.request(method, f"{place}?{query}" if query else place, content=sent, headers=[*headers, *signed])
        except httpx.TransportError as error:
            self.seen.refused[type(error).__name__] += 1
            return None
        if answer.is_success:
            return answer.json()
        if answer.status_code != 503:
            self.seen.wrong.append(f"{self.name}: {answer.status_code} {answer.text}")
        self.seen.refused[str(answer.status_code)] += 1
        return None

    def submitted(self, server: str, keypair: str) -> str | None:
        order = {"operation": "replace", "servers": [server], "keypair": keypair, "accept_unproved": True}
        answer = self.asked("POST", "/operations", body=order)
        return None if answer is None else str(answer[0]["id"])

    def word(self, task_id: str) -> str | None:
        happened = self.asked("GET", "/events", f"after={self.after}&task={task_id}&wait=5")
        if happened:
            self.after = happened[-1]["id"]
        found = self.asked("GET", f"/tasks/{task_id}")
        return None if found is None else str(found["status"])


def story(product: Restarted, servers: Sequence[Server], clients: int, restarts: int, between_seconds: float) -> Seen:
    """End the controller so often, in each way in turn, while so many clients work; it serves again at the end."""
    product.serve()
    for name in PAIRS:
        product.keypair(name=name)
    ids = {}
    for server in servers:
        ids[server.name] = product.add(server)["id"]
        product.succeeds("bind", server, keypair=PAIRS[0], password=server.root_password)
    seen, enough = Seen(), threading.Event()
    kinds = itertools.cycle([Sdk, Ours])
    working = [kind(f"{kind.__name__}-{n}", product, ids, seen, enough) for n, kind in zip(range(clients), kinds, strict=False)]
    for each in working:
        each.start()
    for how in itertools.islice(itertools.cycle(ENDS), restarts):
        # Not by the clock alone: something has to be under way.
        known, until = len(seen.accepted), time.monotonic() + SECONDS
        time.sleep(between_seconds)
        while len(seen.accepted) < known + 2 and time.monotonic() < until:
            time.sleep(0.01)
        begun = time.monotonic()
        product.end_as(how)
        product.serve()
        seen.ends[how] += 1
        seen.down_seconds.append(time.monotonic() - begun)
    enough.set()
    for each in working:
        each.join(10 * SECONDS)
        assert not each.is_alive(), f"{each.name} still follows its task"
        if each.broken is not None:
            raise each.broken
    return seen


def unknown(product: Restarted) -> tuple[list[str], list[str]]:
    """Return the tasks of which nobody knows how they left their servers: where it is
    still to be found out, and where it never will be.

    A server remembers its last operation alone; how it is now is what the later task says.
    """
    with product.database() as connection:
        rows = list(connection.execute("SELECT id, server_id, generation, server_state FROM tasks"))
    known = {
        server: max(each[2] for each in rows if each[1] == server and each[3] != "unknown")
        for server in {each[1] for each in rows if each[3] != "unknown"}
    }
    lost = [(id, generation < known.get(server, 0)) for id, server, generation, state in rows if state == "unknown"]
    return [id for id, overtaken in lost if not overtaken], [id for id, overtaken in lost if overtaken]


def misses(product: Restarted, servers: Sequence[Server], seen: Seen) -> list[str]:
    """Return what is not as it was promised, in words: of each task, and of each server."""
    until = time.monotonic() + SECONDS
    open_ones = "SELECT count(*) FROM tasks WHERE status IN ('ready', 'running')"
    while (product.count(open_ones) or unknown(product)[0]) and time.monotonic() < until:
        time.sleep(0.1)
    found = [f"an answer: {each}" for each in seen.wrong]
    with product.database() as connection:
        ended = dict(connection.execute("SELECT id, status FROM tasks"))
        endings = Counter(
            task_id
            for task_id, kind in connection.execute("SELECT task_id, kind FROM events WHERE task_id IS NOT NULL")
            if kind in ENDINGS
        )
    found += [f"{id} was taken on and is lost ({client})" for id, client in seen.accepted.items() if id not in ended]
    found += [f"{id} is {status}" for id, status in ended.items() if status not in FINAL]
    found += [f"{id} has {endings[id]} ends" for id in ended if endings[id] != 1]
    found += [f"{id} left its server nobody knows how" for id in unknown(product)[0]]
    private = {name: product.private({"name": name}) for name in PAIRS}
    for server in servers:
        on_record = product.server(server)["keypair"]
        let_in = [name for name in PAIRS if judge.key_login_works(server, "root", private[name])]
        if let_in != [on_record]:
            found.append(f"{server.name}: on record {on_record}, let in {let_in}")
    return found
