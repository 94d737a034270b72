"""`make restarts`: a controller is ended again and again, told to or killed, while clients submit and poll: no task is lost.

The clients are the public service's SDK and our API with signed requests, the servers are real. Each task that was taken on comes
to exactly one end, and each server lets in the key that is on record, and no other.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from controller.demo.fleet import Fleet, Spec
from tests.drills.figures import Figure, Report, joined, zero
from tests.fleet.restarts import ENDS, Restarted, Seen, misses, story, unknown

RESTARTS, SERVERS, CLIENTS = 60, 12, 12
SAMPLE_RESTARTS, SAMPLE_SERVERS, SAMPLE_CLIENTS = 6, 4, 4
CONCURRENCY = 4  # fewer than there are clients: at each end something waits
STOP_SECONDS = 2  # some of what runs ends within it, some does not
BETWEEN_SECONDS = 2.0
MOST_DOWN_SECONDS = 30.0


def tried(report: Report, directory: Path, restarts: int, servers: int, clients: int) -> None:
    """Carry it out, and add what was seen to the report."""
    with Fleet(max_age_seconds=6 * 3600) as fleet:
        there = [fleet.add(Spec()) for _ in range(servers)]
        product = Restarted(directory / "home", concurrency=CONCURRENCY, stop_seconds=STOP_SECONDS)
        try:
            seen = story(product, there, clients, restarts, BETWEEN_SECONDS)
            tell(report, product, seen, misses(product, there, seen))
        finally:
            product.end()


def tell(report: Report, product: Restarted, seen: Seen, missed: list[str]) -> None:
    """Add the figures of a run."""
    handed_on = product.count("SELECT count(*) FROM events WHERE kind = 'task_handed_on'")
    interrupted = product.count("SELECT count(*) FROM tasks WHERE cause = 'interrupted'")
    report.add(
        Figure("restarts", seen.ends.total(), at_least=len(ENDS)),
        *(Figure(f"of them {how}", seen.ends[how], at_least=1) for how in ENDS),
        Figure("tasks taken on", len(seen.accepted), at_least=seen.ends.total()),
        Figure("of them handed on to the next controller", handed_on),
        Figure("of them interrupted", interrupted),
        Figure("of these overtaken by a later one before the server could say how it was left", len(unknown(product)[1])),
        Figure("submissions without an answer, or refused for now", seen.refused.total()),
        zero("tasks lost, without an end or with two; servers otherwise than on record; wrong answers", len(missed)),
        Figure("longest until requests are taken again", round(max(seen.down_seconds), 1), at_most=MOST_DOWN_SECONDS, unit=" s"),
    )
    if missed:
        report.misses.append(joined(missed, 20))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="a minute of it")
    parser.add_argument("--restarts", type=int, help="so many")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures there, too")
    asked = parser.parse_args()
    whole = (RESTARTS, SERVERS, CLIENTS)
    restarts, servers, clients = (SAMPLE_RESTARTS, SAMPLE_SERVERS, SAMPLE_CLIENTS) if asked.sample else whole
    report = Report("restarts", sample=asked.sample or asked.restarts is not None)
    with tempfile.TemporaryDirectory() as directory:
        tried(report, Path(directory), asked.restarts or restarts, servers, clients)
    return report.ended(asked.json)


if __name__ == "__main__":
    sys.exit(main())
