"""Failed tasks: pages of the console."""

from fastapi import APIRouter
from starlette.responses import Response

from controller.web.asking import Page

router = APIRouter(prefix="/failed-tasks")


@router.get("/")
async def listed(page: Page) -> Response:
    """Show the list."""
    return await page.show("failedtasks/list.html", "failed-tasks", "Failed tasks")
