"""OpenSSH user certificates, as ssh-keygen -s makes them: looked at before they are offered to anybody."""

import base64
import binascii
from datetime import UTC, datetime

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.hazmat.primitives.serialization.ssh import SSHCertificate, SSHCertificateType, load_ssh_public_identity

from controller.errors import Invalid

_ALWAYS = 0xFFFFFFFFFFFFFFFF


def read(text: str, public_line: str, at: datetime) -> str:
    """Return a user certificate as one line, without a comment. Layout: PROTOCOL.certkeys of OpenSSH.

    Invalid certificate_unusable: it is none, a host's, of another key than public_line, or not valid at that time. Whether a
    server takes it, its sshd says.
    """
    words = text.split()
    try:
        line = " ".join(words[:2])
        found = load_ssh_public_identity(line.encode("ascii"))
    except (ValueError, NotImplementedError, UnsupportedAlgorithm, UnicodeEncodeError, binascii.Error):
        raise _unusable("it cannot be read; give the file that ends in -cert.pub") from None
    if not isinstance(found, SSHCertificate):
        raise _unusable("it is a plain public key; give the file that ends in -cert.pub")
    if found.type is not SSHCertificateType.USER:
        raise _unusable("it is a host's, and not a user's")
    blob = found.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    if base64.b64decode(blob) != base64.b64decode(public_line.split()[1]):
        raise _unusable("it was made for another key than the one given")
    if at.timestamp() < found.valid_after:
        raise _unusable(f"it is not valid before {_when(found.valid_after)}")
    if found.valid_before != _ALWAYS and at.timestamp() >= found.valid_before:
        raise _unusable(f"it was valid until {_when(found.valid_before)}; have a new one made")
    return line


def _when(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "a time that no clock shows"


def _unusable(why: str) -> Invalid:
    return Invalid("certificate_unusable", f"the certificate cannot be used: {why}")
