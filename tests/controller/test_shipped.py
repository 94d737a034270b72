"""What is shipped to servers is kept between runs, and only ever what its sources say."""

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path

import pytest

from controller.transport import ship

Modules = dict[str, str]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where it is kept; nothing is yet."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    ship._modules.cache_clear()
    yield Path(util.cache_from_source(str(Path(ship.__file__).parents[2] / "kpsagent/__init__.py"))).with_name("shipped.json")
    ship._modules.cache_clear()


def anew() -> Modules:
    ship._modules.cache_clear()
    return ship._modules()


def test_what_was_kept_is_what_was_made(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = anew()
    assert made["kpsagent.keys"] == ship._bare((Path(ship.__file__).parents[2] / "kpsagent/keys.py").read_text())
    monkeypatch.setattr(ship, "_bare", lambda source: pytest.fail("it is made once more"))
    assert anew() == made
    assert [each.name for each in kept.parent.iterdir()] == ["shipped.json"]


def of_other_sources(known: dict[str, object]) -> str:
    return json.dumps(known | {"made_from": "0" * 64})


def changed_since(known: dict[str, object]) -> str:
    return json.dumps(known).replace("def recover", "def recovered")


@pytest.mark.parametrize("spoilt", [of_other_sources, changed_since, lambda known: json.dumps(known)[:-5000], lambda known: "[]"])
def test_what_does_not_match_the_sources_is_not_shipped(
    kept: Path, monkeypatch: pytest.MonkeyPatch, spoilt: Callable[[dict[str, object]], str]
) -> None:
    monkeypatch.setattr(ship, "_bare", str.strip)  # the quicker
    made = anew()
    before = kept.read_text()
    kept.write_text(spoilt(json.loads(before)))
    assert kept.read_text() != before
    assert anew() == made
    assert kept.read_text() == before


def test_what_others_may_write_is_not_shipped(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship, "_bare", str.strip)  # the quicker
    before = os.umask(0)
    try:
        made = anew()
    finally:
        os.umask(before)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o644
    forged = json.loads(kept.read_text())
    forged["modules"]["kpsagent.keys"] += "\nevil = True\n"
    forged["digest"] = ship._digest(forged["modules"])
    kept.write_text(json.dumps(forged))
    kept.chmod(0o664)
    assert anew() == made
    if os.geteuid() == 0:
        kept.write_text(json.dumps(forged))
        os.chown(kept, 12345, 12345)
        assert anew() == made


def test_where_nothing_can_be_kept_it_is_shipped_all_the_same(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ship, "_bare", str.strip)
    kept.parent.parent.mkdir(parents=True, exist_ok=True)
    kept.parent.write_text("a file, where a directory should be")
    assert "kpsagent.undo" in anew()
