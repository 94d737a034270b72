# SPDX-License-Identifier: Apache-2.0
"""Lists tasks that failed."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.plugin_utils.info import Listing, of_these


class ActionModule(Listing):
    LISTED = "tasks"
    SPEC = {"server": {"type": "str"}, "cause": {"type": "str"}}

    def listed(self, controller, asked):
        return of_these(controller.pages("/tasks", [("failed", "true")], "number"), asked, "server", "cause")
