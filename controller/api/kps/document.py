"""The OpenAPI document of the v3 API: what each call answers and how it refuses."""

from collections.abc import Iterator
from typing import Any

from controller.api.documents import BINARY, Answer, Api, Json
from controller.api.kps import answers as a
from controller.api.kps import associating, keypairs, privatekeys

DESCRIPTION = """\
The calls of the public Key Pair Service, version 3, answered by a controller of one's own.

Each request is signed, or has a token. The project in the path is the caller's; another one, and whatever is not theirs, is not
there: 404. Numbers may come as text and text as numbers, null means absent, a field that nobody knows is ignored. A refusal has
an `error_code` and an `error_msg`; a path and method that there is not is 404 `APIGW.0101`. There are no redirects.
"""
CALLS = "/v3/{project_id}"


def _of(code: str, message: str) -> Json:
    return {"error_code": code, "error_msg": message}


_UNKNOWN = "Incorrect IAM authentication information: verify aksk signature fail"
WORDS = {
    400: ("A parameter is wrong.", _of("KPS.0002", "keypair.name: is missing")),
    401: (
        "Not signed as it must be, by nobody who is known, or with no good token.",
        _of("APIGW.0301", _UNKNOWN) | {"request_id": "6a1f0e5d2c3b4a59968778695a4b3c2d"},
    ),
    403: ("The caller's role does not allow it.", _of("KPS.9003", "an auditor reads and changes nothing")),
    404: ("There is no such thing, or none that the caller may see.", _of("KPS.4016", "ci-runner: there is no such key pair")),
    408: ("The body did not come in time.", _of("APIGW.0201", "the body did not come within 20 s")),
    409: ("The name is taken, or something else stands against it.", _of("KPS.0002", "laptop: there is a key pair of this name")),
    413: ("The body is too large.", _of("APIGW.0201", "a request may hold 1048576 bytes")),
    415: ("The body is no JSON by its Content-Type, or is compressed.", _of("APIGW.0201", "send the body as application/json")),
    429: ("Too many requests of this access key.", _of("APIGW.0308", "too many requests; come again in a second")),
    500: (
        "Something on the controller's machine is missing or damaged.",
        _of("KPS.0003", "the root key is not there; put it back"),
    ),
    503: ("The home does not open.", _of("KPS.0003", "the root key is not there; put it back")),
}

ANSWERS: dict[str, Answer] = {
    "POST /keypairs": Answer(a.MadeKeypair, keypairs.Create),
    "GET /keypairs": Answer(a.Keypairs),
    "GET /keypairs/{keypair_name}": Answer(a.KeypairDetail),
    "PUT /keypairs/{keypair_name}": Answer(a.Nothing, keypairs.Describe),
    "DELETE /keypairs/{keypair_name}": Answer(),
    "POST /keypairs/batch-import": Answer(a.BatchImported, list[keypairs.Create]),
    "POST /keypairs/private-key/import": Answer(a.NamedKeypair, privatekeys.Import),
    "POST /keypairs/private-key/export": Answer(a.ExportedKeypair, privatekeys.Export),
    "POST /keypairs/private-key/batch-export": Answer(BINARY, list[privatekeys.Export]),
    "DELETE /keypairs/{keypair_name}/private-key": Answer(a.Nothing),
    "POST /keypairs/associate": Answer(a.Submitted, associating.Associate),
    "POST /keypairs/batch-associate": Answer(a.BatchSubmitted, associating.BatchAssociate),
    "POST /keypairs/disassociate": Answer(a.Submitted, associating.Disassociate),
    "GET /tasks/{task_id}": Answer(a.TaskStatus),
    "GET /running-tasks": Answer(a.RunningTasks),
    "GET /failed-tasks": Answer(a.FailedTasks),
    "DELETE /failed-tasks/{task_id}": Answer(a.Nothing),
    "DELETE /failed-tasks": Answer(a.Nothing),
}

_PUBLIC = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOWxCUbFNhVtEDPHD70R2aCA+L7Bu80ENfedo+s7y9PE laptop"
_FINGERPRINT = "0a:1b:2c:3d:4e:5f:60:71:82:93:a4:b5:c6:d7:e8:f9"
_PEM = "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----\n"
_USER = "5c1d9a70b2f84e0c9b61f0a3d4e87256"
_SERVER = "6f1d2c3b-8a40-4c55-9b1e-2f7a9d0c4e11"
_TASK = "2d7be0f4-91c6-4b1d-8e1f-5a30c9f7b6aa"
_VERSION = {
    "id": "v3", "links": [{"href": "/v3/", "rel": "self"}], "version": "", "status": "CURRENT", "updated": "2026-01-01T00:00:00Z",
    "min_version": "",
}  # fmt: skip
_MADE = {"name": "laptop", "type": "ssh", "public_key": _PUBLIC, "fingerprint": _FINGERPRINT, "user_id": _USER}
_LISTED = {"name": "laptop", "type": "ssh", "scope": "user", "public_key": _PUBLIC, "fingerprint": _FINGERPRINT} | {
    "is_key_protection": False, "frozen_state": "0",
}  # fmt: skip
_SUBMITTED = {"task_id": _TASK, "server_id": _SERVER, "status": "SUCCESS"}
_RUNNING = {
    "task_id": _TASK, "operate_type": "RUNNING_REPLACE", "task_time": "1767323045000", "server_name": "web-1",
    "server_id": _SERVER, "keypair_name": "ci-runner",
}  # fmt: skip
_FAILED = {
    "operate_type": "FAILED_REPLACE",
    "task_error_code": "KPS.0003",
    "task_error_msg": "web-1 does not answer (connection_lost)",
}
_PASSWORD = {"type": "password", "key": "..."}
_ASSOCIATE = {"keypair_name": "ci-runner", "server": {"id": _SERVER, "disable_password": True, "auth": _PASSWORD}}
_PROTECTION = {"private_key": _PEM, "encryption": {"type": "kms", "kms_key_name": "kps/default"}}
EXAMPLES: dict[str, Any] = {
    "Versions": {"versions": [_VERSION]},
    "OneVersion": {"version": _VERSION},
    "Projects": {"projects": [{"id": "9f86d081884c4d63a1b2c3d4e5f60718", "name": "self-1", "domain_id": _USER, "enabled": True}]},
    "MadeKeypair": {"keypair": _MADE | {"private_key": _PEM}},
    "BatchImported": {
        "succeeded_keypairs": [{"keypair": _MADE | {"keypair": _MADE}}],
        "failed_keypairs": [{"keypair_name": "h 2", "failed_reason": "h 2: a name is letters, digits, _ and -"}],
    },
    "Keypairs": {"keypairs": [{"keypair": _LISTED}], "page_info": {"previous_marker": "laptop", "current_count": 1}},
    "KeypairDetail": {
        "keypair": _LISTED
        | {"id": 4711, "deleted": False, "description": "", "user_id": _USER, "create_time": 1767323045000, "delete_time": None}
        | {"update_time": None, "frozen_state": 0, "key_id": None, "algorithm": "SSH_ED25519"}
    },
    "NamedKeypair": {"keypair": {"name": "laptop"}},
    "ExportedKeypair": {"keypair": {"name": "laptop", "private_key": _PEM}},
    "Submitted": _SUBMITTED,
    "BatchSubmitted": {
        "tasks": [_SUBMITTED, {"server_id": "x", "status": "FAILED"} | _of("KPS.0002", "there is no server of this id")]
    },
    "TaskStatus": {"task_id": _TASK, "server_id": _SERVER, "task_status": "RUNNING_REPLACE"},
    "RunningTasks": {"total": 1, "tasks": [_RUNNING]},
    "FailedTasks": {"total": 1, "tasks": [_RUNNING | _FAILED]},
    # What is sent.
    "Create": {"keypair": {"name": "build-farm", "key_protection": {"encryption": {"type": "default"}}}},
    "Describe": {"keypair": {"description": "runners in hall 3"}},
    "Import": {"keypair": {"name": "laptop", "key_protection": _PROTECTION}},
    "Export": {"keypair": {"name": "laptop"}},
    "Associate": _ASSOCIATE,
    "BatchAssociate": {"batch_keypairs": [_ASSOCIATE]},
    "Disassociate": {"server": {"id": _SERVER, "auth": {"type": "keypair", "key": _PEM}}},
}


def refuses(name: str, call: Json) -> Iterator[int]:
    """Give the statuses that a call may be refused with."""
    method, _, path = name.partition(" ")
    yield from (408, 413, 500)
    if path == "/":
        return
    yield from (401, 403, 429, 503)
    if "parameters" in call:
        yield from (400, 404)
    if "requestBody" in call:
        yield 415
    if method != "GET":
        yield 409


API = Api(
    description=DESCRIPTION,
    answers={
        "GET /": Answer(a.Versions, open_to_all=True),
        "GET /v3": Answer(a.OneVersion),
        "GET /v3/": Answer(a.OneVersion),
        "GET /v3/projects": Answer(a.Projects),
    }
    | {f"{name.partition(' ')[0]} {CALLS}{name.partition(' ')[2]}": answer for name, answer in ANSWERS.items()},
    refused=a.Refused,
    media_type="application/json",
    refuses=refuses,
    words=WORDS,
    examples=EXAMPLES,
)
