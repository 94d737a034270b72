# SPDX-License-Identifier: Apache-2.0
"""Puts a key pair on a login of a server, another in its place, or takes it away."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import segment
from ansible_collections.kps.fleet.plugins.plugin_utils.asking import CREDENTIAL, WAIT, Asking, credential_of
from ansible_collections.kps.fleet.plugins.plugin_utils.orders import carry_out

OPERATIONS = {"present": "bind", "replaced": "replace", "absent": "unbind"}
# Which options mean something to which operation: the controller refuses the others, rather than pass them over.
OPTIONS = {
    "keep_password_login": {"type": "bool", "default": False},
    "close_password_login": {"type": "bool", "default": False},
    "accept_lockout": {"type": "list", "elements": "str", "default": []},
    "accept_unproved": {"type": "bool", "default": False},
    "fix_permissions": {"type": "bool", "default": False},
    "take_over": {"type": "bool", "default": False},
    "revoke": {"type": "bool", "default": False},
    "everywhere": {"type": "bool", "default": False},
    "end_sessions": {"type": "bool", "default": False},
}


class ActionModule(Asking):
    SPEC = {
        "server": {"type": "str"},
        "login": {"type": "str"},
        "keypair": {"type": "str"},
        "state": {"type": "str", "choices": list(OPERATIONS), "default": "present"},
        **OPTIONS,
        **CREDENTIAL,
        **WAIT,
    }
    RULES = {"required_if": [("state", "present", ("keypair",)), ("state", "replaced", ("keypair",))]}

    def answer(self, controller, asked):
        server = self.named(asked["server"])
        operation = OPERATIONS[asked["state"]]
        options = {name: asked[name] for name in OPTIONS}
        options["login"] = asked["login"]
        if operation == "unbind":
            found = controller.ask("GET", f"/servers/{segment(server)}")
            login = asked["login"] or found["login"]
            bound = [each for each in found["bindings"] if each["login"] == login]
            if not bound or (asked["keypair"] and bound[0]["keypair"] != asked["keypair"]):
                return {"changed": False}
        else:
            options["keypair"] = asked["keypair"]
        return carry_out(self, controller, operation, server, options, credential_of(asked), asked["wait_seconds"])
