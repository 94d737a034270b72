"""kps serve: the same application on a Unix socket that only its owner can use."""

import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from controller.cli.completion import failed_tasks, keypairs, servers
from controller.cli.session import SOCKET_PATH_BYTES, somebody_listens
from controller.settings import Settings
from tests.controller.faces import KPS, here, program

Serve = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def serve(settings: Settings, made: Any) -> Iterator[Serve]:
    started: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [KPS, "serve"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "KPS_HOME": str(settings.home), "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == f"serving on {settings.socket}\n", process.communicate(timeout=30)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=30)


def ended(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_its_owner_until_told_to_stop(serve: Serve, settings: Settings, number: signal.Signals) -> None:
    process = serve()
    mode = settings.socket.lstat().st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
    assert json.loads(program(settings.home, "server", "list", "--json").stdout) == []
    assert ended(process, number) == (0, "")
    assert not settings.socket.exists()


def test_commands_use_it_while_it_runs(serve: Serve, settings: Settings) -> None:
    serve()
    # The command itself could not open the home any more; who serves it has it open.
    settings.root_key.rename(settings.home / "away")
    assert here(settings.home, "keypair", "create", "ops").exit_code == 0
    added = json.loads(here(settings.home, "server", "add", "web-1", "127.0.0.1", "--port", "1", "--json").stdout)
    assert added["name"] == "web-1"
    result = here(settings.home, "bind", "web-1", "--keypair", "ops", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["status"] == "failed"


def test_one_home_is_served_once(serve: Serve, settings: Settings) -> None:
    serve()
    second = program(settings.home, "serve", "--json")
    assert second.returncode == 4
    assert json.loads(second.stderr)["error"]["code"] == "already_served"
    assert here(settings.home, "server", "list").exit_code == 0


def test_what_a_killed_one_left_is_no_hindrance(serve: Serve, settings: Settings) -> None:
    process = serve()
    process.kill()
    process.communicate(timeout=30)
    assert settings.socket.exists()
    assert here(settings.home, "server", "list").exit_code == 0
    serve()
    assert here(settings.home, "server", "list").exit_code == 0


def test_a_large_body_is_refused_and_the_next_request_answered(serve: Serve, settings: Settings) -> None:
    serve()
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(settings.socket)), base_url="http://kps") as http:
        refused = http.post("/fleet/v1/keypairs", content=b"x" * 3_000_000)
        assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
        assert http.get("/fleet/v1/health").json()["status"] == "ok"


def test_a_path_too_long_for_a_socket_is_told(made: Any, settings: Settings, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * SOCKET_PATH_BYTES)
    assert program(deep, "init").returncode == 0
    assert program(deep, "server", "list").returncode == 0
    result = program(deep, "serve", "--json")
    assert (result.returncode, json.loads(result.stderr)["error"]["code"]) == (5, "socket_path_too_long")


def test_nobody_listens_where_nothing_is(tmp_path: Path) -> None:
    assert not somebody_listens(tmp_path / "kps.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "kps.sock"))
        assert not somebody_listens(tmp_path / "kps.sock")
        listener.listen()
        assert somebody_listens(tmp_path / "kps.sock")


def completed(settings: Settings, words: str) -> list[str]:
    """What the shell is offered after these words."""
    result = program(
        settings.home,
        COMP_WORDS=f"kps {words}",
        COMP_CWORD=str(words.count(" ") + 1),
        _KPS_COMPLETE="complete_bash",
    )
    return result.stdout.split()


def test_names_from_the_home_are_completed(settings: Settings, made: Any) -> None:
    for name in ("web-1", "web-2", "db-1"):
        assert here(settings.home, "server", "add", name, "127.0.0.1", "--port", "1").exit_code == 0
    assert here(settings.home, "keypair", "create", "ops").exit_code == 0
    here(settings.home, "bind", "web-1", "--keypair", "ops")
    assert completed(settings, "server show w") == ["web-1", "web-2"]
    assert completed(settings, "bind d") == ["db-1"]
    assert completed(settings, "bind --keypair o") == ["ops"]
    assert len(completed(settings, "task retry ")) == 1
    assert completed(settings, "kms key show k") == ["kps/default"]
    assert completed(settings, "server show *") == []


def test_a_home_that_is_not_there_completes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPS_HOME", str(tmp_path / "none"))

    context = SimpleNamespace(params={}, parent=None)
    for names in (servers, keypairs, failed_tasks):
        assert names(context, "") == []  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


@pytest.fixture
def waiting(serve: Serve, settings: Settings) -> Iterator[tuple["subprocess.Popen[str]", "subprocess.Popen[str]", str]]:
    """A controller that serves, a command that waits for a task of it, and the task's id: its server says nothing."""
    serving = serve()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
        port = str(silent.getsockname()[1])
        assert here(settings.home, "server", "add", "web-1", "127.0.0.1", "--port", port, "--host-key", key).exit_code == 0
        assert here(settings.home, "keypair", "create", "ops").exit_code == 0
        command = subprocess.Popen(
            [KPS, "bind", "web-1", "--keypair", "ops", "--password-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], "KPS_HOME": str(settings.home)},
        )
        assert command.stdin is not None
        command.stdin.write("secret\n")
        command.stdin.close()
        command.stdin = None
        silent.settimeout(60)
        connection, _ = silent.accept()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(settings.socket)), base_url="http://kps/fleet/v1") as http:
            (task,) = http.get("/tasks").json()
        yield serving, command, task["id"]
        connection.close()
    command.kill()
    command.communicate()


def test_an_interrupted_command_says_that_its_task_goes_on(waiting: Any, settings: Settings) -> None:
    _, command, task_id = waiting
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 130
    assert task_id in errors
    assert "goes on" in errors
    assert json.loads(program(settings.home, "task", "show", task_id, "--json").stdout)["status"] == "running"


def test_a_command_whose_controller_was_killed_names_its_task(waiting: Any) -> None:
    serving, command, task_id = waiting
    serving.kill()
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 5
    assert f"{task_id} on web-1" in errors
    assert "kps task list" in errors
