"""Servers whose answer is a line in a dict, tasks that fail there, and what somebody hostile would write."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

import controller.app
from controller.model import Credential, Outcome, Secret, Task
from tests.controller.faces import Given, answering
from tests.web.client import Visitor

HOSTILE = '"><script>alert(1)</script>\x1b[31m\u202e<img src=x onerror=alert(2)>'
WRONG = Outcome(
    "failed", "as_before", phase="connect", cause="wrong_password", message=f"web-1: no {HOSTILE}",
    evidence={"tried": ["root"], "banner": HOSTILE}, handling="Check it.", retryable=True,
)  # fmt: skip
FULL = Outcome("failed", "reverted", phase="widen", cause="disk_full", message="web-2: /root is full", retryable=True)
LOST = Outcome("failed", "unknown", phase="narrow", cause="connection_lost", message="web-3: gone", retryable=True)


def stub(monkeypatch: pytest.MonkeyPatch, outcomes: Mapping[str, Outcome]) -> Given:
    """Have servers answer with these outcomes, others as asked; returns what is given for each, by its name."""
    given: Given = {}
    monkeypatch.setattr(controller.app, "dispatching", answering(outcomes, given))
    return given


async def servers(visitor: Visitor, count: int, **labels: str) -> None:
    """Take web-1, web-2 and so on in."""
    taken = len(await visitor.fleet.servers.list(visitor.fleet.owner))
    for number in range(taken + 1, taken + count + 1):
        await visitor.fleet.servers.add(visitor.fleet.owner, f"web-{number}", f"192.0.2.{number}", labels=labels)


async def ordered(visitor: Visitor, operation: str, *names: str, **request: Any) -> list[Task]:
    """Order an operation on servers as the home's owner, and return its tasks as they ended."""
    fleet, owner = visitor.fleet, visitor.fleet.owner
    chosen = await fleet.servers.select(owner, names)
    given = {each.id: Credential(password=Secret("once")) for each in chosen} if operation == "bind" else {}
    begun = await fleet.bindings.start(owner, operation, chosen, request, given)
    return await ended(visitor, [each.id for each in begun])


async def ended(visitor: Visitor, ids: list[str]) -> list[Task]:
    """Return these tasks once they have ended."""
    fleet, owner, after = visitor.fleet, visitor.fleet.owner, 0
    async with asyncio.timeout(20):
        while True:
            found = await fleet.tasks.list(owner, ids=ids)
            if all(each.status not in ("ready", "running") for each in found):
                return found
            events = await fleet.tasks.events(owner, after, ids, wait_seconds=5)
            after = max([after, *(each.id for each in events)])


async def settled(visitor: Visitor) -> None:
    """Wait until no task of the tenant is under way."""
    running = await visitor.fleet.tasks.list(visitor.fleet.owner, running=True)
    await ended(visitor, [each.id for each in running])
