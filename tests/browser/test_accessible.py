"""Every page as axe-core judges it: nothing serious; in light and dark, wide and narrow."""

import hashlib
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import SignedIn, shot
from tests.browser.served import Served

VENDORED = Path(__file__).parent / "vendored"
PAGES = (
    "", "servers/", "add-server", "keypairs/?scope=account", "keypairs/rotation", "keypairs/new", "keypairs/import",
    "keypairs/named/ops", "keypairs/named/ops/export", "keypairs/named/ops/clear", "keypairs/named/ops/delete",
    "failed-tasks/", "rollouts/", "emergency/", "audit/", "audit/verify", "audit/export", "keys/", "keys/new",
)  # fmt: skip


def serious(page: Page) -> list[str]:
    """Return what axe finds serious or critical on a page, by rule and place."""
    page.evaluate((VENDORED / "axe.min.js").read_text())
    found = page.evaluate("async () => (await axe.run()).violations")
    return [
        f"{page.url}: {each['id']}: {node['target']}: {node['failureSummary']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_axe_is_the_one_that_is_written_down() -> None:
    row = re.search(r"\| axe.min.js \|.*\| ([0-9a-f]{64}) \|", (VENDORED / "VENDORED.md").read_text())
    assert row is not None
    assert hashlib.sha256((VENDORED / "axe.min.js").read_bytes()).hexdigest() == row.group(1)


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 400)])
def test_no_page_has_a_serious_problem(signed_in: SignedIn, served: Served, dark: bool, width: int) -> None:
    if not dark:
        served.kps("keypair", "create", "ops", "--scope", "account")
        served.kps("policy", "set", "yearly", "--all", "--max-age", "365")
    page, wrong = signed_in("administrator", dark=dark, width=width), []
    page.goto(f"{served.url}/console/keys/")
    key = page.get_by_role("link", name="kps/default").get_attribute("href")
    assert key is not None
    for path in (*PAGES, key.removeprefix("/console/")):
        page.goto(f"{served.url}/console/{path}")
        wrong += serious(page)
        if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wrong.append(f"{path}: wider than the window")
        shot(page, f"{'dark' if dark else 'light'}-{width}-{re.sub('[^a-z]+', '-', path).strip('-') or 'overview'}"[:60])
    assert wrong == []
