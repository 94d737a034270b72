"""Rotation policies: how old a key pair may be, what was said of it, and the rotations that were begun."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("label", sa.Text()),
        sa.Column("value", sa.Text()),
        sa.Column("max_age_days", sa.Integer(), nullable=False),
        sa.Column("remind_days", sa.JSON(), nullable=False),
        sa.Column("grace_days", sa.Integer(), nullable=False),
        sa.Column("strategy", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_type", sa.Text()),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("tenant_id", "name", name="policies_by_name"),
    )
    op.create_table(
        "policy_keys",
        sa.Column("policy_id", sa.String(36), sa.ForeignKey("policies.id"), primary_key=True),
        sa.Column("keypair_id", sa.String(36), primary_key=True),
        sa.Column("told", sa.Integer()),
        sa.Column("refused", sa.Text(), nullable=False),
    )
    op.create_table(
        "rotations",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("policy_id", sa.String(36), nullable=False),
        sa.Column("policy_name", sa.Text(), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("old_id", sa.String(36), nullable=False),
        sa.Column("new_id", sa.String(36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rollout_id", sa.String(36)),
        sa.Column("removed_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_rotations_tenant_id", "rotations", ["tenant_id"])
    op.create_index("ix_rotations_old_id", "rotations", ["old_id"])
    under_way = sa.text("ended_at IS NULL")
    op.create_index(
        "one_rotation_under_way",
        "rotations",
        ["policy_id", "old_id"],
        unique=True,
        sqlite_where=under_way,
        postgresql_where=under_way,
    )
    op.create_table(
        "rotation_rollouts",
        sa.Column("rotation_id", sa.String(36), sa.ForeignKey("rotations.id"), primary_key=True),
        sa.Column("rollout_id", sa.String(36), sa.ForeignKey("rollouts.id"), primary_key=True),
        sa.Column("ordinal", sa.Integer(), nullable=False),
    )
