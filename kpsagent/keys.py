"""authorized_keys text: find, add, inherit and remove a key; text in, text out, no other line changes.

A key is compared by its material, never by its text or the bytes of its blob: sshd accepts many spellings of one key.
What sshd takes as a key line: sshd(8), AUTHORIZED_KEYS FILE FORMAT, and sshkey_read() in OpenSSH's sshkey.c.
"""

import binascii
import struct
from collections import namedtuple

from .errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import FrozenSet, List, Optional, Set, Tuple

LARGEST = 8 * 1024 * 1024  # bytes of an authorized_keys file that are still read

_SKIPPED = {ord(letter): None for letter in "\n\v\f\r"}  # by sshd, within a blob

_RSA, _DSS, _ED25519 = "ssh-rsa", "ssh-dss", "ssh-ed25519"
_SK_ED25519, _SK_ECDSA = "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"


class Key(namedtuple("Key", ["type", "blob", "material", "comment"])):
    """A public key. type: its name; blob: Base64; material: the bytes of the blob; comment.

    Blob and material are normal forms (shortest integers, full names): two keys are the same key exactly when their
    material is equal.
    """

    __slots__ = ()

    @property
    def bits(self) -> int:
        """The length of an RSA modulus; 0 for the other types, whose name says it all."""
        if self.type != _RSA:
            return 0
        reader = _Reader(self.material)
        _, _, modulus = reader.field(), reader.field(), reader.field()
        return int.from_bytes(modulus, "big").bit_length()


Line = namedtuple("Line", ["index", "options", "key", "comment", "text"])
Line.__doc__ = (
    """A line that holds a key. index: in the file, from 0. options: as they stand, or "". text: without its newline."""
)

_COMMENT = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._@:+-")
_LONGEST_COMMENT = 128
_SMALLEST_RSA_BITS = 1024
_LARGEST_INTEGER = 2048  # bytes; sshbuf_get_bignum2() takes no more, save one leading zero
_COORDINATE = {"nistp256": 32, "nistp384": 48, "nistp521": 66}  # bytes

# What may be the first word of a line, and the type it means; compared exactly.
_TYPES = {
    _ED25519: _ED25519,
    "ecdsa-sha2-nistp256": "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384": "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521": "ecdsa-sha2-nistp521",
    _RSA: _RSA,
    "rsa-sha2-256": _RSA,
    "rsa-sha2-512": _RSA,
    _DSS: _DSS,
    _SK_ED25519: _SK_ED25519,
    _SK_ECDSA: _SK_ECDSA,
    "webauthn-" + _SK_ECDSA: _SK_ECDSA,
}
TYPES = frozenset(_TYPES)
# Within the blob short names count too, in any case (sshkey_type_from_name()).
_SHORT = {"rsa": _RSA, "dsa": _DSS, "ed25519": _ED25519, "ed25519-sk": _SK_ED25519}

# A line with one of these gives less than a login at any time, from anywhere, with any command.
_RESTRICTING = frozenset(["cert-authority", "command", "expiry-time", "from", "principals", "verify-required"])


class _Malformed(Exception):
    """sshd would not take this as a key"""


class _Reader:
    """the fields of a blob, one after the other, each in its normal form"""

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        self.at = 0

    def field(self) -> bytes:
        start = self.at + 4
        length = self.blob[self.at : start]
        if len(length) != 4:
            raise _Malformed
        self.at = start + int(struct.unpack(">I", length)[0])
        if self.at > len(self.blob):
            raise _Malformed
        return self.blob[start : self.at]

    def name(self) -> bytes:
        """Return the next field; one NUL at its end does not count, as in sshbuf_get_cstring()."""
        name = self.field()
        if name.endswith(b"\0"):
            name = name[:-1]
        if b"\0" in name:
            raise _Malformed
        return name

    def integer(self) -> bytes:
        """Return the next field; leading zeros do not count, as in sshbuf_get_bignum2()."""
        integer = self.field()
        if len(integer) > _LARGEST_INTEGER + integer.startswith(b"\0") or integer[:1] >= b"\x80":
            raise _Malformed
        integer = integer.lstrip(b"\0")
        return b"\0" + integer if integer[:1] >= b"\x80" else integer

    def exactly(self, length: int) -> bytes:
        field = self.field()
        if len(field) != length:
            raise _Malformed
        return field

    def point(self, curve: str) -> "List[bytes]":
        if self.name() != curve.encode():
            raise _Malformed
        point = self.exactly(1 + 2 * _COORDINATE[curve])
        if not point.startswith(b"\x04"):  # OpenSSH takes no compressed points
            raise _Malformed
        return [curve.encode(), point]


def _normal(blob: bytes) -> "Tuple[str, bytes]":
    """Return (type, blob in its normal form) for a blob in any spelling that sshd takes."""
    reader = _Reader(blob)
    name = reader.name().decode("latin-1")
    type = _TYPES.get(name) or _SHORT.get(name.lower())
    if type is None:
        raise _Malformed
    if type == _RSA:
        fields = [reader.integer(), reader.integer()]
    elif type == _DSS:
        fields = [reader.integer() for _ in "pqgy"]
    elif type == _ED25519:
        fields = [reader.exactly(32)]
    elif type == _SK_ED25519:
        fields = [reader.exactly(32), reader.name()]
    elif type == _SK_ECDSA:
        fields = reader.point("nistp256") + [reader.name()]
    else:
        fields = reader.point(type.split("-")[-1])
    if reader.at != len(blob):
        raise _Malformed
    return type, b"".join(struct.pack(">I", len(field)) + field for field in [type.encode()] + fields)


def _blob(word: str) -> bytes:
    """Return the bytes of a Base64 word as sshd's b64_pton() reads it: white space within does not count."""
    word = word.translate(_SKIPPED)
    try:
        blob = binascii.a2b_base64(word.encode("ascii"))
    except (UnicodeEncodeError, binascii.Error):
        raise _Malformed
    # a2b_base64() skips what it does not know and stops where it likes; b64_pton() does neither.
    if binascii.b2a_base64(blob, newline=False).decode() != word:
        raise _Malformed
    return blob


def _word(text: str) -> "Tuple[str, str]":
    """Return (first word, what follows the blanks after it)."""
    ends = [end for end in (text.find(" "), text.find("\t")) if end >= 0]
    if not ends:
        return text, ""
    return text[: min(ends)], text[min(ends) :].lstrip(" \t")


def _key(text: str) -> "Optional[Key]":
    """Return the key that text begins with, as sshkey_read() would read it."""
    type_word, rest = _word(text)
    if type_word not in _TYPES:
        return None
    blob_word, comment = _word(rest)
    try:
        type, material = _normal(_blob(blob_word))
    except _Malformed:
        return None
    if type != _TYPES[type_word]:
        return None
    return Key(type, binascii.b2a_base64(material, newline=False).decode(), material, comment)


def _options(text: str) -> "Tuple[str, str]":
    """Return (options, what follows the blanks after them), as sshkey_advance_past_options() would."""
    at, quoted = 0, False
    while at < len(text) and (quoted or text[at] not in " \t"):
        if text.startswith('\\"', at):
            at += 1
        elif text[at] == '"':
            quoted = not quoted
        at += 1
    return text[:at], text[at:].lstrip(" \t")


def _line(index: int, text: str) -> "Optional[Line]":
    said = text.split("\0", 1)[0].lstrip(" \t")  # to sshd a line ends at its first NUL
    if not said or said.startswith("#"):
        return None
    options, key = "", _key(said)
    if key is None:
        options, rest = _options(said)
        key = _key(rest)
    return None if key is None else Line(index, options, key, key.comment, text)


def parse(line: str) -> Key:
    """Return the key of one public key line that a user gave.

    Stricter than sshd: no options, one line, and a comment that cannot be mistaken for anything else.
    Raises Refused (key_type_refused).
    """
    key = None if any(letter in line for letter in "\n\r\0") else _key(line.strip(" \t"))
    if key is None:
        raise Refused(
            "key_type_refused",
            "not a public key: give one line 'type base64 comment' as ssh-keygen writes it into a .pub file, "
            "of type ed25519, ecdsa or rsa",
        )
    if key.type == _RSA and key.bits < _SMALLEST_RSA_BITS:
        raise Refused(
            "key_type_refused",
            "an RSA key of {} bits is too short for sshd; make one of 3072 or more".format(key.bits),
            bits=key.bits,
        )
    comment = key.comment.strip(" \t")
    if len(comment) > _LONGEST_COMMENT or not _COMMENT.issuperset(comment):
        raise Refused(
            "key_type_refused",
            "the comment of the key may hold letters, digits, blanks and ._@:+- only, at most {} of them".format(
                _LONGEST_COMMENT
            ),
        )
    return Key(key.type, key.blob, key.material, comment)


def text(key: Key) -> str:
    """Return the line for key, with the blob in its normal form."""
    return " ".join(word for word in (key.type, key.blob, key.comment) if word)


def fingerprint(key: Key) -> str:
    """Return what ssh-keygen -l prints: SHA256 and the hash of the blob in its normal form."""
    import hashlib  # it brings OpenSSL along: a third of what an agent's start costs

    return "SHA256:" + binascii.b2a_base64(hashlib.sha256(key.material).digest(), newline=False).decode().rstrip("=")


def lines(content: str) -> "List[Line]":
    """Return every line of content that sshd would take as a key line, in order.

    Options are not judged: a line that sshd drops for a bad option is among them.
    """
    found = [_line(index, line) for index, line in enumerate(content.split("\n"))]
    return [line for line in found if line is not None]


def find(content: str, key: Key) -> "List[Line]":
    """Return every line of content that holds key in any spelling, in order."""
    return [line for line in lines(content) if line.key.material == key.material]


def usual(line: Line) -> bool:
    """Say whether the blob is as ssh-keygen writes it. Of other spellings an sshd may take some that another does not."""
    said = line.text.split("\0", 1)[0].lstrip(" \t")
    key_part = said[len(line.options) :].lstrip(" \t")
    return bool(_word(_word(key_part)[1])[0].translate(_SKIPPED) == line.key.blob)


def option_names(options: str) -> "Set[str]":
    """Return the names of the options, in lower case."""
    names, at, start, quoted = [], 0, 0, False
    while at < len(options):
        if options.startswith('\\"', at):
            at += 1
        elif options[at] == '"':
            quoted = not quoted
        elif options[at] == "," and not quoted:
            names.append(options[start:at])
            start = at + 1
        at += 1
    names.append(options[start:])
    return {name.split("=", 1)[0].lower() for name in names} - {""}


def restricted(options: str) -> bool:
    """Say whether a line with these options may give less than a login at any time, from anywhere, with any command."""
    return not _RESTRICTING.isdisjoint(option_names(options))


def add(content: str, key_line: str) -> str:
    """Return content in which a line without options is the first to hold the key; other lines stay byte for byte.

    The first line that authorises a key decides what it may do, so ours goes before any that has options. Unchanged
    where a line without options, in the usual spelling, is the first one already. A file without a final newline stays
    one, so that removing the key again gives back the same bytes. Raises Refused (key_type_refused).
    """
    key = parse(key_line)
    held = find(content, key)
    if held and not held[0].options and usual(held[0]):
        return content
    parts = content.split("\n")
    end = len(parts) if parts[-1] else len(parts) - 1
    parts.insert(held[0].index if held else end, text(key))
    return "\n".join(parts)


def remove(content: str, key: Key) -> str:
    """Return content without the lines that hold key in any spelling; every other line stays byte for byte.

    A key inside a comment is not a key. Lines with options go too, among them those of a certificate authority.
    """
    gone = {line.index for line in find(content, key)}
    return "\n".join(part for index, part in enumerate(content.split("\n")) if index not in gone)


def inherit(content: str, old: Key, key_line: str, without: "FrozenSet[str]" = frozenset()) -> str:
    """Return content in which right after each line that holds old stands one for the new key with the same options.

    Options are copied byte for byte, and so is the end of the line. A line with one of the options without has no heir. Where old
    is not held, the same as add(). Doing it twice is doing it once. Raises Refused (key_type_refused).
    """
    new = parse(key_line)
    held = [line for line in find(content, old) if without.isdisjoint(option_names(line.options))]
    if not held or new.material == old.material:
        return add(content, key_line)
    there = {(line.index, line.options) for line in find(content, new)}
    parts = content.split("\n")
    for line in reversed(held):
        if (line.index + 1, line.options) not in there:
            words = [line.options, text(new)] if line.options else [text(new)]
            parts.insert(line.index + 1, " ".join(words) + ("\r" if line.text.endswith("\r") else ""))
    return "\n".join(parts)


def refuse_odd(content: str, path: str) -> None:
    """Raise Refused (authorized_keys_unreadable) where sshd could not read the file, or we could not edit it safely."""
    marked = content[:2] in ("\udcff\udcfe", "\udcfe\udcff")
    if marked or "\0\0" in (content[0:4:2], content[1:4:2]):
        raise Refused(
            "authorized_keys_unreadable",
            "{}: UTF-16 text, of which sshd can read no line; save it as plain text and retry".format(path),
            path=path,
        )
    if len(content) > LARGEST:
        raise Refused(
            "authorized_keys_unreadable",
            "{}: larger than {} bytes; is this an authorized_keys file?".format(path, LARGEST),
            path=path,
        )


def lines_over(these: "List[str]", those: "List[str]") -> "List[str]":
    """Return the lines of these that are not among those, each as often as it is there more; empty ones aside."""
    rest = list(those)
    over = []
    for line in these:
        if line in rest:
            rest.remove(line)
        elif line:
            over.append(line)
    return over
