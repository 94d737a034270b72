"""Private halves in custody: taken in later, opened on record, sealed anew, destroyed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, func, select, update

from controller.errors import Conflict, NotFound
from controller.model import BoundKey, KeyPair, PasswordLogin, Sealed, Task
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.doubt import in_doubt, of_key, put_in_doubt
from controller.store.keypairs import in_custody, refuse_gone, refuse_while_busy, told
from controller.store.queries import keypair_of, keypair_row, one, server_row, some

# Called with what is bound on the servers in question, inside the transaction that takes a private half away; raises to stop it.
Check = Callable[[Sequence[BoundKey]], None]


class Custody(Base):
    """What happens to a private half between its first sealing and its end."""

    def note_opening(
        self, keypair_id: str, purpose: str, user_id: str, *, task_id: str | None = None, server_id: str | None = None
    ) -> None:
        """Record who has a private half opened, for what, and for which task."""
        with engine.writing(self._engine) as connection:
            keypair = keypair_of(connection, keypair_id)
            detail = told(keypair) | {"purpose": purpose, "user_id": user_id}
            self._event(connection, keypair.tenant_id, "keypair_opened", detail, task_id=task_id, server_id=server_id)

    def keep_private(self, before: KeyPair, sealed: Sealed, user_id: str) -> KeyPair:
        """Take the private half of an unmanaged key pair into custody. before: as it was read; sealed: for what managed() says.

        Conflict(keypair_changed) where it is not what was read any more.
        """
        with engine.writing(self._engine) as connection:
            if keypair_of(connection, before.id) != before or before.managed:
                raise Conflict("keypair_changed", f"{before.name}: it was changed meanwhile; try again")
            refuse_gone(connection, sealed)
            version = {"version": managed(before).version}
            return self._change(connection, before.id, in_custody(sealed) | version, "keypair_managed", user_id)

    def clear_private(self, keypair_id: str, user_id: str, check: Check, *, even_if: bool = False) -> KeyPair:
        """Destroy a private half; the key pair stays, unmanaged. even_if: that it was said in as many words, for the record.

        NotFound(private_key_not_kept) where there is none, Conflict(keypair_busy) while a task works with it, and whatever
        check raises.
        """
        with engine.writing(self._engine) as connection:
            return self._clear_private(connection, keypair_id, user_id, check, even_if=even_if)

    def _clear_private(self, connection: Connection, keypair_id: str, user_id: str, check: Check, *, even_if: bool) -> KeyPair:
        found = keypair_row(connection, keypair_id)
        if found["sealed"] is None:
            raise NotFound("private_key_not_kept", f"{found['name']}: the private half is not in custody")
        refuse_while_busy(connection, rows.keypair(found))
        check(standing(connection, [keypair_id]))
        said = {"even_if_only_way_in": even_if}
        return self._change(connection, keypair_id, in_custody(None), "keypair_cleared", user_id, said)

    def move_private(self, keypair_id: str, before: Sealed, after: Sealed, user_id: str) -> KeyPair:
        """Put a private half, as it is sealed under one master key, in the place of what it was under another.

        Conflict(keypair_changed) where it is not the one any more that was read before.
        """
        with engine.writing(self._engine) as connection:
            found = keypair_row(connection, keypair_id)
            if found["sealed"] != before.record:
                raise Conflict("keypair_changed", f"{found['name']}: it was changed meanwhile; try again")
            refuse_gone(connection, after)
            return self._change(connection, keypair_id, in_custody(after), "keypair_moved", user_id)

    def sealed_under(self, key_id: str) -> list[KeyPair]:
        """Return the key pairs whose private halves a customer master key seals, of whatever owner."""
        query = select(tables.keypairs).where(tables.keypairs.c.master_key_id == key_id).order_by(tables.keypairs.c.name)
        with engine.reading(self._engine) as connection:
            return [rows.keypair(found) for found in connection.execute(query).mappings()]

    def standing(self, keypair_ids: Collection[str]) -> list[BoundKey]:
        """Return all that is bound, or may be, on every server where one of these key pairs is bound, or may be."""
        with engine.reading(self._engine) as connection:
            return standing(connection, keypair_ids)

    # -- steps inside a transaction

    def _change(
        self,
        connection: Connection,
        keypair_id: str,
        columns: Mapping[str, Any],
        kind: str,
        user_id: str,
        said: Mapping[str, Any] | None = None,
    ) -> KeyPair:
        table = tables.keypairs
        before = keypair_of(connection, keypair_id)
        connection.execute(update(table).where(table.c.id == keypair_id).values(columns))
        after = keypair_of(connection, keypair_id)
        keys = {"master_key_id": after.master_key_id, "before": before.master_key_id}
        self._event(connection, after.tenant_id, kind, told(after) | keys | {"user_id": user_id} | dict(said or {}))
        return after


def managed(keypair: KeyPair) -> KeyPair:
    """Return what an unmanaged key pair is as a managed one: its private half is sealed for this."""
    return replace(keypair, managed=True, version=keypair.version + 1)


def standing(connection: Connection, keypair_ids: Collection[str]) -> list[BoundKey]:
    """Return all that is bound, or may be, on every server where one of these key pairs is bound, or may be.

    On a server of which nobody knows how a task has left it, it is not known either whether it takes passwords.
    """
    bindings, servers, keypairs, keys = tables.bindings, tables.servers, tables.keypairs, tables.master_keys
    wanted = set(keypair_ids)
    doubts = in_doubt(connection)
    where = {task.server_id for task in doubts if put_in_doubt(task) in wanted}
    for lot in some(wanted):
        where.update(connection.execute(select(bindings.c.server_id).where(bindings.c.keypair_id.in_(lot))).scalars())
    doubts = [task for task in doubts if task.server_id in where]
    doubtful = {task.server_id for task in doubts}
    enabled = func.coalesce(keys.c.state == "enabled", False)
    query = select(bindings, servers.c.name, servers.c.password_login, keypairs.c.managed, enabled).select_from(
        bindings.join(servers).join(keypairs).outerjoin(keys, keys.c.id == keypairs.c.master_key_id)
    )
    found: list[BoundKey] = []
    for lot in some(where):
        for row in connection.execute(query.where(bindings.c.server_id.in_(lot))):
            certain = (row.server_id, row.login) not in {(task.server_id, task.login) for task in doubts if of_key(task)}
            passwords: PasswordLogin = "unknown" if row.server_id in doubtful else row.password_login
            found.append(BoundKey(row.name, row.login, row.keypair_id, row.proof, row.managed, passwords, bool(row[-1]), certain))
    return found + [each for task in doubts for each in _may_be_bound(connection, task)]


def _may_be_bound(connection: Connection, task: Task) -> list[BoundKey]:
    """Return what a task in doubt may have put on its login, as if it had been proved there."""
    keypair = one(connection, tables.keypairs, tables.keypairs.c.id == (put_in_doubt(task) or ""))
    if keypair is None:
        return []
    key = one(connection, tables.master_keys, tables.master_keys.c.id == (keypair["master_key_id"] or ""))
    opens = key is not None and key["state"] == "enabled"
    server = server_row(connection, task.server_id)
    return [BoundKey(server.name, task.login, keypair["id"], "logged_in", keypair["managed"], "unknown", opens, certain=False)]
