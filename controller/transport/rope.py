"""The rope: the first connection, with the agent at its end, held until the agent says how it ended."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any

import asyncssh

from controller.model import Secret
from controller.transport import ship
from controller.transport.frames import Ask, Frame, Result, parse
from kpsagent.errors import Failed, Refused

_MOST_NOISE = 1 << 20
_COST_OF_A_LINE = 200  # so that a million short lines are too much, too
_LONGEST_LINE = 1 << 18  # in packets of a byte or two it costs many times as much
_MOST_OF_SUDO = 1 << 16
_MOST_TOLD = 300
# An agent has a handful of things to say in all: kpsagent/transaction.py, _carry_out.
_MOST_FRAMES = 32
_MOST_ASKS = 4
_SLOWEST_SECONDS = 30.0  # for what an agent does between two things that it says
# Outside of its deadline: to undo what an earlier run left, to look, and to undo what it did itself.
_SLOW_PARTS = 3
_PYTHONS = "python3 /usr/bin/python3 /usr/local/bin/python3 /usr/libexec/platform-python"

# Run by /bin/sh, whatever the login's own shell is. $1 marker, $2 how to become root, $3 the bootstrap.
_SCRIPT = """
PATH=/usr/sbin:/usr/bin:/sbin:/bin; marker=$1; how=$2;
for each in {pythons}; do
    if command -v "$each" >/dev/null 2>&1; then python=$each; break; fi;
done;
if [ -z "$python" ]; then echo "$marker no_python"; exit 0; fi;
set -- "$python" -I -S -E -B -c "{starter}" "$3" run "$SSH_CONNECTION";
case $how in
    none) exec "$@" ;;
    ask) if sudo -n true 2>/dev/null; then exec sudo -n -- "$@"; fi; echo "$marker sudo_asks" ;;
    password) exec sudo -k -S -p "$marker" -- "$@" ;;
esac
"""


class SudoRefused(Refused):
    """sudo wants a password, or another one, or does not know this login"""


class Rope:
    """An agent that has been given its plan."""

    def __init__(
        self,
        process: asyncssh.SSHClientProcess[bytes],
        marker: str,
        password: Secret | None,
        *,
        silence_seconds: float,
        whole_seconds: float,
    ) -> None:
        """password: what sudo was told. An agent that lives says something at least every silence_seconds, and is through
        within whole_seconds from now."""
        self._process = process
        self._marker = marker.encode("ascii")
        self._password = password
        self._silence_seconds = silence_seconds
        self._whole_seconds = whole_seconds
        self._until = asyncio.get_running_loop().time() + whole_seconds

    async def frames(self) -> AsyncIterator[Frame]:
        """Yield what the agent says, until its result.

        Failed connection_lost where it ends, falls silent or takes too long without one, session_disturbed where it says more
        than any agent does; Refused session_disturbed where the session ends and it never began.
        """
        noise, heard, asked, before = 0, 0, 0, b""
        while True:
            line = await self._line()
            if not line or noise > _MOST_NOISE:
                words = await self._last_words()
                if not heard and (noise > _MOST_NOISE or self._process.exit_status is not None):
                    raise disturbed((before.decode("utf-8", "replace") + words).strip())
                raise _lost(words)
            marker, _, rest = line.partition(b" ")
            if marker != self._marker:
                noise += len(line) + _COST_OF_A_LINE
                before = _veiled(before + line, self._password)[-_MOST_TOLD:]
                continue
            try:
                frame = self._parsed(rest.strip())
            except Refused:
                await self._last_words()  # a server that has one session at a time is to have none when the next is asked for
                raise
            heard += 1
            asked += isinstance(frame, Ask)
            if heard > _MOST_FRAMES or asked > _MOST_ASKS:
                raise Failed("session_disturbed", "more comes from the server than any agent has to say")
            yield frame
            if isinstance(frame, Result):
                return

    @contextlib.asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Failed connection_lost where the block is not through by the time at which every agent is."""
        try:
            async with asyncio.timeout_at(self._until) as whole:
                yield
        except TimeoutError:
            if not whole.expired():
                raise
            raise self._too_slow() from None

    async def _line(self) -> bytes:
        silent = asyncio.get_running_loop().time() + self._silence_seconds
        try:
            async with asyncio.timeout_at(min(silent, self._until)):
                return await self._process.stdout.readline()
        except TimeoutError:
            if self._until < silent:
                raise self._too_slow() from None
            raise _lost(f"nothing was heard for {self._silence_seconds:.0f} s") from None
        except (asyncssh.Error, OSError, asyncio.LimitOverrunError, ValueError) as error:
            raise _lost(str(error)) from None

    def _too_slow(self) -> Failed:
        return _lost(f"it was not through within {self._whole_seconds:.0f} s")

    def _parsed(self, word: bytes) -> Frame:
        if word == b"no_python":
            raise Refused("no_python", "there is no Python 3 on the server")
        if word == b"sudo_asks":
            raise SudoRefused("sudo_refused", "sudo asks for a password, or this login may not use it")
        return parse(word)

    async def answer(self, answers: list[dict[str, Any]]) -> None:
        """Send the proofs that were asked for."""
        give(self._process, json.dumps({"answers": answers}).encode("ascii") + b"\n")

    async def _last_words(self) -> str:
        said = b""
        with contextlib.suppress(TimeoutError, asyncssh.Error, OSError):
            async with asyncio.timeout(2):
                said = await self._process.stderr.read(2000)
                await self._process.wait_closed()
        return _veiled(said, self._password).decode("utf-8", "replace").strip()

    def let_go(self) -> None:
        """Close without waiting: an agent that has not committed undoes."""
        self._process.close()


def disturbed(said: str) -> Refused:
    """Return the refusal for a session in which the agent never began, by what the session said instead."""
    told = _shown(said)
    if "password has expired" in told.lower() or "password change required" in told.lower():
        return Refused("login_expired", f"the login's password has expired, so it can run nothing: {told}", said=told)
    return Refused(
        "session_disturbed",
        f"a forced command, or a start-up file of the login, keeps the agent from running; it said: {told or 'nothing'}",
        said=told,
    )


def _lost(why: str) -> Failed:
    return Failed(
        "connection_lost", f"the connection ended before the agent said how it went: {_shown(why) or 'no reason given'}"
    )


def _shown(said: str) -> str:
    """Return the end of what a server said, on one line and without what a terminal would obey."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in said[-_MOST_TOLD:]).split())


def command_line(marker: str, become_root: str) -> str:
    """Return what the login's own shell is given to run.

    One line, without backslash and exclamation mark: csh and fish read these, and a line's end, within single quotes too.
    """
    script = " ".join(_SCRIPT.format(pythons=_PYTHONS, starter=ship.STARTER).split())
    return f"exec /bin/sh -c '{script}' kps {marker} {become_root} {ship.PACKED_BOOTSTRAP}"


async def attach(
    connection: asyncssh.SSHClientConnection, plan: dict[str, Any], become_root: str, password: Secret | None = None
) -> Rope:
    """Start the agent over this connection and give it its plan.

    become_root: "none", "ask" (sudo without a password) or "password" (sudo with this one). SudoRefused: from here, or as
    the first frame is read. Refused session_disturbed where sshd opens no session.
    """
    marker = secrets.token_hex(16)
    process = await opened(connection, command_line(marker, become_root))
    order = json.dumps({"marker": marker, "plan": plan}).encode("ascii") + b"\n"
    if password is not None:
        give(process, password.open() + b"\n")
        await let_in(process, marker.encode("ascii"), password)
    give(process, ship.payload(*ship.needed(plan)) + order)
    deadline = plan.get("deadline_seconds", 60)
    silence, whole = deadline + _SLOWEST_SECONDS, deadline + _SLOW_PARTS * _SLOWEST_SECONDS
    return Rope(process, marker, password, silence_seconds=silence, whole_seconds=whole)


async def opened(connection: asyncssh.SSHClientConnection, line: str) -> asyncssh.SSHClientProcess[bytes]:
    """Have the login run a command line. Refused session_disturbed where sshd opens no session."""
    try:
        return await connection.create_process(line, encoding=None, window=_LONGEST_LINE)
    except asyncssh.ChannelOpenError as error:
        if connection.is_closed():
            raise _lost(str(error.reason)) from None
        raise Refused(
            "session_disturbed",
            f"sshd lets the login in and opens no session for it ({_shown(error.reason)}); see MaxSessions in sshd_config",
            said=_shown(error.reason),
        ) from None
    except (asyncssh.Error, OSError) as error:
        raise _lost(str(error)) from None


def give(process: asyncssh.SSHClientProcess[bytes], some: bytes) -> None:
    with contextlib.suppress(OSError):  # it may have ended by now, and how it ended is still to be read
        process.stdin.write(some)


def _veiled(said: bytes, password: Secret | None) -> bytes:
    """Return a session's words without the password that it was told: whatever stands before sudo may repeat it."""
    return said if password is None else said.replace(password.open(), b"(the password)")


async def let_in(process: asyncssh.SSHClientProcess[bytes], prompt: bytes, password: Secret) -> None:
    """Return when sudo has started the agent. What sudo would ask for a second time is not answered: SudoRefused."""
    said = b""

    async def asked_again() -> None:
        nonlocal said
        while some := await process.stderr.read(4096):
            said = (said + some)[-_MOST_OF_SUDO:]
            if said.count(prompt) > 1:
                with contextlib.suppress(OSError):
                    process.stdin.write_eof()

    asking = asyncio.create_task(asked_again())
    try:
        noise = 0
        async for line in process.stdout:
            if line.strip() == ship.STARTED:
                return
            noise += len(line) + _COST_OF_A_LINE
            if noise > _MOST_NOISE:
                raise disturbed(_veiled(line, password).decode("utf-8", "replace"))
        await asking  # its last words
    except (asyncssh.Error, OSError) as error:
        raise _lost(str(error)) from None
    finally:
        asking.cancel()
    told = _veiled(said.replace(prompt, b""), password).decode("utf-8", "replace").split()
    raise SudoRefused("sudo_refused", f"sudo did not let it in: {' '.join(told)[-200:]}")
