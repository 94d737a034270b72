"""What people's editors, mail and shells put around a key, taken off again; and the blocks between BEGIN and END."""

import re
from typing import NamedTuple

from controller.keyfiles.costs import FILE_BYTES
from controller.keyfiles.fields import Unreadable

_BEGIN = re.compile(rb"-----BEGIN ([ -~]+)-----")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Block(NamedTuple):
    """What stands between BEGIN and END. label: such as RSA PRIVATE KEY."""

    label: str
    lines: list[bytes]


def lines_of(content: bytes) -> list[bytes]:
    """Return the lines of a text without the blanks at their ends, whatever ends them; a byte order mark does not count.

    Unreadable: too much for a key, UTF-16, or no text at all.
    """
    if len(content) > FILE_BYTES:
        raise Unreadable(f"{len(content)} bytes is no key")
    if content.startswith(_UTF_16):
        raise Unreadable("the file is UTF-16, as PowerShell's > writes it; save it as UTF-8 or ASCII")
    if b"\0" in content:
        raise Unreadable("the file is binary (DER or PKCS#12, say); `openssl pkey -inform DER -in FILE` writes it as text")
    text = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return [line.strip(b" \t") for line in text.split(b"\n")]


def blocks_of(lines: list[bytes]) -> list[Block]:
    """Return the blocks of RFC 7468 in a text, in order; what stands around them does not count. Unreadable: one has no end."""
    found, at = [], 0
    while at < len(lines):
        begin = _BEGIN.fullmatch(lines[at])
        at += 1
        if begin is None:
            continue
        end = b"-----END " + begin[1] + b"-----"
        if end not in lines[at:]:
            raise Unreadable("the file ends in the middle of the key")
        last = lines.index(end, at)
        found.append(Block(begin[1].decode("ascii"), lines[at:last]))
        at = last + 1
    return found
