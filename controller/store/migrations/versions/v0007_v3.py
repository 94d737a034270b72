"""Servers that are shut down, and where their disks are; numbers and descriptions of key pairs."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("servers", sa.Column("reset_root", sa.Text()))
    op.add_column("servers", sa.Column("any_address", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("keypairs", sa.Column("number", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("keypairs", sa.Column("description", sa.Text(), nullable=False, server_default=""))
    op.add_column("keypairs", sa.Column("updated_at", sa.DateTime(timezone=True)))
    op.execute(
        "UPDATE keypairs SET number = (SELECT COUNT(*) FROM keypairs AS older WHERE older.created_at < keypairs.created_at "
        "OR (older.created_at = keypairs.created_at AND older.id <= keypairs.id))"
    )
    op.create_index("keypairs_by_number", "keypairs", ["number"], unique=True)
