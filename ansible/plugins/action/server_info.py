# SPDX-License-Identifier: Apache-2.0
"""Lists servers."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import segment
from ansible_collections.kps.fleet.plugins.plugin_utils.info import Listing
from ansible_collections.kps.fleet.plugins.plugin_utils.states import found_or_none


class ActionModule(Listing):
    LISTED = "servers"
    SPEC = {"name": {"type": "str"}, "select": {"type": "list", "elements": "str"}}
    RULES = {"mutually_exclusive": [("name", "select")]}

    def listed(self, controller, asked):
        if asked["name"]:
            one = found_or_none(controller, f"/servers/{segment(asked['name'])}")
            return [one] if one else []
        return controller.pages("/servers", [("select", word) for word in asked["select"] or ()])
