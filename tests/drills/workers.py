"""`make workers`: two workers of one PostgreSQL, stopped and woken, killed, or left without it: each task ends once.

Three acts over one fleet, of which some servers are real and the others fakes (tests/fleet/fakes.py). First a worker is stopped
until it was declared dead and others took its tasks over: woken, it goes on with orders that the servers have to refuse. Then
workers are killed at random moments. Then PostgreSQL is stopped and crashes.
"""

import argparse
import contextlib
import random
import sys
import tempfile
import time
from dataclasses import astuple, dataclass
from pathlib import Path

from controller.demo.fleet import Fleet, Spec
from tests.drills.figures import Figure, Report, joined, zero
from tests.fleet.cable import Turnstile
from tests.fleet.fakes import Fakes
from tests.fleet.worked import STOPS, Shared, Story, misses, refusals
from tests.postgresql import Cluster

BETWEEN_KILLS_SECONDS, BETWEEN_RESTARTS_SECONDS = 3.0, 8.0  # at most
MOST_SECONDS = 15 * 60


@dataclass(frozen=True)
class Scale:
    """How much of it."""

    servers: int
    real: int
    stops: int
    kills: int
    restarts: int


WHOLE = Scale(servers=1000, real=6, stops=4, kills=50, restarts=10)
SAMPLE = Scale(servers=24, real=2, stops=1, kills=3, restarts=2)


def tried(report: Report, directory: Path, scale: Scale, seed: int) -> None:
    """Carry it out, and add what was seen to the report."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster()
        stack.callback(cluster.close)
        url = stack.enter_context(cluster.database())
        fleet = stack.enter_context(Fleet(max_age_seconds=6 * 3600))
        real = [fleet.add(Spec()) for _ in range(scale.real)]
        behind = [stack.enter_context(Turnstile(each)) for each in real]
        servers = [*real, *stack.enter_context(Fakes(scale.servers - scale.real))]
        product = stack.enter_context(Shared(directory / "home", cluster, url))
        story = Story(product, servers, behind, random.Random(seed))
        begun = time.monotonic()
        story.first_stop()
        for _ in range(scale.stops - 1):
            story.stopped()
        acts = {"stops": time.monotonic() - begun}
        for _ in range(scale.kills):
            story.killed(BETWEEN_KILLS_SECONDS)
        acts["kills"] = time.monotonic() - begun - sum(acts.values())
        for _ in range(scale.restarts):
            story.restarted(BETWEEN_RESTARTS_SECONDS)
        story.over()
        acts["restarts, and the end"] = time.monotonic() - begun - sum(acts.values())
        missed = misses(product, servers, story.seen)
        tell(report, story, scale, missed, refusals(servers), acts)


def tell(report: Report, story: Story, scale: Scale, missed: list[str], refused: tuple[int, int], acts: dict[str, float]) -> None:
    """Add the figures of a run."""
    seen, product = story.seen, story.product
    ((tasks,),) = product.rows("SELECT count(*) FROM tasks")
    ((interrupted,),) = product.rows("SELECT count(*) FROM events WHERE kind = 'task_interrupted'")
    report.add(
        Figure("servers", scale.servers, at_least=1),
        Figure("of them real", scale.real, at_least=1),
        Figure("rollouts", len(seen.rollouts), at_least=1),
        Figure("tasks", tasks, at_least=scale.servers),
        Figure("of them interrupted, and their servers' next one done", interrupted, at_least=1),
        Figure("workers stopped, declared dead and woken", seen.stops, at_least=scale.stops),
        Figure("tasks taken over from them", len(seen.dead), at_least=1),
        Figure("longest from the stop until declared dead", round(max(seen.dead_seconds), 1), unit=" s"),
        Figure("late orders refused by real servers", refused[0], at_least=1),
        Figure("late orders refused by fakes", refused[1]),
        Figure("workers killed", seen.kills.total(), at_least=scale.kills),
        Figure("of them with tasks begun", seen.kills["with tasks begun"], at_least=1),
        *(Figure(f"PostgreSQL {how}", seen.restarts[how], at_least=scale.restarts // len(STOPS)) for how in STOPS),
        zero("rollouts, tasks or servers otherwise than promised", len(missed)),
        *(Figure(f"{act} took", round(seconds), unit=" s") for act, seconds in acts.items()),
        Figure("took", round(sum(acts.values())), at_most=MOST_SECONDS, unit=" s"),
    )
    if missed:
        report.misses.append(joined(missed, 20))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="a minute of it")
    parser.add_argument("--servers", type=int, help="so many in all")
    parser.add_argument("--real", type=int, help="so many of them real")
    parser.add_argument("--stops", type=int, help="so many workers stopped and woken")
    parser.add_argument("--kills", type=int, help="so many workers killed")
    parser.add_argument("--restarts", type=int, help="so many times PostgreSQL")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures there, too")
    asked = parser.parse_args()
    of = SAMPLE if asked.sample else WHOLE
    scale = Scale(**{name: value if (given := getattr(asked, name)) is None else given for name, value in vars(of).items()})
    report = Report("workers", sample=astuple(scale) != astuple(WHOLE))
    with tempfile.TemporaryDirectory() as directory:
        tried(report, Path(directory), scale, asked.seed)
    return report.ended(asked.json)


if __name__ == "__main__":
    sys.exit(main())
