"""How a coroutine becomes a command: --json, --home, --profile, examples and exit codes are the same for all of them."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Annotated, Any, ClassVar, Concatenate, NamedTuple, ParamSpec

import typer
from typer.core import TyperCommand, TyperGroup

from controller.cli import output, profiles
from controller.cli.exits import Declined, Unread
from controller.cli.session import Session, complain, home_of
from controller.cli.where import network

P = ParamSpec("P")
Verb = Callable[Concatenate[Session, P], Coroutine[Any, Any, int | None]]

COMMON = "Every command"
Json = Annotated[
    bool,
    typer.Option("--json", metavar="", rich_help_panel=COMMON, help="Print JSON on stdout; an error is a JSON object on stderr."),
]
Home = Annotated[
    # Text: a path cannot tell an empty word from the current directory.
    str | None,
    typer.Option(
        "--home",
        metavar="DIR",
        rich_help_panel=COMMON,
        help="The controller's home; else KPS_HOME, else ~/.local/share/kps.",
    ),
]


Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        rich_help_panel=COMMON,
        help="A controller on the network, by its profile; else KPS_URL, else KPS_PROFILE, else the home.",
        autocompletion=profiles.beginning,
    ),
]


class Common(NamedTuple):
    """What every command takes."""

    json: bool = False
    home: str | None = None
    profile: str | None = None


def remember(ctx: typer.Context, json: bool, home: str | None, profile: str | None) -> None:
    """Keep what was given before a command's name, for whichever command comes; what stands nearer to it wins."""
    before: Common = ctx.obj or Common()
    ctx.obj = Common(json or before.json, before.home if home is None else home, before.profile if profile is None else profile)


def group(purpose: str, *examples: str, default: str | None = None) -> typer.Typer:
    """Return an empty group of commands about one noun. default: the command that is meant where none is named."""
    made = typer.Typer(cls=grouping(examples, default=default), no_args_is_help=True, rich_markup_mode="rich")

    @made.callback(help=purpose)
    def before(ctx: typer.Context, json: Json = False, home: Home = None, profile: Profile = None) -> None:
        remember(ctx, json, home, profile)

    return made


def grouping(examples: tuple[str, ...], end: str = "", default: str | None = None) -> type[TyperGroup]:
    """Return the class of a group whose help ends with these examples. default: as in group()."""

    class Group(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            # Options of the group alone say nothing; help does, of all of it.
            named = not {*self.commands, "--help", "-h"}.isdisjoint(args)
            if default is not None and args and not named:
                args = [default, *args]
            return super().parse_args(ctx, args)

        def format_help(self, ctx: Any, formatter: Any) -> None:
            with told():
                super().format_help(ctx, formatter)
            show_examples(examples)
            if end:
                output.say(f"\n{end}")

    return Group


def with_examples(examples: tuple[str, ...], end: str = "") -> type[TyperCommand]:
    """Return the class of a command whose help ends with what finds no room in a table of options, and these examples."""

    class Command(TyperCommand):
        examples: ClassVar[tuple[str, ...]] = ()
        end: ClassVar[str] = ""

        def format_help(self, ctx: Any, formatter: Any) -> None:
            with told():
                super().format_help(ctx, formatter)
            if self.end:
                output.say(f"{self.end}\n", wrap=True)
            show_examples(self.examples)

    Command.examples, Command.end = examples, end
    return Command


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Have help that nobody reads end as all output does: rich itself would end the program, with another code."""
    try:
        with output.delivered():
            yield
    except SystemExit as ended:
        raise Unread from ended


def show_examples(examples: tuple[str, ...]) -> None:
    """Print examples as they are typed: it is the terminal that wraps them, so that they can be copied."""
    output.say("Examples", style="bold")
    for example in examples:
        output.say(f"  {example}", style="cyan")


def command(app: typer.Typer, name: str, *examples: str, end: str = "") -> Callable[[Verb[P]], Verb[P]]:
    """Make a coroutine the command `name` of app; it is given the session first and returns the exit code, None for 0.

    Its docstring is the help, its annotations are the options, end and then the examples close it. --json, --home and --profile
    come with every command; given before the command's name they hold as well.
    """

    def register(verb: Verb[P]) -> Verb[P]:
        own = list(inspect.signature(verb).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("ctx", keyword, annotation=typer.Context),
            *(parameter.replace(kind=keyword) for parameter in own),
            inspect.Parameter("json", keyword, default=False, annotation=Json),
            inspect.Parameter("home", keyword, default=None, annotation=Home),
            inspect.Parameter("profile", keyword, default=None, annotation=Profile),
        ]

        @functools.wraps(verb)
        def run(ctx: typer.Context, *, json: bool, home: str | None, profile: str | None, **given: Any) -> None:
            remember(ctx, json, home, profile)
            common: Common = ctx.obj
            try:
                session = Session(home_of(common.home), json=common.json, network=network(common.home, common.profile))
            except Declined as declined:
                complain(declined.code, declined.message, json=common.json)
                raise typer.Exit(declined.exit_code) from declined
            raise typer.Exit(session.run(verb(session, **given)))  # type: ignore[call-arg]

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, cls=with_examples(examples, end))(run)
        return verb

    return register
