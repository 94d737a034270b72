"""Orders from the list of servers: what is begun is what the plan's page has shown, and all of that was shown."""

import asyncio

import pytest

from controller.model import Outcome
from controller.settings import Settings
from controller.web import orders
from tests.web.client import Visitor, hidden, visit
from tests.web.trouble import SEEN, WRONG, over, servers, stub

PLANS = "/console/orders/plans/"


async def planned(visitor: Visitor, count: int) -> str:
    """Plan to bind a key pair on new servers; returns the plan's id once they were looked at."""
    await servers(visitor, count)
    await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
    form = {"operation": "bind", "keypair": "ops", "server": [f"web-{number}" for number in range(1, count + 1)]}
    answer = await visitor.send("/console/orders/plan", form, page="/console/orders/new?server=web-1")
    id = answer.url.path.rpartition("/")[2]
    await over(visitor, id)
    return id


def test_what_was_shown_is_begun_and_no_server_that_was_looked_at_again_since(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: dict[str, Outcome] = {"web-1": SEEN, "web-2": SEEN, "web-3": WRONG}
    stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        fleet, owner = visitor.fleet, visitor.fleet.owner
        id = await planned(visitor, 3)
        shown = (await visitor.get(PLANS + id)).text
        assert "Do it on 2 servers" in shown
        assert "Left out: 1 server" in shown
        old = hidden(shown, f"{PLANS}{id}/start")
        outcomes["web-3"] = SEEN
        await fleet.rollouts.retry(owner, id, None, {})
        await over(visitor, id)
        refused = await visitor.send(f"{PLANS}{id}/start", old)
        assert (refused.status_code, "plan_outdated" in refused.text) == (409, True)
        assert [each.id for each in await fleet.rollouts.list(owner)] == [id]
        now = await visitor.get(PLANS + id)
        assert "Do it on 3 servers" in now.text
        begun = await visitor.send(f"{PLANS}{id}/start", hidden(now.text, f"{PLANS}{id}/start"))
        assert "Begun on 3 servers" in begun.text

    visit(settings, story, "operator")


@pytest.mark.parametrize("page", [PLANS, "/console/rollouts/"])
def test_a_plan_whose_button_two_people_press_is_begun_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    stub(monkeypatch, {"web-1": SEEN, "web-2": SEEN})

    async def story(visitor: Visitor) -> None:
        fleet, owner = visitor.fleet, visitor.fleet.owner
        id = await planned(visitor, 2)
        form = hidden((await visitor.get(page + id)).text, f"{page}{id}/start")
        pressed = [visitor.send(f"{page}{id}/start", form) for _ in range(2)]
        one, other = sorted(await asyncio.gather(*pressed), key=lambda each: each.status_code)
        assert (one.status_code, other.status_code, "plan_begun" in other.text) == (200, 409, True)
        _, begun = await fleet.rollouts.list(owner)
        await over(visitor, begun.id)
        again = (await visitor.get(page + id)).text
        assert f'{begun.id}">how that goes' in again
        assert f'action="{page}{id}/start"' not in again
        # What was cancelled is no reason against it.
        fleet.rollouts._store.change_rollout(owner.tenant_id, begun.id, "cancelled", "", of=("finished",))
        later = await visitor.send(f"{page}{id}/start", form)
        assert later.status_code == 200
        await over(visitor, later.url.path.rpartition("/")[2])

    visit(settings, story, "operator")


@pytest.mark.parametrize("without", ["servers_sha256", "shown_sha256"])
def test_a_form_that_does_not_say_what_was_shown_begins_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    stub(monkeypatch, {"web-1": SEEN})

    async def story(visitor: Visitor) -> None:
        id = await planned(visitor, 1)
        form = hidden((await visitor.get(PLANS + id)).text, f"{PLANS}{id}/start")
        refused = await visitor.send(f"{PLANS}{id}/start", {name: text for name, text in form.items() if name != without})
        assert (refused.status_code, "form_incomplete" in refused.text) == (400, True)
        altered = await visitor.send(f"{PLANS}{id}/start", form | {without: "0" * 64})
        assert (altered.status_code, "plan_outdated" in altered.text) == (409, True)
        assert [each.id for each in await visitor.fleet.rollouts.list(visitor.fleet.owner)] == [id]

    visit(settings, story, "operator")


def test_an_order_that_has_stopped_leads_to_where_it_is_resumed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: dict[str, Outcome] = {"web-1": SEEN, "web-2": SEEN}
    stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        id = await planned(visitor, 2)
        outcomes.update(dict.fromkeys(outcomes, WRONG))
        begun = await visitor.press(PLANS + id, f"{PLANS}{id}/start")
        order = begun.url.path.rpartition("/")[2]
        assert (await over(visitor, order)).state == "stopped"
        shown = (await visitor.get(begun.url.path)).text
        assert f'It does not go on by itself: <a href="/console/rollouts/{order}">resume it' in shown
        assert "Resume</button>" in (await visitor.get(f"/console/rollouts/{order}")).text

    visit(settings, story, "operator")


def test_a_plan_of_more_than_a_page_shows_is_begun_where_all_of_it_is_shown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, dict.fromkeys(("web-1", "web-2", "web-3"), SEEN))
    monkeypatch.setattr(orders, "MOST_SHOWN", 2)

    async def story(visitor: Visitor) -> None:
        id = await planned(visitor, 3)
        there = await visitor.get(PLANS + id)
        assert there.url.path == f"/console/rollouts/{id}"
        assert "Start on 3 servers" in there.text
        assert "web-3" in there.text

    visit(settings, story, "operator")


def test_servers_that_are_alike_are_all_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"web-{number}" for number in range(1, 10)]
    stub(monkeypatch, dict.fromkeys(names, SEEN))

    async def story(visitor: Visitor) -> None:
        id = await planned(visitor, 9)
        shown = (await visitor.get(PLANS + id)).text
        assert "and 3 more" in shown
        assert ", ".join(names) in shown.partition("<details><summary>All of them</summary>")[2].partition("</details>")[0]

    visit(settings, story, "operator")


def test_a_plan_whose_key_pair_is_gone_says_so_and_is_not_offered(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {"web-1": SEEN})

    async def story(visitor: Visitor) -> None:
        id = await planned(visitor, 1)
        await visitor.fleet.keypairs.delete(visitor.fleet.owner, "ops")
        shown = await visitor.get(PLANS + id)
        assert (shown.status_code, "its key pair is not there any more" in shown.text) == (200, True)
        assert f'action="{PLANS}{id}/start"' not in shown.text

    visit(settings, story, "operator")


def test_an_unbind_says_what_it_does_about_passwords_and_can_keep_them_off(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await servers(visitor, 1)
        page = (await visitor.get("/console/orders/new?operation=unbind&server=web-1")).text
        assert "Where a second user has to agree to emergency doors, that is refused" in page
        assert 'name="keep_password_login"' in page
        form = {"operation": "unbind", "server": "web-1", "keep_password_login": "yes"}
        answer = await visitor.send("/console/orders/plan", form, page="/console/orders/new?operation=unbind&server=web-1")
        id = answer.url.path.rpartition("/")[2]
        rollout, _ = await visitor.fleet.rollouts.get(visitor.fleet.owner, id)
        assert rollout.request["keep_password_login"]

    visit(settings, story, "operator")


def test_an_order_that_is_refused_has_its_form_as_it_was_filled_in(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await servers(visitor, 1)
        for name in ("ops", "other"):
            await visitor.fleet.keypairs.create(visitor.fleet.owner, name, scope="account")
        page = "/console/orders/new?operation=bind&server=web-1"
        form = {"operation": "bind", "server": "web-1", "keypair": "other", "login": "no login", "accept_lockout": "deploy"}
        form |= {"fix_permissions": "on", "password.web-1": "s3cret", "identity": "no key at all"}
        refused = await visitor.send("/console/orders/plan", form, page=page)
        assert (refused.status_code, "login_unusable" in refused.text) == (400, True)
        assert "<title>Refused: Bind a key pair" in refused.text
        for kept in ('value="other" selected', 'value="no login"', 'value="deploy"', 'name="fix_permissions" value="on" checked'):
            assert kept in refused.text, kept
        assert 'name="keep_password_login" value="on" checked' not in refused.text
        assert hidden(refused.text, "/console/orders/plan")["server"] == "web-1"
        for secret in ("s3cret", "no key at all"):
            assert secret not in refused.text
        assert not await visitor.fleet.rollouts.list(visitor.fleet.owner)

    visit(settings, story, "operator")
