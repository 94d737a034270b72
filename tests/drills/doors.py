"""`make doors`: emergency doors that lose whoever might close them, and doors on every flavour; judged by OpenSSH's client.

Trials: real servers, each with a door of some seconds; then the controller is killed, the network cut, the server rebooted, or a
watcher killed. An outside poll sees when sshd asks for the password no more. Flavours: opened by a user's command; tried by
logins from inside and outside its network, and as another login; closed, and the file of the lines is what it was.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from controller.demo.fleet import Fleet, FleetUnavailable, Login, Server, Spec
from tests.drills.figures import Figure, Report, zero
from tests.drills.fleet import flavours
from tests.drills.fleet.boxes import Box, Boxes
from tests.drills.fleet.docker import DockerUnavailable, answering
from tests.fleet import judge
from tests.fleet.cable import Cable
from tests.fleet.doors import CONFIG, nothing_left
from tests.fleet.product import Product

SERVERS, ROUNDS, SECONDS = 13, 2, 25  # rounds of each loss; a door is open for so long
SAMPLE_SERVERS, SAMPLE_ROUNDS = 3, 1
TREES = ("host", "bullseye", "trixie")
LATE_SECONDS = 5.0
SAMPLE_FLAVOURS = ("debian-12", "no-python")
NEAR = "127.0.0.0/24"  # from which the controller comes too
INSIDE, OUTSIDE = "127.0.0.99", "127.9.9.99"
SOMEBODY_ELSE = "Match User nobody\n    PasswordAuthentication yes\n"
REFUSED_ON = {"no-python": "door_unwatched", "dropbear": "sshd_config_missing"}


@dataclass(frozen=True)
class Trial:
    """One door that lost somebody. late: seconds from its deadline to the first look that found it closed."""

    loss: str
    server: str
    late: float
    miss: str = ""


class Lab:
    """Servers that take no passwords, each reached over a cable, and a controller that has keys on them."""

    def __init__(self, fleet: Fleet, product: Product, servers: int, held: contextlib.ExitStack) -> None:
        self.product = product
        specs = [Spec(tree=TREES[number % len(TREES)], logins=(Login("alice", "pw-alice"),)) for number in range(servers)]
        self.servers = fleet.add_all(specs)
        self.cables = {server.name: held.enter_context(Cable(server)) for server in self.servers}
        pair = product.keypair()
        for server in self.servers:
            product.add(self.cables[server.name].place)  # type: ignore[arg-type]
            product.succeeds("bind", server, keypair=pair, password=server.root_password, accept_lockout=["alice"])
        self.before = {server.name: server.read(CONFIG) for server in self.servers}

    def lost(self, loss: str, seconds: int) -> list[Trial]:
        """Open a door on each server, lose somebody, and return when each was found closed."""
        words = ["emergency", "open", *(server.name for server in self.servers), "--login", "alice", "--for", f"{seconds}s"]
        self.product.kps(*words, "--reason", f"drill: {loss}", "--json")
        with ThreadPoolExecutor(len(self.servers)) as workers:
            return list(workers.map(lambda server: self._trial(loss, server), self.servers))

    def _trial(self, loss: str, server: Server) -> Trial:
        try:
            deadline = json.loads(server.read("/var/lib/kps/door.open"))["deadline"]
            if not _asked(server, "alice"):
                return Trial(loss, server.name, 0.0, "it was not open")
            LOSSES[loss](self, server, deadline)
            late = _closed(server, deadline, boots=LOSSES[loss] is _reboot)
            if _gets_in(server):
                return Trial(loss, server.name, late, "the password gets in after it was closed")
            return Trial(loss, server.name, late, self._left(server))
        except Exception as error:  # whatever it is: this door has not been seen to close
            return Trial(loss, server.name, 999.0, f"{type(error).__name__}: {error}"[:300])

    def _left(self, server: Server) -> str:
        until = time.monotonic() + 15
        while left := nothing_left(server):
            if time.monotonic() > until:
                return f"left behind: {left}"
            time.sleep(0.2)
        return "" if server.read(CONFIG) == self.before[server.name] else "sshd_config is not what it was"

    def mended(self) -> None:
        """Bring back what a round has taken."""
        for cable in self.cables.values():
            cable.is_cut = False
        if self.product.process is None:
            self.product.serve()
        # What was closed without the controller it hears of now, and gives the next door.
        self.product.kps("emergency", "close", *(server.name for server in self.servers), ends=None)


def _asked(server: Any, login: str) -> bool:
    return "password" in judge.offered_methods(server, login)


def _gets_in(server: Server) -> bool:
    """Whether the password gets in; for a moment after it was told to read its configuration anew, sshd takes nobody."""
    until = time.monotonic() + 10
    while True:
        try:
            return judge.password_login_works(server, "alice", "pw-alice")
        except judge.Puzzled:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def _closed(server: Server, deadline: float, boots: bool) -> float:
    """Poll until sshd asks for a password no more, and return how late that was; closed a second before its time is none.

    From the deadline, or where the server boots and is still at it then, from when its sshd is first heard.
    """
    silent = deadline
    while True:
        looked = time.time()
        try:
            if not _asked(server, "alice"):
                if looked < deadline - 1:
                    raise AssertionError(f"closed {deadline - looked:.1f} s before its deadline")
                return max(0.0, looked - max(deadline, silent))
        except judge.Puzzled:
            silent = looked if boots else silent  # what nobody hears otherwise has not been seen to be closed
        if looked > deadline + 30:
            return looked - deadline
        time.sleep(0.2)


def _kill_controller(lab: Lab, server: Server, deadline: float) -> None:
    if lab.product.process is not None and server is lab.servers[0]:
        lab.product.end(signal.SIGKILL)


def _cut(lab: Lab, server: Server, deadline: float) -> None:
    lab.cables[server.name].is_cut = True


def _reboot(lab: Lab, server: Server, deadline: float) -> None:
    """At once, or off until its time is over."""
    server.stop()
    if lab.servers.index(server) % 2:
        time.sleep(max(0.0, deadline + 0.1 - time.time()))
    server.start()


def _kill_watcher(lab: Lab, server: Server, deadline: float) -> None:
    found = [pid for pid, title in server.processes().items() if "door-watch" in title]
    assert found, "nobody watches"
    os.kill(random.choice(found), signal.SIGKILL)


LOSSES: dict[str, Callable[[Lab, Server, float], None]] = {
    "controller killed": _kill_controller,
    "network cut": _cut,
    "server rebooted": _reboot,
    "watcher killed": _kill_watcher,
}


def trials(servers: int, rounds: int, seconds: int) -> list[Trial]:
    """Lose everything that can be lost, so many rounds of each."""
    found: list[Trial] = []
    with contextlib.ExitStack() as held:
        fleet = held.enter_context(Fleet(max_age_seconds=3600))
        home = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="kps-doors-"))) / "home"
        product = held.enter_context(Product(home))
        lab = Lab(fleet, product, servers, held)
        for number in range(rounds):
            for loss in LOSSES:
                begun = time.monotonic()
                found += lab.lost(loss, seconds)
                lab.mended()
                print(f"{loss}, round {number + 1}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return found


# -- flavours ----------------------------------------------------------------------------------------------------------


def flavour_played(boxes: Boxes, flavour: flavours.Flavour, home: Path) -> str:
    """Open and close a door on a server of a flavour; return what was not as it must be, or ""."""
    box = boxes.start(flavour)
    try:
        with Product(home, connect_timeout_seconds=8) as product:
            return _door_on(box, flavour, product)
    except Exception as error:  # whatever it is, this flavour is a miss and the others are tried
        return f"{type(error).__name__}: {error}"[:400]
    finally:
        boxes.remove(box)


def _door_on(box: Box, flavour: flavours.Flavour, product: Product) -> str:
    other = next(login for login in flavour.passwords if login != flavour.login)
    product.add(box, flavour.login)  # type: ignore[arg-type]
    refused = REFUSED_ON.get(flavour.name)
    keep = {"keep_password_login": True} if refused else {"accept_lockout": [*flavour.passwords]}
    product.succeeds("bind", box, keypair=product.keypair(), login=flavour.login, password=box.passwords[flavour.login], **keep)  # type: ignore[arg-type]
    if flavour.name != "dropbear":
        # After the bind, which would refuse it: it opens password login.
        box.write(flavour.owners_config, (_text(box, flavour.owners_config) or "") + SOMEBODY_ELSE)
        box.run(["sh", "-c", flavour.reload])
    before = _text(box, flavour.config)
    words = [
        box.name,
        "--login",
        other,
        "--for",
        "10m",
        "--from",
        NEAR,
        "--reason",
        "drill",
        "--password-stdin",
        "--password-of",
        other,
    ]
    said = product.kps("emergency", "open", *words, given=box.passwords[other] + "\n", ends=None)
    if refused:
        same = _text(box, flavour.config) == before
        return "" if refused in said.stdout + said.stderr and same else f"not refused with {refused}: {said.stdout}{said.stderr}"
    if said.returncode:
        return f"not opened: {said.stdout}{said.stderr}"[:600]
    wrong = [
        what
        for what, is_right in (
            ("from inside the password does not get in", _in(box, other, INSIDE)),
            ("from outside it does", not _in(box, other, OUTSIDE)),
            (f"{flavour.login} gets in by its password", not _in(box, flavour.login, INSIDE)),
        )
        if not is_right
    ]
    product.kps("emergency", "close", box.name)
    if _in(box, other, INSIDE):
        wrong.append("it still gets in after the close")
    if _text(box, flavour.config) != before:
        wrong.append(f"{flavour.config} is not what it was")
    return "; ".join(wrong)


def _in(box: Any, login: str, source: str) -> bool:
    return judge.password_login_works(box, login, box.passwords[login], source=source)


def _text(box: Box, path: str) -> str | None:
    return box.read(path) if box.run(["test", "-e", path], check=False).returncode == 0 else None


def flavours_played(names: tuple[str, ...]) -> dict[str, str]:
    """Return flavour -> what was not as it must be."""
    chosen = [each for each in flavours.every() if not names or each.name in names]
    with contextlib.ExitStack() as held:
        boxes = held.enter_context(Boxes(held.enter_context(answering())))
        homes = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="kps-doors-")))
        workers = held.enter_context(ThreadPoolExecutor(3))
        played = list(workers.map(lambda each: flavour_played(boxes, each, homes / each.name), chosen))
    return dict(zip((each.name for each in chosen), played, strict=True))


# -- the whole ---------------------------------------------------------------------------------------------------------


def reported(found: list[Trial], played: dict[str, str] | None, sample: bool, wanted: int) -> Report:
    """Put what was seen against the goals."""
    report = Report("doors", sample)
    report.add(Figure("trials", len(found), at_least=wanted))
    late = sorted(trial.late for trial in found)
    in_time = [trial for trial in found if not trial.miss and trial.late <= LATE_SECONDS]
    report.add(zero("doors not closed within 5 s of their deadline, or with something left", len(found) - len(in_time)))
    if late:
        report.add(
            Figure("median", late[len(late) // 2], unit=" s"), Figure("longest", late[-1], at_most=LATE_SECONDS, unit=" s")
        )
    report.misses += [f"{each.loss} on {each.server}: {each.late:.1f} s; {each.miss}" for each in found if each not in in_time]
    if played is not None:
        report.add(Figure("flavours", len(played), at_least=2 if sample else len(flavours.every())))
        report.add(zero("flavours on which something was not as it must be", sum(map(bool, played.values()))))
        report.misses += [f"{name}: {wrong}" for name, wrong in played.items() if wrong]
    return report


def table(found: list[Trial]) -> Table:
    """The times of the trials, by what was lost."""
    shown = Table(
        "lost", "trials", "closed within 5 s", "median", "longest", title="doors: from the deadline to closed, seen from outside"
    )
    for loss in LOSSES:
        late = sorted(trial.late for trial in found if trial.loss == loss)
        if late:
            good = sum(trial.late <= LATE_SECONDS and not trial.miss for trial in found if trial.loss == loss)
            shown.add_row(loss, str(len(late)), str(good), f"{late[len(late) // 2]:.2f} s", f"{late[-1]:.2f} s")
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(prog="make doors", description=__doc__)
    parser.add_argument("--sample", action="store_true", help="a few of each, for CI")
    parser.add_argument("--no-flavours", action="store_true", help="the trials only")
    parser.add_argument(
        "--flavour", action="append", metavar="NAME", help="this flavour only, and no trials; may be given several times"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    said = parser.parse_args()
    servers, rounds = (SAMPLE_SERVERS, SAMPLE_ROUNDS) if said.sample else (SERVERS, ROUNDS)
    try:
        found = [] if said.flavour else trials(servers, rounds, SECONDS)
        names = tuple(said.flavour or ()) or (SAMPLE_FLAVOURS if said.sample else ())
        played = None if said.no_flavours else flavours_played(names)
    except (FleetUnavailable, DockerUnavailable) as error:
        print(error, file=sys.stderr)
        return 2
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table(found))
    part = said.sample or said.no_flavours or bool(said.flavour)
    wanted = 0 if said.flavour else servers * rounds * len(LOSSES)
    return reported(found, played, part, wanted).ended(said.json)


if __name__ == "__main__":
    sys.exit(main())
