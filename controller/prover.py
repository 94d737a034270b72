"""Answers an agent's questions by proofs, and remembers what was proved: that, not the agent's word, is on record."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh

from controller.measures import UNMEASURED, Measures
from controller.model import Secret
from controller.order import same
from controller.transport import proof
from controller.transport.connect import Target
from controller.transport.frames import Ask, Question
from controller.transport.offer import Signer
from kpsagent.errors import Failed

PrivateOf = Callable[[str], Awaitable[Signer | None]]


class Prover:
    """The proofs for one plan on one server."""

    def __init__(
        self,
        target: Target,
        plan: dict[str, Any],
        private_of: PrivateOf,
        password: Secret | None,
        measures: Measures = UNMEASURED,
    ) -> None:
        """private_of: a public key line -> its private half, where that is known for this plan."""
        self._target = target
        self._plan = plan
        self._private_of = private_of
        self._password = password
        self._measures = measures
        self.proofs: list[dict[str, str]] = []

    async def answers(self, asked: Ask) -> list[dict[str, Any]]:
        """Return an answer to each question. Failed where the agent asks what this plan does not need."""
        found = []
        for question in asked.questions:
            self._refuse_foreign(question)
            began = time.monotonic()
            answer = await self._answer(question, asked.path)
            self._measures.proved(str(answer.get("method") or answer.get("cause")), time.monotonic() - began)
            if "method" in answer:
                proved = {"way": question.way, "login": question.login, "method": str(answer["method"])}
                if proved not in self.proofs:
                    self.proofs.append(proved)
            found.append(answer)
        return found

    def missing(self) -> str:
        """Return which proof the plan needs that was never made; "" where it has all. A server cannot declare itself done."""
        made = {(each["way"], each["method"]) for each in self.proofs}
        plan = self._plan
        if plan["operation"] == "door-open":
            # Where it is open from elsewhere only, it can't be shown from here that it is.
            shown = {("password", "logged_in"), ("password", "password_offered")}
            shown |= {("password", "refused")} if plan["door"]["from"] else set()
            return "" if made & shown else "that a password gets in"
        if plan.get("key") and not made & {("key", "logged_in"), ("key", "accepted")}:
            return "that the key gets in"
        if plan.get("remove") and ("key", "refused") not in made:
            return "that the removed key is refused"
        if plan.get("passwords") == "off" and ("password", "refused") not in made:
            return "that passwords are refused"
        if plan.get("passwords") == "on" and not made & {("password", "logged_in"), ("password", "password_offered")}:
            return "that a password gets in"
        return ""

    def _refuse_foreign(self, question: Question) -> None:
        lines = [line for line in (question.key, question.known) if line is not None]
        ours = [self._plan.get("key"), *self._plan.get("remove", [])]
        if question.login != self._plan["login"] or any(line not in ours for line in lines):
            raise Failed("session_disturbed", "the agent asks for a proof that is not part of its plan")

    async def _answer(self, question: Question, path: str) -> dict[str, Any]:
        if question.way == "password":
            return await self._password_answer(question, path)
        line = question.key or ""
        if question.want == "refused":
            good = None if question.known is None else await self._private_of(question.known)
            known = (question.known, good) if question.known is not None and good is not None else None
            return await proof.key_refused(
                self._target, question.login, line, path, known, None if question.known else self._password
            )
        private = await self._private_of(line)
        if private is None:
            return await proof.key_accepted(self._target, question.login, line)
        return await proof.key_logs_in(self._target, question.login, line, private, path)

    async def _password_answer(self, question: Question, path: str) -> dict[str, Any]:
        login, name = question.login, self._target.name
        if question.want == "logged_in" and self._password is not None:
            return await proof.password_logs_in(self._target, login, self._password, path)
        offered = await proof.password_offered(self._target, login)
        if isinstance(offered, dict):
            return offered
        if question.want != "refused":
            if offered:
                return {"method": "password_offered"}
            return {"cause": "password_refused", "message": f"{name}: sshd offers no password login to {login} from here"}
        if offered:
            return {"cause": "password_still_accepted", "message": f"{name}: sshd still asks {login} for a password"}
        return {"method": "refused"}


def key_in(lines: list[tuple[str, asyncssh.SSHKey]], line: str) -> asyncssh.SSHKey | None:
    """Return the private half that belongs to this public key line, if it is among these."""
    return next((private for public, private in lines if same(public, line)), None)
