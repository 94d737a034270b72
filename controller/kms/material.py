"""The material of customer master keys: made here, or imported under a key of ours that is used for nothing else.

In custody it is the key itself for AES and HMAC, and PKCS#8 in DER for RSA and EC.
"""

import hashlib
import hmac as codes
import secrets
import struct
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from controller.errors import Damaged, Invalid
from controller.kms.envelope import bound_to
from controller.kms.keys import KINDS
from controller.kms.signing import PrivateKey, PublicKey, oaep
from controller.model import KeySpec, Secret

EXPONENT = 65537
WRAPPING_BITS = 2048
TOKEN_HOURS = 24
MOST_TOKENS = 20  # of one key, out at the same time
MOST_PRIVATE_BYTES = 4096  # of a wrapped private key

_CURVES: dict[int, type[ec.EllipticCurve]] = {256: ec.SECP256R1, 384: ec.SECP384R1}
# A pair of these is made for its user and kept nowhere, so that more kinds of it can be had than of master keys.
PAIRS: dict[str, int | type[ec.EllipticCurve]] = {
    "RSA_2048": 2048,
    "RSA_3072": 3072,
    "RSA_4096": 4096,
    "ECC_NIST_P256": ec.SECP256R1,
    "ECC_NIST_P384": ec.SECP384R1,
    "ECC_NIST_P521": ec.SECP521R1,
    "ECC_SECG_P256K1": ec.SECP256K1,
}


# -- made here


def made(spec: KeySpec) -> tuple[Secret, bytes | None]:
    """Return new material for a key of this spec, and its public half where there is one."""
    kind = KINDS[spec]
    if kind.family in ("aes", "hmac"):
        return Secret(bytearray(secrets.token_bytes(kind.bits // 8))), None
    return _stored(_generated(kind.bits if kind.family == "rsa" else _CURVES[kind.bits]))


def pair(spec: str) -> tuple[Secret, bytes]:
    """Return a new key pair: the private half as PKCS#8 in DER, the public half as SubjectPublicKeyInfo in DER.

    Invalid(data_key_spec_unknown) for what is not in PAIRS.
    """
    if spec not in PAIRS:
        raise Invalid("data_key_spec_unknown", f"{spec}: no such kind of key pair; one of " + ", ".join(PAIRS))
    return _stored(_generated(PAIRS[spec]))


def private_key(material: Secret) -> PrivateKey:
    """Return the private key of an RSA or EC key's material, to be used at once."""
    # OpenSSL's look at the numbers of an RSA key takes most of a second. They were looked at when the material came, and it has
    # just been shown to be the same.
    key = load_der_private_key(material.view(), None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise Damaged("master_key_damaged", "the material is not a private key of the kind on record; restore a backup")
    return key


def rsa_key(material: Secret) -> rsa.RSAPrivateKey:
    """Return the private key of an RSA key's material, to be used at once."""
    key = private_key(material)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Damaged("master_key_damaged", "the material is not an RSA key, as is on record; restore a backup")
    return key


def public_key(stored: bytes) -> PublicKey:
    """Return the public half of an RSA or EC key, as it is stored."""
    key = load_der_public_key(stored)
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise Damaged("master_key_damaged", "what is stored is not a public key of the kind on record; restore a backup")
    return key


def _generated(what: int | type[ec.EllipticCurve]) -> PrivateKey:
    return rsa.generate_private_key(EXPONENT, what) if isinstance(what, int) else ec.generate_private_key(what())


def _stored(key: PrivateKey) -> tuple[Secret, bytes]:
    private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Secret(private), key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# -- imported


@dataclass(frozen=True, slots=True)
class Token:
    """What somebody who was given a wrapping key brings back with the material: which key it is for, and until when.

        "kpst" 1 | key id 16 | seconds since 1970, 8 | random 160

    Nothing of it is believed: what opens the material is kept under its digest, with key and time.
    """

    text: bytes

    @classmethod
    def new(cls, key_id: str, expires_at: datetime) -> "Token":
        """Return a new token."""
        head = _TOKEN.pack(_TOKEN_MAGIC, uuid.UUID(key_id).bytes, int(expires_at.timestamp()))
        return cls(head + secrets.token_bytes(_TOKEN_RANDOM))

    @property
    def digest(self) -> bytes:
        """What it is known by."""
        return hashlib.sha256(self.text).digest()

    def refusal(self, key_id: str, at: datetime) -> Invalid:
        """Return why a token that is not known is not, as far as it says that itself."""
        if len(self.text) == _TOKEN.size + _TOKEN_RANDOM:
            magic, said, seconds = _TOKEN.unpack_from(self.text)
            if magic == _TOKEN_MAGIC and str(uuid.UUID(bytes=said)) != key_id:
                return of_another_key()
            if magic == _TOKEN_MAGIC and seconds <= at.timestamp():
                return expired(datetime.fromtimestamp(min(seconds, 2**35), UTC))
        return Invalid("import_token_unusable", "no import token that was given out; ask for new parameters")


_TOKEN = struct.Struct(">5s16sQ")
_TOKEN_MAGIC = b"kpst\x01"
_TOKEN_RANDOM = 160


def of_another_key() -> Invalid:
    """Return the refusal of a token that belongs to another key."""
    return Invalid(
        "import_token_of_another_key", "this import token was given out for another key; ask for this key's parameters"
    )


def expired(at: datetime) -> Invalid:
    """Return the refusal of a token whose time is over."""
    return Invalid("import_token_expired", f"this import token was good until {at:%Y-%m-%d %H:%M} UTC; ask for new parameters")


def unwrapped(spec: KeySpec, wrapping: Secret, material: bytes, private: bytes | None) -> tuple[Secret, bytes | None]:
    """Return imported material in its stored form, and its public half where there is one.

    wrapping: our private key, PKCS#8 in DER. material: RSAES-OAEP-SHA-256 of the material itself for AES and HMAC, of a
    temporary AES key for RSA and EC; private: then the PKCS#8 key in DER under it (AES key wrap with padding, RFC 5649).
    Invalid: import_material_unreadable, import_material_length_wrong, import_private_key_missing,
    import_private_key_unusable, import_temporary_key_length_wrong.
    """
    kind = KINDS[spec]
    try:
        opened = Secret(rsa_key(wrapping).decrypt(material, oaep()))
    except ValueError as error:
        message = "the material does not open: encrypt it with the public key that came with this token, by OAEP with SHA-256"
        raise Invalid("import_material_unreadable", message) from error
    if kind.family in ("aes", "hmac"):
        if private is not None:
            raise Invalid("import_private_key_unusable", f"a key of {spec} has no private key; give its material alone")
        if len(opened) * 8 != kind.bits:
            opened.wipe()
            raise Invalid("import_material_length_wrong", f"{len(opened)} bytes of material; {spec} has {kind.bits // 8}")
        return opened, None
    try:
        if private is None:
            raise Invalid("import_private_key_missing", f"for {spec} give the private key too, under the temporary key")
        if len(opened) not in (16, 32):
            message = f"the temporary key has {len(opened)} bytes; it must have 16 or 32"
            raise Invalid("import_temporary_key_length_wrong", message)
        return _private(spec, opened, private)
    finally:
        opened.wipe()


def _private(spec: KeySpec, temporary: Secret, wrapped: bytes) -> tuple[Secret, bytes]:
    kind = KINDS[spec]
    try:
        der = Secret(aes_key_unwrap_with_padding(temporary.open(), wrapped))
        try:
            # Its size first: to look whether many bits fit together takes long.
            key = load_der_private_key(der.view(), None, unsafe_skip_rsa_key_validation=True)
            if isinstance(key, rsa.RSAPrivateKey) and key.key_size == kind.bits:
                key = key.private_numbers().private_key()
        finally:
            der.wipe()
    except (InvalidUnwrap, ValueError, TypeError, UnsupportedAlgorithm) as error:
        message = "the private key does not open: PKCS#8 in DER, under the temporary key by AES key wrap with padding"
        raise Invalid("import_private_key_unusable", message) from error
    if kind.family == "rsa":
        if isinstance(key, rsa.RSAPrivateKey) and key.key_size == kind.bits and key.public_key().public_numbers().e >= EXPONENT:
            return _stored(key)
    elif isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES[kind.bits]):
        return _stored(key)
    raise Invalid("import_private_key_unusable", f"this is not a private key of {spec}")


def digest(by: Secret, key_id: str, stored: Secret) -> bytes:
    """Return a digest by which imported material is known again; without the key (by) nothing can be told from it."""
    derived = bytearray(32)
    HKDF(SHA256(), len(derived), None, bound_to("kps imported material", key_id)).derive_into(by.view(), derived)
    found = codes.new(derived, stored.view(), "sha256").digest()
    Secret(derived).wipe()
    return found
