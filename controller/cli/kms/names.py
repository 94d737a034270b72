"""Further aliases and grants of customer master keys: kps kms alias, kps kms grant."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from controller.cli import output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.kms.common import OneKey
from controller.cli.output import Known
from controller.cli.session import Session

aliases = group(
    "Further names of master keys, alias/...: each can be moved to another key, and what uses the name follows.",
    "kps kms alias add alias/current orders",
    "kps kms alias list",
)
grants = group(
    "Leave for a user to do something with one master key, whatever their role.",
    "kps kms grant create orders --to alice --operation decrypt-data",
    "kps kms grant list orders",
)

OneAlias = Annotated[str, typer.Argument(metavar="ALIAS", help="The further alias: it begins with alias/")]
OneGrant = Annotated[str, typer.Argument(metavar="GRANT", help="The grant's id.")]


@command(aliases, "add", "kps kms alias add alias/current orders")
async def add(session: Session, alias: OneAlias, key: OneKey) -> None:
    """Give a master key a further alias."""
    async with session.client() as client:
        show_alias(session, await client.add_alias(alias, key))


@command(aliases, "move", "kps kms alias move alias/current orders-2")
async def move(session: Session, alias: OneAlias, key: OneKey) -> None:
    """Have a further alias mean another master key."""
    async with session.client() as client:
        show_alias(session, await client.move_alias(alias, key))


@command(aliases, "list", "kps kms alias list", "kps kms alias list --json")
async def list_aliases(session: Session) -> None:
    """List the further aliases of all master keys."""
    async with session.client() as client:
        found = await client.aliases()
    if session.json:
        output.as_json(found)
    else:
        rows = [(one["alias"], one["key_id"], output.seconds(one["updated_at"])) for one in found]
        output.table(("ALIAS", "KEY", "SINCE"), rows, empty="no further aliases; `kps kms alias add` makes one", whole="KEY")


@command(aliases, "delete", "kps kms alias delete alias/current")
async def delete(session: Session, alias: OneAlias) -> None:
    """Take a further alias away; the key stays."""
    async with session.client() as client:
        await client.delete_alias(alias)
    if session.json:
        output.as_json({"alias": alias, "deleted": True})
    else:
        output.say(f"{alias} is deleted")


@command(
    grants,
    "create",
    "kps kms grant create orders --to alice --operation decrypt-data",
    "kps kms grant create orders --to-everyone --operation encrypt-data --operation create-datakey",
)
async def create(
    session: Session,
    key: OneKey,
    *,
    operation: Annotated[
        list[str],
        typer.Option(
            "--operation",
            metavar="OPERATION",
            help="encrypt-data, decrypt-data, create-datakey, create-datakey-without-plaintext, encrypt-datakey, "
            "decrypt-datakey, describe-key, create-grant (pass on what else is granted) or retire-grant. Repeat for more.",
        ),
    ],
    to: Annotated[str | None, typer.Option("--to", metavar="USER", help="Whom: a user's name or id.")] = None,
    to_everyone: Annotated[bool, typer.Option("--to-everyone", metavar="", help="All users of the tenant.")] = False,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the grant is called.")] = "",
    retiring: Annotated[
        str | None, typer.Option("--retiring", metavar="USER", help="Who else may retire it: a user's name or id.")
    ] = None,
) -> None:
    """Give a user leave to use one master key, in so many ways. At most 100 grants for a key."""
    if (to is None) != to_everyone:
        raise usage("give either --to USER or --to-everyone")
    body = {"grantee": to, "operations": operation, "name": name, "retiring": retiring}
    async with session.client() as client:
        show_grants(session, await client.create_grant(key, body))


@command(grants, "list", "kps kms grant list orders")
async def list_grants(session: Session, key: OneKey) -> None:
    """List the grants of a master key."""
    async with session.client() as client:
        show_grants(session, await client.grants(key))


@command(grants, "retirable", "kps kms grant retirable")
async def retirable(session: Session) -> None:
    """List the grants that you may retire."""
    async with session.client() as client:
        show_grants(session, await client.retirable_grants())


@command(grants, "revoke", "kps kms grant revoke orders GRANT")
async def revoke(session: Session, key: OneKey, grant: OneGrant) -> None:
    """Take a grant back: for whoever gave it, and for administrators."""
    async with session.client() as client:
        show_grants(session, await client.end_grant(key, grant, "revoke"))


@command(grants, "retire", "kps kms grant retire orders GRANT")
async def retire(session: Session, key: OneKey, grant: OneGrant) -> None:
    """Give a grant up: for whoever gave it or was named for that, and for who has it where retire-grant was granted."""
    async with session.client() as client:
        show_grants(session, await client.end_grant(key, grant, "retire"))


def show_alias(session: Session, found: Known) -> None:
    """Print one further alias."""
    if session.json:
        output.as_json(found)
    else:
        output.say(f"{found['alias']} means {found['key_id']}")


def show_grants(session: Session, found: Sequence[Known] | Known) -> None:
    """Print grants, or one."""
    if session.json:
        output.as_json(found)
        return
    rows = [
        (one["grantee"], " ".join(one["operations"]), one["issuer"], one["name"] or "-", one["id"])
        for one in ([found] if isinstance(found, Mapping) else found)
    ]
    output.table(("GRANTEE", "OPERATIONS", "BY", "NAME", "ID"), rows, empty="no grants", whole="ID")
