"""The JSON of the fleet API: what requests may hold, and how values look in answers.

The fields of the answers are a contract: more may come, none goes and none changes its meaning.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

from controller import keyfiles
from controller.model import (
    MOST_HOPS,
    AccessKey,
    Binding,
    Credential,
    Event,
    KeyFormat,
    KeyPair,
    KeyType,
    Operation,
    Role,
    RolloutServer,
    Scope,
    Secret,
    Server,
    Task,
    TemporaryKey,
    Tenant,
    Token,
    Usage,
    User,
    UserKind,
)
from controller.rollout.told import instant as instant
from controller.rollout.told import rollout as rollout

Json = dict[str, Any]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Password = Annotated[SecretStr, Field(min_length=1, max_length=1024)]
KeyFile = Annotated[SecretStr, Field(min_length=1, max_length=64 * 1024)]
Line = Annotated[str, StringConstraints(min_length=1, max_length=64 * 1024)]
Path = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
_KEY = ("identity", "passphrase", "agent_socket", "agent_key", "certificate")


class Request(BaseModel):
    """What a caller sends. A field that nobody knows is refused, so that a misspelt option is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _one_key(given: "Opens | Opening") -> None:
    if (given.agent_key is None) != (given.agent_socket is None):
        raise ValueError("agent_socket and agent_key go together")
    if given.agent_key is not None and given.identity is not None:
        raise ValueError("identity and agent_key exclude each other")
    if given.certificate is not None and given.identity is None and given.agent_key is None:
        raise ValueError("certificate goes with identity or agent_key")


class NewServer(Request):
    name: Name
    host: Name
    port: int = Field(default=22, ge=1, le=65535)
    login: Name = "root"
    labels: dict[Name, Annotated[str, StringConstraints(max_length=255)]] = Field(default_factory=dict, max_length=64)
    host_key: str | None = Field(default=None, max_length=16 * 1024)
    trust_on_first_use: bool = False
    jump: list[Name] = Field(default_factory=list, max_length=MOST_HOPS)
    old_algorithms: list[Name] = Field(default_factory=list, max_length=64)


class ChangedServers(Request):
    """How servers are reached. What is left out stays as it is."""

    port: int | None = Field(default=None, ge=1, le=65535)
    jump: list[Name] | None = Field(default=None, max_length=MOST_HOPS)
    old_algorithms: list[Name] | None = Field(default=None, max_length=64)


class ChangedServer(ChangedServers):
    """How one server is reached. What is left out stays as it is."""

    host: Name | None = None
    reset_root: Annotated[str, StringConstraints(max_length=4096)] | None = None  # "": it runs


class NewKeypair(Request):
    name: Name
    type: KeyType = "ed25519"
    scope: Scope = "private"
    managed: bool = True
    master_key: Name | None = None


class ManagedKeypair(Request):
    private_key: KeyFile
    passphrase: Password | None = None
    master_key: Name | None = None


class ClearedKeypair(Request):
    even_if_only_way_in: bool = False


class MovedKeypair(Request):
    master_key: Name


class ImportedKeypair(Request):
    name: Name
    scope: Scope = "private"
    public_key: str | None = Field(default=None, max_length=16 * 1024)
    private_key: KeyFile | None = None
    master_key: Name | None = None
    passphrase: Password | None = None
    allow_weak: bool = False  # RSA of less than 2048 bits


class ExportedKeypair(Request):
    format: KeyFormat = "openssh"
    passphrase: Password | None = None  # of the file that is given out


class EncryptedPassword(Request):
    encrypted: str = Field(min_length=1, max_length=4096)  # Base64


class NewUser(Request):
    name: Name
    role: Role = "operator"
    kind: UserKind = "local"
    external_id: Name | None = None
    source_networks: list[Name] = Field(default_factory=list, max_length=64)


class ChangedUser(Request):
    """What is left out stays as it is."""

    role: Role | None = None
    enabled: bool | None = None
    source_networks: list[Name] | None = Field(default=None, max_length=64)


class ChangedTenant(Request):
    """v3_accepts_lockout: whether v3 calls may lock other logins out, which they cannot name."""

    v3_accepts_lockout: bool


class NewAccessKey(Request):
    """user: else the caller. days: after which it ends by itself."""

    user: Name | None = None
    days: int | None = Field(default=None, ge=1, le=3650)


class Rotation(Request):
    beside_hours: int = Field(default=24, ge=0, le=720)


class ChangedAccessKey(Request):
    enabled: bool


class NewTemporaryKey(Request):
    """access_key: the one that it stands on, else the one that the request is signed with."""

    access_key: Name | None = None
    seconds: int = Field(default=3600, ge=60, le=24 * 3600)


class NewToken(Request):
    """user: else the caller."""

    user: Name | None = None
    seconds: int = Field(default=24 * 3600, ge=60, le=30 * 24 * 3600)
    description: Annotated[str, StringConstraints(max_length=255)] = ""


class NewConsolePassword(Request):
    password: Password


class NewConsoleLink(Request):
    """user: else the caller."""

    user: Name | None = None
    minutes: int = Field(default=10, ge=1, le=24 * 60)


class NewQuota(Request):
    """limit: null for the default. user: else the tenant."""

    limit: int | None = Field(ge=0, le=1_000_000)
    user: Name | None = None


class NewTenant(Request):
    name: Name
    administrator: Name = "administrator"


class Opens(Request):
    """What opens a server's door this once. password_of: the one login whose password it is.

    The key is an identity, or one of an ssh-agent on the controller's machine; either may have a certificate.
    """

    password: Password | None = None
    password_of: Name | None = None
    identity: KeyFile | None = None
    passphrase: Password | None = None
    agent_socket: Path | None = None
    agent_key: Line | None = None
    certificate: Line | None = None

    def credential(self) -> Credential:
        """Return it as the services take it."""
        return Credential(
            password=secret(self.password),
            password_of=self.password_of,
            identity=secret(self.identity),
            passphrase=secret(self.passphrase),
            agent_socket=self.agent_socket,
            agent_key=self.agent_key,
            certificate=self.certificate,
        )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        _one_key(self)
        return self


class Opening(Request):
    """What opens servers, each by its name; and one for all: a private key for each server that has none of its own there."""

    credentials: dict[Name, Opens] = Field(default_factory=dict)
    identity: KeyFile | None = None
    passphrase: Password | None = None
    agent_socket: Path | None = None
    agent_key: Line | None = None
    certificate: Line | None = None

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        _one_key(self)
        return self

    def opens(self, server: str) -> Credential | None:
        """Return what opens a server, if anything was given for it."""
        own = self.credentials.get(server, Opens())
        if own.identity is None and own.agent_key is None and (self.identity is not None or self.agent_key is not None):
            own = own.model_copy(update={name: getattr(self, name) for name in _KEY if getattr(self, name) is not None})
        return own.credential() if own.model_fields_set else None


class NewOperation(Opening):
    operation: Operation
    servers: list[Name] = Field(default_factory=list, max_length=10_000)
    all: bool = False
    keypair: Name | None = None
    login: Name | None = None
    keep_password_login: bool = False
    close_password_login: bool = False
    accept_lockout: list[Name] = Field(default_factory=list, max_length=1000)
    accept_unproved: bool = False
    force: bool = False
    fix_permissions: bool = False
    take_over: bool = False
    revoke: bool = False
    everywhere: bool = False
    end_sessions: bool = False
    root: str | None = Field(default=None, max_length=4096)
    set_password: bool = False
    public_key: str | None = Field(default=None, max_length=16 * 1024)
    repair: bool = False
    plan: bool = False

    def options(self) -> Json:
        """Return what a task keeps of this: nothing secret, and not the servers."""
        return self.model_dump(exclude={"operation", "servers", "all", "credentials", *_KEY})


Limit = Annotated[str, Field(max_length=20)]


class RolloutStrategy(Request):
    """How a rollout goes: amounts are numbers ("5") or shares ("2.5%"). What is left out is as controller/rollout has it."""

    canary: Limit | None = None
    batch: Limit | None = None
    max_failures: Limit | None = None
    max_failures_of: dict[Name, Limit] = Field(default_factory=dict, max_length=100)
    per_label: Name | None = None
    quorum: Name | None = None
    concurrency: int | None = Field(default=None, ge=1, le=1000)
    per_bastion: int | None = Field(default=None, ge=1, le=1000)
    window: Annotated[str, Field(max_length=100)] | None = None
    pause_after_canary: bool = False
    tries: int | None = Field(default=None, ge=1, le=20)

    def words(self) -> Json:
        """Return what was said."""
        return self.model_dump(exclude_none=True)


Hours = Annotated[float | None, Field(gt=0, le=720)]


class NewRollout(NewOperation):
    """plan: only look, for a plan, which may be started for good_for_seconds."""

    strategy: RolloutStrategy = Field(default_factory=RolloutStrategy)
    credential_hours: Hours = None
    good_for_seconds: int = Field(default=86_400, ge=60, le=30 * 86_400)

    def options(self) -> Json:
        """Return what each of its tasks keeps of this."""
        other = ("strategy", "credential_hours", "good_for_seconds")
        return {name: value for name, value in super().options().items() if name not in other}


class ResumeRollout(Request):
    credentials: dict[Name, Opens] = Field(default_factory=dict)
    credential_hours: Hours = None


class RetryRollout(ResumeRollout):
    """set: how the servers that are tried again are reached from now on."""

    cause: Name | None = None
    set: ChangedServers | None = None


Days = Annotated[int, Field(ge=0, le=100_000)]


class SetPolicy(Request):
    """A rotation policy. servers: label=value; without it, all servers."""

    servers: Line | None = None
    max_age_days: Days
    remind_days: list[Days] | None = Field(default=None, max_length=20)
    grace_days: Days | None = None
    key_type: KeyType | None = None
    strategy: RolloutStrategy = Field(default_factory=RolloutStrategy)


class RunPolicy(Request):
    """early: also key pairs that are not due yet; keypairs: of these names alone. again: at once what failed, not in a day."""

    keypairs: list[Name] = Field(default_factory=list, max_length=1000)
    early: bool = False
    again: bool = True


class Retry(Request):
    credential: Opens | None = None


class Exported(Request):
    """Which events were given out, and the digest of the last one."""

    first: int = Field(ge=1, le=2**62)
    number: int = Field(ge=1, le=2**62)
    digest: str = Field(pattern="^[0-9a-f]{64}$")


class Prune(Request):
    before: datetime


def secret(given: SecretStr | None) -> Secret | None:
    """Return what was given as a secret of ours."""
    return Secret(given.get_secret_value()) if given else None


def server(found: Server, bindings: Iterable[tuple[Binding, str | None]], names: Mapping[str, str]) -> Json:
    """Return a server with its bindings, each given with its key pair's name, or None for another user's private one.

    names: of servers, by their ids.
    """
    bound = [
        {
            "login": binding.login,
            "keypair": keypair,
            "another_users": keypair is None,
            "proof": binding.proof,
            "closed_password_login": binding.closed_password_login,
            "task_id": binding.task_id,
            "created_at": instant(binding.created_at),
        }
        for binding, keypair in sorted(bindings, key=lambda pair: pair[0].login)
    ]
    return {
        "id": found.id,
        "name": found.name,
        "host": found.host,
        "port": found.port,
        "login": found.login,
        "labels": found.labels,
        "keypair": next((binding["keypair"] for binding in bound if binding["login"] == found.login), None),
        "bindings": bound,
        "password_login": found.password_login,
        "host_key": found.host_key,
        "trust_on_first_use": found.trust_on_first_use,
        "after_reset": found.after_reset,
        "jump": [names.get(each, each) for each in found.jumps],
        "old_algorithms": found.old_algorithms,
        "reset_root": found.reset_root,
    }


def keypair(found: KeyPair) -> Json:
    """Return a key pair without its private half."""
    return {
        "name": found.name,
        "type": found.type,
        "scope": found.scope,
        "managed": found.managed,
        "master_key_id": found.master_key_id,
        "public_key": found.public_key,
        "fingerprint": found.fingerprint,
        "fingerprint_md5": found.fingerprint_md5,
        "warnings": keyfiles.warnings(found.type),
        "created_at": instant(found.created_at),
        "id": found.id,
    }


def user(found: User) -> Json:
    """Return a user."""
    return {
        "name": found.name,
        "role": found.role,
        "kind": found.kind,
        "external_id": found.external_id,
        "enabled": found.enabled,
        "source_networks": found.source_networks,
        "created_at": instant(found.created_at),
        "id": found.id,
    }


def access_key(found: AccessKey, user: str) -> Json:
    """Return an access key without its secret. user: whose it is, by name."""
    return {
        "access_key": found.access_key,
        "user": user,
        "project_id": found.project_id,
        "enabled": found.enabled,
        "created_at": instant(found.created_at),
        "expires_at": instant(found.expires_at),
        "last_used_at": instant(found.last_used_at),
    }


def temporary_key(found: TemporaryKey, user: str) -> Json:
    """Return a temporary access key without its secrets. user: whose it is, by name."""
    return {
        "access_key": found.access_key,
        "user": user,
        "parent": found.parent,
        "created_at": instant(found.created_at),
        "expires_at": instant(found.expires_at),
    }


def token(found: Token, user: str) -> Json:
    """Return what is known of a token, which is not in it. user: whose it is, by name."""
    return {
        "id": found.id,
        "user": user,
        "project_id": found.project_id,
        "description": found.description,
        "created_at": instant(found.created_at),
        "expires_at": instant(found.expires_at),
        "last_used_at": instant(found.last_used_at),
    }


def usage(found: Usage) -> Json:
    """Return a quota with what is used of it."""
    return {"name": found.name, "used": found.used, "limit": found.limit, "set": found.set}


def tenant(found: Tenant) -> Json:
    """Return a tenant."""
    return {
        "name": found.name,
        "id": found.id,
        "projects": found.projects,
        "account_keypairs_since": instant(found.account_keypairs_since),
        "v3_accepts_lockout": found.v3_accepts_lockout,
    }


def task(found: Task) -> Json:
    """Return a task; what it asked for is in request, none of it secret."""
    return {
        "id": found.id,
        "number": found.seq,
        "server": found.server_name,
        "login": found.login,
        "operation": found.operation,
        "status": found.status,
        "server_state": found.server_state,
        "phase": found.phase,
        "cause": found.cause,
        "message": found.message,
        "evidence": found.evidence,
        "proof": found.proofs,
        "handling": found.handling,
        "retryable": found.retryable,
        "created_at": instant(found.created_at),
        "started_at": instant(found.started_at),
        "finished_at": instant(found.finished_at),
        "retry_of": found.retry_of,
        "rollout_id": found.rollout_id,
        "request": found.request,
    }


def rollout_server(found: RolloutServer) -> Json:
    """Return a server of a rollout, with what its last task has come to."""
    return {
        "position": found.position,
        "server": found.server_name,
        "login": found.login,
        "label": found.label,
        "status": "held" if found.held else found.status or "waiting",
        "server_state": found.server_state,
        "cause": found.cause,
        "tries": found.tries,
        "held": found.held,
        "task_id": found.task_id,
    }


def event(found: Event) -> Json:
    """Return an event."""
    return {
        "id": found.id,
        "number": found.number,
        "user_id": found.user_id,
        "task_id": found.task_id,
        "server_id": found.server_id,
        "keypair_id": found.keypair_id,
        "kind": found.kind,
        "phase": found.phase,
        "detail": found.detail,
        "at": instant(found.at),
    }


def in_utc(given: datetime | None) -> datetime | None:
    """Return a time that was given; without a zone it is in UTC."""
    return given if given is None or given.tzinfo is not None else given.replace(tzinfo=UTC)
