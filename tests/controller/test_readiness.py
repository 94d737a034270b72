"""Health and readiness: what is lacking is named, with its reason for the home's owner alone; the supervisor is told."""

import asyncio
import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller import supervisor
from controller.app import Application, serve
from controller.errors import Unavailable
from controller.service import readiness
from controller.settings import Settings
from controller.store import Store


def looked(
    settings: Settings,
    spoil: Callable[[Application], None] = lambda served: None,
    at_home: bool = True,
    mend: Callable[[], None] = lambda: None,
) -> tuple[int, dict[str, Any]]:
    """What is answered once something has been spoilt, until which it is not mended."""

    async def story() -> tuple[int, dict[str, Any]]:
        served = Application(settings)
        async with served.lifespan():
            where = served.local if at_home else served.networked
            async with httpx.AsyncClient(transport=httpx.ASGITransport(where), base_url="http://kps") as http:
                assert (await http.get("/fleet/v1/health")).json() == {"status": "ok"}
                spoil(served)
                answer = await http.get("/fleet/v1/ready")
                mend()
                return answer.status_code, answer.json()

    return asyncio.run(story())


CHECKS = {"database": "ok", "root_key": "ok", "disk": "ok", "runner": "ok"}


def test_a_controller_that_lacks_nothing_is_ready(settings: Settings, made: Any) -> None:
    assert looked(settings) == (200, {"status": "ready", "checks": CHECKS, "warnings": []})
    assert looked(settings, at_home=False) == looked(settings)


def test_what_is_lacking_is_named_and_paths_are_for_the_owner(
    settings: Settings, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "LEAST_FREE_BYTES", 2**62)
    settings.root_key.rename(settings.home / "away")
    status, told = looked(settings)
    assert (status, told["code"]) == (503, "not_ready")
    assert told["evidence"]["checks"] == CHECKS | {"root_key": "root_key_missing", "disk": "disk_nearly_full"}
    assert str(settings.home) in told["evidence"]["why"]["disk"]
    _, told = looked(settings, at_home=False)
    assert str(settings.home) not in str(told)


def test_a_database_that_cannot_be_written_is_told(settings: Settings, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_ANSWER_SECONDS", 0.2)

    connection = sqlite3.connect(settings.database, isolation_level=None)
    status, told = looked(settings, lambda _: connection.executescript("BEGIN IMMEDIATE").close(), mend=connection.close)
    assert (status, told["evidence"]["checks"]["database"]) == (503, "no_answer")


def test_work_that_has_ended_by_itself_is_told(settings: Settings, made: Any) -> None:
    def end(served: Application) -> None:
        served.services.readiness._background[0].cancel()  # type: ignore[attr-defined]

    status, told = looked(settings, end)
    assert (status, told["evidence"]["checks"]["runner"]) == (503, "stopped")


def test_one_whose_tables_are_a_newer_versions_by_now_ends_by_itself(
    settings: Settings, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(_: Store) -> None:
        raise Unavailable("store_too_new", "a newer kps has changed its tables meanwhile")

    monkeypatch.setattr(Store, "can_write", newer)
    with pytest.raises(Unavailable) as refused:
        asyncio.run(serve(settings, lambda _: None))
    assert refused.value.code == "store_too_new"


def test_one_that_stops_takes_no_more(settings: Settings, made: Any) -> None:
    status, told = looked(settings, lambda served: served.stopping.begin())
    assert (status, told["code"], told["evidence"]["checks"]) == (503, "stopping", CHECKS)


@pytest.mark.parametrize("abstract", [False, True])
def test_the_supervisor_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0kps-test-{os.getpid()}" if abstract else str(tmp_path / "notify"))
        listener.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@kps-test-{os.getpid()}" if abstract else str(tmp_path / "notify"))
        supervisor.notify("READY=1", "STATUS=ready")
        assert listener.recv(1000) == b"READY=1\nSTATUS=ready"
    supervisor.notify("READY=1")  # nobody is there any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    supervisor.notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"), [("", "", None), ("30000000", "", 15), ("x", "", None), ("30000000", "1", None), ("0", "", None)]
)
def test_signs_of_life_come_twice_as_often_as_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid or str(os.getpid()))
    assert supervisor.watchdog_seconds() == seconds
