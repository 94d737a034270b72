"""`make rollouts`: rollouts over many servers, their controller killed again and again: nothing forgotten, nothing twice.

Some of the servers are real; the others are fakes (tests/fleet/fakes.py), which check key exchange, signature and plan, and
carry the agent's own transaction out on a disk in memory. Passwords are given once: whoever goes on has them from the rows.
"""

import argparse
import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path

from controller.demo.fleet import Fleet, Spec
from tests.drills.figures import Figure, Report, joined, zero
from tests.fleet.fakes import Fakes
from tests.fleet.rolled import PHASES, Killed, Seen, misses, story

SERVERS, REAL, KILLS, EACH_PHASE = 1000, 20, 50, 3
SAMPLE_SERVERS, SAMPLE_REAL, SAMPLE_KILLS, SAMPLE_EACH_PHASE = 12, 1, 6, 1
LONGEST_SECONDS = 4.0  # from one start of the controller to its next end


def tried(report: Report, directory: Path, servers: int, real: int, kills: int, each_phase: int, seed: int) -> None:
    """Carry it out, and add what was seen to the report."""
    with contextlib.ExitStack() as stack:
        there = list(stack.enter_context(Fakes(servers - real)))
        if real:
            fleet = stack.enter_context(Fleet(max_age_seconds=6 * 3600))
            there = [*(fleet.add(Spec()) for _ in range(real)), *there]
        product = Killed(directory / "home")
        stack.callback(product.end)
        begun = time.monotonic()
        seen = story(product, there, kills, each_phase, random.Random(seed), LONGEST_SECONDS)
        tell(report, seen, servers, real, each_phase, kills, misses(product, there, seen), time.monotonic() - begun)


def tell(
    report: Report, seen: Seen, servers: int, real: int, each_phase: int, kills: int, missed: list[str], seconds: float
) -> None:
    """Add the figures of a run."""
    report.add(
        Figure("servers", servers, at_least=1),
        Figure("of them real", real),
        Figure("rollouts", len(seen.rollouts), at_least=1),
        Figure("kills", seen.kills, at_least=kills),
        *(Figure(f"kills while a task was {each}", seen.phases[each], at_least=each_phase) for each in PHASES),
        *(Figure(f"kills in the {each}", seen.waves[each]) for each in ("canary", "batches")),
        Figure("credentials opened by a later controller", seen.opened, at_least=1),
        zero("rollouts, tasks or servers otherwise than promised", len(missed)),
        Figure("took", round(seconds), unit=" s"),
    )
    if missed:
        report.misses.append(joined(missed, 20))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="a minute of it")
    parser.add_argument("--servers", type=int, help="so many in all")
    parser.add_argument("--real", type=int, help="so many of them real")
    parser.add_argument("--kills", type=int, help="so many")
    parser.add_argument("--each-phase", type=int, help="in each phase at least so many of them")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures there, too")
    asked = parser.parse_args()
    whole = (SERVERS, REAL, KILLS, EACH_PHASE)
    servers, real, kills, each_phase = (SAMPLE_SERVERS, SAMPLE_REAL, SAMPLE_KILLS, SAMPLE_EACH_PHASE) if asked.sample else whole
    servers, kills = asked.servers or servers, asked.kills or kills
    each_phase = each_phase if asked.each_phase is None else asked.each_phase
    real = min(servers, real if asked.real is None else asked.real)
    report = Report("rollouts", sample=(servers, real, kills, each_phase) != whole)
    with tempfile.TemporaryDirectory() as directory:
        tried(report, Path(directory), servers, real, kills, each_phase, asked.seed)
    return report.ended(asked.json)


if __name__ == "__main__":
    sys.exit(main())
