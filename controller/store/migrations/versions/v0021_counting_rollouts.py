"""The tasks of a rollout are counted from an index, without reading them."""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.create_index("tasks_of_rollout", "tasks", ["rollout_id", "id", "status", "cause"])
    op.drop_index("ix_tasks_rollout_id", "tasks")
