"""Homes for tests, as kps init makes them: the first of a process is made, the others are copies of it.

Migrations and a root key take a fifth of a second of work, and more than a thousand tests begin with a home. Copies share
tenant, keys and access key; what kps init does is tested on homes that it made (tests/controller/test_home.py).
"""

import functools
import tempfile
from pathlib import Path
from typing import Any

from controller.service.home import initialise
from controller.settings import Settings


def made(settings: Settings) -> dict[str, Any]:
    """Make a home that is not there yet, with its root key and store where settings want them; return what initialise returns."""
    if settings.root_key_uri is not None or not settings.in_file:
        return initialise(settings)
    files, told = _first()
    settings.home.mkdir(mode=0o700)
    for name, content in files.items():
        path = settings.home / name
        path.touch(mode=0o600)
        path.write_bytes(content)
    return dict(told)


@functools.cache
def _first() -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a home, and what initialise said of it."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory) / "home"
        told = initialise(Settings(home=home))
        return {path.name: path.read_bytes() for path in home.iterdir()}, told
