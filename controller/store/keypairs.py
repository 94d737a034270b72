"""Key pairs, their private halves sealed."""

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, or_, select

from controller.errors import AlreadyExists, Conflict, NotFound
from controller.model import FINAL, KeyPair, Sealed
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.queries import keypair_row, one


class Keypairs(Base):
    """The key pairs of all tenants, and who sees which."""

    def add_keypair(self, keypair: KeyPair, sealed: Sealed | None, *, imported: bool = False) -> KeyPair:
        """Keep a key pair, its private half sealed.

        A name is one key pair to everyone who may see it: no private one is called like one of the account.
        """
        table = tables.keypairs
        hidden = (table.c.scope == "private") & (table.c.owner_id != keypair.owner_id)
        same: list[ColumnElement[bool]] = [table.c.tenant_id == keypair.tenant_id, table.c.name == keypair.name]
        if keypair.scope == "private":
            same.append(~hidden)
        kept = replace(keypair, master_key_id=None if sealed is None else sealed.master_key_id)
        with engine.writing(self._engine) as connection:
            if one(connection, table, *same) is not None:
                raise AlreadyExists("keypair_exists", f"{keypair.name}: there is a key pair of this name already")
            connection.execute(table.insert().values(in_custody(sealed) | rows.row(kept)))
            self._event(
                connection,
                keypair.tenant_id,
                "keypair_imported" if imported else "keypair_created",
                _told(keypair) | {"managed": keypair.managed, "user_id": keypair.owner_id},
            )
        return kept

    def keypairs(self, tenant_id: str, user_id: str) -> list[KeyPair]:
        """Return the key pairs that a user may see, by name: their own and the account's."""
        query = select(tables.keypairs).where(*_seen_by(tenant_id, user_id)).order_by(tables.keypairs.c.name)
        with engine.reading(self._engine) as connection:
            return [rows.keypair(found) for found in connection.execute(query).mappings()]

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
            return rows.keypair(keypair_row(connection, keypair_id))

    def sealed_private(self, keypair_id: str) -> Sealed:
        """Return the sealed private half. NotFound(private_key_not_kept) for an unmanaged key pair."""
        with engine.reading(self._engine) as connection:
            found = keypair_row(connection, keypair_id)
        if found["sealed"] is None:
            raise NotFound("private_key_not_kept", f"{found['name']}: the private half is not in custody")
        return Sealed(found["sealed"])

    def note_export(self, keypair_id: str, user_id: str) -> None:
        """Record who was given the private half."""
        with engine.writing(self._engine) as connection:
            keypair = rows.keypair(keypair_row(connection, keypair_id))
            self._event(connection, keypair.tenant_id, "keypair_exported", _told(keypair) | {"user_id": user_id})

    def delete_keypair(self, keypair_id: str, user_id: str) -> None:
        """Delete a key pair and its private half; Conflict(already_bound) names the servers where it is bound.

        Conflict(keypair_busy) while a task that has not ended is about it.
        """
        with engine.writing(self._engine) as connection:
            keypair = rows.keypair(keypair_row(connection, keypair_id))
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
            connection.execute(delete(tables.keypairs).where(tables.keypairs.c.id == keypair_id))
            self._event(connection, keypair.tenant_id, "keypair_deleted", _told(keypair) | {"user_id": user_id})


def in_custody(sealed: Sealed | None) -> dict[str, Any]:
    """Return the columns that hold a private half; every change of one is a change of all."""
    if sealed is None:
        return {"managed": False, "sealed": None, "master_key_id": None}
    return {"managed": True, "sealed": sealed.record, "master_key_id": sealed.master_key_id}


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
    return {"keypair_id": keypair.id, "name": keypair.name, "scope": keypair.scope, "fingerprint": keypair.fingerprint}


def _seen_by(tenant_id: str, user_id: str) -> list[ColumnElement[bool]]:
    table = tables.keypairs
    return [table.c.tenant_id == tenant_id, or_(table.c.scope == "account", table.c.owner_id == user_id)]


def _told(keypair: KeyPair) -> dict[str, Any]:
    return {"keypair_id": keypair.id, "name": keypair.name, "scope": keypair.scope, "fingerprint": keypair.fingerprint}
