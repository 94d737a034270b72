"""Public keys, read: one line as in a .pub file, RFC 4716 (what PuTTYgen saves), and PEM (SubjectPublicKeyInfo, PKCS#1)."""

import base64
import math
import re

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from controller.errors import Invalid
from controller.keyfiles import points
from controller.keyfiles.armour import Block, blocks_of, lines_of
from controller.keyfiles.fields import Unreadable, comment_text, from_base64, mpint, no_panic, packed, strings, unsigned
from controller.keyfiles.kinds import CURVES, DSA, SECP256K1, PublicKey, check_strength, type_of
from controller.keyfiles.ppk import START
from kpsagent import keys
from kpsagent.errors import Refused

NAMES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa", "ssh-dss")
_NEXT = "; give one public key: a line as in a .pub file, RFC 4716 as PuTTYgen saves it, or PEM"
_BEGIN_4716, _END_4716 = b"---- BEGIN SSH2 PUBLIC KEY ----", b"---- END SSH2 PUBLIC KEY ----"
_HEADER = re.compile(rb"([^:\s]{1,64}):\s*(.*)")
# As NIST SP 800-89, 5.3.3, has a public key of RSA looked at: every prime below 752 divides this.
_SMALL_PRIMES = math.factorial(751)
_DSA_BITS = (1024, 160)  # of p and q: ssh-dss knows no other


def read_public(text: str | bytes, *, allow_weak: bool = False) -> PublicKey:
    """Return the key of a public key file, with its comment. Invalid: public_key_unreadable, key_weak.

    allow_weak: RSA of less than 2048 bits is taken too.
    """
    try:
        found = _read(lines_of(text.encode("utf-8", "replace") if isinstance(text, str) else text))
        check_strength(found.type, allow_weak)
        return found
    except Unreadable as why:
        raise Invalid("public_key_unreadable", f"{why}{_NEXT}") from None


def _read(lines: list[bytes]) -> PublicKey:
    if any(line.startswith(START) or line.endswith(b"PRIVATE KEY-----") for line in lines):
        raise Unreadable("this is a private key")
    if _BEGIN_4716 in lines:
        return _of_4716(lines)
    blocks = blocks_of(lines)
    if len(blocks) > 1:
        raise Unreadable(f"{len(blocks)} keys in one file; give one at a time")
    if blocks:
        return _of_pem(blocks[0])
    filled = [line for line in lines if line]
    if len(filled) > 1:
        raise Unreadable(f"{len(filled)} lines; a public key is one line: type, Base64, comment")
    return _of_line(filled[0] if filled else b"")


# -- one line


def _of_line(line: bytes) -> PublicKey:
    words = line.split(None, 2)
    name = words[0].decode("ascii", "replace") if words else ""
    if name not in NAMES:
        # Not what it begins with: a wrong file may hold anything, a password too.
        known = any(each.decode("ascii", "replace") in NAMES for each in line.split()[1:])
        if known:
            raise Unreadable("something stands before the key's type, such as options; give the key alone")
        if name.endswith("-cert-v01@openssh.com"):
            raise Unreadable("this is a certificate; give the public key that it is for")
        if name.startswith("sk-"):
            raise Unreadable("a key in hardware (sk-) is not taken in")
        raise Unreadable("not a public key: that begins with one of " + ", ".join(NAMES))
    if len(words) < 2:
        raise Unreadable("the key's Base64 is missing after its type")
    blob = from_base64([words[1]])
    return _of_blob(blob, name, comment_text(words[2]) if len(words) > 2 else "")


def _of_blob(blob: bytes, name: str, comment: str) -> PublicKey:
    """Return the key of a blob that says that it is of a type."""
    if name not in NAMES:
        raise Unreadable("a key of this kind is not used here")
    said = strings(blob, 1)[0][0]
    if said != name.encode():
        raise Unreadable(f"its Base64 holds another kind of key than {name}")
    if name == "ssh-dss":
        return _of_dsa_blob(blob, comment)
    encoded = base64.b64encode(blob)
    try:
        with no_panic():
            return _of_key(load_ssh_public_key(name.encode() + b" " + encoded), comment)
    except (ValueError, NotImplementedError, UnsupportedAlgorithm, InternalError):
        raise Unreadable(_what_is_wrong(blob, name)) from None


def _what_is_wrong(blob: bytes, name: str) -> str:
    """Return why a blob is no key, as well as its layout tells."""
    expected = {"ssh-ed25519": 2}.get(name, 3)
    fields, end = strings(blob, expected)
    if end != len(blob):
        return "something follows after the key in its Base64"
    if name.startswith("ecdsa-"):
        curve = name.removeprefix("ecdsa-sha2-")
        width = -(-CURVES[f"ecdsa-{curve}"]().key_size // 8)
        if fields[1] != curve.encode():
            return f"its Base64 holds another kind of key than {name}"
        if fields[2][:1] in (b"\2", b"\3") and len(fields[2]) == 1 + width:
            return "its point is written in short, as no sshd reads it"
        if fields[2][:1] == b"\4" and len(fields[2]) == 1 + 2 * width:
            return "its point is not on the curve"
    return "its Base64 holds no usable key of the type that it says"


def _of_key(found: object, comment: str) -> PublicKey:
    """Return the key in its one spelling. Unreadable, ValueError."""
    if isinstance(found, dsa.DSAPublicKey):
        return _of_dsa(found, comment)
    key_type = type_of(found)
    if key_type == SECP256K1:
        raise Unreadable("SSH knows no keys of the curve secp256k1")
    if not isinstance(found, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise Unreadable("a key of this kind is not used here")
    if isinstance(found, ed25519.Ed25519PublicKey) and not points.usable(found.public_bytes(Encoding.Raw, PublicFormat.Raw)):
        raise Unreadable("its point is not on the curve, or one that everybody can sign for")
    if isinstance(found, rsa.RSAPublicKey) and math.gcd(found.public_numbers().n, _SMALL_PRIMES) != 1:
        raise Unreadable("its modulus can be divided by a small number, so that it is no product of two large primes")
    line = found.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return PublicKey(key_type, base64.b64decode(line.split(b" ")[1]), comment)


# -- DSA, which nothing here computes with: sshd's own spelling of it is the agent's to know


def _of_dsa(found: dsa.DSAPublicKey, comment: str) -> PublicKey:
    numbers = found.public_numbers()
    group = numbers.parameter_numbers
    return _of_dsa_blob(
        packed(b"ssh-dss") + b"".join(packed(mpint(each)) for each in (group.p, group.q, group.g, numbers.y)), comment
    )


def _of_dsa_blob(blob: bytes, comment: str) -> PublicKey:
    try:
        blob = keys.parse("ssh-dss " + base64.b64encode(blob).decode()).material
    except Refused:
        raise Unreadable("its Base64 holds no usable key of the type that it says") from None
    p, q, g, y = (unsigned(field) for field in strings(blob, 5)[0][1:])
    if (p.bit_length(), q.bit_length()) != _DSA_BITS:
        raise Unreadable(f"a DSA key of {p.bit_length()} and {q.bit_length()} bits; SSH knows 1024 and 160 only")
    if not (1 < g < p and 1 < y < p and pow(g, q, p) == pow(y, q, p) == 1):
        raise Unreadable("its numbers do not belong together")
    return PublicKey(DSA, blob, comment)


# -- several lines


def _of_4716(lines: list[bytes]) -> PublicKey:
    """Return the key of a file as RFC 4716 lays it down; what stands around it does not count."""
    if lines.count(_BEGIN_4716) > 1:
        raise Unreadable(f"{lines.count(_BEGIN_4716)} keys in one file; give one at a time")
    inside = lines[lines.index(_BEGIN_4716) + 1 :]
    if _END_4716 not in inside:
        raise Unreadable("the file ends in the middle of the key")
    rest = iter(inside[: inside.index(_END_4716)])
    comment = ""
    body: list[bytes] = []
    for line in rest:
        header = None if body else _HEADER.fullmatch(line)
        if header is None:
            body += [line] if line else []
            continue
        value = header[2]
        while value.endswith(b"\\"):
            # A value is folded by a backslash at the end of its line (3.3), and lines_of has taken the blanks beside it.
            value = value[:-1] + next(rest, b"")
        if header[1].lower() == b"comment":
            quoted = re.fullmatch(rb'"(.*)"', value)
            comment = comment_text(quoted[1] if quoted else value)
    blob = from_base64(body)
    return _of_blob(blob, strings(blob, 1)[0][0].decode("ascii", "replace"), comment)


def _of_pem(block: Block) -> PublicKey:
    if block.label.startswith("CERTIFICATE"):
        raise Unreadable("this is a certificate; `openssl x509 -in FILE -pubkey -noout` gives its public key")
    if block.label not in ("PUBLIC KEY", "RSA PUBLIC KEY"):
        raise Unreadable(f"{block.label} is not read")
    label = block.label.encode()
    text = b"\n".join([b"-----BEGIN " + label + b"-----", *block.lines, b"-----END " + label + b"-----", b""])
    from_base64(block.lines)
    try:
        with no_panic():
            return _of_key(load_pem_public_key(text), "")
    except UnsupportedAlgorithm:
        raise Unreadable("a key of this kind is not used here") from None
    except (ValueError, InternalError) as error:
        if str(error) == "Invalid key":
            raise Unreadable("its point is not on the curve") from None
        raise Unreadable("its contents are damaged, or something follows after the key") from None
