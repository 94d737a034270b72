"""What happens is told to open pages, within a second, and only for as long as its user is signed in."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from controller.events import KINDS
from controller.model import Role
from controller.web.live import TOPICS, topics
from tests.browser.served import Served
from tests.controller.world import World

SOON = 1.0


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("live") / "home") as running:
        yield running


@contextmanager
def entered(served: Served, role: Role) -> Iterator[httpx.Client]:
    """Somebody who is signed in as a user of a role."""
    with httpx.Client(
        base_url=served.url, headers={"origin": served.url}, follow_redirects=True, timeout=30, trust_env=False
    ) as http:
        assert "Sign out" in http.post("/console/link", data={"code": served.code(role)}).text
        yield http


@pytest.fixture
def browser(served: Served) -> Iterator[httpx.Client]:
    with entered(served, "operator") as http:
        yield http


def newest(http: httpx.Client) -> str:
    return http.get("/console/").text.partition('data-after="')[2].partition('"')[0]


def test_what_somebody_else_does_is_told_by_its_topic(served: Served, browser: httpx.Client) -> None:
    with browser.stream("GET", "/console/live", params={"after": newest(browser)}) as stream:
        lines = stream.iter_lines()
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert next(lines).startswith("retry:")
        took = []
        for number in range(5):
            began = time.monotonic()
            served.ask("POST", "/servers", body={"name": f"soon-{number}", "host": "192.0.2.9"})
            told = next(line for line in lines if line.startswith("data:") and line not in ("data: trail", "data: -"))
            took.append(time.monotonic() - began)
            assert told == "data: servers trail"
        # The best of them: what a busy machine adds is not of the way that the news takes.
        assert min(took) < SOON


def test_nothing_is_missed_between_a_page_and_its_stream(served: Served, browser: httpx.Client) -> None:
    before = newest(browser)
    served.ask("POST", "/servers", body={"name": "web-2", "host": "192.0.2.9"})
    with browser.stream("GET", "/console/live", params={"after": before}) as stream:
        told = (line for line in stream.iter_lines() if line.startswith("data:"))
        assert "servers" in next(line for line in told if line not in ("data: trail", "data: -"))


def test_a_stream_ends_with_its_session(served: Served, browser: httpx.Client) -> None:
    with browser.stream("GET", "/console/live", params={"after": newest(browser)}) as stream:
        served.kps("user", "disable", "the-operator")
        try:
            assert "event: gone" in list(stream.iter_lines())
        finally:
            served.kps("user", "enable", "the-operator")
    assert httpx.get(f"{served.url}/console/live", cookies=browser.cookies, trust_env=False).status_code == 303


def test_streams_without_end_are_refused(served: Served) -> None:
    streams, statuses = [], []
    # A user of its own: that a stream of another test was left is noticed in its own time.
    with entered(served, "auditor") as http:
        for _ in range(9):
            request = http.build_request("GET", "/console/live", params={"after": 0})
            streams.append(http.send(request, stream=True))
            statuses.append(streams[-1].status_code)
        for each in streams:
            each.close()
    assert statuses == [200] * 8 + [429]


def test_every_kind_of_event_has_its_topics() -> None:
    for begin in TOPICS:
        assert any(kind.startswith(begin) for kind in KINDS), begin
    assert topics([]) == []
    assert topics(["task_finished"]) == ["rollouts", "servers", "tasks", "trail"]
    assert topics(["user_created"]) == ["trail"]


def test_many_who_wait_ask_the_store_once(tmp_path: Path) -> None:
    home = World(tmp_path / "home")
    asked: list[int] = []
    said = home.store.kinds_after

    def counted(tenant_id: str, after: int) -> tuple[dict[str, int], int]:
        asked.append(after)
        return said(tenant_id, after)

    home.store.kinds_after = counted  # type: ignore[method-assign]
    tenant = home.tenant()

    async def story() -> None:
        after = home.store.newest_event()
        waiting = [asyncio.ensure_future(home.news.after(tenant, after, 10)) for _ in range(50)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # whoever leaves takes the answer from nobody
        home.server(tenant)
        for each in waiting[1:]:
            found, reached = await each
            assert (list(found), reached > after) == (["server_added"], True)

    asyncio.run(story())
    home.close()
    assert 1 <= len(asked) <= 4


def test_what_is_asked_while_nothing_happens_is_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.service.news._MOST_ASKED", 5)
    home = World(tmp_path / "home")
    tenant = home.tenant()

    async def story() -> None:
        newest = home.store.newest_event()
        for number in range(20):  # after which event, is theirs to say
            found, _ = await home.news.after(tenant, newest + number, 0)
            assert found == {}

    asyncio.run(story())
    home.close()
    assert len(home.news._asked) <= 5
