"""The OpenAPI documents: every call is in them, with what it answers and how it refuses, and their examples are true."""

import asyncio
from typing import Any

import httpx
import jsonschema_rs
import pytest

from controller.api import fleet, kps
from controller.api.documents import SECURITY, Api, calls
from controller.app import Application
from controller.settings import Settings

DOCUMENTS = {"/fleet/v1/openapi.json": fleet.API, "/v3/openapi.json": kps.API}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both documents, as the home's owner is given them."""
    from controller.service.home import initialise

    settings = Settings(home=tmp_path_factory.mktemp("documents") / "home")
    initialise(settings)
    found = {}

    async def told() -> None:
        served = Application(settings)
        async with served.lifespan():
            assert served.networked  # and with it the v3 API
            transport = httpx.ASGITransport(served.local)
            async with httpx.AsyncClient(transport=transport, base_url="http://kps") as http:
                for path in DOCUMENTS:
                    answer = await http.get(path)
                    assert answer.status_code == 200
                    found[path] = answer.json()

    asyncio.run(told())
    return found


@pytest.fixture(params=DOCUMENTS)
def document(request: pytest.FixtureRequest, documents: dict[str, Any]) -> Any:
    return documents[request.param]


@pytest.fixture
def api(document: Any) -> Api:
    return fleet.API if document["info"]["title"] == "kps" else kps.API


def test_every_call_has_its_line_in_the_table(document: Any, api: Api) -> None:
    assert {name for name, _ in calls(document)} == set(api.answers)


def test_every_call_says_what_it_answers_and_how_it_refuses(document: Any, api: Api) -> None:
    for name, call in calls(document):
        statuses = set(call["responses"])
        done = {status for status in statuses if status.startswith("2")}
        assert len(done) == 1, name
        assert call["description"], name
        assert all("X-Request-Id" in answer["headers"] for answer in call["responses"].values())
        if name not in ("GET /", "GET /fleet/v1/health", "GET /fleet/v1/ready"):
            assert {"401", "403", "408", "413", "429", "500", "503"} <= statuses, name
            assert "security" not in call
        for status in statuses - done:
            assert set(call["responses"][status]["content"]) == {api.media_type}
    assert document["security"] == [{name: []} for name in SECURITY]
    assert set(document["components"]["securitySchemes"]) == {"signature", "token"}


def test_the_eighteen_calls_say_what_they_take(documents: Any) -> None:
    with_body = {name for name, call in calls(documents["/v3/openapi.json"]) if "requestBody" in call}
    assert len(with_body) == 9
    assert all(name.startswith(("POST", "PUT")) for name in with_body)


def test_examples_are_what_they_are_examples_of(document: Any) -> None:
    components = document["components"]
    shown = 0
    for name, schema in components["schemas"].items():
        for example in schema.get("examples", []):
            validator = jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": components})
            assert [str(error) for error in validator.iter_errors(example)] == [], name
            shown += 1
    assert shown > 20


def test_every_body_has_an_example(document: Any) -> None:
    bare = set()
    for name, call in calls(document):
        contents = [call.get("requestBody", {}), *call["responses"].values()]
        for content in contents:
            schema = content.get("content", {}).get("application/json", {}).get("schema", {})
            kind = schema.get("$ref") or schema.get("items", {}).get("$ref") or ""
            component = document["components"]["schemas"].get(kind.rpartition("/")[2])
            if component is not None and "examples" not in component and "Refused" not in kind:
                bare.add(f"{name}: {kind}")
    assert {each for each in bare if not each.endswith(("Rotation", "Nothing", "Health"))} == set()


def test_they_are_for_who_is_known(settings: Settings, made: Any) -> None:
    async def told() -> None:
        served = Application(settings)
        async with served.lifespan():
            transport = httpx.ASGITransport(served.networked)
            async with httpx.AsyncClient(transport=transport, base_url="http://kps") as http:
                assert {(await http.get(path)).status_code for path in DOCUMENTS} == {401}

    asyncio.run(told())
