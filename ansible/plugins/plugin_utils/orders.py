# SPDX-License-Identifier: Apache-2.0
"""An operation on one server: looked at, carried out and waited for; and its task as the result of an Ansible task."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import Refused
from ansible_collections.kps.fleet.plugins.plugin_utils import runs

NOT_MADE_YET = ("server_not_found", "keypair_not_found")
TOLD = ("cause", "evidence", "handling", "server_state", "retryable")


def carry_out(action, controller, operation, server, options, credential, seconds):
    """Return the result of an operation on one server.

    In check mode it is planned and not done: what would change is what the controller saw on the server now. In diff mode it is
    planned first, for the lines.
    """
    order = {"operation": operation, "servers": [server]}
    order.update({name: value for name, value in options.items() if value not in (None, False, [])})
    if credential:
        order["credentials"] = {server: credential}
    result = {}
    if action.looks_only or action.shows_diff:
        try:
            (planned,) = controller.ask("POST", "/plans", body=order)
        except Refused as refused:
            # What an earlier task of a play would have made is not there to be looked at.
            if action.looks_only and operation == "bind" and refused.code in NOT_MADE_YET:
                return {"changed": True, "msg": f"{refused.message}; in check mode this counts as a change"}
            raise
        planned = controller.ended(planned["id"], seconds)
        plan = (planned["evidence"] or {}).get("plan")
        if plan is None or planned["status"] == "failed":
            return of_task(planned)
        if action.shows_diff:
            result["diff"] = [{"prepared": text} for text in lines_of(plan)]
        result["plan"] = plan
        if action.looks_only:
            return {**result, "changed": bool(plan["changes"]), "task": planned}
    (task,) = controller.ask("POST", "/operations", body=order)
    ended = controller.ended(task["id"], seconds)
    runs.forget(server)
    return {**result, **of_task(ended)}


def of_task(task):
    """Return what a task that has ended means to Ansible: a failed one with its cause, what was seen, and what to do."""
    result = {"task": task, "changed": task["status"] == "succeeded"}
    if task["status"] in ("failed", "cancelled"):
        # What was undone has changed nothing; of what nobody knows it is not said that it did not.
        result["changed"] = task["server_state"] in ("partial", "unknown")
        result["failed"] = True
        result["msg"] = ". ".join(part for part in (task["message"] or task["status"], task["handling"]) if part)
        result.update({name: task[name] for name in TOLD})
    return result


def lines_of(plan):
    """Return the changes of a plan as people read them, one text for each."""
    found = []
    for change in plan["changes"]:
        if change.get("diff"):
            found.append("\n".join(change["diff"]) + "\n")
        else:
            before = f"{change['before']} -> " if change.get("before") else ""
            found.append(f"{change['kind']} {change.get('path', '')}: {before}{change.get('after', '')}\n")
    return found
