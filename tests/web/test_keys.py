"""The pages of customer master keys, and their lives."""

import re

from controller.settings import Settings
from tests.web.client import Visitor, visit

LIST = "/console/keys/"
NEW = "/console/keys/new"
GIVEN = {"alias": "orders", "spec": "AES_256", "usage": "", "description": "for <b>orders</b>"}


async def made(visitor: Visitor) -> str:
    """Return the path of a master key that was made from the page."""
    page = await visitor.send(NEW, GIVEN, page=NEW)
    assert "orders is made" in page.text
    return page.url.path


def test_a_master_key_is_made_described_and_listed_with_what_it_seals(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        there = await made(visitor)
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", master_key="orders")
        page = (await visitor.get(LIST)).text
        assert "for &lt;b&gt;orders" in page
        assert '<td class="number">1</td>' in page
        assert "No master key is like that" in (await visitor.get(LIST + "?q=nothing&state=disabled")).text
        page = (await visitor.send(f"{there}/describe", {"alias": "other", "description": ""}, page=there)).text
        assert "<h1>other</h1>" in page
        assert "of 1 key pair<" in page
        taken = await visitor.send(NEW, GIVEN | {"alias": "other"}, page=NEW)
        assert (taken.status_code, "alias_taken" in taken.text) == (409, True)
        unfit = await visitor.send(NEW, GIVEN | {"spec": "EC_P256", "usage": "ENCRYPT_DECRYPT"}, page=NEW)
        assert (unfit.status_code, "ec_key_cannot_encrypt" in unfit.text) == (400, True)

    visit(settings, story, "administrator")


def test_a_life_from_disabled_to_pending_deletion_and_back(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        there = await made(visitor)
        assert "version 2 now" in (await visitor.send(f"{there}/rotate", page=there)).text
        assert "every 90 days" in (await visitor.send(f"{there}/rotation", {"days": "90"}, page=there)).text
        assert "every 60 days" in (await visitor.send(f"{there}/rotation", {"days": "60"}, page=there)).text
        assert "not rotated by itself" in (await visitor.send(f"{there}/rotation", {"days": ""}, page=there)).text
        assert "opens while it is disabled" in (await visitor.get(f"{there}/disable")).text
        assert "is disabled" in (await visitor.send(f"{there}/disable", page=f"{there}/disable")).text
        assert "is enabled" in (await visitor.send(f"{there}/enable", page=there)).text
        page = await visitor.send(f"{there}/delete", {"days": "30"}, page=f"{there}/delete")
        assert "destroyed in 30 days" in page.text
        assert f"{there}/rotate" not in page.text
        assert "is kept" in (await visitor.send(f"{there}/keep", page=there)).text
        for days in ("", "6", "x", "-7"):
            assert (await visitor.send(f"{there}/delete", {"days": days}, page=there)).status_code == 400

    visit(settings, story, "administrator")


def test_the_services_own_key_has_no_such_buttons(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops")
        link = re.search(r'href="(/console/keys/[0-9a-f-]{36})"', (await visitor.get(LIST)).text)
        assert link is not None
        there = link.group(1)
        page = (await visitor.get(there)).text
        assert "own: it is neither disabled" in page
        assert there + "/" not in page
        assert (await visitor.get(f"{there}/disable")).status_code == 409
        assert "master_key_default" in (await visitor.send(f"{there}/disable", page=NEW)).text

    visit(settings, story, "administrator")


def test_others_look_and_change_nothing(settings: Settings) -> None:
    for role, code in (("operator", "administrator_needed"), ("auditor", "role_reads_only")):

        async def story(visitor: Visitor, code: str = code, role: str = role) -> None:
            key = await visitor.fleet.kms.keys.create(visitor.fleet.owner, f"orders-{role}")
            there = f"/console/keys/{key.id}"
            page = (await visitor.get(there)).text
            assert key.alias in page
            assert there + "/" not in page
            assert NEW not in (await visitor.get(LIST)).text
            for path in (NEW, f"{there}/disable", f"{there}/delete"):
                assert (await visitor.get(path)).status_code == 403
            for verb in ("describe", "enable", "disable", "delete", "keep", "rotate", "rotation"):
                answer = await visitor.send(f"{there}/{verb}", {"days": "30"}, page="/console/")
                assert (verb, answer.status_code, code in answer.text) == (verb, 403, True)
            assert (await visitor.send(NEW, GIVEN, page="/console/")).status_code == 403

        visit(settings, story, role)  # type: ignore[arg-type]
