"""Two controllers of one PostgreSQL, in a real browser: a page open at one tells what is done at the other."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import LONGEST, until_linked
from tests.browser.served import Served
from tests.postgresql import Cluster

SECOND = 1.0


@pytest.fixture
def two(tmp_path: Path, postgresql: Cluster) -> Iterator[tuple[Served, Served]]:
    # The tables of the queue are not the store's: a database of its own.
    with postgresql.database() as url, Served(tmp_path / "home", database_url=url) as here:
        shutil.copytree(here.home, tmp_path / "there", ignore=shutil.ignore_patterns("*.sock", "*.lock", "*.log"))
        with Served(tmp_path / "there", database_url=url) as there:
            yield here, there


@pytest.fixture
def page(browser: Browser, two: tuple[Served, Served]) -> Iterator[Page]:
    """A page of somebody who has signed in at the first of them."""
    here, _ = two
    # A browser keeps cookies by host, whatever the port: to it, both are one console, as behind a load balancer.
    with browser.new_context() as context:
        found = context.new_page()
        found.set_default_timeout(LONGEST)
        found.goto(f"{here.url}/console/link#{here.code('operator')}")
        found.get_by_role("button", name="Sign in").click()
        found.wait_for_url(f"{here.url}/console/")
        yield found


def test_an_open_page_shows_within_a_second_what_is_done_at_the_other(
    browser: Browser, two: tuple[Served, Served], page: Page
) -> None:
    here, there = two
    here.ask("POST", "/servers", body={"name": "web", "host": "192.0.2.1"})
    page.goto(f"{here.url}/console/servers/")
    page.evaluate("window.notLoadedAnew = true")
    took = []
    # A window of its own: a tab that nobody looks at tells nothing. Who was let in here is let in there.
    with browser.new_context(storage_state=page.context.storage_state()) as another:
        elsewhere = another.new_page()
        for number in range(6):
            elsewhere.goto(f"{there.url}/console/add-server")
            elsewhere.get_by_label("Name", exact=True).fill(f"web-{number}")
            elsewhere.get_by_label("Address", exact=True).fill("192.0.2.1")
            elsewhere.get_by_role("button", name="Add").click()
            elsewhere.wait_for_url(f"{there.url}/console/servers/web-{number}")
            began = time.monotonic()
            until_linked(page, f"web-{number}")
            took.append(time.monotonic() - began)
    print("seconds from its own page to the other's:", " ".join(f"{each:.2f}" for each in took))
    # The best of them: what a busy machine adds is not of the way that the news takes.
    assert min(took) < SECOND
    assert page.evaluate("window.notLoadedAnew")


def test_a_session_that_is_ended_at_one_is_none_at_the_other(two: tuple[Served, Served], page: Page) -> None:
    here, there = two
    kept = page.context.cookies()
    page.goto(f"{there.url}/console/")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{there.url}/console/sign-in")
    page.context.add_cookies(kept)  # by somebody who had kept it
    page.goto(f"{here.url}/console/servers/")
    expect(page.get_by_label("Password")).to_be_visible()
