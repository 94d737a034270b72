"""Who may use this controller: kps user, access-key, quota, tenant."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from controller.cli import completion, output
from controller.cli.command import command, group
from controller.cli.exits import usage
from controller.cli.output import Known
from controller.cli.session import Session
from controller.model import QuotaName, Role, UserKind

Json = dict[str, Any]

users = group("The users of the tenant, and what they may do.", "kps user create alice --role operator", "kps user list")
access_keys = group(
    "Access keys: what users' programs sign requests with.", "kps access-key create --user alice", "kps access-key list"
)
quotas = group(
    "Quotas: how many key pairs and users there may be.", "kps quota show", "kps quota set private_keypairs 50 --user alice"
)
tenants = group("The tenants of this home. The users of one see nothing of another.", "kps tenant list")

NewName = Annotated[str, typer.Argument(metavar="NAME", help="What they are called.")]
OneUser = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", autocompletion=completion.users)]
OfUser = Annotated[
    str | None, typer.Option("--user", metavar="NAME", help="Whose; without it yours.", autocompletion=completion.users)
]
OneAccessKey = Annotated[
    str, typer.Argument(metavar="ACCESS_KEY", help="The access key's id.", autocompletion=completion.access_keys)
]
SourceNetwork = Annotated[
    list[str] | None,
    typer.Option(
        "--source-network",
        metavar="CIDR",
        help="They may ask from here only, as in 192.0.2.0/24. Repeat for more.",
        show_default=False,
    ),
]


# -- users


@command(
    users,
    "create",
    "kps user create alice",
    "kps user create scanner --role auditor --source-network 192.0.2.0/24",
    "kps user create bob --kind federated --external-id bob@idp.example",
)
async def create_user(
    session: Session,
    name: NewName,
    *,
    role: Annotated[
        Role,
        typer.Option(
            "--role", help="administrator: all of the tenant; operator: servers and key pairs; auditor: looks, and opens no key."
        ),
    ] = "operator",
    kind: Annotated[
        UserKind,
        typer.Option("--kind", help="A federated or delegated user owns no private key pair, and their access keys end."),
    ] = "local",
    external_id: Annotated[
        str | None,
        typer.Option("--external-id", metavar="ID", help="By which the identity provider knows a federated user."),
    ] = None,
    source_network: SourceNetwork = None,
) -> None:
    """Take a user in. What they ask with is made by `kps access-key create --user`."""
    request = {"name": name, "role": role, "kind": kind, "external_id": external_id, "source_networks": source_network or []}
    async with session.client() as client:
        show_user(session, await client.create_user(request))


@command(users, "list", "kps user list", "kps user list --json")
async def list_users(session: Session) -> None:
    """List the tenant's users, the disabled ones too."""
    async with session.client() as client:
        found = await client.users()
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "ROLE", "KIND", "ENABLED", "SOURCE NETWORKS", "SINCE"),
        [
            (
                one["name"],
                one["role"],
                one["kind"],
                yes(one["enabled"]),
                ", ".join(one["source_networks"]),
                output.seconds(one["created_at"]),
            )
            for one in found
        ],
    )


@command(users, "show", "kps user show alice", "kps user show alice --json")
async def show_one_user(session: Session, name: OneUser) -> None:
    """Show one user."""
    async with session.client() as client:
        show_user(session, await client.user(name))


@command(
    users,
    "set",
    "kps user set alice --role administrator",
    "kps user set alice --source-network 192.0.2.0/24 --source-network 2001:db8::/32",
    "kps user set alice --from-anywhere",
)
async def set_user(
    session: Session,
    name: OneUser,
    *,
    role: Annotated[Role | None, typer.Option("--role", help="What they may do from now on.")] = None,
    source_network: SourceNetwork = None,
    from_anywhere: Annotated[
        bool, typer.Option("--from-anywhere", metavar="", help="They may ask from every network again.")
    ] = False,
) -> None:
    """Change a user's role or source networks. The tenant's last administrator stays one."""
    if source_network and from_anywhere:
        raise usage("--source-network and --from-anywhere exclude each other")
    if role is None and not source_network and not from_anywhere:
        raise usage("say what is to change: --role, --source-network or --from-anywhere")
    changes: Json = {} if role is None else {"role": role}
    if source_network or from_anywhere:
        changes["source_networks"] = source_network or []
    async with session.client() as client:
        show_user(session, await client.change_user(name, changes))


@command(users, "disable", "kps user disable alice")
async def disable_user(session: Session, name: OneUser) -> None:
    """Refuse a user from now on. What is theirs stays, and their tasks under way go on."""
    async with session.client() as client:
        show_user(session, await client.change_user(name, {"enabled": False}))


@command(users, "enable", "kps user enable alice")
async def enable_user(session: Session, name: OneUser) -> None:
    """Let a disabled user in again."""
    async with session.client() as client:
        show_user(session, await client.change_user(name, {"enabled": True}))


@command(users, "delete", "kps user delete alice", "kps user delete alice --with-keypairs")
async def delete_user(
    session: Session,
    name: OneUser,
    *,
    with_keypairs: Annotated[
        bool,
        typer.Option("--with-keypairs", metavar="", help="With their private key pairs, if none of them is bound somewhere."),
    ] = False,
) -> None:
    """Delete a user and their access keys. Refused while they own private key pairs, or a task of theirs runs.

    What they made for the account stays.
    """
    async with session.client() as client:
        done = await client.delete_user(name, with_keypairs=with_keypairs)
    if session.json:
        output.as_json(done | {"deleted": True})
    else:
        gone = f", with {', '.join(done['keypairs'])}" if done["keypairs"] else ""
        output.say(f"{name} is deleted{gone}")


# -- access keys


@command(access_keys, "create", "kps access-key create", "kps access-key create --user alice --days 90")
async def create_access_key(
    session: Session,
    *,
    user: OfUser = None,
    days: Annotated[
        int | None, typer.Option("--days", metavar="N", min=1, max=3650, help="It ends by itself after so many days.")
    ] = None,
) -> None:
    """Make an access key, two for each user at most. Its secret is shown now and never again."""
    async with session.client() as client:
        given_out(session, await client.create_access_key({"user": user, "days": days}))


@command(access_keys, "list", "kps access-key list", "kps access-key list --user alice")
async def list_access_keys(session: Session, *, user: OfUser = None) -> None:
    """List access keys: a user's, or without --user all that you may see."""
    async with session.client() as client:
        found = await client.access_keys(user)
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("ACCESS KEY", "USER", "ENABLED", "SINCE", "ENDS", "LAST USED"),
        [
            (
                one["access_key"],
                one["user"],
                yes(one["enabled"]),
                output.seconds(one["created_at"]),
                output.seconds(one["expires_at"]),
                output.seconds(one["last_used_at"]),
            )
            for one in found
        ],
        empty="no access keys; `kps access-key create` makes one",
        whole="ACCESS KEY",
    )


@command(
    access_keys,
    "rotate",
    "kps access-key rotate AKIEXAMPLEEXAMPLE001",
    "kps access-key rotate AKIEXAMPLEEXAMPLE001 --beside-hours 0",
)
async def rotate_access_key(
    session: Session,
    access_key: OneAccessKey,
    *,
    beside_hours: Annotated[
        int, typer.Option("--beside-hours", metavar="N", min=0, max=720, help="The old one goes on for so many hours.")
    ] = 24,
) -> None:
    """Make an access key in the place of one; both work for a while. The new secret is shown now and never again."""
    async with session.client() as client:
        given_out(session, await client.rotate_access_key(access_key, beside_hours))


@command(access_keys, "disable", "kps access-key disable AKIEXAMPLEEXAMPLE001")
async def disable_access_key(session: Session, access_key: OneAccessKey) -> None:
    """Refuse an access key from now on."""
    async with session.client() as client:
        show_access_key(session, await client.enable_access_key(access_key, enabled=False))


@command(access_keys, "enable", "kps access-key enable AKIEXAMPLEEXAMPLE001")
async def enable_access_key(session: Session, access_key: OneAccessKey) -> None:
    """Take a disabled access key again."""
    async with session.client() as client:
        show_access_key(session, await client.enable_access_key(access_key, enabled=True))


@command(access_keys, "delete", "kps access-key delete AKIEXAMPLEEXAMPLE001")
async def delete_access_key(session: Session, access_key: OneAccessKey) -> None:
    """Delete an access key. The home's owner keeps one."""
    async with session.client() as client:
        await client.delete_access_key(access_key)
    if session.json:
        output.as_json({"access_key": access_key, "deleted": True})
    else:
        output.say(f"{access_key} is deleted")


# -- quotas


@command(quotas, "show", "kps quota show", "kps quota show --user alice")
async def show_quotas(session: Session, *, user: OfUser = None) -> None:
    """Show how much there may be, and how much there is: in the tenant, or with --user of a user's own."""
    async with session.client() as client:
        show_usage(session, await client.quotas(user))


@command(
    quotas,
    "set",
    "kps quota set account_keypairs 500",
    "kps quota set private_keypairs 50 --user alice",
    "kps quota set private_keypairs --default",
)
async def set_quota(
    session: Session,
    name: Annotated[
        QuotaName, typer.Argument(metavar="QUOTA", help="private_keypairs (of each user), account_keypairs or users.")
    ],
    limit: Annotated[int | None, typer.Argument(metavar="[N]", help="The most there may be.", min=0, max=1_000_000)] = None,
    *,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="For this user alone.", autocompletion=completion.users),
    ] = None,
    default: Annotated[bool, typer.Option("--default", metavar="", help="What holds where nothing is set, again.")] = False,
) -> None:
    """Set a quota. What there is more of already stays."""
    if (limit is None) != default:
        raise usage("give a number, or --default")
    async with session.client() as client:
        show_usage(session, await client.set_quota(name, limit, user))


# -- tenants


@command(tenants, "create", "kps tenant create acme", "kps tenant create acme --administrator alice")
async def create_tenant(
    session: Session,
    name: NewName,
    *,
    administrator: Annotated[
        str, typer.Option("--administrator", metavar="NAME", help="What its first administrator is called.")
    ] = "administrator",
) -> None:
    """Make a tenant with a project and an administrator, whose secret key is shown now and never again. For the home's owner."""
    async with session.client() as client:
        made = await client.create_tenant(name, administrator)
    if session.json:
        output.as_json(made)
        return
    output.facts(
        {
            "tenant": made["name"],
            "id": made["id"],
            "project": ", ".join(made["projects"]),
            "administrator": made["administrator"],
            "access key": made["access_key"],
            "secret key": made["secret_key"],
        }
    )
    output.say("Keep the secret key now: it is not shown again.")


@command(tenants, "list", "kps tenant list", "kps tenant list --json")
async def list_tenants(session: Session) -> None:
    """List the tenants of this home."""
    async with session.client() as client:
        found = await client.tenants()
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "ID", "PROJECTS", "ACCOUNT KEY PAIRS SINCE"),
        [(one["name"], one["id"], ", ".join(one["projects"]), output.seconds(one["account_keypairs_since"])) for one in found],
        whole="ID",
    )


@command(tenants, "set", "kps tenant set --v3-accept-lockout", "kps tenant set --no-v3-accept-lockout")
async def set_tenant(
    session: Session,
    *,
    v3_accept_lockout: Annotated[
        bool,
        typer.Option(
            "--v3-accept-lockout", metavar="", help="A v3 call that turns password login off may lock other logins out."
        ),
    ] = False,
    no_v3_accept_lockout: Annotated[
        bool, typer.Option("--no-v3-accept-lockout", metavar="", help="It is refused then, as it is at first.")
    ] = False,
) -> None:
    """Change what your own tenant lets calls of the v3 API do. For its administrators.

    Such a call has no way to name the logins that have nothing but a password, so where there are any it is refused
    (others_locked_out). Where it is let do it, whom it locks out is in its task.
    """
    if v3_accept_lockout == no_v3_accept_lockout:
        raise usage("say one: --v3-accept-lockout or --no-v3-accept-lockout")
    async with session.client() as client:
        changed = await client.change_tenant({"v3_accepts_lockout": v3_accept_lockout})
    if session.json:
        output.as_json(changed)
        return
    may = "may lock other logins out" if changed["v3_accepts_lockout"] else "lock nobody out"
    output.say(f"{changed['name']}: calls of the v3 API {may}")


@command(tenants, "access-key", "kps tenant access-key acme")
async def rescue_tenant(
    session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="The tenant's name.")]
) -> None:
    """Give a tenant's administrator another access key, where theirs is lost: all that they have end. For the home's owner."""
    async with session.client() as client:
        given_out(session, await client.rescue_tenant(name))


def yes(value: bool) -> str:
    """Return a truth as a table says it."""
    return "yes" if value else "no"


def show_user(session: Session, user: Known) -> None:
    """Print one user."""
    if session.json:
        output.as_json(user)
        return
    output.facts(
        {
            "name": user["name"],
            "role": user["role"],
            "kind": user["kind"],
            "enabled": yes(user["enabled"]),
            "source networks": ", ".join(user["source_networks"]) or "everywhere",
            "created": output.seconds(user["created_at"]),
            "id": user["id"],
        }
        | ({"external id": user["external_id"]} if user["external_id"] else {})
    )


def given_out(session: Session, made: Known) -> None:
    """Print an access key with its secret."""
    show_access_key(session, made)
    if not session.json:
        output.say("Keep the secret key now: it is not shown again.")


def show_access_key(session: Session, key: Known) -> None:
    """Print one access key."""
    if session.json:
        output.as_json(key)
        return
    output.facts(
        {"access key": key["access_key"]}
        | ({"secret key": key["secret_key"]} if "secret_key" in key else {})
        | {
            "user": key["user"],
            "project": key["project_id"],
            "enabled": yes(key["enabled"]),
            "created": output.seconds(key["created_at"]),
            "ends": output.seconds(key["expires_at"]),
            "last used": output.seconds(key["last_used_at"]),
        }
    )


def show_usage(session: Session, found: Sequence[Known]) -> None:
    """Print quotas."""
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("QUOTA", "USED", "LIMIT", ""),
        [(one["name"], one["used"], one["limit"], "" if one["set"] else "default") for one in found],
    )
