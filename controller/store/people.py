"""Tenants, users and their access keys."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, select

from controller.errors import NotFound, Unavailable
from controller.model import Caller, Sealed
from controller.store import engine, schema, tables
from controller.store.base import Base


class People(Base):
    """Who there is."""

    def first_tenant(
        self,
        caller: Caller,
        tenant_name: str,
        user_name: str,
        access_key: str,
        secret_key: Sealed,
        before_commit: Callable[[], None] = lambda: None,
    ) -> tuple[Caller, str]:
        """Make the first tenant, its project and its administrator, unless they are there already.

        Returns who owns this home, and their access key; they are the given ones only where they were made now. Where
        they are, before_commit is called once nothing but the commit is left; if it raises, nothing was made.
        """
        with engine.writing(self._engine) as connection:
            owner = _home(connection)
            if owner is not None:
                return owner
            at = self._now()
            connection.execute(tables.tenants.insert().values(id=caller.tenant_id, name=tenant_name))
            connection.execute(tables.projects.insert().values(id=caller.project_id, tenant_id=caller.tenant_id))
            connection.execute(
                tables.users.insert().values(id=caller.user_id, tenant_id=caller.tenant_id, name=user_name, role=caller.role)
            )
            connection.execute(
                tables.access_keys.insert().values(
                    access_key=access_key,
                    user_id=caller.user_id,
                    project_id=caller.project_id,
                    sealed=secret_key.record,
                    created_at=at,
                )
            )
            connection.execute(tables.home.insert().values(one=1, access_key=access_key))
            self._event(connection, caller.tenant_id, "home_initialised", {"user_id": caller.user_id})
            before_commit()
            return caller, access_key

    def local_owner(self) -> tuple[Caller, str]:
        """Return who owns this home, and their access key. Unavailable(not_initialised) before init."""
        if not self._path.exists():
            raise Unavailable("not_initialised", f"{self._path}: there is no database; run kps init")
        with engine.reading(self._engine) as connection:
            owner = _home(connection) if schema.version(connection) else None
        if owner is None:
            raise Unavailable("not_initialised", f"{self._path}: the home has no owner yet; run kps init")
        return owner

    def caller_by_local_home(self) -> Caller:
        """Return the first tenant's administrator: who can open the home is its owner."""
        return self.local_owner()[0]

    def access_key(self, access_key: str) -> tuple[Caller, Sealed]:
        """Return the user behind an access key, and the sealed secret key."""
        with engine.reading(self._engine) as connection:
            found = connection.execute(_owners().where(tables.access_keys.c.access_key == access_key)).mappings().first()
        if found is None:
            raise NotFound("access_key_not_found", f"no access key {access_key}")
        return _caller(found), Sealed(found["sealed"])


def _owners() -> Select[Any]:
    keys, users = tables.access_keys, tables.users
    return select(keys.c.access_key, keys.c.sealed, keys.c.project_id, keys.c.user_id, users.c.tenant_id, users.c.role).join(
        users
    )


def _caller(found: RowMapping) -> Caller:
    return Caller(found["tenant_id"], found["project_id"], found["user_id"], found["role"])


def _home(connection: Connection) -> tuple[Caller, str] | None:
    found = connection.execute(_owners().join(tables.home)).mappings().first()
    return None if found is None else (_caller(found), found["access_key"])
