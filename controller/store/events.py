"""What happened, to be read."""

from collections.abc import Collection

from sqlalchemy import select

from controller.model import Event
from controller.store import engine, rows, tables
from controller.store.base import Base


class Events(Base):
    """The events of all tenants, in order."""

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
