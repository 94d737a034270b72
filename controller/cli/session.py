"""One command being run: which home, for whom it prints, and how it reaches the controller."""

import contextlib
import os
import socket
import traceback
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.cli import exits, output
from controller.errors import Problem

if TYPE_CHECKING:
    from controller.client import Client
    from controller.settings import Settings

SOCKET_PATH_BYTES = 107  # unix(7): sun_path, without its final NUL


def home_of(given: Path | None) -> Path:
    """Return the home: what was given, else KPS_HOME, else the place in the user's own directory."""
    named = given or os.environ.get("KPS_HOME")
    return Path(named).expanduser() if named else Path.home() / ".local/share/kps"


def somebody_listens(path: Path) -> bool:
    """Say whether a controller takes connections on the Unix socket at path."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except PermissionError as error:
            raise exits.Declined(
                exits.UNAVAILABLE, "home_not_yours", f"{path}: the controller's socket is not yours to use"
            ) from error
    return True


class Session:
    """What every command is given first."""

    def __init__(self, home: Path, *, json: bool) -> None:
        self.home = home
        self.json = json

    def settings(self) -> "Settings":
        """Return the settings with this home."""
        from controller.settings import Settings

        return Settings(home=Path(os.path.abspath(self.home)))

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        """Reach the controller: the one that serves this home, else the same application in this process."""
        from controller.client import Client

        settings = self.settings()
        if somebody_listens(settings.socket):
            async with Client.over_socket(settings.socket) as client:
                yield client
            return
        from controller.app import in_process

        async with in_process(settings) as application, Client.in_process(application) as client:
            yield client

    def run(self, command: Coroutine[Any, Any, int | None]) -> int:
        """Run a command to its end and return the exit code; why it was refused is told, never traced."""
        import asyncio

        from controller.client import Refused, Unreachable

        try:
            return asyncio.run(command) or exits.ALL_AS_ASKED
        except exits.Declined as declined:
            return self.complain(declined.exit_code, declined.code, declined.message)
        except Refused as refused:
            return self.complain(exits.of_status(refused.status), refused.code, refused.message)
        except Unreachable as unreachable:
            return self.complain(exits.UNAVAILABLE, "controller_unreachable", str(unreachable))
        except Problem as problem:
            return self.complain(exits.of_status(problem.status), problem.code, problem.message)
        except Exception as fault:  # 1, Python's own code for this, would say that a server did not end as asked
            if not self.json:
                traceback.print_exception(fault)
            return self.complain(exits.FAULT, "unexpected", f"a fault of kps itself: {type(fault).__name__}: {fault}")
        except KeyboardInterrupt:
            return self.complain(exits.INTERRUPTED, "interrupted", "interrupted; `kps task list` shows what was done")

    def complain(self, exit_code: int, code: str, message: str) -> int:
        """Say on stderr why this ends, and return exit_code."""
        complain(code, message, json=self.json)
        return exit_code


def complain(code: str, message: str, *, json: bool) -> None:
    """Say on stderr why nothing came of it."""
    if json:
        output.error_as_json(code, message)
    else:
        output.say(f"kps: {message}", errors=True)
