"""The private half of a key pair: kps keypair manage, clear, move."""

from pathlib import Path
from typing import Annotated

import typer

from controller.cli import inputs, options, output
from controller.cli.command import command
from controller.cli.keypairs import about_the_file, keypairs, show
from controller.cli.session import Session

__all__ = ["keypairs"]  # the group of commands, with these in it


@command(
    keypairs,
    "manage",
    "kps keypair manage alice --private-key ~/.ssh/id_ed25519",
    "kps keypair manage ops --private-key ops.pem --passphrase-stdin < passphrase",
)
async def manage(
    session: Session,
    name: options.OneKeypair,
    *,
    private_key: Annotated[
        Path, typer.Option("--private-key", metavar="FILE", help="The private half that belongs to it; kept here, encrypted.")
    ],
    passphrase_stdin: Annotated[
        bool, typer.Option("--passphrase-stdin", metavar="", help="Read the passphrase of --private-key from stdin.")
    ] = False,
    master_key: options.MasterKey = None,
) -> None:
    """Take the private half of an unmanaged key pair into custody: it is managed from now on."""
    request = {"private_key": inputs.private_key(private_key)}
    if passphrase_stdin:
        request["passphrase"] = inputs.secret_from_stdin("passphrase")
    if master_key is not None:
        request["master_key"] = master_key
    async with session.client() as client:
        with about_the_file(private_key):
            made = await client.manage_keypair(name, request)
    output.as_json(made) if session.json else show(made)


@command(keypairs, "clear", "kps keypair clear alice", "kps keypair clear old --even-if-only-way-in")
async def clear(
    session: Session,
    name: options.OneKeypair,
    *,
    even_if_only_way_in: Annotated[
        bool,
        typer.Option(
            "--even-if-only-way-in",
            metavar="",
            help="Also where no other proved way into some login is on record: somebody else has the private half.",
        ),
    ] = False,
) -> None:
    """Destroy the private half that is kept here; the key pair stays, unmanaged, and stays bound.

    Refused while it is the only proved way into some login, and while a task works with it. Backups still hold it.
    """
    async with session.client() as client:
        cleared = await client.clear_keypair(name, even_if_only_way_in=even_if_only_way_in)
    output.as_json(cleared) if session.json else output.say(f"{name}: its private half is destroyed; it is unmanaged now")


@command(keypairs, "move", "kps keypair move ops --master-key payments")
async def move(
    session: Session,
    name: options.OneKeypair,
    *,
    master_key: Annotated[str, typer.Option("--master-key", metavar="ALIAS", help="The customer master key, by alias or id.")],
) -> None:
    """Put the private half under another customer master key. It is not opened: only its data key is wrapped anew."""
    async with session.client() as client:
        moved = await client.move_keypair(name, master_key)
    output.as_json(moved) if session.json else show(moved)
