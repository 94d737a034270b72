"""What is done with key files and a private half beside binding it: kps keypair convert, decrypt-password."""

import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from controller.cli import inputs, options, output
from controller.cli.command import command
from controller.cli.custody import keypairs
from controller.cli.exits import Declined, of_status, usage
from controller.cli.keypairs import AllowWeak
from controller.cli.session import Session
from controller.model import KeyFormat, PublicFormat

__all__ = ["keypairs"]  # with these commands

Json = dict[str, Any]
# Both written out: typer takes no union of two.
Target = Literal["openssh", "pkcs8", "pem", "ppk2", "ppk3", "public", "rfc4716"]
Curve = Literal["secp256k1", "nistp256", "nistp384", "nistp521"]
PASSWORD_BYTES = 4096
PUBLIC: tuple[KeyFormat | PublicFormat, ...] = ("public", "rfc4716")


@command(
    keypairs,
    "convert",
    "kps keypair convert saved.pub --to public",
    "kps keypair convert ops.ppk --to openssh --passphrase-stdin --out ops < passphrase",
    "kps keypair convert scalar.hex --curve secp256k1 --to pkcs8 --out key.pem",
    "kps keypair convert old.pem --to ppk3 --passphrase-stdin --new-passphrase-stdin --out new.ppk < both",
    end="With both --passphrase-stdin and --new-passphrase-stdin stdin holds two lines: the passphrase of IN, then the new one.",
)
async def convert(
    session: Session,
    given: Annotated[Path, typer.Argument(metavar="IN", help="A key file, private or public, of any format that is read.")],
    *,
    to: Annotated[
        Target,
        typer.Option(
            "--to", metavar="FORMAT", help="openssh, pkcs8, pem, ppk2, ppk3; or public (the line of a .pub file), rfc4716."
        ),
    ],
    curve: Annotated[
        Curve | None,
        typer.Option(
            "--curve",
            metavar="CURVE",
            help="IN is nothing but a private number in hexadecimal, of secp256k1, nistp256, nistp384 or nistp521.",
        ),
    ] = None,
    passphrase_stdin: Annotated[
        bool, typer.Option("--passphrase-stdin", metavar="", help="Read the passphrase of IN from stdin.")
    ] = False,
    new_passphrase_stdin: Annotated[
        bool,
        typer.Option("--new-passphrase-stdin", metavar="", help="Encrypt what is written with a passphrase that stdin holds."),
    ] = False,
    comment: Annotated[str | None, typer.Option("--comment", metavar="TEXT", help="Instead of the comment that IN has.")] = None,
    allow_weak: AllowWeak = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it there, mode 0600; an existing file is refused.")
    ] = None,
) -> None:
    """Write a key file in another format. Nothing is stored, and no controller is asked.

    What is written has no passphrase unless --new-passphrase-stdin gives it one, whatever IN had.
    """
    if new_passphrase_stdin and to in PUBLIC:
        raise usage(f"--new-passphrase-stdin: {to} is a public key, which is never encrypted")
    from controller.errors import Invalid
    from controller.keyfiles import apart
    from controller.model import Secret

    text = Secret(bytearray(inputs.file_bytes(given, inputs.KEY_FILE_BYTES)))
    old = ["passphrase"] if passphrase_stdin else []
    words = inputs.new_passphrase(*old) if new_passphrase_stdin else inputs.secrets_from_stdin(old) if old else []
    with inputs.new_private_file(out) if out else contextlib.nullcontext() as fill:
        try:
            made = await apart.convert(
                text,
                to,
                curve=curve,
                passphrase=Secret(words[0]) if passphrase_stdin else None,
                new_passphrase=Secret(words[-1]) if new_passphrase_stdin else None,
                comment=comment,
                allow_weak=allow_weak,
            )
        except Invalid as refused:
            raise Declined(of_status(refused.status), refused.code, f"{given}: {refused.message}") from refused
        written = made.text.open().decode("utf-8")
        for used in (text, made.text):
            used.wipe()
        if fill:
            fill(written)
    public = made.public
    said: Json = {
        "type": made.type,
        "format": to,
        "fingerprint": public and public.fingerprint,
        "fingerprint_md5": public and public.fingerprint_md5,
        "encrypted": new_passphrase_stdin,
    }
    if session.json:
        output.as_json(said | ({"out": str(out)} if out else {"public_key" if to in PUBLIC else "private_key": written}))
        return
    if passphrase_stdin and not new_passphrase_stdin and to not in PUBLIC:
        output.say("note: what was written has no passphrase; --new-passphrase-stdin gives it one", errors=True)
    if out:
        output.say(f"{out}: {made.type}" + (f", {public.fingerprint}" if public else ""))
    else:
        output.write(written)


@command(keypairs, "decrypt-password", "kps keypair decrypt-password windows --in encrypted.txt")
async def decrypt_password(
    session: Session,
    name: options.OneKeypair,
    *,
    given: Annotated[
        Path, typer.Option("--in", metavar="FILE", help="The encrypted password in Base64, as a server's console shows it.")
    ],
) -> None:
    """Open a Windows administrator's password that was encrypted to a managed RSA key pair. It is recorded."""
    encrypted = inputs.file_text(given, PASSWORD_BYTES)
    from controller.client import Refused

    async with session.client() as client:
        try:
            password = await client.decrypt_password(name, encrypted)
        except Refused as refused:
            if refused.code != "password_unreadable":
                raise
            raise Declined(of_status(refused.status), refused.code, f"{given}: {refused.message}") from refused
    if session.json:
        output.as_json({"name": name, "password": password})
    else:
        output.write(password + "\n")
