"""The machine that the controller stands on: random numbers, its clock, and how many files may be open."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from controller.admission import CONNECTIONS
from controller.service.doctor.finding import Finding, found, well
from controller.settings import Settings
from controller.store import Store

Clock = Callable[[], datetime]
DOUBT = timedelta(seconds=60)  # by which clocks are set every day
DISK_DOUBT = timedelta(seconds=5)
# Of a task: its rope, two proofs, a hop, and what it reads; besides: the database's, log, listeners, libraries.
FILES_OF_A_SERVER = 8
FILES_BESIDES = 64
USED_UP = 0.9


def entropy() -> Iterator[Finding]:
    """Give whether the kernel has random numbers, without waiting for any."""
    try:
        os.getrandom(32, os.GRND_NONBLOCK)
    except BlockingIOError:
        step = "wait until it has; on a virtual machine give it virtio-rng, or run rngd"
        yield found("entropy", "entropy_missing", "getrandom(2) would wait", step)
        return
    yield well("entropy", "getrandom(2) does not wait")


def clock(settings: Settings, store: Store | None, now: Clock, began: tuple[datetime, float] | None) -> Iterator[Finding]:
    """Give what is known of the clock: by the newest event, by disk and database server, and by the clock that only counts.

    began: when the process that serves began, by this clock and by boottime(); None: it is another.
    """
    step = "set the clock, and have something keep it: systemd-timesyncd, chrony"
    wrong = []
    at = now()
    newest = None if store is None else max((store.reach(each.id).at for each in store.tenants()), default=None)
    if newest is not None and newest > at + DOUBT:
        told = f"it says {at:%Y-%m-%d %H:%M:%S}Z, and the newest event is of {newest:%Y-%m-%d %H:%M:%S}Z"
        wrong.append(found("clock", "clock_behind", told, f"{step}; or if it is right now, and was ahead then, leave it"))
    if began is not None:
        jumped = (at - began[0]) - timedelta(seconds=boottime() - began[1])
        if abs(jumped) > DOUBT:
            told = f"by {jumped.total_seconds():+.0f} s since {began[0]:%Y-%m-%d %H:%M}Z"
            ended = "what ends at a time has ended sooner or later than was meant"
            wrong.append(found("clock", "clock_was_set", told, f"{step}; {ended}"))
    disk = disk_time(settings.home)
    if disk is not None and abs(disk - now()) > DISK_DOUBT:
        told = f"this machine says {now():%H:%M:%S}Z, the disk of {settings.home} {disk:%H:%M:%S}Z"
        wrong.append(found("clock", "clock_differs", told, f"{step}, here and where the disk is"))
    there = None if store is None else store.time_there()
    if there is not None and abs(there - now()) > DISK_DOUBT:
        told = f"this machine says {now():%H:%M:%S}Z, PostgreSQL {there:%H:%M:%S}Z"
        wrong.append(found("clock", "clock_differs", told, f"{step}, here and where PostgreSQL runs"))
    asked = (("the newest event", newest), ("the disk", disk), ("PostgreSQL", there), ("its own start", began))
    compared = [word for word, seen in asked if seen]
    yield from wrong or [
        well("clock", f"{at:%Y-%m-%d %H:%M:%S}Z; nothing against it in {', '.join(compared) or 'what is known'}")
    ]


def boottime() -> float:
    """Return seconds since the machine was started, those in which it slept too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def disk_time(directory: Path) -> datetime | None:
    """Return the time that the disk gives what is written to it now; None where it cannot be had without leaving a file."""
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        os.write(descriptor, b"x")
        return datetime.fromtimestamp(os.fstat(descriptor).st_mtime, UTC)
    finally:
        os.close(descriptor)


def open_files(settings: Settings, serves: bool) -> Iterator[Finding]:
    """Give whether as many files may be open as serve needs. serves: this process does; else what is started from here could."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + FILES_OF_A_SERVER * settings.concurrency + FILES_BESIDES
    whose = "the controller" if serves else "what is started from here"
    step = (
        f"LimitNOFILE={needed} in its unit, or ulimit -n {needed} before it (up to {most} are allowed); or less KPS_CONCURRENCY"
    )
    used = len(os.listdir("/proc/self/fd")) if serves else 0
    told = f"{whose} may have {allowed} open" + (f", and has {used}" if serves else "")
    if used > USED_UP * allowed:
        yield found("open_files", "open_files_used_up", told, step)
    elif allowed < needed:
        told += f"; with {settings.concurrency} servers at a time it may need {needed}"
        yield found("open_files", "open_files_few", told, step)
    else:
        yield well("open_files", f"{told}; it may need {needed}")
