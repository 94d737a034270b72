# SPDX-License-Identifier: Apache-2.0
"""The private half of a key pair in custody."""

from __future__ import annotations

DOCUMENTATION = r"""
---
name: private_key
short_description: The private half of a managed key pair
version_added: 0.1.0
description:
  - Gives the private half of a key pair that the controller keeps, as the text of an OpenSSH file. Each opening is
    on record there.
  - It is written to no file, unless O(path) asks for that. Give tasks that get it C(no_log); Ansible prints what it
    is told to print.
  - To connect with it, P(kps.fleet.ssh#connection) needs no lookup.
options:
  _terms:
    description: Names of key pairs.
    required: true
  path:
    description:
      - Write it there, mode 0600, and give the path instead. What is there is never written over. Where it
        is the same key, not encrypted, that is right; anything else is an error. One name only.
    type: path
  passphrase:
    description: Encrypt what is given with this passphrase.
    type: str
extends_documentation_fragment:
  - kps.fleet.controller.settings
author:
  - The kps project (@kps)
"""

EXAMPLES = r"""
---
- name: Hand it to a program on its standard input
  ansible.builtin.command:
    cmd: ssh-add -q -
    stdin: "{{ lookup('kps.fleet.private_key', 'ops') }}"
  delegate_to: localhost
  no_log: true
"""

RETURN = r"""
_raw:
  description: The private keys, or the path.
  type: list
  elements: str
"""

import os
import subprocess

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.kps.fleet.plugins.module_utils.controller import Refused, segment
from ansible_collections.kps.fleet.plugins.plugin_utils.keys import exported
from ansible_collections.kps.fleet.plugins.plugin_utils.settings import controller_by_options


class LookupModule(LookupBase):
    """Asks anew each time: nothing is kept."""

    def run(self, terms, variables=None, **kwargs):
        """Return the private halves, or where the one has been written."""
        self.set_options(var_options=variables, direct=kwargs)
        path = self.get_option("path")
        if path and len(terms) != 1:
            raise AnsibleError("private_key: path takes one key pair")
        try:
            controller = controller_by_options(self)
            found = [exported(controller, str(name), self.get_option("passphrase")) for name in terms]
            if path:
                public_key = controller.ask("GET", f"/keypairs/{segment(str(terms[0]))}")["public_key"]
                return [_written(path, found[0], public_key)]
        except Refused as refused:
            raise AnsibleError(f"private_key: {refused.code}: {refused.message}") from refused
        return found


def _written(path, text, public_key):
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except FileExistsError:
        if not _holds(path, public_key):
            raise AnsibleError(f"private_key: {path} exists and is another file; it is not written over") from None
    return path


def _holds(path, public_key):
    """Return whether a file is the private half of a key, not encrypted; each export of one key is another text."""
    words = ["ssh-keygen", "-y", "-P", "", "-f", path]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.split()[:2] == public_key.split()[:2]
