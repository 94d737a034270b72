"""The queue between controllers that share a PostgreSQL: which tasks wait for whoever takes them. Procrastinate's.

The tasks' rows stay the truth. A job says no more than that a task waits; it may be lost, or come twice.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
import structlog
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ProcrastinateException
from procrastinate.jobs import Job, Status
from procrastinate.manager import JobManager
from procrastinate.schema import SchemaManager
from procrastinate.worker import Worker

from controller.errors import Away
from controller.model import URGENT_QUEUE as URGENT
from controller.model import WAITING_QUEUE as ORDINARY
from controller.model import Task

# One for what goes ahead of all else: it waits for no place that something else has.
_PRIORITY = {URGENT: 100, ORDINARY: 0}
_TASK = "kps.task"
_LOOK_SECONDS = 0.25  # no notices: a connection that listens and is lost would end the worker
_NEVER_SECONDS = 1e9  # heartbeats are ours: one that fails would end the worker
_AGAIN_SECONDS = 1.0  # after PostgreSQL was away
_GOODBYE_SECONDS = 10.0
_AT_ONCE = 500  # jobs put there by one statement
# What makes fetching quick where much waits: python -m benchmarks.queue.
_INDEX = "CREATE INDEX kps_jobs_by_lock ON procrastinate_jobs (lock, priority DESC, id) WHERE status IN ('todo', 'doing')"
# Read from the catalog, not asked by to_regclass: that a name was not there is remembered by a session, also once it has waited.
_LACKING = """SELECT NOT EXISTS (SELECT FROM pg_class WHERE relname = 'procrastinate_jobs' AND pg_table_is_visible(oid)),
    NOT EXISTS (SELECT FROM pg_class WHERE relname = 'kps_jobs_by_lock' AND pg_table_is_visible(oid))"""
# Two that start at once make it one after the other. One that stands still meanwhile keeps nobody waiting for long, neither from
# starting nor from the tables.
_MAKING = "SET LOCAL idle_in_transaction_session_timeout = '{}s'; SELECT pg_advisory_xact_lock(7041907)"
_MAKER_IDLE_SECONDS = 15
_JOBS = "SELECT id, queueing_lock AS task FROM procrastinate_jobs WHERE status = %(status)s::procrastinate_job_status"
_OURS = "SELECT id FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = ANY(%(workers)s::bigint[])"
_LOST = (ProcrastinateException, psycopg.Error, OSError)

log = structlog.get_logger("kps.queue")
Answer = Callable[[str, bool], Awaitable[None]]


class Queue:
    """Says to all controllers of a database which tasks wait, and hands each to one of them: one at a time for a server."""

    def __init__(
        self, conninfo: str, stalled_seconds: float, connecting: Mapping[str, Any] | None = None, session: str = ""
    ) -> None:
        """stalled_seconds: a process that is not heard for longer has its jobs taken from it.

        connecting: more for libpq. session: statements with which each session begins.
        """
        self._conninfo = conninfo
        self._connecting = dict(connecting or {})
        self._stalled_seconds = stalled_seconds
        # Each statement is a transaction by itself, on the server: who stands still between two of them holds no rows.
        alone = self._connecting | {"autocommit": True}

        async def begin(connection: psycopg.AsyncConnection[Any]) -> None:
            await connection.execute(session.encode())

        # To connect anew is soon given up, for whoever asks next begins with it: else it is tried ever more rarely, for minutes.
        connector = PsycopgConnector(
            conninfo=conninfo, kwargs=alone, configure=begin, min_size=1, max_size=4, timeout=10, reconnect_timeout=1
        )
        self._app = App(connector=connector)
        self._app.job_manager = self._manager = _Manager(connector)
        self._workers: list[Worker] = []
        self._stopped = False
        self._over: set[int] = set()
        self._unknown: set[int] = set()

    async def open(self) -> None:
        """Connect, and make the queue's tables where there are none. Away where that cannot be."""
        with _away():
            await _made(self._conninfo, self._connecting)
            try:
                await self._app.open_async()
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Let go of the connections."""
        with contextlib.suppress(TimeoutError, *_LOST):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._app.close_async()

    async def put(self, tasks: Sequence[Task], urgent: bool = False) -> None:
        """Have these tasks taken, urgent ones first. What cannot be put there now is put there later by whoever looks for it."""
        queue = URGENT if urgent else ORDINARY
        with contextlib.suppress(*_LOST):
            for start in range(0, len(tasks), _AT_ONCE):
                await self._put(tasks[start : start + _AT_ONCE], queue)

    async def _put(self, tasks: Sequence[Task], queue: str) -> None:
        made = [
            self._app.configure_task(
                _TASK,
                queue=queue,
                priority=_PRIORITY[queue],
                lock=task.server_id,
                queueing_lock=task.id,
                task_kwargs={"task_id": task.id},
            ).job
            for task in tasks
        ]
        try:
            await self._manager.batch_defer_jobs_async(made)
        except AlreadyEnqueued:
            if len(tasks) > 1:
                for task in tasks:
                    await self._put([task], queue)

    async def lacking(self, task_ids: Iterable[str]) -> list[str]:
        """Return those of these tasks for which no job is there. Away."""
        with _away():
            jobs = {task for status in ("todo", "doing") for _, task in await self._jobs(status)}
        return [each for each in task_ids if each not in jobs]

    async def take(self, answer: Answer, places: int) -> None:
        """Answer jobs, so many at a time of each queue, until stop() is called; returns when those under way have ended.

        answer: with the task's id and whether it is urgent.
        """
        heart = asyncio.get_running_loop().create_task(self._beat())
        try:
            await asyncio.gather(*(self._take(queue, answer, places) for queue in (URGENT, ORDINARY)))
        finally:
            heart.cancel()

    async def _take(self, queue: str, answer: Answer, places: int) -> None:
        app = App(connector=self._app.connector)
        app.job_manager = self._manager

        @app.task(name=_TASK)
        async def run(task_id: str) -> None:
            await answer(task_id, queue == URGENT)

        while not self._stopped:
            worker = Worker(
                app,
                queues=[queue],
                name=None,
                concurrency=places,
                fetch_job_polling_interval=_LOOK_SECONDS,
                listen_notify=False,
                delete_jobs="always",
                install_signal_handlers=False,
                update_heartbeat_interval=_NEVER_SECONDS,
                stalled_worker_timeout=2 * self._stalled_seconds,
            )
            self._workers.append(worker)
            try:
                await worker.run()  # type: ignore[no-untyped-call]
            except _LOST as error:
                self._manager.tells(error)
            except Exception:  # whatever it is: who takes nothing any more looks as if all were well
                log.error("queue", code="unexpected", exc_info=True)
            finally:
                self._workers.remove(worker)
            if not self._stopped:
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _beat(self) -> None:
        """Say, ever again, that this process lives, also while it only ends what it has begun."""
        while True:
            for worker in self._workers:
                if worker.worker_id is not None:
                    with contextlib.suppress(*_LOST):
                        await self._manager.update_heartbeat(worker.worker_id)
            with contextlib.suppress(*_LOST):
                await self._end_unknown()
            await asyncio.sleep(self._stalled_seconds / 3)

    async def _end_unknown(self) -> None:
        """End the jobs that this process has taken and does not know of, nor did at the last look: the answer was lost.

        Their tasks wait, so whoever looks for what is not there puts them there again. This process lives: nobody else would.
        """
        workers = [worker.worker_id for worker in self._workers if worker.worker_id is not None]
        rows = await self._app.connector.execute_query_all_async(_OURS, workers=workers)
        unknown = {int(row["id"]) for row in rows} - self._manager.known
        for job in unknown & self._unknown:
            await self._end(job)
        self._unknown = unknown

    @property
    def rests(self) -> bool:
        """Whether nothing is taken for now."""
        return self._manager.rests

    @rests.setter
    def rests(self, rests: bool) -> None:
        self._manager.rests = rests

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped = self._manager.leaves = True
        for worker in self._workers:
            worker.stop()  # type: ignore[no-untyped-call]

    async def end_stalled(self) -> None:
        """End the jobs of processes that are heard no more, so that a server's next one can be taken. Away."""
        with _away():
            for job in await self._manager.get_stalled_jobs(seconds_since_heartbeat=self._stalled_seconds):
                await self._end(job.id)

    async def end_over(self, open_ids: Collection[str]) -> None:
        """End the jobs of tasks that are over and were at the last look too: their process could not do so. Away."""
        with _away():
            over = {job for job, task in await self._jobs("doing") if task not in open_ids}
            for job in over & self._over:
                await self._end(job)
            self._over = over

    async def _jobs(self, status: str) -> list[tuple[int, str]]:
        rows = await self._app.connector.execute_query_all_async(_JOBS, status=status)
        return [(int(row["id"]), str(row["task"])) for row in rows]

    async def _end(self, job_id: int | None) -> None:
        # Whoever had it may have woken up and ended it since.
        with contextlib.suppress(ProcrastinateException):
            if job_id is not None:
                await self._manager.finish_job_by_id_async(job_id, Status.FAILED, delete_job=True)


class _Manager(JobManager):
    """Waits for a PostgreSQL that is away, where the library's worker would end or leave a job as if it ran for ever."""

    leaves = False
    rests = False  # takes nothing for now
    _away = False  # and that was told

    def __init__(self, connector: PsycopgConnector) -> None:
        super().__init__(connector)
        self.known: set[int] = set()  # jobs that were taken, and whose end is not on record

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        if self.rests:
            return None
        try:
            found = await super().fetch_job(queues, worker_id)
        except _LOST as error:
            cause = error.__cause__
            if isinstance(cause, psycopg.errors.ForeignKeyViolation):
                raise  # it stood still, and was taken for dead: it has to begin anew
            if not isinstance(cause, psycopg.errors.UniqueViolation):  # that is another job of one server
                self.tells(error)
            return None
        self._away = False
        if found is not None and found.id is not None:
            self.known.add(found.id)
        return found

    def tells(self, error: Exception) -> None:
        """Tell that PostgreSQL is away: once, until it is back."""
        if not self._away:
            self._away = True
            log.warning("queue", code="store_unusable", message=" ".join(str(error.__cause__ or error).split()))

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        try:
            await self._finished(job, status, delete_job)
        finally:
            self.known.discard(job.id or 0)

    async def _finished(self, job: Job, status: Status, delete_job: bool) -> None:
        while True:
            try:
                return await super().finish_job(job, status, delete_job)
            except _LOST as error:
                # One that is not there any more was taken from a process that was not heard.
                if self.leaves or "was not found" in str(error.__cause__ or error):
                    return None
            await asyncio.sleep(_AGAIN_SECONDS)


@contextlib.contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except _LOST as error:
        said = " ".join(str(error.__cause__ or error).split())
        raise Away("store_unusable", f"the queue: {said}; see that PostgreSQL runs and can be reached, then try again") from error


async def _made(conninfo: str, connecting: Mapping[str, Any]) -> None:
    """Make the queue's tables, in the words of the library that knows them."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=False, **connecting) as connection:
        # Whatever the database's own is: who has waited has to see what was made meanwhile.
        await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
        # Asked before: who makes an index waits for all that write to its table, even where there is nothing to be made.
        if await _lacking(connection) == (False, False):
            return
        await connection.execute(_MAKING.format(_MAKER_IDLE_SECONDS).encode())
        tables, index = await _lacking(connection)
        if tables:
            await connection.execute(SchemaManager.get_schema())
        if index:
            await connection.execute(_INDEX)


async def _lacking(connection: psycopg.AsyncConnection[Any]) -> tuple[Any, ...]:
    found = await (await connection.execute(_LACKING)).fetchone()
    return found or (True, True)
