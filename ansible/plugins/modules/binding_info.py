#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: binding_info
short_description: What is bound
version_added: 0.1.0
description:
  - Asks the controller what it has on record. It changes nothing, and looks at no server.
options:
  server:
    description: Only on this server.
    type: str
  login:
    description: Only on this login.
    type: str
  keypair:
    description: Only this key pair.
    type: str
extends_documentation_fragment:
  - kps.fleet.controller
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: Where it is still bound
  kps.fleet.binding_info:
    keypair: ops
  register: found
"""

RETURN = r"""
---
bindings:
  description: What is bound, by server and login, each with how it was proved.
  returned: always
  type: list
  elements: dict
"""
