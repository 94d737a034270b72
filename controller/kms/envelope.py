"""The layout of a sealed record, and the one way to write down what it is bound to.

    "kps" 1 | suite 1 | master key id 16, version 4 | object 16, facts 16, version 4 | length of the ciphertext 4
    | nonce 12, data key 32, tag 16 | nonce 12, ciphertext, tag 16

Suite 1: AES-256-GCM twice; a data key is used once. The wrapped data key is bound to its master key and to everything
before it, so what a record says of itself is believed once its data key has opened: that tells a record that is in the wrong
place from one that was changed. The inner ciphertext is bound to its context alone; a new wrapping leaves it as it is.
"""

import hashlib
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from controller.errors import Damaged
from controller.model import Sealed

MAGIC = b"kps\x01"
SUITE = 1
_HEADER = struct.Struct(">4sB16sI16s16sII")
_NONCE, _KEY, _TAG = 12, 32, 16
_WRAPPED = _NONCE + _KEY + _TAG
_LEAST = _HEADER.size + _WRAPPED + _NONCE + _TAG


@dataclass(frozen=True, slots=True)
class Context:
    """What a secret is sealed for: which version of which thing, and what has to be true of it. Ids, never names."""

    kind: str  # of thing: "private key"
    id: str  # of the thing, among those of its kind
    version: int = 1  # of the secret: grows each time that the thing gets another
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def object_digest(self) -> bytes:
        """A short digest of which thing it is."""
        return _short(bound_to("kps object", self.kind, self.id))

    @property
    def facts_digest(self) -> bytes:
        """A short digest of the facts."""
        return _short(bound_to_facts("kps facts", self.facts))

    def bond(self) -> bytes:
        """Return the whole context as bytes that no other context gives, whatever the order of its facts."""
        return bound_to("kps secret", self.kind, self.id, self.version) + bound_to_facts("kps facts", self.facts)


@dataclass(frozen=True, slots=True)
class Record:
    """A sealed record, taken apart."""

    master_key_id: str
    master_key_version: int
    object: bytes
    facts: bytes
    version: int
    wrapped_nonce: bytes
    nonce: bytes
    ciphertext: bytes
    wrapped_key: bytes = b""  # comes last: it is bound to the rest

    def bond(self, tenant_id: str) -> bytes:
        """Return what the wrapped data key is bound to."""
        return bound_to("kps data key", tenant_id) + self._header()

    def sealed(self) -> Sealed:
        """Return the record in one piece."""
        return Sealed(self._header() + self.wrapped_nonce + self.wrapped_key + self.nonce + self.ciphertext)

    def _header(self) -> bytes:
        key_id, length = uuid.UUID(self.master_key_id).bytes, len(self.ciphertext) - _TAG
        return _HEADER.pack(
            MAGIC, SUITE, key_id, self.master_key_version, self.object, self.facts, self.version, length
        )  # fmt: skip


def record(sealed: Sealed) -> Record:
    """Take a sealed record apart. Damaged: record_unreadable when it is none, record_length_wrong when it is cut or longer."""
    text = sealed.record
    if text[: len(MAGIC)] != MAGIC[: len(text)] or text[len(MAGIC) : len(MAGIC) + 1] not in (b"", bytes([SUITE])):
        raise Damaged("record_unreadable", "not a sealed record that this version knows; restore a backup")
    if len(text) < _LEAST:
        raise _length(len(text), f"at least {_LEAST}")
    _, _, key_id, key_version, object_, facts, version, length = _HEADER.unpack_from(text)
    if len(text) != _LEAST + length:
        raise _length(len(text), f"{_LEAST + length}")
    wrapped = text[_HEADER.size : _HEADER.size + _WRAPPED]
    body = text[_HEADER.size + _WRAPPED :]
    return Record(
        str(uuid.UUID(bytes=key_id)), key_version, object_, facts, version,
        wrapped[:_NONCE], body[:_NONCE], body[_NONCE:], wrapped[_NONCE:],
    )  # fmt: skip


def check(found: Record, context: Context) -> None:
    """Damaged, by what the record is for instead: sealed_for_another, secret_version_old, secret_version_wrong, facts_changed.

    To be believed only after the record's data key has opened.
    """
    what = f"{context.kind} {context.id}"
    if found.object != context.object_digest:
        message = f"this was sealed for something else than {what}: rows were exchanged; restore a backup"
        raise Damaged("sealed_for_another", message)
    if found.version < context.version:
        message = f"this is version {found.version} of the secret of {what}, which has version {context.version} now: an old row"
        raise Damaged("secret_version_old", f"{message} was put back; restore a backup")
    if found.version > context.version:
        message = f"this is version {found.version} of the secret of {what}, which is on record with version {context.version}"
        raise Damaged("secret_version_wrong", f"{message}: an old number was put back; restore a backup")
    if found.facts != context.facts_digest:
        among = ", ".join(sorted(context.facts))
        message = f"what is on record of {what} is not what its secret was sealed for: one of {among} was changed"
        raise Damaged("facts_changed", f"{message}; restore a backup")


def bound_to(*parts: str | int) -> bytes:
    """Return parts as bytes that no other parts give: each with its length before it."""
    encoded = [str(part).encode() for part in parts]
    return b"".join(struct.pack(">I", len(part)) + part for part in encoded)


def bound_to_facts(purpose: str, facts: Mapping[str, str]) -> bytes:
    """Return facts as bytes, whatever the order of their names."""
    return bound_to(purpose, *(part for name in sorted(facts) for part in (name, facts[name])))


def _short(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()[:16]


def _length(found: int, should: str) -> Damaged:
    return Damaged("record_length_wrong", f"a sealed record of {found} bytes, where it should be {should}; restore a backup")
