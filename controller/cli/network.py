"""Controllers on the network: kps whoami, kps profile."""

from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli import inputs, output, profiles
from controller.cli.command import command, group
from controller.cli.session import Session

Json = dict[str, Any]

profile = group(
    "Profiles: what a controller on the network is reached with. Every command takes --profile NAME.",
    "kps profile add prod --url https://kps.example.com:8443 --access-key AKIEXAMPLEEXAMPLE001 < secret-key",
    "kps profile list",
)

OneProfile = Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.", autocompletion=profiles.beginning)]


@command(
    profile,
    "add",
    "kps profile add prod --url https://kps.example.com:8443 --access-key AKIEXAMPLEEXAMPLE001 --ca-certificate tls.crt",
    "kps profile add prod --url https://192.0.2.5:8443 --access-key AKIEXAMPLEEXAMPLE001 --fingerprint 5A:5F:... < secret-key",
    end="The secret key is read from stdin, or asked for at a terminal; it is never an option.",
)
async def add(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the profile is called.")],
    *,
    url: Annotated[str, typer.Option("--url", metavar="URL", help="https://HOST:PORT; http:// on loopback only.")],
    access_key: Annotated[str, typer.Option("--access-key", metavar="ID", help="The access key's id.")],
    ca_certificate: Annotated[
        Path | None,
        typer.Option(
            "--ca-certificate", metavar="FILE", help="PEM: the controller's certificate, or its authority's; nothing else counts."
        ),
    ] = None,
    fingerprint: Annotated[
        str | None,
        typer.Option("--fingerprint", metavar="SHA256", help="Of the controller's certificate, as kps serve prints it."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", metavar="", help="Write a profile anew that is there.")] = False,
) -> None:
    """Write a profile, readable by you alone. No controller is asked: `kps whoami --profile NAME` tries it.

    Without --ca-certificate and --fingerprint the authorities count that this machine trusts.
    """
    from controller.client import Remote
    from controller.model import Secret

    remote = Remote(url, access_key, Secret(inputs.secret_from_stdin("secret key")), ca_certificate, fingerprint)
    remote.context()  # a CA certificate that cannot be used is told now
    path = profiles.write(name, remote, replace=replace)
    if session.json:
        output.as_json(shape(name, remote) | {"file": str(path)})
        return
    output.say(f"{path} is written; `kps whoami --profile {name}` tries it")


@command(profile, "list", "kps profile list", "kps profile list --json")
async def list_(session: Session) -> None:
    """List the profiles that are there."""
    found = profiles.names()
    if session.json:
        output.as_json([{"name": name, "file": str(profiles.path_of(name))} for name in found])
        return
    output.table(
        ("NAME", "FILE"),
        [(name, profiles.path_of(name)) for name in found],
        empty="no profiles yet; `kps profile add` makes one",
    )


@command(profile, "show", "kps profile show prod", "kps profile show prod --json")
async def show(session: Session, name: OneProfile) -> None:
    """Show a profile, without its secret key."""
    found = shape(name, profiles.read(name)) | {"file": str(profiles.path_of(name))}
    if session.json:
        output.as_json(found)
    else:
        output.facts({key.replace("_", " "): value for key, value in found.items()})


@command(profile, "remove", "kps profile remove prod")
async def remove(session: Session, name: OneProfile) -> None:
    """Delete a profile. The access key stays: `kps access-key delete` ends it."""
    path = profiles.remove(name)
    if session.json:
        output.as_json({"name": name, "removed": True, "file": str(path)})
    else:
        output.say(f"{path} is deleted; the access key in it still works")


def shape(name: str, remote: Any) -> Json:
    """Return a profile without its secret."""
    return {
        "name": name,
        "url": remote.url,
        "access_key": remote.access_key,
        "ca_certificate": str(remote.ca_certificate) if remote.ca_certificate else None,
        "fingerprint": remote.fingerprint,
    }


def register(app: typer.Typer) -> None:
    """Add the command that tells where one is."""

    @command(app, "whoami", "kps whoami", "kps whoami --profile prod --json")
    async def whoami(session: Session) -> None:
        """Tell which controller commands go to, what says so, and as whom it takes you."""
        async with session.client() as client:
            found = {"controller": session.where, "said_by": session.said_by, **await client.whoami()}
        if session.json:
            output.as_json(found)
            return
        output.facts(
            {
                "controller": f"{found['controller']} ({found['said_by']})",
                "user": found["user"],
                "role": found["role"],
                "kind": found["kind"],
                "tenant": f"{found['tenant']} ({found['tenant_id']})",
                "project": found["project_id"],
            }
        )
