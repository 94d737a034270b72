"""Whether this controller can do its work now, and what it lacks."""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from controller.errors import Problem, Unavailable
from controller.service import certificate
from controller.service.stopping import Stopping
from controller.service.worker import off_loop
from controller.store import Store

OK = "ok"
LEAST_FREE_BYTES = 64 * 1024 * 1024  # the database and its journal need it to record how a task has ended
_KEPT_SECONDS = 2.0  # anybody may ask; looking is not free
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. checks: by name "ok" or a code; why: of the others, for whoever may know paths."""

    stopping: bool
    checks: dict[str, str]
    why: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """ready, not_ready or stopping."""
        if self.stopping:
            return "stopping"
        return "ready" if all(found == OK for found in self.checks.values()) else "not_ready"


class Readiness:
    """Looks at what the controller stands on."""

    def __init__(
        self,
        home: Path,
        store: Store,
        open_root: Callable[[], object],
        background: Sequence["asyncio.Task[None]"],
        stopping: Stopping,
        executor: Executor | None = None,
    ) -> None:
        """open_root: opens the root key, or does nothing where it is open. background: what must not end before all does."""
        self.certificate: Path | None = None  # that is shown on the network
        self._home = home
        self._store = store
        self._open_root = open_root
        self._background = background
        self._stopping = stopping
        self._executor = executor
        self._looking: asyncio.Task[Report] | None = None
        self._looked_at = 0.0

    async def report(self) -> Report:
        """Return what was found just now, or a moment ago."""
        loop = asyncio.get_running_loop()
        if self._looking is None or (self._looking.done() and loop.time() - self._looked_at > _KEPT_SECONDS):
            self._looking = loop.create_task(self._look())
        found = await asyncio.shield(self._looking)
        return Report(self._stopping.begun, found.checks, found.why, found.warnings)

    async def _look(self) -> Report:
        checks: dict[str, str] = {}
        why: dict[str, str] = {}
        looks: dict[str, Callable[[], object]] = {
            "database": self._store.can_write,
            "root_key": self._open_root,
            "disk": self._see_space,
        }
        for name, look in looks.items():
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await off_loop(self._executor, look)
                checks[name] = OK
            except TimeoutError:
                checks[name], why[name] = "no_answer", f"no answer within {_ANSWER_SECONDS:g} s"
            except Problem as problem:
                checks[name], why[name] = problem.code, problem.message
        checks["runner"] = "stopped" if any(each.done() for each in self._background) else OK
        self._looked_at = asyncio.get_running_loop().time()
        return Report(False, checks, why, self._warnings())

    def _see_space(self) -> None:
        try:
            found = os.statvfs(self._home)
        except OSError as error:
            raise Unavailable("home_unusable", f"{self._home}: {error.strerror}") from error
        free = found.f_bavail * found.f_frsize
        if free < LEAST_FREE_BYTES:
            raise Unavailable("disk_nearly_full", f"{self._home}: {free // 2**20} MiB are left on its disk; free some space")

    def _warnings(self) -> list[str]:
        told = None if self.certificate is None else certificate.warning(self.certificate)
        return [] if told is None else [told.code]
