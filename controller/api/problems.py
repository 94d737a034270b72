"""How requests are refused: problem details (RFC 9457) with a stable code, and a cap on what is read at all."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from controller import bodies
from controller.api.strict import NotJson, parsed, unfit
from controller.errors import Away, Problem

MEDIA_TYPE = "application/problem+json"
FAULT = "a fault of the controller itself; its log has the trace"
MOST_TOLD = 8  # of what is wrong in one request
_LONGEST_PLACE = 300  # whoever sends a name of a megabyte knows it

CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def answer(status: int, code: str, detail: str, **evidence: Any) -> JSONResponse:
    """Return the answer that refuses a request."""
    return JSONResponse(
        {"type": "about:blank", "status": status, "code": code, "detail": detail, "evidence": evidence},
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={"Cache-Control": "no-store"},
    )


def install(application: FastAPI, record: Callable[[Request, Problem], Awaitable[None]]) -> None:
    """Make every refusal of the application a problem document. record: told of each refusal of a verb."""

    @application.exception_handler(Problem)
    async def refused(request: Request, error: Problem) -> JSONResponse:
        await record(request, error)
        refused = answer(error.status, error.code, error.message, **error.evidence)
        if isinstance(error, Away):
            refused.headers["Retry-After"] = str(error.retry_seconds)
        return refused

    @application.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, "invalid", "; ".join(found_wrong(error.errors(), inside=1)[:MOST_TOLD]))

    @application.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, CODES.get(error.status_code, "invalid"), str(error.detail))

    @application.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "unexpected", FAULT)


# By pydantic's name of what is wrong, in the words of who sent it. What is given itself is never in them.
_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "at most {max_length} characters",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_parsing": "must be a number",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "json_invalid": "is not JSON",
}


def found_wrong(errors: Iterable[Mapping[str, Any]], inside: int = 0) -> list[str]:
    """Return what pydantic found, in plain words: where, and why. inside: how many parts of a place are not the sender's.

    What was given is not repeated: it may be a secret.
    """
    return [f"{_place(item['loc'][inside:])}: {_why(item)}" for item in errors]


def _place(location: Sequence[str | int]) -> str:
    """Return the name of a field as its sender knows it."""
    return ".".join(str(part) for part in location)[:_LONGEST_PLACE] or "body"


def _why(item: Mapping[str, Any]) -> str:
    context = item.get("ctx", {})
    if item["type"] == "too_long":
        # Secrets are counted as what they are made of.
        unit = "characters" if context.get("field_type") == "Value" else "of them"
        return f"at most {context['max_length']} {unit}"
    if item["type"] == "too_short":
        return "must not be empty"
    if item["type"] in _WORDS:
        return _WORDS[item["type"]].format_map(context)
    return str(item["msg"]).removeprefix("Value error, ")


class Capped:
    """An ASGI application that sees no body larger than it may be, nor one that is not JSON, and whose answers nobody keeps."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        allowed = bodies.most(scope)
        body = await _read(receive, allowed)
        if body is None:
            refusal = answer(413, "body_too_large", f"a request may hold {allowed} bytes; send less at a time")
            await refusal(scope, receive, send)
            return
        refused = unread(scope, body)
        if refused is not None:
            await refused(scope, receive, send)
            return
        await self._application(scope, _again(body, receive), _unkept(send))


def unread(scope: Scope, body: bytes) -> JSONResponse | None:
    """Return the refusal of a body that is not read, whatever the call; None for one that is."""
    if not body:
        return None
    refused = unfit(scope["headers"])
    if refused is not None:
        return answer(415, "not_json", refused)
    try:
        parsed(body)
    except NotJson as error:
        return answer(422, "invalid", f"body: {error}")
    return None


async def _read(receive: Receive, allowed: int) -> bytes | None:
    """Return the body of a request, None when it is larger than that."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > allowed:
            return None
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a receive that gives body first and then what comes after it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


def _unkept(send: Send) -> Callable[[Message], Awaitable[None]]:
    """Return a send that forbids every cache to keep the answer."""

    async def forbid(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), (b"cache-control", b"no-store")]}
        await send(message)

    return forbid
