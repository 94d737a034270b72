"""Emergency: where password login is on, by whose order, and closing it with a plan."""

import pytest

from controller.model import Role, ServerNotes
from controller.settings import Settings
from controller.store import engine
from controller.web import emergency
from tests.web.client import Visitor, visit
from tests.web.test_rollouts import over
from tests.web.trouble import ordered, servers, stub

HERE = "/console/emergency/"


async def opened(visitor: Visitor, *names: str, **notes: object) -> None:
    """Have it be seen that password login is on."""
    store = visitor.fleet.servers._store
    for name in names:
        server = await visitor.fleet.servers.get(visitor.fleet.owner, name)
        (task,) = await ordered(visitor, "password-login-enable", name)
        with engine.writing(store._engine) as connection:
            noted = ServerNotes(password_login="on", **notes)  # type: ignore[typeddict-item]
            store._event(
                connection,
                server.tenant_id,
                "server_noted",
                dict(noted),
                server_id=server.id,
                task_id=task.id,
                user_id=task.user_id,
            )
            store._note(connection, task, noted)


def test_it_tells_where_since_when_and_by_whose_order(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {})
    monkeypatch.setattr(emergency, "PAGE", 1)

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 3)
        empty = (await visitor.get(HERE)).text
        assert "on nowhere that we have seen" in empty
        assert "On 3 servers nobody has looked yet" in empty
        await opened(visitor, "web-1", after_reset={"root": {"remove": [], "close_passwords": True}})
        await opened(visitor, "web-2")
        shown = (await visitor.get(HERE)).text
        owner = next(each.name for each in await visitor.fleet.users.list(visitor.fleet.owner) if each.role == "administrator")
        for told in (">web-1<", "password-login-enable of root", f">{owner}<", "after its reset", "2 in all", "On 1 server "):
            assert told in shown
        assert ">web-2<" in (await visitor.get(f"{HERE}?after=web-1")).text

    visit(settings, story, "auditor")


@pytest.mark.parametrize("every", [True, False])
def test_closing_shows_a_plan_first(settings: Settings, monkeypatch: pytest.MonkeyPatch, every: bool) -> None:
    stub(monkeypatch, {})

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 3)
        await opened(visitor, "web-1", "web-2")
        refused = await visitor.send(f"{HERE}close", {}, page=HERE)
        assert "selection_empty" in refused.text
        asked = {"every": "on"} if every else {"server": ["web-2"]}
        answer = await visitor.send(f"{HERE}close", asked, page=HERE)
        plan = await over(visitor, answer.url.path.rpartition("/")[2])
        assert (plan.operation, plan.plans, plan.servers) == ("password-login-disable", True, 2 if every else 1)

    visit(settings, story, "operator")


@pytest.mark.parametrize("role", ["administrator", "operator", "auditor"])
def test_who_may_not_has_no_button_and_is_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    stub(monkeypatch, {})
    may = role != "auditor"

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 1)
        await opened(visitor, "web-1")
        assert ("<button" in (await visitor.get(HERE)).text.partition("<main")[2]) == may
        answer = await visitor.send(f"{HERE}close", {"every": "on"}, page=HERE)
        assert ("role_reads_only" in answer.text) == (not may)

    visit(settings, story, role)


def test_who_agrees_is_shown_what_they_agree_to(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {})

    async def story(visitor: Visitor) -> None:
        fleet, who = visitor.fleet, visitor.fleet.owner
        await servers(visitor, 1)
        server = await fleet.servers.add(who, "db-1", "192.0.2.77", labels={"zone": "prod"})
        await fleet.emergency.rules.set(who, "zone=prod", 15)
        await fleet.emergency.open(who, [server], reason="no key", seconds=90, login="deploy", network="203.0.113.0/24")
        shown = (await visitor.get(HERE)).text
        assert "Login deploy, from 203.0.113.0/24, for 1 min 30 s. A second user" in shown

    visit(settings, story, "operator")


def test_only_the_doors_that_were_shown_are_opened(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {})

    async def story(visitor: Visitor) -> None:
        fleet, who = visitor.fleet, visitor.fleet.owner
        await servers(visitor, 2, zone="a")
        assert "no_servers" in (await visitor.get(f"{HERE}doors/new?reason=why&minutes=10")).text
        assert "door_too_short" in (await visitor.get(f"{HERE}doors/new?servers=web-1&reason=why&minutes=0")).text
        path = f"{HERE}doors/new?servers=zone=a&reason=why&minutes=10&network=203.0.113.0/24"
        shown = (await visitor.get(path)).text
        for told in ("Open 2 doors", "web-1, web-2", "203.0.113.0/24", "10 min"):
            assert told in shown
        await servers(visitor, 1, zone="a")  # that page does not know it
        fields = {"server": ["web-1", "web-2"], "reason": "why", "minutes": "10", "network": "203.0.113.0/24"}
        refused = await visitor.send(f"{HERE}doors/open", fields | {"password": "secret"}, page=path)
        assert "password_for_several" in refused.text
        for words in ([], ["zone=a"]):
            assert "no_servers" in (await visitor.send(f"{HERE}doors/open", fields | {"server": words}, page=path)).text
        assert await fleet.emergency.list(who, all=True) == []
        assert "2 being opened" in (await visitor.send(f"{HERE}doors/open", fields, page=path)).text
        made = await fleet.emergency.list(who, all=True)
        assert [(each.server_name, each.network) for each in made] == [(f"web-{n}", "203.0.113.0/24") for n in (1, 2)]

    visit(settings, story, "operator")


def test_who_asks_is_told_which_servers_have_a_door_already(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {})

    async def story(visitor: Visitor) -> None:
        fleet, who = visitor.fleet, visitor.fleet.owner
        await servers(visitor, 2, zone="a")
        await fleet.emergency.rules.set(who, "zone=a", 15)
        await fleet.emergency.open(who, [await fleet.servers.get(who, "web-2")], reason="no key", seconds=60)
        shown = (await visitor.get(f"{HERE}doors/new?servers=web-1 web-2&reason=why&minutes=10")).text
        assert "There is one already, which stays as it is: web-2." in shown
        assert "A second user has to agree first, by zone=a: web-1, web-2." in shown

    visit(settings, story, "operator")
