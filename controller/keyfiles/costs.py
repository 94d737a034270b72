"""What a key file may make us compute or hold: each at most about a second's work. A header can ask for centuries."""

from controller.keyfiles.der import INTEGER, elements
from controller.keyfiles.fields import Unreadable

FILE_BYTES = 64 * 1024
BCRYPT_ROUNDS = 100
PBKDF_ITERATIONS = 1_000_000
SCRYPT_BYTES = 128 * 1024 * 1024  # all passes together
ARGON2_BYTES = 256 * 1024 * 1024
ARGON2_ALL_BYTES = 512 * 1024 * 1024  # all passes together
ARGON2_LANES = 64
RSA_BITS = 4096  # of a private key: to look whether 16,384 bits fit together takes a minute

_PBES2 = bytes.fromhex("2a864886f70d01050d")
_SCRYPT = bytes.fromhex("2b06010401da47040b")


def check_bcrypt(rounds: int) -> None:
    """Unreadable: more rounds than are computed, or none."""
    if not 1 <= rounds <= BCRYPT_ROUNDS:
        raise Unreadable(f"{rounds} bcrypt rounds, at most {BCRYPT_ROUNDS} are computed")


def check_argon2(memory_kib: int, passes: int, lanes: int) -> None:
    """Unreadable: more memory, passes or lanes than are given, or fewer than RFC 9106 knows."""
    asked = memory_kib * 1024
    if asked > ARGON2_BYTES:
        raise Unreadable(f"Argon2 over {memory_kib} KiB of memory, at most {ARGON2_BYTES >> 10} are taken")
    if asked * passes > ARGON2_ALL_BYTES:
        raise Unreadable(
            f"Argon2 with {passes} passes over {memory_kib} KiB of memory, "
            f"at most {ARGON2_ALL_BYTES >> 10} KiB are gone through in all"
        )
    if lanes > ARGON2_LANES:
        raise Unreadable(f"Argon2 in {lanes} lanes, at most {ARGON2_LANES} are computed")
    if passes < 1 or lanes < 1 or memory_kib < 8 * lanes:
        raise Unreadable("Argon2 with less than one pass, one lane, or 8 KiB of memory for each lane")


def check_pkcs8(der: bytes) -> None:
    """Unreadable: an EncryptedPrivateKeyInfo (RFC 5958, 8018, 7914) whose key derivation costs more than it may."""
    try:
        ((_, outer),) = elements(der)
        (_, algorithm), _ = elements(outer)
        (_, scheme), (_, parameters) = elements(algorithm)
        if scheme == _PBES2:
            (_, derivation), _ = elements(parameters)
            (_, scheme), (_, parameters) = elements(derivation)
        numbers = [int.from_bytes(value, "big") for tag, value in elements(parameters) if tag == INTEGER]
        work = 128 * numbers[0] * numbers[1] * numbers[2] if scheme == _SCRYPT else numbers[0]
    except (IndexError, ValueError):
        raise Unreadable("its DER does not parse") from None
    if scheme == _SCRYPT and work > SCRYPT_BYTES:
        raise Unreadable(f"scrypt over {_said(work)} bytes, at most {SCRYPT_BYTES} are gone through")
    if scheme != _SCRYPT and work > PBKDF_ITERATIONS:
        raise Unreadable(f"{_said(work)} iterations of its key derivation, at most {PBKDF_ITERATIONS} are computed")


def _said(number: int) -> str:
    # A number may fill the file, and to write it out in decimals is work, too.
    return str(number) if number < 10**30 else "more than 10^30"
