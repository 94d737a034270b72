"""Signatures and message authentication codes: kps kms sign and the like."""

from pathlib import Path
from typing import Annotated

import typer

from controller.cli import output
from controller.cli.command import command
from controller.cli.exits import ALL_AS_ASKED, SOME_NOT
from controller.cli.kms.common import In, Key, Out, content, give, kms, to_file, travelling, unwrapped
from controller.cli.output import Known
from controller.cli.session import Session

Signing = Annotated[
    str,
    typer.Option(
        "--algorithm",
        metavar="NAME",
        help="RSASSA_PSS_SHA_256, RSASSA_PKCS1_V1_5_SHA_256 (each also 384, 512), ECDSA_SHA_256 (P-256), ECDSA_SHA_384 (P-384).",
    ),
]
Mac = Annotated[str, typer.Option("--algorithm", metavar="NAME", help="HMAC_SHA_256, _384, _512 or HMAC_SM3, as the key is.")]
Digest = Annotated[
    bool, typer.Option("--digest", metavar="", help="What is read is the digest of a message, as bytes, not the message.")
]


@command(
    kms,
    "sign",
    "kps kms sign --key releases --algorithm ECDSA_SHA_384 --in release.txt --out release.sig",
    "openssl dgst -sha384 -binary big.iso | kps kms sign --key releases --algorithm ECDSA_SHA_384 --digest",
)
async def sign(
    session: Session, *, key: Key, algorithm: Signing, in_: In = None, out: Out = None, digest: Digest = False
) -> None:
    """Sign a message of up to 4096 bytes, or the digest of a longer one.

    To a file the signature goes as OpenSSL reads it, to stdout as Base64.
    """
    body = {"message": travelling(content(in_)), "algorithm": algorithm, "message_type": "DIGEST" if digest else "RAW"}
    with to_file(out) as fill:
        async with session.client() as client:
            answer = await client.sign(key, body)
        give(session, answer, "signature", fill)


@command(
    kms, "verify", "kps kms verify --key releases --algorithm ECDSA_SHA_384 --in release.txt --signature release.sig"
)  # fmt: skip
async def verify(
    session: Session,
    *,
    key: Key,
    algorithm: Signing,
    signature: Annotated[Path, typer.Option("--signature", metavar="FILE", help="The signature, as bytes or as Base64.")],
    in_: In = None,
    digest: Digest = False,
) -> int:
    """Say whether a signature is this key's; ends with 1 where it is not. OpenSSL can do it with the public half."""
    body = {
        "message": travelling(content(in_)), "algorithm": algorithm, "message_type": "DIGEST" if digest else "RAW",
        "signature": travelling(unwrapped(content(signature))),
    }  # fmt: skip
    async with session.client() as client:
        return told(session, await client.verify(key, body), "signature")


@command(kms, "mac", "kps kms mac --key webhooks --algorithm HMAC_SHA_256 --in message")
async def mac(session: Session, *, key: Key, algorithm: Mac, in_: In = None, out: Out = None) -> None:
    """Make the message authentication code of 1 to 4096 bytes."""
    body = {"message": travelling(content(in_)), "algorithm": algorithm}
    with to_file(out) as fill:
        async with session.client() as client:
            answer = await client.make_code(key, body)
        give(session, answer, "mac", fill)


@command(kms, "verify-mac", "kps kms verify-mac --key webhooks --algorithm HMAC_SHA_256 --in message --mac message.mac")
async def verify_mac(
    session: Session,
    *,
    key: Key,
    algorithm: Mac,
    mac: Annotated[Path, typer.Option("--mac", metavar="FILE", help="The code, as bytes or as Base64.")],
    in_: In = None,
) -> int:
    """Say whether a message authentication code is this key's; ends with 1 where it is not."""
    body = {"message": travelling(content(in_)), "algorithm": algorithm, "mac": travelling(unwrapped(content(mac)))}
    async with session.client() as client:
        return told(session, await client.verify_code(key, body), "code")


def told(session: Session, answer: Known, what: str) -> int:
    """Print whether it is good, and return the exit code."""
    if session.json:
        output.as_json(answer)
    else:
        output.say(f"the {what} is good" if answer["valid"] else f"the {what} is NOT good")
    return ALL_AS_ASKED if answer["valid"] else SOME_NOT
