"""The one place where rows become values, and values rows."""

from dataclasses import fields
from typing import Any

from sqlalchemy import RowMapping

from controller.doors import Door, DoorOrder, DoorRule
from controller.model import (
    AccessKey,
    Binding,
    ConsoleSession,
    Event,
    Grant,
    KeyAlias,
    KeyPair,
    MasterKey,
    MasterKeyVersion,
    Rollout,
    RolloutServer,
    Server,
    Task,
    TemporaryKey,
    Token,
    User,
)
from controller.policy import Policy, Rotation
from controller.stages import KeptSecret, SecretRotation

Value = (
    Server
    | KeyPair
    | Binding
    | Task
    | MasterKey
    | MasterKeyVersion
    | Grant
    | KeyAlias
    | User
    | AccessKey
    | TemporaryKey
    | Token
    | ConsoleSession
    | Rollout
    | RolloutServer
    | Policy
    | Rotation
    | KeptSecret
    | SecretRotation
    | Door
    | DoorOrder
    | DoorRule
)


def row(value: Value) -> dict[str, Any]:
    """Return the columns of a value; they are its fields."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def server(found: RowMapping) -> Server:
    return Server(**found)


def keypair(found: RowMapping) -> KeyPair:
    return KeyPair(**{name: found[name] for name in found if name != "sealed"})


def binding(found: RowMapping) -> Binding:
    return Binding(**{field.name: found[field.name] for field in fields(Binding)})  # joins add columns


def task(found: RowMapping) -> Task:
    return Task(**found)


def rollout(found: RowMapping) -> Rollout:
    return Rollout(**found)


def policy(found: RowMapping) -> Policy:
    return Policy(**found)


def rotation(found: RowMapping) -> Rotation:
    return Rotation(**found)


def door(found: RowMapping) -> Door:
    return Door(**found)


def door_order(found: RowMapping) -> DoorOrder:
    return DoorOrder(**found)


def door_rule(found: RowMapping) -> DoorRule:
    return DoorRule(**found)


def event(found: RowMapping) -> Event:
    return Event(**found)


def master_key_version(found: RowMapping) -> MasterKeyVersion:
    return MasterKeyVersion(**found)


def user(found: RowMapping) -> User:
    return User(**{field.name: found[field.name] for field in fields(User)})


def access_key(found: RowMapping) -> AccessKey:
    return AccessKey(**{field.name: found[field.name] for field in fields(AccessKey)})


def temporary_key(found: RowMapping) -> TemporaryKey:
    return TemporaryKey(**{field.name: found[field.name] for field in fields(TemporaryKey)})


def token(found: RowMapping) -> Token:
    return Token(**{field.name: found[field.name] for field in fields(Token)})


def master_key(found: RowMapping) -> MasterKey:
    return MasterKey(**found)


def grant(found: RowMapping) -> Grant:
    return Grant(**found)


def key_alias(found: RowMapping) -> KeyAlias:
    return KeyAlias(**found)


def console_session(found: RowMapping) -> ConsoleSession:
    return ConsoleSession(**{name: found[name] for name in found if name != "digest"})


def secret(found: RowMapping) -> KeptSecret:
    return KeptSecret(**found)


def secret_rotation(found: RowMapping) -> SecretRotation:
    return SecretRotation(**found)
