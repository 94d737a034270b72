"""Servers behind jump servers, and servers that are allowed old algorithms."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("servers", sa.Column("jumps", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("servers", sa.Column("old_algorithms", sa.JSON(), nullable=False, server_default="[]"))
