"""A door keeps by which rotation its one-time password is changed: it works until that is done."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("doors", sa.Column("rotation_id", sa.String(36)))
