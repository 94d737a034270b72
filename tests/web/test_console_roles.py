"""docs/console-roles.md is what pages really show, and what nobody is offered is refused."""

import asyncio
from pathlib import Path

from tests.web import console_roles

# What no page of that home has a button for, whoever looks: it is for what runs, and nothing runs there.
NEVER_OFFERED = {"do /failed-tasks/{id}/cancel", "do /rollouts/{id}/pause"}
PAGE = Path(__file__).parents[2] / "docs/console-roles.md"


def test_who_is_shown_what_is_as_the_page_says() -> None:
    found = asyncio.run(console_roles.told())
    assert PAGE.read_text() == console_roles.page(found), "run: python -m tests.web.console_roles > docs/console-roles.md"
    # A page that comes later is in the table, or here.
    assert {what for what, cells in found.items() if set(cells.values()) == {"-"}} == NEVER_OFFERED
    for what, cells in found.items():
        if what.startswith("do ") and what not in ("do /sign-out",):
            assert cells["local", "auditor"] != "yes" or what.startswith(("do /audit/", "do /account/")), what
