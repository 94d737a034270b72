"""The agent at work: its questions are answered until it says how it ended, and its word is believed with proofs alone."""

import asyncio
from functools import partial
from typing import Any

from passlib.hash import sha512_crypt

from controller import seen
from controller.causes import CAUSES
from controller.entrance import Entrance, Inside
from controller.order import UNNAMED_LOCKOUT
from controller.prover import Prover
from controller.run.job import ONLY_LOOK, Job
from controller.run.keys import private_of
from controller.transport import at_rest
from controller.transport.connect import Target
from controller.transport.frames import Ask, Reached, Result
from kpsagent.errors import Failed, Refused


def first_plan(job: Job) -> dict[str, Any]:
    return job.order.plan if job.as_planned is None else job.order.plan | {"only_plan": True}


async def if_as_planned(job: Job, entrance: Entrance, inside: Inside) -> Inside:
    """Look at the server, and return an agent with the plan itself where it is as it was when that was made.

    Refused: changed_since_plan, or why the order is refused as things are. Between this look and that of the next agent lies
    the start of one Python; who changes the server in that moment has changed it before the operation began.
    """
    job.phase = "look"
    async for frame in inside.frames:
        if isinstance(frame, Result):
            break
    else:
        raise Refused("connection_closed", f"{job.server.name}: the agent ended before it had looked")
    if frame.status == "failed":
        cause = frame.cause if frame.cause in CAUSES else "unexpected"
        raise Refused(str(cause), frame.message, **frame.evidence)
    if seen.digest(frame.model_dump()) != job.as_planned:
        changes = frame.plan.get("changes", [])
        paths = ", ".join(dict.fromkeys(str(each.get("path")) for each in changes)) or "nothing"
        told = f"it is not as it was when this was planned; what would be changed now ({paths}) is in the evidence"
        raise Refused("changed_since_plan", f"{job.server.name}: {told}", changes=changes)
    return await entrance.again(inside, job.order.plan)


async def on_server(job: Job, target: Target, inside: Inside) -> dict[str, Any]:
    """Answer the agent's questions until it says how it ended."""
    password = job.new_password or inside.password
    prover = job.prover = Prover(target, inside.plan, partial(private_of, job), password, job.means.measures)
    job.handed_over = True
    async for frame in inside.frames:
        if isinstance(frame, Result):
            return _believed(job, frame, prover)
        if isinstance(frame, Reached):
            job.touched = job.touched or bool(frame.detail.get("steps"))
            await job.still_ours(frame.phase, frame.detail)
        if isinstance(frame, Ask):
            await job.still_ours("prove", {"after": frame.phase})
            async with inside.rope.in_time():
                answers = await prover.answers(frame)
            await inside.rope.answer(answers)
    raise Failed("connection_lost", "the agent ended without a result")


async def with_lockouts(job: Job, target: Target, entrance: Entrance, inside: Inside, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of going on where only logins stood against it that are locked out, and these may be, unnamed.

    Once: who else is found the second time was not looked at, and stands against it.
    """
    logins = result.get("evidence", {}).get("logins")
    if result.get("cause") != "others_locked_out" or not job.task.request.get(UNNAMED_LOCKOUT):
        return result
    if not isinstance(logins, list) or not all(isinstance(each, str) for each in logins) or job.touched:
        return result
    # Asked now: whoever takes that back means the tasks that wait, too.
    if not (await job.means.off(job.means.store.tenant, job.task.tenant_id)).v3_accepts_lockout:
        return result
    # On record before anybody is locked out.
    if not await job.now_at("decide", {UNNAMED_LOCKOUT: logins}):
        raise Refused("interrupted", "the task was taken over by another process before anybody was locked out")
    job.order.plan["accept_lockout"] = logins
    result = await on_server(job, target, await entrance.again(inside, job.order.plan))
    said = f"accepted by the tenant's setting that these logins are locked out: {', '.join(logins)}"
    told = [str(result.get("message") or ""), said if result["status"] == "succeeded" else ""]
    evidence = (result.get("evidence") or {}) | {UNNAMED_LOCKOUT: logins}
    return dict(result, evidence=evidence, message="; ".join(each for each in told if each))


def _believed(job: Job, result: Result, prover: Prover) -> dict[str, Any]:
    """Return the agent's result with the proofs that we made. A success without them is none."""
    looks = job.task.operation in ONLY_LOOK or job.order.plan["only_plan"]
    missing = prover.missing() if result.status != "failed" and not looks else ""
    if missing:
        raise Failed("session_disturbed", f"the agent says it is done, but never had it proved {missing}")
    return dict(result.model_dump(), proofs=prover.proofs)


async def on_disk(job: Job) -> dict[str, Any]:
    """Run the agent on the disk of a server that is shut down, mounted on this machine."""
    root = str(job.task.request.get("root") or "")
    plan = dict(job.order.plan)
    if job.given is not None and job.given.password is not None:
        plan["password_hash"] = await asyncio.to_thread(sha512_crypt.hash, job.given.password.open())
    job.handed_over = True
    return await at_rest.run(root, plan)
