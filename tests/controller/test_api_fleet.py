"""The fleet API through ASGI, on a real store: what it answers, what it refuses, and what it never says."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

import controller.app
from controller.api.fleet import operations
from controller.app import in_process
from controller.bodies import BODY_BYTES
from controller.client import AsyncKpsClient, Refused, Unreachable
from controller.model import Outcome
from controller.settings import Settings
from tests.controller.faces import TIMED_OUT, Given, answering

PROBLEM = {"type", "status", "code", "detail", "evidence"}
SECRET = "correct horse battery staple"

Asked = Callable[[Callable[[httpx.AsyncClient], Awaitable[None]]], None]


@pytest.fixture
def given() -> Given:
    return {}


@pytest.fixture
def outcomes() -> dict[str, Outcome]:
    return {"web-2": TIMED_OUT}


@pytest.fixture
def asked(settings: Settings, made: Any, outcomes: dict[str, Outcome], given: Given, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Run a coroutine with a client of the open application; there are two servers and a key pair."""
    monkeypatch.setattr(controller.app, "dispatching", answering(outcomes, given))

    @asynccontextmanager
    async def client() -> AsyncIterator[httpx.AsyncClient]:
        async with (
            in_process(settings) as served,
            httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://kps/fleet/v1") as http,
        ):
            for name in ("web-1", "web-2"):
                assert (await http.post("/servers", json={"name": name, "host": "192.0.2.1"})).status_code == 201
            assert (await http.post("/keypairs", json={"name": "ops"})).status_code == 201
            yield http

    def run(story: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        async def told() -> None:
            async with client() as http:
                await story(http)

        asyncio.run(told())

    return run


async def ended(http: httpx.AsyncClient, ids: list[str]) -> list[dict[str, Any]]:
    """Wait for tasks by long polls, and return them."""
    running, after = set(ids), 0
    while running:
        for event in (await http.get("/events", params={"after": after, "wait": 5, "task": ids})).json():
            after = event["id"]
            if event["kind"] == "task_finished":
                running.discard(event["task_id"])
    found: list[dict[str, Any]] = (await http.get("/tasks", params={"id": ids})).json()
    return found


def test_an_operation_answers_at_once_and_is_followed_by_its_events(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.post("/operations", json={"operation": "bind", "all": True, "keypair": "ops"})
        assert answer.status_code == 202
        tasks = await ended(http, [task["id"] for task in answer.json()])
        assert [(task["server"], task["status"]) for task in tasks] == [("web-1", "succeeded"), ("web-2", "failed")]
        kinds = [event["kind"] for event in (await http.get("/events", params={"task": tasks[0]["id"]})).json()]
        assert kinds == ["task_ready", "task_running", "task_phase", "task_finished"]

    asked(story)


def test_events_come_in_order_and_only_after_the_one_named(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        events = (await http.get("/events")).json()
        ids = [event["id"] for event in events]
        assert ids == sorted(ids)
        assert set(events[0]) == {
            "id", "number", "user_id", "task_id", "server_id", "keypair_id", "kind", "phase", "detail", "at",
        }  # fmt: skip
        assert (await http.get("/events", params={"after": ids[-1]})).json() == []
        assert (await http.get("/events", params={"after": ids[0]})).json() == events[1:]

    asked(story)


def test_a_long_poll_is_woken_by_what_happens(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        last = (await http.get("/events")).json()[-1]["id"]
        waiting = asyncio.create_task(http.get("/events", params={"after": last, "wait": 30}))
        await http.post("/keypairs", json={"name": "another"})
        news = (await asyncio.wait_for(waiting, 10)).json()
        assert [event["kind"] for event in news] == ["keypair_created"]

    asked(story)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nothing", None, 404, "not_found"),
        ("PUT", "/servers", {}, 405, "method_not_allowed"),
        ("GET", "/servers/nobody", None, 404, "server_not_found"),
        ("GET", "/servers?select=nobody", None, 404, "server_not_found"),
        ("GET", "/servers?select=web-1&all=true", None, 400, "selection_twice"),
        ("GET", "/tasks/0", None, 404, "task_not_found"),
        ("GET", "/events?wait=31", None, 422, "invalid"),
        ("GET", "/events?after=-1", None, 422, "invalid"),
        ("GET", f"/events?after={2**63}", None, 422, "invalid"),
        ("POST", "/servers", {"name": "web-1", "host": "192.0.2.1"}, 409, "server_exists"),
        ("POST", "/servers", {"name": "x", "host": "192.0.2.1", "tenant_id": "other"}, 422, "invalid"),
        ("POST", "/servers", {"name": "x", "host": "192.0.2.1", "id": "mine"}, 422, "invalid"),
        ("POST", "/servers", {"name": "x", "host": "192.0.2.1", "port": 65536}, 422, "invalid"),
        ("POST", "/servers", {"name": "x" * 256, "host": "192.0.2.1"}, 422, "invalid"),
        ("POST", "/keypairs", {"name": "x", "type": "dsa"}, 422, "invalid"),
        ("POST", "/keypairs", {"name": "x", "owner_id": "other"}, 422, "invalid"),
        ("POST", "/keypairs", {"name": "a\nssh-ed25519 AAAA"}, 400, "name_unusable"),
        ("POST", "/operations", {"operation": "destroy", "all": True}, 422, "invalid"),
        ("POST", "/operations", {"operation": "bind", "keypair": "ops"}, 400, "selection_empty"),
        ("POST", "/operations", {"operation": "bind", "servers": ["web-1"]}, 400, "keypair_missing"),
        ("POST", "/operations", {"operation": "bind", "servers": ["web-1"], "keypair": "no"}, 404, "keypair_not_found"),
        ("POST", "/operations", {"operation": "reset", "servers": ["web-1"], "keypair": "ops"}, 400, "root_missing"),
        ("POST", "/operations", {"operation": "check", "all": True, "login": "../../etc/x\0"}, 400, "login_unusable"),
        ("POST", "/operations", {"operation": "unbind", "all": True, "accept_lockout": ["a b"]}, 400, "login_unusable"),
    ],
)
def test_a_refusal_is_a_problem_document(asked: Asked, method: str, path: str, body: Any, status: int, code: str) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.request(method, path, json=body)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert set(answer.json()) == PROBLEM
        assert (answer.json()["status"], answer.json()["code"]) == (status, code)
        assert answer.json()["detail"]

    asked(story)


def test_a_credential_for_a_server_that_was_not_selected_is_refused(asked: Asked, given: Given) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        body = {
            "operation": "bind",
            "servers": ["web-1"],
            "keypair": "ops",
            "credentials": {"web-1": {"password": SECRET}, "web-2": {"password": SECRET}},
        }
        answer = await http.post("/operations", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "credential_for_others")
        assert (await http.get("/tasks")).json() == []

    asked(story)
    assert given == {}


FOREIGN = {
    "bind": ("root", "force", "set_password", "close_password_login"),
    "replace": ("root", "force", "set_password", "keep_password_login"),
    "unbind": ("keypair", "root", "force", "set_password", "fix_permissions"),
    "reset": ("force", "plan", "revoke", "accept_lockout", "accept_unproved"),
    "password-login-enable": ("keypair", "root", "accept_lockout", "accept_unproved", "fix_permissions"),
    "password-login-disable": ("keypair", "root", "force", "fix_permissions"),
    "password-login-status": ("keypair", "root", "force", "accept_lockout", "accept_unproved"),
    "check": ("plan", "root", "force", "set_password"),
}
SOMETHING = {"root": "/mnt", "keypair": "ops", "accept_lockout": ["root"]}


@pytest.mark.parametrize(("operation", "option"), [(one, option) for one, options in FOREIGN.items() for option in options])
def test_an_option_of_another_operation_is_refused(asked: Asked, operation: str, option: str) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        needed = {"keypair": "ops"} if operation in ("bind", "replace", "reset") else {}
        needed |= {"root": "/mnt"} if operation == "reset" else {}
        answer = await http.post(
            "/operations", json={"operation": operation, "all": True, **needed, option: SOMETHING.get(option, True)}
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "option_unknown")
        assert option in answer.json()["detail"]
        assert (await http.get("/tasks")).json() == []

    asked(story)


def test_passwords_are_not_kept_and_closed_by_one_order(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        both = {"keep_password_login": True, "close_password_login": True}
        order = {"operation": "reset", "all": True, "keypair": "ops", "root": "/mnt"}
        answer = await http.post("/operations", json=order | both)
        assert (answer.status_code, answer.json()["code"]) == (400, "options_contradict")
        assert (await http.get("/tasks")).json() == []

    asked(story)


def test_the_last_event_that_can_be_is_asked_for(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        assert (await http.get("/events", params={"after": 2**63 - 1})).json() == []

    asked(story)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"host": "x"}, "name: is missing"),
        ({"name": "x" * 256, "host": "x"}, "name: at most 255 characters"),
        ({"name": "x", "host": "x", "port": "many"}, "port: must be a whole number"),
        ({"name": "x", "host": "x", "port": 65536}, "port: at most 65535"),
        ({"name": "x", "host": "x", "hots": "y"}, "hots: there is no such field"),
        ({"name": "", "host": ["x"]}, "name: must not be empty; host: must be text"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(asked: Asked, body: Any, said: str) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        assert (await http.post("/servers", json=body)).json()["detail"] == said

    asked(story)


def test_a_secret_too_long_is_said_in_plain_words(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        body = {"operation": "check", "all": True, "credentials": {"web-1": {"password": SECRET * 100}}}
        said = (await http.post("/operations", json=body)).json()["detail"]
        assert said == "credentials.web-1.password: at most 1024 characters"

    asked(story)


def test_one_private_key_opens_each_server_that_has_none_of_its_own(asked: Asked, given: Given) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        shared = {"identity": "shared key", "passphrase": "shared phrase"}
        credentials = {"web-1": {"password": "one"}, "web-2": {"identity": "own key"}}
        body = {"operation": "bind", "all": True, "keypair": "ops", "credentials": credentials, **shared}
        await ended(http, [task["id"] for task in (await http.post("/operations", json=body)).json()])

    asked(story)
    one, two = given["web-1"], given["web-2"]
    assert one is not None
    assert two is not None
    assert [secret and secret.open() for secret in (one.password, one.identity, one.passphrase)] == [
        b"one", b"shared key", b"shared phrase",
    ]  # fmt: skip
    assert [secret and secret.open() for secret in (two.password, two.identity, two.passphrase)] == [None, b"own key", None]


def test_an_import_is_checked_without_adding_anything(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        good = {"name": "new", "host": "192.0.2.1"}
        for servers, status in (([good], 201), ([good, {"name": "x" * 300}, "nonsense"], 400)):
            answer = await http.post("/servers/import", params={"check": True}, json=servers)
            assert answer.status_code == status
        assert [item["place"] for item in answer.json()["evidence"]["items"]] == [1, 2]
        assert len((await http.get("/servers")).json()) == 2

    asked(story)


def test_each_server_is_given_its_own_credential(asked: Asked, given: Given) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        credentials = {"web-1": {"password": "one"}, "web-2": {"identity": "key", "passphrase": "phrase"}}
        body = {"operation": "bind", "all": True, "keypair": "ops", "credentials": credentials}
        await ended(http, [task["id"] for task in (await http.post("/operations", json=body)).json()])

    asked(story)
    one, two = given["web-1"], given["web-2"]
    assert one is not None
    assert two is not None
    assert one.password is not None
    assert one.password.open() == b"one"
    assert (one.identity, one.passphrase, two.password) == (None, None, None)
    assert two.identity is not None
    assert two.passphrase is not None
    assert (two.identity.open(), two.passphrase.open()) == (b"key", b"phrase")


@pytest.mark.parametrize(
    "credentials",
    [
        {"web-1": {"password": SECRET, "pasword": SECRET}},
        {"web-1": SECRET},
        {"web-1": {"password": [SECRET]}},
        {"web-1": {"password": SECRET * 100}},
        {"web-9": {"password": SECRET}},
        SECRET,
    ],
)
def test_no_refusal_repeats_a_secret(asked: Asked, settings: Settings, credentials: Any) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        body = {"operation": "bind", "servers": ["web-1"], "keypair": "ops", "credentials": credentials}
        answer = await http.post("/operations", json=body)
        assert answer.status_code in (400, 422)
        assert SECRET not in answer.text

    asked(story)
    for path in settings.home.iterdir():
        assert SECRET.encode() not in path.read_bytes()


def test_no_secret_is_kept_with_a_task(asked: Asked, settings: Settings) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        body = {
            "operation": "bind",
            "servers": ["web-2"],
            "keypair": "ops",
            "credentials": {"web-2": {"password": SECRET}},
        }
        (task,) = await ended(http, [task["id"] for task in (await http.post("/operations", json=body)).json()])
        answer = await http.post(f"/tasks/{task['id']}/retry", json={"credential": {"password": SECRET}})
        assert answer.status_code == 202
        await ended(http, [answer.json()["id"]])
        for route in ("/tasks", "/events", "/servers"):
            assert SECRET not in (await http.get(route)).text
        for path in settings.home.iterdir():
            assert SECRET.encode() not in path.read_bytes()

    asked(story)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_is_read_up_to_its_cap(asked: Asked, chunked: bool) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 1024):
            yield b" " * 1024

    async def story(http: httpx.AsyncClient) -> None:
        for size, status in ((BODY_BYTES, 422), (BODY_BYTES + 1024, 413)):
            content: Any = chunks(size) if chunked else b" " * size
            answer = await http.post("/keypairs", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == status
            assert set(answer.json()) == PROBLEM

    asked(story)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"null", b'"x"', b'{"name": NaN}', b"{}", b""], ids=range(8))
def test_what_is_not_a_request_is_refused(asked: Asked, content: bytes) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.post("/keypairs", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422)
        assert set(answer.json()) == PROBLEM

    asked(story)


def test_no_cache_keeps_an_answer(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        for method, path in (("POST", "/keypairs/ops/export"), ("GET", "/servers"), ("GET", "/nothing")):
            answer = await http.request(method, path)
            assert answer.headers.get_list("cache-control")
            assert set(answer.headers.get_list("cache-control")) == {"no-store"}

    asked(story)


def test_an_import_is_all_or_nothing(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        servers = [{"name": f"new-{number}", "host": "192.0.2.1"} for number in range(40)]
        wrong = [*servers[:20], {"name": "web-1", "host": "192.0.2.1"}, *servers[20:], {"name": "-", "host": "x"}]
        answer = await http.post("/servers/import", json=wrong)
        assert (answer.status_code, answer.json()["code"]) == (400, "import_refused")
        assert [(item["place"], item["code"]) for item in answer.json()["evidence"]["items"]] == [
            (20, "server_exists"),
            (41, "name_unusable"),
        ]
        assert len((await http.get("/servers")).json()) == 2
        answer = await http.post("/servers/import", json=servers)
        assert [server["name"] for server in answer.json()] == [server["name"] for server in servers]
        assert len((await http.get("/servers")).json()) == 42

    asked(story)


def test_an_import_that_names_a_server_twice_adds_none(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.post("/servers/import", json=[{"name": "new", "host": "192.0.2.1"}] * 2)
        assert answer.status_code == 400
        assert len((await http.get("/servers")).json()) == 2

    asked(story)


def test_a_one_time_password_is_new_each_time(asked: Asked, given: Given, tmp_path: Any) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        body = {"operation": "reset", "all": True, "keypair": "ops", "root": str(tmp_path), "set_password": True}
        answer = (await http.post("/operations", json=body)).json()
        tasks = await ended(http, [task["id"] for task in answer])
        assert len({task["password"] for task in answer}) == 2
        assert all("password" not in task for task in tasks)
        failed = next(task for task in tasks if task["status"] == "failed")
        again = (await http.post(f"/tasks/{failed['id']}/retry", json={})).json()
        await ended(http, [again["id"]])
        assert again["password"] not in {task["password"] for task in answer}
        credential = given["web-2"]
        assert credential is not None
        assert credential.password is not None
        assert credential.password.open().decode() == again["password"]

    asked(story)


def test_a_password_given_to_a_reset_is_never_set(asked: Asked, given: Given, tmp_path: Any) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        body: dict[str, Any] = {"operation": "reset", "servers": ["web-2"], "keypair": "ops", "root": str(tmp_path)}
        answer = await http.post("/operations", json=body | {"credentials": {"web-2": {"password": SECRET}}})
        assert (answer.status_code, answer.json()["code"]) == (400, "credential_not_used")
        (failed,) = await ended(http, [(await http.post("/operations", json=body)).json()[0]["id"]])
        answer = await http.post(f"/tasks/{failed['id']}/retry", json={"credential": {"password": SECRET}})
        assert (answer.status_code, answer.json()["code"]) == (400, "credential_not_used")

    asked(story)
    assert given == {"web-2": None}


def test_one_time_passwords_can_be_read_out() -> None:
    password = operations.one_time_password()
    assert len(password) == operations.ONE_TIME_PASSWORD_CHARACTERS
    assert set(password) <= set(operations.LEGIBLE)
    assert not set(operations.LEGIBLE) & set("0O1lI")


def test_the_schema_describes_the_routes(asked: Asked) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        schema = (await http.get("/openapi.json")).json()
        assert {
            "/fleet/v1/keypairs",
            "/fleet/v1/keypairs/import",
            "/fleet/v1/keypairs/{name}",
            "/fleet/v1/keypairs/{name}/export",
            "/fleet/v1/servers",
            "/fleet/v1/servers/{name}",
            "/fleet/v1/operations",
            "/fleet/v1/tasks",
            "/fleet/v1/tasks/{id}",
            "/fleet/v1/tasks/{id}/retry",
            "/fleet/v1/events",
            "/fleet/v1/health",
        } <= set(schema["paths"])

    asked(story)


def answers(handler: Callable[[httpx.Request], httpx.Response]) -> AsyncKpsClient:
    return AsyncKpsClient(httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://kps/fleet/v1"))


def test_the_client_tells_a_refusal_from_silence() -> None:
    problem = {"code": "server_exists", "detail": "taken", "status": 409, "evidence": {"server": "x"}}

    async def story() -> None:
        with pytest.raises(Refused) as refused:
            await answers(lambda _: httpx.Response(409, json=problem)).servers()
        assert (refused.value.status, refused.value.code, refused.value.message) == (409, "server_exists", "taken")
        assert refused.value.evidence == {"server": "x"}
        for odd in (b"<html>", b"[]", b"{}", json.dumps({"code": "x"}).encode()):
            with pytest.raises(Refused) as refused:
                await answers(lambda _, odd=odd: httpx.Response(502, content=odd)).servers()  # type: ignore[misc]
            assert refused.value.code == "unexpected"

        def silent(_: httpx.Request) -> httpx.Response:
            raise httpx.ReadError("gone")

        with pytest.raises(Unreachable, match="gone"):
            await answers(silent).servers()

    asyncio.run(story())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../tasks"])
def test_the_client_never_leaves_the_path_of_what_was_named(name: str) -> None:
    def asked_anyway(request: httpx.Request) -> httpx.Response:
        raise AssertionError(request.url)

    async def story() -> None:
        client = answers(asked_anyway)
        for verb in (client.server, client.remove_server, client.keypair, client.delete_keypair, client.delete_task):
            with pytest.raises(Refused) as refused:
                await verb(name)
            assert refused.value.status == 404

    asyncio.run(story())


def test_a_question_for_many_tasks_is_asked_in_parts() -> None:
    asked_for: list[int] = []

    def some(request: httpx.Request) -> httpx.Response:
        ids = request.url.params.get_list("id")
        asked_for.append(len(ids))
        assert len(str(request.url)) < 16_000
        return httpx.Response(200, json=[{"id": one} for one in ids])

    async def story() -> None:
        ids = [f"6d4115c3-f2db-4c8a-875f-{number:012}" for number in range(501)]
        assert [task["id"] for task in await answers(some).tasks(ids)] == ids

    asyncio.run(story())
    assert asked_for == [200, 200, 101]
