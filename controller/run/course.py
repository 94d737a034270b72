"""The course of a task, top to bottom: get in, hand the plan to the agent, have its end explained and believed."""

import asyncio
from dataclasses import replace
from typing import Any

from controller import passwords
from controller.model import DOOR_OPERATIONS, Outcome
from controller.order import Way
from controller.run.aftermath import settle_others, settled
from controller.run.carrying import first_plan, if_as_planned, on_disk, on_server, with_lockouts
from controller.run.job import Job
from controller.run.preparing import prepare, refuse_under_rule
from controller.run.road import entrance_to, hops_to, reached
from controller.run.showing import explained, key_shown, lines_to_show, nothing_gets_in
from controller.transport import proof
from controller.transport.connect import NotConnected, Target
from kpsagent.errors import Failed, Refused

_MOST_DETOURS = 3
_NOT_REACHED = (
    "name_not_resolved", "connection_refused", "connection_timed_out", "connection_closed", "jump_unreachable", "jump_refused",
    "jump_forbids_forwarding",
)  # fmt: skip
_NOT_LET_IN = ("key_refused", "key_mismatch", "credential_needed")


async def done(job: Job) -> tuple[Outcome, dict[str, Any]]:
    """Return how it ended, and what changes in the inventory with it."""
    await prepare(job)
    if job.task.operation == "reset":
        await refuse_under_rule(job, job.server)
        return job.record.concluded(await on_disk(job))
    if job.new_password is not None:
        if not job.order.ways and job.lost is None:
            job.given = await passwords.entering(job.task, job.means.off, job.means.store, job.means.kms)
            await prepare(job)
        job.order.plan["password_hash"] = await asyncio.to_thread(passwords.hashed, job.new_password)
    try:
        async with reached(job, await hops_to(job)) as target:
            return await online(job, target)
    except NotConnected as refused:
        if job.task.operation not in DOOR_OPERATIONS or job.handed_over or refused.cause not in _NOT_REACHED:
            raise
        return await _by_detour(job, refused)


async def _by_detour(job: Job, refused: NotConnected) -> tuple[Outcome, dict[str, Any]]:
    """Do the same through other jump servers than its own: in an emergency that way may be the one that is broken.

    Only while no agent has the order: it is not given twice.
    """
    tried = [{"via": "its own way", "cause": refused.cause}]
    own = {job.server.id, *job.server.jumps}
    for jump in (each for each in await job.means.off(job.means.store.jump_servers, job.task.tenant_id) if each.id not in own):
        if len(tried) > _MOST_DETOURS:
            break
        job.server, job.road = replace(job.server, jumps=[jump.id]), []
        try:
            hops = await hops_to(job)
        except ValueError:  # it would be reached through the server itself
            continue
        try:
            async with reached(job, hops) as target:
                outcome, changes = await online(job, target)
        except NotConnected as again:
            tried.append({"via": jump.name, "cause": again.cause})
            if job.handed_over:
                again.evidence["paths"] = tried
                raise
            continue
        return replace(outcome, evidence={**outcome.evidence, "paths": [*tried, {"via": jump.name, "cause": ""}]}), changes
    refused.evidence["paths"] = tried
    raise refused


async def online(job: Job, target: Target) -> tuple[Outcome, dict[str, Any]]:
    """Return the same for a server that is up."""
    await refuse_under_rule(job, replace(job.server, host_key=target.host_key))
    if not job.order.ways:
        if job.lost is not None:
            raise job.lost
        return await _from_outside(job, target)
    entrance = entrance_to(job, target)
    try:
        inside = await entrance.enter(first_plan(job))
    except Refused as refused:
        if job.lost is not None and refused.cause in _NOT_LET_IN:
            raise job.lost from refused
        if isinstance(refused, NotConnected) and job.without_key and refused.cause == "key_refused":
            return await _from_outside(job, target)
        await nothing_gets_in(job, target, refused)
        raise
    job.record.boot = inside.boot
    try:
        if job.as_planned is not None:
            inside = await if_as_planned(job, entrance, inside)
        result = await on_server(job, target, inside)
        result = await with_lockouts(job, target, entrance, inside, result)
        result = await explained(job, target, entrance, inside, result)
    except Failed as lost:
        if lost.cause != "connection_lost":
            raise
        inside.connection.abort()
        if job.prover is not None and _may_be_bound(job):
            entrance.try_first(Way(job.task.login, job.order.keypair, "custody"))
        result = await settled(job, entrance, lost)
    finally:
        inside.connection.close()
    await settle_others(job, result)
    return job.record.concluded(result)


def _may_be_bound(job: Job) -> bool:
    """Whether the key pair that is to be bound may be the only one that gets in, if an end was not heard."""
    keypair = job.order.keypair
    return job.task.operation in ("bind", "replace") and keypair is not None and keypair.managed


async def _from_outside(job: Job, target: Target) -> tuple[Outcome, dict[str, Any]]:
    """What can be told of a server for which nothing is known that gets in; only looking is possible."""
    if job.task.operation not in ("check", "password-login-status"):
        strangers = any(each.strangers for each in job.order.bound)
        known = "only another user's private key pair is bound there" if strangers else "no managed key is bound there"
        raise Refused(
            "credential_needed",
            f"{job.server.name}: {known}; give a password (--password-stdin) or a key (--identity)",
        )
    offered = await proof.password_offered(target, job.task.login)
    if isinstance(offered, dict):
        raise Refused(str(offered["cause"]), str(offered["message"]), **offered.get("evidence", {}))
    proofs = []
    for line in lines_to_show(job) if job.task.operation == "check" else []:
        answer = await key_shown(job, target, line, None)
        if "cause" in answer:
            cause = "key_refused" if answer["cause"] == "new_key_refused" else str(answer["cause"])
            refused = Refused(cause, str(answer["message"]), **answer["evidence"])
            await nothing_gets_in(job, target, refused)
            raise refused
        proofs.append({"way": "key", "login": job.task.login, "method": str(answer["method"])})
    # That sshd asks for a password does not say that one gets in.
    state = "unknown" if offered else "off"
    outcome = Outcome(
        "unchanged",
        "as_asked",
        message=f"{job.server.name}: seen from outside only; give a password or a key to look inside",
        evidence={"logins": {job.task.login: state}, "password_offered": offered},
        proofs=proofs,
    )
    return outcome, job.record.notes(state if job.task.login == job.server.login else None)
