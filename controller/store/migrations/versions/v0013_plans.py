"""Plans of rollouts: what was seen of each server when one was planned, and how long that is good."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("plan_id", sa.String(36)))
    op.add_column("rollouts", sa.Column("good_until", sa.DateTime(timezone=True)))
    op.add_column("rollout_servers", sa.Column("seen", sa.String(64)))
