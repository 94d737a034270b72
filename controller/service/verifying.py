"""The trail verified, event by event, while everything else goes on: for pages, which cannot wait for it."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controller import kps_audit_verify as verifier
from controller.errors import Conflict, Invalid, Problem
from controller.model import Caller, now
from controller.service.audit import Audit
from controller.service.roles import allow
from controller.service.stopping import Stopping
from controller.service.trail import chained_event, export_header
from controller.store import Store

_AT_ONCE = 1000
_CHECKPOINT_CHARACTERS = 16 * 1024
Json = dict[str, Any]


@dataclass(slots=True)
class Verification:
    """One, as far as it is. found: what is well, once it is done; wrong: what is not."""

    by: str  # the user's id
    begun_at: datetime
    first: int
    number: int
    done: int = 0  # events
    ended_at: datetime | None = None
    found: Json | None = None
    wrong: str = ""
    wrong_at: int | None = None  # the number of the first event that is not as it was written
    key_given: bool = False
    kept: int | None = None  # the number of the checkpoint that was given
    work: "asyncio.Task[None] | None" = field(default=None, repr=False)


class _Ended(Exception):
    """the controller stops"""


class Verifications:
    """Verifies the trail of the caller's tenant: one at a time, and the last one is remembered while this process lives."""

    def __init__(self, store: Store, audit: Audit, stopping: Stopping, executor: Executor | None = None) -> None:
        self._store = store
        self._audit = audit
        self._stopping = stopping
        self._executor = executor
        self._of: dict[str, Verification] = {}
        # Not the loop's own threads: it takes a while, and the others are waited for.
        self._thread = ThreadPoolExecutor(1, "verify")

    async def close(self) -> None:
        """Wait for what is under way, which ends as soon as it sees that the controller stops; let go of the thread."""
        works = [each.work for each in self._of.values() if each.work is not None]
        if works:
            await asyncio.wait(works)
        self._thread.shutdown()

    def standing(self, who: Caller) -> Verification | None:
        """Return the tenant's last verification, or the one under way."""
        allow(who, "audit.read")
        return self._of.get(who.tenant_id)

    async def begin(self, who: Caller, key: str = "", checkpoint: str = "") -> Verification:
        """Begin to verify every event that there is now. key, checkpoint: what was kept elsewhere; "": this home is believed.

        Invalid(checkpoint_unreadable). Conflict: verifying_already, and what Audit.export() refuses.
        """
        allow(who, "audit.read")
        before = self._of.get(who.tenant_id)
        if before is not None and before.ended_at is None:
            raise Conflict("verifying_already", "the trail is being verified just now; wait until that has ended")
        kept = _checkpoint(checkpoint) if checkpoint else None
        made = await self._audit.export(who)
        # What stood here while the export was made has been another caller's.
        before = self._of.get(who.tenant_id)
        if before is not None and before.ended_at is None:
            raise Conflict("verifying_already", "the trail is being verified just now; wait until that has ended")
        begun = Verification(who.user_id, now(), made.reach.first, made.reach.number, key_given=bool(key))
        begun.kept = None if kept is None else kept["number"]
        self._of[who.tenant_id] = begun
        header = export_header(made)
        begun.work = asyncio.get_running_loop().create_task(self._verified(who.tenant_id, begun, header, key or None, kept))
        return begun

    async def _verified(self, tenant_id: str, begun: Verification, header: Json, key: str | None, kept: Json | None) -> None:
        def work() -> Json:
            events = self._events(tenant_id, begun)
            trail = verifier.Trail(tenant_id, "export", reach_of(header), header["public_key"], header["checkpoints"], events)
            return verifier.check(trail, key, kept)

        try:
            begun.found = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except verifier.Wrong as wrong:
            begun.wrong, begun.wrong_at = str(wrong), wrong.number
        except _Ended:
            begun.wrong = "the controller was stopped before the end; verify again"
        except Problem as problem:
            begun.wrong = problem.message
        except Exception as error:  # whatever it is, it was not verified
            begun.wrong = f"it could not be verified ({type(error).__name__})"
            raise
        finally:
            begun.ended_at = now()

    def _events(self, tenant_id: str, begun: Verification) -> Iterator[Json]:
        """Give the events, as an export has them. Runs in the thread of its own; the store is asked where all ask it."""
        last = begun.first - 1
        while last < begun.number:
            if self._stopping.begun:
                raise _Ended
            limit = min(_AT_ONCE, begun.number - last)
            if self._executor is None:
                found = self._store.trail(tenant_id, after=last, limit=limit)
            else:
                found = self._executor.submit(self._store.trail, tenant_id, after=last, limit=limit).result()
            for event in found:
                yield dict(chained_event(event), fault=None)
                begun.done += 1
            if not found:
                return  # what is missing is for the verifier to name
            last = found[-1].number


def reach_of(header: Json) -> Json:
    """Return the statement in the head of an export."""
    return {each: header[each] for each in (*verifier.REACH, "signature")}


def _checkpoint(text: str) -> Json:
    try:
        found = json.loads(text) if len(text) <= _CHECKPOINT_CHARACTERS else None
    except (ValueError, RecursionError):
        found = None
    said: Json = found if isinstance(found, dict) else {}
    whole = all(isinstance(said.get(each), str) for each in ("digest", "previous", "at"))
    if not whole or not all(type(said.get(each)) is int for each in ("first", "number")):
        raise Invalid("checkpoint_unreadable", "this is no checkpoint as kps audit checkpoint writes it")
    return said
