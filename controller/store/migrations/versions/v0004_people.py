"""Users, their keys and their limits."""

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Nothing yet."""
