"""Emergency doors: orders, doors, where a second user has to agree, and who is told; and tasks that go ahead of all others."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"

_URGENT = sa.text("status = 'ready' AND operation IN ('door-open', 'door-extend', 'door-close')")


def _tenant(**more: bool) -> sa.Column[str]:
    return sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), **more)  # type: ignore[arg-type]


def upgrade() -> None:
    op.create_table(
        "door_orders",
        sa.Column("id", sa.String(36), primary_key=True),
        _tenant(nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("does", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.Column("doors", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.Column("approve_until", sa.DateTime(timezone=True)),
        sa.Column("decided_by", sa.String(32)),
        sa.Column("decided_at", sa.DateTime(timezone=True)),
    )
    op.create_index("door_orders_by_state", "door_orders", ["state", "tenant_id"])
    op.create_table(
        "doors",
        sa.Column("id", sa.String(32), primary_key=True),
        _tenant(nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("server_id", sa.String(36), nullable=False),
        sa.Column("server_name", sa.Text(), nullable=False),
        sa.Column("login", sa.Text(), nullable=False),
        sa.Column("order_id", sa.String(36), sa.ForeignKey("door_orders.id"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("network", sa.Text()),
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("task_id", sa.String(36), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True)),
        sa.Column("deadline", sa.DateTime(timezone=True)),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.Column("closed_by", sa.Text()),
        sa.Column("closing_task_id", sa.String(36)),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("ask_at", sa.DateTime(timezone=True)),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("given", sa.JSON(), nullable=False),
        sa.Column("one_time", sa.Boolean(), nullable=False),
    )
    op.create_index("doors_by_state", "doors", ["state", "tenant_id"])
    op.create_index("doors_by_time", "doors", ["tenant_id", "created_at"])
    op.create_table(
        "door_rules",
        _tenant(primary_key=True),
        sa.Column("label", sa.Text(), primary_key=True),
        sa.Column("value", sa.Text(), primary_key=True),
        sa.Column("minutes", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "door_hooks",
        _tenant(primary_key=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("any_address", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "door_alerts",
        sa.Column("seq", sa.Integer(), primary_key=True),
        sa.Column("id", sa.String(36), nullable=False),
        _tenant(nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_door_alerts_next_at", "door_alerts", ["next_at"])
    op.create_index("tasks_urgent", "tasks", ["tenant_id", "lease_until"], sqlite_where=_URGENT, postgresql_where=_URGENT)
