"""The v3 API of the Key Pair Service, for clients that were written for the public one. Foreign names live here only."""

from urllib.parse import quote, unquote

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from controller.api.fleet import refused
from controller.api.kps import associating, keypairs, privatekeys, tasks, versions
from controller.api.kps.refusals import install

__all__ = ["application"]

PREFIX = "/v3/{project_id}"


def application(version: str) -> FastAPI:
    """Return the application; its state.fleet is the caller's business."""
    served = FastAPI(
        title="kps v3", version=version, openapi_url="/v3/openapi.json", docs_url=None, redoc_url=None, redirect_slashes=False
    )
    calls = APIRouter(prefix=PREFIX)
    # The words that a POST names come before any key pair's name.
    for part in (associating, privatekeys, keypairs, tasks):
        calls.include_router(part.router)
    served.include_router(versions.router)
    served.include_router(calls)
    install(served, refused)
    return served


class Segmented:
    """An application that sees a path as the segments it was sent in: a slash that is encoded is part of a name."""

    def __init__(self, served: ASGIApp) -> None:
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            segments = scope["raw_path"].decode("latin-1").split("/")
            decoded = [unquote(each, errors="replace").replace("/", quote("/", safe="")) for each in segments]
            scope = dict(scope, path="/".join(decoded))
        await self._served(scope, receive, send)
