# SPDX-License-Identifier: Apache-2.0
"""What the documents of all modules say in the same words."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  url:
    description:
      - Where the controller is, V(https://HOST:PORT). V(http://) is for loopback only, since requests carry
        passwords and keys.
      - If not given, the environment variable E(KPS_URL) says it.
    type: str
    required: true
  access_key:
    description:
      - Id of the access key that requests are signed with. Else E(KPS_ACCESS_KEY).
    type: str
    required: true
  secret_key:
    description:
      - Its secret. Else E(KPS_SECRET_KEY). It signs requests, and is sent nowhere.
    type: str
    required: true
  security_token:
    description:
      - The security token of a temporary access key. Else E(KPS_SECURITY_TOKEN).
    type: str
  fingerprint:
    description:
      - SHA-256 fingerprint of the controller's certificate, as C(kps serve) prints it. Then this certificate and no
        other is
        spoken to, whatever name it has. Else E(KPS_FINGERPRINT).
    type: str
  ca_certificate:
    description:
      - PEM file with the controller's certificate, or its authority's. Else E(KPS_CA_CERTIFICATE).
      - With neither this nor O(fingerprint) the authorities count that this machine trusts.
    type: path
  timeout:
    description:
      - Seconds that a connection, or an answer, may take.
    type: int
    default: 30
notes:
  - This runs where Ansible runs and asks the controller. No connection to the managed host is opened by Ansible and
    nothing is installed
    there; what is done on it, the controller does, with its own proofs and its own undo.
  - Arguments are written to no file on the way. Redirects are not followed, and no proxy of the environment is used.
attributes:
  check_mode:
    description: Can run in check mode and tell what would change, without changing it.
    support: full
  diff_mode:
    description: Shows what changes, or would.
    support: full
"""

    CREDENTIAL = r"""
options:
  password:
    description:
      - Password of the login, where no key pair in custody opens it. Used this once, kept sealed by the controller
        until the task has ended.
    type: str
  password_of:
    description:
      - The one login whose password it is, where that is another one than is worked on.
    type: str
  identity:
    description:
      - A private key that opens the server this once, as the text of its file.
    type: str
  passphrase:
    description:
      - Passphrase of O(identity).
    type: str
  certificate:
    description:
      - Certificate that goes with O(identity), as one line.
    type: str
  wait_seconds:
    description:
      - How long to wait for the task to end. Past it the Ansible task fails with the cause V(task_not_ended), and
        the task goes on.
    type: int
    default: 600
"""

    SETTINGS = r"""
options:
  url:
    description: Where the controller is, V(https://HOST:PORT).
    type: str
    required: true
    env: [{name: KPS_URL}]
  access_key:
    description: Id of the access key that requests are signed with.
    type: str
    required: true
    env: [{name: KPS_ACCESS_KEY}]
  secret_key:
    description: Its secret.
    type: str
    required: true
    env: [{name: KPS_SECRET_KEY}]
  security_token:
    description: The security token of a temporary access key.
    type: str
    env: [{name: KPS_SECURITY_TOKEN}]
  fingerprint:
    description: SHA-256 fingerprint of the controller's certificate, as C(kps serve) prints it.
    type: str
    env: [{name: KPS_FINGERPRINT}]
  ca_certificate:
    description: PEM file with the controller's certificate, or its authority's.
    type: path
    env: [{name: KPS_CA_CERTIFICATE}]
  timeout:
    description: Seconds that a connection, or an answer, may take.
    type: int
    default: 30
"""
