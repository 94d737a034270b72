"""kps: the controller's commands. An HTTP client of the fleet API; with no server it runs the application in process."""

import sys
from typing import Annotated

import typer

from controller.cli import backup, doctor, exits, home, moving, network, operations, output, ssh, workers
from controller.cli.audit import audit
from controller.cli.certificate import certificate
from controller.cli.command import Home, Json, Profile, grouping, remember
from controller.cli.console import console
from controller.cli.emergency import emergency
from controller.cli.imports import servers
from controller.cli.keyfiles import keypairs
from controller.cli.kms import kms
from controller.cli.policies import policies
from controller.cli.rollouts import rollouts
from controller.cli.rootkeys import roots
from controller.cli.secrets import secrets
from controller.cli.session import begin_start, complain
from controller.cli.tasks import tasks
from controller.cli.temporary import temporary_keys, tokens
from controller.cli.users import access_keys, quotas, tenants, users
from controller.privacy import keep_memory_private

EXIT_CODES = "\n".join(["Exit codes", *(f"  {code:>3}  {meaning}" for code, meaning in exits.MEANING.items())])
EXAMPLES = ("kps init", "kps server add web-1 192.0.2.10 --trust-on-first-use", "kps demo")

app = typer.Typer(
    name="kps",
    help="SSH key pairs for fleets of servers: bind, replace, reset and unbind them, and nobody is locked out.",
    cls=grouping(EXAMPLES, EXIT_CODES),
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


home.register(app)
workers.register(app)
moving.register(app)
app.add_typer(servers, name="server")
app.add_typer(keypairs, name="keypair")
app.add_typer(backup.backups, name="backup")
backup.register(app)
operations.register(app)
ssh.register(app)
app.add_typer(operations.password_login, name="password-login")
app.add_typer(tasks, name="task")
app.add_typer(rollouts, name="rollout")
app.add_typer(policies, name="policy")
app.add_typer(secrets, name="secret")
app.add_typer(emergency, name="emergency")
app.add_typer(kms, name="kms")
app.add_typer(audit, name="audit")
app.add_typer(roots, name="root")
app.add_typer(certificate, name="certificate")
app.add_typer(users, name="user")
app.add_typer(console, name="console")
app.add_typer(access_keys, name="access-key")
app.add_typer(temporary_keys, name="temporary-key")
app.add_typer(tokens, name="token")
app.add_typer(quotas, name="quota")
app.add_typer(tenants, name="tenant")
doctor.register(app)
network.register(app)
app.add_typer(network.profile, name="profile")


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
