"""The log: a line of JSON for each request and for what went wrong, by a thread: nothing waits for a disk or a reader."""

import contextlib
import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from controller.errors import Unavailable

LINES_WAITING = 10_000  # what comes while so many wait is counted, and told once there is room
_GOODBYE_SECONDS = 2.0


class Lines:
    """Lines for a file, or for stderr."""

    def __init__(self, path: Path | None) -> None:
        """Unavailable(log_unusable): the file cannot be opened, or made, for writing."""
        self._path = path
        self._lines: queue.Queue[str | None] = queue.Queue(LINES_WAITING)
        self._dropped = 0
        self._again = threading.Event()
        self._descriptor = self._open()
        # Nobody waits for it at the end: who reads stderr may have stopped reading.
        self._thread = threading.Thread(target=self._write_all, name="access log", daemon=True)
        self._thread.start()

    def info(self, line: str) -> None:
        """Have a line written; never waits."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    warning = error = info  # the line says which

    def reopen(self) -> None:
        """Write to the file of this name from now on, after somebody has moved it away."""
        self._again.set()

    def close(self) -> None:
        """Write what waits, if that goes quickly."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)
        self._thread.join(_GOODBYE_SECONDS)

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            if self._again.is_set():
                self._again.clear()
                self._reopened()
            dropped, self._dropped = self._dropped, 0
            if dropped:
                self._write(json.dumps({"event": "lines_dropped", "lines": dropped}))
            self._write(line)

    def _write(self, line: str) -> None:
        # A full disk, or a pipe that nobody reads any more, ends no controller.
        with contextlib.suppress(OSError):
            os.write(self._descriptor, f"{line}\n".encode())

    def _open(self) -> int:
        if self._path is None:
            return sys.stderr.fileno()
        try:
            return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable("log_unusable", f"{self._path}: {error.strerror}; see KPS_ACCESS_LOG") from error

    def _reopened(self) -> None:
        if self._path is None:
            return
        with contextlib.suppress(Unavailable):  # what was open goes on being written to
            before, self._descriptor = self._descriptor, self._open()
            os.close(before)


def begin(path: Path | None) -> Lines:
    """Have the access log written from now on, and return it. Unavailable(log_unusable)."""
    lines = Lines(path)
    _configure(structlog.processors.JSONRenderer(), lambda *names: lines)
    return lines


def aside() -> None:
    """Have what is logged where nobody is served go to stderr, for people: stdout has what the command answers."""
    _configure(
        structlog.processors.LogfmtRenderer(key_order=["at", "level", "event"]), lambda *names: structlog.PrintLogger(sys.stderr)
    )


class _OfLibraries(logging.Handler):
    """Passes on to stderr what libraries tell, but not each connection that is lost: that the database is away is told once."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if not record.name.startswith("psycopg") and not _is_lost_connection(error) and logging.lastResort is not None:
            logging.lastResort.handle(record)


def _is_lost_connection(error: BaseException | None) -> bool:
    while error is not None:
        # psycopg need not be installed.
        if any(
            (each.__module__.partition(".")[0], each.__name__) == ("psycopg", "OperationalError") for each in type(error).__mro__
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


_of_libraries = _OfLibraries(logging.WARNING)
_LIBRARIES = ("psycopg", "sqlalchemy.pool", "procrastinate")


def _configure(rendered: structlog.typing.Processor, to: Callable[..., Any]) -> None:
    for name in _LIBRARIES:
        logging.getLogger(name).addHandler(_of_libraries)  # once, however often
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.add_log_level,
            # Where it went wrong, and not with what: structlog's own way shows the values of variables.
            structlog.processors.format_exc_info,
            rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=to,
        cache_logger_on_first_use=False,
    )
