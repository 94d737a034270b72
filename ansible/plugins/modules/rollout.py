#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rollout
short_description: One order for many servers, in batches
version_added: 0.1.0
description:
  - Starts a rollout and waits until it has come to its end, is paused, or has stopped by itself; or pauses, resumes,
    cancels or retries one.
  - In check mode every server is looked at, and nothing is written.
options:
  id:
    description: Which rollout. Needed for every state but V(started).
    type: str
  state:
    description: What is to become of it. V(retried) has servers tried once more that failed.
    type: str
    choices: [started, paused, resumed, cancelled, retried]
    default: started
  operation:
    description: What is to be done. Needed with O(state=started).
    type: str
    choices: [bind, replace, unbind, check, password-login-enable, password-login-disable]
  servers:
    description: Names, or V(label=value).
    type: list
    elements: str
    default: []
  all:
    description: All servers.
    type: bool
    default: false
  keypair:
    description: Name of the key pair.
    type: str
  login:
    description: The Linux user. Without it, each server's own login.
    type: str
  options:
    description:
      - Further options of the operation, as the controller's API has them, such as V(keep_password_login) or
        V(accept_lockout).
    type: dict
    default: {}
  strategy:
    description:
      - How it goes, as the controller's API has it. Amounts are numbers or shares. V(canary), V(batch),
        V(max_failures), V(per_label) and others.
    type: dict
    default: {}
  credentials:
    description: What opens servers, by their names; V(password), V(identity) and the like for each.
    type: dict
    default: {}
  credential_hours:
    description: How long the controller keeps that sealed.
    type: float
  cause:
    description: With O(state=retried), only those that failed for this cause.
    type: str
  wait_seconds:
    description: How long to wait. Past it the Ansible task fails with the cause V(rollout_not_ended), and the
      rollout goes on. V(0) does not wait.
    type: int
    default: 3600
extends_documentation_fragment:
  - kps.fleet.controller
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: The next key pair, one server first
  kps.fleet.rollout:
    operation: replace
    servers: [stage=prod]
    keypair: ops-v2
    strategy: {canary: "1", batch: "10%", per_label: zone}
  run_once: true
"""

RETURN = r"""
---
rollout:
  description: The rollout, with how many of its servers are how far.
  returned: always but in check mode
  type: dict
servers:
  description: Its servers, each with what its last task has come to; in check mode with what would change.
  returned: with RV(rollout)
  type: list
  elements: dict
cause:
  description: V(rollout_failed), where it has stopped, or not every server is as asked. V(rollout_paused), where it is
    paused for another reason than that its canary has ended well, or servers have failed.
  returned: on failure
  type: str
evidence:
  description: The causes with the number of servers each, the reason of the state, and what is left to do.
  returned: on failure
  type: dict
"""
