"""The values of rotation: a policy, and a rotation that it has begun. Frozen: a change is a new value and an event."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from controller.model import KeyType

# rolling: the new key pair is on its way; held: a person is needed; waiting: the old one is removed, or is somewhere else still;
# done: its private half is cleared; given_up: somebody said so, and both key pairs stay.
RotationState = Literal["rolling", "held", "waiting", "done", "given_up"]
OVER: frozenset[RotationState] = frozenset({"done", "given_up"})


@dataclass(frozen=True, slots=True)
class Policy:
    """How old a key pair may be that is bound on servers with a label, and how the next one is rolled out."""

    id: str
    tenant_id: str
    user_id: str  # who set it: what it does is theirs
    name: str
    label: str | None  # None: of all servers
    value: str | None
    max_age_days: int
    remind_days: list[int]  # before a key pair is due
    grace_days: int  # between the last login without the old key pair and the end of its private half
    strategy: dict[str, Any]  # in words: controller/rollout/strategy.py
    created_at: datetime
    key_type: KeyType | None = None  # of the next key pair; None: as the one before
    paused: bool = False

    @property
    def where(self) -> str:
        """The servers that it is about, in words."""
        return "all servers" if self.label is None else f"{self.label}={self.value}"


@dataclass(frozen=True, slots=True)
class Rotation:
    """One key pair in the place of another, on all logins of a policy's servers where that one is bound."""

    id: str
    tenant_id: str
    policy_id: str
    policy_name: str
    user_id: str
    old_id: str
    new_id: str
    created_at: datetime
    state: RotationState = "rolling"
    reason: str = ""
    rollout_id: str | None = None  # the newest
    removed_at: datetime | None = None  # from when on the old key pair has been bound nowhere
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A login of a server."""

    server_id: str
    login: str


@dataclass(frozen=True, slots=True)
class Round:
    """A rollout of a rotation, as far as the next step depends on it. places: what it is, or was, about."""

    rollout_id: str
    state: str
    reason: str
    places: frozenset[Place] = frozenset()
    tried: frozenset[Place] = frozenset()  # of its places: where a task was begun
    ended_at: datetime | None = None  # when the last of its tasks ended, where it has ended itself
    running: bool = False  # some of its tasks have not come to their end


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where the old key pair of a rotation still is, as the database knows it at one moment."""

    inside: frozenset[Place] = frozenset()  # on servers of the policy
    outside: int = 0  # logins of other servers
    doubts: list[str] = field(default_factory=list)  # why it may be somewhere else still, in words
    managed: bool = True  # its private half is in custody


@dataclass(frozen=True, slots=True)
class Aged:
    """A key pair that is bound on servers of a policy."""

    keypair_id: str
    name: str
    owner_id: str
    scope: str
    fingerprint: str
    type: str
    managed: bool
    created_at: datetime
    logins: int  # of the policy's servers
    elsewhere: int  # logins of other servers
    rotation: Rotation | None = None  # under way, with this as the old one
    begun_by: str | None = None  # id of the rotation, under way, that has made it
