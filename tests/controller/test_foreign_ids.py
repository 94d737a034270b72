"""Other tenants' ids, and other users' private key pairs, on every call that there is: they are not there.

The calls come from the documents, and those from the routes: a new one that names something is tried too, or told of here.
"""

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

import controller.app
from controller.api.documents import calls
from controller.app import Application
from controller.model import FINAL
from controller.service.home import initialise
from controller.settings import Settings
from tests.controller.faces import answering
from tests.controller.test_gate import Signed

FLEET = "/fleet/v1"
# Where a name in the path is not somebody's: the quotas have the same names for all; tenants are the home's owner's alone.
NOBODYS = {"PUT /fleet/v1/quotas/{name}": 404, "POST /fleet/v1/tenants/{name}/access-key": 403}
# Another status, for what is not there as well: by contract, and because no tag is named.
OTHERWISE = {"DELETE /v3/{project_id}/failed-tasks/{task_id}": 400, "DELETE /fleet/v1/kms/keys/{key}/tags": 400}

# What sets a thing of the caller's own, under whatever name; that others have one of the name is not told either.
OWN = {"PUT /fleet/v1/policies/{name}"}


@dataclass
class Theirs:
    """What another tenant has, by what a path calls it: the segment before a parameter."""

    project: str
    ids: dict[str, list[str]]

    def of(self, path: str) -> Iterator[str]:
        """Give the path with what is theirs in each place."""
        parts = re.findall(r"([^/{]+)/\{(\w+)\}", path)
        longest = max(len(self.ids[part]) for part, _ in parts)
        for number in range(longest):
            given = path
            for part, name in parts:
                values = self.ids[part]
                given = given.replace(f"{{{name}}}", values[min(number, len(values) - 1)], 1)
            yield given


@dataclass
class Place:
    ours: httpx.AsyncClient
    theirs: Theirs
    project: str
    documents: dict[str, Any]
    settings: Settings

    async def ask(self, method: str, path: str, body: Any, **more: Any) -> httpx.Response:
        """Ask as our administrator, or as somebody else (auth)."""
        return (
            await self.ours.request(method, path, **more)
            if body is None
            else await self.ours.request(method, path, json=body, **more)
        )

    def calls(self) -> Iterator[tuple[str, str, Any]]:
        """Give each call: method, path, and a body as its document shows one."""
        for document in self.documents.values():
            for name, call in calls(document):
                method, _, path = name.partition(" ")
                schema = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
                yield method, path, None if schema is None else example(document, schema)


def example(document: Any, schema: Any) -> Any:
    """Return a body that fits."""
    if "anyOf" in schema:
        return example(document, schema["anyOf"][0])
    if schema.get("type") == "array":
        return [example(document, schema["items"])] if schema["items"] else []
    component = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return component.get("examples", [{}])[0]


Told = Callable[[Callable[[Place], Awaitable[None]]], None]


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Place]:
    """Open a home with two tenants that have one of everything; neither is that of the home's owner."""
    served = Application(settings)
    async with served.lifespan():
        gated = httpx.ASGITransport(served.networked, client=("192.0.2.7", 4711))
        local = httpx.ASGITransport(served.local)
        async with httpx.AsyncClient(transport=local, base_url="http://kps") as owner:
            other = (await owner.post(f"{FLEET}/tenants", json={"name": "theirs"})).json()
            own = (await owner.post(f"{FLEET}/tenants", json={"name": "ours"})).json()
            documents = {path: (await owner.get(path)).json() for path in (f"{FLEET}/openapi.json", "/v3/openapi.json")}
        by = Signed(other["access_key"], other["secret_key"])
        async with httpx.AsyncClient(transport=gated, base_url="http://kps", auth=by) as http:
            theirs = Theirs(other["projects"][0], await one_of_everything(http, "their"))
        by = Signed(own["access_key"], own["secret_key"])
        async with httpx.AsyncClient(transport=gated, base_url="http://kps", auth=by) as http:
            await one_of_everything(http, "our")
            yield Place(http, theirs, own["projects"][0], documents, settings)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Run stories in such a home, which each leaves as it was."""
    settings = Settings(home=tmp_path_factory.mktemp("foreign") / "home", requests_at_once=100_000)
    initialise(settings)
    with pytest.MonkeyPatch.context() as patched, asyncio.Runner() as runner:
        patched.setattr(controller.app, "dispatching", answering({}, {}))
        place = opened(settings)
        home = runner.run(place.__aenter__())
        yield lambda story: runner.run(story(home))
        runner.run(place.__aexit__(None, None, None))


async def one_of_everything(http: httpx.AsyncClient, whose: str) -> dict[str, list[str]]:
    """Make one of everything, and return by what each is named in paths."""

    async def post(path: str, body: Any) -> Any:
        answer = await http.post(f"{FLEET}{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    pairs = [(await post("/keypairs", {"name": f"{whose}-{each}", "scope": each}))["name"] for each in ("account", "private")]
    server = await post("/servers", {"name": f"{whose}-server", "host": "192.0.2.1"})
    (task,) = await post("/operations", {"operation": "check", "servers": [server["name"]]})
    (plan,) = await post("/plans", {"operation": "bind", "servers": [server["name"]], "keypair": pairs[0]})
    rollout = await post("/rollouts", {"operation": "check", "servers": [server["name"]]})
    policy = f"{whose}-policy"
    answer = await http.put(f"{FLEET}/policies/{policy}", json={"servers": "of=nobody", "max_age_days": 90})
    assert answer.is_success, answer.text
    user = await post("/users", {"name": f"{whose}-user"})
    key = await post("/kms/keys", {"alias": f"{whose}-key"})
    await post("/kms/aliases", {"alias": f"alias/{whose}", "key": key["id"]})
    grant = await post(f"/kms/keys/{key['id']}/grants", {"grantee": user["name"], "operations": ["encrypt-data"]})
    access_key = await post("/access-keys", {"user": user["name"]})
    secrets = [{"name": f"{whose}-{each}-secret", "scope": each, "value": "of no use"} for each in ("account", "private")]
    kept = [(await post("/secrets", each))["name"] for each in secrets]
    asked = await post("/doors", {"servers": [server["name"]], "reason": "tried", "seconds": 600})
    temporary, token = await post("/temporary-keys", {}), await post("/tokens", {})
    await until_still(http)
    return {
        "keypairs": pairs,
        "servers": [server["id"], server["name"]],
        "tasks": [task["id"]],
        "rollouts": [rollout["id"]],
        "secrets": kept,
        "stages": [f"{whose}-stage"],
        "doors": [each["id"] for each in asked["doors"]],
        "door-orders": [each["id"] for each in asked["orders"]],
        "policies": [policy],
        "failed-tasks": [task["id"]],
        "plans": [plan["id"]],
        "users": [user["id"], user["name"]],
        "access-keys": [access_key["access_key"]],
        "keys": [key["id"], key["alias"]],
        "grants": [grant["id"]],
        "temporary-keys": [temporary["access_key"]],
        "tokens": [token["id"]],
        "tenants": ["theirs"],
        "quotas": ["of-nobody"],
    }


async def until_still(http: httpx.AsyncClient) -> None:
    """Return once no task and no rollout of the tenant goes on: what is written for them is of no call."""
    after = 0
    while True:
        tasks, rollouts = [(await http.get(f"{FLEET}/{each}")).json() for each in ("tasks", "rollouts")]
        if all(each["status"] in FINAL for each in tasks) and all(each["state"] != "running" for each in rollouts):
            return
        news = (await http.get(f"{FLEET}/events", params={"after": after, "wait": 5})).json()
        after = max([after, *(each["id"] for each in news)])


def rows(settings: Settings, words: set[str]) -> set[str]:
    """All that is stored with one of these words in it, save that somebody was refused it."""
    with contextlib.closing(sqlite3.connect(settings.database)) as connection:
        lines = [line for line in connection.iterdump() if "request_refused" not in line]
    return {line for line in lines if any(word in line for word in words)}


def nobodys(path: str, theirs: Theirs) -> str:
    """Return the path with what is theirs made into what nobody has, of the same form."""
    for each in {value for values in theirs.ids.values() for value in values}:
        path = path.replace(f"/{each}", f"/{each[:-1]}{'0' if each[-1] != '0' else '1'}")
    return path


def without(answer: httpx.Response, given: str) -> tuple[int, str]:
    """What an answer says, whatever was asked for."""
    told = answer.json()
    told.pop("request_id", None)
    text = json.dumps(told)
    for part in re.split(r"[/?=&]", given):
        if len(part) > 3:
            text = text.replace(part, "X")
    return answer.status_code, text


def test_another_tenants_ids_are_not_there_on_any_call(told: Told) -> None:
    async def story(place: Place) -> None:
        words = {each for part in ("servers", "users", "keys", "access-keys") for each in place.theirs.ids[part]}
        before = rows(place.settings, words)
        tried = 0
        for method, path, body in place.calls():
            if "{" not in path.replace("{project_id}", ""):
                continue
            name = f"{method} {path}"
            if name in OWN:
                continue
            for given in place.theirs.of(path.replace("{project_id}", place.project)):
                answer = await place.ask(method, given, body)
                assert answer.status_code == NOBODYS.get(name, OTHERWISE.get(name, 404)), (name, given, answer.text)
                # No word of it tells that it is there: what there is not is refused in the same words.
                absent = nobodys(given, place.theirs)
                assert without(await place.ask(method, absent, body), absent) == without(answer, given), (name, given)
                tried += 1
        assert tried > 70
        assert rows(place.settings, words) == before

    told(story)


def test_another_tenants_project_is_not_there_on_any_call(told: Told) -> None:
    async def story(place: Place) -> None:
        tried = 0
        for method, path, body in place.calls():
            if "{project_id}" in path:
                given = re.sub(r"\{\w+\}", "our-account", path.replace("{project_id}", place.theirs.project))
                answer = await place.ask(method, given, body)
                assert (answer.status_code, answer.json()["error_code"]) == (404, "APIGW.0101"), (method, path)
                tried += 1
        assert tried == 18

    told(story)


def named(theirs: Theirs) -> list[tuple[str, str, Any, set[int]]]:
    """Calls that name what is theirs elsewhere than in the path, and what is answered. 200: an empty list."""
    ids = theirs.ids
    server, user, key, pair = ids["servers"][0], ids["users"][1], ids["keys"][0], ids["keypairs"][0]
    v3 = "/v3/{project}"
    return [
        ("POST", f"{FLEET}/operations", {"operation": "check", "servers": [server]}, {404}),
        ("POST", f"{FLEET}/operations", {"operation": "check", "servers": [ids["servers"][1]]}, {404}),
        ("POST", f"{FLEET}/operations", {"operation": "bind", "servers": ["our-server"], "keypair": pair}, {404}),
        ("POST", f"{FLEET}/keypairs", {"name": "x", "master_key": key}, {404}),
        ("POST", f"{FLEET}/keypairs/our-account/move", {"master_key": key}, {404}),
        ("POST", f"{FLEET}/servers", {"name": "x", "host": "192.0.2.9", "jump": [ids["servers"][1]]}, {404}),
        ("PATCH", f"{FLEET}/servers/our-server", {"jump": [ids["servers"][1]]}, {404}),
        ("POST", f"{FLEET}/access-keys", {"user": user}, {404}),
        ("GET", f"{FLEET}/access-keys?user={user}", None, {404}),
        ("GET", f"{FLEET}/quotas?user={user}", None, {404}),
        ("GET", f"{FLEET}/tokens?user={user}", None, {404}),
        ("POST", f"{FLEET}/tokens", {"user": user}, {404}),
        ("GET", f"{FLEET}/temporary-keys?user={user}", None, {404}),
        ("POST", f"{FLEET}/temporary-keys", {"access_key": ids["access-keys"][0]}, {404}),
        ("PUT", f"{FLEET}/quotas/private_keypairs", {"limit": 1, "user": user}, {404}),
        ("GET", f"{FLEET}/tasks?id={ids['tasks'][0]}", None, {200, 404}),
        ("GET", f"{FLEET}/events?task={ids['tasks'][0]}", None, {200, 404}),
        ("POST", f"{FLEET}/plans", {"operation": "bind", "servers": ["our-server"], "keypair": pair}, {404}),
        ("GET", f"{FLEET}/bindings?server={server}", None, {200, 404}),
        ("GET", f"{FLEET}/bindings?keypair={pair}", None, {200, 404}),
        ("GET", f"{FLEET}/logins?server={server}", None, {200, 404}),
        ("GET", f"{FLEET}/audit/events?server={server}", None, {200, 404}),
        ("GET", f"{FLEET}/audit/events?user={user}", None, {200, 404}),
        ("GET", f"{FLEET}/audit/events?keypair={pair}", None, {200, 404}),
        ("GET", f"{FLEET}/audit/events?task={ids['tasks'][0]}", None, {200, 404}),
        ("GET", f"{FLEET}/servers?select={server}", None, {404}),
        ("GET", f"{FLEET}/kms/keys?named={key}", None, {404}),
        ("GET", f"{FLEET}/kms/aliases?key={key}", None, {404}),
        ("POST", f"{FLEET}/kms/aliases", {"alias": "alias/x", "key": key}, {404}),
        ("PUT", f"{FLEET}/kms/aliases", {"alias": "alias/their", "key": "our-key"}, {404}),
        ("DELETE", f"{FLEET}/kms/aliases?alias=alias/their", None, {404}),
        ("POST", f"{FLEET}/kms/keys/our-key/grants", {"grantee": user, "operations": ["encrypt-data"]}, {400}),
        ("POST", f"{FLEET}/kms/decrypt", {"ciphertext": "AAAA", "key": key}, {400, 404}),
        ("POST", f"{FLEET}/kms/re-encrypt", {"ciphertext": "AAAA", "destination": key}, {400, 404}),
        ("POST", f"{v3}/keypairs/private-key/export", {"keypair": {"name": pair}}, {404}),
        ("POST", f"{v3}/keypairs/private-key/batch-export", [{"keypair": {"name": pair}}], {404}),
        ("POST", f"{v3}/keypairs/disassociate", {"server": {"id": server}}, {400}),
        ("POST", f"{v3}/keypairs/associate", {"keypair_name": "our-account", "server": {"id": server}}, {400}),
    ]  # fmt: skip


def test_another_tenants_ids_elsewhere_in_a_request_are_not_there(told: Told) -> None:
    async def story(place: Place) -> None:
        words = {each for part in ("servers", "users", "keys", "access-keys") for each in place.theirs.ids[part]}
        before = rows(place.settings, words)
        for method, path, body, statuses in named(place.theirs):
            given = path.replace("{project}", place.project)
            answer = await place.ask(method, given, body)
            assert answer.status_code in statuses, (method, path, body, answer.text)
            assert answer.status_code != 200 or answer.json() == [], (method, path)
        assert rows(place.settings, words) == before

    told(story)


def test_what_lists_shows_nothing_of_another_tenant(told: Told) -> None:
    async def story(place: Place) -> None:
        theirs = {each for values in place.theirs.ids.values() for each in values} | {place.theirs.project}
        tried = 0
        for method, path, _ in place.calls():
            if (
                method == "GET" and "{" not in path.replace("{project_id}", "") and not path.endswith("/stream")
            ):  # which has no end
                answer = await place.ours.get(path.replace("{project_id}", place.project))
                # The doctor looks at the whole home, and is asked in it alone.
                assert answer.status_code == (403 if path == f"{FLEET}/doctor" else 200), (path, answer.text)
                assert not [each for each in theirs if f'"{each}"' in answer.text], path
                tried += 1
        assert tried > 20

    told(story)


def test_another_users_private_key_pair_is_not_there_on_any_call(told: Told) -> None:
    async def story(place: Place) -> None:
        access = (await place.ours.post(f"{FLEET}/access-keys", json={"user": "our-user"})).json()
        by = Signed(access["access_key"], access["secret_key"])
        tried = 0
        for method, path, body in place.calls():
            if "/keypairs/{" in path:
                given = re.sub(r"\{\w+\}", "our-private", path.replace("{project_id}", access["project_id"]))
                answer = await place.ask(method, given, body, auth=by)
                assert answer.status_code == 404, (method, path, answer.text)
                tried += 1
        one = {"keypair": {"name": "our-private"}}
        for call, wanted in (("export", one), ("batch-export", [one])):
            answer = await place.ours.post(f"/v3/{access['project_id']}/keypairs/private-key/{call}", json=wanted, auth=by)
            assert answer.status_code == 404
        assert "our-private" not in (await place.ours.get(f"{FLEET}/keypairs", auth=by)).text
        assert (await place.ours.get(f"{FLEET}/keypairs/our-private")).status_code == 200
        assert tried > 10

    told(story)
