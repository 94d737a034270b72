"""The fields of RFC 4251, of which key blobs and private key files are made; and why a text is none."""

import binascii
import contextlib
import struct
from collections.abc import Iterable, Iterator


class Unreadable(Exception):
    """not a key, or not one that is read here; says why in words that quote nothing of it"""


@contextlib.contextmanager
def no_panic() -> Iterator[None]:
    """Have a fault of `cryptography` itself, in the block, mean that the file is Unreadable: a panic is no Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise Unreadable("its contents are damaged in a way that its reader does not bear") from None


def packed(value: bytes | bytearray) -> bytes:
    """Return a string with its length before it."""
    return struct.pack(">I", len(value)) + value


def string(text: bytes, at: int) -> tuple[bytes, int]:
    """Return the string that begins at a place, and where it ends. struct.error where there is none."""
    (length,) = struct.unpack_from(">I", text, at)
    (value,) = struct.unpack_from(f">{length}s", text, at + 4)
    return value, at + 4 + length


def strings(text: bytes, count: int) -> tuple[list[bytes], int]:
    """Return so many strings from the start on, and where the last one ends. Unreadable where there are fewer."""
    found, at = [], 0
    try:
        for _ in range(count):
            value, at = string(text, at)
            found.append(value)
    except struct.error:
        raise Unreadable("it is cut off") from None
    return found, at


def mpint(number: int) -> bytes:
    """Return a number that is not negative as the contents of an mpint."""
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def unsigned(value: bytes) -> int:
    """Return the number in the contents of an mpint. Unreadable for a negative one, of which no key is made."""
    if value[:1] >= b"\x80":
        raise Unreadable("a number in it is negative")
    return int.from_bytes(value, "big")


def comment_text(raw: bytes) -> str:
    """Return a comment that can be shown and written again.

    Older PuTTYs wrote Latin-1, and anybody may write what a terminal obeys.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def from_base64(lines: Iterable[bytes]) -> bytes:
    """Return what Base64 in several lines stands for. Unreadable."""
    try:
        return binascii.a2b_base64(b"".join(b"".join(lines).split()), strict_mode=True)
    except binascii.Error:
        raise Unreadable("its Base64 does not decode") from None


def in_lines(value: bytes | bytearray, width: int) -> bytearray:
    """Return Base64 in lines of a width, each with its end."""
    text = bytearray()
    step = width // 4 * 3
    if width % 4 == 0:
        for start in range(0, len(value), step):
            text += binascii.b2a_base64(value[start : start + step])
        return text
    encoded = bytearray(binascii.b2a_base64(value, newline=False))
    for start in range(0, len(encoded), width):
        text += encoded[start : start + width] + b"\n"
    encoded[:] = bytes(len(encoded))
    return text
