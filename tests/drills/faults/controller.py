"""The controller killed, its network cut, its server rebooted: at each event of a task, for each operation.

Within the deadline and a little the old or the new way in works on the server; and soon it is on record which of them it is.
"""

import contextlib
import functools
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
from tests.drills.faults import Scale
from tests.drills.figures import Figure, Report, zero
from tests.fleet import judge
from tests.fleet.cable import Cable
from tests.fleet.causes import agents
from tests.fleet.product import Json, Product

DEADLINE = 5
GRACE = 5
ON_RECORD_SECONDS = 30
AT_ONCE = 6  # trials: most of the time each waits
_STEP_SECONDS = 60
_FINAL = ("succeeded", "unchanged", "failed", "cancelled")
_SETTLES_SECONDS = 1.0  # in which an agent that has its answers comes to its end

Ways = dict[str, Callable[[], bool]]


@dataclass
class Trial:
    """One operation, disturbed once its task has so many events. what: killed, killed late, cut or rebooted."""

    operation: str
    events: int
    what: str
    reached: str = ""
    open_seconds: float = 0.0
    known_seconds: float = 0.0
    misses: list[str] = field(default_factory=list)

    def miss(self, words: object) -> None:
        self.misses.append(f"{self.operation}, {self.what} at event {self.events} ({self.reached}): {words}")


class _Setting:
    """A server and a controller of its own, brought to where the operation begins."""

    def __init__(self, product: Product, server: Server, place: Any, operation: str) -> None:
        self.product, self.server, self.place, self.operation = product, server, place, operation
        self.keys: dict[str, str] = {}
        product.add(place)
        self.old, self.new = product.keypair(), product.keypair()
        self.keys = {each["name"]: product.private(each) for each in (self.old, self.new)}
        if operation != "bind":
            product.succeeds("bind", place, keypair=self.old, password=server.root_password)
        if operation == "password-login-disable":
            product.succeeds("password-login-enable", place)

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


def _disturbed(setting: _Setting, trial: Trial, cable: Cable) -> str | None:
    """Begin the operation, disturb it, and return its task; None where it had ended before."""
    product = setting.product
    with contextlib.ExitStack() as stack:
        task_id = setting.begin()
        trial.reached = _at_event(product, task_id, trial.events, stack)
        if not trial.reached:
            return None
        if trial.what == "killed late":
            time.sleep(_SETTLES_SECONDS)
        if trial.what.startswith("killed"):
            product.end(signal.SIGKILL)
        elif trial.what == "cut":
            cable.is_cut = True
        else:
            setting.server.reboot()
    return task_id


def _try(trial: Trial, fleet: Fleet, one_by_one: threading.Lock, home: Path) -> Trial:
    with one_by_one:
        server = fleet.add(Spec())
    try:
        with Product(home, deadline_seconds=DEADLINE, connect_timeout_seconds=2) as product, Cable(server) as cable:
            _judged(trial, _Setting(product, server, cable.place, trial.operation), cable)
    except Exception as error:  # one trial that cannot be made is a miss, not the end of the drill
        trial.miss(f"{type(error).__name__}: {error}"[:600])
    finally:
        with one_by_one:
            fleet.remove(server)
    return trial


def _judged(trial: Trial, setting: _Setting, cable: Cable) -> None:
    task_id = _disturbed(setting, trial, cable)
    if task_id is None:
        return
    begun = time.monotonic()
    ways: set[str] = set()
    while time.monotonic() - begun < DEADLINE + GRACE and not (setting.decided() and (ways := setting.opens())):
        time.sleep(0.1)
    trial.open_seconds = time.monotonic() - begun
    if not ways:
        trial.miss(f"no way in within {DEADLINE + GRACE} s: decided {setting.decided()}, open {setting.opens()}")
    cable.is_cut = False
    begun = time.monotonic()
    if setting.product.process is None:
        setting.product.serve()
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


def _counted(fleet: Fleet, one_by_one: threading.Lock, new_home: Callable[[], Path], operation: str) -> int:
    """Return how many events a task of this operation has when nothing disturbs it, the one of its end not counted."""
    with one_by_one:
        server = fleet.add(Spec())
    with Product(new_home(), deadline_seconds=DEADLINE) as product:
        setting = _Setting(product, server, server, operation)
        task_id = setting.begin()
        product.ended(task_id)
        count = len(product.events(task_id)) - 1
    with one_by_one:
        fleet.remove(server)
    return count


OPERATIONS = ("bind", "replace", "unbind", "password-login-enable", "password-login-disable")
WHATS = ("killed", "killed late", "cut", "rebooted")


def controller(report: Report, scale: Scale) -> None:
    """The part: every operation, every event, everything that may be lost."""
    one_by_one = threading.Lock()
    with tempfile.TemporaryDirectory(prefix="kps-drill-") as directory, Fleet() as fleet, ThreadPoolExecutor(AT_ONCE) as pool:
        numbers = itertools.count()

        def new_home() -> Path:
            home = Path(directory, str(next(numbers)), "home")
            home.parent.mkdir()
            return home

        count = functools.partial(_counted, fleet, one_by_one, new_home)
        counts = dict(zip(OPERATIONS, pool.map(count, OPERATIONS), strict=True))
        every = [
            Trial(operation, events, what)
            for operation in OPERATIONS
            for what in WHATS
            for events in range(1, counts[operation] + 1)
        ]
        chosen = scale.some(every, AT_ONCE)
        trials = list(pool.map(lambda trial: _try(trial, fleet, one_by_one, new_home()), chosen))
    reached = [trial for trial in trials if trial.reached]
    report.add(
        Figure("controller: lost at an event", len(reached), at_least=1 if scale.sample else len(chosen) / 2),
        Figure("controller: through before it was lost", len(chosen) - len(reached)),
        zero("controller: trials missed", sum(bool(trial.misses) for trial in trials)),
        Figure(
            "controller: slowest way in",
            round(max((trial.open_seconds for trial in reached), default=0), 1),
            at_most=DEADLINE + GRACE,
            unit=" s",
        ),
        Figure(
            "controller: slowest record",
            round(max((trial.known_seconds for trial in reached), default=0), 1),
            at_most=ON_RECORD_SECONDS,
            unit=" s",
        ),
    )
    if not scale.sample:
        met = {(trial.operation, trial.what) for trial in reached}
        never = [f"{operation}, {what}" for operation in OPERATIONS for what in WHATS if (operation, what) not in met]
        report.add(zero("controller: losses never met", len(never)))
        report.misses += [f"controller: at no event: {words}" for words in never]
    report.misses += [miss for trial in trials for miss in trial.misses]
