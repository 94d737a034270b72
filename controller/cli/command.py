"""How a coroutine becomes a command: --json, --home, examples and exit codes are the same for all of them."""

import functools
import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from controller.cli.session import Session, home_of

P = ParamSpec("P")
Verb = Callable[Concatenate[Session, P], Coroutine[Any, Any, int | None]]

COMMON = "Every command"
Json = Annotated[
    bool,
    typer.Option("--json", metavar="", rich_help_panel=COMMON, help="Print JSON on stdout; an error is a JSON object on stderr."),
]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        rich_help_panel=COMMON,
        help="The controller's home; else KPS_HOME, else ~/.local/share/kps.",
    ),
]


def group(purpose: str) -> typer.Typer:
    """Return an empty group of commands about one noun."""
    return typer.Typer(help=purpose, no_args_is_help=True, rich_markup_mode="rich")


def command(app: typer.Typer, name: str, *examples: str) -> Callable[[Verb[P]], Verb[P]]:
    """Make a coroutine the command `name` of app; it is given the session first and returns the exit code, None for 0.

    Its docstring is the help, its annotations are the options, examples end the help. --json and --home come with every
    command; given before the command's name they hold as well.
    """

    def register(verb: Verb[P]) -> Verb[P]:
        own = list(inspect.signature(verb).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("ctx", keyword, annotation=typer.Context),
            *(parameter.replace(kind=keyword) for parameter in own),
            inspect.Parameter("json", keyword, default=False, annotation=Json),
            inspect.Parameter("home", keyword, default=None, annotation=Home),
        ]

        @functools.wraps(verb)
        def run(ctx: typer.Context, *, json: bool, home: Path | None, **given: Any) -> None:
            before: tuple[bool, Path | None] = ctx.obj or (False, None)
            session = Session(home_of(home or before[1]), json=json or before[0])
            raise typer.Exit(session.run(verb(session, **given)))  # type: ignore[call-arg]

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, epilog=epilog(examples))(run)
        return verb

    return register


def epilog(examples: tuple[str, ...]) -> str:
    """Return the examples as help shows them, a line each."""
    escaped = (example.replace("[", "\\[") for example in examples)  # rich markup
    return "\n".join(["[bold]Examples[/bold]", *(f"  [cyan]{example}[/cyan]" for example in escaped)])
