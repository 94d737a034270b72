"""How the v3 API refuses: its own codes, flat, in the words of its table."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from controller.api.problems import FAULT, MOST_TOLD, found_wrong
from controller.errors import AlreadyExists, Away, Conflict, Damaged, Invalid, NotAllowed, NotFound, Problem, Unavailable


class Refusal(Exception):
    """a call is refused with this status and code"""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def wrong(message: str) -> Refusal:
    """Return the refusal of a parameter."""
    return Refusal(400, "KPS.0002", message)


# Problems that have a code of their own in the table; else their class decides.
_BY_CODE = {
    "keypair_not_found": (404, "KPS.4016"),
    "private_key_not_kept": (400, "KPS.6005"),
    "key_mismatch": (400, "KPS.6011"),
    "user_not_found": (400, "KPS.0006"),
    "task_not_failed": (400, "KPS.0005"),
    "master_key_not_found": (400, "KPS.6008"),
    "master_key_disabled": (400, "KPS.6008"),
    "master_key_pending_deletion": (400, "KPS.6008"),
    "master_key_without_material": (400, "KPS.6008"),
    "master_key_destroyed": (400, "KPS.6008"),
    "quota_exceeded": (400, "KPS.0002"),
}
_BY_CLASS: list[tuple[type[Problem], tuple[int, str]]] = [
    (NotAllowed, (403, "KPS.9003")),
    (NotFound, (404, "KPS.4016")),
    (AlreadyExists, (409, "KPS.0002")),
    (Conflict, (409, "KPS.0002")),
    (Invalid, (400, "KPS.0002")),
    (Damaged, (500, "KPS.5001")),
    (Unavailable, (500, "KPS.0003")),
]


def refusal_of(problem: Problem) -> Refusal:
    """Return a problem of ours as this API says it."""
    status, code = _BY_CODE.get(problem.code) or next(
        (found for kind, found in _BY_CLASS if isinstance(problem, kind)), (500, "KPS.0004")
    )
    return Refusal(status, code, problem.message)


def answer(status: int, code: str, message: str) -> JSONResponse:
    """Return the answer that refuses a call."""
    return JSONResponse({"error_code": code, "error_msg": message}, status_code=status, headers={"Cache-Control": "no-store"})


def install(application: FastAPI, record: Callable[[Request, Problem], Awaitable[None]]) -> None:
    """Make every refusal of the application one of this API. record: told of each refusal of a verb."""

    @application.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return answer(error.status, error.code, error.message)

    @application.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> JSONResponse:
        await record(request, error)
        found = refusal_of(error)
        refused = answer(found.status, found.code, found.message)
        if isinstance(error, Away):
            refused.headers["Retry-After"] = str(error.retry_seconds)
        return refused

    @application.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(400, "KPS.0002", "; ".join(found_wrong(error.errors(), inside=1)[:MOST_TOLD]))

    @application.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> JSONResponse:
        words: dict[int, tuple[int, str, Any]] = {
            404: (404, "APIGW.0101", "there is no such method and path"),
            405: (404, "APIGW.0101", "there is no such method and path"),
        }
        return answer(*words.get(error.status_code, (error.status_code, "APIGW.0201", str(error.detail))))

    @application.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "KPS.0004", FAULT)
