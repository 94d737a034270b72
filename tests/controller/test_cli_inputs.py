"""What comes in from stdin and files: whose password it is, what a bad line is called, and where reading stops."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from controller.cli import inputs
from controller.cli.exits import Declined
from controller.settings import Settings
from tests.controller.faces import here


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    def holds(content: str | bytes) -> None:
        raw = content if isinstance(content, bytes) else content.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))

    return holds


@pytest.mark.parametrize(
    ("content", "servers", "expected"),
    [
        ("secret\n", ["a"], {"a": "secret"}),
        ("secret", ["a"], {"a": "secret"}),
        (" spaces kept \n\n", ["a"], {"a": " spaces kept "}),
        ("with\ttab\n", ["a"], {"a": "with\ttab"}),
        ("a\tsecret\n", ["a"], {"a": "secret"}),
        ("a\tone\nb\ttwo\n", ["a", "b"], {"a": "one", "b": "two"}),
        ("b\twith\ttab\n", ["a", "b"], {"b": "with\ttab"}),
        ("grün\u2028x\n", ["a"], {"a": "grün\u2028x"}),
    ],
)
def test_each_server_gets_its_own_password(stdin: Any, content: str, servers: list[str], expected: dict[str, str]) -> None:
    stdin(content)
    assert inputs.passwords_from_stdin(servers) == expected


@pytest.mark.parametrize(
    ("content", "servers", "told"),
    [
        ("secret\n", ["a", "b"], "NAME<TAB>password"),
        ("a\tone\nsecret\n", ["a", "b"], "line 2"),
        ("a\tone\nc\ttwo\n", ["a", "b"], "line 2: what stands before the tab is not among"),
        ("c\tsecret\nc\tother\n", ["a"], "line 1: what stands before the tab is not among"),
        ("a\tone\na\ttwo\n", ["a", "b"], "second password"),
        ("one\ntwo\n", ["a"], "one line"),
        ("a\t\n", ["a", "b"], "empty"),
        ("\n", ["a"], "no password"),
        ("", ["a", "b"], "no password"),
        ("secret\r\n", ["a"], "carriage return"),
        ("nul\0\n", ["a"], "NUL"),
        (b"\xff\n", ["a"], "UTF-8"),
        ("x" * (inputs.STDIN_BYTES + 1), ["a"], "bytes"),
    ],
)
def test_a_password_is_never_guessed_to_belong_to_a_server(
    stdin: Any, content: str | bytes, servers: list[str], told: str
) -> None:
    stdin(content)
    with pytest.raises(Declined, match=told) as refused:
        inputs.passwords_from_stdin(servers)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "servers"),
    [
        ("hunter2secret\ts1\nfoo\ts2\n", ["s1", "s2"]),
        ("hunter2\tsecret\nfoo\n", ["s1"]),
        ("s1\thunter2\ns1\tsecret\n", ["s1", "s2"]),
    ],
)
def test_what_may_be_a_password_is_not_repeated(stdin: Any, content: str, servers: list[str]) -> None:
    stdin(content)
    with pytest.raises(Declined) as refused:
        inputs.passwords_from_stdin(servers)
    assert not any(word in refused.value.message for word in ("hunter2", "secret", "foo"))


def test_a_wrong_file_is_not_repeated(settings: Settings, made: Any, tmp_path: Path) -> None:
    (tmp_path / "pwfile").write_text("hunter2 and more\n")
    result = here(settings.home, "keypair", "import", "im", "--public-key", str(tmp_path / "pwfile"))
    assert result.exit_code == 2
    assert "hunter2" not in result.stderr


def test_a_closed_stdin_is_wrong_usage(settings: Settings, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(Declined, match="stdin is closed") as refused:
        inputs.passwords_from_stdin(["web-1"])
    assert refused.value.exit_code == 2


def test_one_password_for_several_servers_starts_nothing(settings: Settings, made: Any) -> None:
    for name in ("web-1", "web-2"):
        assert here(settings.home, "server", "add", name, "127.0.0.1", "--port", "1").exit_code == 0
    assert here(settings.home, "keypair", "create", "ops").exit_code == 0
    result = here(settings.home, "bind", "--all", "--keypair", "ops", "--password-stdin", stdin="secret\n")
    assert result.exit_code == 2
    assert json.loads(here(settings.home, "task", "list", "--json").stdout) == []


def test_how_servers_are_reached_is_read_from_words() -> None:
    words = ["port=2222", "jump=a", "jump=b", "old-algorithms=all"]
    assert inputs.reach(words) == {"port": 2222, "jump": ["a", "b"], "old_algorithms": ["all"]}
    assert inputs.reach(["jump="]) == {"jump": []}
    for wrong in (["port=x"], ["port="], ["port"], ["port=1", "port=2"], ["login=root"], ["jump"], [""], ["port=-1"]):
        with pytest.raises(Declined):
            inputs.reach(wrong)


def test_a_csv_file_becomes_servers(tmp_path: Path) -> None:
    path = tmp_path / "servers.csv"
    path.write_text(
        "\ufeffname,host,port,login,labels,host_key\r\n"
        "web-1,192.0.2.1,,,env=prod;tier=1,\r\n"
        "\r\n"
        '"web-2",2001:db8::2,2222,deploy,"env=a,b",ssh-ed25519 AAAA\r\n'
    )
    servers, wrong = inputs.servers_from_csv(path)
    assert wrong == {}
    assert servers == {
        2: {"name": "web-1", "host": "192.0.2.1", "labels": {"env": "prod", "tier": "1"}},
        4: {
            "name": "web-2",
            "host": "2001:db8::2",
            "port": 2222,
            "login": "deploy",
            "labels": {"env": "a,b"},
            "host_key": "ssh-ed25519 AAAA",
        },
    }


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        ("name,host\nx\n", 2, "1 cells for 2 columns"),
        ("name,host\nx,y,z\n", 2, "3 cells for 2 columns"),
        ("name,host\nx,\n", 2, "host is empty"),
        ("name,host,port\nx,y,0\n", 2, "port '0'"),
        ("name,host,port\nx,y,99999999999999999999\n", 2, "port"),
        ("name,host,port\nx,y,²\n", 2, "port"),
        ("name,host,labels\nx,y,env\n", 2, "label 'env'"),
        ("name,host,labels\nx,y,a=1;a=2\n", 2, "label 'a'"),
        ("name,host\nx,1\ny,2\nx,3\n", 4, "x stands in line 2"),
        ('name,host\nx,"1\n', 2, "unexpected end"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, content: str, line: int, told: str) -> None:
    (tmp_path / "servers.csv").write_text(content)
    _, wrong = inputs.servers_from_csv(tmp_path / "servers.csv")
    assert list(wrong) == [line]
    assert told in wrong[line]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", ":1: the columns"),
        ("host,name\n", "no servers"),
        ("name,address\nx,y\n", ":1: the columns"),
        ("name,host,name\nx,y,z\n", ":1: the columns"),
        ("name,host\n" + "x" * inputs.CSV_BYTES, "bytes"),
    ],
)
def test_a_file_that_is_no_list_of_servers_is_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "servers.csv").write_text(content)
    with pytest.raises(Declined, match=told):
        inputs.servers_from_csv(tmp_path / "servers.csv")


def imported(settings: Settings, path: Path, *lines: str) -> list[str]:
    """What is said of a file with these lines, of which nothing is imported."""
    before = here(settings.home, "server", "list", "--json").stdout
    path.write_text("\n".join(("name,host,port,login,host_key", *lines)) + "\n")
    result = here(settings.home, "server", "import", str(path))
    assert result.exit_code == 2, result.stderr
    assert here(settings.home, "server", "list", "--json").stdout == before
    first, *said = result.stderr.rstrip("\n").split("\n")
    assert first == "kps: nothing was imported"
    return said


def test_every_bad_line_is_named_whoever_finds_it(settings: Settings, made: Any, tmp_path: Path) -> None:
    assert here(settings.home, "server", "add", "taken", "192.0.2.9").exit_code == 0
    path = tmp_path / "servers.csv"
    said = imported(
        settings, path,
        "bad name,192.0.2.1,,,", "taken,192.0.2.1,,,", "ok,192.0.2.1,,,", f"{'x' * 300},192.0.2.1,,,",
        "key,192.0.2.1,,,nonsense", "port,192.0.2.1,x,,", "ok,192.0.2.2,,,", "login,192.0.2.2,,../x,", "short",
    )  # fmt: skip
    assert [line.partition(": ")[0] for line in said] == [f"{path}:{number}" for number in (2, 3, 5, 6, 7, 8, 9, 10)]
    for place, told in enumerate(
        ("bad name", "taken", "name: at most 255 characters", "a host key is", "port 'x'", "line 4", "../x", "cells")
    ):
        assert told in said[place]


@pytest.mark.parametrize("line", ["taken,192.0.2.1,,,", "web-1,192.0.2.1,,,nonsense", f"web-1,{'x' * 300},,,"])
def test_the_line_is_named_where_there_is_but_one(settings: Settings, made: Any, tmp_path: Path, line: str) -> None:
    assert here(settings.home, "server", "add", "taken", "192.0.2.9").exit_code == 0
    (said,) = imported(settings, tmp_path / "servers.csv", line)
    assert said.startswith(f"{tmp_path}/servers.csv:2: ")


def test_an_import_prints_the_servers_it_added(settings: Settings, made: Any, tmp_path: Path) -> None:
    path = tmp_path / "servers.csv"
    path.write_text("name,host,labels\n" + "".join(f"web-{number},192.0.2.{number},env=x\n" for number in range(1, 51)))
    result = here(settings.home, "server", "import", str(path), "--json")
    assert [one["name"] for one in json.loads(result.stdout)] == [f"web-{number}" for number in range(1, 51)]
    listed = json.loads(here(settings.home, "server", "list", "env=x", "--json").stdout)
    assert len(listed) == 50


def test_a_fifo_does_not_hold_a_command_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(Declined, match="regular file"):
        inputs.private_key(tmp_path / "fifo")


def test_a_file_is_read_up_to_its_cap(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x" * inputs.KEY_FILE_BYTES)
    assert len(inputs.private_key(tmp_path / "key")) == inputs.KEY_FILE_BYTES
    (tmp_path / "key").write_text("x" * (inputs.KEY_FILE_BYTES + 1))
    with pytest.raises(Declined, match="larger"):
        inputs.private_key(tmp_path / "key")
