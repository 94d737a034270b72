"""How far a rollout is, while it is watched: a bar with rate and remaining time; under it what goes on, and what went wrong."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from controller.cli import output

if TYPE_CHECKING:
    from rich.console import RenderableType

    from controller import answers as a

DRAWN_PER_SECOND = 2  # for the clock; what is new is drawn at once
NAMED = 3  # causes, those of most servers
_STYLES = {"failed": "red", "held": "yellow", "running": "cyan"}


@contextlib.contextmanager
def shown(begun: "a.Rollout") -> Iterator[Callable[["a.RolloutProgress"], None]]:
    """Show on stderr how far a rollout is while the block runs, where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda found: None
        return
    from rich import progress as rich
    from rich.table import Column
    from rich.text import Text

    under = Text(no_wrap=True, overflow="ellipsis")

    class Bar(rich.Progress):
        def get_renderables(self) -> "Iterable[RenderableType]":
            yield from super().get_renderables()
            yield under

    fixed = Column(no_wrap=True)
    columns = (
        rich.TextColumn("[bold]{task.description}", table_column=fixed),
        rich.BarColumn(bar_width=None),
        rich.MofNCompleteColumn(table_column=fixed),
        rich.TaskProgressColumn(table_column=fixed),
        rich.TextColumn("{task.fields[rate]}", style="cyan", table_column=fixed),
        rich.TimeElapsedColumn(table_column=fixed),
        rich.TextColumn("left", style="dim", table_column=fixed),
        rich.TimeRemainingColumn(compact=True, table_column=fixed),
    )
    total = int(begun["servers"])
    what = begun["operation"] + (" (plan)" if begun["plans"] else "")
    console = output.console(errors=True)
    with Bar(*columns, console=console, transient=True, expand=True, refresh_per_second=DRAWN_PER_SECOND) as progress:
        task = progress.add_task(output.plain(what), total=total, rate="")

        def show_it(found: "a.RolloutProgress") -> None:
            ended = total - found["states"]["waiting"] - found["states"]["running"]
            speed = progress.tasks[0].speed
            progress.update(task, completed=ended, rate=f"{speed:.1f}/s" if speed else "")
            under.plain = ""
            for number, (words, style) in enumerate(going_on(found, ended)):
                under.append(", " if number else "").append(output.plain(words), style=style)
            progress.refresh()

        yield show_it


def going_on(found: "a.RolloutProgress", ended: int) -> Iterator[tuple[str, str]]:
    """Give what is told under the bar, each with its colour: the wave, states, and causes. ended: servers at their end."""
    yield wave(found, ended), "bold"
    for state, style in _STYLES.items():
        if count := found["states"][state]:
            yield f"{count} {state}", style
    causes = sorted(found["causes"].items(), key=lambda each: (-each[1], each[0]))
    for cause, count in causes[:NAMED]:
        yield f"{cause} {count}", "red"
    if len(causes) > NAMED:
        yield f"{len(causes) - NAMED} causes more", "red"


def wave(found: "a.RolloutProgress", ended: int) -> str:
    """Return which wave is at work where so many servers are at their end: `canary`, `batch 2 of 5`, or the rollout's state."""
    from controller.rollout.strategy import Strategy
    from controller.rollout.waves import sizes

    if found["state"] != "running" or ended >= found["servers"]:
        return str(found["state"])
    canary, batch = sizes(found["servers"], Strategy.read(found["strategy"]))
    if ended < canary:
        return "canary"
    return f"batch {(ended - canary) // batch + 1} of {-(-(found['servers'] - canary) // batch)}"
