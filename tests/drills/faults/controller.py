"""The controller killed, its network cut, its server rebooted: at each event of a task, for each operation.

Within the deadline and a little the old or the new way in works on the server; and soon it is on record which of them it is.
"""

import contextlib
import itertools
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.demo.fleet import Fleet, Server, Spec
from tests.drills.faults import FLEET_SECONDS, Scale
from tests.drills.figures import Figure, Report, zero
from tests.fleet import judge
from tests.fleet.cable import Cable
from tests.fleet.causes import agents
from tests.fleet.product import Json, Product

GRACE = 5
ON_RECORD_SECONDS = 30
DOWN_SECONDS = 30  # systemd gives a process that passes over SIGTERM three times as long before it shuts down without it
AT_ONCE = 6  # trials: most of the time each waits
_STEP_SECONDS = 60
_TRIES = 4
_FINAL = ("succeeded", "unchanged", "failed", "cancelled")
_SETTLES_SECONDS = 1.0  # in which an agent that has its answers comes to its end

OPERATIONS = ("bind", "replace", "unbind", "password-login-enable", "password-login-disable")
LOSSES = ("killed", "killed late", "cut")  # of the controller, or of the network


@dataclass(frozen=True)
class Kind:
    """One kind of server: how one is had and ended, and by name how one goes down and comes back.

    name: how its figures begin. deadline: of its agents. losses: those of LOSSES that are tried. where: in what the agents of a
    server are at this moment; each trial keeps that.
    """

    name: str
    add: Callable[[], Any]
    remove: Callable[[Any], None]
    reboots: dict[str, Callable[[Any], None]]
    operations: tuple[str, ...] = OPERATIONS
    losses: tuple[str, ...] = LOSSES
    deadline: int = 5
    where: Callable[[Any], set[str]] = lambda server: set()

    @property
    def whats(self) -> tuple[str, ...]:
        """Everything that may be lost: one of its losses, or the server by one of its reboots."""
        return (*self.losses, *self.reboots)

    @property
    def most_seconds(self) -> int:
        """In which a way in must work."""
        return self.deadline + GRACE


@dataclass
class Trial:
    """One operation, disturbed once its task has so many events. what: one of its kind's whats."""

    operation: str
    events: int
    what: str
    reached: str = ""
    where: set[str] = field(default_factory=set)
    down_seconds: float = 0.0
    open_seconds: float = 0.0
    known_seconds: float = 0.0
    misses: list[str] = field(default_factory=list)

    def miss(self, words: object) -> None:
        self.misses.append(f"{self.operation}, {self.what} at event {self.events} ({self.reached}): {words}")


class _Setting:
    """A server and a controller of its own, brought to where the operation begins."""

    def __init__(self, product: Product, server: Any, place: Any, operation: str) -> None:
        self.product, self.server, self.place, self.operation = product, server, place, operation
        self.keys: dict[str, str] = {}
        product.add(place)
        self.old, self.new = product.keypair(), product.keypair()
        self.keys = {each["name"]: product.private(each) for each in (self.old, self.new)}
        if operation != "bind":
            self._brought("bind", keypair=self.old, password=server.root_password)
        if operation == "password-login-disable":
            self._brought("password-login-enable")

    def _brought(self, operation: str, **order: Any) -> None:
        """Carry out what comes before: once more where a busy machine takes longer than the short deadline of the trial."""
        for _ in range(_TRIES - 1):
            if self.product.run(operation, self.place, **order)["cause"] != "deadline_passed":
                return
        self.product.succeeds(operation, self.place, **order)

    def begin(self) -> str:
        order: Json = {}
        if self.operation in ("bind", "replace"):
            order["keypair"] = self.new
        if self.operation in ("bind", "unbind"):
            order["password"] = self.server.root_password
        return self.product.begin(self.operation, self.place, **order)[0]

    def opens(self) -> set[str]:
        """The ways in that work: a key pair's name, or "password"."""
        found = {name for name, private in self.keys.items() if self._lets_in(judge.key_login_works, private)}
        return found | ({"password"} if self._lets_in(judge.password_login_works, self.server.root_password) else set())

    def _lets_in(self, judged: Callable[..., bool], secret: str) -> bool:
        try:
            return judged(self.server, "root", secret)
        except judge.Puzzled:
            return False  # nobody is at the door: it reloads, or boots

    def decided(self) -> bool:
        """Whether the server has come to an end by itself."""
        look = "ls /var/lib/kps | grep -q -e armed -e reverting"
        return self.server.running and self.server.run(["sh", "-c", look], check=False).returncode == 1


def _at_event(product: Product, task_id: str, events: int, stack: contextlib.ExitStack) -> str:
    """Return once the task has so many events, with the controller stopped at its next; "" where it has ended before."""
    until = time.monotonic() + _STEP_SECONDS
    while time.monotonic() < until:
        seen = product.events(task_id)
        if len(seen) >= events:
            stack.enter_context(product.recording_nothing())
            kind, phase = product.events(task_id)[-1]
            return "" if kind == "task_finished" else f"{kind} {phase}".strip()
        time.sleep(0.002)
    return ""


def _disturbed(kind: Kind, setting: _Setting, trial: Trial, cable: Cable) -> str | None:
    """Begin the operation, disturb it, and return its task; None where it had ended before."""
    product = setting.product
    with contextlib.ExitStack() as stack:
        task_id = setting.begin()
        trial.reached = _at_event(product, task_id, trial.events, stack)
        if not trial.reached:
            return None
        trial.where = kind.where(setting.server)
        if trial.what == "killed late":
            time.sleep(_SETTLES_SECONDS)
        if trial.what.startswith("killed"):
            product.end(signal.SIGKILL)
        elif trial.what == "cut":
            cable.is_cut = True
        else:
            begun = time.monotonic()
            kind.reboots[trial.what](setting.server)
            trial.down_seconds = time.monotonic() - begun
    return task_id


def _try(kind: Kind, home: Path, trial: Trial) -> Trial:
    server = None
    try:
        server = kind.add()
        with Product(home, deadline_seconds=kind.deadline, connect_timeout_seconds=2) as product, Cable(server) as cable:
            _judged(kind, trial, _Setting(product, server, cable.place, trial.operation), cable)
    except Exception as error:  # one trial that cannot be made is a miss, not the end of the drill
        trial.miss(f"{type(error).__name__}: {error}"[:600])
    finally:
        if server is not None:
            kind.remove(server)
    return trial


def _judged(kind: Kind, trial: Trial, setting: _Setting, cable: Cable) -> None:
    task_id = _disturbed(kind, setting, trial, cable)
    if task_id is None:
        return
    begun = time.monotonic()
    ways: set[str] = set()
    while time.monotonic() - begun < kind.most_seconds and not (setting.decided() and (ways := setting.opens())):
        time.sleep(0.1)
    trial.open_seconds = time.monotonic() - begun
    if not ways:
        trial.miss(f"no way in within {kind.most_seconds} s: decided {setting.decided()}, open {setting.opens()}")
    cable.is_cut = False
    if setting.product.process is None:
        setting.product.serve()
    begun = time.monotonic()
    task = setting.product.task(task_id)
    while task["status"] not in _FINAL or task["server_state"] == "unknown":
        if time.monotonic() - begun > ON_RECORD_SECONDS:
            trial.miss(f"not on record within {ON_RECORD_SECONDS} s: {task['status']} {task['server_state']} {task['message']}")
            return
        time.sleep(0.1)
        task = setting.product.task(task_id)
    trial.known_seconds = time.monotonic() - begun
    _told_truly(trial, setting, task)


def _told_truly(trial: Trial, setting: _Setting, task: Json) -> None:
    """What is on record must be what a login meets."""
    asked = task["server_state"] == "as_asked"
    old, new = setting.old["name"], setting.new["name"]
    before = {"bind": {"password"}, "password-login-disable": {old, "password"}}.get(setting.operation, {old})
    after = {
        "bind": {new},
        "replace": {new},
        "unbind": {"password"},
        "password-login-enable": {old, "password"},
        "password-login-disable": {old},
    }[setting.operation]
    ways = setting.opens()
    if ways != (after if asked else before):
        trial.miss(f"on record is {task['status']} {task['server_state']}, and what gets in is {sorted(ways)}")
    bound = setting.product.server(setting.place)["keypair"]
    if bound is not None and bound not in ways:
        trial.miss(f"on record {bound} is bound, and what gets in is {sorted(ways)}")
    until = time.monotonic() + GRACE
    while (left := _left(setting.server)) and time.monotonic() < until:
        time.sleep(0.1)
    if left:
        trial.miss(f"left behind: {left}")


def _left(server: Server) -> list[str]:
    find = (
        "find /var/lib/kps ! -name state.json ! -path /var/lib/kps; find /etc /root \\( -name '*.kps-*' -o -name 'kps-undo*' \\)"
    )
    return [*server.run(["sh", "-c", find], check=False).stdout.split(), *agents(server)]


def _counted(kind: Kind, home: Path, operation: str) -> int:
    """Return how many events a task of this operation has when nothing disturbs it, the one of its end not counted."""
    server = kind.add()
    try:
        with Product(home, deadline_seconds=kind.deadline) as product:
            setting = _Setting(product, server, server, operation)
            task_id = setting.begin()
            product.ended(task_id)
            return len(product.events(task_id)) - 1
    finally:
        kind.remove(server)


def try_all(report: Report, scale: Scale, kind: Kind, at_once: int = AT_ONCE) -> list[Trial]:
    """Try every operation of a kind, at every event, with everything that may be lost; report it, and return the trials made."""
    with tempfile.TemporaryDirectory(prefix="kps-drill-") as directory, ThreadPoolExecutor(at_once) as pool:
        numbers = itertools.count()

        def new_home() -> Path:
            home = Path(directory, str(next(numbers)), "home")
            home.parent.mkdir()
            return home

        counted = pool.map(lambda operation: _counted(kind, new_home(), operation), kind.operations)
        every = [
            Trial(operation, events, what)
            for operation, count in zip(kind.operations, counted, strict=True)
            for what in kind.whats
            for events in range(1, count + 1)
        ]
        trials = list(pool.map(lambda trial: _try(kind, new_home(), trial), scale.some(every, at_once + 1)))
    reached = [trial for trial in trials if trial.reached]
    slowest_reboot = max((trial.down_seconds for trial in reached), default=0)
    slowest_way_in = max((trial.open_seconds for trial in reached), default=0)
    slowest_record = max((trial.known_seconds for trial in reached), default=0)
    report.add(
        Figure(f"{kind.name}: lost at an event", len(reached), at_least=1 if scale.sample else len(trials) / 2),
        Figure(f"{kind.name}: through before it was lost", len(trials) - len(reached)),
        zero(f"{kind.name}: trials missed", sum(bool(trial.misses) for trial in trials)),
        Figure(f"{kind.name}: slowest reboot", round(slowest_reboot, 1), at_most=DOWN_SECONDS, unit=" s"),
        Figure(f"{kind.name}: slowest way in", round(slowest_way_in, 1), at_most=kind.most_seconds, unit=" s"),
        Figure(f"{kind.name}: slowest record", round(slowest_record, 1), at_most=ON_RECORD_SECONDS, unit=" s"),
    )
    if not scale.sample:
        met = {(trial.operation, trial.what) for trial in reached}
        never = [f"{operation}, {what}" for operation in kind.operations for what in kind.whats if (operation, what) not in met]
        report.add(zero(f"{kind.name}: losses never met", len(never)))
        report.misses += [f"{kind.name}: at no event: {words}" for words in never]
    report.misses += [f"{kind.name}: {miss}" for trial in trials for miss in trial.misses]
    return trials


def controller(report: Report, scale: Scale) -> None:
    """The part: on servers without systemd."""
    one_by_one = threading.Lock()
    with Fleet(max_age_seconds=FLEET_SECONDS) as fleet:

        def add() -> Server:
            with one_by_one:
                return fleet.add(Spec())

        def remove(server: Server) -> None:
            with one_by_one:
                fleet.remove(server)

        try_all(report, scale, Kind("controller", add, remove, {"rebooted": Server.reboot}))
