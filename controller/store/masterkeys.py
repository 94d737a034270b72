"""Customer master keys, wrapped."""

from sqlalchemy import select

from controller.model import MasterKeyVersion
from controller.store import engine, rows, tables
from controller.store.base import Base


class MasterKeys(Base):
    """The master keys of all tenants, none of them open."""

    def master_key(self, tenant_id: str, alias: str) -> MasterKeyVersion | None:
        """Return the newest version of the master key with this alias, if there is one."""
        table = tables.master_keys
        query = select(table).where(table.c.tenant_id == tenant_id, table.c.alias == alias)
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(table.c.version.desc()).limit(1)).mappings().first()
        return None if found is None else rows.master_key_version(found)

    def master_key_version(self, key_id: str, version: int) -> MasterKeyVersion | None:
        """Return one version of a master key, if there is one."""
        table = tables.master_keys
        query = select(table).where(table.c.key_id == key_id, table.c.version == version)
        with engine.reading(self._engine) as connection:
            found = connection.execute(query).mappings().first()
        return None if found is None else rows.master_key_version(found)

    def add_master_key(self, made: MasterKeyVersion) -> MasterKeyVersion:
        """Keep this version, unless somebody else was first; returns the one that is kept."""
        table = tables.master_keys
        query = select(table).where(
            table.c.tenant_id == made.tenant_id, table.c.alias == made.alias, table.c.version == made.version
        )
        with engine.writing(self._engine) as connection:
            found = connection.execute(query).mappings().first()
            if found is not None:
                return rows.master_key_version(found)
            connection.execute(table.insert().values(rows.row(made)))
            detail = {"key_id": made.key_id, "alias": made.alias, "version": made.version}
            self._event(connection, made.tenant_id, "master_key_created", detail)
            return made
