"""The options that several commands share, each written once."""

from pathlib import Path
from typing import Annotated

import typer

from controller.cli import completion

ServerWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SERVER...",
        help="Names, or selections as in env=prod.",
        show_default=False,
        autocompletion=completion.servers,
    ),
]
OneServer = Annotated[str, typer.Argument(metavar="SERVER", help="The server's name.", autocompletion=completion.servers)]
OneKeypair = Annotated[str, typer.Argument(metavar="NAME", help="The key pair's name.", autocompletion=completion.keypairs)]
MasterKey = Annotated[
    str | None,
    typer.Option("--master-key", metavar="ALIAS", help="Seal the private half under this customer master key, by alias or id."),
]
All = Annotated[bool, typer.Option("--all", metavar="", help="Every server.")]
Keypair = Annotated[
    str, typer.Option("--keypair", metavar="NAME", help="The key pair to bind.", autocompletion=completion.keypairs)
]
NewKeypair = Annotated[
    str,
    typer.Option(
        "--keypair",
        metavar="NAME",
        help="The key pair that takes the place of the one bound now.",
        autocompletion=completion.keypairs,
    ),
]
Login = Annotated[str | None, typer.Option("--login", metavar="LOGIN", help="Another login than the server's default one.")]

WAY_IN = "Way in"
PasswordStdin = Annotated[
    bool,
    typer.Option(
        "--password-stdin",
        metavar="",
        rich_help_panel=WAY_IN,
        help="Read the password from stdin: one line for one server, NAME<TAB>password lines for several.",
    ),
]
PasswordOf = Annotated[
    str | None,
    typer.Option(
        "--password-of",
        metavar="LOGIN",
        rich_help_panel=WAY_IN,
        help="Whose password that is: it is tried for this login only, and told to its sudo. Without this it may be the "
        "login's in question or the server's default one's, and sudo hears it only where it opened that very login.",
    ),
]
Identity = Annotated[
    Path | None,
    typer.Option("--identity", metavar="FILE", rich_help_panel=WAY_IN, help="A private key file that opens the server today."),
]
PassphraseStdin = Annotated[
    bool,
    typer.Option(
        "--passphrase-stdin",
        metavar="",
        rich_help_panel=WAY_IN,
        help="Read the passphrase of --identity from stdin; not together with --password-stdin.",
    ),
]

Plan = Annotated[
    bool,
    typer.Option("--plan", metavar="", help="Show what would be done, or what would refuse it, and write nothing."),
]
SshAgent = Annotated[
    str | None,
    typer.Option(
        "--agent",
        metavar="KEY",
        rich_help_panel=WAY_IN,
        help="One key of your ssh-agent (SSH_AUTH_SOCK) that opens the server today: its SHA256 fingerprint, its comment or its "
        ".pub file. No other key of the agent is offered.",
    ),
]
Certificate = Annotated[
    Path | None,
    typer.Option(
        "--certificate",
        metavar="FILE",
        rich_help_panel=WAY_IN,
        help="A user certificate for the key of --identity or --agent, as ssh-keygen -s makes it.",
    ),
]

CONSENT = "Consent"
AcceptLockout = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-lockout",
        metavar="LOGIN",
        rich_help_panel=CONSENT,
        help="This login may lose its way in. Repeat for more.",
        show_default=False,
    ),
]
AcceptUnproved = Annotated[
    bool,
    typer.Option(
        "--accept-unproved",
        metavar="",
        rich_help_panel=CONSENT,
        help="Go on where sshd would accept the key but nobody has shown to hold its private half.",
    ),
]
FixPermissions = Annotated[
    bool,
    typer.Option(
        "--fix-permissions",
        metavar="",
        rich_help_panel=CONSENT,
        help="Tighten .ssh and authorized_keys where sshd would not use them.",
    ),
]
TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over",
        metavar="",
        rich_help_panel=CONSENT,
        help="Also where another user's private key pair is bound, which then opens the login no more. For administrators.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", metavar="", rich_help_panel=CONSENT, help="Also where the owner's own sshd configuration says otherwise."
    ),
]

REVOKE = "A key in wrong hands"
Revoke = Annotated[
    bool,
    typer.Option(
        "--revoke",
        metavar="",
        rich_help_panel=REVOKE,
        help="The key is compromised: whatever goes wrong afterwards, it does not come back. Another way in is proved first; "
        "what may still let the key in is named.",
    ),
]
Everywhere = Annotated[
    bool,
    typer.Option(
        "--everywhere",
        metavar="",
        rich_help_panel=REVOKE,
        help="With --revoke: take it out of the files of all logins on the server, not only of this one.",
    ),
]
EndSessions = Annotated[
    bool,
    typer.Option(
        "--end-sessions",
        metavar="",
        rich_help_panel=REVOKE,
        help="With --revoke: end the login's open sessions that the key opened, or may have.",
    ),
]
