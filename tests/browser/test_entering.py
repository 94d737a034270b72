"""Into the console and out of it, in a real browser."""

from playwright.sync_api import Browser, expect

from tests.browser.conftest import SignedIn, shot
from tests.browser.served import Served


def test_a_link_lets_in_and_is_nowhere_afterwards(browser: Browser, served: Served) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        code = served.code("operator")
        page.goto(f"{served.url}/console/link")
        page.goto(f"{served.url}/console/link#{code}")  # in the tab that has the page already
        expect(page.get_by_label("Code")).to_have_value(code)
        assert page.url == f"{served.url}/console/link"
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{served.url}/console/")
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        page.go_back()
        assert code not in page.url + page.content()
        page.goto(f"{served.url}/console/")
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{served.url}/console/sign-in")
        shot(page, "sign-in")


def test_every_page_of_the_navigation_opens_by_keyboard_and_without_scripts(signed_in: SignedIn) -> None:
    for scripts in (True, False):
        page = signed_in("administrator", scripts=scripts)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        names = page.get_by_role("navigation", name="Pages").get_by_role("link").all_text_contents()
        assert len(names) == 8
        for name in names:
            page.get_by_role("navigation", name="Pages").get_by_role("link", name=name, exact=True).press("Enter")
            expect(page.get_by_role("heading", level=1)).to_have_text(name)
