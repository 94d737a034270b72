"""A server whose key is lost, from signing in to a new key that opens it: by its disk, or by a password; judged by OpenSSH."""

from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Page, expect

from controller.demo.fleet import Server
from tests.browser.conftest import SignedIn
from tests.browser.served import Served
from tests.browser.test_emergency import judged_widely
from tests.browser.test_servers import done, give_passwords
from tests.fleet import judge
from tests.fleet.conftest import MakeServer

SECONDS = 60_000


class LostKey(NamedTuple):
    """What a server has that is bound to a key pair whose private half is not kept: nobody has that, but for the judge."""

    server: Server
    lost: str
    rescue: Any  # another key pair, which is bound to nothing


@pytest.fixture
def lost_key(served: Served, make_server: MakeServer) -> LostKey:
    server = make_server()
    served.add(server)
    made = served.keypair(managed=False, scope="account")
    more: Any = {"accept_unproved": True, "keep_password_login": True}
    served.succeeds("bind", server, keypair=made, password=server.root_password, **more)
    return LostKey(server, str(made["private_key"]), served.keypair(scope="account"))


def opens(server: Server, private: str) -> bool:
    return judge.key_login_works(server, "root", private)


def to_server(page: Page, server: Server) -> None:
    page.get_by_role("link", name="Servers").click()
    page.get_by_role("link", name=server.name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(server.name)


def test_a_server_is_reset_by_its_disk_and_its_first_proof_takes_the_lost_key_away(
    signed_in: SignedIn, served: Served, lost_key: LostKey
) -> None:
    server, lost, rescue = lost_key
    server.stop()
    served.kps("server", "set", server.name, "--shut-down", str(server.mounted_root()))
    page = signed_in("operator", refused=True)
    to_server(page, server)
    reset = page.get_by_role("region", name="Reset")
    reset.get_by_label("Key pair").select_option(rescue["name"])
    reset.get_by_label("To confirm, type the server's name").fill("another one")
    wrong = judged_widely(page, "reset-asked")
    reset.get_by_role("button", name=f"Reset {server.name}").click()
    expect(page.get_by_text("not_confirmed")).to_be_visible()
    wrong += judged_widely(page, "reset-not-confirmed")
    page.go_back()
    reset.get_by_label("Key pair").select_option(rescue["name"])
    reset.get_by_label("To confirm, type the server's name").fill(server.name)
    reset.get_by_role("button", name=f"Reset {server.name}").click()
    history = page.get_by_role("region", name="Tasks, the newest first")
    expect(history.get_by_role("row").filter(has_text="reset")).to_contain_text("succeeded", timeout=SECONDS)
    expect(page.get_by_role("region", name="Key pairs")).to_contain_text(rescue["name"])
    waits = page.get_by_text("The first proof takes away one old key")
    expect(waits).to_be_visible()
    wrong += judged_widely(page, "reset-done")

    server.start()
    assert opens(server, served.private(rescue))
    assert opens(server, lost)  # until the first proof: what takes something away waits for that
    page.get_by_role("button", name="Look now").click()
    expect(history.get_by_role("row").filter(has_text="check")).to_contain_text("succeeded", timeout=SECONDS)
    expect(waits).to_have_count(0)
    expect(reset).to_have_count(0)  # it has answered
    wrong += judged_widely(page, "reset-proved")
    assert opens(server, served.private(rescue))
    assert not opens(server, lost)
    assert judge.password_login_works(server, "root", server.root_password)  # it was kept before, and is
    assert wrong == []


def test_where_the_password_is_known_another_key_takes_the_place_of_the_lost_one(
    signed_in: SignedIn, served: Served, lost_key: LostKey
) -> None:
    server, lost, rescue = lost_key
    page = signed_in("operator")
    to_server(page, server)
    page.get_by_role("link", name="Replace the key pair").click()
    page.get_by_label("Key pair", exact=True).select_option(rescue["name"])
    page.get_by_label("Turn password login off").check()
    give_passwords(page, server)
    wrong = judged_widely(page, "lost-asked")
    page.get_by_role("button", name="Show the plan").click()
    expect(page.get_by_text("-ssh-ed25519")).to_be_visible(timeout=SECONDS)
    give_passwords(page, server)
    wrong += judged_widely(page, "lost-plan")
    page.get_by_role("button", name="Do it on 1 server").click()
    done(page, 1)
    wrong += judged_widely(page, "lost-done")
    assert opens(server, served.private(rescue))
    assert not opens(server, lost)
    assert not judge.password_login_works(server, "root", server.root_password)
    assert wrong == []
