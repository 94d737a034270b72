"""The pages of servers: whatever somebody, or a server, has written is text; and each role sees and does what it may."""

import re
from dataclasses import replace
from urllib.parse import quote

import pytest

from controller.model import Binding, Outcome, Role, Task, now
from controller.settings import Settings
from tests.controller.given import bind
from tests.web.client import Visitor, hidden, visit
from tests.web.trouble import WRONG, opened, ordered, servers, settled, stub

MARK = "<img src=x onerror=alert(1)>\"'&\u202e\x1b[31m{{7*7}}"
PATHS = ("servers/", "servers/?q=web", "servers/web-1", "servers/web-1/change", "servers/web-1/remove", "orders/new?server=web-1")


def test_a_list_that_is_empty_is_told_of_the_first_server_too(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        for path in ("/console/servers/", "/console/servers/?q=nothing-like-it"):
            part = re.search('<div id="servers" data-live .*', (await visitor.get(path)).text, re.DOTALL)
            assert part is not None
            assert "No server" in part.group(0)

    visit(settings, story, "operator")


async def failed_task(visitor: Visitor) -> None:
    """Have a server on record, and a task there that failed in words of the server's choice."""
    owner, store = visitor.fleet.owner, visitor.fleet.standing._store
    server = await visitor.fleet.servers.add(owner, "web-1", "192.0.2.9", labels={"env": "prod"})
    asked = Task("0" * 36, owner.tenant_id, owner.user_id, server.id, server.name, "root", "check", {}, now(), private=False)
    store.add_tasks([asked])
    claimed = store.claim(asked.id, "me", 30)
    assert claimed is not None
    finding = {"code": MARK, "kind": "key", "message": MARK, "repair": MARK, "safe": True}
    evidence = {"findings": [finding], "banner": MARK}
    outcome = Outcome("failed", "as_before", cause="key_refused", message=MARK, evidence=evidence, handling=MARK)
    store.finish(asked.id, "me", claimed.generation, replace(outcome, retryable=True))


def test_nothing_that_others_wrote_is_more_than_text(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await failed_task(visitor)
        for path in PATHS:
            answer = await visitor.get(f"/console/{path}")
            assert answer.status_code == 200, path
            assert "<img" not in answer.text, path
            assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", answer.text), path
        shown = (await visitor.get("/console/servers/web-1")).text
        assert "&lt;img src=x onerror=alert(1)&gt;&#34;&#39;&amp;\\u202e\\x1b[31m{{7*7}}" in shown

    visit(settings, story, "operator")


def test_the_last_proof_is_that_of_the_way_in_that_stays_not_of_a_door(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Outcome("succeeded", "as_asked", proofs=[{"way": "key", "login": "root", "method": "logged_in"}])
    outcomes = {"web-1": key}
    stub(monkeypatch, outcomes)

    async def story(visitor: Visitor) -> None:
        fleet, owner = visitor.fleet, visitor.fleet.owner
        await servers(visitor, 1)
        await fleet.keypairs.create(owner, "ops", scope="account")
        await ordered(visitor, "bind", "web-1", keypair="ops")
        outcomes["web-1"] = replace(key, proofs=[{"way": "password", "login": "deploy", "method": "password_offered"}])
        await fleet.emergency.open(owner, await fleet.servers.select(owner, ["web-1"]), reason="why", seconds=60, login="deploy")
        await settled(visitor)
        for path in ("servers/", "servers/web-1"):
            shown = (await visitor.get(f"/console/{path}")).text
            assert "a login" in shown, path
            assert "passwords are asked for" not in shown, path

    visit(settings, story, "operator")


def test_what_the_doctor_found_stays_on_the_page_however_much_was_done_since(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await failed_task(visitor)
        owner, store = visitor.fleet.owner, visitor.fleet.standing._store
        (server,) = await visitor.fleet.servers.list(owner)
        more = ("unbind", {}, now())
        of = (owner.tenant_id, owner.user_id, server.id, server.name, "root")
        store.add_tasks([Task(f"{number:036}", *of, *more, private=False) for number in range(1, 30)])
        first = (await visitor.get("/console/servers/web-1")).text
        older = re.search(r'href="([^"]+)#history" rel="next"', first)
        assert older is not None
        for shown in (first, (await visitor.get(older.group(1))).text):
            assert "Nobody has looked yet" not in shown
            assert "can be repaired here" in shown

    visit(settings, story, "operator")


def test_a_page_about_a_server_does_nothing_to_another_one_that_came_under_its_name(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await failed_task(visitor)
        fleet, owner = visitor.fleet, visitor.fleet.owner
        asked = {verb: (await visitor.get(f"/console/servers/web-1/{verb}")).text for verb in ("change", "remove")}
        await fleet.servers.remove(owner, "web-1")
        await fleet.servers.add(owner, "web-1", "192.0.2.77")
        for verb, page in asked.items():
            form = hidden(page, f"/console/servers/web-1/{verb}") | {"host": "192.0.2.8", "port": "22"}
            refused = await visitor.send(f"/console/servers/web-1/{verb}", form)
            assert (refused.status_code, "selection_outdated" in refused.text) == (409, True), verb
        (there,) = await fleet.servers.list(owner)
        assert there.host == "192.0.2.77"

    visit(settings, story, "operator")


@pytest.mark.parametrize("field", ["q", "after", "password", "bound", "failed"])
def test_nothing_that_was_asked_comes_back_as_more_than_text(settings: Settings, field: str) -> None:
    async def story(visitor: Visitor) -> None:
        await failed_task(visitor)
        for path in ("/console/servers/", "/console/orders/new"):
            answer = await visitor.http.get(path, params={field: MARK, "server": "web-1", "operation": "bind"})
            assert answer.status_code == 200, path
            assert "<img" not in answer.text
        assert "<img" not in (await visitor.http.get("/console/servers/" + quote(MARK, safe=""))).text

    visit(settings, story, "operator")


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"name": "../x", "host": "192.0.2.1"}, "name_unusable"),
        ({"name": "web-2", "host": "-oProxyCommand=x"}, "name_unusable"),
        ({"name": "web-2", "host": "127.0.0.1"}, "address_not_allowed"),
        ({"name": "web-2", "host": "192.0.2.1", "labels": "nolabel"}, "label_unusable"),
        ({"name": "web-2", "host": "192.0.2.1", "port": "x"}, "invalid"),
        ({"name": "web-2", "host": "192.0.2.1", "port": "0"}, "port_unusable"),
    ],
)
def test_what_cannot_be_taken_in_is_refused_as_everywhere(settings: Settings, form: dict[str, str], code: str) -> None:
    async def story(visitor: Visitor) -> None:
        answer = await visitor.send("/console/add-server", form, page="/console/add-server")
        assert answer.status_code == 400
        assert code in answer.text
        assert f'value="{form["name"]}"' in answer.text  # to be corrected
        assert await visitor.fleet.servers.list(visitor.fleet.owner) == []

    visit(settings, story, "operator")


ACTIONS = {
    "add": ("/console/add-server", {"name": "web-2", "host": "192.0.2.2"}),
    "change": ("/console/servers/web-1/change", {"host": "192.0.2.8", "port": "22"}),
    "check": ("/console/servers/web-1/check", {}),
    "order": ("/console/orders/plan", {"operation": "password-login-enable", "server": "web-1"}),
    "remove": ("/console/servers/web-1/remove", {}),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("role", ["administrator", "operator", "auditor"])
def test_each_role_does_what_it_may(settings: Settings, role: Role, action: str) -> None:
    async def story(visitor: Visitor) -> None:
        await failed_task(visitor)
        path, form = ACTIONS[action]
        answer = await visitor.send(path, form, page="/console/servers/web-1")
        if role == "auditor":
            assert (answer.status_code, "role_reads_only" in answer.text) == (403, True)
            events = await visitor.fleet.tasks.events(visitor.fleet.owner)
            assert [each.kind for each in events].count("server_added") == 1
            kinds = [each.kind for each in visitor.fleet.standing._store.trail(visitor.fleet.owner.tenant_id)]
            assert kinds[-1] == "request_refused"
        else:
            assert answer.status_code == 200, answer.text
            assert 'id="problem"' not in answer.text

    visit(settings, story, role)


def test_an_auditor_sees_no_button_that_they_may_not_press(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await failed_task(visitor)
        for path in ("servers/", "servers/web-1"):
            text = (await visitor.get(f"/console/{path}")).text
            assert set(re.findall(r'action="([^"]*)"', text)) <= {"/console/sign-out", "/console/servers/"} | {
                "/console/orders/new"
            }, path
            assert "<button name=" not in text

    visit(settings, story, "auditor")


def test_a_search_finds_what_fits_and_takes_no_word_for_a_pattern(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        for name, labels in (("web-1", {"env": "prod"}), ("web-2", {"env": "dev"}), ("db_1", {"env": "prod"})):
            await visitor.fleet.servers.add(visitor.fleet.owner, name, "192.0.2.9", labels=labels)

        async def found(q: str) -> list[str]:
            text = (await visitor.http.get("/console/servers/", params={"q": q})).text
            return re.findall(r'<a href="/console/servers/([\w-]+)">', text)

        assert await found("env=prod") == ["db_1", "web-1"]
        assert await found("WEB env=prod") == ["web-1"]
        assert await found("dev") == ["web-2"]
        assert await found("%") == []
        assert await found("_1") == ["db_1"]
        assert await found('"=x') == []
        assert await found("env=") == []

    visit(settings, story, "auditor")


def test_a_reset_is_for_a_disk_that_its_owner_has_named_and_is_confirmed(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await failed_task(visitor)
        owner, form = visitor.fleet.owner, {"keypair": "ops", "login": "root", "confirmed": "web-1"}
        await visitor.fleet.keypairs.create(owner, "ops", scope="account")
        assert "root_missing" in (await visitor.send("/console/servers/web-1/reset", form, page="/console/servers/web-1")).text
        await visitor.fleet.servers.change(owner, "web-1", reset_root="/mnt/web-1")
        assert "/mnt/web-1" in (await visitor.get("/console/servers/web-1")).text
        refused = await visitor.send("/console/servers/web-1/reset", form | {"confirmed": "web"}, page="/console/servers/web-1")
        assert "not_confirmed" in refused.text
        answer = await visitor.send("/console/servers/web-1/reset", form, page="/console/servers/web-1")
        assert "the reset of its disk has begun" in answer.text
        tasks = await visitor.fleet.standing.tasks(owner, "web-1")
        assert (tasks[0].operation, tasks[0].request["root"]) == ("reset", "/mnt/web-1")

    visit(settings, story, "operator")


def test_a_password_in_a_form_is_on_no_page_and_in_no_log(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "s3cret-of-web-1"

    async def story(visitor: Visitor) -> None:
        await failed_task(visitor)
        form = {"operation": "password-login-enable", "server": "web-1", "password.web-1": secret}
        plan = await visitor.send("/console/orders/plan", form, page="/console/orders/new?server=web-1")
        assert plan.url.path.startswith("/console/orders/plans/")
        for path in (plan.url.path, "/console/servers/web-1", "/console/servers/"):
            assert secret not in (await visitor.get(path)).text
        assert "password.web-1" not in "".join(str(each.detail) for each in await visitor.fleet.tasks.events(visitor.fleet.owner))

    visit(settings, story, "operator")
    said = capsys.readouterr()
    assert "/console/orders/plan" in said.err
    assert secret not in said.out + said.err
    assert secret.encode() not in settings.database.read_bytes()


def test_what_is_told_of_a_server_leads_to_more_of_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {"web-1": WRONG})

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 2)
        await opened(visitor, "web-2")
        (failed,) = await ordered(visitor, "check", "web-1")
        for page, to in (
            ("servers/", f"failed-tasks/{failed.id}"),
            ("emergency/", "servers/web-2"),
            ("", "servers/?password=on"),
            ("", "servers/?bound=no"),
        ):
            assert f'href="/console/{to}"' in (await visitor.get(f"/console/{page}")).text.partition("<main")[2], (page, to)

    visit(settings, story, "operator")


def test_a_key_pair_and_the_servers_where_it_is_bound_lead_to_each_other(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        fleet, owner = visitor.fleet, visitor.fleet.owner
        server = await fleet.servers.add(owner, "web-1", "192.0.2.9")
        keypair, _ = await fleet.keypairs.create(owner, "ops", scope="account")
        bind(fleet.standing._store, Binding(server.id, "root", keypair.id, "logged_in", True, "t", now()))
        assert 'href="/console/keypairs/named/ops"' in (await visitor.get("/console/servers/web-1")).text
        assert 'href="/console/servers/web-1"' in (await visitor.get("/console/keypairs/named/ops")).text

    visit(settings, story, "operator")
