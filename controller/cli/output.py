"""What people and programs read: tables, sentences and JSON, with nothing in them that a terminal would obey."""

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from controller.cli.exits import UNAVAILABLE, Declined, Unread
from controller.plain import pairs as pairs
from controller.plain import plain as plain
from controller.plain import seconds as seconds

if TYPE_CHECKING:
    from rich.console import Console

Known = Mapping[str, Any]  # what the controller tells of one thing (controller/answers), or what is to be told of it

NARROW = 14  # columns; what is folded into less can hardly be read
NO_WRAP = 10_000  # columns; for pipes, where a folded name could not be searched for

STYLE = {
    "succeeded": "green", "unchanged": "green", "failed": "red", "cancelled": "yellow", "running": "cyan",
    "on": "yellow", "off": "green",
}  # fmt: skip


def paragraph(text: str) -> str:
    """Return text of several lines, each of them plain."""
    return "\n".join(plain(line) for line in text.split("\n"))


@contextlib.contextmanager
def delivered() -> Iterator[None]:
    """Have what the block writes to stdout taken, or say that it was not: Unread, Declined(output_not_written)."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of_stdout()
        raise Unread from None
    except OSError as error:
        _let_go_of_stdout()
        raise Declined(UNAVAILABLE, "output_not_written", f"stdout: {error.strerror}") from error


def _let_go_of_stdout() -> None:
    """Have what is left to be written go nowhere: Python would try once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def write(text: str) -> None:
    """Write text to stdout as it is."""
    with delivered():
        sys.stdout.write(text)


def as_json(value: Any) -> None:
    """Write value to stdout as JSON, ASCII only."""
    write(json.dumps(value, indent=2) + "\n")


def error_as_json(code: str, message: str) -> None:
    """Write an error to stderr as one JSON object on one line."""
    sys.stderr.write(json.dumps({"error": {"code": code, "message": message}}) + "\n")


def console(*, errors: bool = False) -> "Console":
    """Return a console that takes text as text: no markup, no emoji names, no colouring by guess."""
    from rich.console import Console

    stream = sys.stderr if errors else sys.stdout
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(stderr=errors, markup=False, emoji=False, highlight=False, width=NO_WRAP if piped else None, soft_wrap=False)


def say(text: str, *, errors: bool = False, style: str | None = None, wrap: bool = False) -> None:
    """Print sentences for people; it is the terminal that wraps them, so that commands in them can be copied.

    wrap: break lines between words, for long sentences without a command.
    """
    from rich.text import Text

    _print(console(errors=errors), Text(paragraph(text), style=style or ""), soft_wrap=not wrap)


def _print(screen: "Console", shown: Any, *, soft_wrap: bool = False) -> None:
    """Print what rich can render; what is not for a terminal has no spaces at the end of its lines."""
    with screen.capture() as rendered:
        screen.print(shown, soft_wrap=soft_wrap)
    text = rendered.get()
    if not screen.is_terminal:
        text = "\n".join(line.rstrip(" ") for line in text.split("\n"))
    if screen.stderr:
        sys.stderr.write(text)
    else:
        write(text)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "", whole: str = "") -> None:
    """Print rows under headings; nothing is cut off, long cells go on in the next line. No rows: say empty.

    whole: the heading of a column whose cells are never broken, as ids are not. Where that leaves the others no room,
    each such cell stands on a line of its own, and the rest of its row under it.
    """
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    listed = [[plain("" if cell is None else cell) for cell in row] for row in rows]
    if not listed:
        say(empty, errors=True)
        return
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    screen = console()
    widest = {heading: max(len(row[place]) for row in listed) for place, heading in enumerate(headings)}
    if whole:
        # A column is as wide as its longest cell or its heading, and two columns of space follow it.
        needed = sum(2 + max(len(heading), min(width, NARROW)) for heading, width in widest.items() if heading != whole)
        if widest[whole] + needed > screen.width:
            place = list(headings).index(whole)
            for row in listed:
                say(row[place], style="bold")
                rest = "  ".join(cell for at, cell in enumerate(row) if at != place)
                _print(screen, Padding(Text(rest, overflow="fold"), (0, 0, 0, 2)))
            return
    for heading in headings:
        grid.add_column(heading, overflow="fold", no_wrap=heading == whole)
    for row in listed:
        grid.add_row(*(Text(cell, style=STYLE.get(cell, "")) for cell in row))
    _print(screen, grid)


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
    _print(console(errors=errors), grid)
