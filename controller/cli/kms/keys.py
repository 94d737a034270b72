"""The lives of customer master keys: kps kms key."""

from typing import Annotated

import typer

from controller.cli import inputs, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.kms.common import EvenIf, OneKey, show_key
from controller.cli.session import Session
from controller.model import KeySpec, KeyUsage

keys = group(
    "Customer master keys of the tenant, up to 100; the services' own (kps/default) come by themselves and are not counted.",
    "kps kms key create orders",
    "kps kms key list",
)

NewAlias = Annotated[str, typer.Argument(metavar="ALIAS", help="What the key is called: letters, digits, and : / _ -")]
TagWords = Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="Tags.")]


@command(
    keys,
    "create",
    "kps kms key create orders",
    "kps kms key create releases --spec EC_P384 --description 'signs what we ship'",
    "kps kms key create ours --external",
    "kps kms key create shop --tag stage=prod --tag team=shop",
)
async def create(
    session: Session,
    alias: NewAlias,
    *,
    spec: Annotated[KeySpec, typer.Option("--spec", help="The kind of key.")] = "AES_256",
    usage: Annotated[
        KeyUsage | None,
        typer.Option("--usage", help="What it is for, where its kind leaves a choice: RSA keys sign unless this says otherwise."),
    ] = None,
    external: Annotated[
        bool, typer.Option("--external", metavar="", help="Its material is imported: `kps kms key import-parameters`.")
    ] = False,
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is for, in words.")] = "",
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="NAME=VALUE", help="A tag. Repeat for more, 20 at most.", show_default=False),
    ] = None,
) -> None:
    """Make a customer master key. Its material is made here, unless --external says that it is brought."""
    request = {"alias": alias, "spec": spec, "usage": usage, "description": description, "tags": inputs.labels(tag or [])}
    async with session.client() as client:
        show_key(session, await client.create_master_key(request | {"origin": "external" if external else "kms"}))


@command(
    keys, "list", "kps kms key list", "kps kms key list --state pending_deletion", "kps kms key list --tag stage=prod --json"
)
async def list_(
    session: Session,
    *,
    spec: Annotated[KeySpec | None, typer.Option("--spec", help="Only keys of this kind.")] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="Only enabled, disabled, pending_deletion or pending_import ones."),
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="NAME[=VALUE]", help="Only keys with this tag. Repeat for more.", show_default=False),
    ] = None,
) -> None:
    """List the master keys, by age."""
    async with session.client() as client:
        found = await client.master_keys(spec=spec, state=state, tags=tag or [])
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("ALIAS", "SPEC", "STATE", "VERSION", "ROTATED", "ID"),
        [
            (
                one["alias"], one["spec"], one["state"], one["version"],
                "-" if one["rotation"]["every_days"] is None else f"every {one['rotation']['every_days']} d", one["id"],
            )
            for one in found
        ],
        empty="no master keys; `kps kms key create` makes one",
        whole="ID",
    )  # fmt: skip


@command(keys, "show", "kps kms key show orders", "kps kms key show kps/default --json")
async def show(session: Session, key: OneKey) -> None:
    """Show one master key with its tags and further aliases; nothing of its material."""
    async with session.client() as client:
        show_key(session, await client.master_key(key))


@command(keys, "rename", "kps kms key rename orders shop/orders")
async def rename(session: Session, key: OneKey, alias: NewAlias) -> None:
    """Give a master key another alias of its own; what it has sealed opens as before."""
    async with session.client() as client:
        show_key(session, await client.change_master_key(key, {"alias": alias}))


@command(keys, "describe", "kps kms key describe orders 'for the shop'")
async def describe(
    session: Session,
    key: OneKey,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Up to 255 characters; '' takes the description away.")],
) -> None:
    """Give a master key another description."""
    async with session.client() as client:
        show_key(session, await client.change_master_key(key, {"description": text}))


@command(keys, "enable", "kps kms key enable orders")
async def enable(session: Session, key: OneKey) -> None:
    """Enable a master key that was disabled."""
    async with session.client() as client:
        show_key(session, await client.take_life_step(key, "enable"))


@command(keys, "disable", "kps kms key disable orders")
async def disable(session: Session, key: OneKey, *, even_if_only_way_in: EvenIf = False) -> None:
    """Disable a master key: nothing that it sealed opens until it is enabled again.

    Refused where it seals the private half of some login's only proved way in.
    """
    async with session.client() as client:
        show_key(session, await client.take_life_step(key, "disable", {"even_if_only_way_in": even_if_only_way_in}))


@command(keys, "delete", "kps kms key delete orders --days 30")
async def delete(
    session: Session,
    key: OneKey,
    *,
    days: Annotated[int, typer.Option("--days", metavar="N", help="After how many days it is destroyed, 7 to 1096.")],
    even_if_only_way_in: EvenIf = False,
) -> None:
    """Have a master key destroyed at a date: then nothing opens any more what it sealed, not even we.

    Until then it is of no use, and `kps kms key cancel-deletion` keeps it. A backup of the home made before can still bring it
    back, for who has the root key too: destroy those as well. Refused where it seals the private half of some login's only
    proved way in.
    """
    body = {"days": days, "even_if_only_way_in": even_if_only_way_in}
    async with session.client() as client:
        show_key(session, await client.take_life_step(key, "schedule-deletion", body))


@command(keys, "cancel-deletion", "kps kms key cancel-deletion orders")
async def cancel_deletion(session: Session, key: OneKey) -> None:
    """Keep a master key that was to be destroyed. It is disabled then; `kps kms key enable` lets it be used."""
    async with session.client() as client:
        show_key(session, await client.take_life_step(key, "cancel-deletion"))


@command(keys, "rotate", "kps kms key rotate orders")
async def rotate(session: Session, key: OneKey) -> None:
    """Give a master key its next version now. What the older ones have made still opens."""
    async with session.client() as client:
        show_key(session, await client.take_life_step(key, "rotate"))


@command(keys, "rotation", "kps kms key rotation orders --every 90", "kps kms key rotation orders --off")
async def rotation(
    session: Session,
    key: OneKey,
    *,
    every: Annotated[int | None, typer.Option("--every", metavar="DAYS", help="Rotate it every 30 to 365 days.")] = None,
    off: Annotated[bool, typer.Option("--off", metavar="", help="Rotate it by itself no more.")] = False,
) -> None:
    """Say how often a master key is rotated by itself, or that it is not; without options, show it. AES keys made here only."""
    if every is not None and off:
        raise usage("--every and --off exclude each other")
    async with session.client() as client:
        if off:
            show_key(session, await client.end_rotation(key))
        elif every is not None:
            show_key(session, await client.set_rotation(key, every))
        else:
            show_key(session, await client.master_key(key))


@command(keys, "tag", "kps kms key tag orders stage=prod team=shop")
async def tag(session: Session, key: OneKey, tags: TagWords) -> None:
    """Put tags on a master key, each in the place of one of its name. At most 20."""
    async with session.client() as client:
        found = await client.tag_master_key(key, inputs.labels(tags))
    if session.json:
        output.as_json(found)
    else:
        output.say(output.pairs(found))


@command(keys, "untag", "kps kms key untag orders team")
async def untag(
    session: Session, key: OneKey, names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of tags.")]
) -> None:
    """Take tags off a master key."""
    async with session.client() as client:
        await client.untag_master_key(key, names)
    if session.json:
        output.as_json({"key": key, "untagged": names})
    else:
        output.say(f"{key}: taken off: {' '.join(names)}")
