"""Signatures and RSA encryption, by asymmetric customer master keys. What can be done with the public half, OpenSSL can do."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from controller.errors import Invalid

MOST_MESSAGE_BYTES = 4096
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_HASHES: dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}


def check_message(message: bytes, algorithm: str, digested: bool) -> None:
    """Refuse what cannot be signed so: message_too_long, digest_length_wrong. algorithm: one of controller.kms.keys."""
    if digested and len(message) != (wanted := _hash(algorithm).digest_size):
        raise Invalid("digest_length_wrong", f"a digest of {len(message)} bytes; {algorithm} takes one of {wanted}")
    if len(message) > MOST_MESSAGE_BYTES:
        message_ = f"{len(message)} bytes to sign; at most {MOST_MESSAGE_BYTES}: sign its digest instead"
        raise Invalid("message_too_long", message_)


def sign(key: PrivateKey, message: bytes, algorithm: str, digested: bool) -> bytes:
    """Return the signature of a message, or of its digest. RSA: as long as the modulus; ECDSA: DER, as OpenSSL writes it."""
    check_message(message, algorithm, digested)
    hashing = _hash(algorithm)
    chosen = Prehashed(hashing) if digested else hashing
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(chosen))
    return key.sign(message, _padding(algorithm, hashing, signs=True), chosen)


def verify(key: PublicKey, message: bytes, signature: bytes, algorithm: str, digested: bool) -> bool:
    """Say whether this is a signature of the message, or of what has this digest. PSS: with a salt of any length."""
    check_message(message, algorithm, digested)
    hashing = _hash(algorithm)
    chosen = Prehashed(hashing) if digested else hashing
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(chosen))
        else:
            key.verify(signature, message, _padding(algorithm, hashing, signs=False), chosen)
    except InvalidSignature:
        return False
    return True


def encrypt(key: rsa.RSAPublicKey, plaintext: bytes) -> bytes:
    """Return RSAES-OAEP with SHA-256. Invalid(plaintext_too_long) for more than the modulus holds."""
    most = key.key_size // 8 - 2 * hashes.SHA256.digest_size - 2  # RFC 8017, 7.1.1
    if len(plaintext) > most:
        raise Invalid("plaintext_too_long", f"{len(plaintext)} bytes; an RSA key of {key.key_size} bits encrypts at most {most}")
    return key.encrypt(plaintext, oaep())


def decrypt(key: rsa.RSAPrivateKey, ciphertext: bytes) -> bytes:
    """Return the plaintext of RSAES-OAEP with SHA-256. Invalid: ciphertext_length_wrong, ciphertext_damaged."""
    if len(ciphertext) != key.key_size // 8:
        raise Invalid("ciphertext_length_wrong", f"{len(ciphertext)} bytes; this key makes {key.key_size // 8}")
    try:
        return key.decrypt(ciphertext, oaep())
    except ValueError as error:
        message = "this key does not open it: it was changed, made with another key, or not with OAEP and SHA-256"
        raise Invalid("ciphertext_damaged", message) from error


def oaep() -> padding.OAEP:
    """Return OAEP with SHA-256 in both places, and no label."""
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


def _hash(algorithm: str) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512:
    return _HASHES[algorithm.rpartition("_")[2]]()


def _padding(algorithm: str, hashing: hashes.HashAlgorithm, *, signs: bool) -> padding.AsymmetricPadding:
    if "PKCS1" in algorithm:
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(hashing), padding.PSS.DIGEST_LENGTH if signs else padding.PSS.AUTO)
