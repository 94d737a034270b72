"""The OpenAPI document of /fleet/v1: what each call answers and how it refuses."""

from collections.abc import Iterator
from typing import Any

from controller import answers as a
from controller.api.documents import STREAM, Answer, Api, Json
from controller.api.fleet.examples import EXAMPLES
from controller.api.problems import MEDIA_TYPE

DESCRIPTION = """\
Key pairs on a fleet of Linux servers: custody, binding, replacing, unbinding, and what happened.

On the network each request is signed, or has a token; on the socket in the home whoever connects is its owner. A refusal is a
problem document (RFC 9457) with a stable `code`. Whatever the caller may not see is answered as what is not there: 404. Beside
the statuses that each call names, a path that there is not is 404, a method that it has not 405, and what is no HTTP is 400.
"""


def _of(code: str, status: int, detail: str, **evidence: Any) -> Json:
    return {"type": "about:blank", "status": status, "code": code, "detail": detail, "evidence": evidence}


WORDS = {
    400: ("It cannot be used as it was given.", _of("name_unusable", 400, "ci runner: a name is letters, digits, _ and -")),
    401: (
        "Not signed as it must be, by nobody who is known, or with no good token.",
        _of("not_signed", 401, "Incorrect IAM authentication information: verify aksk signature fail"),
    ),
    403: ("The caller's role does not allow it.", _of("role_reads_only", 403, "an auditor reads and changes nothing")),
    404: (
        "There is no such thing, or none that the caller may see.",
        _of("server_not_found", 404, "web-9: there is no such server"),
    ),
    408: ("The body did not come in time.", _of("too_slow", 408, "the body did not come within 20 s")),
    409: ("Something else stands against it.", _of("keypair_name_taken", 409, "ops: there is a key pair of this name already")),
    413: ("The body is too large.", _of("body_too_large", 413, "a request may hold 1048576 bytes")),
    415: (
        "The body is no JSON by its Content-Type, or is compressed.",
        _of("not_json", 415, "send the body as application/json"),
    ),
    422: ("The request has not the form that is described here.", _of("invalid", 422, "port: must be a whole number")),
    429: (
        "Too many requests of this access key, or too many from this address that were not let in.",
        _of("too_many_requests", 429, "too many requests; come again in a second"),
    ),
    500: (
        "Stored data does not open any more, or a fault of the controller itself.",
        _of("unexpected", 500, "its log has the trace"),
    ),
    503: (
        "Something on the controller's machine is missing, or it is sent too much at once.",
        _of("root_key_missing", 503, "the root key is not there; put it back"),
    ),
}
_KEY = "/kms/keys/{key}"

ANSWERS: dict[str, Answer] = {
    "GET /health": Answer(a.Health, open_to_all=True),
    "GET /ready": Answer(a.Ready, open_to_all=True),
    "GET /doctor": Answer(a.Diagnosis),
    "GET /keypairs": Answer(list[a.Keypair]),
    "POST /keypairs": Answer(a.MadeKeypair),
    "POST /keypairs/import": Answer(a.Keypair),
    "GET /keypairs/{name}": Answer(a.Keypair),
    "DELETE /keypairs/{name}": Answer(),
    "POST /keypairs/{name}/upgrade": Answer(a.Keypair),
    "POST /keypairs/{name}/export": Answer(a.PrivateHalf),
    "POST /keypairs/{name}/decrypt-password": Answer(a.DecryptedPassword),
    "POST /keypairs/{name}/manage": Answer(a.Keypair),
    "POST /keypairs/{name}/clear": Answer(a.Keypair),
    "POST /keypairs/{name}/move": Answer(a.Keypair),
    "GET /secrets": Answer(list[a.KeptSecret]),
    "POST /secrets": Answer(a.KeptSecret),
    "GET /secrets/{name}": Answer(a.WholeSecret),
    "PATCH /secrets/{name}": Answer(a.KeptSecret),
    "DELETE /secrets/{name}": Answer(),
    "POST /secrets/{name}/versions": Answer(a.SecretVersion),
    "POST /secrets/{name}/open": Answer(a.OpenedSecret),
    "PUT /secrets/{name}/stages/{stage}": Answer(dict[str, str]),
    "DELETE /secrets/{name}/stages/{stage}": Answer(dict[str, str]),
    "POST /secrets/{name}/rotate": Answer(a.BegunSecretRotation),
    "PUT /secrets/{name}/rotation": Answer(a.KeptSecret),
    "DELETE /secrets/{name}/rotation": Answer(a.KeptSecret),
    "GET /secret-rotations": Answer(list[a.SecretRotation]),
    "GET /servers": Answer(list[a.Server]),
    "POST /servers": Answer(a.Server),
    "POST /servers/import": Answer(list[a.Server]),
    "GET /servers/{name}": Answer(a.Server),
    "PATCH /servers/{name}": Answer(a.Server),
    "DELETE /servers/{name}": Answer(),
    "GET /bindings": Answer(list[a.Binding]),
    "GET /logins": Answer(list[a.Login]),
    "POST /operations": Answer(list[a.StartedTask]),
    "POST /plans": Answer(list[a.StartedTask]),
    "GET /plans/{id}": Answer(a.Plan),
    "GET /tasks": Answer(list[a.Task]),
    "DELETE /tasks": Answer(a.TakenOff),
    "GET /tasks/{id}": Answer(a.Task),
    "DELETE /tasks/{id}": Answer(a.Ended),
    "POST /tasks/{id}/retry": Answer(a.StartedTask),
    "POST /rollouts": Answer(a.Rollout),
    "GET /rollouts": Answer(list[a.Rollout]),
    "GET /rollouts/{id}": Answer(a.RolloutProgress),
    "GET /rollouts/{id}/servers": Answer(list[a.RolloutServer]),
    "GET /rollouts/{id}/report": Answer(a.RolloutReport),
    "GET /rollouts/{id}/plan": Answer(a.KeptPlan),
    "GET /rollouts/{id}/plan/servers": Answer(list[a.PlanLook]),
    "POST /rollouts/{id}/start": Answer(a.StartedPlan),
    "POST /rollouts/{id}/pause": Answer(a.Rollout),
    "POST /rollouts/{id}/resume": Answer(a.Rollout),
    "POST /rollouts/{id}/cancel": Answer(a.Rollout),
    "POST /rollouts/{id}/retry": Answer(a.Rollout),
    "GET /policies": Answer(list[a.Policy]),
    "GET /policies/{name}": Answer(a.PolicyWithRotations),
    "PUT /policies/{name}": Answer(a.Policy),
    "DELETE /policies/{name}": Answer(),
    "POST /policies/{name}/pause": Answer(a.Policy),
    "POST /policies/{name}/resume": Answer(a.Policy),
    "POST /policies/{name}/run": Answer(list[a.Rotation]),
    "POST /doors": Answer(a.DoorsAsked),
    "POST /door-orders/{id}/begin": Answer(a.DecidedDoors),
    "GET /doors": Answer(list[a.Door]),
    "GET /doors/{id}": Answer(a.DoorWithOrder),
    "POST /doors/extend": Answer(a.DoorsAsked),
    "POST /doors/close": Answer(list[a.Door]),
    "GET /door-orders": Answer(list[a.DoorOrder]),
    "POST /door-orders/{id}/approve": Answer(a.DecidedDoors),
    "POST /door-orders/{id}/refuse": Answer(a.DecidedDoors),
    "GET /door-rules": Answer(list[a.DoorRule]),
    "PUT /door-rules": Answer(a.DoorRule),
    "DELETE /door-rules": Answer(),
    "GET /door-alerts": Answer(a.DoorHook),
    "PUT /door-alerts": Answer(a.DoorHook),
    "DELETE /door-alerts": Answer(refuses=(404,)),
    "GET /rotations": Answer(list[a.Rotation]),
    "GET /rotations/due": Answer(list[a.DueKey]),
    "POST /rotations/run": Answer(list[a.Rotation]),
    "GET /events": Answer(list[a.Event]),
    "GET /events/stream": Answer(STREAM),
    "GET /audit/events": Answer(list[a.ChainedEvent]),
    "GET /audit/names": Answer(dict[str, str]),
    "GET /audit/key": Answer(a.AuditKey),
    "GET /audit/export": Answer(a.AuditExport, refuses=(409,)),
    "POST /audit/export": Answer(),
    "POST /audit/checkpoints": Answer(a.AuditCheckpoint),
    "POST /audit/prune": Answer(a.Pruned),
    "GET /whoami": Answer(a.Caller),
    "GET /users": Answer(list[a.User]),
    "POST /users": Answer(a.User),
    "GET /users/{name}": Answer(a.User),
    "PATCH /users/{name}": Answer(a.User),
    "DELETE /users/{name}": Answer(a.DeletedUser),
    "GET /access-keys": Answer(list[a.AccessKey]),
    "POST /access-keys": Answer(a.MadeAccessKey),
    "POST /access-keys/{access_key}/rotate": Answer(a.MadeAccessKey),
    "PATCH /access-keys/{access_key}": Answer(a.AccessKey),
    "DELETE /access-keys/{access_key}": Answer(),
    "GET /temporary-keys": Answer(list[a.TemporaryKey]),
    "POST /temporary-keys": Answer(a.MadeTemporaryKey),
    "DELETE /temporary-keys/{access_key}": Answer(),
    "PUT /users/{name}/console-password": Answer(),
    "POST /console-links": Answer(a.ConsoleLink),
    "GET /tokens": Answer(list[a.Token]),
    "POST /tokens": Answer(a.MadeToken),
    "DELETE /tokens/{token_id}": Answer(),
    "GET /quotas": Answer(list[a.Quota]),
    "PUT /quotas/{name}": Answer(list[a.Quota]),
    "GET /tenant": Answer(a.Tenant),
    "PATCH /tenant": Answer(a.Tenant),
    "GET /tenants": Answer(list[a.Tenant]),
    "POST /tenants": Answer(a.MadeTenant),
    "POST /tenants/{name}/access-key": Answer(a.MadeAccessKey),
    "GET /kms/keys": Answer(list[a.MasterKey]),
    "POST /kms/keys": Answer(a.MasterKey),
    "GET /kms/quota": Answer(a.KeyQuota),
    f"GET {_KEY}": Answer(a.WholeMasterKey),
    f"PATCH {_KEY}": Answer(a.MasterKey),
    f"POST {_KEY}/enable": Answer(a.MasterKey),
    f"POST {_KEY}/disable": Answer(a.MasterKey),
    f"POST {_KEY}/schedule-deletion": Answer(a.MasterKey),
    f"POST {_KEY}/cancel-deletion": Answer(a.MasterKey),
    f"POST {_KEY}/rotate": Answer(a.MasterKey),
    f"PUT {_KEY}/rotation": Answer(a.MasterKey),
    f"DELETE {_KEY}/rotation": Answer(a.MasterKey),
    f"POST {_KEY}/import-parameters": Answer(a.ImportParameters),
    f"POST {_KEY}/material": Answer(a.MasterKey),
    f"POST {_KEY}/delete-material": Answer(a.MasterKey),
    f"GET {_KEY}/grants": Answer(list[a.Grant]),
    f"POST {_KEY}/grants": Answer(a.Grant),
    f"POST {_KEY}/grants/{{grant_id}}/revoke": Answer(a.Grant),
    f"POST {_KEY}/grants/{{grant_id}}/retire": Answer(a.Grant),
    "GET /kms/retirable-grants": Answer(list[a.Grant]),
    f"POST {_KEY}/tags": Answer(dict[str, str]),
    f"DELETE {_KEY}/tags": Answer(),
    "GET /kms/tags": Answer(dict[str, list[str]]),
    "GET /kms/aliases": Answer(list[a.KeyAlias]),
    "POST /kms/aliases": Answer(a.KeyAlias),
    "PUT /kms/aliases": Answer(a.KeyAlias),
    "DELETE /kms/aliases": Answer(),
    f"POST {_KEY}/encrypt": Answer(a.Encrypted),
    "POST /kms/decrypt": Answer(a.Decrypted),
    "POST /kms/re-encrypt": Answer(a.ReEncrypted),
    f"POST {_KEY}/data-keys": Answer(a.DataKey),
    f"POST {_KEY}/encrypt-data-key": Answer(a.EncryptedDataKey),
    f"POST {_KEY}/decrypt-data-key": Answer(a.DecryptedDataKey),
    f"POST {_KEY}/data-key-pairs": Answer(a.DataKeyPair),
    "POST /kms/random": Answer(a.RandomBits),
    f"GET {_KEY}/public-key": Answer(a.PublicHalf, refuses=(409,)),
    f"POST {_KEY}/sign": Answer(a.Signature),
    f"POST {_KEY}/verify": Answer(a.Verdict),
    f"POST {_KEY}/mac": Answer(a.Code),
    f"POST {_KEY}/verify-mac": Answer(a.Verdict),
}


def refuses(name: str, call: Json) -> Iterator[int]:
    """Give the statuses that a call may be refused with."""
    method, _, path = name.partition(" ")
    yield from (400, 408, 413, 500)  # 400: a query parameter that the call does not know
    if path.endswith("/health"):
        return
    if path.endswith("/ready"):
        yield 503
        return
    yield from (401, 403, 429, 503)
    if "requestBody" in call:
        yield 415
    if "requestBody" in call or "parameters" in call:
        yield from (404, 422)
    if method != "GET":
        yield 409


API = Api(
    description=DESCRIPTION,
    answers={f"{name.partition(' ')[0]} /fleet/v1{name.partition(' ')[2]}": answer for name, answer in ANSWERS.items()},
    refused=a.Problem,
    media_type=MEDIA_TYPE,
    refuses=refuses,
    words=WORDS,
    examples=EXAMPLES,
)
