"""Private key files, read: OpenSSH (openssh/PROTOCOL.key), PKCS#1 (RFC 8017), PKCS#8 (RFC 5958), SEC1 (RFC 5915), .ppk.

Each with a passphrase or without one. A file that somebody gives is read in a process of its own: controller.keyfiles.apart.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
    load_ssh_private_key,
)

from controller.errors import Invalid
from controller.keyfiles import openssh, ppk
from controller.keyfiles.armour import Block, blocks_of, lines_of
from controller.keyfiles.costs import RSA_BITS, check_pkcs8
from controller.keyfiles.der import elements, first_version
from controller.keyfiles.fields import Unreadable, from_base64, in_lines, no_panic
from controller.keyfiles.kinds import PrivateKey, PublicKey, check_strength, public_half, stored_form, type_of
from controller.model import Secret

_NEXT = f"; give a private key file of ed25519, ecdsa-nistp256, -nistp384 or -nistp521, or of RSA to {RSA_BITS} bits"
_PEM = ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
_PUBLIC = (b"ssh-", b"ecdsa-", b"sk-", b"---- BEGIN SSH2 PUBLIC", b"-----BEGIN PUBLIC", b"-----BEGIN RSA PUBLIC")
_DEK_INFO = re.compile(rb"DEK-Info: ([A-Z0-9-]+),([0-9A-Fa-f]+)")
_BLOCK_BYTES = {b"AES-128-CBC": 16, b"AES-192-CBC": 16, b"AES-256-CBC": 16, b"DES-EDE3-CBC": 8}
_OF_SSH_COM = b"---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----"


class Opened(NamedTuple):
    """A private key that was read, and the comment that came with it."""

    key: PrivateKey
    comment: str


def read_private(text: Secret, passphrase: Secret | None = None, *, allow_weak: bool = False) -> tuple[PublicKey, Secret]:
    """Return both halves of the text of a private key file, the private one in its stored form.

    Looks at the header before it computes anything that the header asks for. A passphrase that is not needed is not
    looked at. Invalid: private_key_unreadable, passphrase_wrong (or missing), key_mismatch (the file's two halves), key_weak.
    """
    try:
        key = _opened(text, passphrase, allow_weak).key
        return public_half(key), stored_form(key)
    except Unreadable as why:
        raise Invalid("private_key_unreadable", f"{why}{_NEXT}") from None


def opened(text: Secret, passphrase: Secret | None = None, *, allow_weak: bool = False) -> Opened:
    """Return the key of a private key file and its comment; of the curve secp256k1 too. Invalid as of read_private."""
    try:
        return _opened(text, passphrase, allow_weak)
    except Unreadable as why:
        raise Invalid("private_key_unreadable", f"{why}{_NEXT}") from None


def holds_private(text: Secret) -> bool:
    """Say whether a text looks like a private key file: by its first words, and not by what follows."""
    content = text.open()
    return b"PRIVATE KEY" in content or ppk.START in content


def _opened(text: Secret, passphrase: Secret | None, allow_weak: bool) -> Opened:
    lines = lines_of(text.open())
    blocks = [block for block in blocks_of(lines) if block.label.endswith("PRIVATE KEY")]
    of_putty = [number for number, line in enumerate(lines) if line.startswith(ppk.START)]
    if len(blocks) + len(of_putty) > 1:
        raise Unreadable(f"{len(blocks) + len(of_putty)} private keys in one file; give one at a time")
    if of_putty:
        key, comment = ppk.read(lines[of_putty[0] :], passphrase, allow_weak=allow_weak)
        return Opened(key, comment)
    if not blocks:
        raise Unreadable(_what_it_is_instead(lines))
    (block,) = blocks
    claimed, beside, comment = None, None, ""
    if block.label == openssh.LABEL:
        encrypted, claimed, comment = openssh.header(block.lines)
    else:
        encrypted = _pem_header(block)
        if block.label == "PRIVATE KEY":
            block, beside = _of_first_version(block)
    if not encrypted:
        passphrase = None
    elif passphrase is None or len(passphrase) == 0:
        raise Invalid("passphrase_wrong", "this private key is encrypted; give its passphrase")
    key = _checked(_load(block, passphrase), allow_weak)
    if (claimed is not None and claimed != public_half(key).blob) or (beside is not None and beside != _bits(key)):
        raise Invalid("key_mismatch", "the public half in this file does not belong to its private half")
    return Opened(key, comment)


def _of_first_version(block: Block) -> tuple[Block, bytes | None]:
    try:
        der, public = first_version(from_base64(block.lines))
    except (IndexError, ValueError):
        raise Unreadable("its DER does not parse") from None
    return Block(block.label, bytes(in_lines(der, 64)).split(b"\n")[:-1]), public


def _bits(key: PrivateKey) -> bytes:
    """The public half as PKCS#8 has it beside the private one: what a SubjectPublicKeyInfo ends in."""
    (_, info), *_ = elements(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return elements(info)[1][1][1:]


def _what_it_is_instead(lines: list[bytes]) -> str:
    if any(line.startswith(_PUBLIC) for line in lines):
        return "this is a public key; the private half is needed"
    if _OF_SSH_COM in lines:
        return "ssh.com's own format is not read; PuTTYgen writes it as an OpenSSH key"
    if any(line.startswith(b"-----BEGIN CERTIFICATE") for line in lines):
        return "this is a certificate; the private key is needed"
    return "there is no private key in it"


def _pem_header(block: Block) -> bool:
    """Return whether the file is encrypted, once what it asks for is known to be affordable."""
    if block.label not in _PEM:
        raise Unreadable(f"{block.label} is not read")
    if block.label == "ENCRYPTED PRIVATE KEY":
        check_pkcs8(from_base64(block.lines))
        return True
    if any(line.startswith(b"Proc-Type: 4,ENCRYPTED") for line in block.lines[:1]):
        how = _DEK_INFO.fullmatch(block.lines[1]) if len(block.lines) > 1 else None
        if how is None or 2 * _BLOCK_BYTES.get(how[1], 0) != len(how[2]):
            raise Unreadable("its DEK-Info is damaged, or names an encryption that is not read")
        return True
    from_base64(block.lines)
    return False


def _load(block: Block, passphrase: Secret | None) -> object:
    load: Callable[..., object] = _LOADERS.get(block.label, load_pem_private_key)
    text = bytearray(b"\n".join([f"-----BEGIN {block.label}-----".encode(), *block.lines, b""]))
    text += f"-----END {block.label}-----\n".encode()
    try:
        with no_panic():
            return load(text, None if passphrase is None else passphrase.open(), unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm:
        raise Unreadable("it is of a kind, or encrypted in a way, that is not read") from None
    except (ValueError, TypeError, NotImplementedError, InternalError) as error:
        # From nothing: what the library says may quote what it read.
        if passphrase is not None and isinstance(error, ValueError):
            raise Invalid("passphrase_wrong", "the passphrase does not open this private key") from None
        raise Unreadable(f"its contents are damaged or unusual ({type(error).__name__})") from None
    finally:
        Secret(text).wipe()


def _load_sec1(text: bytearray, passphrase: bytes | None, **options: bool) -> object:
    """Load a SEC1 file.

    PuTTYgen writes every second number with a zero before it, which asyncssh reads and `cryptography` does not.
    """
    try:
        return load_pem_private_key(text, passphrase, **options)
    except ValueError:
        import asyncssh  # slow to load, and seldom needed

        try:
            der = Secret(bytearray(asyncssh.import_private_key(bytes(text), passphrase).export_private_key("pkcs8-der")))
        except (asyncssh.KeyImportError, asyncssh.KeyExportError):
            pass
        else:
            return load_der_private_key(der.view(), None)
        raise


_LOADERS: dict[str, Callable[..., object]] = {openssh.LABEL: load_ssh_private_key, "EC PRIVATE KEY": _load_sec1}


def _checked(key: object, allow_weak: bool) -> PrivateKey:
    """Return a key whose numbers belong together."""
    key_type = type_of(key)
    if not isinstance(key, PrivateKey):
        raise Unreadable(f"{type(key).__name__} is not used here")
    if isinstance(key, rsa.RSAPrivateKey):
        # Its size first, for it decides what the rest costs.
        check_strength(key_type, allow_weak, RSA_BITS)
        try:
            return key.private_numbers().private_key()
        except (ValueError, InternalError):
            raise Unreadable("its numbers do not belong together") from None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        numbers = key.private_numbers()
        if ec.derive_private_key(numbers.private_value, key.curve).public_key().public_numbers() != numbers.public_numbers:
            raise Invalid("key_mismatch", "the public half in this file does not belong to its private half")
    return key
