"""The kinds of keys: made, told apart, and brought into the form in which a private half is stored.

That form is the 32-byte seed for ed25519, PKCS#8 DER for the rest. What only comes by import: RSA of other sizes than those
that are made here, DSA (the public half alone), and, for conversions, secp256k1.
"""

import base64
import hashlib
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from controller.errors import Invalid
from controller.keyfiles.fields import Unreadable, string
from controller.model import KEY_TYPES, KeyType, Secret

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

CURVES: dict[str, type[ec.EllipticCurve]] = {
    "ecdsa-nistp256": ec.SECP256R1,
    "ecdsa-nistp384": ec.SECP384R1,
    "ecdsa-nistp521": ec.SECP521R1,
}
SECP256K1 = "secp256k1"  # no key of SSH's
DSA = "dsa"
RSA_BITS_GOOD = 2048
RSA_BITS_LEAST = 1024  # of less no sshd accepts any
RSA_BITS_MOST = 16384  # that OpenSSH reads


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its type (KEY_TYPES, rsa-BITS, dsa), and the key blob of RFC 4253 in its one canonical spelling."""

    type: str
    blob: bytes
    comment: str = ""

    @property
    def name(self) -> str:
        """What a line of it begins with: ssh-ed25519."""
        return string(self.blob, 0)[0].decode("ascii")

    def line(self, comment: str = "") -> str:
        """Return the key as ssh-keygen writes it into a .pub file, without a newline."""
        return " ".join(part for part in (self.name, base64.b64encode(self.blob).decode("ascii"), comment) if part)

    @property
    def fingerprint(self) -> str:
        """SHA256:..., as ssh-keygen -l shows it."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")

    @property
    def fingerprint_md5(self) -> str:
        """aa:bb:..., as ssh-keygen -l -E md5 shows it after MD5:."""
        return hashlib.md5(self.blob, usedforsecurity=False).digest().hex(":")


def generate(key_type: KeyType) -> tuple[PublicKey, Secret]:
    """Return a new key: the public half, and the private half in its stored form."""
    if key_type == "ed25519":
        seed = Secret(bytearray(secrets.token_bytes(32)))
        return public_half(signing_key(key_type, seed)), seed
    key: PrivateKey
    if key_type in CURVES:
        key = ec.generate_private_key(CURVES[key_type]())
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=int(key_type.removeprefix("rsa-")))
    return public_half(key), stored_form(key)


def signing_key(key_type: str, stored: Secret) -> PrivateKey:
    """Return the key that a stored form holds, ready to sign. ValueError or TypeError where it holds none of that type.

    Not looked at again: what is stored was made here, or looked at when it was taken in.
    """
    if key_type == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(stored.view())
    key = load_der_private_key(stored.view(), None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise TypeError(f"the stored form holds no {key_type} key")
    return key


def stored_form(key: PrivateKey) -> Secret:
    """Return the private half as it is stored."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return Secret(bytearray(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())))
    return Secret(bytearray(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())))


def type_of(key: object) -> str:
    """Return the type of a private or public key. Unreadable: a kind that is not used here."""
    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return f"rsa-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        found = next((name for name, curve in CURVES.items() if isinstance(key.curve, curve)), None)
        if found is None and isinstance(key.curve, ec.SECP256K1):
            return SECP256K1
        if found is None:
            raise Unreadable(f"a key of the curve {key.curve.name} is not used here")
        return found
    kind = type(key).__name__.removesuffix("PrivateKey").removesuffix("PublicKey")
    raise Unreadable(f"a key of this kind ({kind}) is not used here")


def public_half(key: PrivateKey) -> PublicKey:
    """Return the public half of a private key. Unreadable: SSH knows none of that kind."""
    key_type = type_of(key)
    if key_type == SECP256K1:
        raise Unreadable("SSH knows no keys of the curve secp256k1; `kps keypair convert` writes them as pkcs8 and pem")
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return PublicKey(key_type, base64.b64decode(line.split(b" ")[1]))


def check_strength(key_type: str, allow_weak: bool, most: int = RSA_BITS_MOST) -> None:
    """Refuse an RSA key that is too short to be safe, or too long to be read. Unreadable; Invalid key_weak."""
    if not key_type.startswith("rsa-"):
        return
    bits = int(key_type.removeprefix("rsa-"))
    if bits > most:
        raise Unreadable(f"an RSA key of {bits} bits: at most {most} are read")
    if bits < RSA_BITS_LEAST:
        raise Unreadable(f"an RSA key of {bits} bits: no sshd accepts less than {RSA_BITS_LEAST}")
    if bits < RSA_BITS_GOOD and not allow_weak:
        raise Invalid(
            "key_weak",
            f"an RSA key of {bits} bits can be broken, and newer servers refuse it: "
            f"use one of {RSA_BITS_GOOD} bits or more, or allow this one (--allow-weak)",
        )


def warnings(key_type: str) -> list[str]:
    """Return what a user of a key of this type should know, in sentences."""
    if key_type == DSA:
        return ["ssh-dss (DSA): OpenSSH refuses it since 7.0 unless told otherwise, and 10.0 does not know it any more"]
    bits = int(key_type.removeprefix("rsa-")) if key_type.startswith("rsa-") else RSA_BITS_GOOD
    if bits < RSA_BITS_GOOD:
        return [f"RSA of {bits} bits can be broken; OpenSSH refuses it wherever RequiredRSASize is 2048"]
    return []


def made_here(key_type: str) -> bool:
    """Say whether keys of this type can be made, and not only taken in."""
    return key_type in KEY_TYPES
