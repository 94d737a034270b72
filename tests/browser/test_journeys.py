"""Journeys from signing in to their result: a rollout that is held, a key pair that moves, a master key, passwords off."""

from datetime import UTC, datetime, timedelta

from playwright.sync_api import Page, expect

from tests.browser.conftest import SignedIn, shot
from tests.browser.served import Served
from tests.fleet.conftest import MakeServer

SECONDS = 60_000


def asked(page: Page, pair: str, servers: str) -> None:
    """Fill in the wizard as far as every rollout needs it."""
    page.get_by_role("link", name="Rollouts").click()
    page.get_by_role("link", name="New rollout").click()
    page.get_by_label("Bind a key pair").check()
    page.get_by_label("Key pair", exact=True).select_option(pair)
    page.get_by_label("Names and labels").fill(servers)


def test_a_rollout_is_paused_after_its_first_server_resumed_and_brought_to_its_end(
    signed_in: SignedIn, served: Served, make_server: MakeServer
) -> None:
    servers = [make_server(root_password="one for both") for _ in range(2)]
    for each in servers:
        served.add(each, labels={"env": "held"})
    pair = served.keypair(scope="account")
    page = signed_in("operator")
    asked(page, pair["name"], "env=held")
    page.get_by_label("Wait for somebody to look").check()
    page.get_by_text("Give a password or a key").click()
    page.get_by_label("Password", exact=True).fill("one for both")
    page.get_by_role("button", name="Show the plan").click()
    start = page.get_by_role("button", name="Start on 2 servers")
    expect(start).to_be_visible(timeout=SECONDS)
    page.get_by_label("Password", exact=True).fill("one for both")
    start.click()
    expect(page.get_by_text("1 of 2 at their end")).to_be_visible(timeout=SECONDS)
    resume = page.get_by_role("button", name="Resume", exact=True)
    expect(resume).to_be_visible(timeout=SECONDS)
    shot(page, "rollout-paused")
    resume.click()
    expect(page.get_by_text("2 of 2 at their end")).to_be_visible(timeout=SECONDS)
    for each in servers:
        assert pair["name"] in each.read("/root/.ssh/authorized_keys")


def test_a_rollout_is_paused_resumed_and_cancelled(signed_in: SignedIn, served: Served) -> None:
    for number in (1, 2):
        about = {"name": f"later-{number}", "host": "127.0.0.1", "port": 1, "trust_on_first_use": True}
        served.ask("POST", "/servers", body=about)
    # It waits for hours that are not now.
    begins = datetime.now(UTC) + timedelta(hours=6)
    window = f"{begins:%H:00}-{begins + timedelta(hours=1):%H:00} UTC"
    order = {"operation": "check", "servers": ["later-1", "later-2"], "strategy": {"window": window}}
    id = served.ask("POST", "/rollouts", body=order)["id"]
    page = signed_in("operator")
    page.get_by_role("link", name="Rollouts").click()
    page.locator(f'a[href="/console/rollouts/{id}"]').first.click()
    for _ in range(2):
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_text("it is paused")).to_be_visible()
        page.get_by_role("button", name="Resume", exact=True).click()
        expect(page.get_by_text("it goes on")).to_be_visible()
    page.get_by_role("link", name="Cancel").click()
    expect(page.get_by_text("No further server is begun, now or ever")).to_be_visible()
    shot(page, "rollout-cancel")
    page.get_by_role("button", name="Cancel it").click()
    expect(page.get_by_text("it is cancelled")).to_be_visible()
    assert served.ask("GET", f"/rollouts/{id}")["state"] == "cancelled"
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)


def test_a_private_key_pair_becomes_the_accounts_for_good(signed_in: SignedIn) -> None:
    page = signed_in("administrator")
    page.goto(page.url + "keypairs/new")
    page.get_by_label("Name").fill("shared-later")
    page.get_by_role("button", name="Make it").click()
    page.get_by_role("link", name="Move to the account").click()
    expect(page.get_by_text("There is no way back")).to_be_visible()
    shot(page, "keypair-upgrade")
    page.get_by_role("button", name="Move it to the account").click()
    expect(page.get_by_text("of the account", exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="Move to the account")).to_have_count(0)
    other = signed_in("operator")
    other.goto(page.url)
    expect(other.get_by_role("heading", level=1)).to_have_text("shared-later")
    expect(other.get_by_role("link", name="Export")).to_have_count(0)


def test_a_master_key_is_made_rotated_disabled_and_saved_from_its_end(signed_in: SignedIn) -> None:
    page = signed_in("administrator")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Keys", exact=True).click()
    page.get_by_role("link", name="Make a master key").click()
    page.get_by_label("Alias").fill("orders")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("orders")
    page.get_by_role("button", name="Rotate now").click()
    expect(page.get_by_text("rotated 1 time")).to_be_visible()
    page.get_by_role("link", name="Disable").click()
    page.get_by_role("button", name="Disable it").click()
    expect(page.get_by_text("disabled", exact=True)).to_be_visible()
    page.get_by_role("button", name="Enable").click()
    page.get_by_role("link", name="Destroy").click()
    shot(page, "key-destroy")
    page.get_by_role("button", name="Have it destroyed").click()
    expect(page.get_by_text("pending deletion")).to_be_visible()
    shot(page, "key-pending")
    page.get_by_role("button", name="Keep it").click()
    expect(page.get_by_role("button", name="Enable")).to_be_visible()  # it comes back disabled


def test_password_login_is_turned_off_for_many_by_a_plan(signed_in: SignedIn, served: Served, make_server: MakeServer) -> None:
    server = make_server()
    served.add(server)
    pair = served.keypair(scope="account")
    served.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    page = signed_in("operator")
    page.get_by_role("link", name="Servers").click()
    page.get_by_label("Password login").select_option("on")
    page.get_by_role("button", name="Search").click()
    page.get_by_label(f"Choose {server.name}").check()
    page.get_by_role("button", name="Turn password login off").click()
    page.get_by_role("button", name="Show the plan").click()
    start = page.get_by_role("button", name="Do it on 1 server")
    expect(start).to_be_visible(timeout=SECONDS)
    expect(page.get_by_text("+PasswordAuthentication no")).to_be_visible()
    start.click()
    expect(page.get_by_role("status").filter(has_text="finished")).to_be_visible(timeout=SECONDS)
    assert served.server(server)["password_login"] == "off"
    page.goto(f"{served.url}/console/servers/{server.name}")
    expect(page.get_by_text("off", exact=True)).to_be_visible()


def test_another_password_and_an_end_to_other_sessions(signed_in: SignedIn, served: Served) -> None:
    served.kps("user", "create", "paula", "--role", "operator", ends=None)
    served.kps("user", "password", "paula", "--password-stdin", given="a first long one\n")
    page = signed_in("auditor", scripts=False)
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("User").fill("paula")
    page.get_by_label("Password").fill("a first long one")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="paula").click()
    expect(page.get_by_text("this one")).to_be_visible()
    page.get_by_label("Password until now").fill("a first long one")
    page.get_by_label("New password", exact=True).fill("another long one")
    page.get_by_label("The new password again").fill("another long one")
    shot(page, "account")
    page.get_by_role("button", name="Change it").click()
    expect(page.get_by_text("Your password is changed")).to_be_visible()
