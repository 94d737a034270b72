"""The values that everything else passes around. Frozen: a change is a new value and an event."""

import hmac
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn, TypedDict

KeyType = Literal[
    "ed25519", "ecdsa-nistp256", "ecdsa-nistp384", "ecdsa-nistp521", "rsa-2048", "rsa-3072", "rsa-4096"
]  # fmt: skip
Scope = Literal["private", "account"]
KeyFormat = Literal["openssh", "pkcs8", "pem", "ppk2", "ppk3"]  # of a private key file
PublicFormat = Literal["public", "rfc4716"]
Role = Literal["administrator", "operator", "auditor"]
UserKind = Literal["local", "federated", "delegated"]
PasswordLogin = Literal["on", "off", "unknown"]
Operation = Literal[
    "bind",
    "replace",
    "unbind",
    "reset",
    "password-login-enable",
    "password-login-disable",
    "password-login-status",
    "check",
    "password-set",
    "door-open",
    "door-extend",
    "door-close",
    "door-status",
]
Status = Literal["ready", "running", "succeeded", "unchanged", "failed", "cancelled"]
ServerState = Literal["as_asked", "as_before", "reverted", "partial", "unknown"]
Phase = Literal["queued", "connect", "look", "decide", "widen", "prove", "narrow", "commit", "undo", "done"]

KEY_TYPES: tuple[KeyType, ...] = (
    "ed25519", "ecdsa-nistp256", "ecdsa-nistp384", "ecdsa-nistp521", "rsa-2048", "rsa-3072", "rsa-4096",
)  # fmt: skip
# What a server that cannot be updated may be allowed, by kind, the least bad first. ssh-rsa is RSA with SHA-1: for the host key,
# and for a login's key.
OLD_ALGORITHMS: dict[str, tuple[str, ...]] = {
    "key exchange": ("diffie-hellman-group-exchange-sha1", "diffie-hellman-group14-sha1", "diffie-hellman-group1-sha1"),
    "host key": ("ssh-rsa",),
    "cipher": ("aes256-cbc", "aes192-cbc", "aes128-cbc", "3des-cbc"),
    "MAC": ("hmac-md5",),
}
OLD_NAMES = tuple(name for names in OLD_ALGORITHMS.values() for name in names)
_KEY_ID = slice(5, 21)  # where a sealed record names its master key, in whatever suite
# What the one who serves a home is called by: whoever is the next to serve it knows that nobody of that name lives.
SERVING = "serve/"
# What a session with PostgreSQL of who takes tasks is called there, before their name; and the queues that the tasks are in.
TAKING = "kps-worker/"
_SESSION_NAME = 63  # characters that PostgreSQL keeps of it
URGENT_QUEUE, WAITING_QUEUE = "kps-urgent", "kps"
FINAL: frozenset[Status] = frozenset({"succeeded", "unchanged", "failed", "cancelled"})


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


def session_name(owner: str) -> str:
    """Return what the sessions of who takes tasks under this name are called. Of a long name the end, which no other has."""
    return TAKING + owner[len(TAKING) - _SESSION_NAME :]


class Secret:
    """Bytes that show themselves only to who opens them.

    repr, str and format say nothing, comparing takes constant time, and pickle, copy and JSON refuse. Give bytes that
    you made yourself as a bytearray: it is taken over, not copied, and wipe() then leaves no copy behind.
    """

    __slots__ = ("_value",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: str | bytes | bytearray) -> None:
        if isinstance(value, str):
            value = value.encode("utf-8", "surrogateescape")
        self._value = value if isinstance(value, bytearray) else bytearray(value)

    def open(self) -> bytes:
        """Return a copy of the secret; the copy cannot be wiped."""
        return bytes(self._value)

    def view(self) -> memoryview:
        """Return the secret in place, to be read at once and let go of: no copy."""
        return memoryview(self._value).toreadonly()

    def wipe(self) -> None:
        """Overwrite the secret; it is as many zero bytes from now on."""
        for place in range(len(self._value)):
            self._value[place] = 0

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value, other._value)

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "Secret(...)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not copied, pickled or stored")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret as it is stored: one record that says itself how it was sealed (layout: controller/kms/envelope.py)."""

    record: bytes = field(repr=False)

    @property
    def master_key_id(self) -> str | None:
        """The id of the customer master key that it is sealed under, as it says itself; None where it is no such record."""
        head = self.record[_KEY_ID]
        return str(uuid.UUID(bytes=head)) if len(head) == 16 else None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    tenant_id: str
    project_id: str
    user_id: str
    role: Role
    kind: UserKind = "local"
    # Let into the home itself: they may name places on the controller's own machine. It is how they came, not who they are.
    at_home: bool = field(default=False, compare=False)
    access_key: str | None = field(default=None, compare=False)  # the lasting one by which they came over the network
    passing: bool = field(
        default=False, compare=False
    )  # they came by what ends by itself, and give out nothing that could outlive it


@dataclass(frozen=True, slots=True)
class Tenant:
    """An account."""

    id: str
    name: str
    projects: list[str]  # ids
    account_keypairs_since: (
        datetime | None
    )  # when its first account key pair came: from then on not only administrators make them
    v3_accepts_lockout: bool = False  # a v3 call may lock other logins out, which it has no way to name


@dataclass(frozen=True, slots=True)
class User:
    """A person or a program in a tenant."""

    id: str
    tenant_id: str
    name: str
    role: Role
    kind: UserKind = "local"
    external_id: str | None = None  # by which the identity provider knows a federated user
    enabled: bool = True
    source_networks: list[str] = field(default_factory=list)  # from which they may ask; none: from everywhere
    created_at: datetime | None = None  # not known of the first user of a home made by the first version


@dataclass(frozen=True, slots=True)
class AccessKey:
    """What a user signs requests with; the secret is sealed, and not in this."""

    access_key: str
    user_id: str
    project_id: str
    created_at: datetime
    enabled: bool = True
    expires_at: datetime | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class TemporaryKey:
    """An access key that ends by itself, and goes with a security token; neither secret nor token is in this."""

    access_key: str
    parent: str  # the access key on which it stands: it ends with that one
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """What a user shows in the place of a signature; the token itself is not in this."""

    id: str
    user_id: str
    project_id: str
    description: str
    created_at: datetime
    expires_at: datetime
    asked_with: str | None = None  # the access key of the request that asked for it: it ends with that one
    last_used_at: datetime | None = None


SignInBy = Literal["password", "link"]


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    """Somebody signed in to the console; the session's id is not in this."""

    user_id: str
    project_id: str
    how: SignInBy
    created_at: datetime
    seen_at: datetime  # the last request that somebody made by hand, to the minute
    expires_at: datetime  # whatever they do
    asked_with: str | None = None  # the access key with which the link was asked for that let them in: it ends with that one


QuotaName = Literal["private_keypairs", "account_keypairs", "users"]


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much of what there may be, where nothing else was said: private key pairs for each user, the others for each tenant."""

    private_keypairs: int
    account_keypairs: int
    users: int


@dataclass(frozen=True, slots=True)
class Usage:
    """One quota: how much is used of how much."""

    name: QuotaName
    user_id: str | None  # None: of the tenant
    used: int
    limit: int
    set: bool  # by somebody; else the default


@dataclass(frozen=True, slots=True)
class Credential:
    """What opens a server's door this once. Stored only sealed, and no longer than it is needed (SealedCredential)."""

    password: Secret | None = None
    password_of: str | None = None  # the login whose it is, where that was said
    identity: Secret | None = None  # the text of a private key file
    passphrase: Secret | None = None  # of the identity
    agent_socket: str | None = None  # of an ssh-agent on this machine
    agent_key: str | None = None  # the one key of it: fingerprint, public key line, or comment
    certificate: str | None = None  # a user certificate for the key given, as a line
    new_password: Secret | None = None  # that a task sets; in memory only, for it is in custody

    @property
    def by_key(self) -> bool:
        """Whether a key was given, in whichever way."""
        return self.identity is not None or self.agent_key is not None


@dataclass(frozen=True, slots=True)
class Server:
    """A machine we reach."""

    id: str
    tenant_id: str
    name: str
    host: str
    port: int = 22
    login: str = "root"
    labels: dict[str, str] = field(default_factory=dict)
    host_key: str | None = None  # "ssh-ed25519 AAAA..."
    trust_on_first_use: bool = False
    password_login: PasswordLogin = "unknown"  # noqa: S105
    boot_id: str | None = None
    generation: int = 0  # raised by every claim of a task on this server; the server refuses an older one
    after_reset: dict[str, Any] | None = None  # by login: what waits for its first online proof
    jumps: list[str] = field(default_factory=list)  # ids of the jump servers that lead to it, the nearest to us first
    old_algorithms: list[str] = field(default_factory=list)  # that it is allowed although they are not safe
    reset_root: str | None = None  # where its disk is mounted while it is shut down; None: it runs
    any_address: bool = True  # named by the home's owner; else not on the controller's own machine or link (addresses)


@dataclass(frozen=True, slots=True)
class SealedCredential:
    """What opens a server, sealed for one task, or for one server of one rollout, until a moment."""

    owner_id: str  # of the task, or of the rollout
    server_id: str
    tenant_id: str
    sealed: Sealed
    expires_at: datetime


MOST_HOPS = 8


def route(server: Server, known: Mapping[str, Server]) -> list[Server]:
    """Return the jump servers on the way to a server, the nearest to us first. known: servers by id.

    The first of a server's jumps is reached on its own way, each further one from the one before it, as ssh -J does.
    ValueError where a server would come twice (so that there is no way), or where the way is too long.
    """
    way: list[Server] = []
    here = server
    while here.jumps:
        way[:0] = [known[each] for each in here.jumps]
        here = way[0]
        passed = [each.id for each in (*way, server)]
        if len(set(passed)) != len(passed):
            raise ValueError(f"{server.name}: a jump server on its way is reached through itself, or comes twice")
        if len(way) > MOST_HOPS:
            raise ValueError(f"{server.name}: more than {MOST_HOPS} jump servers on its way")
    return way


class ServerNotes(TypedDict, total=False):
    """What was seen of a server; a field left out stays as it is."""

    password_login: PasswordLogin
    boot_id: str | None
    after_reset: dict[str, Any] | None
    generation: int
    reset_root: str | None


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A key pair without its private half."""

    id: str
    tenant_id: str
    owner_id: str
    scope: Scope
    name: str
    type: str  # a KeyType, or what comes by import only: rsa-BITS, dsa
    managed: bool
    public_key: str  # one line: type, blob, and the comment that it came with; the name where it was made here
    fingerprint: str  # SHA256:...
    fingerprint_md5: str  # aa:bb:...
    created_at: datetime
    version: int = 1  # of the private half
    master_key_id: str | None = None  # the customer master key that its private half is sealed under, where it is in custody
    number: int = 0  # given by the store: for who needs one
    description: str = ""
    updated_at: datetime | None = None

    @property
    def line(self) -> str:
        """The public key as servers are given it: with the name, for in a comment people write anything."""
        return " ".join([*self.public_key.split(" ")[:2], self.name])

    def seen_by(self, user_id: str) -> bool:
        """Whether this user of the same tenant may know of it and use it."""
        return self.scope == "account" or self.owner_id == user_id


@dataclass(frozen=True, slots=True)
class Binding:
    """A key pair on a login of a server."""

    server_id: str
    login: str
    keypair_id: str
    proof: str  # logged_in, accepted or not_applicable
    closed_password_login: bool
    task_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BoundKey:
    """A binding in the light of who could still get in: by name of the server, and whether the private half can be opened."""

    server: str
    login: str
    keypair_id: str
    proof: str
    in_custody: bool
    password_login: PasswordLogin  # of the server, as last seen
    opens: bool = True  # the master key that its private half is under is enabled
    certain: bool = True  # no task that nobody heard the end of may have put it there, or taken it away


@dataclass(frozen=True, slots=True)
class Task:
    """One request for one server."""

    id: str
    tenant_id: str
    user_id: str
    server_id: str
    server_name: str
    login: str
    operation: Operation
    request: dict[str, Any]  # the options, none of them secret
    created_at: datetime
    seq: int = 0  # given by the store; the order of tasks
    generation: int = 0  # of the server, taken at the claim
    status: Status = "ready"
    server_state: ServerState = "as_before"
    phase: Phase = "queued"
    cause: str | None = None
    message: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    proofs: list[dict[str, str]] = field(default_factory=list)
    handling: str | None = None
    retryable: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    lease_owner: str | None = None
    lease_until: datetime | None = None
    retry_of: str | None = None
    private: bool = False  # private key pairs of whoever asked may be named in it: others are told less
    rollout_id: str | None = None  # that it is part of


@dataclass(frozen=True, slots=True)
class EndedTask:
    """What a task has come to, and no more of it."""

    id: str
    status: Status
    server_state: ServerState
    cause: str | None


RolloutState = Literal["running", "paused", "stopped", "cancelled", "finished"]


@dataclass(frozen=True, slots=True)
class RolloutTurn:
    """Where a rollout is, for who drives it."""

    state: RolloutState
    changes: int  # as Rollout's


@dataclass(frozen=True, slots=True)
class Rollout:
    """One order for many servers."""

    id: str
    tenant_id: str
    user_id: str
    operation: Operation
    request: dict[str, Any]  # as of each of its tasks
    strategy: dict[str, Any]  # as it was asked for, in words: controller/rollout/spelling.py
    servers: int
    private: bool  # as in Task
    created_at: datetime
    state: RolloutState = "running"
    reason: str = ""  # of its state
    go_on: bool = False  # somebody has looked at the canary, and said yes
    finished_at: datetime | None = None
    plan_id: str | None = None  # the rollout that has planned this one
    good_until: datetime | None = None  # of one that plans: until when it may be started
    changes: int = 0  # since it was made; whoever drives it in another process sees by that that it has to be read anew

    @property
    def plans(self) -> bool:
        """Whether it only looks: what would be done is told, and nothing is done."""
        return bool(self.request.get("plan"))


@dataclass(frozen=True, slots=True)
class RolloutServer:
    """A server of a rollout. What its last task has come to is that task's, and only read with it."""

    rollout_id: str
    position: int
    server_id: str
    server_name: str
    login: str
    label: str | None = None  # whose failures are counted together
    quorum: str | None = None  # of which one is worked on at a time
    bastions: list[str] = field(default_factory=list)
    subnet: str | None = None
    given: dict[str, Any] = field(default_factory=dict)  # which kinds of credential came for it, as its tasks keep it
    tries: int = 0
    task_id: str | None = None  # the last one
    held: str | None = None  # why it is not begun any more
    forgiven: bool = False  # it failed, and the rollout was told to go on all the same
    seen: str | None = None  # what it must be like, as it was planned (controller.seen)
    status: Status | None = None
    server_state: ServerState | None = None
    cause: str | None = None
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended."""

    status: Status  # one of FINAL
    server_state: ServerState
    phase: Phase = "done"
    cause: str | None = None
    message: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    proofs: list[dict[str, str]] = field(default_factory=list)
    handling: str | None = None
    retryable: bool = False
    private: bool = False  # as in Task
    # Of each file on the server whose text was changed: path, and SHA-256 before and after (None: there was nothing).
    files: list[dict[str, str | None]] = field(default_factory=list)


# Ordered by the service of emergencies only, which asks who may and who has approved.
DOOR_OPERATIONS: tuple[Operation, ...] = ("door-open", "door-extend", "door-close", "door-status")


@dataclass(frozen=True, slots=True)
class DoorSeen:
    """A door as its server told of it last: password login for one login, closed by the server itself. Times by its clock."""

    id: str  # 32 hexadecimal digits
    login: str
    network: str | None  # in CIDR notation, from which it is open; None: from everywhere
    opened_at: datetime
    deadline: datetime
    state: Literal["open", "closed"]
    closed_by: Literal["order", "deadline", "boot", "damage"] | None = None
    watchers: list[str] = field(default_factory=list)  # what closes it, each of which does alone

    @classmethod
    def told(cls, evidence: Mapping[str, Any]) -> "DoorSeen | None":
        """Return the door in the evidence of a task that has ended; None where its server told of none."""
        door = evidence.get("door")
        if not door:
            return None
        opened_at, deadline = (datetime.fromtimestamp(door[name], UTC) for name in ("opened_at", "deadline"))
        told = {name: door[name] for name in ("id", "login", "state", "closed_by", "watchers")}
        return cls(network=door["from"], opened_at=opened_at, deadline=deadline, **told)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: at once progress, audit trail and live feed."""

    id: int  # over all tenants
    tenant_id: str
    number: int  # within the tenant, without gaps
    user_id: str | None  # who did it, or asked for the task that did; None: the controller by itself
    task_id: str | None
    server_id: str | None
    keypair_id: str | None
    kind: str  # one of controller.events.KINDS
    phase: str | None
    detail: dict[str, Any]
    at: datetime
    digest: str  # controller/store/chain.py
    signature: str | None


KeySpec = Literal[
    "AES_256", "HMAC_256", "HMAC_384", "HMAC_512", "HMAC_SM3", "RSA_2048", "RSA_3072", "RSA_4096", "EC_P256", "EC_P384",
]  # fmt: skip
KeyUsage = Literal["ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC"]
KeyOrigin = Literal["kms", "external"]  # whose randomness the material is: ours, or somebody's who brought it
MasterKeyState = Literal["enabled", "disabled", "pending_deletion", "pending_import", "destroyed"]


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A customer master key without its material (rules: controller/kms/keys.py)."""

    id: str
    tenant_id: str
    alias: str
    created_at: datetime
    spec: KeySpec = "AES_256"
    usage: KeyUsage = "ENCRYPT_DECRYPT"
    origin: KeyOrigin = "kms"
    state: MasterKeyState = "enabled"
    default: bool = False  # made by the service at its first use, never by hand
    description: str = ""
    version: int = 1  # the newest; 0 before the first material came
    public_key: bytes | None = None  # SubjectPublicKeyInfo in DER
    deletes_at: datetime | None = None  # when a key pending deletion is destroyed
    rotates_every: int | None = None  # days; None: it is not rotated by itself
    rotation_days: int = 365  # what was last asked for, also while rotation is off
    rotation_from: datetime | None = None  # what the days are counted from
    rotated_at: datetime | None = None
    rotations: int = 0
    material_expires_at: datetime | None = None  # of imported material
    material_digest: bytes | None = field(default=None, repr=False)  # keyed; by which imported material is known again


@dataclass(frozen=True, slots=True)
class MasterKeyVersion:
    """The material of one version of a customer master key, wrapped by the root key.

    The root key only ever wraps 32 bytes: the material itself of an AES key, else a key that seals the material.
    """

    key_id: str
    tenant_id: str
    version: int
    wrapped: bytes = field(repr=False)
    root_check: str  # key check value of the root key that wrapped it
    created_at: datetime
    sealed: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave for somebody to do something with one customer master key, whatever their role."""

    id: str
    key_id: str
    tenant_id: str
    grantee: str  # a user's id, or the tenant's for all its users
    operations: list[str]
    issuer: str
    created_at: datetime
    name: str = ""
    retiring: str | None = None  # who else may retire it


@dataclass(frozen=True, slots=True)
class KeyAlias:
    """A further name of a customer master key, which can be moved to another one."""

    tenant_id: str
    alias: str  # begins with "alias/"
    key_id: str
    created_at: datetime
    updated_at: datetime
