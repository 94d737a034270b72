"""A page that is open shows what happens, also what happens while an answer is under way."""

import re
import signal
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import APIResponse, Browser, Page, Route, expect

from tests.browser.conftest import SignedIn
from tests.browser.served import Served


def added(served: Served, name: str) -> None:
    served.ask("POST", "/servers", body={"name": name, "host": "127.0.0.1", "port": 1, "trust_on_first_use": True})


def held_back(page: Page, where: str, news: Callable[[], None]) -> tuple[Route, APIResponse]:
    """Have news lead a page to ask for its servers anew, and hold back the answer as it is now; later questions are answered."""
    held: list[tuple[Route, APIResponse]] = []

    def hold(route: Route) -> None:
        if route.request.headers.get("hx-target") == "servers" and not held:
            held.append((route, route.fetch()))
        else:
            route.continue_()

    page.route(where, hold)
    with page.expect_request(lambda request: request.headers.get("hx-target") == "servers"):
        news()
    while not held:
        page.evaluate("0")  # lets hold() go on
    return held[0]


def outdated(signed_in: SignedIn, served: Served, begins: str) -> tuple[Page, Route, APIResponse]:
    """A page with the first of two servers, and its answer that knows of the second: held back."""
    added(served, f"{begins}-1")
    page = signed_in("operator")
    page.goto(f"{served.url}/console/servers/?q={begins}-")
    return page, *held_back(page, "**/console/servers/?*", lambda: added(served, f"{begins}-2"))


def test_what_happens_while_an_answer_is_under_way_is_shown_after_it(signed_in: SignedIn, served: Served) -> None:
    added(served, "web-1")
    page = signed_in("operator")
    page.goto(f"{served.url}/console/servers/")
    route, response = held_back(page, "**/console/servers/", lambda: added(served, "web-2"))
    assert "web-3" not in response.text()
    told = page.locator("main").get_attribute("data-after")
    added(served, "web-3")
    page.wait_for_function("told => document.querySelector('main').dataset.after !== told", arg=told)
    # By now a page that has asked half a second ago would ask again.
    page.wait_for_function("began => performance.now() > began + 600", arg=page.evaluate("performance.now()"))
    route.fulfill(response=response)
    expect(page.get_by_role("link", name="web-2")).to_be_visible()
    expect(page.get_by_role("link", name="web-3")).to_be_visible()


def test_what_somebody_ticks_while_an_answer_is_under_way_stays_and_the_news_comes_once_they_are_done(
    signed_in: SignedIn, served: Served
) -> None:
    page, route, response = outdated(signed_in, served, "hand")
    box = page.get_by_label("Choose hand-1")
    box.check()
    box.blur()
    assert "hand-2" in response.text()
    route.fulfill(response=response)
    expect(page.locator("#servers.outdated")).to_be_visible()
    expect(box).to_be_checked()
    box.uncheck()
    box.blur()  # nothing else happens
    expect(page.get_by_role("link", name="hand-2")).to_be_visible()


def test_what_is_pressed_while_an_answer_comes_is_done(signed_in: SignedIn, served: Served) -> None:
    page, route, response = outdated(signed_in, served, "press")
    page.evaluate("() => { window.came = new Promise((then) => addEventListener('htmx:afterRequest', then, { once: true })); }")
    page.get_by_label("Search").focus()  # which it loses by the press
    page.get_by_role("link", name="press-1").hover()
    page.mouse.down()
    route.fulfill(response=response)
    page.evaluate("() => came.then(() => null)")
    page.mouse.up()
    page.wait_for_url("**/console/servers/press-1")


def test_news_that_came_while_something_was_pressed_is_shown_once_it_is_let_go(signed_in: SignedIn, served: Served) -> None:
    page, route, response = outdated(signed_in, served, "let-go")
    page.get_by_role("row").filter(has_text="let-go-1").get_by_text("none").first.hover()
    page.mouse.down()
    route.fulfill(response=response)
    expect(page.locator("#servers.held")).to_be_visible()
    page.mouse.up()  # nothing else happens
    expect(page.get_by_role("link", name="let-go-2")).to_be_visible()


def test_what_is_marked_stays_marked_and_the_news_comes_once_it_is_not(signed_in: SignedIn, served: Served) -> None:
    page, route, response = outdated(signed_in, served, "mark")
    page.get_by_role("row").filter(has_text="mark-1").get_by_text("127.0.0.1").first.select_text()
    route.fulfill(response=response)
    expect(page.locator("#servers.outdated")).to_be_visible()
    assert "127.0.0.1" in page.evaluate("getSelection().toString()")
    page.get_by_role("heading", level=1).click()  # which marks nothing
    expect(page.get_by_role("link", name="mark-2")).to_be_visible()


def test_what_is_pressed_twice_is_asked_once(signed_in: SignedIn, served: Served) -> None:
    added(served, "twice-1")
    page = signed_in("operator")
    page.clock.install()
    page.goto(f"{served.url}/console/servers/twice-1")
    page.evaluate("""() => {
      window.sent = [];
      addEventListener("submit", (event) => {
        if (!event.defaultPrevented) sent.push(event.submitter.textContent);
        event.preventDefault();
      });
    }""")
    look, repair = page.get_by_role("button", name="Look now"), page.get_by_role("button", name="Look, and repair")
    for each in (look, look, repair, repair):
        each.click()
    assert page.evaluate("sent.length") == 2  # one of each
    page.clock.fast_forward(6_000)
    repair.click()
    assert page.evaluate("sent.length") == 3
    page.evaluate("dispatchEvent(new Event('pageshow'))")  # back from the page that came of it
    repair.click()
    assert page.evaluate("sent.length") == 4


def test_what_was_chosen_for_a_reset_stays_chosen(signed_in: SignedIn, served: Served) -> None:
    for name in ("first-key", "second-key"):
        served.kps("keypair", "create", name, "--scope", "account")
    added(served, "lost-1")
    served.kps("server", "set", "lost-1", "--shut-down", "/mnt")
    page = signed_in("operator")
    page.goto(f"{served.url}/console/servers/lost-1")
    chosen = page.get_by_label("Key pair", exact=True)
    chosen.select_option("second-key")
    chosen.blur()
    added(served, "lost-2")
    expect(page.locator("#at-rest.outdated")).to_be_visible()
    expect(chosen).to_have_value("second-key")


def test_the_first_server_is_shown_on_a_page_that_had_none(signed_in: SignedIn, served: Served) -> None:
    page = signed_in("operator")
    page.goto(f"{served.url}/console/servers/?q=first-")
    expect(page.get_by_text("No server fits")).to_be_visible()
    added(served, "first-1")
    expect(page.get_by_role("link", name="first-1")).to_be_visible()
    expect(page.get_by_role("button", name="Bind a key pair")).to_be_visible()


def test_a_part_that_was_refused_says_so_until_it_is_fetched_well(signed_in: SignedIn, served: Served) -> None:
    page, refused = signed_in("operator", refused=True), list[str]()

    def refuse_once(route: Route) -> None:
        if route.request.headers.get("hx-target") == "servers" and not refused:
            refused.append(route.request.url)
            route.fulfill(status=503, content_type="text/html", body='<div id="problem">too much at once</div>')
        else:
            route.continue_()

    page.route("**/console/servers/?*", refuse_once)
    page.goto(f"{served.url}/console/servers/?q=refused-")
    added(served, "refused-1")
    expect(page.get_by_text("too much at once")).to_be_visible()
    added(served, "refused-2")
    expect(page.get_by_role("link", name="refused-2")).to_be_visible()
    expect(page.get_by_text("too much at once")).to_have_count(0)


def test_how_long_ago_something_was_goes_on_while_a_page_is_open(signed_in: SignedIn, served: Served) -> None:
    served.kps("keypair", "create", "aged", "--scope", "account")
    page = signed_in("operator")
    page.clock.install()
    page.goto(f"{served.url}/console/keypairs/?scope=account&q=aged")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="aged"))
    expect(row).to_contain_text(re.compile("just now|1 minute ago"))
    page.clock.fast_forward(3 * 3600 * 1000)
    expect(row).to_contain_text("3 hours ago")


def test_a_page_says_that_it_hears_nothing_any_more_and_goes_on_by_itself(signed_in: SignedIn, served: Served) -> None:
    page = signed_in("operator")
    page.clock.install()
    page.goto(f"{served.url}/console/failed-tasks/")
    told = page.get_by_text("Nothing is heard from the controller")
    page.wait_for_function("() => stream && stream.readyState === EventSource.OPEN")
    page.clock.fast_forward(20_000)
    expect(told).to_be_hidden()
    assert served.process is not None
    served.process.send_signal(signal.SIGSTOP)  # as where the network is cut: no word, and no end of the stream either
    try:
        page.clock.fast_forward(41_000)
        page.clock.fast_forward(6_000)
        expect(told).to_be_visible()
    finally:
        served.process.send_signal(signal.SIGCONT)
    expect(told).to_be_hidden()


def test_a_page_whose_controller_is_gone_says_so(tmp_path: Path, browser: Browser) -> None:
    with Served(tmp_path / "home") as served, browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{served.url}/console/link#{served.code('administrator')}")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{served.url}/console/")
        page.wait_for_function("() => stream && stream.readyState === EventSource.OPEN")
        served.end(signal.SIGKILL)
        expect(page.get_by_text("Nothing is heard from the controller")).to_be_visible()


def test_a_page_that_is_looked_at_again_is_left_where_its_session_is_over(signed_in: SignedIn, served: Served) -> None:
    page = signed_in("auditor", refused=True)
    page.goto(f"{served.url}/console/failed-tasks/")
    page.wait_for_function("() => stream && stream.readyState === EventSource.OPEN")
    page.evaluate("dispatchEvent(new Event('pagehide'))")  # it hears nothing, as a tab that nobody sees
    served.kps("user", "disable", "the-auditor")
    expect(page.get_by_role("heading", name="Failed tasks")).to_be_visible()
    page.evaluate("dispatchEvent(new Event('pageshow'))")
    page.wait_for_url("**/console/sign-in?next=*")
    served.kps("user", "enable", "the-auditor")
