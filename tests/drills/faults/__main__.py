"""python -m tests.drills.faults [--sample] [--only PART ...] [--keep DIR] [--json FILE]: see `--help`."""

import argparse
import sys
import time
from pathlib import Path

from tests.drills.faults import Part, Scale, controller, controller_systemd, deadman, kills, mixed, race, writers
from tests.drills.figures import Figure, Report
from tests.drills.fleet.docker import DockerUnavailable

# One part, one line: what it adds to the report.
PARTS: dict[str, Part] = {
    "kills": kills.kills,
    "errors": kills.errors,
    "power": kills.power_failures,
    "controller": controller.controller,
    "controller-systemd": controller_systemd.controller_systemd,
    "deadman": deadman.deadman,
    "race": race.part,
    "writers": writers.part,
    "mixed": mixed.part,
}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.faults", description="faults on real servers")
    parser.add_argument(
        "--sample",
        action="store_true",
        help="a few of every kind, within about two minutes; what needs Docker only where that is",
    )
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS), help="these parts only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="kills, errors, power: keep each trial there, and try it once only"
    )
    parser.add_argument("--within", type=float, metavar="SECONDS", help="with --keep: begin no trial of a part after that")
    given = parser.parse_args(words)
    scale = Scale(given.sample, given.keep, given.within if given.keep and given.within else float("inf"))
    report = Report("faults", given.sample)
    for name in given.only:
        begun = time.monotonic()
        try:
            PARTS[name](report, scale)
        except DockerUnavailable as error:
            if given.sample:
                print(f"{name}: not tried: {error}", file=sys.stderr)
                continue
            report.misses.append(f"{name}: {error}")
        report.add(Figure(f"{name}: took", round(time.monotonic() - begun), unit=" s"))
    return report.ended(given.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
