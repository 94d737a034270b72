# SPDX-License-Identifier: Apache-2.0
"""Opens or closes password login of a server."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.plugin_utils.asking import CREDENTIAL, WAIT, Asking, credential_of
from ansible_collections.kps.fleet.plugins.plugin_utils.orders import carry_out

OPERATIONS = {"enabled": "password-login-enable", "disabled": "password-login-disable"}
OPTIONS = ("login", "force", "accept_lockout", "accept_unproved")


class ActionModule(Asking):
    SPEC = {
        "server": {"type": "str"},
        "login": {"type": "str"},
        "state": {"type": "str", "choices": list(OPERATIONS), "required": True},
        "force": {"type": "bool", "default": False},
        "accept_lockout": {"type": "list", "elements": "str", "default": []},
        "accept_unproved": {"type": "bool", "default": False},
        **CREDENTIAL,
        **WAIT,
    }

    def answer(self, controller, asked):
        options = {name: asked[name] for name in OPTIONS}
        credential, seconds = credential_of(asked), asked["wait_seconds"]
        return carry_out(self, controller, OPERATIONS[asked["state"]], self.named(asked["server"]), options, credential, seconds)
