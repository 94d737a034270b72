"""Customer master keys and their versions, none of them open."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, delete, func, or_, select, update

from controller.errors import AlreadyExists, Conflict, NotFound
from controller.model import BoundKey, Grant, MasterKey, MasterKeyVersion
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.custody import standing
from controller.store.prepared import Prepared, columns
from controller.store.queries import one

# Called inside the transaction with what is bound on the servers in question, and the ids of the key pairs that the master key
# seals; raises to stop it, or returns the logins that lose their only way in, as was consented to.
Check = Callable[[Sequence[BoundKey], Collection[str]], list[str]]
LIVING = tables.master_keys.c.state != "destroyed"
_BELONGING = (
    tables.master_key_versions,
    tables.master_key_aliases,
    tables.master_key_tags,
    tables.master_key_grants,
    tables.import_tokens,
)
_KEY = Prepared(select(*columns(tables.master_keys, MasterKey)).where(tables.master_keys.c.id == bindparam("of")), MasterKey)
_VERSIONS = tables.master_key_versions
_VERSION = Prepared(
    select(*columns(_VERSIONS, MasterKeyVersion)).where(
        _VERSIONS.c.key_id == bindparam("of"), _VERSIONS.c.version == bindparam("version")
    ),
    MasterKeyVersion,
)


class MasterKeys(Base):
    """The master keys of all tenants."""

    # -- looking

    def master_key(self, tenant_id: str, name: str) -> MasterKey | None:
        """Return the tenant's master key of this id, alias, or further alias, if there is one; not one that is destroyed."""
        with engine.reading(self._engine) as connection:
            return named(connection, tenant_id, name)

    def master_key_by_id(self, key_id: str) -> MasterKey | None:
        """Return a master key of whatever tenant and state."""
        with engine.asking(self._engine) as connection:
            return _KEY.first(connection, of=key_id)

    def master_key_version(self, key_id: str, version: int) -> MasterKeyVersion | None:
        """Return one version of a master key, if there is one."""
        with engine.asking(self._engine) as connection:
            return _VERSION.first(connection, of=key_id, version=version)

    def master_key_versions(self, key_id: str) -> list[MasterKeyVersion]:
        """Return the versions of a master key, the oldest first."""
        table = tables.master_key_versions
        query = select(table).where(table.c.key_id == key_id).order_by(table.c.version)
        with engine.reading(self._engine) as connection:
            return [rows.master_key_version(found) for found in connection.execute(query).mappings()]

    def master_keys(
        self,
        tenant_id: str,
        *,
        spec: str | None = None,
        state: str | None = None,
        tags: Mapping[str, list[str]] | None = None,
        part_of_name: str = "",
        limit: int | None = None,
        offset: int = 0,
    ) -> tuple[list[MasterKey], int]:
        """Return the tenant's master keys, by the time they were made, and how many there are without limit and offset.

        tags: for each name the values of which one must be there; no values: any.
        """
        table, tag = tables.master_keys, tables.master_key_tags
        where: list[ColumnElement[bool]] = [table.c.tenant_id == tenant_id, LIVING]
        if spec is not None:
            where.append(table.c.spec == spec)
        if state is not None:
            where.append(table.c.state == state)
        if part_of_name:
            where.append(table.c.alias.icontains(part_of_name, autoescape=True))
        for name, values in (tags or {}).items():
            wanted = [tag.c.key_id == table.c.id, tag.c.tag == name]
            if values:
                wanted.append(tag.c.value.in_(values))
            where.append(select(tag.c.key_id).where(*wanted).exists())
        query: Select[Any] = select(table).where(*where).order_by(table.c.created_at, table.c.id).offset(offset)
        if limit is not None:
            query = query.limit(limit)
        with engine.reading(self._engine) as connection:
            total = connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()
            return [rows.master_key(found) for found in connection.execute(query).mappings()], total

    def own_master_keys(self, tenant_id: str) -> int:
        """Return how many master keys count against the tenant's quota."""
        with engine.reading(self._engine) as connection:
            return _counted(connection, tenant_id)

    def master_keys_due(self, at: datetime) -> list[MasterKey]:
        """Return every tenant's master keys for which something may be due: a deletion, an expiry, a rotation."""
        table = tables.master_keys
        may_be = or_(
            and_(table.c.state == "pending_deletion", table.c.deletes_at <= at),
            and_(LIVING, table.c.material_expires_at <= at),
            and_(table.c.state == "enabled", table.c.rotates_every.is_not(None)),
        )
        with engine.reading(self._engine) as connection:
            return [rows.master_key(found) for found in connection.execute(select(table).where(may_be)).mappings()]

    # -- changing

    def add_default_key(self, made: MasterKey, version: MasterKeyVersion) -> MasterKey:
        """Keep a service's own master key, unless somebody else was first; returns the one that is kept."""
        with engine.writing(self._engine) as connection:
            found = named(connection, made.tenant_id, made.alias)
            if found is not None:
                return found
            connection.execute(tables.master_keys.insert().values(rows.row(made)))
            connection.execute(tables.master_key_versions.insert().values(rows.row(version)))
            self._event(connection, made.tenant_id, "master_key_created", told(made))
            return made

    def add_master_key(
        self, made: MasterKey, version: MasterKeyVersion | None, user_id: str, most: int, tags: Mapping[str, str] | None = None
    ) -> MasterKey:
        """Keep a master key. AlreadyExists(alias_taken), Conflict(master_key_quota) where the tenant has most of them already."""
        with engine.writing(self._engine) as connection:
            if _counted(connection, made.tenant_id) >= most:
                raise Conflict(
                    "master_key_quota",
                    f"there are {most} master keys already, and no more are allowed; "
                    "one counts until it is destroyed, also while its deletion is pending",
                    quota=most,
                )
            refuse_taken(connection, made.tenant_id, made.alias)
            connection.execute(tables.master_keys.insert().values(rows.row(made)))
            if version is not None:
                connection.execute(tables.master_key_versions.insert().values(rows.row(version)))
            if tags:
                tagged = [{"key_id": made.id, "tag": tag, "value": value} for tag, value in tags.items()]
                connection.execute(tables.master_key_tags.insert(), tagged)
            more = {"tags": dict(tags)} if tags else {}
            self._event(connection, made.tenant_id, "master_key_created", told(made) | more | {"user_id": user_id})
        return made

    def change_master_key(
        self,
        key_id: str,
        change: Callable[[MasterKey], MasterKey],
        kind: str,
        user_id: str | None,
        *,
        version: MasterKeyVersion | None = None,
        check: Check | None = None,
    ) -> MasterKey:
        """Change a master key, and keep the material of a version if one is given; user_id None: it was due by itself.

        change is called inside the transaction with the key as it is, and raises what forbids it. A version is kept only
        where it is the newest of the changed key: else Conflict(master_key_changed).
        """
        with engine.writing(self._engine) as connection:
            before = _row(connection, key_id)
            after = change(before)
            if after.alias != before.alias:
                refuse_taken(connection, before.tenant_id, after.alias)
            lose = _checked(connection, key_id, check)
            if version is not None:
                if version.version != after.version:
                    raise Conflict("master_key_changed", f"{after.alias}: it was changed meanwhile; try again")
                connection.execute(tables.master_key_versions.insert().values(rows.row(version)))
            renamed = {} if after.alias == before.alias else {"before": before.alias}
            self._keep(connection, after, kind, user_id, renamed | lose)
        return after

    def drop_material(
        self,
        key_id: str,
        change: Callable[[MasterKey], MasterKey],
        kind: str,
        user_id: str | None,
        check: Check | None = None,
    ) -> MasterKey:
        """Take a master key's material away for good, with what else of it is secret; change and check as in change_master_key.

        Where the changed key is destroyed, all that belongs to it goes. SQLite overwrites what is deleted (secure_delete);
        what the write-ahead log still holds goes with checkpoint().
        """
        with engine.writing(self._engine) as connection:
            before = _row(connection, key_id)
            after = change(before)
            lose = _checked(connection, key_id, check)
            gone = _BELONGING if after.state == "destroyed" else (tables.master_key_versions, tables.import_tokens)
            for table in gone:
                connection.execute(delete(table).where(table.c.key_id == key_id))
            self._keep(connection, after, kind, user_id, lose)
        return after

    def note_key_use(self, key: MasterKey, operation: str, user_id: str, version: int, grant_id: str | None = None) -> None:
        """Record who used a master key, for what."""
        detail: dict[str, Any] = {"key_id": key.id, "alias": key.alias, "version": version, "operation": operation}
        with engine.writing(self._engine) as connection:
            by = {"user_id": user_id} | ({"grant_id": grant_id} if grant_id else {})
            self._event(connection, key.tenant_id, "master_key_used", detail | by)

    # -- steps inside a transaction

    def _keep(self, connection: Connection, key: MasterKey, kind: str, user_id: str | None, more: Mapping[str, Any]) -> None:
        table = tables.master_keys
        connection.execute(update(table).where(table.c.id == key.id).values(rows.row(key)))
        by = {"user_id": user_id} if user_id else {}
        self._event(connection, key.tenant_id, kind, {**told(key), **by, **more})


def told(key: MasterKey) -> dict[str, Any]:
    """Return what an event says of a master key."""
    return {"key_id": key.id, "alias": key.alias, "spec": key.spec, "state": key.state, "version": key.version}


def told_grant(grant: Grant) -> dict[str, Any]:
    """Return what an event says of a grant."""
    return {"grant_id": grant.id, "key_id": grant.key_id, "grantee": grant.grantee, "operations": grant.operations}


def named(connection: Connection, tenant_id: str, name: str) -> MasterKey | None:
    """Return the tenant's master key of this id, alias or further alias: an id is nobody else's name."""
    table, further = tables.master_keys, tables.master_key_aliases
    moved = select(further.c.key_id).where(further.c.tenant_id == tenant_id, further.c.alias == name).scalar_subquery()
    for which in (table.c.id == name, table.c.alias == name, table.c.id == moved):
        found = one(connection, table, table.c.tenant_id == tenant_id, LIVING, which)
        if found is not None:
            return rows.master_key(found)
    return None


def refuse_taken(connection: Connection, tenant_id: str, alias: str) -> None:
    """AlreadyExists(alias_taken) where a master key of the tenant is called so, by whichever kind of name."""
    if named(connection, tenant_id, alias) is not None:
        raise AlreadyExists("alias_taken", f"{alias}: there is a master key of this name already")


def _row(connection: Connection, key_id: str) -> MasterKey:
    found = one(connection, tables.master_keys, tables.master_keys.c.id == key_id, LIVING)
    if found is None:
        raise NotFound("master_key_not_found", f"{key_id}: no master key of this id", key_id=key_id)
    return rows.master_key(found)


def _counted(connection: Connection, tenant_id: str) -> int:
    table = tables.master_keys
    query = select(func.count()).select_from(table).where(table.c.tenant_id == tenant_id, LIVING, table.c.default.is_(False))
    return connection.execute(query).scalar_one()


def _sealed_under(connection: Connection, key_id: str) -> list[str]:
    table = tables.keypairs
    return list(connection.execute(select(table.c.id).where(table.c.master_key_id == key_id)).scalars())


def _checked(connection: Connection, key_id: str, check: Check | None) -> dict[str, Any]:
    """Return what an event says of the logins that lose their only way in; check raises where that was not consented to."""
    if check is None:
        return {}
    sealed = _sealed_under(connection, key_id)
    lose = check(standing(connection, sealed), sealed)
    return {"only_way_in_of": lose} if lose else {}
