"""Every page as axe-core judges it, and none wider than its window: in light and dark, wide and narrow, with nothing on it, and
with names as long as names may be."""

import hashlib
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from controller.web.rendering import NAVIGATION
from tests.browser.conftest import SignedIn, shot
from tests.browser.served import Served
from tests.web import trouble
from tests.web.console_roles import ASKED, routes

VENDORED = Path(__file__).parent / "vendored"
# A report is a file, and a page that is refused is one too.
EVERY = [path for method, path in routes() if method == "GET" and "report" not in path]
REFUSED = ("/servers/nobody", "/nowhere", "/orders/new?operation=none", "/audit/?since=never", f"/servers/{'nobody' * 40}")
# Words without a place at which a line would break by itself.
SERVER, KEYPAIR, WORD = "web1" + "x" * 249, "ops" + "y" * 252, "z" * 63


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


def judged(page: Page, name: str) -> list[str]:
    """Return what is wrong with the page as it is shown: what axe says of it, and where it is wider than the window."""
    wrong = serious(page)
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        wrong.append(f"{page.url}: wider than the window")
    # A narrow window shows rows as lists, or has a table scroll; in a wide one all columns are to be seen.
    wide = (
        "innerWidth < 1280 ? [] : [...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth)"
    )
    wrong += [f"{page.url}: {name}: wider than its frame" for name in page.evaluate(f"({wide}).map(each => each.ariaLabel)")]
    shot(page, name)
    return wrong


@pytest.fixture(scope="module")
def known(served: Served) -> dict[str, str]:
    """A home with one of everything, by a server that nobody answers on; how each is called, or its id, by kind."""
    served.kps("keypair", "create", KEYPAIR, "--scope", "account")
    served.kps("policy", "set", "p" * 64, "--all", "--max-age", "365")
    for name in (SERVER, "web-2"):
        about = {"name": name, "host": "127.0.0.1", "port": 1, "trust_on_first_use": True, "labels": {WORD: WORD, "env": "prod"}}
        served.ask("POST", "/servers", body=about)
    order = {"operation": "bind", "servers": [SERVER, "web-2"], "keypair": KEYPAIR}
    given = {"credentials": {name: {"password": "x"} for name in order["servers"]}}
    failed = [task["id"] for task in served.ask("POST", "/operations", body=order | given)]
    for id in failed:
        assert served.ended(id)["status"] == "failed"
    ids = {}
    for kind, more in (("plan", {"plan": True}), ("rollout", {"strategy": {"per_label": WORD, "max_failures": "0"}})):
        begun = served.ask("POST", "/rollouts", body=order | given | more)
        ids[kind] = begun["id"]
        served.kps("rollout", "watch", begun["id"], ends=None)
    key = next(each["id"] for each in served.ask("GET", "/kms/keys") if each["alias"] == "kps/default")
    door = {"servers": [SERVER], "seconds": 60, "reason": "r" * 500, "login": "l" * 64, "one_time": True}
    asked = served.ask("POST", "/doors", body=door | {"credentials": {SERVER: {"password": "x"}}})
    for each in asked["passwords"]:
        assert served.ended(each["task_id"])["status"] == "failed"
    one_time = asked["doors"][0]["id"]
    return {"server": SERVER, "keypair": KEYPAIR, "key": key, "task": failed[0], "one_time": one_time, **ids}


@pytest.mark.parametrize("dark", [False, True])
def test_pages_of_a_home_in_which_there_is_nothing(browser: Browser, tmp_path: Path, dark: bool) -> None:
    with Served(tmp_path / "home") as empty, browser.new_context(color_scheme="dark" if dark else "light") as context:
        page, wrong = context.new_page(), []
        for path in ("sign-in", "link"):
            page.goto(f"{empty.url}/console/{path}")
            wrong += judged(page, f"{path}-{dark}")
        page.get_by_label("Code").fill("nothing")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("this link was used")).to_be_visible()
        wrong += judged(page, f"link-refused-{dark}")
        page.get_by_label("Code").fill(empty.code("administrator"))
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{empty.url}/console/")
        for _, name, path, _ in NAVIGATION:
            page.goto(f"{empty.url}/console/{path}")
            wrong += judged(page, f"empty-{name}-{dark}")
        assert wrong == []


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 390)])
def test_no_page_has_a_serious_problem(
    signed_in: SignedIn, served: Served, known: dict[str, str], dark: bool, width: int
) -> None:
    page, wrong = signed_in("administrator", dark=dark, width=width, refused=True), []
    for path in (*EVERY, *REFUSED):
        for plans in {False, path.startswith("/rollouts/{id}")}:
            where = trouble.at(path, known, plans) + ASKED.get(path, "").format_map(known)
            page.goto(f"{served.url}/console{where}")
            name = re.sub(r"[{}]|[^a-z]+", "-", path).strip("-")[:60] or "overview"
            wrong += judged(page, f"{'dark' if dark else 'light'}-{width}-{name}{'-plan' if plans else ''}")
    assert wrong == []
