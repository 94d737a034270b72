"""kps emergency: what was begun, and which passwords were made, is told though somebody interrupts; drills."""

import json
import os
import re
import signal
from datetime import timedelta
from typing import Any

import pytest

import controller.app
from controller.api import doorshapes
from controller.dispatch import InProcess
from controller.model import Credential, Task, now
from controller.run import Runner
from controller.service.emergency import Emergency
from controller.settings import Settings
from tests.controller.faces import SUCCEEDED, Kps, with_two_servers

OPEN = ("emergency", "open", "web-1", "--for", "5m", "--reason", "x")
SHOWN = re.compile(r"web-1: one-time password of root, shown only now: (\S+)\n")


def interrupt() -> None:
    """Press Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def given() -> list[tuple[str, str, Credential | None]]:
    """The operation, the server and what was given of each task that was begun."""
    return []


@pytest.fixture
def interrupted_by() -> set[str]:
    """The operations whose beginning is when somebody interrupts."""
    return set()


@pytest.fixture
def kps(settings: Settings, made: Any, given: list[Any], interrupted_by: set[str], monkeypatch: pytest.MonkeyPatch) -> Kps:
    """Run kps in this process, on a home whose servers do all as asked."""

    def dispatching(settings: Settings, runner: Runner, owner: str) -> InProcess:
        store = runner.means.store

        async def run(task: Task, credential: Credential | None) -> None:
            given.append((task.operation, task.server_name, credential))
            if task.operation in interrupted_by:
                interrupt()
            await runner.means.off(store.finish, task.id, owner, task.generation, SUCCEEDED)

        return InProcess(runner, run, owner, settings.concurrency)

    monkeypatch.setattr(controller.app, "dispatching", dispatching)

    return with_two_servers(settings.home)


@pytest.mark.parametrize("operation", ["password-set", "door-open"])
def test_who_interrupts_is_shown_the_password_that_was_made(kps: Kps, interrupted_by: set[str], operation: str) -> None:
    interrupted_by.add(operation)
    result = kps(*OPEN, "--set-password", code=130)
    assert result.stdout == ""
    assert len(SHOWN.findall(result.stderr)) == 1


def test_who_interrupts_before_the_controller_has_answered_is_shown_it_too(kps: Kps, monkeypatch: pytest.MonkeyPatch) -> None:
    opens = Emergency.open_by_password

    async def slow(*given: Any, **named: Any) -> Any:
        interrupt()
        return await opens(*given, **named)

    monkeypatch.setattr(Emergency, "open_by_password", slow)
    result = kps(*OPEN, "--set-password", code=130)
    assert len(SHOWN.findall(result.stderr)) == 1


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_password_is_shown_once_where_nobody_interrupts(kps: Kps, given: list[Any], words: tuple[str, ...]) -> None:
    result = kps(*OPEN, "--set-password", *words)
    (password,) = [each.password.open().decode() for operation, _, each in given if operation == "door-open"]
    assert result.output.count(password) == 1
    assert password in result.stdout
    if words:
        assert [each["password"] for each in json.loads(result.stdout)["passwords"]] == [password]


def test_a_door_whose_time_is_over_is_not_told_as_open_though_nobody_has_asked_its_server(
    kps: Kps, monkeypatch: pytest.MonkeyPatch
) -> None:
    kps(*OPEN)
    assert "closing, not confirmed" not in kps("emergency", "list").stdout
    monkeypatch.setattr(doorshapes, "now", lambda: now() + timedelta(minutes=6))
    assert "closing, not confirmed" in kps("emergency", "list").stdout


def test_a_drill_closes_with_what_it_opened_with(kps: Kps, given: list[Any]) -> None:
    words = ("emergency", "drill", "--select", "web-1", "--select", "web-2", "--password-stdin", "--json")
    told = json.loads(kps(*words, stdin="web-1\tone\nweb-2\ttwo\n").stdout)
    assert [each["state"] for each in told["servers"]] == ["closed", "closed"]
    came = {(operation, server): each.password.open().decode() for operation, server, each in given}
    assert came == {
        (operation, server): password
        for operation in ("door-open", "door-close")
        for server, password in (("web-1", "one"), ("web-2", "two"))
    }


def test_whoever_closes_what_has_closed_is_told_that_it_has(kps: Kps) -> None:
    kps(*OPEN)
    kps("emergency", "close", "web-1")
    for words in (("close", "web-1"), ("extend", "web-1", "--for", "5m", "--reason", "x")):
        said = " ".join(kps("emergency", *words, code=3).stderr.split())
        assert "the last door, for root, is closed since 20" in said
        assert "kps emergency show web-1" in said
    assert "nosuch: no door of this id" in kps("emergency", "close", "nosuch", code=3).stderr


def test_what_has_closed_keeps_nobody_from_closing_the_others(kps: Kps) -> None:
    kps(*OPEN)
    kps("emergency", "close", "web-1")
    kps("emergency", "open", "web-2", "--for", "5m", "--reason", "x")
    assert "web-1: the last door, for root, is closed" in " ".join(kps("emergency", "close", "web-1", "web-2").stderr.split())
    assert "no door is open" in kps("emergency", "list").output


def test_a_drill_leaves_the_door_that_a_server_has_and_says_so(kps: Kps) -> None:
    kps(*OPEN)
    told = json.loads(kps("emergency", "drill", "--select", "web-1", "--select", "web-2", "--json", code=1).stdout)
    assert [
        (each["server"], each["state"], each["why_not"]) for each in sorted(told["servers"], key=lambda row: row["server"])
    ] == [
        ("web-1", "open", "it has a door of somebody's already"),
        ("web-2", "closed", ""),
    ]
