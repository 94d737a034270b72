"""A private key of an elliptic curve as nothing but its number, in hexadecimal: what wallets and other tools print."""

from cryptography.hazmat.primitives.asymmetric import ec

from controller.errors import Invalid
from controller.keyfiles.armour import lines_of
from controller.keyfiles.fields import Unreadable
from controller.keyfiles.kinds import CURVES, SECP256K1
from controller.model import Secret

SCALAR_CURVES: dict[str, type[ec.EllipticCurve]] = {
    SECP256K1: ec.SECP256K1,
    **{name.removeprefix("ecdsa-"): curve for name, curve in CURVES.items()},
}
_DIGITS = frozenset(b"0123456789abcdefABCDEF")


def read(text: Secret, curve: str) -> ec.EllipticCurvePrivateKey:
    """Return the key of a number in hexadecimal, most significant digit first, with all its leading zeros.

    A prefix 0x, blanks, line ends and colons between bytes do not count, nor does one byte 00 before the number (as openssl
    prints it). Invalid: private_key_unreadable, curve_unknown.
    """
    known = SCALAR_CURVES.get(curve)
    if known is None:
        raise Invalid("curve_unknown", "no such curve; one of " + ", ".join(SCALAR_CURVES))
    digits = 2 * (-(-known().key_size // 8))
    try:
        found = b"".join(b"".join(lines_of(text.open())).replace(b":", b" ").split())
        if found[:2] in (b"0x", b"0X"):
            found = found[2:]
        if len(found) == digits + 2 and found.startswith(b"00"):
            found = found[2:]
        if not _DIGITS.issuperset(found):
            raise Unreadable("there is something other than hexadecimal digits in it")
        if len(found) != digits:
            raise Unreadable(f"{len(found)} hexadecimal digits, a number of {curve} has {digits} with its leading zeros")
        return ec.derive_private_key(int(found, 16), known())
    except ValueError:
        raise Invalid("private_key_unreadable", f"the number is 0, or too large for {curve}") from None
    except Unreadable as why:
        raise Invalid("private_key_unreadable", f"{why}; give the private number of {curve} in hexadecimal") from None
