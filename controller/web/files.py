"""The files that pages are made with: a style, scripts and a picture, all of them ours or vendored here."""

import hashlib
from functools import cache
from importlib.resources import files

KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@cache
def contents() -> dict[str, bytes]:
    """Return each of them, by name."""
    folder = files("controller.web").joinpath("static")
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in KINDS}


@cache
def address(name: str) -> str:
    """Return where a browser asks for one; the address is another one once the file is."""
    return f"/console/static/{name}?{hashlib.sha256(contents()[name]).hexdigest()[:12]}"
