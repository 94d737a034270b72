"""The ciphertext of a symmetric customer master key: it says by itself which key and version made it.

    "kpsc" | layout 1 | suite 1 | purpose 1 | zero 1 | key id 16 | key version 4 | length of the plaintext 4     32 bytes
    | salt 32 | nonce 12 | digest 32 |                                                                         76 bytes
    | plaintext, padded with zeros to a multiple of 16, encrypted | tag 16                                     16 bytes

So n bytes become 124 + ceil(n / 16) * 16. Suite 1: from the master key and the salt HKDF-SHA-256 derives 64 bytes, for this
ciphertext alone: an AES-256-GCM key, and the digest. What is derived hangs on everything before the digest, so the digest says
whether this key made this header (GCM alone would let one ciphertext open under two keys), and no key meets a nonce twice,
however many ciphertexts a master key makes. The tag covers the padded plaintext, everything before it, and the additional data.

The purpose tells what was encrypted for its own sake (1) from a data key (2): leave to open one is no leave to open the other.
"""

import hmac
import secrets
import struct
import uuid
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from controller.errors import Invalid
from controller.kms.envelope import bound_to
from controller.model import Secret

MAGIC = b"kpsc"
LAYOUT, SUITE = 1, 1
DATA, DATA_KEY = 1, 2
_PURPOSES = {DATA: "data", DATA_KEY: "a data key"}
_HEADER = struct.Struct(">4sBBBB16sII")
_SALT, _NONCE, _DIGEST, _TAG, _BLOCK = 32, 12, 32, 16, 16
OVERHEAD = _HEADER.size + _SALT + _NONCE + _DIGEST + _TAG
MOST_BYTES = 8192  # of plaintext, in whatever purpose; what the operations allow is less


@dataclass(frozen=True, slots=True)
class Header:
    """What a ciphertext says of itself; to be believed once it has opened."""

    key_id: str
    version: int
    purpose: int
    length: int

    @property
    def bytes(self) -> bytes:
        """The header as it stands at the beginning of the ciphertext."""
        key_id = uuid.UUID(self.key_id).bytes
        return _HEADER.pack(MAGIC, LAYOUT, SUITE, self.purpose, 0, key_id, self.version, self.length)


def size(length: int) -> int:
    """Return how many bytes of ciphertext so many bytes of plaintext become."""
    return OVERHEAD + _padded(length)


def header(ciphertext: bytes) -> Header:
    """Return what a ciphertext says of itself. Invalid: ciphertext_unreadable, ciphertext_length_wrong."""
    if ciphertext[: len(MAGIC)] != MAGIC or len(ciphertext) < _HEADER.size:
        raise Invalid("ciphertext_unreadable", "not a ciphertext of a symmetric master key; see that all of it was copied")
    _, layout, suite, purpose, zero, key_id, version, length = _HEADER.unpack_from(ciphertext)
    if (layout, suite, zero) != (LAYOUT, SUITE, 0) or purpose not in _PURPOSES or length > MOST_BYTES:
        raise Invalid("ciphertext_unreadable", "not a ciphertext that this version knows: its head was changed, or it is newer")
    if len(ciphertext) != size(length):
        raise Invalid(
            "ciphertext_length_wrong",
            f"{len(ciphertext)} bytes of ciphertext, where it says itself that it has {size(length)}; copy all of it",
        )
    return Header(str(uuid.UUID(bytes=key_id)), version, purpose, length)


def encrypt(material: Secret, key_id: str, version: int, plaintext: Secret, additional_data: bytes, purpose: int = DATA) -> bytes:
    """Return the ciphertext of at most MOST_BYTES of plaintext, bound to the additional data. material: 32 bytes."""
    if len(plaintext) > MOST_BYTES:
        raise ValueError("longer than a ciphertext holds")
    head = Header(key_id, version, purpose, len(plaintext)).bytes + secrets.token_bytes(_SALT + _NONCE)
    key, digest = _derived(material, head)
    padded = bytearray(_padded(len(plaintext)))
    padded[: len(plaintext)] = plaintext.view()
    try:
        body = AESGCM(key.view()).encrypt(head[-_NONCE:], padded, _bond(head, digest, additional_data))
    finally:
        Secret(padded).wipe()
        key.wipe()
    return head + digest + body


def decrypt(material: Secret, ciphertext: bytes, additional_data: bytes, purpose: int = DATA) -> Secret:
    """Return the plaintext. material: that of the key and version which the header names.

    Invalid: what header() raises; ciphertext_purpose_wrong (a data key where data was wanted, or the other way round);
    ciphertext_head_damaged (not a header that this key has made); ciphertext_damaged (changed, or other additional data).
    """
    said = header(ciphertext)
    if said.purpose != purpose:
        wanted, found = _PURPOSES[purpose], _PURPOSES[said.purpose]
        raise Invalid(
            "ciphertext_purpose_wrong", f"this is the ciphertext of {found}, not of {wanted}; there is another call for that"
        )
    start = _HEADER.size + _SALT + _NONCE
    head, digest, body = ciphertext[:start], ciphertext[start : start + _DIGEST], ciphertext[start + _DIGEST :]
    key, expected = _derived(material, head)
    padded = bytearray(len(body) - _TAG)
    try:
        if not hmac.compare_digest(digest, expected):
            raise Invalid(
                "ciphertext_head_damaged", "what the ciphertext says of itself was changed, or this key did not make it"
            )
        AESGCM(key.view()).decrypt_into(head[-_NONCE:], body, _bond(head, digest, additional_data), padded)
    except InvalidTag as error:
        message = "the ciphertext was changed, or was made with other additional data; give the same as when it was encrypted"
        raise Invalid("ciphertext_damaged", message) from error
    finally:
        key.wipe()
    plaintext = Secret(bytearray(memoryview(padded)[: said.length]))
    Secret(padded).wipe()
    return plaintext


def _derived(material: Secret, head: bytes) -> tuple[Secret, bytes]:
    """Return the key and the digest of one ciphertext."""
    salt = head[_HEADER.size : _HEADER.size + _SALT]
    both = bytearray(2 * 32)
    HKDF(SHA256(), len(both), salt, bound_to("kps ciphertext") + head).derive_into(material.view(), both)
    key, digest = Secret(bytearray(memoryview(both)[:32])), bytes(both[32:])
    Secret(both).wipe()
    return key, digest


def _bond(head: bytes, digest: bytes, additional_data: bytes) -> bytes:
    # All but the last have a fixed length, so no two of these run into each other.
    return head + digest + additional_data


def _padded(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK
