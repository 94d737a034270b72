"""Failed tasks: what stands failed by a cause, and what was tried again last, are found without reading the others."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"

_FAILED = sa.text("status = 'failed'")
_RETRIES = sa.text("retry_of IS NOT NULL")


def upgrade() -> None:
    op.create_index("tasks_failed", "tasks", ["tenant_id", "cause", "seq"], sqlite_where=_FAILED, postgresql_where=_FAILED)
    op.create_index("tasks_retries", "tasks", ["tenant_id", "seq"], sqlite_where=_RETRIES, postgresql_where=_RETRIES)
