#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""What the action of this name does; this file is its document."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: keypair
short_description: A key pair
version_added: 0.1.0
description:
  - Makes a key pair, takes one in, or deletes it. It is never turned into another one; a name stands for one key.
options:
  name:
    description: Its name.
    type: str
    required: true
  type:
    description: Of a new one, for example V(ed25519), V(rsa-3072). V(ed25519) if not given.
    type: str
  scope:
    description: Whose it is. V(private) is yours alone, V(account) everybody's in the tenant. From the first to the
      second it can be changed.
    type: str
    choices: [private, account]
  managed:
    description: Whether the controller keeps the private half. A new one's it does, if not told otherwise.
    type: bool
  master_key:
    description: The customer master key that the private half is sealed under, by alias or id.
    type: str
  public_key:
    description: Take this public key in, as a line of C(authorized_keys) without options.
    type: str
  private_key:
    description: Take this private key in, as the text of its file. Of a key pair that is not managed, its private
      half, to be kept from now on. Of one whose private half is kept already it must be that one; where that cannot be
      told here (OpenSSH's own format with a passphrase), O(public_key) is needed beside it.
    type: str
  passphrase:
    description: Passphrase of O(private_key).
    type: str
  allow_weak:
    description: Take in RSA of less than 2048 bits too.
    type: bool
    default: false
  private_key_file:
    description:
      - Where the private half of a new key pair is written that is not managed, mode 0600, on the machine where
        Ansible runs. A file
        that is there is not written over.
    type: path
  state:
    description: Whether there is one. One that is bound is not deleted.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - kps.fleet.controller
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: A key pair whose private half the controller keeps
  kps.fleet.keypair:
    name: ops
    scope: account
  run_once: true

- name: Somebody's public key
  kps.fleet.keypair:
    name: alice
    public_key: "{{ lookup('ansible.builtin.file', 'alice.pub') }}"
"""

RETURN = r"""
---
keypair:
  description: The key pair as it is now, or in check mode would be. The private half is not in it.
  returned: when there is one
  type: dict
"""
