"""How much of what there may be, for a tenant and for each of its users."""

from typing import get_args

from sqlalchemy import ColumnElement, Connection, delete, func, select

from controller.errors import Conflict
from controller.model import QuotaName, Quotas, Usage
from controller.store import engine, tables
from controller.store.base import Base

EACH_USER: frozenset[QuotaName] = frozenset({"private_keypairs"})
_WORDS: dict[QuotaName, str] = {
    "private_keypairs": "private key pairs of this user",
    "account_keypairs": "key pairs of the account",
    "users": "users",
}


class QuotaTable(Base):
    """The quotas that somebody has set; where nobody has, the given defaults hold."""

    def usage(self, tenant_id: str, user_id: str | None, defaults: Quotas) -> list[Usage]:
        """Return the quotas of a user, or (None) of the tenant, with what is used of each.

        Of the tenant's, the one that is counted for each user holds where a user has none of their own; nobody uses it.
        """
        with engine.reading(self._engine) as connection:
            names = [name for name in get_args(QuotaName) if user_id is None or name in EACH_USER]
            return [_usage(connection, name, tenant_id, user_id, defaults) for name in names]

    def set_quota(self, tenant_id: str, user_id: str | None, name: QuotaName, most: int | None, by: str) -> None:
        """Set a quota of a user, or (None) of the tenant; most None: the default again. What is there already stays."""
        table = tables.quotas
        with engine.writing(self._engine) as connection:
            connection.execute(delete(table).where(*_which(tenant_id, user_id or "", name)))
            if most is not None:
                values = {"tenant_id": tenant_id, "user_id": user_id or "", "name": name, "most": most}
                connection.execute(table.insert().values(values))
            detail = {"quota": name, "of_user": user_id, "most": most, "user_id": by}
            self._event(connection, tenant_id, "quota_changed", detail)


def check_quota(
    connection: Connection, name: QuotaName, tenant_id: str, user_id: str, defaults: Quotas | None, whose: str = ""
) -> None:
    """Conflict(quota_exceeded) where there may not be one more. defaults None: nothing is limited. whose: begins the message."""
    if defaults is None:
        return
    found = _usage(connection, name, tenant_id, user_id if name in EACH_USER else None, defaults)
    if found.used >= found.limit:
        raise Conflict(
            "quota_exceeded",
            f"{whose}{': ' if whose else ''}there are {found.used} {_WORDS[name]}, and {found.limit} may be; delete what is not "
            "needed, or ask an administrator for more (kps quota set)",
            quota=name,
            used=found.used,
            limit=found.limit,
        )


def _usage(connection: Connection, name: QuotaName, tenant_id: str, user_id: str | None, defaults: Quotas) -> Usage:
    table = tables.quotas
    limit: int | None = None
    for whose in ("",) if user_id is None else (user_id, ""):
        limit = connection.execute(select(table.c.most).where(*_which(tenant_id, whose, name))).scalar_one_or_none()
        if limit is not None:
            break
    default: int = getattr(defaults, name)
    return Usage(
        name, user_id, _used(connection, name, tenant_id, user_id), default if limit is None else limit, limit is not None
    )


def _used(connection: Connection, name: QuotaName, tenant_id: str, user_id: str | None) -> int:
    keypairs, users = tables.keypairs, tables.users
    if name == "users":
        counted = select(func.count()).select_from(users).where(users.c.tenant_id == tenant_id, users.c.deleted_at.is_(None))
    elif name == "account_keypairs":
        counted = select(func.count()).select_from(keypairs)
        counted = counted.where(keypairs.c.tenant_id == tenant_id, keypairs.c.scope == "account")
    elif user_id is None:
        return 0
    else:
        counted = select(func.count()).select_from(keypairs)
        counted = counted.where(keypairs.c.owner_id == user_id, keypairs.c.scope == "private")
    return int(connection.execute(counted).scalar_one())


def _which(tenant_id: str, user_id: str, name: str) -> list[ColumnElement[bool]]:
    table = tables.quotas
    return [table.c.tenant_id == tenant_id, table.c.user_id == user_id, table.c.name == name]
