"""What every noun of the store stands on: the database, the clock, and events written in the same transaction."""

from collections.abc import Callable, Sequence
from contextlib import closing
from contextvars import Context
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection

from controller.events import acting
from controller.model import now
from controller.store import engine, schema, tables
from controller.store.chain import Chains, Signer

CHECKPOINT_MILLISECONDS = 500


class Done(NamedTuple):
    """What a verb has come to: it returned something, or raised something."""

    returned: Any
    raised: BaseException | None


class Base:
    """The database of a home, and the one way to write down what happened."""

    def __init__(self, url: str, clock: Callable[[], datetime] = now) -> None:
        """Touches no file yet. url: sqlite:///PATH."""
        self._path: Path = engine.path_of(url)
        self._engine = engine.connect(url)
        self._now = clock
        self._chains = Chains()
        engine.before_writing(self._engine, self._get_ready)

    def migrate(self) -> None:
        """Bring the database to this version's tables; makes it, readable by the owner only, where there is none."""
        engine.make_file(self._path)
        with engine.writing(self._engine) as connection:
            found = schema.version(connection)
            if found != tables.VERSION:
                schema.upgrade(connection)

    def can_write(self) -> None:
        """Take the right to write, and give it back. Unavailable(store_unusable) where that cannot be had."""
        with engine.writing(self._engine):
            pass

    def checkpoint(self) -> bool:
        """Have the write-ahead log hold nothing any more; False where a reader kept it from that: come again."""
        with engine.usable(self._path), closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            # Whoever reads just now is not waited for: nobody else could use the store meanwhile.
            cursor.execute(f"PRAGMA busy_timeout = {CHECKPOINT_MILLISECONDS}")
            try:
                busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                cursor.execute(f"PRAGMA busy_timeout = {engine.BUSY_SECONDS * 1000}")
                cursor.close()
            return not busy

    def together(self, verbs: Sequence[tuple[Context, Callable[[], Any]]]) -> list[Done]:
        """Call verbs of this store, each in its context, and keep what they do by one commit; return once that is on the disk.

        Each does what it would do alone, after those before it. Where one raises, or the commit does, nothing is kept, and each
        is called once more by itself: so none may do anything but read and write here.
        """
        if len(verbs) > 1:
            try:
                for context, _ in verbs:
                    context.run(self._get_ready)
                with engine.together(self._engine):
                    return [Done(context.run(verb), None) for context, verb in verbs]
            except Exception:  # noqa: S110  (each is told its own, when it is called by itself)
                pass
        return [_done(context, verb) for context, verb in verbs]

    def close(self) -> None:
        """Let go of the files."""
        self._engine.dispose()

    def sign_with(self, signer: Signer) -> None:
        """Have events signed from now on. The store stands below the key service, so it is told by who wires both."""
        self._chains.signer = signer

    def _get_ready(self) -> None:
        # A root key may be far away: opening a key in the transaction would have all others wait for it.
        tenant_id = acting.get().tenant_id
        if tenant_id is not None:
            self._chains.signer.ready(tenant_id)

    # -- steps inside a transaction

    def _event(
        self,
        connection: Connection,
        tenant_id: str,
        kind: str,
        detail: dict[str, Any],
        *,
        user_id: str | None = None,
        task_id: str | None = None,
        server_id: str | None = None,
        keypair_id: str | None = None,
        phase: str | None = None,
    ) -> None:
        """Write down what happened, at the end of the tenant's chain.

        user_id and task_id: who did it; where they are not given, who acts now (controller.events.acting). Ids that stand in
        detail under the names of these columns need not be given twice. detail: JSON, and nothing secret.
        """
        actor = acting.get()
        event = {
            "tenant_id": tenant_id,
            "user_id": user_id or actor.user_id or detail.get("user_id"),
            "task_id": task_id or actor.task_id,
            "server_id": server_id or detail.get("server_id"),
            "keypair_id": keypair_id or detail.get("keypair_id"),
            "kind": kind,
            "phase": phase,
            "detail": detail,
        }
        self._chains.add(connection, event, self._now())


def _done(context: Context, verb: Callable[[], Any]) -> Done:
    try:
        return Done(context.run(verb), None)
    except Exception as error:
        return Done(None, error)
