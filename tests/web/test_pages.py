"""Every page: its headers, who it is for, and what it says where something is wrong."""

import pytest
from fastapi.routing import APIRoute

from controller.settings import Settings
from controller.web import entry
from controller.web.asking import OPEN
from controller.web.rendering import NAVIGATION, templates
from controller.web.text import shown
from tests.web.client import Visitor, visit

ROUTES = [(part.router, route) for part in entry.PARTS for route in part.router.routes if isinstance(route, APIRoute)]


def test_every_page_has_its_headers_and_no_other_hosts_address(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        for _, _, path, _ in NAVIGATION:
            answer = await visitor.get(f"/console/{path}")
            assert answer.status_code == 200, path
            assert answer.headers["cache-control"] == "no-store"
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
            assert "unsafe" not in policy
            assert "://" not in answer.text

    visit(settings, story, "administrator")


def test_no_page_is_for_strangers_but_those_by_which_they_come_in(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        visitor.http.follow_redirects = False
        for router, route in ROUTES:
            path = "/console" + route.path_format.replace("{", "").replace("}", "")
            if OPEN in router.tags:
                assert path.split("/")[2] in ("sign-in", "link", "static"), path
                continue
            for method in route.methods:
                answer = await (visitor.get(path) if method == "GET" else visitor.send(path))
                assert answer.status_code == 303, path
                assert answer.headers["location"].startswith("/console/sign-in"), path

    visit(settings, story)


def test_nothing_is_changed_but_by_sending_a_form_with_its_sessions_token(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        sent = 0
        for router, route in ROUTES:
            assert route.methods <= {"GET", "POST"}, route.path
            if "POST" in route.methods and OPEN not in router.tags:
                answer = await visitor.send("/console" + route.path_format.replace("{", "").replace("}", ""))
                assert "form_outdated" in answer.text, route.path
                sent += 1
        assert sent

    visit(settings, story, "administrator")


def test_what_is_not_there_is_told_as_a_page_or_a_part_of_one(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        page = await visitor.get("/console/nowhere")
        assert (page.status_code, "<html" in page.text, page.headers["x-request-id"] in page.text) == (404, True, True)
        part = await visitor.get("/console/nowhere", hx_request="true")
        assert (part.status_code, "<html" in part.text, 'id="problem"' in part.text) == (404, False, True)

    visit(settings, story, "operator")


def test_a_page_whose_filter_has_dots_fetches_itself_and_no_other(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        page = (await visitor.get("/console/failed-tasks/?server=web..1")).text
        assert '<div id="failures" data-live hx-get="/console/failed-tasks/?server=web..1"' in page

    visit(settings, story, "auditor")


def test_what_came_of_a_form_is_told_to_nobody_but_who_sees_it(settings: Settings) -> None:
    async def story(visitor: Visitor) -> None:
        visitor.http.follow_redirects = False
        form = {"name": "web-1", "host": "192.0.2.1"}
        assert (await visitor.send("/console/add-server", form, page="/console/add-server")).status_code == 303
        assert "is in the inventory" not in (await visitor.get("/console/emergency/doors/", x_by_itself="1")).text
        assert "web-1 is in the inventory" in (await visitor.get("/console/servers/web-1")).text
        assert "is in the inventory" not in (await visitor.get("/console/servers/web-1")).text

    visit(settings, story, "operator")


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("abc\u202efdp.exe", "abc\\u202efdp.exe"),
        ("\udcff", "\\xff"),
        ("a\nb\tc", "a\nb\tc"),
        ("grün", "grün"),
    ],
)
def test_what_others_wrote_is_text_that_can_be_seen(text: str, page: str) -> None:
    assert templates().from_string("{{ text }}").render(text=text) == page
    assert shown(1) == 1
