"""Emergency doors, from signing in to what comes of them: real servers judged by OpenSSH, each page judged by axe-core."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from controller.demo.fleet import Login, Server
from tests.browser.conftest import SignedIn
from tests.browser.served import Served
from tests.browser.test_accessible import judged
from tests.fleet.conftest import MakeServer
from tests.fleet.test_emergency import lets_in

SECONDS = 60_000


@pytest.fixture
def shut(served: Served, make_server: MakeServer) -> Server:
    """A server that takes no passwords, and that a key pair in custody opens."""
    top = "PasswordAuthentication yes\nPermitRootLogin yes\n"
    server = make_server(logins=(Login("alice", "pw-alice"), Login("bob", "pw-bob")), sshd_config_top=top)
    served.add(server, labels={"zone": server.name})
    pair = served.keypair(scope="account")
    served.succeeds("bind", server, keypair=pair, password=server.root_password, accept_lockout=["alice", "bob"])
    return server


def asked(page: Page, server: Server, reason: str, minutes: str = "10") -> None:
    """Ask on the page of emergencies for a door of alice, as far as the page that says what would be opened."""
    page.get_by_role("link", name="Emergency").click()
    page.get_by_text("Open a door", exact=True).click()
    page.get_by_label("Servers", exact=True).fill(server.name)
    page.get_by_label("Why").fill(reason)
    page.get_by_label("Minutes", exact=True).fill(minutes)
    page.get_by_label("Login", exact=True).fill("alice")
    page.get_by_role("button", name="Show what would be opened").click()
    expect(page.get_by_role("heading", name="What would be opened")).to_be_visible()


def door(page: Page, server: Server) -> Locator:
    """The row that tells of a server's door."""
    return page.get_by_role("region", name="Emergency doors").get_by_role("row").filter(has_text=server.name)


def until_open(page: Page, server: Server) -> Locator:
    """Wait until the page tells by itself that the door is open."""
    row = door(page, server)
    expect(row.get_by_text("open", exact=True)).to_be_visible(timeout=SECONDS)
    return row


def over(page: Page, server: Server) -> Locator:
    """The row that tells what became of a server's last door."""
    return page.get_by_role("region", name="Doors that are over").get_by_role("row").filter(has_text=server.name).first


def judged_widely(page: Page, name: str) -> list[str]:
    """Return what is wrong with a page as it is, and as somebody with a telephone sees it at night."""
    wrong = judged(page, name)
    wide = page.viewport_size
    assert wide is not None
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 400, "height": 800})
    wrong += judged(page, f"{name}-dark-narrow")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(wide)
    return wrong


def test_a_door_is_opened_extended_and_closed_from_the_page(signed_in: SignedIn, served: Served, shut: Server) -> None:
    before = shut.read("/etc/ssh/sshd_config")
    assert not lets_in(shut, "alice", "pw-alice")
    somebody = signed_in("auditor")  # whose page is open already
    page = signed_in("operator")
    banner = "1 door is, or may be, open"
    asked(page, shut, "no key gets in since the update")
    page.get_by_label("Password", exact=True).fill("pw-alice")
    wrong = judged_widely(page, "door-asked")
    page.get_by_role("button", name="Open it").click()
    row = until_open(page, shut)
    expect(somebody.get_by_role("alert").filter(has_text=banner)).to_be_visible()
    assert lets_in(shut, "alice", "pw-alice")
    assert not lets_in(shut, "bob", "pw-bob")
    expect(row).to_contain_text(re.compile(r"in [89] min \d\d s"))  # counted on by the page
    wrong += judged_widely(page, "door-open")
    page.get_by_role("link", name="Servers").click()
    expect(page.get_by_role("alert").filter(has_text=banner)).to_be_visible()
    wrong += judged(page, "door-elsewhere")
    page.get_by_role("link", name="See which").click()
    row.get_by_label("Minutes from now").fill("20")
    row.get_by_role("button", name="Extend").click()
    expect(row).to_contain_text(re.compile(r"in 1[89] min \d\d s"), timeout=SECONDS)
    wrong += judged_widely(page, "door-extended")
    row.get_by_role("button", name="Close").click()
    expect(over(page, shut)).to_contain_text("closed by an order", timeout=SECONDS)
    expect(page.get_by_text("No door is open.")).to_be_visible()
    assert not lets_in(shut, "alice", "pw-alice")
    wrong += judged_widely(page, "door-closed")
    for each in (page, somebody):
        expect(each.get_by_text("may be, open")).to_have_count(0)
    assert wrong == []
    assert "pw-alice" not in page.content() + (served.home / "serve.log").read_text()
    assert shut.read("/etc/ssh/sshd_config") == before


def test_a_second_user_agrees_to_what_is_shown(signed_in: SignedIn, served: Served, shut: Server) -> None:
    served.kps("emergency", "rule", "add", "--label", f"zone={shut.name}", "--minutes", "5")
    page, second = signed_in("operator"), signed_in("administrator")
    asked(page, shut, "a drill for two")
    expect(page.get_by_text(f"A second user has to agree first, by zone={shut.name}: {shut.name}")).to_be_visible()
    wrong = judged_widely(page, "door-needs-two")
    page.get_by_role("button", name="Open it").click()
    expect(page.get_by_role("button", name="Take it back")).to_be_visible()
    expect(page.get_by_role("button", name="Agree")).to_have_count(0)
    wrong += judged_widely(page, "door-waits")
    assert not lets_in(shut, "alice", "pw-alice")
    second.get_by_role("link", name="Emergency").click()
    expect(second.get_by_text("by the-operator (a drill for two). Login alice, from everywhere, for 10 min")).to_be_visible()
    wrong += judged_widely(second, "door-to-agree-to")
    second.get_by_role("button", name="Agree").click()
    until_open(page, shut)
    assert lets_in(shut, "alice", "pw-alice")
    door(second, shut).get_by_role("button", name="Close").click()
    expect(over(page, shut)).to_contain_text("closed by an order", timeout=SECONDS)
    assert not lets_in(shut, "alice", "pw-alice")
    assert wrong == []


def test_a_door_that_does_not_open_says_why(signed_in: SignedIn, served: Served) -> None:
    name = "a-server-with-a-name-that-goes-on-for-ever-" + "x" * 180
    served.ask("POST", "/servers", body={"name": name, "host": "127.0.0.1", "port": 1, "trust_on_first_use": True})
    page = signed_in("operator")
    page.get_by_role("link", name="Emergency").click()
    page.get_by_text("Open a door", exact=True).click()
    wrong = judged_widely(page, "door-form")
    page.get_by_label("Servers", exact=True).fill(name)
    page.get_by_label("Why").fill("no key gets in " + "whatever-is-tried-" * 25)
    page.get_by_label("Login", exact=True).fill("l" * 32)
    page.get_by_role("button", name="Show what would be opened").click()
    page.get_by_label("Password", exact=True).fill("not the point")
    wrong += judged_widely(page, "door-long")
    page.get_by_role("button", name="Open it").click()
    row = page.get_by_role("region", name="Doors that are over").get_by_role("row").filter(has_text=name)
    expect(row).to_contain_text("failed", timeout=SECONDS)
    expect(row).to_contain_text("refused")
    wrong += judged_widely(page, "door-failed")
    row.get_by_role("link", name="Its task").click()
    expect(page.get_by_text("connection_refused").first).to_be_visible()
    # A door is asked for anew; a button that would be refused is not there.
    expect(page.get_by_text("A door is asked for anew, not retried")).to_be_visible()
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    wrong += judged_widely(page, "door-failed-task")
    assert wrong == []


def test_a_one_time_password_is_set_opens_the_door_and_is_in_no_page(signed_in: SignedIn, served: Served, shut: Server) -> None:
    page = signed_in("operator")
    asked(page, shut, "nobody knows its password")
    page.get_by_label("Set a one-time password first").check()
    page.get_by_role("button", name="Open it").click()
    expect(page.get_by_role("heading", name="One-time password")).to_be_visible()
    expect(page.get_by_role("button", name="Open it")).to_be_visible(timeout=SECONDS)  # the page goes on by itself
    wrong, pages = judged_widely(page, "door-one-time"), [page.content()]
    command = page.get_by_text("kps secret show").inner_text()
    word = served.kps(*command.split()[1:]).stdout.strip()  # as an administrator does
    assert not lets_in(shut, "alice", word)
    page.get_by_label("Password", exact=True).fill(word)
    page.get_by_role("button", name="Open it").click()
    row = until_open(page, shut)
    assert lets_in(shut, "alice", word)
    assert not lets_in(shut, "alice", "pw-alice")
    pages.append(page.content())
    row.get_by_role("link", name="one-time password").click()
    expect(page.get_by_text("kps secret show")).to_be_visible()
    pages.append(page.content())
    page.get_by_role("link", name="Emergency", exact=True).first.click()
    row.get_by_role("button", name="Close").click()
    expect(over(page, shut)).to_contain_text("closed by an order", timeout=SECONDS)
    assert not any(word in each for each in pages)
    assert word not in (served.home / "serve.log").read_text()
    assert wrong == []
