"""How people come into the console: kps console link, kps user password."""

import ipaddress
import socket
from typing import Annotated
from urllib.parse import urlsplit

import typer

from controller.cli import completion, inputs, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.session import Session
from controller.cli.users import OneUser, users

console = group("The console, which `kps serve --listen` has at /console/.", "kps console link", "kps console link --user alice")


@command(console, "link", "kps console link", "kps console link --user alice --minutes 30")
async def link(
    session: Session,
    *,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="Whom it lets in; without it you.", autocompletion=completion.users),
    ] = None,
    minutes: Annotated[
        int, typer.Option("--minutes", metavar="N", min=1, max=24 * 60, help="It ends after so many minutes.")
    ] = 10,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="How a browser reaches the controller, where that is another way.")
    ] = None,
) -> None:
    """Make a link that lets somebody into the console once. It is shown now and never again.

    A browser sends nobody what stands behind the #, so it is in no log; give the link to nobody else all the same.
    """
    async with session.client() as client:
        made = await client.create_console_link({"user": user, "minutes": minutes})
    reached = url or (session.where if session.network is not None else reachable(made["url"]))
    made["url"] = f"{reached.rstrip('/')}{made['path']}#{made['code']}" if reached else None
    if session.json:
        output.as_json(made)
        return
    facts = {"link": made["url"]} if made["url"] else {"path": made["path"], "code": made["code"]}
    output.facts(facts | {"lets in": made["user"], "ends": output.seconds(made["expires_at"])})
    if not made["url"]:
        output.say(
            "Nobody serves the console at this moment: `kps serve --listen HOST:PORT`. Then open its path, and type the code."
        )


@command(users, "password", "kps user password alice", "kps user password alice --password-stdin < file")
async def set_password(
    session: Session,
    name: OneUser,
    *,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", metavar="", help="Read it from stdin, one line; else it is asked for, twice.")
    ] = False,
) -> None:
    """Set the password with which a user signs in to the console; whoever is signed in there as them is no more.

    At least 12 characters. Users' programs sign requests with access keys, and have no use for it.
    """
    if password_stdin:
        password = inputs.secret_from_stdin("new password")
    elif not inputs.somebody_types():
        raise usage("a password is asked for at a terminal; elsewhere give --password-stdin")
    else:
        password = inputs.asked_for("new password")
        if inputs.asked_for("new password again") != password:
            raise usage("the two new passwords are not the same")
    async with session.client() as client:
        await client.set_console_password(name, password)
    if session.json:
        output.as_json({"name": name, "password_set": True})
    else:
        output.say(f"{name} has a new password for the console; whoever was signed in as {name} is signed out")


def reachable(url: str | None) -> str | None:
    """Return where a browser reaches a controller that says how it listens: at every address of a machine is no address."""
    if url is None:
        return None
    found = urlsplit(url)
    host = found.hostname or ""
    if ipaddress.ip_address(host).is_unspecified:
        return f"{found.scheme}://{socket.getfqdn()}:{found.port}"
    return f"{found.scheme}://{found.netloc}"
