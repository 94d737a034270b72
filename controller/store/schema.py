"""Which tables the database has, and how it gets this version's."""

from collections.abc import Collection
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from controller.errors import Unavailable
from controller.store import tables

MIGRATIONS = Path(__file__).parent / "migrations"


def version(connection: Connection) -> str | None:
    """Return the newest migration that the database has seen; None where it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def needs_rest(connection: Connection) -> bool:
    """Whether processes of the version that made these tables could not go on beside what is missing here.

    A migration says that they could: by OLDER_GO_ON = True (docs/decisions/0102).
    """
    found = version(connection)
    if found is None or found == tables.VERSION:
        return False
    from alembic.script import ScriptDirectory
    from alembic.script.revision import RevisionError

    try:
        missing = list(ScriptDirectory(str(MIGRATIONS)).iterate_revisions("head", found))
    except RevisionError:
        return False  # upgrade() says what it is
    return not all(getattr(each.module, "OLDER_GO_ON", False) for each in missing)


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


def lacking(found: Collection[tuple[str, str]]) -> list[str]:
    """Return what this version needs of tables and columns and is not among these (table, column): TABLE, or TABLE.COLUMN."""
    there = {table for table, _ in found}
    gone = sorted(set(tables.metadata.tables) - there)
    columns = ((name, column.name) for name, table in tables.metadata.tables.items() if name in there for column in table.columns)
    return gone + sorted(f"{table}.{column}" for table, column in columns if (table, column) not in found)
