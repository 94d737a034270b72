"""Who comes into the console: by a link or a password, once, from our own pages only, and no longer than they may."""

import re
from datetime import timedelta
from typing import Any

import pytest

from controller.errors import Problem
from controller.model import Secret, now
from controller.service import console
from controller.settings import Settings
from controller.web.asking import Flashes, Said
from tests.web.client import TOKEN, Visitor, visit

PASSWORD = "correct horse battery"
FORM = {"name": "alice", "password": PASSWORD}


async def alice(visitor: Visitor) -> None:
    """Take alice in, who has a password."""
    await visitor.fleet.users.create(visitor.fleet.owner, "alice")
    await visitor.fleet.console.set_password(visitor.fleet.owner, "alice", Secret(PASSWORD))


async def kinds(visitor: Visitor) -> list[str]:
    return [event.kind for event in await visitor.fleet.tasks.events(visitor.fleet.owner)]


def test_a_stranger_is_asked_who_they_are_and_goes_on_where_they_wanted_to(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await alice(visitor)
        asked = await visitor.get("/console/servers/?q=web")
        assert asked.url.path == "/console/sign-in"
        back = re.search(r'name="next" value="([^"]*)"', asked.text)
        assert back is not None
        assert back.group(1) == "/console/servers/?q=web"
        there = await visitor.send("/console/sign-in", FORM | {"next": back.group(1)})
        assert (there.status_code, there.url.path, there.url.query) == (200, "/console/servers/", b"q=web")
        out = await visitor.send("/console/sign-out", page="/console/")
        assert out.url.path == "/console/sign-in"
        assert (await visitor.get("/console/")).url.path == "/console/sign-in"
        assert [kind for kind in await kinds(visitor) if "session" in kind] == ["session_begun", "session_ended"]

    visit(settings, story)


def test_what_is_sent_when_the_session_is_over_is_told_not_to_be_done_and_leads_back(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.sign_in()
        visitor.http.cookies.clear()
        page = f"{visitor.base}/console/failed-tasks/again?cause=wrong_password"
        asked = await visitor.send("/console/failed-tasks/retry", {"cause": "wrong_password"}, referer=page)
        assert asked.url.path == "/console/sign-in"
        assert "what you sent was not done" in asked.text
        assert 'name="next" value="/console/failed-tasks/again?cause=wrong_password"' in asked.text
        assert "what you sent" not in (await visitor.get("/console/failed-tasks/")).text
        for elsewhere in (
            "https://evil.example/console/x",
            "http://kps.evil.example/console/x",
            "http://[",
            f"{visitor.base}//evil",
        ):
            asked = await visitor.send("/console/failed-tasks/retry", referer=elsewhere)
            assert 'name="next" value="/console/"' in asked.text, elsewhere

    visit(settings, story)


@pytest.mark.parametrize("form", [FORM | {"password": "x"}, FORM | {"name": "bob"}, FORM | {"tenant": "other"}, {}])
def test_nobody_else_is_let_in_and_is_told_no_more_than_that(settings: Settings, form: dict[str, str]) -> None:
    async def story(visitor: Visitor) -> None:
        await alice(visitor)
        answer = await visitor.send("/console/sign-in", form)
        assert answer.status_code == 403
        assert "let nobody in" in answer.text
        assert PASSWORD not in answer.text
        assert "set-cookie" not in answer.headers
        assert (await kinds(visitor))[-1] == "sign_in_refused"

    visit(settings, story)


def test_a_link_lets_in_once_and_is_in_no_log(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    codes = []

    async def story(visitor: Visitor) -> None:
        _, token, _ = await visitor.fleet.console.link(visitor.fleet.owner)
        code = token.open().decode()
        codes.append(code)
        assert (await visitor.send("/console/link", {"code": code})).url.path == "/console/"
        visitor.http.cookies.clear()
        again = await visitor.send("/console/link", {"code": code})
        assert again.status_code == 403
        assert code not in again.text

    visit(settings, story)
    said = capsys.readouterr()
    assert "/console/link" in said.err
    assert codes[0] not in said.out + said.err


def test_a_link_ends(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        _, token, ends = await visitor.fleet.console.link(visitor.fleet.owner, minutes=1)
        assert ends <= now() + timedelta(minutes=1)
        visitor.fleet.console._store._now = lambda: ends  # type: ignore[method-assign]
        with pytest.raises(Problem) as refused:
            await visitor.fleet.console.follow(token.open().decode(), "192.0.2.7", None)
        assert refused.value.code == "link_refused"

    visit(settings, story)


def test_the_session_has_another_id_after_each_sign_in_and_only_the_last_one_is_good(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await alice(visitor)
        visitor.http.cookies.set("kps", "chosen-by-somebody-else", domain="kps.local")
        seen = []
        for _ in range(2):
            await visitor.send("/console/sign-in", FORM)
            seen.append(visitor.http.cookies.get("kps", domain="kps.local") or visitor.http.cookies["kps"])
        assert len({*seen, "chosen-by-somebody-else"}) == 3
        assert await visitor.fleet.console.known(seen[0], "192.0.2.7") is None
        assert await visitor.fleet.console.known(seen[1], "192.0.2.7") is not None

    visit(settings, story)


@pytest.mark.parametrize(
    ("secure", "begins", "holds"),
    [(True, "__Host-kps=", "secure"), (False, "kps=", "httponly"), (True, "__Host-kps=", "path=/;")],
)
def test_the_cookie_is_for_this_host_and_no_script(settings: Settings, secure: bool, begins: str, holds: str) -> None:
    async def story(visitor: Visitor) -> None:
        await alice(visitor)
        visitor.http.follow_redirects = False
        cookie = (await visitor.send("/console/sign-in", FORM)).headers["set-cookie"]
        assert cookie.startswith(begins)
        assert {"httponly", "samesite=lax"} <= set(cookie.lower().split("; "))
        assert holds in cookie.lower() + ";"
        assert "domain" not in cookie.lower()

    visit(settings, story, secure=secure)


@pytest.mark.parametrize("change", ["disabled", "password", "deleted"])
def test_whoever_is_disabled_or_has_another_password_is_out(settings: Settings, change: str) -> None:
    async def story(visitor: Visitor) -> None:
        owner = visitor.fleet.owner
        await alice(visitor)
        assert (await visitor.send("/console/sign-in", FORM)).url.path == "/console/"
        if change == "password":
            await visitor.fleet.console.set_password(owner, "alice", Secret("another long one"))
        elif change == "disabled":
            await visitor.fleet.users.change(owner, "alice", enabled=False)
        else:
            await visitor.fleet.users.delete(owner, "alice")
        assert (await visitor.get("/console/")).url.path == "/console/sign-in"
        assert (await visitor.send("/console/sign-in", FORM)).status_code == 403

    visit(settings, story)


@pytest.mark.parametrize("change", ["disabled", "password"])
def test_a_password_that_is_tried_while_it_is_changed_lets_nobody_in(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async def story(visitor: Visitor) -> None:
        owner, verbs = visitor.fleet.owner, visitor.fleet.console
        await alice(visitor)
        tried = verbs._fits

        async def slowly(password: Secret, hash: str | None) -> bool:
            found = await tried(password, hash)
            if change == "password":
                await verbs.set_password(owner, "alice", Secret("another long one"))
            else:
                await visitor.fleet.users.change(owner, "alice", enabled=False)
            return found

        monkeypatch.setattr(verbs, "_fits", slowly)
        assert (await visitor.send("/console/sign-in", FORM)).status_code == 403
        monkeypatch.undo()
        await visitor.fleet.users.change(owner, "alice", enabled=True)
        assert (await visitor.get("/console/")).url.path == "/console/sign-in"

    visit(settings, story)


def test_what_cannot_be_read_is_a_page_that_says_so(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.fleet.servers.add(visitor.fleet.owner, "web-1", "192.0.2.1")
        token = TOKEN.search((await visitor.get("/console/add-server")).text)
        assert token is not None
        wrong = {"content-type": "multipart/form-data; boundary=x", "origin": visitor.base, "sec-fetch-site": "same-origin"}
        for content in (b"--x\r\nnothing", b"\x00" * 1000):
            answer = await visitor.http.post("/console/add-server", content=content, headers=wrong)
            assert (answer.status_code in (400, 403), "Sign out" in answer.text) == (True, True), answer.text
        for path in ("servers/web-1?before=100000000000000000000", "audit/?since=0001-01-01T00:00%2B14:00", "live?after=x"):
            answer = await visitor.get(f"/console/{path}")
            assert 400 <= answer.status_code < 500, path

    visit(settings, story, "administrator")


def test_who_asks_too_fast_is_told_to_wait_and_nobody_else_is(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        came = [(await visitor.get("/console/sign-in")).status_code for _ in range(7)]
        assert came == [200] * 5 + [429] * 2
        assert await visitor.fleet.tasks.events(visitor.fleet.owner)  # the home is served all the same

    slow = settings.model_copy(update={"requests_per_second": 0.01, "requests_at_once": 5})
    visit(slow, story)


def test_what_is_told_once_is_told_of_the_last_few(settings: Settings) -> None:
    flashes = Flashes()
    for number in range(100):
        flashes.add(b"one", Said(str(number), "good"))
    assert [each.text for each in flashes.taken(b"one")] == [str(number) for number in range(90, 100)]
    assert flashes.taken(b"one") == []


@pytest.mark.parametrize(("idle", "whole"), [(console.IDLE, False), (console.LONGEST, True)])
def test_a_session_ends_by_itself(settings: Settings, idle: timedelta, whole: bool) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.sign_in()
        verbs, at = visitor.fleet.console, now()
        steps = [at + idle / 2] if not whole else [at + timedelta(minutes=50) * step for step in range(1, 14)]
        for step in steps:
            verbs._now = verbs._store._now = lambda step=step: step  # type: ignore[method-assign, misc]
            assert (await visitor.get("/console/")).url.path == "/console/"
        end = (steps[-1] if not whole else at) + idle + timedelta(seconds=1)
        verbs._now = verbs._store._now = lambda: end  # type: ignore[method-assign]
        assert (await visitor.get("/console/")).url.path == "/console/sign-in"

    visit(settings, story)


def test_a_page_that_refreshes_itself_keeps_no_session_alive(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.sign_in()
        verbs, at = visitor.fleet.console, now()
        verbs._now = verbs._store._now = lambda: at + console.IDLE / 2  # type: ignore[method-assign]
        assert (await visitor.get("/console/", x_by_itself="1")).url.path == "/console/"
        visitor.fleet.stopping.end()  # so that the stream ends at once
        assert (await visitor.get("/console/live")).status_code == 200
        verbs._now = lambda: at + console.IDLE + timedelta(minutes=1)
        assert (await visitor.get("/console/")).url.path == "/console/sign-in"

    visit(settings, story)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "sec_fetch_site": "cross-site"},
        {"origin": "https://evil.example", "sec_fetch_site": ""},
        {"origin": "http://kps", "sec_fetch_site": "cross-site"},
        {"origin": "http://kps:81", "sec_fetch_site": "same-site"},
        {"origin": "null", "sec_fetch_site": ""},
        {"origin": "", "sec_fetch_site": ""},
        {"origin": "", "sec_fetch_site": "none"},
    ],
)
def test_a_form_of_another_site_is_refused(settings: Settings, headers: dict[str, str]) -> None:
    async def story(visitor: Visitor) -> None:
        await alice(visitor)
        assert "foreign_form" in (await visitor.send("/console/sign-in", FORM, **headers)).text
        await visitor.send("/console/sign-in", FORM)
        assert "foreign_form" in (await visitor.send("/console/sign-out", page="/console/", **headers)).text

    visit(settings, story)


@pytest.mark.parametrize("token", [None, "", "0" * 64, "é"])
def test_a_form_without_its_sessions_token_is_refused(settings: Settings, token: str | None) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.sign_in()
        answer = await visitor.send("/console/sign-out", {} if token is None else {"form_token": token})
        assert (answer.status_code, "form_outdated" in answer.text) == (403, True)
        assert TOKEN.search(answer.text), "they are signed in still"

    visit(settings, story)


PATHS = ["https://evil.example", "//evil.example", "/\\evil.example", "/console/../fleet", "javascript:alert(1)", "/fleet/v1"]


@pytest.mark.parametrize("path", [*PATHS, "/console/\r\nX:y"])
def test_nobody_is_sent_elsewhere(settings: Settings, path: str) -> None:
    async def story(visitor: Visitor) -> None:
        await alice(visitor)
        visitor.http.follow_redirects = False
        answer = await visitor.send("/console/sign-in", FORM | {"next": path})
        assert answer.headers["location"] == "/console/"

    visit(settings, story)


def test_whoever_fails_too_often_is_not_heard_and_shuts_nobody_out_who_is_known(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await alice(visitor)
        await visitor.send("/console/sign-in", FORM)
        visitor.http.cookies.clear()
        came: list[Any] = []
        while 429 not in came and len(came) < 40:
            came.append((await visitor.send("/console/sign-in", FORM | {"name": "bob", "password": "x"})).status_code)
        assert came == [403] * 10 + [429]
        assert (await visitor.send("/console/sign-in", FORM)).url.path == "/console/"

    visit(settings, story)


def test_a_password_is_long_enough_and_kept_as_argon2id(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    async def story(visitor: Visitor) -> None:
        owner, verbs = visitor.fleet.owner, visitor.fleet.console
        await visitor.fleet.users.create(owner, "alice")
        for password in ("short", "x" * 1025):
            with pytest.raises(Problem) as refused:
                await verbs.set_password(owner, "alice", Secret(password))
            assert refused.value.code == "password_unusable"
        await verbs.set_password(owner, "alice", Secret("e\u0301clair au chocolat"))
        kept = verbs._store.console_entry(None, "alice").hash
        assert kept is not None
        assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")  # RFC 9106, section 4
        assert await verbs.sign_in(None, "alice", Secret("\u00e9clair au chocolat"), "192.0.2.7", None)

    visit(settings, story)


def test_a_browser_that_comes_to_the_first_address_is_sent_to_the_console(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        assert (await visitor.get("/")).url.path == "/console/sign-in"
        for path, accept in (("/", "application/json"), ("/", "*/*")):
            assert (await visitor.get(path, accept=accept)).json()["versions"]

    visit(settings, story)


def test_what_strangers_show_is_looked_for_no_more_often_than_their_address_may_ask(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(visitor: Visitor) -> None:
        await visitor.sign_in()
        own = dict(visitor.http.cookies)
        looked, known = [], visitor.fleet.console.known

        async def counted(session_id: str, address: str) -> Any:
            looked.append(session_id)
            return await known(session_id, address)

        monkeypatch.setattr(visitor.fleet.console, "known", counted)
        for shown in ("short", "x" * 44, "x" * 42 + "."):
            await visitor.get("/console/static/icon.svg", cookie=f"kps={shown}")
        assert looked == []
        for number in range(30):
            visitor.http.cookies.clear()
            visitor.http.cookies.set("kps", f"{number:043}")
            await visitor.get("/console/sign-in")
        assert 0 < len(looked) <= 10
        # Whoever is signed in there already is not turned away for it.
        visitor.http.cookies.clear()
        visitor.http.cookies.update(own)
        assert (await visitor.get("/console/")).status_code == 200

    visit(settings.model_copy(update={"requests_per_second": 0.01, "requests_at_once": 10}), story)


def test_tries_count_for_a_user_however_their_tenant_is_spelt(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await alice(visitor)
        own = await visitor.fleet.tenants.own(visitor.fleet.owner)
        came: list[int] = []
        for number in range(12):
            form = FORM | {"password": "x", "tenant": ("", own.name, own.id)[number % 3]}
            came.append((await visitor.send("/console/sign-in", form)).status_code)
        assert came == [403] * 10 + [429] * 2

    visit(settings, story)


def test_refused_sign_ins_are_on_record_and_fill_no_disk(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await alice(visitor)
        verbs = visitor.fleet.console
        for name in ("bob", "alice"):
            for number in range(70):
                with pytest.raises(Problem):
                    await verbs.sign_in(None, name, Secret("x"), f"192.0.2.{number}", None)
        found = [each.detail for each in await visitor.fleet.tasks.events(visitor.fleet.owner) if each.kind == "sign_in_refused"]
        assert len(found) == 120  # of each 60 at once: those of nobody cover up none of alice's
        assert sum(each.get("name") == "alice" for each in found) == 60

    visit(settings, story)
