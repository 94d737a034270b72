# SPDX-License-Identifier: Apache-2.0
"""The private half of a key pair: in custody, asked for; or given, and looked at."""

from __future__ import annotations

try:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
except ImportError:  # Ansible has it; without it nothing can be read, and that is told
    serialization = None

from ansible_collections.kps.fleet.plugins.module_utils.controller import segment


def exported(controller, name, passphrase=None):
    """Return a private half as the text of an OpenSSH file; the controller records that it was given."""
    body = {"passphrase": passphrase} if passphrase else {}
    return controller.ask("POST", f"/keypairs/{segment(name)}/export", body=body)["private_key"]


def public_half(private_key, passphrase=None):
    """Return the public half of a private key as a line of authorized_keys, or None where it cannot be read here."""
    if serialization is None:
        return None
    data, word = private_key.strip().encode("utf-8") + b"\n", passphrase.encode("utf-8") if passphrase else None
    for read in (serialization.load_ssh_private_key, serialization.load_pem_private_key):
        try:
            public = read(data, password=word).public_key()
            line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            return line.decode("ascii")
        except (ValueError, TypeError, UnsupportedAlgorithm):
            pass
    return None
