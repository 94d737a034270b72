"""The access keys of users, their secrets sealed."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, Update, delete, select, update

from controller.errors import Conflict, NotFound
from controller.model import AccessKey, Caller, Sealed, User
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.queries import one
from controller.store.temporary import end_with_access_keys

MOST_OF_A_USER = 2  # the one in use, and the one that takes its place
_NOTED_EVERY = timedelta(minutes=1)


class AccessKeys(Base):
    """What users sign their requests with."""

    def access_key(self, access_key: str) -> tuple[Caller, Sealed]:
        """Return the user behind an access key, and the sealed secret key; whether both may be used is for who asks."""
        user, key, sealed = self.access_key_whole(access_key)
        return Caller(user.tenant_id, key.project_id, user.id, user.role, user.kind), sealed

    def access_key_whole(self, access_key: str) -> tuple[User, AccessKey, Sealed]:
        """Return an access key with whose it is, and its sealed secret. One that there is not takes as long."""
        keys, users = tables.access_keys, tables.users
        with engine.reading(self._engine) as connection:
            found = one(connection, keys, keys.c.access_key == access_key)
            user = one(connection, users, users.c.id == ("" if found is None else found["user_id"]))
        if found is None or user is None:
            raise _no_key(access_key)
        return rows.user(user), rows.access_key(found), Sealed(found["sealed"])

    def access_keys(self, tenant_id: str, user_id: str | None = None) -> list[AccessKey]:
        """Return the access keys of a tenant, or of one of its users, the oldest first."""
        keys, users = tables.access_keys, tables.users
        query = select(keys).join(users).where(users.c.tenant_id == tenant_id)
        if user_id is not None:
            query = query.where(keys.c.user_id == user_id)
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(keys.c.created_at, keys.c.access_key)).mappings()
            return [rows.access_key(row) for row in found]

    def add_access_key(
        self, tenant_id: str, key: AccessKey, sealed: Sealed, by: str, *, instead_of: tuple[str, datetime] | None = None
    ) -> AccessKey:
        """Keep a new access key. Conflict(access_key_quota): the user has as many as they may have.

        instead_of: the one whose place it takes, and until when that one goes on working, if it does not end before.
        """
        with engine.writing(self._engine) as connection:
            has = _of_user(connection, key.user_id)
            if len(has) >= MOST_OF_A_USER:
                names = [each.access_key for each in has]
                raise Conflict(
                    "access_key_quota",
                    f"this user has {' and '.join(names)}; delete the one that is not used any more",
                    access_keys=names,
                )
            made = replace(key, created_at=self._now())
            connection.execute(tables.access_keys.insert().values(rows.row(made) | {"sealed": sealed.record}))
            detail = {"access_key": key.access_key, "of_user": key.user_id, "user_id": by}
            if instead_of is not None:
                old = rows.access_key(_row(connection, instead_of[0]))
                until = instead_of[1] if old.expires_at is None else min(old.expires_at, instead_of[1])
                connection.execute(_update(old.access_key).values(expires_at=until))
                detail |= {"instead_of": old.access_key, "until": until.isoformat()}
            self._event(connection, tenant_id, "access_key_created", detail)
            return made

    def replace_access_keys(self, tenant_id: str, key: AccessKey, sealed: Sealed, by: str) -> AccessKey:
        """Keep a new access key in the place of all that its user has."""
        with engine.writing(self._engine) as connection:
            gone = [each.access_key for each in _of_user(connection, key.user_id)]
            ended = end_with_access_keys(connection, tables.access_keys.c.user_id == key.user_id)
            connection.execute(delete(tables.access_keys).where(tables.access_keys.c.user_id == key.user_id))
            made = replace(key, created_at=self._now())
            connection.execute(tables.access_keys.insert().values(rows.row(made) | {"sealed": sealed.record}))
            for each in gone:
                detail = {"access_key": each, "of_user": key.user_id, "user_id": by}
                self._event(connection, tenant_id, "access_key_deleted", detail | ended)
            detail = {"access_key": key.access_key, "of_user": key.user_id, "user_id": by}
            self._event(connection, tenant_id, "access_key_created", detail)
            return made

    def change_access_key(self, tenant_id: str, access_key: str, *, enabled: bool, by: str) -> AccessKey:
        """Enable or disable an access key. What stands on one that is disabled ends."""
        with engine.writing(self._engine) as connection:
            key = rows.access_key(_row(connection, access_key, tenant_id))
            if key.enabled == enabled:
                return key
            connection.execute(_update(access_key).values(enabled=enabled))
            detail = {"access_key": access_key, "enabled": enabled, "of_user": key.user_id, "user_id": by}
            ended = {} if enabled else end_with_access_keys(connection, tables.access_keys.c.access_key == access_key)
            self._event(connection, tenant_id, "access_key_changed", detail | ended)
            return replace(key, enabled=enabled)

    def delete_access_key(self, tenant_id: str, access_key: str, by: str) -> None:
        """Delete an access key, and what stands on it. Conflict(home_access_key) for the last one of whoever owns the home."""
        with engine.writing(self._engine) as connection:
            key = rows.access_key(_row(connection, access_key, tenant_id))
            owns_home = one(connection, tables.home, tables.home.c.user_id == key.user_id) is not None
            if owns_home and len(_of_user(connection, key.user_id)) == 1:
                raise Conflict(
                    "home_access_key",
                    f"{access_key}: the home's owner keeps one; make another first (kps access-key rotate {access_key}), "
                    "or disable it",
                )
            ended = end_with_access_keys(connection, tables.access_keys.c.access_key == access_key)
            connection.execute(delete(tables.access_keys).where(tables.access_keys.c.access_key == access_key))
            detail = {"access_key": access_key, "of_user": key.user_id, "user_id": by}
            self._event(connection, tenant_id, "access_key_deleted", detail | ended)

    def access_key_used(self, access_key: str) -> None:
        """Note that an access key was used now; to the minute, so that not every request writes."""
        keys, at = tables.access_keys, self._now()
        unnoted = (keys.c.access_key == access_key) & (keys.c.last_used_at.is_(None) | (keys.c.last_used_at <= at - _NOTED_EVERY))
        with engine.reading(self._engine) as connection:
            if one(connection, keys, unnoted) is None:
                return
        with engine.writing(self._engine) as connection:
            connection.execute(_update(access_key).values(last_used_at=at))


def _row(connection: Connection, access_key: str, tenant_id: str | None = None) -> RowMapping:
    keys, users = tables.access_keys, tables.users
    query: Select[Any] = select(keys).join(users).where(keys.c.access_key == access_key)
    if tenant_id is not None:
        query = query.where(users.c.tenant_id == tenant_id)
    found = connection.execute(query).mappings().first()
    if found is None:
        raise _no_key(access_key)
    return found


def _no_key(access_key: str) -> NotFound:
    return NotFound("access_key_not_found", f"no access key {access_key}")


def _of_user(connection: Connection, user_id: str) -> list[AccessKey]:
    query = select(tables.access_keys).where(tables.access_keys.c.user_id == user_id).order_by(tables.access_keys.c.created_at)
    return [rows.access_key(found) for found in connection.execute(query).mappings()]


def _update(access_key: str) -> Update:
    return update(tables.access_keys).where(tables.access_keys.c.access_key == access_key)
