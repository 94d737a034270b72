"""The home's own certificate: kps certificate show, renew."""

from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli import output
from controller.cli.command import command, group
from controller.cli.session import Session, complain, through_with_start

if TYPE_CHECKING:
    from controller.service.certificate import Shown

certificate = group(
    "The certificate that the home has made for itself, for `kps serve --listen`.",
    "kps certificate show",
    "kps certificate renew",
)


@command(certificate, "show", "kps certificate show", "kps certificate show --json")
async def show(session: Session) -> None:
    """Show the fingerprint and the public key that clients pin, the names, and until when it holds."""
    from controller.service import certificate

    through_with_start()
    path = session.settings().certificate
    tell(session, certificate.show(path))
    wrong = certificate.warning(path)
    if wrong is not None:
        complain(wrong.code, wrong.message, json=session.json)


@command(certificate, "renew", "kps certificate renew", "kps certificate renew --name kps.example.com --name 192.0.2.5")
async def renew(
    session: Session,
    *,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="NAME", help="A name or an address by which clients reach it; else those of the old one."),
    ] = None,
) -> None:
    """Make it anew with the key that it has: its fingerprint is another one, a public key that is pinned holds.

    A controller that runs shows the old one until it is sent SIGHUP, or starts anew: give the new one to the clients first.
    """
    from controller.service import certificate

    through_with_start()
    settings = session.settings()
    tell(session, certificate.renew(settings.certificate, settings.certificate_key, name or ()))


def tell(session: Session, found: "Shown") -> None:
    """Print what is in a certificate."""
    from controller.api.shapes import instant

    told = {
        "fingerprint": found.fingerprint,
        "public_key": found.public_key,
        "names": found.names,
        "begins_at": instant(found.begins_at),
        "ends_at": instant(found.ends_at),
    }
    if session.json:
        output.as_json(told)
        return
    output.facts(
        {
            "certificate SHA-256": found.fingerprint,
            "public key": f"sha256//{found.public_key}",
            "names": ", ".join(found.names),
            "from": str(told["begins_at"]),
            "until": str(told["ends_at"]),
        }
    )
