"""Whether the controller lives, and whether it can do its work: open to all, for nothing in the answers is anybody's secret.

And what its doctor finds, for the home's owner.
"""

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from controller.api import problems
from controller.api.fleet.asking import Asking, Serving, router_of
from controller.api.gate import CALLER
from controller.api.shapes import Json
from controller.model import Caller
from controller.service.doctor import told

router = router_of()


@router.get("/health")
async def health() -> Json:
    """Say that the controller answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request, fleet: Serving) -> Response:
    """Say whether the controller can do its work: 200, or 503 with what it lacks; to the home's owner with the reasons."""
    found = await fleet.readiness.report()
    lacks: Json = {"checks": found.checks, "warnings": found.warnings}
    if found.status == "ready":
        return JSONResponse({"status": "ready", **lacks})
    who: Caller | None = request.scope.get(CALLER)
    if who is not None and who.at_home:
        lacks["why"] = found.why
    lacking = [f"{name}: {code}" for name, code in found.checks.items() if code != "ok"]
    return problems.answer(503, found.status, "; ".join(lacking) or "the controller stops", **lacks)


@router.get("/doctor")
async def doctor(fleet: Serving, who: Asking) -> Json:
    """Look at what the controller stands on, from its own process. Through the home's socket only."""
    return told(await fleet.doctor.findings(who), fleet.doctor.home, served=True)
