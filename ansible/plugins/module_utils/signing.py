# SPDX-License-Identifier: Apache-2.0
"""SDK-HMAC-SHA256 with the standard library alone: what a request to the controller is signed with."""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import quote, unquote_to_bytes

ALGORITHM = "SDK-HMAC-SHA256"
DATE = "x-sdk-date"


def authorization(method, target, headers, body, access_key, secret_key):
    """Return the Authorization header of a request.

    target: path and query as they go on the wire. headers: those that are signed, by name; X-Sdk-Date (YYYYMMDDTHHMMSSZ) and Host
    are among them. body: bytes.
    """
    lower = {name.lower(): value.strip() for name, value in headers.items()}
    names = ";".join(sorted(lower))
    path, _mark, query = target.partition("?")
    canonical = "\n".join(
        [method.upper(), _path(path), _query(query)]
        + [f"{name}:{lower[name]}" for name in sorted(lower)]
        + ["", names, hashlib.sha256(body).hexdigest()]
    )
    to_sign = "\n".join((ALGORITHM, lower[DATE], hashlib.sha256(canonical.encode("utf-8")).hexdigest()))
    signature = hmac.new(secret_key.encode("utf-8"), to_sign.encode("utf-8"), hashlib.sha256).hexdigest()
    return f"{ALGORITHM} Access={access_key}, SignedHeaders={names}, Signature={signature}"


def _path(raw):
    # Decoded as a whole, so that %2F separates too; and with a slash at its end.
    encoded = "/".join(quote(piece, safe="~") for piece in unquote_to_bytes(raw).split(b"/"))
    return encoded if encoded.endswith("/") else encoded + "/"


def _query(raw):
    pairs = [pair.partition("=") for pair in raw.split("&") if pair]
    decoded = sorted((unquote_to_bytes(name), unquote_to_bytes(value)) for name, _equals, value in pairs)
    return "&".join("{}={}".format(quote(name, safe="~"), quote(value, safe="~")) for name, value in decoded)
