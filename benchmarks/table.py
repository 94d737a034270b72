"""The one table of `make bench`: what is measured, what was aimed at, and what came out."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Row(NamedTuple):
    """A figure with its goal and result, as they are to be read. met: None where there is no goal."""

    figure: str
    goal: str
    result: str
    met: bool | None = None


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table, and as last line how many goals are met: what could not be measured counts as a goal that is not."""
    table = Table(title="goals and results", title_justify="left")
    for name in ("figure", "goal", "result", ""):
        table.add_column(name, justify="left" if name in ("figure", "") else "right")
    for row in rows:
        table.add_row(row.figure, row.goal, row.result, "" if row.met is None else "met" if row.met else "missed")
    console.print(table)
    aims = [row for row in rows if row.goal]
    console.print(f"goals met: {sum(row.met is True for row in aims)} of {len(aims)}")
