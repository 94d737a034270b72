"""Key files: made, read, written.

The stored form of a private half is the 32-byte seed for ed25519, PKCS#8 DER for the rest.
"""

from controller.keyfiles.conversion import TARGETS, Converted, convert
from controller.keyfiles.costs import (
    ARGON2_ALL_BYTES,
    ARGON2_BYTES,
    ARGON2_LANES,
    BCRYPT_ROUNDS,
    FILE_BYTES,
    PBKDF_ITERATIONS,
    SCRYPT_BYTES,
)
from controller.keyfiles.kinds import PrivateKey, PublicKey, generate, public_half, signing_key, stored_form, warnings
from controller.keyfiles.private import read_private
from controller.keyfiles.public import read_public
from controller.keyfiles.scalar import SCALAR_CURVES
from controller.keyfiles.written import PRIVATE_FORMS, check_form, openssh_private, private_text, rfc4716

__all__ = [
    "ARGON2_ALL_BYTES",
    "ARGON2_BYTES",
    "ARGON2_LANES",
    "BCRYPT_ROUNDS",
    "FILE_BYTES",
    "PBKDF_ITERATIONS",
    "PRIVATE_FORMS",
    "SCALAR_CURVES",
    "SCRYPT_BYTES",
    "TARGETS",
    "Converted",
    "PrivateKey",
    "PublicKey",
    "check_form",
    "convert",
    "generate",
    "openssh_private",
    "private_text",
    "public_half",
    "read_private",
    "read_public",
    "rfc4716",
    "signing_key",
    "stored_form",
    "warnings",
]
