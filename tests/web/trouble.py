"""Servers whose answer is a line in a dict, tasks that fail there, and what somebody hostile would write."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import pytest

import controller.app
from controller.model import Credential, Outcome, Rollout, Secret, ServerNotes, Task
from controller.store import engine
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


async def opened(visitor: Visitor, *names: str, **notes: object) -> None:
    """Have it be seen that password login is on."""
    store = visitor.fleet.servers._store
    for name in names:
        server = await visitor.fleet.servers.get(visitor.fleet.owner, name)
        (task,) = await ordered(visitor, "password-login-enable", name)
        with engine.writing(store._engine) as connection:
            noted = ServerNotes(password_login="on", **notes)  # type: ignore[typeddict-item]
            store._event(
                connection,
                server.tenant_id,
                "server_noted",
                dict(noted),
                server_id=server.id,
                task_id=task.id,
                user_id=task.user_id,
            )
            store._note(connection, task, noted)


async def ended(visitor: Visitor, ids: list[str]) -> list[Task]:
    """Return these tasks once they have ended."""
    fleet, owner, after = visitor.fleet, visitor.fleet.owner, 0
    async with asyncio.timeout(60):
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
    async with asyncio.timeout(60):
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
    (asked,), _ = await fleet.emergency.open(owner, chosen, reason="no key gets in", seconds=60)
    plan = await fleet.rollouts.start(owner, "bind", chosen, {"keypair": "ops", "plan": True}, {}, {})
    await over(visitor, plan.id)
    strategy = {"canary": "1", "batch": "1", "max_failures": "0"}
    begun = await fleet.rollouts.start(owner, "replace", chosen, {"keypair": "ops"}, strategy, {})
    await over(visitor, begun.id)
    await fleet.servers.change(owner, "web-1", reset_root="/mnt/web-1")
    known = {"server": "web-1", "keypair": "ops", "key": key.id, "task": failed.id, "plan": plan.id, "rollout": begun.id}
    return known | {"order": asked.id} | await doors(visitor) | await resting(visitor)


async def resting(visitor: Visitor) -> dict[str, str]:
    """Have a master key that is disabled, and one that is to be destroyed; returns their ids."""
    keys, owner = visitor.fleet.kms.keys, visitor.fleet.owner
    disabled, doomed = await keys.create(owner, "disabled"), await keys.create(owner, "doomed")
    await keys.disable(owner, disabled.id)
    await keys.schedule_deletion(owner, doomed.id, 30)
    return {"disabled": disabled.id, "to_be_destroyed": doomed.id}


async def doors(visitor: Visitor) -> dict[str, str]:
    """Have doors on a server of their own: one that is open, and one whose one-time password is set; returns their ids.

    Password login is on there too.
    """
    fleet, owner = visitor.fleet, visitor.fleet.owner
    server = await fleet.servers.add(owner, "db-1", "192.0.2.99")
    about: Any = {"reason": "no key gets in", "seconds": 600}
    _, (door,) = await fleet.emergency.open(owner, [server], login="deploy", **about)
    _, (waiting,), (made,) = await fleet.emergency.open_by_password(owner, [server], login="rescue", **about)
    made.password.wipe()
    await settled(visitor)
    await opened(visitor, "db-1")
    return {"door": door.id, "one_time": waiting.id}


def at(path: str, known: Mapping[str, str], plans: bool = False) -> str:
    """Return a route's path with what stands for its parameters: of whole(), or so called. plans: a rollout that is a plan."""
    begins = path.split("/")[1]
    kind = {"servers": "server", "keypairs": "keypair", "rollouts": "plan" if plans else "rollout", "orders": "rollout"}
    id = known["plan"] if path.startswith("/orders/plans/") else known[kind.get(begins, "task")]
    if begins == "emergency":
        one_time = path.endswith(("/password", "/begin"))
        id = known.get("order" if "/orders/" in path else "one_time" if one_time else "door", id)
    name = known["server"] if begins == "servers" else known["keypair"]
    key = known.get({"enable": "disabled", "keep": "to_be_destroyed"}.get(path.rpartition("/")[2], "key"), known["key"])
    values = {"name": name, "id": id, "key_id": key, "kind": "json"}
    return path.format_map({each: quote(value, safe="") for each, value in values.items()})
