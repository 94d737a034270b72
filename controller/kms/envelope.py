"""The layout of a sealed record, and the one way to write down what it is bound to.

    "kps" 1 | suite 1 | master key id 16, version 4 | nonce 12, data key 32, tag 16 | nonce 12, ciphertext, tag 16

Suite 1: AES-256-GCM twice; a data key is used once. The inner ciphertext is bound to its context (immutable ids, never
names), the wrapped data key to its master key; so a new wrapping leaves the ciphertext as it is.
"""

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from controller.errors import Damaged
from controller.model import Sealed

MAGIC = b"kps\x01"
SUITE = 1
_HEADER = struct.Struct(">4sB16sI")
_NONCE, _KEY, _TAG = 12, 32, 16
_WRAPPED = _NONCE + _KEY + _TAG


@dataclass(frozen=True, slots=True)
class Record:
    """A sealed record, taken apart."""

    master_key_id: str
    master_key_version: int
    wrapped_nonce: bytes
    wrapped_key: bytes
    nonce: bytes
    ciphertext: bytes

    def sealed(self) -> Sealed:
        """Return the record in one piece."""
        header = _HEADER.pack(MAGIC, SUITE, uuid.UUID(self.master_key_id).bytes, self.master_key_version)
        return Sealed(header + self.wrapped_nonce + self.wrapped_key + self.nonce + self.ciphertext)


def record(sealed: Sealed) -> Record:
    """Take a sealed record apart. Damaged(record_unreadable) when it is none."""
    text = sealed.record
    if len(text) < _HEADER.size + _WRAPPED + _NONCE + _TAG:
        raise Damaged("record_unreadable", f"a sealed record of {len(text)} bytes is too short; restore a backup")
    magic, suite, key_id, version = _HEADER.unpack_from(text)
    if magic != MAGIC or suite != SUITE:
        raise Damaged("record_unreadable", "not a sealed record that this version knows; restore a backup")
    wrapped = text[_HEADER.size : _HEADER.size + _WRAPPED]
    body = text[_HEADER.size + _WRAPPED :]
    return Record(str(uuid.UUID(bytes=key_id)), version, wrapped[:_NONCE], wrapped[_NONCE:], body[:_NONCE], body[_NONCE:])


def bound_to(*parts: str | int) -> bytes:
    """Return parts as bytes that no other parts give: each with its length before it."""
    encoded = [str(part).encode() for part in parts]
    return b"".join(struct.pack(">I", len(part)) + part for part in encoded)


def bound_to_context(purpose: str, context: Mapping[str, str]) -> bytes:
    """Return a context as bytes, whatever the order of its names."""
    return bound_to(purpose, *(part for name in sorted(context) for part in (name, context[name])))
