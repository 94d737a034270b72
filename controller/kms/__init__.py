"""Custody of secrets: root key -> customer master key -> a data key for each secret -> the sealed record."""

import base64
import hashlib
import secrets
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from controller.errors import Conflict, Damaged, NotFound, Unavailable
from controller.kms import envelope, keys
from controller.kms.envelope import Context
from controller.kms.keys import DEFAULT_ALIAS, DEFAULT_ALIASES
from controller.kms.root import KEY_BYTES, NONCE_BYTES, TAG_BYTES, FileRootKey, RootKey
from controller.model import KeyPair, MasterKey, MasterKeyVersion, Sealed, Secret

__all__ = ["DEFAULT_ALIAS", "DEFAULT_ALIASES", "Context", "FileRootKey", "Kms", "RootKey", "master_key_bond", "open_master"]


class MasterKeys(Protocol):
    """Where the wrapped master keys are kept: the store."""

    def now(self) -> datetime: ...
    def master_key(self, tenant_id: str, name: str) -> MasterKey | None: ...
    def master_key_by_id(self, key_id: str) -> MasterKey | None: ...
    def master_key_version(self, key_id: str, version: int) -> MasterKeyVersion | None: ...
    def add_default_key(self, made: MasterKey, version: MasterKeyVersion) -> MasterKey: ...
    def wrapped_by(self) -> Mapping[str, int]: ...


class Kms:
    """Seals secrets and opens them again."""

    def __init__(self, store: MasterKeys, root: RootKey, *former: RootKey, clock: Callable[[], datetime] | None = None) -> None:
        """root: wraps every new master key. former: what older ones may be wrapped with still. clock: else the store's."""
        self._store = store
        self._root = root
        self._roots = (root, *former)
        self._now = clock or store.now

    # -- secrets in custody

    def seal(self, tenant_id: str, secret: Secret, context: Context, *, alias: str = DEFAULT_ALIAS) -> Sealed:
        """Return the secret sealed for exactly this context, under the tenant's master key of this alias or id.

        The context is not in the record (a digest of it is), and has to be given again to open it. A default master key is
        made at its first use; any other must be there (NotFound, master_key_not_found), be enabled (Conflict, by its state)
        and seal data keys (Invalid: asymmetric_key_not_possible, mac_key_not_possible).
        """
        return self.seal_all(tenant_id, [(secret, context)], alias=alias)[0]

    def seal_all(self, tenant_id: str, secrets_: Sequence[tuple[Secret, Context]], *, alias: str = DEFAULT_ALIAS) -> list[Sealed]:
        """Return secrets sealed, each for its own context, the master key opened once for all of them; as seal()."""
        key = self.key(tenant_id, alias)
        keys.for_data_keys(key)
        keys.refuse_unless_enabled(key, self._now())
        master = self.version(key)
        opened = self.material(key, master)
        try:
            return [_sealed(tenant_id, master, opened, secret, context) for secret, context in secrets_]
        finally:
            opened.wipe()

    def open(self, sealed: Sealed, context: Context) -> Secret:
        """Return what was sealed for this context.

        Damaged says what does not fit: record_unreadable, record_length_wrong, master_key_unknown, master_key_damaged,
        data_key_damaged (or what the record says of itself), sealed_for_another, secret_version_old, secret_version_wrong,
        facts_changed, secret_damaged. Unavailable(root_key_wrong): another root key. Conflict, by the state of the master key:
        master_key_disabled, master_key_pending_deletion, master_key_without_material, master_key_destroyed.
        """
        record = envelope.record(sealed)
        key = self._store.master_key_by_id(record.master_key_id)
        if key is not None:
            keys.refuse_unless_enabled(key, self._now())
        data_key = self._data_key(record)
        plain = bytearray(len(record.ciphertext) - TAG_BYTES)
        try:
            envelope.check(record, context)
            AESGCM(data_key.view()).decrypt_into(record.nonce, record.ciphertext, context.bond(), plain)
        except InvalidTag as error:
            message = f"the secret of {context.kind} {context.id} was changed; restore a backup"
            raise Damaged("secret_damaged", message) from error
        finally:
            data_key.wipe()
        return Secret(plain)

    def _data_key(self, record: envelope.Record) -> Secret:
        """Return the data key of a record, to be wiped after use."""
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
        return Secret(data_key)

    def seal_private(self, keypair: KeyPair, stored: Secret) -> Sealed:
        """Return the private half of a key pair sealed for that key pair, owner, scope and version alone.

        Under the master key that the key pair names, else the default one; errors: as seal().
        """
        alias = keypair.master_key_id or DEFAULT_ALIAS
        return self.seal(keypair.tenant_id, stored, _private_key_context(keypair), alias=alias)

    def rewrap(self, tenant_id: str, sealed: Sealed, alias: str) -> Sealed:
        """Return the record under another master key of the tenant: only its data key is wrapped anew, nothing else is opened.

        Errors: of open() for the key it is under, of seal() for the other.
        """
        record = envelope.record(sealed)
        before = self._store.master_key_by_id(record.master_key_id)
        if before is not None:
            keys.refuse_unless_enabled(before, self._now())
        after = self.key(tenant_id, alias)
        keys.for_data_keys(after)
        keys.refuse_unless_enabled(after, self._now())
        version = self.version(after)
        data_key = self._data_key(record)
        try:
            moved = replace(
                record,
                master_key_id=version.key_id,
                master_key_version=version.version,
                wrapped_nonce=secrets.token_bytes(NONCE_BYTES),
            )
            opened = self.material(after, version)
            try:
                wrapped = AESGCM(opened.view()).encrypt(moved.wrapped_nonce, data_key.view(), moved.bond(tenant_id))
            finally:
                opened.wipe()
        finally:
            data_key.wipe()
        return replace(moved, wrapped_key=wrapped).sealed()

    def open_private(self, keypair: KeyPair, sealed: Sealed) -> Secret:
        """Return the private half of a key pair in its stored form (controller/keyfiles); as open(), and names the key pair."""
        try:
            return self.open(sealed, _private_key_context(keypair))
        except (Conflict, Damaged, Unavailable) as problem:
            message = f"the private half of {keypair.name} does not open: {problem.message}"
            raise type(problem)(problem.code, message, keypair=keypair.name) from problem

    # -- master keys

    def key(self, tenant_id: str, name: str = DEFAULT_ALIAS) -> MasterKey:
        """Return the tenant's master key of this id, alias or further alias; a default one is made where it is not there.

        NotFound(master_key_not_found).
        """
        found = self._store.master_key(tenant_id, name)
        if found is not None:
            return found
        if name not in DEFAULT_ALIASES:
            raise NotFound("master_key_not_found", f"{name}: no master key of this id or alias", key=name)
        made = MasterKey(str(uuid.uuid4()), tenant_id, name, self._now(), default=True)
        material = Secret(bytearray(secrets.token_bytes(KEY_BYTES)))
        try:
            return self._store.add_default_key(made, self.wrapped(made, material))
        finally:
            material.wipe()

    def version(self, key: MasterKey, version: int | None = None) -> MasterKeyVersion:
        """Return a version of a master key that is there, the newest where none is said. Damaged(master_key_unknown)."""
        number = key.version if version is None else version
        found = self._store.master_key_version(key.id, number)
        if found is None:
            raise Damaged("master_key_unknown", f"version {number} of master key {key.id} is not here; restore a backup")
        return found

    def wrapped(self, key: MasterKey, material: Secret) -> MasterKeyVersion:
        """Return material as the newest version of a master key, wrapped for that key and version alone.

        What is not the 32 bytes of an AES key is sealed under a key that is wrapped in its place.
        Unavailable(root_key_wrong): as refuse_another_root().
        """
        self.refuse_another_root()
        direct = keys.kind(key).family == "aes"
        wrapping = material if direct else Secret(bytearray(secrets.token_bytes(KEY_BYTES)))
        try:
            wrapped = self._root.wrap(wrapping, master_key_bond(key.tenant_id, key.id, key.version))
            sealed = None
            if not direct:
                nonce = secrets.token_bytes(NONCE_BYTES)
                bond = _material_bond(key, key.version)
                sealed = nonce + AESGCM(wrapping.view()).encrypt(nonce, material.view(), bond)
        finally:
            if not direct:
                wrapping.wipe()
        return MasterKeyVersion(key.id, key.tenant_id, key.version, wrapped, self._root.check_value, self._now(), sealed)

    def refuse_another_root(self) -> None:
        """Unavailable(root_key_wrong) where a root key that is not ours has wrapped any of the master keys.

        What ours wrapped beside them would be lost with it: it is one that was replaced, and may be destroyed any day.
        """
        others = sorted(set(self._store.wrapped_by()) - {root.check_value for root in self._roots})
        if others:
            raise _wrong_root(self._root, others[0])

    def material(self, key: MasterKey, version: MasterKeyVersion) -> Secret:
        """Return the material of a version, to be wiped after use. Damaged(master_key_damaged), Unavailable(root_key_wrong)."""
        opened = self._open_master(version)
        if version.sealed is None and keys.kind(key).family == "aes":
            return opened
        sealed = version.sealed or b""
        plain = bytearray(max(0, len(sealed) - NONCE_BYTES - TAG_BYTES))
        try:
            nonce, body = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
            AESGCM(opened.view()).decrypt_into(nonce, body, _material_bond(key, version.version), plain)
        except (InvalidTag, ValueError) as error:
            raise _changed(version) from error
        finally:
            opened.wipe()
        return Secret(plain)

    def _open_master(self, master: MasterKeyVersion) -> Secret:
        return open_master(master, self._roots)


def _sealed(tenant_id: str, master: MasterKeyVersion, opened: Secret, secret: Secret, context: Context) -> Sealed:
    """Return a secret sealed under a master key that is open."""
    data_key = Secret(bytearray(secrets.token_bytes(KEY_BYTES)))
    wrapped_nonce, nonce = secrets.token_bytes(NONCE_BYTES), secrets.token_bytes(NONCE_BYTES)
    try:
        ciphertext = AESGCM(data_key.view()).encrypt(nonce, secret.view(), context.bond())
        record = envelope.Record(
            master.key_id, master.version, context.object_digest, context.facts_digest, context.version,
            wrapped_nonce, nonce, ciphertext,
        )  # fmt: skip
        wrapped = AESGCM(opened.view()).encrypt(wrapped_nonce, data_key.view(), record.bond(tenant_id))
    finally:
        data_key.wipe()
    return replace(record, wrapped_key=wrapped).sealed()


def open_master(master: MasterKeyVersion, roots: Sequence[RootKey]) -> Secret:
    """Return a master key, opened by the root key that wrapped it. Unavailable(root_key_wrong), Damaged(master_key_damaged)."""
    root = next((root for root in roots if root.check_value == master.root_check), None)
    if root is None:
        raise _wrong_root(roots[0], master.root_check)
    try:
        return root.unwrap(master.wrapped, master_key_bond(master.tenant_id, master.key_id, master.version))
    except Damaged as error:
        raise _changed(master) from error


def _wrong_root(ours: RootKey, needed: str) -> Unavailable:
    return Unavailable(
        "root_key_wrong",
        f"this root key (check value {ours.check_value}) is not the one that the master keys are wrapped "
        f"with ({needed}); put that one back, or, where another home of this database was given another one, "
        "copy its root.json here, and the key with it",
    )


def master_key_bond(tenant_id: str, key_id: str, version: int) -> bytes:
    """Return what a wrapped master key is bound to."""
    return envelope.bound_to("kps master key", tenant_id, key_id, version)


def _material_bond(key: MasterKey, version: int) -> bytes:
    # The public half too: opening the material is what shows that it is this key's.
    public = hashlib.sha256(key.public_key or b"").hexdigest()
    return envelope.bound_to("kps master key material", key.tenant_id, key.id, version, key.spec, key.usage, public)


def _changed(master: MasterKeyVersion) -> Damaged:
    message = f"version {master.version} of master key {master.key_id} was changed; restore a backup"
    return Damaged("master_key_damaged", message)


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
