"""kps console link and kps user password: who may come into the console, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from controller.cli.console import reachable
from controller.service import console
from tests.controller.faces import here

PASSWORD = "correct horse battery staple"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(console, "_MEMORY_KIB", 64)
    assert here(tmp_path / "home", "init").exit_code == 0
    assert here(tmp_path / "home", "user", "create", "alice").exit_code == 0
    return tmp_path / "home"


def parsed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_link_is_made_and_shown_this_once(home: Path) -> None:
    made = parsed(here(home, "console", "link", "--user", "alice", "--json"))
    assert (made["user"], made["path"], made["url"]) == ("alice", "/console/link", None)
    assert len(made["code"]) == 43
    told = here(home, "console", "link", "--user", "alice", "--url", "https://kps.example.com:8443/")
    assert "https://kps.example.com:8443/console/link#" in told.stdout.replace("\n", "")
    assert made["code"].encode() not in (home / "kps.db").read_bytes()
    trail = here(home, "audit", "list", "--kind", "console_link_made", "--json").stdout
    assert made["code"] not in trail
    assert len(json.loads(trail)) == 2


def test_a_password_comes_from_stdin_and_is_kept_as_a_hash(home: Path) -> None:
    done = here(home, "user", "password", "alice", "--password-stdin", "--json", stdin=f"{PASSWORD}\n")
    assert parsed(done) == {"name": "alice", "password_set": True}
    assert PASSWORD.encode() not in (home / "kps.db").read_bytes()


@pytest.mark.parametrize(
    ("words", "given", "code", "exit_code"),
    [
        (("user", "password", "alice", "--password-stdin"), "short\n", "password_unusable", 2),
        (("user", "password", "alice", "--password-stdin"), "", "usage", 2),
        (("user", "password", "alice"), f"{PASSWORD}\n", "usage", 2),
        (("user", "password", "nobody", "--password-stdin"), f"{PASSWORD}\n", "user_not_found", 3),
        (("console", "link", "--user", "nobody"), "", "user_not_found", 3),
    ],
)
def test_what_cannot_be_is_refused(home: Path, words: tuple[str, ...], given: str, code: str, exit_code: int) -> None:
    done = here(home, *words, "--json", stdin=given)
    assert (json.loads(done.stderr)["error"]["code"], done.exit_code) == (code, exit_code)
    assert PASSWORD not in done.output


def test_every_address_of_a_machine_is_no_address() -> None:
    assert reachable("https://192.0.2.1:8443/console/link#x") == "https://192.0.2.1:8443"
    assert reachable("https://[::1]:8443/console/link#x") == "https://[::1]:8443"
    assert "0.0.0.0" not in str(reachable("https://0.0.0.0:8443/console/link#x"))
    assert reachable(None) is None
