"""The agent of a server without Python: kpsagent's transaction, played here, whose effects a host there does.

To the rest of the controller it is a rope: it says what an agent says, and takes answers.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any, Protocol

import asyncssh

from controller.model import Secret
from controller.transport import rope
from controller.transport.far import Far, Gone, loader, payload
from controller.transport.frames import Frame, Hello, parse
from controller.transport.sftp_host import SftpHost
from controller.transport.shell_host import ShellHost
from kpsagent import host, wire
from kpsagent import plan as plans
from kpsagent.errors import Lost, Refused
from kpsagent.transaction import operation

_SLOWEST_SECONDS = 30.0
_SLOW_PARTS = 5  # outside of its deadline; each effect goes to the server and back
_MOST_EFFECTS = 20_000

# Run by /bin/sh. $1 marker, $2 how to become root, $3 the loader.
_SCRIPT = """
PATH=/usr/sbin:/usr/bin:/sbin:/bin; marker=$1; how=$2;
set -- /bin/sh -c "$3" kps run "$SSH_CONNECTION";
case $how in
    none) exec "$@" ;;
    ask) if sudo -n true </dev/null 2>/dev/null; then exec sudo -n -- "$@"; fi; echo "$marker sudo_asks" ;;
    password) exec sudo -k -S -p "$marker" -- "$@" ;;
esac
"""


class Host(Protocol):
    """What does effects far away."""

    async def do(self, effect: Any) -> Any: ...

    async def close(self) -> None: ...


class Played:
    """A transaction that has its plan and a host."""

    def __init__(self, far: Host, plan: dict[str, Any], *, root: bool) -> None:
        """plan: as parse() takes it, with the connection as the server sees it."""
        self._host = far
        self._plan = plan
        self._root = root
        self._answers: list[dict[str, Any]] | None = None
        self._whole_seconds = plan.get("deadline_seconds", 60) + _SLOW_PARTS * _SLOWEST_SECONDS
        self._until = asyncio.get_running_loop().time() + self._whole_seconds

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield what an agent would say, until its result; Failed connection_lost where the server can be reached no more."""
        plan = plans.parse(self._plan)
        _, boot = await self._host.do(host.Clock())
        yield Hello(say="hello", boot=boot[:256], root=self._root)
        play = operation(plan)
        answer: Any = None
        error: Exception | None = None
        try:
            for _ in range(_MOST_EFFECTS):
                try:
                    # What a server says is looked at on a thread of its own: it may be made to take long.
                    effect = await asyncio.to_thread(_next, play, answer, error)
                except _Ended as ended:
                    result = dict(ended.result, say="result")
                    break
                answer, error = None, None
                if isinstance(effect, host.Say):
                    yield parse(_line({"say": "phase", "phase": effect.phase, "detail": effect.detail}))
                elif isinstance(effect, host.Ask):
                    try:
                        left = await self._left(effect)
                        yield parse(
                            _line({"say": "ask", "phase": effect.phase, "questions": effect.questions, "path": effect.path})
                        )
                        answer, self._answers = self._answers, None
                        if asyncio.get_running_loop().time() > left:
                            raise Lost("deadline_passed", "no proof came before the deadline")
                    except Lost as lost:
                        error = lost
                else:
                    answer, error = await self._done(effect)
            else:
                raise Gone("session_disturbed", "the server makes us look at more than is sane")
        except Gone:
            # The program there hears the end of its input, and undoes by itself.
            play.close()
            raise
        with contextlib.suppress(Gone):
            await self._host.close()
        yield parse(_line(result))

    async def _done(self, effect: Any) -> tuple[Any, Exception | None]:
        """Return the answer to an effect, or the error that it ended with."""
        try:
            async with self.in_time():
                return await self._host.do(effect), None
        except Gone:
            raise
        except Exception as raised:  # whatever it is, the answer is to undo
            return None, raised

    async def _left(self, ask: host.Ask) -> float:
        """Return until when an answer is in time, in the seconds of our own clock."""
        up, _ = await self._host.do(host.Clock())
        if up >= ask.deadline:
            raise Lost("deadline_passed", "no proof came before the deadline")
        return asyncio.get_running_loop().time() + float(ask.deadline - up)

    @contextlib.asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Gone where the block is not through by the time at which every transaction is."""
        try:
            async with asyncio.timeout_at(self._until) as whole:
                yield
        except TimeoutError:
            if not whole.expired():
                raise
            raise Gone("connection_lost", f"it was not through within {self._whole_seconds:.0f} s") from None

    async def answer(self, answers: list[dict[str, Any]]) -> None:
        """Give the proofs that were asked for."""
        self._answers = answers


class _Ended(Exception):
    """the transaction has returned"""

    def __init__(self, result: dict[str, Any]) -> None:
        super().__init__()
        self.result = result


def _next(play: Any, answer: Any, error: Exception | None) -> Any:
    try:
        return play.throw(error) if error is not None else play.send(answer)
    except StopIteration as done:
        raise _Ended(done.value) from None


def _line(frame: dict[str, Any]) -> bytes:
    return json.dumps(_lists(wire.readable(frame))).encode("utf-8")


def _lists(value: Any) -> Any:
    if isinstance(value, (set, frozenset, tuple, list)):
        return [_lists(each) for each in value]
    if isinstance(value, dict):
        return {name: _lists(each) for name, each in value.items()}
    return value


def command_line(marker: str, become_root: str) -> str:
    """Return what the login's own shell is given to run: one line, without backslash and exclamation mark."""
    script = " ".join(_SCRIPT.split())
    return f"exec /bin/sh -c '{script}' kps {marker} {become_root} '{loader()}'"


async def attach(
    connection: asyncssh.SSHClientConnection, plan: dict[str, Any], become_root: str, password: Secret | None = None
) -> Played:
    """Start the shell program over this connection and return the transaction that it does the effects of.

    become_root and what is raised: as rope.attach(). Refused no_python where the server has no tools for it.
    """
    if plan["operation"] == "password-set":
        raise Refused(
            "no_python", "there is no Python 3 on the server, and without it no password is set there; install python3-minimal"
        )
    marker, told = secrets.token_hex(16), secrets.token_hex(16)
    process = await rope.opened(connection, command_line(told, become_root))
    if password is not None:
        rope.give(process, password.open() + b"\n")
        await rope.let_in(process, told.encode("ascii"), password)
    rope.give(process, payload() + marker.encode("ascii") + b"\n")
    far = Far(process, marker)
    facts = await _facts(process, far, told)
    if facts.get("missing"):
        missing = facts["missing"].strip(",").replace(",", ", ")
        raise Refused(
            "no_python", f"there is no Python 3 on the server, and for a shell agent it lacks {missing}", missing=missing
        )
    connected = facts.get("connection", "").split(",")
    made = dict(plan, connection=connected if len(connected) == 4 else None)
    shell = ShellHost(far, facts, str(connection.get_extra_info("server_version") or ""))
    return Played(shell, made, root=shell.root)


async def attach_by_sftp(
    connection: asyncssh.SSHClientConnection,
    plan: dict[str, Any],
    become_root: str,
    password: Secret | None = None,
    *,
    because: str,
) -> Played:
    """Return the transaction for a login that may do nothing but SFTP, and because of what.

    Refused session_disturbed where it may not do that either.
    """
    try:
        client = await connection.start_sftp_client(path_errors="surrogateescape")
        home = str(await client.realpath("."))
    except (asyncssh.Error, OSError) as error:
        raise rope.disturbed(str(error)) from None
    return Played(SftpHost(client, plan["login"], home, because), dict(plan, connection=None), root=False)


async def _facts(process: asyncssh.SSHClientProcess[bytes], far: Far, told: str) -> dict[str, str]:
    heard: list[str] = []

    def passed_over(line: bytes) -> None:
        heard[:] = [("".join(heard) + line.decode("utf-8", "replace"))[-1000:]]
        if line.strip() == f"{told} sudo_asks".encode("ascii"):
            raise rope.SudoRefused("sudo_refused", "sudo asks for a password, or this login may not use it")

    try:
        return await far.hello(passed_over)
    except Gone as gone:
        if gone.cause == "connection_lost" and process.exit_status is not None:
            raise rope.disturbed("".join(heard)) from None
        raise
