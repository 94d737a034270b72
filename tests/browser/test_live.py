"""A page that is open shows what happens, also what happens while an answer is under way."""

from playwright.sync_api import APIResponse, Route, expect

from tests.browser.conftest import SignedIn
from tests.browser.served import Served


def test_what_happens_while_an_answer_is_under_way_is_shown_after_it(signed_in: SignedIn, served: Served) -> None:
    def add(name: str) -> None:
        served.ask("POST", "/servers", body={"name": name, "host": "127.0.0.1", "port": 1, "trust_on_first_use": True})

    add("web-1")
    page = signed_in("operator")
    page.goto(f"{served.url}/console/servers/")
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        if route.request.headers.get("hx-target") == "servers" and not held:
            held.append((route, route.fetch()))  # as it was before web-3 came
        else:
            route.continue_()

    page.route("**/console/servers/", hold)
    with page.expect_request(lambda request: request.headers.get("hx-target") == "servers"):
        add("web-2")
    while not held:
        page.evaluate("0")  # lets hold() go on
    route, response = held[0]
    assert "web-3" not in response.text()
    told = page.locator("main").get_attribute("data-after")
    add("web-3")
    page.wait_for_function("told => document.querySelector('main').dataset.after !== told", arg=told)
    # By now a page that has asked half a second ago would ask again.
    page.wait_for_function("began => performance.now() > began + 600", arg=page.evaluate("performance.now()"))
    route.fulfill(response=response)
    expect(page.get_by_role("link", name="web-2")).to_be_visible()
    expect(page.get_by_role("link", name="web-3")).to_be_visible()
