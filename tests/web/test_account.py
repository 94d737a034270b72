"""One's own account in the console: another password by the old one, and an end to one's other sessions."""

import re

import pytest

from controller.settings import Settings
from tests.web.client import Visitor, visit
from tests.web.test_entry import FORM, PASSWORD, alice, kinds

HERE = "/console/account/"
NEW = "another long enough one"
CHANGE = {"old": PASSWORD, "new": NEW, "again": NEW}


async def twice(visitor: Visitor) -> dict[str, str]:
    """Sign alice in at two places; returns the cookies of the first, the visitor is at the second."""
    await alice(visitor)
    await visitor.send("/console/sign-in", FORM)
    first = dict(visitor.http.cookies)
    visitor.http.cookies.clear()
    await visitor.send("/console/sign-in", FORM)
    return first


async def is_in(visitor: Visitor, cookies: dict[str, str]) -> bool:
    kept = dict(visitor.http.cookies)
    visitor.http.cookies.clear()
    visitor.http.cookies.update(cookies)
    found = (await visitor.get("/console/")).url.path == "/console/"
    visitor.http.cookies.clear()
    visitor.http.cookies.update(kept)
    return found


def test_a_password_is_changed_by_the_one_before_and_all_other_sessions_end(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        first = await twice(visitor)
        second = dict(visitor.http.cookies)
        answer = await visitor.send(f"{HERE}password", CHANGE, page=HERE)
        assert (answer.url.path, "Your password is changed" in answer.text) == (HERE, True)
        assert dict(visitor.http.cookies) != second  # they go on under another id
        assert not await is_in(visitor, first)
        assert not await is_in(visitor, second)
        visitor.http.cookies.clear()
        assert (await visitor.send("/console/sign-in", FORM)).status_code == 403
        assert (await visitor.send("/console/sign-in", FORM | {"password": NEW})).url.path == "/console/"
        for secret in (PASSWORD, NEW):
            assert secret not in answer.text

    visit(settings, story)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        (CHANGE | {"old": "not this one"}, "password_wrong"),
        (CHANGE | {"old": ""}, "password_wrong"),
        (CHANGE | {"again": NEW + "!"}, "passwords_differ"),
        (CHANGE | {"new": "short", "again": "short"}, "password_unusable"),
    ],
)
def test_a_password_that_is_not_changed_stays(settings: Settings, form: dict[str, str], code: str) -> None:
    async def story(visitor: Visitor) -> None:
        first = await twice(visitor)
        answer = await visitor.send(f"{HERE}password", form, page=HERE)
        assert code in answer.text
        assert NEW not in answer.text
        assert await is_in(visitor, first)
        assert (await kinds(visitor)).count("password_set") == 1  # as alice was made

    visit(settings, story)


def test_whoever_sits_down_at_an_open_page_does_not_guess_the_password(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        await twice(visitor)
        came = [
            (await visitor.send(f"{HERE}password", CHANGE | {"old": f"guess {number}"}, page=HERE)).status_code
            for number in range(12)
        ]
        assert came[0] == 403
        assert came[-1] == 429
        assert (await kinds(visitor)).count("sign_in_refused") == came.count(403) <= 10

    visit(settings, story)


def test_other_sessions_are_listed_and_ended_and_nobody_elses(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        first = await twice(visitor)
        text = (await visitor.get(HERE)).text
        assert len(re.findall("<code>[0-9a-f]{12}</code>", text)) == 2
        (other,) = re.findall('name="session" value="([0-9a-f]{12})"', text)
        mine = dict(visitor.http.cookies)
        visitor.http.cookies.clear()
        await visitor.sign_in("administrator")
        refused = await visitor.send(f"{HERE}end", {"session": other}, page=HERE)
        assert (refused.status_code, "session_not_found" in refused.text) == (404, True)
        assert await is_in(visitor, first)
        visitor.http.cookies.clear()
        visitor.http.cookies.update(mine)
        await visitor.send(f"{HERE}end", {"session": other}, page=HERE)
        assert not await is_in(visitor, first)
        assert await is_in(visitor, mine)
        visitor.http.cookies.clear()
        await visitor.send("/console/sign-in", FORM)
        assert "1 session is ended" in (await visitor.send(f"{HERE}end", page=HERE)).text
        assert not await is_in(visitor, mine)

    visit(settings, story)
