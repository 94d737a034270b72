"""The servers that we reach."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import CompoundSelect, Connection, Select, bindparam, delete, func, or_, select, union, update

from controller.errors import AlreadyExists, Conflict, NotAllowed, NotFound
from controller.model import FINAL, Server, ServerNotes, Task, route
from controller.store import engine, rows, tables
from controller.store.credentials import Credentials
from controller.store.generations import keep_generation
from controller.store.prepared import Prepared, columns
from controller.store.queries import LABEL, no_server, of_server, one, seen_by, server_row, server_where, some, update_server

_THIS = tables.servers.c.id == bindparam("of")
# What may be noted of a server, one statement for each set of it.
_NOTES: dict[frozenset[str], Prepared[None]] = {}


class Inventory(Credentials):
    """The servers, and how each is reached."""

    def add_servers(self, servers: Sequence[Server]) -> list[Server]:
        """Take servers into the inventory, all or none; returns them.

        One at the address of a server that was removed goes on from its generation: the machine may be the same, and
        refuses an older order. In a home that was restored every server begins where the others were raised to.
        """
        added = []
        with engine.writing(self._engine) as connection:
            reached = _reached(connection, {server.tenant_id for server in servers})
            least = _raised(connection)
            for given in servers:
                before = reached.get((given.tenant_id, given.host, given.port), 0)
                server = replace(given, generation=max(given.generation, before, least))
                added.append(server)
                if server_where(connection, server.tenant_id, tables.servers.c.name == server.name) is not None:
                    raise AlreadyExists("server_exists", f"{server.name}: there is a server of this name already")
                connection.execute(tables.servers.insert().values(rows.row(server)))
                self._event(
                    connection,
                    server.tenant_id,
                    "server_added",
                    {"name": server.name, "host_key": server.host_key} | _how_reached(server),
                    server_id=server.id,
                )
            _check_ways(connection, {server.tenant_id for server in servers})
        return added

    def change_servers(self, server_ids: Sequence[str], changes: Mapping[str, Any]) -> list[Server]:
        """Change how servers are reached, all or none: host, port, any_address, jumps, old_algorithms, reset_root.

        One that moves to where another one was goes on from that one's generation, as in add_servers(). NotFound;
        Conflict(jump_loop) where no way would lead to one of them any more.
        """
        with engine.writing(self._engine) as connection:
            before = [server_row(connection, each) for each in server_ids]
            tenants = {server.tenant_id for server in before}
            reached = _reached(connection, tenants) if {"host", "port"} & changes.keys() else {}
            after = []
            for server in before:
                changed = replace(server, **changes)
                if (changed.host, changed.port) != (server.host, server.port):
                    least = reached.get((server.tenant_id, changed.host, changed.port), 0)
                    changed = replace(changed, generation=max(server.generation, least))
                    keep_generation(connection, server.tenant_id, server.host, server.port, server.generation)
                after.append(changed)
                if changed == server:
                    continue
                connection.execute(update_server(server.id).values(dict(changes, generation=changed.generation)))
                detail = {"name": server.name, "before": _how_reached(server), "after": _how_reached(changed)}
                self._event(connection, server.tenant_id, "server_changed", detail, server_id=server.id)
            _check_ways(connection, tenants)
            return after

    def servers(
        self,
        tenant_id: str,
        *,
        called: Collection[str] | None = None,
        labelled: Collection[tuple[str, str]] | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> list[Server]:
        """Return a tenant's servers by name. called, labelled: those of these names and ids, and with one of these labels.

        after, limit: of those whose names come after this one, so many; there need be none of that name.
        """
        table = tables.servers
        ours = table.c.tenant_id == tenant_id
        query = select(*columns(table, Server)).order_by(table.c.name).limit(limit)
        if after:
            query = query.where(table.c.name > after)
        if called is None and labelled is None:
            queries = [query.where(ours)]
        else:
            # Text that is no label's name is asked of no database: each has its own way to spell a path.
            has = [table.c.labels[name].as_string() == value for name, value in labelled or () if LABEL.fullmatch(name)]
            chosen: list[Select[Any] | CompoundSelect[Any]] = [select(table.c.id).where(ours, or_(*has))] if has else []
            chosen += [
                union(select(table.c.id).where(ours, table.c.name.in_(lot)), select(table.c.id).where(table.c.id.in_(lot)))
                for lot in some(called or ())
            ]
            # As an expression: by the column the database would go through all servers of the tenant.
            queries = [query.where(table.c.id.in_(these), table.c.tenant_id.concat("") == tenant_id) for these in chosen]
        with engine.reading(self._engine) as connection:
            found = [Server(*each) for query in queries for each in connection.execute(query)]
        if len(queries) > 1:
            found = sorted({each.id: each for each in found}.values(), key=lambda each: each.name)
        return found[:limit]

    def server_names(self, tenant_id: str, ids: Collection[str]) -> dict[str, str]:
        """Return what these servers of a tenant are called, by their ids; of one that is not there, nothing."""
        table = tables.servers
        query = select(table.c.id, table.c.name).where(table.c.tenant_id == tenant_id)
        with engine.reading(self._engine) as connection:
            return {found.id: found.name for lot in some(ids) for found in connection.execute(query.where(table.c.id.in_(lot)))}

    def jump_servers(self, tenant_id: str) -> list[Server]:
        """Return the servers of a tenant by which others are reached, those of most first."""
        table = tables.servers
        with engine.reading(self._engine) as connection:
            lists = connection.execute(select(table.c.jumps).where(table.c.tenant_id == tenant_id)).scalars()
            counts = Counter(each for jumps in lists for each in jumps)
            found = connection.execute(
                select(table).where(table.c.tenant_id == tenant_id, table.c.id.in_(list(counts)))
            ).mappings()
            return sorted(map(rows.server, found), key=lambda each: (-counts[each.id], each.name))

    def server(self, tenant_id: str, name_or_id: str) -> Server:
        """Return one server of a tenant; its name is looked at first."""
        with engine.reading(self._engine) as connection:
            found = server_where(connection, tenant_id, tables.servers.c.name == name_or_id)
            if found is None:
                found = server_where(connection, tenant_id, tables.servers.c.id == name_or_id)
        if found is None:
            raise NotFound("server_not_found", f"{name_or_id}: no server of this name", server=name_or_id)
        return found

    def server_by_id(self, server_id: str) -> Server:
        """Return a server of whatever tenant; for who runs a task, not for who asks."""
        with engine.reading(self._engine) as connection:
            return server_row(connection, server_id)

    def remove_server(
        self, server_id: str, user_id: str, *, forget_bindings: bool = False, forget_strangers: bool = True
    ) -> None:
        """Take a server out of the inventory, not while a task runs there or a key pair is bound there.

        With forget_bindings what was bound there is forgotten; the keys stay on the server, and work. forget_strangers: other
        users' private key pairs too, which are not named; else NotAllowed(administrator_needed).
        """
        with engine.writing(self._engine) as connection:
            server = server_row(connection, server_id)
            waiting = one(connection, tables.tasks, of_server(server_id), tables.tasks.c.status.not_in(FINAL))
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
            found = connection.execute(
                select(tables.bindings.c.login, tables.keypairs)
                .join(tables.keypairs)
                .where(tables.bindings.c.server_id == server_id)
            )
            bound = found.mappings().all()
            known = [(row["login"], row["name"] if seen_by(row, user_id) else None) for row in bound]
            if known and not forget_bindings:
                listed = ", ".join(f"{name or 'a private key pair of another user'} on {login}" for login, name in known)
                raise Conflict(
                    "already_bound",
                    f"{server.name}: {listed} is bound here and would go on working; unbind first, or where that cannot be "
                    "done any more, as when the server was rebuilt: --force forgets it here",
                    bindings=[{"login": login, "keypair": name} for login, name in known],
                )
            if not forget_strangers and any(name is None for _, name in known):
                raise NotAllowed(
                    "administrator_needed",
                    f"{server.name}: another user's private key pair is bound here, and would be forgotten; ask an administrator",
                )
            connection.execute(delete(tables.bindings).where(tables.bindings.c.server_id == server_id))
            connection.execute(delete(tables.servers).where(tables.servers.c.id == server_id))
            self._erase(connection, tables.credentials.c.server_id == server_id)
            detail = {
                "name": server.name,
                "host": server.host,
                "port": server.port,
                "generation": server.generation,
                "forgotten": [{"login": each["login"], "keypair_id": each["id"]} for each in bound],
            }
            self._event(connection, server.tenant_id, "server_removed", detail, server_id=server_id)

    def pin_host_key(self, server_id: str, host_key: str) -> Server:
        """Record the host key of a server that has none. Conflict(host_key_changed) where it has another."""
        with engine.writing(self._engine) as connection:
            server = server_row(connection, server_id)
            if server.host_key == host_key:
                return server
            if server.host_key is not None:
                raise Conflict(
                    "host_key_changed",
                    f"{server.name}: another host key is pinned",
                    pinned=server.host_key,
                    seen=host_key,
                )
            connection.execute(update_server(server_id).values(host_key=host_key))
            self._event(connection, server.tenant_id, "host_key_pinned", {"host_key": host_key}, server_id=server_id)
            return replace(server, host_key=host_key)

    def _note(self, connection: Connection, task: Task, notes: ServerNotes) -> None:
        """Record what a task has seen of its server. NotFound where that is in the inventory no more."""
        if not _noting(notes).run(connection, of=task.server_id, **notes):
            raise no_server(task.server_id)
        self._event(connection, task.tenant_id, "server_noted", dict(notes), server_id=task.server_id)


def _noting(notes: ServerNotes) -> Prepared[None]:
    names = frozenset(notes)
    if names not in _NOTES:
        _NOTES[names] = Prepared(update(tables.servers).where(_THIS), sets=sorted(names))
    return _NOTES[names]


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
    return {
        "host": server.host,
        "port": server.port,
        "jumps": server.jumps,
        "old_algorithms": server.old_algorithms,
        "reset_root": server.reset_root,
    }


def _reached(connection: Connection, tenant_ids: Collection[str]) -> dict[tuple[str, str, int], int]:
    """Return by tenant, host and port the generation that was reached there, by servers since removed too."""
    table = tables.events
    query = select(table.c.tenant_id, table.c.detail).where(table.c.kind == "server_removed", table.c.tenant_id.in_(tenant_ids))
    found: dict[tuple[str, str, int], int] = {}
    here = tables.servers  # two of them may stand for one machine
    for tenant_id, host, port, generation in connection.execute(
        select(here.c.tenant_id, here.c.host, here.c.port, func.max(here.c.generation))
        .where(here.c.tenant_id.in_(tenant_ids))
        .group_by(here.c.tenant_id, here.c.host, here.c.port)
    ):
        found[tenant_id, host, port] = generation
    for tenant_id, detail in connection.execute(query.order_by(table.c.id)):
        if "generation" in detail:  # events of the first versions do not have it
            address = (tenant_id, detail["host"], detail["port"])
            found[address] = max(found.get(address, 0), detail["generation"])
    left = tables.left_addresses  # of servers that have moved, and of events that are not kept any more
    for tenant_id, host, port, generation in connection.execute(select(left).where(left.c.tenant_id.in_(tenant_ids))):
        found[tenant_id, host, port] = max(found.get((tenant_id, host, port), 0), generation)
    return found


def _raised(connection: Connection) -> int:
    """Return by how much restores have raised the generations: what had reached a server that is unknown here is below that."""
    table = tables.events
    found = connection.execute(select(table.c.detail).where(table.c.kind == "home_restored")).scalars()
    return sum(int(detail["generations_raised_by"]) for detail in found)
