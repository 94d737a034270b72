"""How a key shows that it gets in, and why one does not."""

import asyncio
import os
from typing import Any

from controller import diagnosis, order
from controller.entrance import Entrance, Inside
from controller.order import Way
from controller.run.job import ONLY_LOOK, Job
from controller.run.keys import line_given, private_half, private_of
from controller.transport import proof
from controller.transport.connect import Target
from kpsagent.errors import Refused, Stop

_LOOK_AGAIN_SECONDS = 20.0


async def nothing_gets_in(job: Job, target: Target, refused: Refused) -> None:
    """Put what can be known from outside into the evidence of a way in that was refused."""
    if refused.cause == "session_disturbed":
        fails = {"code": "session_fails", "kind": "session", "message": refused.message, "seen": dict(refused.evidence)}
        refused.evidence["findings"] = diagnosis.told([fails], **_about(job))
    elif refused.cause in ("key_refused", "key_mismatch"):
        login = str(refused.evidence.get("login") or job.task.login)
        found, facts = await diagnosis.outside(target, login)
        refused.evidence.update({"findings": found, "outside": facts} if found else {})


async def explained(job: Job, target: Target, entrance: Entrance, inside: Inside, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with the findings of a diagnosis: of the key that a check is about, or of what has failed."""
    plan, failed = job.order.plan, result["status"] == "failed"
    result["findings"] = diagnosis.told(result["findings"], **_about(job))
    if plan["operation"] == "check":
        if plan["repair"]:
            return await _repaired(job, entrance, inside, result)
        return result if failed else await _keys_shown(job, target, entrance, inside, result)
    tells = result["cause"] in diagnosis.EXPLAINED or diagnosis.ended(result["evidence"] or {}) == "taken"
    if failed and tells and not result["findings"] and plan["operation"] not in ONLY_LOOK:
        line = order.bare(str(plan["key"])) if plan.get("key") else ""
        found = await _looked_again(job, entrance, inside, line, as_if_listed=plan["operation"] in ("bind", "replace"))
        result["findings"] = diagnosis.believed(found, diagnosis.ended(result["evidence"] or {}))
    return result


async def _repaired(job: Job, entrance: Entrance, inside: Inside, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a repair with what is left to be found after it."""
    method = next((each["method"] for each in result["proofs"] if each["way"] == "key"), "")
    result["findings"] = diagnosis.believed(result["findings"], method) if method else result["findings"]
    if result["cause"] == "new_key_refused":
        result["cause"] = "key_refused"
    # One that was refused, for want of a tool or of rights, says so itself.
    if result["status"] == "failed" and result["server_state"] != "as_before":
        result["message"] = _reason(result) or result["message"]
    return result


async def _keys_shown(job: Job, target: Target, entrance: Entrance, inside: Inside, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with how the key asked about, and the one on record for the login, have shown that they get in.

    Without either the way by which we came is what was shown. Refused where one does not get in, with the findings of why.
    """
    came_by, diagnosed, found = inside.way, job.order.plan["diagnose"], result["findings"]
    lines = lines_to_show(job)
    result["proofs"] = []
    if not lines and came_by.by != "password":
        result["proofs"] = [{"way": "key", "login": came_by.login, "method": "logged_in"}]
    for line in lines:
        if line != diagnosed:
            found = await _looked_again(job, entrance, inside, line, as_if_listed=False)
        answer = await key_shown(job, target, line, came_by)
        method = str(answer.get("method") or diagnosis.ended(answer["evidence"]))
        kept = diagnosis.believed(found, method)
        reasons = diagnosis.keeps_out(kept)
        if "cause" in answer or reasons:
            raise _not_shown(job, answer, method, found, reasons)
        result["proofs"].append({"way": "key", "login": job.task.login, "method": method})
        result["findings"] = kept
    return result


def _not_shown(
    job: Job, answer: dict[str, Any], method: str, found: list[dict[str, Any]], reasons: list[dict[str, Any]]
) -> Refused:
    """Return why a check fails, with what was found of it; a cause that has nothing to do with the key needs no diagnosis."""
    evidence = dict(answer["evidence"])
    cause = "session_disturbed" if method in ("let_in", "accepted") else str(answer["cause"])
    cause = "key_refused" if cause == "new_key_refused" else cause
    if cause == "connection_closed" and (method == "taken" or any(each["kind"] == "session" for each in found)):
        method = "taken"
        cause = diagnosis.explained(found, method, **_about(job))[0]["cause"] or cause
    if cause in diagnosis.EXPLAINED:
        evidence["findings"] = diagnosis.explained(found, method, **_about(job))
    if "cause" in answer:
        return Refused(cause, _reason(evidence) or str(answer["message"]), **evidence)
    return Refused(cause, f"sshd would take the key, and then: {reasons[0]['message']}", **evidence)


def lines_to_show(job: Job) -> list[str]:
    """The key that a check is about, and with one that was only given the one on record for the login."""
    lines = [job.order.plan.get("diagnose") or ""]
    here = next((each.keypair for each in job.order.bound if each.binding.login == job.task.login), None)
    if here is not None and not (job.task.request.get("keypair_id") or job.task.request.get("public_key")):
        lines.append(order.bare(here.line))
    return list(dict.fromkeys(line for line in lines if line))


async def key_shown(job: Job, target: Target, line: str, came_by: Way | None) -> dict[str, Any]:
    """Return how a key has shown that it gets the login in (method), or why it does not (cause, message, evidence)."""
    login = job.task.login
    if came_by is not None and came_by.login == login and came_by.by != "password":
        came_with = came_by.keypair.line if came_by.keypair is not None else line_given(job)
        if order.same(came_with, line):
            return {"method": "logged_in"}
    private = await private_of(job, line)
    if private is None:
        ours = [each.keypair for each in job.order.bound if not each.strangers]
        known = next((each for each in ours if order.same(each.line, line)), None)
        private = await private_half(job, known) if known is not None and known.managed else None
    if private is not None:
        return {"evidence": {}} | await proof.key_logs_in(target, login, line, private, os.devnull)
    return {"evidence": {}} | await proof.key_accepted(target, login, line)


async def _looked_again(job: Job, entrance: Entrance, inside: Inside, line: str, *, as_if_listed: bool) -> list[dict[str, Any]]:
    """Return the findings of a second look, for one more key or for why something failed; none where it cannot be had."""
    plan = job.look(diagnose=line, as_if_listed=as_if_listed)
    try:
        async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
            found = await entrance.look_again(inside, plan)
    except (Stop, TimeoutError):
        return []  # what failed has its own cause
    return diagnosis.told(found["findings"], **_about(job))


def _about(job: Job) -> dict[str, str]:
    """Return what findings name."""
    return {"SERVER": job.server.name, "LOGIN": job.task.login}


def _reason(known: dict[str, Any]) -> str:
    """Return what keeps the key out, where that was found: it says more than that a login has failed."""
    reasons = diagnosis.keeps_out(known.get("findings") or [])
    return str(reasons[0]["message"]) if reasons else ""
