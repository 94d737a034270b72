"""Who may sign in to the console, and who is signed in: hashes of passwords, and digests of links and sessions."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, select, update

from controller.errors import NotFound
from controller.model import ConsoleSession, SignInBy, User
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.queries import one
from controller.store.temporary import end_console

MOST_SESSIONS = 20  # of a user at the same time; the oldest makes room
MOST_LINKS = 20
_NOTED_EVERY = timedelta(minutes=1)


class Entry(NamedTuple):
    """What is known of who says that they are somebody: in which tenant, who that is, and the hash of their password."""

    tenant_id: str
    user: User | None
    hash: str | None


class Console(Base):
    """Sign-in to the console."""

    def console_entry(self, tenant: str | None, name: str) -> Entry:
        """Return what there is under this name, in a tenant by its name or id (None: the home's own)."""
        users, tenants, passwords = tables.users, tables.tenants, tables.console_passwords
        with engine.reading(self._engine) as connection:
            wanted = None if tenant is None else one(connection, tenants, (tenants.c.name == tenant) | (tenants.c.id == tenant))
            owner = select(users.c.tenant_id).join(tables.home, tables.home.c.user_id == users.c.id)
            tenant_id = connection.execute(owner).scalar_one() if wanted is None else wanted["id"]
            here = [users.c.tenant_id == tenant_id, users.c.deleted_at.is_(None), users.c.name == name]
            found = None if tenant is not None and wanted is None else one(connection, users, *here)
            kept = one(connection, passwords, passwords.c.user_id == ("" if found is None else found["id"]))
        user = None if found is None else rows.user(found)
        return Entry(tenant_id, user, None if kept is None else kept["hash"])

    def set_console_password(self, user: User, hash: str, by: str) -> None:
        """Keep the hash of a user's password, in the place of the one before; who is signed in as them is no more."""
        table = tables.console_passwords
        with engine.writing(self._engine) as connection:
            _there(connection, user)
            connection.execute(delete(table).where(table.c.user_id == user.id))
            connection.execute(table.insert().values(user_id=user.id, hash=hash, changed_at=self._now()))
            detail = {"name": user.name, "of_user": user.id, "user_id": by} | end_console(connection, user.id)
            self._event(connection, user.tenant_id, "password_set", detail)

    def add_console_link(self, user: User, digest: bytes, expires_at: datetime, by: str, asked_with: str | None) -> None:
        """Keep a link that lets a user in once. NotFound(access_key_not_found): what it stands on is gone by now."""
        table, keys = tables.console_links, tables.access_keys
        with engine.writing(self._engine) as connection:
            _there(connection, user)
            key = None if asked_with is None else one(connection, keys, keys.c.access_key == asked_with)
            if asked_with is not None and (key is None or not key["enabled"]):
                raise NotFound("access_key_not_found", f"no access key {asked_with} that may be used")
            _make_room(connection, table, user.id, MOST_LINKS)
            values = {"user_id": user.id, "asked_with": asked_with, "created_at": self._now(), "expires_at": expires_at}
            connection.execute(table.insert().values(values | {"digest": digest}))
            detail = {"name": user.name, "until": expires_at.isoformat(), "of_user": user.id, "user_id": by}
            self._event(connection, user.tenant_id, "console_link_made", detail)

    def console_link(self, digest: bytes) -> User:
        """Return whom a link would let in, whether it may still or not. NotFound(link_not_found)."""
        with engine.reading(self._engine) as connection:
            return _of_link(connection, digest)

    def begin_console_session(
        self,
        user: User,
        how: SignInBy,
        session: bytes,
        expires_at: datetime,
        *,
        instead_of: bytes | None,
        link: bytes | None,
        hash: str | None = None,
        where: str,
    ) -> ConsoleSession:
        """Keep a new session by its digest. link: the one that it begins with, which is used up; NotFound where it was already.

        hash: of the password that it begins with; NotFound where that is another one by now, or the user is disabled.
        instead_of: the session that it takes the place of.
        """
        table, at = tables.console_sessions, self._now()
        with engine.writing(self._engine) as connection:
            _there(connection, user, enabled=True)
            passwords = tables.console_passwords
            if hash is not None and one(connection, passwords, passwords.c.user_id == user.id, passwords.c.hash == hash) is None:
                raise NotFound("password_not_found", f"{user.name}: the password is another one by now")
            asked_with = None if link is None else _used_up(connection, link, at)
            if instead_of is not None:
                connection.execute(delete(table).where(table.c.digest == instead_of))
            _make_room(connection, table, user.id, MOST_SESSIONS)
            project = select(tables.projects.c.id).where(tables.projects.c.tenant_id == user.tenant_id)
            project_id = connection.execute(project.order_by(tables.projects.c.id).limit(1)).scalar_one()
            made = ConsoleSession(user.id, project_id, how, at, at, expires_at, asked_with)
            connection.execute(table.insert().values(rows.row(made) | {"digest": session}))
            detail = {"how": how, "address": where, "until": expires_at.isoformat()}
            self._event(connection, user.tenant_id, "session_begun", detail, user_id=user.id)
            return made

    def console_session(self, digest: bytes) -> tuple[User, ConsoleSession]:
        """Return a session with whose it is, whether it may still be used or not. NotFound(session_not_found)."""
        table = tables.console_sessions
        with engine.reading(self._engine) as connection:
            found = one(connection, table, table.c.digest == digest)
            if found is None:
                raise NotFound("session_not_found", "no such session; sign in")
            user = connection.execute(select(tables.users).where(tables.users.c.id == found["user_id"])).mappings().one()
        return rows.user(user), rows.console_session(found)

    def console_sessions(self, user_id: str) -> list[tuple[bytes, ConsoleSession]]:
        """Return a user's sessions with their digests, the last used first; those too that may not be used any more."""
        table = tables.console_sessions
        query = select(table).where(table.c.user_id == user_id).order_by(table.c.seen_at.desc(), table.c.created_at.desc())
        with engine.reading(self._engine) as connection:
            return [(found["digest"], rows.console_session(found)) for found in connection.execute(query).mappings()]

    def console_session_seen(self, digest: bytes, session: ConsoleSession) -> None:
        """Note that somebody uses a session now; to the minute, so that not every request writes."""
        table, at = tables.console_sessions, self._now()
        if at - session.seen_at < _NOTED_EVERY:
            return
        with engine.writing(self._engine) as connection:
            connection.execute(update(table).where(table.c.digest == digest).values(seen_at=at))

    def end_console_session(self, digest: bytes, by: User) -> None:
        """End a session, as its user asks."""
        table = tables.console_sessions
        with engine.writing(self._engine) as connection:
            if connection.execute(delete(table).where(table.c.digest == digest)).rowcount:
                self._event(connection, by.tenant_id, "session_ended", {}, user_id=by.id)

    def note_refused_sign_in(self, tenant_id: str, user: User | None, why: str, where: str, unrecorded: int = 0) -> None:
        """Record that somebody was not let in. user: as whom, where there is such a user; what was typed instead is not kept.

        unrecorded: how many of the same were left out before this one.
        """
        detail = {"why": why, "address": where} | ({} if user is None else {"name": user.name, "of_user": user.id})
        detail |= {"unrecorded_before": str(unrecorded)} if unrecorded else {}
        with engine.writing(self._engine) as connection:
            self._event(connection, tenant_id, "sign_in_refused", detail)


# -- steps inside a transaction


def _there(connection: Connection, user: User, *, enabled: bool = False) -> None:
    """NotFound where a user has been deleted by now. enabled: or disabled."""
    users = tables.users
    found = one(connection, users, users.c.id == user.id, users.c.deleted_at.is_(None))
    if found is None or (enabled and not found["enabled"]):
        raise NotFound("user_not_found", f"{user.name}: no user of this name", user=user.name)


def _of_link(connection: Connection, digest: bytes) -> User:
    table = tables.console_links
    found = one(connection, table, table.c.digest == digest)
    if found is None:
        raise NotFound("link_not_found", "no such link")
    return rows.user(connection.execute(select(tables.users).where(tables.users.c.id == found["user_id"])).mappings().one())


def _used_up(connection: Connection, digest: bytes, at: datetime) -> str | None:
    """Take a link away; returns the access key that it stands on. NotFound where it was used, or has ended."""
    table = tables.console_links
    found = one(connection, table, table.c.digest == digest, table.c.expires_at > at)
    if found is None:
        raise NotFound("link_not_found", "no such link")
    connection.execute(delete(table).where(table.c.digest == digest))
    asked_with: str | None = found["asked_with"]
    return asked_with


def _make_room(connection: Connection, table: Any, user_id: str, most: int) -> None:
    """Take away the oldest of a user's, so that one more makes no more than so many."""
    digests = select(table.c.digest).where(table.c.user_id == user_id).order_by(table.c.created_at.desc())
    old: Collection[bytes] = list(connection.execute(digests.offset(most - 1)).scalars())
    if old:
        connection.execute(delete(table).where(table.c.digest.in_(old)))
