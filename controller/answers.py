"""What the fleet API answers, as types: its OpenAPI document is made of them. The values are made in shapes and keyshapes.

More fields may come; none goes and none changes its meaning. A time is RFC 3339 in UTC.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from controller.doors import DoorDoes, DoorOrderState, DoorState
from controller.model import (
    KeyOrigin,
    KeySpec,
    KeyUsage,
    MasterKeyState,
    Operation,
    PasswordLogin,
    Phase,
    QuotaName,
    Role,
    RolloutState,
    Scope,
    ServerState,
    Status,
    UserKind,
)
from controller.policy import RotationState
from controller.stages import RotationBy, SecretKind, SecretRotationState

Json = dict[str, Any]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Base64 = Annotated[str, Field(description="Base64, in one line")]


class Problem(TypedDict):
    """Why a request was refused (RFC 9457). code is stable; detail is for people, and evidence for both."""

    type: str
    status: int
    code: str
    detail: str
    evidence: Json


class Health(TypedDict):
    status: str


class Ready(TypedDict):
    """A controller that is not ready answers 503, with the same checks and warnings in the evidence."""

    status: Literal["ready"]
    checks: dict[str, Literal["ok"]]
    warnings: list[str]


class DoctorFinding(TypedDict):
    """One thing that was looked at. code: "" where it is well; docs/kps-doctor.md has the others."""

    about: str
    status: Literal["ok", "warning", "error"]
    code: str
    seen: str
    next_step: str


class Diagnosis(TypedDict):
    """What the doctor found of the controller. status: of the gravest finding; served: whether the process that serves looked."""

    home: str
    served: bool
    status: Literal["ok", "warning", "error"]
    findings: list[DoctorFinding]


# -- key pairs


class Keypair(TypedDict):
    """A key pair without its private half."""

    name: str
    type: str
    scope: Scope
    managed: bool
    master_key_id: str | None
    public_key: str
    fingerprint: str
    fingerprint_md5: str
    warnings: list[str]
    created_at: Time
    id: str


class MadeKeypair(Keypair):
    """private_key: of an unmanaged one, here and nowhere else."""

    private_key: NotRequired[str]


class PrivateHalf(TypedDict):
    name: str
    private_key: str


class DecryptedPassword(TypedDict):
    name: str
    password: str


# -- secrets


class KeptSecret(TypedDict):
    """A secret without its values. server, login: whose password it is; works: the version that is known to open that login."""

    id: str
    name: str
    kind: SecretKind
    scope: Scope
    description: str
    server: str | None
    login: str | None
    version: str | None
    works: str | None
    rotates_every: str | None
    rotates_at: Time | None
    created_at: Time
    updated_at: Time | None


class SecretVersion(TypedDict):
    """A version without its value. sealed: false while it waits for the key service, which was away when it came."""

    version: str
    stages: list[str]
    binary: bool
    sealed: bool
    created_at: Time
    expires_at: Time | None


class WholeSecret(KeptSecret):
    """A secret with its versions, the oldest first."""

    versions: list[SecretVersion]


class OpenedSecret(SecretVersion):
    """A version with its value: as text, or where it is bytes, in Base64."""

    name: str
    value: NotRequired[str]
    value_base64: NotRequired[Base64]


class SecretRotation(TypedDict):
    """A password's new version on its way to its server. proved: somebody has logged in with it.

    again_at: when what has failed is tried again by itself.
    """

    id: str
    secret: str
    version: str
    by: RotationBy
    state: SecretRotationState
    tries: int
    proved: bool
    cause: str | None
    message: str
    task_id: str
    created_at: Time
    ended_at: Time | None
    again_at: Time | None


# -- servers


class BindingOnServer(TypedDict):
    """keypair: null where it is another user's private one."""

    login: str
    keypair: str | None
    another_users: bool
    proof: str
    closed_password_login: bool
    task_id: str
    created_at: Time


class Binding(BindingOnServer):
    server: str
    server_id: str


class Login(TypedDict):
    """A login of a server, by what is known of it. own: the one by which the server is reached."""

    server: str
    server_id: str
    login: str
    own: bool
    keypair: str | None
    another_users: bool
    proof: str | None
    password_login: PasswordLogin
    after_reset: bool


class Server(TypedDict):
    """keypair: the one that is bound to its own login. after_reset: what the first proof has yet to do."""

    id: str
    name: str
    host: str
    port: int
    login: str
    labels: dict[str, str]
    keypair: str | None
    bindings: list[BindingOnServer]
    password_login: PasswordLogin
    host_key: str | None
    trust_on_first_use: bool
    after_reset: Json | None
    jump: list[str]
    old_algorithms: list[str]
    reset_root: str | None


# -- tasks and events


class Proof(TypedDict):
    way: str
    login: str
    method: str


class Task(TypedDict):
    """One request for one server. number: its place in the order. evidence: what was seen; request: the options, none secret."""

    id: str
    number: int
    server: str
    login: str
    operation: Operation
    status: Status
    server_state: ServerState
    phase: Phase
    cause: str | None
    message: str
    evidence: Json
    proof: list[Proof]
    handling: str | None
    retryable: bool
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    retry_of: str | None
    rollout_id: str | None
    request: Json


class BegunSecretRotation(TypedDict):
    """A rotation of a password, and the task that sets it."""

    rotation: SecretRotation
    task: Task


class StartedTask(Task):
    """password: the one-time password that a reset sets, here and nowhere else."""

    password: NotRequired[str]


class Plan(TypedDict):
    """plan: what would be done; null before the task has ended, and where it would be refused."""

    id: str
    server: str
    login: str
    operation: Operation
    status: Status
    cause: str | None
    message: str
    handling: str | None
    created_at: Time
    finished_at: Time | None
    plan: Json | None


class Rollout(TypedDict):
    """One order for many servers. strategy: as it was asked for; reason: of its state."""

    id: str
    operation: Operation
    request: Json
    strategy: Json
    servers: int
    state: RolloutState
    reason: str
    created_at: Time
    finished_at: Time | None
    user_id: str
    plans: bool
    plan_id: str | None
    good_until: Time | None


class StartedPlan(Rollout):
    """What came of a plan. left_out: how many of its servers are not in it, by cause."""

    left_out: dict[str, int]


class KeptPlan(TypedDict):
    """The head of a plan and its signature (Ed25519, hex), as the API gives them: over "kps rollout plan 1", a newline, and the
    head as canonical JSON (names in order, no spaces, ASCII)."""

    head: Json
    signature: str


class PlanLook(TypedDict):
    """What a plan has found of one server. seen: None where it would be refused or could not be looked at; cause says why."""

    position: int
    server: str
    server_id: str
    login: str
    seen: str | None
    changes: list[Json]
    locked_out: list[str]
    first: str
    cause: str | None
    message: str


class RolloutProgress(Rollout):
    """A rollout with how many of its servers are how far: by state, by cause, by label and state, and held for which reason."""

    states: dict[str, int]
    causes: dict[str, int]
    labels: dict[str, dict[str, int]]
    held: dict[str, int]


class FailedBy(TypedDict):
    """A cause in a report, with one of the servers that failed by it: server, task_id, server_state, message, evidence."""

    cause: str
    servers: int
    meaning: str
    handling: str
    example: Json | None


class NotDone(TypedDict):
    """Servers of a report that are not as asked, alike in status and cause. next: what to type; names: the first thousand.

    status: also waiting, held, and left_out, by the plan that the rollout comes from.
    """

    status: str
    cause: str | None
    why: str | None
    servers: int
    names: list[str]
    next: str


class Moment(TypedDict):
    """Seconds after the rollout was asked for: servers begun by then, as asked, and failed in their last try so far."""

    seconds: float
    begun: int
    done: int
    failed: int


class Mark(TypedDict):
    """When the canary or a batch was begun, a retry was asked for, or the rollout ended."""

    seconds: float
    what: str


class Pause(TypedDict):
    """From when until when (None: still) a rollout was paused or stopped, and why."""

    seconds: float
    until: float | None
    what: str
    reason: str


class OverTime(TypedDict):
    """A rollout over its time, seconds."""

    seconds: float
    points: list[Moment]
    marks: list[Mark]
    pauses: list[Pause]


class RolloutReport(RolloutProgress):
    """All there is to tell of a rollout. at: when it was told; ended_at: up to when it ran."""

    asked_by: str
    keypair: Json | None
    at: Time
    ended_at: Time
    not_done: list[NotDone]
    over_time: OverTime
    failed_by: list[FailedBy]


class RolloutServer(TypedDict):
    """A server of a rollout, with what its last task has come to. status: also waiting, and held."""

    position: int
    server: str
    login: str
    label: str | None
    status: str
    server_state: ServerState | None
    cause: str | None
    tries: int
    held: str | None
    task_id: str | None


class Policy(TypedDict):
    """A rotation policy. servers: label=value, or null: all; strategy: how its rollouts go. Days are whole."""

    name: str
    servers: str | None
    max_age_days: int
    remind_days: list[int]
    grace_days: int
    key_type: str | None
    strategy: Json
    paused: bool
    user_id: str
    created_at: Time


class Rotation(TypedDict):
    """One key pair in the place of another. old, new: null for another user's private ones; rollout_id: the newest.

    removed_at: since when the old one has been bound nowhere.
    """

    id: str
    policy: str
    old: str | None
    new: str | None
    state: RotationState
    reason: str
    rollout_id: str | None
    created_at: Time
    removed_at: Time | None
    ended_at: Time | None


class Door(TypedDict):
    """An emergency door: password login open for one login of a server. network: from where; null: from everywhere.

    confirmed: how it ended is known. task_id: the task that opens it, once the order is given; last_task_id: the last one that
    closes it, or asks whether it is closed. closed_by: order, deadline, boot, damage. note: why it stands so, or an empty string.
    password_works: it is over, and the one-time password that was made for it was not seen changed yet.
    """

    id: str
    server: str
    server_id: str
    login: str
    network: str | None
    seconds: int
    state: DoorState
    confirmed: bool
    reason: str
    user_id: str
    order_id: str
    task_id: str
    created_at: Time
    opened_at: Time | None
    deadline: Time | None
    left_seconds: int
    closed_at: Time | None
    closed_by: str | None
    last_task_id: str | None
    password_works: bool
    note: str


class DoorOrder(TypedDict):
    """What somebody has asked for. doors: their ids; rules: by which a second user has to agree."""

    id: str
    does: DoorDoes
    state: DoorOrderState
    reason: str
    seconds: int
    doors: list[str]
    user_id: str
    created_at: Time
    rules: list[str]
    approve_until: Time | None
    decided_by: str | None
    decided_at: Time | None


class DoorWithOrder(Door):
    order: DoorOrder


class DoorsAsked(TypedDict):
    """Orders, and all their doors. What needs a second user is an order of its own.

    passwords: those that were made for doors, in this answer and nowhere else.
    """

    orders: list[DoorOrder]
    doors: list[Door]
    passwords: list["DoorPassword"]


class DecidedDoors(TypedDict):
    order: DoorOrder
    doors: list[Door]


class DoorPassword(TypedDict):
    """A one-time password, in this answer and nowhere else. secret: as which it is kept; task_id: the task that sets it."""

    server: str
    login: str
    secret: str
    task_id: str
    password: str


class DoorRule(TypedDict):
    """Where a second user has to agree. servers: label=value."""

    servers: str
    minutes: int
    user_id: str
    created_at: Time


class DoorHook(TypedDict):
    """Where the tenant is told of its doors; null: nowhere."""

    url: str | None
    user_id: str | None
    created_at: Time | None


class PolicyWithRotations(Policy):
    """A policy with its rotations, the oldest first. blocked: why it does nothing, or an empty string."""

    blocked: str
    rotations: list[Rotation]


class DueKey(TypedDict):
    """How a key pair stands by a policy. keypair, fingerprint: null for another user's private one.

    logins: of the policy's servers where it is bound; elsewhere: of others. obstacle: why it is not rotated by itself, or an
    empty string. rotation: the one under way.
    """

    policy: str
    keypair: str | None
    fingerprint: str | None
    standing: Literal["fresh", "soon", "due"]
    age_days: int
    due_at: Time
    created_at: Time
    logins: int
    elsewhere: int
    obstacle: str
    rotation: Rotation | None


class TakenOff(TypedDict):
    deleted: int


class Ended(TakenOff):
    cancelled: int


class Event(TypedDict):
    id: int
    number: int
    user_id: str | None
    task_id: str | None
    server_id: str | None
    keypair_id: str | None
    kind: str
    phase: str | None
    detail: Json
    at: Time


class ChainedEvent(Event):
    """An event with all that its digest and its signature are made of."""

    tenant_id: str
    digest: str
    signature: str | None


class AuditKey(TypedDict):
    tenant_id: str
    public_key: str


class Reach(TypedDict):
    """How far the trail reaches, signed."""

    tenant_id: str
    first: int
    previous: str
    number: int
    digest: str
    at: Time
    signature: str


class AuditExport(Reach):
    kps: str
    public_key: str
    checkpoints: list[Reach]


class AuditCheckpoint(Reach):
    kps: str
    public_key: str


class Pruned(TypedDict):
    deleted: int
    first: int


# -- users, access keys, quotas, tenants


class User(TypedDict):
    name: str
    role: Role
    kind: UserKind
    external_id: str | None
    enabled: bool
    source_networks: list[str]
    created_at: Time | None
    id: str


class DeletedUser(TypedDict):
    """keypairs: the private ones that went with the user."""

    name: str
    keypairs: list[str]


class AccessKey(TypedDict):
    access_key: str
    user: str
    project_id: str
    enabled: bool
    created_at: Time
    expires_at: Time | None
    last_used_at: Time | None


class MadeAccessKey(AccessKey):
    """secret_key: here and nowhere else."""

    secret_key: str


class TemporaryKey(TypedDict):
    """parent: the access key that it stands on, and ends with."""

    access_key: str
    user: str
    parent: str
    created_at: Time
    expires_at: Time


class MadeTemporaryKey(TemporaryKey):
    """secret_key, security_token: here and nowhere else."""

    project_id: str
    secret_key: str
    security_token: str


class Token(TypedDict):
    """What is known of a token, which is not in it."""

    id: str
    user: str
    project_id: str
    description: str
    created_at: Time
    expires_at: Time
    last_used_at: Time | None


class MadeToken(Token):
    """token: here and nowhere else."""

    token: str


class ConsoleLink(TypedDict):
    """code: here and nowhere else. url: with the code behind its #, where the controller knows how it is reached."""

    user: str
    code: str
    path: str
    url: str | None
    expires_at: Time


class Quota(TypedDict):
    """set: whether somebody has set the limit; else it is the default."""

    name: QuotaName
    used: int
    limit: int
    set: bool


class Caller(TypedDict):
    """As whom the caller is taken. at_home: through the home's own socket."""

    user: str
    user_id: str
    role: Role
    kind: UserKind
    tenant: str
    tenant_id: str
    project_id: str
    at_home: bool


class Tenant(TypedDict):
    name: str
    id: str
    projects: list[str]
    account_keypairs_since: Time | None
    v3_accepts_lockout: bool


class MadeTenant(Tenant):
    """secret_key: its administrator's, here and nowhere else."""

    administrator: str
    user_id: str
    access_key: str
    secret_key: str


# -- master keys


class RotationOfKey(TypedDict):
    every_days: int | None
    next_at: Time | None
    last_at: Time | None
    count: int


class MasterKey(TypedDict):
    """A customer master key; nothing of its material."""

    id: str
    alias: str
    spec: KeySpec
    usage: KeyUsage
    origin: KeyOrigin
    state: MasterKeyState
    default: bool
    description: str
    version: int
    created_at: Time
    deletes_at: Time | None
    material_expires_at: Time | None
    rotation: RotationOfKey


class KeyVersion(TypedDict):
    version: int
    created_at: Time


class WholeMasterKey(MasterKey):
    versions: list[KeyVersion]
    tags: dict[str, str]
    aliases: list[str]


class KeyQuota(TypedDict):
    used: int
    limit: int
    grants_per_key: int


class ImportParameters(TypedDict):
    """public_key: what the material is encrypted to; token: goes back with it. Both are good until expires_at."""

    key_id: str
    token: Base64
    public_key: Base64
    expires_at: Time


class Grant(TypedDict):
    id: str
    key_id: str
    grantee: str
    operations: list[str]
    issuer: str
    name: str
    retiring: str | None
    created_at: Time


class KeyAlias(TypedDict):
    alias: str
    key_id: str
    created_at: Time
    updated_at: Time


class Encrypted(TypedDict):
    key_id: str
    algorithm: str
    ciphertext: Base64


class Decrypted(TypedDict):
    key_id: str
    algorithm: str
    plaintext: Base64


class ReEncrypted(Encrypted):
    source_key_id: str | None
    source_algorithm: str | None


class DataKey(TypedDict):
    """plaintext: where it was asked for."""

    key_id: str
    ciphertext: Base64
    plaintext: NotRequired[Base64]


class EncryptedDataKey(TypedDict):
    key_id: str
    ciphertext: Base64
    length: int


class DecryptedDataKey(TypedDict):
    key_id: str
    plaintext: Base64
    length: int
    digest: Base64


class DataKeyPair(TypedDict):
    """private_key: where it was asked for."""

    key_id: str
    spec: str
    public_key: Base64
    ciphertext: Base64
    private_key: NotRequired[Base64]


class RandomBits(TypedDict):
    random: Base64


class PublicHalf(TypedDict):
    key_id: str
    public_key: str


class Signature(TypedDict):
    key_id: str
    algorithm: str
    signature: Base64


class Code(TypedDict):
    key_id: str
    algorithm: str
    mac: Base64


class Verdict(TypedDict):
    key_id: str
    algorithm: str
    valid: bool
