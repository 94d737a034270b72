"""Plans: what an operation would do, shown and not done."""

from controller.api import shapes
from controller.api.fleet.asking import Asking, Serving, router_of
from controller.api.fleet.operations import start
from controller.api.shapes import Json
from controller.errors import NotFound
from controller.model import Task

router = router_of()


@router.post("/plans", status_code=202)
async def make_plans(fleet: Serving, who: Asking, asked: shapes.NewOperation) -> list[Json]:
    """Ask what an operation would do: one task for each server, which looks, and writes nothing."""
    return await start(fleet, who, asked.model_copy(update={"plan": True}))


@router.get("/plans/{id}")
async def show_plan(fleet: Serving, who: Asking, id: str) -> Json:
    """Show what came of it: changes once the task has ended, or why it would be refused."""
    found = await fleet.tasks.get(who, id)
    if not found.request.get("plan"):
        raise NotFound("plan_not_found", f"{id}: no plan of this id", plan=id)
    return _plan(found)


def _plan(task: Task) -> Json:
    shown = shapes.task(task)
    named = ("id", "server", "login", "operation", "status", "cause", "message", "handling", "created_at", "finished_at")
    return {name: shown[name] for name in named} | {"plan": task.evidence.get("plan")}
