"""Servers."""

from typing import Any

from fastapi import APIRouter
from pydantic import ValidationError

from controller.api import shapes
from controller.api.fleet.asking import Asking, Serving, Words
from controller.api.problems import found_wrong
from controller.api.shapes import Json
from controller.errors import Invalid, Problem

IMPORTED_AT_ONCE = 5000

router = APIRouter()


@router.get("/servers")
async def list_servers(fleet: Serving, who: Asking, select: Words, all: bool = False) -> list[Json]:
    """List servers: all of them, or those that names and label=value select."""
    found = await fleet.servers.select(who, select, all) if select or all else await fleet.servers.list(who)
    bindings, names = await fleet.servers.bindings(who), await fleet.servers.jump_names(who)
    return [shapes.server(one, [pair for pair in bindings if pair[0].server_id == one.id], names) for one in found]


@router.post("/servers", status_code=201)
async def add_server(fleet: Serving, who: Asking, asked: shapes.NewServer) -> Json:
    """Add a server; with trust on first use its host key is recorded before anything else is sent to it."""
    return shapes.server(await fleet.servers.add(who, **asked.model_dump()), [], await fleet.servers.jump_names(who))


@router.post("/servers/import", status_code=201)
async def import_servers(fleet: Serving, who: Asking, asked: list[Any], check: bool = False) -> list[Json]:
    """Add all of these servers, or none of them; what is wrong with each is told by its place in the list.

    Each is a NewServer. check: only look what is wrong, and add none.
    """
    if len(asked) > IMPORTED_AT_ONCE:
        raise Invalid("too_many_servers", f"{len(asked)} servers at once; send at most {IMPORTED_AT_ONCE}")
    added = await fleet.servers.add_all(who, [to_be_added(each) for each in asked], only_check=check)
    names = await fleet.servers.jump_names(who)
    return [shapes.server(one, [], names) for one in added]


@router.get("/servers/{name}")
async def show_server(fleet: Serving, who: Asking, name: str) -> Json:
    """Show one server."""
    found = await fleet.servers.get(who, name)
    return shapes.server(found, await fleet.servers.bindings(who, found), await fleet.servers.jump_names(who))


@router.patch("/servers/{name}")
async def change_server(fleet: Serving, who: Asking, name: str, asked: shapes.ChangedServer) -> Json:
    """Change how a server is reached; what is left out stays as it is."""
    found = await fleet.servers.change(who, name, **asked.model_dump())
    return shapes.server(found, await fleet.servers.bindings(who, found), await fleet.servers.jump_names(who))


@router.delete("/servers/{name}", status_code=204)
async def remove_server(fleet: Serving, who: Asking, name: str, force: bool = False) -> None:
    """Take a server out of the inventory; nothing is changed on it."""
    await fleet.servers.remove(who, name, force=force)


def to_be_added(given: Any) -> Json | Problem:
    """Return one server of several as the service takes it, or what is wrong with it."""
    try:
        return shapes.NewServer.model_validate(given).model_dump()
    except ValidationError as error:
        return Invalid("invalid", "; ".join(found_wrong(error.errors(include_input=False))))
