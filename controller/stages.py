"""Secrets as they are kept: their versions, the stages that mark these, and which rules hold. Pure.

Names and limits are those of the public service (docs/secrets.md), so that a program written for it finds what it knows.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from controller.errors import Conflict, Invalid
from controller.model import Scope, Secret

SecretKind = Literal["text", "password"]  # a password is that of one login of one server
RotationBy = Literal["hand", "schedule", "emergency"]
SecretRotationState = Literal["running", "done", "failed"]

CURRENT = "SYSCURRENT"
PREVIOUS = "SYSPREVIOUS"
BUILT_IN = (CURRENT, PREVIOUS)
LATEST = "latest"

MOST_SECRETS = 10_000  # of a tenant
MOST_VERSIONS = 20
MOST_STAGES = 12
VALUE_BYTES = 32 * 1024
DESCRIPTION_BYTES = 2048
# From six hours to a year.
ROTATION_SECONDS = range(6 * 3600, 8760 * 3600 + 1)

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class KeptSecret:
    """A secret without its values. server_name: as it was called when the secret was made; the server may be gone."""

    id: str
    tenant_id: str
    owner_id: str
    scope: Scope
    name: str
    kind: SecretKind
    created_at: datetime
    description: str = ""
    server_id: str | None = None
    server_name: str | None = None
    login: str | None = None
    version: int = 0  # the newest; 0: there is none yet
    works: int | None = None  # of a password: the version that the server is known to have
    rotates_every: int | None = None  # seconds; None: by hand only
    rotated_for: str | None = None  # the user on whose behalf it is rotated by itself
    rotates_at: datetime | None = None
    updated_at: datetime | None = None

    def seen_by(self, user_id: str) -> bool:
        """Whether this user of the same tenant may know of it."""
        return self.scope == "account" or self.owner_id == user_id

    @property
    def facts(self) -> dict[str, str]:
        """What each of its versions is sealed for, beside the secret's id and the version's number."""
        place = {"server": self.server_id or "", "login": self.login or ""}
        return {"tenant": self.tenant_id, "owner": self.owner_id, "scope": self.scope, "kind": self.kind} | place


@dataclass(frozen=True, slots=True)
class SecretVersion:
    """One value that a secret has, or had, without the value."""

    secret_id: str
    version: int
    created_at: datetime
    user_id: str
    binary: bool = False
    expires_at: datetime | None = None
    master_key_id: str | None = None  # None: it waits to be sealed (service/queued)
    stages: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What it is called by: v1, v2, ..."""
        return f"v{self.version}"


@dataclass(frozen=True, slots=True)
class SecretRotation:
    """The new version of a password on its way to its server: one order, however often it is tried."""

    id: str
    secret_id: str
    tenant_id: str
    user_id: str
    name: str  # of the secret
    version: int
    by: RotationBy
    task_id: str  # the newest
    created_at: datetime
    state: SecretRotationState = "running"
    tries: int = 1
    cause: str | None = None
    message: str = ""
    proved: bool = False  # somebody has logged in with it
    ended_at: datetime | None = None
    again_at: datetime | None = None  # when what has failed is tried again by itself


# -- what may be asked for


def check_name(name: str) -> None:
    """Invalid(name_unusable)."""
    if not _NAME.fullmatch(name):
        raise Invalid("name_unusable", f"{name[:100]!r}: a secret's name is 1 to 64 letters, digits, _ and -")


def check_stage(stage: str) -> None:
    """Invalid(stage_unusable)."""
    if not _NAME.fullmatch(stage):
        raise Invalid("stage_unusable", f"{stage[:100]!r}: a stage's name is 1 to 64 letters, digits, _ and -")


def check_stages(stages: Collection[str]) -> None:
    """Invalid: stage_unusable, too_many_stages."""
    for stage in stages:
        check_stage(stage)
    if len(stages) > MOST_STAGES:
        raise Invalid("too_many_stages", f"{len(stages)} stages; a secret has at most {MOST_STAGES}")


def check_description(description: str) -> None:
    """Invalid(description_unusable) for one that is too long, or holds what is no text."""
    if len(description.encode("utf-8", "surrogatepass")) > DESCRIPTION_BYTES or not description.replace("\n", "").isprintable():
        raise Invalid("description_unusable", f"a description is text of at most {DESCRIPTION_BYTES} bytes")


def check_value(name: str, value: Secret) -> None:
    """Invalid(secret_value_unusable) for one that is empty or too large."""
    if not 1 <= len(value) <= VALUE_BYTES:
        raise Invalid("secret_value_unusable", f"{name}: {len(value)} bytes; a secret holds 1 to {VALUE_BYTES}")


def check_password(name: str, value: Secret) -> None:
    """Invalid(secret_value_unusable) for what cannot be a login's password: with a line's end or a NUL in it, or too long."""
    view = bytes(value.view())
    if not 1 <= len(view) <= 256 or any(each in view for each in (b"\0", b"\n", b"\r")):
        raise Invalid("secret_value_unusable", f"{name}: a password is one line of 1 to 256 bytes")


def seconds_of(period: str) -> int:
    """Return a period (90d, 12h) in seconds. Invalid(period_unusable): no such period, or not from 6 h to 8760 h."""
    number, unit = period[:-1], period[-1:]
    if not (number.isascii() and number.isdigit() and len(number) <= 9 and unit in _UNITS):
        raise Invalid("period_unusable", f"{period[:40]!r}: write a number and a unit, as in 30d, 12h")
    found = int(number) * _UNITS[unit]
    if found not in ROTATION_SECONDS:
        raise Invalid("period_unusable", f"{period}: a password is rotated every 6 to 8760 hours")
    return found


def period(seconds: int) -> str:
    """Return seconds as a period, in the largest unit that it is a whole number of."""
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def number_of(version: str, newest: int) -> int:
    """Return the number of a version that is called v3 or latest. Invalid(version_unusable)."""
    if version == LATEST:
        return newest
    found = _VERSION.fullmatch(version)
    if found is None:
        raise Invalid("version_unusable", f"{version[:40]!r}: a version is called v1, v2 and so on, or latest")
    return int(found[1])


# -- which stages mark which versions. Stages: name -> number of the version


def with_version(
    stages: Mapping[str, int], version: int, wanted: Collection[str] | None, works: int | None = None
) -> dict[str, int]:
    """Return the stages once there is a new version.

    wanted None: it becomes the current one, and what was current the previous one. Else only these go to it; where SYSCURRENT is
    among them both. works: what is known to be in force somewhere; where there is such a one it is that which becomes the
    previous one, for what is neither current nor previous could be forgotten. Conflict(too_many_stages).
    """
    after = dict(stages)
    if wanted is None or CURRENT in wanted or not stages:
        before = works if works is not None else stages.get(CURRENT)
        after[CURRENT] = version
        if before is not None:
            after[PREVIOUS] = before
    after |= dict.fromkeys([stage for stage in wanted or () if stage not in BUILT_IN], version)
    if PREVIOUS in (wanted or ()) and CURRENT not in (wanted or ()):
        after[PREVIOUS] = version
    return _counted(after)


def with_stage(stages: Mapping[str, int], stage: str, version: int) -> dict[str, int]:
    """Return the stages once one marks another version; moving SYSCURRENT moves SYSPREVIOUS to what it marked before.

    Conflict(too_many_stages).
    """
    after = dict(stages)
    if stage == CURRENT and CURRENT in after and after[CURRENT] != version:
        after[PREVIOUS] = after[CURRENT]
    after[stage] = version
    return _counted(after)


def without_stage(stages: Mapping[str, int], stage: str) -> dict[str, int]:
    """Return the stages without one. Conflict(stage_built_in) for SYSCURRENT and SYSPREVIOUS."""
    if stage in BUILT_IN:
        raise Conflict("stage_built_in", f"{stage}: this stage cannot be deleted; it moves with each new version", stage=stage)
    return {name: version for name, version in stages.items() if name != stage}


def to_drop(versions: Sequence[int], stages: Mapping[str, int], works: int | None) -> list[int]:
    """Return which versions make room for one more: the oldest without a stage. Conflict(too_many_versions) where none does."""
    over = len(versions) + 1 - MOST_VERSIONS
    marked = {*stages.values(), works}
    free = [version for version in sorted(versions) if version not in marked]
    if len(free) < over:
        raise Conflict(
            "too_many_versions",
            f"{len(versions)} versions have a stage each, and {MOST_VERSIONS} may be kept; delete a stage first",
        )
    return free[: max(0, over)]


def _counted(stages: dict[str, int]) -> dict[str, int]:
    if len(stages) > MOST_STAGES:
        raise Conflict("too_many_stages", f"a secret has at most {MOST_STAGES} stages; delete one first")
    return stages
