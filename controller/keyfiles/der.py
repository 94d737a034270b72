"""As much of DER as it takes to look into a PKCS#8 file before somebody else reads it."""

SEQUENCE, INTEGER, OCTET_STRING = 0x30, 0x02, 0x04
_PUBLIC_HALF = 0x81


def elements(der: bytes) -> list[tuple[int, bytes]]:
    """Return the elements side by side: tag and contents. IndexError or ValueError where it is no DER."""
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


def encoded(tag: int, value: bytes) -> bytes:
    """Return one element."""
    length = len(value)
    if length < 0x80:
        return bytes([tag, length]) + value
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big") + value


def first_version(der: bytes) -> tuple[bytes, bytes | None]:
    """Return a private key of PKCS#8 as version 1 knows it, and the public half that a version 2 (RFC 5958) has beside it.

    Neither `cryptography` nor OpenSSL reads the second version. IndexError or ValueError where it is no DER.
    """
    ((tag, outer),) = elements(der)
    parts = elements(outer)
    if tag != SEQUENCE or parts[:1] != [(INTEGER, b"\1")]:
        return der, None
    algorithm, private = parts[1], parts[2]
    public = next((value[1:] for each, value in parts[3:] if each == _PUBLIC_HALF), None)
    kept = encoded(INTEGER, b"\0") + encoded(*algorithm) + encoded(*private)
    return encoded(SEQUENCE, kept), public
