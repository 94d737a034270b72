"""Sends the files that pages are made with."""

from starlette.responses import Response

from controller.errors import NotFound
from controller.web.asking import open_router
from controller.web.files import KINDS, contents

# The address of a file changes with what is in it.
_KEPT = "private, max-age=604800, immutable"

router = open_router()


@router.get("/static/{name}")
async def file(name: str) -> Response:
    """Send one of them."""
    found = contents().get(name)
    if found is None:
        raise NotFound("not_found", "there is no such file")
    return Response(found, media_type=KINDS[name.rpartition(".")[2]], headers={"Cache-Control": _KEPT})
