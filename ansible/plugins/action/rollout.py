# SPDX-License-Identifier: Apache-2.0
"""Starts a rollout and waits for it, or changes how one goes on."""

from __future__ import annotations

import time

from ansible_collections.kps.fleet.plugins.module_utils.controller import Refused, segment
from ansible_collections.kps.fleet.plugins.plugin_utils.asking import Asking
from ansible_collections.kps.fleet.plugins.plugin_utils.orders import lines_of

OPERATIONS = ["bind", "replace", "unbind", "check", "password-login-enable", "password-login-disable"]
# From which states a rollout is brought to one that was asked for, and by which call.
STEPS = {
    "paused": ("pause", ("running",)),
    "resumed": ("resume", ("paused", "stopped")),
    "cancelled": ("cancel", ("running", "paused", "stopped")),
    "retried": ("retry", ("stopped", "finished", "paused", "running")),
}
# The reason of the one pause that is no trouble, in the controller's words: somebody wanted to look after the first servers.
CANARY_ENDED = "the canary has ended well; look at it, and resume"
LOOK_AGAIN_SECONDS = 1
LOST_SECONDS = 120


class ActionModule(Asking):
    SPEC = {
        "id": {"type": "str"},
        "state": {"type": "str", "choices": ["started", *STEPS], "default": "started"},
        "operation": {"type": "str", "choices": OPERATIONS},
        "servers": {"type": "list", "elements": "str", "default": []},
        "all": {"type": "bool", "default": False},
        "keypair": {"type": "str"},
        "login": {"type": "str"},
        "options": {"type": "dict", "default": {}},
        "strategy": {"type": "dict", "default": {}},
        "credentials": {"type": "dict", "default": {}, "no_log": True},
        "credential_hours": {"type": "float"},
        "cause": {"type": "str"},
        "wait_seconds": {"type": "int", "default": 3600},
    }
    RULES = {
        "required_if": [("state", "started", ("operation",)), *(("state", state, ("id",)) for state in STEPS)],
    }

    def answer(self, controller, asked):
        if asked["state"] == "started":
            return self._started(controller, asked)
        path = f"/rollouts/{segment(asked['id'])}"
        now = controller.ask("GET", path)
        step, begins = STEPS[asked["state"]]
        if now["state"] not in begins or (step == "retry" and not self._failed(controller, path, asked["cause"])):
            return {"changed": False, "rollout": now}
        if self.looks_only:
            return {"changed": True, "rollout": now}
        body = None
        if step in ("resume", "retry"):
            body = {"credentials": asked["credentials"], "credential_hours": asked["credential_hours"]}
        if step == "retry":
            body["cause"] = asked["cause"]
        controller.ask("POST", f"{path}/{step}", body=body)
        if step in ("pause", "cancel"):
            return {"changed": True, "rollout": controller.ask("GET", path)}
        return {**self._told(controller, path, asked["wait_seconds"]), "changed": True}

    def _started(self, controller, asked):
        body = {**asked["options"], "operation": asked["operation"]}
        names = ("servers", "all", "keypair", "login", "strategy", "credentials", "credential_hours")
        body.update({name: asked[name] for name in names if asked[name]})
        if self.looks_only:
            return self._looked(controller, body, asked["wait_seconds"])
        started = controller.ask("POST", "/rollouts", body=body)
        if not asked["wait_seconds"]:
            return {"changed": True, "rollout": started}
        return self._told(controller, f"/rollouts/{segment(started['id'])}", asked["wait_seconds"])

    def _looked(self, controller, body, seconds):
        """Return what would change: each server is looked at, as a plan of the controller's."""
        planned = controller.ask("POST", "/rollouts", body={**body, "plan": True})
        path = f"/rollouts/{segment(planned['id'])}"
        self._ended(controller, path, seconds or 3600)
        looks = controller.pages(f"{path}/plan/servers", (), "position")
        result = {"changed": any(each["changes"] for each in looks), "servers": looks}
        if self.shows_diff:
            result["diff"] = [
                {"before_header": each["server"], "after_header": each["server"], "prepared": text}
                for each in looks
                for text in lines_of(each)
            ]
        return result

    def _told(self, controller, path, seconds):
        """Return how a rollout has ended, or why it goes on no further."""
        ended = self._ended(controller, path, seconds)
        servers = controller.pages(f"{path}/servers", (), "position")
        result = {"changed": any(each["status"] == "succeeded" for each in servers), "rollout": ended, "servers": servers}
        if cause := cause_of(ended, servers):
            failed = sum(each["status"] == "failed" for each in servers)
            reason = ended["reason"] or "not every server is as asked"
            report = controller.ask("GET", f"{path}/report")
            result.update(
                failed=True,
                cause=cause,
                msg=f"the rollout {ended['id']} is {ended['state']}: {reason}; {failed} failed",
                evidence={name: report[name] for name in ("causes", "held", "not_done", "failed_by")},
            )
        return result

    def _ended(self, controller, path, seconds):
        until = time.monotonic() + seconds
        lost_since = None
        while time.monotonic() < until:
            try:
                now = controller.ask("GET", path)
                if now["state"] != "running":
                    return now
                lost_since = None
            except Refused as refused:
                # It goes on when the controller does.
                lost_since = lost_since or time.monotonic()
                gone = refused.code == "controller_unreachable" or refused.status == 503
                if not gone or time.monotonic() - lost_since > LOST_SECONDS:
                    raise
            # A rollout takes minutes to days, and has no call that waits for its end: it is looked at again.
            time.sleep(LOOK_AGAIN_SECONDS)
        raise Refused(
            "rollout_not_ended", f"the rollout has not ended within {seconds} s; it goes on by itself", evidence={"path": path}
        )

    def _failed(self, controller, path, cause):
        servers = controller.pages(f"{path}/servers", (), "position")
        return [each for each in servers if each["status"] == "failed" and cause in (None, each["cause"])]


def cause_of(rollout, servers):
    """Return why a rollout that does not run fails the task, or None where all is as asked or the canary waits for a look."""
    if all(each["status"] in ("succeeded", "unchanged") for each in servers):
        return None
    if rollout["state"] != "paused":
        return "rollout_failed"
    well = rollout["reason"] == CANARY_ENDED and not any(each["status"] == "failed" for each in servers)
    return None if well else "rollout_paused"
