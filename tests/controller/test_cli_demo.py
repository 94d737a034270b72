"""kps demo: what it leaves behind, and how it ends when it is told to."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from controller.demo import story
from controller.demo.fleet import Fleet, FleetUnavailable
from tests.controller.faces import KPS, here, program
from tests.needs import lacking


def demo(tmp_path: Path, *words: str) -> Any:
    """What kps demo says as JSON; its fleets are under tmp_path."""
    result = program(tmp_path / "home", "demo", *words, "--json", TMPDIR=str(tmp_path))
    if result.returncode == 5:
        lacking(result.stderr)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_fleet_that_is_ended_leaves_nothing_and_can_be_started_again(tmp_path: Path) -> None:
    place = tmp_path / "try"
    for _ in range(2):
        made = demo(tmp_path, "--fleet-only", str(place))
        assert made["servers"] == ["web-1", "web-2", "web-3"]
        assert Path(made["inventory"]).read_text().count("\n") == 4
        assert Path(made["passwords"]).stat().st_mode & 0o777 == 0o600
        assert Path(made["fleet"]).exists()
        assert demo(tmp_path, "--end", str(place))["ended"] is True
        assert list(tmp_path.glob("kps-fleet-*")) == []
        assert not place.exists()


def test_what_others_put_beside_it_stays(tmp_path: Path) -> None:
    place = tmp_path / "try"
    place.mkdir()
    (place / "notes").touch()
    (place / "fleet").symlink_to(tmp_path / "ended long ago")
    (place / "fleet.csv").touch()
    (place / "passwords").touch()
    result = here(tmp_path / "home", "demo", "--end", str(place))
    assert (result.exit_code, result.stdout) == (0, "the fleet had ended already; what it left is removed\n")
    assert [path.name for path in place.iterdir()] == ["notes"]


def test_where_no_fleet_is_none_is_ended(tmp_path: Path) -> None:
    result = here(tmp_path / "home", "demo", "--end", str(tmp_path), "--json")
    assert result.exit_code == 3
    assert json.loads(result.stderr)["error"]["code"] == "fleet_not_found"


@pytest.mark.parametrize("name", ["missing/try", "."])
def test_a_directory_that_cannot_be_made_is_wrong_usage(tmp_path: Path, name: str) -> None:
    result = here(tmp_path / "home", "demo", "--fleet-only", str(tmp_path / name))
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr


@pytest.mark.parametrize(
    ("failure", "code"),
    [(FleetUnavailable("no sshd"), 5), (OSError(28, "No space left on device"), 5), (KeyboardInterrupt(), 130)],
)
def test_a_fleet_that_does_not_come_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, code: int
) -> None:
    class Failing(Fleet):
        def open(self) -> None:
            raise failure

    monkeypatch.setattr(story, "Fleet", Failing)
    result = here(tmp_path / "home", "demo", "--fleet-only", str(tmp_path / "try"))
    assert result.exit_code == code, result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("everybody", [True, False], ids=["at-a-terminal", "one-process"])
def test_an_interrupted_demo_ends_at_once_and_leaves_nothing(tmp_path: Path, everybody: bool) -> None:
    process = subprocess.Popen(
        [KPS, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        shown = ""
        while "kps bind" not in shown:
            line = process.stdout.readline()
            shown += line
            if not line:
                lacking(shown) if process.wait() == 5 else pytest.fail(shown)
        if everybody:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
        after, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, after
    assert "Replace" not in after
    assert list(tmp_path.iterdir()) == []
