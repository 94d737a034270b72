"""While the controller stops: what only reads is answered still, everything else is asked to come again."""

from starlette.responses import JSONResponse
from starlette.types import Scope

from controller.api import problems

RETRY_SECONDS = 5  # until another controller may be there; nobody knows
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_MESSAGE = "the controller stops and begins nothing more; ask again once it is back"


def refusal(scope: Scope) -> JSONResponse | None:
    """Return the answer to a request that would change something; None for one that only reads."""
    if scope["method"] in _READING:
        return None
    if scope["path"].startswith("/fleet/"):
        refused = problems.answer(503, "stopping", _MESSAGE)
    else:
        body = {"error_code": "KPS.0003", "error_msg": _MESSAGE}
        refused = JSONResponse(body, status_code=503, headers={"Cache-Control": "no-store"})
    refused.headers["Retry-After"] = str(RETRY_SECONDS)
    return refused
