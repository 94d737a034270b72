"""Paths as the segments they were sent in: a slash that is encoded is part of a name, and leads to no other call."""

from urllib.parse import quote, unquote

from starlette.types import Scope


def segmented(scope: Scope) -> Scope:
    """Return the scope of a request with each segment of its path decoded by itself; a slash within one stays encoded."""
    segments = scope["raw_path"].decode("latin-1").split("/")
    decoded = [unquote(each, errors="replace").replace("/", quote("/", safe="")) for each in segments]
    return dict(scope, path="/".join(decoded))
