"""The queue between controllers that share a PostgreSQL: which tasks wait for whoever takes them. Procrastinate's.

The tasks' rows stay the truth. A job says no more than that a task waits; it may be lost, or come twice.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence

import psycopg
import structlog
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ProcrastinateException
from procrastinate.jobs import Status
from procrastinate.schema import SchemaManager
from procrastinate.worker import Worker

from controller.model import Task

# One for what goes ahead of all else: it waits for no place that something else has.
URGENT, ORDINARY = "kps-urgent", "kps"
_PRIORITY = {URGENT: 100, ORDINARY: 0}
_TASK = "kps.task"
_LOOK_SECONDS = 1.0  # a notice that comes while a job is fetched can be lost
_AGAIN_SECONDS = 1.0  # after PostgreSQL was away
_AT_ONCE = 500  # jobs put there by one statement
# What makes fetching quick where much waits (docs/performance.md).
_INDEX = (
    "CREATE INDEX IF NOT EXISTS kps_jobs_by_lock ON procrastinate_jobs "
    "(lock, priority DESC, id) WHERE status IN ('todo', 'doing')"
)
_MAKING = "SELECT pg_advisory_xact_lock(7041907)"  # two that start at once make it one after the other

log = structlog.get_logger("kps.queue")
Answer = Callable[[str, bool], Awaitable[None]]


class Queue:
    """Says to all controllers of a database which tasks wait, and hands each to one of them: one at a time for a server."""

    def __init__(self, conninfo: str, stalled_seconds: float) -> None:
        """stalled_seconds: a process that is not heard for longer has its jobs taken from it."""
        self._conninfo = conninfo
        self._stalled_seconds = stalled_seconds
        self._app = App(connector=PsycopgConnector(conninfo=conninfo, min_size=1, max_size=4, timeout=10))
        self._workers: list[Worker] = []
        self._stopped = False

    async def open(self) -> None:
        """Connect, and make the queue's tables where there are none."""
        await _made(self._conninfo)
        await self._app.open_async()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._app.close_async()

    async def put(self, tasks: Sequence[Task], urgent: bool = False) -> None:
        """Have these tasks taken, urgent ones first. What cannot be put there now is put there later by whoever looks for it."""
        queue = URGENT if urgent else ORDINARY
        with contextlib.suppress(ProcrastinateException, psycopg.Error):
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
            await self._app.job_manager.batch_defer_jobs_async(made)
        except AlreadyEnqueued:
            if len(tasks) > 1:
                for task in tasks:
                    await self._put([task], queue)

    async def lacking(self, task_ids: Iterable[str]) -> list[str]:
        """Return those of these tasks for which no job is there."""
        jobs: set[str] = set()
        for status in ("todo", "doing"):
            rows = await self._app.connector.execute_query_all_async(
                "SELECT queueing_lock AS task FROM procrastinate_jobs WHERE status = %(status)s::procrastinate_job_status",
                status=status,
            )
            jobs.update(row["task"] for row in rows)
        return [each for each in task_ids if each not in jobs]

    async def take(self, answer: Answer, places: int) -> None:
        """Answer jobs, so many at a time of each queue, until stop() is called; returns when those under way have ended.

        answer: with the task's id and whether it is urgent.
        """
        await asyncio.gather(*(self._take(queue, answer, places) for queue in (URGENT, ORDINARY)))

    async def _take(self, queue: str, answer: Answer, places: int) -> None:
        app = App(connector=self._app.connector)

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
                delete_jobs="always",
                install_signal_handlers=False,
                update_heartbeat_interval=self._stalled_seconds / 3,
                stalled_worker_timeout=self._stalled_seconds,
            )
            self._workers.append(worker)
            try:
                await worker.run()  # type: ignore[no-untyped-call]
            except (ProcrastinateException, psycopg.Error, OSError) as error:
                log.warning("queue", code="store_unusable", message=" ".join(str(error).split()))
            finally:
                self._workers.remove(worker)
            if not self._stopped:
                await asyncio.sleep(_AGAIN_SECONDS)

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped = True
        for worker in self._workers:
            worker.stop()  # type: ignore[no-untyped-call]

    async def end_stalled(self) -> int:
        """End the jobs of processes that are heard no more, so that a server's next one can be taken; returns how many."""
        manager = self._app.job_manager
        found = list(await manager.get_stalled_jobs(seconds_since_heartbeat=self._stalled_seconds))
        for job in found:
            # Whoever had it may have woken up and ended it since.
            with contextlib.suppress(ProcrastinateException):
                await manager.finish_job(job, status=Status.FAILED, delete_job=True)
        return len(found)


async def _made(conninfo: str) -> None:
    """Make the queue's tables, in the words of the library that knows them."""
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=False, connect_timeout=10) as connection:
        await connection.execute(_MAKING)
        found = await (await connection.execute("SELECT to_regclass('procrastinate_jobs') IS NOT NULL")).fetchone()
        if found is None or not found[0]:
            await connection.execute(SchemaManager.get_schema())
        await connection.execute(_INDEX)
