"""This machine as the product's host, with what a controller would do beside it: proofs by real logins to a real sshd."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import asyncssh

from kpsagent import keys
from kpsagent.host import Daemon
from kpsagent.local import LocalHost
from kpsagent.plan import Plan, parse
from kpsagent.transaction import drive, operation
from tests.drills import inside

STATE = "/var/lib/kps"
_NO_PROOF = {"key": "new_key_refused", "password": "password_refused"}


class Host(LocalHost):
    """All effects are the product's own, but for the rope, whose proofs are made here, and an undo that outlives the process.

    Nothing is lost here, so nothing is armed: the drill of faults does that.
    """

    def __init__(self, answer: Callable[[dict[str, Any], str], dict[str, Any]]) -> None:
        super().__init__(STATE)
        self._answer = answer

    def _FindDaemon(self, effect: Any) -> Daemon:
        self._connection = effect.connection
        return Daemon("each", os.getpid(), inside.SSHD, [], inside.CONFIG, "")

    def _Ask(self, effect: Any) -> Any:
        return [self._answer(question, effect.path) for question in effect.questions]

    def _Arm(self, effect: Any) -> list[str]:
        return []

    def _Disarm(self, effect: Any) -> None:
        return None

    def _Listening(self, effect: Any) -> None:
        return None

    def _Say(self, effect: Any) -> None:
        return None


class Prover:
    """Answers an agent's questions as a controller does, with the private halves and passwords that it is given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, source: str, passwords: dict[str, str]) -> None:
        self.loop, self.source, self.passwords = loop, source, passwords
        self.private: dict[bytes, asyncssh.SSHKey] = {}

    def add(self, key: asyncssh.SSHKey) -> str:
        """Take the private half of a key, and return its public line."""
        line = key.export_public_key().decode().strip()
        self.private[keys.parse(line).material] = key
        return line

    def log_in(self, login: str, source: str = "", **credential: Any) -> inside.Attempt:
        return self.loop.run_until_complete(inside.attempt(login, source or self.source, **credential))

    def __call__(self, question: dict[str, Any], path: str) -> dict[str, Any]:
        if question["way"] == "key":
            credential: dict[str, Any] = {"key": self.private[keys.parse(question["key"]).material]}
        else:
            credential = {"password": self.passwords.get(question["login"], "who has none")}
        went = self.log_in(question["login"], command=f"cat {path}", **credential)
        if question["want"] == "refused":
            if went.got_in:
                return {"cause": "still_accepted", "message": f"{question['way']} still gets in"}
            known = question["known"]
            if known is None:
                return {"method": "refused"}
            went = self.log_in(question["login"], command=f"cat {path}", key=self.private[keys.parse(known).material])
            return {"method": "refused", "nonce": (went.printed or "").strip()}
        if not went.got_in:
            return {"cause": _NO_PROOF[question["way"]], "message": went.why}
        if not went.printed:
            return {"cause": "no_command", "message": f"the login runs no command: {went.why}"}
        return {"method": "logged_in", "nonce": went.printed.strip()}


def ordered(generation: int, connection: list[str] | None, **wanted: Any) -> Plan:
    """A plan as a controller would send it."""
    raw = {"id": f"drill-{generation}", "generation": generation, "deadline_seconds": 60, "connection": connection} | wanted
    return parse(raw)


def carried_out(plan: Plan, host: LocalHost) -> dict[str, Any]:
    """Carry a whole operation out, as the agent does."""
    try:
        result: dict[str, Any] = drive(operation(plan), host)
        return result
    finally:
        host.close()
