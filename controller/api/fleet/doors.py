"""Emergency doors: password login for one login of a server, for minutes, closed by the server itself."""

from typing import Annotated, Any

from fastapi import Query

from controller.api import doorshapes, shapes
from controller.api.fleet.asking import PAGE, AfterName, Asking, Limit, Serving, Words, router_of
from controller.api.shapes import Json
from controller.errors import Invalid

router = router_of()


@router.post("/doors", status_code=202)
async def open_doors(fleet: Serving, who: Asking, asked: doorshapes.NewDoors) -> Json:
    """Open doors, ahead of everything that waits; where a second user has to agree they are asked for."""
    chosen = await fleet.servers.select(who, asked.servers, asked.all)
    strangers = sorted(asked.credentials.keys() - {one.name for one in chosen})
    if strangers:
        raise Invalid("credential_for_others", f"credentials for servers that were not selected: {', '.join(strangers)}")
    how: Any = {name: getattr(asked, name) for name in ("reason", "seconds", "login", "network", "opens")}
    if not asked.one_time:
        return doorshapes.asked(*await fleet.emergency.open(who, chosen, **how))
    order, doors, made = await fleet.emergency.open_by_password(who, chosen, **how)
    return doorshapes.asked([order], doors, made)


@router.get("/doors")
async def list_doors(
    fleet: Serving,
    who: Asking,
    id: Words,
    all: bool = False,
    server: Annotated[str | None, Query(min_length=1, max_length=255)] = None,
    after: AfterName = "",
    limit: Limit = PAGE,
) -> list[Json]:
    """List doors, the newest first: those that are, may be, or are to be open, or whose one-time passwords work still.

    all: the others too. id: these, however they stand. after: a door's id; of those that come after it, the first so many.
    """
    found = await fleet.emergency.list(who, all=all, server=server, ids=id or None, after=after, limit=limit)
    return [doorshapes.door(each) for each in found]


@router.post("/doors/extend", status_code=202)
async def extend_doors(fleet: Serving, who: Asking, asked: doorshapes.ExtendedDoors) -> Json:
    """Have doors stay open longer, from now; where a second user has to agree that is asked for."""
    orders, doors = await fleet.emergency.extend(who, asked.doors, asked.seconds, asked.reason, asked.opens)
    return doorshapes.asked(orders, doors)


@router.post("/doors/close", status_code=202)
async def close_doors(fleet: Serving, who: Asking, asked: doorshapes.ClosedDoors) -> list[Json]:
    """Close doors now; what nobody has agreed to yet is taken back."""
    return [doorshapes.door(each) for each in await fleet.emergency.close(who, asked.doors, asked.opens)]


@router.get("/doors/{id}")
async def show_door(fleet: Serving, who: Asking, id: str) -> Json:
    """Show one door, with the order that asked for it."""
    door, order = await fleet.emergency.get(who, id)
    return doorshapes.door(door) | {"order": doorshapes.order(order)}


@router.get("/door-orders")
async def list_door_orders(fleet: Serving, who: Asking) -> list[Json]:
    """List what a second user has to agree to, the newest first."""
    return [doorshapes.order(each) for each in await fleet.emergency.approvals.list(who)]


@router.post("/door-orders/{id}/begin", status_code=202)
async def begin_doors(fleet: Serving, who: Asking, id: str, asked: doorshapes.BegunDoors) -> Json:
    """Open the doors of an order whose one-time passwords are set by now."""
    return doorshapes.decided(*await fleet.emergency.begin(who, id, asked.opens))


@router.post("/door-orders/{id}/approve", status_code=202)
async def approve_doors(fleet: Serving, who: Asking, id: str, asked: doorshapes.ApprovedDoors) -> Json:
    """Agree, as the second user, to what somebody asked for; it is done from now on."""
    return doorshapes.decided(*await fleet.emergency.approvals.approve(who, id, asked.opens))


@router.post("/door-orders/{id}/refuse")
async def refuse_doors(fleet: Serving, who: Asking, id: str) -> Json:
    """Say no to what somebody asked for, or take back what the caller has asked for."""
    return doorshapes.decided(*await fleet.emergency.approvals.refuse(who, id))


@router.get("/door-rules")
async def list_door_rules(fleet: Serving, who: Asking) -> list[Json]:
    """List for which servers a second user has to agree."""
    return [doorshapes.rule(each) for each in await fleet.emergency.rules.list(who)]


@router.put("/door-rules")
async def set_door_rule(fleet: Serving, who: Asking, asked: doorshapes.NewDoorRule) -> Json:
    """Have doors of servers with a label opened only after a second user has agreed."""
    return doorshapes.rule(await fleet.emergency.rules.set(who, asked.servers, asked.minutes))


@router.delete("/door-rules", status_code=204)
async def remove_door_rule(fleet: Serving, who: Asking, servers: Annotated[str, Query(max_length=200)]) -> None:
    """Have doors of these servers (label=value) opened without a second user."""
    await fleet.emergency.rules.remove(who, servers)


@router.get("/door-alerts")
async def show_door_alerts(fleet: Serving, who: Asking) -> Json:
    """Show where the tenant is told of its doors."""
    return doorshapes.hook(await fleet.doorbell.hook(who))


@router.put("/door-alerts")
async def set_door_alerts(fleet: Serving, who: Asking, asked: doorshapes.NewDoorHook) -> Json:
    """Tell the tenant of its doors at a URL, by signed requests."""
    secret = shapes.secret(asked.secret)
    if secret is None:
        raise Invalid("secret_unusable", "give what the requests are to be signed with")
    return doorshapes.hook(await fleet.doorbell.set_hook(who, asked.url, secret))


@router.delete("/door-alerts", status_code=204)
async def remove_door_alerts(fleet: Serving, who: Asking) -> None:
    """Tell the tenant of its doors nowhere any more."""
    await fleet.doorbell.remove_hook(who)
