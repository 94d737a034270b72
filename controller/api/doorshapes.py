"""The JSON of emergency doors: what requests may hold, and how doors look in answers."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from controller.api.shapes import Json, Line, Name, Opening, Password, Request, instant
from controller.doors import Door, DoorOrder, DoorRule
from controller.model import now
from controller.service.secrets import Made
from controller.store.doorhooks import DoorHook

Reason = Annotated[str, Field(max_length=2000)]
Seconds = Annotated[int, Field(ge=-(2**31), le=2**31)]
Ids = Annotated[list[Name], Field(max_length=10_000)]


class NewDoors(Opening):
    """network: from where the doors open, in CIDR notation; without it, from everywhere. login: else each server's own.

    one_time: a password is made for each and set there first; the doors are opened by POST /door-orders/{id}/begin. It is changed
    once the door is over.
    """

    servers: list[Name] = Field(default_factory=list, max_length=10_000)
    all: bool = False
    reason: Reason = ""
    seconds: Seconds
    login: Name | None = None
    network: Annotated[str, Field(max_length=64)] | None = None
    one_time: bool = False


class ExtendedDoors(Opening):
    """doors: by their ids; they stay open for so many seconds from now."""

    doors: Ids
    reason: Reason = ""
    seconds: Seconds


class ClosedDoors(Opening):
    """doors: by their ids."""

    doors: Ids


class BegunDoors(Opening):
    """What opens the servers, and the one-time password of each."""


class ApprovedDoors(Opening):
    """What opens the servers, where whoever asked has given nothing that does."""


class NewDoorRule(Request):
    """servers: label=value."""

    servers: Line
    minutes: Annotated[int, Field(ge=0, le=100_000)]


class NewDoorHook(Request):
    """secret: what the requests are signed with."""

    url: Annotated[str, Field(max_length=2000)]
    secret: Password


def door(found: Door) -> Json:
    """Return a door."""
    at = now()
    left = 0 if found.deadline is None or found.state != "open" else max(0, round((found.deadline - at).total_seconds()))
    return {
        "id": found.id,
        "server": found.server_name,
        "server_id": found.server_id,
        "login": found.login,
        "network": found.network,
        "seconds": found.seconds,
        "state": found.state,
        "confirmed": found.confirmed,
        "reason": found.reason,
        "user_id": found.user_id,
        "order_id": found.order_id,
        "task_id": found.task_id,
        "created_at": instant(found.created_at),
        "opened_at": instant(found.opened_at),
        "deadline": instant(found.deadline),
        "left_seconds": left,
        "closed_at": instant(found.closed_at),
        "closed_by": found.closed_by,
        "last_task_id": found.closing_task_id,
        "password_works": found.password_works,
        "note": found.note,
    }


def made(found: Made) -> Json:
    """Return a one-time password, and what sets it: in this answer and nowhere else."""
    password = found.password.open().decode()
    found.password.wipe()
    task = found.task
    return {
        "server": task.server_name,
        "login": task.login,
        "secret": found.secret.name,
        "task_id": task.id,
        "password": password,
    }


def order(found: DoorOrder) -> Json:
    """Return an order for doors."""
    return {
        "id": found.id,
        "does": found.does,
        "state": found.state,
        "reason": found.reason,
        "seconds": found.seconds,
        "doors": found.doors,
        "user_id": found.user_id,
        "created_at": instant(found.created_at),
        "rules": found.rules,
        "approve_until": instant(found.approve_until),
        "decided_by": found.decided_by,
        "decided_at": instant(found.decided_at),
    }


def asked(orders: Sequence[DoorOrder], doors: Sequence[Door], passwords: Sequence[Made] = ()) -> Json:
    """Return what was asked for; the passwords that were made for it are wiped."""
    told = {"orders": [order(each) for each in orders], "doors": [door(each) for each in doors]}
    return told | {"passwords": [made(each) for each in passwords]}


def decided(found: DoorOrder, doors: Sequence[Door]) -> Json:
    """Return what somebody has said to."""
    return {"order": order(found), "doors": [door(each) for each in doors]}


def rule(found: DoorRule) -> Json:
    """Return where a second user has to agree."""
    return {
        "servers": found.where,
        "minutes": found.minutes,
        "user_id": found.user_id,
        "created_at": instant(found.created_at),
    }


def hook(found: DoorHook | None) -> Json:
    """Return where a tenant is told, without what that is signed with."""
    if found is None:
        return {"url": None, "user_id": None, "created_at": None}
    return {"url": found.url, "user_id": found.user_id, "created_at": instant(found.created_at)}
