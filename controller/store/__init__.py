"""The verbs. Each is one transaction; each may be called from any thread, and by several processes at once."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Table,
    Update,
    delete,
    exists,
    or_,
    select,
    update,
)

from controller.causes import CAUSES
from controller.errors import AlreadyExists, Conflict, NotFound, Unavailable
from controller.model import (
    FINAL,
    Binding,
    Caller,
    Event,
    KeyPair,
    MasterKeyVersion,
    Outcome,
    Sealed,
    Server,
    ServerNotes,
    ServerState,
    Task,
    now,
    route,
)
from controller.store import engine, rows, schema, tables

__all__ = ["Store"]

INTERRUPTED = Outcome(
    status="failed",
    server_state="unknown",
    cause="interrupted",
    message="who ran this task was heard no more; the server undoes by itself what was not confirmed",
    handling=CAUSES["interrupted"].handling,
    retryable=CAUSES["interrupted"].retryable,
)
NEVER_BEGUN = replace(
    INTERRUPTED,
    server_state="as_before",
    phase="queued",
    message="who was to run this task ended before it was begun, and what it was given ended with it",
)


class Store:
    """What the controller remembers.

    A verb that names something which is not there raises NotFound; a name taken is AlreadyExists.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = now) -> None:
        """Touches no file yet. url: sqlite:///PATH."""
        self._path: Path = engine.path_of(url)
        self._engine = engine.connect(url)
        self._now = clock

    def migrate(self) -> None:
        """Bring the database to this version's tables; makes it, readable by the owner only, where there is none."""
        engine.make_file(self._path)
        with engine.writing(self._engine) as connection:
            found = schema.version(connection)
            if found != tables.VERSION:
                schema.upgrade(connection)

    def close(self) -> None:
        """Let go of the files."""
        self._engine.dispose()

    # -- tenants and users

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

    # -- master keys

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

    # -- servers

    def add_servers(self, servers: Sequence[Server]) -> list[Server]:
        """Take servers into the inventory, all or none; returns them.

        One at the address of a server that was removed goes on from its generation: the machine may be the same, and
        refuses an older order.
        """
        added = []
        with engine.writing(self._engine) as connection:
            reached = _reached(connection, {server.tenant_id for server in servers})
            for given in servers:
                before = reached.get((given.tenant_id, given.host, given.port), 0)
                server = replace(given, generation=max(given.generation, before))
                added.append(server)
                if _server(connection, server.tenant_id, tables.servers.c.name == server.name) is not None:
                    raise AlreadyExists("server_exists", f"{server.name}: there is a server of this name already")
                connection.execute(tables.servers.insert().values(rows.row(server)))
                self._event(
                    connection,
                    server.tenant_id,
                    "server_added",
                    {"name": server.name, "host": server.host, "port": server.port, "host_key": server.host_key}
                    | _how_reached(server),
                    server_id=server.id,
                )
            _check_ways(connection, {server.tenant_id for server in servers})
        return added

    def change_server(self, server_id: str, *, jumps: list[str] | None = None, old_algorithms: list[str] | None = None) -> Server:
        """Change how a server is reached; what is None stays. Conflict(jump_loop) where no way would lead there any more."""
        with engine.writing(self._engine) as connection:
            server = _server_row(connection, server_id)
            asked = {"jumps": jumps, "old_algorithms": old_algorithms}
            changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
            changed = replace(server, **changes)
            if changed == server:
                return server
            connection.execute(_update_server(server_id).values(changes))
            _check_ways(connection, {server.tenant_id})
            detail = {"name": server.name, "before": _how_reached(server), "after": _how_reached(changed)}
            self._event(connection, server.tenant_id, "server_changed", detail, server_id=server_id)
            return changed

    def servers(self, tenant_id: str) -> list[Server]:
        """Return a tenant's servers by name."""
        query = select(tables.servers).where(tables.servers.c.tenant_id == tenant_id).order_by(tables.servers.c.name)
        with engine.reading(self._engine) as connection:
            return [rows.server(found) for found in connection.execute(query).mappings()]

    def server(self, tenant_id: str, name_or_id: str) -> Server:
        """Return one server of a tenant; its name is looked at first."""
        with engine.reading(self._engine) as connection:
            found = _server(connection, tenant_id, tables.servers.c.name == name_or_id)
            if found is None:
                found = _server(connection, tenant_id, tables.servers.c.id == name_or_id)
        if found is None:
            raise NotFound("server_not_found", f"{name_or_id}: no server of this name", server=name_or_id)
        return found

    def server_by_id(self, server_id: str) -> Server:
        """Return a server of whatever tenant; for who runs a task, not for who asks."""
        with engine.reading(self._engine) as connection:
            return _server_row(connection, server_id)

    def remove_server(self, server_id: str, *, forget_bindings: bool = False) -> None:
        """Take a server out of the inventory, not while a task runs there or a key pair is bound there.

        With forget_bindings what was bound there is forgotten; the keys stay on the server, and work.
        """
        with engine.writing(self._engine) as connection:
            server = _server_row(connection, server_id)
            waiting = _one(connection, tables.tasks, _of_server(server_id), tables.tasks.c.status.not_in(FINAL))
            if waiting is not None:
                cancelling = f", or kps task delete {waiting['id']}" if waiting["status"] == "ready" else ""
                raise Conflict(
                    "server_busy",
                    f"{server.name}: task {waiting['id']} is {waiting['status']}; wait until it has ended{cancelling}",
                )
            led_to = [each.name for each in _servers_of(connection, server.tenant_id) if server_id in each.jumps]
            if led_to:
                raise Conflict(
                    "jump_in_use",
                    f"{server.name}: the way to {', '.join(led_to[:10])} leads through it; change that first (kps server set)",
                    servers=led_to,
                )
            bound = connection.execute(
                select(tables.bindings.c.login, tables.keypairs.c.name)
                .join(tables.keypairs)
                .where(tables.bindings.c.server_id == server_id)
            ).all()
            if bound and not forget_bindings:
                listed = ", ".join(f"{name} on {login}" for login, name in bound)
                raise Conflict(
                    "already_bound",
                    f"{server.name}: {listed} is bound here and would go on working; unbind first, or where that cannot be "
                    "done any more, as when the server was rebuilt: --force forgets it here",
                    bindings=[{"login": login, "keypair": name} for login, name in bound],
                )
            connection.execute(delete(tables.bindings).where(tables.bindings.c.server_id == server_id))
            connection.execute(delete(tables.servers).where(tables.servers.c.id == server_id))
            detail = {
                "name": server.name,
                "host": server.host,
                "port": server.port,
                "generation": server.generation,
                "forgotten": [{"login": login, "keypair": name} for login, name in bound],
            }
            self._event(connection, server.tenant_id, "server_removed", detail, server_id=server_id)

    def pin_host_key(self, server_id: str, host_key: str) -> Server:
        """Record the host key of a server that has none. Conflict(host_key_changed) where it has another."""
        with engine.writing(self._engine) as connection:
            server = _server_row(connection, server_id)
            if server.host_key == host_key:
                return server
            if server.host_key is not None:
                raise Conflict(
                    "host_key_changed",
                    f"{server.name}: another host key is pinned",
                    pinned=server.host_key,
                    seen=host_key,
                )
            connection.execute(_update_server(server_id).values(host_key=host_key))
            self._event(connection, server.tenant_id, "host_key_pinned", {"host_key": host_key}, server_id=server_id)
            return replace(server, host_key=host_key)

    # -- key pairs

    def add_keypair(self, keypair: KeyPair, sealed: Sealed | None, *, imported: bool = False) -> KeyPair:
        """Keep a key pair, its private half sealed.

        A name is one key pair to everyone who may see it: no private one is called like one of the account.
        """
        table = tables.keypairs
        hidden = (table.c.scope == "private") & (table.c.owner_id != keypair.owner_id)
        same: list[ColumnElement[bool]] = [table.c.tenant_id == keypair.tenant_id, table.c.name == keypair.name]
        if keypair.scope == "private":
            same.append(~hidden)
        with engine.writing(self._engine) as connection:
            if _one(connection, table, *same) is not None:
                raise AlreadyExists("keypair_exists", f"{keypair.name}: there is a key pair of this name already")
            connection.execute(table.insert().values(rows.row(keypair) | {"sealed": sealed and sealed.record}))
            self._event(
                connection,
                keypair.tenant_id,
                "keypair_imported" if imported else "keypair_created",
                _told(keypair) | {"managed": keypair.managed, "user_id": keypair.owner_id},
            )
        return keypair

    def keypairs(self, tenant_id: str, user_id: str) -> list[KeyPair]:
        """Return the key pairs that a user may see, by name: their own and the account's."""
        query = select(tables.keypairs).where(*_seen_by(tenant_id, user_id)).order_by(tables.keypairs.c.name)
        with engine.reading(self._engine) as connection:
            return [rows.keypair(found) for found in connection.execute(query).mappings()]

    def keypair(self, tenant_id: str, user_id: str, name: str) -> KeyPair:
        """Return a key pair that the user may see; another user's private one is not found."""
        with engine.reading(self._engine) as connection:
            found = _one(connection, tables.keypairs, *_seen_by(tenant_id, user_id), tables.keypairs.c.name == name)
        if found is None:
            raise NotFound("keypair_not_found", f"{name}: no key pair of this name", keypair=name)
        return rows.keypair(found)

    def keypair_by_id(self, keypair_id: str) -> KeyPair:
        """Return a key pair of whatever owner; for who runs a task, not for who asks."""
        with engine.reading(self._engine) as connection:
            return rows.keypair(_keypair_row(connection, keypair_id))

    def sealed_private(self, keypair_id: str) -> Sealed:
        """Return the sealed private half. NotFound(private_key_not_kept) for an unmanaged key pair."""
        with engine.reading(self._engine) as connection:
            found = _keypair_row(connection, keypair_id)
        if found["sealed"] is None:
            raise NotFound("private_key_not_kept", f"{found['name']}: the private half is not in custody")
        return Sealed(found["sealed"])

    def note_export(self, keypair_id: str, user_id: str) -> None:
        """Record who was given the private half."""
        with engine.writing(self._engine) as connection:
            keypair = rows.keypair(_keypair_row(connection, keypair_id))
            self._event(connection, keypair.tenant_id, "keypair_exported", _told(keypair) | {"user_id": user_id})

    def delete_keypair(self, keypair_id: str, user_id: str) -> None:
        """Delete a key pair and its private half; Conflict(already_bound) names the servers where it is bound.

        Conflict(keypair_busy) while a task that has not ended is about it.
        """
        with engine.writing(self._engine) as connection:
            keypair = rows.keypair(_keypair_row(connection, keypair_id))
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
            open_tasks = select(tables.tasks).where(
                tables.tasks.c.tenant_id == keypair.tenant_id, tables.tasks.c.status.not_in(FINAL)
            )
            for task in connection.execute(open_tasks).mappings():
                if task["request"].get("keypair_id") == keypair.id:
                    raise Conflict(
                        "keypair_busy",
                        f"{keypair.name}: task {task['id']} on {task['server_name']} works with it; wait until it has ended",
                    )
            connection.execute(delete(tables.keypairs).where(tables.keypairs.c.id == keypair_id))
            self._event(connection, keypair.tenant_id, "keypair_deleted", _told(keypair) | {"user_id": user_id})

    # -- bindings

    def bindings(self, tenant_id: str, *, server_id: str | None = None, keypair_id: str | None = None) -> list[Binding]:
        """Return a tenant's bindings, by server and login."""
        table = tables.bindings
        query = select(table).join(tables.servers).where(tables.servers.c.tenant_id == tenant_id)
        if server_id is not None:
            query = query.where(table.c.server_id == server_id)
        if keypair_id is not None:
            query = query.where(table.c.keypair_id == keypair_id)
        with engine.reading(self._engine) as connection:
            ordered = query.order_by(tables.servers.c.name, table.c.login)
            return [rows.binding(found) for found in connection.execute(ordered).mappings()]

    def named_bindings(self, tenant_id: str, server_id: str | None = None) -> list[tuple[Binding, str]]:
        """Return bindings as bindings() does, each with its key pair's name."""
        table = tables.bindings
        query = select(table, tables.keypairs.c.name).join(tables.servers).join(tables.keypairs)
        query = query.where(tables.servers.c.tenant_id == tenant_id)
        if server_id is not None:
            query = query.where(table.c.server_id == server_id)
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(tables.servers.c.name, table.c.login)).mappings()
            return [(rows.binding(row), row["name"]) for row in found]

    # -- tasks

    def add_tasks(self, tasks: Sequence[Task], holder: str | None = None, lease_seconds: float = 0) -> list[Task]:
        """Keep new tasks, all or none; returns them with their place in the order.

        holder: the process that has in its memory what they need, and renews their lease until they are begun; None:
        they need nobody's memory, and wait as long as it takes. Conflict(task_retried) for a retry of a task that has
        been retried already.
        """
        table = tables.tasks
        until = None if holder is None else self._now() + timedelta(seconds=lease_seconds)
        with engine.writing(self._engine) as connection:
            kept = []
            for task in tasks:
                newer = None if task.retry_of is None else _task(connection, table.c.retry_of == task.retry_of)
                if newer is not None:
                    raise Conflict(
                        "task_retried", f"task {task.retry_of} was retried as {newer.id}; retry that one", task=newer.id
                    )
                held = replace(task, lease_owner=holder, lease_until=until)
                columns = rows.row(held)
                del columns["seq"]
                statement = table.insert().values(columns).returning(table.c.seq)
                seq = connection.execute(statement).scalar_one()
                kept.append(replace(held, seq=seq))
                detail = {"operation": task.operation, "server": task.server_name, "login": task.login}
                self._task_event(connection, task, "task_ready", detail)
            return kept

    def claim(self, task_id: str, owner: str, lease_seconds: float) -> Task | None:
        """Take a ready task to run it, or return None: it is not ready, or another task of its server runs.

        Raises the server's generation. A task of the server whose lease ran out is interrupted on the way.
        """
        with engine.writing(self._engine) as connection:
            task = _task(connection, tables.tasks.c.id == task_id)
            if task is None or task.status != "ready":
                return None
            self._interrupt(connection, _of_server(task.server_id), tables.tasks.c.id != task_id)
            if _one(connection, tables.tasks, _of_server(task.server_id), tables.tasks.c.status == "running"):
                return None
            server = _server(connection, task.tenant_id, tables.servers.c.id == task.server_id)
            if server is None:
                return None
            generation = server.generation + 1
            connection.execute(_update_server(server.id).values(generation=generation))
            at = self._now()
            claimed = replace(
                task,
                status="running",
                phase="connect",
                server_state="unknown",
                generation=generation,
                started_at=at,
                lease_owner=owner,
                lease_until=at + timedelta(seconds=lease_seconds),
            )
            self._save(connection, claimed)
            self._task_event(connection, claimed, "task_running", {"generation": generation})
            return claimed

    def renew(self, task_ids: Collection[str], owner: str, lease_seconds: float) -> set[str]:
        """Go on holding tasks, begun or not; returns which of them are still ours."""
        table = tables.tasks
        until = self._now() + timedelta(seconds=lease_seconds)
        ours = (table.c.lease_owner == owner) & table.c.status.in_(("ready", "running"))
        with engine.writing(self._engine) as connection:
            held = set(connection.execute(select(table.c.id).where(ours)).scalars()) & set(task_ids)
            connection.execute(update(table).where(ours, table.c.id.in_(held)).values(lease_until=until))
            return held

    def progress(self, task_id: str, owner: str, phase: str, detail: dict[str, Any]) -> bool:
        """Say where a running task has come to; False when it is no longer ours."""
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            task = _running(connection, task_id, owner)
            if task is None:
                return False
            connection.execute(update(table).where(table.c.id == task_id).values(phase=phase))
            self._task_event(connection, task, "task_phase", detail, phase=phase)
            return True

    def finish(
        self,
        task_id: str,
        owner: str,
        generation: int,
        outcome: Outcome,
        *,
        binding: Binding | None = None,
        unbind: tuple[str, str] | None = None,
        notes: ServerNotes | None = None,
    ) -> bool:
        """End a task with what it changed, all or nothing; False, and nothing recorded, when it is no longer ours.

        unbind: server id and login.
        """
        if outcome.status not in FINAL:
            raise ValueError(f"{outcome.status} is not an end")
        with engine.writing(self._engine) as connection:
            task = _running(connection, task_id, owner)
            if task is None or task.generation != generation:
                return False
            self._record(connection, task, binding, unbind, notes)
            self._end(connection, task, outcome, "task_finished")
            return True

    def cancel(self, tenant_id: str, task_id: str, message: str) -> bool:
        """Give up a task of a tenant that nobody has begun; False when somebody has."""
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            task = _task(connection, table.c.tenant_id == tenant_id, table.c.id == task_id)
            if task is None or task.status != "ready":
                return False
            outcome = Outcome("cancelled", "as_before", phase="queued", message=message, retryable=True)
            self._end(connection, task, outcome, "task_cancelled")
            return True

    def abandon(self, owner: str) -> list[Task]:
        """End what a process holds and has not begun, because it ends itself. Returns them."""
        table = tables.tasks
        query = select(table).where(table.c.lease_owner == owner, table.c.status == "ready").order_by(table.c.seq)
        with engine.writing(self._engine) as connection:
            left = [rows.task(found) for found in connection.execute(query).mappings()]
            return [self._end(connection, task, NEVER_BEGUN, "task_interrupted") for task in left]

    def settle(
        self,
        task_id: str,
        server_state: ServerState,
        *,
        binding: Binding | None = None,
        unbind: tuple[str, str] | None = None,
        notes: ServerNotes | None = None,
    ) -> bool:
        """Record how an ended task whose server's state was unknown has left it, with what that changes; False when it is known.

        What was partial may have been brought to its end since. unbind: server id and login.
        """
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            task = _task(connection, table.c.id == task_id)
            if task is None or task.status not in FINAL or server_state == "unknown":
                return False
            if task.server_state != "unknown" and not (task.server_state == "partial" != server_state):
                return False
            connection.execute(update(table).where(table.c.id == task_id).values(server_state=server_state))
            self._record(connection, task, binding, unbind, notes)
            self._task_event(connection, task, "task_settled", {"server_state": server_state})
            return True

    def _record(
        self,
        connection: Connection,
        task: Task,
        binding: Binding | None,
        unbind: tuple[str, str] | None,
        notes: ServerNotes | None,
    ) -> None:
        if unbind is not None:
            self._unbind(connection, *unbind, task.id)
        if binding is not None:
            self._bind(connection, binding)
        if notes:
            self._note(connection, _server_row(connection, task.server_id), notes)

    def unsettled(self, server_id: str | None = None) -> list[Task]:
        """Return the ended tasks of which nobody knows how they left their servers, oldest first: of one server, or (None) of
        all on which nobody works now."""
        table = tables.tasks
        query = select(table).where(table.c.status == "failed", table.c.server_state == "unknown")
        if server_id is not None:
            query = query.where(table.c.server_id == server_id)
        else:
            other = table.alias("other")
            busy = exists().where(other.c.server_id == table.c.server_id, other.c.status.in_(("ready", "running")))
            query = query.where(~busy)
        with engine.reading(self._engine) as connection:
            return [rows.task(found) for found in connection.execute(query.order_by(table.c.seq)).mappings()]

    def tasks(
        self,
        tenant_id: str | None,
        *,
        ids: Collection[str] | None = None,
        failed: bool = False,
        running: bool = False,
        server_id: str | None = None,
    ) -> list[Task]:
        """Return tasks, oldest first, of a tenant or (None) of all.

        running: not ended yet, whether begun or not. failed: and nobody has retried it. Both: either of them.
        """
        table = tables.tasks
        query = select(table)
        if tenant_id is not None:
            query = query.where(table.c.tenant_id == tenant_id)
        if ids is not None:
            query = query.where(table.c.id.in_(ids))
        if server_id is not None:
            query = query.where(table.c.server_id == server_id)
        wanted: list[ColumnElement[bool]] = []
        if failed:
            again = table.alias("again")
            wanted.append((table.c.status == "failed") & ~exists().where(again.c.retry_of == table.c.id))
        if running:
            wanted.append(table.c.status.in_(("ready", "running")))
        if wanted:
            query = query.where(or_(*wanted))
        with engine.reading(self._engine) as connection:
            return [rows.task(found) for found in connection.execute(query.order_by(table.c.seq)).mappings()]

    def task(self, tenant_id: str, task_id: str) -> Task:
        """Return one task of a tenant."""
        with engine.reading(self._engine) as connection:
            task = _task(connection, tables.tasks.c.tenant_id == tenant_id, tables.tasks.c.id == task_id)
        if task is None:
            raise NotFound("task_not_found", f"{task_id}: no task of this id", task=task_id)
        return task

    def delete_failed(self, tenant_id: str, ids: Collection[str] | None = None) -> int:
        """Take failed tasks (these, or all) off the list, all or none; returns how many. Their events stay.

        What one of these was a retry of goes with it. Conflict(task_not_failed) for a task that has not failed.
        """
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            query = select(table).where(table.c.tenant_id == tenant_id)
            query = query.where(table.c.status == "failed") if ids is None else query.where(table.c.id.in_(ids))
            found = [rows.task(row) for row in connection.execute(query).mappings()]
            for missing in set(ids or ()) - {task.id for task in found}:
                raise NotFound("task_not_found", f"{missing}: no task of this id", task=missing)
            for task in found:
                if task.status != "failed":
                    raise Conflict("task_not_failed", f"task {task.id} is {task.status}; only failed tasks are deleted")
            deleted = 0
            for task in found:
                last: Task | None = task
                while last is not None and connection.execute(delete(table).where(table.c.id == last.id)).rowcount:
                    self._task_event(connection, last, "task_deleted", {"cause": last.cause})
                    deleted += 1
                    last = None if last.retry_of is None else _task(connection, table.c.id == last.retry_of)
            return deleted

    def interrupt_expired(self, dead: str | None = None) -> list[Task]:
        """End the tasks whose lease ran out, or which belong to a process whose name begins with dead. Returns them.

        Of those that were begun nobody knows how they left their servers; the others never touched theirs.
        """
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            ended = self._interrupt(connection)
            if dead is not None:
                ended += self._interrupt_these(connection, table.c.lease_owner.startswith(dead, autoescape=True))
            return ended

    # -- events

    def events(
        self, tenant_id: str, after_id: int = 0, task_ids: Collection[str] | None = None, limit: int = 1000
    ) -> list[Event]:
        """Return what happened after an event, in order, at most limit of it; of some tasks, or all of the tenant."""
        table = tables.events
        query = select(table).where(table.c.id > after_id, table.c.tenant_id == tenant_id)
        if task_ids is not None:
            query = query.where(table.c.task_id.in_(task_ids))
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(table.c.id).limit(limit)).mappings()
            return [rows.event(row) for row in found]

    # -- steps inside a transaction

    def _event(
        self,
        connection: Connection,
        tenant_id: str,
        kind: str,
        detail: dict[str, Any],
        *,
        task_id: str | None = None,
        server_id: str | None = None,
        phase: str | None = None,
    ) -> None:
        connection.execute(
            tables.events.insert().values(
                tenant_id=tenant_id,
                task_id=task_id,
                server_id=server_id,
                kind=kind,
                phase=phase,
                detail=detail,
                at=self._now(),
            )
        )

    def _task_event(
        self, connection: Connection, task: Task, kind: str, detail: dict[str, Any], phase: str | None = None
    ) -> None:
        self._event(
            connection,
            task.tenant_id,
            kind,
            detail,
            task_id=task.id,
            server_id=task.server_id,
            phase=phase or task.phase,
        )

    def _save(self, connection: Connection, task: Task) -> None:
        connection.execute(update(tables.tasks).where(tables.tasks.c.id == task.id).values(rows.row(task)))

    def _end(self, connection: Connection, task: Task, outcome: Outcome, kind: str) -> Task:
        ended = replace(
            task,
            status=outcome.status,
            server_state=outcome.server_state,
            phase=outcome.phase,
            cause=outcome.cause,
            message=outcome.message,
            evidence=outcome.evidence,
            proofs=outcome.proofs,
            handling=outcome.handling,
            retryable=outcome.retryable,
            finished_at=self._now(),
            lease_owner=None,
            lease_until=None,
        )
        self._save(connection, ended)
        detail = {"status": ended.status, "server_state": ended.server_state, "cause": ended.cause}
        self._task_event(connection, ended, kind, detail | {"message": ended.message})
        return ended

    def _interrupt(self, connection: Connection, *where: Any) -> list[Task]:
        # What has ended has no lease, nor has what nobody holds.
        return self._interrupt_these(connection, tables.tasks.c.lease_until <= self._now(), *where)

    def _interrupt_these(self, connection: Connection, *where: Any) -> list[Task]:
        table = tables.tasks
        query = select(table).where(*where)
        expired = [rows.task(found) for found in connection.execute(query.order_by(table.c.seq)).mappings()]
        return [self._end(connection, task, _interruption(task), "task_interrupted") for task in expired]

    def _bind(self, connection: Connection, binding: Binding) -> None:
        server = _server_row(connection, binding.server_id)
        name = _keypair_row(connection, binding.keypair_id)["name"]
        connection.execute(delete(tables.bindings).where(*_on(binding.server_id, binding.login)))
        connection.execute(tables.bindings.insert().values(rows.row(binding)))
        self._event(
            connection,
            server.tenant_id,
            "binding_set",
            {"server": server.name, "login": binding.login, "keypair": name, "proof": binding.proof},
            task_id=binding.task_id,
            server_id=server.id,
        )

    def _unbind(self, connection: Connection, server_id: str, login: str, task_id: str | None) -> bool:
        server = _server_row(connection, server_id)
        gone = connection.execute(delete(tables.bindings).where(*_on(server_id, login))).rowcount == 1
        if gone:
            detail = {"server": server.name, "login": login}
            self._event(connection, server.tenant_id, "binding_removed", detail, task_id=task_id, server_id=server_id)
        return gone

    def _note(self, connection: Connection, server: Server, notes: ServerNotes) -> None:
        if notes:
            connection.execute(_update_server(server.id).values(**notes))
            self._event(connection, server.tenant_id, "server_noted", dict(notes), server_id=server.id)


def _interruption(task: Task) -> Outcome:
    # The phase it was in is part of what is known about it.
    ended = NEVER_BEGUN if task.status == "ready" else replace(INTERRUPTED, phase=task.phase)
    return replace(ended, message=f"{task.server_name}: {ended.message}")


# -- queries that several verbs share


def _one(connection: Connection, table: Table, *where: ColumnElement[bool]) -> RowMapping | None:
    return connection.execute(select(table).where(*where)).mappings().first()


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


def _server(connection: Connection, tenant_id: str, which: ColumnElement[bool]) -> Server | None:
    found = _one(connection, tables.servers, tables.servers.c.tenant_id == tenant_id, which)
    return None if found is None else rows.server(found)


def _server_row(connection: Connection, server_id: str) -> Server:
    found = _one(connection, tables.servers, tables.servers.c.id == server_id)
    if found is None:
        raise NotFound("server_not_found", f"{server_id}: no server of this id", server=server_id)
    return rows.server(found)


def _servers_of(connection: Connection, tenant_id: str) -> list[Server]:
    query = select(tables.servers).where(tables.servers.c.tenant_id == tenant_id)
    return [rows.server(found) for found in connection.execute(query).mappings()]


def _check_ways(connection: Connection, tenant_ids: Collection[str]) -> None:
    """Conflict(jump_loop) unless a way leads to every server of these tenants, as the tables are now."""
    for tenant_id in tenant_ids:
        known = {server.id: server for server in _servers_of(connection, tenant_id)}
        for server in known.values():
            try:
                route(server, known)
            except ValueError as error:
                raise Conflict("jump_loop", str(error), server=server.name) from None


def _how_reached(server: Server) -> dict[str, Any]:
    return {"jumps": server.jumps, "old_algorithms": server.old_algorithms}


def _reached(connection: Connection, tenant_ids: Collection[str]) -> dict[tuple[str, str, int], int]:
    """Return by tenant, host and port the generation that was reached at the address of a server since removed."""
    table = tables.events
    query = select(table.c.tenant_id, table.c.detail).where(table.c.kind == "server_removed", table.c.tenant_id.in_(tenant_ids))
    found: dict[tuple[str, str, int], int] = {}
    for tenant_id, detail in connection.execute(query.order_by(table.c.id)):
        if "generation" in detail:  # events of the first versions do not have it
            address = (tenant_id, detail["host"], detail["port"])
            found[address] = max(found.get(address, 0), detail["generation"])
    return found


def _update_server(server_id: str) -> Update:
    return update(tables.servers).where(tables.servers.c.id == server_id)


def _keypair_row(connection: Connection, keypair_id: str) -> RowMapping:
    found = _one(connection, tables.keypairs, tables.keypairs.c.id == keypair_id)
    if found is None:
        raise NotFound("keypair_not_found", f"{keypair_id}: no key pair of this id", keypair=keypair_id)
    return found


def _seen_by(tenant_id: str, user_id: str) -> list[ColumnElement[bool]]:
    table = tables.keypairs
    return [table.c.tenant_id == tenant_id, or_(table.c.scope == "account", table.c.owner_id == user_id)]


def _told(keypair: KeyPair) -> dict[str, Any]:
    return {"keypair_id": keypair.id, "name": keypair.name, "scope": keypair.scope, "fingerprint": keypair.fingerprint}


def _on(server_id: str, login: str) -> list[ColumnElement[bool]]:
    return [tables.bindings.c.server_id == server_id, tables.bindings.c.login == login]


def _of_server(server_id: str) -> ColumnElement[bool]:
    return tables.tasks.c.server_id == server_id


def _task(connection: Connection, *where: ColumnElement[bool]) -> Task | None:
    found = _one(connection, tables.tasks, *where)
    return None if found is None else rows.task(found)


def _running(connection: Connection, task_id: str, owner: str) -> Task | None:
    table = tables.tasks
    return _task(connection, table.c.id == task_id, table.c.lease_owner == owner, table.c.status == "running")
