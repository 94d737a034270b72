#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: server
short_description: A server in the controller's inventory
version_added: 0.1.0
description:
  - Takes a server in, changes how it is reached, or takes it out. Nothing is changed on the server.
options:
  name:
    description: Its name. Without it, the name of the host in Ansible's inventory.
    type: str
  host:
    description: Address or host name. Needed for a server that is new.
    type: str
  port:
    description: Of its sshd. Of a new server 22, if not given.
    type: int
  login:
    description: The login by which it is reached. Of a new server V(root), if not given. It cannot be changed later.
    type: str
  labels:
    description: Labels by which servers are selected. They cannot be changed later.
    type: dict
  host_key:
    description: Its host key, as a line of C(known_hosts) without the name. It cannot be changed later.
    type: str
  trust_on_first_use:
    description: For a new server without O(host_key), the key that it shows first is recorded, before anything else
      is sent to it.
    type: bool
    default: false
  jump:
    description: Names of the servers through which it is reached, the nearest to the controller first.
    type: list
    elements: str
  old_algorithms:
    description: Old algorithms that are allowed for it.
    type: list
    elements: str
  state:
    description: Whether it is in the inventory.
    type: str
    choices: [present, absent]
    default: present
  force:
    description: With O(state=absent), also where a key pair is bound on it; that is forgotten then, and stays on the
      server.
    type: bool
    default: false
extends_documentation_fragment:
  - kps.fleet.controller
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: Take the host in
  kps.fleet.server:
    host: "{{ ansible_host }}"
    host_key: "{{ host_key }}"
    labels: {stage: prod}
"""

RETURN = r"""
---
server:
  description: The server as it is now, or in check mode would be.
  returned: when there is one
  type: dict
"""
