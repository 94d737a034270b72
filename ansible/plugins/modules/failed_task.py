#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: failed_task
short_description: Tasks of the controller that failed
version_added: 0.1.0
description:
  - Has what failed tried once more, or takes it off the list.
options:
  ids:
    description: Ids of tasks. Without it, all failed ones that O(server) and O(cause) do not leave out.
    type: list
    elements: str
  server:
    description: Only those of this server.
    type: str
  cause:
    description: Only those that failed for this cause.
    type: str
  state:
    description:
      - V(retried) orders each once more, with the options of the old one, and waits. What cannot be helped by that
        is passed over, unless it
        is named in O(ids).
      - V(absent) takes them off the list.
    type: str
    choices: [retried, absent]
    required: true
extends_documentation_fragment:
  - kps.fleet.controller
  - kps.fleet.controller.credential
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: Once more, where no server answered
  kps.fleet.failed_task:
    state: retried
    cause: connection_refused
  run_once: true
"""

RETURN = r"""
---
tasks:
  description: With O(state=retried) the new tasks, with O(state=absent) the old ones.
  returned: always
  type: list
  elements: dict
cause:
  description: Of the first one that failed again.
  returned: on failure
  type: str
evidence:
  description: What was seen there.
  returned: on failure
  type: dict
"""
