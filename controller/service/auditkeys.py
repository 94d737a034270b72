"""The keys that sign the tenants' events: each sealed under its tenant's master key, opened once for each process."""

import base64
import contextlib
import secrets
import threading
import time
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controller.errors import Problem
from controller.kms import Context, Kms
from controller.model import Secret
from controller.store import Store

SEED_BYTES = 32
# A root key that does not answer is not asked again for each event.
_ASK_AGAIN_SECONDS = 60.0


class AuditKeys:
    """Signs for the store (controller.store.chain.Signer).

    A key that was opened stays in this process: an event is signed in the transaction that writes it, and others wait for that.
    """

    def __init__(self, store: Store, kms: Kms, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._kms = kms
        self._clock = clock
        self._open: dict[str, Ed25519PrivateKey] = {}
        self._asked: dict[str, float] = {}
        self._making = threading.Lock()

    def prepare(self, tenant_id: str) -> None:
        """Make the tenant's key where there is none. Problem where the root key, or the tenant's master key, does not open."""
        with self._making:
            if self._store.audit_key(tenant_id) is None:
                self._make(tenant_id)

    def prepare_all(self) -> None:
        """Make the keys of tenants that have none, as far as the root key opens; else their events go unsigned."""
        for tenant_id in self._store.tenants_without_audit_key():
            with contextlib.suppress(Problem):
                self.prepare(tenant_id)

    def ready(self, tenant_id: str) -> None:
        self._key(tenant_id)

    def sign(self, tenant_id: str, message: bytes) -> bytes | None:
        key = self._key(tenant_id)
        return None if key is None else key.sign(message)

    def signed(self, tenant_id: str, message: bytes, signature: bytes) -> bool | None:
        key = self._key(tenant_id)
        if key is None:
            return None
        try:
            key.public_key().verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def _make(self, tenant_id: str) -> None:
        seed = Secret(bytearray(secrets.token_bytes(SEED_BYTES)))
        key = Ed25519PrivateKey.from_private_bytes(seed.view())
        public = base64.b64encode(key.public_key().public_bytes_raw()).decode("ascii")
        try:
            sealed = self._kms.seal(tenant_id, seed, _context(tenant_id, public))
        finally:
            seed.wipe()
        self._store.add_audit_key(tenant_id, public, sealed, key.sign)

    def _key(self, tenant_id: str) -> Ed25519PrivateKey | None:
        if tenant_id not in self._open:
            asked = self._asked.get(tenant_id)
            if asked is not None and self._clock() - asked < _ASK_AGAIN_SECONDS:
                return None
            try:
                self._open_key(tenant_id)
            except Problem:
                self._asked[tenant_id] = self._clock()
        return self._open.get(tenant_id)

    def _open_key(self, tenant_id: str) -> None:
        found = self._store.audit_key(tenant_id)
        if found is None or tenant_id in self._open:
            return
        public, sealed = found
        seed = self._kms.open(sealed, _context(tenant_id, public))
        try:
            self._open[tenant_id] = Ed25519PrivateKey.from_private_bytes(seed.view())
        finally:
            seed.wipe()


def _context(tenant_id: str, public_key: str) -> Context:
    return Context("audit key", tenant_id, 1, {"public": public_key})
