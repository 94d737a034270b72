"""How often a rollout was changed: whoever drives it, in another process, sees by that that it has to be read anew."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("changes", sa.Integer(), nullable=False, server_default="0"))
