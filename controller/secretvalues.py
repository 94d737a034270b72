"""The value of a version of a secret: sealed for that version alone, and opened on record.

Where the key service is away (an HSM without its token) a value that must not be lost is *laid by*: encrypted to the tenant's
waiting key, whose public half is on record and whose private half is sealed like everything else. It is sealed properly as soon
as that opens again. RSA-OAEP with SHA-256 (RFC 8017, 7.1), the secret's id and the version's number as its label.
"""

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from controller.errors import Conflict, Damaged, Unavailable
from controller.kms import Context, Kms
from controller.model import Sealed, Secret
from controller.stages import KeptSecret
from controller.store import Store

MASTER_KEY = "csms/default"
LAID_BY_BYTES = 256  # of a value; what a 3072-bit key encrypts is 318

# Why one is opened; in the event as `purpose`.
SHOW = "show"  # given to the person who asked
SET = "set"  # a task sets it on its server
ENTER = "enter"  # a task gets in with it
SEAL = "seal"  # it was laid by


def context(secret: KeptSecret, version: int) -> Context:
    """Return what the value of a version is sealed for."""
    return Context("secret", secret.id, version, secret.facts)


def sealed(kms: Kms, secret: KeptSecret, version: int, value: Secret) -> Sealed:
    """Return a value sealed for a version under csms/default, which is made at its first use. Errors: Kms.seal()."""
    return kms.seal(secret.tenant_id, value, context(secret, version), alias=MASTER_KEY)


def sealed_or_laid_by(store: Store, kms: Kms, secret: KeptSecret, version: int, value: Secret) -> Sealed | bytes:
    """Return a value sealed, or where nothing can be sealed now, encrypted to the waiting key.

    Unavailable, Conflict, Damaged, as the key service refuses, where there is no such key either.
    """
    try:
        return sealed(kms, secret, version, value)
    except (Conflict, Damaged, Unavailable) as problem:
        found = None if problem.code == "store_unusable" else store.waiting_key(secret.tenant_id)
        if found is None or len(value) > LAID_BY_BYTES:
            raise
        public = serialization.load_der_public_key(found[0])
        assert isinstance(public, rsa.RSAPublicKey)  # noqa: S101 - prepare() has made it
        return public.encrypt(value.open(), _padding(secret, version))


def opened(
    store: Store,
    kms: Kms,
    secret_id: str,
    version: int,
    purpose: str,
    user_id: str,
    *,
    task_id: str | None = None,
    server_id: str | None = None,
) -> tuple[KeptSecret, Secret]:
    """Return a secret with the value of a version, to be wiped by who asked; the event secret_opened is on the disk before.

    NotFound(secret_version_not_found), and what Kms.open() raises; then there is no event.
    """
    secret, kept = store.secret_value(secret_id, version)
    value = _value(store, kms, secret, version, kept)
    try:
        store.note_secret_opening(secret_id, version, purpose, user_id, task_id=task_id, server_id=server_id)
    except BaseException:
        value.wipe()
        raise
    return secret, value


def prepare(store: Store, kms: Kms, tenant_id: str) -> None:
    """See that a tenant has a waiting key: made while the key service opens, for when it does not."""
    if store.waiting_key(tenant_id) is not None:
        return
    private = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    der, pkcs8 = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8
    plain = Secret(bytearray(private.private_bytes(der, pkcs8, serialization.NoEncryption())))
    try:
        kept = kms.seal(tenant_id, plain, _waiting(tenant_id), alias=MASTER_KEY)
    finally:
        plain.wipe()
    public = private.public_key().public_bytes(der, serialization.PublicFormat.SubjectPublicKeyInfo)
    store.add_waiting_key(tenant_id, public, kept)


def seal_all_laid_by(store: Store, kms: Kms) -> int:
    """Seal what was laid by, as far as the key service opens now; returns how many values that were."""
    done = 0
    for secret, version in store.laid_by():
        _, kept = store.secret_value(secret.id, version)
        if isinstance(kept, Sealed):
            continue
        value = _value(store, kms, secret, version, kept)
        try:
            done += store.seal_laid_by(secret, version, kept, sealed(kms, secret, version, value))
        finally:
            value.wipe()
    return done


def verified(kms: Kms, secret: KeptSecret, version: int, kept: Sealed) -> None:
    """Open a value in a copy of a home; it is given to nobody. What Kms.open() raises. No event, as opening.verified()."""
    kms.open(kept, context(secret, version)).wipe()


def _value(store: Store, kms: Kms, secret: KeptSecret, version: int, kept: Sealed | bytes) -> Secret:
    if isinstance(kept, Sealed):
        return kms.open(kept, context(secret, version))
    found = store.waiting_key(secret.tenant_id)
    if found is None:
        raise Damaged("secret_damaged", f"{secret.name}: the key that v{version} was laid by for is gone; restore a backup")
    plain = kms.open(found[1], _waiting(secret.tenant_id))
    try:
        private = serialization.load_der_private_key(plain.view(), None)
    finally:
        plain.wipe()
    assert isinstance(private, rsa.RSAPrivateKey)  # noqa: S101 - prepare() has made it
    try:
        return Secret(bytearray(private.decrypt(kept, _padding(secret, version))))
    except ValueError as error:
        raise Damaged("secret_damaged", f"{secret.name}: v{version} was changed; restore a backup") from error


def _waiting(tenant_id: str) -> Context:
    return Context("waiting key", tenant_id)


def _padding(secret: KeptSecret, version: int) -> padding.OAEP:
    label = f"kps secret {secret.id} v{version}".encode()
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label)
