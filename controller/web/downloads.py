"""Files that a browser saves and never shows: kept by no cache, and run as nothing."""

import re
from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,200}")


def download(content: bytes | str | AsyncIterator[str], name: str, kind: str = "application/octet-stream") -> Response:
    """Return a file that the browser saves under a name. content: whole, or in pieces as they come."""
    headers = {"Content-Disposition": _attached(name), "Cache-Control": "no-store"}
    if isinstance(content, bytes | str):
        return Response(content, media_type=kind, headers=headers)
    return StreamingResponse(content, media_type=kind, headers=headers)


def _attached(name: str) -> str:
    """The header (RFC 6266). What is not plain goes in the form that has no quotes to break out of."""
    if _PLAIN.fullmatch(name):
        return f'attachment; filename="{name}"'
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"
