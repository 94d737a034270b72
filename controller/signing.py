"""SDK-HMAC-SHA256: what a signed request says, and whether it is true. Pure: no clock, no store, no framework.

What is signed is the request as it was on the wire: the raw target, the raw header values, the exact bytes of the body.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote_from_bytes, unquote_to_bytes

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from controller.model import Secret

ALGORITHM = "SDK-HMAC-SHA256"
CLOCK_DIFFERENCE = timedelta(minutes=15)
AUTHORIZATION_BYTES = 4096
SIGNED_HEADERS = 64
DATE = "x-sdk-date"
_CONTENT_HASH = "x-sdk-content-sha256"
_OTHERS = ("SDK-HMAC-SM3", "SDK-ECDSA-P256-SHA256", "SDK-SM2-SM3", "V11-HMAC-SHA256")
_FORM = re.compile(
    ALGORITHM + r" Access=(?P<access_key>[!-+\--~]{1,128}), ?SignedHeaders=(?P<signed>[!-+\--:<-~;]{1,2048}), ?"
    r"Signature=(?P<signature>[0-9a-f]{64})"
)
_DATE_FORM = re.compile(r"\d{8}T\d{6}Z")


class NotSigned(Exception):
    """the request is not signed as it must be; reason: which of the documented ways, without a word on which part was wrong"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


WRONG = "verify aksk signature fail"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was on the wire. headers: every one, in the order in which they came; path and query raw."""

    method: str
    path: bytes
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: str) -> list[bytes]:
        """Return the values of a header, white space around them taken off."""
        return [value.strip() for each, value in self.headers if each.decode("latin-1").lower() == name]


@dataclass(frozen=True, slots=True)
class Claim:
    """What the Authorization header says: by whom, over which headers, and the signature."""

    access_key: str
    signed: tuple[str, ...]
    signature: str
    date: str


def claimed(request: Request, now: datetime) -> Claim:
    """Return what a request claims, once its form and its date are right. NotSigned for everything else."""
    (authorization,) = request.values("authorization") if len(request.values("authorization")) == 1 else (b"",)
    if len(authorization) > AUTHORIZATION_BYTES:
        raise NotSigned("the Authorization header is too long")
    text = authorization.decode("latin-1")
    found = _FORM.fullmatch(text)
    if found is None:
        word = text.split(" ")[0]
        if word in _OTHERS:
            raise NotSigned(f"{word} is not supported, use {ALGORITHM}")
        raise NotSigned(
            f"there must be one Authorization header of the form {ALGORITHM} Access=..., SignedHeaders=..., Signature=..."
        )
    signed = tuple(found["signed"].split(";"))
    if len(signed) > SIGNED_HEADERS or DATE not in signed or len(set(signed)) != len(signed):
        raise NotSigned(f"SignedHeaders must name {DATE}, and each header once")
    dates = request.values(DATE)
    if len(dates) != 1 or not _DATE_FORM.fullmatch(dates[0].decode("latin-1")):
        raise NotSigned(f"{DATE} must be one time of the form YYYYMMDDTHHMMSSZ")
    date = dates[0].decode("ascii")
    try:
        at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise NotSigned(f"{DATE} is no time that there is") from None
    if abs(now - at) > CLOCK_DIFFERENCE:
        raise NotSigned("signature expired")
    return Claim(found["access_key"], signed, found["signature"], date)


def verify(request: Request, claim: Claim, secret_key: Secret) -> None:
    """Return if the request was signed so with this secret key; NotSigned(WRONG) if not, in the same time."""
    try:
        expected = _signature(secret_key, claim.date, _canonical(request, claim.signed, _payload_hash(request)))
    except NotSigned:
        # The same work as for a signature that is merely wrong.
        expected = _signature(secret_key, claim.date, b"")
        hmac.compare_digest(expected, claim.signature)
        raise
    if not hmac.compare_digest(expected, claim.signature):
        raise NotSigned(WRONG)


def sign(request: Request, access_key: str, secret_key: Secret, at: datetime) -> list[tuple[bytes, bytes]]:
    """Return the headers to add to a request (Host among those that it has), so that verify() finds it signed."""
    date = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    dated = Request(request.method, request.path, request.query, [*request.headers, (b"X-Sdk-Date", date.encode())], request.body)
    names = sorted(name for name in {each.decode("latin-1").lower() for each, _ in dated.headers} if "_" not in name)
    signature = _signature(secret_key, date, _canonical(dated, names, _payload_hash(dated)))
    value = f"{ALGORITHM} Access={access_key}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return [(b"X-Sdk-Date", date.encode()), (b"Authorization", value.encode())]


def _signature(secret_key: Secret, date: str, canonical: bytes) -> str:
    to_sign = "\n".join((ALGORITHM, date, hashlib.sha256(canonical).hexdigest()))
    signing = HMAC(secret_key.view(), SHA256())  # hmac.new would want a copy of the key
    signing.update(to_sign.encode())
    return signing.finalize().hex()


def _payload_hash(request: Request) -> str:
    found = hashlib.sha256(request.body).hexdigest()
    said = request.values(_CONTENT_HASH)
    # Whoever says a hash, or that none is signed, is taken by the word only where it is the body's.
    if request.body and said and said != [found.encode()]:
        raise NotSigned(WRONG)
    return found


def _canonical(request: Request, signed: Iterable[str], payload_hash: str) -> bytes:
    signed = list(signed)
    lines = [request.method.upper().encode("latin-1"), _path(request.path), _query(request.query)]
    for name in signed:
        values = request.values(name)
        # One that is missing, or is there twice, means different things to different readers.
        if len(values) != 1:
            raise NotSigned(WRONG)
        lines.append(name.encode("latin-1") + b":" + values[0])
    return b"\n".join([*lines, b"", ";".join(signed).encode("latin-1"), payload_hash.encode()])


def _path(raw: bytes) -> bytes:
    """Return the canonical URI: decoded as a whole, so that %2F separates, and each piece encoded anew."""
    encoded = b"/".join(_encoded(piece) for piece in unquote_to_bytes(raw).split(b"/"))
    return encoded if encoded.endswith(b"/") else encoded + b"/"


def _query(raw: bytes) -> bytes:
    """Return the canonical query: a plus sign is a plus sign, and a name without value has an empty one."""
    pairs = [pair.partition(b"=") for pair in raw.split(b"&") if pair]
    decoded = sorted((unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in pairs)
    return b"&".join(_encoded(name) + b"=" + _encoded(value) for name, value in decoded)


def _encoded(piece: bytes) -> bytes:
    return quote_from_bytes(piece, safe="~").encode("ascii")
