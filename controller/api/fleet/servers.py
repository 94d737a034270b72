"""Servers."""

from typing import Any

from pydantic import ValidationError

from controller.api import shapes
from controller.api.fleet.asking import PAGE, AfterName, Asking, Fleet, Limit, Serving, Words, router_of
from controller.api.problems import found_wrong
from controller.api.shapes import Json
from controller.errors import Invalid, Problem
from controller.model import Binding, Caller, Server

IMPORTED_AT_ONCE = 10_000

router = router_of()


@router.get("/servers")
async def list_servers(
    fleet: Serving, who: Asking, select: Words, all: bool = False, after: AfterName = "", limit: Limit = PAGE
) -> list[Json]:
    """List servers by name, all or those that names and label=value select: of those after a name, the first so many."""
    if select:
        chosen = await fleet.servers.select(who, select, all)
        return await shown(fleet, who, [one for one in chosen if one.name > after][:limit])
    return await shown(fleet, who, await fleet.servers.list(who, after, limit))


@router.post("/servers", status_code=201)
async def add_server(fleet: Serving, who: Asking, asked: shapes.NewServer) -> Json:
    """Add a server; with trust on first use its host key is recorded before anything else is sent to it."""
    (one,) = await shown(fleet, who, [await fleet.servers.add(who, **asked.model_dump())])
    return one


@router.post("/servers/import", status_code=201)
async def import_servers(fleet: Serving, who: Asking, asked: list[Any], check: bool = False) -> list[Json]:
    """Add all of these servers, or none of them; what is wrong with each is told by its place in the list.

    Each is a NewServer. check: only look what is wrong, and add none.
    """
    if len(asked) > IMPORTED_AT_ONCE:
        raise Invalid("too_many_servers", f"{len(asked)} servers at once; send at most {IMPORTED_AT_ONCE}")
    return await shown(fleet, who, await fleet.servers.add_all(who, [to_be_added(each) for each in asked], only_check=check))


@router.get("/servers/{name}")
async def show_server(fleet: Serving, who: Asking, name: str) -> Json:
    """Show one server."""
    (one,) = await shown(fleet, who, [await fleet.servers.get(who, name)])
    return one


@router.patch("/servers/{name}")
async def change_server(fleet: Serving, who: Asking, name: str, asked: shapes.ChangedServer) -> Json:
    """Change how a server is reached; what is left out stays as it is."""
    (one,) = await shown(fleet, who, [await fleet.servers.change(who, name, **asked.model_dump())])
    return one


@router.delete("/servers/{name}", status_code=204)
async def remove_server(fleet: Serving, who: Asking, name: str, force: bool = False) -> None:
    """Take a server out of the inventory; nothing is changed on it."""
    await fleet.servers.remove(who, name, force=force)


async def shown(fleet: Fleet, who: Caller, servers: list[Server]) -> list[Json]:
    """Return servers with what is bound on them."""
    bound: dict[str, list[tuple[Binding, str | None]]] = {one.id: [] for one in servers}
    for pair in await fleet.servers.bindings(who, *bound):
        bound[pair[0].server_id].append(pair)
    names = await fleet.servers.jump_names(who, servers)
    return [shapes.server(one, bound[one.id], names) for one in servers]


def to_be_added(given: Any) -> Json | Problem:
    """Return one server of several as the service takes it, or what is wrong with it."""
    try:
        return shapes.NewServer.model_validate(given).model_dump()
    except ValidationError as error:
        return Invalid("invalid", "; ".join(found_wrong(error.errors(include_input=False))))
