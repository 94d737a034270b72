"""The pages of key pairs: made, taken in, given out, cleared, moved and deleted, by whoever may."""

import html
import re

import pytest

from controller import keyfiles
from controller.model import Secret
from controller.settings import Settings
from tests.web.client import Visitor, hidden, visit

LIST = "/console/keypairs/"
NEW = "/console/keypairs/new"
IMPORT = "/console/keypairs/import"
KEPT = {"name": "ops", "scope": "private", "type": "ed25519", "custody": "kept", "format": "openssh", "master_key": ""}


def named(name: str, verb: str = "") -> str:
    return f"/console/keypairs/named/{name}" + (f"/{verb}" if verb else "")


async def kinds(visitor: Visitor) -> list[str]:
    return [event.kind for event in await visitor.fleet.audit.events(visitor.fleet.owner, after=0)]


def test_a_key_pair_is_made_and_kept_and_nothing_secret_is_in_a_page(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        assert "no private key pair yet" in (await visitor.get(LIST)).text
        page = await visitor.send(NEW, KEPT, page=NEW)
        assert page.url.path == named("ops")
        assert "kept here" in page.text
        assert "PRIVATE" not in page.text
        assert "ops" in (await visitor.get(LIST)).text
        assert 'name="q"' in (await visitor.get(LIST + "?q=op")).text
        assert "has that in its name" in (await visitor.get(LIST + "?q=zz")).text

    visit(settings, story, "administrator")


@pytest.mark.parametrize(("form", "name", "begins"), [
    ("openssh", "ops", b"-----BEGIN OPENSSH PRIVATE KEY-----"), ("pkcs8", "ops.pem", b"-----BEGIN PRIVATE KEY-----"),
    ("ppk3", "ops.ppk", b"PuTTY-User-Key-File-3"), ("ppk2", "ops.ppk", b"PuTTY-User-Key-File-2"),
])  # fmt: skip
def test_a_private_half_that_is_not_kept_is_given_once_as_a_file(settings: Settings, form: str, name: str, begins: bytes) -> None:
    async def story(visitor: Visitor) -> None:
        answer = await visitor.send(NEW, KEPT | {"custody": "given", "format": form}, page=NEW)
        assert answer.status_code == 200
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.content.startswith(begins)
        page = await visitor.get(named("ops"))
        assert "not here" in page.text
        assert named("ops", "export") not in page.text
        assert (await visitor.send(named("ops", "export"), {"format": form}, page=LIST)).status_code == 404

    visit(settings, story, "operator")


@pytest.mark.parametrize("change", [
    {"name": "<b>"}, {"type": "dsa"}, {"scope": "mine"}, {"custody": "given", "format": "zip"},
    {"custody": "given", "format": "pem"}, {"name": "x" * 256},
])  # fmt: skip
def test_what_cannot_be_made_is_asked_for_again(settings: Settings, change: dict[str, str]) -> None:
    async def story(visitor: Visitor) -> None:
        answer = await visitor.send(NEW, KEPT | change, page=NEW)
        assert answer.status_code == 400
        assert 'class="problem"' in answer.text
        assert "<b>" not in answer.text
        assert await visitor.fleet.keypairs.list(visitor.fleet.owner) == []

    visit(settings, story, "administrator")


def test_a_name_that_is_taken_is_said_beside_the_form_and_on_record(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.send(NEW, KEPT, page=NEW)
        answer = await visitor.send(NEW, KEPT, page=NEW)
        assert (answer.status_code, "keypair_exists" in answer.text) == (409, True)
        assert 'value="ops"' in answer.text
        assert "request_refused" in await kinds(visitor)

    visit(settings, story, "operator")


def test_every_format_is_taken_in_pasted_or_as_a_file_with_its_passphrase(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        for form in ("openssh", "pkcs8", "pem", "ppk2", "ppk3"):
            public, stored = keyfiles.generate("ecdsa-nistp256")
            text = keyfiles.private_text("ecdsa-nistp256", stored, form, "ops", Secret("open sesame")).open()  # type: ignore[arg-type]
            given = {"name": form, "scope": "private", "passphrase": "open sesame"}
            if form in ("openssh", "ppk3"):
                pasted = given | {"private_key": text.decode().replace("\n", "\r\n")}
                page = await visitor.send(IMPORT, pasted, page=IMPORT)
            else:
                page = await visitor.send(IMPORT, given, page=IMPORT, files={"private_key_file": ("../a", text, "text/html")})
            assert page.url.path == named(form), page.text
            assert public.fingerprint in html.unescape(page.text)
            assert "kept here" in page.text
        wrong = await visitor.send(IMPORT, given | {"name": "x", "passphrase": "y", "private_key": text.decode()}, page=IMPORT)
        assert (wrong.status_code, "passphrase_wrong" in wrong.text) == (400, True)
        assert 'value="x"' in wrong.text
        for line in text.decode().split("\n")[6:10]:
            assert line not in wrong.text

    visit(settings, story, "operator")


def test_a_public_half_is_taken_in_and_its_private_half_later(settings: Settings) -> None:
    public, stored = keyfiles.generate("ed25519")
    private = keyfiles.openssh_private("ed25519", stored).open()

    async def story(visitor: Visitor) -> None:
        given = {"name": "ops", "scope": "private"}
        assert "key_missing" in (await visitor.send(IMPORT, given, page=IMPORT)).text
        page = await visitor.send(IMPORT, given, page=IMPORT, files={"public_key_file": ("a.pub", public.line().encode())})
        assert "only its public half" in page.text
        there = named("ops", "manage")
        assert "key_missing" in (await visitor.send(there, {}, page=there)).text
        page = await visitor.send(there, {}, page=there, files={"private_key_file": ("a", private)})
        assert "kept here now" in page.text
        assert "keypair_managed" in await kinds(visitor)

    visit(settings, story, "operator")


def test_an_export_is_a_file_that_is_kept_nowhere_and_encrypted_where_asked(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.send(NEW, KEPT, page=NEW)
        there = named("ops", "export")
        differs = await visitor.send(there, {"format": "openssh", "passphrase": "a", "again": "b"}, page=there)
        assert (differs.status_code, "passphrases_differ" in differs.text) == (400, True)
        answer = await visitor.send(there, {"format": "openssh", "passphrase": "open", "again": "open"}, page=there)
        assert answer.headers["content-disposition"] == 'attachment; filename="ops"'
        assert answer.headers["cache-control"] == "no-store"
        keypair = await visitor.fleet.keypairs.list(visitor.fleet.owner)
        assert keypair == []  # it is the operator's own
        found = keyfiles.read_private(Secret(answer.content), Secret("open"))
        assert found is not None
        assert (await kinds(visitor)).count("keypair_exported") == 1
        assert (await visitor.get(there)).headers["cache-control"] == "no-store"

    visit(settings, story, "operator")


def test_it_is_cleared_moved_to_the_account_described_and_deleted_each_after_a_question(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.send(NEW, KEPT, page=NEW)
        described = await visitor.send(named("ops", "describe"), {"description": "<i>mine</i>"}, page=named("ops"))
        assert "&lt;i&gt;mine" in described.text
        key = await visitor.fleet.kms.keys.create(visitor.fleet.owner, "other")
        moved = await visitor.send(named("ops", "move"), {"master_key": key.id}, page=named("ops", "move"))
        assert "under another master key" in moved.text
        assert "no way back" in (await visitor.get(named("ops", "upgrade"))).text
        assert "of the account" in (await visitor.send(named("ops", "upgrade"), page=named("ops", "upgrade"))).text
        assert "is destroyed" in (await visitor.send(named("ops", "clear"), page=named("ops", "clear"))).text
        assert (await visitor.send(named("ops", "delete"), page=named("ops", "delete"))).url.path == LIST
        found = await kinds(visitor)
        for kind in ("keypair_described", "keypair_moved", "keypair_upgraded", "keypair_cleared", "keypair_deleted"):
            assert kind in found

    visit(settings, story, "administrator")


def test_the_answer_about_a_key_pair_is_not_taken_for_another_one_of_its_name(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        verbs = ("clear", "delete", "upgrade")
        await visitor.send(NEW, KEPT, page=NEW)
        asked = {verb: hidden((await visitor.get(named("ops", verb))).text, named("ops", verb)) for verb in verbs}
        await visitor.send(named("ops", "delete"), asked["delete"])
        await visitor.send(NEW, KEPT, page=NEW)
        for verb in verbs:
            refused = await visitor.send(named("ops", verb), asked[verb])
            assert (refused.status_code, "selection_outdated" in refused.text) == (409, True), verb
        found = await kinds(visitor)
        assert (found.count("keypair_deleted"), "keypair_cleared" in found, "keypair_upgraded" in found) == (1, False, False)

    visit(settings, story, "administrator")


def test_what_a_role_may_not_do_has_no_button_and_is_refused(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "secret")
        page = (await visitor.get(named("ops"))).text
        shown = set(re.findall(r'href="/console/keypairs/named/ops/([a-z]+)"', page))
        assert shown == set()
        for verb in ("export", "clear", "delete", "move"):
            assert (await visitor.get(named("ops", verb))).status_code == 403
            refused = await visitor.send(named("ops", verb), {"format": "openssh"}, page=LIST)
            assert (refused.status_code, "administrator_needed" in refused.text) == (403, True)
        assert (await visitor.get(named("secret"))).status_code == 404
        assert "secret" not in (await visitor.get(LIST)).text

    visit(settings, story, "operator")


def test_an_auditor_looks_and_makes_nothing(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.fleet.keypairs.create(visitor.fleet.owner, "ops", scope="account")
        page = await visitor.get(LIST)
        assert (NEW in page.text, IMPORT in page.text, "named/ops" in page.text) == (False, False, True)
        assert {(await visitor.get(each)).status_code for each in (NEW, IMPORT)} == {403}
        for path, form in ((NEW, KEPT), (IMPORT, {"name": "x", "scope": "private"}), (named("ops", "describe"), {})):
            assert "role_reads_only" in (await visitor.send(path, form, page=LIST)).text

    visit(settings, story, "auditor")


def test_a_list_is_paged_and_long_names_find_their_page(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        public, _ = keyfiles.generate("ed25519")
        names = [f"{number:03}" + "x" * 252 for number in range(101)]
        for name in names:
            await visitor.fleet.keypairs.import_(visitor.fleet.owner, name, public_key=public.line())
        page = (await visitor.get(LIST)).text
        link = re.search(r'href="([^"]+)" rel="next"', page)
        assert link is not None
        assert names[100] not in page
        assert names[100] in (await visitor.get(link.group(1).replace("&amp;", "&"))).text

    visit(settings, story, "administrator")


def test_what_is_due_is_told_and_whose_it_is_not(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        assert "no rotation policy" in (await visitor.get("/console/keypairs/rotation")).text
        await visitor.fleet.policies.set(visitor.fleet.owner, "yearly", None, 365)
        page = (await visitor.get("/console/keypairs/rotation")).text
        assert "yearly" in page
        assert "Nothing is due" in page

    visit(settings, story, "auditor")
