"""The first page: figures of the fleet, each in a picture and in a table beside it."""

import re
import uuid
from dataclasses import replace
from datetime import timedelta

from sqlalchemy import insert, update

from controller.model import Binding, Rollout, Server, Task, now
from controller.settings import Settings
from controller.store import engine, tables
from controller.store.rows import row
from tests.web.client import Visitor, visit


async def fill(visitor: Visitor) -> None:
    """Four servers: one with a proved key in custody, one with a proved key elsewhere, one accepted, one with nothing."""
    owner, store = visitor.fleet.owner, visitor.fleet.audit._store
    kept, _ = await visitor.fleet.keypairs.create(owner, "kept", scope="account")
    given, _ = await visitor.fleet.keypairs.create(owner, "given", managed=False)
    words = ("off", "on", "on", "unknown")
    servers = [
        Server(str(uuid.uuid4()), owner.tenant_id, f"web-{number}", "192.0.2.1", password_login=word)  # type: ignore[arg-type]
        for number, word in enumerate(words)
    ]
    bound = [(0, kept, "logged_in"), (1, given, "logged_in"), (2, kept, "accepted")]
    task = Task(str(uuid.uuid4()), owner.tenant_id, owner.user_id, servers[3].id, "web-3", "root", "bind", {}, now(), seq=1)
    ended = replace(task, status="failed", cause="wrong_password", finished_at=now(), server_state="unknown")
    old = replace(ended, id=str(uuid.uuid4()), seq=2, finished_at=now() - timedelta(days=20))
    yesterday = replace(ended, id=str(uuid.uuid4()), seq=3, cause="disk_full", finished_at=now() - timedelta(days=1))
    with engine.writing(store._engine) as connection:
        connection.execute(insert(tables.servers), [row(each) for each in servers])
        connection.execute(insert(tables.tasks), [row(each) for each in (ended, old, yesterday)])
        bindings = [
            Binding(servers[number].id, login, key.id, proof, False, ended.id, now())
            for number, key, proof in bound
            for login in ("root", "ops")
        ]
        connection.execute(insert(tables.bindings), [row(each) for each in bindings])
        long_ago = now() - timedelta(days=400)
        connection.execute(update(tables.keypairs).where(tables.keypairs.c.id == given.id).values(created_at=long_ago))
    visitor.fleet.overview.forget()  # what it was a moment ago would do otherwise


def cells(page: str, head: str) -> list[str]:
    """Return what a row of a table says beside its head."""
    found = re.search(rf"(?s)<tr><th[^>]*>(?:<[^>]*>)*{re.escape(head)}(?:</a>)?</th>(.*?)</tr>", page)
    assert found is not None, head
    return re.findall(r"(?s)<td[^>]*>(?:<a[^>]*>)?([^<]*)", found.group(1))


def test_an_empty_home_says_so(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        page = (await visitor.get("/console/")).text
        for told in ("There is no server yet", "Nothing has failed", "No rollout is under way", "ready</span>"):
            assert told in page

    visit(settings, story, "auditor")


def test_coverage_ages_passwords_and_failures_are_counted(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await fill(visitor)
        page = (await visitor.get("/console/")).text
        for word in ("proved, key kept here", "proved, key elsewhere", "bound, not proved by a login", "no key pair bound"):
            assert cells(page, word) == ["1", "25.0 %"], word
        assert [cells(page, word)[0] for word in ("off", "on", "not known")] == ["1", "2", "1"]
        assert cells(page, "under 30 days") == ["1", "4"]
        assert cells(page, "over a year") == ["1", "2"]
        assert cells(page, "wrong password")[0] == "1"
        assert cells(page, "disk full")[0] == "1"
        assert 'aria-label="wrong password: 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1"' in page
        assert 'aria-label="disk full: 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0"' in page
        pictures = re.findall(r"<svg class=\"(?:chart|spark)\"[^>]*>", page)
        assert len(pictures) >= 6
        assert all('role="img" aria-label="' in each for each in pictures)

    visit(settings, story, "operator")


def test_a_plan_under_way_is_told_from_what_it_plans(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        owner = visitor.fleet.owner
        plan = Rollout("r", owner.tenant_id, owner.user_id, "unbind", {"plan": True}, {}, 1, False, now(), state="paused")
        visitor.fleet.audit._store.add_rollout(plan, [])
        assert '/console/rollouts/r">Plan: unbind</a>' in (await visitor.get("/console/")).text

    visit(settings, story, "auditor")


def test_what_is_counted_is_of_this_tenant_alone(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await fill(visitor)
        store = visitor.fleet.audit._store
        assert store.fleet_standing("f" * 32).servers == 0
        assert sum(store.fleet_standing("f" * 32).coverage.values()) == 0
        assert store.names_of("f" * 32, [visitor.fleet.owner.user_id]) == {}
        assert store.sealed_counts("f" * 32) == {}

    visit(settings, story)
