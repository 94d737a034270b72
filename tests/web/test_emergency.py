"""Emergency: where password login is on, by whose order, and closing it with a plan."""

import pytest

from controller.model import Credential, Outcome, Role, Secret
from controller.service.emergency import Emergency
from controller.settings import Settings
from controller.web import doors, emergency
from tests.web.client import Visitor, visit
from tests.web.test_rollouts import over
from tests.web.trouble import opened, servers, settled, stub

HERE = "/console/emergency/"


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
        # Above it are doors: a button that closes none of them does not stand there.
        above, _, below = (await visitor.get(HERE)).text.partition("<h2>Password login</h2>")
        assert (f"{HERE}close" in above, "Turn it off on all 2" in below) == (False, True)
        refused = await visitor.send(f"{HERE}close", {}, page=HERE)
        assert "selection_empty" in refused.text
        asked = {"every": "on"} if every else {"server": ["web-2"]}
        answer = await visitor.send(f"{HERE}close", asked, page=HERE)
        plan = await over(visitor, answer.url.path.rpartition("/")[2])
        assert (plan.operation, plan.plans, plan.servers) == ("password-login-disable", True, 2 if every else 1)

    visit(settings, story, "operator")


@pytest.mark.parametrize("role", ["operator", "auditor"])
def test_from_a_servers_page_it_is_two_clicks_to_what_would_be_opened_there(settings: Settings, role: Role) -> None:
    async def story(visitor: Visitor) -> None:
        await servers(visitor, 1)
        shown = (await visitor.get("/console/servers/web-1")).text
        there = f"{HERE}?server=web-1"
        assert (f'href="{there}#open-door"' in shown) == (role == "operator")
        page = (await visitor.get(there)).text
        assert ('id="open-door" open' in page and 'name="servers" type="text" value="web-1"' in page) == (role == "operator")
        assert 'id="open-door" open' not in (await visitor.get(HERE)).text

    visit(settings, story, role)


def test_all_that_is_agreed_to_is_shown_however_many_doors_are_newer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {})
    monkeypatch.setattr(doors, "MOST_SHOWN", 2)

    async def story(visitor: Visitor) -> None:
        fleet, who = visitor.fleet, visitor.fleet.owner
        await servers(visitor, 3)
        held = [await fleet.servers.add(who, f"db-{n}", f"192.0.2.7{n}", labels={"zone": "prod"}) for n in range(1, 5)]
        await fleet.emergency.rules.set(who, "zone=prod", 15)
        await fleet.emergency.open(who, held, reason="no key", seconds=90)
        shown = (await visitor.get(HERE)).text
        assert "<p>db-1, db-2, db-3, db-4: asked for by" in shown
        assert "These are the newest 2;" in shown
        _, asked = await fleet.emergency.open(
            who, await fleet.servers.select(who, ["web-1", "web-2", "web-3"]), reason="as well", seconds=90
        )
        assert {each.state for each in asked} == {"opening"}
        assert "<p>db-1, db-2, db-3, db-4: asked for by" in (await visitor.get(HERE)).text
        first = next(each for each in await fleet.emergency.list(who) if each.server_name == "db-2")
        await fleet.emergency.close(who, [first.id])
        assert "<p>db-1, db-3, db-4: asked for by" in (await visitor.get(HERE)).text

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
        short = await visitor.get(f"{HERE}doors/new?servers=web-1&reason=why&minutes=0&login=alice&network=203.0.113.0/24")
        assert (short.status_code, "door_too_short" in short.text) == (400, True)
        for kept in ("web-1", "why", "0", "alice", "203.0.113.0/24"):  # to be corrected
            assert f' value="{kept}" ' in short.text, kept
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


ASKED = {"server": "web-1", "reason": "nobody knows its password", "minutes": "10", "login": "alice", "one_time": "on"}
NEW = f"{HERE}doors/new?servers=web-1&reason=why&minutes=10&login=alice"


@pytest.mark.parametrize("role", ["administrator", "operator"])
def test_a_one_time_password_is_set_and_in_no_page_and_then_the_door_is_opened(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    given, made = stub(monkeypatch, {}), []
    opens = Emergency.open_by_password

    async def noted(self: Emergency, *args: object, **more: object) -> object:
        done = await opens(self, *args, **more)  # type: ignore[arg-type]
        made.extend(done[2])
        return done

    monkeypatch.setattr(Emergency, "open_by_password", noted)

    async def story(visitor: Visitor) -> None:
        fleet, owner, pages = visitor.fleet, visitor.fleet.owner, []
        await servers(visitor, 1)
        shown = (await visitor.get(NEW)).text
        assert "Set a one-time password first" in shown
        assert ("you are none" in shown) == (role == "operator")
        pages.append(await visitor.send(f"{HERE}doors/open", ASKED, page=NEW))
        (password,) = made
        assert not any(password.password.view()), "it is wiped as soon as it has come"
        (door,) = await fleet.emergency.list(owner)
        assert (door.one_time, door.unbegun, door.login) == (True, True, "alice")
        path = f"{HERE}doors/{door.id}/password"
        assert pages[0].url.path == path
        await settled(visitor)
        pages += [await visitor.get(path), await visitor.get(HERE)]
        assert "kps secret show web-1-alice" in pages[1].text
        assert ("You are none: ask one" in pages[1].text) == (role == "operator")
        assert "and on to opening it" in pages[2].text
        # Whoever has read it may give it, and it is tried as the password of the door's login.
        _, value = await fleet.secrets.open(owner, "web-1-alice")
        word = value.open().decode()
        begun = await visitor.send(f"{HERE}doors/{door.id}/begin", {"password": word}, page=path)
        assert (begun.url.path, "1 being opened" in begun.text) == (HERE, True)
        await settled(visitor)
        assert given["web-1"] == Credential(password=Secret(word), password_of="alice")
        (door,) = await fleet.emergency.list(owner)
        assert (door.state, door.unbegun) == ("open", False)
        again = await visitor.send(f"{HERE}doors/{door.id}/begin", {}, page=HERE)
        assert "door_not_open" in again.text
        pages += [begun, again, await visitor.get(path), await visitor.get(HERE)]
        for answer in pages:
            assert word not in answer.text + str(answer.url) + str([each.headers for each in answer.history])
        assert "Its one-time password" in pages[-1].text
        assert "Open it" not in pages[-2].text

    visit(settings, story, role)


def test_a_door_whose_password_was_not_set_is_not_opened(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {"web-1": Outcome("failed", "as_before", phase="connect", cause="connection_refused", message="web-1: no")})

    async def story(visitor: Visitor) -> None:
        await servers(visitor, 1)
        answer = await visitor.send(f"{HERE}doors/open", ASKED, page=NEW)
        await settled(visitor)
        shown = (await visitor.get(answer.url.path)).text
        for told in ("not set", "connection_refused", "No password was set, so no door is opened", "/console/failed-tasks/"):
            assert told in shown
        assert "/begin" not in shown
        assert "may be, open" not in shown
        assert "Take it back" in (await visitor.get(HERE)).text
        (door,) = await visitor.fleet.emergency.list(visitor.fleet.owner)
        taken = await visitor.send(f"{HERE}doors/{door.id}/close", {}, page=HERE)
        assert "Taken back" in taken.text

    visit(settings, story, "operator")


def test_a_door_by_password_is_opened_by_whoever_asked_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, {})

    async def story(visitor: Visitor) -> None:
        fleet, owner = visitor.fleet, visitor.fleet.owner
        await servers(visitor, 1)
        server = await fleet.servers.get(owner, "web-1")
        _, (door,), _ = await fleet.emergency.open_by_password(owner, [server], reason="no key", seconds=60)
        await settled(visitor)
        path = f"{HERE}doors/{door.id}/password"
        shown = (await visitor.get(path)).text
        assert "Whoever asked opens the door from here" in shown
        assert "/begin" not in shown
        refused = await visitor.send(f"{HERE}doors/{door.id}/begin", {}, page=HERE)
        assert (refused.status_code, "door_order_not_found" in refused.text) == (404, True)

    visit(settings, story, "operator")


def test_where_a_second_user_has_to_agree_no_one_time_password_is_offered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(monkeypatch, {})

    async def story(visitor: Visitor) -> None:
        fleet, owner = visitor.fleet, visitor.fleet.owner
        await servers(visitor, 1, zone="a")
        await fleet.emergency.rules.set(owner, "zone=a", 15)
        shown = (await visitor.get(NEW)).text
        assert "No one-time password is made where a second user has to agree." in shown
        assert 'name="one_time"' not in shown
        refused = await visitor.send(f"{HERE}doors/open", ASKED, page=NEW)
        assert "password_before_approval" in refused.text
        assert await fleet.emergency.list(owner, all=True) == []

    visit(settings, story, "operator")
