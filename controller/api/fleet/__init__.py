"""Our own REST API, /fleet/v1: the services' verbs as routes, and nothing more."""

from fastapi import APIRouter

from controller.api.fleet import audit, custody, keypairs, kms, operations, people, servers
from controller.api.fleet.asking import Fleet, refused
from controller.api.fleet.document import API
from controller.api.shapes import Json

__all__ = ["API", "Fleet", "refused", "router"]

router = APIRouter(prefix="/fleet/v1")


@router.get("/health")
async def health() -> Json:
    """Say that the controller answers."""
    return {"status": "ok"}


for part in (keypairs, custody, kms, servers, operations, people, audit):
    router.include_router(part.router)
