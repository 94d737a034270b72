"""`make causes`: each cause planted on a real server, alone and in pairs; how many were named first, and the false alarms.

A plant counts only where OpenSSH's own client was let in before it and is not let in after it (a warning: where what it warns of
is so). A healthy state counts only where it is let in. What is planted, and how it is verified, shares nothing with the product.
"""

import argparse
import itertools
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from controller.demo.fleet import Fleet, FleetUnavailable, Server, Spec
from tests.drills.figures import Figure, Report, zero
from tests.drills.plants import ADMIN, ALONE, HEALTHY, PLANTS, UNREACHED, Case, Plant, case
from tests.fleet import judge
from tests.fleet.product import Json, NotEnded, Product

PAIRS, HEALTHY_LOGINS = 80, 100
SAMPLE_SINGLES, SAMPLE_PAIRS, SAMPLE_HEALTHY = 18, 8, 14
# Of each kind: what its cases are called, how many a whole run must have, and what is made of them.
KINDS = {
    "single": ("causes planted", 80, "named first"),
    "pair": ("pairs planted", 75, "one of the two named first"),
    "healthy": ("healthy logins", HEALTHY_LOGINS, "false alarms"),
}
WORKERS = 3  # most of the time each waits for its server
MOST_SECONDS = 25 * 60
TREES = ("host", "trixie")
# Of two plants these are sown one after the other: a file is written before its mode is changed, and moved last.
ORDER = ("line", "path", "file")
# What takes the file, or the server, away from under the other one.
APART = (
    {"file", "path"},
    {"file", "line"},
    {"where", "path"},
    {"where", "line"},
    {"where", "file"},
    {"broken", "pending"},
    {"pam", "expiry"},
    {"pam", "rule"},
    {"shadow", "pam"},
    {"shadow", "expiry"},
)
_ADDING = threading.Lock()  # a fleet gives one name at a time
QUIET = ("line", "path", "file", "expiry", "shell", "nologin")  # with these sshd does not have to read its configuration anew


@dataclass(frozen=True)
class Verdict:
    """What became of one case. miss: in words, or ""; counted: False where it is not what it should be, and proves nothing."""

    name: str
    kind: str
    miss: str = ""
    counted: bool = True


def main() -> int:
    parser = argparse.ArgumentParser(prog="make causes", description=__doc__)
    parser.add_argument("--sample", action="store_true", help="what CI runs")
    parser.add_argument("--only", metavar="TEXT", help="the cases with this in their name")
    parser.add_argument("--kind", choices=("single", "pair", "healthy"), help="the cases of this kind")
    parser.add_argument("--seed", type=int, default=1, help="for the choice of pairs and of a sample")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    said = parser.parse_args()
    begun = time.monotonic()
    jobs = _chosen(random.Random(said.seed), said.sample)
    jobs = [job for job in jobs if said.kind in (None, job[0]) and (said.only or "") in job[1]]
    try:
        with Fleet() as fleet, tempfile.TemporaryDirectory() as home, Product(Path(home) / "home") as product:
            verdicts = _all(jobs, fleet, product, begun + MOST_SECONDS)
    except FleetUnavailable as unavailable:
        print(unavailable, file=sys.stderr)
        return 2
    return _report(verdicts, said.sample or bool(said.only or said.kind), time.monotonic() - begun).ended(said.json)


Job = tuple[str, str, tuple[Plant, ...], str]  # kind, name, plants, tree


def _chosen(dice: random.Random, sample: bool) -> list[Job]:
    singles: list[Job] = [("single", plant.name, (plant,), plant.tree) for plant in (*PLANTS, *ALONE, *UNREACHED)]
    couples = [couple for couple in itertools.combinations(PLANTS, 2) if _go_together(*couple)]
    pairs: list[Job] = [
        ("pair", f"{one.name} + {two.name}", (one, two), "host")
        for one, two in dice.sample(couples, SAMPLE_PAIRS if sample else PAIRS)
    ]
    states = [("healthy", f"{state.name} ({tree})", (state,), tree) for tree in TREES for state in HEALTHY]
    healthy: list[Job] = states[: len(HEALTHY)] + dice.sample(states[len(HEALTHY) :], max(HEALTHY_LOGINS - len(HEALTHY), 0))
    if sample:
        singles, healthy = dice.sample(singles, SAMPLE_SINGLES), dice.sample(healthy, SAMPLE_HEALTHY)
    return singles + pairs + healthy


def _go_together(one: Plant, two: Plant) -> bool:
    groups = {one.group, two.group}
    quiet = all(plant.warns is None or other.group in QUIET for plant, other in ((one, two), (two, one)))
    alike = one.login == two.login and (one.key == two.key or ("ed25519", None) in (one.key, two.key))
    return len(groups) == 2 and quiet and alike and not any(apart <= groups for apart in APART)


def _all(jobs: list[Job], fleet: Fleet, product: Product, until: float) -> list[Verdict]:
    with Progress(console=Console(stderr=True)) as progress, ThreadPoolExecutor(WORKERS) as workers:
        bar = progress.add_task("cases", total=len(jobs))

        def run(job: Job) -> Verdict:
            if time.monotonic() > until:
                return Verdict(job[1], job[0], "not run: no time was left")
            try:
                return _one(job, fleet, product)
            except Exception as error:
                return Verdict(job[1], job[0], f"{type(error).__name__}: {str(error)[:400]}")
            finally:
                progress.update(bar, advance=1, description=job[1][:40])

        return list(workers.map(run, jobs))


def _one(job: Job, fleet: Fleet, product: Product) -> Verdict:
    kind, name, plants, tree = job
    plants = tuple(sorted(plants, key=lambda plant: ORDER.index(plant.group) if plant.group in ORDER else -1))
    first = next((plant for plant in plants if plant.key != ("ed25519", None)), plants[0])

    def add(spec: Spec) -> Server:
        with _ADDING:
            return fleet.add(replace(spec, tree=tree))

    made = case(first, add, judge.new_key_pair)
    try:
        said = _in_at_first(made)
        if said:
            return Verdict(name, kind, f"not let in before anything was planted: {said}", False)
        for plant in plants:
            plant.sow(made)
        made.settle()
        if kind == "healthy":
            return _healthy(name, made, product)
        lets_in = all(plant.warns is not None for plant in plants)
        if plants[0].group != "reach" and _gets_in(made) != lets_in:
            return Verdict(name, kind, f"{'kept out' if lets_in else 'let in'} by OpenSSH's client: not planted well", False)
        task = _checked(made, product, all(plant.another_way for plant in plants))
        miss = _missed(plants, task)
        idle = [plant.name for plant in plants if plant.warns is not None and not plant.warns(made)]
        if idle:
            return Verdict(name, kind, f"{', '.join(idle)}: no such effect: not planted well", False)
        return Verdict(name, kind, miss)
    finally:
        fleet.remove(made.server)


def _in_at_first(made: Case) -> str:
    """Return "" where the login works before anything is planted; a machine that is out of breath may take more than one try."""
    said = ""
    for _ in range(4):
        try:
            if judge.key_login_works(made.server, made.login, made.private, made.source):
                return ""
            said = "permission denied"
        except judge.Puzzled as puzzled:
            said = " ".join(str(puzzled).split())[-300:]
    return said


def _gets_in(made: Case) -> bool:
    """Whether OpenSSH's client gets in with the key and can run a command."""
    for _ in range(3):
        try:
            return judge.key_login_works(made.server, made.login, made.private, made.source)
        except judge.Puzzled as puzzled:
            # A machine that is out of breath is no cause.
            if "timed out" not in str(puzzled) and "Connection reset" not in str(puzzled):
                return False
    return False


def _checked(made: Case, product: Product, another_way: bool = True) -> Json:
    """Check the key, with another way in at hand: root's password, or an administrator's where root itself is asked about."""
    given = {"identity": made.private}
    if not another_way:
        product.add(made.server)
        return product.run("check", made.server, login=made.login, **given)
    if made.server.spec.logins == ADMIN:
        given |= {"password": ADMIN[0].password or "", "password_of": "admin"}
        product.add(made.server, login="admin")
    else:
        given |= {"password": made.server.root_password, "password_of": "root"}
        product.add(made.server)
    return product.run("check", made.server, login=made.login, **given)


def _codes(task: Json) -> list[str]:
    return [one["code"] for one in task["evidence"].get("findings", [])]


def _missed(plants: tuple[Plant, ...], task: Json) -> str:
    named = [task["cause"]] if plants[0].group == "reach" else _codes(task)
    wanted = {code for plant in plants for code in plant.codes}
    if not named or named[0] not in wanted:
        said = ", ".join(map(str, named)) or "nothing"
        return f"named {said}, not {' or '.join(sorted(wanted))}: {task['cause']}: {task['message'][:200]}"
    ends_well = all(plant.warns is not None for plant in plants)
    return "" if (task["status"] == "unchanged") == ends_well else f"ended {task['status']} ({task['cause']})"


def _healthy(name: str, made: Case, product: Product) -> Verdict:
    if not _gets_in(made):
        return Verdict(name, "healthy", "not let in by OpenSSH's client: no healthy state here", False)
    try:
        task = _checked(made, product)
    except NotEnded as error:
        return Verdict(name, "healthy", str(error)[:200])
    if task["status"] == "unchanged" and not _codes(task):
        return Verdict(name, "healthy")
    return Verdict(name, "healthy", f"alarm: {', '.join(_codes(task)) or task['cause']}: {task['message'][:200]}")


def _report(verdicts: list[Verdict], partly: bool, seconds: float) -> Report:
    """The figures against the goals. partly: not all was tried, and kinds of which nothing was chosen are left out."""
    report = Report("causes", partly)
    report.add(Figure("cases", len(verdicts), at_least=1))
    for kind, (name, least, share) in KINDS.items():
        mine = [one for one in verdicts if one.kind == kind]
        if partly and not mine:
            continue
        counted = [one for one in mine if one.counted]
        missed = sum(bool(one.miss) for one in counted)
        report.add(Figure(name, len(counted), at_least=1 if partly else least))
        if kind == "healthy":
            report.add(zero(share, missed))
        else:
            well = 100.0 * (len(counted) - missed) / len(counted) if counted else 0.0
            report.add(Figure(share, well, at_least=95, unit=" %"))
    report.add(
        zero("cases that prove nothing", sum(not one.counted for one in verdicts)),
        Figure("seconds", round(seconds)),
    )
    # What is within the goal is no failure of the drill; it is told all the same.
    for one in verdicts:
        if one.miss:
            print(f"- {one.kind}: {one.name}: {one.miss}")
    return report


if __name__ == "__main__":
    sys.exit(main())
