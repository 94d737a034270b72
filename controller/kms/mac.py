"""Message authentication codes, by customer master keys."""

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hmac

from controller.errors import Invalid
from controller.model import Secret

MOST_MESSAGE_BYTES = 4096

_HASHES: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | hashes.SM3]] = {
    "HMAC_SHA_256": hashes.SHA256,
    "HMAC_SHA_384": hashes.SHA384,
    "HMAC_SHA_512": hashes.SHA512,
    "HMAC_SM3": hashes.SM3,
}


def check(algorithm: str) -> None:
    """Invalid(algorithm_not_here) where this machine's OpenSSL does not have what the algorithm needs."""
    _keyed(algorithm, Secret(bytes(32)))


def code(material: Secret, message: bytes, algorithm: str) -> bytes:
    """Return the code of 1 to 4096 bytes. algorithm: one of controller.kms.keys. Invalid(message_length_wrong)."""
    return _of(material, message, algorithm).finalize()


def verify(material: Secret, message: bytes, given: bytes, algorithm: str) -> bool:
    """Say whether a code is that of the message; how long that takes says nothing."""
    try:
        _of(material, message, algorithm).verify(given)
    except InvalidSignature:
        return False
    return True


def _of(material: Secret, message: bytes, algorithm: str) -> hmac.HMAC:
    if not 1 <= len(message) <= MOST_MESSAGE_BYTES:
        raise Invalid("message_length_wrong", f"{len(message)} bytes; a code is made of 1 to {MOST_MESSAGE_BYTES}")
    keyed = _keyed(algorithm, material)
    keyed.update(message)
    return keyed


def _keyed(algorithm: str, material: Secret) -> hmac.HMAC:
    try:
        return hmac.HMAC(material.view(), _HASHES[algorithm]())
    except UnsupportedAlgorithm as error:
        raise Invalid("algorithm_not_here", f"{algorithm}: the OpenSSL on this machine does not have it") from error
