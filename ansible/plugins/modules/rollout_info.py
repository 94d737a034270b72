#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollout_info
short_description: Rollouts
version_added: 0.1.0
description:
  - Asks the controller what it has on record. It changes nothing, and looks at no server.
options:
  id:
    description: Only this one, with how far its servers are, and what is left to do.
    type: str
extends_documentation_fragment:
  - kps.fleet.controller
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: How far are they
  kps.fleet.rollout_info:
  register: found
"""

RETURN = r"""
---
rollouts:
  description: The rollouts, the oldest first.
  returned: always
  type: list
  elements: dict
"""
