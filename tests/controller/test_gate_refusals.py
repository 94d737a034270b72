"""What the gate turns away, when, and what it tells: before the body is read, all in the same words, and not too often."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from controller import bodies, signing
from controller.app import Application
from controller.bodies import NoRoom, Room
from controller.model import Secret
from controller.pace import Failures
from controller.service.people import Users
from controller.service.temporary import TemporaryKeys, Tokens
from controller.settings import Settings
from tests.controller.test_gate import Signed
from tests.controller.test_request_signing import mutated_from

Asgi = Callable[..., Awaitable[None]]
PLENTY = {"failures_per_second": 100_000, "failures_at_once": 1_000_000, "requests_at_once": 1_000_000}


@pytest.fixture
def mine(made: dict[str, Any]) -> Signed:
    return Signed(made["access_key"], made["secret_key"])


def through(settings: Settings, story: Callable[[Application, Asgi], Awaitable[None]], **more: Any) -> None:
    """Run a story with the application behind its gate."""

    async def told() -> None:
        served = Application(settings.model_copy(update=more))
        async with served.lifespan():
            await story(served, served.networked)

    asyncio.run(told())


def client(gate: Any, address: str = "192.0.2.7") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate, client=(address, 4711)), base_url="http://kps")


async def asked(
    gate: Asgi, request: signing.Request, body: list[bytes] | None = None, address: str = "192.0.2.7"
) -> tuple[int, bytes, dict[bytes, bytes], int]:
    """Ask by the very bytes. Returns status, body and headers of the answer, and how many pieces of the body were read."""
    pieces = [request.body] if body is None else body
    read = 0
    answer: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal read
        if read == len(pieces):
            return {"type": "http.disconnect"}
        read += 1
        return {"type": "http.request", "body": pieces[read - 1], "more_body": read < len(pieces)}

    async def send(message: dict[str, Any]) -> None:
        answer.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": request.method,
        "path": request.path.decode(),
        "raw_path": request.path,
        "query_string": request.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers],
        "client": (address, 4711),
        "server": ("kps", 80),
        "state": {},
    }
    await gate(scope, receive, send)
    text = b"".join(each.get("body", b"") for each in answer[1:])
    return answer[0]["status"], text, dict(answer[0]["headers"]), read


def signed(mine: Signed, path: bytes, body: bytes = b"", method: str = "POST", *more: tuple[bytes, bytes]) -> signing.Request:
    size = [(b"Content-Length", str(len(body)).encode())] if body else []
    bare = signing.Request(method, path, b"", [(b"Host", b"kps"), (b"Content-Type", b"application/json"), *more], body)
    headers = signing.sign(bare, mine.access_key, Secret(mine.secret_key), datetime.now(UTC) + mine.off)
    return replace(bare, headers=[*bare.headers, *size, *headers])


def sized(request: signing.Request) -> signing.Request:
    """The same with a Content-Length that is its body's, as no HTTP server lets another one through."""
    headers = [each for each in request.headers if each[0] != b"Content-Length"]
    return replace(request, headers=[*headers, (b"Content-Length", str(len(request.body)).encode())])


def without_ids(text: bytes, headers: dict[bytes, bytes]) -> bytes:
    return text.replace(headers[b"x-request-id"], b"")


def test_a_thousand_changed_requests_get_one_and_the_same_answer(settings: Settings, made: Any, mine: Signed) -> None:
    body = b'{"keypair": {"name": "never"}}'
    project = made["project_id"].encode()
    chance = random.Random(2)

    async def story(served: Application, gate: Asgi) -> None:
        bases = [
            signed(mine, b"/v3/" + project + b"/keypairs", body, "POST", (b"User-Agent", b"demo")),
            signed(mine, b"/v3/" + project + b"/keypairs/x", b"", "GET", (b"User-Agent", b"demo")),
        ]
        # What is documented to be told apart is told in its own words, and in nothing else.
        reasons = {"changed": b"verify aksk signature fail", "nobody": b"Get secretKey failed", "off": b"signature expired"}
        answers: set[bytes] = set()
        for number in range(1000):
            base = chance.choice(bases)
            kind = "changed" if number % 10 > 1 else "nobody" if number % 10 else "off"
            if kind == "changed":
                changed = mutated_from(base, chance)
            elif kind == "nobody":
                changed = signed(Signed("".join(chance.choices("ABC", k=20)), mine.secret_key), base.path, base.body, base.method)
            else:
                off = timedelta(minutes=chance.choice([-1, 1]) * chance.randint(16, 10_000))
                changed = signed(Signed(mine.access_key, mine.secret_key, off), base.path, base.body, base.method)
            status, text, headers, _ = await asked(gate, sized(changed))
            assert (status, text.count(reasons[kind])) == (401, 1), (kind, changed)
            answers.add(without_ids(text, headers).replace(reasons[kind], b"REASON"))
        assert len(answers) == 1
        assert b"APIGW.0301" in answers.pop()
        async with client(gate) as http:
            assert (await http.get("/fleet/v1/keypairs", auth=mine)).json() == []
            assert (await http.get("/v3/projects", auth=mine)).status_code == 200  # and what is right passes

    through(settings, story, **PLENTY)


def test_nothing_is_read_for_whom_there_is_not(settings: Settings, made: Any, mine: Signed) -> None:
    async def story(served: Application, gate: Asgi) -> None:
        body = b'{"keypair": {"name": "x"}}'
        late = [(b"x-sdk-date", b"20200101T000000Z")]
        right = signed(mine, b"/v3/" + made["project_id"].encode() + b"/keypairs", body)
        nobody = signed(Signed("B" * 20, "x"), right.path, body)
        old = replace(right, headers=[each for each in right.headers if each[0].lower() != b"x-sdk-date"] + late)
        unsigned = replace(right, headers=[each for each in right.headers if each[0] != b"Authorization"])
        token = replace(unsigned, headers=[*unsigned.headers, (b"X-Auth-Token", b"kpst_x")])
        temporary = replace(right, headers=[*right.headers, (b"X-Security-Token", b"x")])
        for refused in (nobody, old, unsigned, token, temporary):
            status, _, _, read = await asked(gate, refused)
            assert (status, read) == (401, 0)
        announced = [(name, str(bodies.BODY_BYTES + 1).encode() if name == b"Content-Length" else v) for name, v in right.headers]
        status, _, _, read = await asked(gate, replace(right, headers=announced))
        assert (status, read) == (413, 0)
        assert (await asked(gate, right))[0] == 200

    through(settings, story)


def test_whoever_expects_to_be_told_to_go_on_is_not_heard_further_on_that_connection(
    settings: Settings, made: Any, mine: Signed
) -> None:
    async def story(served: Application, gate: Asgi) -> None:
        nobody = signed(Signed("B" * 20, "x"), b"/v3/x/keypairs", b"{}", "POST", (b"Expect", b"100-continue"))
        status, _, headers, read = await asked(gate, nobody)
        assert (status, headers[b"connection"], read) == (401, b"close", 0)

    through(settings, story)


def test_a_body_in_pieces_is_read_to_its_limit(settings: Settings, made: Any, mine: Signed) -> None:
    async def story(served: Application, gate: Asgi) -> None:
        pieces = [b"x" * 65536] * 40
        request = signed(mine, b"/v3/x/keypairs", b"", "POST", (b"Transfer-Encoding", b"chunked"))
        status, _, _, read = await asked(gate, request, pieces)
        assert (status, read) == (413, bodies.BODY_BYTES // 65536 + 1)

    through(settings, story)


def test_unverified_bodies_have_so_much_room_together_and_small_ones_always() -> None:
    room = Room(most=100, of_one=60)
    with room.share("192.0.2.1") as one, room.share("::ffff:192.0.2.1") as same, room.share("192.0.2.2") as other:
        one.grown_to(bodies.SMALL_BYTES + 50)
        one.grown_to(bodies.SMALL_BYTES + 50)
        assert room.held == 50
        same.grown_to(bodies.SMALL_BYTES)
        with pytest.raises(NoRoom):
            same.grown_to(bodies.SMALL_BYTES + 11)
        with pytest.raises(NoRoom):
            other.grown_to(bodies.SMALL_BYTES + 51)
        other.grown_to(bodies.SMALL_BYTES + 50)
        with room.share("192.0.2.3") as third:
            third.grown_to(bodies.SMALL_BYTES)
        assert room.held == 100
    assert room.held == 0


def test_where_there_is_no_room_the_request_comes_again(
    settings: Settings, made: Any, mine: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies.Room, "take", lambda *_: (_ for _ in ()).throw(NoRoom()))

    async def story(served: Application, gate: Asgi) -> None:
        path = b"/v3/" + made["project_id"].encode() + b"/keypairs"
        status, text, _, _ = await asked(gate, signed(mine, path, b"x" * (bodies.SMALL_BYTES + 1)))
        assert (status, b"KPS.0003" in text) == (503, True)
        assert (await asked(gate, signed(mine, path, b'{"keypair": {"name": "small"}}')))[0] == 200

    through(settings, story)


def test_an_address_that_fails_too_often_is_not_heard_and_who_was_let_in_from_there_is(
    settings: Settings, made: Any, mine: Signed
) -> None:
    async def story(served: Application, gate: Asgi) -> None:
        async with client(gate) as http, client(gate, "192.0.2.8") as elsewhere:
            assert (await http.get("/v3/projects", auth=mine)).status_code == 200
            wrong = Signed("A" * 20, "x")
            codes = [(await http.get("/v3/projects", auth=wrong)).status_code for _ in range(5)]
            assert codes == [401, 401, 401, 429, 429]
            assert (await http.get("/fleet/v1/keypairs")).json()["code"] == "not_signed"  # which costs nothing
            assert (await http.get("/v3/projects", auth=mine)).status_code == 200
            assert (await http.get("/v3/projects", headers={"X-Auth-Token": "kpst_x"})).status_code == 429
            assert (await elsewhere.get("/v3/projects", auth=wrong)).status_code == 401

    through(settings, story, failures_per_second=0.001, failures_at_once=3)


def test_failures_are_forgiven_with_time_and_counted_for_a_network_of_ipv6() -> None:
    at = 0.0
    failures = Failures(1, 2, lambda: at)
    for host in ("2001:db8::1", "2001:db8::2"):
        failures.failed(host, "A")
    assert failures.too_many("2001:db8:0:0:ffff::9", "B")
    assert not failures.too_many("2001:db8:0:1::1", "B")
    at = 1.0
    assert not failures.too_many("2001:db8::1", "B")
    failures.passed("192.0.2.1", "A")
    for _ in range(2):
        failures.failed("192.0.2.1", "A")  # somebody names an access key that was let in from here
    assert failures.too_many("192.0.2.1", "A")
    assert not failures.too_many("192.0.2.1", "B")


def test_temporary_access_keys_and_tokens_pass_both_apis(settings: Settings, store: Any, kms: Any, who: Any, made: Any) -> None:
    given = asyncio.run(TemporaryKeys(store, kms).create(who))
    _, _, token = asyncio.run(Tokens(store).create(who))
    temporary = Signed(given.key.access_key, given.secret.open().decode(), token=given.token.open().decode())
    shown = {"X-Auth-Token": token.open().decode()}

    async def story(served: Application, gate: Asgi) -> None:
        async with client(gate) as http:
            for number, more in enumerate(({"auth": temporary}, {"headers": shown})):
                named = f"{number}-key"
                assert (await http.post("/fleet/v1/keypairs", json={"name": named}, **more)).status_code == 201
                found = (await http.get(f"/v3/{made['project_id']}/keypairs", **more)).json()["keypairs"]
                assert named in [each["keypair"]["name"] for each in found]
                again = await http.post("/fleet/v1/tokens", json={}, **more)
                assert (again.status_code, again.json()["code"]) == (403, "passing_credential")
            twice = [("X-Auth-Token", shown["X-Auth-Token"])] * 2
            assert (await http.get("/v3/projects", headers=twice)).status_code == 401
            # A signature that is wrong is not made good by a token.
            wrong = Signed(given.key.access_key, "x")
            assert (await http.get("/v3/projects", headers=shown, auth=wrong)).status_code == 401
            for gone in ("x", "", given.token.open().decode()[:-1]):
                other = Signed(temporary.access_key, temporary.secret_key, token=gone)
                answer = await http.get("/v3/projects", auth=other)
                assert (answer.status_code, answer.json()["error_code"]) == (401, "APIGW.0301")
                assert "security token is wrong or expired" in answer.text
            without = Signed(temporary.access_key, temporary.secret_key)
            assert (await http.get("/v3/projects", auth=without)).status_code == 401

    through(settings, story)
    found = store.tokens(who.tenant_id)[0]
    assert found.last_used_at is not None


def test_over_the_network_one_asks_for_them_by_the_access_key_that_signs(
    settings: Settings, store: Any, made: Any, mine: Signed
) -> None:
    async def story(served: Application, gate: Asgi) -> None:
        async with client(gate) as http:
            given = (await http.post("/fleet/v1/temporary-keys", json={"seconds": 900}, auth=mine)).json()
            assert (given["parent"], given["project_id"]) == (mine.access_key, made["project_id"])
            temporary = Signed(given["access_key"], given["secret_key"], token=given["security_token"])
            assert (await http.get("/v3/projects", auth=temporary)).status_code == 200
            token = (await http.post("/fleet/v1/tokens", json={"description": "mine"}, auth=mine)).json()
            shown = {"X-Auth-Token": token["token"]}
            assert (await http.get("/fleet/v1/servers", headers=shown)).status_code == 200
            listed = [(await http.get(f"/fleet/v1/{what}", auth=mine)).text for what in ("temporary-keys", "tokens")]
            for secret in (given["secret_key"], given["security_token"], token["token"]):
                assert secret not in "".join(listed)
            assert (await http.delete(f"/fleet/v1/tokens/{token['id']}", auth=mine)).status_code == 204
            assert (await http.get("/fleet/v1/servers", headers=shown)).status_code == 401
            # The key that asked is disabled (by a token that was made at home): so is what came of it.
            await http.patch(f"/fleet/v1/access-keys/{mine.access_key}", json={"enabled": False}, auth=temporary)
            assert (await http.get("/v3/projects", auth=temporary)).status_code == 401

    through(settings, story)


def test_who_is_disabled_while_a_body_comes_is_refused(settings: Settings, store: Any, kms: Any, who: Any, made: Any) -> None:
    from controller.service.accesskeys import AccessKeys

    users, keys = Users(store), AccessKeys(store, kms)
    alice = asyncio.run(users.create(who, "alice"))
    key, secret = asyncio.run(keys.create(who, "alice"))

    async def story(served: Application, gate: Asgi) -> None:
        async def slowly() -> AsyncIterator[bytes]:
            yield b'{"name": '
            await users.change(who, alice.id, enabled=False)
            yield b'"late"}'

        async with client(gate) as http:
            body = b'{"name": "late"}'
            request = signed(Signed(key.access_key, secret.open().decode()), b"/fleet/v1/keypairs", body)
            headers = [(name.decode(), value.decode()) for name, value in request.headers]
            answer = await http.post("/fleet/v1/keypairs", content=slowly(), headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "not_signed")

    through(settings, story)


@pytest.mark.parametrize("is_signed", [True, False])
def test_another_project_than_the_paths_is_refused_signed_or_not(
    settings: Settings, made: Any, mine: Signed, is_signed: bool
) -> None:
    async def story(served: Application, gate: Asgi) -> None:
        path = b"/v3/" + made["project_id"].encode() + b"/keypairs"
        other = (b"X-Project-Id", b"0" * 32)
        request = signed(mine, path, b"", "GET", *([other] if is_signed else []))
        if not is_signed:
            request = replace(request, headers=[*request.headers, other])
        assert (await asked(gate, request))[0] == 400
        assert (await asked(gate, signed(mine, path.replace(made["project_id"].encode(), b"0" * 32), b"", "GET")))[0] == 404

    through(settings, story)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_signed_too_and_are_none_of_ours(settings: Settings, made: Any, mine: Signed, method: str) -> None:
    async def story(served: Application, gate: Asgi) -> None:
        for path in (b"/v3/projects", b"/fleet/v1/keypairs"):
            bare = signing.Request(method, path, b"", [(b"Host", b"kps")], b"")
            assert (await asked(gate, bare))[0] == 401
            assert (await asked(gate, signed(mine, path, b"", method)))[0] in (404, 405)

    through(settings, story)


@pytest.mark.parametrize("value", [b"x\r\nSet-Cookie: a=b", b"x\nX-Request-Id: 1", b"\r\n\r\n<html>"])
def test_what_is_sent_comes_back_in_no_header(settings: Settings, made: Any, mine: Signed, value: bytes) -> None:
    from urllib.parse import quote_from_bytes

    async def story(served: Application, gate: Asgi) -> None:
        path = b"/v3/" + made["project_id"].encode() + b"/keypairs/" + quote_from_bytes(value).encode()
        for request in (
            signed(mine, path, b"", "GET"),
            signed(mine, b"/v3/projects", b"", "GET", (b"X-Thing", value.replace(b"\r", b"").replace(b"\n", b""))),
        ):
            _, _, headers, _ = await asked(gate, request)
            assert not [each for pair in headers.items() for each in pair if b"\n" in each or b"a=b" in each]
            assert len(headers[b"x-request-id"]) == 32

    through(settings, story)
