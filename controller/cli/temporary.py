"""What users are given for a while: kps temporary-key, kps token."""

from typing import Annotated, Any

import typer

from controller.cli import completion, durations, output
from controller.cli.command import command, group
from controller.cli.session import Session

Json = dict[str, Any]

temporary_keys = group(
    "Temporary access keys: for programs that are to ask for a while, with a security token.",
    "kps temporary-key create --for 1h",
    "kps temporary-key list",
)
tokens = group(
    "Tokens: what is shown in the place of a signature, by whoever cannot sign (X-Auth-Token).",
    "kps token create --for 8h",
    "kps token list",
)

OfUser = Annotated[
    str | None, typer.Option("--user", metavar="NAME", help="Whose; without it yours.", autocompletion=completion.users)
]
ListedOf = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", help="Only theirs; without it all that you may see.", autocompletion=completion.users),
]


@command(
    temporary_keys,
    "create",
    "kps temporary-key create --for 1h",
    "kps temporary-key create AKIEXAMPLEEXAMPLE001 --for 15m",
)
async def create_temporary_key(
    session: Session,
    access_key: Annotated[
        str | None,
        typer.Argument(
            metavar="[ACCESS_KEY]",
            help="The access key that it stands on; without it yours.",
            autocompletion=completion.access_keys,
        ),
    ] = None,
    *,
    lasting: Annotated[str, typer.Option("--for", metavar="TIME", help="It ends after this time: 1m to 24h.")] = "1h",
) -> None:
    """Make a temporary access key. It ends after its time, and with the access key that it stands on.

    Secret key and security token are shown now and never again.
    """
    async with session.client() as client:
        made = await client.create_temporary_key({"access_key": access_key, "seconds": durations.seconds("--for", lasting)})
    if session.json:
        output.as_json(made)
        return
    output.facts(
        {
            "access key": made["access_key"],
            "secret key": made["secret_key"],
            "security token": made["security_token"],
            "user": made["user"],
            "project": made["project_id"],
            "stands on": made["parent"],
            "ends": output.seconds(made["expires_at"]),
        }
    )
    output.say("Keep the secret key and the security token now: they are not shown again.")


@command(temporary_keys, "list", "kps temporary-key list", "kps temporary-key list --user alice")
async def list_temporary_keys(session: Session, *, user: ListedOf = None) -> None:
    """List the temporary access keys that have not ended."""
    async with session.client() as client:
        found = await client.temporary_keys(user)
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("ACCESS KEY", "USER", "STANDS ON", "SINCE", "ENDS"),
        [
            (one["access_key"], one["user"], one["parent"], output.seconds(one["created_at"]), output.seconds(one["expires_at"]))
            for one in found
        ],
        empty="no temporary access keys; `kps temporary-key create` makes one",
        whole="ACCESS KEY",
    )


@command(temporary_keys, "revoke", "kps temporary-key revoke AKIEXAMPLEEXAMPLE002")
async def revoke_temporary_key(
    session: Session, access_key: Annotated[str, typer.Argument(metavar="ACCESS_KEY", help="The temporary access key's id.")]
) -> None:
    """End a temporary access key now."""
    async with session.client() as client:
        await client.revoke_temporary_key(access_key)
    if session.json:
        output.as_json({"access_key": access_key, "revoked": True})
    else:
        output.say(f"{access_key} is revoked")


@command(tokens, "create", "kps token create --for 8h", "kps token create --user alice --for 7d --description 'nightly report'")
async def create_token(
    session: Session,
    *,
    user: OfUser = None,
    lasting: Annotated[str, typer.Option("--for", metavar="TIME", help="It ends after this time: 1m to 30d.")] = "24h",
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is for.")] = "",
) -> None:
    """Make a token. Whoever shows it is its user. It is shown now and never again."""
    async with session.client() as client:
        made = await client.create_token(
            {"user": user, "seconds": durations.seconds("--for", lasting), "description": description}
        )
    if session.json:
        output.as_json(made)
        return
    output.facts(
        {
            "token": made["token"],
            "id": made["id"],
            "user": made["user"],
            "project": made["project_id"],
            "ends": output.seconds(made["expires_at"]),
        }
    )
    output.say("Keep the token now: it is not shown again.")


@command(tokens, "list", "kps token list", "kps token list --user alice")
async def list_tokens(session: Session, *, user: ListedOf = None) -> None:
    """List the tokens that have not ended. The tokens themselves are kept nowhere."""
    async with session.client() as client:
        found = await client.tokens(user)
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("ID", "USER", "FOR", "SINCE", "ENDS", "LAST USED"),
        [
            (
                one["id"],
                one["user"],
                one["description"],
                output.seconds(one["created_at"]),
                output.seconds(one["expires_at"]),
                output.seconds(one["last_used_at"]),
            )
            for one in found
        ],
        empty="no tokens; `kps token create` makes one",
        whole="ID",
    )


@command(tokens, "revoke", "kps token revoke 0123456789abcdef0123456789abcdef")
async def revoke_token(session: Session, token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id.")]) -> None:
    """End a token now."""
    async with session.client() as client:
        await client.revoke_token(token_id)
    if session.json:
        output.as_json({"id": token_id, "revoked": True})
    else:
        output.say(f"token {token_id} is revoked")
