"""Key pairs: kps keypair."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.cli import inputs, options, output
from controller.cli.command import command, group
from controller.cli.exits import Declined, of_status, usage
from controller.cli.output import Known
from controller.cli.session import Session
from controller.model import KeyFormat, KeyType, Scope

if TYPE_CHECKING:
    from controller.answers import MadeKeypair
    from controller.client import AsyncKpsClient

Json = dict[str, Any]
ABOUT_A_FILE = frozenset({"public_key_unreadable", "private_key_unreadable", "passphrase_wrong", "key_mismatch", "key_weak"})

keypairs = group(
    "Key pairs; the private half of a managed one is kept here, encrypted.",
    "kps keypair create ops",
    "kps keypair list",
)

NewName = Annotated[str, typer.Argument(metavar="NAME", help="What the key pair is called.")]
ScopeOption = Annotated[Scope, typer.Option("--scope", help="private: for you alone; account: for everyone in the tenant.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Write the private key there, mode 0600; an existing file is refused."),
]


AllowWeak = Annotated[bool, typer.Option("--allow-weak", metavar="", help="Take RSA of less than 2048 bits, too.")]


@command(
    keypairs,
    "create",
    "kps keypair create ops",
    "kps keypair create legacy --type rsa-3072 --out ~/.ssh/legacy",
    "kps keypair create mine --unmanaged --out ~/.ssh/mine",
)
async def create(
    session: Session,
    name: NewName,
    *,
    type_: Annotated[KeyType, typer.Option("--type", help="The kind of key.")] = "ed25519",
    scope: ScopeOption = "private",
    unmanaged: Annotated[
        bool, typer.Option("--unmanaged", metavar="", help="Do not keep the private half: it is given out now and never again.")
    ] = False,
    out: Out = None,
    master_key: options.MasterKey = None,
) -> None:
    """Make a key pair. The private half is kept here unless --unmanaged says otherwise.

    An unmanaged key pair's private half goes to --out, else to stdout (with --json it is the field private_key, which is
    null with --out). Where it cannot be given out, there is no key pair.
    """
    request: Json = {"name": name, "type": type_, "scope": scope, "managed": not unmanaged}
    if master_key is not None:
        if unmanaged:
            raise usage("--master-key seals what is kept here; it does not go with --unmanaged")
        request["master_key"] = master_key
    with inputs.new_private_file(out) if out else contextlib.nullcontext() as fill:
        async with session.client() as client, made_or_not(client, request) as made:
            if fill:
                fill(made["private_key"] if unmanaged else await client.export_keypair(name))
            elif unmanaged:
                give(session, made)
                return
    if session.json:
        output.as_json({**made, "private_key": None} if unmanaged else made)
    else:
        show(made)


def give(session: Session, made: Known) -> None:
    """Print a key pair and its private half, which is nowhere else."""
    if session.json:
        output.as_json(made)
        return
    # Stdout holds the private key and nothing else, so that it can be redirected.
    show(made, errors=True)
    output.say("The private key is on stdout, this once; it is not kept here.", errors=True)
    output.write(made["private_key"])


@contextlib.asynccontextmanager
async def made_or_not(client: "AsyncKpsClient", request: Json) -> AsyncIterator["MadeKeypair"]:
    """Give the key pair that was asked for; if the block does not come to its end, there is none."""
    from controller.client import NotTrusted, Refused, Unreachable

    name = request["name"]
    asking = asyncio.ensure_future(client.create_keypair(request))
    try:
        # An interruption waits for the answer: without it nobody knows whether there is something to take back.
        made = await asyncio.shield(asking)
        yield made
    except BaseException:
        try:
            await asking
        except (Refused, NotTrusted):
            raise  # there is none of ours
        except Unreachable as lost:
            raise Unreachable(
                f"{lost}; if `kps keypair show {name}` finds it, delete it: its private half came nowhere"
            ) from lost
        try:
            await client.delete_keypair(name)
        except (Refused, Unreachable) as kept:
            told = f"kps: {name} was made and could not be taken back: `kps keypair delete {name}`; {kept}"
            output.say(told, errors=True)
        raise


@command(
    keypairs,
    "import",
    "kps keypair import alice --public-key ~/.ssh/id_ed25519.pub",
    "kps keypair import ops --private-key ops.ppk --passphrase-stdin < passphrase",
)
async def import_(
    session: Session,
    name: NewName,
    *,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", metavar="FILE", help="The public half alone: a line, RFC 4716 or PEM; unmanaged."),
    ] = None,
    private_key: Annotated[
        Path | None,
        typer.Option("--private-key", metavar="FILE", help="OpenSSH, PEM, PKCS#8 or .ppk; kept here, encrypted: managed."),
    ] = None,
    scope: ScopeOption = "private",
    passphrase_stdin: Annotated[
        bool, typer.Option("--passphrase-stdin", metavar="", help="Read the passphrase of --private-key from stdin.")
    ] = False,
    master_key: options.MasterKey = None,
    allow_weak: AllowWeak = False,
) -> None:
    """Take in a key pair that exists: the public half alone, or the private half and with it both."""
    if not public_key and not private_key:
        raise usage("give --public-key FILE or --private-key FILE")
    if passphrase_stdin and not private_key:
        raise usage("--passphrase-stdin goes with --private-key")
    if master_key is not None and not private_key:
        raise usage("--master-key goes with --private-key")
    request: Json = {"name": name, "scope": scope} | ({} if master_key is None else {"master_key": master_key})
    if allow_weak:
        request["allow_weak"] = True
    if public_key:
        request["public_key"] = inputs.public_key(public_key)
    if private_key:
        request["private_key"] = inputs.private_key(private_key)
    if passphrase_stdin:
        request["passphrase"] = inputs.secret_from_stdin("passphrase")
    async with session.client() as client:
        with about_the_file(private_key, public_key):
            made = await client.import_keypair(request)
    if session.json:
        output.as_json(made)
        return
    show(made)
    for warning in made["warnings"]:
        output.say(f"warning: {warning}", errors=True)


@contextlib.contextmanager
def about_the_file(private_key: Path | None, public_key: Path | None = None) -> Iterator[None]:
    """Name the file where the block is refused for what is in one."""
    from controller.client import Refused

    try:
        yield
    except Refused as refused:
        blamed = {"public_key_unreadable": public_key}.get(refused.code, private_key or public_key)
        if refused.code not in ABOUT_A_FILE or blamed is None:
            raise
        raise Declined(of_status(refused.status), refused.code, f"{blamed}: {refused.message}") from refused


@command(keypairs, "list", "kps keypair list", "kps keypair list --json")
async def list_(session: Session) -> None:
    """List the key pairs that you may use."""
    async with session.client() as client:
        found = await client.keypairs()
    if session.json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "TYPE", "SCOPE", "MANAGED", "FINGERPRINT"),
        [(one["name"], one["type"], one["scope"], "yes" if one["managed"] else "no", one["fingerprint"]) for one in found],
        empty="no key pairs yet; `kps keypair create` makes one",
        whole="FINGERPRINT",
    )


@command(keypairs, "show", "kps keypair show ops", "kps keypair show ops --json")
async def show_(session: Session, name: options.OneKeypair) -> None:
    """Show one key pair with its public key."""
    async with session.client() as client:
        found = await client.keypair(name)
    if session.json:
        output.as_json(found)
    else:
        show(found)


@command(
    keypairs,
    "export",
    "kps keypair export ops --out ~/.ssh/ops",
    "kps keypair export ops | ssh-add -",
    "kps keypair export ops --format ppk3 --passphrase-stdin --out ops.ppk < passphrase",
)
async def export(
    session: Session,
    name: options.OneKeypair,
    *,
    form: Annotated[
        KeyFormat,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="openssh, pkcs8, pem (the traditional one, which ed25519 does not have), ppk2 or ppk3 (PuTTY's).",
        ),
    ] = "openssh",
    passphrase_stdin: Annotated[
        bool, typer.Option("--passphrase-stdin", metavar="", help="Encrypt the file with a passphrase that stdin holds.")
    ] = False,
    out: Out = None,
) -> None:
    """Give out the private half of a managed key pair: to a file of mode 0600, else to stdout. It is recorded."""
    request: Json = {"format": form}
    if passphrase_stdin:
        request["passphrase"] = inputs.new_passphrase()[0]
    with inputs.new_private_file(out) if out else contextlib.nullcontext() as fill:
        async with session.client() as client:
            private = await client.export_keypair(name, request)
        if fill:
            fill(private)
    if session.json:
        output.as_json({"name": name} | ({"out": str(out)} if out else {"private_key": private}))
    elif out:
        output.say(f"{name}: the private key is in {out}")
    else:
        output.write(private)


@command(keypairs, "upgrade", "kps keypair upgrade ops")
async def upgrade(session: Session, name: options.OneKeypair) -> None:
    """Make a private key pair of yours one of the account: everyone in the tenant may use it from now on.

    There is no way back. The tenant's first account key pair is an administrator's to make; after that operators may.
    """
    async with session.client() as client:
        found = await client.upgrade_keypair(name)
    if session.json:
        output.as_json(found)
    else:
        show(found)


@command(keypairs, "delete", "kps keypair delete ops")
async def delete(session: Session, name: options.OneKeypair) -> None:
    """Delete a key pair and its private half. Refused while it is bound somewhere."""
    async with session.client() as client:
        await client.delete_keypair(name)
    if session.json:
        output.as_json({"name": name, "deleted": True})
    else:
        output.say(f"{name} is deleted")


def show(keypair: Known, *, errors: bool = False) -> None:
    """Print one key pair, without its private half."""
    output.facts(
        {
            "name": keypair["name"],
            "type": keypair["type"],
            "scope": keypair["scope"],
            "managed": "yes" if keypair["managed"] else "no",
            "master key": keypair["master_key_id"],
            "fingerprint": keypair["fingerprint"],
            "md5": keypair["fingerprint_md5"],
            **({"warning": "; ".join(keypair["warnings"])} if keypair["warnings"] else {}),
            "created": output.seconds(keypair["created_at"]),
            "public key": keypair["public_key"],
        },
        errors=errors,
    )
