# SPDX-License-Identifier: Apache-2.0
"""Has tasks that failed tried once more, or takes them off the list."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import segment
from ansible_collections.kps.fleet.plugins.plugin_utils.asking import CREDENTIAL, WAIT, Asking, credential_of
from ansible_collections.kps.fleet.plugins.plugin_utils.info import of_these
from ansible_collections.kps.fleet.plugins.plugin_utils.orders import TOLD, of_task


class ActionModule(Asking):
    SPEC = {
        "ids": {"type": "list", "elements": "str"},
        "server": {"type": "str"},
        "cause": {"type": "str"},
        "state": {"type": "str", "choices": ["retried", "absent"], "required": True},
        **CREDENTIAL,
        **WAIT,
    }

    def answer(self, controller, asked):
        found = of_these(controller.pages("/tasks", [("failed", "true")], "number"), asked, "server", "cause")
        if asked["ids"] is not None:
            found = [task for task in found if task["id"] in asked["ids"]]
        if asked["state"] == "absent":
            return self._absent(controller, found)
        # One that was retried stays on the list: it is tried again only where what came of that failed too.
        known = {task["retry_of"] for task in controller.pages("/tasks", (), "number")}
        wanted = [task for task in found if task["id"] not in known and (task["retryable"] or asked["ids"])]
        if self.looks_only:
            return {"changed": bool(wanted), "tasks": wanted}
        body = {"credential": credential_of(asked) or None}
        begun = [controller.ask("POST", f"/tasks/{segment(task['id'])}/retry", body=body) for task in wanted]
        ended = [controller.ended(task["id"], asked["wait_seconds"]) for task in begun]
        results = [of_task(task) for task in ended]
        result = {"changed": any(each["changed"] for each in results), "tasks": ended}
        for failed in [each for each in results if each.get("failed")][:1]:
            result.update({name: failed[name] for name in ("failed", "msg", *TOLD)})
        return result

    def _absent(self, controller, found):
        if not self.looks_only:
            for task in found:
                controller.ask("DELETE", f"/tasks/{segment(task['id'])}")
        return {"changed": bool(found), "tasks": found}
