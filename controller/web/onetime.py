"""One-time passwords of emergency doors: ordered with the doors, kept as secrets; no page has one. Then the doors are begun."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from controller.doors import OVER, Door
from controller.errors import Invalid
from controller.model import Server
from controller.service.roles import allow
from controller.stages import KeptSecret, SecretRotation
from controller.web.asking import Asked, Page
from controller.web.door import ROOT
from controller.web.given import given

EMERGENCY = f"{ROOT}/emergency/"
MOST_SHOWN = 200

router = APIRouter(prefix="/emergency/doors")


async def ordered(page: Asked, chosen: Sequence[Server], **asked: Any) -> Response:
    """Order doors, and a password for each; what was made is wiped: who may read it has the secret given out."""
    _, doors, made = await page.fleet.emergency.open_by_password(page.who, chosen, **asked)
    for each in made:
        each.password.wipe()
    there = f"{ROOT}/emergency/doors/{doors[0].id}/password"
    if len(made) < len(doors):
        return page.go(there, f"{len(made)} of {len(doors)} get a password; the doors of the others have failed", "bad")
    return page.go(there, f"{'A password is' if len(made) == 1 else f'{len(made)} passwords are'} being set; no door is open yet")


@router.get("/{id}/password")
async def shown(page: Page, id: str) -> Response:
    """Show how the passwords stand that were made with this door, and where they are read; once they are set, offer to open."""
    door, order = await page.fleet.emergency.get(page.who, id)
    doors = sorted(await page.fleet.emergency.list(page.who, ids=order.doors), key=lambda each: each.server_name)
    passwords = await page.fleet.secrets.of_logins(page.who, {(each.server_id, each.login) for each in doors})
    rows = [_row(each, *passwords.get((each.server_id, each.login), (None, None))) for each in doors]
    unbegun = [each for each in rows if each["door"].unbegun]
    users = {each.id: each.name for each in await page.fleet.users.list(page.who)}
    return await page.show(
        "emergency/password.html",
        "emergency",
        "One-time password" if len(doors) == 1 else f"One-time passwords of {len(doors)} doors",
        crumbs=[("Emergency", EMERGENCY)],
        rows=rows[:MOST_SHOWN],
        more=len(rows[MOST_SHOWN:]),
        unbegun=len(unbegun),
        being_set=any(each["state"] == "being set" for each in unbegun),
        ready=sum(each["state"] == "set" for each in unbegun),
        mine=order.user_id == page.who.user_id,
        by=users.get(order.user_id, "a user who is gone"),
        until=min((each["door"].ask_at for each in unbegun), default=None),
        here_path=f"{ROOT}/emergency/doors/{door.id}",
        back=EMERGENCY,
    )


@router.post("/{id}/begin")
async def begin(page: Page, id: str) -> Response:
    """Open the doors that were ordered with this one, where their passwords are set by now."""
    allow(page.who, "door.open")
    door, order = await page.fleet.emergency.get(page.who, id)
    credential = await given(page.form)
    if credential is not None and credential.password is not None:
        if len(order.doors) > 1:
            raise Invalid("password_for_several", "a password is tried on one server only; give a key, or nothing")
        credential = replace(credential, password_of=door.login)
    _, doors = await page.fleet.emergency.begin(page.who, order.id, lambda name: credential)
    begun = sum(each.state not in OVER for each in doors)
    if begun < len(doors):
        told = f"{len(doors) - begun} not: no password was set there"
        return page.go(EMERGENCY, f"Doors: {begun} being opened, {told}", "bad")
    return page.go(EMERGENCY, f"Doors: {begun} being opened")


def _row(door: Door, secret: KeptSecret | None, rotation: SecretRotation | None) -> dict[str, Any]:
    """Return what is told of one door's password."""
    state = "none"
    if door.one_time and secret is not None and rotation is not None:
        state = {"running": "being set", "failed": "not set", "done": "set"}[rotation.state]
        if door.state in OVER:
            state = "to be changed"
    return {
        "door": door,
        "state": state,
        "kind": {"being set": "busy", "set": "good", "none": ""}.get(state, "bad"),
        "secret": secret.name if secret is not None and door.one_time else "",
        "task": rotation.task_id if rotation is not None and state in ("being set", "not set") else None,
        "cause": rotation.cause if rotation is not None and state == "not set" else "",
    }
