"""What belongs to another tenant, or is another user's alone: its ids and names open no page and move no button."""

import pytest

from controller.settings import Settings
from tests.web import hostile, trouble
from tests.web.client import Visitor, visit
from tests.web.console_roles import ASKED, FIELDS, routes


async def stranger(visitor: Visitor) -> None:
    """Sign in as the administrator of another tenant, in which there is nothing."""
    fleet = visitor.fleet
    _, admin, *_ = await fleet.tenants.create(fleet.owner, "elsewhere", "ann")
    _, code, _ = await fleet.console.link(admin)
    visitor.http.cookies.clear()
    assert "Sign out" in (await visitor.send("/console/link", {"code": code.open().decode()})).text


async def own(visitor: Visitor) -> object:
    """Return the key pairs and master keys of the home's owner."""
    fleet, owner = visitor.fleet, visitor.fleet.owner
    return await fleet.keypairs.list(owner), await fleet.kms.keys.list(owner)


def test_nothing_of_one_tenant_is_seen_or_moved_from_another(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble.stub(monkeypatch, {"web-1": trouble.WRONG, "web-2": trouble.SEEN})

    async def story(visitor: Visitor) -> None:
        known = await trouble.whole(visitor)
        await stranger(visitor)
        store, kept = visitor.fleet.audit._store, await own(visitor)
        before, tried = hostile.contents(store), 0
        for method, path in routes():
            for plans in {False, path.startswith("/rollouts/{id}")}:
                where = "/console" + trouble.at(path, known, plans)
                if method == "GET":
                    answer = await visitor.get(where + ASKED.get(path, "").format_map(known))
                elif path != "/sign-out":
                    ids = {"task": known["task"], "server": known["server"], "keypair": known["keypair"], "confirmed": "web-1"}
                    answer = await visitor.send(where, FIELDS | ids, page="/console/servers/")
                if "{" in path:
                    assert answer.status_code in (400, 403, 404, 409), (method, where, answer.status_code)
                    tried += 1
                for told in ("192.0.2.1", 'servers/web-1"', 'named/ops"', "alias/orders"):
                    assert told not in answer.text, where
        assert tried > 40
        after = hostile.contents(store)
        # What they made is theirs; of the other tenant all is as it was.
        assert await own(visitor) == kept
        for name in ("servers", "bindings", "tasks", "rollouts", "rollout_servers", "policies", "master_key_aliases"):
            assert after[name] == before[name], name

    visit(settings, story)


def test_a_private_key_pair_is_named_to_nobody_else(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    trouble.stub(monkeypatch, {"web-1": trouble.WRONG})

    async def story(visitor: Visitor) -> None:
        known = await trouble.whole(visitor)
        (failed,) = await trouble.ordered(visitor, "bind", "web-1", keypair="mine-alone")
        (bound,) = await trouble.ordered(visitor, "bind", "web-2", keypair="mine-alone")
        assert (failed.private, bound.private) == (True, True)
        await visitor.sign_in("operator")
        pages = [path for method, path in routes() if method == "GET"]
        for task in (known["task"], failed.id, bound.id):
            for server in ("web-1", "web-2"):
                here = known | {"task": task, "server": server}
                for path in pages:
                    answer = await visitor.get("/console" + trouble.at(path, here) + ASKED.get(path, "").format_map(here))
                    assert "mine-alone" not in answer.text, path
        answer = await visitor.get("/console/keypairs/named/mine-alone")
        assert (answer.status_code, "keypair_not_found" in answer.text) == (404, True)

    visit(settings, story)
