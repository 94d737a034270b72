"""Failed tasks and rollouts, in a real browser and on real servers: mended and tried again; planned, begun, seen as they go."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from controller.demo.fleet import Login, Server
from tests.browser.conftest import SignedIn, shot
from tests.browser.served import Served
from tests.fleet.conftest import MakeServer

SECONDS = 60_000
PASSWORD = "one for all of them"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A controller whose users may name the addresses of these servers: they are on its own machine."""
    with Served(tmp_path_factory.mktemp("console") / "home", allow_networks="127.0.0.0/8") as running:
        yield running


def card(page: Page, cause: str) -> Locator:
    return page.get_by_role("region", name=cause, exact=True)


def retried(page: Page, server: Server, count: int) -> None:
    """Wait until the page tells by itself that a server's retry has gone well, and that so many causes are left."""
    row = page.get_by_role("region", name="The last tasks that were tried again").get_by_role("row").filter(has_text=server.name)
    expect(row.first).to_contain_text(re.compile("succeeded|unchanged"), timeout=SECONDS)
    expect(page.get_by_text("Do:")).to_have_count(count, timeout=SECONDS)


def test_six_causes_are_mended_and_tried_again_from_the_page(
    signed_in: SignedIn, served: Served, make_server: MakeServer
) -> None:
    refused, wrong, nowhere, needed, bound = (make_server(root_password=PASSWORD) for _ in range(5))
    others = make_server(root_password=PASSWORD, logins=(Login("deploy", "s3cret"),))
    for each in (refused, wrong, nowhere, needed, bound, others):
        served.add(each, labels={"zone": "a"})
    pair = served.keypair(scope="account")
    served.succeeds("bind", bound, keypair=pair, password=PASSWORD)
    served.kps("server", "set", refused.name, "--port", "1")
    served.kps("server", "set", nowhere.name, "--address", "nowhere.invalid")
    bound.run(["chmod", "777", "/root/.ssh"])
    ids = served.begin("bind", refused, nowhere, others, keypair=pair, password=PASSWORD)
    ids += served.begin("bind", wrong, keypair=pair, password="not this")
    ids += served.begin("bind", needed, keypair=pair) + served.begin("check", bound)
    causes = {task["server"]: task["cause"] for task in map(served.ended, ids)}
    assert causes == {
        refused.name: "connection_refused", nowhere.name: "name_not_resolved", others.name: "others_locked_out",
        wrong.name: "wrong_password", needed.name: "credential_needed", bound.name: "key_refused",
    }  # fmt: skip

    page = signed_in("operator")
    page.get_by_role("link", name="Failed tasks").click()  # one click
    expect(page.get_by_text("Do:")).to_have_count(6)
    shot(page, "failed-tasks")
    narrow = signed_in("auditor", dark=True, width=390)
    narrow.goto(f"{served.url}/console/failed-tasks/")
    shot(narrow, "failed-tasks-dark-narrow")
    card(page, "wrong_password").get_by_role("link", name="Retry with another password or key").click()  # two
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    shot(page, "retry")
    page.get_by_role("button", name="Retry it").click()  # three
    retried(page, wrong, 5)
    card(page, "credential_needed").get_by_role("link", name="Retry with another password or key").click()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Retry it").click()
    retried(page, needed, 4)
    others.run(["passwd", "-l", "deploy"])
    page.get_by_role("link", name=f"Retry bind on {others.name} otherwise").click()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Retry it").click()
    retried(page, others, 3)
    page.get_by_role("link", name=f"Retry bind on {nowhere.name} otherwise").click()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Address").fill(nowhere.host)
    page.get_by_role("button", name="Retry it").click()
    retried(page, nowhere, 2)
    page.get_by_role("link", name=f"Retry bind on {refused.name} otherwise").click()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Port").fill(str(refused.port))
    page.get_by_role("button", name="Retry it").click()
    retried(page, refused, 1)
    bound.run(["chmod", "700", "/root/.ssh"])
    page.get_by_title(f"Retry check on {bound.name}").click()
    retried(page, bound, 0)
    shot(page, "failed-tasks-none")
    page.get_by_role("link", name=refused.name).first.click()
    expect(page.get_by_text("What happened")).to_be_visible()
    shot(page, "task")
    for each in (refused, wrong, nowhere, needed, bound, others):
        assert pair["name"] in each.read("/root/.ssh/authorized_keys")
    assert PASSWORD not in page.content() + (served.home / "serve.log").read_text()


def test_they_are_deleted_without_scripts_too(signed_in: SignedIn, served: Served, make_server: MakeServer) -> None:
    servers = [make_server() for _ in range(2)]
    for each in servers:
        served.add(each)
    pair = served.keypair(scope="account")
    for id in served.begin("bind", *servers, keypair=pair) + served.begin("bind", servers[0], keypair=pair, password="no"):
        assert served.ended(id)["status"] == "failed"
    page = signed_in("operator", scripts=False)
    page.get_by_role("link", name="Failed tasks").click()
    card(page, "wrong_password").get_by_role("link", name="Delete").click()
    shot(page, "delete")
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text("1 task is deleted")).to_be_visible()
    expect(card(page, "wrong_password")).to_have_count(0)
    page.get_by_title(f"Retry bind on {servers[0].name}").click()
    expect(page.get_by_text("1 task is tried again")).to_be_visible()
    (running,) = [each["id"] for each in served.ask("GET", "/tasks") if each["retry_of"] and each["server"] == servers[0].name]
    served.ended(running)
    page.get_by_role("link", name="Failed tasks").click()
    page.get_by_role("link", name="Delete all").click()
    page.get_by_role("button", name=re.compile(r"Delete all \d")).click()
    expect(page.get_by_text("tasks are deleted")).to_be_visible()
    expect(page.get_by_text("Nothing has failed")).to_be_visible()


def test_a_rollout_from_its_wizard_to_its_end(signed_in: SignedIn, served: Served, make_server: MakeServer) -> None:
    servers = [make_server(root_password=PASSWORD) for _ in range(3)]
    for each in servers:
        served.add(each, labels={"env": "rolled"})
    pair = served.keypair(scope="account")
    page = signed_in("operator")
    page.get_by_role("link", name="Rollouts").click()
    page.get_by_role("link", name="New rollout").click()
    page.get_by_label("Bind a key pair").check()
    page.get_by_label("Key pair", exact=True).select_option(pair["name"])
    page.get_by_label("Names and labels").fill("env=rolled")
    page.get_by_label("Spread over the label").select_option("env")
    page.get_by_text("Give a password or a key").click()
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    shot(page, "rollout-new")
    page.get_by_role("button", name="Show the plan").click()
    start = page.get_by_role("button", name="Start on 3 servers")
    expect(start).to_be_visible(timeout=SECONDS)  # the page has gone on by itself
    shot(page, "rollout-plan")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    start.click()
    expect(page.get_by_text("3 of 3 at their end")).to_be_visible(timeout=SECONDS)
    expect(page.get_by_role("heading", name="By env")).to_be_visible()
    shot(page, "rollout")
    with page.expect_download() as kept:
        page.get_by_role("link", name="Markdown").click()
    assert kept.value.suggested_filename.endswith(".md")
    assert "# bind on 3 servers" in kept.value.path().read_text()
    for each in servers:
        assert pair["name"] in each.read("/root/.ssh/authorized_keys")
    page.get_by_role("link", name="Emergency").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Emergency")
    shot(page, "emergency")
