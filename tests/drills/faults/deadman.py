"""The undo that needs nobody, on every kind of init: whatever is lost between closing passwords and the commit, the server opens.

Each bind is held at the same place: the new key is there, sshd runs without passwords, nothing is confirmed. There the network
is cut without a word, so that nobody answers and nobody closes anything, and then more is lost.
"""

import contextlib
import functools
import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.demo.fleet import Fleet, Spec
from tests.drills.faults import FLEET_SECONDS, Scale
from tests.drills.figures import Figure, Report, zero
from tests.drills.fleet import flavours
from tests.drills.fleet.boxes import Boxes
from tests.drills.fleet.docker import answering
from tests.fleet import judge
from tests.fleet.cable import Cable
from tests.fleet.causes import Gate, agents
from tests.fleet.looks import changed, picture
from tests.fleet.product import NotEnded, Product

DEADLINE = 25
GRACE = 5
LEAST_SECONDS = 4  # before the deadline, in which a loss still is one
AT_ONCE = 8
ON_RECORD_SECONDS = 30
_HELD = "grep -q 'kps: begin' /etc/ssh/sshd_config"
_STAYS = {"/var/lib/kps", "/var/lib/kps/state.json", "/etc/ssh/sshrc"}
_NOT_OURS = ("/run/", "/tmp", "/var/tmp", "/var/lib/systemd", "/usr/local")
_SSHD, _REAL = "/usr/sbin/sshd", "/usr/local/lib/kps-drill/sshd"
# Once: the sshd that is to start anew after a signal ends instead, and then is itself again.
_DIES_ONCE = f"""#!/bin/sh
case " $* " in *" -t "*|*" -T "*|*" -R "*) exec {_REAL} "$@" ;; esac
mv {_REAL} {_SSHD}
exit 255
"""
_WRAP = f"""set -e
mkdir -p {_REAL.rpartition("/")[0]}
cp -p {_SSHD} {_REAL}
cat >{_SSHD}.new
chmod 755 {_SSHD}.new
mv {_SSHD}.new {_SSHD}
"""
_SYSTEMD = (
    ("debian-11-systemd", "no"),
    ("debian-12-systemd", "yes"),
    ("debian-12-systemd", "no"),
    ("debian-13-systemd", "yes"),
)


def _kill(server: Any, chosen: Callable[[str], bool]) -> None:
    found = [pid for pid, title in server.processes().items() if chosen(title)]
    assert found, f"nothing to kill among {list(server.processes().values())}"
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_agent(title: str) -> bool:
    return "-I -S -E -B" in title and "/var/lib/kps/agent" not in title


def _is_watcher(title: str) -> bool:
    return title.endswith("watch /var/lib/kps")


def _session(server: Any) -> None:
    """As logind does where KillUserProcesses is set, and a closed lid of a bastion: the session, with all that it started."""
    if server.run(["sh", "-c", "command -v loginctl && loginctl terminate-user root"], check=False).returncode:
        _kill(server, lambda title: title.startswith(("sshd: root@", "sshd-session: root@")) or _is_agent(title))


def _one_watcher(server: Any) -> None:
    """The process that was detached: where a unit watches too the agent with it, else it alone, and the agent is left."""
    watchers = [pid for pid, title in server.processes().items() if _is_watcher(title)]
    assert watchers, f"no watcher among {list(server.processes().values())}"
    if len(watchers) > 1:
        _kill(server, _is_agent)
    os.kill(watchers[-1], signal.SIGKILL)


def _unit(server: Any) -> None:
    server.run(["systemctl", "kill", "--signal=KILL", "kps-undo.service"])
    _kill(server, _is_agent)


def _both_watchers(server: Any) -> None:
    _kill(server, _is_agent)
    _kill(server, _is_watcher)
    server.reboot()


def _listener(server: Any) -> None:
    _kill(server, lambda title: title.startswith("sshd: ") and "[listener]" in title)


@dataclass(frozen=True)
class Loss:
    """What is lost, besides the network. needs: "systemd", "no watcher left" (something that runs at boot) or ""."""

    name: str
    happens: Callable[[Any], None]
    needs: str = ""


LOSSES = (
    Loss("the network", lambda server: None),
    Loss("the agent", lambda server: _kill(server, _is_agent)),
    Loss("the session", _session),
    Loss("a watcher", _one_watcher),
    Loss("the unit that watches", _unit, "systemd"),
    Loss("sshd", _listener),
    Loss("process 1", lambda server: server.reboot(), "boot"),
    Loss("both watchers, then process 1", _both_watchers, "boot"),
)
DIES_OF_RELOAD = "sshd, of its own reload"


@dataclass
class Trial:
    """One server, one loss."""

    kind: str
    loss: str
    made: bool = False
    late: float = float("-inf")
    misses: list[str] = field(default_factory=list)

    def miss(self, words: object) -> None:
        self.misses.append(f"{self.kind}, {self.loss} lost: {words}")


@dataclass(frozen=True)
class Kind:
    """A kind of init. made: starts a server of it; removed: ends one."""

    name: str
    systemd: bool
    boots: bool
    made: Callable[[], Any]
    removed: Callable[[Any], None]

    def losses(self) -> list[Loss]:
        return [
            loss
            for loss in (*LOSSES, Loss(DIES_OF_RELOAD, lambda server: None))
            if (loss.needs != "systemd" or self.systemd) and (loss.needs != "boot" or self.boots)
        ]


@contextlib.contextmanager
def _kinds() -> Iterator[list[Kind]]:
    """Yield the kinds of server: of each init, KillUserProcesses on and off, and one that has nothing that runs at boot."""
    one_by_one = threading.Lock()
    with Fleet(max_age_seconds=FLEET_SECONDS) as fleet, contextlib.ExitStack() as closing:

        def of_fleet(tree: str, *removed: str) -> Any:
            with one_by_one:
                server = fleet.add(Spec(tree=tree))
            for path in removed:
                server.run(["rm", "-r", path])
            return server

        kinds = [
            Kind("boot scripts", False, True, functools.partial(of_fleet, "trixie"), fleet.remove),
            Kind("cron", False, True, functools.partial(of_fleet, "host", "/etc/rcS.d"), fleet.remove),
            Kind(
                "nothing at boot",
                False,
                False,
                functools.partial(of_fleet, "bullseye", "/etc/rcS.d", "/etc/cron.d"),
                fleet.remove,
            ),
        ]
        boxes = closing.enter_context(Boxes(closing.enter_context(answering())))

        def of_docker(flavour: flavours.Flavour, kills: str) -> Any:
            with one_by_one:
                server = boxes.start(flavour)
            server.write(
                "/etc/systemd/logind.conf.d/zz-drill.conf", f"[Login]\nKillUserProcesses={kills}\nKillExcludeUsers=nobody\n"
            )
            server.run(["systemctl", "restart", "systemd-logind"])
            return server

        of_name = {flavour.name: flavour for flavour in flavours.every()}
        for name, kills in _SYSTEMD:
            made = functools.partial(of_docker, of_name[name], kills)
            kinds.append(Kind(f"{name}, KillUserProcesses={kills}", True, True, made, boxes.remove))
        yield kinds


def deadman(report: Report, scale: Scale) -> None:
    """The part: every kind of init, everything that may be lost."""
    with (
        _kinds() as kinds,
        tempfile.TemporaryDirectory(prefix="kps-drill-") as directory,
        Product(Path(directory, "home"), deadline_seconds=DEADLINE) as product,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        pair = product.keypair()
        order = {"keypair": pair, "accept_lockout": ["bob"]}  # a login that some of them have
        every = [(kind, loss) for kind in kinds for loss in kind.losses()]
        try_one = functools.partial(_try, product, product.private(pair), order)
        trials = list(pool.map(try_one, scale.some(every, AT_ONCE)))
    made = [trial for trial in trials if trial.made or trial.misses]
    report.add(
        Figure("dead-man: losses", len(made), at_least=1 if scale.sample else len(every) * 0.9),
        Figure("dead-man: too late to lose anything", len(trials) - len(made), at_most=len(trials) * 0.1),
        zero("dead-man: trials missed", sum(bool(trial.misses) for trial in trials)),
        Figure("dead-man: latest", round(max(trial.late for trial in trials), 1), at_most=GRACE, unit=" s after its deadline"),
    )
    report.misses += [miss for trial in trials for miss in trial.misses]


def _try(product: Product, private: str, order: dict[str, Any], chosen: tuple[Kind, Loss]) -> Trial:
    kind, loss = chosen
    trial = Trial(kind.name, loss.name)
    try:
        server = kind.made()
        try:
            with Cable(server) as cable:
                _lost(product, private, order, loss, server, cable, trial)
        finally:
            kind.removed(server)
    except Exception as error:  # one trial that cannot be made is a miss, not the end of the drill
        trial.miss(f"{type(error).__name__}: {error}"[:600])
    return trial


def _lost(product: Product, private: str, order: dict[str, Any], loss: Loss, server: Any, cable: Cable, trial: Trial) -> None:
    before = picture(server)
    if loss.name == DIES_OF_RELOAD:  # it never gets to a proof, and a gate would hold the judge
        server.run(["sh", "-c", _WRAP], _DIES_ONCE)
    else:
        gate = Gate(server, _HELD)
    product.add(cable.place)
    (task_id,) = product.begin("bind", cable.place, password=server.root_password, **order)
    if loss.name == DIES_OF_RELOAD:
        due = _due(server)  # the undo begins at once
    else:
        gate.await_login()
        due = _due(server)
        cable.is_cut = True
        if due - time.monotonic() < LEAST_SECONDS:
            return  # on a busy machine: the undo would begin before anything was lost
        loss.happens(server)
    trial.made = True
    _opens(due, server, trial)
    cable.is_cut = False
    _after(product, private, server, trial, task_id, before)


def _due(server: Any) -> float:
    """When the undo is due, by this machine's clock: as the server's own journal says."""
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        said = server.run(["cat", "/var/lib/kps/journal.armed", "/var/lib/kps/journal.reverting"], check=False).stdout
        if said:
            left = json.loads(said)["deadline"] - time.clock_gettime(time.CLOCK_BOOTTIME)
            return time.monotonic() + float(left)
        time.sleep(0.05)
    raise AssertionError("no change of sshd_config was begun")


def _opens(due: float, server: Any, trial: Trial) -> None:
    """Wait until a password opens the server."""
    while (asked := time.monotonic()) < due + 2 * GRACE:
        with contextlib.suppress(judge.Puzzled, OSError):
            if "password" in judge.offered_methods(server, "root") and judge.password_login_works(
                server, "root", server.root_password
            ):
                trial.late = asked - due
                if trial.late > GRACE:
                    trial.miss(f"shut until {trial.late:.1f} s after the deadline")
                return
        time.sleep(0.2)
    trial.late = time.monotonic() - due
    trial.miss(f"still shut {trial.late:.0f} s after the deadline")


def _after(product: Product, private: str, server: Any, trial: Trial, task_id: str, before: Any) -> None:
    """What is left, and what is on record."""
    until = time.monotonic() + ON_RECORD_SECONDS
    while agents(server) and time.monotonic() < until:
        time.sleep(0.2)
    try:
        task = product.ended(task_id)
        while task["server_state"] == "unknown" and time.monotonic() < until:
            time.sleep(0.2)
            task = product.task(task_id)
    except NotEnded as error:
        trial.miss(f"its task has not ended: {error}"[:300])
        return
    if (task["status"], task["server_state"]) != ("failed", "reverted"):
        trial.miss(f"on record is {task['status']}, {task['server_state']}: {task['message']}")
    left = {path for path in changed(before, picture(server)) if not path.startswith(_NOT_OURS)}
    if left - _STAYS or agents(server):
        trial.miss(f"left behind: {sorted(left - _STAYS)} {agents(server)}")
    try:
        if judge.key_login_works(server, "root", private):
            trial.miss("the new key still gets in")
    except judge.Puzzled as error:
        trial.miss(f"no login is to be had: {error}; {server.console()[-200:]}")
