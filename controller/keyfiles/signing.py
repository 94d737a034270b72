"""Signs for a key pair as SSH does, and holds its private half once and nowhere else.

The one copy is OpenSSL's, which overwrites it when this is let go of. Source: RFC 4253 (6.6), 5656, 8332, 8709.
"""

import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controller.keyfiles import signing_key
from controller.model import Secret

_OF_RSA: dict[bytes, type[hashes.HashAlgorithm]] = {
    b"ssh-rsa": hashes.SHA1,
    b"rsa-sha2-256": hashes.SHA256,
    b"rsa-sha2-512": hashes.SHA512,
    # Names of before RFC 8332, which some servers still prefer.
    b"ssh-rsa-sha224@ssh.com": hashes.SHA224,
    b"ssh-rsa-sha256@ssh.com": hashes.SHA256,
    b"ssh-rsa-sha384@ssh.com": hashes.SHA384,
    b"ssh-rsa-sha512@ssh.com": hashes.SHA512,
}
_OF_CURVE: dict[int, type[hashes.HashAlgorithm]] = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}


class SigningKey:
    """A private half that can be used and not be read."""

    def __init__(self, key_type: str, stored: Secret) -> None:
        """stored: as controller.keyfiles says; not needed any more afterwards."""
        self._key = signing_key(key_type, stored)

    def sign(self, data: bytes, sig_algorithm: bytes, /) -> bytes:
        """Return the signature of data by an algorithm of the key's own type, in the form of RFC 4253."""
        key = self._key
        if isinstance(key, ed25519.Ed25519PrivateKey):
            signature = key.sign(data)
        elif isinstance(key, ec.EllipticCurvePrivateKey):
            numbers = decode_dss_signature(key.sign(data, ec.ECDSA(_OF_CURVE[key.key_size]())))
            signature = b"".join(_string(_mpint(number)) for number in numbers)
        else:
            signature = key.sign(data, padding.PKCS1v15(), _OF_RSA[sig_algorithm]())
        return _string(sig_algorithm) + _string(signature)


def belongs(key_type: str, stored: Secret, public_line: str) -> bool:
    """Say whether a stored private half is that of a public key."""
    try:
        public = signing_key(key_type, stored).public_key()
    except (ValueError, TypeError):
        return False  # of another type
    return public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split(b" ")[1] == public_line.split(" ")[1].encode()


def _string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _mpint(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")
