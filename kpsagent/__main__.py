"""The far end of the rope: one plan in, one result out, on stdin and stdout.

Frames are lines: the marker that the plan brings, a space, JSON. Whatever else a login's start-up files print is not ours and
is passed over by the reader.

Verbs: `run CONNECTION`, `rest ROOT` (on a mounted disk), `watch DIRECTORY` (undo at the deadline), `boot DIRECTORY` (undo now);
those of doors: kpsagent/doorwatch.py.
"""

import errno
import os
import select
import signal
import sys
import time

from . import plan as plans
from . import wire
from .errors import Lost, Refused, Stop, from_os_error  # noqa: F401 - in a comment
from .local import LocalHost, boot_clock, standing
from .transaction import drive, operation
from .undo import disarmed, unattended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List

STATE = "/var/lib/kps"
_LONGEST_LINE = 16 << 20


class Rope:
    """Reads answers from a descriptor and writes frames to another; end of file or a passed deadline is Lost."""

    def __init__(self, into: int, out: int) -> None:
        self.into, self.out = into, out
        self.marker = ""
        self._rest = b""

    def line(self, deadline: "Any" = None) -> bytes:
        """Return the next line; Lost at end of file, or at the deadline (seconds since boot)."""
        while b"\n" not in self._rest:
            left = None if deadline is None else deadline - boot_clock()[0]
            if left is not None and left <= 0:
                raise Lost("deadline_passed", "no proof came before the deadline")
            # A second at most at a time: the clock that select() waits by stands still while the machine sleeps.
            if select.select([self.into], [], [], 1.0 if left is None else min(left, 1.0))[0]:
                self._take()
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _take(self) -> None:
        some = os.read(self.into, 65536)
        if not some or len(self._rest) > _LONGEST_LINE:
            raise Lost("connection_lost", "the controller is gone")
        self._rest += some

    def send(self, frame: "Dict[str, Any]") -> None:
        content = "{} {}\n".format(self.marker, wire.encode(wire.readable(frame))).encode("ascii")
        try:
            while content:
                content = content[os.write(self.out, content) :]
        except OSError:
            return  # nobody hears; reading will tell that they are gone

    def ask(self, phase: str, questions: "List[Any]", path: str, deadline: float) -> "Any":
        left = deadline - boot_clock()[0]
        self.send({"say": "ask", "phase": phase, "questions": questions, "path": path, "seconds": left})
        answer = wire.decode(self.line(deadline).decode("utf-8"))
        return answer["answers"]

    def listening(self, deadline: float) -> None:
        """Lost where the other end has closed, or the deadline has passed; returns at once otherwise."""
        if boot_clock()[0] >= deadline:
            raise Lost("deadline_passed", "the deadline passed")
        while select.select([self.into], [], [], 0)[0]:
            self._take()

    def say(self, phase: str, detail: "Dict[str, Any]") -> None:
        self.send({"say": "phase", "phase": phase, "detail": detail})


def run(rope: Rope, bundle: bytes, connection: str, root: str = "") -> None:
    """Carry out the one plan that comes over the rope and send its result. With root, on the disk that is mounted there."""
    order = wire.decode(rope.line().decode("utf-8"))
    rope.marker = order["marker"]
    plan = plans.parse(dict(order["plan"], connection=connection.split() or None))
    if root and not _confined(rope, root):
        return
    host = LocalHost(state_directory(), rope, bundle, bool(root))
    rope.send({"say": "hello", "boot": boot_clock()[1], "python": sys.version.split()[0], "root": os.geteuid() == 0})
    try:
        result = drive(operation(plan), host)
    finally:
        host.close()
    rope.send(dict(result, say="result"))


def _confined(rope: Rope, root: str) -> bool:
    from . import reset  # shipped for this only

    boot_clock()  # /proc is on this side
    stop = Refused("disk_gone", "{}: no system's disk is mounted there (no etc/passwd)".format(root), path=root)  # type: Stop
    try:
        if reset.confine(root):
            return True
    except OSError as error:
        stop = from_os_error(error, root)
        if error.errno == errno.EPERM:
            said = "{}: this process may not make that its root directory; run it as root that has CAP_SYS_CHROOT".format(root)
            stop = Refused("sudo_refused", said, path=root, errno=errno.EPERM)
    rope.send(
        {
            "say": "result",
            "status": "failed",
            "server_state": "as_before",
            "phase": "look",
            "cause": stop.cause,
            "message": stop.message,
            "evidence": stop.evidence,
        }
    )
    return False


def state_directory() -> str:
    """Return where our state is kept: root's own place, or for an agent without root the login's."""
    if os.geteuid() == 0:
        return STATE
    import pwd

    return os.path.join(pwd.getpwuid(os.geteuid()).pw_dir, ".kps")


def watch(directory: str) -> None:
    """Wait until the change is confirmed or undone; what is neither at the deadline, is undone here, or a revoke finished.

    Whoever has begun to undo may die of it: only a journal that is gone, or confirmed, ends the watch.
    """
    ours = _undecided(directory)
    while ours is not None:
        left = ours["deadline"] - boot_clock()[0]
        if left <= 0:
            undo_now(directory, ours)
            return
        time.sleep(min(left + 0.01, 1.0))
        if _undecided(directory) != ours:
            _tidy(directory, ours)
            return


def _tidy(directory: str, ours: "Any") -> None:
    """Where the agent has died between its commit and its end, take away what it left; while it lives it does so itself."""
    for _ in range(60):
        time.sleep(1)
        there = standing(directory)
        if there is None and os.path.exists(os.path.join(directory, "agent")):
            left = _tried(directory, None, disarmed())
        elif there == ours and standing(directory, ("confirmed",)) == ours:
            left = _tried(directory, ours, unattended(True))
        else:
            return
        if not left:
            return


def _undecided(directory: str) -> "Any":
    return standing(directory, ("armed", "revoking", "reverting"))


def undo_now(directory: str, ours: "Any", booting: bool = False) -> None:
    """Call recover() until it is through; a server without this undo may have no way in. A boot waits for the first try only.

    ours: the journal that stood there, or None. What the next operation does is not ours to undo.
    """
    cause = ""
    for attempt in range(60):
        # Once only the lock was missing, nothing is done without.
        cause = _tried(directory, ours, unattended(ours is None or cause == "busy"))
        if not cause or standing(directory) != ours or (attempt == 0 and booting and os.fork()):
            return
        time.sleep(10)


def _tried(directory: str, ours: "Any", play: "Any") -> str:
    """Return "" once play is through, else what it failed for."""
    host = LocalHost(directory, only=ours)
    try:
        drive(play, host)
        return ""
    except Exception as error:
        print("kps: undo: {}".format(error), file=sys.stderr)  # to the system's log, where there is one
        return getattr(error, "cause", "unexpected")
    finally:
        host.close()


def main(arguments: "List[str]", bundle: bytes = b"") -> None:
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    verb = arguments[0] if arguments else "run"
    if verb == "run":
        # logind ends what a session leaves (logind.conf(5), KillUserProcesses): first with this, then after a minute and a half
        # for good. In between all can be undone. That the session is over the rope tells.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if verb == "watch":
        watch(arguments[1])
    elif verb.startswith("door-"):
        from . import doorwatch  # shipped with doors only

        doorwatch.main(verb, arguments[1:])
    elif verb == "boot":
        undo_now(arguments[1], standing(arguments[1]), booting=True)
    else:
        at_rest = verb == "rest"
        run(Rope(0, 1), bundle, "" if at_rest else arguments[1], arguments[1] if at_rest else "")
