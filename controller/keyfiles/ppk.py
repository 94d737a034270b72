"""PuTTY's private key files (.ppk), version 2 and 3: read and written, as nobody else does here.

Format: PuTTY's manual, appendix C. The MAC covers the public half, the comment and the private half alike.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf import argon2

from controller.errors import Invalid
from controller.keyfiles.costs import RSA_BITS, check_argon2
from controller.keyfiles.fields import Unreadable, comment_text, from_base64, in_lines, mpint, packed, strings, unsigned
from controller.keyfiles.kinds import CURVES, PrivateKey, check_strength, public_half
from controller.model import Secret

START = b"PuTTY-User-Key-File-"
# What puttygen takes of its own accord.
MEMORY_KIB, PASSES, LANES = 8192, 13, 1

_DERIVATIONS: dict[bytes, type[argon2.Argon2id | argon2.Argon2i | argon2.Argon2d]] = {
    b"Argon2id": argon2.Argon2id,
    b"Argon2i": argon2.Argon2i,
    b"Argon2d": argon2.Argon2d,
}
_MAC_OF_2 = b"putty-private-key-file-mac-key"
_ENCRYPTIONS = (b"none", b"aes256-cbc")
_BLOCK = 16
_NUMBER = re.compile(rb"[0-9]{1,10}")
_HEX = re.compile(rb"([0-9a-fA-F]{2})+")


@dataclass(frozen=True)
class _Costs:
    """How the passphrase of a version 3 becomes a key."""

    kind: bytes
    memory_kib: int
    passes: int
    lanes: int
    salt: bytes


@dataclass(frozen=True)
class _File:
    """What a file says, nothing of it opened. mac: as it stands there, in bytes."""

    version: int
    name: bytes
    encryption: bytes
    comment: bytes
    public: bytes
    private: bytes = field(repr=False)
    mac: bytes
    costs: _Costs | None

    def computed(self, plain: bytes | bytearray, key: bytes) -> bytes:
        """Return the MAC that the file must have if this is its private half in the clear."""
        covered = bytearray().join(packed(part) for part in (self.name, self.encryption, self.comment, self.public, plain))
        try:
            return hmac.digest(key, covered, "sha256" if self.version == 3 else "sha1")
        finally:
            Secret(covered).wipe()


# -- reading


def read(lines: list[bytes], passphrase: Secret | None, *, allow_weak: bool) -> tuple[PrivateKey, str]:
    """Return the key of a file, and its comment.

    Unreadable; Invalid passphrase_wrong (or missing), key_mismatch, key_weak. What the header asks for is looked at first.
    """
    file = _parsed(lines)
    derived = (b"", b"", b"" if file.version == 3 else _sha1(_MAC_OF_2))
    plain = bytearray(file.private)
    if file.encryption != b"none":
        if passphrase is None or len(passphrase) == 0:
            raise Invalid("passphrase_wrong", "this private key is encrypted; give its passphrase")
        derived = _derived(file, passphrase)
        plain = bytearray(Cipher(AES(derived[0]), CBC(derived[1])).decryptor().update(file.private))
    try:
        if not hmac.compare_digest(file.computed(plain, derived[2]), file.mac):
            if file.encryption == b"none":
                raise Unreadable("its check sum (Private-MAC) does not fit: it was changed or damaged")
            raise Invalid("passphrase_wrong", "the passphrase does not open this private key")
        return _key(file, bytes(plain), allow_weak), comment_text(file.comment)
    finally:
        Secret(plain).wipe()


def _parsed(lines: list[bytes]) -> _File:
    rest = iter([line for line in lines if line])
    begin, _, name = next(rest, b"").partition(b": ")
    if begin not in (START + b"2", START + b"3"):
        raise Unreadable("of PuTTY's files only version 2 and 3 are read; PuTTYgen rewrites an older one")
    version = int(begin[-1:])
    encryption = _value(rest, b"Encryption")
    if encryption not in _ENCRYPTIONS:
        raise Unreadable("its encryption is not known")
    comment = _value(rest, b"Comment", empty=True)
    public = from_base64(_lines(rest, b"Public-Lines"))
    costs = None
    if version == 3 and encryption != b"none":
        kind = _value(rest, b"Key-Derivation")
        if kind not in _DERIVATIONS:
            raise Unreadable("its key derivation is not known")
        memory, passes, lanes = (_number(rest, b"Argon2-" + each) for each in (b"Memory", b"Passes", b"Parallelism"))
        check_argon2(memory, passes, lanes)
        costs = _Costs(kind, memory, passes, lanes, _hex(_value(rest, b"Argon2-Salt")))
    private = from_base64(_lines(rest, b"Private-Lines"))
    mac = _hex(_value(rest, b"Private-MAC"))
    if next(rest, None) is not None:
        raise Unreadable("something follows after the key; one key a file, and nothing behind it")
    if encryption != b"none" and len(private) % _BLOCK:
        raise Unreadable("its encrypted part is cut off")
    return _File(version, name, encryption, comment, public, private, mac, costs)


def _value(rest: Iterator[bytes], name: bytes, *, empty: bool = False) -> bytes:
    line = next(rest, b"")
    said, colon, value = line.partition(b":")
    if said != name or not colon or not (value.strip() or empty):
        raise Unreadable(f"its line {name.decode()} is missing or misplaced")
    return value.removeprefix(b" ")


def _number(rest: Iterator[bytes], name: bytes) -> int:
    value = _value(rest, name)
    if not _NUMBER.fullmatch(value):
        raise Unreadable(f"its line {name.decode()} holds no number")
    return int(value)


def _lines(rest: Iterator[bytes], name: bytes) -> list[bytes]:
    found = []
    for _ in range(_number(rest, name)):
        line = next(rest, None)
        if line is None:
            raise Unreadable("it is cut off")
        found.append(line)
    return found


def _hex(text: bytes) -> bytes:
    if not _HEX.fullmatch(text):
        raise Unreadable("what should be hexadecimal in it is not")
    return bytes.fromhex(text.decode("ascii"))


def _sha1(value: bytes | bytearray) -> bytes:
    return hashlib.sha1(value, usedforsecurity=False).digest()  # version 2 knows no other


def _derived(file: _File, passphrase: Secret) -> tuple[bytes, bytes, bytes]:
    """Return the key, the first block and the key of the MAC."""
    word = passphrase.open()
    if file.costs is None:
        return (_sha1(bytes(4) + word) + _sha1(bytes(3) + b"\1" + word))[:32], bytes(_BLOCK), _sha1(_MAC_OF_2 + word)
    costs = file.costs
    try:
        derivation = _DERIVATIONS[costs.kind](
            salt=costs.salt, length=80, iterations=costs.passes, lanes=costs.lanes, memory_cost=costs.memory_kib
        )
        made = derivation.derive(word)
    except (ValueError, UnsupportedAlgorithm, InternalError, MemoryError) as error:
        raise Unreadable(f"its key derivation cannot be computed here ({type(error).__name__})") from None
    return made[:32], made[32:48], made[48:]


def _key(file: _File, plain: bytes, allow_weak: bool) -> PrivateKey:
    name, comes = file.name, {b"ssh-ed25519": (2, 1), b"ssh-rsa": (3, 4)}
    curve = CURVES.get(name.decode("ascii", "replace").replace("ecdsa-sha2-", "ecdsa-"))
    if name not in comes and curve is None:
        raise Unreadable("a key of this kind is not used here")
    of_public, of_private = comes.get(name, (3, 1))
    public, at = strings(file.public, of_public)
    if public[0] != name or at != len(file.public):
        raise Unreadable("its public half is not of the kind that it says")
    private, at = strings(plain, of_private)
    if len(plain) - at >= _BLOCK or (file.encryption == b"none" and at != len(plain)):
        raise Unreadable("something follows after the private half in it")
    try:
        key = _made(curve, public, private, allow_weak)
    except (ValueError, InternalError):
        raise Unreadable("its numbers do not belong together") from None
    if public_half(key).blob != file.public:
        raise Invalid("key_mismatch", "the public half in this file does not belong to its private half")
    return key


def _made(curve: type[ec.EllipticCurve] | None, public: list[bytes], private: list[bytes], allow_weak: bool) -> PrivateKey:
    if curve is not None:
        return ec.derive_private_key(unsigned(private[0]), curve())
    if public[0] == b"ssh-ed25519":
        # Older ones leave out zeros at the end: to PuTTY it is a number, the lowest byte first.
        return ed25519.Ed25519PrivateKey.from_private_bytes(private[0].ljust(32, b"\0"))
    e, n = map(unsigned, public[1:])
    d, p, q, iqmp = map(unsigned, private)
    check_strength(f"rsa-{n.bit_length()}", allow_weak, RSA_BITS)
    if p < 2 or q < 2:
        raise ValueError("no primes")
    numbers = rsa.RSAPublicNumbers(e, n)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), iqmp, numbers).private_key()


# -- writing


def write(key: PrivateKey, stored: Secret, comment: str, passphrase: Secret | None, version: int) -> Secret:
    """Return the text of a file, with a passphrase or without one. version: 2 or 3."""
    public = public_half(key)
    costs = None
    if version == 3 and passphrase is not None:
        costs = _Costs(b"Argon2id", MEMORY_KIB, PASSES, LANES, secrets.token_bytes(16))
    plain = _private_fields(key, stored)
    if passphrase is not None:
        plain += _sha1(plain)[: -len(plain) % _BLOCK]
    file = _File(
        version,
        public.name.encode(),
        _ENCRYPTIONS[passphrase is not None],
        _one_line(comment),
        public.blob,
        b"",
        b"",
        costs,
    )
    derived = (b"", b"", b"" if version == 3 else _sha1(_MAC_OF_2)) if passphrase is None else _derived(file, passphrase)
    mac = file.computed(plain, derived[2])
    sealed: bytes | bytearray = plain
    if passphrase is not None:
        sealed = Cipher(AES(derived[0]), CBC(derived[1])).encryptor().update(plain)
    text = bytearray(START + b"%d: %s\nEncryption: %s\nComment: %s\n" % (version, file.name, file.encryption, file.comment))
    text += _counted(b"Public-Lines", public.blob)
    if costs is not None:
        text += b"Key-Derivation: %s\nArgon2-Memory: %d\n" % (costs.kind, costs.memory_kib)
        text += b"Argon2-Passes: %d\nArgon2-Parallelism: %d\n" % (costs.passes, costs.lanes)
        text += b"Argon2-Salt: %s\n" % costs.salt.hex().encode()
    text += _counted(b"Private-Lines", sealed)
    text += b"Private-MAC: %s\n" % mac.hex().encode()
    Secret(plain).wipe()
    return Secret(text)


def _counted(name: bytes, value: bytes | bytearray) -> bytearray:
    lines = in_lines(value, 64)
    return bytearray(b"%s: %d\n" % (name, lines.count(b"\n"))) + lines


def _one_line(comment: str) -> bytes:
    return " ".join(comment.split()).encode("utf-8", "replace")


def _private_fields(key: PrivateKey, stored: Secret) -> bytearray:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return bytearray(packed(bytearray(stored.view())))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return bytearray(packed(mpint(key.private_numbers().private_value)))
    numbers = key.private_numbers()
    return bytearray().join(packed(mpint(each)) for each in (numbers.d, numbers.p, numbers.q, numbers.iqmp))
