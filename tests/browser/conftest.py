"""A browser, and a controller that serves the console to it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from controller.model import Role
from tests.browser.served import Served
from tests.fleet.conftest import fleet as fleet  # real servers, as there
from tests.fleet.conftest import make_server as make_server
from tests.needs import lacking

CHROMIUM = "/usr/bin/chromium"
SCREENSHOTS = Path(__file__).parents[2] / "build/screenshots"

SignedIn = Callable[..., Page]
LONGEST = 30_000  # milliseconds that something is waited for: a machine with much else to do takes its time
expect.set_options(timeout=LONGEST)


@pytest.fixture(scope="module")  # while one runs, this thread has a loop of its own, which no other test is to meet
def browser() -> Iterator[Browser]:
    """Debian's own Chromium, without a window; nothing is downloaded."""
    if shutil.which(CHROMIUM) is None:
        lacking("a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        # Root has no sandbox for it; the only pages that it ever sees are ours.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A home of its own for each module, and the controller that serves it over plain HTTP on loopback."""
    with Served(tmp_path_factory.mktemp("console") / "home") as running:
        yield running


@pytest.fixture
def signed_in(browser: Browser, served: Served) -> Iterator[SignedIn]:
    """Give pages of somebody who is signed in as a user of a role; whatever a page complains of fails the test."""
    contexts, complaints = [], []

    def enter(
        role: Role = "operator", *, dark: bool = False, width: int = 1280, scripts: bool = True, refused: bool = False
    ) -> Page:
        context = browser.new_context(
            color_scheme="dark" if dark else "light", viewport={"width": width, "height": 800}, java_script_enabled=scripts
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(LONGEST)
        # A page that is refused says so in the browser's own log too.
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" and not refused else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        code = served.code(role)
        page.goto(f"{served.url}/console/link" + (f"#{code}" if scripts else ""))
        if not scripts:
            page.get_by_label("Code").fill(code)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{served.url}/console/")
        return page

    yield enter
    for each in contexts:
        each.close()
    assert complaints == []


def until_linked(page: Page, name: str) -> None:
    """Return as soon as a link of this name is there: who takes the time looks more often than expect() does."""
    page.wait_for_function("name => [...document.links].some((each) => each.textContent.trim() === name)", arg=name, polling=20)


def shot(page: Page, name: str) -> Path:
    """Keep a picture of a whole page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    # Hiding the caret writes styles into fields, which a part that is fetched anew meanwhile would take over: refused by our CSP.
    # The time is for a page of many rows, on a machine with much else to do.
    page.screenshot(path=path, full_page=True, timeout=60_000, caret="initial")
    return path
