"""Lists in pages: every loop over them ends, and misses nothing that was there all the time, whatever comes and goes."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from controller.client import AsyncKpsClient, call
from controller.client import doors as client_doors
from controller.doors import Door, DoorState
from controller.model import Caller, Outcome, Sealed, Server, Task, now
from controller.settings import Settings
from controller.store import Store, tables
from tests.contracts.test_doors import a_door, an_order
from tests.contracts.test_doors import a_task as a_door_task
from tests.contracts.test_store import a_keypair, a_server, a_task
from tests.controller.test_gate import Signed, through

NAMES = [f"pair-{number}" for number in range(7)]


@pytest.fixture
def mine(made: dict[str, Any]) -> Signed:
    return Signed(made["access_key"], made["secret_key"])


def add_pair(store: Store, who: Caller, name: str) -> None:
    store.add_keypair(a_keypair(who, name, managed=False), None)


def remove_pair(store: Store, who: Caller, name: str) -> None:
    store.delete_keypair(store.keypair(who.tenant_id, who.user_id, name).id, who.user_id)


def failed(store: Store, server: Server, **more: Any) -> Task:
    """Have a task of a server fail."""
    (task,) = store.add_tasks([a_task(server, **more)])
    claimed = store.claim(task.id, "me", 30)
    assert claimed is not None
    outcome = Outcome("failed", "as_before", cause="wrong_password", message="no")
    assert store.finish(task.id, "me", claimed.generation, outcome)
    return task


def v3(made: dict[str, Any], mine: Signed) -> Any:
    async def ask(http: httpx.AsyncClient, path: str, **params: str) -> Any:
        answer = await http.get(f"/v3/{made['project_id']}{path}", params=params, auth=mine)
        return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["error_code"])

    return ask


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 1000])
def test_key_pairs_to_the_end(
    settings: Settings, made: dict[str, Any], store: Store, who: Caller, mine: Signed, limit: int
) -> None:
    for name in reversed(NAMES):
        add_pair(store, who, name)
    ask = v3(made, mine)

    async def story(http: httpx.AsyncClient) -> None:
        names: list[str] = []
        asked, marker = 0, ""
        while asked <= len(NAMES):
            page = await ask(http, "/keypairs", limit=str(limit), **({"marker": marker} if marker else {}))
            asked += 1
            found = [each["keypair"]["name"] for each in page["keypairs"]]
            info = page["page_info"]
            assert (info["current_count"], info["previous_marker"]) == (len(found), found[0])
            names += found
            marker = info.get("next_marker", "")
            if not marker:
                break
        assert (names, asked) == (NAMES, -(-len(NAMES) // limit))

    through(settings, story)


def test_what_a_page_of_key_pairs_takes_and_refuses(
    settings: Settings, made: dict[str, Any], store: Store, who: Caller, mine: Signed
) -> None:
    for name in NAMES:
        add_pair(store, who, name)
    ask = v3(made, mine)

    async def story(http: httpx.AsyncClient) -> None:
        for wrong in (
            {"limit": "0"},
            {"limit": "1001"},
            {"limit": "-1"},
            {"limit": "many"},
            {"limit": ""},
            {"limit": "9" * 5000},
        ):
            assert await ask(http, "/keypairs", **wrong) == (400, "KPS.0002")
        for wrong in ({"marker": "a b"}, {"marker": "../x"}, {"marker": "n" * 256}, {"marker": "\x00"}, {"marker": "pair-1\n"}):
            assert await ask(http, "/keypairs", **wrong) == (400, "KPS.0002")
        assert (await ask(http, "/keypairs", marker=""))["page_info"]["current_count"] == len(NAMES)
        last = await ask(http, "/keypairs", marker=NAMES[-1])
        assert last == {"keypairs": [], "page_info": {"current_count": 0}}
        assert (await ask(http, "/keypairs", marker="zzz")) == last  # none of this name comes, and nothing after it

    through(settings, story)


def test_key_pairs_that_stay_are_listed_once_while_others_come_and_go(
    settings: Settings, made: dict[str, Any], store: Store, who: Caller, mine: Signed
) -> None:
    for name in NAMES:
        add_pair(store, who, name)
    ask = v3(made, mine)

    async def story(http: httpx.AsyncClient) -> None:
        first = await ask(http, "/keypairs", limit="3")
        marker = first["page_info"]["next_marker"]
        remove_pair(store, who, marker)
        remove_pair(store, who, NAMES[0])
        add_pair(store, who, "aaa")
        add_pair(store, who, "pair-3-and-a-half")
        rest = await ask(http, "/keypairs", limit="1000", marker=marker)
        names = [each["keypair"]["name"] for each in first["keypairs"] + rest["keypairs"]]
        assert names == [*NAMES[:4], "pair-3-and-a-half", *NAMES[4:]]

    through(settings, story)


@pytest.mark.parametrize("path", ["/running-tasks", "/failed-tasks"])
def test_tasks_to_the_end(settings: Settings, made: dict[str, Any], store: Store, who: Caller, mine: Signed, path: str) -> None:
    servers = store.add_servers([a_server(who, f"web-{number}") for number in range(5)])
    wanted = []
    for server in servers:
        if path == "/failed-tasks":
            wanted.append(failed(store, server).id)
            failed(store, server, operation="check")  # has no word in this API
        else:
            wanted.append(store.add_tasks([a_task(server), a_task(server, operation="check")])[0].id)
    ask = v3(made, mine)

    async def story(http: httpx.AsyncClient) -> None:
        # As the Terraform provider does: no parameters first, then an offset raised by what came, until nothing comes.
        found: list[str] = []
        for offset in (None, 5):
            page = await ask(http, path, **({} if offset is None else {"offset": str(offset)}))
            assert page["total"] == 5
            found += [each["task_id"] for each in page["tasks"]]
        assert found == wanted
        pages = [await ask(http, path, limit="2", offset=str(offset)) for offset in (0, 2, 4, 6)]
        assert [len(page["tasks"]) for page in pages] == [2, 2, 1, 0]
        assert [each["task_id"] for page in pages for each in page["tasks"]] == wanted
        assert {page["total"] for page in pages} == {5}
        # What is added comes last: a loop under way meets it, and nothing twice.
        more = failed(store, servers[0]) if path == "/failed-tasks" else store.add_tasks([a_task(servers[0])])[0]
        page = await ask(http, path, limit="2", offset="4")
        assert ([each["task_id"] for each in page["tasks"]], page["total"]) == ([wanted[4], more.id], 6)
        for wrong in ({"limit": "0"}, {"limit": "1001"}, {"offset": "-1"}, {"offset": "x"}, {"offset": "9" * 40}):
            assert await ask(http, path, **wrong) == (400, "KPS.0002")

    through(settings, story)


def test_a_failed_task_leaves_the_list_and_its_number_with_its_retry(
    settings: Settings, made: dict[str, Any], store: Store, who: Caller, mine: Signed
) -> None:
    (server,) = store.add_servers([a_server(who)])
    first, second = failed(store, server), failed(store, server)
    again = Task(
        str(uuid.uuid4()), who.tenant_id, who.user_id, server.id, server.name, "root", "bind", {}, now(), retry_of=first.id
    )
    store.add_tasks([again])
    ask = v3(made, mine)

    async def story(http: httpx.AsyncClient) -> None:
        page = await ask(http, "/failed-tasks")
        assert ([each["task_id"] for each in page["tasks"]], page["total"]) == ([second.id], 1)

    through(settings, story)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7])
def test_our_own_client_asks_page_after_page(
    settings: Settings, store: Store, who: Caller, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = store.add_servers([a_server(who, f"web-{number}", labels={"n": str(number % 2)}) for number in range(6)])
    for number in range(6):
        store.add_keypair(a_keypair(who, f"pair-{number}"), Sealed(b"x"))
    tasks = [failed(store, server) for server in servers]
    monkeypatch.setattr(call, "PAGE", size)

    async def story() -> None:
        from controller.app import in_process

        async with in_process(settings) as served, AsyncKpsClient.in_process(served) as client:
            assert [each["name"] for each in await client.servers()] == [each.name for each in servers]
            assert [each["name"] for each in await client.servers(every=True)] == [each.name for each in servers]
            assert [each["name"] for each in await client.servers(["n=1", "web-2"])] == ["web-1", "web-2", "web-3", "web-5"]
            assert [each["name"] for each in await client.keypairs()] == [f"pair-{number}" for number in range(6)]
            for which in ({}, {"failed": True}):
                found = await client.tasks(**which)
                assert [each["id"] for each in found] == [each.id for each in tasks]
                assert [each["number"] for each in found] == sorted(each["number"] for each in found)
            assert await client.tasks(running=True) == []

    asyncio.run(story())


@pytest.mark.parametrize("size", [1, 2, 5, 6, 1000])
def test_doors_are_listed_and_closed_to_the_last_one(
    settings: Settings, store: Store, who: Caller, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = store.add_servers([a_server(who, f"web-{number}") for number in range(6)])
    known = some_doors(store, who, servers[:1], "closed", ago=timedelta(days=2), one_time=True)
    over = some_doors(store, who, servers[:2], "closed", ago=timedelta(days=1))
    first = some_doors(store, who, servers[:4], "opening")  # nobody has begun to
    second = some_doors(store, who, servers[4:], "asked")
    wanted = [each.id for each in (*second, *first)]  # the newest first
    monkeypatch.setattr(call, "PAGE", size)
    monkeypatch.setattr(client_doors, "PAGE", size)
    monkeypatch.setattr(call, "IDS_PER_REQUEST", size)

    async def story() -> None:
        from controller.app import in_process

        async with in_process(settings) as served, AsyncKpsClient.in_process(served) as client:
            listed = [str(each["id"]) for each in await client.doors()]
            assert listed == [*wanted, known[0].id]
            assert [each["id"] for each in await client.doors(every=True)] == [*wanted, *(each.id for each in over + known)]
            of_one = [each["id"] for each in await client.doors(every=True, server="web-0")]
            assert of_one == [first[0].id, over[0].id, known[0].id]
            assert sorted(each["id"] for each in await client.doors([over[1].id, *wanted])) == sorted([over[1].id, *wanted])
            assert await client.doors([]) == []
            closed = await client.close_doors(wanted)
            assert {each["id"]: each["state"] for each in closed} == {
                **{each.id: "failed" for each in first},
                **{each.id: "refused" for each in second},
            }

    asyncio.run(story())


def some_doors(
    store: Store, who: Caller, servers: Sequence[Server], state: DoorState, *, ago: timedelta = timedelta(), **more: Any
) -> list[Door]:
    """Return new doors of one order, in the order in which they are listed."""
    asked = state == "asked"
    order = replace(an_order(who, store, asked=asked), created_at=store._now() - ago)
    doors = [a_door(order, each, **more) for each in servers]
    order = replace(order, doors=[each.id for each in doors])
    store.add_doors(order, doors, [] if asked else [a_door_task(each) for each in doors], "me", 30)
    if state == "closed":
        with store._engine.begin() as connection:
            connection.execute(update(tables.doors).where(tables.doors.c.order_id == order.id).values(state=state))
    return doors


@pytest.mark.parametrize("after", ["", "0" * 32])
def test_there_is_nothing_after_a_door_that_there_is_not(settings: Settings, made: Any, mine: Signed, after: str) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.get("/fleet/v1/doors", params={"after": after}, auth=mine)
        assert answer.status_code == (404 if after else 200)
        assert not after or answer.json()["code"] == "door_not_found"

    through(settings, story)


@pytest.mark.parametrize("path", ["/servers", "/keypairs", "/tasks", "/doors"])
def test_our_own_lists_are_bounded(settings: Settings, made: Any, mine: Signed, path: str) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        for wrong in ({"limit": "0"}, {"limit": "1001"}, {"after": "n" * 256}):
            answer = await http.get(f"/fleet/v1{path}", params=wrong, auth=mine)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid")

    through(settings, story)


def test_a_page_of_servers_names_what_is_bound_and_what_leads_there(
    settings: Settings, store: Store, who: Caller, mine: Signed
) -> None:
    first, second = store.add_servers([a_server(who, "a"), a_server(who, "b")])
    store.add_servers([a_server(who, "c", jumps=[first.id, second.id])])

    async def story(http: httpx.AsyncClient) -> None:
        (last,) = (await http.get("/fleet/v1/servers", params={"after": "b"}, auth=mine)).json()
        assert (last["name"], last["jump"], last["bindings"]) == ("c", ["a", "b"], [])

    through(settings, story)
