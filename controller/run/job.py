"""One run of one task: what is known of it so far, and where it is on record."""

import time
from functools import partial
from typing import Any

from controller.keyfiles.signing import SigningKey
from controller.model import Credential, Outcome, Secret, Server, Task
from controller.order import Order
from controller.prover import Prover
from controller.record import Record
from controller.run.means import PATIENCE_SECONDS, Means
from controller.transport.jumps import Jump
from controller.transport.offer import Held
from kpsagent.errors import Failed, Refused

# Orders that only look, for passwords.
ONLY_LOOK = ("password-login-status", "door-status")


class Job:
    """One run of one task: what is known so far."""

    def __init__(self, means: Means, task: Task, given: Credential | None) -> None:
        self.means = means
        self.task = task
        self.given = given
        self.lost: Refused | None = None  # why what was given with the order is not to be had any more
        self.phase = "connect"
        self.began = self._phase_began = time.monotonic()
        self.handed_over = False  # the agent has the plan: from now on the server may be touched
        self.touched = False  # the agent has said that it begins to write
        self.prover: Prover | None = None
        self.server: Server
        self.order: Order
        self.record: Record
        self.identity: Held | None = None
        self.read: Held | None = None  # the same without its certificate: while this is held, nobody reads it anew
        self.road: list[Jump] = []  # the jump servers on the way, the nearest to us first
        self.private = False  # private key pairs of whoever asked are part of it, and may be named in how it ended
        self.without_key = False  # nothing is known to get in; what an earlier task may have left there is only tried
        self.opened: dict[str, SigningKey] = {}  # private halves from custody, by the id of their key pair
        self.new_password: Secret | None = None  # that the task sets

    def measured(self, outcome: Outcome) -> None:
        """Tell whoever counts how this ended, and how long it took."""
        self.left()
        begun, asked = self.task.started_at, self.task.created_at
        waited = 0.0 if begun is None else (begun - asked).total_seconds()
        self.means.measures.ended(self.task.operation, outcome.status, outcome.cause, waited, time.monotonic() - self.began)

    def left(self) -> None:
        """Tell how long the phase took that is over."""
        at = time.monotonic()
        self.means.measures.phase(self.phase, at - self._phase_began)
        self._phase_began = at

    def forget(self) -> None:
        """Let go of all that opens a server; this run has come to its end."""
        self.given = self.identity = self.read = self.prover = self.new_password = None
        self.opened.clear()
        self.road.clear()

    @property
    def as_planned(self) -> str | None:
        """What the server must be like for the task to go on (controller.seen.digest); None where nobody has planned it."""
        return self.task.request.get("seen")

    @property
    def place(self) -> dict[str, object]:
        """Where the server is, in our own words and not in the server's."""
        server = getattr(self, "server", None)
        return {} if server is None else {"HOST": server.host, "PORT": server.port}

    def look(self, **more: Any) -> dict[str, Any]:
        """Return the plan of an agent that changes nothing."""
        return {
            "operation": "check",
            "id": self.task.id,
            "generation": self.task.generation,
            "login": self.task.login,
            "deadline_seconds": self.means.settings.deadline_seconds,
            **more,
        }

    async def now_at(self, phase: str, detail: dict[str, Any]) -> bool:
        """Put on record where the task is now; False where it is not ours any more, and nothing was written."""
        self.left()
        self.phase = phase
        # The server waits for what comes next, and undoes at its deadline; it is told nothing that is not on record.
        said = partial(self.means.commits.kept, self.means.store.progress, self.task.id, self.means.owner, phase, detail)
        return await self.means.patience.with_(said, seconds=PATIENCE_SECONDS, twice=True)

    async def still_ours(self, phase: str, detail: dict[str, Any]) -> None:
        """Do the same. Failed(interrupted) where it is not ours any more: nothing is proved then, and the server undoes.

        Whoever ended it has asked the server since, and may have been told that nothing was done there. The server itself refuses
        what is late only where something newer was.
        """
        if not await self.now_at(phase, detail):
            raise Failed("interrupted", "the task was taken over by another process")
