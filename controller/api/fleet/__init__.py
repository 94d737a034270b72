"""Our own REST API, /fleet/v1: the services' verbs as routes, and nothing more."""

from fastapi import APIRouter, Depends

from controller.api.fleet import (
    audit,
    bindings,
    console,
    custody,
    doors,
    health,
    keypairs,
    kms,
    operations,
    people,
    plans,
    policies,
    rollouts,
    secrets,
    servers,
    stream,
    temporary,
)
from controller.api.fleet.asking import Fleet, only_known_of, refused
from controller.api.fleet.document import API

__all__ = ["API", "Fleet", "refused", "router"]

router = APIRouter(prefix="/fleet/v1", dependencies=[Depends(only_known_of)])


PARTS = (
    health,
    keypairs,
    custody,
    secrets,
    kms,
    servers,
    bindings,
    operations,
    plans,
    rollouts,
    policies,
    doors,
    stream,
    people,
    temporary,
    console,
    audit,
)
for part in PARTS:
    router.include_router(part.router)
