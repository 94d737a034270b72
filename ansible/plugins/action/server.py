# SPDX-License-Identifier: Apache-2.0
"""Takes a server into the controller's inventory, changes how it is reached, or takes it out."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import Refused, segment
from ansible_collections.kps.fleet.plugins.plugin_utils.asking import Asking
from ansible_collections.kps.fleet.plugins.plugin_utils.states import compared, found_or_none

CHANGEABLE = ("host", "port", "jump", "old_algorithms")
FIXED = ("login", "labels", "host_key")


class ActionModule(Asking):
    SPEC = {
        "name": {"type": "str"},
        "host": {"type": "str"},
        "port": {"type": "int"},
        "login": {"type": "str"},
        "labels": {"type": "dict"},
        "host_key": {"type": "str", "no_log": False},
        "trust_on_first_use": {"type": "bool", "default": False},
        "jump": {"type": "list", "elements": "str"},
        "old_algorithms": {"type": "list", "elements": "str"},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "force": {"type": "bool", "default": False},
    }

    def answer(self, controller, asked):
        name = self.named(asked["name"])
        path = f"/servers/{segment(name)}"
        before = found_or_none(controller, path)
        if asked["state"] == "absent":
            if before and not self.looks_only:
                controller.ask("DELETE", path, [("force", "true")] if asked["force"] else [])
            return compared(self, before, None)
        wanted = {each: asked[each] for each in CHANGEABLE + FIXED if asked[each] is not None}
        if "labels" in wanted:
            wanted["labels"] = {str(label): str(value) for label, value in wanted["labels"].items()}
        if before is None:
            return self._added(controller, name, wanted, asked["trust_on_first_use"])
        other = [each for each in FIXED if each in wanted and not _same(each, before[each], wanted[each])]
        if other:
            told = "%s: its %s cannot be changed; take it out of the inventory and add it anew"
            raise Refused("server_differs", told % (name, ", ".join(other)), evidence={each: before[each] for each in other})
        change = {each: wanted[each] for each in CHANGEABLE if each in wanted and wanted[each] != before[each]}
        if change and not self.looks_only:
            return compared(self, before, controller.ask("PATCH", path, body=change))
        return compared(self, before, {**before, **change})

    def _added(self, controller, name, wanted, trust):
        if "host" not in wanted:
            raise Refused("host_missing", f"{name}: not in the inventory yet; say its host")
        body = {"name": name, "trust_on_first_use": trust, **wanted}
        if self.looks_only:
            # What is wrong with it is told now; nothing is added.
            controller.ask("POST", "/servers/import", [("check", "true")], body=[body])
            return compared(self, None, {"name": name, **wanted})
        return compared(self, None, controller.ask("POST", "/servers", body=body))


def _same(name, is_now, wanted):
    if name == "host_key":
        return _key(is_now or "") == _key(wanted)
    return is_now == wanted


def _key(line):
    """Return type and blob of a line of known_hosts, with or without the name before them; a comment says nothing."""
    words = line.split()
    at = next((at for at, word in enumerate(words) if word.startswith(("ssh-", "ecdsa-", "sk-"))), 0)
    return words[at : at + 2]
