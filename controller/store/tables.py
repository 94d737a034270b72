"""The tables. migrations/ makes them; a test holds that both say the same."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

VERSION = "0022"  # the newest migration
# Of a task: nothing else of its tenant is begun before it.
URGENT_WAITS = "status = 'ready' AND operation IN ('door-open', 'door-extend', 'door-close')"


class Instant(TypeDecorator[datetime]):
    """A time in UTC, also where the database keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)  # where it comes with one, that is UTC


# A number that is never used again. An Integer of SQLite has 64 bits, and only that name makes it count by itself.
Many = Integer().with_variant(BigInteger(), "postgresql")

metadata = MetaData()

tenants = Table(
    "tenants", metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("account_keypairs_since", Instant),
    Column("v3_accepts_lockout", Boolean, nullable=False, server_default=false()),
)  # fmt: skip

projects = Table(
    "projects", metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
)  # fmt: skip

users = Table(
    "users", metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("kind", Text, nullable=False, server_default="local"),
    Column("external_id", Text),
    Column("enabled", Boolean, nullable=False, server_default=true()),
    Column("source_networks", JSON, nullable=False, server_default="[]"),
    Column("created_at", Instant),
    Column("deleted_at", Instant),  # the row stays: what they did, and what they made for the account, goes on naming them
    UniqueConstraint("tenant_id", "name", name="users_by_name"),
    Index("users_by_external_id", "tenant_id", "external_id", unique=True),
)  # fmt: skip

access_keys = Table(
    "access_keys", metadata,
    Column("access_key", String(20), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("enabled", Boolean, nullable=False, server_default=true()),
    Column("expires_at", Instant),
    Column("last_used_at", Instant),
)  # fmt: skip

# Access keys that end by themselves, each standing on a lasting one; digest: SHA-256 of the security token that goes with it.
temporary_keys = Table(
    "temporary_keys", metadata,
    Column("access_key", String(20), primary_key=True),
    Column("parent", ForeignKey("access_keys.access_key"), nullable=False, index=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
)  # fmt: skip

# digest: SHA-256 of the token, which is random enough for it to tell nothing.
tokens = Table(
    "tokens", metadata,
    Column("id", String(32), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("description", Text, nullable=False),
    Column("asked_with", String(20)),  # the access key of the request that asked for it, with which it ends
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("last_used_at", Instant),
    Index("tokens_by_digest", "digest", unique=True),
)  # fmt: skip

# What people sign in to the console with; hash: Argon2id, as a PHC string.
console_passwords = Table(
    "console_passwords", metadata,
    Column("user_id", ForeignKey("users.id"), primary_key=True),
    Column("hash", Text, nullable=False),
    Column("changed_at", Instant, nullable=False),
)  # fmt: skip

# Links that let somebody into the console once; digest: SHA-256 of what the link carries.
console_links = Table(
    "console_links", metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("asked_with", String(20)),  # the access key of the request that asked for it, with which it ends
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
)  # fmt: skip

# Whoever is signed in to the console; digest: SHA-256 of the session's id.
console_sessions = Table(
    "console_sessions", metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
    Column("how", Text, nullable=False),
    Column("asked_with", String(20)),  # as of the link that it began with
    Column("created_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
)  # fmt: skip

# What was set by somebody; where there is no row the default holds. user_id "": of the tenant, or of each of its users.
quotas = Table(
    "quotas", metadata,
    Column("tenant_id", ForeignKey("tenants.id"), primary_key=True),
    Column("user_id", String(32), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("most", Integer, nullable=False),
)  # fmt: skip

# At most one row: whose home this is.
home = Table(
    "home", metadata,
    Column("one", Integer, CheckConstraint("one = 1", name="home_is_one"), primary_key=True),
    Column("user_id", ForeignKey("users.id"), nullable=False),
    Column("project_id", ForeignKey("projects.id"), nullable=False),
)  # fmt: skip

master_keys = Table(
    "master_keys", metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", String(32), nullable=False),  # made before its tenant is, in one go with it
    Column("alias", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("spec", Text, nullable=False),
    Column("usage", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("default", Boolean, nullable=False),
    Column("description", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("public_key", LargeBinary),
    Column("deletes_at", Instant),
    Column("rotates_every", Integer),
    Column("rotation_days", Integer, nullable=False),
    Column("rotation_from", Instant),
    Column("rotated_at", Instant),
    Column("rotations", Integer, nullable=False),
    Column("material_expires_at", Instant),
    Column("material_digest", LargeBinary),
    # What is destroyed stays on record, and its name is free.
    Index("master_keys_by_alias", "tenant_id", "alias", unique=True,
          sqlite_where=text("state <> 'destroyed'"), postgresql_where=text("state <> 'destroyed'")),
)  # fmt: skip

master_key_versions = Table(
    "master_key_versions", metadata,
    Column("key_id", ForeignKey("master_keys.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("tenant_id", String(32), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("root_check", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("sealed", LargeBinary),
)  # fmt: skip

master_key_aliases = Table(
    "master_key_aliases", metadata,
    Column("tenant_id", String(32), primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("key_id", ForeignKey("master_keys.id"), nullable=False, index=True),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
)  # fmt: skip

master_key_tags = Table(
    "master_key_tags", metadata,
    Column("key_id", ForeignKey("master_keys.id"), primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("value", Text, nullable=False),
)  # fmt: skip

master_key_grants = Table(
    "master_key_grants", metadata,
    Column("id", String(64), primary_key=True),
    Column("key_id", ForeignKey("master_keys.id"), nullable=False, index=True),
    Column("tenant_id", String(32), nullable=False),
    Column("grantee", String(64), nullable=False),
    Column("operations", JSON, nullable=False),
    Column("issuer", String(64), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("name", Text, nullable=False),
    Column("retiring", String(64)),
)  # fmt: skip

# The private halves of the keys under which material travels here, each until its token expires.
import_tokens = Table(
    "import_tokens", metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("key_id", ForeignKey("master_keys.id"), nullable=False, index=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("expires_at", Instant, nullable=False),
)  # fmt: skip

servers = Table(
    "servers", metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    Column("login", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("host_key", Text),
    Column("trust_on_first_use", Boolean, nullable=False),
    Column("password_login", Text, nullable=False),
    Column("boot_id", Text),
    Column("generation", Integer, nullable=False),
    Column("after_reset", JSON(none_as_null=True)),
    Column("jumps", JSON, nullable=False, server_default="[]"),
    Column("old_algorithms", JSON, nullable=False, server_default="[]"),
    Column("reset_root", Text),
    Column("any_address", Boolean, nullable=False, server_default=true()),
    UniqueConstraint("tenant_id", "name", name="servers_by_name"),
)  # fmt: skip

keypairs = Table(
    "keypairs", metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("owner_id", ForeignKey("users.id"), nullable=False),
    Column("scope", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("managed", Boolean, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("fingerprint_md5", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("sealed", LargeBinary),
    Column("master_key_id", String(36), index=True),  # as the sealed record says, to be found by it
    Column("number", Integer, nullable=False, server_default="0"),
    Column("description", Text, nullable=False, server_default=""),
    Column("updated_at", Instant),
    CheckConstraint("managed = (sealed IS NOT NULL)", name="managed_is_sealed"),
    UniqueConstraint("tenant_id", "owner_id", "name", name="keypairs_by_owner"),
    Index("keypairs_by_name", "tenant_id", "name"),
    Index("keypairs_by_number", "number", unique=True),
)  # fmt: skip

bindings = Table(
    "bindings", metadata,
    Column("server_id", ForeignKey("servers.id"), primary_key=True),
    Column("login", Text, primary_key=True),
    Column("keypair_id", ForeignKey("keypairs.id"), nullable=False, index=True),
    Column("proof", Text, nullable=False),
    Column("closed_password_login", Boolean, nullable=False),
    Column("task_id", String(36), nullable=False),
    Column("created_at", Instant, nullable=False),
)  # fmt: skip

tasks = Table(
    "tasks", metadata,
    Column("seq", Many, primary_key=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("server_id", String(36), nullable=False),  # outlives the server
    Column("server_name", Text, nullable=False),
    Column("login", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("request", JSON, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("server_state", Text, nullable=False),
    Column("phase", Text, nullable=False),
    Column("cause", Text),
    Column("message", Text, nullable=False),
    Column("evidence", JSON, nullable=False),
    Column("proofs", JSON, nullable=False),
    Column("handling", Text),
    Column("retryable", Boolean, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("lease_owner", Text),
    Column("lease_until", Instant),
    Column("retry_of", String(36), unique=True),  # a task is retried once; then its retry is
    Column("private", Boolean, nullable=False, server_default=true()),
    Column("rollout_id", String(36)),
    Index("tasks_of_rollout", "rollout_id", "id", "status", "cause"),  # all that counting a rollout needs of its tasks
    Index("tasks_by_server", "server_id", "seq"),
    Index("tasks_held", "lease_until",
          sqlite_where=text("lease_until IS NOT NULL"), postgresql_where=text("lease_until IS NOT NULL")),
    Index("tasks_in_doubt", "server_id",
          sqlite_where=text("server_state IN ('unknown', 'partial')"),
          postgresql_where=text("server_state IN ('unknown', 'partial')")),
    # What stands failed, by cause, and what is a retry: of few among many.
    Index("tasks_failed", "tenant_id", "cause", "seq",
          sqlite_where=text("status = 'failed'"), postgresql_where=text("status = 'failed'")),
    Index("tasks_retries", "tenant_id", "seq",
          sqlite_where=text("retry_of IS NOT NULL"), postgresql_where=text("retry_of IS NOT NULL")),
    Index("tasks_by_status", "status", "tenant_id", "operation", "id"),  # all that a list's total is told from
    # What goes ahead of everything that waits (controller/doors.py).
    Index("tasks_urgent", "tenant_id", "lease_until", sqlite_where=text(URGENT_WAITS), postgresql_where=text(URGENT_WAITS)),
    # Whatever the code does, the database never holds two running tasks of one server.
    Index("one_running_task", "server_id", unique=True,
          sqlite_where=text("status = 'running'"), postgresql_where=text("status = 'running'")),
    sqlite_autoincrement=True,
)  # fmt: skip

rollouts = Table(
    "rollouts", metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("user_id", String(32), nullable=False),
    Column("operation", Text, nullable=False),
    Column("request", JSON, nullable=False),
    Column("strategy", JSON, nullable=False),
    Column("servers", Integer, nullable=False),
    Column("private", Boolean, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("state", Text, nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("go_on", Boolean, nullable=False),
    Column("finished_at", Instant),
    Column("plan_id", String(36)),  # the rollout that has planned this one
    Column("good_until", Instant),  # of one that plans
    Column("changes", Integer, nullable=False, server_default="0"),  # how often: who drives it in another process sees that
)  # fmt: skip

rollout_servers = Table(
    "rollout_servers", metadata,
    Column("rollout_id", ForeignKey("rollouts.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("server_id", String(36), nullable=False),
    Column("server_name", Text, nullable=False),
    Column("login", Text, nullable=False),
    Column("label", Text),
    Column("quorum", Text),
    Column("bastions", JSON, nullable=False),
    Column("subnet", Text),
    Column("given", JSON, nullable=False, server_default="{}"),
    Column("tries", Integer, nullable=False),
    Column("task_id", String(36), index=True),
    Column("held", Text),
    Column("forgiven", Boolean, nullable=False),
    Column("seen", String(64)),
    UniqueConstraint("rollout_id", "server_id", name="rollout_servers_once"),
)  # fmt: skip

# What opens a server, sealed for a task, or for a server of a rollout; gone at the end of what it was given for.
credentials = Table(
    "credentials", metadata,
    Column("owner_id", String(36), primary_key=True),  # the task's, or the rollout's
    Column("server_id", String(36), primary_key=True, index=True),
    Column("tenant_id", String(32), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("expires_at", Instant, nullable=False, index=True),
)  # fmt: skip

policies = Table(
    "policies", metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("label", Text),
    Column("value", Text),
    Column("max_age_days", Integer, nullable=False),
    Column("remind_days", JSON, nullable=False),
    Column("grace_days", Integer, nullable=False),
    Column("strategy", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("key_type", Text),
    Column("paused", Boolean, nullable=False),
    UniqueConstraint("tenant_id", "name", name="policies_by_name"),
)  # fmt: skip

# What was said of a key pair to whoever listens: the last reminder, in days before it is due, and why it is not rotated.
policy_keys = Table(
    "policy_keys", metadata,
    Column("policy_id", ForeignKey("policies.id"), primary_key=True),
    Column("keypair_id", String(36), primary_key=True),
    Column("told", Integer),
    Column("refused", Text, nullable=False),
)  # fmt: skip

# They outlive their policy and their key pairs.
rotations = Table(
    "rotations", metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("policy_id", String(36), nullable=False),
    Column("policy_name", Text, nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("old_id", String(36), nullable=False, index=True),
    Column("new_id", String(36), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rollout_id", String(36)),
    Column("removed_at", Instant),
    Column("ended_at", Instant),
    # Whoever looks at the same moment, a key pair is not rotated twice.
    Index("one_rotation_under_way", "policy_id", "old_id", unique=True,
          sqlite_where=text("ended_at IS NULL"), postgresql_where=text("ended_at IS NULL")),
)  # fmt: skip

rotation_rollouts = Table(
    "rotation_rollouts", metadata,
    Column("rotation_id", ForeignKey("rotations.id"), primary_key=True),
    Column("rollout_id", ForeignKey("rollouts.id"), primary_key=True),
    Column("ordinal", Integer, nullable=False),
)  # fmt: skip

# Secrets without their values. They outlive the server that a password is of.
secrets = Table(
    "secrets", metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("owner_id", ForeignKey("users.id"), nullable=False),
    Column("scope", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("server_id", String(36)),
    Column("server_name", Text),
    Column("login", Text),
    Column("version", Integer, nullable=False),
    Column("works", Integer),
    Column("rotates_every", Integer),
    Column("rotated_for", String(32)),
    Column("rotates_at", Instant, index=True),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant),
    UniqueConstraint("tenant_id", "owner_id", "name", name="secrets_by_owner"),
    Index("secrets_by_name", "tenant_id", "name"),
    Index("one_password_of_a_login", "tenant_id", "server_id", "login", unique=True,
          sqlite_where=text("kind = 'password'"), postgresql_where=text("kind = 'password'")),
)  # fmt: skip

# Their values, sealed; or laid by, where nothing could be sealed when they came: encrypted to the waiting key.
secret_versions = Table(
    "secret_versions", metadata,
    Column("secret_id", ForeignKey("secrets.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("user_id", String(32), nullable=False),
    Column("binary", Boolean, nullable=False),
    Column("sealed", LargeBinary),
    Column("laid_by", LargeBinary),
    Column("master_key_id", String(36), index=True),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    CheckConstraint("(sealed IS NULL) <> (laid_by IS NULL)", name="sealed_or_laid_by"),
)  # fmt: skip

secret_stages = Table(
    "secret_stages", metadata,
    Column("secret_id", ForeignKey("secrets.id"), primary_key=True),
    Column("stage", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("updated_at", Instant, nullable=False),
)  # fmt: skip

secret_rotations = Table(
    "secret_rotations", metadata,
    Column("id", String(36), primary_key=True),
    Column("secret_id", String(36), nullable=False, index=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("user_id", String(32), nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("by", Text, nullable=False),
    Column("task_id", String(36), nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("cause", Text),
    Column("message", Text, nullable=False),
    Column("proved", Boolean, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("again_at", Instant),
    Index("one_secret_rotation_under_way", "secret_id", unique=True,
          sqlite_where=text("state = 'running'"), postgresql_where=text("state = 'running'")),
)  # fmt: skip

# What values are encrypted to while nothing can be sealed: one key of each tenant, its private half sealed.
waiting_keys = Table(
    "waiting_keys", metadata,
    Column("tenant_id", ForeignKey("tenants.id"), primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
)  # fmt: skip

# The chain: controller/store/chain.py. Times are there as they were signed, so that any reader of SQLite can check them.
events = Table(
    "events", metadata,
    Column("id", Many, primary_key=True),
    Column("tenant_id", String(32), nullable=False),
    Column("number", Many, nullable=False),  # within the tenant: 1, 2, 3 and so on, without gaps
    Column("user_id", String(32)),  # who did it, or asked for the task that did
    Column("task_id", String(36), index=True),
    Column("server_id", String(36)),
    Column("keypair_id", String(36)),
    Column("kind", Text, nullable=False),
    Column("phase", Text),
    Column("detail", JSON, nullable=False),
    Column("at", Instant, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("signature", String(88)),  # none where the key was not there
    Index("events_by_number", "tenant_id", "number", unique=True),
    Index("events_by_kind", "tenant_id", "kind", "number"),
    Index("events_by_user", "tenant_id", "user_id", "number"),
    Index("events_by_server", "tenant_id", "server_id", "number"),
    Index("events_by_keypair", "tenant_id", "keypair_id", "number"),
    Index("events_by_time", "tenant_id", "at"),
    sqlite_autoincrement=True,
)  # fmt: skip

event_heads = Table(
    "event_heads", metadata,
    Column("tenant_id", String(32), primary_key=True),
    Column("first", Many, nullable=False),  # the oldest event kept
    Column("previous", String(64), nullable=False),  # digest of the one before it
    Column("number", Many, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("at", Instant, nullable=False),
    Column("signature", String(88)),
)  # fmt: skip

event_checkpoints = Table(
    "event_checkpoints", metadata,
    Column("tenant_id", String(32), primary_key=True),
    Column("number", Many, primary_key=True),
    Column("first", Many, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("at", Instant, nullable=False),
    Column("signature", String(88), nullable=False),
)  # fmt: skip

event_keys = Table(
    "event_keys", metadata,
    Column("tenant_id", String(32), primary_key=True),
    Column("public_key", String(44), nullable=False),  # Ed25519, 32 bytes in Base64
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
)  # fmt: skip

# Emergency doors (controller/doors.py): what was asked for, each door, where a second user has to agree, and who is told.
door_orders = Table(
    "door_orders", metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("does", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seconds", Integer, nullable=False),
    Column("doors", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("state", Text, nullable=False),
    Column("rules", JSON, nullable=False),
    Column("approve_until", Instant),
    Column("decided_by", String(32)),
    Column("decided_at", Instant),
    Index("door_orders_by_state", "state", "tenant_id"),
)  # fmt: skip

doors = Table(
    "doors", metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("server_id", String(36), nullable=False),  # outlives the server
    Column("server_name", Text, nullable=False),
    Column("login", Text, nullable=False),
    Column("order_id", ForeignKey("door_orders.id"), nullable=False),
    Column("reason", Text, nullable=False),
    Column("network", Text),
    Column("seconds", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("task_id", String(36), nullable=False),
    Column("state", Text, nullable=False),
    Column("opened_at", Instant),
    Column("deadline", Instant),
    Column("closed_at", Instant),
    Column("closed_by", Text),
    Column("closing_task_id", String(36)),
    Column("asks", Integer, nullable=False),
    Column("ask_at", Instant),
    Column("note", Text, nullable=False),
    Column("given", JSON, nullable=False),
    Column("one_time", Boolean, nullable=False),
    Column("rotation_id", String(36)),
    Index("doors_by_state", "state", "tenant_id"),
    Index("doors_by_time", "tenant_id", "created_at"),
)  # fmt: skip

door_rules = Table(
    "door_rules", metadata,
    Column("tenant_id", ForeignKey("tenants.id"), primary_key=True),
    Column("label", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("minutes", Integer, nullable=False),
    Column("user_id", String(32), nullable=False),
    Column("created_at", Instant, nullable=False),
)  # fmt: skip

# Where a tenant is told of its doors, and what waits to be told there.
door_hooks = Table(
    "door_hooks", metadata,
    Column("tenant_id", ForeignKey("tenants.id"), primary_key=True),
    Column("url", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # what it is signed with
    Column("user_id", String(32), nullable=False),
    Column("any_address", Boolean, nullable=False),
    Column("created_at", Instant, nullable=False),
)  # fmt: skip

door_alerts = Table(
    "door_alerts", metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(36), nullable=False),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("next_at", Instant, nullable=False, index=True),
)  # fmt: skip

# What an event that is not kept any more said: to which generation a removed server had come.
left_addresses = Table(
    "left_addresses", metadata,
    Column("tenant_id", String(32), primary_key=True),
    Column("host", Text, primary_key=True),
    Column("port", Integer, primary_key=True),
    Column("generation", Integer, nullable=False),
)  # fmt: skip
