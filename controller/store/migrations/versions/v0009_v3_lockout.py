"""Whether calls of the v3 API may lock other logins out: for each tenant, off. An index that tells how many tasks failed."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("v3_accepts_lockout", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.drop_index("tasks_by_status", "tasks")
    op.create_index("tasks_by_status", "tasks", ["status", "tenant_id", "operation", "id"])
