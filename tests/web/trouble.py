"""Servers whose answer is a line in a dict, tasks that fail there, and what somebody hostile would write."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest

import controller.app
from controller.model import Credential, Outcome, Rollout, Secret, Task
from tests.controller.faces import Given, answering
from tests.web.client import Visitor

HOSTILE = '"><script>alert(1)</script>\x1b[31m\u202e<img src=x onerror=alert(2)>'
WRONG = Outcome(
    "failed", "as_before", phase="connect", cause="wrong_password", message=f"web-1: no {HOSTILE}",
    evidence={"tried": ["root"], "banner": HOSTILE}, handling="Check it.", retryable=True,
)  # fmt: skip
FULL = Outcome("failed", "reverted", phase="widen", cause="disk_full", message="web-2: /root is full", retryable=True)
LOST = Outcome("failed", "unknown", phase="narrow", cause="connection_lost", message="web-3: gone", retryable=True)

CHANGE = {"kind": "file", "path": "/root/.ssh/authorized_keys", "diff": ["@@", "-old", f"+new {HOSTILE}"]}
SEEN = Outcome("succeeded", "as_before", evidence={"seen": "0" * 64, "plan": {"changes": [CHANGE], "locked_out": []}})


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


async def over(visitor: Visitor, id: str) -> Rollout:
    """Return a rollout once it does not run any more."""
    async with asyncio.timeout(20):
        while True:
            newest = visitor.fleet.tasks.feed.newest
            found, counts = await visitor.fleet.rollouts.get(visitor.fleet.owner, id)
            if found.state != "running" and not counts["states"]["running"]:
                return found
            await visitor.fleet.tasks.feed.after(newest, 1)


async def whole(visitor: Visitor) -> dict[str, str]:
    """Fill a home with one of everything, by web-1 that fails and web-2; returns how each is called, or its id, by kind."""
    fleet, owner = visitor.fleet, visitor.fleet.owner
    await servers(visitor, 2, env="prod")
    await fleet.keypairs.create(owner, "ops", scope="account")
    await fleet.keypairs.create(owner, "mine-alone")
    key = await fleet.kms.keys.create(owner, "orders", tags={"a": "b"})
    await fleet.kms.names.add_alias(owner, key.id, "alias/orders")
    await fleet.policies.set(owner, "yearly", "env=prod", 365)
    failed, _ = await ordered(visitor, "bind", "web-1", "web-2", keypair="ops")
    chosen = await fleet.servers.list(owner)
    await fleet.emergency.rules.set(owner, "env=prod", 15)
    await fleet.emergency.open(owner, chosen, reason="no key gets in", seconds=60)
    plan = await fleet.rollouts.start(owner, "bind", chosen, {"keypair": "ops", "plan": True}, {}, {})
    await over(visitor, plan.id)
    strategy = {"canary": "1", "batch": "1", "max_failures": "0"}
    begun = await fleet.rollouts.start(owner, "replace", chosen, {"keypair": "ops"}, strategy, {})
    await over(visitor, begun.id)
    return {"server": "web-1", "keypair": "ops", "key": key.id, "task": failed.id, "plan": plan.id, "rollout": begun.id}


def at(path: str, known: Mapping[str, str], plans: bool = False) -> str:
    """Return a route's path with what stands for its parameters: of whole(), or so called. plans: a rollout that is a plan."""
    begins = path.split("/")[1]
    kind = {"servers": "server", "keypairs": "keypair", "rollouts": "plan" if plans else "rollout", "orders": "rollout"}
    id = known["plan"] if path.startswith("/orders/plans/") else known[kind.get(begins, "task")]
    name = known["server"] if begins == "servers" else known["keypair"]
    values = {"name": name, "id": id, "key_id": known["key"], "kind": "json"}
    return path.format_map({each: quote(value, safe="") for each, value in values.items()})
