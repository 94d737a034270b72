"""Emergency doors in the console: open, extend, close; and what a second user has to agree to."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from controller.doors import OVER, Door, DoorOrder
from controller.errors import Invalid, NotFound
from controller.model import now
from controller.service.roles import allow
from controller.web import onetime
from controller.web.asking import Asked, Page
from controller.web.given import given
from controller.web.onetime import EMERGENCY, MOST_SHOWN

OVER_SHOWN = 8  # of the last doors, those that are over
_MOST_MINUTES = 24 * 60

router = APIRouter(prefix="/emergency/doors")


@router.get("/")
async def counted(page: Page) -> Response:
    """Say whether any door is open: what is on every page, and on this one nothing else, for open pages ask for it anew."""
    return await page.show("emergency/doors.html", "emergency", "Doors", crumbs=[("Emergency", EMERGENCY)])


@router.get("/new")
async def ask(page: Page, servers: str = "", reason: str = "", minutes: str = "", login: str = "", network: str = "") -> Response:
    """Show which doors would be opened, and ask."""
    allow(page.who, "door.open")
    words = servers.replace(",", " ").split()
    try:
        if not words:
            raise Invalid("no_servers", "name at least one server, or a selection as zone=prod")
        chosen = await page.fleet.servers.select(page.who, words)
        for_ = _minutes(minutes)
    except (Invalid, NotFound) as problem:
        await page.note_refused(problem)
        return await page.show(
            "emergency/ask.html",
            "emergency",
            "Open a door",
            problem.status,
            crumbs=[("Emergency", EMERGENCY)],
            problem=problem,
            typed={"servers": servers, "reason": reason, "minutes": minutes, "login": login, "network": network},
            longest_minutes=page.fleet.emergency.longest_seconds // 60,
        )
    held = await page.fleet.emergency.rules.of(page.who, chosen)
    there = {(each.server_id, each.login) for each in await page.fleet.emergency.list(page.who) if not each.confirmed}
    return await page.show(
        "emergency/open.html",
        "emergency",
        "Open a door" if len(chosen) == 1 else f"Open {len(chosen)} doors",
        crumbs=[("Emergency", EMERGENCY)],
        names=[each.name for each in chosen],
        logins=[login.strip()] if login.strip() else sorted({each.login for each in chosen}),
        taken=[each.name for each in chosen if (each.id, login.strip() or each.login) in there],
        second=[each.name for each in chosen if held.get(each.id)],
        rules=sorted({each.where for some in held.values() for each in some}),
        minutes=for_,
        network=network.strip(),
        reason=reason.strip(),
        sent={"server": [each.name for each in chosen], "reason": reason, "minutes": for_, "login": login, "network": network},
        here_path=EMERGENCY,
    )


@router.post("/open")
async def open_(page: Page) -> Response:
    """Open doors on the servers that were shown, or ask for them."""
    allow(page.who, "door.open")
    form = page.form
    names = [name for name in form.all("server") if "=" not in name]
    if not names:
        raise Invalid("no_servers", "name at least one server, or a selection as zone=prod")
    chosen = await page.fleet.servers.select(page.who, names)
    credential = await given(form)
    if credential is not None and credential.password is not None and len(chosen) > 1:
        raise Invalid("password_for_several", "a password is tried on one server only; open the doors one by one, or give a key")
    asked: dict[str, Any] = {
        "reason": form.text("reason"),
        "seconds": 60 * _minutes(form.text("minutes")),
        "login": form.text("login", most=65) or None,
        "network": form.text("network", most=64) or None,
        "opens": lambda name: credential,
    }
    if form.on("one_time"):
        return await onetime.ordered(page, chosen, **asked)
    orders, doors = await page.fleet.emergency.open(page.who, chosen, **asked)
    waits = sum(len(each.doors) for each in orders if each.state == "asked")
    begun = len(doors) - waits
    said = [f"{begun} being opened" if begun else "", f"{waits} asked for: a second user has to agree" if waits else ""]
    return page.go(EMERGENCY, "Doors: " + ", ".join(filter(None, said)))


@router.post("/{id}/extend")
async def extend(page: Page, id: str) -> Response:
    """Have a door stay open for so long from now."""
    allow(page.who, "door.open")
    orders, _ = await page.fleet.emergency.extend(
        page.who, [id], 60 * _minutes(page.form.text("minutes")), page.form.text("reason")
    )
    waits = any(each.state == "asked" for each in orders)
    return page.go(EMERGENCY, "Asked for: a second user has to agree" if waits else "The door is being extended")


@router.post("/{id}/close")
async def close(page: Page, id: str) -> Response:
    """Close a door now, or take back what was asked for."""
    (door,) = await page.fleet.emergency.close(page.who, [id])
    return page.go(EMERGENCY, "The door is being closed" if door.state not in OVER else "Taken back")


@router.post("/orders/{id}/approve")
async def approve(page: Page, id: str) -> Response:
    """Agree, as the second user."""
    await page.fleet.emergency.approvals.approve(page.who, id)
    return page.go(EMERGENCY, "Agreed: it is being done")


@router.post("/orders/{id}/refuse")
async def refuse(page: Page, id: str) -> Response:
    """Say no, or take back what one has asked for oneself."""
    await page.fleet.emergency.approvals.refuse(page.who, id)
    return page.go(EMERGENCY, "Refused: nothing is opened")


async def shown(page: Asked, users: dict[str, str]) -> dict[str, Any]:
    """Return what the page of emergencies shows of doors."""
    doors = await page.fleet.emergency.list(page.who, limit=MOST_SHOWN + 1)
    orders = await page.fleet.emergency.approvals.list(page.who)
    # All that is agreed to, however many doors are newer.
    asked = await page.fleet.emergency.list(page.who, ids=[id for each in orders for id in each.doors]) if orders else []
    last = await page.fleet.emergency.list(page.who, all=True, limit=MOST_SHOWN)
    names = {each.id: each for each in asked if each.state not in OVER}
    return {
        "doors": [_row(each, users) for each in doors[:MOST_SHOWN]],
        "more_doors": len(doors) > MOST_SHOWN,
        "over": [_ended(each, users) for each in last if each.state in OVER and not each.password_works][:OVER_SHOWN],
        "waiting": [_waiting(page, each, names, users) for each in orders],
        "longest_minutes": page.fleet.emergency.longest_seconds // 60,
    }


def _row(door: Door, users: dict[str, str]) -> dict[str, Any]:
    left = 0 if door.deadline is None or door.state != "open" else max(0, round((door.deadline - now()).total_seconds()))
    return {
        "door": door,
        "by": users.get(door.user_id, ""),
        "told": "not open yet" if door.unbegun else "closing, not confirmed" if door.state == "closing" else door.state,
        "kind": {"open": "warn", "opening": "warn", "closing": "bad"}.get(door.state, "bad" if door.password_works else ""),
        "left": f"{left // 60} min {left % 60:02} s" if left else "",
        "seconds": left,
    }


_CLOSED_BY = {
    "order": "by an order",
    "deadline": "by the server, at its deadline",
    "boot": "by the server, as it booted",
    "damage": "by the server, as its record of the door was damaged",
}


def _ended(door: Door, users: dict[str, str]) -> dict[str, Any]:
    """Return what is told of a door that is over: what became of it, and the task that says more."""
    told = _CLOSED_BY.get(door.closed_by or "", "") if door.state == "closed" else door.note
    task = door.task_id if door.state == "failed" else door.closing_task_id
    kind = {"closed": "good", "failed": "bad"}.get(door.state, "warn")
    return {"door": door, "by": users.get(door.user_id, ""), "told": told, "kind": kind, "task": task}


def _waiting(page: Asked, order: DoorOrder, doors: dict[str, Door], users: dict[str, str]) -> dict[str, Any]:
    them = [doors[id] for id in order.doors if id in doors]
    minutes, seconds = divmod(order.seconds, 60)
    return {
        "order": order,
        # What is agreed to, whole: which logins, from where, for how long.
        "logins": sorted({each.login for each in them}),
        "networks": sorted({each.network or "everywhere" for each in them}),
        "for": f"{minutes} min" + (f" {seconds:02} s" if seconds else ""),
        "servers": sorted({doors[id].server_name for id in order.doors if id in doors}),
        "by": users.get(order.user_id, ""),
        "mine": order.user_id == page.who.user_id,
    }


def _minutes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Invalid("invalid", "minutes: give a whole number")
    if not 1 <= int(text) <= _MOST_MINUTES:
        code = "door_too_short" if int(text) < 1 else "door_too_long"
        raise Invalid(code, f"minutes: give 1 to {_MOST_MINUTES}")
    return int(text)
