"""Tasks: the truth about what was asked for, and how it ended."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, or_, select, text, update

from controller.causes import CAUSES, HEALS
from controller.doors import BEGUN_AT_LATEST, MAKES_OPEN, URGENT
from controller.errors import Conflict, NotFound
from controller.events import acting
from controller.model import (
    FINAL,
    SERVING,
    Binding,
    Operation,
    Outcome,
    SealedCredential,
    ServerNotes,
    ServerState,
    Task,
)
from controller.store import engine, rows, tables
from controller.store.bindings import Bindings
from controller.store.doubt import UNCLEAR, in_doubt, told
from controller.store.inventory import Inventory
from controller.store.passwords import Passwords
from controller.store.prepared import Prepared, columns
from controller.store.queries import of_server, one, some, task_where

INTERRUPTED = Outcome(
    status="failed",
    server_state="unknown",
    cause="interrupted",
    message="who ran this task was heard no more; the server undoes by itself what was not confirmed",
    handling=CAUSES["interrupted"].handling,
    retryable=CAUSES["interrupted"].retryable,
)
NEVER_BEGUN = replace(
    INTERRUPTED,
    server_state="as_before",
    phase="queued",
    message="who was to run this task ended before it was begun",
)
NOBODY_ASKS = Outcome(
    status="cancelled",
    server_state="as_before",
    phase="queued",
    message="whoever asked for it was deleted or disabled before it was begun",
    retryable=True,
)
_TOO_LATE = Outcome(
    status="cancelled",
    server_state="as_before",
    phase="queued",
    message="nobody has begun it within an hour of when it was asked for; ask anew where it is needed still",
)
_SERVER_GONE = Outcome(
    status="cancelled",
    server_state="as_before",
    phase="queued",
    message="its server is not in the inventory any more; nothing was done there",
)

# What somebody has said is meant all the same: in the trail from the start, and not in the task alone, which can be deleted.
CONSENTS = ("accept_lockout", "accept_unnamed_lockout", "accept_unproved", "take_over", "force", "revoke", "everywhere")

_TASK, _SERVER = tables.tasks, tables.servers
_THIS = _TASK.c.id == bindparam("of")
_CLAIMED = ("status", "phase", "server_state", "generation", "started_at", "lease_owner", "lease_until")
_ENDED = (
    "status", "server_state", "phase", "cause", "message", "evidence", "proofs", "handling", "retryable", "private",
    "finished_at", "lease_owner", "lease_until",
)  # fmt: skip
_COLUMNS = columns(_TASK, Task)
_ADD: Prepared[int] = Prepared(
    _TASK.insert().returning(_TASK.c.seq), sets=[each.name for each in _TASK.c if each is not _TASK.c.seq]
)
_CLAIM: Prepared[None] = Prepared(update(_TASK).where(_THIS), sets=_CLAIMED)
_END: Prepared[None] = Prepared(update(_TASK).where(_THIS), sets=_ENDED)
_DELETE = delete(_TASK).where(_THIS)
_OURS = (_THIS, _TASK.c.lease_owner == bindparam("by"), _TASK.c.status == "running")
_READY = Prepared(select(*_COLUMNS).where(_THIS, _TASK.c.status == "ready"), Task)
_RUNNING = Prepared(select(*_COLUMNS).where(*_OURS), Task)
_PROGRESS = Prepared(update(_TASK).where(*_OURS).returning(*_COLUMNS), Task, sets=["phase"])
# Whoever runs on a server, or whose lease there has run out.
_OTHERS_THERE: Prepared[int] = Prepared(
    select(_TASK.c.seq)
    .where(
        _TASK.c.server_id == bindparam("of"),
        _TASK.c.id != bindparam("but"),
        or_(_TASK.c.status == "running", _TASK.c.lease_until <= bindparam("at")),
    )
    .limit(1)
)
_RAISE_GENERATION: Prepared[int] = Prepared(
    update(_SERVER)
    .where(_SERVER.c.id == bindparam("of"), _SERVER.c.tenant_id == bindparam("tenant"))
    .values(generation=_SERVER.c.generation + 1)
    .returning(_SERVER.c.generation)
)
# The second condition follows from the third; as it is spelt there is an index for it. The first is an expression: by the column
# the database would go through all failed tasks.
_UNKNOWN = (
    select(*_COLUMNS)
    .where(_TASK.c.status.concat("") == "failed", text(UNCLEAR), _TASK.c.server_state == "unknown")
    .order_by(_TASK.c.seq + 0)  # by the number itself the database would go through the table in its order
)
_OTHER = _TASK.alias("other")
_BUSY = exists().where(_OTHER.c.server_id == _TASK.c.server_id, or_(_OTHER.c.status == "ready", _OTHER.c.status == "running"))
_UNSETTLED = Prepared(_UNKNOWN.where(~_BUSY), Task)
_UNSETTLED_THERE = Prepared(_UNKNOWN.where(_TASK.c.server_id == bindparam("of")), Task)
# What nobody knows for certain about a server, since the last task that has settled it.
_DOUBTFUL_THERE = Prepared(
    select(*_COLUMNS)
    .where(
        _TASK.c.server_id == bindparam("of"),
        text(UNCLEAR),
        _TASK.c.status.concat("") == "failed",
        _TASK.c.seq
        > select(func.coalesce(func.max(_OTHER.c.seq), 0))
        .where(_OTHER.c.server_id == bindparam("of"), _OTHER.c.status.concat("") == "succeeded")
        .scalar_subquery(),
    )
    .order_by((_TASK.c.seq + 0).desc()),
    Task,
)
# What goes ahead of all others of its tenant, and somebody holds: whoever was to run the rest is dead.
# Nothing is held up by doors longer than this: two hundred are begun in two minutes by a controller that has a busy machine.
_HELD_UP = timedelta(minutes=5)
# Whether a door is closed is asked all the same: that is how one that is open too long is found.
_NOT_HELD_UP = (*URGENT, "door-status")
_URGENT_WAITS: Prepared[int] = Prepared(
    select(_TASK.c.seq)
    .where(text(tables.URGENT_WAITS), _TASK.c.tenant_id == bindparam("tenant"), _TASK.c.lease_until > bindparam("at"))
    .where(_TASK.c.created_at > bindparam("since"))
    .limit(1)
)
_ROLLOUT_CHANGED = (
    update(tables.rollouts).where(tables.rollouts.c.id == bindparam("of")).values(changes=tables.rollouts.c.changes + 1)
)
_RETRY_OF: Prepared[str] = Prepared(select(_TASK.c.id).where(_TASK.c.retry_of == bindparam("of")))


class Tasks(Passwords, Bindings, Inventory):
    """What was asked for, who runs it, and how it ended."""

    def add_tasks(
        self,
        tasks: Sequence[Task],
        holder: str | None = None,
        lease_seconds: float = 0,
        credentials: Sequence[SealedCredential] = (),
    ) -> list[Task]:
        """Keep new tasks, all or none, with the credentials that came for them; returns them with their place in the order.

        holder: the process that renews their lease until they are begun; None: they wait as long as it takes.
        Conflict(task_retried) for a retry of a task that has been retried already.
        """
        expires = {(each.owner_id, each.server_id): each.expires_at.isoformat() for each in credentials}
        with engine.writing(self._engine) as connection:
            self._keep_credentials(connection, credentials)
            kept = []
            for task in tasks:
                at = expires.get((task.rollout_id or task.id, task.server_id))
                held = self._held(task, holder, lease_seconds)
                if task.rollout_id is not None:
                    connection.execute(_ROLLOUT_CHANGED, {"of": task.rollout_id})
                kept.append(self._add_task(connection, held, {"credential_until": at} if at else {}))
            return kept

    def _held(self, task: Task, holder: str | None, lease_seconds: float) -> Task:
        until = None if holder is None else self._now() + timedelta(seconds=lease_seconds)
        return replace(task, lease_owner=holder, lease_until=until)

    def _add_task(self, connection: Connection, task: Task, more: Mapping[str, Any] | None = None) -> Task:
        newer = None if task.retry_of is None else _RETRY_OF.first(connection, of=task.retry_of)
        if newer is not None:
            raise Conflict("task_retried", f"task {task.retry_of} was retried as {newer}; retry that one", task=newer)
        # By the clock of all: what is begun too late is seen by others than who was asked.
        task = replace(task, created_at=self._now())
        kept = replace(task, seq=_ADD.one(connection, **rows.row(task)))
        if task.rollout_id is not None and task.retry_of is not None:
            of = tables.rollout_servers
            connection.execute(update(of).where(of.c.task_id == task.retry_of).values(task_id=task.id))
        self._password_tried_again(connection, task)
        consents = {name: task.request[name] for name in CONSENTS if task.request.get(name)}
        detail = {"operation": task.operation, "server": task.server_name, "login": task.login} | consents
        self._task_event(connection, task, "task_ready", detail | dict(more or {}))
        return kept

    def claim(self, task_id: str, owner: str, lease_seconds: float) -> Task | None:
        """Take a ready task to run it, or return None: it is not ready, another task of its server runs, or an urgent one waits.

        An urgent one goes for five minutes ahead of all others of its tenant but what revokes a key, on whatever server.
        Raises the server's generation. A task of the server whose lease ran out is interrupted on the way. What makes a door
        stand open is given up where nobody has begun it for an hour: the controller was away, say. So is what is for a server
        that has left the inventory, and a new password by schedule for a login by which somebody may be about to get in.
        """
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            task = _READY.first(connection, of=task_id)
            if task is None:
                return None
            at = self._now()
            if task.operation in MAKES_OPEN and at - task.created_at > BEGUN_AT_LATEST:
                self._end(connection, task, _TOO_LATE, "task_cancelled")
                return None
            if (instead := self._password_stays(connection, task)) is not None:
                self._end(connection, task, instead, "task_cancelled")
                return None
            # A key in wrong hands is as urgent.
            held_up = task.operation not in _NOT_HELD_UP and not task.request.get("revoke")
            if held_up and _URGENT_WAITS.first(connection, tenant=task.tenant_id, at=at, since=at - _HELD_UP) is not None:
                return None
            if _OTHERS_THERE.first(connection, of=task.server_id, but=task_id, at=at) is not None:
                # What we run ourselves has run out only because nothing could be renewed, as while the store was away.
                others = or_(table.c.lease_owner.is_(None), table.c.lease_owner != owner)
                if not self.shared:  # else in the sweep: it may have been away for whoever runs it, too
                    self._interrupt(connection, at, of_server(task.server_id), table.c.id != task_id, others)
                if one(connection, table, of_server(task.server_id), table.c.status == "running"):
                    return None
            generation = _RAISE_GENERATION.first(connection, of=task.server_id, tenant=task.tenant_id)
            if generation is None:
                self._end(connection, task, _SERVER_GONE, "task_cancelled")
                return None
            claimed = replace(
                task,
                status="running",
                phase="connect",
                server_state="unknown",
                generation=generation,
                started_at=at,
                lease_owner=owner,
                lease_until=at + timedelta(seconds=lease_seconds),
            )
            _CLAIM.run(connection, of=task_id, **{name: getattr(claimed, name) for name in _CLAIMED})
            self._task_event(connection, claimed, "task_running", {"generation": generation})
            return claimed

    def renew(self, task_ids: Collection[str], owner: str, lease_seconds: float) -> set[str]:
        """Go on holding tasks, begun or not; returns which of them are still ours."""
        table = tables.tasks
        ours = (table.c.lease_owner == owner) & table.c.status.in_(("ready", "running"))
        held: set[str] = set()
        with engine.writing(self._engine) as connection:
            until = self._now() + timedelta(seconds=lease_seconds)  # from when it can be written: others may write for long
            goes_on = update(table).where(ours).values(lease_until=until).returning(table.c.id)
            for lot in some(task_ids):
                held.update(connection.execute(goes_on.where(table.c.id.in_(lot))).scalars())
        return held

    def progress(self, task_id: str, owner: str, phase: str, detail: dict[str, Any]) -> bool:
        """Say where a running task has come to; False when it is no longer ours."""
        with engine.writing(self._engine) as connection:
            task = _PROGRESS.first(connection, of=task_id, by=owner, phase=phase)
            if task is None:
                return False
            self._task_event(connection, task, "task_phase", detail, phase=phase)
            return True

    def finish(
        self,
        task_id: str,
        owner: str,
        generation: int,
        outcome: Outcome,
        *,
        binding: Binding | None = None,
        unbind: tuple[str, str] | None = None,
        notes: ServerNotes | None = None,
    ) -> bool:
        """End a task with what it changed, all or nothing; False, and nothing recorded, when it is no longer ours.

        unbind: server id and login.
        """
        if outcome.status not in FINAL:
            raise ValueError(f"{outcome.status} is not an end")
        with engine.writing(self._engine) as connection:
            task = _RUNNING.first(connection, of=task_id, by=owner)
            if task is None or task.generation != generation:
                return False
            self._record(connection, task, binding, unbind, notes)
            self._end(connection, task, outcome, "task_finished")
            return True

    def cancel(self, tenant_id: str, task_id: str, message: str) -> bool:
        """Give up a task of a tenant that nobody has begun; False when somebody has."""
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            task = task_where(connection, table.c.tenant_id == tenant_id, table.c.id == task_id)
            if task is None or task.status != "ready":
                return False
            outcome = Outcome("cancelled", "as_before", phase="queued", message=message, retryable=True)
            self._end(connection, task, outcome, "task_cancelled")
            return True

    def abandon(self, owner: str) -> list[Task]:
        """Let go of what a process holds and has not begun, because it ends itself; returns what is ended by that.

        What needs nobody's memory, for what it was given is kept, is handed on where who ends is a controller that serves its
        home: the next one adopts it.
        """
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            return self._let_go(connection, table.c.lease_owner == owner, table.c.status == "ready")

    def adopt(self, owner: str, lease_seconds: float, rollout_id: str | None = None) -> list[Task]:
        """Hold what was handed on and is held by nobody, from now on for owner; returns it, oldest first. Of one rollout, or all.

        Of whoever is no user any more, or is disabled, nothing is begun: that is cancelled.
        """
        table, users = tables.tasks, tables.users
        query = select(table).where(table.c.status == "ready", table.c.lease_owner.is_(None)).order_by(table.c.seq)
        if rollout_id is not None:
            query = query.where(table.c.rollout_id == rollout_id)
        with engine.writing(self._engine) as connection:
            until = self._now() + timedelta(seconds=lease_seconds)
            waiting = [rows.task(found) for found in connection.execute(query).mappings()]
            known = set(connection.execute(select(users.c.id).where(users.c.enabled)).scalars())
            held = []
            for task in waiting:
                if task.user_id in known:
                    held.append(replace(task, lease_owner=owner, lease_until=until))
                    self._save(connection, held[-1])
                else:
                    self._end(connection, task, NOBODY_ASKS, "task_cancelled")
            return held

    def settle(
        self,
        task_id: str,
        server_state: ServerState,
        *,
        binding: Binding | None = None,
        unbind: tuple[str, str] | None = None,
        notes: ServerNotes | None = None,
    ) -> bool:
        """Record how an ended task whose server's state was unknown has left it, with what that changes; False when it is known.

        What was partial may have been brought to its end since. unbind: server id and login.
        """
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            task = task_where(connection, table.c.id == task_id)
            if task is None or task.status not in FINAL or server_state == "unknown":
                return False
            if task.server_state != "unknown" and not (task.server_state == "partial" != server_state):
                return False
            connection.execute(update(table).where(table.c.id == task_id).values(server_state=server_state))
            self._record(connection, task, binding, unbind, notes)
            self._task_event(connection, task, "task_settled", {"server_state": server_state})
            if task.rollout_id is not None:
                connection.execute(_ROLLOUT_CHANGED, {"of": task.rollout_id})
            self._password_told(connection, replace(task, server_state=server_state))
            self._task_over(connection, replace(task, server_state=server_state))
            return True

    def _record(
        self,
        connection: Connection,
        task: Task,
        binding: Binding | None,
        unbind: tuple[str, str] | None,
        notes: ServerNotes | None,
    ) -> None:
        if unbind is not None:
            self._unbind(connection, *unbind, task.id)
        if binding is not None:
            self._bind(connection, binding)
        if notes:
            self._note(connection, task, notes)

    def unsettled(self, server_id: str | None = None) -> list[Task]:
        """Return the ended tasks of which nobody knows how they left their servers, oldest first: of one server, or (None) of
        all on which nobody works now."""
        with engine.reading(self._engine) as connection:
            if server_id is None:
                return _UNSETTLED.all(connection)
            return _UNSETTLED_THERE.all(connection, of=server_id)

    def doubtful_there(self, server_id: str) -> list[Task]:
        """Return the failed tasks of a server since the last one that has succeeded there of which it is not known for certain
        how they have left it (unknown, partial): the newest first."""
        with engine.reading(self._engine) as connection:
            return _DOUBTFUL_THERE.all(connection, of=server_id)

    def tasks(
        self,
        tenant_id: str | None,
        *,
        ids: Collection[str] | None = None,
        failed: bool = False,
        running: bool = False,
        server_id: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[Task]:
        """Return tasks, oldest first, of a tenant or (None) of all.

        running: not ended yet, whether begun or not. failed: and nobody has retried it. Both: either of them.
        after, limit: of those after this place in the order, so many.
        """
        table = tables.tasks
        query = select(table).where(table.c.seq > after, *_stands(failed, running))
        if tenant_id is not None:
            query = query.where(table.c.tenant_id == tenant_id)
        if ids is not None:
            query = query.where(table.c.id.in_(ids))
        if server_id is not None:
            query = query.where(table.c.server_id == server_id)
        with engine.reading(self._engine) as connection:
            return [rows.task(found) for found in connection.execute(query.order_by(table.c.seq).limit(limit)).mappings()]

    def counted_tasks(
        self,
        tenant_id: str,
        operations: Collection[str],
        *,
        failed: bool = False,
        running: bool = False,
        offset: int,
        limit: int,
    ) -> tuple[list[Task], int]:
        """Return so many tasks of these operations after the first few, oldest first, and how many there are in all.

        Both are of one moment. failed, running: as tasks().
        """
        table = tables.tasks
        which = [table.c.tenant_id == tenant_id, table.c.operation.in_(operations), *_stands(failed, running)]
        # By a sum, not by the number itself: the database would go through the table in its order, and read every task there is.
        # Which tasks these are stands in an index; only those that are shown are read.
        places = select(table.c.seq).where(*which).order_by(table.c.seq + 0).limit(limit).offset(offset)
        with engine.reading(self._engine) as connection:
            total = connection.execute(select(func.count()).select_from(table).where(*which)).scalar_one()
            page = select(table).where(table.c.seq.in_(places)).order_by(table.c.seq)
            return [rows.task(found) for found in connection.execute(page).mappings()], total

    def task(self, tenant_id: str, task_id: str) -> Task:
        """Return one task of a tenant."""
        with engine.reading(self._engine) as connection:
            task = task_where(connection, tables.tasks.c.tenant_id == tenant_id, tables.tasks.c.id == task_id)
        if task is None:
            raise NotFound("task_not_found", f"{task_id}: no task of this id", task=task_id)
        return task

    def delete_failed(
        self, tenant_id: str, ids: Collection[str] | None = None, *, operations: Collection[Operation] | None = None
    ) -> int:
        """Take failed tasks (these, or all; of some operations alone) off the list, all or none; returns how many.

        Their events stay.

        What one of these was a retry of goes with it. Conflict(task_not_failed) for a task that has not failed;
        Conflict(task_in_doubt) for one that is all that is known of a key which may be the only one that opens a login. Of all,
        such ones stay.
        """
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            query = select(table).where(table.c.tenant_id == tenant_id)
            query = query.where(table.c.status == "failed") if ids is None else query.where(table.c.id.in_(ids))
            query = query if operations is None else query.where(table.c.operation.in_(operations))
            found = [rows.task(row) for row in connection.execute(query).mappings()]
            for missing in set(ids or ()) - {task.id for task in found}:
                raise NotFound("task_not_found", f"{missing}: no task of this id", task=missing)
            for task in found:
                if task.status != "failed":
                    raise Conflict("task_not_failed", f"task {task.id} is {task.status}; only failed tasks are deleted")
            doubts = {task.id: task for task in in_doubt(connection, table.c.tenant_id == tenant_id)}
            gone: set[str] = set()
            for task in found:
                if task.id in gone:
                    continue  # with what was a retry of it
                line = _line(connection, task)
                doubtful = next((each for each in line if each.id in doubts), None)
                if doubtful is not None and ids is not None:
                    raise Conflict("task_in_doubt", f"{task.server_name}: {told(doubtful)}; then task {task.id} may go")
                if doubtful is not None:
                    continue
                for each in line:
                    connection.execute(_DELETE, {"of": each.id})
                    self._task_event(connection, each, "task_deleted", {"cause": each.cause})
                    gone.add(each.id)
            return len(gone)

    def interrupt_expired(self, dead: str | None = None, at: datetime | None = None) -> list[Task]:
        """End the tasks whose lease ran out, or which belong to a process whose name begins with dead. Returns them.

        at: leases that had run out by then; None: by when it can be done, which may be late, for others as for us.
        Of those that were begun nobody knows how they left their servers; the others never touched theirs, and are handed on as
        abandon() does.
        """
        table = tables.tasks
        with engine.writing(self._engine) as connection:
            ended = self._interrupt(connection, at or self._now())
            if dead is not None:
                ended += self._let_go(connection, table.c.lease_owner.startswith(dead, autoescape=True))
            return ended

    def _task_event(
        self, connection: Connection, task: Task, kind: str, detail: dict[str, Any], phase: str | None = None
    ) -> None:
        self._event(
            connection,
            task.tenant_id,
            kind,
            detail,
            # Whoever cancels or deletes it does so themselves; what goes on by itself is of who asked for the task.
            user_id=acting.get().user_id or task.user_id,
            task_id=task.id,
            server_id=task.server_id,
            keypair_id=task.request.get("keypair_id"),
            phase=phase or task.phase,
        )

    def _save(self, connection: Connection, task: Task) -> None:
        connection.execute(update(tables.tasks).where(tables.tasks.c.id == task.id).values(rows.row(task)))

    def _end(self, connection: Connection, task: Task, outcome: Outcome, kind: str) -> Task:
        ended = replace(
            task,
            status=outcome.status,
            server_state=outcome.server_state,
            phase=outcome.phase,
            cause=outcome.cause,
            message=outcome.message,
            evidence=outcome.evidence,
            proofs=outcome.proofs,
            handling=outcome.handling,
            retryable=outcome.retryable,
            private=task.private or outcome.private,
            finished_at=self._now(),
            lease_owner=None,
            lease_until=None,
        )
        _END.run(connection, of=task.id, **{name: getattr(ended, name) for name in _ENDED})
        if (ended.rollout_id or ended.request.get("given")) and not _tried_again(connection, ended):
            self._erase_of(connection, ended)
        detail: dict[str, Any] = {"status": ended.status, "server_state": ended.server_state, "cause": ended.cause}
        if outcome.files:
            detail["files"] = outcome.files
        # Events are for everybody in the tenant; the task itself tells whoever asked for it.
        self._task_event(connection, ended, kind, detail if ended.private else detail | {"message": ended.message})
        self._password_told(connection, ended)
        self._task_over(connection, ended)
        return ended

    def _task_over(self, connection: Connection, ended: Task) -> None:
        """What else changes with the end of a task, or once its server's state is known (controller/store/doors.py)."""

    def _interrupt(self, connection: Connection, at: datetime, *where: Any) -> list[Task]:
        # What has ended has no lease, nor has what nobody holds.
        return self._let_go(connection, tables.tasks.c.lease_until <= at, *where)

    def _let_go(self, connection: Connection, *where: Any) -> list[Task]:
        """End tasks that nobody runs any more, or hand them on; returns those that are ended."""
        table = tables.tasks
        query = select(table).where(*where)
        found = [rows.task(row) for row in connection.execute(query.order_by(table.c.seq)).mappings()]
        ended = []
        for task in found:
            if self._goes_on(connection, task):
                self._save(connection, replace(task, lease_owner=None, lease_until=None))
                self._task_event(connection, task, "task_handed_on", {})
            else:
                ended.append(self._end(connection, task, _interruption(task), "task_interrupted"))
        return ended

    def _goes_on(self, connection: Connection, task: Task) -> bool:
        """Whether the next controller can begin a task: nobody has, and what it was given did not end with the one that held it.

        A command that ran it in its own process is over with that.
        """
        served = task.lease_owner is not None and task.lease_owner.startswith(SERVING)
        if task.status != "ready" or not served:
            return False
        if task.operation == "reset" and task.request.get("set_password"):
            return False  # one that was told once, and not kept
        return not task.request.get("given") or self._is_kept(connection, task)


def _tried_again(connection: Connection, task: Task) -> bool:
    """Whether a rollout begins the server of a task that has ended once more, by itself (controller/rollout/endings)."""
    if task.rollout_id is None or task.status != "failed" or task.cause not in HEALS:
        return False
    rollout, of = tables.rollouts, tables.rollout_servers
    joined = select(rollout.c.state, rollout.c.strategy, of.c.tries).join(of, of.c.rollout_id == rollout.c.id)
    found = connection.execute(joined.where(rollout.c.id == task.rollout_id, of.c.server_id == task.server_id)).first()
    return found is not None and found.state not in ("cancelled", "finished") and found.tries < found.strategy["tries"]


def _stands(failed: bool, running: bool) -> list[ColumnElement[bool]]:
    """Return the condition that a task has failed and nobody has retried it, or has not ended, or (neither) none at all."""
    table = tables.tasks
    wanted: list[ColumnElement[bool]] = []
    if failed:
        again = table.alias("again")
        wanted.append((table.c.status == "failed") & ~exists().where(again.c.retry_of == table.c.id))
    if running:
        wanted.append(table.c.status.in_(("ready", "running")))
    return [or_(*wanted)] if wanted else []


def _interruption(task: Task) -> Outcome:
    # The phase it was in is part of what is known about it.
    ended = NEVER_BEGUN if task.status == "ready" else replace(INTERRUPTED, phase=task.phase)
    return replace(ended, message=f"{task.server_name}: {ended.message}")


def _line(connection: Connection, task: Task) -> list[Task]:
    """Return a task and what it was a retry of, as far as that is there."""
    line = []
    last: Task | None = task
    while last is not None:
        line.append(last)
        last = None if last.retry_of is None else task_where(connection, tables.tasks.c.id == last.retry_of)
    return line
