"""Emergency doors: password login comes back on for one login of a server, for minutes, and the server closes it by itself."""

import builtins
import ipaddress
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from controller.deposits import Deposits
from controller.doors import BEGUN_WITHIN, MAY_BE_OPEN, Door, DoorDoes, DoorOrder, DoorRule, DoorState, refuse_too_long
from controller.errors import Conflict, Invalid, NotFound, Problem
from controller.model import Caller, Credential, Server
from controller.service.doorapprovals import DoorApprovals
from controller.service.doorpasswords import DoorPasswords, Passwords
from controller.service.doorrules import DoorRules, refuse_others
from controller.service.doortasks import DoorTasks, Opens, given_for, nothing, task
from controller.service.roles import allow
from controller.service.secrets import Made
from controller.service.servers import LOGIN
from controller.service.tasks import Dispatch, given
from controller.service.worker import off_loop
from controller.store import Store

MOST_DOORS = 10_000  # of one order
MOST_REASON = 500
MOST_PASSWORDS = 1000
_PATTERN = frozenset("*?!,")  # of sshd's Match User, which would open more than one login

P = ParamSpec("P")
T = TypeVar("T")


class Emergency:
    """The doors of the caller's tenant; and, for whoever serves the home, what is due by those of all tenants."""

    def __init__(
        self,
        store: Store,
        dispatch: Dispatch,
        executor: Executor | None = None,
        deposits: Deposits | None = None,
        longest_hours: float = 4,
        rung: Callable[[], None] = lambda: None,
        passwords: Passwords | None = None,
    ) -> None:
        """deposits: as in Bindings. longest_hours: that a door may be open. rung: told when there is something to tell of.

        passwords: makes one-time passwords, and changes them again.
        """
        self._passwords = passwords
        self._made = DoorPasswords(store, passwords, executor)
        self._store = store
        self._tasks = DoorTasks(dispatch, executor, deposits)
        self._executor = executor
        self._rung = rung
        self.longest_seconds = int(longest_hours * 3600)
        self.rules = DoorRules(store, executor)
        self.approvals = DoorApprovals(store, self._tasks, executor, self.longest_seconds, rung)

    async def open(
        self,
        who: Caller,
        servers: Sequence[Server],
        *,
        reason: str,
        seconds: int,
        login: str | None = None,
        network: str | None = None,
        opens: Opens = nothing,
    ) -> tuple[builtins.list[DoorOrder], builtins.list[Door]]:
        """Open a door on each of the servers, ahead of everything that waits; returns the orders, and their doors.

        Where a rule says that a second user has to agree, the door is asked for in an order of its own, and opened once one has.
        login: else each server's own. network: in CIDR notation. A server whose login has a door
        already keeps that: Conflict(door_is_open) where all have. Invalid: reason_missing, door_too_long, door_too_short,
        login_is_pattern, login_unusable, network_unusable, no_servers, too_many_servers.
        """
        why, for_, from_ = self._meant(who, servers, reason, seconds, login, network)
        given_ = given_for(who, {each.id: each.name for each in servers}, opens)
        there = await self._off(self._store.doors, who.tenant_id, states=("asked", "opening", "open"))
        taken = {(each.server_id, each.login): each for each in there}
        free = [each for each in servers if (each.id, login or each.login) not in taken]
        if not free:
            raise _has_one(taken[servers[0].id, login or servers[0].login])
        held = await self.rules.of(who, free)
        _refuse_for_others(who, any(held.values()))
        orders, doors = [], [taken[each.id, login or each.login] for each in servers if each not in free]
        for needs_second in (False, True):
            some = [each for each in free if bool(held[each.id]) is needs_second]
            if some:
                order = self._order(who, "open", why, for_, [held[each.id] for each in some])
                made = [_door(order, each, login or each.login, from_, given("door-open", given_.get(each.id))) for each in some]
                orders.append(replace(order, doors=[each.id for each in made]))
                doors += await self._asked(who, orders[-1], made, given_)
        self._rung()
        return orders, doors

    async def open_by_password(
        self,
        who: Caller,
        servers: Sequence[Server],
        *,
        reason: str,
        seconds: int,
        login: str | None = None,
        network: str | None = None,
        opens: Opens = nothing,
    ) -> tuple[DoorOrder, builtins.list[Door], builtins.list[Made]]:
        """Order a door on each of the servers, and for each a one-time password, set by a task and kept; then begin().

        The passwords are to be shown to who asked, this once; they are changed once the door is over, however that came. All
        that open() refuses is refused before any is made, and so is a server that has a door (door_is_open) or where a second
        user has to agree: Conflict(password_before_approval). A door for which none could be made has failed, with its note;
        where none could for any, what hindered the first is raised. Works while the root key is away.
        """
        why, for_, from_ = self._meant(who, servers, reason, seconds, login, network)
        passwords = self._passwords
        if passwords is None:
            raise Invalid("option_unknown", "no passwords are made here")
        if len(servers) > MOST_PASSWORDS:
            raise Invalid("too_many_servers", f"at most {MOST_PASSWORDS} passwords at once, not {len(servers)}")
        given_ = given_for(who, {each.id: each.name for each in servers}, opens)
        held = await self.rules.of(who, servers)
        for server in servers:
            if found := held[server.id]:
                told = f"{server.name}: a second user has to agree here ({found[0].where}), and no password is set before that"
                raise Conflict("password_before_approval", f"{told}; ask without one", server=server.name)
        order = self._order(who, "open", why, for_, [])
        made = [_door(order, each, login or each.login, from_, given("door-open", given_.get(each.id))) for each in servers]
        doors = [replace(each, one_time=True, ask_at=order.created_at + BEGUN_WITHIN) for each in made]
        order = replace(order, doors=[each.id for each in doors])
        await self._off(self._store.add_doors, order, doors)  # refuses a server that has one
        self._rung()
        done: builtins.list[Made] = []
        hindered: Problem | None = None
        for door, server in zip(doors, servers, strict=True):
            try:
                done.append(await passwords.make_password(who, server, door.login, given_.get(server.id)))
            except Problem as problem:
                hindered = hindered or problem
                await self._off(self._store.drop_door, door, f"no password was made: {problem.message}", one_time=False)
        self._rung()
        if hindered is not None and not done:
            raise hindered
        return order, await self._off(self._store.doors, who.tenant_id, ids=order.doors), done

    async def begin(self, who: Caller, order_id: str, opens: Opens = nothing) -> tuple[DoorOrder, builtins.list[Door]]:
        """Open the doors whose one-time passwords are set by now; those of which none was set have failed.

        By whoever has ordered them. opens: the password is given with what opens the server today. Conflict: password_not_set (a
        task is setting one still), door_not_open (it was begun).
        """
        allow(who, "door.open")
        order, doors = await self._off(self._store.door_order, who.tenant_id, order_id)
        if order.user_id != who.user_id:
            raise NotFound("door_order_not_found", f"{order_id}: no order for doors of this id", order=order_id)
        waiting = [each for each in doors if each.unbegun]
        if not waiting:
            raise Conflict("door_not_open", f"order {order_id}: none of its doors waits to be begun", order=order_id)
        given_ = given_for(who, {each.server_id: each.server_name for each in waiting}, opens)
        states = await self._off(self._made.states, who.tenant_id, waiting)
        for door in (each for each in waiting if states[each.id] == "running"):
            told = "its one-time password is being set; wait until that task has ended"
            raise Conflict("password_not_set", f"{door.server_name}: {told}", door=door.id)
        for door in (each for each in waiting if states[each.id] != "done"):
            await self._off(self._store.drop_door, door, "no password was set; see its task", one_time=True)
        there = [each for each in waiting if states[each.id] == "done"]
        there = [replace(each, given=given("door-open", given_.get(each.server_id))) for each in there]
        tasks = [task(each, "door-open", who.user_id) for each in there]
        sealed = await self._tasks.sealed(tasks, given_)
        if there:
            await self._off(self._store.begin_doors, there, tasks, *self._tasks.holder, sealed)
            self._tasks.ring(tasks, given_)
        self._rung()
        return order, await self._off(self._store.doors, who.tenant_id, ids=order.doors)

    async def extend(
        self, who: Caller, ids: Collection[str], seconds: int, reason: str, opens: Opens = nothing
    ) -> tuple[builtins.list[DoorOrder], builtins.list[Door]]:
        """Have doors stay open for so long from now; returns the orders, and their doors. Where a rule says so, once agreed.

        Conflict(door_not_open). A door is never open for longer than the limit in all: door_too_long.
        """
        allow(who, "door.open")
        why, for_ = _reason(reason), self._seconds(seconds)
        doors = await self._those(who, ids)
        given_ = given_for(who, {each.server_id: each.server_name for each in doors}, opens)
        at = self._store.now()
        for door in doors:
            refuse_too_long(door, for_, self.longest_seconds, at)
        held = await self.rules.of(who, (await self._servers_of(doors)).values())
        _refuse_for_others(who, any(held.values()))
        orders, changed = [], []
        for needs_second in (False, True):
            # A server that left the inventory is under no rule; nothing gets there either.
            some = [each for each in doors if bool(held.get(each.server_id)) is needs_second]
            if some:
                under = [held.get(each.server_id, []) for each in some]
                order = replace(self._order(who, "extend", why, for_, under), doors=[each.id for each in some])
                tasks = [task(each, "door-extend", who.user_id, seconds=for_) for each in some] if order.state == "given" else []
                await self._off(self._store.extend_doors, order, some, tasks, *self._tasks.holder)
                if order.state == "given":
                    self._tasks.ring(tasks, given_)
                else:
                    self.approvals.hold(order, some, given_)
                orders.append(order)
                changed += [replace(each, closing_task_id=begun.id) for each, begun in zip(some, tasks, strict=False)] or some
        self._rung()
        return orders, changed

    async def close(self, who: Caller, ids: Collection[str], opens: Opens = nothing) -> builtins.list[Door]:
        """Close doors now; returns them. What nobody has agreed to yet is taken back. Conflict(door_not_open)."""
        allow(who, "door.close")
        doors = await self._those(who, ids)
        given_ = given_for(who, {each.server_id: each.server_name for each in doors}, opens)
        asked = [each for each in doors if each.state == "asked"]
        for order_id in {each.order_id for each in asked}:
            await self.approvals.take_back(who, order_id, [each for each in asked if each.order_id == order_id])
        for door in (each for each in doors if each.unbegun):
            await self._off(self._store.drop_door, door, "taken back before it was opened", one_time=True)
        there = [each for each in doors if each.state != "asked" and not each.unbegun]
        servers, at = await self._servers_of(there), self._store.now()
        for door in [each for each in there if each.server_id not in servers and each.deadline and each.deadline <= at]:
            there.remove(door)
            told = "its server is not in the inventory any more: it was to close it by itself, and nobody has seen that it did"
            await self._off(self._store.leave_door, door, told)
        tasks = [task(each, "door-close", who.user_id) for each in there]
        await self._made.change_with(there, given_)
        if there:
            given_up = await self._off(self._store.close_doors, there, tasks, *self._tasks.holder)
            self._tasks.called_off(given_up)
            self._tasks.ring([each for each, door in zip(tasks, there, strict=True) if door.task_id not in given_up], given_)
        self._rung()
        return await self._off(self._store.doors, who.tenant_id, ids=[each.id for each in doors])

    async def list(
        self,
        who: Caller,
        *,
        all: bool = False,
        server: str | None = None,
        ids: Collection[str] | None = None,
        after: str = "",
        limit: int | None = None,
    ) -> builtins.list[Door]:
        """Return doors, the newest first: of those after one of them, the first so many.

        Those that are, may be, or are to be open, or whose one-time passwords work still; all: the others too. server: on this
        one alone. ids: these, however they stand.
        """
        allow(who, "door.see")
        states: Collection[DoorState] | None = None if all or ids is not None else {"asked", *MAY_BE_OPEN}
        return await self._off(
            self._store.doors, who.tenant_id,
            states=states, or_password_works=True, server=server, ids=ids, after=after, limit=limit,
        )  # fmt: skip

    async def get(self, who: Caller, id: str) -> tuple[Door, DoorOrder]:
        """Return one door, and the order that asked for it."""
        allow(who, "door.see")
        door = await self._off(self._store.door, who.tenant_id, id)
        return door, (await self._off(self._store.door_order, who.tenant_id, door.order_id))[0]

    async def counted(self, who: Caller) -> tuple[int, int]:
        """Return how many doors are or may be open, and how many of these do not answer for it."""
        allow(who, "door.see")
        return await self._off(self._store.count_doors, who.tenant_id)

    # -- for whoever serves the home

    async def sweep(self) -> None:
        """End what nobody agreed to in time, and ask the servers of doors whose time is over whether they are closed."""
        await self.approvals.lapse()
        await self._made.sweep()
        due = await self._off(self._store.doors_to_ask)
        if not due:
            return
        for door in (each for each in due if each.unbegun):
            await self._off(self._store.drop_door, door, "nobody went on once its password was ordered", one_time=True)
        due = [each for each in due if not each.unbegun]
        servers = await self._servers_of(due)
        for door in (each for each in due if each.server_id not in servers):
            told = "its server is not in the inventory any more; nobody can ask it"
            await self._off(self._store.give_up_asking, door, f"not confirmed: {told}")
        there = [each for each in due if each.server_id in servers]
        tasks = [task(each, "door-status", each.user_id) for each in there]
        if there:
            await self._off(self._store.ask_doors, there, tasks, *self._tasks.holder)
            self._tasks.ring(tasks, {})
        self._rung()

    # -- steps

    async def _asked(
        self, who: Caller, order: DoorOrder, doors: Sequence[Door], given_: Mapping[str, Credential]
    ) -> builtins.list[Door]:
        """Keep an order with its doors, and begin what nobody else has to agree to. given_: by server id."""
        tasks = [task(each, "door-open", who.user_id) for each in doors]
        sealed = await self._tasks.sealed(tasks, given_)
        begun = tasks if order.state == "given" else []
        await self._off(self._store.add_doors, order, doors, begun, *self._tasks.holder, sealed)
        if begun:
            self._tasks.ring(begun, given_)
        else:
            self.approvals.hold(order, doors, given_)
        return list(doors)

    def _order(self, who: Caller, does: DoorDoes, reason: str, seconds: int, held: Sequence[Sequence[DoorRule]]) -> DoorOrder:
        """Return an order without its doors. held: the rules that each of these is under."""
        rules = sorted({(each.where, each.minutes) for some in held for each in some})
        at = self._store.now()
        until = at + timedelta(minutes=min(minutes for _, minutes in rules)) if rules else None
        return DoorOrder(
            id=str(uuid.uuid4()),
            tenant_id=who.tenant_id,
            user_id=who.user_id,
            does=does,
            reason=reason,
            seconds=seconds,
            doors=[],
            created_at=at,
            state="asked" if rules else "given",
            rules=[where for where, _ in rules],
            approve_until=until,
        )

    def _seconds(self, seconds: int) -> int:
        if seconds < 1:
            raise Invalid("door_too_short", f"{seconds} s; a door is open for 1 s at least")
        if seconds > self.longest_seconds:
            told = f"{seconds} s; a door is open for {self.longest_seconds} s at most (KPS_DOOR_HOURS)"
            raise Invalid("door_too_long", told, longest_seconds=self.longest_seconds)
        return seconds

    def _meant(
        self, who: Caller, servers: Sequence[Server], reason: str, seconds: int, login: str | None, network: str | None
    ) -> tuple[str, int, str | None]:
        """Return why, for how many seconds and from where doors are to be open; refuses what cannot be meant."""
        allow(who, "door.open")
        why, for_, from_ = _reason(reason), self._seconds(seconds), _network(network)
        _check_login(login)
        if not servers:
            raise Invalid("no_servers", "name at least one server")
        if len(servers) > MOST_DOORS:
            raise Invalid("too_many_servers", f"at most {MOST_DOORS} doors with one order, not {len(servers)}; select fewer")
        refuse_others(who, servers)
        return why, for_, from_

    async def _those(self, who: Caller, ids: Collection[str]) -> builtins.list[Door]:
        if not ids:
            raise Invalid("no_doors", "name at least one door, or a server that has one")
        found = {each.id: each for each in await self._off(self._store.doors, who.tenant_id, ids=ids)}
        for missing in [each for each in ids if each not in found]:
            raise NotFound("door_not_found", f"{missing}: no door of this id", door=missing)
        return [found[each] for each in dict.fromkeys(ids)]

    async def _servers_of(self, doors: Sequence[Door]) -> dict[str, Server]:
        found: dict[str, Server] = {}
        for tenant_id in {each.tenant_id for each in doors}:
            wanted = {each.server_id for each in doors if each.tenant_id == tenant_id}
            found |= {each.id: each for each in await self._off(self._store.servers, tenant_id, called=wanted)}
        return found

    async def _off(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await off_loop(self._executor, verb, *args, **kwargs)


def _door(order: DoorOrder, server: Server, login: str, network: str | None, kinds: dict[str, Any]) -> Door:
    _check_login(login)
    return Door(
        id=uuid.uuid4().hex,
        tenant_id=order.tenant_id,
        user_id=order.user_id,
        server_id=server.id,
        server_name=server.name,
        login=login,
        order_id=order.id,
        reason=order.reason,
        network=network,
        seconds=order.seconds,
        created_at=order.created_at,
        task_id=str(uuid.uuid4()),
        state="asked" if order.state == "asked" else "opening",
        given=kinds,
    )


def _refuse_for_others(who: Caller, needs_second: bool) -> None:
    """NotAllowed(delegated_acts_for_others): whoever a delegated user asks for could be the second one who agrees."""
    if needs_second:
        allow(who, "door.approve", what="a door to which a second user has to agree")


def _has_one(held: Door) -> Conflict:
    told = f"{held.server_name}: a door for {held.login} is {held.state} already ({held.id}); extend it, or close it first"
    return Conflict("door_is_open", told, door=held.id)


def _reason(reason: str) -> str:
    told = " ".join(reason.split())
    if not told:
        raise Invalid("reason_missing", "say why: the reason is on record, and whoever is told of the door reads it")
    if len(told) > MOST_REASON:
        raise Invalid("reason_too_long", f"the reason has {len(told)} characters; at most {MOST_REASON}")
    return told


def _check_login(login: str | None) -> None:
    if login is None:
        return
    if _PATTERN & set(login):
        told = "sshd would take this for a pattern, and open the door for others too; name one login"
        raise Invalid("login_is_pattern", f"{login!r}: {told}")
    if not LOGIN.fullmatch(login):
        raise Invalid("login_unusable", f"{login!r}: this cannot be a login; use letters, digits, _ . @ + and -")


def _network(network: str | None) -> str | None:
    if network is None:
        return None
    try:
        return str(ipaddress.ip_network(network))
    except ValueError as error:
        raise Invalid("network_unusable", f"{network}: {error}; give an address or a network, as 203.0.113.0/24") from error
