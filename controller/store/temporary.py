"""Credentials that end by themselves: temporary access keys, their secrets sealed, and tokens, of which only digests are kept."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, delete, func, select, true, update

from controller.errors import Conflict, NotFound
from controller.model import AccessKey, Sealed, TemporaryKey, Token, User
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.queries import one

MOST_TEMPORARY_KEYS = 100  # of a user at the same time
MOST_TOKENS = 20
_NOTED_EVERY = timedelta(minutes=1)


class Whole(NamedTuple):
    """A temporary access key with all that it takes to believe it."""

    user: User
    parent: AccessKey
    key: TemporaryKey
    sealed: Sealed
    digest: bytes  # SHA-256 of its security token


class Temporary(Base):
    """What users are given for a while."""

    def temporary_key(self, access_key: str) -> Whole:
        """Return a temporary access key, whether it may still be used or not. NotFound(temporary_key_not_found) takes as long."""
        keys, parents, users = tables.temporary_keys, tables.access_keys, tables.users
        with engine.reading(self._engine) as connection:
            found = one(connection, keys, keys.c.access_key == access_key)
            parent = one(connection, parents, parents.c.access_key == ("" if found is None else found["parent"]))
            user = one(connection, users, users.c.id == ("" if parent is None else parent["user_id"]))
        if found is None or parent is None or user is None:
            raise _no_key(access_key)
        key = rows.temporary_key(found)
        return Whole(rows.user(user), rows.access_key(parent), key, Sealed(found["sealed"]), found["digest"])

    def temporary_keys(self, tenant_id: str, user_id: str | None = None) -> list[tuple[TemporaryKey, str]]:
        """Return the temporary access keys of a tenant, or of one of its users, each with whose it is, the oldest first."""
        keys = tables.temporary_keys
        query = _of_users(select(keys, tables.users.c.id.label("owner")), tenant_id, user_id)
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(keys.c.created_at, keys.c.access_key)).mappings()
            return [(rows.temporary_key(row), row["owner"]) for row in found]

    def add_temporary_key(self, tenant_id: str, key: TemporaryKey, sealed: Sealed, digest: bytes, by: str) -> TemporaryKey:
        """Keep a new one. NotFound(access_key_not_found): what it stands on is gone. Conflict(temporary_key_quota)."""
        keys, parents = tables.temporary_keys, tables.access_keys
        with engine.writing(self._engine) as connection:
            parent = one(connection, parents, parents.c.access_key == key.parent)
            if parent is None or not parent["enabled"]:  # by now
                raise NotFound("access_key_not_found", f"no access key {key.parent} that may be used")
            made = replace(key, created_at=self._now())
            has = _of_users(select(func.count()).select_from(keys), tenant_id, parent["user_id"])
            if connection.execute(has.where(keys.c.expires_at > made.created_at)).scalar_one() >= MOST_TEMPORARY_KEYS:
                message = f"this user has {MOST_TEMPORARY_KEYS} temporary access keys that have not ended; revoke some"
                raise Conflict("temporary_key_quota", message)
            connection.execute(keys.insert().values(rows.row(made) | {"sealed": sealed.record, "digest": digest}))
            detail = {"access_key": made.access_key, "parent": made.parent, "until": made.expires_at.isoformat()}
            self._event(connection, tenant_id, "temporary_key_created", detail | {"of_user": parent["user_id"], "user_id": by})
            return made

    def revoke_temporary_key(self, tenant_id: str, access_key: str, by: str) -> None:
        """End one now."""
        keys = tables.temporary_keys
        with engine.writing(self._engine) as connection:
            query = _of_users(select(keys, tables.users.c.id.label("owner")), tenant_id, None)
            found = connection.execute(query.where(keys.c.access_key == access_key)).mappings().first()
            if found is None:
                raise _no_key(access_key)
            connection.execute(delete(keys).where(keys.c.access_key == access_key))
            detail = {"access_key": access_key, "parent": found["parent"], "of_user": found["owner"], "user_id": by}
            self._event(connection, tenant_id, "temporary_key_revoked", detail)

    # -- tokens

    def token_by_digest(self, digest: bytes) -> tuple[User, Token]:
        """Return a token with whose it is, whether it may still be used or not. NotFound(token_not_found)."""
        with engine.reading(self._engine) as connection:
            found = one(connection, tables.tokens, tables.tokens.c.digest == digest)
            if found is None:
                raise NotFound("token_not_found", "no such token")
            user = connection.execute(select(tables.users).where(tables.users.c.id == found["user_id"])).mappings().one()
        return rows.user(user), rows.token(found)

    def tokens(self, tenant_id: str, user_id: str | None = None) -> list[Token]:
        """Return the tokens of a tenant, or of one of its users, the oldest first."""
        table, users = tables.tokens, tables.users
        query = select(table).join(users).where(users.c.tenant_id == tenant_id)
        if user_id is not None:
            query = query.where(users.c.id == user_id)
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(table.c.created_at, table.c.id)).mappings()
            return [rows.token(row) for row in found]

    def add_token(self, tenant_id: str, token: Token, digest: bytes, by: str) -> Token:
        """Keep a new token. Conflict(token_quota): the user has as many as they may have. NotFound(access_key_not_found)."""
        table = tables.tokens
        with engine.writing(self._engine) as connection:
            keys = tables.access_keys
            asked_with = None if token.asked_with is None else one(connection, keys, keys.c.access_key == token.asked_with)
            if token.asked_with is not None and (asked_with is None or not asked_with["enabled"]):  # by now
                raise NotFound("access_key_not_found", f"no access key {token.asked_with} that may be used")
            made = replace(token, created_at=self._now())
            has = select(func.count()).where(table.c.user_id == made.user_id, table.c.expires_at > made.created_at)
            if connection.execute(has).scalar_one() >= MOST_TOKENS:
                raise Conflict("token_quota", f"this user has {MOST_TOKENS} tokens that have not ended; revoke some")
            connection.execute(table.insert().values(rows.row(made) | {"digest": digest}))
            detail = {"token_id": made.id, "until": made.expires_at.isoformat(), "of_user": made.user_id, "user_id": by}
            self._event(connection, tenant_id, "token_created", detail)
            return made

    def revoke_token(self, tenant_id: str, token_id: str, by: str) -> None:
        """End a token now."""
        table, users = tables.tokens, tables.users
        with engine.writing(self._engine) as connection:
            query = select(table).join(users).where(users.c.tenant_id == tenant_id, table.c.id == token_id)
            found = connection.execute(query).mappings().first()
            if found is None:
                raise NotFound("token_not_found", f"no token {token_id}")
            connection.execute(delete(table).where(table.c.id == token_id))
            detail = {"token_id": token_id, "of_user": found["user_id"], "user_id": by}
            self._event(connection, tenant_id, "token_revoked", detail)

    def token_used(self, token_id: str) -> None:
        """Note that a token was used now; to the minute, so that not every request writes."""
        table, at = tables.tokens, self._now()
        unnoted = (table.c.id == token_id) & (table.c.last_used_at.is_(None) | (table.c.last_used_at <= at - _NOTED_EVERY))
        with engine.reading(self._engine) as connection:
            if one(connection, table, unnoted) is None:
                return
        with engine.writing(self._engine) as connection:
            connection.execute(update(table).where(table.c.id == token_id).values(last_used_at=at))

    def drop_ended(self) -> int:
        """Take away what has ended by itself; returns how many."""
        kinds = (tables.temporary_keys, tables.tokens, tables.console_links, tables.console_sessions)
        at = self._now()
        with engine.reading(self._engine) as connection:
            if not any(one(connection, each, each.c.expires_at <= at) for each in kinds):
                return 0
        with engine.writing(self._engine) as connection:
            return sum(_gone(connection, each, each.c.expires_at <= at) for each in kinds)


# -- steps inside somebody's transaction


def end_with_access_keys(connection: Connection, which: ColumnElement[bool]) -> dict[str, int]:
    """End what stands on the access keys that a condition on their table names; returns how many, for an event's detail."""
    names = select(tables.access_keys.c.access_key).where(which)
    return _ended(
        connection,
        {
            "temporary_keys_ended": (tables.temporary_keys, tables.temporary_keys.c.parent.in_(names)),
            "tokens_ended": (tables.tokens, tables.tokens.c.asked_with.in_(names)),
            "links_ended": (tables.console_links, tables.console_links.c.asked_with.in_(names)),
            "sessions_ended": (tables.console_sessions, tables.console_sessions.c.asked_with.in_(names)),
        },
    )


def end_with_user(connection: Connection, user_id: str) -> dict[str, int]:
    """End all that a user was given for a while; returns how many, for an event's detail."""
    names = select(tables.access_keys.c.access_key).where(tables.access_keys.c.user_id == user_id)
    return _ended(
        connection,
        {
            "temporary_keys_ended": (tables.temporary_keys, tables.temporary_keys.c.parent.in_(names)),
            "tokens_ended": (tables.tokens, tables.tokens.c.user_id == user_id),
        },
    ) | end_console(connection, user_id)


def end_console(connection: Connection, user_id: str) -> dict[str, int]:
    """End a user's sessions in the console, and the links that would begin one; returns how many."""
    kinds = {"links_ended": tables.console_links, "sessions_ended": tables.console_sessions}
    return _ended(connection, {name: (table, table.c.user_id == user_id) for name, table in kinds.items()})


def end_all(connection: Connection) -> dict[str, int]:
    """End all that there is; returns how many, for an event's detail."""
    kinds = {"temporary_keys_ended": tables.temporary_keys, "tokens_ended": tables.tokens}
    kinds |= {"links_ended": tables.console_links, "sessions_ended": tables.console_sessions}
    return _ended(connection, {name: (table, true()) for name, table in kinds.items()})


def _ended(connection: Connection, what: dict[str, tuple[Table, ColumnElement[bool]]]) -> dict[str, int]:
    found = {name: _gone(connection, table, which) for name, (table, which) in what.items()}
    return {name: number for name, number in found.items() if number}


def _gone(connection: Connection, table: Table, which: ColumnElement[bool]) -> int:
    return connection.execute(delete(table).where(which)).rowcount


def _of_users(query: Select[Any], tenant_id: str, user_id: str | None) -> Select[Any]:
    keys, parents, users = tables.temporary_keys, tables.access_keys, tables.users
    query = query.join(parents, keys.c.parent == parents.c.access_key).join(users, parents.c.user_id == users.c.id)
    query = query.where(users.c.tenant_id == tenant_id)
    return query if user_id is None else query.where(users.c.id == user_id)


def _no_key(access_key: str) -> NotFound:
    return NotFound("temporary_key_not_found", f"no temporary access key {access_key}")
