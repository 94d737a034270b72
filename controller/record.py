"""What the result of an agent, or the journal of a server, means for what is on record: the outcome of a task, and the inventory.

Reads and changes nothing.
"""

from typing import Any, cast, get_args

from controller import causes, seen, sessions
from controller.causes import CAUSES
from controller.model import Binding, KeyPair, Outcome, PasswordLogin, Server, ServerNotes, ServerState, Task, now
from controller.order import Order, bare
from controller.transport.frames import plain, small

_LARGEST_GENERATION = 1 << 31
_MOST_NOTES = 3  # in a message; evidence has them all
# Before these phases are over nothing has been written.
NOTHING_WRITTEN = ("queued", "connect", "look", "decide")


class Record:
    """What is to be recorded of one task with this order. boot: what the server's boot is called, where it was heard."""

    def __init__(self, task: Task, server: Server, order: Order) -> None:
        self.task = task
        self.server = server
        self.order = order
        self.boot = ""

    @property
    def place(self) -> dict[str, object]:
        """Where the server is, in our own words and not in the server's."""
        return {"HOST": self.server.host, "PORT": self.server.port}

    def concluded(self, result: dict[str, Any]) -> tuple[Outcome, dict[str, Any]]:
        """Turn what the agent said into the outcome and the changes of the inventory."""
        evidence = dict(result.get("evidence") or {})
        if self.order.plan["only_plan"] and result["status"] != "failed":
            evidence["seen"] = seen.digest(result)
        for name in ("findings", "plan", "first", "logins", "armed", "limits", "removed", "remains", "notes", "leftover"):
            if result.get(name):
                evidence.setdefault(name, result[name])
        if result.get("door"):
            evidence["door"] = {"from": result["door"]["network"]} | {
                name: value for name, value in result["door"].items() if name != "network"
            }
        live = sessions.named(result)
        if live:
            evidence["sessions"] = live
        status = result["status"]
        cause = result.get("cause")
        if status == "failed" and cause not in CAUSES:
            cause = "unexpected"  # the list is closed, whatever a server says
        outcome = Outcome(
            status=status,
            server_state=result["server_state"],
            phase=result.get("phase") or "done",
            cause=cause,
            message=named(self.server.name, plain(_in_words(result, self.order.plan))),
            evidence=small(evidence),
            proofs=self._proofs(result),
            handling=causes.handling(cause, **self.place) if cause in CAUSES else None,
            retryable=cause in CAUSES and CAUSES[cause].retryable and not self.order.plan["only_plan"],
            files=list(result.get("files") or []),
        )
        if self.order.plan["only_plan"]:
            return outcome, self.notes(self._login_state(result))
        if status == "failed":
            changes = self._caught_up(outcome) or self.notes(self._login_state(result))
            return outcome, changes | self._replaced_all_the_same(result, outcome)
        return outcome, self._changes(result, outcome)

    def told(self, said: dict[str, Any], as_root: bool) -> tuple[ServerState, dict[str, Any]] | None:
        """Return what the server's own journal says of this task, and the changes on record."""
        told = said.get("recovered") or said.get("last") or {}
        if told.get("operation") != self.task.id:
            # It has gone on to something newer; or it never came to write anything for this task. An agent that is not root sees
            # no journal but its login's own.
            older = told.get("generation", 0) < self.task.generation
            return ("as_before", {}) if older and as_root and self.task.phase in NOTHING_WRITTEN else None
        if told.get("result") == "reverted":
            return "reverted", self.notes(self._login_state(said))
        # An agent commits on our proofs only.
        method = "logged_in" if self.order.plan.get("provable") else "accepted"
        proofs = [{"way": "key", "login": self.task.login, "method": method}] if self.order.plan.get("key") else []
        if told.get("result") == "partial":
            outcome = Outcome("failed", "partial", proofs=proofs)
            changes = self.notes(self._login_state(said))
            return "partial", changes | self._replaced_all_the_same(dict(said, removed=[]), outcome)
        return "as_asked", self._changes(said, Outcome("succeeded", "as_asked", proofs=proofs))

    def _caught_up(self, outcome: Outcome) -> dict[str, Any]:
        """After orders that came to the server from elsewhere (a backup was restored, it was added anew), the next is newer."""
        seen = outcome.evidence.get("generation")
        if outcome.cause != "stale_generation" or not isinstance(seen, int) or not 0 < seen < _LARGEST_GENERATION:
            return {}
        return {"notes": ServerNotes(generation=seen)}

    def _replaced_all_the_same(self, result: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
        """After a revoke that is not whole the new key is there for good; that the old one is refused is for the next order."""
        keypair, removed = self.order.keypair, self.order.plan.get("remove")
        shown = [each["method"] for each in outcome.proofs if each["way"] == "key" and each["method"] != "refused"]
        if outcome.server_state != "partial" or result.get("removed") is None or keypair is None or not shown:
            return {}
        here = next((each.binding for each in self.order.bound if each.binding.login == self.task.login), None)
        closed = here is not None and here.closed_password_login
        waiting = self.order.after_reset | {self.task.login: {"remove": [*map(bare, removed or [])], "close_passwords": False}}
        notes = cast(ServerNotes, self.notes(self._login_state(result))["notes"] | {"after_reset": waiting})
        return {"binding": self._binding(keypair, shown[0], closed), "notes": notes}

    def _binding(self, keypair: KeyPair, method: str, closed: bool) -> Binding:
        return Binding(self.server.id, self.task.login, keypair.id, method, closed, self.task.id, now())

    def _proofs(self, result: dict[str, Any]) -> list[dict[str, str]]:
        found = [{name: str(each[name]) for name in ("way", "login", "method")} for each in result.get("proofs") or []]
        if self.task.operation == "reset" and result["status"] == "succeeded":
            return [{"way": "key", "login": self.task.login, "method": "not_applicable"}]
        return found

    def _changes(self, result: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
        operation, keypair = self.task.operation, self.order.keypair
        changes: dict[str, Any] = self.notes(self._login_state(result))
        methods = [each["method"] for each in outcome.proofs if each["way"] == "key" and each["method"] != "refused"]
        here = next((each.binding for each in self.order.bound if each.binding.login == self.task.login), None)
        if operation == "unbind":
            changes["unbind"] = (self.server.id, self.task.login)
        elif keypair is not None:
            closed = bool(result.get("closed")) and self.order.plan.get("passwords") == "off"
            if self.order.plan.get("passwords") is None and here is not None:
                closed = here.closed_password_login
            method = methods[0] if methods else "not_applicable"
            changes["binding"] = self._binding(keypair, method, closed and operation != "reset")
        if self.order.after_reset != (self.server.after_reset or {}):
            changes["notes"]["after_reset"] = self.order.after_reset or None
        return changes

    def notes(self, password_login: str | None) -> dict[str, Any]:
        """Return the changes by which the server is known better than before."""
        notes: ServerNotes = {}
        if password_login in get_args(PasswordLogin):
            notes["password_login"] = cast(PasswordLogin, password_login)
        if self.boot:
            notes["boot_id"] = self.boot
            if self.server.reset_root is not None and self.task.operation != "reset":
                notes["reset_root"] = None  # it has answered
        return {"notes": notes}

    def _login_state(self, result: dict[str, Any]) -> str | None:
        logins = result.get("logins")
        state = logins.get(self.server.login) if isinstance(logins, dict) else None
        return state if isinstance(state, str) else None


def _in_words(result: dict[str, Any], plan: dict[str, Any]) -> str:
    """Return why it failed, and what became of the sessions that a removed key had opened."""
    told = [str(result.get("message") or "")]
    if plan.get("remove"):
        told.append(sessions.told(result, planned=bool(plan.get("only_plan"))))
    if plan.get("revoke") and result.get("notes"):
        told.append(f"mind: {'; '.join(result['notes'][:_MOST_NOTES])}")
    if result.get("repairs") and result["status"] == "succeeded":
        told.append(f"mended: {', '.join(result['repairs'])}")
    return "; ".join(each for each in told if each)


def named(server: str, message: str) -> str:
    """Return the message with the server's name before it, where it does not begin with that."""
    return message if not message or message.startswith(server) else f"{server}: {message}"
