# SPDX-License-Identifier: Apache-2.0
"""Lists what is bound."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.plugin_utils.info import Listing, given


class ActionModule(Listing):
    LISTED = "bindings"
    SPEC = {"server": {"type": "str"}, "login": {"type": "str"}, "keypair": {"type": "str"}}

    def listed(self, controller, asked):
        query = given(asked, "server", "login", "keypair")
        # One server's are never parted, so of one they come in one answer.
        return controller.ask("GET", "/bindings", query) if asked["server"] else controller.pages("/bindings", query, "server")
