"""What people and programs read: tables, sentences and JSON, with nothing in them that a terminal would obey."""

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Control and format characters, lone surrogates, line and paragraph separators, code points nobody assigned.
OBEYED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
NO_WRAP = 10_000  # columns; for pipes, where a folded name could not be searched for

STYLE = {
    "succeeded": "green", "unchanged": "green", "failed": "red", "cancelled": "yellow", "running": "cyan",
    "on": "yellow", "off": "green",
}  # fmt: skip


def plain(value: object) -> str:
    """Return value as one line in which every character that a terminal could act on is spelled out."""
    text = value if isinstance(value, str) else str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if unicodedata.category(char) not in OBEYED else char.encode("unicode_escape").decode() for char in text)


def paragraph(text: str) -> str:
    """Return text of several lines, each of them plain."""
    return "\n".join(plain(line) for line in text.split("\n"))


def as_json(value: Any) -> None:
    """Write value to stdout as JSON, ASCII only."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def error_as_json(code: str, message: str) -> None:
    """Write an error to stderr as one JSON object on one line."""
    sys.stderr.write(json.dumps({"error": {"code": code, "message": message}}) + "\n")


def console(*, errors: bool = False) -> "Console":
    """Return a console that takes text as text: no markup, no emoji names, no colouring by guess."""
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(stderr=errors, markup=False, emoji=False, highlight=False, width=NO_WRAP if piped else None, soft_wrap=False)


def say(text: str, *, errors: bool = False, style: str | None = None) -> None:
    """Print sentences for people; it is the terminal that wraps them, so that commands in them can be copied."""
    from rich.text import Text

    console(errors=errors).print(Text(paragraph(text), style=style or ""), soft_wrap=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "", whole: str = "") -> None:
    """Print rows under headings; nothing is cut off, long cells go on in the next line. No rows: say empty.

    whole: the heading of a column that stays on one line, as ids do, unless that takes more than half of the width.
    """
    from rich.table import Table
    from rich.text import Text

    listed = [[plain("" if cell is None else cell) for cell in row] for row in rows]
    if not listed:
        say(empty, errors=True)
        return
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    screen = console()
    for place, heading in enumerate(headings):
        widest = max(len(row[place]) for row in listed)
        grid.add_column(heading, overflow="fold", no_wrap=heading == whole and widest <= screen.width // 2)
    for row in listed:
        grid.add_row(*(Text(cell, style=STYLE.get(cell, "")) for cell in row))
    screen.print(grid)


def facts(known: Mapping[str, object], *, errors: bool = False) -> None:
    """Print what is known of one thing, a line for each fact."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in known.items():
        text = paragraph("-" if value is None or value == "" else value if isinstance(value, str) else str(value))
        grid.add_row(Text(plain(name)), Text(text, style=STYLE.get(text, "")))
    console(errors=errors).print(grid)


def pairs(labels: Mapping[str, object]) -> str:
    """Return `k=v` pairs in one line, in the order of their names."""
    return " ".join(f"{name}={labels[name]}" for name in sorted(labels))


def seconds(instant: str | None) -> str:
    """Return an RFC 3339 time without fractions, for a table."""
    if instant is None:
        return "-"
    return instant.partition(".")[0].rstrip("Z").replace("T", " ") + "Z"
