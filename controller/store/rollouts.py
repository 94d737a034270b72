"""Rollouts: what was asked for, and which task each of their servers has come to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, select, update

from controller.errors import Conflict, NotFound
from controller.model import FINAL, EndedTask, Rollout, RolloutServer, RolloutState, RolloutTurn, SealedCredential, Task
from controller.store import engine, rows, tables
from controller.store.prepared import Prepared, columns
from controller.store.queries import one, some
from controller.store.tasks import Tasks

_LAST = ("status", "server_state", "cause", "finished_at")  # of a server's last task
_MEMBER = tables.rollout_servers
_BEGUN: Prepared[None] = Prepared(
    update(_MEMBER)
    .where(
        _MEMBER.c.rollout_id == bindparam("of"),
        _MEMBER.c.server_id == bindparam("on"),
        _MEMBER.c.task_id.is_not_distinct_from(bindparam("last")),
    )
    .values(task_id=bindparam("task"), tries=_MEMBER.c.tries + 1)
)
_ADD_SERVER: Prepared[None] = Prepared(_MEMBER.insert())
_STATE: Prepared[RolloutState] = Prepared(select(tables.rollouts.c.state).where(tables.rollouts.c.id == bindparam("of")))
_TURN = Prepared(select(*columns(tables.rollouts, RolloutTurn)).where(tables.rollouts.c.id == bindparam("of")), RolloutTurn)
_CHANGED: Prepared[None] = Prepared(
    update(tables.rollouts).where(tables.rollouts.c.id == bindparam("of")).values(changes=tables.rollouts.c.changes + 1)
)
# Nobody tells of what other processes run, so all that runs is asked for, ever again: by one statement, not by one for each.
_ENDED = select(*columns(tables.tasks, EndedTask)).where(
    tables.tasks.c.id.in_(bindparam("these", expanding=True)), tables.tasks.c.status.in_(FINAL)
)
_FEW = 8
_STANDS = Prepared(select(*columns(tables.tasks, EndedTask)).where(tables.tasks.c.id == bindparam("of")), EndedTask)
_IS_THERE: Prepared[str] = Prepared(select(tables.servers.c.id).where(tables.servers.c.id == bindparam("of")))
_OVER = ("cancelled", "finished")
_GONE = "it is not in the inventory any more"


class Rollouts(Tasks):
    """One order for many servers, and how far each of them is."""

    def add_rollout(
        self, rollout: Rollout, servers: Sequence[RolloutServer], credentials: Sequence[SealedCredential] = ()
    ) -> None:
        """Keep a new rollout with its servers, and the credentials that came for them; nothing of it is begun by that.

        Conflict(plan_begun): what planned it was begun by somebody before.
        """
        with engine.writing(self._engine) as connection:
            if rollout.plan_id is not None:
                _refuse_begun(connection, rollout.plan_id)
            self._add_rollout(connection, rollout, servers, credentials)

    def _add_rollout(
        self,
        connection: Connection,
        rollout: Rollout,
        servers: Sequence[RolloutServer],
        credentials: Sequence[SealedCredential] = (),
    ) -> None:
        connection.execute(tables.rollouts.insert().values(rows.row(rollout)))
        _ADD_SERVER.run_each(connection, map(rows.row, servers))
        self._keep_credentials(connection, credentials)
        told = {"strategy": rollout.strategy, "servers": rollout.servers} | _planning(rollout) | _kept_until(credentials)
        self._rollout_event(connection, rollout, "rollout_started", **told)

    def rollout(self, tenant_id: str, rollout_id: str) -> Rollout:
        """Return one rollout of a tenant."""
        with engine.reading(self._engine) as connection:
            return _rollout(connection, tenant_id, rollout_id)

    def begun_from(self, plan_id: str) -> str | None:
        """Return the id of the rollout that does what a plan has planned, and was not cancelled; None where there is none."""
        with engine.reading(self._engine) as connection:
            return _begun_from(connection, plan_id)

    def rollouts(self, tenant_id: str | None, states: Collection[RolloutState] | None = None) -> list[Rollout]:
        """Return the rollouts of a tenant, or (None) of all, the oldest first; only those in these states."""
        table = tables.rollouts
        query = select(table).order_by(table.c.created_at, table.c.id)
        if tenant_id is not None:
            query = query.where(table.c.tenant_id == tenant_id)
        if states is not None:
            query = query.where(table.c.state.in_(states))
        with engine.reading(self._engine) as connection:
            return [rows.rollout(found) for found in connection.execute(query).mappings()]

    def rollout_servers(self, rollout_id: str, after: int = -1, limit: int | None = None) -> list[RolloutServer]:
        """Return the servers of a rollout in their order, each with what its last task has come to.

        after, limit: of those after this position, so many.
        """
        member, task = tables.rollout_servers, tables.tasks
        joined = member.outerjoin(task, task.c.id == member.c.task_id)
        query = select(member, *(task.c[name] for name in _LAST)).select_from(joined).where(member.c.rollout_id == rollout_id)
        query = query.where(member.c.position > after).order_by(member.c.position).limit(limit)
        with engine.reading(self._engine) as connection:
            return [RolloutServer(**found) for found in connection.execute(query).mappings()]

    def rollout_turn(self, rollout_id: str, task_ids: Collection[str]) -> tuple[RolloutTurn | None, list[EndedTask]]:
        """Return where a rollout is, None where there is none, and what those of these tasks that have ended have come to."""
        with engine.reading(self._engine) as connection:
            if len(task_ids) > _FEW:
                ended = [EndedTask(*row) for lot in some(task_ids) for row in connection.execute(_ENDED, {"these": lot})]
            else:
                found = (_STANDS.first(connection, of=each) for each in task_ids)
                ended = [each for each in found if each and each.status in FINAL]
            return _TURN.first(connection, of=rollout_id), ended

    def rollout_step(
        self, rollout_id: str, begin: Sequence[Task], held: Mapping[str, str], holder: str, lease_seconds: float
    ) -> list[Task]:
        """Add tasks of a rollout, held by holder as in add_tasks, and put down which servers are not begun any more, and why.

        All or nothing; nothing, and no task is returned, where the rollout does not run (any more). Conflict(rollout_went_on)
        where the last task of a server is not the one of which this is a retry: another process has gone on with the rollout. A
        server that is not in the inventory any more is held instead.
        """
        of = tables.rollout_servers
        with engine.writing(self._engine) as connection:
            if _STATE.first(connection, of=rollout_id) != "running":
                return []
            until = self._now() + timedelta(seconds=lease_seconds)
            kept = []
            gone = {each.server_id for each in begin if _IS_THERE.first(connection, of=each.server_id) is None}
            held = dict.fromkeys(gone, _GONE) | dict(held)
            for task in (each for each in begin if each.server_id not in gone):
                if _BEGUN.run(connection, of=rollout_id, on=task.server_id, last=task.retry_of, task=task.id) != 1:
                    message = f"{task.server_name}: somebody else has gone on with rollout {rollout_id} there"
                    raise Conflict("rollout_went_on", message, rollout=rollout_id)
                kept.append(self._add_task(connection, replace(task, lease_owner=holder, lease_until=until)))
            for server_id, reason in held.items():
                where = (of.c.rollout_id == rollout_id) & (of.c.server_id == server_id)
                connection.execute(update(of).where(where).values(held=reason))
            return kept

    def rollout_given(
        self, tenant_id: str, rollout_id: str, given: Mapping[str, Any], credentials: Sequence[SealedCredential]
    ) -> None:
        """Put new credentials in the place of what a rollout had for these servers.

        given: by server id, what their tasks keep of it. Conflict(rollout_is_not) for a rollout that is over.
        """
        with engine.writing(self._engine) as connection:
            rollout = _rollout(connection, tenant_id, rollout_id)
            if rollout.state in _OVER:
                raise Conflict("rollout_is_not", f"rollout {rollout_id} is {rollout.state}", state=rollout.state)
            self._give(connection, rollout, given, credentials)

    def _give(
        self, connection: Connection, rollout: Rollout, given: Mapping[str, Any], credentials: Sequence[SealedCredential]
    ) -> None:
        of = tables.rollout_servers
        for server_id, kept in given.items():
            where = (of.c.rollout_id == rollout.id) & (of.c.server_id == server_id)
            connection.execute(update(of).where(where).values(given=kept))
        self._keep_credentials(connection, credentials)
        # Whoever gives them for all servers gives them for those too that need none any more.
        task, kept_ones = tables.tasks, tables.credentials
        done = select(of.c.server_id).join(task, task.c.id == of.c.task_id)
        done = done.where(of.c.rollout_id == rollout.id, task.c.status.in_(("succeeded", "unchanged")))
        self._erase(connection, kept_ones.c.owner_id == rollout.id, kept_ones.c.server_id.in_(done))
        if given:
            _CHANGED.run(connection, of=rollout.id)
            self._rollout_event(connection, rollout, "rollout_given", servers=len(given), **_kept_until(credentials))

    def rollout_again(
        self,
        tenant_id: str,
        rollout_id: str,
        cause: str | None,
        given: Mapping[str, Any] | None = None,
        credentials: Sequence[SealedCredential] = (),
        ended_by: datetime | None = None,
    ) -> int:
        """Have servers of a rollout begun once more whose last task failed, by one cause or (None) any; returns how many.

        ended_by: only those whose task had ended then.
        given, credentials: as rollout_given(). Conflict(rollout_is_not) for a rollout that was cancelled.
        """
        members, task = tables.rollout_servers, tables.tasks
        with engine.writing(self._engine) as connection:
            rollout = _rollout(connection, tenant_id, rollout_id)
            if rollout.state == "cancelled":
                raise Conflict("rollout_is_not", f"rollout {rollout_id} is cancelled; start another one", state=rollout.state)
            failed = select(task.c.id).where(task.c.rollout_id == rollout_id, task.c.status == "failed")
            if cause is not None:
                failed = failed.where(task.c.cause == cause)
            if ended_by is not None:
                failed = failed.where(task.c.finished_at <= ended_by)
            again = update(members).where(members.c.rollout_id == rollout_id, members.c.task_id.in_(failed))
            count = connection.execute(again.values(tries=0, forgiven=False)).rowcount
            if count:
                _CHANGED.run(connection, of=rollout_id)
                self._rollout_event(connection, rollout, "rollout_again", cause=cause, servers=count)
                self._give(connection, rollout, given or {}, credentials)
            return count

    def rollout_counts(self, rollout_id: str) -> list[tuple[str | None, str | None, str | None, str | None, int]]:
        """Return how many servers of a rollout are how far: status and cause of their last task, why held, label, how many."""
        member, task = tables.rollout_servers, tables.tasks
        by = (task.c.status, task.c.cause, member.c.held, member.c.label)
        # A server's task is one of the same rollout, so the index that counts them has all that is asked; and by the position
        # servers are read in the order in which they lie.
        joined = member.outerjoin(task, (task.c.rollout_id == member.c.rollout_id) & (task.c.id == member.c.task_id))
        ours = (member.c.rollout_id == rollout_id) & (member.c.position >= 0)
        query = select(*by, func.count()).select_from(joined).where(ours).group_by(*by)
        with engine.reading(self._engine) as connection:
            return [(status, cause, held, label, count) for status, cause, held, label, count in connection.execute(query)]

    def rollout_failures(self, rollout: Rollout) -> list[tuple[str, int, datetime]]:
        """Return of how many servers of a rollout the last task failed, by cause, and when the last of these ended."""
        member, task = tables.rollout_servers, tables.tasks
        # From the few that failed, by their own index, and not from all servers of the rollout.
        is_last = exists().where(member.c.task_id == task.c.id, member.c.rollout_id == rollout.id)
        query = select(task.c.cause, func.count(), func.max(task.c.finished_at))
        query = query.where(task.c.tenant_id == rollout.tenant_id, task.c.status == "failed", is_last).group_by(task.c.cause)
        with engine.reading(self._engine) as connection:
            return [(str(cause), count, last) for cause, count, last in connection.execute(query)]

    def rollout_tries(self, rollout_id: str) -> list[tuple[str, str, datetime, datetime | None]]:
        """Return the tasks of a rollout that were begun, in their order: server, status, when begun, when ended."""
        task = tables.tasks
        columns = (task.c.server_id, task.c.status, task.c.started_at, task.c.finished_at)
        query = select(*columns).where(task.c.rollout_id == rollout_id, task.c.started_at.is_not(None)).order_by(task.c.seq)
        with engine.reading(self._engine) as connection:
            return [(server, status, begun, ended) for server, status, begun, ended in connection.execute(query)]

    def change_rollout(
        self,
        tenant_id: str,
        rollout_id: str,
        state: RolloutState,
        reason: str,
        *,
        of: Collection[RolloutState],
        seen: int | None = None,
        go_on: bool = False,
        forgive: bool = False,
    ) -> Rollout:
        """Bring a rollout from one of some states into another. Conflict(rollout_is_not) where it is in none of these.

        seen: its changes as whoever drives it has read them; Conflict(rollout_went_on) where there were more since.
        go_on: what comes after the canary may begin. forgive: what has failed so far does not count against it any more, and
        what was held may be begun.
        """
        with engine.writing(self._engine) as connection:
            rollout = _rollout(connection, tenant_id, rollout_id)
            if seen is not None and rollout.state in of and rollout.changes != seen:
                message = f"rollout {rollout_id}: somebody has ordered something else meanwhile"
                raise Conflict("rollout_went_on", message, rollout=rollout_id)
            return self._change_rollout(connection, rollout, state, reason, of=of, go_on=go_on, forgive=forgive)

    def _change_rollout(
        self,
        connection: Connection,
        rollout: Rollout,
        state: RolloutState,
        reason: str,
        *,
        of: Collection[RolloutState],
        go_on: bool = False,
        forgive: bool = False,
    ) -> Rollout:
        table, members = tables.rollouts, tables.rollout_servers
        if rollout.state not in of:
            wanted = " or ".join(of)
            raise Conflict("rollout_is_not", f"rollout {rollout.id} is {rollout.state}, not {wanted}", state=rollout.state)
        changed = replace(
            rollout,
            state=state,
            reason=reason,
            go_on=rollout.go_on or go_on,
            finished_at=self._now() if state in _OVER else None,
            changes=rollout.changes + 1,
        )
        connection.execute(update(table).where(table.c.id == rollout.id).values(rows.row(changed)))
        if state in _OVER:
            self._erase_what_is_over(connection, rollout.id)
        if forgive:
            ours, task = members.c.rollout_id == rollout.id, tables.tasks
            failed = select(task.c.id).where(task.c.rollout_id == rollout.id, task.c.status == "failed")
            connection.execute(update(members).where(ours).values(held=None))
            connection.execute(update(members).where(ours, members.c.task_id.in_(failed)).values(forgiven=True))
        self._rollout_event(connection, changed, "rollout_changed", before=rollout.state, reason=reason)
        return changed

    def _erase_what_is_over(self, connection: Connection, rollout_id: str) -> None:
        """Erase the credentials of a rollout of which no task has yet to end; what is under way goes when that ends."""
        of, task = tables.rollout_servers, tables.tasks
        open_ = select(of.c.server_id).join(task, task.c.id == of.c.task_id)
        open_ = open_.where(of.c.rollout_id == rollout_id, task.c.status.not_in(FINAL))
        table = tables.credentials
        self._erase(connection, table.c.owner_id == rollout_id, table.c.server_id.not_in(open_))

    def _rollout_event(self, connection: Connection, rollout: Rollout, kind: str, **detail: object) -> None:
        told = {"rollout": rollout.id, "operation": rollout.operation, "state": rollout.state, **detail}
        keypair_id = rollout.request.get("keypair_id")
        self._event(connection, rollout.tenant_id, kind, told, keypair_id=keypair_id)


def _kept_until(credentials: Sequence[SealedCredential]) -> dict[str, Any]:
    """Return what an event says of credentials: how many are kept, and until when."""
    if not credentials:
        return {}
    return {"credentials": len(credentials), "credentials_until": max(each.expires_at for each in credentials).isoformat()}


def _planning(rollout: Rollout) -> dict[str, object]:
    """Return what the trail says of a rollout that plans, or that was planned."""
    return ({"plan": True} if rollout.plans else {}) | ({"plan_id": rollout.plan_id} if rollout.plan_id else {})


def _begun_from(connection: Connection, plan_id: str) -> str | None:
    table = tables.rollouts
    query = select(table.c.id).where(table.c.plan_id == plan_id, table.c.state != "cancelled").order_by(table.c.created_at)
    found: str | None = connection.execute(query.limit(1)).scalar()
    return found


def _refuse_begun(connection: Connection, plan_id: str) -> None:
    """Two rollouts of one plan know nothing of each other: of a canary that failed, of a quorum, of what was done already."""
    begun = _begun_from(connection, plan_id)
    if begun is not None:
        told = f"plan {plan_id} was begun before, as rollout {begun}: look there, or plan anew"
        raise Conflict("plan_begun", told, plan=plan_id, rollout=begun)


def _rollout(connection: Connection, tenant_id: str, rollout_id: str) -> Rollout:
    table = tables.rollouts
    found = one(connection, table, table.c.tenant_id == tenant_id, table.c.id == rollout_id)
    if found is None:
        raise NotFound("rollout_not_found", f"{rollout_id}: no rollout of this id", rollout=rollout_id)
    return rows.rollout(found)
