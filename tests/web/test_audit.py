"""The pages of the trail: filtered, paged, verified, given out; for auditors and administrators."""

import asyncio
import json
import re

import pytest
from sqlalchemy import text

from controller import kps_audit_verify as verifier
from controller.settings import Settings
from controller.store import engine
from tests.web.client import Visitor, visit

LIST = "/console/audit/"
VERIFY = "/console/audit/verify"
EXPORT = "/console/audit/export"


async def ended(visitor: Visitor) -> str:
    """Return the page once the verification under way has ended."""
    found = visitor.fleet.verifications.standing(visitor.fleet.owner)
    assert found is not None
    assert found.work is not None
    await asyncio.wait([found.work])
    return (await visitor.get(VERIFY)).text


def test_events_are_listed_newest_first_with_who_did_what(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops")
        page = (await visitor.get(LIST)).text
        assert "keypair created" in page
        numbers = [int(each) for each in re.findall(r'<td class="number">(\d+)</td>', page)]
        assert numbers == sorted(numbers, reverse=True)
        assert numbers[-1] == 1

    visit(settings, story, "auditor")


@pytest.mark.parametrize(
    ("asked", "shown", "hidden"),
    [
        ("kind=keypair_created", "keypair created</th>", "session begun</th>"),
        ("user=the-auditor", "session begun</th>", "home initialised</th>"),
        ("server=web-1", "server added</th>", "session begun</th>"),
        ("keypair=ops", "keypair created</th>", "server added</th>"),
        ("since=2999-01-01", "No event is like that", "</th>\n<td>"),
        ("until=2000-01-01T12:00", "No event is like that", "</th>\n<td>"),
        ("since=yesterday", "give a time as", "</th>\n<td>"),
        ("kind=nonsense", "kind_unknown", "</th>\n<td>"),
    ],
)
def test_events_are_filtered(settings: Settings, asked: str, shown: str, hidden: str) -> None:
    async def story(visitor: Visitor) -> None:
        owner = visitor.fleet.owner
        await visitor.fleet.keypairs.create(owner, "ops", scope="account")
        await visitor.fleet.servers.add(owner, "web-1", "192.0.2.1", trust_on_first_use=True)
        page = (await visitor.get(f"{LIST}?{asked}")).text
        assert shown in page
        assert hidden not in page

    visit(settings, story, "auditor")


def test_events_are_paged(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        for number in range(101):
            await visitor.fleet.users.create(visitor.fleet.owner, f"user-{number}")
        page = (await visitor.get(f"{LIST}?kind=user_created")).text
        link = re.search(r'href="([^"]+)" rel="next"', page)
        assert link is not None
        further = (await visitor.get(link.group(1).replace("&amp;", "&"))).text
        assert 'class="number">' in further
        assert "First page" in further
        assert 'rel="next"' not in further

    visit(settings, story, "auditor")


def test_the_trail_is_verified_with_a_checkpoint_and_key_kept_elsewhere(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        kept = await visitor.send("/console/audit/checkpoint", page=VERIFY)
        assert kept.headers["content-disposition"].startswith("attachment; filename=")
        assert kept.json()["kps"] == "audit checkpoint 1"
        page = await visitor.send(VERIFY, page=VERIFY)
        assert page.url.path == VERIFY
        told = await ended(visitor)
        assert "as they were written" in told
        assert "believed of this home" in told
        assert "every 1s" not in told
        files = {"checkpoint_file": ("c", kept.content)}
        await visitor.send(VERIFY, {"key": kept.json()["public_key"]}, page=VERIFY, files=files)
        told = await ended(visitor)
        assert f"The checkpoint at event {kept.json()['number']} agrees" in told
        assert "The key is the one that was given" in told
        await visitor.send(VERIFY, {"key": "A" * 43 + "="}, page=VERIFY)
        assert "not as it was written" in await ended(visitor)
        answer = await visitor.send(VERIFY, {"checkpoint": '{"number": 1}'}, page=VERIFY)
        assert (answer.status_code, "checkpoint_unreadable" in answer.text) == (400, True)

    visit(settings, story, "auditor")


def test_an_event_that_was_changed_is_named(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        store = visitor.fleet.audit._store
        with engine.writing(store._engine) as connection:
            connection.execute(text("UPDATE events SET phase = 'x' WHERE number = 2"))
        await visitor.send(VERIFY, page=VERIFY)
        told = await ended(visitor)
        assert "not as it was written" in told
        assert "event 2 is not the one that was written" in told

    visit(settings, story, "administrator")


def test_an_export_verifies_by_itself_and_is_on_record_once_it_is_whole(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        answer = await visitor.send(EXPORT, page=EXPORT)
        assert re.fullmatch(r'attachment; filename="kps-audit-1-\d+\.jsonl"', answer.headers["content-disposition"])
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.text.splitlines()
        found = verifier.check(verifier.of_export(lines))
        assert found["number"] == len(lines) - 1 == json.loads(lines[0])["number"]
        [event] = await visitor.fleet.audit.events(visitor.fleet.owner, kinds=["audit_exported"])
        assert event.detail["number"] == found["number"]
        assert "nothing_happened" in (await visitor.send(EXPORT, {"since": "2999-01-01"}, page=EXPORT)).text
        assert "give a time as" in (await visitor.send(EXPORT, {"since": "x"}, page=EXPORT)).text

    visit(settings, story, "auditor")


def test_the_trail_is_not_an_operators(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        assert 'href="/console/audit/"' not in (await visitor.get("/console/")).text
        for path in (LIST, VERIFY, EXPORT):
            answer = await visitor.get(path)
            assert (answer.status_code, "audit_not_yours" in answer.text) == (403, True)
        for path in (VERIFY, EXPORT, "/console/audit/checkpoint"):
            answer = await visitor.send(path, page="/console/")
            assert (answer.status_code, "audit_not_yours" in answer.text) == (403, True)
        assert visitor.fleet.verifications.standing(visitor.fleet.owner) is None

    visit(settings, story, "operator")
