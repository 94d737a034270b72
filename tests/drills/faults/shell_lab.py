"""The same on a server without Python: the agent is a shell program, and hundreds of small ones that it starts."""

import contextlib
import errno
import os
import secrets
import select
import threading
from typing import Any

from controller.transport import far, played, rope
from controller.transport.frames import Result
from controller.transport.shell_host import ShellHost
from tests.drills.faults.files import STATE
from tests.drills.faults.lab import Case, Lab, Way
from tests.drills.faults.tracer import Call, Tracer
from tests.drills.faults.tree import Tree, numbered

SUFFIX = " without Python"
# Whoever may be killed as one of them makes a call, and how the tracer calls it.
KILLS = {"kill": "", "kill one": "one", "kill the shell": "top"}


class Untraced(Tracer):
    """Follows nothing: for a run that is only to be carried out. It has ended when its first process has."""

    def seize(self, pid: int) -> None:
        def wait() -> None:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                select.select([descriptor], [], [])
                os.close(descriptor)
            self.ended.set()

        threading.Thread(target=wait, daemon=True).start()


class ShellLab(Lab):
    """One server without Python."""

    suffix = SUFFIX
    with_python = False
    deadline_seconds = 20  # its operations take some seconds
    boot = "/bin/sh {state}/agent boot {state}"

    def _is_agent(self, title: str) -> bool:
        return f"{STATE}/agent" in title or ("kps-started" in title and " kps run " in title)

    def tracer(self, at: int | None = None, how: str = "", call: str = "") -> Tracer:
        return Tree(call, at, KILLS.get(how, ""), getattr(errno, how, 0))

    def unfollowed(self) -> Tracer:
        return Untraced()

    def numbered(self, calls: list[Call]) -> list[tuple[int, Call]]:
        return numbered(calls)

    async def _run(self, case: Case, plan: dict[str, Any], tracer: Tracer, way: Way, looks: bool) -> Result | None:
        connection = await self.connected(way)
        marker, told = secrets.token_hex(16), secrets.token_hex(16)
        try:
            process = await rope.opened(connection, played.command_line(told, "none"))
            rope.give(process, far.payload() + marker.encode("ascii") + b"\n")
            there = far.Far(process, marker)
            facts = await there.hello()
            self._seized(connection, tracer)
            made = dict(plan, connection=facts["connection"].split(","))
            greeting = str(connection.get_extra_info("server_version") or "")
            agent = played.Played(ShellHost(there, facts, greeting), made, root=True)
            return await self._heard(case, plan, agent, looks)
        finally:
            connection.abort()

    async def prepare(self, sample: bool = False) -> None:
        """As of any lab; a sample is of a bind."""
        if sample:
            await self._bind()
            return
        _, bound, password, one, _ = await self._keys_and_passwords()
        about = {"remove": [one.line], "revoke": True, "passwords": "restore", "password_known": True}
        await self._case("unbind", bound, one, password, "unbind --revoke", given=password.password, revoked=one, **about)
