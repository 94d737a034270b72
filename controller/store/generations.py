"""Which generation a machine has seen that no server of the inventory stands for any more: it refuses what is older."""

from sqlalchemy import Connection, delete, select

from controller.store import tables


def keep_generation(connection: Connection, tenant_id: str, host: str, port: int, generation: int) -> None:
    """Keep what an address was reached with at last, for whoever is at that address next."""
    kept = tables.left_addresses
    where = (kept.c.tenant_id == tenant_id) & (kept.c.host == host) & (kept.c.port == port)
    before = connection.execute(select(kept.c.generation).where(where)).scalar_one_or_none()
    connection.execute(delete(kept).where(where))
    connection.execute(kept.insert().values(tenant_id=tenant_id, host=host, port=port, generation=max(before or 0, generation)))
