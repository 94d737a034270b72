"""Both APIs, from their documents: schemathesis makes requests that fit and such as do not, to a controller that is served.

What is looked for: an answer of 5xx, a status or a field that the document does not name, an answer that is not of its form. The
documents say that more fields may come; here none may come that nobody has described.
"""

import contextlib
import json
import random
import string
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup, ServerError
from schemathesis.openapi.checks import UndefinedStatusCode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from controller import signing
from controller.api import fleet, kps
from controller.api.documents import Api, calls
from controller.model import Secret
from tests.controller.sockets import Served

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
DOCUMENTS: dict[str, Api] = {"/fleet/v1/openapi.json": fleet.API, "/v3/openapi.json": kps.API}
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
LONGEST_SECONDS = 30.0
LONGEST_QUERY = 4000  # characters; percent-encoded, a longer one may not fit into a head, and then no call refuses it
# Servers of tests are on loopback, where nothing answers: no request of a fuzzer's making leaves this machine.
HOST, PORT = "127.0.0.1", 1
_HOST_CHARACTERS = frozenset(string.ascii_letters + string.digits + ".:_-%")


UNDOCUMENTED, ANOTHER_FORM = "undocumented statuses", "answers of another form"
# What a controller is served with, so that nothing but the requests themselves decides.
UNHINDERED = {
    "KPS_REQUESTS_PER_SECOND": "100000", "KPS_REQUESTS_AT_ONCE": "100000", "KPS_ALLOW_NETWORKS": "127.0.0.0/8",
}  # fmt: skip


class Signed(requests.auth.AuthBase):
    """Signs whatever comes to be sent, as it is sent."""

    def __init__(self, access_key: str, secret_key: str) -> None:
        self._by = access_key, Secret(secret_key)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the signature."""
        path, _, query = request.path_url.partition("?")
        request.headers["Host"] = urlsplit(request.url or "").netloc
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        headers = [(b"host", request.headers["Host"].encode())]
        bare = signing.Request(request.method or "", path.encode(), query.encode(), headers, body)
        for name, value in signing.sign(bare, *self._by, datetime.now(UTC)):
            request.headers[name.decode()] = value.decode()
        return request


class Face:
    """A controller at a URL, as one of its users."""

    def __init__(self, url: str, access_key: str, secret_key: str, project_id: str) -> None:
        self.url, self.project_id = url, project_id
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = Signed(access_key, secret_key)

    @classmethod
    def of(cls, served: Served) -> "Face":
        """Return it as the first user of a home that is served."""
        made = served.made
        return cls(f"http://{HOST}:{served.port}", made["access_key"], made["secret_key"], made["project_id"])

    def asked(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON of an answer that must be one."""
        answer = self.session.request(method, self.url + path, json=body, timeout=LONGEST_SECONDS)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def furnished(self) -> dict[str, list[str]]:
        """Make one of everything; return what there is, by the segment of a path after which it is named."""
        names = [f"pair-{number}" for number in range(6)]
        for name in names:
            self.asked("POST", "/fleet/v1/keypairs", {"name": name, "scope": "account"})
        servers = [self.asked("POST", "/fleet/v1/servers", {"name": f"web-{n}", "host": HOST, "port": PORT}) for n in range(4)]
        tasks = self.asked("POST", "/fleet/v1/operations", {"operation": "bind", "servers": ["web-0"], "keypair": "pair-0"})
        plans = self.asked("POST", "/fleet/v1/plans", {"operation": "bind", "servers": ["web-1"], "keypair": "pair-1"})
        user = self.asked("POST", "/fleet/v1/users", {"name": "alice"})
        keys = [self.asked("POST", "/fleet/v1/kms/keys", {"alias": f"key-{n}"})["id"] for n in range(3)]
        mine = [self.asked("POST", "/fleet/v1/access-keys", {"user": "alice"})["access_key"] for _ in range(2)]
        grant = self.asked("POST", f"/fleet/v1/kms/keys/{keys[0]}/grants", {"grantee": "alice", "operations": ["encrypt-data"]})
        return {
            "keypairs": names,
            "servers": [each["id"] for each in servers],
            "tasks": [each["id"] for each in tasks],
            "failed-tasks": [each["id"] for each in tasks],
            "plans": [each["id"] for each in plans],
            "users": [user["name"]],
            "access-keys": mine,
            "keys": keys,
            "grants": [grant["id"]],
            "quotas": ["users", "private_keypairs"],
            "temporary-keys": [self.asked("POST", "/fleet/v1/temporary-keys", {})["access_key"]],
            "tokens": [self.asked("POST", "/fleet/v1/tokens", {})["id"]],
            "tenants": ["none"],
            "v3": [self.project_id],
        }


def closed(document: Any, api: Api) -> Any:
    """Return the document with nothing in its answers beyond what it describes."""
    strict = deepcopy(document)
    answered: set[str] = set()

    def follow(schema: Any) -> None:
        if isinstance(schema, dict):
            name = str(schema.get("$ref", "")).rpartition("/")[2]
            if name and name not in answered:
                answered.add(name)
                follow(strict["components"]["schemas"][name])
            for each in schema.values():
                follow(each)
        elif isinstance(schema, list):
            for each in schema:
                follow(each)

    for _, call in calls(strict):
        for answer in call["responses"].values():
            follow(answer.get("content", {}))
    for name in answered:
        if "properties" in strict["components"]["schemas"][name]:
            strict["components"]["schemas"][name]["additionalProperties"] = False
    return strict


def tried(face: Face, seed: int, examples: int) -> tuple[Counter[str], list[str]]:
    """Try so many requests of each call in each mode; return how many there were, and the misses."""
    tally: Counter[str] = Counter()
    misses: dict[str, str] = {}
    known = face.furnished()
    for path, api in DOCUMENTS.items():
        document = closed(face.asked("GET", path), api)
        schema = schemathesis.openapi.from_dict(document)
        # A stream has no end of its own; what it gives is tried by its own tests.
        found = [each for each in (result.ok() for result in schema.get_all_operations()) if not each.path.endswith("/stream")]
        # What takes things away comes last.
        for operation in sorted(found, key=lambda each: each.method.upper() == "DELETE"):
            tally["calls"] += 1
            for mode in MODES:
                for name, miss in of_one(face, operation, mode, known, seed, examples, tally):
                    misses.setdefault(name, miss)
    return tally, list(misses.values())


def of_one(
    face: Face, operation: Any, mode: Any, known: dict[str, list[str]], seed: int, examples: int, tally: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Try one call in one mode; give each kind of miss once."""
    found: dict[str, str] = {}
    chance = random.Random(f"{seed} {operation.label} {mode}")

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def each(case: Any) -> None:
        aim(case, known, chance)
        hypothesis.assume(len(repr(case.query)) < LONGEST_QUERY)
        tally["requests"] += 1
        answer = case.call(base_url=face.url, session=face.session, timeout=LONGEST_SECONDS)
        tally[f"answers {answer.status_code // 100}xx"] += 1
        try:
            case.validate_response(answer, checks=CHECKS)
        except (Failure, FailureGroup) as failed:
            for one in getattr(failed, "exceptions", [failed]):
                if not isinstance(one, ServerError):  # that is counted by its status
                    tally[UNDOCUMENTED if isinstance(one, UndefinedStatusCode) else ANOTHER_FORM] += 1
                body = json.dumps(case.body, default=repr)[:500]
                said = (
                    f"{operation.label} {case.path_parameters} {case.query} {body}: {answer.status_code} {answer.content[:500]!r}"
                )
                found.setdefault(f"{operation.label} {one.title}", f"{one.title}: {said}: {one.message[:500]}")

    with contextlib.suppress(hypothesis.errors.Unsatisfiable, schemathesis.errors.SchemathesisError):
        each()
    yield from found.items()


def aim(case: Any, known: dict[str, list[str]], chance: random.Random) -> None:
    """Have a request meet, every second time, what there is; and nothing that is not on this machine, nor wait for long."""
    before = ""
    for part in case.operation.path.split("/"):
        if part.startswith("{") and before in known and (before == "v3" or chance.random() < 0.5):
            case.path_parameters[part[1:-1]] = chance.choice(known[before])
        before = part
    if isinstance(case.query, dict) and "wait" in case.query:
        case.query["wait"] = 0
    elsewhere(case.body)


def elsewhere(body: Any) -> None:
    """Have each host in a body be one of this machine, where it could be one at all."""
    if isinstance(body, dict):
        host = body.get("host")
        if isinstance(host, str) and host and set(host) <= _HOST_CHARACTERS:
            body |= {"host": HOST, "port": PORT} if isinstance(body.get("port"), int) else {"host": HOST}
        for each in body.values():
            elsewhere(each)
    elif isinstance(body, list):
        for each in body:
            elsewhere(each)
