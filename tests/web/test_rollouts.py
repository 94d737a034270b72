"""Rollouts: asked for with a plan, begun, seen as they go, held, tried again, and reported; and what each role may."""

import json
import re
from xml.etree import ElementTree

import pytest

from controller.model import Role, Secret
from controller.settings import Settings
from controller.web import rollouts
from tests.controller.faces import SUCCEEDED
from tests.web.client import Visitor, hidden, visit
from tests.web.trouble import FULL, SEEN, WRONG, over, servers, stub

HERE = "/console/rollouts/"
FORM = {
    "operation": "bind", "keypair": "ops", "which": "some", "servers": "zone=a", "canary": "1", "batch": "100%",
    "max_failures": "100%", "per_label": "zone", "password": "s3cret",
}  # fmt: skip


async def ready(visitor: Visitor, count: int = 3) -> None:
    await servers(visitor, count, zone="a")
    await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")


async def begun(visitor: Visitor, **more: str) -> str:
    """Order a rollout as the home's owner; returns its id once it does not run any more."""
    fleet, owner = visitor.fleet, visitor.fleet.owner
    chosen = await fleet.servers.select(owner, [], all=True)
    strategy = {"canary": "0", "batch": "100%", "max_failures": "100%", "per_label": "zone", "tries": 1} | more
    found = await fleet.rollouts.start(owner, "replace", chosen, {"keypair": "ops"}, strategy, {})
    await over(visitor, found.id)
    return found.id


def test_a_plan_is_shown_and_what_was_planned_is_begun(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = dict.fromkeys(("web-1", "web-2"), SEEN) | {"web-3": WRONG}
    given = stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        await ready(visitor)
        form = (await visitor.get(f"{HERE}new?servers=web-1")).text
        assert ">web-1</textarea>" in form
        assert ">zone=a</span> 3" in form
        planned = await visitor.send(f"{HERE}plan", FORM, page=f"{HERE}new")
        id = planned.url.path.rpartition("/")[2]
        plan = await over(visitor, id)
        assert (plan.plans, plan.strategy["canary"], plan.strategy["per_label"]) == (True, "1", "zone")
        path = HERE + id
        shown = (await visitor.get(path)).text
        assert "On 2 of 3 servers this can be done" in shown
        assert "2 servers: web-1, web-2" in shown
        assert "+new &#34;&gt;&lt;script&gt;" in shown
        assert "<script>" not in shown
        assert "\u201cOtherwise\u201d among its failed tasks takes it" in shown
        among = re.search(r'href="(/console/failed-tasks/[^"]*wrong_password)"', shown)
        assert among is not None
        assert re.search(
            'aria-label="Retry plan: bind on web-3 otherwise">Otherwise',
            (await visitor.get(among.group(1).replace("&amp;", "&"))).text,
        )
        assert "is erased by now" in shown, "a password was given for it, and is needed once more"
        stale = await visitor.send(f"{path}/start", {"finished": "x"}, page=path)
        assert "plan_outdated" in stale.text
        given.clear()
        outcomes.update(dict.fromkeys(outcomes, SUCCEEDED))
        finished = re.search(r'name="finished" value="([^"]+)"', shown)
        assert finished is not None
        started = await visitor.send(f"{path}/start", {"finished": finished.group(1), "password": "again"}, page=path)
        assert "it has begun; as the plan says, without 1 of them" in started.text
        rollout = await over(visitor, started.url.path.rpartition("/")[2])
        assert (rollout.state, rollout.servers, rollout.plan_id) == ("finished", 2, id)
        assert {name: each and each.password for name, each in given.items()} == dict.fromkeys(
            ("web-1", "web-2"), Secret("again")
        )
        for page in (shown, started.text, (await visitor.get(started.url.path)).text):
            assert "s3cret" not in page
            assert 'again"' not in page

    visit(settings, story, "operator")


def test_a_check_changes_nothing_and_needs_no_plan(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {})

    async def story(visitor: Visitor) -> None:
        await ready(visitor, 2)
        answer = await visitor.send(f"{HERE}plan", {"operation": "check", "which": "all"}, page=f"{HERE}new")
        found = await over(visitor, answer.url.path.rpartition("/")[2])
        assert (found.plans, found.operation, found.servers) == (False, "check", 2)

    visit(settings, story, "operator")


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"servers": ""}, "selection_empty"),
        ({"servers": "nobody"}, "server_not_found"),
        ({"keypair": ""}, "keypair_missing"),
        ({"keypair": "none"}, "keypair_not_found"),
        ({"canary": "many"}, "amount_unusable"),
        ({"concurrency": "0"}, "invalid"),
        ({"window": "late"}, "window_unusable"),
        ({"force": "on"}, "option_unknown"),
        ({"operation": "reset"}, "operation_unknown"),
        ({"passphrase": "x", "password": ""}, "invalid"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: Settings, more: dict[str, str], code: str) -> None:
    async def story(visitor: Visitor) -> None:
        await ready(visitor, 1)
        answer = await visitor.send(f"{HERE}plan", FORM | more, page=f"{HERE}new")
        assert code in answer.text
        assert answer.status_code in (400, 404, 409, 422)
        # All that was filled in is there to be corrected, but for what opens servers.
        assert '<option value="zone" selected>zone</option>' in answer.text
        assert "s3cret" not in answer.text
        assert not await visitor.fleet.rollouts.list(visitor.fleet.owner)

    visit(settings, story, "operator")


def test_a_retry_says_that_a_rollout_that_was_halted_goes_on_by_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"web-1": FULL}
    stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        await ready(visitor)
        id = await begun(visitor, canary="1", batch="1", max_failures="0")
        shown = (await visitor.get(HERE + id)).text
        # Nobody is led to go on as if nothing had failed.
        assert "<button>Resume</button>" in shown
        assert "It goes on with 2 servers; by <em>Resume</em>, what failed before counts no more" in shown
        assert "Retry the one that failed, and go on</button>" in shown
        assert "the rollout goes on by that: 2 servers that were not begun follow" in shown
        assert "goes on: <strong>2</strong> that were not begun follow" in (await visitor.get(f"{HERE}{id}/retry")).text
        del outcomes["web-1"]
        outcomes["web-3"] = FULL
        await visitor.press(HERE + id, f"{HERE}{id}/retry", cause="disk_full")
        await over(visitor, id)
        shown = (await visitor.get(HERE + id)).text
        assert "Retry the one that failed</button>" in shown
        assert "were not begun follow" not in shown

    visit(settings, story, "operator")


def test_its_page_tells_how_it_went_and_failures_are_tried_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"web-2": FULL, "web-3": WRONG}
    given = stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        await ready(visitor)
        id = await begun(visitor)
        shown = (await visitor.get(HERE + id)).text
        for told in ("3 of 3 at their end", 'aria-label="1 succeeded, 2 failed of 3"', "disk_full", "By zone", '<svg xmlns="'):
            assert told in shown
        for told in ("\u201cOtherwise\u201d takes it.", "In this console: \u201cRetry\u201d asks once more."):
            assert told in shown
        ElementTree.fromstring(shown[shown.index("<svg xmlns=") :].partition("</svg>")[0] + "</svg>")  # noqa: S314
        assert "<style" not in shown
        outcomes.clear()
        given.clear()
        asked = {"cause": "wrong_password", "password": "new", "port": "2222"}
        form = f"{HERE}{id}/retry?cause=wrong_password"
        assert "<strong>1 server</strong> that failed by" in (await visitor.get(form)).text
        assert "1 server is tried again" in (await visitor.press(form, f"{HERE}{id}/retry", asked)).text
        await over(visitor, id)
        assert {name: each and each.password for name, each in given.items()} == {"web-3": Secret("new")}
        assert (await visitor.fleet.servers.get(visitor.fleet.owner, "web-3")).port == 2222
        again = await visitor.get(HERE + id)
        assert "Retry the one that failed" in again.text
        every = hidden(again.text, f"{HERE}{id}/retry")
        for without in ("shown", "ended"):
            refused = await visitor.send(f"{HERE}{id}/retry", {name: text for name, text in every.items() if name != without})
            assert "form_incomplete" in refused.text
        assert "selection_outdated" in (await visitor.send(f"{HERE}{id}/retry", every | {"shown": "0"})).text
        await visitor.send(f"{HERE}{id}/retry", every)
        assert (await over(visitor, id)).reason == "3 as asked"
        nothing = await visitor.send(f"{HERE}{id}/retry", every)
        assert "nothing_failed" in nothing.text

    visit(settings, story, "operator")


def test_what_failed_since_the_page_was_made_is_offered_no_password(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"web-1": FULL}
    given = stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        await ready(visitor)
        id = await begun(visitor, canary="1", max_failures="0")
        path = f"{HERE}{id}"
        form = hidden((await visitor.get(f"{path}/retry")).text, f"{path}/retry")
        outcomes["web-2"] = FULL
        await visitor.press(f"{path}/resume", f"{path}/resume")
        await over(visitor, id)
        given.clear()
        assert "1 server is tried again" in (await visitor.send(f"{path}/retry", form | {"password": "mine"})).text
        await over(visitor, id)
        assert {name for name, each in given.items() if each is not None and each.password is not None} == {"web-1"}

    visit(settings, story, "operator")


def test_it_is_resumed_and_cancelled_once_somebody_has_said_yes(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    given = stub(monkeypatch, {"web-1": FULL})

    async def story(visitor: Visitor) -> None:
        await ready(visitor)
        id = await begun(visitor, canary="1", max_failures="0")
        path = HERE + id
        assert "Pause" not in (await visitor.get(path)).text
        refused = await visitor.send(f"{path}/pause", page=path)
        assert "rollout_is_not" in refused.text
        given.clear()
        assert "it goes on" in (await visitor.send(f"{path}/resume", {"password": "x1"}, page=f"{path}/resume")).text
        assert (await over(visitor, id)).state == "finished"
        assert {name: each and each.password for name, each in given.items()} == dict.fromkeys(("web-2", "web-3"), Secret("x1"))
        id = await begun(visitor, canary="1", max_failures="0")
        assert "No further server is begun" in (await visitor.get(f"{HERE}{id}/cancel")).text
        await visitor.send(f"{HERE}{id}/cancel", page=f"{HERE}{id}/cancel")
        assert (await over(visitor, id)).state == "cancelled"

    visit(settings, story, "operator")


@pytest.mark.parametrize("kind", ["md", "json", "svg"])
def test_its_report_is_a_file_that_a_browser_keeps(settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    stub(monkeypatch, {"web-1": WRONG})

    async def story(visitor: Visitor) -> None:
        await ready(visitor, 2)
        id = await begun(visitor)
        answer = await visitor.get(f"{HERE}{id}/report.{kind}")
        assert answer.headers["content-disposition"] == f'attachment; filename="rollout-{id}.{kind}"'
        assert answer.headers["content-type"] == rollouts._TYPES[kind]
        assert answer.headers["x-content-type-options"] == "nosniff"
        if kind == "json":
            assert json.loads(answer.text)["failed_by"][0]["cause"] == "wrong_password"
        elif kind == "svg":
            ElementTree.fromstring(answer.text)  # noqa: S314
            assert "<script" not in answer.text
        assert (await visitor.get(f"{HERE}{id}/report.html")).status_code in (404, 422)
        assert (await visitor.get(f"{HERE}none/report.{kind}")).status_code == 404

    visit(settings, story, "auditor")


def test_of_a_label_with_many_values_those_with_failures_are_shown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {"web-3": FULL})
    monkeypatch.setattr(rollouts, "LABELS_SHOWN", 2)

    async def story(visitor: Visitor) -> None:
        for zone in ("zone-a", "zone-b", "zone-c"):
            await servers(visitor, 1, zone=zone)
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
        shown = (await visitor.get(HERE + await begun(visitor))).text
        shown = shown.partition("By zone</h2>")[2].partition("<h2>Servers</h2>")[0]
        assert [each in shown for each in ("zone-a", "zone-b", "zone-c")] == [True, False, True]
        assert "the report has the other 1 too" in shown

    visit(settings, story, "operator")


def test_a_plan_comes_by_page_also_where_a_page_has_nothing_that_can_be_done(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, {"web-1": WRONG, "web-2": WRONG, "web-3": SEEN})
    monkeypatch.setattr(rollouts, "LOOKS", 2)

    async def story(visitor: Visitor) -> None:
        await ready(visitor)
        planned = await visitor.send(f"{HERE}plan", FORM, page=f"{HERE}new")
        await over(visitor, planned.url.path.rpartition("/")[2])
        first = (await visitor.get(planned.url.path)).text
        assert "1 to 2 of 3" in first
        assert ("On 1 of 3 servers" in first, "1 server: web-3" in first) == (True, False)
        following = re.search(r'href="([^"]+)" rel="next"', first)
        assert following is not None
        second = (await visitor.get(following.group(1))).text
        assert ("3 to 3 of 3" in second, "1 server: web-3" in second, 'rel="next"' in second) == (True, True, False)

    visit(settings, story, "operator")


def test_rollouts_and_their_servers_come_by_page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {})
    monkeypatch.setattr(rollouts, "PAGE", 2)
    monkeypatch.setattr(rollouts, "SERVERS", 2)

    async def story(visitor: Visitor) -> None:
        assert "No rollouts yet" in (await visitor.get(HERE)).text
        await ready(visitor, 3)
        ids = [await begun(visitor) for _ in range(3)]
        first = (await visitor.get(HERE)).text
        assert [f'{HERE}{id}"' in first for id in ids] == [False, True, True]
        second = (await visitor.get(f"{HERE}?before={ids[1]}")).text
        assert [f'{HERE}{id}"' in second for id in ids] == [True, False, False]
        one = (await visitor.get(HERE + ids[0])).text
        assert "1 to 2 of 3" in one
        other = (await visitor.get(f"{HERE}{ids[0]}?after=1")).text
        assert ("3 to 3 of 3" in other, 'rel="next"' in other) == (True, False)

    visit(settings, story, "auditor")


@pytest.mark.parametrize("role", ["administrator", "operator", "auditor"])
def test_who_may_not_has_no_button_and_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    stub(monkeypatch, {"web-1": FULL})
    may = role != "auditor"

    async def story(visitor: Visitor) -> None:
        await ready(visitor)
        id = await begun(visitor, canary="1", max_failures="0")
        for path in (HERE + id, f"{HERE}{id}/cancel", f"{HERE}{id}/retry", f"{HERE}{id}/resume", f"{HERE}new"):
            assert ("<button" in (await visitor.get(path)).text.partition("<main")[2]) == may, path
        assert (f'href="{HERE}new"' in (await visitor.get(HERE)).text) == may
        shown = (await visitor.get(f"{HERE}new")).text
        assert ('id="take_over"' in shown) == (role == "administrator")
        if may:
            return
        for path in (f"{id}/retry", f"{id}/resume", f"{id}/cancel", f"{id}/pause"):
            answer = await visitor.send(HERE + path, page=HERE)
            assert ("role_reads_only" in answer.text or "rollout_is_not" in answer.text, answer.status_code >= 400) == (
                True,
                True,
            )
        refused = await visitor.send(f"{HERE}plan", FORM | {"operation": "check"}, page=HERE)
        assert "role_reads_only" in refused.text
        assert (await over(visitor, id)).state == "stopped"

    visit(settings, story, role)
