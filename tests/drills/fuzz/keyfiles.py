"""Key files of every format, changed where it hurts: each is read or refused by a code, in little time and memory.

What is changed is bytes of the text; bytes, lengths and numbers of what its Base64 holds; and the numbers of a header. A plain
.ppk gets the check sum back that belongs to its new contents: nobody would look at them otherwise.
"""

import base64
import hashlib
import hmac
import random
import re
import resource
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from controller import keyfiles
from controller.errors import Invalid
from controller.keyfiles import armour, openssh, ppk
from controller.keyfiles.fields import packed
from controller.model import Secret

LONGEST_SECONDS = 1.0  # of processor, for one file
LARGEST_MEMORY = 512 << 20  # bytes: what the process apart has, and so has each of these
WORD = "word"
CODES = frozenset(
    {"private_key_unreadable", "public_key_unreadable", "passphrase_wrong", "key_mismatch", "key_weak", "format_unusable"}
)
KINDS = ("ed25519", "ecdsa-nistp256", "ecdsa-nistp384", "ecdsa-nistp521", "rsa-2048")
_NUMBERS = (
    0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 100, 101, 127, 128, 129, 255, 256, 8192, 65535, 65536, 1_000_000,
    1_000_001, 2**24, 2**31 - 1, 2**31, 2**32 - 1,
)  # fmt: skip
_PIECES = (
    b"", b"\0", b"\r", b"\n", b"\r\n", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b":", b": ", b"=", b"====", b"-----", b"\\\n", b'"',
    b" ", b"\t", b"-1", b"99999999999", b"1e9", b"A" * 3000, b"\n" * 3000, b"-----BEGIN RSA PRIVATE KEY-----\n", b"Comment: x\n",
    b"---- BEGIN SSH2 PUBLIC KEY ----\n", b"PuTTY-User-Key-File-3: ssh-rsa\n", b"ssh-ed25519 ", b"Proc-Type: 4,ENCRYPTED\n",
    b"DEK-Info: AES-256-CBC,00\n\n",
)  # fmt: skip


# RFC 8410, 10.3: an ed25519 key in PKCS#8 of version 2, with an attribute and the public half.
SECOND_VERSION = (
    "MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhCoB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmE"
    "zf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
)


class Seed(NamedTuple):
    """A sound file of one format."""

    format: str
    text: bytes


def seeds() -> list[Seed]:
    """Sound files of every kind and format, their derivations as cheap as they come."""
    found = []
    cheap = mock.patch.multiple(ppk, MEMORY_KIB=8, PASSES=1), mock.patch.object(openssh, "ROUNDS", 1)
    with cheap[0], cheap[1]:
        for kind in KINDS:
            public, stored = keyfiles.generate(kind)  # type: ignore[arg-type]
            for form in keyfiles.PRIVATE_FORMS:
                for word in (None, Secret(WORD)):
                    if (kind, form) != ("ed25519", "pem"):
                        text = keyfiles.private_text(kind, stored, form, "me", word).open()
                        found.append(Seed(f"{form}{'' if word is None else ', protected'}", text))
            found += [Seed("one line", public.line("me").encode()), Seed("RFC 4716", keyfiles.rfc4716(public, "me").encode())]
            plain = keyfiles.private_text(kind, stored, "pkcs8").open()
            half = keyfiles.signing_key(kind, stored).public_key()
            found.append(Seed("PEM, public", half.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)))
            if kind.startswith("rsa"):
                found.append(Seed("PEM, public", half.public_bytes(Encoding.PEM, PublicFormat.PKCS1)))
            for how in (
                ("-scrypt", "-scrypt_N", "2", "-scrypt_r", "1", "-scrypt_p", "1"),
                ("-iter", "1", "-v1", "PBE-SHA1-3DES"),
            ):
                argv = ["openssl", "pkcs8", "-topk8", "-passout", f"pass:{WORD}", *how]
                text = subprocess.run(argv, input=plain, capture_output=True, check=True).stdout
                found.append(Seed(f"pkcs8, {how[0]}", text))
    wallet = ec.derive_private_key(5, ec.SECP256K1())
    found.append(Seed("pem", wallet.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())))
    found.append(Seed("pkcs8, version 2", _pem("PRIVATE KEY", base64.b64decode(SECOND_VERSION))))
    old = dsa.generate_private_key(1024).public_key()  # noqa: S505
    found.append(Seed("PEM, public", old.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)))
    return found


# -- mutations


def of_text(r: random.Random, text: bytes, others: list[Seed]) -> bytes:
    """Change the text as it stands."""
    at = r.randrange(len(text) + 1)
    match r.randrange(6):
        case 0:
            return text[:at] + r.choice(_PIECES) + text[at:]
        case 1:
            return text[:at] + text[at + r.choice((1, 2, 8, 60, 600)) :]
        case 2:
            return text[:at] + r.randbytes(1) + text[at + 1 :]
        case 3:
            other = r.choice(others).text
            return text[:at] + other[r.randrange(len(other) + 1) :]
        case 4:
            lines = text.split(b"\n")
            first, second = r.randrange(len(lines)), r.randrange(len(lines))
            lines[first], lines[second] = lines[second], lines[first]
            return b"\n".join(lines)
        case _:
            return re.sub(rb"(?<=: )\d+", lambda _: str(r.choice(_NUMBERS)).encode(), text)


def of_contents(r: random.Random, body: bytes) -> bytes:
    """Change what Base64 stood for: a byte, a length or number of four bytes, DER's lengths, its end."""
    if not body:
        return r.randbytes(3)
    at = r.randrange(len(body))
    rounds = body.find(b"bcrypt") + 6 + 4 + 4 + 16
    if b"bcrypt" in body and r.random() < 0.2:
        return body[:rounds] + struct.pack(">I", r.choice(_NUMBERS)) + body[rounds + 4 :]
    match r.randrange(7):
        case 0:
            return body[:at] + bytes([body[at] ^ 1 << r.randrange(8)]) + body[at + 1 :]
        case 1:
            return body[:at] + struct.pack(">I", r.choice(_NUMBERS)) + body[at + 4 :]
        case 2:
            places = [found.start() for found in re.finditer(rb"\0\0[\0-\x08].", body, re.DOTALL)]
            place = r.choice(places) if places else at
            return body[:place] + struct.pack(">I", r.choice(_NUMBERS)) + body[place + 4 :]
        case 3:
            places = [found.start() for found in re.finditer(rb"[\x02\x30\x04\x06\xa0\xa1]", body)]
            place = r.choice(places) if places else at
            return (
                body[: place + 1]
                + r.choice((b"\0", b"\x80", b"\x84\xff\xff\xff\xff", b"\x82\x7f\xff", b"\xff"))
                + body[place + 2 :]
            )
        case 4:
            return body[:at]
        case 5:
            return body + r.randbytes(r.choice((1, 8, 16)))
        case _:
            places = [found.start() for found in re.finditer(rb"\x02[\x01-\x04]", body)]
            if not places:
                return body[::-1]
            place = r.choice(places)
            if r.random() < 0.5:  # of the same length: all around it still fits
                length = body[place + 1]
                return (
                    body[: place + 2]
                    + r.choice((b"\x7f", b"\0", b"\x01", b"\xff"))
                    + r.randbytes(length - 1)
                    + body[place + 2 + length :]
                )
            number = r.choice(_NUMBERS).to_bytes(5, "big").lstrip(b"\0") or b"\0"
            return body[:place] + b"\x02" + bytes([len(number)]) + number + body[place + 2 + body[place + 1] :]


def inside(r: random.Random, text: bytes) -> bytes:
    """Change the contents of a file, and put them back as they were dressed."""
    if text.startswith(ppk.START):
        return _inside_ppk(r, text)
    lines = text.strip().split(b"\n")
    if len(lines) == 1:
        name, blob, comment = lines[0].split(b" ")
        return b" ".join((name, base64.b64encode(of_contents(r, _decoded(blob))), comment))
    head = [line for line in lines[:-1] if b":" in line or line.startswith(b"--") or not line]
    body = b"".join(line for line in lines[:-1] if line not in head)
    return b"\n".join((*head, base64.encodebytes(of_contents(r, _decoded(body))).strip(), lines[-1], b""))


def _inside_ppk(r: random.Random, text: bytes) -> bytes:
    lines = text.split(b"\n")
    at = {line.split(b":")[0]: number for number, line in enumerate(lines) if b":" in line}
    if not at.keys() >= {b"Public-Lines", b"Private-Lines", b"Encryption", b"Comment"}:
        return of_text(r, text, [])
    places = {}
    for name in (b"Public-Lines", b"Private-Lines"):
        start = at[name] + 1
        places[name] = _decoded(b"".join(lines[start : start + int(lines[at[name]].split(b": ")[1])]))
    which = r.choice((b"Public-Lines", b"Private-Lines"))
    places[which] = of_contents(r, places[which])
    head, tail = lines[: at[b"Public-Lines"]], lines[at[b"Public-Lines"] :]
    costs = [line for line in tail if line.startswith((b"Key-", b"Argon2-"))]
    made = [*head]
    for name in (b"Public-Lines", b"Private-Lines"):
        made += costs if name == b"Private-Lines" else []
        encoded = base64.b64encode(places[name])
        cut = [encoded[start : start + 64] for start in range(0, len(encoded), 64)]
        made += [b"%s: %d" % (name, len(cut)), *cut]
    values = [head[0].split(b": ")[1], b"none", lines[at[b"Comment"]].removeprefix(b"Comment: ")]
    covered = b"".join(map(packed, (*values, places[b"Public-Lines"], places[b"Private-Lines"])))
    third = text.startswith(ppk.START + b"3")
    key = b"" if third else hashlib.sha1(b"putty-private-key-file-mac-key", usedforsecurity=False).digest()
    mac = hmac.digest(key, covered, "sha256" if third else "sha1").hex().encode()
    return b"\n".join((*made, b"Private-MAC: " + mac, b""))


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError:
        return text


def mutated(r: random.Random, known: list[Seed]) -> tuple[str, bytes]:
    """A file near to a sound one, and which format that had."""
    seed = r.choice(known)
    text = seed.text
    for _ in range(r.choice((1, 1, 1, 2, 3, 8))):
        sound = len(text) > 40 and b"\n" in text.strip() + b"\n"
        try:
            text = inside(r, text) if sound and r.random() < 0.6 else of_text(r, text, known)
        except (ValueError, IndexError):
            text = of_text(r, text, known)  # what it is by now has no contents to be changed
    return seed.format, text[:100_000]


# -- trying


def read(text: bytes) -> str:
    """Read a file as a conversion does and as an import does; return the code by which it was refused, "" where it was read."""
    word = Secret(WORD)
    try:
        keyfiles.convert(Secret(text), "public", passphrase=word, allow_weak=True)
    except Invalid as problem:
        refused = problem
    else:
        refused = None
    if refused is not None:
        assert refused.code in CODES, refused.code
        assert 20 < len(refused.message) < 500
        return refused.code
    if b"PRIVATE KEY" in text or ppk.START in text:
        public, stored = keyfiles.read_private(Secret(text), word, allow_weak=True)
        assert keyfiles.public_half(keyfiles.signing_key(public.type, stored)) == public
    return ""


def tried(seed: int, numbers: range) -> tuple[Counter[str], list[str]]:
    """Give the readers so many files: figures, and each miss in words."""
    known = seeds_of_a_run()
    tally: Counter[str] = Counter()
    misses: list[str] = []
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for number in numbers:
        form, text = mutated(random.Random(f"{seed}/{number}"), known)
        begun = time.process_time()
        try:
            code = read(text)
            tally[f"code: {code or 'read'}"] += 1
        except BaseException as error:  # a MemoryError and a panic too
            if isinstance(error, KeyboardInterrupt):
                raise
            tally["uncaught"] += 1
            misses.append(f"keyfiles --seed {seed} --number {number}: {form}: {type(error).__name__}: {error}: {_shown(text)}")
        took = time.process_time() - begun
        tally["files"] += 1
        tally[f"format: {form}"] += 1
        tally["slowest ms"] = max(tally["slowest ms"], int(took * 1000))
        if took > LONGEST_SECONDS:
            tally["too slow"] += 1
            misses.append(f"keyfiles --seed {seed} --number {number}: {form}: {took:.1f} s: {_shown(text)}")
    tally["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return tally, misses[:20]


def _shown(text: bytes) -> str:
    """A file as it was: keys are new in each run, so a number alone does not bring it back."""
    return base64.b64encode(text).decode()


_known: list[Seed] = []


def seeds_of_a_run() -> list[Seed]:
    """The same files for every number: made once, and inherited by the processes that share a run."""
    if not _known:
        _known.extend(seeds())
    return _known


# -- bombs


def bombs() -> dict[str, bytes]:
    """Files that ask for more than anybody has, by what they ask for it."""
    by_form = {seed.format: seed.text for seed in reversed(seeds_of_a_run())}
    third = by_form["ppk3, protected"]
    found = {
        "Argon2, memory": re.sub(rb"Argon2-Memory: \d+", b"Argon2-Memory: 4294967295", third),
        "Argon2, passes": re.sub(rb"Argon2-Passes: \d+", b"Argon2-Passes: 4294967295", third),
        "Argon2, lanes": re.sub(rb"Argon2-Parallelism: \d+", b"Argon2-Parallelism: 16777215", third),
        "ppk, lines": re.sub(rb"Private-Lines: \d+", b"Private-Lines: 9999999999", third),
        "a file of zeros": bytes(1 << 20),
        "blank lines": b"\n" * 65_000,
        "BEGIN without end": b"-----BEGIN RSA PRIVATE KEY-----\n" * 2_000,
        "RFC 4716, folds": b"---- BEGIN SSH2 PUBLIC KEY ----\nx: " + b"\\\n" * 30_000 + b"---- END SSH2 PUBLIC KEY ----\n",
    }
    body = _body(by_form["openssh, protected"])
    place = body.index(struct.pack(">I", 1), body.index(b"bcrypt") + 30)
    for rounds in (2**31, 2**32 - 1):
        found[f"bcrypt, {rounds} rounds"] = _pem(
            "OPENSSH PRIVATE KEY", body[:place] + struct.pack(">I", rounds) + body[place + 4 :]
        )
    salt = _der(0x04, bytes(8))
    for name, derivation in {
        "PBKDF2": (_PBKDF2, _der(0x30, salt, _number(2**31))),
        "PBKDF2, a number of 60,000 digits": (_PBKDF2, _der(0x30, salt, _number(2**200_000))),
        "scrypt, N": (_SCRYPT, _der(0x30, salt, _number(2**40), _number(8), _number(1))),
        "scrypt, r": (_SCRYPT, _der(0x30, salt, _number(2), _number(2**29), _number(1))),
        "scrypt, p": (_SCRYPT, _der(0x30, salt, _number(2), _number(1), _number(2**30))),
    }.items():
        scheme = _der(0x30, _PBES2, _der(0x30, _der(0x30, *derivation), _AES))
        found[name] = _pem("ENCRYPTED PRIVATE KEY", _der(0x30, scheme, _der(0x04, bytes(48))))
    old = _der(0x30, _PBE_SHA1_3DES, _der(0x30, salt, _number(2**31)))
    found["PKCS#12"] = _pem("ENCRYPTED PRIVATE KEY", _der(0x30, old, _der(0x04, bytes(48))))
    # Mersenne primes are large and cost nothing to find.
    p, q = 2**11213 - 1, 2**4423 - 1
    d = pow(65537, -1, (p - 1) * (q - 1))
    numbers = [0, p * q, 65537, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)]
    found["RSA of 15,636 bits"] = _pem("RSA PRIVATE KEY", _der(0x30, *map(_number, numbers)))
    return found


def _der(tag: int, *content: bytes) -> bytes:
    value = b"".join(content)
    length = bytes([len(value)]) if len(value) < 128 else b"\x83" + len(value).to_bytes(3, "big")
    return bytes([tag]) + length + value


def _number(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


_PBES2, _PBKDF2, _SCRYPT, _PBE_SHA1_3DES = (
    _der(0x06, bytes.fromhex(oid))
    for oid in ("2a864886f70d01050d", "2a864886f70d01050c", "2b06010401da47040b", "2a864886f70d010c0103")
)
_AES = _der(0x30, _der(0x06, bytes.fromhex("60864801650304012a")), _der(0x04, bytes(16)))


def _body(text: bytes) -> bytes:
    (block,) = armour.blocks_of(armour.lines_of(text))
    return _decoded(b"".join(block.lines))


def _pem(label: str, body: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(body) + f"-----END {label}-----\n".encode()


def refused_in_time(text: bytes, read: Callable[[Secret, Secret], object]) -> float:
    """Return the seconds by the clock until a file was refused. AssertionError: it was read."""
    begun = time.monotonic()
    try:
        read(Secret(text), Secret(WORD))
    except Invalid:
        return time.monotonic() - begun
    raise AssertionError("a bomb was read")
