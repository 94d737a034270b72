"""All that has a goal, measured part by part, and one table of it.

    make bench                         # or: python -m benchmarks; some minutes
    make bench ARGS=--whole            # 10,000 servers and 100,000 tasks too; more than an hour
    python -m benchmarks --only tasks

Every part can be run by itself too, and then tells more: `python -m benchmarks.at_scale`, and so on.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from benchmarks.table import Row, show

PARTS = ("at_scale", "tasks", "roundtrips", "peers")  # modules here, each with rows(whole: bool) -> list[Row]


def measured(names: Sequence[str], whole: bool, console: Console) -> list[Row]:
    """Return the rows of some parts. One that cannot be measured is a row that says so, and does not stop the others."""
    rows = []
    for name in names:
        began = time.monotonic()
        try:
            found: list[Row] = importlib.import_module(f"benchmarks.{name}").rows(whole)
        except (Exception, SystemExit) as error:
            found = [Row(f"{name}: could not be measured", "measured", f"{error or type(error).__name__}"[:300], False)]
        console.print(f"{name}: {time.monotonic() - began:.0f} s", style="dim")
        rows += found
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--whole", action="store_true", help="the largest sizes too")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = measured(asked.only, asked.whole, Console(stderr=True))
    show(rows, Console(stderr=asked.json, width=None if sys.stdout.isatty() else 120))
    if asked.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))


if __name__ == "__main__":
    main()
