"""Attacks on every page there is: the routes and the forms are walked, so that a page that comes later is attacked too."""

import re
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import pytest
from fastapi.routing import APIRoute
from sqlalchemy import JSON, Text

from controller.settings import Settings
from controller.store import tables
from controller.web import entry
from tests.web import hostile, trouble
from tests.web.client import TOKEN, Visitor, visit
from tests.web.hostile import HOSTILE, Reader, Sent, contents, paths, read

Story = Callable[[Visitor, dict[str, str]], Awaitable[None]]
TRAVERSALS = ("..", "../../kps.db", "..%2f..%2fkps.db", "%2e%2e%2froot.key", "%00", "console.css%00.html", "....//root.key")


def attacked(settings: Settings, monkeypatch: pytest.MonkeyPatch, story: Story) -> None:
    """Run a story in a home that is full of attacks, with its owner signed in."""
    trouble.stub(monkeypatch, {"web-1": hostile.FAILED, "web-2": trouble.SEEN})

    async def told(visitor: Visitor) -> None:
        known = await hostile.fill(visitor)
        await story(visitor, known)

    visit(settings, told, "administrator")


async def walk(visitor: Visitor, known: dict[str, str]) -> list[Reader]:
    """Read every page."""
    found = []
    for path in paths(known):
        answer = await visitor.get(path)
        assert answer.status_code < 500, path
        if answer.headers["content-type"].startswith("text/html"):
            found.append(read(path, answer.text))
        else:
            assert answer.headers["content-disposition"].startswith("attachment"), path
    return found


def test_what_others_wrote_runs_nowhere(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(visitor: Visitor, known: dict[str, str]) -> None:
        pages = {each.path: each.attacks for each in await walk(visitor, known)}
        # They were there to be shown: a page that shows none of it proves nothing.
        for path in ("/console/servers/", "/console/keypairs/?scope=account", "/console/audit/", "/console/keys/"):
            shown = read(path, (await visitor.get(path)).text)
            assert shown.attacks, path
        assert pages["/console/failed-tasks/"]
        assert pages[f"/console/keys/{known['key']}"] >= 4
        assert pages["/console/keypairs/rotation"]

    attacked(settings, monkeypatch, story)


def test_every_field_with_text_is_an_attack_or_can_be_none() -> None:
    """Of each table of which pages show anything: one that comes with a page of its own is to be added to hostile.WRITTEN."""
    texts = {
        f"{name}.{column.name}"
        for name in hostile.WRITTEN
        for column in tables.metadata.tables[name].c
        if isinstance(column.type, (Text, JSON))
    }
    written = {f"{table}.{column}" for part in (hostile.WRITTEN, hostile.ADDED) for table, of in part.items() for column in of}
    others = {each for names in hostile.NOT_WRITTEN.values() for each in names.split()}
    assert sorted(texts - written - others) == []
    known = {f"{table.name}.{column.name}" for table in tables.metadata.tables.values() for column in table.c}
    assert sorted(others - known) == []


def test_what_is_asked_comes_back_as_text_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(visitor: Visitor, known: dict[str, str]) -> None:
        attack, shown = quote(HOSTILE, safe=""), 0
        for part in entry.PARTS:
            for route in part.router.routes:
                if not isinstance(route, APIRoute) or "GET" not in route.methods or route.path_format in hostile.NOT_ASKED:
                    continue
                path = "/console" + trouble.at(route.path_format, known)
                names = {each.name for each in route.dependant.query_params} | {
                    "q",
                    "cause",
                    "rollout",
                    "label",
                    "server",
                    "next",
                }
                for each in ("&".join(f"{name}={attack}" for name in sorted(names)), *(f"{name}={attack}" for name in names)):
                    answer = await visitor.get(f"{path}?{each}")
                    assert answer.status_code < 500, f"{path}?{each}"
                    if answer.headers["content-type"].startswith("text/html"):
                        shown += read(path, answer.text).attacks
                answer = await visitor.get("/console" + re.sub(r"\{[a-z_]+\}", attack, route.path_format))
                read(path, answer.text)
        assert shown

    attacked(settings, monkeypatch, story)


def test_what_is_sent_comes_back_as_text_alone(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(visitor: Visitor, known: dict[str, str]) -> None:
        sent = 0
        for form in forms(await walk(visitor, known)):
            fields = {name: value if name == "form_token" else HOSTILE for name, value in form.fields.items()}
            answer = await visitor.send(form.action, fields)
            assert answer.status_code < 500, form
            read(form.action, answer.text)
            sent += 1
        assert sent > 20

    attacked(settings, monkeypatch, story)


def forms(pages: list[Reader]) -> list[Sent]:
    """Return each form once, by where it is sent; but for the one that ends the session."""
    found = {form.action: form for page in pages for form in page.forms}
    found.pop("/console/sign-out", None)
    return list(found.values())


def test_reading_changes_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(visitor: Visitor, known: dict[str, str]) -> None:
        store = visitor.fleet.audit._store
        before, events = contents(store), store.newest_event()
        await walk(visitor, known)
        for path in paths(known, "POST"):
            assert (await visitor.get(path)).status_code in (200, 403, 404, 405, 409), path
        assert contents(store) == before
        # That a link was followed to a page that one may not see is an event; the owner may see all.
        assert store.newest_event() == events

    attacked(settings, monkeypatch, story)


def test_no_form_of_another_site_or_session_changes_anything(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(visitor: Visitor, known: dict[str, str]) -> None:
        store, pages = visitor.fleet.audit._store, await walk(visitor, known)
        own = TOKEN.search((await visitor.get("/console/keys/new")).text)
        cookies = dict(visitor.http.cookies)
        visitor.http.cookies.clear()
        await visitor.sign_in("administrator", "mallory")
        foreign = TOKEN.search((await visitor.get("/console/keys/new")).text)
        assert own is not None
        assert foreign is not None
        assert own.group(1) != foreign.group(1)
        visitor.http.cookies.clear()
        visitor.http.cookies.update(cookies)
        before, sent = contents(store), 0
        actions = {form.action: form.fields for form in forms(pages)} | {each: {} for each in paths(known, "POST")}
        actions["/console/sign-out"] = {}
        for action, fields in actions.items():
            rest = {name: value for name, value in fields.items() if name != "form_token"}
            good = rest | {"form_token": own.group(1)}
            tries = [
                (rest, {}),
                (rest | {"form_token": foreign.group(1)}, {}),
                (good, {"origin": "https://evil.example", "sec_fetch_site": "cross-site"}),
                (good, {"origin": "null", "sec_fetch_site": ""}),
                (good, {"origin": "http://other.kps", "sec_fetch_site": "same-site"}),
            ]
            for form, headers in tries:
                answer = await visitor.send(action, form, **headers)
                assert answer.status_code == 403, action
                assert ("form_outdated" in answer.text) or ("foreign_form" in answer.text), action
                sent += 1
        assert contents(store) == before
        assert sent > 100
        assert "Sign out" in (await visitor.get("/console/")).text

    attacked(settings, monkeypatch, story)


def test_no_path_leads_to_a_file_of_the_home(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        for place in ("static/{}", "keypairs/named/{}", "servers/{}", "failed-tasks/{}", "keys/{}", "orders/{}", "{}"):
            for each in TRAVERSALS:
                answer = await visitor.http.get("/console/" + place.format(each), follow_redirects=False)
                assert answer.status_code in (303, 400, 401, 404, 405), (place, each)
                assert b"SQLite format" not in answer.content

    visit(settings, story, "administrator")


@pytest.mark.parametrize("path", ["/console/", "/console/keypairs/", "/console/nowhere", "/console/static/console.css"])
def test_no_page_lets_itself_be_framed_or_guessed_at(settings: Settings, path: str) -> None:
    async def story(visitor: Visitor) -> None:
        headers = (await visitor.get(path)).headers
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-opener-policy"] == "same-origin"

    visit(settings, story, "operator")


def test_a_session_that_was_brought_along_is_nobodys(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        brought = "A" * 43
        visitor.http.cookies.set("kps", brought)
        assert (await visitor.get("/console/")).url.path == "/console/sign-in"
        visitor.http.cookies.clear()
        await visitor.sign_in("operator")
        begun = dict(visitor.http.cookies)
        assert brought not in begun.values()
        # What was good before signing in again, or out, is good no more.
        page = await visitor.send("/console/sign-out", page="/console/")
        assert page.url.path == "/console/sign-in"
        visitor.http.cookies.update(begun)
        assert (await visitor.get("/console/")).url.path == "/console/sign-in"

    visit(settings, story)


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example/", "/\\evil.example", "/console/..//evil.example"])
def test_no_request_is_answered_with_a_way_elsewhere(settings: Settings, to: str) -> None:
    async def story(visitor: Visitor) -> None:
        for path in (f"/console/{quote(to, safe='/:')}", f"/console/sign-in?next={quote(to, safe='')}", f"/console/{to}"):
            answer = await visitor.http.get(path, follow_redirects=False)
            assert answer.headers.get("location", "/console/").startswith("/console/"), path
            assert "//evil" not in answer.headers.get("location", "")
            assert 'href="//evil' not in answer.text
        part = await visitor.get("/console/keys/", hx_request="true", hx_current_url=to)
        assert part.headers["hx-redirect"].startswith("/console/sign-in?next=%2Fconsole%2F")

    visit(settings, story)
