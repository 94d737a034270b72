"""The trail: what happened, by whom; proved, given out, and let go of."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from controller.errors import Conflict, NotFound, Problem, Unavailable
from controller.events import KINDS
from controller.model import Caller, Event, KeyPair, Server, User
from controller.service.allowances import Allowances
from controller.service.auditkeys import AuditKeys
from controller.service.feed import Feed
from controller.service.roles import allow
from controller.service.stopping import Stopping
from controller.service.tasks import WAIT_SECONDS
from controller.service.trail import chained_event, export_header
from controller.service.worker import off_loop
from controller.store import Store
from controller.store.chain import Reach
from controller.store.events import Wanted

MOST_AT_ONCE = 1000
_REFUSED = frozenset({403, 404, 409})
_LONGEST_WHAT = 200  # characters


@dataclass(frozen=True, slots=True)
class Export:
    """What an export says of itself: which events follow, signed; and what they can be verified with."""

    reach: Reach
    public_key: str
    checkpoints: list[Reach]


class Audit:
    """The trail of the caller's tenant. Whoever may read it reads all of it: a chain with gaps could not be verified."""

    def __init__(
        self,
        store: Store,
        keys: AuditKeys,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        feed: Feed | None = None,
    ) -> None:
        self._store = store
        self._feed = feed or Feed(store, executor, Stopping())
        self._keys = keys
        self._executor = executor
        self._refusals = Allowances(clock)

    async def events(
        self,
        who: Caller,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = MOST_AT_ONCE,
        wait_seconds: float = 0,
        kinds: Collection[str] = (),
        user: str | None = None,
        server: str | None = None,
        keypair: str | None = None,
        task: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[Event]:
        """Return events: the oldest first after a number, or else the newest first, before one where that is given.

        user, server, keypair: a name, or the id of one that is not there any more. wait_seconds: with after, for the first.
        NotFound(kind_unknown).
        """
        allow(who, "audit.read")
        for kind in kinds:
            if kind not in KINDS:
                raise NotFound("kind_unknown", f"{kind}: no such kind of event; docs/events.md has them all")
        user_id, server_id, keypair_id = await off_loop(self._executor, self._ids, who, user, server, keypair)
        wanted = Wanted(tuple(kinds), user_id, server_id, keypair_id, task, since, until)
        limit = max(1, min(limit, MOST_AT_ONCE))
        if after is None:
            newest = before if before is not None else 2**62
            return await off_loop(self._executor, self._store.trail, who.tenant_id, wanted, before=newest, limit=limit)
        loop = asyncio.get_running_loop()
        end = loop.time() + min(wait_seconds, WAIT_SECONDS)
        while True:
            newest = self._feed.newest
            found = await off_loop(self._executor, self._store.trail, who.tenant_id, wanted, after=after, limit=limit)
            if found or not await self._feed.after(newest, end - loop.time()):
                return found

    async def names(self, who: Caller) -> dict[str, str]:
        """Return what the tenant's users and servers are called, by their ids."""
        allow(who, "audit.read")

        def named() -> dict[str, str]:
            users = {user.id: user.name for user in self._store.users(who.tenant_id)}
            return users | {server.id: server.name for server in self._store.servers(who.tenant_id)}

        return await off_loop(self._executor, named)

    async def names_of(self, who: Caller, ids: Collection[str]) -> dict[str, str]:
        """Return what these users and servers are called, by their ids; who is gone is not in it."""
        allow(who, "audit.read")
        return await off_loop(self._executor, self._store.names_of, who.tenant_id, ids)

    async def lines(self, who: Caller, made: Export) -> AsyncIterator[str]:
        """Give an export's lines, the first one too; record that it was given out once all of them have been taken."""
        allow(who, "audit.read")
        yield json.dumps(export_header(made)) + "\n"
        last = made.reach.first - 1
        while last < made.reach.number:
            limit = min(MOST_AT_ONCE, made.reach.number - last)
            found = await off_loop(self._executor, self._store.trail, who.tenant_id, after=last, limit=limit)
            if not found:
                return  # what is missing is for whoever verifies to name
            yield "".join(json.dumps(chained_event(each)) + "\n" for each in found)
            last = found[-1].number
        await self.exported(who, made.reach.first, made.reach.number, made.reach.digest)

    async def export(self, who: Caller, since: datetime | None = None, until: datetime | None = None) -> Export:
        """Return what stands at the head of an export; its events are those of its reach. A checkpoint is kept of the end.

        since, until: only the events from the first at that time on, up to the last before that time. Conflict(nothing_happened).
        """
        allow(who, "audit.read")
        return await off_loop(self._executor, self._export, who, since, until)

    async def exported(self, who: Caller, first: int, number: int, digest: str) -> None:
        """Record that these events were given out, and are where whoever asked wants them."""
        allow(who, "audit.read")
        await off_loop(self._executor, self._store.note_audit_export, who.tenant_id, who.user_id, first, number, digest)

    async def checkpoint(self, who: Caller) -> tuple[Reach, str]:
        """Return a signed statement of how far the trail reaches now, which is to be kept elsewhere, and the public key."""
        allow(who, "audit.read")
        return await off_loop(self._executor, self._checkpoint, who)

    async def key(self, who: Caller) -> str:
        """Return the public half of the key that signs the tenant's events: Ed25519, in Base64."""
        allow(who, "audit.read")
        return await off_loop(self._executor, self._public_key, who)

    async def prune(self, who: Caller, before: datetime) -> tuple[int, int]:
        """Delete exported events from before a time; returns how many, and the number of the first one kept."""
        allow(who, "audit.prune")
        return await off_loop(self._executor, self._prune, who, before)

    async def refused(self, who: Caller, problem: Problem, method: str, what: str) -> None:
        """Record that a request was refused for what the caller may not do, or for what forbids it; boundedly.

        Reading what is not there is no event.
        """
        if problem.status not in _REFUSED or (method == "GET" and problem.status != 403):
            return
        unrecorded = self._refusals.take(who.user_id)
        if unrecorded is None:
            return
        detail = {"code": problem.code, "request": f"{method} {what}"[:_LONGEST_WHAT]}
        if unrecorded:
            detail["unrecorded_before"] = str(unrecorded)
        # Whoever is refused hears that, whether or not it can be recorded.
        with contextlib.suppress(Problem):
            await off_loop(self._executor, self._store.note_refusal, who.tenant_id, who.user_id, detail)

    def _ids(self, who: Caller, user: str | None, server: str | None, keypair: str | None) -> tuple[str | None, ...]:
        """Return the ids of a user, a server and a key pair that are given by name, where they still are there."""

        def id_of(find: Callable[[str], User | Server | KeyPair], given: str | None) -> str | None:
            if given is None:
                return None
            try:
                return find(given).id
            except NotFound:
                return given

        return (
            id_of(partial(self._store.user, who.tenant_id), user),
            id_of(partial(self._store.server, who.tenant_id), server),
            id_of(partial(self._store.keypair, who.tenant_id, who.user_id), keypair),
        )

    def _export(self, who: Caller, since: datetime | None, until: datetime | None) -> Export:
        public_key = self._public_key(who)
        reached = self._store.reach(who.tenant_id)
        first = reached.first if since is None else max(reached.first, self._store.last_before(who.tenant_id, since) + 1)
        number = reached.number if until is None else self._store.last_before(who.tenant_id, until)
        if number < first:
            raise Conflict("nothing_happened", "there are no events of that time")
        self._store.add_checkpoint(who.tenant_id)
        kept = [each for each in self._store.checkpoints(who.tenant_id) if first <= each.number <= number]
        return Export(self._store.slice(who.tenant_id, first, number), public_key, kept)

    def _checkpoint(self, who: Caller) -> tuple[Reach, str]:
        public_key = self._public_key(who)
        made = self._store.add_checkpoint(who.tenant_id)
        if made is None:
            raise Conflict("trail_unproved", "the end of the trail is not signed; run kps audit verify")
        return made, public_key

    def _public_key(self, who: Caller) -> str:
        self._keys.prepare(who.tenant_id)
        found = self._store.audit_key(who.tenant_id)
        if found is None:
            raise Unavailable("audit_key_missing", "the key that signs the events is not there; run kps audit verify")
        return found[0]

    def _prune(self, who: Caller, before: datetime) -> tuple[int, int]:
        number = self._store.last_before(who.tenant_id, before)
        # The newest event stays: what is kept has a beginning and an end.
        number = min(number, self._store.reach(who.tenant_id).number - 1)
        deleted = self._store.prune_events(who.tenant_id, who.user_id, number)
        return deleted, self._store.reach(who.tenant_id).first
