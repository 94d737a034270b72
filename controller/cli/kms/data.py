"""Encrypting and decrypting, and data keys: kps kms encrypt and the like."""

import base64
import hashlib
from typing import Annotated

import typer

from controller.cli import output
from controller.cli.command import command
from controller.cli.kms.common import AdditionalData, In, Key, Out, content, give, kms, to_file, travelling, unwrapped
from controller.cli.session import Session

OUTPUT = (
    "Without --out the result is printed: ciphertexts as Base64, plaintexts as they are. A ciphertext may come in either way."
)
Algorithm = Annotated[
    str | None, typer.Option("--algorithm", metavar="NAME", help="SYMMETRIC_DEFAULT or RSAES_OAEP_SHA_256; else the key's own.")
]
MaybeKey = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="The key, where the ciphertext does not say it itself: of RSA keys."),
]
WithoutPlaintext = Annotated[
    bool, typer.Option("--without-plaintext", metavar="", help="Give the sealed one only; it is opened when it is needed.")
]


@command(
    kms,
    "encrypt",
    "kps kms encrypt --key orders --in secret.txt --out secret.bin",
    "kps kms encrypt --key orders < secret.txt",
    end=OUTPUT,
)
async def encrypt(
    session: Session,
    *,
    key: Key,
    in_: In = None,
    out: Out = None,
    additional_data: AdditionalData = "",
    algorithm: Algorithm = None,
) -> None:
    """Encrypt up to 4096 bytes under a master key.

    The ciphertext of an AES key says itself which key and version made it, and has 124 bytes more than the plaintext, filled up
    to 16.
    """
    body = {"plaintext": travelling(content(in_)), "additional_data": travelling(additional_data), "algorithm": algorithm}
    with to_file(out) as fill:
        async with session.client() as client:
            answer = await client.encrypt(key, body)
        give(session, answer, "ciphertext", fill)


@command(
    kms, "decrypt", "kps kms decrypt --in secret.bin", "kps kms decrypt --key rsa --in from-openssl.bin", end=OUTPUT
)  # fmt: skip
async def decrypt(
    session: Session,
    *,
    key: MaybeKey = None,
    in_: In = None,
    out: Out = None,
    additional_data: AdditionalData = "",
    algorithm: Algorithm = None,
) -> None:
    """Decrypt what was encrypted under a master key."""
    body = {
        "ciphertext": travelling(unwrapped(content(in_))), "additional_data": travelling(additional_data), "key": key,
        "algorithm": algorithm,
    }  # fmt: skip
    with to_file(out) as fill:
        async with session.client() as client:
            answer = await client.decrypt(body)
        give(session, answer, "plaintext", fill, raw=True)


@command(kms, "re-encrypt", "kps kms re-encrypt --to orders-2 --in secret.bin --out moved.bin", end=OUTPUT)
async def re_encrypt(
    session: Session,
    *,
    to: Annotated[str, typer.Option("--to", metavar="KEY", help="The master key to encrypt under from now on.")],
    key: MaybeKey = None,
    in_: In = None,
    out: Out = None,
    additional_data: AdditionalData = "",
    new_additional_data: Annotated[
        str | None, typer.Option("--new-additional-data", metavar="TEXT", help="Other additional data from now on.")
    ] = None,
) -> None:
    """Encrypt anew under another master key; the plaintext is shown to nobody. A data key stays a data key."""
    body = {
        "ciphertext": travelling(unwrapped(content(in_))),
        "destination": to,
        "source": key,
        "source_additional_data": travelling(additional_data),
        "additional_data": travelling(additional_data if new_additional_data is None else new_additional_data),
    }
    with to_file(out) as fill:
        async with session.client() as client:
            answer = await client.re_encrypt(body)
        give(session, answer, "ciphertext", fill)


@command(kms, "create-data-key", "kps kms create-data-key --key orders --bits 512", "kps kms create-data-key --key orders --json")
async def create_data_key(
    session: Session,
    *,
    key: Key,
    bits: Annotated[int, typer.Option("--bits", metavar="N", help="How long it is: 8 to 8192, whole bytes.")] = 256,
    additional_data: AdditionalData = "",
    without_plaintext: WithoutPlaintext = False,
) -> None:
    """Make a data key: with it you encrypt as much as you like, and keep it sealed beside that.

    Printed are two lines of Base64: the sealed data key, and the data key itself.
    """
    body = {"bits": bits, "additional_data": travelling(additional_data), "with_plaintext": not without_plaintext}
    async with session.client() as client:
        answer = await client.create_data_key(key, body)
    if session.json:
        output.as_json(answer)
    else:
        output.write(answer["ciphertext"] + "\n" + (answer["plaintext"] + "\n" if "plaintext" in answer else ""))


@command(kms, "encrypt-data-key", "kps kms encrypt-data-key --key orders --in data.key --out data.key.enc", end=OUTPUT)
async def encrypt_data_key(
    session: Session, *, key: Key, in_: In = None, out: Out = None, additional_data: AdditionalData = ""
) -> None:
    """Seal a data key of your own, 1 to 1024 bytes as they are in the file."""
    found = content(in_)
    digest = hashlib.sha256(found).digest()
    body = {
        "plaintext": travelling(found), "digest": travelling(digest), "length": len(found),
        "additional_data": travelling(additional_data),
    }  # fmt: skip
    with to_file(out) as fill:
        async with session.client() as client:
            answer = await client.encrypt_data_key(key, body)
        give(session, answer, "ciphertext", fill)


@command(kms, "decrypt-data-key", "kps kms decrypt-data-key --key orders --in data.key.enc --out data.key", end=OUTPUT)
async def decrypt_data_key(
    session: Session, *, key: Key, in_: In = None, out: Out = None, additional_data: AdditionalData = ""
) -> None:
    """Open a sealed data key."""
    body = {"ciphertext": travelling(unwrapped(content(in_))), "additional_data": travelling(additional_data)}
    with to_file(out) as fill:
        async with session.client() as client:
            answer = await client.decrypt_data_key(key, body)
        give(session, answer, "plaintext", fill, raw=True)


@command(kms, "create-data-key-pair", "kps kms create-data-key-pair --key orders --spec ECC_NIST_P256")
async def create_data_key_pair(
    session: Session,
    *,
    key: Key,
    spec: Annotated[
        str,
        typer.Option(
            "--spec",
            metavar="SPEC",
            help="RSA_2048, RSA_3072, RSA_4096, ECC_NIST_P256, ECC_NIST_P384, ECC_NIST_P521 or ECC_SECG_P256K1.",
        ),
    ],
    additional_data: AdditionalData = "",
    without_plaintext: WithoutPlaintext = False,
) -> None:
    """Make a key pair for yourself, its private half sealed under a master key; `kps kms decrypt` opens that.

    Printed are lines of Base64: the public half (DER), the sealed private half, and the private half itself (PKCS#8 in DER).
    """
    body = {"spec": spec, "additional_data": travelling(additional_data), "with_plaintext": not without_plaintext}
    async with session.client() as client:
        answer = await client.create_data_key_pair(key, body)
    if session.json:
        output.as_json(answer)
    else:
        fields = [name for name in ("public_key", "ciphertext", "private_key") if name in answer]
        output.write("".join(answer[name] + "\n" for name in fields))


@command(kms, "random", "kps kms random", "kps kms random --bits 256 --out key.bin")
async def random(
    session: Session,
    *,
    bits: Annotated[int, typer.Option("--bits", metavar="N", help="How many: 8 to 8192, whole bytes.")] = 512,
    out: Out = None,
) -> None:
    """Print random bits in hexadecimal, or write them to a file as they are."""
    with to_file(out) as fill:
        async with session.client() as client:
            answer = await client.random_bits(bits)
        if fill or session.json:
            give(session, answer, "random", fill)
        else:
            output.write(base64.b64decode(answer["random"]).hex() + "\n")
