# SPDX-License-Identifier: Apache-2.0
"""The controller's servers as Ansible's inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: servers
short_description: The servers of a kps controller
version_added: 0.1.0
description:
  - Each server of the controller is a host, with its address, port, login and host key. Each label is a group,
    V(stage=prod) the group
    V(stage_prod).
  - The file that says so ends with C(kps.yml) or C(kps.yaml). It need hold no secret; the environment can say that.
  - A server whose name Ansible has for itself (V(localhost), V(127.0.0.1), V(::1), V(all), V(ungrouped)), or that
    another source of the inventory had before, for a host or a group, is refused, and no host comes from the file.
    So this file is best the last source.
options:
  plugin:
    description: Must be V(kps.fleet.servers).
    type: str
    required: true
    choices: [kps.fleet.servers]
  select:
    description: Only servers with these names, or V(label=value). Without it, all.
    type: list
    elements: str
    default: []
  managed_keys:
    description:
      - Hosts are connected to by P(kps.fleet.ssh#connection), which takes the key pair that is bound out of the
        controller's custody, and
        trusts the recorded host key alone.
    type: bool
    default: true
extends_documentation_fragment:
  - kps.fleet.controller.settings
  - ansible.builtin.constructed
seealso:
  - plugin: kps.fleet.ssh
    plugin_type: connection
notes:
  - "Variables of each host: C(ansible_host), C(ansible_port), C(ansible_user), and C(kps_name), C(kps_labels),
    C(kps_host_key),
    C(kps_keypair) (bound to its own login), C(kps_bindings) (login, keypair, proof of each), C(kps_password_login),
      C(kps_jump)."
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
# fleet.kps.yml
plugin: kps.fleet.servers
url: https://kps.example.com:8443
fingerprint: "66:13:63:..."
select: [stage=prod]
"""

from ansible import constants as C
from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable
from ansible.utils.unsafe_proxy import wrap_var
from ansible_collections.kps.fleet.plugins.module_utils.controller import Refused
from ansible_collections.kps.fleet.plugins.plugin_utils.settings import controller_by_options

ENDS = ("kps.yml", "kps.yaml")
# What Ansible itself means by these: the machine where it runs, and groups. A server's address is somebody else's choice.
TAKEN = {*C.LOCALHOST, "all", "ungrouped"}


class InventoryModule(BaseInventoryPlugin, Constructable):
    """Asks once, when Ansible starts."""

    NAME = "kps.fleet.servers"

    def verify_file(self, path):
        """Return whether this is a file for this plugin."""
        return super().verify_file(path) and path.endswith(ENDS)

    def parse(self, inventory, loader, path, cache=True):
        """Add the servers and their groups."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            controller = controller_by_options(self)
            servers = controller.pages("/servers", [("select", word) for word in self.get_option("select")])
        except Refused as refused:
            raise AnsibleParserError(f"{path}: {refused.code}: {refused.message}") from refused
        # Before any is added: Ansible goes on with what a source has added when that fails.
        for server in servers:
            self._refuse_taken(path, server["name"])
        for server in servers:
            self._add(server)

    def _refuse_taken(self, path, name):
        if name in TAKEN:
            why, mend = "Ansible means something else by that name", "Take it in anew by another one"
        elif name in self.inventory.hosts or name in self.inventory.groups:
            why = "another source of the inventory has a host or group of that name, which would lead to the controller's address"
            mend = "Take it out of that source"
        else:
            return
        raise AnsibleParserError(f"{path}: the controller's server {name}: {why}. {mend}, or leave it out by select")

    def _add(self, server):
        name = server["name"]
        self.inventory.add_host(name)
        # What somebody has written into a controller is no template that is run here: cores before 2.19 have to be told.
        variables = wrap_var(variables_of(server))
        if self.get_option("managed_keys"):
            variables["ansible_connection"] = "kps.fleet.ssh"
        for variable, value in variables.items():
            self.inventory.set_variable(name, variable, value)
        for label, value in server["labels"].items():
            group = self.inventory.add_group(self._sanitize_group_name(f"{label}_{value}"))
            self.inventory.add_host(name, group=group)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)


def variables_of(server):
    """Return the variables of a host."""
    named = ("login", "keypair", "proof")
    return {
        "ansible_host": server["host"],
        "ansible_port": server["port"],
        "ansible_user": server["login"],
        "kps_name": server["name"],
        "kps_labels": server["labels"],
        "kps_host_key": server["host_key"],
        "kps_keypair": server["keypair"],
        "kps_bindings": [{name: each[name] for name in named} for each in server["bindings"]],
        "kps_password_login": server["password_login"],
        "kps_jump": server["jump"],
    }
