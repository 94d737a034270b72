"""Where requests from the network come in: those for the console go to its door, all others to the gate of the APIs."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.errors import Problem
from controller.service.fleet import Fleet
from controller.settings import Settings
from controller.web import (
    account,
    assets,
    audit,
    doors,
    emergency,
    failedtasks,
    keypairs,
    keys,
    live,
    onetime,
    orders,
    overview,
    refusals,
    rollouts,
    servers,
    signin,
    signout,
)
from controller.web.asking import Flashes, Form, NotSignedIn, around, asked_by, guarded, sign_in_first
from controller.web.door import ROOT, SIGNED_IN, Door

PARTS = (
    overview,
    servers,
    orders,
    keypairs,
    failedtasks,
    rollouts,
    emergency,
    doors,
    onetime,
    audit,
    keys,
    account,
    signin,
    signout,
    live,
    assets,
)


class Entry:
    """All that is served on the network."""

    def __init__(self, gate: ASGIApp, door: ASGIApp) -> None:
        self._gate = gate
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["raw_path"]
            if path == ROOT.encode() or (path == b"/" and _is_browser(scope)):
                await RedirectResponse(f"{ROOT}/", status_code=303, headers={"Cache-Control": "no-store"})(scope, receive, send)
                return
            if path.startswith(f"{ROOT}/".encode()):
                await self._door(scope, receive, send)
                return
        await self._gate(scope, receive, send)


def console(fleet: Fleet, settings: Settings) -> Door:
    """Return the console of a home that is open."""
    return Door(application(fleet), fleet, settings)


def application(fleet: Fleet) -> FastAPI:
    """Return the pages, which the door stands before."""
    made = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    made.state.fleet = fleet
    made.state.flashes = Flashes()
    for part in PARTS:
        # A part says itself what of it is for whoever is not signed in.
        made.include_router(part.router, prefix=ROOT, dependencies=[guarded(part.router)])

    @made.exception_handler(Problem)
    async def refused(request: Request, problem: Problem) -> Response:
        if isinstance(problem, NotSignedIn):
            return sign_in_first(request)
        if request.scope[SIGNED_IN] is not None:
            await fleet.audit.refused(request.scope[SIGNED_IN].who, problem, request.method, request.scope["path"])
        return await _page(request, problem.status, problem.code, problem.message)

    @made.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        places = sorted({".".join(str(part) for part in item["loc"][1:])[:100] for item in error.errors()})
        return await _page(request, 422, "invalid", f"{', '.join(places)}: this cannot be read; go back and correct it")

    @made.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and request.scope[SIGNED_IN] is None:
            return sign_in_first(request)  # what there is, strangers are not told
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid")
        words = {404: "there is no such page here", 405: "this page takes nothing of that kind"}
        return await _page(request, error.status_code, code, words.get(error.status_code, str(error.detail)))

    @made.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return refusals.page(request.scope, 500, "unexpected", refusals.FAULT)

    async def _page(request: Request, status: int, code: str, message: str) -> Response:
        if request.scope[SIGNED_IN] is None:
            return refusals.page(request.scope, status, code, message)
        page = asked_by(request, Form(FormData()))  # what was sent may be what is wrong
        return refusals.page(request.scope, status, code, message, signed_in=await around(page))

    return made


def _is_browser(scope: Scope) -> bool:
    """Whether somebody who would rather have a page than the versions of the APIs asks."""
    accepted = b",".join(value for name, value in scope["headers"] if name == b"accept")
    return scope["method"] in ("GET", "HEAD") and b"text/html" in accepted
