"""kps secret: fields, exit codes, values from stdin and files, to stdout and files, and never from an argument."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

import controller.app
from controller.cli.reference import FIELDS
from controller.model import Outcome
from controller.settings import Settings
from tests.controller.faces import TIMED_OUT, Given, Kps, answering, program, with_two_servers

PROVED = Outcome("succeeded", "as_asked", proofs=[{"way": "password", "login": "root", "method": "logged_in"}])


@pytest.fixture
def given() -> Given:
    return {}


@pytest.fixture
def outcomes() -> dict[str, Outcome]:
    return {"web-1": PROVED, "web-2": TIMED_OUT}


@pytest.fixture
def kps(settings: Settings, made: Any, outcomes: dict[str, Outcome], given: Given, monkeypatch: pytest.MonkeyPatch) -> Kps:
    """Run kps in this process, on a home whose servers answer what `outcomes` says."""
    monkeypatch.setattr(controller.app, "dispatching", answering(outcomes, given))
    return with_two_servers(settings.home)


def parsed(result: Result) -> Any:
    return json.loads(result.stdout)


def code_of(result: Result) -> str:
    assert result.stdout == ""
    return str(json.loads(result.stderr)["error"]["code"])


def test_a_secret_has_the_fields_of_the_contract(kps: Kps) -> None:
    made = parsed(kps("secret", "create", "db", "--description", "of the shop", "--json", stdin="one\n"))
    assert set(made) == set(FIELDS["secret"]) - {"versions"}
    shown = parsed(kps("secret", "versions", "db", "--json"))
    assert set(shown) == set(FIELDS["secret"])
    assert [set(each) for each in shown["versions"]] == [set(FIELDS["secret version"])]
    assert parsed(kps("secret", "list", "--json")) == [made]
    assert "of the shop" in kps("secret", "versions", "db").stdout
    assert "one" not in kps("secret", "versions", "db").stdout + kps("secret", "list").stdout


def test_a_value_comes_out_as_it_went_in_and_nothing_beside_it(kps: Kps, tmp_path: Path) -> None:
    kps("secret", "create", "db", stdin="one\n")
    assert kps("secret", "show", "db").stdout == "one"
    file = tmp_path / "value"
    file.write_text("two\nlines\n")
    found = parsed(kps("secret", "store", "db", "--file", file, "--json"))
    assert (found["version"], found["stages"]) == ("v2", ["SYSCURRENT"])
    assert kps("secret", "show", "db").stdout == "two\nlines\n"
    assert kps("secret", "show", "db", "--stage", "SYSPREVIOUS").stdout == "one"
    out = tmp_path / "out"
    assert "value" not in parsed(kps("secret", "show", "db", "--version", "v1", "--out", out, "--json"))
    assert (out.read_text(), stat.S_IMODE(out.stat().st_mode)) == ("one", 0o600)
    assert code_of(kps("secret", "show", "db", "--out", out, "--json", code=4)) == "file_exists"
    file.write_bytes(b"\xff\x00bytes")
    kps("secret", "store", "db", "--file", file)
    assert parsed(kps("secret", "show", "db", "--json"))["value_base64"] == "/wBieXRlcw=="


def test_bytes_go_to_stdout_as_they_are(settings: Settings, kps: Kps, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"\xff\x00bytes\n")
    kps("secret", "create", "blob", "--file", file)
    import os
    import subprocess

    from tests.controller.faces import KPS

    done = subprocess.run([KPS, "secret", "show", "blob"], env=os.environ | {"KPS_HOME": str(settings.home)}, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"\xff\x00bytes\n")


def test_stages_are_moved_and_deleted(kps: Kps) -> None:
    kps("secret", "create", "db", stdin="one")
    kps("secret", "store", "db", "--stage", "next", stdin="two")
    assert parsed(kps("secret", "stage", "db", "SYSCURRENT", "v2", "--json")) == {
        "SYSCURRENT": "v2", "SYSPREVIOUS": "v1", "next": "v2",
    }  # fmt: skip
    assert "next" not in parsed(kps("secret", "stage", "db", "next", "--delete", "--json"))
    assert code_of(kps("secret", "stage", "db", "SYSPREVIOUS", "--delete", "--json", code=4)) == "stage_built_in"
    assert code_of(kps("secret", "stage", "db", "next", "--delete", "--json", code=3)) == "stage_not_found"
    assert code_of(kps("secret", "stage", "db", "next", "--json", code=2)) == "usage"


def test_a_password_is_rotated_and_its_secret_says_what_works(kps: Kps) -> None:
    made = parsed(kps("secret", "create", "root-1", "--server", "web-1", "--json"))
    assert (made["version"], made["works"], made["scope"]) == (None, None, "account")
    assert code_of(kps("secret", "show", "root-1", "--json", code=3)) == "stage_not_found"
    (task,) = parsed(kps("secret", "rotate", "root-1", "--json"))
    assert (task["operation"], task["status"]) == ("password-set", "succeeded")
    assert parsed(kps("secret", "versions", "root-1", "--json"))["works"] == "v1"
    assert len(kps("secret", "show", "root-1").stdout) == 26
    (rotation,) = parsed(kps("secret", "rotation", "list", "--json"))
    assert set(rotation) == set(FIELDS["secret rotation"])
    assert (rotation["state"], rotation["proved"]) == ("done", True)
    assert "v1" in kps("secret", "list").stdout


def test_what_has_failed_is_listed_with_its_cause_and_tried_again(kps: Kps, outcomes: dict[str, Outcome]) -> None:
    kps("secret", "create", "root-2", "--server", "web-2", "--value-stdin", stdin="f1rst\n")
    kps("secret", "rotate", "root-2", code=1)
    (failed,) = parsed(kps("secret", "rotation", "list", "--failed", "--json", code=1))
    assert (failed["version"], failed["state"], failed["cause"]) == ("v2", "failed", TIMED_OUT.cause)
    assert TIMED_OUT.cause in kps("secret", "rotation", "list", "root-2", code=1).stdout
    assert kps("secret", "show", "root-2", "--stage", "SYSPREVIOUS").stdout == "f1rst"
    outcomes["web-2"] = PROVED
    kps("secret", "rotate", "root-2")
    assert parsed(kps("secret", "versions", "root-2", "--json"))["works"] == "v2"
    assert parsed(kps("secret", "rotation", "list", "--failed", "--json")) == []


def test_a_schedule_is_set_and_taken_back(kps: Kps) -> None:
    kps("secret", "create", "root-1", "--server", "web-1")
    found = parsed(kps("secret", "rotation", "every", "root-1", "30d", "--json"))
    assert found["rotates_every"] == "30d"
    assert found["rotates_at"]
    assert "every 30d" in kps("secret", "versions", "root-1").stdout
    assert parsed(kps("secret", "rotation", "off", "root-1", "--json"))["rotates_every"] is None
    assert code_of(kps("secret", "rotation", "every", "root-1", "5m", "--json", code=2)) == "period_unusable"


@pytest.mark.parametrize(
    ("words", "stdin", "exits", "code"),
    [
        (("create", "a b"), "x", 2, "name_unusable"),
        (("create", "empty"), "", 2, "usage"),
        (("create", "root-1", "--login", "root"), "x", 2, "usage"),
        (("create", "root-1", "--server", "web-1", "--scope", "private"), "x", 2, "usage"),
        (("create", "root-1", "--server", "nowhere"), None, 3, "server_not_found"),
        (("show", "nothing"), None, 3, "secret_not_found"),
        (("show", "nothing", "--version", "v1", "--stage", "blue"), None, 2, "usage"),
        (("rotate", "nothing"), None, 3, "secret_not_found"),
        (("delete", "nothing"), None, 3, "secret_not_found"),
    ],
)
def test_what_cannot_be_is_told_with_its_code(kps: Kps, words: tuple[str, ...], stdin: str | None, exits: int, code: str) -> None:
    assert code_of(kps("secret", *words, "--json", stdin=stdin, code=exits)) == code


def test_a_text_is_not_rotated_and_a_password_not_stored(kps: Kps) -> None:
    kps("secret", "create", "text", stdin="x")
    kps("secret", "create", "root-1", "--server", "web-1")
    assert code_of(kps("secret", "rotate", "text", "--json", code=4)) == "not_a_password"
    assert code_of(kps("secret", "store", "root-1", "--json", stdin="x", code=4)) == "secret_rotated"
    kps("secret", "delete", "text")
    assert parsed(kps("secret", "list", "--json"))[0]["name"] == "root-1"


def test_no_command_takes_a_value_as_an_argument(kps: Kps) -> None:
    for words in (("create", "db", "value"), ("store", "db", "value"), ("create", "db", "--value", "x")):
        kps("secret", *words, stdin="x", code=2)


def test_the_program_itself_reads_what_it_keeps_from_a_pipe(settings: Settings, kps: Kps) -> None:
    done = program(settings.home, "secret", "create", "piped", "--json", stdin="from a pipe\n")
    assert done.returncode == 0, done.stderr
    assert kps("secret", "show", "piped").stdout == "from a pipe"


@pytest.mark.parametrize("also", [("--server", "web-1", "--file"), ("--file",), ()])
def test_two_sources_of_one_value_are_refused(kps: Kps, tmp_path: Path, also: tuple[str, ...]) -> None:
    file = tmp_path / "value"
    file.write_text("two")
    words = (*also, str(file)) if also else ()
    assert code_of(kps("secret", "create", "db", "--value-stdin", *words, "--json", stdin="one\n", code=2)) == "usage"
    assert parsed(kps("secret", "list", "--json")) == []
