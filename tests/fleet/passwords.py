"""Passwords of many logins rotated while everything fails: at every moment one of the two versions that are kept works.

What works is looked up where sshd looks: the hash in shadow is compared with the two values in custody, of before that look and
after it. At each end it is tried by OpenSSH's client too.
"""

import contextlib
import itertools
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from passlib.hash import sha512_crypt

from controller import secretvalues
from controller.demo.fleet import Server, ServerFailed
from controller.kms import Kms, root
from controller.store import Store
from tests.fleet import judge
from tests.fleet.product import Product

PAM = "/etc/pam.d/sshd"
ROUND_SECONDS = 900.0  # for a hundred passwords, on however busy a machine
LOOK_SECONDS = 0.2
KILLED = 3


@dataclass
class Place:
    """A login of a server, and the secret that is its password."""

    server: Server
    login: str
    name: str
    id: str = ""


@dataclass
class Seen:
    """What came of it."""

    done: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    logins_tried: int = 0
    locked_out: list[str] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)


class Custody:
    """The values as they are kept, opened beside the controller: what it knows, and when it knew it."""

    def __init__(self, product: Product) -> None:
        self._path = product.home / "kps.db"
        self._store = Store(f"sqlite:///{self._path}")
        self._kms = Kms(self._store, *root.roots(product.home))
        self._values: dict[tuple[str, int], str] = {}

    def close(self) -> None:
        self._store.close()

    def two(self, place: Place) -> dict[str, str]:
        """Stage -> value, of SYSCURRENT and SYSPREVIOUS."""
        with contextlib.closing(sqlite3.connect(self._path, timeout=60)) as connection:
            query = "SELECT stage, version FROM secret_stages WHERE secret_id = ? AND stage IN ('SYSCURRENT', 'SYSPREVIOUS')"
            found = connection.execute(query, (place.id,)).fetchall()
        return {stage: self.value(place, version) for stage, version in found}

    def value(self, place: Place, version: int) -> str:
        if (place.id, version) not in self._values:
            secret, sealed = self._store.secret_value(place.id, version)
            assert not isinstance(sealed, bytes)
            opened = self._kms.open(sealed, secretvalues.context(secret, version))
            self._values[place.id, version] = opened.open().decode()
        return self._values[place.id, version]


class Watch:
    """Looks, ever again, whether one of the two works for each login; what it has seen is in seen."""

    def __init__(self, custody: Custody, places: Sequence[Place], seen: Seen) -> None:
        self._custody, self._places, self._seen = custody, places, seen
        self._known: dict[tuple[str, str], bool] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:
                self._seen.misses.append(f"the watch: {type(error).__name__}: {error}")
                return

    def look(self) -> None:
        for server in dict.fromkeys(place.server for place in self._places):
            here = [place for place in self._places if place.server is server]
            before = {place.id: self._custody.two(place) for place in here}
            try:
                shadow = dict(line.split(":")[:2] for line in server.read("/etc/shadow").split("\n") if line)
            except (ServerFailed, OSError, ValueError):
                continue  # it is away just now: nobody gets in anyhow
            for place in here:
                after = self._custody.two(place)
                values = {*before[place.id].values(), *after.values()}
                self._seen.looks += 1
                if not any(self._opens(shadow[place.login], value) for value in values):
                    self._seen.locked_out.append(f"{place.login}@{server.name}: {shadow[place.login][:12]}... is none of the two")

    def _opens(self, hashed: str, value: str) -> bool:
        if (hashed, value) not in self._known:
            self._known[hashed, value] = hashed.startswith("$6$") and sha512_crypt.verify(value, hashed)
        return self._known[hashed, value]


# -- what goes wrong, each for one round. Where it yields all passwords are ordered anew, the server's own last of all, so that it
# is met at work; returns how much there was that it broke.

Fault = Generator[None, None, int]


def controller_killed(product: Product, server: Server) -> Fault:
    met = 0
    for wait in (0.6, 1.7):
        yield
        time.sleep(wait)
        met += len(_at_work(product))
        product.end(signal.SIGKILL)
        product.serve()
    return met


def log_in_refused(product: Product, server: Server) -> Fault:
    text = server.read(PAM)
    server.write(PAM, "auth required pam_deny.so\n" + text)
    yield
    met = len(_at_work(product, server))
    _until_ended(product)
    server.write(PAM, text)
    return met


def agents_killed(product: Product, server: Server) -> Fault:
    yield
    return _some_killed(product, server, lambda command: "b64decode" in command and "python" in command)


def server_rebooted(product: Product, server: Server) -> Fault:
    yield
    time.sleep(1.0)
    met = len(_at_work(product, server))
    server.reboot()
    return met


def sessions_killed(product: Product, server: Server) -> Fault:
    yield
    of_sshd = ("sshd: ", "sshd-session: ")
    return _some_killed(product, server, lambda command: command.startswith(of_sshd) and "[listener]" not in command)


def _some_killed(product: Product, server: Server, chosen: Callable[[str], bool]) -> int:
    """Kill processes of a server as they come, until that were some of them or no task is left there; returns how many."""
    killed = 0
    while killed < KILLED and (killed == 0 or _at_work(product, server)):
        for pid, command in server.processes().items():
            if chosen(command):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        if not killed and not product.ask("GET", "/tasks", params={"running": True}):
            break
        time.sleep(0.3)
    return killed


def _at_work(product: Product, server: Server | None = None) -> list[str]:
    """Return the tasks that run, of one server or of all."""
    found = product.ask("GET", "/tasks", params={"running": True})
    mine = [each for each in found if server is None or each["server"] == server.name]
    return [str(each["id"]) for each in mine if each["status"] == "running"]


FAULTS: tuple[Callable[[Product, Server], Fault], ...] = (
    controller_killed, log_in_refused, agents_killed, server_rebooted, sessions_killed,
)  # fmt: skip


def story(product: Product, places: list[Place], rounds: int) -> Seen:
    """Rotate all of the passwords so many times with something going wrong, then until all have come to their servers."""
    seen = Seen()
    for place in places:
        body = {
            "name": place.name,
            "server": place.server.name,
            "login": place.login,
            "value": place.server.passwords[place.login],
        }
        place.id = product.ask("POST", "/secrets", body=body)["id"]
    # What was given as the first version was hashed by the fleet: no hash of ours to compare with.
    _rotate(product, places, seen)
    custody = Custody(product)
    servers = list(dict.fromkeys(place.server for place in places))
    try:
        with Watch(custody, places, seen) as watch:
            for fault, server in itertools.islice(zip(itertools.cycle(FAULTS), itertools.cycle(servers), strict=False), rounds):
                met = _carried_out(fault(product, server), product, places, server)
                if not met:
                    seen.misses.append(f"{fault.__name__}: nothing was at work on {server.name}")
                seen.faults[fault.__name__] += 1
                _await_ends(product, seen)
                _judge(custody, watch, places[:: max(1, len(places) // 8)], seen)
            for _ in range(4):
                _rotate(product, [place for place in places if not _came(product, place)], seen)
            watch.look()
        for place in places:
            if not _came(product, place):
                seen.misses.append(f"{place.name}: has not come to its server in the end")
        _judge(custody, None, places, seen)
    finally:
        custody.close()
    rotations = product.ask("GET", "/secret-rotations")
    seen.done = sum(each["state"] == "done" for each in rotations)
    return seen


def _carried_out(fault: Fault, product: Product, places: Sequence[Place], server: Server) -> int:
    while True:
        try:
            next(fault)
        except StopIteration as end:
            return int(end.value)
        _order(product, sorted(places, key=lambda each: each.server is server))


def _rotate(product: Product, places: Sequence[Place], seen: Seen) -> None:
    _order(product, places)
    _await_ends(product, seen)


def _order(product: Product, places: Sequence[Place]) -> None:
    """Order a rotation of each; one that is under way already is left to that."""
    for place in places:
        done = product.answer("POST", f"/secrets/{place.name}/rotate")
        assert done.status_code in (202, 409), done.text


def _await_ends(product: Product, seen: Seen) -> None:
    """Wait until no task runs, and count why tasks have failed."""
    if not _until_ended(product):
        seen.misses.append("tasks have not come to their end")
    for each in product.ask("GET", "/secret-rotations", params={"failed": True}):
        seen.failed[str(each["cause"])] += 1


def _until_ended(product: Product) -> bool:
    until = time.monotonic() + ROUND_SECONDS
    while product.ask("GET", "/tasks", params={"running": True}):
        if time.monotonic() > until:
            return False
        time.sleep(0.3)
    return True


def _came(product: Product, place: Place) -> bool:
    found = product.ask("GET", f"/secrets/{place.name}")
    return bool(found["works"] == found["version"])


def _judge(custody: Custody, watch: Watch | None, places: Sequence[Place], seen: Seen) -> None:
    """Have OpenSSH's client try what is kept: one of the two gets in, and in the end the current one alone."""

    def tried(place: Place) -> tuple[Place, list[str]]:
        kept = custody.two(place)
        return place, [stage for stage, value in kept.items() if judge.password_login_works(place.server, place.login, value)]

    with ThreadPoolExecutor(4) as pool:
        for place, works in pool.map(tried, places):
            seen.logins_tried += 1
            if not works:
                seen.locked_out.append(f"{place.login}@{place.server.name}: neither of the two gets in")
            elif watch is None and works != ["SYSCURRENT"]:
                seen.misses.append(f"{place.name}: in the end {' and '.join(works)} gets in")
