"""Our own REST API, /fleet/v1: the services' verbs as routes, and nothing more."""

from fastapi import APIRouter

from controller.api.fleet import (
    audit,
    bindings,
    custody,
    health,
    keypairs,
    kms,
    operations,
    people,
    plans,
    policies,
    rollouts,
    servers,
    stream,
    temporary,
)
from controller.api.fleet.asking import Fleet, refused
from controller.api.fleet.document import API

__all__ = ["API", "Fleet", "refused", "router"]

router = APIRouter(prefix="/fleet/v1")


PARTS = (
    health,
    keypairs,
    custody,
    kms,
    servers,
    bindings,
    operations,
    plans,
    rollouts,
    policies,
    stream,
    people,
    temporary,
    audit,
)
for part in PARTS:
    router.include_router(part.router)
