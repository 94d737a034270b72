"""Tenants and their users."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, update

from controller.errors import AlreadyExists, Conflict, NotFound, Unavailable
from controller.model import FINAL, Caller, KeyPair, Quotas, Sealed, Tenant, User
from controller.store import engine, rows, schema, tables
from controller.store.base import Base
from controller.store.doubt import in_doubt, put_in_doubt
from controller.store.passwords import told as told_of_secret
from controller.store.queries import one
from controller.store.quotas import check_quota
from controller.store.temporary import end_with_user


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
            self._tenant(connection, caller, tenant_name, user_name, access_key, secret_key)
            connection.execute(tables.home.insert().values(one=1, user_id=caller.user_id, project_id=caller.project_id))
            self._event(connection, caller.tenant_id, "home_initialised", {"user_id": caller.user_id})
            before_commit()
            return caller, access_key

    def add_tenant(
        self,
        caller: Caller,
        tenant_name: str,
        user_name: str,
        access_key: str,
        secret_key: Sealed,
        by: str,
    ) -> Tenant:
        """Make one more tenant with a project and its first administrator, who is caller, and with their access key."""
        with engine.writing(self._engine) as connection:
            if one(connection, tables.tenants, tables.tenants.c.name == tenant_name) is not None:
                raise AlreadyExists("tenant_exists", f"{tenant_name}: there is a tenant of this name already")
            self._tenant(connection, caller, tenant_name, user_name, access_key, secret_key)
            self._event(connection, caller.tenant_id, "tenant_created", {"name": tenant_name, "user_id": by})
            return _tenant(connection, caller.tenant_id)

    def tenants(self) -> list[Tenant]:
        """Return all tenants, by name."""
        with engine.reading(self._engine) as connection:
            ids = connection.execute(select(tables.tenants.c.id).order_by(tables.tenants.c.name)).scalars().all()
            return [_tenant(connection, each) for each in ids]

    def tenant(self, tenant_id: str) -> Tenant:
        """Return one tenant."""
        with engine.reading(self._engine) as connection:
            return _tenant(connection, tenant_id)

    def change_tenant(self, tenant_id: str, *, v3_accepts_lockout: bool, by: str) -> Tenant:
        """Change what a tenant lets v3 calls do."""
        table = tables.tenants
        with engine.writing(self._engine) as connection:
            before = _tenant(connection, tenant_id)
            if before.v3_accepts_lockout == v3_accepts_lockout:
                return before
            connection.execute(update(table).where(table.c.id == tenant_id).values(v3_accepts_lockout=v3_accepts_lockout))
            detail = {"name": before.name, "v3_accepts_lockout": v3_accepts_lockout, "user_id": by}
            self._event(connection, tenant_id, "tenant_changed", detail)
            return replace(before, v3_accepts_lockout=v3_accepts_lockout)

    def local_owner(self) -> tuple[Caller, str]:
        """Return who owns this home, and the oldest of their access keys. Unavailable(not_initialised) before init."""
        if self._path is not None and not self._path.exists():
            raise Unavailable("not_initialised", f"{self.place}: there is no database; run kps init")
        with engine.reading(self._engine) as connection:
            owner = _home(connection) if schema.version(connection) else None
        if owner is None:
            raise Unavailable("not_initialised", f"{self.place}: the home has no owner yet; run kps init")
        return owner

    def caller_by_local_home(self) -> Caller:
        """Return the first tenant's administrator: who can open the home is its owner."""
        return self.local_owner()[0]

    def owns_home(self, user_id: str) -> bool:
        """Whether this user is the one as whom whoever can open the home acts."""
        with engine.reading(self._engine) as connection:
            return one(connection, tables.home, tables.home.c.user_id == user_id) is not None

    # -- users

    def users(self, tenant_id: str) -> list[User]:
        """Return a tenant's users by name, the disabled ones too."""
        table = tables.users
        query = select(table).where(table.c.tenant_id == tenant_id, table.c.deleted_at.is_(None)).order_by(table.c.name)
        with engine.reading(self._engine) as connection:
            return [rows.user(found) for found in connection.execute(query).mappings()]

    def user(self, tenant_id: str, name_or_id: str) -> User:
        """Return one user of a tenant; their name is looked at first."""
        with engine.reading(self._engine) as connection:
            for column in (tables.users.c.name, tables.users.c.id):
                found = one(connection, tables.users, *_of(tenant_id), column == name_or_id)
                if found is not None:
                    return rows.user(found)
        raise NotFound("user_not_found", f"{name_or_id}: no user of this name", user=name_or_id)

    def add_user(self, user: User, by: str, defaults: Quotas | None = None) -> User:
        """Keep a new user. AlreadyExists(user_exists): the name, or the id given from outside, is another user's."""
        with engine.writing(self._engine) as connection:
            if one(connection, tables.users, *_of(user.tenant_id), tables.users.c.name == user.name) is not None:
                raise AlreadyExists("user_exists", f"{user.name}: there is a user of this name already")
            outside = tables.users.c.external_id == user.external_id
            if user.external_id is not None and one(connection, tables.users, *_of(user.tenant_id), outside) is not None:
                raise AlreadyExists("user_exists", f"{user.external_id}: there is a user of this id already")
            check_quota(connection, "users", user.tenant_id, user.id, defaults, user.name)
            made = replace(user, created_at=self._now())
            connection.execute(tables.users.insert().values(rows.row(made)))
            detail = {"name": user.name, "role": user.role, "kind": user.kind, "of_user": user.id, "user_id": by}
            self._event(connection, user.tenant_id, "user_created", detail)
            return made

    def change_user(self, tenant_id: str, user_id: str, changes: Mapping[str, Any], by: str) -> User:
        """Change a user's role, enabled or source_networks. What they were given for a while ends where they are disabled.

        Conflict: last_administrator for the tenant's last one that is enabled, home_owner for whoever owns the home.
        """
        with engine.writing(self._engine) as connection:
            user = _user(connection, tenant_id, user_id)
            changed = replace(user, **changes)
            if changed == user:
                return user
            if (changed.role, changed.enabled) != (user.role, user.enabled):
                self._stays_administered(connection, user, stays=changed.enabled and changed.role == "administrator")
            connection.execute(update(tables.users).where(tables.users.c.id == user_id).values(**changes))
            ended = end_with_user(connection, user_id) if user.enabled and not changed.enabled else {}
            before = {name: getattr(user, name) for name in changes}
            detail = {"name": user.name, "before": before, "after": dict(changes), "of_user": user.id, "user_id": by}
            self._event(connection, tenant_id, "user_changed", detail | ended)
            return changed

    def delete_user(self, tenant_id: str, user_id: str, by: str, *, with_keypairs: bool = False) -> list[str]:
        """Delete a user with their access keys; returns the names of the private key pairs that went with them.

        What they made for the account stays. Conflict: user_busy while a task of theirs has not ended, user_owns_keypairs
        (with_keypairs: only those that are bound somewhere hinder it), user_owns_secrets (with_keypairs: they go too), and as
        change_user for the last administrator.
        """
        with engine.writing(self._engine) as connection:
            user = _user(connection, tenant_id, user_id)
            self._stays_administered(connection, user, stays=False)
            tasks = tables.tasks
            busy = one(
                connection, tasks, tasks.c.tenant_id == tenant_id, tasks.c.user_id == user_id, tasks.c.status.not_in(FINAL)
            )
            if busy is not None:
                message = (
                    f"{user.name}: task {busy['id']} on {busy['server_name']} is theirs and {busy['status']}; wait until it ended"
                )
                raise Conflict("user_busy", message, task=busy["id"])
            gone = self._without_keypairs(connection, user, with_keypairs)
            self._without_secrets(connection, user, with_keypairs)
            ended = end_with_user(connection, user_id)
            connection.execute(delete(tables.access_keys).where(tables.access_keys.c.user_id == user_id))
            connection.execute(delete(tables.quotas).where(tables.quotas.c.user_id == user_id))
            connection.execute(delete(tables.console_passwords).where(tables.console_passwords.c.user_id == user_id))
            # No name of a user has a "~" in it, so it is free again; the row stays for what names this user.
            values = {"deleted_at": self._now(), "enabled": False, "name": f"{user.name}~{user.id}", "external_id": None}
            connection.execute(update(tables.users).where(tables.users.c.id == user_id).values(values))
            detail = {"name": user.name, "role": user.role, "kind": user.kind, "of_user": user.id, "user_id": by}
            self._event(connection, tenant_id, "user_deleted", detail | {"keypairs": len(gone)} | ended)
            return [keypair.name for keypair in gone]

    def _without_keypairs(self, connection: Connection, user: User, with_keypairs: bool) -> list[KeyPair]:
        """Delete a user's private key pairs, or Conflict where that is not to be."""
        table = tables.keypairs
        query = select(table).where(table.c.owner_id == user.id, table.c.scope == "private").order_by(table.c.name)
        owned = [rows.keypair(found) for found in connection.execute(query).mappings()]
        bound = set(connection.execute(select(tables.bindings.c.keypair_id)).scalars())
        bound |= {put_in_doubt(task) for task in in_doubt(connection, tables.tasks.c.tenant_id == user.tenant_id)}
        left = [each for each in owned if each.id in bound] if with_keypairs else owned
        if left:
            names = [each.name for each in left]
            step = (
                "unbind or replace them where they are bound, or may be (kps task list --failed)"
                if with_keypairs
                else "they upgrade or delete them, or delete the user with them (--with-keypairs)"
            )
            raise Conflict("user_owns_keypairs", f"{user.name} owns {', '.join(names)}; {step}", keypairs=names)
        for each in owned:
            connection.execute(delete(table).where(table.c.id == each.id))
            detail = {"keypair_id": each.id, "name": each.name, "scope": each.scope, "fingerprint": each.fingerprint}
            self._event(connection, user.tenant_id, "keypair_deleted", detail | {"owner_id": user.id, "user_id": user.id})
        return owned

    def _without_secrets(self, connection: Connection, user: User, with_them: bool) -> None:
        """Delete a user's private secrets, or Conflict(user_owns_secrets) where that is not to be."""
        table = tables.secrets
        query = select(table).where(table.c.owner_id == user.id, table.c.scope == "private").order_by(table.c.name)
        owned = [rows.secret(found) for found in connection.execute(query).mappings()]
        if owned and not with_them:
            names = [each.name for each in owned]
            step = "they delete them, or delete the user with all that is private to them (--with-keypairs)"
            raise Conflict("user_owns_secrets", f"{user.name} owns {', '.join(names)}; {step}", secrets=names)
        for each in owned:
            for part in (tables.secret_stages, tables.secret_versions):
                connection.execute(delete(part).where(part.c.secret_id == each.id))
            connection.execute(delete(table).where(table.c.id == each.id))
            self._event(connection, user.tenant_id, "secret_deleted", told_of_secret(each) | {"user_id": user.id})

    def _stays_administered(self, connection: Connection, user: User, *, stays: bool) -> None:
        if stays or user.role != "administrator" or not user.enabled:
            return
        if one(connection, tables.home, tables.home.c.user_id == user.id) is not None:
            raise Conflict(
                "home_owner", f"{user.name}: whoever can open the home acts as this user, so they stay an administrator of it"
            )
        table = tables.users
        # Who acts for somebody else changes no users (controller.service.roles): alone they would be shut out for good.
        able = (table.c.role == "administrator", table.c.enabled.is_(True), table.c.kind != "delegated")
        if one(connection, table, *_of(user.tenant_id), *able, table.c.id != user.id) is None:
            raise Conflict(
                "last_administrator",
                f"{user.name}: the tenant has no other enabled administrator who may change users; make another one first",
            )

    def _tenant(
        self, connection: Connection, caller: Caller, tenant_name: str, user_name: str, access_key: str, secret_key: Sealed
    ) -> None:
        at = self._now()
        connection.execute(tables.tenants.insert().values(id=caller.tenant_id, name=tenant_name))
        connection.execute(tables.projects.insert().values(id=caller.project_id, tenant_id=caller.tenant_id))
        first = User(caller.user_id, caller.tenant_id, user_name, caller.role, created_at=at)
        connection.execute(tables.users.insert().values(rows.row(first)))
        connection.execute(
            tables.access_keys.insert().values(
                access_key=access_key,
                user_id=caller.user_id,
                project_id=caller.project_id,
                sealed=secret_key.record,
                created_at=at,
            )
        )


def _of(tenant_id: str) -> list[ColumnElement[bool]]:
    return [tables.users.c.tenant_id == tenant_id, tables.users.c.deleted_at.is_(None)]


def _user(connection: Connection, tenant_id: str, user_id: str) -> User:
    found = one(connection, tables.users, *_of(tenant_id), tables.users.c.id == user_id)
    if found is None:
        raise NotFound("user_not_found", f"{user_id}: no user of this id", user=user_id)
    return rows.user(found)


def _tenant(connection: Connection, tenant_id: str) -> Tenant:
    found = one(connection, tables.tenants, tables.tenants.c.id == tenant_id)
    if found is None:
        raise NotFound("tenant_not_found", f"{tenant_id}: no tenant of this id", tenant=tenant_id)
    projects = select(tables.projects.c.id).where(tables.projects.c.tenant_id == tenant_id)
    ids = list(connection.execute(projects.order_by(tables.projects.c.id)).scalars())
    return Tenant(found["id"], found["name"], ids, found["account_keypairs_since"], found["v3_accepts_lockout"])


def _home(connection: Connection) -> tuple[Caller, str] | None:
    home, users, keys = tables.home, tables.users, tables.access_keys
    query = select(users, home.c.project_id, keys.c.access_key).select_from(home.join(users).join(keys))
    found = connection.execute(query.order_by(keys.c.created_at, keys.c.access_key)).mappings().first()
    if found is None:
        return None
    owner = Caller(found["tenant_id"], found["project_id"], found["id"], found["role"], found["kind"], at_home=True)
    return owner, found["access_key"]
