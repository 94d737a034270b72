"""What every noun of the store stands on: the database, the clock, and events written in the same transaction."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from contextvars import Context
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection

from controller.errors import Away, Problem
from controller.events import acting
from controller.model import now
from controller.store import engine, postgresql, schema, tables
from controller.store.chain import Chains, Signer

if TYPE_CHECKING:
    from controller.store.moving import Moved, Told

CHECKPOINT_MILLISECONDS = 500


class Done(NamedTuple):
    """What a verb has come to: it returned something, or raised something."""

    returned: Any
    raised: BaseException | None


class Base:
    """The database of a home, and the one way to write down what happened."""

    def __init__(self, url: str, clock: Callable[[], datetime] | None = None) -> None:
        """Touches no file and no server yet. url: sqlite:///PATH, or postgresql://USER@HOST/DATABASE.

        clock: None: this machine's, and on PostgreSQL its server's, which is the same for all who share the database.
        """
        # None: on PostgreSQL.
        self._path: Path | None = None if postgresql.is_address(url) else engine.path_of(url)
        self._engine = engine.connect(url)
        self._now = clock or (now if self._path is not None else postgresql.clock(self._engine))
        self._chains = Chains()
        self._turns = None if self._path is not None else postgresql.Turns(self._engine)
        engine.before_writing(self._engine, self._get_ready)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return postgresql.shown(self._engine) if self._path is None else str(self._path)

    def migrate(self) -> None:
        """Bring the database to this version's tables; makes it, readable by the owner only, where there is none."""
        if self._path is not None:
            engine.make_file(self._path)
        with engine.writing(self._engine) as connection:
            if self._path is None:
                postgresql.usable(connection)
            found = schema.version(connection)
            if found != tables.VERSION:
                schema.upgrade(connection)

    def needs_rest(self) -> bool:
        """Whether migrate() makes tables with which processes of an older version could not go on: they have to end before."""
        if self._path is not None:
            engine.make_file(self._path)
            if self._path.stat().st_size == 0:
                return False  # who is refused next has not even opened it
        with engine.reading(self._engine) as connection:
            return schema.needs_rest(connection)

    def now(self) -> datetime:
        """Return the time that this store goes by: on PostgreSQL the same for all who share it. Asks nobody."""
        return self._now()

    def time_there(self) -> datetime | None:
        """Return what time the database's server says it is; None: it is a file."""
        if self._path is not None:
            return None
        with engine.usable(self._engine):
            return postgresql.time_there(self._engine)

    def can_write(self) -> None:
        """Take the right to write, and give it back. Unavailable(store_unusable) where that cannot be had."""
        with engine.writing(self._engine):
            pass

    def checkpoint(self) -> bool:
        """Have the write-ahead log hold nothing any more; False where a reader kept it from that: come again.

        PostgreSQL sees to its log by itself.
        """
        if self._path is None:
            return True
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
        is called once more by itself: so none may do anything but read and write here. Where two in a row find the store away,
        so would those after them; each may be a wait of seconds, in which this process could ask it nothing else.
        """
        if len(verbs) > 1:
            try:
                for context, _ in verbs:
                    context.run(self._get_ready)
                with engine.together(self._engine):
                    return [Done(context.run(verb), None) for context, verb in verbs]
            except Exception as error:
                if isinstance(error, Problem) and error.code == "store_in_doubt":
                    return [Done(None, error)] * len(verbs)  # once more might be twice
                # Each is told its own, when it is called by itself.
        done: list[Done] = []
        for context, verb in verbs:
            away = len(done) > 1 and all(isinstance(each.raised, Away) for each in done[-2:])
            done.append(done[-1] if away else _done(context, verb))
        return done

    @property
    def shared(self) -> bool:
        """Whether several controllers may serve it at once, from whatever machines: on PostgreSQL."""
        return self._path is None

    def take_turn(self, name: str) -> bool:
        """Whether something that one controller does for all is ours to do: taken now, or before and still ours.

        A file in a home has one controller anyway.
        """
        return self._turns is None or self._turns.take(name)

    def leave_turn(self, name: str) -> None:
        """Let another controller take that turn."""
        if self._turns is not None:
            self._turns.leave(name)

    def close(self) -> None:
        """Let go of the files, or of the server."""
        if self._turns is not None:
            self._turns.close()
        self._engine.dispose()

    def working(self) -> AbstractContextManager[None]:
        """Work with what is in the database, from whatever home. Conflict(root_rotating) while somebody has it alone.

        This and alone() are for what a lock in the home does not reach: of SQLite, nothing.
        """
        return nullcontext() if self._path is not None else postgresql.working(self._engine)

    def alone(self, wait: bool = False) -> AbstractContextManager[None]:
        """Have the database alone. Conflict(home_in_use) while anybody works with it, unless wait."""
        return nullcontext() if self._path is not None else postgresql.alone(self._engine, wait)

    def move_to(self, there: "Base", told: "Told" = lambda table, rows: None) -> "list[Moved]":
        """Copy all of this store into an empty one on PostgreSQL, all or nothing; this one is only read. As moving.move()."""
        from controller.store import moving  # hardly ever needed, and it takes its time to be loaded

        return moving.move(self._engine, there._engine, told)

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
