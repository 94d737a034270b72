#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: server_info
short_description: Servers of the controller's inventory
version_added: 0.1.0
description:
  - Asks the controller what it has on record. It changes nothing, and looks at no server.
options:
  name:
    description: Only the one of this name. Where there is none, the list is empty.
    type: str
  select:
    description: Only those with these names, or V(label=value).
    type: list
    elements: str
extends_documentation_fragment:
  - kps.fleet.controller
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: Those of one stage
  kps.fleet.server_info:
    select: [stage=prod]
  register: found
"""

RETURN = r"""
---
servers:
  description: The servers, each with its bindings.
  returned: always
  type: list
  elements: dict
"""
