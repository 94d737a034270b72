"""Overview: the first page of the console."""

from fastapi import APIRouter
from starlette.responses import Response

from controller.web.asking import Page

router = APIRouter()


@router.get("/")
async def overview(page: Page) -> Response:
    """Show how the fleet stands."""
    return await page.show("overview/overview.html", "overview", "Overview")
