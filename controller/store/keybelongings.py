"""What belongs to a customer master key: further aliases, tags, grants, and tokens for importing material."""

from collections.abc import Callable, Mapping
from datetime import datetime

from sqlalchemy import delete, func, or_, select

from controller.errors import Conflict, NotFound
from controller.model import Grant, KeyAlias, MasterKey, Sealed
from controller.store import engine, rows, tables
from controller.store.base import Base
from controller.store.masterkeys import refuse_taken, told_grant
from controller.store.queries import one


class KeyBelongings(Base):
    """Aliases, tags, grants and import tokens of all tenants' master keys."""

    # -- further aliases

    def key_aliases(self, tenant_id: str, key_id: str | None = None) -> list[KeyAlias]:
        """Return the further aliases of the tenant's master keys, or of one of them, by name."""
        table = tables.master_key_aliases
        query = select(table).where(table.c.tenant_id == tenant_id).order_by(table.c.alias)
        if key_id is not None:
            query = query.where(table.c.key_id == key_id)
        with engine.reading(self._engine) as connection:
            return [rows.key_alias(found) for found in connection.execute(query).mappings()]

    def add_key_alias(self, key: MasterKey, alias: str, user_id: str, most: int) -> KeyAlias:
        """Give a master key a further alias. AlreadyExists(alias_taken), Conflict(alias_quota)."""
        table = tables.master_key_aliases
        with engine.writing(self._engine) as connection:
            refuse_taken(connection, key.tenant_id, alias)
            count = select(func.count()).select_from(table).where(table.c.key_id == key.id)
            if connection.execute(count).scalar_one() >= most:
                raise Conflict("alias_quota", f"{key.alias}: it has {most} further aliases already; delete one first")
            made = KeyAlias(key.tenant_id, alias, key.id, self._now(), self._now())
            connection.execute(table.insert().values(rows.row(made)))
            detail = {"key_id": key.id, "alias": alias, "user_id": user_id}
            self._event(connection, key.tenant_id, "master_key_alias_set", detail)
        return made

    def move_key_alias(self, key: MasterKey, alias: str, user_id: str) -> KeyAlias:
        """Have a further alias mean another master key. NotFound(alias_not_found)."""
        table = tables.master_key_aliases
        mine = (table.c.tenant_id == key.tenant_id, table.c.alias == alias)
        with engine.writing(self._engine) as connection:
            found = one(connection, table, *mine)
            if found is None:
                raise NotFound("alias_not_found", f"{alias}: there is no such further alias")
            connection.execute(table.update().where(*mine).values(key_id=key.id, updated_at=self._now()))
            detail = {"key_id": key.id, "alias": alias, "before": found["key_id"], "user_id": user_id}
            self._event(connection, key.tenant_id, "master_key_alias_set", detail)
            return rows.key_alias(connection.execute(select(table).where(*mine)).mappings().one())

    def delete_key_alias(self, tenant_id: str, alias: str, user_id: str) -> None:
        """Take a further alias away; the key stays. NotFound(alias_not_found)."""
        table = tables.master_key_aliases
        mine = (table.c.tenant_id == tenant_id, table.c.alias == alias)
        with engine.writing(self._engine) as connection:
            found = one(connection, table, *mine)
            if found is None:
                raise NotFound("alias_not_found", f"{alias}: there is no such further alias")
            connection.execute(delete(table).where(*mine))
            detail = {"key_id": found["key_id"], "alias": alias, "user_id": user_id}
            self._event(connection, tenant_id, "master_key_alias_deleted", detail)

    # -- tags

    def key_tags(self, key_id: str) -> dict[str, str]:
        """Return the tags of a master key, by name."""
        table = tables.master_key_tags
        query = select(table.c.tag, table.c.value).where(table.c.key_id == key_id).order_by(table.c.tag)
        with engine.reading(self._engine) as connection:
            return {found.tag: found.value for found in connection.execute(query)}

    def all_key_tags(self, tenant_id: str) -> dict[str, list[str]]:
        """Return the names of all tags of the tenant's master keys, each with its values."""
        tag, key = tables.master_key_tags, tables.master_keys
        query = select(tag.c.tag, tag.c.value).join(key).where(key.c.tenant_id == tenant_id).distinct()
        found: dict[str, list[str]] = {}
        with engine.reading(self._engine) as connection:
            for name, value in connection.execute(query.order_by(tag.c.tag, tag.c.value)):
                found.setdefault(name, []).append(value)
        return found

    def tag_key(self, key: MasterKey, tags: Mapping[str, str], user_id: str, most: int) -> dict[str, str]:
        """Put tags on a master key, each in the place of one of its name, and return them all. Conflict(tag_quota)."""
        table = tables.master_key_tags
        with engine.writing(self._engine) as connection:
            mine = table.c.key_id == key.id
            there = {found.tag: found.value for found in connection.execute(select(table).where(mine))}
            after = there | dict(tags)
            if len(after) > most:
                raise Conflict("tag_quota", f"{key.alias}: a master key has at most {most} tags; it would have {len(after)}")
            connection.execute(delete(table).where(mine, table.c.tag.in_(tags)))
            if tags:
                connection.execute(table.insert(), [{"key_id": key.id, "tag": tag, "value": tags[tag]} for tag in tags])
            detail = {"key_id": key.id, "alias": key.alias, "tags": dict(tags), "user_id": user_id}
            self._event(connection, key.tenant_id, "master_key_tagged", detail)
        return dict(sorted(after.items()))

    def untag_key(self, key: MasterKey, tags: list[str], user_id: str, *, all_there: bool = True) -> None:
        """Take tags off a master key. all_there: NotFound(tag_not_found) where one of them is not on it."""
        table = tables.master_key_tags
        with engine.writing(self._engine) as connection:
            mine = (table.c.key_id == key.id, table.c.tag.in_(tags))
            there = set(connection.execute(select(table.c.tag).where(*mine)).scalars())
            for tag in tags:
                if all_there and tag not in there:
                    raise NotFound("tag_not_found", f"{key.alias}: it has no tag {tag}")
            connection.execute(delete(table).where(*mine))
            detail = {"key_id": key.id, "alias": key.alias, "tags": sorted(there), "user_id": user_id}
            self._event(connection, key.tenant_id, "master_key_untagged", detail)

    # -- grants

    def grants(self, key_id: str) -> list[Grant]:
        """Return the grants of a master key, in the order in which they were made."""
        table = tables.master_key_grants
        query = select(table).where(table.c.key_id == key_id).order_by(table.c.created_at, table.c.id)
        with engine.reading(self._engine) as connection:
            return [rows.grant(found) for found in connection.execute(query).mappings()]

    def grants_about(self, tenant_id: str, user_id: str) -> list[Grant]:
        """Return the grants that a user has made, or was given, or may retire, in the order in which they were made."""
        table = tables.master_key_grants
        query = select(table).where(
            table.c.tenant_id == tenant_id,
            or_(table.c.issuer == user_id, table.c.retiring == user_id, table.c.grantee.in_((user_id, tenant_id))),
        )
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(table.c.created_at, table.c.id)).mappings()
            return [rows.grant(each) for each in found]

    def grants_for(self, key_id: str, tenant_id: str, user_id: str) -> list[Grant]:
        """Return what a user has been granted for a master key, in person or as one of the tenant's users."""
        table = tables.master_key_grants
        mine = table.c.grantee.in_((user_id, tenant_id))
        query = select(table).where(table.c.key_id == key_id, table.c.tenant_id == tenant_id, mine)
        with engine.reading(self._engine) as connection:
            return [rows.grant(found) for found in connection.execute(query.order_by(table.c.id)).mappings()]

    def add_grant(self, grant: Grant, most: int) -> Grant:
        """Keep a grant. Conflict(grant_quota)."""
        table = tables.master_key_grants
        with engine.writing(self._engine) as connection:
            count = select(func.count()).select_from(table).where(table.c.key_id == grant.key_id)
            if connection.execute(count).scalar_one() >= most:
                raise Conflict("grant_quota", f"{grant.key_id}: it has {most} grants already; revoke one first")
            connection.execute(table.insert().values(rows.row(grant)))
            detail = told_grant(grant) | {"user_id": grant.issuer}
            self._event(connection, grant.tenant_id, "master_key_granted", detail)
        return grant

    def end_grant(self, key: MasterKey, grant_id: str, kind: str, user_id: str, allowed: Callable[[Grant], None]) -> Grant:
        """Take a grant away; allowed raises what forbids it.

        NotFound(grant_not_found), Conflict(grant_of_another_key).
        """
        table = tables.master_key_grants
        with engine.writing(self._engine) as connection:
            found = one(connection, table, table.c.id == grant_id, table.c.tenant_id == key.tenant_id)
            if found is None:
                raise NotFound("grant_not_found", f"{grant_id}: there is no such grant")
            grant = rows.grant(found)
            if grant.key_id != key.id:
                raise Conflict("grant_of_another_key", f"{grant_id}: this is a grant of another key than {key.alias}")
            allowed(grant)
            connection.execute(delete(table).where(table.c.id == grant_id))
            self._event(connection, grant.tenant_id, kind, told_grant(grant) | {"user_id": user_id})
        return grant

    # -- tokens for importing material

    def add_import_token(
        self, key: MasterKey, digest: bytes, sealed: Sealed, expires_at: datetime, user_id: str, most: int
    ) -> None:
        """Keep what opens the material that comes with a token. Conflict(import_token_quota)."""
        table = tables.import_tokens
        with engine.writing(self._engine) as connection:
            connection.execute(delete(table).where(table.c.key_id == key.id, table.c.expires_at <= self._now()))
            count = select(func.count()).select_from(table).where(table.c.key_id == key.id)
            if connection.execute(count).scalar_one() >= most:
                raise Conflict(
                    "import_token_quota",
                    f"{key.alias}: {most} import tokens of it are out already; use one, or wait until they expire",
                )
            connection.execute(table.insert().values(digest=digest, key_id=key.id, sealed=sealed.record, expires_at=expires_at))
            detail = {"key_id": key.id, "alias": key.alias, "user_id": user_id}
            self._event(connection, key.tenant_id, "master_key_import_begun", detail)

    def import_token(self, digest: bytes) -> tuple[str, Sealed, datetime] | None:
        """Return the key's id, the sealed private half and when it expires, of a token that is out."""
        with engine.reading(self._engine) as connection:
            found = one(connection, tables.import_tokens, tables.import_tokens.c.digest == digest)
        return None if found is None else (found["key_id"], Sealed(found["sealed"]), found["expires_at"])

    def drop_import_tokens(self, at: datetime) -> int:
        """Forget what opens material that comes with a token that has expired; returns how many there were."""
        table = tables.import_tokens
        with engine.reading(self._engine) as connection:
            if one(connection, table, table.c.expires_at <= at) is None:
                return 0
        with engine.writing(self._engine) as connection:
            return connection.execute(delete(table).where(table.c.expires_at <= at)).rowcount
