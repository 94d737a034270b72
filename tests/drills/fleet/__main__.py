"""`make fleet`: every flavour through every scenario, as a table. See docs/flavours.md."""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.drills.figures import Figure, Report, zero
from tests.drills.fleet import docs, flavours
from tests.drills.fleet.boxes import Boxes
from tests.drills.fleet.docker import DockerUnavailable, answering
from tests.drills.fleet.scenarios import Row
from tests.drills.fleet.suite import play, scenarios

SAMPLE = ("debian-13", "debian-11-systemd")
GREEN, REFUSING = 12, 2
WORKERS = 3  # most of the time each waits for its servers


def main() -> int:
    said = _arguments()
    chosen = [flavour for flavour in flavours.every() if not said.flavour or flavour.name in said.flavour]
    begun = time.monotonic()
    try:
        with answering() as client, Boxes(client) as boxes, tempfile.TemporaryDirectory(prefix="kps-flavours-") as homes:
            rows = _played(boxes, chosen, Path(homes), said.write_docs)
    except DockerUnavailable as error:
        print(error, file=sys.stderr)
        return 2
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(docs.table(chosen, rows))
    return _report(chosen, rows, bool(said.flavour), time.monotonic() - begun).ended(said.json)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fleet", description=__doc__)
    parser.add_argument("--flavour", action="append", metavar="NAME", help="this one only; may be given several times")
    parser.add_argument("--sample", action="store_true", help=f"what CI runs: {', '.join(SAMPLE)}")
    parser.add_argument("--write-docs", action="store_true", help="write the table into docs/flavours.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    said = parser.parse_args()
    if said.sample:
        said.flavour = list(SAMPLE)
    unknown = set(said.flavour or ()) - {flavour.name for flavour in flavours.every()}
    if unknown:
        parser.error(f"no folder in docker/fleet is called {', '.join(sorted(unknown))}")
    return said


def _played(boxes: Boxes, chosen: list[flavours.Flavour], homes: Path, write_docs: bool) -> list[Row]:
    rows: list[Row] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, ThreadPoolExecutor(WORKERS) as workers:
        bar = progress.add_task("images", total=len(chosen) + sum(map(scenarios, chosen)))

        def told(row: Row) -> None:
            progress.update(bar, advance=1, description=f"{row.flavour}: {row.operation} {row.outcome}")
            if row.found or not sys.stderr.isatty():
                progress.console.print(
                    f"{row.flavour}: {row.operation} {row.outcome}: {row.found or 'ok'} ({row.seconds:.1f} s)", markup=False
                )

        def one(flavour: flavours.Flavour) -> list[Row]:
            begun = time.monotonic()
            try:
                flavours.image(boxes.client, flavour)
                progress.update(bar, advance=1)
                return play(boxes, flavour, homes / flavour.name / "home", told)
            except Exception as error:  # whatever it is, the other flavours go on
                row = Row(flavour.name, "server", "succeeds", time.monotonic() - begun, f"{type(error).__name__}: {error}")
                told(row)
                return [row]

        waiting = {workers.submit(one, flavour): flavour for flavour in chosen}
        for done in as_completed(waiting):
            rows += done.result()
            if write_docs:
                docs.write([waiting[done]], rows)
    return rows


def _report(chosen: list[flavours.Flavour], rows: list[Row], partly: bool, seconds: float) -> Report:
    """The figures against the goals; where not all flavours ran, those that count flavours have none."""
    report = Report("fleet", partly)
    bad = [row for row in rows if row.found]
    green = [flavour.name for flavour in chosen if flavour.name not in {row.flavour for row in bad}]
    refusing = [flavour.name for flavour in chosen if flavour.refuses]
    expected = sum(map(scenarios, chosen))
    report.add(
        Figure("flavours", len(chosen), None if partly else GREEN),
        Figure("green", len(green), len(chosen) if partly else GREEN),
        Figure("refusing", len(refusing), None, REFUSING),
        Figure("scenarios", len(rows), expected, expected),
        zero("failed", len(bad)),
        Figure("minutes", round(seconds / 60, 1)),
    )
    report.misses += [
        f"{row.flavour}: {row.operation} {row.outcome}: {row.found} (make fleet ARGS='--flavour {row.flavour}')" for row in bad
    ]
    return report


if __name__ == "__main__":
    sys.exit(main())
