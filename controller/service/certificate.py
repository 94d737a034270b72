"""The controller's own certificate: made for whoever gives none; clients pin its fingerprint, or the public key in it.

It is renewed by whoever runs the controller, and never by itself: all who pin the fingerprint have to be given the new one first.
The key stays, so that a public key that is pinned holds.
"""

import base64
import contextlib
import datetime
import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controller.errors import Invalid, Problem, Unavailable
from controller.model import now

DAYS = 825  # the longest that common clients take
SOON_DAYS = 60  # from here on whoever starts the controller, or asks whether it is ready, is told
MOST_NAMES = 100
_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
_LARGEST_FILE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Shown:
    """What is in a certificate."""

    fingerprint: str  # SHA-256 of it, as AB:CD:...
    public_key: str  # SHA-256 of its public key, Base64: what `curl --pinnedpubkey sha256//...` takes
    names: list[str]
    begins_at: datetime.datetime
    ends_at: datetime.datetime


def ensure(certificate: Path, key: Path) -> str:
    """Make a certificate and its key at these places, unless they are there; return its SHA-256 fingerprint.

    Unavailable: certificate_unusable where what is there is none, or nothing can be written.
    """
    try:
        if not certificate.exists() or not key.exists():
            private = ec.generate_private_key(ec.SECP256R1())
            _write(key, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            _write(certificate, _made(private, _own_names()))
    except OSError as error:
        raise _unusable(certificate, error) from error
    return show(certificate).fingerprint


def show(certificate: Path) -> Shown:
    """Return what is in a certificate; of several in a file the first, which is the one that is shown to clients.

    Unavailable(certificate_unusable).
    """
    found = _read(certificate)
    digest = Hash(SHA256())
    digest.update(found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return Shown(
        fingerprint=found.fingerprint(SHA256()).hex(":").upper(),
        public_key=base64.b64encode(digest.finalize()).decode("ascii"),
        names=_names(found),
        begins_at=found.not_valid_before_utc,
        ends_at=found.not_valid_after_utc,
    )


def fingerprint_of(pem: str) -> str:
    """Return the SHA-256 fingerprint of a certificate, as show() tells it. ValueError: it is none."""
    return x509.load_pem_x509_certificate(pem.encode("ascii")).fingerprint(SHA256()).hex(":").upper()


def renew(certificate: Path, key: Path, names: Sequence[str] = ()) -> Shown:
    """Make the home's certificate anew, with the key that it has; names: for these and no others, else for those of the old one.

    Unavailable(certificate_unusable), Invalid(name_unusable).
    """
    wrong = [name for name in names if not _NAME.fullmatch(name) and not _is_address(name)]
    if wrong or len(names) > MOST_NAMES:
        raise Invalid("name_unusable", f"{wrong[0] if wrong else len(names)!r}: give names or addresses, {MOST_NAMES} at most")
    kept = list(names) or show(certificate).names
    try:
        private = load_pem_private_key(key.read_bytes(), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is none that kps has made")
        _write(certificate, _made(private, kept))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(key, error) from error
    return show(certificate)


def warning(certificate: Path, at: datetime.datetime | None = None) -> Problem | None:
    """Return what is wrong with how long a certificate still holds: certificate_expires_soon, certificate_expired; else None."""
    try:
        ends = _read(certificate).not_valid_after_utc
    except Unavailable as problem:
        return problem
    left = ends - (at or now())
    if left > datetime.timedelta(days=SOON_DAYS):
        return None
    step = "renew it (`kps certificate renew` for the home's own), give it to the clients, then send SIGHUP to kps serve"
    if left <= datetime.timedelta():
        return Unavailable("certificate_expired", f"{certificate}: expired on {ends:%Y-%m-%d}; {step}")
    return Unavailable("certificate_expires_soon", f"{certificate}: expires in {left.days} days, on {ends:%Y-%m-%d}; {step}")


def _read(certificate: Path) -> x509.Certificate:
    try:
        with certificate.open("rb") as file:
            return x509.load_pem_x509_certificate(file.read(_LARGEST_FILE))
    except (OSError, ValueError) as error:
        raise _unusable(certificate, error) from error


def _unusable(path: Path, error: Exception) -> Unavailable:
    return Unavailable("certificate_unusable", f"{path}: {error}; move it away, then kps serve makes another")


def _names(found: x509.Certificate) -> list[str]:
    try:
        said = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*said.get_values_for_type(x509.DNSName), *map(str, said.get_values_for_type(x509.IPAddress))]


def _own_names() -> list[str]:
    return [*dict.fromkeys((socket.gethostname(), "localhost")), "127.0.0.1", "::1"]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _made(private: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    alternatives: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(each)) if _is_address(each) else x509.DNSName(each) for each in dict.fromkeys(names)
    ]
    begins = now() - datetime.timedelta(hours=1)  # for clients whose clock is a little behind
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, SHA256())
    )
    return made.public_bytes(Encoding.PEM)


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
