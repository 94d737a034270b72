# SPDX-License-Identifier: Apache-2.0
"""The private half of a key pair in custody, asked for."""

from __future__ import annotations

from ansible_collections.kps.fleet.plugins.module_utils.controller import segment


def exported(controller, name, passphrase=None):
    """Return a private half as the text of an OpenSSH file; the controller records that it was given."""
    body = {"passphrase": passphrase} if passphrase else {}
    return controller.ask("POST", f"/keypairs/{segment(name)}/export", body=body)["private_key"]
