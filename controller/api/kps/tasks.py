"""Tasks: how one stands, what runs, what failed.

Phase and kind of a task are one word, as in RUNNING_REPLACE. What has no word (checks, password login alone) is not shown.
"""

import uuid
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query

from controller.api.fleet.asking import Fleet
from controller.api.kps.asking import Asking, Serving
from controller.api.kps.refusals import Refusal
from controller.errors import NotFound
from controller.model import Binding, Caller, Operation, Status, Task

Json = dict[str, Any]
PAGE = 1000
router = APIRouter()

KINDS: dict[Operation, str] = {"bind": "BIND", "replace": "REPLACE", "reset": "RESET", "unbind": "UNBIND"}
_PHASES: dict[Status, str] = {
    "ready": "READY",
    "running": "RUNNING",
    "succeeded": "SUCCESS",
    "unchanged": "SUCCESS",
    "failed": "FAILED",
    "cancelled": "FAILED",
}
# Where our cause has a code in the table of this API; the message says the rest.
_CODES = {
    "unexpected": "KPS.0004",
    "connection_refused": "KPS.0003",
    "connection_timed_out": "KPS.0003",
    "connection_lost": "KPS.0003",
    "host_unreachable": "KPS.0003",
    "name_unknown": "KPS.0003",
}

Limit = Annotated[int, Query(ge=1, le=PAGE)]
Offset = Annotated[int, Query(ge=0, le=2**31)]


@router.get("/tasks/{task_id}")
async def list_keypair_task(fleet: Serving, who: Asking, task_id: str) -> Json:
    """Say how a task stands; it can be asked for after its end too."""
    if not _well_formed(task_id):
        raise Refusal(400, "KPS.0001", "a task id is a UUID")
    try:
        task = await fleet.tasks.get(who, task_id)
    except NotFound:
        raise Refusal(404, "KPS.0001", "there is no such task") from None
    if task.operation not in KINDS:
        raise Refusal(404, "KPS.0001", "there is no such task")
    return {"task_id": task.id, "server_id": task.server_id, "task_status": word(task)}


@router.get("/running-tasks")
async def list_running_task(fleet: Serving, who: Asking, limit: Limit = PAGE, offset: Offset = 0) -> Json:
    """List what waits or runs."""
    found, total = await fleet.tasks.counted(who, KINDS, running=True, offset=offset, limit=limit)
    return {"total": total, "tasks": await _told(fleet, who, found, _listed)}


@router.get("/failed-tasks")
async def list_failed_task(fleet: Serving, who: Asking, limit: Limit = PAGE, offset: Offset = 0) -> Json:
    """List what failed and was neither tried again nor taken off the list."""

    def told(task: Task, keypair: str) -> Json:
        code = _CODES.get(task.cause or "", "KPS.0004")
        return _listed(task, keypair) | {"task_error_code": code, "task_error_msg": f"{task.message} ({task.cause})"}

    found, total = await fleet.tasks.counted(who, KINDS, failed=True, offset=offset, limit=limit)
    return {"total": total, "tasks": await _told(fleet, who, found, told)}


@router.delete("/failed-tasks/{task_id}")
async def delete_failed_task(fleet: Serving, who: Asking, task_id: str) -> Json:
    """Take one failed task off the list."""
    try:
        task = await fleet.tasks.get(who, task_id) if _well_formed(task_id) else None
        if task is None or task.operation not in KINDS or task.status != "failed":
            raise Refusal(400, "KPS.0005", "there is no such failed task")
        await fleet.tasks.delete(who, task_id)
    except NotFound:
        raise Refusal(400, "KPS.0005", "there is no such failed task") from None
    return {}


@router.delete("/failed-tasks")
async def delete_all_failed_task(fleet: Serving, who: Asking) -> Json:
    """Take every failed task off the list."""
    # Failed checks, say, are not shown here, and so not this call's to take away.
    await fleet.tasks.delete_failed(who, list(KINDS))
    return {}


def word(task: Task) -> str:
    """Return the phase and kind of a task in one word."""
    return f"{_PHASES[task.status]}_{KINDS[task.operation]}"


async def _told(fleet: Fleet, who: Caller, tasks: list[Task], told: Callable[[Task, str], Json]) -> list[Json]:
    ids = {task.server_id for task in tasks if task.operation == "unbind"}
    bound = await fleet.servers.bindings(who, *ids) if ids else []
    return [told(task, _bound_then(task, bound)) for task in tasks]


def _bound_then(task: Task, bound: list[tuple[Binding, str | None]]) -> str:
    """Return what an unbind is about: it names no key pair, and where it has not come to its end the binding stands yet."""
    place = (task.server_id, task.login)
    names = [name for each, name in bound if (each.server_id, each.login) == place and each.created_at <= task.created_at]
    return next((name for name in names if name), "")


def _listed(task: Task, keypair: str) -> Json:
    at = task.finished_at or task.started_at or task.created_at
    return {
        "task_id": task.id,
        "operate_type": word(task),
        "task_time": str(int(at.timestamp() * 1000)),
        "server_name": task.server_name,
        "server_id": task.server_id,
        "keypair_name": str(task.request.get("keypair") or keypair),
    }


def _well_formed(task_id: str) -> bool:
    try:
        return str(uuid.UUID(task_id)) == task_id
    except ValueError:
        return False
