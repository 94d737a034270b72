# SPDX-License-Identifier: Apache-2.0
"""Lists rollouts."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import segment
from ansible_collections.kps.fleet.plugins.plugin_utils.info import Listing


class ActionModule(Listing):
    LISTED = "rollouts"
    SPEC = {"id": {"type": "str"}}

    def listed(self, controller, asked):
        if asked["id"]:
            return [controller.ask("GET", f"/rollouts/{segment(asked['id'])}/report")]
        return controller.ask("GET", "/rollouts")
