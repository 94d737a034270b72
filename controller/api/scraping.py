"""/metrics: for the home's owner over the socket, and on the network for who shows the token of the home's own file.

The figures are of the whole home, so no tenant's user reads them, whatever their role.
"""

import hmac
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from controller.api import problems
from controller.errors import Unavailable

PATH = "/metrics"
SCRAPES = "kps.scrapes"  # in the scope of a request whose token was the right one
LEAST_TOKEN = 32  # characters
_LARGEST_FILE = 4096
_BEARER = "Bearer "


class Exposes(Protocol):
    """Gives all metrics and their content type."""

    async def exposed(self, accept: str = "") -> tuple[bytes, str]: ...


class Scrapes:
    """The answer to who asks for the metrics."""

    def __init__(self, metrics: Callable[[], Exposes | None]) -> None:
        """metrics: None where nobody counts: a command in its own process."""
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send, *, may: bool) -> None:
        """may: whether whoever asks may read them."""
        if scope["method"] not in ("GET", "HEAD"):
            answer: Response = problems.answer(405, "invalid", "metrics are only read: GET /metrics")
        elif not may:
            answer = problems.answer(
                403, "metrics_not_yours", "metrics are of the whole home: for its owner, or with its metrics token"
            )
        elif (metrics := self._metrics()) is None:
            answer = problems.answer(404, "not_served", "nobody serves this home, so nobody counts; kps serve")
        else:
            found, content_type = await metrics.exposed(Headers(scope=scope).get("accept", ""))
            answer = Response(found, media_type=None, headers={"content-type": content_type})
        await answer(scope, receive, send)


def bearer(headers: list[tuple[bytes, bytes]]) -> str | None:
    """Return the token that a request shows as a bearer; None where it shows none."""
    given = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
    if len(given) != 1 or not given[0].startswith(_BEARER):
        return None
    return given[0].removeprefix(_BEARER).strip()


def is_token(given: str, file: Path | None) -> bool:
    """Say whether this is the token in a file; False where no file is named, or it can't be used (usable() says why)."""
    try:
        return file is not None and hmac.compare_digest(given.encode("latin-1"), usable(file))
    except Unavailable:
        return False


def usable(file: Path) -> bytes:
    """Return the token in a file: one line. Unavailable(metrics_token_unusable) where others may read it, or it is too short."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o007:
                raise Unavailable(
                    "metrics_token_unusable", f"{file}: must be a file that only you, or a group, may read; chmod o= {file}"
                )
            token = opened.read(_LARGEST_FILE).strip()
    except OSError as error:
        raise Unavailable("metrics_token_unusable", f"{file}: {error.strerror}") from error
    if len(token) < LEAST_TOKEN or any(not 0x21 <= each <= 0x7E for each in token):
        raise Unavailable(
            "metrics_token_unusable",
            f"{file}: give one line of at least {LEAST_TOKEN} characters without spaces; openssl rand -hex 32",
        )
    return token
