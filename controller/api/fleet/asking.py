"""What every route needs: the services, and who asks."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from controller.api import gate
from controller.errors import Invalid, Problem
from controller.events import Actor, acting
from controller.model import Caller
from controller.service.fleet import Fleet as Fleet  # for the routes


async def fleet_of(request: Request) -> Fleet:
    """Return what the application was started with."""
    # A coroutine that waits for nothing: the framework would hand a plain function to a thread, for each request.
    fleet: Fleet = request.app.state.fleet
    return fleet


Serving = Annotated[Fleet, Depends(fleet_of)]


async def asked_by(request: Request, fleet: Fleet) -> Caller:
    """Return who asks. From here on what happens is theirs, in the events."""
    who = await fleet.caller(request)
    acting.set(Actor(who.tenant_id, who.user_id))
    request.state.who = who
    return who


async def caller_of(request: Request, fleet: Serving) -> Caller:
    """Return who asks."""
    return await asked_by(request, fleet)


async def again_of(request: Request) -> gate.Again:
    """Return what tells who would be let in now by what came with the request: for an answer that goes on for long."""
    found: gate.Again = request.scope[gate.AGAIN]
    return found


def _named(needs: Dependant) -> set[str]:
    """Return the query parameters that a route, or what it depends on, takes."""
    return {each.alias for each in needs.query_params}.union(*map(_named, needs.dependencies))


async def only_known_of(request: Request) -> None:
    """Invalid: the query says something that this call does not know, and so would do as if it were not said.

    Who asks to delete the tasks of a filter that is not there would delete them all.
    """
    route = request.scope.get("route")
    known = _named(route.dependant) if isinstance(route, APIRoute) else set()
    strange = sorted({name[:64] for name in request.query_params if name not in known})
    if strange:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise Invalid("invalid", f"this call knows no query parameter {', '.join(strange[:5])}; {takes}")


def router_of(under: str = "") -> APIRouter:
    """Return a router for one part of this API; under: what the paths of that part begin with."""
    return APIRouter(prefix=f"/fleet/v1{under}", dependencies=[Depends(only_known_of)])


async def refused(request: Request, problem: Problem) -> None:
    """Have the refusal of a request on record, where it is known whose request it was."""
    who: Caller | None = getattr(request.state, "who", None)
    if who is not None:
        # Not request.url: that is made of the Host header too, and whoever asks writes there what they like.
        fleet = await fleet_of(request)
        await fleet.audit.refused(who, problem, request.method, request.scope["path"])


Asking = Annotated[Caller, Depends(caller_of)]
StillAsking = Annotated[gate.Again, Depends(again_of)]
PAGE = 1000  # the most that one answer lists; whoever wants all asks again, after the last of these
Limit = Annotated[int, Query(ge=1, le=PAGE)]
AfterName = Annotated[str, Query(max_length=255)]
Words = Annotated[list[str], Query(default_factory=list, max_length=1000)]
