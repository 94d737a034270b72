"""What reaches a terminal: nothing it would obey, nothing cut off, and help for everything."""

import functools
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from controller.cli import app, exits, output
from controller.cli.following import explain, show
from controller.cli.reference import page
from controller.model import OLD_NAMES
from tests.controller.faces import KPS

PAGE = Path(__file__).parents[2] / "docs/cli.md"
LONG = "a-server-with-a-really-long-name-in-the-datacentre-of-frankfurt-rack-17-unit-3"


def commands(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    command = command or get_command(app)
    if not hasattr(command, "commands"):
        yield words
        return
    for name, one in command.commands.items():
        yield from commands(one, (*words, name))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("grün", "grün"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("bell\a tab\t", "bell\\x07 tab\\t"),
        ("two\r\nlines", "two\\r\\nlines"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("sep\u2028arator", "sep\\u2028arator"),
        ("lone\udcff", "lone\\udcff"),
        ("[bold]markup[/bold]", "[bold]markup[/bold]"),
    ],
)
def test_what_a_terminal_would_act_on_is_spelled_out(text: str, shown: str) -> None:
    assert output.plain(text) == shown


@given(st.text())
def test_plain_text_is_printable_whatever_comes(text: str) -> None:
    assert all(char.isprintable() or char.isspace() for char in output.plain(text))
    assert output.plain(text).encode("utf-8", "strict").isascii() or "\x1b" not in output.plain(text)
    assert not set(output.plain(text)) & set("\x1b\r\n\a\b\x7f\x9b\u202e\u2028")


def result(**changes: Any) -> dict[str, Any]:
    return {
        "id": "6d4115c3-f2db-4c8a-875f-80bd07acfb8b", "server": "web-1", "login": "root", "operation": "bind",
        "status": "failed", "server_state": "as_before", "phase": "connect", "cause": "not_ssh", "message": "",
        "evidence": {}, "proof": [], "handling": None, "retryable": True,
    } | changes  # fmt: skip


def test_nothing_a_server_says_reaches_the_terminal_raw(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "\x1b]0;owned\a[/][link=http://x]y\r\n\x9b2J"
    show([result(message=hostile, evidence={hostile: [hostile, {"x": hostile}]}, handling=hostile, server=hostile)])
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\a\r\x9b")
    assert "[link=http://x]y" in shown


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_cell_is_cut_off(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    output.table(("NAME", "ADDRESS", "ID"), [(LONG, "x" * 60, "6d4115c3-f2db-4c8a-875f-80bd07acfb8b")], whole="ID")
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert all(len(line) <= columns for line in shown.split("\n"))
    for piece in ("frankfurt", "x" * 5):
        assert piece in shown or piece in "".join(line.split(" ")[0] for line in shown.split("\n"))
    if columns >= 80:
        assert "6d4115c3-f2db-4c8a-875f-80bd07acfb8b" in shown


def test_in_a_pipe_every_row_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    output.table(("NAME", "ADDRESS"), [(LONG, "x" * 200)] * 3)
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len(lines) == 4
    assert all(LONG in line and "x" * 200 in line for line in lines[1:])


def test_handling_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    explain(result(handling="First this.\nThen that.", retryable=False))
    shown = capsys.readouterr().out
    assert "First this." in shown.split("\n")[1]
    assert "a retry alone cannot help" in shown


ID = "6d4115c3-f2db-4c8a-875f-80bd07acfb8b"


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({}, f"kps task retry {ID}"),
        ({"cause": "wrong_password"}, f"kps task retry {ID} --password-stdin"),
        ({"cause": "credential_needed"}, f"kps task retry {ID} --password-stdin"),
        ({"request": {"given": ["password"]}}, f"kps task retry {ID} --password-stdin"),
        ({"request": {"given": ["identity"]}}, f"kps task retry {ID} --identity FILE"),
        (
            {"request": {"given": ["password"], "password_of": "root"}},
            f"kps task retry {ID} --password-stdin --password-of root",
        ),
    ],
)
def test_the_commands_of_a_handling_can_be_typed(capsys: pytest.CaptureFixture[str], changes: Any, again: str) -> None:
    told = "Wait, then kps task retry ID. Or kps task retry ID --identity FILE."
    explain(result(handling=told, **changes))
    shown = capsys.readouterr().out
    assert f"Wait, then {again}. Or kps task retry {ID} --identity FILE." in " ".join(shown.split())
    assert shown.rstrip("\n").endswith(again)
    assert " ID" not in shown


def test_a_failed_task_shows_its_cause_before_its_proofs(capsys: pytest.CaptureFixture[str]) -> None:
    proof = {"way": "key", "login": "root", "method": "accepted"}
    show([result(proof=[proof]), result(proof=[proof], cause=None, status="succeeded")])
    lines = capsys.readouterr().out.split("\n")
    assert "not_ssh" in lines[1]
    assert "key of root accepted" in lines[2]


def test_a_key_file_that_does_not_serve_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    explain(result(cause="private_key_unreadable"), Path("/keys/old"))
    assert "/keys/old" in capsys.readouterr().out


def test_in_a_pipe_no_line_ends_in_spaces(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    output.table(("NAME", "LABELS"), [("a", "x" * 700), ("b", "")])
    output.facts({"name": "a", "host key": "x" * 700})
    assert all(line == line.rstrip() for line in capsys.readouterr().out.split("\n"))


@pytest.mark.parametrize("columns", [36, 60, 71, 80, 100, 200])
def test_an_id_is_never_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    row = (ID, "web-1", "root", "password-login-disable", "failed", "connection_timed_out", "2026-01-01 00:00:00Z")
    output.table(("ID", "SERVER", "LOGIN", "OPERATION", "STATUS", "CAUSE", "WHEN"), [row, row], whole="ID")
    shown = capsys.readouterr().out
    assert shown.count(ID) == 2
    assert all(len(line) <= columns for line in shown.split("\n"))


def test_json_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    output.as_json({"message": "\x1b\x9bgrün\u202e"})
    assert stream.getvalue().isascii()
    assert "\x1b" not in stream.getvalue()
    assert json.loads(stream.getvalue()) == {"message": "\x1b\x9bgrün\u202e"}


@functools.cache
def lines_of_the_page() -> frozenset[str]:
    return frozenset(page().split("\n"))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_has_json_home_and_examples(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80"}).stdout
    assert "--json" in shown
    assert "--home" in shown
    assert "Examples\n" in shown
    assert f"kps {' '.join(words)}" in shown
    # What is there to be read fits; examples are there to be copied and stand as they are typed.
    told, _, examples = Text.from_ansi(shown).plain.partition("Examples\n")
    assert all(len(line) <= 80 for line in told.split("\n"))
    assert lines_of_the_page() >= {line.removeprefix("  ") for line in examples.rstrip("\n").split("\n")}


def test_the_examples_are_commands_that_parse() -> None:
    for words in commands():
        shown = Text.from_ansi(CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "300"}).stdout).plain
        examples = [line.strip() for line in shown[shown.index("Examples") :].split("\n")[1:] if line.strip()]
        assert any(f"kps {' '.join(words)}" in example for example in examples), words


def test_help_tells_every_exit_code() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).stdout
    for code, meaning in exits.MEANING.items():
        assert f"{code:>3}  {meaning}" in shown


def test_help_loads_nothing_heavy() -> None:
    heavy = ["fastapi", "sqlalchemy", "asyncssh", "httpx", "uvicorn", "cryptography", "pydantic_settings"]
    code = f"import sys; import controller.cli; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout == "[]\n"


def test_the_version_is_told() -> None:
    shown = subprocess.run([KPS, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert shown.startswith("kps ")


@pytest.mark.parametrize("words", [(), ("server",), ("keypair",), ("password-login",), ("task",)], ids=" ".join)
def test_every_group_has_examples(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "60"}).stdout
    assert "kps " in shown[shown.index("Examples\n") :]


def test_docs_cli_md_is_current() -> None:
    assert PAGE.read_text() == page(), "run: python -m controller.cli.reference > docs/cli.md"


def found(code: str, kind: str, message: str, *, safe: bool) -> dict[str, Any]:
    return {"code": code, "kind": kind, "message": message, "repair": "chmod go-w /root/.ssh", "safe": safe}


def test_the_repair_is_for_the_same_key_and_by_the_same_way_in(capsys: pytest.CaptureFixture[str]) -> None:
    request = {"keypair": "ops", "given": ["password"], "password_of": "admin"}
    writable = found("path_writable", "key", "/root/.ssh: mode 0777", safe=True)
    show([result(operation="check", cause="key_refused", request=request, evidence={"findings": [writable]})])
    command = "kps server check web-1 --login root --repair --keypair ops --password-stdin --password-of admin"
    assert f"this repairs 1: {command}\n" in capsys.readouterr().out


def test_a_message_has_the_servers_name_once_and_is_broken_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    words = "web-1: ended: 1 live session that the key opened, or may have (no log says): pid 46 from 192.0.2.7"
    show([result(status="succeeded", cause=None, message=words)])
    told = capsys.readouterr().out.partition("web-1: ")[2]
    assert "web-1" not in told
    assert "web-1: " + " ".join(told.split()) == words
    assert all(len(line) <= 40 for line in told.split("\n"))


def test_a_plan_says_each_proof_once_and_that_a_revoke_is_for_good(capsys: pytest.CaptureFixture[str]) -> None:
    key = {"way": "key", "login": "root", "want": "logged_in"}
    proofs = [key | {"when": when} for when in ("after", "last")] + [key | {"when": "last", "want": "refused"}]
    plan = {"changes": [], "proofs": proofs, "armed": "", "reload": "", "locked_out": [], "for_good": "nothing undoes it"}
    show([result(status="unchanged", cause=None, evidence={"plan": plan})])
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.split("\n")]
    assert "proved by key of root logs in, key of root is refused" in shown
    assert "for good nothing undoes it" in shown


@pytest.mark.parametrize("name", ["add", "set"])
def test_the_names_of_old_algorithms_can_be_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, ["server", name, "--help"]).output
    told = shown.split("Old algorithms: ")[1].split("Examples\n")[0]
    assert tuple(told.replace(",", " ").replace(".", " ").split()) == OLD_NAMES
