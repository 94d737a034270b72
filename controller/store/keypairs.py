"""Key pairs, their private halves sealed."""

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, or_, select, update

from controller.errors import AlreadyExists, Conflict, NotAllowed, NotFound
from controller.model import FINAL, KeyPair, Quotas, Sealed
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.doubt import refuse_in_doubt
from controller.store.prepared import Prepared, columns
from controller.store.queries import keypair_of, keypair_row, no_keypair, one
from controller.store.quotas import check_quota

_WITH_PRIVATE = Prepared(
    select(*columns(tables.keypairs, KeyPair), tables.keypairs.c.sealed).where(tables.keypairs.c.id == bindparam("of")),
    lambda *row: (KeyPair(*row[:-1]), row[-1]),
)


class Keypairs(Base):
    """The key pairs of all tenants, and who sees which."""

    def add_keypair(
        self,
        keypair: KeyPair,
        sealed: Sealed | None,
        *,
        imported: bool = False,
        may_be_first: bool = True,
        defaults: Quotas | None = None,
    ) -> KeyPair:
        """Keep a key pair, its private half sealed.

        A name is one key pair to everyone who may see it: no private one is called like one of the account. may_be_first: whether
        it may be the first one of the account. Refused: keypair_exists, keypair_name_taken (by another user's private key
        pair), first_account_keypair, quota_exceeded, master_key_changed (not enabled any more).
        """
        with engine.writing(self._engine) as connection:
            return self._add_keypair(connection, keypair, sealed, imported=imported, may_be_first=may_be_first, defaults=defaults)

    def _add_keypair(
        self,
        connection: Connection,
        keypair: KeyPair,
        sealed: Sealed | None,
        *,
        imported: bool,
        may_be_first: bool,
        defaults: Quotas | None,
    ) -> KeyPair:
        self._take_place(connection, keypair, may_be_first=may_be_first, defaults=defaults)
        refuse_gone(connection, sealed)
        largest = connection.execute(select(func.max(tables.keypairs.c.number))).scalar()
        master_key_id = None if sealed is None else sealed.master_key_id
        kept = replace(keypair, master_key_id=master_key_id, number=(largest or 0) + 1)
        connection.execute(tables.keypairs.insert().values(in_custody(sealed) | rows.row(kept)))
        self._event(
            connection,
            keypair.tenant_id,
            "keypair_imported" if imported else "keypair_created",
            told(keypair) | {"managed": keypair.managed, "user_id": keypair.owner_id},
        )
        return kept

    def check_upgrade(self, before: KeyPair, *, may_be_first: bool = True, defaults: Quotas | None = None) -> None:
        """Refuse now what upgrade_keypair would refuse, so that no private half is opened for it."""
        with engine.reading(self._engine) as connection:
            _refuse_place(connection, upgraded(before), may_be_first=may_be_first, defaults=defaults)

    def describe_keypair(self, keypair_id: str, description: str, user_id: str) -> KeyPair:
        """Describe a key pair anew."""
        with engine.writing(self._engine) as connection:
            before = keypair_of(connection, keypair_id)
            after = replace(before, description=description, updated_at=self._now())
            values = {"description": after.description, "updated_at": after.updated_at}
            connection.execute(update(tables.keypairs).where(tables.keypairs.c.id == keypair_id).values(values))
            detail = told(after) | {"description": description, "user_id": user_id}
            self._event(connection, after.tenant_id, "keypair_described", detail)
            return after

    def upgrade_keypair(
        self,
        before: KeyPair,
        sealed: Sealed | None,
        *,
        may_be_first: bool = True,
        defaults: Quotas | None = None,
    ) -> KeyPair:
        """Make a private key pair one of the account. before: as it was read; sealed: its private half, for what it becomes.

        Refused as in add_keypair, and Conflict(keypair_changed) where it is not what was read any more.
        """
        table = tables.keypairs
        after = replace(upgraded(before), master_key_id=None if sealed is None else sealed.master_key_id)
        with engine.writing(self._engine) as connection:
            if keypair_of(connection, before.id) != before or before.scope != "private":
                raise Conflict("keypair_changed", f"{before.name}: it was changed meanwhile; try again")
            self._take_place(connection, after, may_be_first=may_be_first, defaults=defaults)
            refuse_gone(connection, sealed)
            values = {"scope": after.scope, "version": after.version} | in_custody(sealed)
            connection.execute(update(table).where(table.c.id == before.id).values(values))
            detail = told(after) | {"version": after.version, "user_id": before.owner_id}
            self._event(connection, after.tenant_id, "keypair_upgraded", detail)
        return after

    def keypairs(
        self,
        tenant_id: str,
        user_id: str,
        *,
        after: str = "",
        limit: int | None = None,
        scope: str | None = None,
        part_of_name: str = "",
    ) -> list[KeyPair]:
        """Return the key pairs that a user may see, by name: their own and the account's.

        after, limit: of those whose names come after this one, so many; there need be none of that name. scope, part_of_name: of
        those alone.
        """
        table = tables.keypairs
        query = select(table).where(*_seen_by(tenant_id, user_id), table.c.name > after).order_by(table.c.name).limit(limit)
        if scope is not None:
            query = query.where(table.c.scope == scope)
        if part_of_name:
            query = query.where(table.c.name.icontains(part_of_name, autoescape=True))
        with engine.reading(self._engine) as connection:
            return [rows.keypair(found) for found in connection.execute(query).mappings()]

    def keypair_names(self, tenant_id: str) -> frozenset[str]:
        """Return the names of all key pairs of a tenant, of whatever owner; for who looks for one that is free."""
        query = select(tables.keypairs.c.name).where(tables.keypairs.c.tenant_id == tenant_id)
        with engine.reading(self._engine) as connection:
            return frozenset(connection.execute(query).scalars())

    def keypair(self, tenant_id: str, user_id: str, name: str) -> KeyPair:
        """Return a key pair that the user may see; another user's private one is not found."""
        with engine.reading(self._engine) as connection:
            found = one(connection, tables.keypairs, *_seen_by(tenant_id, user_id), tables.keypairs.c.name == name)
        if found is None:
            raise NotFound("keypair_not_found", f"{name}: no key pair of this name", keypair=name)
        return rows.keypair(found)

    def keypair_by_id(self, keypair_id: str) -> KeyPair:
        """Return a key pair of whatever owner; for who runs a task, not for who asks."""
        with engine.reading(self._engine) as connection:
            return keypair_of(connection, keypair_id)

    def keypair_in_custody(self, keypair_id: str) -> tuple[KeyPair, Sealed]:
        """Return a key pair with its sealed private half, as they belong together. Errors: as sealed_private()."""
        with engine.asking(self._engine) as connection:
            found = _WITH_PRIVATE.first(connection, of=keypair_id)
        if found is None:
            raise no_keypair(keypair_id)
        keypair, sealed = found
        return keypair, _sealed(keypair.name, sealed)

    def sealed_private(self, keypair_id: str) -> Sealed:
        """Return the sealed private half. NotFound(private_key_not_kept) for an unmanaged key pair."""
        with engine.reading(self._engine) as connection:
            found = keypair_row(connection, keypair_id)
        return _sealed(found["name"], found["sealed"])

    def note_export(self, keypair_id: str, user_id: str) -> None:
        """Record who was given the private half."""
        with engine.writing(self._engine) as connection:
            keypair = keypair_of(connection, keypair_id)
            self._event(connection, keypair.tenant_id, "keypair_exported", told(keypair) | {"user_id": user_id})

    def delete_keypair(self, keypair_id: str, user_id: str) -> None:
        """Delete a key pair and its private half; Conflict(already_bound) names the servers where it is bound.

        Conflict: keypair_busy while a task that has not ended is about it, keypair_in_doubt while one that has ended may have
        left it as the only key that opens a login.
        """
        with engine.writing(self._engine) as connection:
            keypair = keypair_of(connection, keypair_id)
            bound = connection.execute(
                select(tables.servers.c.name, tables.bindings.c.login)
                .join(tables.bindings)
                .where(tables.bindings.c.keypair_id == keypair_id)
                .order_by(tables.servers.c.name, tables.bindings.c.login)
            ).all()
            if bound:
                listed = ", ".join(f"{login}@{name}" for name, login in bound)
                raise Conflict(
                    "already_bound",
                    f"{keypair.name}: still bound to {listed}; unbind or replace it there first",
                    servers=[name for name, _ in bound],
                )
            refuse_while_busy(connection, keypair)
            refuse_in_doubt(connection, keypair)
            connection.execute(delete(tables.keypairs).where(tables.keypairs.c.id == keypair_id))
            self._event(connection, keypair.tenant_id, "keypair_deleted", told(keypair) | {"user_id": user_id})

    # -- steps inside a transaction

    def _take_place(self, connection: Connection, keypair: KeyPair, *, may_be_first: bool, defaults: Quotas | None) -> None:
        """Refuse what _refuse_place refuses; and after this the account has had its first key pair."""
        _refuse_place(connection, keypair, may_be_first=may_be_first, defaults=defaults)
        if keypair.scope == "account":
            tenants = tables.tenants
            first = (tenants.c.id == keypair.tenant_id) & tenants.c.account_keypairs_since.is_(None)
            connection.execute(update(tenants).where(first).values(account_keypairs_since=self._now()))


def _refuse_place(connection: Connection, keypair: KeyPair, *, may_be_first: bool, defaults: Quotas | None) -> None:
    """Refuse what would take a name or a place that is not free, and what may not be the first."""
    table = tables.keypairs
    same = [table.c.tenant_id == keypair.tenant_id, table.c.name == keypair.name, table.c.id != keypair.id]
    if one(connection, table, *same, _seen(keypair.owner_id)) is not None:
        raise AlreadyExists("keypair_exists", f"{keypair.name}: there is a key pair of this name already")
    if keypair.scope == "private":
        check_quota(connection, "private_keypairs", keypair.tenant_id, keypair.owner_id, defaults, keypair.name)
        return
    if one(connection, table, *same) is not None:
        raise AlreadyExists(
            "keypair_name_taken",
            f"{keypair.name}: another user has a private key pair of this name, and would see two; take another name",
        )
    tenant = one(connection, tables.tenants, tables.tenants.c.id == keypair.tenant_id)
    if not may_be_first and tenant is not None and tenant["account_keypairs_since"] is None:
        raise NotAllowed(
            "first_account_keypair",
            f"{keypair.name}: the tenant has no account key pair yet, and the first one is an administrator's to make or "
            "to upgrade; after that operators may",
        )
    check_quota(connection, "account_keypairs", keypair.tenant_id, keypair.owner_id, defaults, keypair.name)


def in_custody(sealed: Sealed | None) -> dict[str, Any]:
    """Return the columns that hold a private half; every change of one is a change of all."""
    if sealed is None:
        return {"managed": False, "sealed": None, "master_key_id": None}
    return {"managed": True, "sealed": sealed.record, "master_key_id": sealed.master_key_id}


def refuse_gone(connection: Connection, sealed: Sealed | None) -> None:
    """Conflict(master_key_changed) where the master key was taken away since something was sealed under it: it would be lost."""
    table = tables.master_keys
    key = None if sealed is None else one(connection, table, table.c.id == sealed.master_key_id)
    if key is not None and key["state"] != "enabled":
        raise Conflict(
            "master_key_changed",
            f"{key['alias']}: it was changed meanwhile, and opens nothing now; see its state (kps kms key show)",
        )


def refuse_while_busy(connection: Connection, keypair: KeyPair) -> None:
    """Conflict(keypair_busy) while a task that has not ended is about this key pair."""
    open_tasks = select(tables.tasks).where(tables.tasks.c.tenant_id == keypair.tenant_id, tables.tasks.c.status.not_in(FINAL))
    for task in connection.execute(open_tasks).mappings():
        if task["request"].get("keypair_id") == keypair.id:
            raise Conflict(
                "keypair_busy",
                f"{keypair.name}: task {task['id']} on {task['server_name']} works with it; wait until it has ended",
            )


def told(keypair: KeyPair) -> dict[str, Any]:
    """Return what an event says of a key pair."""
    return {
        "keypair_id": keypair.id,
        "name": keypair.name,
        "scope": keypair.scope,
        "owner_id": keypair.owner_id,
        "fingerprint": keypair.fingerprint,
    }


def upgraded(keypair: KeyPair) -> KeyPair:
    """Return what a private key pair is as one of the account: its private half is sealed for this."""
    return replace(keypair, scope="account", version=keypair.version + 1)


def _sealed(name: str, found: bytes | None) -> Sealed:
    if found is None:
        raise NotFound("private_key_not_kept", f"{name}: the private half is not in custody")
    return Sealed(found)


def _seen_by(tenant_id: str, user_id: str) -> list[ColumnElement[bool]]:
    return [tables.keypairs.c.tenant_id == tenant_id, _seen(user_id)]


def _seen(user_id: str) -> ColumnElement[bool]:
    """In SQL what KeyPair.seen_by says."""
    table = tables.keypairs
    return or_(table.c.scope == "account", table.c.owner_id == user_id)
