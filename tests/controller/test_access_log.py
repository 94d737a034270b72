"""The access log: lines of JSON, and no request that waits for whoever reads them."""

import json
import os
import threading
from pathlib import Path

import pytest
import structlog

from controller import accesslog
from controller.accesslog import Lines
from controller.errors import Unavailable


def test_lines_come_in_order_and_all(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "log")
    for number in range(100):
        lines.info(str(number))
    lines.close()
    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(100)]


def test_a_log_that_was_moved_away_begins_anew(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "log")
    lines.info("one")
    lines.close()
    lines = Lines(tmp_path / "log")
    (tmp_path / "log").rename(tmp_path / "old")
    lines.reopen()
    lines.info("two")
    lines.close()
    assert ((tmp_path / "old").read_text(), (tmp_path / "log").read_text()) == ("one\n", "two\n")


def test_a_reader_that_stops_reading_holds_nobody_up_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accesslog, "LINES_WAITING", 10)
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    lines = Lines(tmp_path / "pipe")
    for number in range(1000):
        lines.info(f"{number} " + "x" * 1000)
    os.set_blocking(reading, True)
    found: list[str] = []

    def read() -> None:
        with os.fdopen(reading) as pipe:
            found.extend(pipe)

    reader = threading.Thread(target=read)
    reader.start()
    while lines._lines.qsize():
        pass
    lines.info("last")
    lines.close()
    os.close(lines._descriptor)
    reader.join()
    told = [json.loads(line) for line in found if line.startswith("{")]
    whole = [line for line in found if not line.startswith("{")]
    assert (whole[0].split()[0], whole[-1]) == ("0", "last\n")
    assert sum(each["lines"] for each in told) == 1001 - len(whole) > 0


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="KPS_ACCESS_LOG"):
        Lines(tmp_path / "none" / "log")


def test_what_went_wrong_is_logged_too_and_with_no_value_of_a_variable(tmp_path: Path) -> None:
    lines = accesslog.begin(tmp_path / "log")
    try:
        log = structlog.get_logger("kps.test")
        log.warning("policy", name="prod", code="store_full")
        log.error("rollout", id="r-1", exc_info=failure())
    finally:
        lines.close()
        structlog.reset_defaults()
    first, second = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (first["level"], first["event"], first["name"], first["code"]) == ("warning", "policy", "prod", "store_full")
    assert (second["level"], "ZeroDivisionError" in second["exception"], "in failure" in second["exception"]) == (
        "error",
        True,
        True,
    )
    assert HIDDEN not in second["exception"]


def test_where_nobody_is_served_it_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    accesslog.aside()
    try:
        structlog.get_logger("kps.test").error("rollout", id="r-1", exc_info=failure())
    finally:
        structlog.reset_defaults()
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "level=error event=rollout id=r-1" in said.err
    assert "ZeroDivisionError" in said.err
    assert HIDDEN not in said.err


HIDDEN = "".join(["hun", "ter2"])  # so that no line of this file has it


def failure() -> Exception:
    password = HIDDEN
    try:
        1 / (len(password) - 7)
    except ZeroDivisionError as error:
        return error
    raise AssertionError(password)
