"""What a drill measured, against its goals: a table for people, one line of figures at the end, and an exit code."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

KEPT = Path(__file__).parents[2] / "build/drills"


@dataclass(frozen=True)
class Figure:
    """One number, and what it must be: at_least, at_most, both for "exactly"; neither where it only tells how much was tried."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""

    @property
    def met(self) -> bool:
        return not (
            (self.at_least is not None and self.value < self.at_least) or (self.at_most is not None and self.value > self.at_most)
        )

    @property
    def goal(self) -> str:
        if self.at_least is not None and self.at_least == self.at_most:
            return f"= {self.at_least:g}"
        goals = [] if self.at_least is None else [f">= {self.at_least:g}"]
        return " ".join(goals + ([] if self.at_most is None else [f"<= {self.at_most:g}"]))

    def __str__(self) -> str:
        return f"{self.name} {self.value:g}{self.unit}"


def zero(name: str, value: float) -> Figure:
    """A figure that must be 0."""
    return Figure(name, value, 0, 0)


_NO_MATTER = ("--json", "--into", "--keep", "--within", "--workers")


@dataclass
class Report:
    """The figures of one drill. misses: each failure in words, so that it can be looked at and run again.

    sample: not all was tried, whether a sample was asked for or one case; what a whole run measured stays on record then.
    """

    drill: str
    sample: bool = False
    figures: list[Figure] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)

    def add(self, *figures: Figure) -> None:
        self.figures += figures

    def ended(self, into: Path | None = None) -> int:
        """Print the table, the misses and the line of figures; with into write them there as JSON. Return the exit code."""
        missed = [figure for figure in self.figures if not figure.met]
        console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
        table = Table("figure", "value", "goal", "", title=self.drill, title_justify="left")
        for figure in self.figures:
            verdict = "" if not figure.goal else "[green]met[/]" if figure.met else "[red]MISSED[/]"
            table.add_row(figure.name, f"{figure.value:g}{figure.unit}", figure.goal, verdict)
        console.print(table)
        for miss in self.misses:
            console.print(f"- {miss}", markup=False, soft_wrap=True)
        if into is not None:
            values = [vars(figure) | {"met": figure.met} for figure in self.figures]
            into.write_text(json.dumps({"drill": self.drill, "figures": values, "misses": self.misses}, indent=1) + "\n")
        self._keep()
        verdict = "ok" if not missed and not self.misses else "MISSED"
        print(f"{self.drill}: {verdict}: " + ", ".join(map(str, self.figures)))
        return 0 if verdict == "ok" else 1

    def _keep(self) -> None:
        """Add the figures to those of earlier runs, for the scorecard: a drill may be run part by part."""
        arguments = shlex.join(_of_what(sys.argv[1:]))
        how = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "command": f"make {self.drill}" + (f" ARGS={shlex.quote(arguments)}" if arguments else ""),
            "sample": self.sample,
        }
        path = KEPT / f"{self.drill}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        for figure in self.figures:
            # A sample does not put away what a whole run measured.
            if not how["sample"] or kept.get(figure.name, how)["sample"]:
                kept[figure.name] = {"value": figure.value, "unit": figure.unit, "goal": figure.goal, "met": figure.met} | how
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=1) + "\n")


def _of_what(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without those that say where a run's files go, or how many processes share it."""
    left, kept = iter(arguments), []
    for word in left:
        if word in _NO_MATTER:
            next(left, None)
        else:
            kept.append(word)
    return kept


def joined(words: Sequence[str], most: int = 5) -> str:
    """Return the first few of words, and how many more there are."""
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
