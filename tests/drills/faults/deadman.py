"""The undo that needs nobody, on every kind of init: whatever is lost between closing passwords and the commit, the server opens.

Each bind is held at the same place: the new key is there, sshd runs without passwords, nothing is confirmed. There the controller
is frozen, so that it neither answers nor closes anything, and then more is lost.
"""

import contextlib
import functools
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
from tests.drills.faults import Scale
from tests.drills.figures import Figure, Report, zero
from tests.drills.fleet import flavours
from tests.drills.fleet.boxes import Boxes
from tests.drills.fleet.docker import answering
from tests.fleet import judge
from tests.fleet.causes import Gate, agents
from tests.fleet.looks import changed, picture
from tests.fleet.product import NotEnded, Product

DEADLINE = 40  # within which every bind of a round has to come to where it is held
GRACE = 5
ROUND = 10  # servers at a time: so many boot, bind and log in on two cores
ON_RECORD_SECONDS = 30
_HELD = "grep -q 'kps: begin' /etc/ssh/sshd_config"
_STAYS = {"/var/lib/kps", "/var/lib/kps/state.json", "/etc/ssh/sshrc"}
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
    """The process that was detached, where a unit watches too; the agent with it."""
    _kill(server, _is_agent)
    watchers = [pid for pid, title in server.processes().items() if _is_watcher(title)]
    if len(watchers) > 1:
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
    """What is lost, besides the controller. needs: "systemd", "no watcher left" (something that runs at boot) or ""."""

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
    seconds: float = 0.0
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
        return [loss for loss in LOSSES if (loss.needs != "systemd" or self.systemd) and (loss.needs != "boot" or self.boots)]


@contextlib.contextmanager
def _kinds() -> Iterator[list[Kind]]:
    """Yield the kinds of server: of each init, KillUserProcesses on and off, and one that has nothing that runs at boot."""
    one_by_one = threading.Lock()
    with Fleet() as fleet, contextlib.ExitStack() as closing:

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
            server.write("/etc/systemd/logind.conf.d/zz-drill.conf", f"[Login]\nKillUserProcesses={kills}\nKillExcludeUsers=\n")
            server.run(["systemctl", "restart", "systemd-logind"])
            return server

        of_name = {flavour.name: flavour for flavour in flavours.every()}
        for name, kills in _SYSTEMD:
            made = functools.partial(of_docker, of_name[name], kills)
            kinds.append(Kind(f"{name}, KillUserProcesses={kills}", True, True, made, boxes.remove))
        yield kinds


def deadman(report: Report, scale: Scale) -> None:
    """The part: every kind of init, everything that may be lost."""
    with _kinds() as kinds, tempfile.TemporaryDirectory(prefix="kps-drill-") as directory:
        every = [(kind, loss) for kind in kinds for loss in (*kind.losses(), Loss(DIES_OF_RELOAD, lambda server: None))]
        chosen = scale.some(every, ROUND - 2)
        trials: list[Trial] = []
        for number in range(0, len(chosen), ROUND):
            some = chosen[number : number + ROUND]
            try:
                trials += _round(some, Path(directory, str(number)))
            except Exception as error:  # a round that cannot be made is a miss, not the end of the drill
                names = ", ".join(f"{kind.name}, {loss.name} lost" for kind, loss in some)
                report.misses.append(f"{names}: {type(error).__name__}: {error}"[:1000])
    report.add(
        Figure("dead-man: losses", len(trials), at_least=1),
        zero("dead-man: trials missed", sum(bool(trial.misses) for trial in trials)),
        Figure(
            "dead-man: latest after its deadline",
            round(max((trial.seconds for trial in trials), default=0) - DEADLINE, 1),
            at_most=GRACE,
            unit=" s",
        ),
    )
    report.misses += [miss for trial in trials for miss in trial.misses]


def _round(chosen: list[tuple[Kind, Loss]], directory: Path) -> list[Trial]:
    """Lose something on each of a few servers, all at once."""
    directory.mkdir()
    with Product(directory / "home", deadline_seconds=DEADLINE, connect_timeout_seconds=2) as product:
        try:
            return _lost(chosen, product)
        finally:
            if product.process is not None:
                product.process.send_signal(signal.SIGCONT)


def _lost(chosen: list[tuple[Kind, Loss]], product: Product) -> list[Trial]:
    trials = [Trial(kind.name, loss.name) for kind, loss in chosen]
    with ThreadPoolExecutor(len(chosen)) as pool:
        servers = list(pool.map(lambda each: each[0].made(), chosen))
        before = list(pool.map(picture, servers))
        pair = product.keypair()
        private = product.private(pair)
        gates = [Gate(server, _HELD) for server in servers]
        for server, trial in zip(servers, trials, strict=True):
            product.add(server)
            if trial.loss == DIES_OF_RELOAD:
                server.run(["sh", "-c", _WRAP], _DIES_ONCE)
        begun = time.monotonic()
        others = ["bob"]  # a login that some of them have
        order = {"keypair": pair, "accept_lockout": others}
        tasks = [product.begin("bind", server, password=server.root_password, **order)[0] for server in servers]
        held = list(pool.map(_held, gates, trials))
        assert product.process is not None
        product.process.send_signal(signal.SIGSTOP)
        for (_, loss), server, trial, there in zip(chosen, servers, trials, held, strict=True):
            if there:
                try:
                    loss.happens(server)
                except Exception as error:
                    trial.miss(f"it cannot be lost: {error}"[:300])
        list(pool.map(functools.partial(_opens, begun), servers, trials))
        product.process.send_signal(signal.SIGCONT)
        list(pool.map(functools.partial(_after, product, private), servers, trials, tasks, before))
    for (kind, _), server in zip(chosen, servers, strict=True):
        kind.removed(server)
    return trials


def _held(gate: Gate, trial: Trial) -> bool:
    if trial.loss == DIES_OF_RELOAD:
        return False  # it never gets there: the undo begins at once
    try:
        gate.await_login()
    except AssertionError as error:
        trial.miss(error)
        return False
    return True


def _opens(begun: float, server: Any, trial: Trial) -> None:
    """Wait until a password opens the server; its deadline began after begun."""
    while time.monotonic() - begun < DEADLINE + GRACE + 5:
        with contextlib.suppress(judge.Puzzled, OSError):
            if "password" in judge.offered_methods(server, "root") and judge.password_login_works(
                server, "root", server.root_password
            ):
                trial.seconds = time.monotonic() - begun
                return
        time.sleep(0.2)
    trial.seconds = time.monotonic() - begun
    trial.miss(f"shut {trial.seconds:.0f} s after the bind began")


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
    left = {path for path in changed(before, picture(server)) if not path.startswith(("/run/", "/tmp", "/var/lib/systemd"))}
    left = {path for path in left - _STAYS if not path.startswith(_REAL.rpartition("/")[0])}
    if left or agents(server):
        trial.miss(f"left behind: {sorted(left)} {agents(server)}")
    try:
        if judge.key_login_works(server, "root", private):
            trial.miss("the new key still gets in")
    except judge.Puzzled as error:
        trial.miss(f"no login is to be had: {error}; {server.console()[-200:]}")
