"""Servers, in a real browser and on real servers: found, bound by a plan that is shown first, looked at and repaired."""

import re

from playwright.sync_api import Page, expect

from controller.demo.fleet import Server
from tests.browser.conftest import SignedIn, shot
from tests.browser.served import Served
from tests.fleet.conftest import MakeServer


def done(page: Page, count: int) -> None:
    """Wait until an order has come to its end: the page tells it by itself."""
    expect(page.get_by_role("status").filter(has_text="finished")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("succeeded", exact=True)).to_have_count(count)


def give_passwords(page: Page, *servers: Server) -> None:
    page.get_by_text("What opens the servers").click()
    for server in servers:
        page.get_by_label(f"Password for {server.name}").fill(server.root_password)


def test_from_signing_in_to_a_key_pair_on_two_servers_and_back(
    signed_in: SignedIn, served: Served, make_server: MakeServer
) -> None:
    first, second = make_server(), make_server()
    for each in (first, second):
        served.add(each, labels={"env": "prod"})
    served.kps("keypair", "create", "ops", "--scope", "account")
    page = signed_in("operator")
    page.get_by_role("link", name="Servers").click()
    page.get_by_label("Search").fill("env=prod")
    page.get_by_role("button", name="Search").click()
    for each in (first, second):
        page.get_by_label(f"Choose {each.name}").check()
    shot(page, "servers")
    page.get_by_role("button", name="Bind a key pair").click()
    page.get_by_label("Key pair", exact=True).select_option("ops")
    give_passwords(page, first, second)
    shot(page, "order")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.get_by_role("heading", name=f"2 servers: {first.name}, {second.name}")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("+ssh-ed25519")).to_be_visible()
    assert first.run(["test", "-e", "/root/.ssh/authorized_keys"], check=False).returncode == 1
    shot(page, "plan")
    give_passwords(page, first, second)
    page.get_by_role("button", name="Do it on 2 servers").click()
    done(page, 2)
    shot(page, "order-done")
    assert "ops" in first.read("/root/.ssh/authorized_keys")
    page.get_by_role("link", name=first.name).click()
    expect(page.get_by_text(re.compile("a login, .*(just now|ago)"))).to_be_visible()
    for secret in (first.root_password, second.root_password):
        assert secret not in page.content() + page.url
    shot(page, "server")
    page.get_by_role("link", name="Unbind the key pair").click()
    page.get_by_role("button", name="Show the plan").click()
    page.get_by_role("button", name="Do it on 1 server").click()
    done(page, 1)
    assert "ops" not in first.read("/root/.ssh/authorized_keys")
    secrets = [first.root_password, second.root_password]
    assert not [each for each in secrets if each in (served.home / "serve.log").read_text()]


def test_the_doctor_says_what_is_wrong_and_mends_it(signed_in: SignedIn, served: Served, make_server: MakeServer) -> None:
    server = make_server()
    served.add(server)
    pair = served.keypair(scope="account")
    served.succeeds("bind", server, keypair=pair, password=server.root_password, keep_password_login=True)
    server.run(["chmod", "777", "/root/.ssh"])
    page = signed_in("operator")
    page.goto(f"{served.url}/console/servers/{server.name}")
    page.get_by_text("With another login").click()
    page.get_by_label("Password", exact=True).fill(server.root_password)
    page.get_by_role("button", name="Look now").click()
    expect(page.get_by_text("can be repaired here")).to_be_visible(timeout=60_000)
    shot(page, "doctor")
    page.get_by_text("With another login").click()
    page.get_by_label("Password", exact=True).fill(server.root_password)
    page.get_by_role("button", name="Look, and repair").click()
    history = page.get_by_role("region", name="Tasks, the newest first")
    expect(history.get_by_text("succeeded", exact=True)).to_have_count(2, timeout=60_000)  # the bind, and what repaired
    expect(page.get_by_text("can be repaired here")).to_have_count(0)
    assert server.run(["stat", "-c", "%a", "/root/.ssh"]).stdout.strip() == "755"


def test_an_open_page_shows_what_somebody_else_does(signed_in: SignedIn, served: Served, make_server: MakeServer) -> None:
    page = signed_in("auditor")
    page.goto(f"{served.url}/console/servers/")
    first = make_server()
    served.add(first)
    page.reload()
    expect(page.get_by_role("link", name=first.name)).to_be_visible()
    another = make_server()
    served.add(another)
    expect(page.get_by_role("link", name=another.name)).to_be_visible()
    assert page.get_by_role("button", name="Bind a key pair").count() == 0  # an auditor looks


def test_a_server_with_long_names_stays_on_the_page(signed_in: SignedIn, served: Served) -> None:
    name = "a-server-with-a-name-that-goes-on-for-ever-" + "x" * 180
    labels = {"a-long-label-" + "l" * 40: "v" * 63, "script": "alert@1"}
    about = {"name": name, "host": "h" * 200 + ".example.com", "labels": labels, "login": "l" * 60}
    served.ask("POST", "/servers", body=about)
    for dark in (False, True):
        for width in (400, 1280):
            page = signed_in("operator", dark=dark, width=width)
            for path in ("/console/servers/", f"/console/servers/{name}", f"/console/orders/new?operation=replace&server={name}"):
                page.goto(served.url + path)
                assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (path, width)
                shot(page, f"long-{path.split('/')[2]}{'-one' if name in path else ''}-{'dark' if dark else 'light'}-{width}")
