"""One task, top to bottom: prepare, get in, hand the plan to the agent, answer its questions, record how it ended."""

import asyncio
import contextlib
import contextvars
import gc
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import Executor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

from passlib.hash import sha512_crypt

from controller import addresses, causes, deposits, diagnosis, dossier, opening, order, passwords, seen
from controller.causes import CAUSES
from controller.commits import Commits, Patience
from controller.doorbyhand import by_hand
from controller.entrance import Entrance, Inside
from controller.errors import Conflict, Damaged, Problem, Unavailable
from controller.events import Actor, acting
from controller.keyfiles import certificate
from controller.keyfiles.signing import SigningKey
from controller.keysgiven import KeysGiven
from controller.kms import Kms
from controller.measures import UNMEASURED
from controller.model import (
    DOOR_OPERATIONS,
    Credential,
    KeyPair,
    Outcome,
    Secret,
    Server,
    ServerState,
    Task,
    now,
    route,
)
from controller.order import UNNAMED_LOCKOUT, Order, Way
from controller.passwords import SETS_PASSWORD
from controller.prover import Prover
from controller.record import Record, named
from controller.ruled import Ruled
from controller.settings import Settings
from controller.store import Store
from controller.transport import at_rest, proof, sshagent
from controller.transport.connect import NotConnected, Target, first_host_key
from controller.transport.frames import Ask, Reached, Result, plain, small
from controller.transport.jumps import Jump, Places, SharedPlaces
from controller.transport.offer import Held, Signer
from controller.transport.pace import Pace
from kpsagent.errors import Failed, Refused, Stop

T = TypeVar("T")
_SETTLE_SECONDS = 8.0
_PATIENCE_SECONDS = 300.0  # that a store which is away is waited for within a task
_SETTLE_APART_SECONDS = 0.02  # hundreds of servers that stay away, asked all at once, would hold up whoever looks at a page
_TIDY_SECONDS = 1.0
_LOOK_AGAIN_SECONDS = 20.0
# What a server's journal says of an operation that has ended, in our words.
_SERVER_STATES = {"reverted": "reverted", "partial": "partial", "succeeded": "as_asked", "unchanged": "as_asked"}
_ONLY_LOOK = ("password-login-status", "door-status")
_MOST_DETOURS = 3
_NOT_REACHED = (
    "name_not_resolved", "connection_refused", "connection_timed_out", "connection_closed", "jump_unreachable", "jump_refused",
    "jump_forbids_forwarding",
)  # fmt: skip
_NOT_LET_IN = ("key_refused", "key_mismatch", "credential_needed")


class Runner:
    """Runs tasks for one process."""

    def __init__(self, store: Store, kms: Kms, settings: Settings, owner: str, executor: Executor | None) -> None:
        self._store = store
        self.ruled = Ruled(store)
        self._kms = kms
        self._settings = settings
        self._owner = owner
        self._executor = executor
        self.commits = Commits(store, executor)  # many tasks write at the same time
        self.patience = Patience()
        self._on_server: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.pace = Pace()
        self.keys_given = KeysGiven()
        most = settings.jump_connections
        turns = partial(self.off, store.take_turn), partial(self.off, store.leave_turn)
        self.places = SharedPlaces(most, *turns) if store.shared else Places(most)
        self.measures = UNMEASURED
        self.ended: Callable[[Task], None] = lambda task: None  # told of each that was run
        self._tidying: asyncio.TimerHandle | None = None

    async def run(self, task: Task, given: Credential | None) -> None:
        """Carry out a task that has been claimed, and record how it ended. Never raises for what went wrong with it."""
        acting.set(Actor(task.tenant_id, task.user_id, task.id))
        job = _Job(self, task, given)
        try:
            await self._ended(task, job)
        finally:
            job.forget()
            self._tidy()
            self.ended(task)

    async def _ended(self, task: Task, job: "_Job") -> None:
        try:
            await job.recall()
            await self._settle_before(task, job.given)
            async with self._one_at_a_time(task.server_id):
                outcome, changes = await job.done()
        except asyncio.CancelledError:
            outcome = _failed(job, Failed("interrupted", "the controller was told to stop"))
            job.measured(outcome)
            self.patience.end()  # who stops waits for no store
            await self._finish(task, outcome, {})
            raise
        except Stop as stop:
            outcome, changes = _failed(job, stop), {}
        except Problem as problem:
            code = problem.code if problem.code in CAUSES else "unexpected"
            kind = Failed if job.handed_over else Refused
            outcome, changes = _failed(job, kind(code, problem.message, **problem.evidence)), {}
        except Exception as error:  # whatever it is, the task must not stay open, and nobody else would say it
            outcome, changes = _failed(job, Failed("unexpected", f"{type(error).__name__}: {error}")), {}
        job.measured(outcome)
        await self._finish(task, replace(outcome, private=job.private), changes)

    def _tidy(self) -> None:
        """Have soon collected what goes in circles: how a task stopped holds its frames, and those what opened its server."""

        def collect() -> None:
            self._tidying = None
            gc.collect()

        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(_TIDY_SECONDS, collect)

    async def _settle_before(self, task: Task, given: Credential | None) -> None:
        """What is on record decides what a task wants and how it gets in, so that is brought up to date first."""
        for other in await self.kept(self._store.unsettled, task.server_id):
            kept = given
            if given is not None and given.password_of is None and other.login != task.login:
                # Seen from another login's task it would be that login's password, and shown to its sessions.
                kept = replace(given, password=None)
            await self.settle(other, kept)

    async def settle(self, task: Task, given: Credential | None = None) -> bool:
        """Have the server of an ended task say how it was left, where nobody heard that; return whether it is on record now.

        Never raises for what went wrong: the server may be away still.
        """
        job = _Job(self, task, given)
        try:
            async with self._one_at_a_time(task.server_id):
                found = await job.told_by_server()
        except Exception:  # whatever it is: what is not known yet is asked for again
            return False
        finally:
            job.forget()
            self._tidy()
        if found is None:
            return False
        state, changes = found
        return await self.off(partial(self._store.settle, task.id, state, **changes))

    async def settle_all(self, due: Callable[[Task], bool]) -> list[Task]:
        """Settle each task that is due and whose server nobody works on now; return those that nobody could settle."""
        tasks = await self._at_once(self._store.unsettled)
        wanted = [task for task in tasks if due(task)]
        places = asyncio.Semaphore(self._settings.concurrency)

        async def settled(number: int, task: Task) -> bool:
            await asyncio.sleep(number * _SETTLE_APART_SECONDS)
            async with places:
                return await self.settle(task)

        done = await asyncio.gather(*(settled(number, task) for number, task in enumerate(wanted)))
        return [task for task, known in zip(wanted, done, strict=True) if not known]

    @contextlib.asynccontextmanager
    async def _one_at_a_time(self, server_id: str) -> AsyncIterator[None]:
        """In this process nobody else is on this server within the block: an agent that finds another there gives up at once."""
        lock = self._on_server.setdefault(server_id, asyncio.Lock())
        async with lock:
            yield

    async def _finish(self, task: Task, outcome: Outcome, changes: dict[str, Any]) -> None:
        """Record how a task has ended: however long the store is away, for that is known here alone."""
        finish = partial(self.commits.kept, self._store.finish, task.id, self._owner, task.generation, outcome, **changes)
        await self.patience.with_(finish, twice=True)  # the second time it is not ours any more

    async def kept(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what a verb of the store returns, kept with what others write. A store that is away is waited for."""
        return await self.patience.with_(partial(self.commits.kept, verb, *args, **kwargs), seconds=_PATIENCE_SECONDS)

    async def off(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a verb of the store, or of the key service, off the event loop. A store that is away is waited for."""
        return await self.patience.with_(partial(self._at_once, verb, *args, **kwargs), seconds=_PATIENCE_SECONDS)

    async def _at_once(self, verb: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        here = contextvars.copy_context()  # on whose behalf this is, for the events
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(here.run, verb, *args, **kwargs))

    # -- what dispatch asks of the store

    async def claim(self, task_id: str, owner: str, lease_seconds: float) -> Task | None:
        """Take a task. However long the store is away: what nobody has begun loses nothing by waiting."""
        try:
            return await self.patience.with_(partial(self.commits.kept, self._store.claim, task_id, owner, lease_seconds))
        except Unavailable as doubt:
            if doubt.code != "store_in_doubt":
                raise
        # Nobody else has this name, and nobody here asks for one task twice: where it is ours it was claimed just now.
        found = await self.patience.with_(partial(self._at_once, self._store.tasks, None, ids=[task_id]))
        return next((task for task in found if task.status == "running" and task.lease_owner == owner), None)

    async def renew(self, task_ids: Collection[str], owner: str, lease_seconds: float) -> set[str]:
        return await self._at_once(self._store.renew, task_ids, owner, lease_seconds)

    async def is_ready(self, task_id: str) -> bool:
        return any(task.status == "ready" for task in await self.off(self._store.tasks, None, ids=[task_id]))

    async def for_anybody(self, task_ids: Collection[str]) -> list[Task]:
        return await self._at_once(self._store.for_anybody, task_ids)

    async def waiting_ids(self) -> list[str]:
        return await self._at_once(self._store.waiting_ids)

    async def open_ids(self) -> list[str]:
        return await self._at_once(self._store.open_ids)

    async def abandon(self, owner: str) -> None:
        await self._at_once(self._store.abandon, owner)


class _Job:
    """One run of one task: what is known so far."""

    def __init__(self, runner: Runner, task: Task, given: Credential | None) -> None:
        self.runner = runner
        self.store = runner._store
        self.settings = runner._settings
        self.task = task
        self.given = given
        self.lost: Refused | None = None  # why what was given with the order is not to be had any more
        self.phase = "connect"
        self.began = self._phase_began = time.monotonic()
        self.handed_over = False  # the agent has the plan: from now on the server may be touched
        self.touched = False  # the agent has said that it begins to write
        self.prover: Prover | None = None
        self.server: Server
        self.order: Order
        self.record: Record
        self.identity: Held | None = None
        self.read: Held | None = None  # the same without its certificate: while this is held, nobody reads it anew
        self.road: list[Jump] = []  # the jump servers on the way, the nearest to us first
        self.private = False  # private key pairs of whoever asked are part of it, and may be named in how it ended
        self.without_key = False  # nothing is known to get in; what an earlier task may have left there is only tried
        self.opened: dict[str, SigningKey] = {}  # private halves from custody, by the id of their key pair
        self.new_password: Secret | None = None  # that the task sets

    def measured(self, outcome: Outcome) -> None:
        """Tell whoever counts how this ended, and how long it took."""
        self.left()
        begun, asked = self.task.started_at, self.task.created_at
        waited = 0.0 if begun is None else (begun - asked).total_seconds()
        self.runner.measures.ended(self.task.operation, outcome.status, outcome.cause, waited, time.monotonic() - self.began)

    def left(self) -> None:
        """Tell how long the phase took that is over."""
        at = time.monotonic()
        self.runner.measures.phase(self.phase, at - self._phase_began)
        self._phase_began = at

    def forget(self) -> None:
        """Let go of all that opens a server; this run has come to its end."""
        self.given = self.identity = self.read = self.prover = self.new_password = None
        self.opened.clear()
        self.road.clear()

    async def recall(self) -> None:
        """Have what was given with the order, where a process of before had it.

        Refused(credential_needed) where that is not to be had and an order to look would look from outside only. Any other goes
        on by what is bound there, for an earlier try may have come to its end, and says so only where nothing gets in.
        """
        if self.task.operation == SETS_PASSWORD:
            runner = self.runner
            asked = (runner.off, self.store, runner._kms)
            self.new_password, self.given = await passwords.recalled(self.task, self.given, *asked)
        if self.given is not None or not self.task.request.get("given"):
            return
        try:
            self.given = await self.runner.off(deposits.opened, self.store, self.runner._kms, self.task)
        except Refused as lost:
            if self.task.operation in ("check", *_ONLY_LOOK):
                raise
            self.lost = lost

    async def done(self) -> tuple[Outcome, dict[str, Any]]:
        """Return how it ended, and what changes in the inventory with it."""
        self.order = await self._order()
        if self.task.operation == "reset":
            await self._refuse_under_rule(self.server)
            return self.record.concluded(await self._at_rest())
        if self.new_password is not None:
            if not self.order.ways and self.lost is None:
                self.given = await passwords.entering(self.task, self.runner.off, self.store, self.runner._kms)
                self.order = await self._order()
            self.order.plan["password_hash"] = await asyncio.to_thread(passwords.hashed, self.new_password)
        try:
            async with self._reached(await self._hops()) as target:
                return await self._online(target)
        except NotConnected as refused:
            if self.task.operation not in DOOR_OPERATIONS or self.handed_over or refused.cause not in _NOT_REACHED:
                raise
            return await self._by_detour(refused)

    async def _refuse_under_rule(self, server: Server) -> None:
        """Refused where passwords would be let in, for good or by a door to which nobody has agreed, and that takes two here.

        By the rules of now: which unbind is the last one is known as it begins, and which machine this is by the host key that it
        has shown by then.
        """
        instead = order.opens_for_good(self.task, self.order.plan)
        is_door = self.task.operation == "door-open"
        rules = await self.runner.off(self.runner.ruled.of, server) if instead or is_door else []
        if not rules or (is_door and await self.runner.off(self._is_agreed)):
            return
        where = ", ".join(each.where for each in rules)
        told = f"a second user has to agree before passwords are let in here ({where}), and nobody has agreed to this"
        more = f"{instead or 'ask for the door anew (kps emergency open)'}; or have an administrator remove the rule"
        message = f"{server.name}: {told}; {more} (kps emergency rule remove)"
        raise Refused("password_login_under_rule", message, rules=[each.where for each in rules])

    def _is_agreed(self) -> bool:
        """Whether a second user has agreed to the door that is to be opened."""
        door = self.store.door(self.task.tenant_id, str(self.task.request.get("door_id")))
        return self.store.door_order(self.task.tenant_id, door.order_id)[0].state == "approved"

    async def _by_detour(self, refused: NotConnected) -> tuple[Outcome, dict[str, Any]]:
        """Do the same through other jump servers than its own: in an emergency that way may be the one that is broken.

        Only while no agent has the order: it is not given twice.
        """
        tried = [{"via": "its own way", "cause": refused.cause}]
        own = {self.server.id, *self.server.jumps}
        for jump in (each for each in await self.runner.off(self.store.jump_servers, self.task.tenant_id) if each.id not in own):
            if len(tried) > _MOST_DETOURS:
                break
            self.server, self.road = replace(self.server, jumps=[jump.id]), []
            try:
                hops = await self._hops()
            except ValueError:  # it would be reached through the server itself
                continue
            try:
                async with self._reached(hops) as target:
                    outcome, changes = await self._online(target)
            except NotConnected as again:
                tried.append({"via": jump.name, "cause": again.cause})
                if self.handed_over:
                    again.evidence["paths"] = tried
                    raise
                continue
            return replace(outcome, evidence={**outcome.evidence, "paths": [*tried, {"via": jump.name, "cause": ""}]}), changes
        refused.evidence["paths"] = tried
        raise refused

    async def _online(self, target: Target) -> tuple[Outcome, dict[str, Any]]:
        """Return the same for a server that is up."""
        await self._refuse_under_rule(replace(self.server, host_key=target.host_key))
        if not self.order.ways:
            if self.lost is not None:
                raise self.lost
            return await self._from_outside(target)
        entrance = Entrance(target, self.order, self.given, self.identity, self._private, self.runner.measures)
        try:
            inside = await entrance.enter(self._first_plan())
        except Refused as refused:
            if self.lost is not None and refused.cause in _NOT_LET_IN:
                raise self.lost from refused
            if isinstance(refused, NotConnected) and self.without_key and refused.cause == "key_refused":
                return await self._from_outside(target)
            await self._nothing_gets_in(target, refused)
            raise
        self.record.boot = inside.boot
        try:
            if self.as_planned is not None:
                inside = await self._if_as_planned(entrance, inside)
            result = await self._on_server(target, inside)
            result = await self._with_lockouts(target, entrance, inside, result)
            result = await self._explained(target, entrance, inside, result)
        except Failed as lost:
            if lost.cause != "connection_lost":
                raise
            inside.connection.abort()
            if self.prover is not None and self._may_be_bound():
                entrance.try_first(Way(self.task.login, self.order.keypair, "custody"))
            result = await self._settled(entrance, lost)
        finally:
            inside.connection.close()
        await self._settle_others(result)
        return self.record.concluded(result)

    # -- as planned ----------------------------------------------------------------------------------------------------

    @property
    def as_planned(self) -> str | None:
        """What the server must be like for the task to go on (controller.seen.digest); None where nobody has planned it."""
        return self.task.request.get("seen")

    def _first_plan(self) -> dict[str, Any]:
        return self.order.plan if self.as_planned is None else self.order.plan | {"only_plan": True}

    async def _if_as_planned(self, entrance: Entrance, inside: Inside) -> Inside:
        """Look at the server, and return an agent with the plan itself where it is as it was when that was made.

        Refused: changed_since_plan, or why the order is refused as things are. Between this look and that of the next agent lies
        the start of one Python; who changes the server in that moment has changed it before the operation began.
        """
        self.phase = "look"
        async for frame in inside.frames:
            if isinstance(frame, Result):
                break
        else:
            raise Refused("connection_closed", f"{self.server.name}: the agent ended before it had looked")
        if frame.status == "failed":
            cause = frame.cause if frame.cause in CAUSES else "unexpected"
            raise Refused(str(cause), frame.message, **frame.evidence)
        if seen.digest(frame.model_dump()) != self.as_planned:
            changes = frame.plan.get("changes", [])
            paths = ", ".join(dict.fromkeys(str(each.get("path")) for each in changes)) or "nothing"
            told = f"it is not as it was when this was planned; what would be changed now ({paths}) is in the evidence"
            raise Refused("changed_since_plan", f"{self.server.name}: {told}", changes=changes)
        return await entrance.again(inside, self.order.plan)

    # -- prepare -------------------------------------------------------------------------------------------------------

    async def _order(self) -> Order:
        known = await self.runner.kept(dossier.look_up, self.store, self.task)  # with what others write
        self.server = known.server
        self.private = known.names_private
        self.identity = await self._key_given()
        line = self._line_given()
        made = order.make(self.task, self.server, known.bound, known.wanted, self.given, line, self.settings.deadline_seconds)
        self.order = made
        self.without_key = not made.ways
        made = replace(made, ways=_with_left(made.ways, known.left))
        if made.keypair is not None and made.keypair.managed and "key" in made.plan:
            # Now, while nothing is touched: what does not open can be neither proved nor used.
            await self._private(made.keypair)
        self.record = Record(self.task, self.server, made)
        return made

    @property
    def place(self) -> dict[str, object]:
        """Where the server is, in our own words and not in the server's."""
        server = getattr(self, "server", None)
        return {} if server is None else {"HOST": server.host, "PORT": server.port}

    def _may_be_bound(self) -> bool:
        """Whether the key pair that is to be bound may be the only one that gets in, if an end was not heard."""
        keypair = self.order.keypair
        return self.task.operation in ("bind", "replace") and keypair is not None and keypair.managed

    async def _key_given(self) -> Held | None:
        """Return the private key that came with the order, ready to sign, wherever it is kept."""
        given = self.given
        if given is None or not given.by_key:
            return None
        if given.agent_key is not None:
            held = await sshagent.find(given.agent_socket or "", given.agent_key)
        else:
            held = await self.runner.keys_given.read(cast(Secret, given.identity), given.passphrase)
            self.read = held
        if given.certificate is None:
            return held
        return replace(held, certificate=certificate.read(given.certificate, held.line, now()))

    def _line_given(self) -> str | None:
        """Return the public half of the key given, where it works by itself.

        What a certificate opens is not in authorized_keys: such a key is a way in, and nothing to be proved or taken away.
        """
        return None if self.identity is None or self.identity.certificate is not None else self.identity.line

    async def _hops(self) -> list[Server]:
        """Return the jump servers on the way to the server, the nearest to us first."""
        known: dict[str, Server] = {}
        wanted = set(self.server.jumps)
        while wanted:  # these alone: a fleet behind one jump server is not read for each of its servers
            found = await self.runner.off(self.store.servers, self.task.tenant_id, called=wanted)
            known |= {each.id: each for each in found}
            wanted = {jump for each in found for jump in each.jumps} - known.keys()
        return route(self.server, known)

    @contextlib.asynccontextmanager
    async def _reached(self, hops: list[Server]) -> AsyncIterator[Target]:
        """Give the server as it is to be reached, with a place at each jump server on the way; what is opened there is closed."""
        async with self.runner.places.taken(hop.id for hop in hops):
            try:
                yield await self._target(self.server, await self._way_through(hops))
            finally:
                for jump in reversed(self.road):
                    jump.close()

    async def _way_through(self, hops: list[Server]) -> Jump | None:
        """Return the last of the jump servers, each of which is reached through the one before it."""
        through: Jump | None = None
        for hop in hops:
            through = Jump(await self._target(hop, through), await self._ways_into(hop))
            self.road.append(through)
        return through

    async def _ways_into(self, hop: Server) -> list[tuple[str, Callable[[], Awaitable[Held]]]]:
        """Return what may open a jump server: a key pair in custody that is bound there, and the key given. Never a password."""
        bound = await self.runner.off(self.store.bindings, self.task.tenant_id, server_id=hop.id)
        bound.sort(key=lambda each: each.login != hop.login)
        ways: list[tuple[str, Callable[[], Awaitable[Held]]]] = []
        for each in bound:
            keypair = await self.runner.off(self.store.keypair_by_id, each.keypair_id)
            if keypair.managed and keypair.seen_by(self.task.user_id):
                self.private = self.private or keypair.scope == "private"
                ways.append((each.login, partial(self._held, keypair)))
        if self.identity is not None:
            identity = self.identity

            async def as_given() -> Held:
                return identity

            ways.insert(1, (hop.login, as_given))
        return ways

    async def _held(self, keypair: KeyPair) -> Held:
        return Held(keypair.line, await self._private(keypair))

    async def _target(self, server: Server, through: Jump | None) -> Target:
        target = Target(
            name=server.name,
            host=server.host,
            port=server.port,
            host_key=server.host_key,
            timeout_seconds=self.settings.connect_timeout_seconds,
            through=through,
            old=tuple(server.old_algorithms),
            pace=self.runner.pace,
            admits=None if server.any_address else partial(addresses.admitted, allowed=self.settings.allowed_networks),
        )
        if server.host_key is None and server.trust_on_first_use:
            pinned = await self.runner.off(self.store.pin_host_key, server.id, await first_host_key(target))
            return replace(target, host_key=pinned.host_key)
        return target

    async def _private(self, keypair: KeyPair) -> SigningKey:
        """Return the private half from custody, opened once for this task and on record once.

        NotConnected custody_damaged, root_key_missing or master_key_unusable: nothing gets in with it, but another way may.
        """
        if keypair.id not in self.opened:
            runner = self.runner
            asked = (runner.off, runner.kept, self.store, runner._kms, keypair.id, opening.LOGIN)
            try:
                keypair, stored = await opening.opened_for(self.task, *asked)
            except (Conflict, Damaged, Unavailable) as problem:
                if problem.code == "store_unusable":
                    raise
                unusable = "master_key_unusable" if isinstance(problem, Conflict) else "root_key_missing"
                cause = "custody_damaged" if isinstance(problem, Damaged) else unusable
                message = f"{self.server.name}: {problem.message}"
                raise NotConnected(cause, message, keypair=keypair.name, custody=problem.code) from problem
            try:
                self.opened[keypair.id] = SigningKey(keypair.type, stored)
            finally:
                stored.wipe()
        return self.opened[keypair.id]

    # -- on the server -------------------------------------------------------------------------------------------------

    async def _on_server(self, target: Target, inside: Inside) -> dict[str, Any]:
        """Answer the agent's questions until it says how it ended."""
        password = self.new_password or inside.password
        prover = self.prover = Prover(target, inside.plan, self._private_of, password, self.runner.measures)
        self.handed_over = True
        async for frame in inside.frames:
            if isinstance(frame, Result):
                return self._believed(frame, prover)
            if isinstance(frame, Reached):
                self.touched = self.touched or bool(frame.detail.get("steps"))
                await self._still_ours(frame.phase, frame.detail)
            if isinstance(frame, Ask):
                await self._still_ours("prove", {"after": frame.phase})
                async with inside.rope.in_time():
                    answers = await prover.answers(frame)
                await inside.rope.answer(answers)
        raise Failed("connection_lost", "the agent ended without a result")

    async def _with_lockouts(self, target: Target, entrance: Entrance, inside: Inside, result: dict[str, Any]) -> dict[str, Any]:
        """Return the result of going on where only logins stood against it that are locked out, and these may be, unnamed.

        Once: who else is found the second time was not looked at, and stands against it.
        """
        logins = result.get("evidence", {}).get("logins")
        if result.get("cause") != "others_locked_out" or not self.task.request.get(UNNAMED_LOCKOUT):
            return result
        if not isinstance(logins, list) or not all(isinstance(each, str) for each in logins) or self.touched:
            return result
        # Asked now: whoever takes that back means the tasks that wait, too.
        if not (await self.runner.off(self.store.tenant, self.task.tenant_id)).v3_accepts_lockout:
            return result
        # On record before anybody is locked out.
        if not await self._now_at("decide", {UNNAMED_LOCKOUT: logins}):
            raise Refused("interrupted", "the task was taken over by another process before anybody was locked out")
        self.order.plan["accept_lockout"] = logins
        result = await self._on_server(target, await entrance.again(inside, self.order.plan))
        said = f"accepted by the tenant's setting that these logins are locked out: {', '.join(logins)}"
        told = [str(result.get("message") or ""), said if result["status"] == "succeeded" else ""]
        evidence = (result.get("evidence") or {}) | {UNNAMED_LOCKOUT: logins}
        return dict(result, evidence=evidence, message="; ".join(each for each in told if each))

    def _believed(self, result: Result, prover: Prover) -> dict[str, Any]:
        """Return the agent's result with the proofs that we made. A success without them is none."""
        looks = self.task.operation in _ONLY_LOOK or self.order.plan["only_plan"]
        missing = prover.missing() if result.status != "failed" and not looks else ""
        if missing:
            raise Failed("session_disturbed", f"the agent says it is done, but never had it proved {missing}")
        return dict(result.model_dump(), proofs=prover.proofs)

    async def _now_at(self, phase: str, detail: dict[str, Any]) -> bool:
        """Put on record where the task is now; False where it is not ours any more, and nothing was written."""
        self.left()
        self.phase = phase
        # The server waits for what comes next, and undoes at its deadline; it is told nothing that is not on record.
        said = partial(self.runner.commits.kept, self.store.progress, self.task.id, self.runner._owner, phase, detail)
        return await self.runner.patience.with_(said, seconds=_PATIENCE_SECONDS, twice=True)

    async def _still_ours(self, phase: str, detail: dict[str, Any]) -> None:
        """Do the same. Failed(interrupted) where it is not ours any more: nothing is proved then, and the server undoes.

        Whoever ended it has asked the server since, and may have been told that nothing was done there. The server itself refuses
        what is late only where something newer was.
        """
        if not await self._now_at(phase, detail):
            raise Failed("interrupted", "the task was taken over by another process")

    async def _private_of(self, line: str) -> Signer | None:
        """Return the private half of the key pair in question, where it is in custody or was given."""
        keypair = self.order.keypair or self.order.asked
        given = self.identity
        if given is not None and given.certificate is None and order.same(given.line, line):
            return given.signer
        if keypair is not None and keypair.managed and order.same(keypair.line, line):
            return await self._private(keypair)
        return None

    async def _at_rest(self) -> dict[str, Any]:
        """Run the agent on the disk of a server that is shut down, mounted on this machine."""
        root = str(self.task.request.get("root") or "")
        plan = dict(self.order.plan)
        if self.given is not None and self.given.password is not None:
            plan["password_hash"] = await asyncio.to_thread(sha512_crypt.hash, self.given.password.open())
        self.handed_over = True
        return await at_rest.run(root, plan)

    async def _from_outside(self, target: Target) -> tuple[Outcome, dict[str, Any]]:
        """What can be told of a server for which nothing is known that gets in; only looking is possible."""
        if self.task.operation not in ("check", "password-login-status"):
            strangers = any(each.strangers for each in self.order.bound)
            known = "only another user's private key pair is bound there" if strangers else "no managed key is bound there"
            raise Refused(
                "credential_needed",
                f"{self.server.name}: {known}; give a password (--password-stdin) or a key (--identity)",
            )
        offered = await proof.password_offered(target, self.task.login)
        if isinstance(offered, dict):
            raise Refused(str(offered["cause"]), str(offered["message"]), **offered.get("evidence", {}))
        proofs = []
        for line in self._lines_to_show() if self.task.operation == "check" else []:
            answer = await self._key_shown(target, line, None)
            if "cause" in answer:
                cause = "key_refused" if answer["cause"] == "new_key_refused" else str(answer["cause"])
                refused = Refused(cause, str(answer["message"]), **answer["evidence"])
                await self._nothing_gets_in(target, refused)
                raise refused
            proofs.append({"way": "key", "login": self.task.login, "method": str(answer["method"])})
        # That sshd asks for a password does not say that one gets in.
        state = "unknown" if offered else "off"
        outcome = Outcome(
            "unchanged",
            "as_asked",
            message=f"{self.server.name}: seen from outside only; give a password or a key to look inside",
            evidence={"logins": {self.task.login: state}, "password_offered": offered},
            proofs=proofs,
        )
        return outcome, self.record.notes(state if self.task.login == self.server.login else None)

    # -- why a key can or can't log in -----------------------------------------------------------------------------------

    @property
    def _about(self) -> dict[str, str]:
        return {"SERVER": self.server.name, "LOGIN": self.task.login}

    async def _nothing_gets_in(self, target: Target, refused: Refused) -> None:
        """Put what can be known from outside into the evidence of a way in that was refused."""
        if refused.cause == "session_disturbed":
            fails = {"code": "session_fails", "kind": "session", "message": refused.message, "seen": dict(refused.evidence)}
            refused.evidence["findings"] = diagnosis.told([fails], **self._about)
        elif refused.cause in ("key_refused", "key_mismatch"):
            login = str(refused.evidence.get("login") or self.task.login)
            found, facts = await diagnosis.outside(target, login)
            refused.evidence.update({"findings": found, "outside": facts} if found else {})

    async def _explained(self, target: Target, entrance: Entrance, inside: Inside, result: dict[str, Any]) -> dict[str, Any]:
        """Return the result with the findings of a diagnosis: of the key that a check is about, or of what has failed."""
        plan, failed = self.order.plan, result["status"] == "failed"
        result["findings"] = diagnosis.told(result["findings"], **self._about)
        if plan["operation"] == "check":
            if plan["repair"]:
                return await self._repaired(entrance, inside, result)
            return result if failed else await self._keys_shown(target, entrance, inside, result)
        explained = result["cause"] in diagnosis.EXPLAINED or diagnosis.ended(result["evidence"] or {}) == "taken"
        if failed and explained and not result["findings"] and plan["operation"] not in _ONLY_LOOK:
            line = order.bare(str(plan["key"])) if plan.get("key") else ""
            found = await self._looked_again(entrance, inside, line, as_if_listed=plan["operation"] in ("bind", "replace"))
            result["findings"] = diagnosis.believed(found, diagnosis.ended(result["evidence"] or {}))
        return result

    async def _repaired(self, entrance: Entrance, inside: Inside, result: dict[str, Any]) -> dict[str, Any]:
        """Return the result of a repair with what is left to be found after it."""
        method = next((each["method"] for each in result["proofs"] if each["way"] == "key"), "")
        result["findings"] = diagnosis.believed(result["findings"], method) if method else result["findings"]
        if result["cause"] == "new_key_refused":
            result["cause"] = "key_refused"
        # One that was refused, for want of a tool or of rights, says so itself.
        if result["status"] == "failed" and result["server_state"] != "as_before":
            result["message"] = _reason(result) or result["message"]
        return result

    async def _keys_shown(self, target: Target, entrance: Entrance, inside: Inside, result: dict[str, Any]) -> dict[str, Any]:
        """Return the result with how the key asked about, and the one on record for the login, have shown that they get in.

        Without either the way by which we came is what was shown. Refused where one does not get in, with the findings of why.
        """
        came_by, diagnosed, found = inside.way, self.order.plan["diagnose"], result["findings"]
        lines = self._lines_to_show()
        result["proofs"] = []
        if not lines and came_by.by != "password":
            result["proofs"] = [{"way": "key", "login": came_by.login, "method": "logged_in"}]
        for line in lines:
            if line != diagnosed:
                found = await self._looked_again(entrance, inside, line, as_if_listed=False)
            answer = await self._key_shown(target, line, came_by)
            method = str(answer.get("method") or diagnosis.ended(answer["evidence"]))
            kept = diagnosis.believed(found, method)
            reasons = diagnosis.keeps_out(kept)
            if "cause" in answer or reasons:
                raise self._not_shown(answer, method, found, reasons)
            result["proofs"].append({"way": "key", "login": self.task.login, "method": method})
            result["findings"] = kept
        return result

    def _not_shown(
        self, answer: dict[str, Any], method: str, found: list[dict[str, Any]], reasons: list[dict[str, Any]]
    ) -> Refused:
        """Return why a check fails, with what was found of it; a cause that has nothing to do with the key needs no diagnosis."""
        evidence = dict(answer["evidence"])
        cause = "session_disturbed" if method in ("let_in", "accepted") else str(answer["cause"])
        cause = "key_refused" if cause == "new_key_refused" else cause
        if cause == "connection_closed" and (method == "taken" or any(each["kind"] == "session" for each in found)):
            method = "taken"
            cause = diagnosis.explained(found, method, **self._about)[0]["cause"] or cause
        if cause in diagnosis.EXPLAINED:
            evidence["findings"] = diagnosis.explained(found, method, **self._about)
        if "cause" in answer:
            return Refused(cause, _reason(evidence) or str(answer["message"]), **evidence)
        return Refused(cause, f"sshd would take the key, and then: {reasons[0]['message']}", **evidence)

    def _lines_to_show(self) -> list[str]:
        """The key that a check is about, and with one that was only given the one on record for the login."""
        lines = [self.order.plan.get("diagnose") or ""]
        here = next((each.keypair for each in self.order.bound if each.binding.login == self.task.login), None)
        if here is not None and not (self.task.request.get("keypair_id") or self.task.request.get("public_key")):
            lines.append(order.bare(here.line))
        return list(dict.fromkeys(line for line in lines if line))

    async def _key_shown(self, target: Target, line: str, came_by: Way | None) -> dict[str, Any]:
        """Return how a key has shown that it gets the login in (method), or why it does not (cause, message, evidence)."""
        login = self.task.login
        if came_by is not None and came_by.login == login and came_by.by != "password":
            came_with = came_by.keypair.line if came_by.keypair is not None else self._line_given()
            if order.same(came_with, line):
                return {"method": "logged_in"}
        private = await self._private_of(line)
        if private is None:
            ours = [each.keypair for each in self.order.bound if not each.strangers]
            known = next((each for each in ours if order.same(each.line, line)), None)
            private = await self._private(known) if known is not None and known.managed else None
        if private is not None:
            return {"evidence": {}} | await proof.key_logs_in(target, login, line, private, os.devnull)
        return {"evidence": {}} | await proof.key_accepted(target, login, line)

    async def _looked_again(self, entrance: Entrance, inside: Inside, line: str, *, as_if_listed: bool) -> list[dict[str, Any]]:
        """Return the findings of a second look, for one more key or for why something failed; none where it cannot be had."""
        plan = {
            "operation": "check",
            "id": self.task.id,
            "generation": self.task.generation,
            "login": self.task.login,
            "deadline_seconds": self.settings.deadline_seconds,
            "diagnose": line,
            "as_if_listed": as_if_listed,
        }
        try:
            async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                found = await entrance.look_again(inside, plan)
        except (Stop, TimeoutError):
            return []  # what failed has its own cause
        return diagnosis.told(found["findings"], **self._about)

    # -- how it ended --------------------------------------------------------------------------------------------------

    async def _settled(self, entrance: Entrance, lost: Failed) -> dict[str, Any]:
        """The rope is gone: ask the server itself, over a new connection, how it ended. It knows; we do not."""
        plan = {
            "operation": "check",
            "id": self.task.id,
            "generation": self.task.generation,
            "login": self.task.login,
            "deadline_seconds": self.settings.deadline_seconds,
        }
        loop = asyncio.get_running_loop()
        until = loop.time() + min(_SETTLE_SECONDS, 2 * self.settings.connect_timeout_seconds)
        why: Stop = lost
        while True:
            try:
                inside = await entrance.enter(plan)
                try:
                    said = [frame async for frame in inside.frames if isinstance(frame, Result)]
                finally:
                    inside.connection.close()
                if said and said[0].cause != "busy":
                    rebooted, self.record.boot = inside.boot != self.record.boot, inside.boot
                    return self._from_journal(said[0].model_dump(), lost, rebooted)
            except Stop as stop:
                why = stop
            if loop.time() > until:
                break
            await asyncio.sleep(0.3)
        gone = why.cause in ("connection_refused", "connection_timed_out")
        cause = "server_shut_down" if gone else "connection_lost"
        message = f"{self.server.name}: {'it went away' if gone else 'the connection was lost'} in the middle; {why.message}"
        return {"status": "failed", "server_state": "unknown", "cause": cause, "message": message, "phase": self.phase}

    def _from_journal(self, said: dict[str, Any], lost: Failed, rebooted: bool) -> dict[str, Any]:
        told = said.get("recovered") or said.get("last") or {}
        ended = told.get("result") if told.get("operation") == self.task.id else None
        if ended in ("succeeded", "unchanged") and self.prover is not None and not self.prover.missing():
            return dict(said, status="succeeded", server_state="as_asked", phase="done", proofs=self.prover.proofs)
        if said.get("cause") == "undo_incomplete":
            return dict(said, server_state="partial", phase="undo")
        cause = "server_rebooted" if rebooted else lost.cause
        message = f"{self.server.name}: {'it was rebooted in the middle' if rebooted else lost.message}"
        knows_nothing = "unknown" if self.touched or said.get("last") is None else "as_before"
        state = ended if ended in ("reverted", "partial") else knows_nothing
        found = {"status": "failed", "server_state": state, "cause": cause, "message": message, "phase": self.phase}
        # What was revoked is gone, and the new key has its proof; that the old one is refused has none.
        return found | {"removed": [], "proofs": self.prover.proofs} if state == "partial" and self.prover is not None else found

    async def told_by_server(self) -> tuple[ServerState, dict[str, Any]] | None:
        """Return how this task, of which nobody heard the end, left the server, and what changes in the inventory with that.

        None where that cannot be told: nothing that is known gets in, or the server is not through with its undo.
        """
        self.order = await self._order()
        if not self.order.ways:
            return None
        async with self._reached(await self._hops()) as target:
            return await self._told_at(target)

    async def _told_at(self, target: Target) -> tuple[ServerState, dict[str, Any]] | None:
        """Return the same, from the server itself."""
        entrance = Entrance(target, self.order, self.given, self.identity, self._private, self.runner.measures)
        try:
            inside = await entrance.enter(self._only_look())
        except NotConnected as refused:
            if refused.cause != "key_refused" or await proof.password_offered(target, self.task.login) is not True:
                raise
            return self._seen_from_outside(refused)
        try:
            said = [frame async for frame in inside.frames if isinstance(frame, Result)]
        finally:
            inside.connection.close()
        if not said or said[0].status == "failed":
            return None
        self.record.boot = inside.boot
        return self.record.told(said[0].model_dump(), inside.as_root)

    def _seen_from_outside(self, refused: NotConnected) -> tuple[ServerState, dict[str, Any]]:
        """Return what it says that the only key on record is refused while passwords are asked for; if nothing, raise refused."""
        if self.without_key and self.task.operation == "bind":
            # The undo takes away what was to be bound last of all, and an agent whose rope has ended adds it no more.
            return "reverted", {}
        ended = self.task.finished_at
        is_past = ended is not None and self.store.now() > ended + timedelta(seconds=self.settings.deadline_seconds)
        only_this = all(way.login == self.task.login for way in self.order.ways)
        if self.task.operation == "unbind" and only_this and is_past:
            # What was removed and not committed would be back by now.
            return "as_asked", {"unbind": (self.server.id, self.task.login)}
        raise refused

    def _only_look(self) -> dict[str, Any]:
        return {
            "operation": "check",
            "id": self.task.id,
            "generation": max(self.task.generation, self.server.generation),
            "ended": self.task.generation,
            "login": self.task.login,
            "deadline_seconds": self.settings.deadline_seconds,
        }

    async def _settle_others(self, result: dict[str, Any]) -> None:
        """Earlier tasks whose end nobody heard: the server has just told what became of the last of them."""
        for told in (result.get("recovered"), result.get("last")):
            if not isinstance(told, dict) or told.get("operation") == self.task.id:
                continue
            state = _SERVER_STATES.get(str(told.get("result")))
            # An undo that had got stuck, and now was gone on with, or has come to its end there meanwhile.
            through = told is result.get("recovered") or state == "reverted"
            open_ones = ("unknown", "partial") if through else ("unknown",)
            for other in await self.runner.off(self.store.tasks, self.task.tenant_id, server_id=self.server.id):
                if state and other.id == told.get("operation") and other.server_state in open_ones and other.status == "failed":
                    await self.runner.off(self.store.settle, other.id, state)


def _with_left(known: list[Way], left: list[Way]) -> list[Way]:
    """Return the ways with those that earlier tasks may have left there: the newest of these before all others.

    The rest of them comes last: a login that fails costs one of the few that a server puts up with.
    """
    return list(dict.fromkeys([*left[:1], *known, *left[1:]]))


def _reason(known: dict[str, Any]) -> str:
    """Return what keeps the key out, where that was found: it says more than that a login has failed."""
    reasons = diagnosis.keeps_out(known.get("findings") or [])
    return str(reasons[0]["message"]) if reasons else ""


def _by_hand(job: _Job) -> dict[str, Any]:
    """Return what is left where nothing gets in to open a door: its disk at rest, its console, and what to type there."""
    task = job.task
    if task.operation != "door-open" or job.handed_over:
        return {}
    request, command = task.request, job.settings.console_command
    line = by_hand(task.login, int(request["door_seconds"]), request.get("door_from"))
    place = {"server": task.server_name, "login": task.login} | {name.lower(): value for name, value in job.place.items()}
    for name, value in place.items():
        command = command.replace(f"{{{name}}}", str(value))
    at_rest = {"reset_root": job.server.reset_root} if job.server.reset_root else {}
    return at_rest | {"by_hand": line} | ({"console_command": plain(command)} if command else {})


def _failed(job: _Job, stop: Stop) -> Outcome:
    """The outcome of a task that ended without the agent's word."""
    touched = job.handed_over and not isinstance(stop, Refused)
    cause = stop.cause if stop.cause in CAUSES else "unexpected"
    return Outcome(
        status="failed",
        server_state="unknown" if touched else "as_before",
        phase=job.phase,  # type: ignore[arg-type]
        cause=cause,
        message=named(job.task.server_name, plain(stop.message)),
        evidence=small(stop.evidence) | _by_hand(job),
        handling=causes.handling(cause, SOURCE=stop.evidence.get("source"), **job.place),
        retryable=CAUSES[cause].retryable,
    )
