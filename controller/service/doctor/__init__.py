"""The doctor of the controller itself: what it stands on, looked at without changing anything. Of a server: kpsagent.doctor."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controller.kms.root import LaterRootKey
from controller.model import Caller, now
from controller.service import certificate
from controller.service.doctor import files, keys, machine, records
from controller.service.doctor.finding import CODES, Finding, found, unseen, well, worst
from controller.service.doctor.machine import Clock, boottime
from controller.service.readiness import Readiness
from controller.service.roles import may_name_places
from controller.settings import Settings
from controller.store import Store

__all__ = ["CODES", "Doctor", "Finding", "Process", "look", "told"]

SHOWN_SECONDS = 5.0  # for the controller's own port to show its certificate


@dataclass(slots=True)
class Process:
    """What only the process that serves knows of itself. url, certificate: on the network; roots: the root keys that it uses."""

    roots: Sequence[LaterRootKey]
    url: str | None = None
    certificate: Path | None = None
    began: tuple[datetime, float] = field(default_factory=lambda: (now(), boottime()))


def look(settings: Settings, process: Process | None = None, clock: Clock = now) -> list[Finding]:
    """Return what is found of a home and of this machine; process: where this one serves it.

    Blocks for as long as the disk, and whoever holds the root key, take to answer. Raises nothing for what is wrong.
    """
    if unusable := files.unusable(settings):
        return unusable
    known, usable = records.database(settings)
    has_random = list(machine.entropy())
    findings = [*files.look(settings), *files.disk(settings), *known]
    with _store(settings, usable) as store:
        findings += has_random
        if all(each.level == "ok" for each in has_random):
            findings += keys.root_key(settings, store, process.roots if process else None)
        else:
            findings.append(unseen("root_key", "it is tried with random numbers"))
        findings += machine.clock(settings, store, clock, process.began if process else None)
        if store is None:
            findings += [unseen(about, "the database cannot be asked") for about in ("trail", "backup")]
        else:
            findings += records.newest_events(store)
            # When PostgreSQL was copied last is not on record here.
            elsewhere = "PostgreSQL's own (pg_dump), with the home beside it; when that was done last is not seen from here"
            findings += records.backups(store, clock()) if settings.in_file else [well("backup", elsewhere)]
            if not settings.in_file:
                findings += records.workers(store, settings.lease_seconds)
    findings += machine.open_files(settings, process is not None)
    return findings + _certificate(settings, process, clock())


@contextlib.contextmanager
def _store(settings: Settings, usable: bool) -> Iterator[Store | None]:
    if not usable:
        yield None
        return
    store = Store(settings.database_url)
    try:
        yield store
    finally:
        store.close()


def _certificate(settings: Settings, process: Process | None, at: datetime) -> list[Finding]:
    path = settings.certificate if process is None or process.certificate is None else process.certificate
    findings = list(keys.certificates(path, settings.certificate_key if path == settings.certificate else None, at))
    if process is None or process.certificate is None or process.url is None or findings[0].level == "error":
        return findings
    lies, shown = certificate.show(path).fingerprint, _shown(process.url)
    if shown is not None and shown != lies:
        step = "give the new one to the clients, then have it taken up: systemctl reload kps (SIGHUP)"
        seen = f"{path}: {lies[:23]}..., shown is {shown[:23]}..."
        findings.append(found("certificate", "certificate_not_taken_up", seen, step))
    return findings


def _shown(url: str) -> str | None:
    """Return the fingerprint of the certificate that is shown there; None where none is, and that is for others to tell."""
    parts = urlsplit(url)
    # Whoever listens on every address is reached on this machine's own.
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname or "", parts.hostname or "")  # noqa: S104
    try:
        pem = ssl.get_server_certificate((here, parts.port or 443), timeout=SHOWN_SECONDS)
    except (OSError, ValueError):
        return None
    return certificate.fingerprint_of(pem)


class Doctor:
    """Looks at the controller from the process that serves it: one look at a time, whoever asks meanwhile gets the same."""

    def __init__(self, settings: Settings, process: Process, readiness: Readiness) -> None:
        self.process = process
        self.home = settings.home
        self._settings = settings
        self._readiness = readiness
        # Not the store's own: others would wait for it.
        self._thread = ThreadPoolExecutor(1, "doctor")
        self._looking: asyncio.Task[list[Finding]] | None = None

    def close(self) -> None:
        """Let go of the thread; a look under way is waited for."""
        self._thread.shutdown()

    async def findings(self, who: Caller) -> list[Finding]:
        """Return what is found. NotAllowed(only_at_home): the whole home is looked at, whoever's it is, and paths are told."""
        may_name_places(who, "what the doctor looks at")
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> list[Finding]:
        loop = asyncio.get_running_loop()
        seen = await loop.run_in_executor(self._thread, look, self._settings, self.process)
        ready = await self._readiness.report()
        if ready.checks.get("runner") == "stopped":
            seen.append(found("controller", "runner_stopped", "it no longer does what is due", "start kps serve anew"))
        else:
            where = f" and {self.process.url}" if self.process.url else ""
            seen.append(well("controller", f"serving on {self._settings.socket}{where}"))
        return seen


def told(findings: Sequence[Finding], home: Path, served: bool) -> dict[str, Any]:
    """Return findings as they are told to programs."""
    return {
        "home": str(home),
        "served": served,
        "status": worst(findings),
        "findings": [
            {"about": each.about, "status": each.level, "code": each.code, "seen": each.seen, "next_step": each.step}
            for each in findings
        ],
    }
