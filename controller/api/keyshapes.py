"""The JSON of customer master keys: what requests may hold, and how values look in answers. Bytes travel as Base64."""

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints

from controller.api.shapes import Json, Name, Request, instant
from controller.errors import Invalid
from controller.kms import keys
from controller.model import Grant, KeyAlias, MasterKey, Secret

# Room for what is a little too long as well, so that it is refused by its own code.
Bytes = Annotated[str, StringConstraints(max_length=16 * 1024)]
SecretBytes = Annotated[SecretStr, Field(max_length=16 * 1024)]
Text = Annotated[str, StringConstraints(max_length=1024)]
MessageType = Literal["DIGEST", "RAW"]


class NewMasterKey(Request):
    alias: Text
    spec: Text = "AES_256"
    usage: Text | None = None
    origin: Text = "kms"
    description: Text = ""
    tags: dict[Text, Text] | None = None


class ChangedMasterKey(Request):
    """What is left out stays as it is."""

    alias: Text | None = None
    description: Text | None = None


class Disabling(Request):
    even_if_only_way_in: bool = False


class Deletion(Request):
    days: int
    even_if_only_way_in: bool = False


class Rotation(Request):
    """days None: what was last said."""

    days: int | None = None


class ImportBegun(Request):
    algorithm: Text = keys.OAEP


class Imported(Request):
    token: Bytes
    material: Bytes
    private_key: Bytes | None = None
    expires_at: datetime | None = None


class NewGrant(Request):
    """grantee, retiring: a user's name or id; grantee None: all users of the tenant."""

    grantee: Text | None = None
    operations: list[Name] = Field(max_length=64)
    name: Text = ""
    retiring: Text | None = None


class Tags(Request):
    tags: dict[Text, Text] = Field(max_length=64)


class Alias(Request):
    alias: Text
    key: Text


class Plain(Request):
    plaintext: SecretBytes
    additional_data: Bytes = ""
    algorithm: Text | None = None


class Cipher(Request):
    """key: needed only where the ciphertext does not say whose it is."""

    ciphertext: Bytes
    additional_data: Bytes = ""
    key: Text | None = None
    algorithm: Text | None = None


class ReEncryption(Request):
    ciphertext: Bytes
    destination: Text
    additional_data: Bytes = ""
    algorithm: Text | None = None
    source: Text | None = None
    source_additional_data: Bytes = ""
    source_algorithm: Text | None = None
    length: int | None = None


class NewDataKey(Request):
    """bits win over spec; without either there are 256."""

    spec: Text | None = None
    bits: int | None = None
    additional_data: Bytes = ""
    with_plaintext: bool = True


class PlainDataKey(Request):
    """digest: the SHA-256 of the data key, by which it is seen that it came whole; length: its bytes."""

    plaintext: SecretBytes
    digest: Bytes
    length: int
    additional_data: Bytes = ""


class SealedDataKey(Request):
    ciphertext: Bytes
    length: int | None = None
    additional_data: Bytes = ""


class NewDataKeyPair(Request):
    spec: Text
    additional_data: Bytes = ""
    with_plaintext: bool = True


class ToSign(Request):
    message: Bytes
    algorithm: Text
    message_type: MessageType = "DIGEST"


class Signed(ToSign):
    signature: Bytes


class ToCode(Request):
    message: Bytes
    algorithm: Text


class Coded(ToCode):
    mac: Bytes


class Randomness(Request):
    bits: int = 512


def decoded(given: str, field: str) -> bytes:
    """Return what a field holds. Invalid(base64_unreadable) names the field and repeats nothing of it."""
    try:
        return base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("base64_unreadable", f"{field}: must be Base64, in one line") from error


def secret_of(given: SecretStr, field: str) -> Secret:
    """Return what a field holds as a secret of ours."""
    return Secret(decoded(given.get_secret_value(), field))


def encoded(value: bytes | Secret) -> str:
    """Return bytes as they travel."""
    return base64.b64encode(value.view() if isinstance(value, Secret) else value).decode("ascii")


def expiry(at: datetime | None) -> datetime | None:
    """Return a time, in UTC where no zone was said."""
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def master_key(found: MasterKey) -> Json:
    """Return a master key; nothing of its material."""
    return {
        "id": found.id,
        "alias": found.alias,
        "spec": found.spec,
        "usage": found.usage,
        "origin": found.origin,
        "state": found.state,
        "default": found.default,
        "description": found.description,
        "version": found.version,
        "created_at": instant(found.created_at),
        "deletes_at": instant(found.deletes_at),
        "material_expires_at": instant(found.material_expires_at),
        "rotation": {
            "every_days": found.rotates_every,
            "next_at": instant(keys.next_rotation(found)),
            "last_at": instant(found.rotated_at),
            "count": found.rotations,
        },
    }


def grant(found: Grant) -> Json:
    """Return a grant."""
    return {
        "id": found.id,
        "key_id": found.key_id,
        "grantee": found.grantee,
        "operations": found.operations,
        "issuer": found.issuer,
        "name": found.name,
        "retiring": found.retiring,
        "created_at": instant(found.created_at),
    }


def alias(found: KeyAlias) -> Json:
    """Return a further alias."""
    return {
        "alias": found.alias,
        "key_id": found.key_id,
        "created_at": instant(found.created_at),
        "updated_at": instant(found.updated_at),
    }


def tags(given: list[str]) -> Mapping[str, list[str]]:
    """Return the filter that words give: NAME or NAME=VALUE, several values of one name as one of them."""
    found: dict[str, list[str]] = {}
    for word in given:
        name, equals, value = word.partition("=")
        values = found.setdefault(name, [])
        if equals:
            values.append(value)
    return found
