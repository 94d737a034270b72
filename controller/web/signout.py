"""Signing out of the console."""

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

from controller.web.asking import SIGN_IN, Page
from controller.web.signin import keep

router = APIRouter()


@router.post("/sign-out")
async def sign_out(page: Page) -> Response:
    """End the session."""
    await page.fleet.console.sign_out(page.signed_in)
    answer = RedirectResponse(SIGN_IN, status_code=303)
    keep(page.request, answer, "")
    return answer
