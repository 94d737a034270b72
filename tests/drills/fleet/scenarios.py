"""One suite of scenarios for every flavour: each operation as it succeeds, is refused, and fails half-way and is undone.

What happened is judged from outside, by logins of OpenSSH's own client and by the files; never by what the product says alone.
A flavour that cannot have an operation must refuse it, for the cause that its expectation file names, and be left as it was.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controller.demo.fleet import ServerFailed
from tests.drills.fleet.boxes import Box, Boxes
from tests.drills.fleet.flavours import Flavour
from tests.drills.fleet.line import Line
from tests.fleet import judge
from tests.fleet.causes import is_agent
from tests.fleet.looks import Picture, disk_picture, left, until
from tests.fleet.product import Json, Product

DEADLINE = 25  # of the agent, in these scenarios
GRACE = 5
SECONDS = 90  # for what takes a few on a machine that does nothing else
BLOCK = "# kps: begin"

BIND, REPLACE, UNBIND, RESET = "bind", "replace", "unbind", "reset"
ENABLE, DISABLE = "password-login-enable", "password-login-disable"
OPERATIONS = (BIND, REPLACE, UNBIND, RESET, DISABLE, ENABLE)
SUCCEEDS, REFUSED, FAILS, KILLED, SILENT, REBOOTED = "succeeds", "refused", "fails", "killed", "silent", "rebooted"
OUTCOMES = (SUCCEEDS, REFUSED, FAILS, KILLED, SILENT, REBOOTED)

# Where an operation could write by mistake, and where nobody else writes meanwhile.
_LOOKED_AT = ("etc", "home", "opt", "root", "srv", "usr/etc", "usr/local", "var/lib/kps", "var/spool/cron")
_STATE = ("/var/lib/kps", "/home/{login}/.kps")


@dataclass(frozen=True)
class Row:
    """How one scenario went on one flavour. found: "" where all was as it must be, else what was not."""

    flavour: str
    operation: str
    outcome: str
    seconds: float
    found: str = ""


@dataclass
class Story:
    """One server on its way through all scenarios, and what it should let in at this point."""

    boxes: Boxes
    box: Box
    product: Product
    line: Line
    told: Callable[[Row], None]
    rows: list[Row] = field(default_factory=list)
    bound: Json | None = None
    gone: list[Json] = field(default_factory=list)
    closed: bool = False

    # -- what the server is

    @property
    def flavour(self) -> Flavour:
        return self.box.flavour

    @property
    def login(self) -> str:
        return self.flavour.login

    @property
    def password(self) -> str:
        return self.box.passwords[self.login]

    @property
    def root(self) -> Path:
        """The server's files, as this machine sees them."""
        return Path(f"/proc/{self.box.pid}/root")

    def text(self, path: str) -> str:
        try:
            return (self.root / path.lstrip("/")).read_bytes().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""

    def holds(self, pair: Json) -> bool:
        """Whether the login's key file has the line of a key pair."""
        return pair["public_key"].split()[1] in self.text(self.flavour.keys)

    def has_block(self) -> bool:
        return BLOCK in self.text(self.flavour.config)

    def picture(self) -> Picture:
        return disk_picture(self.root, _LOOKED_AT)

    def is_ours(self, path: str) -> bool:
        return path.startswith(tuple(each.format(login=self.login) for each in _STATE))

    # -- judging from outside

    def judged(self) -> None:
        """Fail unless the server lets in exactly what it should now."""
        for login, password in self.box.passwords.items():
            methods = [way for way in ("password", "keyboard-interactive") if way in judge.offered_methods(self.box, login)]
            assert bool(methods) != self.closed, (
                f"{login} is offered {methods}, and passwords are {'off' if self.closed else 'on'}"
            )
            for method in methods:
                assert judge.password_login_works(self.box, login, password, method), f"{login} no longer gets in by {method}"
        if self.bound is not None:
            assert judge.key_login_works(self.box, self.login, self.product.private(self.bound)), "the key bound is refused"
        for pair in self.gone[-2:]:
            assert not judge.key_login_works(self.box, self.login, self.product.private(pair)), (
                "a key that was removed or undone gets in"
            )
        self.await_nobody()

    def await_nobody(self) -> None:
        """Return when no process of ours is left in the server. A watcher may take a second to see that it is over."""
        until(lambda: not self.agents(), GRACE, "an agent lives on")

    def agents(self) -> list[int]:
        """Our processes in the server, whichever of our agents they are of: in Python, or in shell."""
        return [pid for pid, title in self.box.processes().items() if is_agent(title)]

    @contextlib.contextmanager
    def as_before(self) -> Iterator[None]:
        """What happens in the block leaves files and ways in as they were."""
        before = self.picture()
        yield
        self.await_nobody()
        found = {path for path in left(before, self.picture()) if not self.is_ours(path)}
        assert not found, f"changed: {sorted(found)}"
        self.judged()

    def run(self, operation: str, outcome: str, scenario: Callable[[], None]) -> None:
        """Play one scenario and note how it went; after a failure the server is looked at afresh."""
        begun = time.monotonic()
        found = ""
        try:
            scenario()
        except (AssertionError, ServerFailed, judge.Puzzled, subprocess.SubprocessError, OSError, RuntimeError) as error:
            found = f"{type(error).__name__}: {error}"[:600].replace("\n", " ")
        finally:
            self.line.mend()
        row = Row(self.flavour.name, operation, outcome, time.monotonic() - begun, found)
        self.rows.append(row)
        self.told(row)
        if found:
            raise Broken

    # -- asking

    def order(self, operation: str, **more: Any) -> dict[str, Any]:
        order: dict[str, Any] = {"login": self.login, **more}
        if operation in (BIND, DISABLE):
            order["accept_lockout"] = self.flavour.others
        if operation in (BIND, UNBIND, ENABLE) and not self.closed:
            order["password"] = self.password
        return order

    def succeeds(self, operation: str, **more: Any) -> Json:
        task: Json = self.product.run(operation, self.line.place, **self.order(operation, **more))
        assert (task["status"], task["server_state"]) == ("succeeded", "as_asked"), _short(task)
        return task

    def refused(self, cause: str, operation: str, **more: Any) -> None:
        """The operation is refused for this cause, and nothing is touched."""
        with self.as_before():
            task = self.product.run(operation, self.line.place, **{**self.order(operation), **more})
            assert (task["status"], task["cause"], task["server_state"]) == ("failed", cause, "as_before"), _short(task)

    def fails(self, operation: str, when: Callable[[], bool], **more: Any) -> None:
        """Once the change stands, no proof can be had: all is undone."""
        with self.as_before():
            self.line.spoil(when)
            task = self.product.run(operation, self.line.place, **self.order(operation, **more))
            assert self.line.came, f"nobody came to prove anything: {_short(task)}"
            self.line.mend()
            assert (task["status"], task["server_state"]) == ("failed", "reverted"), _short(task)

    def lost(self, operation: str, when: Callable[[], bool], lose: Callable[[], None], **more: Any) -> None:
        """Once the change stands and waits for its proof, the controller is lost: the server goes back within the deadline.

        lose() says how. The controller that comes back has it on record.
        """
        with self.as_before():
            self.line.hold(when)
            (task_id,) = self.product.begin(operation, self.line.place, **self.order(operation, **more))
            until(lambda: self.line.came or self.product.task(task_id)["cause"], SECONDS, "nobody came to prove anything")
            assert self.line.came, f"nobody came to prove anything: {_short(self.product.task(task_id))}"
            begun = time.monotonic()
            lose()
            until(lambda: self.box.running and not when(), DEADLINE + GRACE, "the server has not undone the change")
            until(self.box.await_greeting, DEADLINE + GRACE - (time.monotonic() - begun), "sshd does not greet")
            self.await_nobody()
            self.line.mend()
            self.back(task_id)
            task = self.product.ended(task_id)
            assert (task["status"], task["server_state"]) == ("failed", "reverted"), _short(task)

    def back(self, task_id: str) -> None:
        """Have a controller again, and have it ask the server how the task ended, as `kps server check` does."""
        process = self.product.process
        assert process is not None
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
        else:
            self.product.end()
            self.product.serve()
        task = self.product.ended(task_id)
        if task["server_state"] == "unknown":
            order = {"login": self.login} if self.closed else {"login": self.login, "password": self.password}
            check = self.product.run("check", self.line.place, **order)
            for _ in range(3):
                if check["cause"] != "connection_closed":
                    break
                # Debian 11's ssh@.service takes /run/sshd away from all sshds when one of them ends: a log-in then may fail.
                check = self.product.retry(check, **{word: order[word] for word in order if word == "password"})
            assert check["status"] == "unchanged", _short(check)

    # -- losing

    def kill_controller(self) -> None:
        assert self.product.process is not None
        self.product.process.kill()
        self.product.process.wait()

    def freeze_and_kill(self) -> None:
        """The controller neither speaks nor closes; agent and sessions die, and where systemd watches too, the other watcher."""
        assert self.product.process is not None
        self.product.process.send_signal(signal.SIGSTOP)
        found, agents, units = self.box.processes(), self.agents(), _in_unit("kps-undo.service")
        # What waits for nobody has no input.
        watchers = [pid for pid in agents if os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"]
        doomed = [pid for pid in agents if pid not in watchers]
        doomed += [pid for pid, title in found.items() if title.startswith(("sshd: ", "sshd-session: ")) and "@" in title]
        assert watchers, f"nobody watches: {found}"
        if self.flavour.systemd:
            assert units & set(watchers), f"systemd runs no watcher: {found}"
            doomed += [pid for pid in watchers if pid not in units]
        assert doomed, found
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def reboot(self) -> None:
        self.box.reboot()


class Broken(Exception):
    """a scenario was not as it must be; what follows on the same server would tell nothing"""


def _short(task: Json) -> str:
    words = ("status", "server_state", "cause", "message", "phase")
    return ", ".join(f"{word} {task.get(word)!r}" for word in words) + f", evidence {str(task.get('evidence'))[:300]}"


def _in_unit(unit: str) -> set[int]:
    """The processes of this machine that belong to a systemd unit of this name, in whichever server."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if f"/{unit}" in Path("/proc", name, "cgroup").read_text():
                    found.add(int(name))
    return found
