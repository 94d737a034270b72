"""What can be read of bindings, logins and plans."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

import controller.app
from controller.app import in_process
from controller.model import Binding, Caller, Outcome, now
from controller.settings import Settings
from controller.store import Store
from tests.controller.faces import answering
from tests.controller.given import bind

PLANNED = Outcome(
    "unchanged", "as_before", evidence={"plan": {"changes": [{"kind": "add", "path": "/root/.ssh/authorized_keys"}]}}
)
Story = Callable[[httpx.AsyncClient], Awaitable[None]]


@pytest.fixture
def asked(settings: Settings, made: Any, store: Store, who: Caller, monkeypatch: pytest.MonkeyPatch) -> Callable[[Story], None]:
    """Run a story with two servers and a key pair that is bound to two logins of one of them."""
    monkeypatch.setattr(controller.app, "dispatching", answering({"web-2": PLANNED}, {}))

    def run(story: Story) -> None:
        async def told() -> None:
            transport = None
            async with in_process(settings) as served:
                transport = httpx.ASGITransport(served)
                async with httpx.AsyncClient(transport=transport, base_url="http://kps/fleet/v1") as http:
                    for name in ("web-1", "web-2"):
                        assert (await http.post("/servers", json={"name": name, "host": "192.0.2.1"})).is_success
                    assert (await http.post("/keypairs", json={"name": "ops"})).is_success
                    server, pair = store.server(who.tenant_id, "web-1"), store.keypair(who.tenant_id, who.user_id, "ops")
                    for login in ("root", "git"):
                        bind(store, Binding(server.id, login, pair.id, "logged_in", True, "t", now()))
                    await story(http)

        asyncio.run(told())

    return run


def test_bindings_are_listed_and_chosen(asked: Callable[[Story], None]) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        found = (await http.get("/bindings")).json()
        assert [(each["server"], each["login"], each["keypair"]) for each in found] == [
            ("web-1", "git", "ops"),
            ("web-1", "root", "ops"),
        ]
        assert {"server_id", "proof", "closed_password_login", "task_id", "created_at", "another_users"} < set(found[0])
        assert (await http.get("/bindings", params={"limit": 1})).json() == found  # what is on one server is not parted
        assert (await http.get("/bindings", params={"after": "web-1"})).json() == []
        assert (await http.get("/bindings", params={"login": "git"})).json() == found[:1]
        assert (await http.get("/bindings", params={"keypair": "none"})).json() == []
        assert (await http.get("/bindings", params={"server": "web-2"})).json() == []
        assert (await http.get("/bindings", params={"server": "none"})).json()["code"] == "server_not_found"

    asked(story)


def test_logins_are_each_servers_own_and_those_that_are_bound(asked: Callable[[Story], None]) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        found = (await http.get("/logins")).json()
        assert [(each["server"], each["login"], each["own"], each["keypair"]) for each in found] == [
            ("web-1", "git", False, "ops"),
            ("web-1", "root", True, "ops"),
            ("web-2", "root", True, None),
        ]
        assert (await http.get("/logins", params={"limit": 1})).json() == found[:2]
        assert (await http.get("/logins", params={"limit": 1, "after": "web-1"})).json() == found[2:]
        assert (await http.get("/logins", params={"server": "web-2"})).json() == found[2:]
        assert (found[2]["password_login"], found[2]["proof"], found[2]["after_reset"]) == ("unknown", None, False)

    asked(story)


def test_a_plan_is_asked_for_and_read(asked: Callable[[Story], None]) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.post("/plans", json={"operation": "bind", "servers": ["web-2"], "keypair": "ops"})
        assert answer.status_code == 202
        (task,) = answer.json()
        assert task["request"]["plan"]
        await http.get("/events", params={"task": task["id"], "wait": 5})
        while (plan := (await http.get(f"/plans/{task['id']}")).json())["status"] in ("ready", "running"):
            await http.get("/events", params={"after": 10**6, "wait": 0.1})
        assert (plan["status"], plan["plan"]) == ("unchanged", PLANNED.evidence["plan"])
        done = (await http.post("/operations", json={"operation": "check", "servers": ["web-1"]})).json()
        assert (await http.get(f"/plans/{done[0]['id']}")).json()["code"] == "plan_not_found"
        refused = await http.post("/plans", json={"operation": "check", "servers": ["web-1"]})
        assert refused.json()["code"] == "option_unknown"

    asked(story)
