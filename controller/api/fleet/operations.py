"""Operations, their tasks, and what happens meanwhile."""

import secrets
from typing import Annotated

from fastapi import Query

from controller.api import shapes
from controller.api.fleet.asking import PAGE, Asking, Limit, Serving, Words, router_of
from controller.api.shapes import Json
from controller.errors import Invalid
from controller.model import Credential, Secret, Task

WAIT_SECONDS = 30  # the longest that a question for events may wait
ONE_TIME_PASSWORD_CHARACTERS = 16
LEGIBLE = "abcdefghijkmnpqrstuvwxyz23456789"  # none that reads like another one

router = router_of()


@router.post("/operations", status_code=202)
async def start(fleet: Serving, who: Asking, asked: shapes.NewOperation) -> list[Json]:
    """Start an operation: one task for each server, answered at once and run from now on."""
    chosen = await fleet.servers.select(who, asked.servers, asked.all)
    strangers = sorted(asked.credentials.keys() - {one.name for one in chosen})
    if strangers:
        raise Invalid("credential_for_others", f"credentials for servers that were not selected: {', '.join(strangers)}")
    opens = {one.id: asked.opens(one.name) for one in chosen}
    given = {server_id: credential for server_id, credential in opens.items() if credential is not None}
    one_time: dict[str, str] = {}
    if asked.operation == "reset":
        refuse_for_reset(bool(given))
        if asked.set_password:
            one_time = {one.id: one_time_password() for one in chosen}
            given = {server_id: Credential(password=Secret(password)) for server_id, password in one_time.items()}
    tasks = await fleet.bindings.start(who, asked.operation, chosen, asked.options(), given)
    return [with_password(task, one_time.get(task.server_id)) for task in tasks]


@router.get("/tasks")
async def list_tasks(
    fleet: Serving,
    who: Asking,
    id: Words,
    failed: bool = False,
    running: bool = False,
    after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
    limit: Limit = PAGE,
) -> list[Json]:
    """List tasks, in the order in which they were asked for: of those after a number, the first so many."""
    return [shapes.task(found) for found in await fleet.tasks.list(who, failed, running, id or None, after, limit)]


@router.get("/tasks/{id}")
async def show_task(fleet: Serving, who: Asking, id: str) -> Json:
    """Show one task with all that is known of it."""
    return shapes.task(await fleet.tasks.get(who, id))


@router.post("/tasks/{id}/retry", status_code=202)
async def retry_task(fleet: Serving, who: Asking, id: str, asked: shapes.Retry) -> Json:
    """Ask once more for what failed: a new task, with the options of the old one."""
    failed = await fleet.tasks.get(who, id)
    credential = asked.credential.credential() if asked.credential else None
    one_time = None
    if failed.operation == "reset":
        refuse_for_reset(credential is not None)
        if failed.request.get("set_password"):
            one_time = one_time_password()
            credential = Credential(password=Secret(one_time))
    return with_password(await fleet.tasks.retry(who, id, credential), one_time)


@router.delete("/tasks/{id}")
async def delete_task(fleet: Serving, who: Asking, id: str) -> Json:
    """Take one failed task off the list, or cancel one that nobody has begun."""
    done = await fleet.tasks.delete(who, id)
    return {"deleted": int(done == "deleted"), "cancelled": int(done == "cancelled")}


@router.delete("/tasks")
async def delete_failed_tasks(fleet: Serving, who: Asking) -> Json:
    """Take every failed task off the list."""
    return {"deleted": await fleet.tasks.delete_failed(who)}


@router.get("/events")
async def events(
    fleet: Serving,
    who: Asking,
    task: Words,
    after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,  # what the store can count to
    wait: Annotated[float, Query(ge=0, le=WAIT_SECONDS)] = 0,
) -> list[Json]:
    """Return what happened after an event, the oldest first; with wait, not before there is something."""
    return [shapes.event(found) for found in await fleet.tasks.events(who, after, task or None, wait)]


def refuse_for_reset(given: bool) -> None:
    """Refuse a credential for a reset: it opens nothing, and the only password there is the one that is set."""
    if given:
        raise Invalid("credential_not_used", "a reset opens the disk, not a login: give no password and no key")


def one_time_password() -> str:
    """Return a new password that a person can read out and type."""
    return "".join(secrets.choice(LEGIBLE) for _ in range(ONE_TIME_PASSWORD_CHARACTERS))


def with_password(task: Task, one_time: str | None) -> Json:
    """Return a task, with the password that it sets: in this answer and nowhere else."""
    return shapes.task(task) | ({"password": one_time} if one_time else {})
