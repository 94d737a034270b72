"""Secrets: their versions, the stages that mark these, and how passwords are rotated."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

_RUNNING = sa.text("state = 'running'")
_PASSWORD = sa.text("kind = 'password'")


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("owner_id", sa.String(32), sa.ForeignKey("users.id"), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("server_id", sa.String(36)),
        sa.Column("server_name", sa.Text()),
        sa.Column("login", sa.Text()),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("works", sa.Integer()),
        sa.Column("rotates_every", sa.Integer()),
        sa.Column("rotated_for", sa.String(32)),
        sa.Column("rotates_at", sa.DateTime(timezone=True)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True)),
        sa.UniqueConstraint("tenant_id", "owner_id", "name", name="secrets_by_owner"),
    )
    op.create_index("ix_secrets_rotates_at", "secrets", ["rotates_at"])
    op.create_index("secrets_by_name", "secrets", ["tenant_id", "name"])
    op.create_index(
        "one_password_of_a_login",
        "secrets",
        ["tenant_id", "server_id", "login"],
        unique=True,
        sqlite_where=_PASSWORD,
        postgresql_where=_PASSWORD,
    )
    op.create_table(
        "secret_versions",
        sa.Column("secret_id", sa.String(36), sa.ForeignKey("secrets.id"), primary_key=True),
        sa.Column("version", sa.Integer(), primary_key=True),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("binary", sa.Boolean(), nullable=False),
        sa.Column("sealed", sa.LargeBinary()),
        sa.Column("laid_by", sa.LargeBinary()),
        sa.Column("master_key_id", sa.String(36)),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("(sealed IS NULL) <> (laid_by IS NULL)", name="sealed_or_laid_by"),
    )
    op.create_index("ix_secret_versions_master_key_id", "secret_versions", ["master_key_id"])
    op.create_table(
        "secret_stages",
        sa.Column("secret_id", sa.String(36), sa.ForeignKey("secrets.id"), primary_key=True),
        sa.Column("stage", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "secret_rotations",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("secret_id", sa.String(36), nullable=False),
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), nullable=False),
        sa.Column("user_id", sa.String(32), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("task_id", sa.String(36), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("cause", sa.Text()),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("proved", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("again_at", sa.DateTime(timezone=True)),
    )
    for column in ("secret_id", "tenant_id", "task_id"):
        op.create_index(f"ix_secret_rotations_{column}", "secret_rotations", [column])
    op.create_index(
        "one_secret_rotation_under_way",
        "secret_rotations",
        ["secret_id"],
        unique=True,
        sqlite_where=_RUNNING,
        postgresql_where=_RUNNING,
    )
    op.create_table(
        "waiting_keys",
        sa.Column("tenant_id", sa.String(32), sa.ForeignKey("tenants.id"), primary_key=True),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
