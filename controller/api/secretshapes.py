"""The JSON of secrets: what requests may hold, and how secrets look in answers."""

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from controller import stages
from controller.api.shapes import Json, Line, Name, Opens, Request, instant, secret
from controller.errors import Invalid
from controller.model import Scope, Secret
from controller.stages import KeptSecret, SecretRotation, SecretVersion

Text = Annotated[SecretStr, Field(min_length=1, max_length=stages.VALUE_BYTES)]
Base64 = Annotated[SecretStr, Field(min_length=4, max_length=stages.VALUE_BYTES * 4 // 3 + 4)]
Stages = Annotated[list[Name], Field(min_length=1, max_length=stages.MOST_STAGES)]


class _Value(Request):
    """value: text; value_base64: bytes. One of the two, or neither where there is nothing to keep yet."""

    value: Text | None = None
    value_base64: Base64 | None = None
    expires_at: datetime | None = None

    @model_validator(mode="after")
    def _one_value(self) -> Self:
        if self.value is not None and self.value_base64 is not None:
            raise ValueError("value and value_base64 exclude each other")
        return self

    @property
    def binary(self) -> bool:
        """Whether it is bytes."""
        return self.value_base64 is not None

    def secret(self) -> Secret | None:
        """Return the value, if one was given. Invalid(secret_value_unusable): not Base64."""
        if self.value_base64 is None:
            return secret(self.value)
        try:
            return Secret(bytearray(base64.b64decode(self.value_base64.get_secret_value(), validate=True)))
        except (binascii.Error, ValueError):
            raise Invalid("secret_value_unusable", "value_base64: not Base64") from None


class NewSecret(_Value):
    """A secret. server: it is the password of a login there (without login: of the server's own)."""

    name: Name
    scope: Scope = "private"
    description: str = Field(default="", max_length=stages.DESCRIPTION_BYTES)
    server: Name | None = None
    login: Name | None = None


class NewSecretVersion(_Value):
    """stages: only these mark the new version; without them it becomes the current one."""

    stages: Stages | None = None


class OpenSecret(Request):
    """Which version: by its name (v3, latest) or by a stage; without either the current one."""

    version: Name | None = None
    stage: Name | None = None


class ChangedSecret(Request):
    description: str = Field(max_length=stages.DESCRIPTION_BYTES)


class MarkedVersion(Request):
    version: Name


class RotateSecret(Request):
    """credential: what opens the server, where no key in custody does."""

    credential: Opens | None = None


class SecretSchedule(Request):
    every: Line


def kept(found: KeptSecret) -> Json:
    """Return a secret without its values."""
    return {
        "id": found.id,
        "name": found.name,
        "kind": found.kind,
        "scope": found.scope,
        "description": found.description,
        "server": found.server_name,
        "login": found.login,
        "version": named(found.version),
        "works": named(found.works),
        "rotates_every": None if found.rotates_every is None else stages.period(found.rotates_every),
        "rotates_at": instant(found.rotates_at),
        "created_at": instant(found.created_at),
        "updated_at": instant(found.updated_at),
    }


def whole(found: KeptSecret, versions: Sequence[SecretVersion]) -> Json:
    """Return a secret with its versions, without values."""
    return kept(found) | {"versions": [version(each) for each in versions]}


def version(found: SecretVersion) -> Json:
    """Return a version without its value."""
    return {
        "version": found.name,
        "stages": found.stages,
        "binary": found.binary,
        "sealed": found.master_key_id is not None,
        "created_at": instant(found.created_at),
        "expires_at": instant(found.expires_at),
    }


def opened(name: str, found: SecretVersion, value: Secret) -> Json:
    """Return a version with its value."""
    content = value.open()
    try:
        shown = (
            {"value_base64": base64.b64encode(content).decode("ascii")} if found.binary else {"value": content.decode("utf-8")}
        )
    except UnicodeDecodeError:  # it was kept as text, so it is none that anybody sent
        raise Invalid("secret_value_unusable", f"{name}: no text; ask for it as bytes") from None
    return {"name": name} | version(found) | shown


def named_stages(found: dict[str, int]) -> Json:
    """Return stages, each with the version that it marks."""
    return {stage: named(number) for stage, number in sorted(found.items())}


def rotation(found: SecretRotation) -> Json:
    """Return a rotation of a password."""
    return {
        "id": found.id,
        "secret": found.name,
        "version": named(found.version),
        "by": found.by,
        "state": found.state,
        "tries": found.tries,
        "proved": found.proved,
        "cause": found.cause,
        "message": found.message,
        "task_id": found.task_id,
        "created_at": instant(found.created_at),
        "ended_at": instant(found.ended_at),
        "again_at": instant(found.again_at),
    }


def named(number: int | None) -> str | None:
    """Return what a version is called; None where there is none."""
    return f"v{number}" if number else None
