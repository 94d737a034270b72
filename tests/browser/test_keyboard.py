"""Whole journeys by keyboard alone: nothing is clicked, filled or focused but by keys."""

from playwright.sync_api import Page, expect

from controller.demo.fleet import Login
from tests.browser.conftest import SignedIn, shot
from tests.browser.served import Served
from tests.fleet import judge
from tests.fleet.conftest import MakeServer
from tests.fleet.test_emergency import lets_in

MOST = 150  # presses of Tab from one end of a page to the other
SECONDS = 60_000
# What a screen reader would say of what the keyboard stands on; and whether that can be seen.
_ON = """() => {
  const on = document.activeElement;
  const label = on.labels && on.labels.length ? on.labels[0].textContent : "";
  const style = getComputedStyle(on);
  return [on.getAttribute("aria-label") || on.title || label || on.textContent, style.outlineStyle !== "none"];
}"""


def go_to(page: Page, name: str) -> None:
    """Press Tab until the keyboard stands on what is called so; all on the way there can be seen to have it."""
    for _ in range(MOST):
        page.keyboard.press("Tab")
        said, seen = page.evaluate(_ON)
        if said.strip() == name:
            assert seen, f"{name}: nothing shows that the keyboard is there"
            return
    raise AssertionError(f"{page.url}: Tab does not come to {name}")


def press(page: Page, name: str) -> None:
    """Go to a link or a button and press it."""
    go_to(page, name)
    page.keyboard.press("Enter")


def test_a_failure_is_tried_again_with_another_password(signed_in: SignedIn, served: Served, make_server: MakeServer) -> None:
    server = make_server()
    served.add(server)
    pair = served.keypair(scope="account")
    served.fails("wrong_password", "bind", server, keypair=pair, password="not this")
    page = signed_in("operator")
    press(page, "Failed tasks")
    expect(page.get_by_role("region", name="wrong_password", exact=True)).to_be_visible()
    press(page, "Retry with another password or key…")
    expect(page.get_by_role("heading", level=1)).to_have_text("Retry otherwise")
    go_to(page, "Password")
    page.keyboard.type(server.root_password)
    press(page, "Retry it")
    expect(page.get_by_text("1 task is tried again")).to_be_visible()
    expect(page.get_by_role("row").filter(has_text="succeeded")).to_be_visible(timeout=SECONDS)
    assert pair["name"] in server.read("/root/.ssh/authorized_keys")


def test_a_key_pair_is_bound(signed_in: SignedIn, served: Served, make_server: MakeServer) -> None:
    server = make_server()
    served.add(server)
    served.kps("keypair", "create", "typed", "--scope", "account")
    page = signed_in("operator")
    press(page, "Servers")
    expect(page.get_by_role("heading", level=1)).to_have_text("Servers")
    go_to(page, f"Choose {server.name}")
    page.keyboard.press("Space")
    press(page, "Bind a key pair")
    expect(page.get_by_role("heading", level=1)).to_have_text("Bind a key pair")
    go_to(page, "Key pair")
    page.keyboard.type("typed")
    for button in ("Show the plan", "Do it on 1 server"):
        press(page, "What opens the servers, where no key in custody does")
        go_to(page, f"Password for {server.name}")
        page.keyboard.type(server.root_password)
        press(page, button)
        if button == "Show the plan":
            expect(page.get_by_text("+ssh-ed25519")).to_be_visible(timeout=SECONDS)
            shot(page, "keyboard-plan")
    expect(page.get_by_role("status").filter(has_text="finished")).to_be_visible(timeout=SECONDS)
    assert "typed" in server.read("/root/.ssh/authorized_keys")


def test_a_door_is_opened_extended_and_closed(signed_in: SignedIn, served: Served, make_server: MakeServer) -> None:
    server = make_server(logins=(Login("alice", "pw-alice"),))
    served.add(server)
    order = {"keypair": served.keypair(scope="account"), "password": server.root_password, "accept_lockout": ["alice"]}
    served.succeeds("bind", server, **order)
    page = signed_in("operator")
    press(page, "Emergency")
    expect(page.get_by_role("heading", level=1)).to_have_text("Emergency")
    press(page, "Open a door")
    for field, typed in (("Servers", server.name), ("Why", "by keys alone"), ("Login", "alice")):
        go_to(page, field)
        page.keyboard.type(typed)
    press(page, "Show what would be opened")
    expect(page.get_by_role("heading", level=1)).to_have_text("Open a door")
    go_to(page, "Password")
    page.keyboard.type("pw-alice")
    press(page, "Open it")
    open_doors, ended = (page.get_by_role("region", name=name) for name in ("Emergency doors", "Doors that are over"))
    expect(open_doors.get_by_text("open", exact=True)).to_be_visible(timeout=SECONDS)
    assert lets_in(server, "alice", "pw-alice")
    go_to(page, "Minutes from now")
    page.keyboard.type("45")  # in the place of what is there: it is selected
    press(page, f"Extend the door of alice on {server.name}")
    expect(open_doors).to_contain_text("in 44 min", timeout=SECONDS)
    press(page, f"Close the door of alice on {server.name}")
    expect(ended).to_contain_text("closed by an order", timeout=SECONDS)
    assert not lets_in(server, "alice", "pw-alice")


def test_a_server_is_reset_by_its_disk(signed_in: SignedIn, served: Served, make_server: MakeServer) -> None:
    server = make_server()
    served.add(server)
    server.stop()
    served.kps("server", "set", server.name, "--shut-down", str(server.mounted_root()))
    served.kps("keypair", "create", "rescue", "--scope", "account")
    page = signed_in("operator")
    heading = page.get_by_role("heading", level=1)
    press(page, "Servers")
    expect(heading).to_have_text("Servers")
    press(page, server.name)
    expect(heading).to_have_text(server.name)
    go_to(page, "Key pair")
    page.keyboard.type("rescue")
    go_to(page, "To confirm, type the server's name")
    page.keyboard.type(server.name)
    press(page, f"Reset {server.name}")
    history = page.get_by_role("region", name="Tasks, the newest first")
    expect(history).to_contain_text("succeeded", timeout=SECONDS)
    server.start()
    private = served.ask("POST", "/keypairs/rescue/export")["private_key"]
    assert judge.key_login_works(server, "root", private)
    press(page, "Look now")
    expect(history.get_by_role("row").filter(has_text="check")).to_contain_text("succeeded", timeout=SECONDS)
    expect(page.get_by_text("off", exact=True)).to_be_visible()
    assert not judge.password_login_works(server, "root", server.root_password)


def test_what_is_open_and_where_the_keyboard_is_stay_when_a_page_refreshes_itself(signed_in: SignedIn, served: Served) -> None:
    served.kps("keypair", "create", "kept-open", "--scope", "account")
    order = {"operation": "bind", "keypair": "kept-open"}

    def fail(name: str) -> None:
        about = {"name": name, "host": "127.0.0.1", "port": 1, "trust_on_first_use": True}
        served.ask("POST", "/servers", body=about)
        given = {"credentials": {name: {"password": "x"}}, "servers": [name]}
        (task,) = served.ask("POST", "/operations", body=order | given)
        assert served.ended(task["id"])["cause"] == "connection_refused"

    fail("first")
    page = signed_in("operator")
    page.goto(f"{served.url}/console/failed-tasks/")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="first", exact=True))
    row.get_by_text("Evidence").press("Enter")
    expect(row.locator("details")).to_have_attribute("open", "")
    go_to(page, "Retry bind on first")
    fail("second")
    expect(page.get_by_role("link", name="second", exact=True)).to_be_visible()
    expect(row.locator("details")).to_have_attribute("open", "")
    # The keyboard is put back once what came has settled.
    expect(page.get_by_title("Retry bind on first")).to_be_focused()
