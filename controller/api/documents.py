"""The OpenAPI documents: beside what FastAPI knows of the routes, who may ask, what is answered, what is refused, and examples.

A table for each API says what each call answers. A call without a line in it is no part of the document, and a test says so.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

Json = dict[str, Any]

BINARY = "application/octet-stream"
STREAM = "text/event-stream"
_REFERENCE = "#/components/schemas/{model}"
_REQUEST_ID = {
    "description": "The number of this request, as the access log has it. On the network only.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "example": "6a1f0e5d2c3b4a59968778695a4b3c2d",
}
_HEADERS = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
_BODY, _REFUSED = "body of ", "refused"
SECURITY: Json = {
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`SDK-HMAC-SHA256 Access=..., SignedHeaders=..., Signature=...` over the request with a secret key, with "
        "`X-Sdk-Date: YYYYMMDDTHHMMSSZ`, at most 15 minutes from the controller's clock. A temporary access key comes with its "
        "`X-Security-Token`.",
    },
    "token": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Auth-Token",
        "description": "A token that this controller has given out.",
    },
}


@dataclass(frozen=True)
class Answer:
    """What a call answers when it does as it is asked. kind: a type, BINARY or STREAM; None where there is no body.

    takes: the type of its body, where it reads that itself. refuses: statuses beside those of all calls like it (Api.refuses).
    """

    kind: Any = None
    takes: Any = None
    refuses: Sequence[int] = ()
    open_to_all: bool = False


@dataclass(frozen=True)
class Api:
    """One of the APIs. answers: by METHOD and path; examples: by the name of a schema.

    refused, media_type: of a refusal; refuses: the statuses that a call may be refused with, from what the document says of it;
    words: what each status means, with an example.
    """

    description: str
    answers: Mapping[str, Answer]
    refused: Any
    media_type: str
    refuses: Callable[[str, Json], Iterable[int]]
    words: Mapping[int, tuple[str, Json]]
    examples: Mapping[str, Any]


class Documented(FastAPI):
    """An application whose document says all of this."""

    def __init__(self, api: Api, **about: Any) -> None:
        super().__init__(**about, generate_unique_id_function=_name, separate_input_output_schemas=False)
        self._api = api

    def openapi(self) -> Json:
        """Return the document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = _completed(super().openapi(), self._api)
        return self.openapi_schema


def calls(document: Json) -> Iterator[tuple[str, Json]]:
    """Give each call of a document: METHOD and path, and what is said of it."""
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            yield f"{method.upper()} {path}", call


def _name(route: APIRoute) -> str:
    """Return what clients that are generated call a route: by its function, and the part that it is in."""
    return f"{route.endpoint.__module__.rpartition('.')[2]}_{route.name}"


def _completed(document: Json, api: Api) -> Json:
    known = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        known.pop(unused, None)
    kinds = {name: answer.kind for name, answer in api.answers.items() if answer.kind not in (None, BINARY, STREAM)}
    kinds |= {f"{_BODY}{name}": answer.takes for name, answer in api.answers.items() if answer.takes is not None}
    kinds[_REFUSED] = api.refused
    made, shared = TypeAdapter.json_schemas(
        [(name, "validation", TypeAdapter(kind)) for name, kind in kinds.items()], ref_template=_REFERENCE
    )
    schemas = {name: schema for (name, _), schema in made.items()}
    known |= shared.get("$defs", {})
    for name, example in api.examples.items():
        known[name]["examples"] = [example]
    document["components"] |= {"securitySchemes": SECURITY, "headers": {"RequestId": _REQUEST_ID}}
    document["info"]["description"] = api.description
    document["security"] = [{name: []} for name in SECURITY]
    for name, call in calls(document):
        answer = api.answers.get(name)
        if answer is None:
            continue
        body = schemas.get(f"{_BODY}{name}")
        if body is not None:
            call["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        call["responses"] = dict(_responses(name, call, answer, api, schemas))
        if answer.open_to_all:
            call["security"] = []
    return document


def _responses(name: str, call: Json, answer: Answer, api: Api, schemas: Mapping[str, Json]) -> Iterator[tuple[str, Json]]:
    done = next(status for status in call["responses"] if status.startswith("2"))
    said: Json = {"description": "Done as asked.", "headers": _HEADERS}
    if answer.kind == BINARY:
        said["content"] = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
    elif answer.kind == STREAM:
        said["content"] = {STREAM: {"schema": {"type": "string"}}}
    elif answer.kind is not None:
        said["content"] = {"application/json": {"schema": schemas[name]}}
    yield done, said
    for status in sorted({*api.refuses(name, call), *answer.refuses}):
        words, example = api.words[status]
        content = {api.media_type: {"schema": schemas[_REFUSED], "example": example}}
        yield str(status), {"description": words, "headers": _HEADERS, "content": content}
