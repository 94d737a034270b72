"""Failed tasks: what somebody on call sees first, what they may do, and that a retry does what it says."""

import re

import pytest

from controller.model import Role, Secret, Task, now
from controller.settings import Settings
from controller.web import failedtasks
from tests.controller.faces import SUCCEEDED
from tests.web.client import Visitor, hidden, visit
from tests.web.trouble import FULL, HOSTILE, LOST, WRONG, ordered, servers, settled, stub

HERE = "/console/failed-tasks/"


async def trouble(visitor: Visitor) -> None:
    """Have three servers fail, each by another cause."""
    await servers(visitor, 3, zone="a")
    await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
    await ordered(visitor, "bind", "web-1", "web-2", "web-3", keypair="ops")


def test_where_nothing_failed_the_page_says_so(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        assert "Nothing has failed" in (await visitor.get(HERE)).text
        assert "No failed task is like that" in (await visitor.get(f"{HERE}?server=x")).text
        for query in ("label=zone", "since=ever", "label=%3Da"):
            assert (await visitor.get(f"{HERE}?{query}")).status_code in (400, 422), query

    visit(settings, story, "auditor")


def test_what_left_a_server_unclear_comes_first_each_cause_with_what_to_do(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, {"web-1": WRONG, "web-2": FULL, "web-3": LOST})

    async def story(visitor: Visitor) -> None:
        await trouble(visitor)
        shown = (await visitor.get(HERE)).text
        places = [shown.index(f'id="cause-{cause}"') for cause in ("connection_lost", "disk_full", "wrong_password")]
        assert places == sorted(places)
        assert "left a server unclear" in shown
        assert "Free some space" in shown
        assert "<script>" not in shown.replace("<script src=", "")
        assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m\\u202e&lt;img" in shown
        (task,) = [each for each in await visitor.fleet.tasks.list(visitor.fleet.owner) if each.cause == "wrong_password"]
        one = (await visitor.get(HERE + task.id)).text
        assert HOSTILE not in one
        for told in ("Check it.", "a task came to its final state", "What happened", "connect", "root@192.0.2.1 port 22"):
            assert told in one

    visit(settings, story, "operator")


def test_however_much_is_asked_for_the_list_is_fetched_anew_from_its_own_address(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, {"web-1": FULL})

    async def story(visitor: Visitor) -> None:
        await trouble(visitor)
        path = f"{HERE}?server=web-1&label=zone%3Da&more={'x' * 3000}"
        shown = (await visitor.get(path)).text
        assert f'id="failures" data-live hx-get="{path.replace("&", "&amp;")}"' in shown
        (task,) = await visitor.fleet.failures.list(visitor.fleet.owner, failedtasks.Selected().which)
        after = await visitor.press(path, f"{HERE}retry", task=task.id)
        assert (after.status_code, "1 task is tried again" in after.text) == (200, True)

    visit(settings, story, "operator")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("cause=disk_full", {"web-2"}),
        ("server=eb-3", {"web-3"}),
        ("server=%25", set()),
        ("label=zone%3Da", {"web-1", "web-2", "web-3"}),
        ("label=zone%3Db", set()),
        ("since=hour", {"web-1", "web-2", "web-3"}),
        ("rollout=none", set()),
        ("cause=disk_full&server=web-1", set()),
    ],
)
def test_they_are_looked_for(settings: Settings, monkeypatch: pytest.MonkeyPatch, query: str, found: set[str]) -> None:
    stub(monkeypatch, {"web-1": WRONG, "web-2": FULL, "web-3": LOST})

    async def story(visitor: Visitor) -> None:
        await trouble(visitor)
        shown = (await visitor.get(f"{HERE}?{query}")).text
        assert {name for name in ("web-1", "web-2", "web-3") if f'">{name}</a>' in shown} == found

    visit(settings, story, "auditor")


def test_many_of_one_cause_come_by_page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, dict.fromkeys([f"web-{number}" for number in range(9)], FULL))
    monkeypatch.setattr(failedtasks, "PAGE", 3)

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 8)
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
        await ordered(visitor, "bind", *(f"web-{number}" for number in range(1, 9)), keypair="ops")
        first = (await visitor.get(HERE)).text
        assert "All 8 tasks by disk_full" in first
        path, seen = f"{HERE}?cause=disk_full", []
        while path:
            shown = (await visitor.get(path)).text
            seen += [number for number in range(8, 0, -1) if f'">web-{number}</a>' in shown]
            path = shown.partition('rel="next"')[0].rpartition('href="')[2].rstrip('" ').replace("&amp;", "&")
            path = path if 'rel="next"' in shown else ""
        assert seen == list(range(8, 0, -1))

    visit(settings, story, "auditor")


def test_what_only_planned_is_told_from_what_would_have_been_done(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"web-1": FULL}
    stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 1)
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
        (done,) = await ordered(visitor, "bind", "web-1", keypair="ops")
        (planned,) = await ordered(visitor, "bind", "web-1", keypair="ops", plan=True)
        shown = (await visitor.get(HERE)).text
        for told in (
            ">plan: bind of root<",
            'title="Retry plan: bind on web-1"',
            ">bind of root<",
            'title="Retry bind on web-1"',
        ):
            assert shown.count(told) == 1, told
        asked = (await visitor.get(f"{HERE}again?cause=disk_full")).text
        assert (asked.count("<li>plan: bind of root on"), asked.count("<li>bind of root on")) == (1, 1)
        page = (await visitor.get(HERE + planned.id)).text
        for told in (">plan: bind on web-1</h1>", "nothing is done there by trying it again"):
            assert told in page
        assert "lan: bind" not in (await visitor.get(HERE + done.id)).text
        outcomes["web-1"] = SUCCEEDED
        after = await visitor.send(f"{HERE}retry", {"task": planned.id}, page=HERE)
        assert ">plan: bind of root<" in after.text.partition("Tried again last")[2]

    visit(settings, story, "operator")


def test_one_is_tried_again_with_a_new_password_that_nothing_shows(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"web-1": WRONG}
    given = stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 1)
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
        (task,) = await ordered(visitor, "bind", "web-1", keypair="ops")
        form = f"{HERE}again?task={task.id}"
        assert "Whose password" in (await visitor.get(form)).text
        outcomes["web-1"] = SUCCEEDED
        asked = {"task": task.id, "password": " s3cret ", "password_of": "root"}
        after = await visitor.send(f"{HERE}retry", asked, page=form)
        assert (after.status_code, after.url.path) == (200, HERE)
        assert "1 task is tried again" in after.text
        await settled(visitor)
        credential = given["web-1"]
        assert credential is not None
        assert credential.password == Secret(" s3cret ")
        assert credential.password_of == "root"
        shown = (await visitor.get(HERE)).text
        assert "Nothing has failed" in shown
        assert "Tried again last" in shown
        again = next(each for each in await visitor.fleet.tasks.list(visitor.fleet.owner) if each.retry_of == task.id)
        for page in (shown, (await visitor.get(HERE + again.id)).text, (await visitor.get(HERE + task.id)).text):
            assert "s3cret" not in page
        assert "how that went" in page

    visit(settings, story, "operator")


def test_all_of_a_cause_are_tried_again_and_what_cannot_be_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"web-1": FULL, "web-2": FULL, "web-3": WRONG}
    given = stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        await trouble(visitor)
        await visitor.fleet.servers.remove(visitor.fleet.owner, "web-1")
        given.clear()
        outcomes["web-2"] = SUCCEEDED
        after = await visitor.press(HERE, f"{HERE}retry", cause="disk_full")
        assert "1 task is tried again; 1 not (server_not_found)" in after.text
        await settled(visitor)
        assert list(given) == ["web-2"]
        assert 'id="cause-wrong_password"' in (await visitor.get(HERE)).text

    visit(settings, story, "operator")


def test_they_are_reached_otherwise_from_then_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {"web-1": FULL, "web-2": FULL})

    async def story(visitor: Visitor) -> None:
        owner = visitor.fleet.owner
        await trouble(visitor)
        refused = await visitor.press(HERE, f"{HERE}retry", {"host": "192.0.2.99"}, cause="disk_full")
        assert "host_of_many" in refused.text
        failed = await visitor.fleet.tasks.list(owner)
        await visitor.press(HERE, f"{HERE}retry", {"port": "2222", "jump": "web-3"}, cause="disk_full")
        await settled(visitor)
        late = await visitor.send(f"{HERE}retry", {"task": [each.id for each in failed], "host": "192.0.2.99"}, page=HERE)
        assert "0 tasks are tried again" in late.text
        reached = [await visitor.fleet.servers.get(owner, name) for name in ("web-1", "web-2", "web-3")]
        assert [(each.port, len(each.jumps)) for each in reached] == [(2222, 1), (2222, 1), (22, 0)]
        (task,) = [each for each in await visitor.fleet.tasks.list(owner, failed=True) if each.server_name == "web-1"]
        form = f"{HERE}again?task={task.id}"
        assert 'placeholder="2222"' in (await visitor.get(form)).text
        await visitor.send(f"{HERE}retry", {"task": task.id, "host": "192.0.2.99", "directly": "on"}, page=form)
        moved = await visitor.fleet.servers.get(owner, "web-1")
        assert (moved.host, moved.port, moved.jumps) == ("192.0.2.99", 2222, [])

    visit(settings, story, "operator")


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"passphrase": "x"}, "invalid"),
        ({"password_of": "root"}, "invalid"),
        ({"port": "70000"}, "port_unusable"),
        ({"port": "1e3"}, "invalid"),
        ({"jump": "nobody"}, "server_not_found"),
        ({"jump": "web-2", "directly": "on"}, "options_contradict"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_tried(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, form: dict[str, str], code: str
) -> None:
    stub(monkeypatch, {"web-1": WRONG})

    async def story(visitor: Visitor) -> None:
        await trouble(visitor)
        refused = await visitor.press(HERE, f"{HERE}retry", form, cause="wrong_password")
        assert code in refused.text
        assert refused.status_code in (400, 404, 409, 422)
        # All that was filled in is there to be corrected, but for what opens servers.
        for name in ("port", "jump"):
            assert re.search(f'name="{name}"[^>]* value="{form.get(name, "")}"', refused.text)
        assert hidden(refused.text, f"{HERE}retry")["cause"] == "wrong_password"
        assert not await visitor.fleet.failures.retries(visitor.fleet.owner, 1)

    visit(settings, story, "operator")


def test_they_are_deleted_once_somebody_has_said_yes_and_one_in_doubt_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, {"web-1": WRONG, "web-2": FULL, "web-3": LOST})

    async def story(visitor: Visitor) -> None:
        await trouble(visitor)
        asked = f"{HERE}delete?cause=disk_full"
        assert "1 failed task" in (await visitor.get(asked)).text
        assert "1 task is deleted" in (await visitor.press(asked, f"{HERE}delete")).text
        told = (await visitor.press(f"{HERE}delete", f"{HERE}delete")).text
        assert "1 task is deleted; 1 not (task_in_doubt)" in told
        left = await visitor.fleet.failures.list(visitor.fleet.owner, failedtasks.Selected().which)
        assert [each.cause for each in left] == ["connection_lost"]

    visit(settings, story, "operator")


@pytest.mark.parametrize("what", ["retry", "delete"])
def test_what_failed_since_the_page_was_made_is_not_done_with_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    given = stub(monkeypatch, {"web-1": FULL, "web-2": FULL, "web-3": FULL})

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 3)
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
        (first,) = await ordered(visitor, "bind", "web-1", keypair="ops")
        page = HERE + {"retry": "again?cause=disk_full", "delete": "delete"}[what]
        form = hidden((await visitor.get(page)).text, HERE + what)
        others = await ordered(visitor, "bind", "web-2", "web-3", keypair="ops")
        given.clear()
        done = await visitor.send(HERE + what, form | {"password": "s3cret"})
        assert {"retry": "1 task is tried again", "delete": "1 task is deleted"}[what] in done.text
        await settled(visitor)
        assert list(given) == (["web-1"] if what == "retry" else [])
        left = {each.id: each for each in await visitor.fleet.failures.list(visitor.fleet.owner, failedtasks.Selected().which)}
        assert {each.id for each in others} <= set(left)
        assert first.id not in left

    visit(settings, story, "operator")


def test_one_asked_for_before_that_failed_later_was_not_shown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"web-1": FULL, "web-2": FULL}
    given = stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        fleet, owner = visitor.fleet, visitor.fleet.owner
        await servers(visitor, 2)
        await fleet.keypairs.create(owner, "ops", scope="account")
        store = fleet.standing._store
        server = await fleet.servers.get(owner, "web-1")
        early = Task("0" * 36, owner.tenant_id, owner.user_id, server.id, "web-1", "root", "check", {}, now(), private=False)
        store.add_tasks([early])
        claimed = store.claim(early.id, "me", 30)
        assert claimed is not None
        await ordered(visitor, "bind", "web-2", keypair="ops")
        form = hidden((await visitor.get(f"{HERE}again")).text, f"{HERE}retry")
        assert store.finish(early.id, "me", claimed.generation, FULL)
        given.clear()
        assert "1 task is tried again" in (await visitor.send(f"{HERE}retry", form)).text
        await settled(visitor)
        assert list(given) == ["web-2"]

    visit(settings, story, "operator")


@pytest.mark.parametrize("without", ["until", "ended", "shown"])
@pytest.mark.parametrize("what", ["retry", "delete"])
def test_a_form_that_says_nothing_means_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, what: str, without: str
) -> None:
    stub(monkeypatch, {"web-1": FULL, "web-2": WRONG})

    async def story(visitor: Visitor) -> None:
        await trouble(visitor)
        form = hidden((await visitor.get(f"{HERE}delete")).text, f"{HERE}delete")
        del form[without]
        for fields in (form, form | {"cause": "disk_full"}, {"form_token": form["form_token"]}):
            refused = await visitor.send(HERE + what, fields)
            assert (refused.status_code, "form_incomplete" in refused.text) == (400, True)
        assert len(await visitor.fleet.failures.list(visitor.fleet.owner, failedtasks.Selected().which)) == 2

    visit(settings, story, "operator")


def test_more_than_were_shown_are_never_done(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {"web-1": FULL, "web-2": FULL})

    async def story(visitor: Visitor) -> None:
        await trouble(visitor)
        form = hidden((await visitor.get(f"{HERE}delete")).text, f"{HERE}delete")
        assert form["shown"] == "2"
        refused = await visitor.send(f"{HERE}delete", form | {"shown": "1"})
        assert (refused.status_code, "selection_outdated" in refused.text) == (409, True)
        assert len(await visitor.fleet.failures.list(visitor.fleet.owner, failedtasks.Selected().which)) == 2

    visit(settings, story, "operator")


@pytest.mark.parametrize("role", ["administrator", "operator", "auditor"])
def test_who_may_not_has_no_button_and_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    stub(monkeypatch, {"web-1": WRONG, "web-2": FULL})
    may = role != "auditor"

    async def story(visitor: Visitor) -> None:
        await trouble(visitor)
        first, second = await visitor.fleet.tasks.list(visitor.fleet.owner, failed=True)
        for path in (HERE, HERE + first.id, f"{HERE}again?task={first.id}", f"{HERE}delete?task={first.id}"):
            shown = (await visitor.get(path)).text.partition("<main")[2]
            assert ("<button" in shown.replace("<button>Show</button>", "")) == may, path
        for path, task in (("retry", first), ("delete", second)):
            answer = await visitor.send(HERE + path, {"task": task.id}, page=HERE)
            assert ("role_reads_only" in answer.text, answer.status_code) == (not may, 200 if may else 403)
            await settled(visitor)
        left = await visitor.fleet.tasks.list(visitor.fleet.owner)
        assert (len([each for each in left if each.retry_of == first.id]), second in left) == (int(may), not may)

    visit(settings, story, role)


def test_a_reset_that_sets_a_password_is_retried_where_that_can_be_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = stub(monkeypatch, {"web-1": FULL})

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 1)
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
        (task,) = await ordered(visitor, "reset", "web-1", keypair="ops", root="/mnt", set_password=True)
        given.clear()
        assert f"kps task retry {task.id}" in (await visitor.get(HERE + task.id)).text
        answer = await visitor.send(f"{HERE}retry", {"task": task.id, "password": "mine"}, page=f"{HERE}delete")
        assert "password_told_once" in answer.text
        (plain,) = await ordered(visitor, "reset", "web-1", keypair="ops", root="/mnt")
        given.clear()
        await visitor.send(f"{HERE}retry", {"task": plain.id, "password": "mine"}, page=f"{HERE}delete")
        await settled(visitor)
        assert given == {"web-1": None}, "what is given opens a server, and becomes nobody's password"

    visit(settings, story, "administrator")
