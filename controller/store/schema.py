"""Which tables the database has, and how it gets this version's."""

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from controller.errors import Unavailable

MIGRATIONS = Path(__file__).parent / "migrations"


def version(connection: Connection) -> str | None:
    """Return the newest migration that the database has seen; None where it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def upgrade(connection: Connection) -> None:
    """Run the missing migrations in the connection's transaction: all of them, or none."""
    # Only now: most starts have nothing to migrate, and this import costs more than all the rest of the store.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise Unavailable("store_too_new", f"{error}; a newer kps has migrated this home: use that one") from error
