"""Which key pair is on which login, and what is known of each login."""

from collections.abc import Callable, Iterator
from typing import Annotated

from fastapi import Query

from controller.api.fleet.asking import PAGE, AfterName, Asking, Fleet, Limit, Serving, router_of
from controller.api.fleet.servers import shown
from controller.api.shapes import Json
from controller.model import Caller

router = router_of()
Some = Annotated[str | None, Query(min_length=1, max_length=255)]


@router.get("/bindings")
async def list_bindings(
    fleet: Serving,
    who: Asking,
    server: Some = None,
    login: Some = None,
    keypair: Some = None,
    after: AfterName = "",
    limit: Limit = PAGE,
) -> list[Json]:
    """List what is bound, by server and login; only on one server, one login, or of one key pair.

    after: a server's name; what is bound on one server is never parted, so there may be a few more than limit.
    """

    def wanted(one: Json) -> Iterator[Json]:
        for binding in one["bindings"]:
            if login in (None, binding["login"]) and keypair in (None, binding["keypair"]):
                yield {"server": one["name"], "server_id": one["id"], **binding}

    return await _listed(fleet, who, server, after, limit, wanted)


@router.get("/logins")
async def list_logins(fleet: Serving, who: Asking, server: Some = None, after: AfterName = "", limit: Limit = PAGE) -> list[Json]:
    """List the logins that are known: each server's own, those to which a key pair is bound, and those that were reset.

    after, limit: as for bindings.
    """
    return await _listed(fleet, who, server, after, limit, _logins)


def _logins(server: Json) -> Iterator[Json]:
    bound = {binding["login"]: binding for binding in server["bindings"]}
    waiting = server["after_reset"] or {}
    for login in sorted({server["login"], *bound, *waiting}):
        binding = bound.get(login, {})
        yield {
            "server": server["name"],
            "server_id": server["id"],
            "login": login,
            "own": login == server["login"],
            "keypair": binding.get("keypair"),
            "another_users": binding.get("another_users", False),
            "proof": binding.get("proof"),
            "password_login": server["password_login"],
            "after_reset": login in waiting,
        }


async def _listed(
    fleet: Fleet, who: Caller, name: str | None, after: str, limit: int, rows: Callable[[Json], Iterator[Json]]
) -> list[Json]:
    """Return the rows of one server, or of those after a name until there are enough."""
    if name is not None:
        (one,) = await shown(fleet, who, [await fleet.servers.get(who, name)])
        return list(rows(one))
    found: list[Json] = []
    while len(found) < limit:
        page = await shown(fleet, who, await fleet.servers.list(who, after, limit))
        for one in page:
            if len(found) < limit:
                found += rows(one)
        if len(page) < limit:
            break
        after = page[-1]["name"]
    return found
