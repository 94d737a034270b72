"""The chain of events: numbers, who did it, digests, and room for signatures."""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ORIGIN = "0" * 64
AT_ONCE = 1000
MANY = sa.Integer().with_variant(sa.BigInteger(), "postgresql")

_OLD = (
    "SELECT e.id, e.tenant_id, e.task_id, e.server_id, e.kind, e.phase, e.detail, e.at, t.user_id"
    " FROM events e LEFT JOIN tasks t ON t.id = e.task_id ORDER BY e.id"
)
_NEW = (
    "INSERT INTO chained_events"
    " (id, tenant_id, number, user_id, task_id, server_id, keypair_id, kind, phase, detail, at, digest)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_HEAD = "INSERT INTO event_heads (tenant_id, first, previous, number, digest, at) VALUES (?, 1, ?, ?, ?, ?)"


def upgrade() -> None:
    op.create_table(
        "chained_events",
        sa.Column("id", MANY, nullable=False),
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("number", MANY, nullable=False),
        sa.Column("user_id", sa.String(length=32), nullable=True),
        sa.Column("task_id", sa.String(length=36), nullable=True),
        sa.Column("server_id", sa.String(length=36), nullable=True),
        sa.Column("keypair_id", sa.String(length=36), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("signature", sa.String(length=88), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "event_heads",
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("first", MANY, nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("number", MANY, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("signature", sa.String(length=88), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    op.create_table(
        "event_checkpoints",
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("number", MANY, nullable=False),
        sa.Column("first", MANY, nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("signature", sa.String(length=88), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "number"),
    )
    op.create_table(
        "event_keys",
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("public_key", sa.String(length=44), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id"),
    )
    op.create_table(
        "left_addresses",
        sa.Column("tenant_id", sa.String(length=32), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "host", "port"),
    )
    _chain(op.get_bind())
    op.drop_table("events")
    op.rename_table("chained_events", "events")
    op.create_index(op.f("ix_events_tenant_id"), "events", ["tenant_id"], unique=False)
    op.create_index(op.f("ix_events_task_id"), "events", ["task_id"], unique=False)
    op.create_index("events_by_number", "events", ["tenant_id", "number"], unique=True)
    for name, column in (("kind", "kind"), ("user", "user_id"), ("server", "server_id"), ("keypair", "keypair_id")):
        op.create_index(f"events_by_{name}", "events", ["tenant_id", column, "number"], unique=False)
    op.create_index("events_by_time", "events", ["tenant_id", "at"], unique=False)


def _chain(connection: sa.Connection) -> None:
    """Number what is there, and chain it: from here on, a change of it shows."""
    ends: dict[str, tuple[int, str, str]] = {}
    found = connection.exec_driver_sql(_OLD)
    while batch := found.fetchmany(AT_ONCE):
        chained = []
        for id, tenant_id, task_id, server_id, kind, phase, text, at, asked_by in batch:
            before, previous, _ = ends.get(tenant_id, (0, ORIGIN, ""))
            detail = json.loads(text)
            event: dict[str, Any] = {
                "id": id,
                "tenant_id": tenant_id,
                "number": before + 1,
                "user_id": _id(detail, "user_id", 32) or asked_by,
                "task_id": task_id,
                "server_id": server_id,
                "keypair_id": _id(detail, "keypair_id", 36),
                "kind": kind,
                "phase": phase,
                "detail": detail,
                "at": at.replace(" ", "T") + "Z",
            }
            digest = hashlib.sha256(_canonical(event | {"previous": previous})).hexdigest()
            stored = event | {"detail": json.dumps(detail, sort_keys=True), "at": at}
            chained.append((*stored.values(), digest))
            ends[tenant_id] = (before + 1, digest, at)
        connection.exec_driver_sql(_NEW, chained)
    for tenant_id, (number, digest, at) in ends.items():
        connection.exec_driver_sql(_HEAD, (tenant_id, ORIGIN, number, digest, at))


def _canonical(event: dict[str, Any]) -> bytes:
    # As it was on the day of this migration, whatever becomes of the spelling later.
    return json.dumps(event, sort_keys=True, separators=(",", ":")).encode("ascii")


def _id(detail: Any, name: str, length: int) -> str | None:
    value = detail.get(name) if isinstance(detail, dict) else None
    return value if isinstance(value, str) and len(value) <= length else None
