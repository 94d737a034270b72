#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: failed_task_info
short_description: Tasks of the controller that failed
version_added: 0.1.0
description:
  - Asks the controller what it has on record. It changes nothing, and looks at no server.
options:
  server:
    description: Only those of this server.
    type: str
  cause:
    description: Only those that failed for this cause.
    type: str
extends_documentation_fragment:
  - kps.fleet.controller
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: What has failed
  kps.fleet.failed_task_info:
  register: found
"""

RETURN = r"""
---
tasks:
  description: The failed tasks, each with its cause, what was seen, what to do, and in which state the server is.
  returned: always
  type: list
  elements: dict
"""
