"""What a reset leaves to be done about passwords, with the first proof that comes once the server is up."""

import asyncio
from typing import Any

import httpx
import pytest

import controller.app
from controller import order
from controller.app import in_process
from controller.model import Binding, Server, Task, now
from controller.settings import Settings
from controller.store import Store
from tests.controller.faces import Given, answering
from tests.controller.world import PUBLIC, World


@pytest.mark.parametrize(
    ("bound", "asked", "closes"),
    [
        (None, {}, True),
        (None, {"keep_password_login": True}, False),
        (None, {"close_password_login": True}, True),
        ("open", {}, False),
        ("open", {"keep_password_login": True}, False),
        ("open", {"close_password_login": True}, True),
        ("closed", {}, True),
        ("closed", {"keep_password_login": True}, True),  # as it was
        ("closed", {"close_password_login": True}, True),
    ],
)
@pytest.mark.parametrize("waits", [None, True, False])
def test_passwords_are_closed_where_that_is_asked(
    world: World, bound: str | None, asked: dict[str, Any], closes: bool, waits: bool | None
) -> None:
    who = world.tenant()
    wanted, server = world.pair(who), world.server(who)
    waiting = None if waits is None else {"root": {"remove": [], "close_passwords": waits}}
    server = Server(server.id, server.tenant_id, server.name, server.host, after_reset=waiting)
    task = Task("t", who.tenant_id, who.user_id, server.id, server.name, "root", "reset", asked, now())
    here = [] if bound is None else [
        order.Bound(Binding(server.id, "root", wanted.id, "logged_in", bound == "closed", "t", now()), wanted)
    ]  # fmt: skip
    made = order.make(task, server, here, wanted, None, None, 60)
    expected = waits if waits is not None and not asked else closes
    assert made.after_reset == {"root": {"remove": [], "close_passwords": expected}}
    assert made.plan["key"].split()[:2] == PUBLIC.line().split()[:2]


@pytest.mark.parametrize(("disable", "option"), [(None, "keep"), (False, "keep"), (True, "close")])
def test_the_v3_api_resets_a_server_that_is_shut_down_and_says_what_becomes_of_passwords(
    settings: Settings, made: Any, store: Store, monkeypatch: pytest.MonkeyPatch, disable: bool | None, option: str
) -> None:
    given: Given = {}
    monkeypatch.setattr(controller.app, "dispatching", answering({}, given))

    async def story() -> None:
        async with in_process(settings) as served:
            assert served.application.networked
            async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://kps") as http:
                server = (await http.post("/fleet/v1/servers", json={"name": "web-1", "host": "192.0.2.1"})).json()
                await http.post("/fleet/v1/keypairs", json={"name": "ops"})
                calls = f"/v3/{made['project_id']}"
                about = {"id": server["id"]} | ({} if disable is None else {"disable_password": disable})
                asked = {"keypair_name": "ops", "server": about}
                # It runs: without auth there is no way in.
                assert (await http.post(f"{calls}/keypairs/associate", json=asked)).status_code == 400
                await http.patch("/fleet/v1/servers/web-1", json={"reset_root": "/mnt/web-1"})
                answer = await http.post(f"{calls}/keypairs/associate", json=asked)
                assert answer.status_code == 202
                task = store.task(made["tenant_id"], answer.json()["task_id"])
                assert (task.operation, task.request["root"]) == ("reset", "/mnt/web-1")
                passwords = {name: value for name, value in task.request.items() if name.endswith("_password_login")}
                assert passwords == {f"{option}_password_login": True}
                asked["server"] = about | {"auth": {"type": "password", "key": "x"}}
                assert (await http.post(f"{calls}/keypairs/associate", json=asked)).status_code == 400

    asyncio.run(story())
