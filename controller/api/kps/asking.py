"""What every call of the v3 API needs: the services, who asks, and that the project is theirs."""

from typing import Annotated

from fastapi import Depends, Path, Request

from controller.api.fleet.asking import Fleet, asked_by, fleet_of
from controller.api.kps.refusals import Refusal, wrong
from controller.model import Caller


async def caller_of(
    request: Request, fleet: Annotated[Fleet, Depends(fleet_of)], project_id: Annotated[str, Path(max_length=64)]
) -> Caller:
    """Return who asks, once the project in the path is one that they have; to everybody else there is no such project."""
    if not project_id.isascii() or not project_id.isalnum():
        raise wrong("the project id in the path is none; give the SDK's credentials a project id")
    who = await asked_by(request, fleet)
    if project_id != who.project_id:
        raise Refusal(404, "APIGW.0101", "there is no such project")
    said = request.headers.get("x-project-id")
    if said is not None and said != project_id:
        raise wrong("the header X-Project-Id names another project than the path")
    return who


Serving = Annotated[Fleet, Depends(fleet_of)]
Asking = Annotated[Caller, Depends(caller_of)]
