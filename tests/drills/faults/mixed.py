"""Two hundred servers with every kind of fault mixed in: after a replace, on how many does neither key work?

Judged from outside by real logins, and compared with the usual order (remove, add, verify) on another set of the same kinds.
"""

import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

from controller.demo.fleet import Fleet, Login, Server, ServerFailed, Spec
from tests.drills.faults import FLEET_SECONDS, Scale
from tests.drills.faults.mixed_faults import FAULTS, FOREIGN, PRELUDE, Fault, drop, mend, shell
from tests.drills.figures import Figure, Report, joined, zero
from tests.fleet import judge
from tests.fleet.product import NotEnded, Product

SERVERS, SAMPLE = 200, 24
AT_ONCE = 50  # servers of one round: more would only wait for the two cores
LOGIN = "deploy"
WORD = "mother's maiden name"
DEADLINE = 20
MOMENT_SECONDS = 1.5  # after the first log-in: when what shall happen during happens
PLAY_SECONDS = 45  # then nobody waits for a server any more
PAUSE_SECONDS = 0.5  # between two steps of a playbook
SEED = 20

Keys = tuple[str, str]  # private, public
Json = dict[str, Any]


@dataclass
class Case:
    """One server of the set, its fault, and what came of it."""

    server: Server
    fault: Fault
    chance: Random
    by_root: bool  # whether it is worked on as root, or as the login itself
    ended: str = ""
    tasks: list[Json] = field(default_factory=list)
    old_works: bool = False
    new_works: bool = False
    foreign_lost: int = 0
    unmade: str = ""  # why what shall be wrong beforehand could not be made so
    over: threading.Event = field(default_factory=threading.Event)
    sprung: threading.Event = field(default_factory=threading.Event)

    @property
    def happened(self) -> bool:
        """Whether its fault was there, from the begin or at its moment."""
        return not self.unmade and (self.fault.during is None or self.sprung.is_set())

    @property
    def way(self) -> str:
        return "root" if self.by_root else LOGIN

    def __str__(self) -> str:
        cause = self.tasks[-1]["cause"] if self.tasks else ""
        return f"{self.server.name} ({self.fault.name}, as {self.way}): {self.ended or 'not ended'} {cause or ''}".strip()


def part(report: Report, scale: Scale) -> None:
    """Replace a key on many servers with faults, in our order and in the usual one."""
    old, new = judge.new_key_pair("ecdsa", 256), judge.new_key_pair()
    count = SAMPLE if scale.sample else SERVERS
    numbers = list(range(len(FAULTS)))
    if scale.sample:
        numbers = [place * len(FAULTS) // SAMPLE for place in range(SAMPLE)]
    kinds = [FAULTS[numbers[place % len(numbers)]] for place in range(count)]
    ours: list[Case] = []
    usual: list[Case] = []
    for first in range(0, count, AT_ONCE):
        some = kinds[first : first + AT_ONCE]
        with _servers(some, old, first) as cases:
            _replace_by_the_product(cases, old, new, report)
            ours += cases
        with _servers(some, old, first) as cases:
            _replace_as_usual(cases, old, new)
            usual += cases
    _tell(report, scale, ours, usual)


# -- the servers -------------------------------------------------------------------------------------------------------


@contextmanager
def _servers(faults: list[Fault], old: Keys, first: int) -> Iterator[list[Case]]:
    logins = (Login(LOGIN, WORD, sudo="nopasswd"),)
    specs = [Spec(name=f"s{first + n:03}", logins=logins, **fault.spec) for n, fault in enumerate(faults)]
    with Fleet(specs, max_age_seconds=FLEET_SECONDS) as fleet:
        cases = [
            Case(server, fault, Random(f"{SEED} {server.name}"), bool((first + n) % 2 == (first + n) // len(FAULTS) % 2))
            for n, (server, fault) in enumerate(zip(fleet, faults, strict=True))
        ]
        try:
            _each(cases, lambda case: _plant(case, old))
            with _traps(cases):
                yield cases
        finally:
            for case in cases:
                drop(case.server, False)


def _plant(case: Case, old: Keys) -> None:
    case.server.run(["sh", "-c", PLANT, "sh", old[1]])
    try:
        shell(case.server, case.fault.before, old[1], check=True)
    except ServerFailed as error:
        case.unmade = " ".join(str(error).split())[-200:]


# Each log-in says that it came: what shall happen during waits for the first one.
PLANT = f"""{PRELUDE}
put
install -d -m 700 /root/.ssh
printf '%s\\n' "$old" >/root/.ssh/authorized_keys
mkfifo -m 666 /run/came
echo '[ -p /run/came ] && echo came 1<>/run/came' >/etc/ssh/sshrc
"""


@contextmanager
def _traps(cases: list[Case]) -> Iterator[None]:
    """Have what shall happen during happen on each server, a moment of chance after the first log-in to it."""
    threads = [threading.Thread(target=_spring, args=(case,)) for case in cases if case.fault.during is not None]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for case in cases:
            case.over.set()
        for thread in threads:
            thread.join(120)


def _spring(case: Case) -> None:
    act = case.fault.during
    assert act is not None
    came = os.open(f"/proc/{case.server.pid}/root/run/came", os.O_RDWR | os.O_NONBLOCK)
    try:
        while not select.select([came], [], [], 0.2)[0]:
            if case.over.is_set():
                return
    finally:
        os.close(came)
    time.sleep(case.chance.uniform(0, MOMENT_SECONDS))
    try:
        act(case.server, case.chance)
    except (ServerFailed, OSError, subprocess.SubprocessError) as error:
        print(f"mixed: {case.server.name} ({case.fault.name}): did not happen: {error}")  # it is counted as that
        return
    case.sprung.set()


def _each(cases: list[Case], act: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(act, cases))


# -- ours --------------------------------------------------------------------------------------------------------------


def _replace_by_the_product(cases: list[Case], old: Keys, new: Keys, report: Report) -> None:
    with tempfile.TemporaryDirectory() as directory:
        settings = {"connect_timeout_seconds": 5, "deadline_seconds": DEADLINE, "lease_seconds": 5}
        with (
            Product(Path(directory, "home"), **settings) as lives,
            Product(Path(directory, "other"), fresh=True, **settings) as dies,
        ):
            for product in (lives, dies):
                product.kps("keypair", "import", "new", "--private-key", _file(directory, new[0]))
            chosen = {True: [case for case in cases if case.fault.kills_controller]}
            chosen[False] = [case for case in cases if not case.fault.kills_controller]
            begun = {}
            for product, some in ((lives, chosen[False]), (dies, chosen[True])):
                for case in some:
                    product.add(case.server, case.way)
                if some:
                    ids = product.begin("replace", *(case.server for case in some), **_order(old))
                    begun.update({product.task(each)["server"]: (product, each) for each in ids})
            if chosen[True]:
                time.sleep(cases[0].chance.uniform(0.5, 4))
                dies.end(signal.SIGKILL)
                dies.serve()
            for case in cases:
                _await(case, *begun[case.server.name])
            for case in cases:
                case.over.set()
            _each(cases, lambda case: _settle(case, begun[case.server.name][0], old))
            _each(cases, lambda case: _judge(case, old, new))
    for case in cases:
        _check(case, report)


def _order(old: Keys) -> Json:
    return {"keypair": "new", "login": LOGIN, "identity": old[0]}


def _file(directory: str, text: str) -> str:
    path = Path(directory, "new")
    path.touch(0o600)
    path.write_text(text)
    return str(path)


def _await(case: Case, product: Product, task_id: str) -> None:
    try:
        case.tasks.append(product.ended(task_id))
    except NotEnded:
        case.tasks.append(product.task(task_id))


def _settle(case: Case, product: Product, old: Keys) -> None:
    """Mend what shuts everything; where nobody knows how it ended, a second run finds out."""
    if case.fault.during is not None:
        case.sprung.wait(60)
    mend(case.server, case.fault)
    task = case.tasks[-1]
    if task["status"] == "failed" and task["server_state"] == "unknown":
        mend_all(case)
        _await(case, product, product.begin("replace", case.server, **_order(old))[0])
    case.ended = "{status} {server_state}".format(**case.tasks[-1])


def mend_all(case: Case) -> None:
    if not case.server.running:
        case.server.start()


# -- the usual way -----------------------------------------------------------------------------------------------------


def _replace_as_usual(cases: list[Case], old: Keys, new: Keys) -> None:
    """Remove the old key, add the new one, verify: each a step of its own on one connection; it ends where one fails."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda case: _play(case, old, new), cases))
    for case in cases:
        case.over.set()

    def judged(case: Case) -> None:
        if case.fault.during is not None:
            case.sprung.wait(60)
        mend(case.server, case.fault)
        mend_all(case)
        _judge(case, old, new)

    _each(cases, judged)


def _play(case: Case, old: Keys, new: Keys) -> None:
    path = f"/home/{LOGIN}/.ssh/authorized_keys"
    blob = old[1].split()[1]
    steps = [f"sed -i '\\|{blob}|d' {path}", f"echo '{new[1]}' >>{path}"]
    with judge._client(case.server, case.way, None, private_key=old[0]) as (argv, environment):
        playing = subprocess.Popen(
            [*argv, "-o", "ServerAliveInterval=5", "sh"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert playing.stdin is not None
        assert playing.stdout is not None
        seconds = case.chance.uniform(0.3, 2) if case.fault.kills_controller else PLAY_SECONDS
        ending = threading.Timer(seconds, playing.kill)
        ending.start()
        try:
            for number, step in enumerate(steps):
                playing.stdin.write(f"{step} && echo did-{number} || exit 1\n")
                playing.stdin.flush()
                while f"did-{number}" not in (line := playing.stdout.readline()):
                    if not line:
                        case.ended = "stopped"
                        return
                time.sleep(PAUSE_SECONDS)
            case.ended = "verified" if _works(case, new) else "not verified"
        except BrokenPipeError:
            case.ended = "stopped"
        finally:
            ending.cancel()
            playing.kill()
            playing.communicate()


# -- judged from outside -----------------------------------------------------------------------------------------------


def _works(case: Case, keys: Keys) -> bool:
    for _ in range(3):
        try:
            return judge.key_login_works(case.server, LOGIN, keys[0])
        except judge.Puzzled as puzzled:
            if str(puzzled).startswith("status 0:"):
                return True  # it ran, and a start-up file said something too
            time.sleep(1)
    return False


def _judge(case: Case, old: Keys, new: Keys) -> None:
    case.old_works, case.new_works = _works(case, old), _works(case, new)
    if case.fault.name.startswith("somebody"):
        there = case.server.read(f"/home/{LOGIN}/.ssh/authorized_keys")
        case.foreign_lost = sum(f"{FOREIGN} {n}\n" not in there for n in range(1, 26))


def _check(case: Case, report: Report) -> None:
    """What the product says of a server is what is seen from outside."""
    task = case.tasks[-1]
    says = (task["status"], task["server_state"])
    wrong = ""
    if not (case.old_works or case.new_works):
        wrong = "neither key works"
    elif says[0] in ("succeeded", "unchanged"):
        wrong = "" if case.new_works and not case.old_works else "said to be replaced, and is not"
    elif says[1] in ("as_before", "reverted"):
        wrong = "" if case.old_works and not case.new_works else "said to be as before, and is not"
    elif says[1] == "partial":
        wrong = "" if (task["evidence"] or {}).get("remains") else "partial, and nothing is named"
    else:
        wrong = "nobody knows how it ended"
    if wrong:
        report.misses.append(f"mixed: {case}: {wrong}; old {case.old_works}, new {case.new_works}: {task['message']}")
    case.ended += f" - {wrong}" if wrong else ""


def _tell(report: Report, scale: Scale, ours: list[Case], usual: list[Case]) -> None:
    table = Table(
        "fault", "servers", "kps", "locked out", "remove, add, verify", "locked out", title="mixed faults", title_justify="left"
    )
    for fault in FAULTS:
        mine, theirs = ([case for case in cases if case.fault is fault] for cases in (ours, usual))
        if mine:
            table.add_row(fault.name, str(len(mine)), _said(mine), _out(mine), _said(theirs), _out(theirs))
    Console(width=150).print(table)
    wrong = [case for case in ours if " - " in case.ended]
    unmade = [case for case in (*ours, *usual) if case.unmade]
    report.misses += [f"mixed: {case}: its fault could not be made: {case.unmade}" for case in unmade]
    moments = [case for case in (*ours, *usual) if case.fault.during is not None]
    never = sum(not case.happened for case in moments)
    least_kinds = 20 if scale.sample else 30
    report.add(
        Figure("mixed: servers", len(ours), SAMPLE if scale.sample else SERVERS),
        Figure("mixed: kinds of fault", len({case.fault.name for case in ours if case.happened} - {FAULTS[0].name}), least_kinds),
        Figure("mixed: replaced", sum(case.ended.startswith("succeeded") for case in ours), len(ours) // 12),
        zero("mixed: faults that could not be made", len(unmade)),
        Figure("mixed: faults that never happened", round(100 * never / max(len(moments), 1), 1), at_most=5, unit=" %"),
        zero("mixed: servers on which neither key works", sum(not (case.old_works or case.new_works) for case in ours)),
        zero("mixed: told otherwise than it is", len(wrong)),
        zero("mixed: foreign lines lost", sum(case.foreign_lost for case in ours)),
        # A set of faults at which the usual order comes to no harm would show nothing of ours.
        Figure(
            "mixed: the same by remove, add, verify",
            sum(not (case.old_works or case.new_works) for case in usual),
            None if scale.sample else 1,
        ),
    )


def _said(cases: list[Case]) -> str:
    return joined([f"{number} {what}" for what, number in Counter(case.ended for case in cases).most_common()])


def _out(cases: list[Case]) -> str:
    return str(sum(not (case.old_works or case.new_works) for case in cases) or "")
