"""Where a tenant is told of its emergency doors, and what waits to be told there."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update

from controller.errors import NotFound
from controller.model import Sealed
from controller.store import engine, tables
from controller.store.doors import Doors
from controller.store.queries import one


@dataclass(frozen=True, slots=True)
class DoorHook:
    """Where a tenant is told, and with what that is signed."""

    tenant_id: str
    url: str
    sealed: Sealed
    user_id: str  # who set it
    any_address: bool  # named by the home's owner; else not on the controller's own machine or link (addresses)
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DoorAlert:
    """What waits to be told. body: JSON, exactly as it is sent."""

    seq: int
    id: str
    tenant_id: str
    body: str
    created_at: datetime
    tries: int
    next_at: datetime


class DoorHooks(Doors):
    """Who is told of doors."""

    def door_hook(self, tenant_id: str) -> DoorHook | None:
        """Return where a tenant is told of its doors."""
        with engine.reading(self._engine) as connection:
            found = one(connection, tables.door_hooks, tables.door_hooks.c.tenant_id == tenant_id)
        return None if found is None else DoorHook(**{**found, "sealed": Sealed(found["sealed"])})

    def door_hook_goes(self, tenant_id: str, kind: str, detail: dict[str, Any]) -> None:
        """Have whoever is told until now told that it is another one, or nobody, from now on; where anybody is."""
        with engine.writing(self._engine) as connection:
            self._alert(connection, tenant_id, kind, detail)

    def set_door_hook(self, hook: DoorHook) -> None:
        """Tell a tenant there from now on."""
        table = tables.door_hooks
        with engine.writing(self._engine) as connection:
            connection.execute(delete(table).where(table.c.tenant_id == hook.tenant_id))
            row = {name: getattr(hook, name) for name in DoorHook.__slots__} | {"sealed": hook.sealed.record}
            connection.execute(table.insert().values(row))
            self._event(connection, hook.tenant_id, "door_hook_set", {"url": hook.url, "user_id": hook.user_id})

    def remove_door_hook(self, tenant_id: str, user_id: str) -> None:
        """Tell a tenant of no door any more, nor what waits to be told: that is an event. NotFound(door_hook_not_found)."""
        with engine.writing(self._engine) as connection:
            if not connection.execute(delete(tables.door_hooks).where(tables.door_hooks.c.tenant_id == tenant_id)).rowcount:
                raise NotFound("door_hook_not_found", "nobody is told of doors; there is nothing to take away")
            lost = connection.execute(delete(tables.door_alerts).where(tables.door_alerts.c.tenant_id == tenant_id)).rowcount
            if lost:
                self._event(connection, tenant_id, "door_alert_lost", {"alerts": lost, "why": "nobody is told any more"})
            self._event(connection, tenant_id, "door_hook_removed", {"user_id": user_id})

    def door_alert_tenants(self) -> list[str]:
        """Return the tenants who are to be told something by now, whoever waits longest first."""
        table = tables.door_alerts
        query = select(table.c.tenant_id).where(table.c.next_at <= self._now())
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.group_by(table.c.tenant_id).order_by(func.min(table.c.seq)))
            return list(found.scalars())

    def door_alerts(self, limit: int, tenant_id: str | None = None) -> list[DoorAlert]:
        """Return what is to be told by now, to a tenant or (None) to all, the oldest first."""
        table = tables.door_alerts
        query = select(table).where(table.c.next_at <= self._now()).order_by(table.c.seq).limit(limit)
        if tenant_id is not None:
            query = query.where(table.c.tenant_id == tenant_id)
        with engine.reading(self._engine) as connection:
            return [DoorAlert(**found) for found in connection.execute(query).mappings()]

    def door_alert_told(self, alert: DoorAlert) -> None:
        """Forget what was told."""
        with engine.writing(self._engine) as connection:
            connection.execute(delete(tables.door_alerts).where(tables.door_alerts.c.id == alert.id))

    def door_alert_not_told(self, alert: DoorAlert, why: str, again_at: datetime | None) -> None:
        """Have it told later, or (None) never: that is an event then."""
        table = tables.door_alerts
        with engine.writing(self._engine) as connection:
            if again_at is not None:
                values = {"tries": alert.tries + 1, "next_at": again_at}
                connection.execute(update(table).where(table.c.id == alert.id).values(values))
                return
            if connection.execute(delete(table).where(table.c.id == alert.id)).rowcount:
                self._event(
                    connection, alert.tenant_id, "door_alert_lost", {"alert": alert.id, "tries": alert.tries + 1, "why": why}
                )
