"""A home's database as a whole: copied while it is used, and begun anew from a copy."""

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, select, update

from controller.errors import Damaged, Unavailable
from controller.model import FINAL, KeyPair, Outcome, Sealed
from controller.stages import KeptSecret
from controller.store import engine, rows, schema, tables
from controller.store.passwords import told as told_of_secret
from controller.store.rollouts import Rollouts
from controller.store.tasks import INTERRUPTED
from controller.store.temporary import end_all

# A restored home goes on from numbers that no order of before has reached: its servers refuse older ones.
GENERATIONS = 1_000_000
PAGES_AT_ONCE = 512
KEYPAIRS_AT_ONCE = 500
COUNTED = ("tenants", "users", "servers", "keypairs", "secrets", "bindings", "tasks", "events")

BY_PG_DUMP = "PostgreSQL makes its own copies: pg_dump, and the home beside it (docs/postgresql.md)"

Told = Callable[[int, int], None]  # how much is done, of how much

_RESTORED = "this home was restored from a backup of a time when the task had not ended"
_RESTORED_PASSWORD = "this home was restored from a backup; its server may have another password by now: rotate it"  # noqa: S105
_RESTORED_ROLLOUT = "this home was restored from a backup; look at its servers, and resume"
_NEVER_BEGUN = Outcome("cancelled", "unknown", phase="queued", message=f"{_RESTORED}; it was given up, ask for it again")


class Copies(Rollouts):
    """The database as one thing."""

    def copy_to(self, path: Path, told: Told = lambda done, total: None) -> None:
        """Write a consistent copy to a new file of mode 0600, durably; others go on writing meanwhile. told: in pages.

        What was given to open servers with is not in it, nor in its free pages. Unavailable(backup_elsewhere) on PostgreSQL.
        """
        if self._path is None:
            raise Unavailable("backup_elsewhere", f"{self.place}: {BY_PG_DUMP}")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        # What is in the way is most likely the disk that is written to.
        with (
            engine.usable(path),
            closing(sqlite3.connect(self._path, isolation_level=None, timeout=engine.BUSY_SECONDS)) as source,
            closing(sqlite3.connect(path)) as copy,
        ):
            # One view from the first page to the last: else each change by another process would begin it anew.
            source.execute("BEGIN")
            source.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            source.backup(copy, pages=PAGES_AT_ONCE, progress=lambda _, left, total: told(total - left, total))
            _without_credentials(copy)
        with open(path, "rb") as written:
            os.fsync(written.fileno())

    def is_whole(self) -> None:
        """Damaged(backup_damaged) unless SQLite finds all pages and indexes as they must be, and nothing that acts by itself."""
        with engine.reading(self._engine) as connection:
            said = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            acts = "SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%'"
            foreign = connection.exec_driver_sql(acts).scalars().first()
        if said != "ok":
            raise Damaged("backup_damaged", f"the database in it is damaged ({said}); take another backup")
        if foreign is not None:
            # A trigger would do in our name, and on our events, what whoever planted it wants.
            raise Damaged("backup_damaged", f"the database in it has {foreign!r}, which kps never makes; take another backup")

    def is_current(self) -> bool:
        """Say whether it has this version's tables."""
        with engine.reading(self._engine) as connection:
            return schema.version(connection) == tables.VERSION

    def version(self) -> str | None:
        """Return the newest migration that it has seen; None where it has no tables of ours."""
        with engine.reading(self._engine) as connection:
            return schema.version(connection)

    def lacking(self) -> list[str]:
        """Return what is not there of this version's tables (TABLE) and columns (TABLE.COLUMN)."""
        with engine.reading(self._engine) as connection:
            found = inspect(connection).get_multi_columns(filter_names=list(tables.metadata.tables))
            return schema.lacking({(table, column["name"]) for (_, table), columns in found.items() for column in columns})

    def note_backup(self, tenant_id: str, user_id: str, with_root_key: bool) -> None:
        """Record that everything was copied out, and whether with what opens it."""
        with engine.writing(self._engine) as connection:
            self._event(connection, tenant_id, "home_backed_up", {"user_id": user_id, "with_root_key": with_root_key})

    def in_custody(self) -> Iterator[tuple[KeyPair, Sealed]]:
        """Give every key pair of every tenant whose private half is kept, with that."""
        table, after = tables.keypairs, ""
        while True:
            query = select(table).where(table.c.sealed.is_not(None), table.c.id > after).order_by(table.c.id)
            with engine.reading(self._engine) as connection:
                found = connection.execute(query.limit(KEYPAIRS_AT_ONCE)).mappings().all()
            yield from ((rows.keypair(row), Sealed(row["sealed"])) for row in found)
            if len(found) < KEYPAIRS_AT_ONCE:
                return
            after = found[-1]["id"]

    def begin_anew(self, tenant_id: str, detail: dict[str, Any]) -> list[str]:
        """Have a restored database go on: every server's generation is raised by GENERATIONS, and what had not ended is ended.

        So are temporary access keys and tokens: some of them may have been revoked since. What was given to open servers with is
        erased.
        Of a task that was running nobody knows how it left its server; who serves the home asks the server. Returns the ids
        of the tasks that were ended. detail: of the event home_restored.
        """
        with engine.writing(self._engine) as connection:
            raised = tables.servers.c.generation + GENERATIONS
            connection.execute(update(tables.servers).values(generation=raised))
            query = select(tables.tasks).where(tables.tasks.c.status.not_in(FINAL)).order_by(tables.tasks.c.seq)
            ended = []
            for found in connection.execute(query).mappings().all():
                task = rows.task(found)
                broken_off = replace(INTERRUPTED, phase=task.phase, message=f"{task.server_name}: {_RESTORED}")
                outcome = _NEVER_BEGUN if task.status == "ready" else broken_off
                ended.append(self._end(connection, task, outcome, "task_interrupted").id)
            for found in connection.execute(select(tables.rollouts).where(tables.rollouts.c.state == "running")).mappings().all():
                changed = replace(rows.rollout(found), state="paused", reason=_RESTORED_ROLLOUT)
                connection.execute(update(tables.rollouts).where(tables.rollouts.c.id == changed.id).values(rows.row(changed)))
                self._rollout_event(connection, changed, "rollout_changed", before="running", reason=changed.reason)
            self._erase(connection)
            policies = tables.policies
            for found in connection.execute(select(policies).where(policies.c.paused.is_(False))).mappings().all():
                connection.execute(update(policies).where(policies.c.id == found["id"]).values(paused=True))
                told_policy = {"policy": found["name"], "reason": _RESTORED_ROLLOUT}
                self._event(connection, found["tenant_id"], "policy_paused", told_policy)
            self._passwords_by_hand(connection)
            told = detail | {"generations_raised_by": GENERATIONS, "tasks_ended": ended} | end_all(connection)
            self._event(connection, tenant_id, "home_restored", told)
        return ended

    def secrets_in_custody(self) -> Iterator[tuple[KeptSecret, int, Sealed]]:
        """Give every version of every secret of every tenant that is sealed."""
        table, secrets, after = tables.secret_versions, tables.secrets, ("", 0)
        while True:
            later = (table.c.secret_id > after[0]) | ((table.c.secret_id == after[0]) & (table.c.version > after[1]))
            query = select(table.c.secret_id, table.c.version, table.c.sealed).where(table.c.sealed.is_not(None), later)
            with engine.reading(self._engine) as connection:
                found = connection.execute(query.order_by(table.c.secret_id, table.c.version).limit(KEYPAIRS_AT_ONCE)).all()
                ids = {each.secret_id for each in found}
                owners = connection.execute(select(secrets).where(secrets.c.id.in_(ids))).mappings()
                known = {each["id"]: rows.secret(each) for each in owners}
            yield from ((known[each.secret_id], each.version, Sealed(each.sealed)) for each in found)
            if len(found) < KEYPAIRS_AT_ONCE:
                return
            after = (found[-1].secret_id, found[-1].version)

    def _passwords_by_hand(self, connection: Connection) -> None:
        """Have no password rotated by itself in a restored home, and none taken for what its server has.

        Its servers may have been given newer ones since; and where it was restored beside the home that it is a copy of, that one
        would not know of what is set from here.
        """
        table, rotations = tables.secrets, tables.secret_rotations
        connection.execute(update(rotations).values(again_at=None))
        for found in connection.execute(select(table).where(table.c.kind == "password")).mappings().all():
            secret = rows.secret(found)
            changed = replace(secret, works=None, rotates_every=None, rotated_for=None, rotates_at=None)
            if changed != secret:
                connection.execute(update(table).where(table.c.id == secret.id).values(rows.row(changed)))
                told = told_of_secret(changed) | {"rotates_every": None, "reason": _RESTORED_PASSWORD}
                self._event(connection, secret.tenant_id, "secret_changed", told)


def _without_credentials(copy: sqlite3.Connection) -> None:
    """Erase from a copy what outlives no order: whoever begins anew from it gives it anew (docs/decisions/0070)."""
    copy.execute("PRAGMA secure_delete = ON")
    if copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'credentials'").fetchone():
        with copy:
            copy.execute("DELETE FROM credentials")
        copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def counts(path: Path) -> dict[str, int]:
    """Return how much of what is in a database file, whatever its version; managed: key pairs with their private half."""
    with engine.usable(path), closing(sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True)) as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        wanted = [name for name in COUNTED if name in there]
        found = {name: int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in wanted}  # noqa: S608
        if "keypairs" in there:
            found["managed"] = int(connection.execute("SELECT count(*) FROM keypairs WHERE managed").fetchone()[0])
        return found


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
