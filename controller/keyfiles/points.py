"""Whether 32 bytes are a public key of Ed25519 to which a private half can exist.

OpenSSL takes any 32 bytes, and so does an sshd that is asked whether it would accept the key; only the login fails. Of the
equation of RFC 8032, 5.1, nothing more is computed than whether it holds. Nothing here is secret.
"""

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P


def usable(key: bytes) -> bool:
    """Say whether a key is a point of the curve in its one spelling, and no point of small order (which all can sign for)."""
    y = int.from_bytes(key, "little") & (1 << 255) - 1
    if y >= _P:
        return False
    # x² = (y² - 1) / (d y² + 1); the divisor is never 0.
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    if square == 0 or pow(square, (_P - 1) // 2, _P) != 1:
        return False
    # Three doublings lead every point of small order, and no other, to (0, 1). Doubling needs only x² and y.
    for _ in range(3):
        product = _D * square * y * y % _P
        doubled = (y * y + square) * pow(1 - product, -1, _P) % _P
        square = 4 * square * y * y * pow(1 + product, -2, _P) % _P
        y = doubled
    return square != 0
