#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: binding
short_description: A key pair on a login of a server
version_added: 0.1.0
description:
  - Puts a key pair on a login and closes password login, puts another one in its place, or takes it away.
  - The controller does it in steps that can lock nobody out, and proves each new way in by a login before an old one
    goes. What cannot be
    done is undone, and told with its cause and what was seen.
options:
  server:
    description: Name of the server in the controller's inventory. Without it, the name of the host in Ansible's.
    type: str
  login:
    description: The Linux user. Without it, the server's own login.
    type: str
  keypair:
    description:
      - Name of the key pair. With O(state=absent) it is taken away only where it is this one, and without it
        whichever is bound.
    type: str
  state:
    description:
      - V(present) binds; where another key pair is bound that is an error (V(already_bound)).
      - V(replaced) puts O(keypair) in the place of the one that is bound; where none is, that is an error
        (V(not_bound)).
      - V(absent) unbinds, and opens password login again where binding had closed it. Where a second user has to agree
        to emergency doors of the server, that is refused (V(password_login_under_rule)) without O(keep_password_login).
    type: str
    choices: [present, replaced, absent]
    default: present
  keep_password_login:
    description: With O(state=present) or O(state=absent), password login stays as it is.
    type: bool
    default: false
  close_password_login:
    description: With O(state=replaced), password login is closed too.
    type: bool
    default: false
  accept_lockout:
    description: Logins that may be locked out when password login is closed. Any other one that would be refuses the
      operation.
    type: list
    elements: str
    default: []
  accept_unproved:
    description: Go on where the controller does not have the private half, and so sees only that sshd would accept
      the key.
    type: bool
    default: false
  fix_permissions:
    description: Take away write permissions of others that keep sshd from reading the keys.
    type: bool
    default: false
  take_over:
    description: Also where another user's private key pair is bound.
    type: bool
    default: false
  revoke:
    description: With O(state=replaced) or O(state=absent), the old key is in wrong hands. Its removal is never
      undone, and what may still let
      it in is named.
    type: bool
    default: false
  everywhere:
    description: With O(revoke=true), also out of the files of other logins.
    type: bool
    default: false
  end_sessions:
    description: With O(revoke=true), sessions that the key has opened are ended.
    type: bool
    default: false
extends_documentation_fragment:
  - kps.fleet.controller
  - kps.fleet.controller.credential
seealso:
  - module: kps.fleet.password_login
  - module: kps.fleet.failed_task
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: Bind a key pair, with the password that the image came with
  kps.fleet.binding:
    keypair: ops
    password: "{{ initial_password }}"
    accept_lockout: [backup]

- name: Put the next one in its place
  kps.fleet.binding:
    keypair: ops-v2
    state: replaced

- name: Take it away
  kps.fleet.binding:
    keypair: ops-v2
    state: absent
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
