"""A controller on the network: where it is, as whom it is asked, and by what it is known."""

import ipaddress
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from controller import signing
from controller.errors import Invalid
from controller.model import Secret

_ACCESS_KEY = re.compile(r"[!-+\--~]{1,128}")  # as signing reads it
_FINGERPRINT = re.compile(r"[0-9A-F]{64}")


@dataclass(frozen=True, slots=True)
class Remote:
    """A controller on the network.

    url: https://HOST[:PORT], or http:// on loopback. Its certificate is known by ca_certificate (a PEM file, and then by nothing
    else), by its SHA-256 fingerprint as `kps serve` prints it (then neither names nor authorities count), or by the
    authorities that this machine trusts. security_token: of temporary credentials. Invalid: url_unusable, fingerprint_unusable,
    access_key_unusable, ca_certificate_unusable.
    """

    url: str
    access_key: str
    secret_key: Secret = field(repr=False)
    ca_certificate: Path | None = None
    fingerprint: str | None = None
    security_token: Secret | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", usable(self.url))
        if not _ACCESS_KEY.fullmatch(self.access_key):
            raise Invalid("access_key_unusable", "the access key is empty, or has characters that no access key has")
        if not len(self.secret_key):
            raise Invalid("access_key_unusable", f"{self.access_key}: its secret key is empty")
        if self.fingerprint is not None:
            object.__setattr__(self, "fingerprint", fingerprint(self.fingerprint))
            if self.ca_certificate is not None:
                raise Invalid("fingerprint_unusable", "a CA certificate and a fingerprint exclude each other; give one")

    def context(self) -> ssl.SSLContext | bool:
        """Return what judges the controller's certificate; False where there is none to judge."""
        if self.url.startswith("http:"):
            return False
        if self.fingerprint is not None:
            return pinned(self.fingerprint)
        try:
            return ssl.create_default_context(cafile=self.ca_certificate)
        except (OSError, ssl.SSLError) as error:
            told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise Invalid("ca_certificate_unusable", f"{self.ca_certificate}: {told}; give certificates as PEM") from error


def usable(url: str) -> str:
    """Return the address of a controller. Invalid(url_unusable): it is none, or requests would go where others listen in."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Invalid("url_unusable", f"{_shown(url)}: {error}; give https://HOST:PORT") from None
    if parts.username is not None or parts.password is not None:
        raise Invalid("url_unusable", "a URL has no room for a name or a password; the access key is given apart")
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise Invalid("url_unusable", f"{_shown(url)}: give https://HOST:PORT and nothing more")
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise Invalid(
            "url_unusable", f"{_shown(url)}: plain HTTP is for loopback only; requests carry passwords and keys, so use https://"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return SplitResult(parts.scheme, host if port is None else f"{host}:{port}", "", "", "").geturl()


def fingerprint(text: str) -> str:
    """Return a SHA-256 fingerprint as `kps serve` prints it. Invalid(fingerprint_unusable): it is none."""
    digits = text.strip().upper().replace(":", "")
    if not _FINGERPRINT.fullmatch(digits):
        raise Invalid("fingerprint_unusable", f"{text!r}: give the SHA-256 fingerprint that `kps serve` prints, 64 hex digits")
    return ":".join(digits[at : at + 2] for at in range(0, 64, 2))


class OtherFingerprint(ssl.SSLCertVerificationError):
    """the certificate is not the one that is known"""


def pinned(known: str) -> ssl.SSLContext:
    """Return a context that takes the certificate of this fingerprint and no other: nothing is sent before it is seen.

    TLS has proved by then that whoever answers has the certificate's key.
    """

    def judge(der: bytes | None) -> None:
        seen = sha256(der or b"").hexdigest().upper()
        if seen != known.replace(":", ""):
            raise OtherFingerprint(1, f"its fingerprint is {fingerprint(seen)}, and not {known}")

    # Python's own place for this: what a context makes of a connection (ssl.SSLContext.sslobject_class).
    class Object(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            judge(self.getpeercert(binary_form=True))

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            judge(self.getpeercert(binary_form=True))

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = Object
    context.sslsocket_class = Socket
    return context


class Signed(httpx.Auth):
    """Signs each request anew, over what no proxy on the way changes: method, path, query, body, host, type and token."""

    requires_request_body = True

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        if self._remote.security_token is not None:
            request.headers["X-Security-Token"] = self._remote.security_token.open().decode("latin-1")
        path, _, query = request.url.raw_path.partition(b"?")
        headers = [
            (name.encode(), request.headers[name].encode("latin-1"))
            for name in ("host", "content-type", "x-security-token")
            if name in request.headers
        ]
        asked = signing.Request(request.method, path, query, headers, request.content)
        for name, value in signing.sign(asked, self._remote.access_key, self._remote.secret_key, datetime.now(UTC)):
            request.headers[name.decode()] = value.decode()
        yield request


def why_not_trusted(error: BaseException) -> str | None:
    """Return why a certificate was not taken, where that is what an error comes from."""
    seen: Any = error
    while seen is not None:
        if isinstance(seen, OtherFingerprint):
            return (
                f"{seen.strerror}; somebody may be in between. Where the controller was given another certificate, compare "
                "with what `kps serve` prints there"
            )
        if isinstance(seen, ssl.SSLCertVerificationError):
            return (
                f"{seen.verify_message}; give the certificate of its authority (KPS_CA_CERTIFICATE), or the fingerprint that "
                "`kps serve` prints (KPS_FINGERPRINT)"
            )
        seen = seen.__cause__ or seen.__context__
    return None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(url: str) -> str:
    """Return a URL for a message, without what may be a password in it."""
    return repr(url if "@" not in url else f"...@{url.rpartition('@')[2]}")
