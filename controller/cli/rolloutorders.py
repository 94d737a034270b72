"""What is asked of an operation on many servers, as it is typed: written once for the commands that take it."""

import inspect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from controller.cli import options
from controller.cli.exits import usage
from controller.cli.operations import check_choice, check_revoke, credentials, key_of, warn_of_old_algorithms
from controller.cli.output import Known
from controller.cli.session import Session

Json = dict[str, Any]
_STRATEGY = (
    "canary", "batch", "max_failures", "per_label", "quorum", "concurrency", "per_bastion", "window", "pause_after_canary",
    "tries",
)  # fmt: skip
_REQUEST = (
    "keypair", "login", "keep_password_login", "close_password_login", "accept_lockout", "accept_unproved", "fix_permissions",
    "take_over", "revoke", "everywhere", "end_sessions", "force",
)  # fmt: skip
_OPENS = ("password_stdin", "password_of", "identity", "passphrase_stdin", "agent", "certificate", "credential_hours")


def option(name: str, metavar: str, help_: str) -> Any:
    """Return an option that takes a value."""
    return typer.Option(name, metavar=metavar, help=help_)


Hours = Annotated[
    float | None,
    option("--credential-hours", "N", "Keep what opens the servers, sealed, for so long at most; 24 if not said."),
]


@dataclass(frozen=True)
class Asked:
    """An operation, on which servers, how it is to go, and what opens them."""

    operation: Annotated[
        str | None,
        typer.Argument(
            metavar="OPERATION", help="bind, replace, unbind, check, password-login-enable or -disable.", show_default=False
        ),
    ] = None
    servers: options.ServerWords = None
    every: options.All = False
    keypair: Annotated[str | None, option("--keypair", "NAME", "The key pair to bind, or to put in the place of the old.")] = None
    login: options.Login = None
    canary: Annotated[str | None, option("--canary", "N|N%", "How many first, before all others; 1 if not said, 0 for none.")] = (
        None
    )
    batch: Annotated[str | None, option("--batch", "N|N%", "How many then at a time; 10% if not said.")] = None
    max_failures: Annotated[
        str | None, option("--max-failures", "N|N%", "Stop where more failed, of all or of one label; 2% if not said.")
    ] = None
    max_failures_of: Annotated[
        list[str] | None, option("--max-failures-of", "CAUSE=N|N%", "Stop where more failed by this cause; * is each of them.")
    ] = None
    per_label: Annotated[
        str | None, option("--per-label", "LABEL", "Spread the canary over this label's values, and count by them.")
    ] = None
    quorum: Annotated[str | None, option("--quorum", "LABEL", "Of servers with one value of this label, only one at a time.")] = (
        None
    )
    concurrency: Annotated[int | None, option("--concurrency", "N", "Servers at the same time; 32 if not said.")] = None
    per_bastion: Annotated[int | None, option("--per-bastion", "N", "Servers at the same time behind a jump server.")] = None
    window: Annotated[
        str | None, option("--window", "HH:MM-HH:MM [ZONE]", "Begin servers in these hours only; UTC if no zone is said.")
    ] = None
    pause_after_canary: Annotated[
        bool, typer.Option("--pause-after-canary", metavar="", help="Wait for `kps rollout resume` after the canary.")
    ] = False
    tries: Annotated[int | None, option("--tries", "N", "Of each server, where what failed may pass; 3 if not said.")] = None
    credential_hours: Hours = None
    password_stdin: options.PasswordStdin = False
    password_of: options.PasswordOf = None
    identity: options.Identity = None
    passphrase_stdin: options.PassphraseStdin = False
    agent: options.SshAgent = None
    certificate: options.Certificate = None
    keep_password_login: Annotated[
        bool, typer.Option("--keep-password-login", metavar="", help="bind, unbind: leave password login as it is.")
    ] = False
    close_password_login: Annotated[
        bool, typer.Option("--close-password-login", metavar="", help="replace: switch password login off too.")
    ] = False
    accept_lockout: options.AcceptLockout = None
    accept_unproved: options.AcceptUnproved = False
    fix_permissions: options.FixPermissions = False
    take_over: options.TakeOver = False
    revoke: options.Revoke = False
    everywhere: options.Everywhere = False
    end_sessions: options.EndSessions = False
    force: options.Force = False

    @property
    def besides_what_opens(self) -> list[str]:
        """What of it was given that is no way into a server."""
        return [name for name, value in vars(self).items() if name not in _OPENS and value not in (None, False, [])]

    def key(self) -> Json:
        """Return the private key that is given for all servers, as a request has it."""
        return key_of(self.identity, self.agent, self.certificate, self.password_stdin, self.passphrase_stdin)

    def check(self) -> None:
        """Refuse what contradicts itself, before anything is read."""
        if self.operation is None:
            raise usage("say what is to be done: bind, replace, unbind, check, password-login-enable or -disable")
        check_choice(self.servers, self.every)
        check_revoke(self.revoke, self.everywhere, self.end_sessions)

    def order(self, chosen: Sequence[Known], key: Json) -> Json:
        """Return the order for these servers; passwords are read for it."""
        names = [str(server["name"]) for server in chosen]
        if not names:
            raise usage("no servers there; `kps server add` adds one")
        if self.password_stdin:
            warn_of_old_algorithms(chosen)
        strategy = {name: getattr(self, name) for name in _STRATEGY}
        strategy["max_failures_of"] = limits(self.max_failures_of or ())
        request = {name: getattr(self, name) for name in _REQUEST}
        return {
            "operation": self.operation,
            "servers": names,
            "credentials": credentials(names, self.password_stdin, self.password_of),
            "strategy": {name: value for name, value in strategy.items() if value not in (None, False, {})},
            **({} if self.credential_hours is None else {"credential_hours": self.credential_hours}),
            **key,
            **{name: value for name, value in request.items() if value not in (None, False)},
        }


Verb = Callable[..., Coroutine[Any, Any, int | None]]


def asking(verb: Verb) -> Verb:
    """Give a verb, whose second parameter is Asked, the options of that in its place."""
    session, _, *own = inspect.signature(verb).parameters.values()
    names = {each.name for each in inspect.signature(Asked).parameters.values()}

    async def run(session: Session, **given: Any) -> int | None:
        said = Asked(**{name: value for name, value in given.items() if name in names})
        return await verb(session, said, **{name: value for name, value in given.items() if name not in names})

    keyword = inspect.Parameter.KEYWORD_ONLY
    takes = [each.replace(kind=keyword) for each in (*inspect.signature(Asked).parameters.values(), *own)]
    run.__signature__ = inspect.Signature([session, *takes])  # type: ignore[attr-defined]
    run.__name__, run.__doc__ = verb.__name__, verb.__doc__
    return run


def limits(words: Sequence[str]) -> dict[str, str]:
    """Return CAUSE=N words by cause."""
    pairs = [word.partition("=") for word in words]
    if not all(cause and limit for cause, _, limit in pairs):
        raise usage("--max-failures-of: give CAUSE=N or CAUSE=N%, as disk_full=3")
    return {cause: limit for cause, _, limit in pairs}
