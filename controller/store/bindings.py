"""Key pairs on the logins of servers."""

from collections.abc import Collection
from dataclasses import fields

from sqlalchemy import Connection, bindparam, delete, select

from controller.model import Binding, KeyPair
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.prepared import Prepared, columns
from controller.store.queries import keypair_of, seen_by, server_name

_THERE = (tables.bindings.c.server_id == bindparam("of"), tables.bindings.c.login == bindparam("on"))
_TAKE_OFF: Prepared[str] = Prepared(delete(tables.bindings).where(*_THERE).returning(tables.bindings.c.keypair_id))
_PUT_ON: Prepared[None] = Prepared(tables.bindings.insert())
_OF_SERVER = Prepared(
    select(*columns(tables.bindings, Binding))
    .join(tables.servers)
    .where(tables.bindings.c.server_id == bindparam("of"), tables.servers.c.tenant_id == bindparam("tenant"))
    .order_by(tables.bindings.c.login),
    Binding,
)
_KEPT = len(fields(Binding))
_BOUND = Prepared(
    select(*columns(tables.bindings, Binding), *columns(tables.keypairs, KeyPair))
    .join(tables.servers, tables.servers.c.id == tables.bindings.c.server_id)
    .join(tables.keypairs, tables.keypairs.c.id == tables.bindings.c.keypair_id)
    .where(tables.bindings.c.server_id == bindparam("of"), tables.servers.c.tenant_id == bindparam("tenant"))
    .order_by(tables.bindings.c.login),
    lambda *row: (Binding(*row[:_KEPT]), KeyPair(*row[_KEPT:])),
)


class Bindings(Base):
    """Which key pair is on which login, as proved."""

    def bindings(self, tenant_id: str, *, server_id: str | None = None, keypair_id: str | None = None) -> list[Binding]:
        """Return a tenant's bindings, by server and login."""
        table = tables.bindings
        if server_id is not None and keypair_id is None:
            with engine.reading(self._engine) as connection:
                return _OF_SERVER.all(connection, of=server_id, tenant=tenant_id)
        query = select(table).join(tables.servers).where(tables.servers.c.tenant_id == tenant_id)
        if server_id is not None:
            query = query.where(table.c.server_id == server_id)
        if keypair_id is not None:
            query = query.where(table.c.keypair_id == keypair_id)
        with engine.reading(self._engine) as connection:
            ordered = query.order_by(tables.servers.c.name, table.c.login)
            return [rows.binding(found) for found in connection.execute(ordered).mappings()]

    def bound_there(self, tenant_id: str, server_id: str) -> list[tuple[Binding, KeyPair]]:
        """Return the bindings of a tenant's server by login, each with its key pair, whoever that belongs to."""
        with engine.reading(self._engine) as connection:
            return _BOUND.all(connection, of=server_id, tenant=tenant_id)

    def named_bindings(
        self, tenant_id: str, user_id: str, server_ids: Collection[str] | None = None
    ) -> list[tuple[Binding, str | None]]:
        """Return bindings as bindings() does, each with its key pair's name; None for another user's private one.

        server_ids: those of these servers alone.
        """
        table, servers, keypairs = tables.bindings, tables.servers, tables.keypairs
        query = select(table, servers.c.name.label("server"), keypairs.c.name, keypairs.c.scope, keypairs.c.owner_id)
        query = query.join(servers).join(keypairs)
        if server_ids is None:
            query = query.where(servers.c.tenant_id == tenant_id)
        else:
            # As an expression: by the column the database would go through all servers of the tenant.
            query = query.where(table.c.server_id.in_(server_ids), servers.c.tenant_id.concat("") == tenant_id)
        with engine.reading(self._engine) as connection:
            found = sorted(connection.execute(query).mappings(), key=lambda row: (row["server"], row["login"]))
            return [(rows.binding(row), row["name"] if seen_by(row, user_id) else None) for row in found]

    def strangers(self, tenant_id: str, user_id: str) -> list[Binding]:
        """Return a tenant's bindings of private key pairs that are other users' than this one."""
        table, keypairs = tables.bindings, tables.keypairs
        query = select(table).join(tables.servers).join(keypairs).where(tables.servers.c.tenant_id == tenant_id)
        query = query.where(keypairs.c.scope == "private", keypairs.c.owner_id != user_id)
        with engine.reading(self._engine) as connection:
            return [rows.binding(found) for found in connection.execute(query).mappings()]

    def _bind(self, connection: Connection, binding: Binding) -> None:
        tenant_id, name = server_name(connection, binding.server_id)
        keypair = keypair_of(connection, binding.keypair_id)
        _TAKE_OFF.run(connection, of=binding.server_id, on=binding.login)
        _PUT_ON.run(connection, **rows.row(binding))
        self._event(
            connection,
            tenant_id,
            "binding_set",
            {"server": name, "login": binding.login, "proof": binding.proof}
            | {"keypair": keypair.name, "keypair_id": keypair.id, "scope": keypair.scope, "owner_id": keypair.owner_id},
            task_id=binding.task_id,
            server_id=binding.server_id,
            keypair_id=binding.keypair_id,
        )

    def _unbind(self, connection: Connection, server_id: str, login: str, task_id: str | None) -> bool:
        tenant_id, name = server_name(connection, server_id)
        gone = _TAKE_OFF.first(connection, of=server_id, on=login)
        if gone is not None:
            self._event(
                connection,
                tenant_id,
                "binding_removed",
                {"server": name, "login": login},
                task_id=task_id,
                server_id=server_id,
                keypair_id=gone,
            )
        return gone is not None
