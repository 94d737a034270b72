"""What a client asks before it calls: which versions there are, and which project is its own."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from controller.api.fleet.asking import Fleet, fleet_of

Json = dict[str, Any]
UPDATED = "2026-01-01T00:00:00Z"
router = APIRouter()


@router.get("/")
async def versions() -> Json:
    """List the versions."""
    return {"versions": [_version()]}


@router.get("/v3")
@router.get("/v3/", operation_id="versions_same_version")
async def version() -> Json:
    """Show the one version."""
    return {"version": _version()}


@router.get("/v3/projects")
async def projects(
    request: Request, fleet: Annotated[Fleet, Depends(fleet_of)], name: Annotated[str, Query(max_length=255)] = ""
) -> Json:
    """Name the caller's project, whatever region is asked for: there is one."""
    who = await fleet.caller(request)
    return {"projects": [{"id": who.project_id, "name": name or "self-1", "domain_id": who.tenant_id, "enabled": True}]}


def _version() -> Json:
    links = [{"href": "/v3/", "rel": "self"}]
    return {"id": "v3", "links": links, "version": "", "status": "CURRENT", "updated": UPDATED, "min_version": ""}
