"""The lock holds what pyproject.toml asks for, by hash, and names no package index."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
RUNTIME = (ROOT / "packaging/runtime.lock").read_text()
BUILD = (ROOT / "packaging/build.lock").read_text()
PINNED = re.compile(r"^(?P<name>[a-z0-9-]+)==(?P<version>\S+)", re.MULTILINE)
PINS = {match["name"]: match["version"] for match in PINNED.finditer(LOCK)}
RUNTIME_PINS = {match["name"]: match["version"] for match in PINNED.finditer(RUNTIME)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WANTED = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["project"]["optional-dependencies"]["dev"],
    *PROJECT["build-system"]["requires"],
]


@pytest.mark.parametrize("requirement", WANTED)
def test_the_lock_holds_what_the_project_asks_for(requirement):
    wanted = re.fullmatch(r"(?P<name>[\w.-]+)(>=(?P<least>[\d.]+))?(,<(?P<most>[\d.]+))?", requirement)
    assert wanted is not None
    pinned = PINS[re.sub(r"[-_.]+", "-", wanted["name"]).lower()]
    assert _numbers(pinned) >= _numbers(wanted["least"] or "0")
    assert wanted["most"] is None or _numbers(pinned) < _numbers(wanted["most"])


@pytest.mark.parametrize(
    "requirement", [each for extra in ("hsm", "aws", "postgresql") for each in PROJECT["project"]["optional-dependencies"][extra]]
)
def test_what_is_packaged_can_do_all_that_a_controller_can(requirement):
    assert re.split(r"[^\w-]", requirement)[0] in RUNTIME_PINS


@pytest.mark.parametrize("requirement", PROJECT["project"]["dependencies"])
def test_what_is_packaged_has_what_the_controller_needs(requirement):
    assert re.split(r"[^\w-]", requirement)[0] in RUNTIME_PINS


def test_what_is_packaged_is_what_is_tested():
    assert set(PINNED.findall(RUNTIME + BUILD)) - set(PINNED.findall(LOCK)) == set()


@pytest.mark.parametrize(("lock", "pins"), [(LOCK, PINS), (RUNTIME, RUNTIME_PINS)], ids=["tests", "packages"])
def test_every_pin_has_a_hash(lock, pins):
    pinned = [block for block in re.split(r"^(?=\S)", lock, flags=re.MULTILINE) if "==" in block.split("\n")[0]]
    # One name may stand there for several Pythons.
    assert {block.split("==")[0] for block in pinned} == set(pins)
    assert [block.split("\n")[0] for block in pinned if "--hash=sha256:" not in block] == []


@pytest.mark.parametrize("lock", [LOCK, RUNTIME, BUILD], ids=["tests", "packages", "build"])
def test_a_lock_names_no_package_index(lock):
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|^-i ", lock, re.MULTILINE)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
