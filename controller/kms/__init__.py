"""Custody of secrets: root key -> customer master key -> a data key for each secret -> the sealed record."""

import base64
import hashlib
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.errors import Damaged, Unavailable
from controller.kms import envelope
from controller.kms.envelope import Context
from controller.kms.root import KEY_BYTES, NONCE_BYTES, TAG_BYTES, FileRootKey, RootKey
from controller.model import KeyPair, MasterKeyVersion, Sealed, Secret, now

__all__ = ["DEFAULT_ALIAS", "Context", "FileRootKey", "Kms", "RootKey", "master_key_bond", "open_master"]

DEFAULT_ALIAS = "kps/default"


class MasterKeys(Protocol):
    """Where the wrapped master keys are kept: the store."""

    def master_key(self, tenant_id: str, alias: str) -> MasterKeyVersion | None: ...
    def master_key_version(self, key_id: str, version: int) -> MasterKeyVersion | None: ...
    def add_master_key(self, made: MasterKeyVersion) -> MasterKeyVersion: ...


class Kms:
    """Seals secrets and opens them again."""

    def __init__(self, store: MasterKeys, root: RootKey, *former: RootKey) -> None:
        """root: wraps every new master key. former: what older ones may still be wrapped with."""
        self._store = store
        self._root = root
        self._roots = (root, *former)

    def seal(self, tenant_id: str, secret: Secret, context: Context, *, alias: str = DEFAULT_ALIAS) -> Sealed:
        """Return the secret sealed for exactly this context, under the tenant's master key of this alias.

        The context is not in the record (a digest of it is), and has to be given again to open it. The default master key is
        made at its first use.
        """
        master = self._store.master_key(tenant_id, alias) or self._store.add_master_key(self._new(tenant_id, alias))
        opened = self._open_master(master)
        data_key = Secret(bytearray(secrets.token_bytes(KEY_BYTES)))
        wrapped_nonce, nonce = secrets.token_bytes(NONCE_BYTES), secrets.token_bytes(NONCE_BYTES)
        ciphertext = AESGCM(data_key.view()).encrypt(nonce, secret.view(), context.bond())
        record = envelope.Record(
            master.key_id, master.version, context.object_digest, context.facts_digest, context.version,
            wrapped_nonce, nonce, ciphertext,
        )  # fmt: skip
        wrapped = AESGCM(opened.view()).encrypt(wrapped_nonce, data_key.view(), record.bond(tenant_id))
        opened.wipe()
        data_key.wipe()
        return replace(record, wrapped_key=wrapped).sealed()

    def open(self, sealed: Sealed, context: Context) -> Secret:
        """Return what was sealed for this context.

        Damaged says what does not fit: record_unreadable, record_length_wrong, master_key_unknown, master_key_damaged,
        data_key_damaged (or what the record says of itself), sealed_for_another, secret_version_old, secret_version_wrong,
        facts_changed, secret_damaged. Unavailable(root_key_wrong): another root key.
        """
        record = envelope.record(sealed)
        master = self._store.master_key_version(record.master_key_id, record.master_key_version)
        if master is None:
            raise Damaged(
                "master_key_unknown",
                f"sealed under version {record.master_key_version} of master key {record.master_key_id}, which is not "
                "here; restore a backup that has it",
            )
        opened = self._open_master(master)
        data_key = bytearray(KEY_BYTES)
        try:
            AESGCM(opened.view()).decrypt_into(
                record.wrapped_nonce, record.wrapped_key, record.bond(master.tenant_id), data_key
            )  # fmt: skip
        except InvalidTag as error:
            raise Damaged("data_key_damaged", "the data key of this secret was changed; restore a backup") from error
        finally:
            opened.wipe()
        plain = bytearray(len(record.ciphertext) - TAG_BYTES)
        try:
            envelope.check(record, context)
            AESGCM(data_key).decrypt_into(record.nonce, record.ciphertext, context.bond(), plain)
        except InvalidTag as error:
            message = f"the secret of {context.kind} {context.id} was changed; restore a backup"
            raise Damaged("secret_damaged", message) from error
        finally:
            Secret(data_key).wipe()
        return Secret(plain)

    def seal_private(self, keypair: KeyPair, stored: Secret) -> Sealed:
        """Return the private half of a key pair sealed for that key pair, owner, scope and version alone."""
        return self.seal(keypair.tenant_id, stored, _private_key_context(keypair))

    def open_private(self, keypair: KeyPair, sealed: Sealed) -> Secret:
        """Return the private half of a key pair in its stored form (controller/keyfiles); as open(), and names the key pair."""
        try:
            return self.open(sealed, _private_key_context(keypair))
        except (Damaged, Unavailable) as problem:
            message = f"the private half of {keypair.name} does not open: {problem.message}"
            raise type(problem)(problem.code, message, keypair=keypair.name) from problem

    def _new(self, tenant_id: str, alias: str) -> MasterKeyVersion:
        key_id, version = str(uuid.uuid4()), 1
        key = Secret(bytearray(secrets.token_bytes(KEY_BYTES)))
        wrapped = self._root.wrap(key, master_key_bond(tenant_id, key_id, version))
        key.wipe()
        return MasterKeyVersion(key_id, tenant_id, alias, version, wrapped, self._root.check_value, now())

    def _open_master(self, master: MasterKeyVersion) -> Secret:
        return open_master(master, self._roots)


def open_master(master: MasterKeyVersion, roots: Sequence[RootKey]) -> Secret:
    """Return a master key, opened by the root key that wrapped it. Unavailable(root_key_wrong), Damaged(master_key_damaged)."""
    root = next((root for root in roots if root.check_value == master.root_check), None)
    if root is None:
        raise Unavailable(
            "root_key_wrong",
            f"this root key (check value {roots[0].check_value}) is not the one that the master keys are wrapped "
            f"with ({master.root_check}); put that one back",
        )
    try:
        return root.unwrap(master.wrapped, master_key_bond(master.tenant_id, master.key_id, master.version))
    except Damaged as error:
        message = f"version {master.version} of master key {master.key_id} was changed; restore a backup"
        raise Damaged("master_key_damaged", message) from error


def master_key_bond(tenant_id: str, key_id: str, version: int) -> bytes:
    """Return what a wrapped master key is bound to."""
    return envelope.bound_to("kps master key", tenant_id, key_id, version)


def _private_key_context(keypair: KeyPair) -> Context:
    blob = base64.b64decode(keypair.public_key.split(" ")[1])
    facts = {
        "tenant": keypair.tenant_id,
        "owner": keypair.owner_id,
        "scope": keypair.scope,
        "type": keypair.type,
        "public": hashlib.sha256(blob).hexdigest(),
    }
    return Context("private key", keypair.id, keypair.version, facts)
