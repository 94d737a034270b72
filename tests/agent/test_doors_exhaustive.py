"""A door on the model server, killed, cut from power, made to fail and overtaken at every effect: closed, or open and watched.

And in the end it is closed: the files as they were, sshd running on them, nothing of ours left but the state of generations.
"""

import contextlib
import errno
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from model_host import (
    CONFIG,
    CONNECTION,
    DOOR,
    DOOR_AT_BOOT,
    STATE,
    Credential,
    ModelHost,
    Rope,
    World,
    between,
    directory,
    temporary,
    whole,
)
from scenarios import ACCOUNTS, CLOSED, OWNER_SAYS_NO, PASSWORDS, disk

from kpsagent import plan as plans
from kpsagent.doors import at_boot, unattended
from kpsagent.errors import Stop
from kpsagent.host import ArmDoor, Replace
from kpsagent.transaction import drive, operation

NUMBER, OTHER = "ab" * 16, "cd" * 16
SECONDS, OPENING = 600, 60
ALICE = Credential("password", "alice", PASSWORDS["alice"])
CONFIGS = {"our own block": CLOSED, "the owner's": OWNER_SAYS_NO + "Match User git\n    X11Forwarding no"}


def plan(what: str, number: str = NUMBER, seconds: int = SECONDS) -> plans.Plan:
    door = {"id": number, "from": None, "seconds": seconds}
    about = {"id": f"op-{what}", "generation": 7, "login": "alice", "connection": CONNECTION, "deadline_seconds": OPENING}
    return plans.parse(about | {"operation": f"door-{what}", "door": door, "password_known": True})


def fresh(kind: str, config: str) -> World:
    return World(ACCOUNTS, PASSWORDS, {**disk("alice", None, config), "/run": directory()}, kind)


def opened(kind: str, config: str) -> World:
    """A server whose door is open."""
    world = fresh(kind, config)
    host = ModelHost(world, Rope([ALICE]))
    assert drive(operation(plan("open")), host)["status"] == "succeeded"
    host.close()
    return world


class Broken(BaseException):
    """a promise does not hold; no Exception, so that the code which is judged, and undoes on every Exception, does not hear it"""


def hold(promise: object, what: object) -> None:
    if not promise:
        raise Broken(what)


class Tried:
    """One server, of which every state that comes is held to the promises; points counts them."""

    def __init__(self, kind: str, config: str, points: Counter[str]) -> None:
        self.before = fresh(kind, config)
        self.points = points
        self._known: set[Any] = set()

    # -- promises

    def watched(self, world: World) -> None:
        """Whoever gets in by the door, somebody will close it: now, and after a power failure."""
        self.points["states"] += 1
        if world.logs_in(ALICE):
            hold(door_in(world), "open, and no door stands there")
            hold(world.door_watchers, "open, and nobody watches")
            hold({f"{STATE}/door-agent", DOOR_AT_BOOT} <= set(world.disk), "open, and nothing would close it after a reboot")

    def closed(self, world: World) -> None:
        assert not world.logs_in(ALICE)
        left = {path for path in world.disk if path.startswith(STATE + "/")} - {f"{STATE}/state.json"}
        left |= {path for path in (DOOR, DOOR_AT_BOOT, temporary(DOOR), temporary(CONFIG)) if path in world.disk}
        assert not left, left
        assert not world.door_watchers
        assert world.disk[CONFIG] == self.before.disk[CONFIG]
        assert world.loaded == self.before.loaded

    # -- what comes after a crash

    def crashed(self, world: World, again: bool = True) -> None:
        """The process that acted here is gone: hold what comes of that, and of the power going too, to the promises."""
        key = (world.key(), world.clock > 1500, again)
        if key in self._known:
            return
        self._known.add(key)
        self.points["crashes"] += 1
        killed = world.killed()
        self.watched(killed)
        self._to_its_end(killed, again)
        self._reboots(world.unpowered(), again)

    def _to_its_end(self, world: World, again: bool) -> None:
        """The deadline comes, and with it a watcher; where none lives, the next order."""
        world = world.copy()
        world.clock += SECONDS + 1
        world.wall += SECONDS + 1
        if not world.door_watchers:
            drive(operation(check()), ModelHost(world, Rope([])))
            assert not world.logs_in(ALICE)
        if door_in(world) is not None:
            self._played(world, lambda: unattended(True), again)
        if not door_in(world):
            # What was put there before a door stood there goes with the next order that is about doors.
            drive(operation(plan("status")), closing_host(world))
            self.closed(world)

    def _reboots(self, world: World, again: bool) -> None:
        """It boots in time, and when the time is over, before sshd starts or after it; what runs at boot is killed, too."""
        for late in (False, True):
            for is_before in (True, False):
                booting = world.copy() if is_before else world.sshd_started()
                booting.clock = 5.0
                booting.wall += SECONDS + 1 if late else 3
                if {f"{STATE}/door-agent", DOOR_AT_BOOT} <= set(booting.disk) and door_in(booting):
                    for crash in crashes(booting.copy(), at_boot) if again else ():
                        self._booted(crash.killed(), late)
                    drive(at_boot(), closing_host(booting))
                self._to_its_end(self._booted(booting, late), False)

    def _booted(self, world: World, late: bool) -> World:
        """Start sshd and return the server; a boot that was killed leaves it to the next: what goes with the power is closed."""
        started = world.sshd_started()
        self.watched(started)
        assert not (late and started.logs_in(ALICE))
        return started

    def _played(self, world: World, play: Callable[[], Any], again: bool) -> None:
        if again:
            for crash in crashes(world.copy(), play):
                self.crashed(crash, False)
        assert drive(play(), closing_host(world)) == ""

    # -- one order

    def order(self, start: Callable[[], World], what: str, holds: list[Credential]) -> None:
        """Play an order to its end, and then with each thing that can go wrong at each of its effects."""
        world = start()
        count = self._run(world, what, holds)
        for number in range(count):
            for fault in (fails(number), ends(number), overtaken(number, self)):
                world = start()
                self._run(world, what, holds, fault)
                self.points["faults"] += 1

    def _run(self, world: World, what: str, holds: list[Credential], before: Any = None) -> int:
        seen: list[World] = []

        def about_to(number: int, effect: Any) -> None:
            seen.extend(between(world, effect))
            if before is not None:
                before(number, effect, world, host)

        def after(number: int, effect: Any) -> None:
            self.watched(world)
            seen.append(world.copy())

        host = ModelHost(world, Rope(holds), about_to, after)
        result = drive(operation(plan(what)), host)
        host.close()
        if before is None:
            assert result["status"] in ("succeeded", "unchanged"), result
        told = result.get("door")
        if what == "open" and result["status"] == "succeeded":
            assert (told or {}).get("state") == "open"
        if what == "close":
            stands = door_in(world) is not None or result["phase"] == "look"
            hold(stands or result["status"] != "failed", f"closed, and told as failed: {result}")
            hold(
                result["status"] == "failed" or (told or {}).get("state") == "closed", f"told as closed, and not shown: {result}"
            )
        for crash in [*seen, world]:
            self.crashed(crash, before is None)
        return host.count


def check() -> plans.Plan:
    return plans.parse({"operation": "check", "id": "op-check", "generation": 7, "login": "root", "connection": CONNECTION})


def closing_host(world: World) -> ModelHost:
    world.holder = None
    return ModelHost(world)


def door_in(world: World) -> Any:
    found = [world.disk.get(f"{STATE}/door.{name}") for name in ("opening", "open", "closing")]
    return next((json.loads(entry.text) for entry in found if entry is not None), None)


def crashes(world: World, play: Callable[[], Any]) -> list[World]:
    """Every state in which what plays here could have been killed."""
    found: list[World] = []
    host = closing_host(world)
    host.before = lambda _, effect: found.extend(between(world, effect))
    host.after = lambda _, __: found.append(world.copy())
    drive(play(), host)
    return found


Fault = Callable[[int, Any, World, ModelHost], None]


def fails(number: int) -> Fault:
    def fault(at: int, effect: Any, world: World, host: ModelHost) -> None:
        if at == number:
            raise OSError(errno.EIO, "EIO", "/somewhere")

    return fault


def ends(number: int) -> Fault:
    """The controller is gone before the effect with this number."""

    def fault(at: int, effect: Any, world: World, host: ModelHost) -> None:
        if host.rope is not None:
            host.rope.ended = host.rope.ended or at == number

    return fault


def overtaken(number: int, tried: Tried) -> Fault:
    """Before the effect with this number the deadline passes, and a watcher closes beside whoever acts."""

    def fault(at: int, effect: Any, world: World, host: ModelHost) -> None:
        if at != number:
            return
        world.clock += SECONDS + 1
        world.wall += SECONDS + 1
        if world.door_watchers:
            with contextlib.suppress(Stop):
                drive(unattended(True), ModelHost(world))

    return fault


@pytest.mark.parametrize("kind", ["listener", "each"])
@pytest.mark.parametrize("config", CONFIGS)
def test_whatever_happens_at_whichever_effect_a_door_is_closed_or_watched_and_in_the_end_closed(kind, config):
    points: Counter[str] = Counter()
    tried = Tried(kind, CONFIGS[config], points)
    tried.order(lambda: fresh(kind, CONFIGS[config]), "open", [ALICE])
    for what in ("open", "extend", "close", "status"):
        tried.order(lambda: opened(kind, CONFIGS[config]), what, [ALICE])
    assert points["crashes"] > 300
    assert points["faults"] > 150


@pytest.mark.parametrize("is_before", [True, False])
@pytest.mark.parametrize("kind", ["listener", "each"])
def test_at_a_boot_at_which_nobody_can_be_started_to_watch_the_door_is_closed(kind, is_before):
    tried = Tried(kind, CLOSED, Counter())
    world = opened(kind, CLOSED).unpowered()
    world = world if is_before else world.sshd_started()

    def nobody_starts(_: int, effect: Any) -> None:
        tried.watched(world)
        if isinstance(effect, ArmDoor):
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    drive(at_boot(), ModelHost(world, before=nobody_starts))
    tried.closed(world.sshd_started())


def test_what_somebody_edits_meanwhile_is_put_into_force_by_nobody_and_nothing_is_written():
    world = fresh("listener", CLOSED)
    theirs = CLOSED + "X11Forwarding yes\n"
    written = []

    def edited(_: int, effect: Any) -> None:
        if isinstance(effect, ArmDoor):  # all was looked at before
            world.put(CONFIG, world.disk[CONFIG]._replace(text=theirs))
        if isinstance(effect, Replace):
            written.append(effect)

    host = ModelHost(world, Rope([ALICE]), edited)
    result = drive(operation(plan("open")), host)
    assert (result["status"], result["cause"]) == ("failed", "sshd_config_changed")
    assert not written
    assert (world.disk[CONFIG].text, world.loaded) == (theirs, CLOSED)
    assert door_in(world) is None


def test_the_model_sees_what_is_included_and_where_it_ends():
    world = opened("listener", CLOSED)
    assert world.logs_in(ALICE) == "shell"
    assert not world.logs_in(Credential("password", "bob", PASSWORDS["bob"]))
    assert "end-of-file" in whole(world.disk[CONFIG].text, world.disk)
