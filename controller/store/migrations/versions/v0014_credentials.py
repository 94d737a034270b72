"""What was given to open servers with, sealed until it is needed no more; and which kinds came for each server of a rollout."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "credentials",
        sa.Column("owner_id", sa.String(36), primary_key=True),
        sa.Column("server_id", sa.String(36), primary_key=True),
        sa.Column("tenant_id", sa.String(32), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_credentials_server_id", "credentials", ["server_id"])
    op.create_index("ix_credentials_expires_at", "credentials", ["expires_at"])
    op.add_column("rollout_servers", sa.Column("given", sa.JSON(), nullable=False, server_default="{}"))
