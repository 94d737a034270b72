"""Emergency: pages of the console."""

from fastapi import APIRouter
from starlette.responses import Response

from controller.web.asking import Page

router = APIRouter(prefix="/emergency")


@router.get("/")
async def listed(page: Page) -> Response:
    """Show the list."""
    return await page.show("emergency/list.html", "emergency", "Emergency")
