"""Rollouts: one order for many servers, and how far each of them is."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("rollout_id", sa.String(36)))
    op.create_index("ix_tasks_rollout_id", "tasks", ["rollout_id"])
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("strategy", sa.JSON(), nullable=False),
        sa.Column("servers", sa.Integer(), nullable=False),
        sa.Column("private", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("go_on", sa.Boolean(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_rollouts_tenant_id", "rollouts", ["tenant_id"])
    op.create_index("ix_rollouts_state", "rollouts", ["state"])
    op.create_table(
        "rollout_servers",
        sa.Column("rollout_id", sa.String(36), sa.ForeignKey("rollouts.id"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True),
        sa.Column("server_id", sa.String(36), nullable=False),
        sa.Column("server_name", sa.Text(), nullable=False),
        sa.Column("login", sa.Text(), nullable=False),
        sa.Column("label", sa.Text()),
        sa.Column("quorum", sa.Text()),
        sa.Column("bastions", sa.JSON(), nullable=False),
        sa.Column("subnet", sa.Text()),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.String(36)),
        sa.Column("held", sa.Text()),
        sa.Column("forgiven", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("rollout_id", "server_id", name="rollout_servers_once"),
    )
    op.create_index("ix_rollout_servers_task_id", "rollout_servers", ["task_id"])
