"""The table of flavours against results: for the terminal, and for docs/flavours.md."""

import re
from pathlib import Path

from rich.table import Table

from tests.drills.fleet.flavours import Flavour
from tests.drills.fleet.scenarios import OPERATIONS, OUTCOMES, Row

PAGE = Path(__file__).parents[3] / "docs" / "flavours.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def cell(flavour: Flavour, operation: str, rows: list[Row]) -> str:
    """What became of an operation on a flavour, in a few words."""
    mine = [row for row in rows if row.flavour == flavour.name and row.operation == operation]
    bad = [row.outcome for row in mine if row.found]
    if bad:
        return f"FAILED: {', '.join(bad)}"
    if not mine:
        return "not tried"
    if operation in flavour.refuses:
        return f"refused: {flavour.refuses[operation].cause}"
    return f"{len(mine)} of {len(mine)}"


def table(chosen: list[Flavour], rows: list[Row]) -> Table:
    """Flavours down, operations across."""
    found = Table("flavour", *OPERATIONS, "seconds", title="fleet: scenarios as they must be", title_justify="left")
    for flavour in chosen:
        cells = [cell(flavour, operation, rows) for operation in OPERATIONS]
        colours = [
            "red" if text.startswith(("FAILED", "not")) else "yellow" if text.startswith("refused") else "green" for text in cells
        ]
        seconds = sum(row.seconds for row in rows if row.flavour == flavour.name)
        found.add_row(
            flavour.name, *(f"[{colour}]{text}[/]" for colour, text in zip(colours, cells, strict=True)), f"{seconds:.0f}"
        )
    return found


def write(chosen: list[Flavour], rows: list[Row]) -> None:
    """Put the table into docs/flavours.md."""
    lines = ["| flavour | " + " | ".join(OPERATIONS) + " |", "|---" * (1 + len(OPERATIONS)) + "|"]
    lines += [
        f"| {flavour.name} | " + " | ".join(cell(flavour, operation, rows) for operation in OPERATIONS) + " |"
        for flavour in chosen
    ]
    lines += [
        "",
        f"{len(rows)} scenarios on {len(chosen)} flavours, {sum(not row.found for row in rows)} as they must be. Outcomes tried:",
    ]
    counted = {outcome: sum(row.outcome == outcome for row in rows) for outcome in OUTCOMES}
    lines += [", ".join(f"{outcome} {number}" for outcome, number in counted.items()) + "."]
    text = PAGE.read_text()
    PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: "\n".join([BEGIN, *lines, END]), text, flags=re.DOTALL))
