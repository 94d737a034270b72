"""A home for the console."""

from pathlib import Path
from typing import Any

import pytest

from controller.service import console
from controller.settings import Settings
from tests import homes


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    # A test asks faster than any person; the limit has tests of its own.
    return Settings(home=tmp_path / "home", requests_per_second=100_000, requests_at_once=1_000_000)


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let passwords cost little: what they cost is tested where it is the point."""
    monkeypatch.setattr(console, "_MEMORY_KIB", 64)


@pytest.fixture(autouse=True)
def made(settings: Settings) -> dict[str, Any]:
    return homes.made(settings)
