"""What is on record: the database, the newest part of each tenant's trail, and when all of it was copied last."""

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controller import kps_audit_verify as verifier
from controller.errors import Problem
from controller.model import Event
from controller.service import trail
from controller.service.doctor.finding import Finding, found, refused, well
from controller.settings import Settings
from controller.store import Store, tables
from controller.store.chain import digest_of, event_message
from controller.store.events import Wanted
from controller.store.examined import Examined, examine

NEWEST = 1000  # events of each tenant
LARGE_WAL = 64 * 1024 * 1024  # bytes; it is taken into the database from 4 MiB on
BACKUP_DAYS = 7
BUSY_SECONDS = 5.0
_VERIFY = "kps audit verify; then compare with a checkpoint that was kept elsewhere"
_EVENT = ("tenant_id", "user_id", "task_id", "server_id", "keypair_id", "kind", "phase", "detail", "id", "number", "at")


def database(settings: Settings) -> tuple[list[Finding], bool]:
    """Return what is found of the database, and whether it is one that can be asked."""
    if not settings.in_file:
        return _on_postgresql(settings)
    try:
        seen = examine(settings.database, BUSY_SECONDS)
    except Problem as problem:
        return [refused("database", problem)], False
    wal = settings.database.with_name(f"{settings.database.name}-wal")
    held = wal.stat().st_size if wal.exists() else 0
    wrong = list(_wrong(settings, seen, held))
    size = settings.database.stat().st_size
    told = f"{settings.database}: {_size(size)}, whole, tables of version {seen.version}; write-ahead log {_size(held)}"
    return wrong or [well("database", told)], not (seen.damage or seen.foreign or seen.behind or seen.ahead or seen.lacking)


def _on_postgresql(settings: Settings) -> tuple[list[Finding], bool]:
    """Whether it answers, takes what is written, and has our tables: the rest PostgreSQL looks after by itself."""
    try:
        with contextlib.closing(Store(settings.database_url)) as store:
            store.can_write()
            version, place, lacking = store.version(), store.place, store.lacking()
    except Problem as problem:
        return [refused("database", problem)], False
    if version == tables.VERSION and lacking:
        step = "stop whoever works with it, find out who has taken that away, and restore the newest dump (pg_restore)"
        return [found("database", "store_incomplete", f"{place}: it lacks {_listed(lacking)}", step)], False
    if version == tables.VERSION:
        return [well("database", f"{place}: it answers and takes what is written, tables of version {version}")], True
    told = f"{place}: its tables are of version {version or 'none'}"
    if version is not None and version > tables.VERSION:
        return [found("database", "store_too_new", told, "use that newer kps")], False
    return [found("database", "store_old", told, "make a dump (pg_dump); then kps init, or any other command")], False


def _wrong(settings: Settings, seen: Examined, held: int) -> Iterator[Finding]:
    path = settings.database
    if seen.damage:
        step = "stop kps serve, keep this file, and restore the newest backup: kps restore FILE --home DIR"
        yield found("database", "store_damaged", f"{path}: {seen.damage}", step)
    if seen.foreign:
        step = "find out who has put it there; restore a backup from before: kps restore FILE --home DIR"
        yield found("database", "store_foreign", f"{path}: it has {seen.foreign!r}", step)
    if seen.ahead:
        yield found("database", "store_too_new", f"{path}: its tables are of version {seen.version}", "use that newer kps")
    elif seen.behind:
        told = f"{path}: its tables are of version {seen.version or 'none'}"
        yield found("database", "store_old", told, "make a backup with the kps that made it; then kps init, or any other command")
    elif seen.lacking:
        step = "stop kps serve, keep this file, and restore the newest backup: kps restore FILE --home DIR"
        yield found("database", "store_incomplete", f"{path}: it lacks {_listed(seen.lacking)}", step)
    if seen.busy:
        yield found("database", "store_busy", f"{path}: somebody writes to it for long", f"see who has it open: fuser -v {path}")
    if held > LARGE_WAL:
        told = f"{path}-wal: {_size(held)}"
        yield found("database", "wal_large", told, f"end who reads it for long (fuser -v {path}), or start kps serve anew")


def newest_events(store: Store) -> Iterator[Finding]:
    """Give what is found of the newest events of each tenant: each follows the one before it, and is signed."""
    wrong, seen = [], 0
    for tenant in store.tenants():
        number, troubles = _of_tenant(store, tenant.id)
        wrong += [found("trail", code, f"tenant {tenant.name}: {told}", _VERIFY) for code, told in troubles]
        seen += number
    yield from wrong or [well("trail", f"the newest {seen} events are as they were written; kps audit verify looks at all")]


def _of_tenant(store: Store, tenant_id: str) -> tuple[int, list[tuple[str, str]]]:
    """Return how many events were looked at, and by code what is wrong."""
    known = store.audit_key(tenant_id)
    # Asked for before what it ends: events come in meanwhile.
    end = store.reach(tenant_id)
    events = store.trail(tenant_id, Wanted(), before=end.number + 1, limit=NEWEST)[::-1]
    if known is None:
        return len(events), [("trail_unsigned", "it has no key that signs yet")]
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(known[0]))
    if end.signature is not None and not verifier.stated(key, "head", trail.reach(end)):
        return len(events), [("trail_wrong", f"nothing signed says that event {end.number} is the last one")]
    first = events[0].number if events else end.number + 1
    last = events[-1] if events else None
    if last is None or (last.number, last.digest) != (end.number, end.digest):
        return len(events), [("trail_wrong", f"event {end.number}, which is signed as the last one, is not there as it was")]
    if first == end.first and _digest(events[0], end.previous) != events[0].digest:
        return len(events), [("trail_wrong", f"event {first} is not the one that was written")]
    for before, event in pairwise(events):
        if event.number != before.number + 1 or _digest(event, before.digest) != event.digest:
            return len(events), [("trail_wrong", f"event {before.number + 1} is not the one that was written")]
    for event in events:
        if event.signature is not None and not verifier.holds(key, event.signature, event_message(event.digest)):
            return len(events), [("trail_wrong", f"event {event.number} is not signed with the tenant's key")]
    odd = [event.number for event in events if event.signature is None or event.kind == "head_unproved"]
    if odd:
        return len(events), [("trail_unsigned", f"{len(odd)} events, the first is event {odd[0]}")]
    if end.signature is None:
        return len(events), [("trail_unsigned", f"nothing signed says that event {end.number} is the last one")]
    return len(events), []


def _digest(event: Event, previous: str) -> str:
    whole = asdict(event)
    return digest_of({name: whole[name] for name in _EVENT}, previous)


def backups(store: Store, at: datetime) -> Iterator[Finding]:
    """Give when the home was backed up last, by what is on record."""
    owner = store.caller_by_local_home()
    made = store.trail(owner.tenant_id, Wanted(kinds=("home_backed_up",)), before=2**62, limit=1)
    step = "kps backup --out FILE, each night, and keep it on another machine"
    if not made:
        yield found("backup", "backup_missing", "the trail has none; one that was pruned from it is not seen", step)
        return
    age = at - made[0].at
    told = f"the newest was made at {made[0].at:%Y-%m-%d %H:%M}Z, {_days(age)} ago"
    if age > timedelta(days=BACKUP_DAYS):
        yield found("backup", "backup_old", told, step)
        return
    kept = "" if made[0].detail.get("with_root_key") else "; the root key is not in it"
    yield well("backup", told + kept)


def _days(age: timedelta) -> str:
    hours = max(0, int(age.total_seconds() // 3600))
    return f"{hours} h" if hours < 48 else f"{hours // 24} days"


def workers(store: Store, lease_seconds: float) -> Iterator[Finding]:
    """Give who takes the tasks of a database that several controllers share, and whether anybody does."""
    there, queues = store.taking()
    waiting = sum(each.jobs for each in queues.values())
    silent = [each for each in there if each.heard > lease_seconds]
    if waiting and len(silent) == len(there):
        told = (
            f"{waiting} {'waits' if waiting == 1 else 'wait'}, the first for {max(each.oldest for each in queues.values()):.0f} s"
        )
        step = "start kps worker; or have kps serve take tasks as well, without KPS_SERVE_TAKES_TASKS=false"
        yield found("workers", "nobody_takes_tasks", told, step)
    for each in silent:
        step = "see whether its process and its machine go on, or end it; others take what it has not begun"
        yield found("workers", "worker_silent", f"{each.name}: not heard for {each.heard:.0f} s", step)
    if not silent and (there or not waiting):
        told = _listed([f"{each.name} ({each.tasks} run)" for each in there])
        yield well("workers", f"{told or 'nobody takes tasks'}; {waiting} wait")


def _listed(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _size(number: int) -> str:
    return f"{number // 1024} KiB" if number < 10 * 2**20 else f"{number // 2**20} MiB"
