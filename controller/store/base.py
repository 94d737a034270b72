"""What every noun of the store stands on: the database, the clock, and events written in the same transaction."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from controller.model import now
from controller.store import engine, schema, tables


class Base:
    """The database of a home, and the one way to write down what happened."""

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
