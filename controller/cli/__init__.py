"""kps: the controller's commands. An HTTP client of the fleet API; with no server it runs the application in process."""

import sys
from typing import Annotated, Any

import typer

from controller.cli import exits, output
from controller.cli.command import Home, Json, Profile, grouping, remember
from controller.cli.session import begin_start, complain
from controller.cli.tree import Commands
from controller.privacy import keep_memory_private

EXIT_CODES = "\n".join(["Exit codes", *(f"  {code:>3}  {meaning}" for code, meaning in exits.MEANING.items())])
EXAMPLES = ("kps init", "kps server add web-1 192.0.2.10 --trust-on-first-use", "kps demo")


class Whole(grouping(EXAMPLES, EXIT_CODES)):  # type: ignore[misc]  # a class that a call returns
    """All of `kps`."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = Commands()


app = typer.Typer(
    name="kps",
    help="SSH key pairs for fleets of servers: bind, replace, reset and unbind them, and nobody is locked out.",
    cls=Whole,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def print_version(asked: bool) -> None:
    """Print the version and end, if asked."""
    if asked:
        from importlib.metadata import version

        output.write(f"kps {version('kps-fleet')}\n")
        raise typer.Exit()


@app.callback()
def before(
    ctx: typer.Context,
    json: Json = False,
    home: Home = None,
    profile: Profile = None,
    version: Annotated[
        bool, typer.Option("--version", metavar="", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Remember what holds for whichever command comes."""
    remember(ctx, json, home, profile)


def main() -> None:
    """Run the command that was typed, and exit with its code."""
    begin_start()
    keep_memory_private()
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message()
        if message:  # none where help was shown instead
            where = getattr(error, "ctx", None)
            complain(
                "usage",
                f"{message.rstrip('.')}; see `{where.command_path if where else 'kps'} --help`",
                json="--json" in sys.argv[1:],
            )
        sys.exit(exits.USAGE)
    except typer.Abort:
        sys.exit(exits.INTERRUPTED)
    except exits.Unread:
        sys.exit(exits.UNREAD)
    except exits.Declined as declined:
        complain(declined.code, declined.message, json="--json" in sys.argv[1:])
        sys.exit(declined.exit_code)
    sys.exit(code)
