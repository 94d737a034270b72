"""Audit: pages of the console."""

from fastapi import APIRouter
from starlette.responses import Response

from controller.web.asking import Page

router = APIRouter(prefix="/audit")


@router.get("/")
async def listed(page: Page) -> Response:
    """Show the list."""
    return await page.show("audit/list.html", "audit", "Audit")
