"""What every call of the v3 API needs: the services, who asks, and that the project is theirs."""

from typing import Annotated

from fastapi import Depends, Path, Request

from controller.api.fleet.asking import Fleet, asked_by, fleet_of
from controller.api.fleet.asking import refused as on_record
from controller.api.kps.refusals import Refusal, refusal_of, wrong
from controller.errors import Problem
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


async def told_of(request: Request, refused: Refusal | Problem) -> Refusal:
    """Return how one element of a batch is refused; it is on record as if it had been asked for alone."""
    if isinstance(refused, Refusal):
        return refused
    await on_record(request, refused)
    return refusal_of(refused)


def is_own(who: Caller, user_id: str | None) -> None:
    """Refuse to work for another user: whoever asks does so for themselves."""
    if user_id and user_id != who.user_id:
        raise Refusal(400, "KPS.0006", "the user_id is not that of whoever asks; leave it out")


Serving = Annotated[Fleet, Depends(fleet_of)]
Asking = Annotated[Caller, Depends(caller_of)]
