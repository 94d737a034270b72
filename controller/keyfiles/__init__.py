"""Key files: made, read, written.

The stored form of a private half is the 32-byte seed for ed25519, PKCS#8 DER for the rest. Formats read: OpenSSH
(openssh/PROTOCOL.key), PKCS#1 (RFC 8017), PKCS#8 (RFC 5958), SEC1 (RFC 5915), each with or without a passphrase.
"""

import base64
import binascii
import hashlib
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from controller.errors import Invalid
from controller.model import KEY_TYPES, KeyType, Secret

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

# What a file may make us compute or hold: each about a second's work. A header can ask for centuries.
FILE_BYTES = 64 * 1024
BCRYPT_ROUNDS = 128
PBKDF_ITERATIONS = 2_000_000
SCRYPT_BYTES = 256 * 1024 * 1024  # all passes together

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "ecdsa-nistp256": ec.SECP256R1,
    "ecdsa-nistp384": ec.SECP384R1,
    "ecdsa-nistp521": ec.SECP521R1,
}
_NAMES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
_NEXT = "; give a private key file of " + ", ".join(KEY_TYPES)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its type, and the key blob of RFC 4253 in its one canonical spelling."""

    type: KeyType
    blob: bytes
    comment: str = ""

    def line(self, comment: str = "") -> str:
        """Return the key as ssh-keygen writes it into a .pub file, without a newline."""
        name = _string(self.blob, 0)[0].decode("ascii")
        return " ".join(part for part in (name, base64.b64encode(self.blob).decode("ascii"), comment) if part)

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
        return _public(signing_key(key_type, seed)), seed
    key: PrivateKey
    if key_type in _CURVES:
        key = ec.generate_private_key(_CURVES[key_type]())
    else:
        key = rsa.generate_private_key(public_exponent=65537, key_size=int(key_type.removeprefix("rsa-")))
    return _public(key), _stored(key)


def signing_key(key_type: KeyType, stored: Secret) -> PrivateKey:
    """Return the private key that a stored form holds, ready to sign."""
    if key_type == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(stored.view())
    # Looked at when it was made or read, and unchanged since: for 4096 bits looking takes a third of a second.
    key = load_der_private_key(stored.view(), None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise TypeError(f"the stored form holds no {key_type} key")
    return key


def read_public(text: str) -> PublicKey:
    """Return the key of one line as in a .pub file: type, blob, comment. Invalid: public_key_unreadable."""
    parts = text.strip().split(None, 2)
    if len(text) > FILE_BYTES or "\n" in text.strip() or len(parts) < 2:
        raise Invalid("public_key_unreadable", "a public key is one line: type, key in Base64, comment")
    if parts[0] not in _NAMES:
        # Not what it begins with: a wrong file may hold anything, a password too.
        raise Invalid("public_key_unreadable", "not a public key: that begins with one of " + ", ".join(_NAMES))
    try:
        found = load_ssh_public_key(" ".join(parts[:2]).encode())
    except (ValueError, NotImplementedError, UnsupportedAlgorithm) as error:
        raise Invalid("public_key_unreadable", "its Base64 holds no public key of the type that it says") from error
    blob = found.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split(b" ")[1]
    key_type = _type_of(found)
    if key_type is None:
        raise Invalid("public_key_unreadable", f"{parts[0]}: not one of the types " + ", ".join(KEY_TYPES))
    return PublicKey(key_type, base64.b64decode(blob), parts[2] if len(parts) > 2 else "")


def read_private(text: Secret, passphrase: Secret | None = None) -> tuple[PublicKey, Secret]:
    """Return both halves of the text of a private key file, the private one in its stored form.

    Looks at the header before it computes anything that the header asks for. A passphrase that is not needed is not
    looked at. Invalid: private_key_unreadable, passphrase_wrong (or missing), key_mismatch (the file's two halves).
    """
    label, body = _armour(text)
    if label == "OPENSSH PRIVATE KEY":
        encrypted, claimed = _openssh_header(body)
    else:
        encrypted, claimed = _pem_header(label, body), None
    if not encrypted:
        passphrase = None
    elif passphrase is None or len(passphrase) == 0:
        raise Invalid("passphrase_wrong", "this private key is encrypted; give its passphrase")
    key = _load(label, body, passphrase)
    public = _public(key)
    if claimed is not None and claimed != public.blob:
        raise Invalid("key_mismatch", "the public half in this file does not belong to its private half")
    return public, _stored(key)


def openssh_private(key_type: KeyType, stored: Secret, comment: str = "") -> Secret:
    """Return the text of an OpenSSH private key file, without passphrase."""
    key = signing_key(key_type, stored)
    public = _public(key).blob
    check = secrets.token_bytes(4)
    inner = bytearray(check + check)
    for field in _private_fields(key, stored):
        inner += struct.pack(">I", len(field)) + field
    inner += _packed(comment.encode())
    inner += bytes(range(1, -len(inner) % 8 + 1))
    body = bytearray(b"openssh-key-v1\0")
    for part in (b"none", b"none", b""):
        body += _packed(part)
    body += struct.pack(">I", 1) + _packed(public) + struct.pack(">I", len(inner)) + inner
    encoded = bytearray(base64.b64encode(body))
    text = bytearray(b"-----BEGIN OPENSSH PRIVATE KEY-----\n")
    for start in range(0, len(encoded), 70):
        text += encoded[start : start + 70] + b"\n"
    text += b"-----END OPENSSH PRIVATE KEY-----\n"
    for used in (inner, body, encoded):
        Secret(used).wipe()
    return Secret(text)


# -- values


def _type_of(key: object) -> KeyType | None:
    name = ""
    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        name = "ed25519"
    elif isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        name = next((known for known, curve in _CURVES.items() if isinstance(key.curve, curve)), "")
    elif isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        name = f"rsa-{key.key_size}"
    return next((known for known in KEY_TYPES if known == name), None)


def _public(key: PrivateKey) -> PublicKey:
    key_type = _type_of(key)
    if key_type is None:
        size = getattr(key, "key_size", "")
        raise Invalid("private_key_unreadable", f"a key of this type or size ({size} bits) is not used here{_NEXT}")
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return PublicKey(key_type, base64.b64decode(line.split(b" ")[1]))


def _stored(key: PrivateKey) -> Secret:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return Secret(bytearray(key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())))
    return Secret(bytearray(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())))


def _private_fields(key: PrivateKey, stored: Secret) -> Iterator[bytes | bytearray]:
    """The fields of a private key in openssh-key-v1, after the check numbers."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        yield from (b"ssh-ed25519", public, bytearray(stored.view()) + public)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        name = next(name for name, curve in _CURVES.items() if isinstance(key.curve, curve)).removeprefix("ecdsa-")
        point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        yield from (b"ecdsa-sha2-" + name.encode(), name.encode(), point, _mpint(key.private_numbers().private_value))
    else:
        numbers = key.private_numbers()
        yield b"ssh-rsa"
        for number in (
            numbers.public_numbers.n, numbers.public_numbers.e, numbers.d, numbers.iqmp, numbers.p, numbers.q,
        ):  # fmt: skip
            yield _mpint(number)


# -- reading


def _unreadable(why: str) -> Invalid:
    return Invalid("private_key_unreadable", f"{why}{_NEXT}")


def _armour(text: Secret) -> tuple[str, bytes]:
    """Return what stands after BEGIN, and the lines up to END, of the first private key in the text."""
    if len(text) > FILE_BYTES:
        raise _unreadable(f"{len(text)} bytes is no private key")
    # Windows line ends and a byte order mark are not worth a refusal.
    lines = [line.strip() for line in text.open().removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    for number, line in enumerate(lines):
        if line.startswith(b"-----BEGIN ") and line.endswith(b"PRIVATE KEY-----"):
            label = line[len(b"-----BEGIN ") : -len(b"-----")].decode("ascii", "replace")
            end = f"-----END {label}-----".encode("ascii", "replace")
            if end not in lines[number:]:
                raise _unreadable("the file ends in the middle of the key")
            return label, b"\n".join(lines[number + 1 : lines.index(end, number)])
    if any(line.startswith(b"PuTTY-User-Key-File-") for line in lines):
        raise _unreadable("PuTTY's own format is not read; export the key as an OpenSSH key in PuTTYgen")
    if any(line.startswith((b"ssh-", b"ecdsa-", b"-----BEGIN SSH2 PUBLIC", b"-----BEGIN PUBLIC")) for line in lines):
        raise _unreadable("this is a public key; the private half is needed")
    raise _unreadable("there is no private key in it")


def _decoded(lines: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(lines.split()), validate=True)
    except binascii.Error:
        raise _unreadable("its Base64 does not decode") from None


def _openssh_header(lines: bytes) -> tuple[bool, bytes]:
    """Return whether the file is encrypted, and the public key it claims to belong to."""
    body, magic = _decoded(lines), b"openssh-key-v1\0"
    if not body.startswith(magic):
        raise _unreadable("not the OpenSSH format that it says it is")
    try:
        cipher, at = _string(body, len(magic))
        kdf, at = _string(body, at)
        options, at = _string(body, at)
        (count,) = struct.unpack_from(">I", body, at)
        claimed, _ = _string(body, at + 4)
        if kdf == b"bcrypt":
            _, after = _string(options, 0)
            (rounds,) = struct.unpack_from(">I", options, after)
            if not 1 <= rounds <= BCRYPT_ROUNDS:
                raise _unreadable(f"{rounds} bcrypt rounds, at most {BCRYPT_ROUNDS} are computed")
        elif kdf != b"none":
            raise _unreadable(f"key derivation {kdf.decode('ascii', 'replace')!r} is not known")
    except struct.error:
        raise _unreadable("it is cut off") from None
    if count != 1:
        raise _unreadable(f"{count} keys in one file")
    return cipher != b"none", claimed


def _pem_header(label: str, lines: bytes) -> bool:
    """Return whether the file is encrypted, once what it asks for is known to be affordable."""
    if label == "ENCRYPTED PRIVATE KEY":
        _check_pkcs8_cost(_decoded(lines))
        return True
    if label not in ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"):
        raise _unreadable(f"{label} is not read")
    return lines.startswith(b"Proc-Type: 4,ENCRYPTED")


def _load(label: str, lines: bytes, passphrase: Secret | None) -> PrivateKey:
    load = load_ssh_private_key if label == "OPENSSH PRIVATE KEY" else load_pem_private_key
    block = bytearray(f"-----BEGIN {label}-----\n".encode() + lines + f"\n-----END {label}-----\n".encode())
    try:
        key = load(block, None if passphrase is None else passphrase.open(), unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm) as error:
        # From nothing: what the library says may quote what it read.
        if passphrase is not None and isinstance(error, ValueError):
            raise Invalid("passphrase_wrong", "the passphrase does not open this private key") from None
        raise _unreadable(f"its contents are damaged or unusual ({type(error).__name__})") from None
    finally:
        Secret(block).wipe()
    if not isinstance(key, PrivateKey):
        raise _unreadable(f"{type(key).__name__} is not used here")
    if not isinstance(key, rsa.RSAPrivateKey):
        return key
    # Its size first: to look whether 16,384 bits fit together takes a minute.
    _public(key)
    try:
        return key.private_numbers().private_key()
    except ValueError:
        raise _unreadable("its numbers do not belong together") from None


# -- bytes


def _packed(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _string(text: bytes, at: int) -> tuple[bytes, int]:
    """Return the string of RFC 4251 that begins at a place, and where it ends. struct.error where there is none."""
    (length,) = struct.unpack_from(">I", text, at)
    (value,) = struct.unpack_from(f">{length}s", text, at + 4)
    return value, at + 4 + length


def _mpint(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


# -- DER, as much as the cost of a PKCS#8 file takes

_INTEGER = 0x02
_PBES2 = bytes.fromhex("2a864886f70d01050d")
_PBKDF2 = bytes.fromhex("2a864886f70d01050c")
_SCRYPT = bytes.fromhex("2b06010401da47040b")


def _check_pkcs8_cost(der: bytes) -> None:
    """Refuse an EncryptedPrivateKeyInfo (RFC 5958, 8018, 7914) whose key derivation costs more than it may."""
    try:
        ((_, outer),) = _elements(der)
        (_, algorithm), _ = _elements(outer)
        (_, scheme), (_, parameters) = _elements(algorithm)
        if scheme == _PBES2:
            (_, derivation), _ = _elements(parameters)
            (_, scheme), (_, parameters) = _elements(derivation)
        numbers = [int.from_bytes(value, "big") for tag, value in _elements(parameters) if tag == _INTEGER]
        work = 128 * numbers[0] * numbers[1] * numbers[2] if scheme == _SCRYPT else numbers[0]
    except (IndexError, ValueError):
        raise _unreadable("its DER does not parse") from None
    if scheme == _SCRYPT and work > SCRYPT_BYTES:
        raise _unreadable(f"scrypt over {work} bytes, at most {SCRYPT_BYTES} are gone through")
    if scheme != _SCRYPT and work > PBKDF_ITERATIONS:
        raise _unreadable(f"{work} iterations of its key derivation, at most {PBKDF_ITERATIONS} are computed")


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """Return the elements of DER side by side. IndexError or ValueError where it is none."""
    found, at = [], 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or at + size > len(der):
                raise ValueError("length")
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        if at + length > len(der):
            raise ValueError("cut off")
        found.append((tag, der[at : at + length]))
        at += length
    return found
