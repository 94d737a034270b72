"""Which root key has wrapped which master key, and putting one wrapping in the place of another."""

from collections import Counter

from sqlalchemy import func, select, update

from controller.model import MasterKeyVersion
from controller.store import engine, rows, tables
from controller.store.base import Base


class RootKeys(Base):
    """The wrappings of all tenants' master keys."""

    def wrapped_by(self) -> Counter[str]:
        """Return how many versions of master keys each root key has wrapped, by its check value."""
        table = tables.master_key_versions
        query = select(table.c.root_check, func.count().label("number")).group_by(table.c.root_check)
        with engine.reading(self._engine) as connection:
            return Counter({found.root_check: found.number for found in connection.execute(query)})

    def versions_wrapped_otherwise(self, root_check: str, most: int) -> list[MasterKeyVersion]:
        """Return up to most versions of master keys that another root key has wrapped."""
        table = tables.master_key_versions
        query = select(table).where(table.c.root_check != root_check).order_by(table.c.key_id, table.c.version).limit(most)
        with engine.reading(self._engine) as connection:
            return [rows.master_key_version(found) for found in connection.execute(query).mappings()]

    def all_versions(self) -> list[tuple[str, int]]:
        """Return every version of every master key there is, by id and number."""
        table = tables.master_key_versions
        with engine.reading(self._engine) as connection:
            found = connection.execute(select(table.c.key_id, table.c.version).order_by(table.c.key_id, table.c.version))
            return [(key_id, version) for key_id, version in found]

    def rewrap_version(self, before: MasterKeyVersion, wrapped: bytes, root_check: str, by: str) -> bool:
        """Put a new wrapping in the place of the one before; False where that one is not there any more, and nothing changes.

        by: the id of the user who asked for it.
        """
        table = tables.master_key_versions
        as_it_was = (
            table.c.key_id == before.key_id, table.c.version == before.version,
            table.c.root_check == before.root_check, table.c.wrapped == before.wrapped,
        )  # fmt: skip
        with engine.writing(self._engine) as connection:
            change = update(table).where(*as_it_was).values(wrapped=wrapped, root_check=root_check)
            if connection.execute(change).rowcount != 1:
                return False
            detail = {"key_id": before.key_id, "version": before.version, "before": before.root_check, "after": root_check}
            self._event(connection, before.tenant_id, "master_key_rewrapped", detail | {"user_id": by})
            return True
