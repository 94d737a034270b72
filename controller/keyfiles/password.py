"""A password that was encrypted to an RSA key: what a new Windows server tells of its administrator."""

import base64
import binascii

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from controller.errors import Invalid
from controller.keyfiles.kinds import signing_key
from controller.model import Secret

# OpenSSL answers what was not made for the key with random bytes, and no error: what is no password must be told from one.
_SHORTEST, _LONGEST = 6, 128


def check(key_type: str, encrypted: str) -> bytes:
    """Return the encrypted password in bytes, where it can be one for a key of this type. Invalid: password_unreadable."""
    if not key_type.startswith("rsa-"):
        raise Invalid("password_unreadable", f"a password is encrypted to an RSA key, and this one is {key_type}")
    try:
        text = base64.b64decode("".join(encrypted.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(
            "password_unreadable", "the encrypted password is not Base64; give it as the server's console shows it"
        ) from None
    length = -(-int(key_type.removeprefix("rsa-")) // 8)
    if len(text) != length:
        raise Invalid(
            "password_unreadable",
            f"the encrypted password has {len(text)} bytes, for this key it would have {length}: "
            "it is cut off, or was made for another key pair",
        )
    return text


def opened(key_type: str, stored: Secret, encrypted: bytes) -> Secret:
    """Return a password that was encrypted by RSA with the padding of PKCS#1 v1.5 (RFC 8017). Invalid: password_unreadable."""
    key = signing_key(key_type, stored)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Invalid("password_unreadable", f"a password is encrypted to an RSA key, and this one is {key_type}")
    try:
        found = key.decrypt(encrypted, PKCS1v15())
        text = found.decode("utf-8")
        if _SHORTEST <= len(text) <= _LONGEST and text.isprintable():
            return Secret(bytearray(found))
    except ValueError:
        pass  # as where there is something else in it
    raise Invalid(
        "password_unreadable", "what this key makes of it is no password: it was encrypted to another key pair"
    ) from None
