"""The table of flavours against results: for the terminal, and for docs/flavours.md."""

import re
import time
from pathlib import Path

from rich.table import Table

from tests.drills.fleet.flavours import Flavour, every
from tests.drills.fleet.scenarios import OPERATIONS, Row
from tests.drills.fleet.suite import scenarios_of

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
    expected = scenarios_of(flavour, operation)
    if operation in flavour.refuses and len(mine) == expected:
        return f"refused: {flavour.refuses[operation].cause}"
    return f"{len(mine)} of {expected}" + ("" if len(mine) == expected else ", NOT ALL TRIED")


def table(chosen: list[Flavour], rows: list[Row]) -> Table:
    """Flavours down, operations across."""
    found = Table("flavour", *OPERATIONS, "seconds", title="fleet: scenarios that were as they must be", title_justify="left")
    for flavour in chosen:
        cells = [cell(flavour, operation, rows) for operation in OPERATIONS]
        seconds = sum(row.seconds for row in rows if row.flavour == flavour.name)
        found.add_row(flavour.name, *(f"[{_colour(text)}]{text}[/]" for text in cells), f"{seconds:.0f}")
    return found


def _colour(text: str) -> str:
    return "red" if text.startswith(("FAILED", "not")) or "NOT" in text else "yellow" if text.startswith("refused") else "green"


def write(chosen: list[Flavour], rows: list[Row]) -> None:
    """Put what was found into the table of docs/flavours.md. Flavours that did not run keep what they had; gone ones go."""
    text = PAGE.read_text()
    before = text.partition(BEGIN)[2].partition(END)[0]
    known = {line.split("|")[1].strip(): line for line in before.split("\n") if line.startswith("| ")}
    today = time.strftime("%Y-%m-%d", time.gmtime())
    for flavour in chosen:
        cells = (cell(flavour, operation, rows) for operation in OPERATIONS)
        known[flavour.name] = f"| {flavour.name} | {' | '.join(cells)} | {today} |"
    lines = ["| flavour | " + " | ".join(OPERATIONS) + " | when |", "|---" * (2 + len(OPERATIONS)) + "|"]
    lines += [known.get(flavour.name, f"| {flavour.name} |{' not tried |' * len(OPERATIONS)} |") for flavour in every()]
    # Where an operation is refused there is no other way than to say so beforehand, and why.
    refusals = [
        f"- **{flavour.name}** refuses {operation} (`{refusal.cause}`): {refusal.because}."
        for flavour in every()
        for operation, refusal in flavour.refuses.items()
    ]
    block = "\n".join([BEGIN, *lines, "", *(refusals or ["No flavour refuses an operation."]), END])
    PAGE.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: block, text, flags=re.DOTALL))
