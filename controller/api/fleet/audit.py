"""The trail: what happened, by whom, and what proves it."""

from datetime import datetime
from typing import Annotated

from fastapi import Query

from controller.api import shapes
from controller.api.fleet.asking import Asking, Serving, router_of
from controller.api.shapes import Json
from controller.service import trail

WAIT_SECONDS = 30  # the longest that a question for events may wait
AT_ONCE = 1000
LARGEST = 2**62

router = router_of()
Number = Annotated[int | None, Query(ge=0, le=LARGEST)]
Some = Annotated[str | None, Query(min_length=1, max_length=255)]
Kinds = Annotated[list[str], Query(default_factory=list, max_length=100)]


@router.get("/audit/events")
async def events(
    fleet: Serving,
    who: Asking,
    kind: Kinds,
    after: Number = None,
    before: Number = None,
    limit: Annotated[int, Query(ge=1, le=AT_ONCE)] = AT_ONCE,
    wait: Annotated[float, Query(ge=0, le=WAIT_SECONDS)] = 0,
    user: Some = None,
    server: Some = None,
    keypair: Some = None,
    task: Some = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Json]:
    """Return events of the tenant, the newest first; with after, those after that number, the oldest first."""
    found = await fleet.audit.events(
        who, after=after, before=before, limit=limit, wait_seconds=wait, kinds=kind, user=user, server=server,
        keypair=keypair, task=task, since=shapes.in_utc(since), until=shapes.in_utc(until),
    )  # fmt: skip
    return [trail.chained_event(each) for each in found]


@router.get("/audit/names")
async def names(fleet: Serving, who: Asking) -> dict[str, str]:
    """Say what the users and servers of the tenant are called, by their ids."""
    return await fleet.audit.names(who)


@router.get("/audit/key")
async def key(fleet: Serving, who: Asking) -> Json:
    """Show the public half of the key that signs the tenant's events."""
    return {"tenant_id": who.tenant_id, "public_key": await fleet.audit.key(who)}


@router.get("/audit/export")
async def export(fleet: Serving, who: Asking, since: datetime | None = None, until: datetime | None = None) -> Json:
    """Return the first line of an export: which events follow, signed. They are fetched by their numbers."""
    made = await fleet.audit.export(who, shapes.in_utc(since), shapes.in_utc(until))
    return trail.export_header(made)


@router.post("/audit/export", status_code=204)
async def exported(fleet: Serving, who: Asking, asked: shapes.Exported) -> None:
    """Record that an export is whole and where it should be."""
    await fleet.audit.exported(who, asked.first, asked.number, asked.digest)


@router.post("/audit/checkpoints", status_code=201)
async def checkpoint(fleet: Serving, who: Asking) -> Json:
    """Sign how far the trail reaches now: to be kept elsewhere."""
    made, public_key = await fleet.audit.checkpoint(who)
    return trail.checkpoint(made, public_key)


@router.post("/audit/prune")
async def prune(fleet: Serving, who: Asking, asked: shapes.Prune) -> Json:
    """Delete events from before a time, which have to have been exported."""
    deleted, first = await fleet.audit.prune(who, asked.before)
    return {"deleted": deleted, "first": first}
