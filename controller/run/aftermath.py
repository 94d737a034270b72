"""How an operation ended whose end nobody heard: the server knows, and is asked."""

import asyncio
from datetime import timedelta
from typing import Any

from controller.entrance import Entrance
from controller.model import ServerState
from controller.run.job import Job
from controller.run.preparing import prepare
from controller.run.road import entrance_to, hops_to, reached
from controller.transport import proof
from controller.transport.connect import NotConnected, Target
from controller.transport.frames import Result
from kpsagent.errors import Failed, Stop

_SETTLE_SECONDS = 8.0
# What a server's journal says of an operation that has ended, in our words.
_SERVER_STATES = {"reverted": "reverted", "partial": "partial", "succeeded": "as_asked", "unchanged": "as_asked"}


async def settled(job: Job, entrance: Entrance, lost: Failed) -> dict[str, Any]:
    """The rope is gone: ask the server itself, over a new connection, how it ended. It knows; we do not."""
    loop = asyncio.get_running_loop()
    until = loop.time() + min(_SETTLE_SECONDS, 2 * job.means.settings.connect_timeout_seconds)
    why: Stop = lost
    while True:
        try:
            inside = await entrance.enter(job.look())
            try:
                said = [frame async for frame in inside.frames if isinstance(frame, Result)]
            finally:
                inside.connection.close()
            if said and said[0].cause != "busy":
                rebooted, job.record.boot = inside.boot != job.record.boot, inside.boot
                return _from_journal(job, said[0].model_dump(), lost, rebooted)
        except Stop as stop:
            why = stop
        if loop.time() > until:
            break
        await asyncio.sleep(0.3)
    gone = why.cause in ("connection_refused", "connection_timed_out")
    cause = "server_shut_down" if gone else "connection_lost"
    message = f"{job.server.name}: {'it went away' if gone else 'the connection was lost'} in the middle; {why.message}"
    return {"status": "failed", "server_state": "unknown", "cause": cause, "message": message, "phase": job.phase}


def _from_journal(job: Job, said: dict[str, Any], lost: Failed, rebooted: bool) -> dict[str, Any]:
    told = said.get("recovered") or said.get("last") or {}
    ended = told.get("result") if told.get("operation") == job.task.id else None
    if ended in ("succeeded", "unchanged") and job.prover is not None and not job.prover.missing():
        return dict(said, status="succeeded", server_state="as_asked", phase="done", proofs=job.prover.proofs)
    if said.get("cause") == "undo_incomplete":
        return dict(said, server_state="partial", phase="undo")
    cause = "server_rebooted" if rebooted else lost.cause
    message = f"{job.server.name}: {'it was rebooted in the middle' if rebooted else lost.message}"
    knows_nothing = "unknown" if job.touched or said.get("last") is None else "as_before"
    state = ended if ended in ("reverted", "partial") else knows_nothing
    found = {"status": "failed", "server_state": state, "cause": cause, "message": message, "phase": job.phase}
    # What was revoked is gone, and the new key has its proof; that the old one is refused has none.
    return found | {"removed": [], "proofs": job.prover.proofs} if state == "partial" and job.prover is not None else found


async def told_by_server(job: Job) -> tuple[ServerState, dict[str, Any]] | None:
    """Return how this task, of which nobody heard the end, left the server, and what changes in the inventory with that.

    None where that cannot be told: nothing that is known gets in, or the server is not through with its undo.
    """
    await prepare(job)
    if not job.order.ways:
        return None
    async with reached(job, await hops_to(job)) as target:
        return await _told_at(job, target)


async def _told_at(job: Job, target: Target) -> tuple[ServerState, dict[str, Any]] | None:
    """Return the same, from the server itself."""
    entrance = entrance_to(job, target)
    newest = max(job.task.generation, job.server.generation)
    try:
        inside = await entrance.enter(job.look(generation=newest, ended=job.task.generation))
    except NotConnected as refused:
        if refused.cause != "key_refused" or await proof.password_offered(target, job.task.login) is not True:
            raise
        return _seen_from_outside(job, refused)
    try:
        said = [frame async for frame in inside.frames if isinstance(frame, Result)]
    finally:
        inside.connection.close()
    if not said or said[0].status == "failed":
        return None
    job.record.boot = inside.boot
    return job.record.told(said[0].model_dump(), inside.as_root)


def _seen_from_outside(job: Job, refused: NotConnected) -> tuple[ServerState, dict[str, Any]]:
    """Return what it says that the only key on record is refused while passwords are asked for; if nothing, raise refused."""
    if job.without_key and job.task.operation == "bind":
        # The undo takes away what was to be bound last of all, and an agent whose rope has ended adds it no more.
        return "reverted", {}
    ended = job.task.finished_at
    is_past = ended is not None and job.means.store.now() > ended + timedelta(seconds=job.means.settings.deadline_seconds)
    only_this = all(way.login == job.task.login for way in job.order.ways)
    if job.task.operation == "unbind" and only_this and is_past:
        # What was removed and not committed would be back by now.
        return "as_asked", {"unbind": (job.server.id, job.task.login)}
    raise refused


async def settle_others(job: Job, result: dict[str, Any]) -> None:
    """Earlier tasks whose end nobody heard: the server has just told what became of the last of them."""
    for told in (result.get("recovered"), result.get("last")):
        if not isinstance(told, dict) or told.get("operation") == job.task.id:
            continue
        state = _SERVER_STATES.get(str(told.get("result")))
        # An undo that had got stuck, and now was gone on with, or has come to its end there meanwhile.
        through = told is result.get("recovered") or state == "reverted"
        open_ones = ("unknown", "partial") if through else ("unknown",)
        for other in await job.means.off(job.means.store.tasks, job.task.tenant_id, server_id=job.server.id):
            if state and other.id == told.get("operation") and other.server_state in open_ones and other.status == "failed":
                await job.means.off(job.means.store.settle, other.id, state)
