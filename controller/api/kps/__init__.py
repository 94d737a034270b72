"""The v3 API of the Key Pair Service, for clients that were written for the public one. Foreign names live here only."""

from fastapi import APIRouter, FastAPI

from controller.api.documents import Documented
from controller.api.fleet import refused
from controller.api.kps import associating, keypairs, privatekeys, tasks, versions
from controller.api.kps.document import API
from controller.api.kps.refusals import install

__all__ = ["application"]

PREFIX = "/v3/{project_id}"


def application(version: str) -> FastAPI:
    """Return the application; its state.fleet is the caller's business."""
    served = Documented(
        API,
        title="kps v3",
        version=version,
        openapi_url="/v3/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    calls = APIRouter(prefix=PREFIX)
    # The words that a POST names come before any key pair's name.
    for part in (associating, privatekeys, keypairs, tasks):
        calls.include_router(part.router)
    served.include_router(versions.router)
    served.include_router(calls)
    install(served, refused)
    return served
