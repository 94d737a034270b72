"""The controller's own certificate: made once, for whoever gives none; clients pin its fingerprint."""

import contextlib
import datetime
import ipaddress
import os
import secrets
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.errors import Unavailable
from controller.model import now

DAYS = 825  # the longest that common clients take


def ensure(certificate: Path, key: Path) -> str:
    """Make a certificate and its key at these places, unless they are there; return its SHA-256 fingerprint.

    Unavailable: certificate_unusable where what is there is none, or nothing can be written.
    """
    try:
        if not certificate.exists() or not key.exists():
            _make(certificate, key)
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise Unavailable(
            "certificate_unusable", f"{certificate}: {error}; move it away, then kps serve makes another"
        ) from error
    return found.fingerprint(SHA256()).hex(":").upper()


def _make(certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    here = socket.gethostname()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, here[:64])])
    addresses = [ipaddress.ip_address(each) for each in ("127.0.0.1", "::1")]
    names: list[x509.GeneralName] = [x509.DNSName(each) for each in dict.fromkeys((here, "localhost"))]
    begins = now() - datetime.timedelta(hours=1)  # for clients whose clock is a little behind
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([*names, *(x509.IPAddress(each) for each in addresses)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, SHA256())
    )
    _write(key, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    _write(certificate, made.public_bytes(Encoding.PEM))


def _write(path: Path, text: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise
