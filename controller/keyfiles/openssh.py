"""OpenSSH's own private key files (openssh/PROTOCOL.key): the header read before anything is computed; and written.

They are opened by `cryptography`. It writes them too, but always without a comment, and by way of copies that nobody wipes.
"""

import secrets
import struct
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import bcrypt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controller.keyfiles.costs import check_bcrypt
from controller.keyfiles.fields import Unreadable, comment_text, from_base64, in_lines, mpint, packed, string, strings
from controller.keyfiles.kinds import CURVES, PrivateKey, public_half
from controller.model import Secret

LABEL = "OPENSSH PRIVATE KEY"
ROUNDS = 24  # as ssh-keygen does of its own accord since OpenSSH 9.4
_MAGIC = b"openssh-key-v1\0"
_FIELDS = {b"ssh-ed25519": 2, b"ssh-rsa": 6}  # between type and comment; of the others 3


class Header(NamedTuple):
    """What a file says before it is opened. claimed: the blob of the public key; comment: "" where that is encrypted too."""

    encrypted: bool
    claimed: bytes
    comment: str


def header(lines: list[bytes]) -> Header:
    """Return what a file says of itself. Unreadable: it is none, or asks for too much."""
    body = from_base64(lines)
    if not body.startswith(_MAGIC):
        raise Unreadable("not the OpenSSH format that it says it is")
    try:
        cipher, at = string(body, len(_MAGIC))
        derivation, at = string(body, at)
        options, at = string(body, at)
        (count,) = struct.unpack_from(">I", body, at)
        claimed, at = string(body, at + 4)
        inner, _ = string(body, at)
        if derivation == b"bcrypt":
            _, after = string(options, 0)
            (rounds,) = struct.unpack_from(">I", options, after)
            check_bcrypt(rounds)
        elif derivation != b"none":
            raise Unreadable("its key derivation is not known")
    except struct.error:
        raise Unreadable("it is cut off") from None
    if count != 1:
        raise Unreadable(f"{count} keys in one file; give one at a time")
    encrypted = cipher != b"none"
    return Header(encrypted, claimed, "" if encrypted else _comment(inner))


def _comment(inner: bytes) -> str:
    kind = strings(inner[8:], 1)[0][0]
    found, _ = strings(inner[8:], _FIELDS.get(kind, 3) + 2)
    return comment_text(found[-1])


def write(key: PrivateKey, stored: Secret, comment: str, passphrase: Secret | None) -> Secret:
    """Return the text of a file, with a passphrase or without one."""
    check = secrets.token_bytes(4)
    inner = bytearray(check + check)
    for field in _private_fields(key, stored):
        inner += packed(field)
    inner += packed(comment.encode("utf-8", "replace"))
    head = [b"none", b"none", b""]
    if passphrase is None:
        inner += bytes(range(1, -len(inner) % 8 + 1))
    else:
        inner += bytes(range(1, -len(inner) % 16 + 1))
        salt = secrets.token_bytes(16)
        head = [b"aes256-ctr", b"bcrypt", packed(salt) + struct.pack(">I", ROUNDS)]
        _encrypt(inner, passphrase, salt)
    body = bytearray(_MAGIC)
    for part in head:
        body += packed(part)
    body += struct.pack(">I", 1) + packed(public_half(key).blob) + struct.pack(">I", len(inner)) + inner
    encoded = in_lines(body, 70)
    text = bytearray(f"-----BEGIN {LABEL}-----\n".encode() + encoded + f"-----END {LABEL}-----\n".encode())
    for used in (inner, body, encoded):
        Secret(used).wipe()
    return Secret(text)


def _encrypt(inner: bytearray, passphrase: Secret, salt: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it would rather have 50 rounds
        derived = bcrypt.kdf(passphrase.open(), salt, 32 + 16, ROUNDS)
    sealed = Cipher(AES(derived[:32]), CTR(derived[32:])).encryptor().update(inner)
    Secret(inner).wipe()
    inner[:] = sealed


def _private_fields(key: PrivateKey, stored: Secret) -> Iterator[bytes | bytearray]:
    """The fields of a private key, after the check numbers."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        yield from (b"ssh-ed25519", public, bytearray(stored.view()) + public)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        name = next(name for name, curve in CURVES.items() if isinstance(key.curve, curve)).removeprefix("ecdsa-")
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        yield from (b"ecdsa-sha2-" + name.encode(), name.encode(), point, mpint(key.private_numbers().private_value))
    else:
        numbers = key.private_numbers()
        yield b"ssh-rsa"
        for number in (
            numbers.public_numbers.n, numbers.public_numbers.e, numbers.d, numbers.iqmp, numbers.p, numbers.q,
        ):  # fmt: skip
            yield mpint(number)
