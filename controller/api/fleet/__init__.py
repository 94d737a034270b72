"""Our own REST API, /fleet/v1: the services' verbs as routes, and nothing more."""

from itertools import chain

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
from controller.api.fleet.asking import Fleet, refused
from controller.api.fleet.document import API

__all__ = ["API", "ROUTES", "Fleet", "refused"]

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
# Not included one router in another: every route would be made twice, for each command that runs in its own process.
ROUTES = tuple(chain.from_iterable(part.router.routes for part in PARTS))
