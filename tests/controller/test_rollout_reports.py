"""Reports of rollouts: how one went over time, what is left to do, and how that is shown."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest

from controller.api.fleet.examples import EXAMPLES
from controller.cli import rolloutorders
from controller.rollout import nextsteps
from controller.rollout.picture import picture
from controller.rollout.timeline import MOST_POINTS, Point, Try, points, wave_starts
from controller.rollout.written import markdown

BEGAN = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
HOSTILE = 'web-1: </text><script>alert(1)</script> | `x` \x1b[31m"\n# not a heading'


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def test_a_server_that_is_tried_again_counts_by_its_last_try() -> None:
    tries = [
        Try("a", at(0), at(2), True),
        Try("b", at(1), at(3), False),
        Try("b", at(5), at(6), True),
        Try("c", at(6), None, None),
    ]
    assert points(tries) == [
        Point(at(0), 1, 0, 0),
        Point(at(1), 2, 0, 0),
        Point(at(2), 2, 1, 0),
        Point(at(3), 2, 1, 1),
        Point(at(5), 2, 1, 0),
        Point(at(6), 3, 1, 0),
        Point(at(6), 3, 2, 0),
    ]


def test_of_many_points_few_are_kept_the_first_and_the_last_among_them() -> None:
    tries = [Try(str(number), at(number / 10), at(number / 10 + 1), number % 7 != 0) for number in range(20_000)]
    found = points(tries)
    assert len(found) <= MOST_POINTS
    assert (found[0].begun, found[-1]) == (1, Point(at(2000.9), 20_000, 17_142, 2858))
    assert [each.at for each in found] == sorted(each.at for each in found)


def test_all_at_one_moment_is_one_point() -> None:
    assert len(points(Try(str(number), at(0), at(0), True) for number in range(MOST_POINTS + 1))) == 1


def test_a_wave_begins_with_its_first_server() -> None:
    tries = [Try("a", at(0), at(1), False), Try("c", at(4), None, None), Try("b", at(3), None, None), Try("a", at(9), None, None)]
    assert wave_starts([["a"], ["b", "c"], ["d"]], tries) == [(0, at(0)), (1, at(3))]


@pytest.mark.parametrize(
    ("state", "status", "cause", "wanted"),
    [
        ("finished", "failed", "disk_full", "kps rollout retry R --cause disk_full"),
        ("stopped", "failed", "wrong_password", "kps rollout retry R --cause wrong_password --password-stdin < passwords"),
        ("finished", "failed", "changed_since_plan", "kps rollout plan bind web-1 --keypair ops"),
        ("finished", "failed", "host_key_changed", ""),
        ("stopped", "waiting", None, "kps rollout resume R"),
        ("paused", "held", None, "kps rollout resume R"),
        ("running", "waiting", None, "kps rollout watch R"),
        ("running", "running", None, "kps rollout watch R"),
        ("cancelled", "waiting", None, "kps rollout start bind web-1 --keypair ops"),
        ("finished", "held", None, "kps rollout start bind web-1 --keypair ops"),
    ],
)
def test_what_to_type_next(state: str, status: str, cause: str | None, wanted: str) -> None:
    assert nextsteps.command("R", state, "bind", "ops", status, cause, ["web-1"]) == wanted


def test_what_to_type_next_says_all_that_was_said_at_first() -> None:
    """Without one of these it would be another order: it would close passwords, lock somebody out, or work on another login."""
    request = {
        "keypair": "ops", "keypair_id": "id", "given": ["password"], "plan": True, "keep_password_login": True, "force": False,
        "accept_lockout": ["guest", "backup"], "take_over": True,
    }  # fmt: skip
    said = nextsteps.options(request, ["deploy", "deploy"])
    assert said == " --login deploy --keep-password-login --accept-lockout guest --accept-lockout backup --take-over"
    command = nextsteps.command("R", "cancelled", "bind", "ops", "waiting", None, ["web-1"], said)
    assert command == f"kps rollout start bind web-1 --keypair ops{said}"
    assert nextsteps.options({}, ["root", "deploy"]) == ""


def test_what_to_type_next_says_only_what_an_order_takes_and_all_of_it() -> None:
    flags = {f"--{name.replace('_', '-')}" for name in nextsteps._SAID}
    takes = {name for name in rolloutorders._REQUEST if name not in ("keypair", "login")}
    assert flags == {f"--{name.replace('_', '-')}" for name in takes}


def read(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn)  # noqa: S314 - we have drawn it


def report(**more: Any) -> Any:
    example: dict[str, Any] = EXAMPLES["RolloutReport"]
    found = json.loads(json.dumps(example))
    return found | more


def test_a_picture_is_drawn_for_light_and_dark_pages_and_says_what_it_shows() -> None:
    drawn = read(picture(report()))
    words = " ".join(drawn.itertext())
    for told in ("replace on 200 servers", "canary", "begun 1", "as asked 0", "failed 0", "prefers-color-scheme: dark"):
        assert told in words
    (halt,) = [each for each in drawn.iter() if each.get("class") == "halt"]
    assert halt[0].text == "paused: as somebody asked"
    assert float(halt.get("width", "0")) == pytest.approx((920 - 64 - 24) * 6 / 12.5, abs=0.2)


def test_lines_end_where_the_numbers_do() -> None:
    moments = [{"seconds": 0.0, "begun": 4, "done": 0, "failed": 0}, {"seconds": 5.0, "begun": 4, "done": 3, "failed": 1}]
    over = {"seconds": 10.0, "points": moments, "marks": [], "pauses": []}
    drawn = read(picture(report(servers=4, over_time=over)))
    lines = {each.get("class"): each.get("d") for each in drawn.iter() if each.tag.endswith("path")}
    assert lines["done"] == "M 64.0 368.0 H 480.0 V 164.0 H 896.0"
    assert lines["failed"] == "M 64.0 368.0 H 480.0 V 300.0 H 896.0"


def test_a_rollout_of_which_nothing_was_begun_has_a_picture_and_a_report() -> None:
    over = {"seconds": 0.0, "points": [], "marks": [], "pauses": []}
    empty = report(over_time=over, failed_by=[], not_done=[], labels={}, states={})
    assert read(picture(empty)).get("viewBox")
    assert markdown(empty).startswith("# replace on 200 servers\n")


def test_a_report_says_what_was_asked_what_failed_and_what_to_type() -> None:
    told = markdown(report())
    for wanted in (
        "| asked by | alice |",
        "`batch=10% canary=5 max_failures=2% per_label=zone`",
        "## Failed by `disk_full`: 1 server",
        "**Do:** Free some space",
        "- **1 failed** (disk\\_full): web-1",
        "      kps rollout retry 2d7be0f4-91c6-4b1d-8e1f-5a30c9f7b6aa --cause disk_full",
        "| zone-a | 40 | 1 |",
        "| 3.0 | paused: as somebody asked |",
    ):
        assert wanted in told


def test_what_a_server_or_a_user_wrote_stays_text() -> None:
    example = {"server": "web-1", "task_id": "T", "server_state": "as_before", "message": HOSTILE, "evidence": {"x": "```\n# y"}}
    cause = {"cause": "disk_full", "servers": 1, "meaning": "", "handling": "", "example": example}
    hostile = report(reason=HOSTILE, failed_by=[cause], labels={HOSTILE: {"failed": 1}}, asked_by=HOSTILE)
    told = markdown(hostile)
    assert "\x1b" not in told
    assert "<script>" not in re.sub(r"\\<script\\>", "", told)
    assert [line for line in told.split("\n") if line.startswith("# ")] == ["# replace on 200 servers"]
    assert [line for line in told.split("\n") if line.startswith("```")] == ["```json", "```"]
    tags = {each.tag.partition("}")[2] for each in read(picture(hostile)).iter()}
    assert tags <= {"svg", "title", "style", "rect", "text", "line", "path"}
