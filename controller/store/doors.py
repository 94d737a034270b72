"""Emergency doors: what was asked for and who agreed, how each door stands, and where a second user has to agree."""

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, or_, select, tuple_, update

from controller.doors import MAY_BE_OPEN, OVER, Door, DoorOrder, DoorRule, DoorState, after, refuse_too_long
from controller.errors import Conflict, NotAllowed, NotFound
from controller.events import acting
from controller.model import DOOR_OPERATIONS, Outcome, SealedCredential, Task
from controller.store import engine, rows, tables
from controller.store.queries import DOOR_MAY_BE_OPEN, one, task_where
from controller.store.tasks import Tasks

# What a door's coming into a state is called, in the events and in what alerts say.
_CAME: dict[DoorState, str] = {
    "opening": "door_ordered", "open": "door_opened", "closing": "door_closing", "closed": "door_closed",
    "failed": "door_failed",
}  # fmt: skip
# A door that could be opened twice at once.
_TAKEN: frozenset[DoorState] = frozenset({"asked", "opening", "open"})
_TAKEN_BACK = Outcome("cancelled", "as_before", phase="queued", message="taken back before it was opened")
_PASSWORD_WORKS = and_(tables.doors.c.state.in_(OVER), tables.doors.c.one_time)  # Door.password_works


class Doors(Tasks):
    """The doors of all tenants."""

    def add_doors(
        self,
        order: DoorOrder,
        doors: Sequence[Door],
        tasks: Sequence[Task] = (),
        holder: str | None = None,
        lease_seconds: float = 0,
        credentials: Sequence[SealedCredential] = (),
    ) -> None:
        """Keep an order with its new doors and, where nobody else has to agree, the tasks that open them: all or none.

        Conflict(door_is_open): one of these logins has a door already, or one is asked for. holder: as add_tasks().
        """
        with engine.writing(self._engine) as connection:
            for door in doors:
                self._refuse_taken(connection, door)
            connection.execute(tables.door_orders.insert().values(rows.row(order)))
            connection.execute(tables.doors.insert(), [rows.row(each) for each in doors])
            self._keep_credentials(connection, credentials)
            self._order_event(connection, order, doors, "door_asked")
            if order.state == "given":
                for door in doors:
                    self._door_event(connection, door, _CAME[door.state])
                self._add_held(connection, tasks, holder, lease_seconds)

    def extend_doors(
        self, order: DoorOrder, doors: Sequence[Door], tasks: Sequence[Task], holder: str, lease_seconds: float
    ) -> None:
        """Keep an order to have doors open longer and, where nobody else has to agree, its tasks: all or none.

        Conflict(door_not_open): one of them is not open any more.
        """
        with engine.writing(self._engine) as connection:
            for door in doors:
                _must_be(connection, door, {"open"})
            connection.execute(tables.door_orders.insert().values(rows.row(order)))
            self._order_event(connection, order, doors, "door_asked")
            if order.state == "given":
                self._add_held(connection, tasks, holder, lease_seconds)

    def decide_doors(
        self,
        tenant_id: str,
        order_id: str,
        user_id: str,
        *,
        agreed: bool,
        tasks: Sequence[Task] = (),
        holder: str | None = None,
        lease_seconds: float = 0,
        credentials: Sequence[SealedCredential] = (),
        longest_seconds: int | None = None,
    ) -> DoorOrder:
        """Record what a second user says to an order, and where they agree keep its tasks.

        longest_seconds: that a door may be open in all, looked at again for what is extended, as time went by since it was
        asked for. NotAllowed(approved_by_requester); Invalid(door_too_long); Conflict: door_order_decided (somebody has said
        already), approval_expired. Whoever asked may take it back, and that is a refusal.
        """
        with engine.writing(self._engine) as connection:
            order = _order(connection, tenant_id, order_id)
            at = self._now()
            expired = order.state == "asked" and order.approve_until is not None and at >= order.approve_until
            if expired or order.state == "lapsed":  # the same, before and after somebody looked for it
                raise Conflict("approval_expired", f"order {order.id}: nobody agreed in time; ask for it again", order=order.id)
            if order.state != "asked":
                raise Conflict("door_order_decided", f"order {order.id} is {order.state}; nothing is to be said to it any more")
            if agreed and order.user_id == user_id:
                told = "whoever asks for a door cannot be the second one who agrees; ask somebody else"
                raise NotAllowed("approved_by_requester", f"order {order.id}: {told}", order=order.id)
            decided = replace(order, state="approved" if agreed else "refused", decided_by=user_id, decided_at=at)
            self._keep_order(connection, decided)
            doors = _of_order(connection, decided)
            self._order_event(connection, decided, doors, "door_approved" if agreed else "door_refused")
            if not agreed:
                self._not_opened(connection, decided, doors, "refused")
                return decided
            meant = set(decided.doors)
            if decided.does == "extend":
                # What has closed meanwhile keeps nobody from the others.
                opened = [each for each in doors if each.state == "open"] or [_must_be(connection, doors[0], {"open"})]
                meant = {each.id for each in opened}
                for door in opened:
                    if longest_seconds is not None:
                        refuse_too_long(door, decided.seconds, longest_seconds, at)
            else:
                for door in doors:
                    self._keep_door(connection, door, replace(door, state="opening"))
                self._keep_credentials(connection, credentials)
            # What was taken back meanwhile is opened by nobody.
            still = [each for each in tasks if each.request.get("door_id") in meant]
            self._add_held(connection, still, holder, lease_seconds)
            return decided

    def close_doors(self, doors: Sequence[Door], tasks: Sequence[Task], holder: str, lease_seconds: float) -> list[str]:
        """Have doors closed from now on, by these tasks: all or none. Conflict(door_not_open): one is not, or not any more.

        Of one whose opening nobody has begun that is given up instead: it could come after the closing. Returns the ids of
        the tasks that were given up.
        """
        of = {task.request["door_id"]: task for task in tasks}
        given_up = []
        with engine.writing(self._engine) as connection:
            for door in doors:
                found = _must_be(connection, door, MAY_BE_OPEN)
                opens = task_where(connection, tables.tasks.c.id == found.task_id, tables.tasks.c.status == "ready")
                if found.state == "opening" and opens is not None:
                    self._end(connection, opens, _TAKEN_BACK, "task_cancelled")  # and so the door has failed
                    given_up.append(opens.id)
                    continue
                closing = of[door.id]
                self._keep_door(
                    connection, found, replace(found, state="closing", closing_task_id=closing.id, note="", ask_at=None)
                )
                self._add_held(connection, [closing], holder, lease_seconds)
        return given_up

    def begin_doors(
        self,
        doors: Sequence[Door],
        tasks: Sequence[Task],
        holder: str,
        lease_seconds: float,
        credentials: Sequence[SealedCredential] = (),
    ) -> None:
        """Keep the tasks that open doors whose passwords are set by now: all or none. Conflict(door_not_open): one was begun."""
        with engine.writing(self._engine) as connection:
            for door in doors:
                found = _must_be(connection, door, {"opening"})
                if not found.unbegun:
                    raise Conflict("door_not_open", f"{found.server_name}: the door is being opened already", door=found.id)
                self._keep_door(connection, found, replace(found, ask_at=None))
                self._door_event(connection, found, "door_begun")
            self._keep_credentials(connection, credentials)
            self._add_held(connection, tasks, holder, lease_seconds)

    def drop_door(self, door: Door, note: str, *, one_time: bool) -> None:
        """End a door that was not begun, and say why. one_time: the password for it may have come to the server."""
        with engine.writing(self._engine) as connection:
            found = _door(connection, door.tenant_id, door.id)
            if found.unbegun:
                ended = replace(found, state="failed", closed_at=self._now(), ask_at=None, note=note, one_time=one_time)
                self._keep_door(connection, found, ended)

    def ask_doors(self, doors: Sequence[Door], tasks: Sequence[Task], holder: str, lease_seconds: float) -> None:
        """Have servers asked, by a task for each door, whether that is closed; one whose time is over is closing from now on.

        Left out is a door to which something has come since it was read: others look too, and somebody may close it.
        """
        with engine.writing(self._engine) as connection:
            at = self._now()
            for door, task in zip(doors, tasks, strict=True):
                if _door(connection, door.tenant_id, door.id) != door:
                    continue
                over = door.state == "open" and door.deadline is not None and at >= door.deadline
                state: DoorState = "closing" if over else door.state
                self._keep_door(connection, door, replace(door, state=state, closing_task_id=task.id, ask_at=None))
                self._add_held(connection, [task], holder, lease_seconds)

    def give_up_asking(self, door: Door, note: str) -> None:
        """Record why nobody asks any more whether a door is closed: its server left the inventory, say. As ask_doors()."""
        with engine.writing(self._engine) as connection:
            if _door(connection, door.tenant_id, door.id) == door:
                self._keep_door(connection, door, replace(door, state="closing", ask_at=None, note=note))

    def leave_door(self, door: Door, note: str) -> None:
        """Record that a door is over though nobody has seen it closed, and why nobody ever will. As ask_doors()."""
        with engine.writing(self._engine) as connection:
            if _door(connection, door.tenant_id, door.id) == door:
                over = replace(door, state="closed", closed_by=None, closed_at=self._now(), ask_at=None, note=note)
                self._keep_door(connection, door, over)

    def take_back_doors(self, order_id: str, doors: Sequence[Door], user_id: str) -> None:
        """Take some doors out of an order to which nobody has agreed yet; the others go on waiting.

        Conflict(door_order_decided): it does not wait any more.
        """
        gone = {each.id for each in doors}
        with engine.writing(self._engine) as connection:
            order = _order(connection, doors[0].tenant_id, order_id)
            if order.state != "asked":
                raise Conflict("door_order_decided", f"order {order.id} is {order.state}; nothing is to be said to it any more")
            self._keep_order(connection, replace(order, doors=[each for each in order.doors if each not in gone]))
            some = [each for each in _of_order(connection, order) if each.id in gone]
            self._order_event(connection, replace(order, decided_by=user_id), some, "door_refused")
            self._not_opened(connection, order, some, "refused")

    def lapse_doors(self) -> list[str]:
        """End the orders to which nobody has agreed in time; returns their ids."""
        table, at = tables.door_orders, self._now()
        due = (table.c.state == "asked", table.c.approve_until <= at)
        with engine.reading(self._engine) as connection:
            if one(connection, table, *due) is None:
                return []
        with engine.writing(self._engine) as connection:
            found = [rows.door_order(row) for row in connection.execute(select(table).where(*due)).mappings()]
            for order in found:
                lapsed = replace(order, state="lapsed", decided_at=at)
                self._keep_order(connection, lapsed)
                doors = _of_order(connection, lapsed)
                self._order_event(connection, lapsed, doors, "door_lapsed")
                self._not_opened(connection, lapsed, doors, "lapsed")
            return [order.id for order in found]

    # -- to be read

    def doors(
        self,
        tenant_id: str | None,
        *,
        states: Collection[DoorState] | None = None,
        or_password_works: bool = False,
        server: str | None = None,
        ids: Collection[str] | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> list[Door]:
        """Return doors, the newest first: of a tenant or (None) of all, in these states, on this server, of these ids.

        or_password_works: and those that are over, and whose one-time passwords work still. after: a door's id; of those that
        come after it, the first so many. NotFound: there is none of this id.
        """
        table = tables.doors
        query = select(table).order_by(table.c.created_at.desc(), table.c.server_name, table.c.id)
        if tenant_id is not None:
            query = query.where(table.c.tenant_id == tenant_id)
        if states is not None:
            query = query.where(
                or_(table.c.state.in_(states), _PASSWORD_WORKS) if or_password_works else table.c.state.in_(states)
            )
        if server is not None:
            query = query.where(table.c.server_name == server)
        if ids is not None:
            query = query.where(table.c.id.in_(ids))
        with engine.reading(self._engine) as connection:
            if after:
                query = query.where(_comes_after(connection, tenant_id, after))
            return [rows.door(found) for found in connection.execute(query.limit(limit)).mappings()]

    def door(self, tenant_id: str, door_id: str) -> Door:
        """Return one door of a tenant."""
        with engine.reading(self._engine) as connection:
            return _door(connection, tenant_id, door_id)

    def doors_to_ask(self) -> list[Door]:
        """Return the doors, of all tenants, whose servers are to be asked by now whether they are closed."""
        table = tables.doors
        query = select(table).where(table.c.state.in_(MAY_BE_OPEN), table.c.ask_at <= self._now()).order_by(table.c.ask_at)
        with engine.reading(self._engine) as connection:
            return [rows.door(found) for found in connection.execute(query).mappings()]

    def doors_with_passwords(self) -> list[Door]:
        """Return the doors, of all tenants, that are over, and whose one-time passwords were not changed since."""
        table = tables.doors
        query = select(table).where(_PASSWORD_WORKS).order_by(table.c.closed_at)
        with engine.reading(self._engine) as connection:
            return [rows.door(found) for found in connection.execute(query).mappings()]

    def door_password_changed(self, door: Door) -> None:
        """Record that a door's one-time password works no more."""
        self._password_over(door, "door_password_changed", "")

    def door_password_left(self, door: Door, note: str) -> None:
        """Record that nobody can change a door's one-time password any more, and why."""
        self._password_over(door, "door_password_left", note)

    def door_password_changing(self, door: Door, rotation_id: str) -> None:
        """Record by which rotation a door's one-time password is changed; what comes of that is the rotation's to say."""
        with engine.writing(self._engine) as connection:
            connection.execute(update(tables.doors).where(tables.doors.c.id == door.id).values(rotation_id=rotation_id))

    def count_doors(self, tenant_id: str | None) -> tuple[int, int]:
        """Return how many doors of a tenant, or (None) of all, are or may be open, and how many of these do not answer for it."""
        table = tables.doors
        doubted = func.sum(case(((table.c.asks > 0) & (table.c.state == "closing"), 1), else_=0))
        query = select(func.count(), doubted).where(DOOR_MAY_BE_OPEN)
        if tenant_id is not None:
            query = query.where(table.c.tenant_id == tenant_id)
        with engine.reading(self._engine) as connection:
            number, doubtful = connection.execute(query).one()
            return number, int(doubtful or 0)

    def door_orders(self, tenant_id: str, *, ids: Collection[str] | None = None, asked: bool = False) -> list[DoorOrder]:
        """Return orders of a tenant, the newest first; asked: those to which somebody has to agree."""
        table = tables.door_orders
        query = select(table).where(table.c.tenant_id == tenant_id).order_by(table.c.created_at.desc(), table.c.id)
        if ids is not None:
            query = query.where(table.c.id.in_(ids))
        if asked:
            query = query.where(table.c.state == "asked")
        with engine.reading(self._engine) as connection:
            return [rows.door_order(found) for found in connection.execute(query).mappings()]

    def door_order(self, tenant_id: str, order_id: str) -> tuple[DoorOrder, list[Door]]:
        """Return one order of a tenant, and its doors."""
        with engine.reading(self._engine) as connection:
            order = _order(connection, tenant_id, order_id)
            return order, _of_order(connection, order)

    # -- where a second user has to agree

    def door_rules(self, tenant_id: str) -> list[DoorRule]:
        """Return the rules of a tenant, by label."""
        table = tables.door_rules
        query = select(table).where(table.c.tenant_id == tenant_id).order_by(table.c.label, table.c.value)
        with engine.reading(self._engine) as connection:
            return [rows.door_rule(found) for found in connection.execute(query).mappings()]

    def set_door_rule(self, rule: DoorRule) -> DoorRule:
        """Keep a rule, in the place of the one about the same servers."""
        with engine.writing(self._engine) as connection:
            connection.execute(_rule(delete(tables.door_rules), rule.tenant_id, rule.label, rule.value))
            kept = replace(rule, created_at=self._now())
            connection.execute(tables.door_rules.insert().values(rows.row(kept)))
            detail = {"servers": rule.where, "minutes": rule.minutes, "user_id": rule.user_id}
            self._event(connection, rule.tenant_id, "door_rule_set", detail)
            self._alert(connection, rule.tenant_id, "door_rule_set", detail)
            return kept

    def remove_door_rule(self, tenant_id: str, label: str, value: str, user_id: str) -> None:
        """Take a rule away. NotFound(door_rule_not_found). Orders that wait go on waiting."""
        with engine.writing(self._engine) as connection:
            if not connection.execute(_rule(delete(tables.door_rules), tenant_id, label, value)).rowcount:
                raise NotFound("door_rule_not_found", f"{label}={value}: no rule about these servers")
            detail = {"servers": f"{label}={value}", "user_id": user_id}
            self._event(connection, tenant_id, "door_rule_removed", detail)
            self._alert(connection, tenant_id, "door_rule_removed", detail)

    # -- steps inside a transaction

    def _task_over(self, connection: Connection, ended: Task) -> None:
        if ended.operation not in DOOR_OPERATIONS:
            return
        table = tables.doors
        row = one(connection, table, table.c.id == str(ended.request.get("door_id")), table.c.tenant_id == ended.tenant_id)
        if row is None:
            return
        door = rows.door(row)
        if door.server_id != ended.server_id or (door.confirmed and ended.operation != "door-open"):
            return  # it is over, whatever comes of a task that came later
        self._keep_door(connection, door, after(door, ended, self._now()))

    def _password_over(self, door: Door, kind: str, note: str) -> None:
        with engine.writing(self._engine) as connection:
            found = _door(connection, door.tenant_id, door.id)
            if not found.one_time:
                return
            ended = replace(found, one_time=False, rotation_id=None, note=note or found.note)
            connection.execute(update(tables.doors).where(tables.doors.c.id == door.id).values(rows.row(ended)))
            self._door_event(connection, ended, kind)

    def _keep_door(self, connection: Connection, before: Door, door: Door) -> None:
        """Keep a door as it is now, with an event where that is something new."""
        if door == before:
            return
        connection.execute(update(tables.doors).where(tables.doors.c.id == door.id).values(rows.row(door)))
        if door.state != before.state:
            if door.state in _CAME:
                self._door_event(connection, door, _CAME[door.state])
        elif door.state == "open" and door.deadline != before.deadline:
            self._door_event(connection, door, "door_extended")
        if door.asks > before.asks:
            self._door_event(connection, door, "door_unconfirmed")

    def _not_opened(self, connection: Connection, order: DoorOrder, doors: Sequence[Door], state: DoorState) -> None:
        """Take back what was to be opened, and what came for it."""
        if order.does != "open":
            return
        for door in doors:
            self._keep_door(connection, door, replace(door, state=state, closed_at=self._now()))
            self._erase(connection, tables.credentials.c.owner_id == door.task_id)

    def _add_held(self, connection: Connection, tasks: Sequence[Task], holder: str | None, lease_seconds: float) -> None:
        for task in tasks:
            self._add_task(connection, self._held(task, holder, lease_seconds))

    def _keep_order(self, connection: Connection, order: DoorOrder) -> None:
        connection.execute(update(tables.door_orders).where(tables.door_orders.c.id == order.id).values(rows.row(order)))

    def _refuse_taken(self, connection: Connection, door: Door) -> None:
        table = tables.doors
        there = (table.c.server_id == door.server_id, table.c.login == door.login, table.c.state.in_(_TAKEN))
        found = one(connection, table, *there)
        if found is not None:
            told = f"{door.server_name}: a door for {door.login} is {found['state']} already ({found['id']})"
            raise Conflict("door_is_open", f"{told}; extend it, or close it first", door=found["id"])

    def _order_event(self, connection: Connection, order: DoorOrder, doors: Sequence[Door], kind: str) -> None:
        detail = {
            "order_id": order.id,
            "does": order.does,
            "servers": [each.server_name for each in doors],
            "logins": sorted({each.login for each in doors}),
            "seconds": order.seconds,
            "reason": order.reason,
            "rules": order.rules,
            "approve_until": None if order.approve_until is None else order.approve_until.isoformat(),
            "requester": order.user_id,
        }
        by = order.decided_by or (None if order.state == "lapsed" else order.user_id)
        self._event(connection, order.tenant_id, kind, detail, user_id=by)
        self._alert(connection, order.tenant_id, kind, detail)

    def _door_event(self, connection: Connection, door: Door, kind: str) -> None:
        detail = {
            "door_id": door.id,
            "server": door.server_name,
            "login": door.login,
            "from": door.network,
            "seconds": door.seconds,
            "deadline": _iso(door.deadline),
            "reason": door.reason,
            **({"closed_by": door.closed_by} if door.state == "closed" else {}),
            **({"note": door.note} if door.note else {}),
        }
        by = acting.get().user_id
        # What goes on by itself is of who asked for it.
        self._event(connection, door.tenant_id, kind, detail, user_id=by or door.user_id, server_id=door.server_id)
        self._alert(connection, door.tenant_id, kind, detail)

    def _alert(self, connection: Connection, tenant_id: str, kind: str, detail: dict[str, Any]) -> None:
        """Have a tenant told of what happened, where it wants to be (controller/store/doorhooks.py)."""
        if one(connection, tables.door_hooks, tables.door_hooks.c.tenant_id == tenant_id) is None:
            return
        at, id = self._now(), str(uuid.uuid4())
        body = {"id": id, "event": kind, "at": at.isoformat(), "tenant_id": tenant_id, "user_id": acting.get().user_id} | detail
        told = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
        row = {"id": id, "tenant_id": tenant_id, "body": told, "created_at": at, "tries": 0, "next_at": at}
        connection.execute(tables.door_alerts.insert().values(row))


def _must_be(connection: Connection, door: Door, states: Collection[DoorState]) -> Door:
    found = _door(connection, door.tenant_id, door.id)
    if found.state not in states:
        raise Conflict("door_not_open", f"{found.server_name}: the door for {found.login} is {found.state}", door=found.id)
    return found


def _door(connection: Connection, tenant_id: str, door_id: str) -> Door:
    found = one(connection, tables.doors, tables.doors.c.tenant_id == tenant_id, tables.doors.c.id == door_id)
    if found is None:
        raise NotFound("door_not_found", f"{door_id}: no door of this id", door=door_id)
    return rows.door(found)


def _comes_after(connection: Connection, tenant_id: str | None, door_id: str) -> ColumnElement[bool]:
    """Return what is true of the doors that a list has after this one."""
    table = tables.doors
    found = one(connection, table, table.c.id == door_id, *([] if tenant_id is None else [table.c.tenant_id == tenant_id]))
    if found is None:
        raise NotFound("door_not_found", f"{door_id}: no door of this id", door=door_id)
    then, later = found["created_at"], tuple_(table.c.server_name, table.c.id) > tuple_(found["server_name"], found["id"])
    return or_(table.c.created_at < then, and_(table.c.created_at == then, later))


def _order(connection: Connection, tenant_id: str, order_id: str) -> DoorOrder:
    table = tables.door_orders
    found = one(connection, table, table.c.tenant_id == tenant_id, table.c.id == order_id)
    if found is None:
        raise NotFound("door_order_not_found", f"{order_id}: no order for doors of this id", order=order_id)
    return rows.door_order(found)


def _of_order(connection: Connection, order: DoorOrder) -> list[Door]:
    table = tables.doors
    query = select(table).where(table.c.tenant_id == order.tenant_id, table.c.id.in_(order.doors)).order_by(table.c.server_name)
    return [rows.door(found) for found in connection.execute(query).mappings()]


def _rule(statement: Any, tenant_id: str, label: str, value: str) -> Any:
    table = tables.door_rules
    return statement.where(table.c.tenant_id == tenant_id, table.c.label == label, table.c.value == value)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
