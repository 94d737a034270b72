"""The lock holds what pyproject.toml asks for, by hash, and names no package index."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PINS = {match["name"]: match["version"] for match in re.finditer(r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)", LOCK, re.MULTILINE)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WANTED = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["project"]["optional-dependencies"]["dev"],
    *PROJECT["build-system"]["requires"],
]


@pytest.mark.parametrize("requirement", WANTED)
def test_the_lock_holds_what_the_project_asks_for(requirement):
    wanted = re.fullmatch(r"(?P<name>[\w.-]+)(>=(?P<least>[\d.]+))?", requirement)
    assert wanted is not None
    pinned = PINS[re.sub(r"[-_.]+", "-", wanted["name"]).lower()]
    assert _numbers(pinned) >= _numbers(wanted["least"] or "0")


def test_every_pin_has_a_hash():
    pinned = [block for block in re.split(r"^(?=\S)", LOCK, flags=re.MULTILINE) if "==" in block.split("\n")[0]]
    # One name may stand there for several Pythons.
    assert {block.split("==")[0] for block in pinned} == set(PINS)
    assert [block.split("\n")[0] for block in pinned if "--hash=sha256:" not in block] == []


def test_the_lock_names_no_package_index():
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|^-i ", LOCK, re.MULTILINE)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
