#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: password_login
short_description: Whether a server takes passwords
version_added: 0.1.0
description:
  - Opens or closes password login of a server, keyboard-interactive login included.
  - It is closed only where a login by key is proved to go on working, and where nobody else is locked out who was
    not named.
options:
  server:
    description: Name of the server in the controller's inventory. Without it, the name of the host in Ansible's.
    type: str
  login:
    description: The Linux user whose way in is proved. Without it, the server's own login.
    type: str
  state:
    description: Whether passwords are taken.
    type: str
    choices: [enabled, disabled]
    required: true
  force:
    description: With O(state=enabled), also where somebody else's setting closes it.
    type: bool
    default: false
  accept_lockout:
    description: With O(state=disabled), logins that may be locked out.
    type: list
    elements: str
    default: []
  accept_unproved:
    description: With O(state=disabled), go on where it is only seen that sshd would accept the key.
    type: bool
    default: false
extends_documentation_fragment:
  - kps.fleet.controller
  - kps.fleet.controller.credential
seealso:
  - module: kps.fleet.binding
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: No passwords
  kps.fleet.password_login:
    state: disabled
    accept_lockout: [backup]
"""

RETURN = r"""
---
task:
  description: The controller's task, with all that is known of it.
  returned: when the controller was asked to do something
  type: dict
plan:
  description: What would be done, or was about to be. C(changes) has kind, path, login, and a diff or a mode
    for each.
  returned: in check mode or diff mode
  type: dict
cause:
  description: Why it failed, one of a closed list that is documented with the controller.
  returned: on failure
  type: str
  sample: wrong_password
evidence:
  description: What was seen.
  returned: on failure
  type: dict
handling:
  description: What to do about it.
  returned: on failure of a task
  type: str
server_state:
  description: How the server was left, one of V(as_before), V(reverted), V(partial), V(unknown).
  returned: on failure of a task
  type: str
retryable:
  description: Whether the same may succeed when it is asked once more.
  returned: on failure of a task
  type: bool
"""
