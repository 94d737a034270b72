"""Many tasks: what is asked of them by server, by lease and by doubt is found without reading the others."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_HELD = sa.text("lease_until IS NOT NULL")
_IN_DOUBT = sa.text("server_state IN ('unknown', 'partial')")


def upgrade() -> None:
    op.create_index("tasks_by_server", "tasks", ["server_id", "seq"])
    op.create_index("tasks_held", "tasks", ["lease_until"], sqlite_where=_HELD, postgresql_where=_HELD)
    op.create_index("tasks_in_doubt", "tasks", ["server_id"], sqlite_where=_IN_DOUBT, postgresql_where=_IN_DOUBT)
    op.drop_index("ix_events_tenant_id", "events")  # events_by_number begins with the same column
