# SPDX-License-Identifier: Apache-2.0
"""Lists key pairs."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import segment
from ansible_collections.kps.fleet.plugins.plugin_utils.info import Listing
from ansible_collections.kps.fleet.plugins.plugin_utils.states import found_or_none


class ActionModule(Listing):
    LISTED = "keypairs"
    SPEC = {"name": {"type": "str"}}

    def listed(self, controller, asked):
        if asked["name"]:
            one = found_or_none(controller, f"/keypairs/{segment(asked['name'])}")
            return [one] if one else []
        return controller.pages("/keypairs")
