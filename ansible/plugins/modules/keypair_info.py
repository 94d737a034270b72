#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: keypair_info
short_description: Key pairs
version_added: 0.1.0
description:
  - Asks the controller what it has on record. It changes nothing, and looks at no server.
options:
  name:
    description: Only the one of this name. Where there is none, the list is empty.
    type: str
extends_documentation_fragment:
  - kps.fleet.controller
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: Which are there
  kps.fleet.keypair_info:
  register: found
"""

RETURN = r"""
---
keypairs:
  description: The key pairs that the access key may see, without their private halves.
  returned: always
  type: list
  elements: dict
"""
