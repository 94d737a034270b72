"""Material that is brought for a customer master key, and the public half that goes out: kps kms key import and the like."""

import base64
import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from controller.cli import output
from controller.cli.command import command
from controller.cli.exits import usage
from controller.cli.kms.common import EvenIf, OneKey, Out, content, show_key, to_file, travelling, unwrapped
from controller.cli.kms.keys import keys
from controller.cli.session import Session

IMPORT = (
    "For AES and HMAC keys the material itself is encrypted, by OAEP with SHA-256: openssl pkeyutl -encrypt -pubin -keyform DER "
    "-inkey public.der -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha256 -in material -out "
    "material.enc. For RSA and EC keys that is a temporary AES key of 32 bytes, and the private key (PKCS#8 in DER) goes under "
    "it: openssl enc -id-aes256-wrap-pad -iv A65959A6 -K HEX -in private.der -out private.enc."
)


@command(
    keys,
    "import-parameters",
    "kps kms key import-parameters ours --public-key public.der --token token.bin",
)
async def import_parameters(
    session: Session,
    key: OneKey,
    *,
    public_key: Annotated[
        Path, typer.Option("--public-key", metavar="FILE", help="Write the public key there that encrypts the material, in DER.")
    ],
    token: Annotated[Path, typer.Option("--token", metavar="FILE", help="Write the token there that goes with the material.")],
) -> None:
    """Get what is needed to import material into an external key. Both are good for a day."""
    with to_file(public_key) as fill_key, to_file(token) as fill_token:
        async with session.client() as client:
            given = await client.import_parameters(key)
        fill_key(base64.b64decode(given["public_key"]))
        fill_token(base64.b64decode(given["token"]))
    if session.json:
        output.as_json(given)
    else:
        output.say(f"the material may come until {output.seconds(given['expires_at'])}; `kps kms key import --help` says how")


@command(keys, "import", "kps kms key import ours --token token.bin --material material.enc", end=IMPORT)
async def import_(
    session: Session,
    key: OneKey,
    *,
    token: Annotated[Path, typer.Option("--token", metavar="FILE", help="The token, as import-parameters wrote it.")],
    material: Annotated[
        Path, typer.Option("--material", metavar="FILE", help="The material, encrypted; of RSA and EC keys a temporary AES key.")
    ],
    private_key: Annotated[
        Path | None, typer.Option("--private-key", metavar="FILE", help="Of RSA and EC keys: the private key under that.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", help="When it is taken away again, as 2030-01-31T12:00Z; else never."),
    ] = None,
) -> None:
    """Import material into an external key, and enable it. Where it had material before, only the same comes back."""
    body = {
        "token": travelling(unwrapped(content(token))),
        "material": travelling(unwrapped(content(material))),
        "private_key": None if private_key is None else travelling(unwrapped(content(private_key))),
        "expires_at": None if expires is None else instant(expires),
    }
    async with session.client() as client:
        show_key(session, await client.take_life_step(key, "material", body))


@command(keys, "delete-material", "kps kms key delete-material ours")
async def delete_material(session: Session, key: OneKey, *, even_if_only_way_in: EvenIf = False) -> None:
    """Take imported material away for good: nothing opens until the same material is imported again.

    Refused where the key seals the private half of some login's only proved way in.
    """
    async with session.client() as client:
        show_key(session, await client.take_life_step(key, "delete-material", {"even_if_only_way_in": even_if_only_way_in}))


@command(keys, "public-key", "kps kms key public-key releases > releases.pem")
async def public_key(session: Session, key: OneKey, *, out: Out = None) -> None:
    """Print the public half of an RSA or EC key as PEM, for encrypting and verifying without us."""
    with to_file(out) as fill:
        async with session.client() as client:
            found = await client.public_half(key)
        if fill:
            fill(found["public_key"].encode("ascii"))
    if session.json:
        output.as_json(found)
    elif not fill:
        output.write(found["public_key"])


def instant(text: str) -> str:
    """Return a time as RFC 3339; in UTC where no zone is said."""
    with contextlib.suppress(ValueError):
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()
    raise usage(f"--expires {text}: give a time as in 2030-01-31T12:00Z")
