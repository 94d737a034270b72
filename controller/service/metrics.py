"""What a controller counts and measures of itself, for whoever watches over it: /metrics (docs/metrics.md).

Names are of closed lists: operations, causes, phases; beside these, processes that take tasks are named. No tenant, user, server,
login or key pair is, and none can be told from another: the figures are of the whole home.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Executor
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from controller.causes import CAUSES
from controller.errors import Problem
from controller.measures import Measures
from controller.model import Operation, Phase, RolloutState, Status
from controller.service import certificate
from controller.service.readiness import OK, Readiness
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.figures import SOON_DAYS, Figures

KEPT_SECONDS = 5.0  # figures of the store, however often they are asked for
LEAST_REST = 20  # so many times longer than counting took nobody counts again
LAG_SECONDS = 1.0
OTHER = "other"  # in the place of a word that is on no list here
PROOFS = ("logged_in", "accepted", "password_offered", "refused", "not_applicable")
_TASK_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_PHASE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAIT_SECONDS = (0.1, 1, 10, 60, 300, 900, 3600, 14400)
_LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


class Measured(Measures):
    """Counts what this process does, from its start on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def seconds(name: str, told: str, label: str | None, buckets: tuple[float, ...]) -> Histogram:
            labels = [] if label is None else [label]
            return Histogram(f"kps_{name}_seconds", told, labels, buckets=buckets, registry=registry)

        self._ended = Counter(
            "kps_tasks_ended", "Tasks that this process has brought to an end.", ["operation", "status"], registry=registry
        )
        self._failed = Counter("kps_tasks_failures", "Of these, those that failed, by cause.", ["cause"], registry=registry)
        self._took = seconds("task", "From when a task was begun to its end.", "operation", _TASK_SECONDS)
        self._waited = seconds("task_wait", "From when a task was asked for until it was begun.", None, _WAIT_SECONDS)
        self._phase = seconds("task_phase", "What a task spent in a phase, each time.", "phase", _PHASE_SECONDS)
        self._connected = seconds("connection", "First connections of tasks, with the login.", "result", _PHASE_SECONDS)
        self._proved = seconds("proof", "Proofs, each over a connection of its own.", "result", _PHASE_SECONDS)
        self._lag = seconds("loop_lag", "How much later than asked the event loop came back.", None, _LAG_SECONDS)

    def ended(self, operation: str, status: str, cause: str | None, waited: float, took: float) -> None:
        operation = _of(operation, get_args(Operation))
        self._ended.labels(operation, _of(status, get_args(Status))).inc()
        if status == "failed":
            self._failed.labels(_of(cause, CAUSES)).inc()
        self._took.labels(operation).observe(took)
        self._waited.observe(max(0.0, waited))

    def phase(self, phase: str, took: float) -> None:
        self._phase.labels(_of(phase, get_args(Phase))).observe(took)

    def connected(self, result: str, took: float) -> None:
        self._connected.labels(_of(result, ("let_in", *CAUSES))).observe(took)

    def proved(self, result: str, took: float) -> None:
        self._proved.labels(_of(result, (*PROOFS, *CAUSES))).observe(took)

    async def watch_loop(self) -> None:
        """Measure, ever again, how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._lag.observe(max(0.0, loop.time() - due))


class Metrics:
    """All that is told of a controller."""

    def __init__(self, store: Store, database: Path | None, running: Callable[[], int], executor: Executor | None = None) -> None:
        """running: how many tasks this process runs."""
        self.readiness: Readiness | None = None
        self.registry = CollectorRegistry()
        self.measured = Measured(self.registry)
        self._store = store
        self._database = database
        self._running = running
        self._executor = executor
        self._figures: Figures | None = None
        self._counting: asyncio.Task[None] | None = None
        self._count_again_at = 0.0
        self._ready: dict[str, bool] = {}
        ProcessCollector(registry=self.registry)
        self.registry.register(self)

    async def exposed(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics and their content type: the text format of Prometheus, or OpenMetrics where Accept asks for it.

        Where the database cannot be read the rest is told all the same; kps_ready says what is lacking.
        """
        if self.readiness is not None:
            report = await self.readiness.report()
            self._ready = {name: found == OK for name, found in report.checks.items()}
        loop = asyncio.get_running_loop()
        if self._counting is None or (self._counting.done() and loop.time() >= self._count_again_at):
            self._counting = loop.create_task(self._count())
        await asyncio.shield(self._counting)
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    async def _count(self) -> None:
        began = time.monotonic()
        try:
            self._figures = await off_loop(self._executor, self._store.figures)
        except Problem:
            self._figures = None
        took = time.monotonic() - began
        self._count_again_at = asyncio.get_running_loop().time() + max(KEPT_SECONDS, LEAST_REST * took)

    def collect(self) -> Iterator[Metric]:
        """Tell what was found last (the registry asks for it)."""
        yield _labelled("kps_build", "The version that runs.", "version", {version("kps-fleet"): 1}, suffix="_info")
        yield _labelled(
            "kps_ready", "Whether a check of /fleet/v1/ready is ok.", "check", {k: int(v) for k, v in self._ready.items()}
        )
        yield GaugeMetricFamily("kps_tasks_in_process", "Tasks that this process runs now.", self._running())
        yield self._certificate()
        yield _labelled("kps_store_bytes", "Size of the database's files.", "file", self._sizes())
        if self._figures is not None:
            yield from _told(self._figures)

    def _certificate(self) -> Metric:
        told = GaugeMetricFamily(
            "kps_certificate_expires_timestamp_seconds", "When the certificate ends that is shown on the network."
        )
        shown = None if self.readiness is None else self.readiness.certificate
        if shown is not None:
            with contextlib.suppress(Problem):  # readiness tells
                told.add_metric([], certificate.show(shown).ends_at.timestamp())
        return told

    def _sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        if self._database is None:
            return found
        for name, path in {"database": self._database, "wal": self._database.with_name(self._database.name + "-wal")}.items():
            try:
                found[name] = path.stat().st_size
            except OSError:
                continue
        return found


def _told(figures: Figures) -> Iterator[Metric]:
    now = figures.at
    yield _labelled("kps_tasks", "Tasks on record.", "status", _all(figures.tasks, get_args(Status)))
    causes: dict[str, int] = {}
    for cause, count in figures.failed.items():
        word = _of(cause, CAUSES)
        causes[word] = causes.get(word, 0) + count
    # Those of which there are none too: a series that begins with its first failures has not grown.
    yield _labelled("kps_tasks_failed", "Failed tasks on record.", "cause", _all(causes, tuple(CAUSES)))
    oldest = 0.0 if figures.oldest_waiting is None else max(0.0, (now - figures.oldest_waiting).total_seconds())
    yield GaugeMetricFamily("kps_tasks_waiting_oldest_seconds", "How long the oldest waiting task waits; 0: none does.", oldest)
    yield GaugeMetricFamily("kps_undo_open", "Running tasks that have begun to write and are not confirmed.", figures.undo_open)
    yield GaugeMetricFamily(
        "kps_tasks_in_doubt", "Ended tasks that have left a server unknown or partly changed.", figures.in_doubt
    )
    yield _labelled("kps_rollouts", "Rollouts on record.", "state", _all(figures.rollouts, get_args(RolloutState)))
    yield GaugeMetricFamily("kps_rollout_servers_held", "Servers that rollouts which are not over begin no more.", figures.held)
    yield GaugeMetricFamily("kps_servers", "Servers in the inventory.", figures.servers)
    yield _labelled("kps_bindings", "Key pairs on logins, by how that was proved.", "proof", _all(figures.bindings, PROOFS))
    custody = {"kept" if kept else "not_kept": count for kept, count in figures.keypairs.items()}
    yield _labelled(
        "kps_keypairs", "Key pairs, by whether the private half is in custody.", "custody", _all(custody, ("kept", "not_kept"))
    )
    yield _labelled("kps_keypairs_bound", "Key pairs that are on a login, by age.", "age", figures.bound_ages)
    age = 0.0 if figures.oldest_bound is None else max(0.0, (now - figures.oldest_bound).total_seconds())
    yield GaugeMetricFamily(
        "kps_keypairs_bound_oldest_seconds", "Age of the oldest key pair that is on a login; 0: none is.", age
    )
    keys = {f"{SOON_DAYS}d": figures.access_keys_soon, "0d": figures.access_keys_over}
    yield _labelled(
        "kps_access_keys_expiring", "Enabled access keys that end within so many days (0d: have ended).", "within", keys
    )
    yield GaugeMetricFamily("kps_doors_open", "Emergency doors that are, or may be, open.", figures.doors)
    yield GaugeMetricFamily(
        "kps_doors_unconfirmed", "Of these: whose servers did not say that they are closed.", figures.doors_in_doubt
    )
    yield CounterMetricFamily("kps_events", "Events ever written.", figures.events)
    yield from _shared(figures)


def _shared(figures: Figures) -> Iterator[Metric]:
    """What is told of controllers that share a database; of a home in a file no series."""
    heard = {each.name: each.heard for each in figures.workers}
    yield _labelled("kps_worker_heard_seconds", "How long ago a process that takes tasks was heard.", "worker", heard)
    tasks = {each.name: each.tasks for each in figures.workers}
    yield _labelled("kps_worker_tasks", "Tasks that it runs.", "worker", tasks)
    jobs = {queue: each.jobs for queue, each in figures.waiting.items()}
    yield _labelled("kps_queue_jobs", "Tasks in a queue that nobody has taken.", "queue", jobs)
    oldest = {queue: each.oldest for queue, each in figures.waiting.items()}
    yield _labelled("kps_queue_oldest_seconds", "How long the first of them has been there; 0: none is.", "queue", oldest)


def _labelled(name: str, told: str, label: str, values: Mapping[str, float], suffix: str = "") -> Metric:
    family = GaugeMetricFamily(name + suffix, told, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def _all(found: Mapping[str, int], words: tuple[str, ...]) -> dict[str, int]:
    """Return a number for each word: what is not there is 0, so that a rule can compare it."""
    told = dict.fromkeys(words, 0)
    for word, count in found.items():
        known = _of(word, words)
        told[known] = told.get(known, 0) + count
    return told


def _of(word: str | None, words: Container[str]) -> str:
    return word if word is not None and word in words else OTHER
