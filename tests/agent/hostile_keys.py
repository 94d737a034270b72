"""authorized_keys files aimed at what goes wrong with them. Knows by construction which lines hold the key in question."""

import base64
import random
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

TYPES = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


# Spellings within the blob; OpenSSH 10 takes fewer of them than 9.2.
UNUSUAL = ("NUL after the inner name", "inner type rsa-sha2", "leading zeros", "short inner name")


class PublicKey(NamedTuple):
    type: str
    fields: tuple[bytes, ...]  # what follows the type in the blob

    @property
    def blob(self) -> bytes:
        return packed(self.type.encode(), *self.fields)

    @property
    def word(self) -> str:
        return base64.b64encode(self.blob).decode()

    @property
    def line(self) -> str:
        return f"{self.type} {self.word}"


class Piece(NamedTuple):
    """one line of a file"""

    danger: str
    text: str
    holds: bool = False  # the key in question, as far as a reader of sshd's grammar can see
    options: str = ""

    @property
    def usual(self) -> bool:
        """Whether every version of sshd takes the key in this spelling."""
        return self.danger.removeprefix("options, ") not in UNUSUAL


class File(NamedTuple):
    key: PublicKey
    pieces: list[Piece]
    final_newline: bool
    dangers: frozenset[str]

    @property
    def text(self) -> str:
        return joined([piece.text for piece in self.pieces], self.final_newline)


def joined(lines: list[str], final_newline: bool) -> str:
    return "\n".join(lines) + ("\n" if final_newline and lines else "")


def packed(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def integer(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def public_key(random: random.Random, type: str) -> PublicKey:
    """Return a key of that type, always the same for the same state of the generator."""
    if type == "ssh-ed25519":
        seed = ed25519.Ed25519PrivateKey.from_private_bytes(random.randbytes(32))
        return PublicKey(type, (seed.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),))
    if type == "ssh-rsa":  # no private half: nobody checks that the modulus has two prime factors
        return PublicKey(type, (integer(65537), integer(random.getrandbits(2048) | 1 << 2047 | 1)))
    name = type.removeprefix("ecdsa-sha2-")
    curve = {"nistp256": ec.SECP256R1, "nistp384": ec.SECP384R1, "nistp521": ec.SECP521R1}[name]()
    point = ec.derive_private_key(random.getrandbits(250) + 1, curve).public_key()
    return PublicKey(type, (name.encode(), point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)))


# -- one line ----------------------------------------------------------------------------------------------------------

COMMENTS = [
    "",
    "",
    "alice@laptop",
    "work key 2024",
    "Müller@büro",
    "\udcff\udcfelatin",
    "#one",
    'say "hi"',
    "a=b,c",
    "x" * 300,
    "\ttabs\t",
]
OPTIONS = [
    "no-pty",
    "restrict,pty",
    "NO-PTY,No-X11-Forwarding",
    "no-pty,",
    ",no-pty",
    "no-pty,,no-user-rc",
    'command="/bin/true"',
    'command="echo \\"quoted, blank\\" # no comment"',
    'from="127.0.0.1,!10.0.0.1"',
    'from="10.1.2.3"',
    'environment="A=ssh-ed25519 AAAA"',
    'expiry-time="20200101"',
    'expiry-time="29990101"',
    "cert-authority",
    'cert-authority,principals="a,b"',
    'permitopen="h:1",command="c d"',
]
BAD_OPTIONS = [
    'foo="x"',
    "no-such-option",
    'command="a",command="b"',
    'from="1.2.3.4/99"',
    '"no-pty"',
    "command=echo",
    "ssh-rsa",
]
SEPARATORS = {"CR": "\r", "VT": "\x0b", "FF": "\x0c", "NEL": "\x85", "LS": "\u2028", "FS": "\x1c"}


def _spaced(r: random.Random, word: str) -> str:
    for _ in range(r.randint(1, 3)):
        at = r.randrange(1, len(word))
        word = word[:at] + r.choice("\x0b\x0c\r") + word[at:]
    return word


def _base64(*fields: bytes) -> str:
    return base64.b64encode(packed(*fields)).decode()


def _respelled(r: random.Random, key: PublicKey) -> tuple[str, str]:
    """Return (danger, "type blob") of one of the spellings in which sshd knows key again."""

    ways: list[tuple[str, Callable[[], str]]] = [
        ("white space in the blob", lambda: f"{key.type} {_spaced(r, key.word)}"),
        ("NUL after the inner name", lambda: f"{key.type} {_base64(key.type.encode() + bytes(1), *key.fields)}"),
    ]
    if key.type == "ssh-rsa":
        e, n = key.fields
        zeros = b"\0" * r.choice([1, 2, 7, 100])
        ways += [
            ("type word rsa-sha2", lambda: f"{r.choice(['rsa-sha2-256', 'rsa-sha2-512'])} {key.word}"),
            ("inner type rsa-sha2", lambda: f"ssh-rsa {_base64(b'rsa-sha2-256', e, n)}"),
            ("leading zeros", lambda: f"ssh-rsa {_base64(b'ssh-rsa', e, zeros + n)}"),
            ("leading zeros", lambda: f"ssh-rsa {_base64(b'ssh-rsa', zeros + e, n)}"),
        ]
    if key.type in ("ssh-rsa", "ssh-ed25519"):
        short = {"ssh-rsa": [b"rsa", b"RSA", b"Rsa"], "ssh-ed25519": [b"ed25519", b"ED25519"]}[key.type]
        ways.append(("short inner name", lambda: f"{key.type} {_base64(r.choice(short), *key.fields)}"))
    name, way = r.choice(ways)
    return name, way()


def _holding(r: random.Random, key: PublicKey) -> Piece:
    """One line that holds key."""
    comment = r.choice(COMMENTS)
    tail = f" {comment}" if comment else ""
    match r.randrange(9):
        case 0 | 1:
            return Piece("plain", key.line + tail, True)
        case 2:
            return Piece(
                "blanks", r.choice([" ", "\t", " \t "]) + key.line.replace(" ", r.choice(["  ", "\t", " \t"])) + tail, True
            )
        case 3 | 4:
            danger, line = _respelled(r, key)
            return Piece(danger, line + tail, True)
        case 5:
            options = r.choice(OPTIONS)
            return Piece("options", f"{options} {key.line}{tail}", True, options)
        case 6:
            options = r.choice(OPTIONS)
            danger, line = _respelled(r, key)
            return Piece(f"options, {danger}", f"{options}{r.choice([' ', '  ', chr(9)])}{line}{tail}", True, options)
        case 7:
            options = r.choice(BAD_OPTIONS)
            return Piece("options sshd does not know", f"{options} {key.line}{tail}", True, options)
        case _:
            return Piece("NUL in the comment", f"{key.line}{r.choice([' ', ''])}\0{r.choice(['', ' more', key.line])}", True)


def _dead(r: random.Random, key: PublicKey) -> Piece:
    """One line with the key's text in it, which sshd does not take as a line of this key."""
    odd = r.choice(list(SEPARATORS.values()))
    blob = base64.b64decode(key.word)
    alternatives = [
        ("the key in a comment", f"# {key.line} old"),
        ("the key in a comment", f"  #{key.line}"),
        ("separator in a comment", f"# was{odd}{key.line}"),
        ("NUL before the key", f"#\0{key.line}"),
        ("NUL before the key", f"\0{key.line}"),
        ("byte order mark", f"\ufeff{key.line}"),
        ("odd blank first", f"{r.choice([chr(11), chr(12), chr(0xA0), chr(13)])}{key.line}"),
        ("upper-case type", f"{key.type.upper()} {key.word}"),
        (
            "short type word",
            f"{key.type.removeprefix('ssh-')} {key.word}" if key.type.startswith("ssh-") else f"ecdsa {key.word}",
        ),
        ("blob only", key.word),
        ("type and blob disagree", f"{'ssh-rsa' if key.type != 'ssh-rsa' else 'ssh-ed25519'} {key.word}"),
        ("padding", f"{key.type} {key.word}=" if not key.word.endswith("=") else f"{key.type} {key.word.rstrip('=')}"),
        ("trailing bytes", f"{key.type} {base64.b64encode(blob + b'xxx').decode()}"),
        ("no blank before the comment", f"{key.line}#home"),
        ("blank in the blob", f"{key.type} {key.word[:20]} {key.word[20:]}"),
        ("backslash at the end", f"{key.type} {key.word[:30]}\\"),
        ("half a blob", f"{key.type} {key.word[: len(key.word) // 8 * 4]}"),
        ("unterminated quote", f'command="echo {key.line}'),
        ("odd escape", f'command="a\\\\" {key.line}'),
        ("blank in bare options", f"no-pty, no-X11-forwarding {key.line}"),
        ("single quotes", f"command='a b' {key.line}"),
        ("certificate type", f"{key.type}-cert-v01@openssh.com {key.word}"),
    ]
    return Piece(*r.choice(alternatives))


def _of_others(r: random.Random, key: PublicKey, other: PublicKey) -> Piece:
    """One line of somebody else."""
    odd_name = r.choice(list(SEPARATORS))
    odd = SEPARATORS[odd_name]
    piece = _holding(r, other)
    match r.randrange(8):
        case 0:
            return Piece(f"{odd_name} and the key in another's comment", f"{other.line} x{odd}{key.line}")
        case 1:
            return Piece("the key in another's comment", f"{other.line} replaces {key.line}")
        case 2:
            return Piece("the key in another's options", f'environment="OLD={key.word}" {other.line}')
        case 3:
            return Piece(
                "another key's " + piece.danger, piece.text + ("\r" if r.random() < 0.3 and "\0" not in piece.text else "")
            )
        case 4:
            return _dead(r, other)
        case _:
            return Piece("another key's " + piece.danger, piece.text)


def _junk(r: random.Random) -> Piece:
    raw = bytes(byte for byte in r.randbytes(r.choice([3, 40, 400])) if byte != 10)
    alternatives = [
        ("blank line", r.choice(["", " ", "\t", "\r"])),
        ("remark", r.choice(["# managed by Ansible", "#", "# ünï \udce9", "#\x0b#\x85"])),
        ("binary", raw.decode("utf-8", "surrogateescape")),
        ("PEM", r.choice(["-----BEGIN OPENSSH PRIVATE KEY-----", "b3BlbnNzaC1rZXktdjEAAAAA", "---- BEGIN SSH2 PUBLIC KEY ----"])),
        ("SSH1", "1024 35 12345678901234567890 alice@old"),
        ("long line", r.choice(["# ", 'command="']) + "y" * 1500),
    ]
    return Piece(*r.choice(alternatives))


# -- whole files -------------------------------------------------------------------------------------------------------


def some_keys(r: random.Random) -> list[PublicKey]:
    """Some keys of each type."""
    return [public_key(r, type) for type in TYPES for _ in range(6)]


def files(count: int, seed: int) -> Iterator[File]:
    """Yield count files, always the same ones for the same seed."""
    r = random.Random(seed)
    keys = some_keys(r)
    for _ in range(count):
        yield file(r, keys)


def file(r: random.Random, keys: list[PublicKey]) -> File:
    """One file about one of these keys; r chooses what is in it."""
    key = r.choice(keys)
    pieces = []
    for _ in range(r.choice([0, 1, 2, 3, 5, 8])):
        kind = r.random()
        other = r.choice([each for each in keys if each != key])
        if kind < 0.3:
            pieces.append(_holding(r, key))
        elif kind < 0.5:
            pieces.append(_dead(r, key))
        elif kind < 0.85:
            pieces.append(_of_others(r, key, other))
        else:
            pieces.append(_junk(r))
    dangers = {piece.danger for piece in pieces}
    if r.random() < 0.15:
        pieces = [piece if "\0" in piece.text else piece._replace(text=piece.text + "\r") for piece in pieces]
        dangers.add("CRLF")
    final_newline = bool(pieces) and r.random() < 0.7
    if pieces and not pieces[-1].text and not final_newline:
        pieces[-1] = Piece("remark", "# end")
    if pieces and not final_newline:
        dangers.add("no final newline")
    if sum(piece.holds for piece in pieces) > 1:
        dangers.add("the key more than once")
        first = next(piece for piece in pieces if piece.holds)
        if first.options and any(piece.holds and not piece.options for piece in pieces):
            dangers.add("options before a plain line")
    return File(key, pieces, final_newline, frozenset(dangers))
