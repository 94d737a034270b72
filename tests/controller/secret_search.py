"""Search by value: is a secret, in whatever spelling, where it must not be?

What is searched for are the secrets themselves, never their packaging: a PEM header proves nothing, and a key is as
lost in hexadecimal as in PEM.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from controller import keyfiles
from controller.model import KeyType, Secret

# Shorter values are found everywhere by chance.
LEAST_BYTES = 8

Form = tuple[str, bytes]


@dataclass(frozen=True)
class Hit:
    """A secret was seen: which, spelt how, and where."""

    secret: str
    form: str
    place: str


def private_key(key_type: KeyType, stored: Secret) -> dict[str, list[Form]]:
    """Return the secret numbers of a private key, each in every spelling."""
    key = keyfiles.signing_key(key_type, stored)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {"seed": list(_spellings(stored.open()))}
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {"scalar": list(_number(key.private_numbers().private_value))}
    assert isinstance(key, rsa.RSAPrivateKey)
    numbers = key.private_numbers()
    return {name: list(_number(getattr(numbers, name))) for name in ("d", "p", "q")}


def text(name: str, value: str | bytes) -> dict[str, list[Form]]:
    """Return a password, passphrase or secret access key in every spelling."""
    word = value.encode() if isinstance(value, str) else value
    as_json = json.dumps(word.decode())[1:-1].encode(), json.dumps(word.decode(), ensure_ascii=False)[1:-1].encode()
    forms = [*_spellings(word), ("JSON", as_json[0]), ("JSON in UTF-8", as_json[1])]
    return {name: [(form, spelt) for form, spelt in forms if len(spelt) >= LEAST_BYTES]}


def raw(name: str, value: bytes) -> dict[str, list[Form]]:
    """Return a secret of random bytes in every spelling."""
    return {name: list(_spellings(value))}


def in_bytes(secrets: Mapping[str, list[Form]], place: str, content: bytes) -> list[Hit]:
    """Return where the secrets are in some bytes, also when they are broken into lines."""
    joined = _joined(content)
    return [
        Hit(name, form, place)
        for name, forms in secrets.items()
        for form, spelt in forms
        # What has no white space in it is whole in the joined view, wherever it is whole in the other.
        if spelt in joined or (not _solid(form) and spelt in content)
    ]


def in_files(secrets: Mapping[str, list[Form]], paths: Iterable[Path]) -> list[Hit]:
    """Return where the secrets are in files, and in all files under directories: contents and names."""
    return [
        hit
        for path in paths
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
        for hit in in_bytes(secrets, str(file), str(file).encode() + b"\0" + _content(file))
    ]


def in_processes(secrets: Mapping[str, list[Form]]) -> list[Hit]:
    """Return where the secrets are in the command lines and environments of all processes.

    What is closed to us, of a process that was there before us, is nobody's of these tests.
    """
    found = []
    for path in [path for what in ("cmdline", "environ") for path in Path("/proc").glob(f"[0-9]*/{what}")]:
        try:
            found += in_bytes(secrets, str(path), _content(path))
        except PermissionError:
            if _began(path.parent) > _began(Path("/proc/self")):
                raise
    return found


def written_pages(core: bytes) -> bytes:
    """Return a core dump without the pages that hold one byte over and over: nobody has written there, or all was overwritten."""
    pages = (core[at : at + 4096] for at in range(0, len(core), 4096))
    return b"".join(page for page in pages if page.strip(page[:1]))


def in_memory(secrets: Mapping[str, list[Form]], pid: int) -> list[Hit]:
    """Return where the secrets are in the memory of a process, each copy by its address. Only root sees what is closed.

    Looked at as it is: a secret that is broken into pieces by line ends would have been whole before, in the same memory.
    """
    found = []
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().split("\n")[:-1]:
            words = line.split()
            if words[1][1] != "w":
                continue  # nobody can have written there
            start, end = (int(word, 16) for word in words[0].split("-"))
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except (OSError, OverflowError):
                continue  # what the kernel shows of itself, or what nothing stands behind
            for name, forms in secrets.items():
                for form, spelt in forms:
                    at = content.find(spelt)
                    while at >= 0:
                        found.append(Hit(name, form, f"{start + at:x} {words[5] if len(words) > 5 else ''}".rstrip()))
                        at = content.find(spelt, at + 1)
    return found


def _began(process: Path) -> int:
    """When a process began, as proc(5) counts it; 0 for one that has ended."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _content(path: Path) -> bytes:
    """What is in a file; what may not be read, or looked at, raises: nobody could say that it is clean."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except (FileNotFoundError, ProcessLookupError):
        return b""  # a process that has ended meanwhile


def _solid(form: str) -> bool:
    return "Base64" in form or form.lower().endswith("hex")


def _joined(content: bytes) -> bytes:
    """The content without what breaks Base64 and hexadecimal into pieces: line ends, spelt out or not, colons."""
    return re.sub(rb"\\r|\\n|\\u000[aAdD]|[\s:]", b"", content)


def _number(value: int) -> Iterator[Form]:
    size = (value.bit_length() + 7) // 8
    for order, number in (("big", value.to_bytes(size, "big")), ("little", value.to_bytes(size, "little"))):
        yield from ((f"{order} endian {form}", spelt) for form, spelt in _spellings(number))
    yield "decimal", str(value).encode()


def _spellings(value: bytes) -> Iterator[Form]:
    yield "raw", value
    yield "hex", value.hex().encode()
    yield "HEX", value.hex().upper().encode()
    for offset in range(3):
        # What comes before and after shares characters with the ends: they are left out.
        start = base64.b64encode(bytes(offset) + value)
        whole = start[-(-offset * 8 // 6) : len(start) - len(start) % 4 - (4 if (offset + len(value)) % 3 else 0)]
        yield f"Base64 at {offset}", whole
        yield f"URL-safe Base64 at {offset}", whole.translate(bytes.maketrans(b"+/", b"-_"))
