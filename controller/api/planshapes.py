"""The JSON of plans of rollouts: what requests may hold, and how a plan looks in answers."""

from typing import Any

from pydantic import Field

from controller.api.shapes import Hours, Json, Opening, Request
from controller.service.rolloutplans import Look, Sealed


class SealedPlan(Request):
    """The head of a plan as it was signed, and its signature."""

    head: dict[str, Any]
    signature: str = Field(pattern="^[0-9a-f]{128}$")

    def sealed(self) -> Sealed:
        """Return it as the services take it."""
        return Sealed(self.head, self.signature)


class StartPlan(Opening):
    """sealed: the plan as somebody has kept it; without it, as the controller has it."""

    sealed: SealedPlan | None = None
    credential_hours: Hours = None


def sealed(found: Sealed) -> Json:
    """Return the head of a plan and its signature."""
    return {"head": found.head, "signature": found.signature}


def look(found: Look) -> Json:
    """Return what a plan has found of a server."""
    return {name: getattr(found, name) for name in Look.__slots__}
