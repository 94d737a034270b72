"""Key files, written: the five formats of a private half, and the two of a public one."""

from typing import get_args

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from controller.errors import Invalid
from controller.keyfiles import openssh, ppk
from controller.keyfiles.fields import in_lines
from controller.keyfiles.kinds import SECP256K1, PrivateKey, PublicKey, signing_key
from controller.model import KeyFormat, PublicFormat, Secret

PRIVATE_FORMS: tuple[KeyFormat, ...] = get_args(KeyFormat)
PUBLIC_FORMS: tuple[PublicFormat, ...] = get_args(PublicFormat)
# RFC 8410: all that stands before the seed.
_PKCS8_OF_ED25519 = bytes.fromhex("302e020100300506032b657004220420")
_WIDTH_4716 = 72


def private_text(
    key_type: str, stored: Secret, form: KeyFormat = "openssh", comment: str = "", passphrase: Secret | None = None
) -> Secret:
    """Return a stored private half as the text of a private key file; encrypted where there is a passphrase.

    Invalid format_unusable: there is no such file for a key of this type. Of the formats PKCS#8 and PEM have no comment.
    """
    check_form(key_type, form, passphrase)
    key = signing_key(key_type, stored)
    if form == "openssh":
        return openssh.write(key, stored, comment, passphrase)
    if form in ("ppk2", "ppk3"):
        return ppk.write(key, stored, comment, passphrase, 2 if form == "ppk2" else 3)
    if form == "pkcs8" and passphrase is None:
        return _plain_pkcs8(key, stored)
    style = PrivateFormat.PKCS8 if form == "pkcs8" else PrivateFormat.TraditionalOpenSSL
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.open())
    return Secret(bytearray(key.private_bytes(Encoding.PEM, style, encryption)))


def check_form(key_type: str, form: KeyFormat, passphrase: Secret | None) -> None:
    """Refuse what cannot be written, before anything is opened for it: Invalid format_unusable, passphrase_wrong (empty)."""
    if form not in PRIVATE_FORMS:
        raise Invalid("format_unusable", f"{form}: no such format; one of " + ", ".join(PRIVATE_FORMS))
    if key_type == SECP256K1 and form not in ("pkcs8", "pem"):
        raise Invalid("format_unusable", f"{form}: SSH and PuTTY know no keys of the curve secp256k1; use pkcs8 or pem")
    if key_type == "ed25519" and form == "pem":
        raise Invalid("format_unusable", "pem: there is no traditional PEM of an ed25519 key; use openssh or pkcs8")
    if passphrase is not None and len(passphrase) == 0:
        raise Invalid("passphrase_wrong", "the new passphrase is empty; give one, or none at all")


def openssh_private(key_type: str, stored: Secret, comment: str = "") -> Secret:
    """Return the text of an OpenSSH private key file, without passphrase."""
    return private_text(key_type, stored, "openssh", comment)


def _plain_pkcs8(key: PrivateKey, stored: Secret) -> Secret:
    """What is stored needs a line before and after it, and nobody else to copy it."""
    der = bytearray(_PKCS8_OF_ED25519 if isinstance(key, ed25519.Ed25519PrivateKey) else b"") + stored.view()
    body = in_lines(der, 64)
    text = bytearray(b"-----BEGIN PRIVATE KEY-----\n" + body + b"-----END PRIVATE KEY-----\n")
    for used in (der, body):
        Secret(used).wipe()
    return Secret(text)


def rfc4716(public: PublicKey, comment: str = "") -> str:
    """Return a public key as RFC 4716 lays it down and PuTTYgen's Save public key writes it.

    A comment that does not fit into one line of 72 bytes is cut: PuTTYgen reads none that is folded.
    """
    kept = " ".join(comment.split()).encode("utf-8", "replace")[: _WIDTH_4716 - len('Comment: ""')]
    header = f'Comment: "{kept.decode("utf-8", "ignore")}"\n' if kept else ""
    body = in_lines(public.blob, 64).decode("ascii")
    return f"---- BEGIN SSH2 PUBLIC KEY ----\n{header}{body}---- END SSH2 PUBLIC KEY ----\n"
