"""The gate before both APIs: nobody passes who is not known, and nobody sends too much, too slowly or too often."""

import asyncio
import json
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller import addresses, bodies, serving, signing
from controller.app import Application
from controller.errors import Invalid, Unavailable
from controller.model import Secret
from controller.pace import Pace
from controller.service.accesskeys import AccessKeys
from controller.service.certificate import ensure
from controller.settings import Settings
from tests.controller.faces import KPS

Story = Callable[[httpx.AsyncClient], Awaitable[None]]


class Signed(httpx.Auth):
    """Signs as the SDK does, with whatever is to be wrong."""

    requires_request_body = True

    def __init__(self, access_key: str, secret_key: str, off: timedelta = timedelta(), token: str | None = None) -> None:
        self.access_key, self.secret_key, self.off, self.token = access_key, secret_key, off, token

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
        path, _, query = request.url.raw_path.partition(b"?")
        headers = [(b"host", request.headers["host"].encode())]
        asked = signing.Request(request.method, path, query, headers, request.content)
        for name, value in signing.sign(asked, self.access_key, Secret(self.secret_key), datetime.now(UTC) + self.off):
            request.headers[name.decode()] = value.decode()
        if self.token is not None:  # after signing, as the Go clients do
            request.headers["x-security-token"] = self.token
        yield request


@pytest.fixture
def mine(made: dict[str, Any]) -> Signed:
    return Signed(made["access_key"], made["secret_key"])


def through(settings: Settings, story: Story) -> None:
    """Run a story with a client that comes through the gate."""

    async def told() -> None:
        served = Application(settings)
        async with served.lifespan():
            transport = httpx.ASGITransport(served.networked, client=("192.0.2.7", 4711))
            async with httpx.AsyncClient(transport=transport, base_url="http://kps") as http:
                await story(http)

    asyncio.run(told())


def test_a_signed_request_is_its_users_and_numbered(settings: Settings, made: dict[str, Any], mine: Signed) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.get("/fleet/v1/keypairs", auth=mine)
        assert (answer.status_code, answer.json(), answer.headers["cache-control"]) == (200, [], "no-store")
        again = await http.get("/fleet/v1/keypairs", auth=mine)
        assert len({answer.headers["x-request-id"], again.headers["x-request-id"]}) == 2
        projects = (await http.get("/v3/projects", params={"name": "self-1"}, auth=mine)).json()["projects"]
        assert [(each["id"], each["name"]) for each in projects] == [(made["project_id"], "self-1")]

    through(settings, story)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"secret_key": "x" * 40}, "verify aksk signature fail"),
        ({"access_key": "A" * 20}, "Get secretKey failed"),
        ({"off": timedelta(minutes=20)}, "signature expired"),
        ({"off": -timedelta(minutes=20)}, "signature expired"),
    ],
)
def test_nobody_else_passes(settings: Settings, mine: Signed, change: dict[str, Any], reason: str) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        other = Signed(**({"access_key": mine.access_key, "secret_key": mine.secret_key} | change))
        for path in ("/fleet/v1/keypairs", "/v3/projects"):
            answer = await http.get(path, auth=other)
            assert answer.status_code == 401
            assert answer.text.count(reason) == 1
            assert len(answer.headers["x-request-id"]) == 32

    through(settings, story)


@pytest.mark.parametrize("headers", [{"X-Auth-Token": "x"}, {"X-Auth-Token": "x" * 9000}, {"Authorization": "Bearer x"}])
def test_a_token_that_nobody_has_given_is_none(settings: Settings, made: Any, headers: dict[str, str]) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        assert (await http.get("/v3/projects", headers=headers)).status_code == 401

    through(settings, story)


def test_a_security_token_belongs_to_temporary_keys(settings: Settings, mine: Signed) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.get("/v3/projects", headers={"X-Security-Token": "x"}, auth=mine)
        assert (answer.status_code, answer.json()["error_code"]) == (401, "APIGW.0301")

    through(settings, story)


def test_a_disabled_access_key_is_as_one_that_there_is_not(
    settings: Settings, store: Any, kms: Any, who: Any, mine: Signed
) -> None:
    asyncio.run(AccessKeys(store, kms).enable(who, mine.access_key, enabled=False))

    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.get("/v3/projects", auth=mine)
        assert (answer.status_code, "Get secretKey failed" in answer.text) == (401, True)

    through(settings, story)


def test_what_was_changed_after_signing_does_not_pass(settings: Settings, mine: Signed) -> None:
    class Changed(Signed):
        def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:  # type: ignore[override]
            (signed,) = super().auth_flow(request)
            signed.stream = httpx.ByteStream(request.content.replace(b"harmless", b"harmful!"))
            yield signed

    async def story(http: httpx.AsyncClient) -> None:
        body = {"name": "harmless"}
        answer = await http.post("/fleet/v1/keypairs", json=body, auth=Changed(mine.access_key, mine.secret_key))
        assert answer.status_code == 401
        assert (await http.get("/fleet/v1/keypairs", auth=mine)).json() == []

    through(settings, story)


def test_a_body_that_is_too_large_is_not_read(settings: Settings, mine: Signed) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answer = await http.post("/v3/x/keypairs", content=b"x" * (bodies.BODY_BYTES + 1), auth=mine)
        assert (answer.status_code, answer.json()["error_code"]) == (413, "APIGW.0201")

    through(settings, story)


def test_a_whole_fleet_may_come_in_one_body_and_nothing_else(settings: Settings, mine: Signed) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        (path, most), *others = bodies.LARGE.items()
        assert others == []
        for size, status in ((most, 400), (most + 1, 413)):
            content = b'["' + b"x" * (size - 4) + b'"]'
            answer = await http.post(path, content=content, headers={"content-type": "application/json"}, auth=mine)
            assert answer.status_code == status, answer.text[:300]

    through(settings, story)


def test_who_asks_too_often_waits_and_hinders_nobody_else(settings: Settings, mine: Signed) -> None:
    async def story(http: httpx.AsyncClient) -> None:
        answers = [(await http.get("/v3/projects", auth=mine)).status_code for _ in range(5)]
        assert answers == [200, 200, 200, 429, 429]
        assert (await http.get("/")).status_code == 200

    through(settings.model_copy(update={"requests_per_second": 0.001, "requests_at_once": 3}), story)


def test_a_pace_is_so_many_at_once_and_then_so_many_each_second() -> None:
    at = 0.0
    pace = Pace(2, 3, lambda: at)
    assert [pace.admits("a") for _ in range(4)] == [True, True, True, False]
    assert pace.admits("b")
    at = 0.5
    assert [pace.admits("a") for _ in range(2)] == [True, False]
    at = 100.0
    assert [pace.admits("a") for _ in range(4)] == [True, True, True, False]


def test_without_the_gate_nobody_asks(settings: Settings, made: Any) -> None:
    async def told() -> None:
        served = Application(settings)
        async with served.lifespan():
            assert served.networked  # and with it the API of the public service
            transport = httpx.ASGITransport(served)
            async with httpx.AsyncClient(transport=transport, base_url="http://kps") as http:
                for path in ("/fleet/v1/keypairs", "/v3/projects", f"/v3/{made['project_id']}/keypairs"):
                    assert (await http.get(path)).status_code == 403

    asyncio.run(told())


@pytest.mark.parametrize("text", ["", "8443", "kps.example.com:8443", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", "::1"])
def test_a_place_is_an_address_and_a_port(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        serving.place(text, Path("c"), Path("k"))
    assert refused.value.code == "listen_unusable"


def test_without_tls_only_loopback_is_listened_to() -> None:
    assert serving.place("127.0.0.1:8080", None, None).url == "http://127.0.0.1:8080"
    assert serving.place("[::1]:8080", None, None).url == "http://[::1]:8080"
    for text in ("0.0.0.0:8080", "192.0.2.1:8080", "[::]:8080"):
        with pytest.raises(Invalid):
            serving.place(text, None, None)


def test_the_certificate_is_made_once_and_its_key_is_for_the_owner(tmp_path: Path) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    fingerprint = ensure(certificate, key)
    before = key.read_bytes()
    assert ensure(certificate, key) == fingerprint
    assert (key.read_bytes(), key.stat().st_mode & 0o777) == (before, 0o600)
    told = subprocess.run(
        ["openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256"], capture_output=True, text=True, check=True
    )
    assert told.stdout.strip().endswith("=" + fingerprint)
    certificate.write_text("none")
    with pytest.raises(Unavailable):
        ensure(certificate, key)
    with pytest.raises(Unavailable), serving.on_network(serving.Place("127.0.0.1", 0, certificate, key)):
        pass


@pytest.mark.parametrize(
    ("address", "is_admitted"),
    [
        ("192.0.2.1", True), ("10.1.2.3", True), ("2001:db8::1", True), ("127.0.0.1", False), ("127.9.9.9", False),
        ("::1", False), ("0.0.0.0", False), ("::", False),
        ("169.254.169.254", False), ("fe80::1", False), ("fe80::1%eth0", False),
        ("224.0.0.1", False), ("ff02::1", False), ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", True),
        ("2002:7f00:1::", False), ("240.0.0.1", False), ("255.255.255.255", False), ("localhost", False), ("", False),
    ],
)  # fmt: skip
def test_which_addresses_users_may_name(address: str, is_admitted: bool) -> None:
    assert addresses.admitted(address, []) == is_admitted


def test_a_network_can_be_allowed_and_a_wrong_one_is_told() -> None:
    allowed = addresses.networks("127.1.0.0/16, ::1/128", "KPS_ALLOW_NETWORKS")
    assert [addresses.admitted(each, allowed) for each in ("127.1.2.3", "127.2.0.1", "::1")] == [True, False, True]
    with pytest.raises(Invalid, match="KPS_ALLOW_NETWORKS"):
        addresses.networks("127.0.0.1/8", "KPS_ALLOW_NETWORKS")


def test_over_tls_and_to_slow_clients(settings: Settings, made: dict[str, Any], mine: Signed) -> None:
    words = ["serve", "--home", str(settings.home), "--listen", "127.0.0.1:0", "--json"]
    process = subprocess.Popen([KPS, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        told = ""
        while not told.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            told += line
        about = json.loads(told)
        trust = ssl.create_default_context(cafile=settings.certificate)
        answer = httpx.get(f"{about['url']}/v3/projects", auth=mine, verify=trust, trust_env=False)
        assert answer.json()["projects"][0]["id"] == made["project_id"]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{about['url']}/", trust_env=False)
        port = int(about["url"].rpartition(":")[2])
        # One that says nothing, and one that begins to speak: both are left after a while.
        with socket.create_connection(("127.0.0.1", port)) as raw, trust.wrap_socket(raw, server_hostname="localhost") as slow:
            slow.settimeout(serving.HEAD_SECONDS + 20)
            slow.sendall(b"GET / HTTP/1.1\r\nHost: kps\r\n")
            assert slow.recv(1) == b""
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
