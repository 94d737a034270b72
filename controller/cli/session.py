"""One command being run: which home, for whom it prints, and how it reaches the controller."""

import contextlib
import gc
import os
import socket
import traceback
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controller.cli import exits, output
from controller.cli.where import Network
from controller.errors import Problem

if TYPE_CHECKING:
    from controller.client import AsyncKpsClient
    from controller.settings import Settings

SOCKET_PATH_BYTES = 107  # unix(7): sun_path, without its final NUL


def home_of(given: str | None) -> Path:
    """Return the home: what was given, else KPS_HOME, else the place in the user's own directory.

    Declined: what was given is empty, as an unset variable makes it, or names the directory of an unknown user.
    """
    if given == "":
        raise exits.usage("--home is empty; give the home's directory")
    named = given or os.environ.get("KPS_HOME")
    try:
        return Path(named).expanduser() if named else Path.home() / ".local/share/kps"
    except RuntimeError as error:
        raise exits.usage(f"{named or '~'}: there is no such user's directory; give the home with --home DIR") from error


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


def begin_start() -> None:
    """Let nobody look for garbage while modules are loaded: there is none, and the search takes a fifth of the time."""
    gc.disable()


def through_with_start() -> None:
    """Collect garbage from now on, but do not look through what has been loaded."""
    gc.freeze()
    gc.enable()


class Session:
    """What every command is given first."""

    def __init__(self, home: Path, *, json: bool, network: Network | None = None) -> None:
        """network: the controller there that is meant; None: the home."""
        self.home = home
        self.json = json
        self.network = network
        self.where = str(home)  # whom the client reaches
        self.served = False  # by somebody who goes on when this command ends
        self.started: list[str] = []  # the ids of the tasks that this command waits for

    @property
    def said_by(self) -> str:
        """What says which controller is meant."""
        return "the home of this machine" if self.network is None else self.network.said_by

    def at_home(self, what: str) -> None:
        """Declined(home_only) where a controller on the network is meant: what cannot be done from afar."""
        if self.network is not None:
            raise exits.Declined(
                exits.USAGE,
                "home_only",
                f"{what} works on the machine of the controller, in its home; {self.network.said_by} says that commands go over "
                "the network: give --home DIR, or take that back",
            )

    def settings(self) -> "Settings":
        """Return the settings with this home. Declined(home_only): another controller is meant."""
        from controller.settings import Settings

        self.at_home("this command")
        return Settings.read(Path(os.path.abspath(self.home)))

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator["AsyncKpsClient"]:
        """Reach the controller: the one on the network, or that serves this home, else the same application in this process."""
        from controller.client import AsyncKpsClient

        if self.network is not None:
            remote = self.network.remote()
            self.where, self.served = remote.url, True
            through_with_start()
            async with AsyncKpsClient.over_network(remote) as client:
                yield client
            return
        settings = self.settings()
        if somebody_listens(settings.socket):
            self.served = True
            through_with_start()
            async with AsyncKpsClient.over_socket(settings.socket) as client:
                yield client
            return
        from controller.app import in_process

        through_with_start()
        async with in_process(settings) as application, AsyncKpsClient.in_process(application) as client:
            yield client

    def run(self, command: Coroutine[Any, Any, int | None]) -> int:
        """Run a command to its end and return the exit code; why it was refused is told, never traced."""
        import asyncio

        from controller.client import NotTrusted, Refused, Unreachable

        try:
            return asyncio.run(command) or exits.ALL_AS_ASKED
        except exits.Declined as declined:
            return self.complain(declined.exit_code, declined.code, declined.message)
        except Refused as refused:
            return self.complain(exits.of_status(refused.status), refused.code, refused.message)
        except exits.Unread:
            return exits.UNREAD
        except NotTrusted as stranger:
            return self.complain(exits.UNAVAILABLE, "certificate_not_trusted", str(stranger))
        except Unreachable as unreachable:
            return self.complain(exits.UNAVAILABLE, "controller_unreachable", str(unreachable))
        except Problem as problem:
            return self.complain(exits.of_status(problem.status), problem.code, problem.message)
        except Exception as fault:  # 1, Python's own code for this, would say that a server did not end as asked
            if not self.json:
                traceback.print_exception(fault)
            return self.complain(exits.FAULT, "unexpected", f"a fault of kps itself: {type(fault).__name__}: {fault}")
        except KeyboardInterrupt:
            return self.complain(exits.INTERRUPTED, "interrupted", self._interrupted())

    def _interrupted(self) -> str:
        """Say what an interruption has left."""
        if not self.started:
            return "interrupted"
        if not self.served:
            return "interrupted; `kps task list` shows what was done, and servers undo what was not confirmed"
        what, how = f"{len(self.started)} tasks go on", "`kps task list --running` follows them"
        if len(self.started) == 1:
            what, how = "the task goes on", f"`kps task show {self.started[0]}` follows it"
        who = "that serves this home" if self.network is None else f"at {self.where}"
        return f"interrupted; the controller {who} works on, and {what}: {how}"

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
