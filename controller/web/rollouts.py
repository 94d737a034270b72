"""Rollouts: pages of the console."""

from fastapi import APIRouter
from starlette.responses import Response

from controller.web.asking import Page

router = APIRouter(prefix="/rollouts")


@router.get("/")
async def listed(page: Page) -> Response:
    """Show the list."""
    return await page.show("rollouts/list.html", "rollouts", "Rollouts")
