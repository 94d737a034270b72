"""Rollouts: asked for with a plan, seen as they go, paused, resumed, cancelled, tried again, and reported."""

import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter
from markupsafe import Markup
from starlette.responses import Response

from controller.causes import CAUSES, handling
from controller.errors import Conflict, Invalid, NotFound, Problem
from controller.model import Rollout, RolloutServer
from controller.rollout.picture import picture
from controller.rollout.written import markdown
from controller.service.roles import allow
from controller.service.rolloutplans import Look
from controller.web import rolloutorders
from controller.web.asking import Asked, Page
from controller.web.door import ROOT
from controller.web.given import given
from controller.web.here import Buttons, here
from controller.web.selecting import Shown

HERE = f"{ROOT}/rollouts"
PAGE = 30
SERVERS = 100  # of a rollout on a page
LOOKS = 200  # of a plan
MOST_LABELS = 50
LABELS_SHOWN = 200  # values of the label that a rollout is spread over
DRAWN_AT_ONCE = 1000  # servers of a rollout whose picture is a part of its page
_RUNNING_SHOWN = 5
_OPEN = ("waiting", "running")
_WELL = ("succeeded", "unchanged")
_TYPES = {"md": "text/markdown; charset=utf-8", "json": "application/json", "svg": "image/svg+xml"}

router = APIRouter(prefix="/rollouts")


@router.get("/")
async def listed(page: Page) -> Response:
    """Show rollouts, the newest first."""
    before = page.request.query_params.get("before") or None
    found = await page.fleet.rollouts.page(page.who, before, PAGE + 1)
    running = [each for each in found if each.state == "running"][:_RUNNING_SHOWN]
    bars = {each.id: _bar((await page.fleet.rollouts.get(page.who, each.id))[1]["states"]) for each in running}
    return await page.show(
        "rollouts/list.html",
        "rollouts",
        "Rollouts",
        rollouts=found[:PAGE],
        bars=bars,
        users=await _users(page),
        next_page=f"{HERE}/?before={found[PAGE - 1].id}" if len(found) > PAGE else "",
        first_page=f"{HERE}/" if before else "",
        here_path=HERE,
    )


@router.get("/new")
async def new(page: Page) -> Response:
    """Ask what is to be done on which servers, and how."""
    asked = page.request.query_params
    return await _new(page, {name: asked[name] for name in rolloutorders.LINKED if name in asked})


async def _new(page: Asked, asked: Mapping[str, str], problem: Problem | None = None) -> Response:
    labels = await page.fleet.servers.labels(page.who)
    return await page.show(
        "rollouts/new.html",
        "rollouts",
        "New rollout",
        200 if problem is None else problem.status,
        orders=rolloutorders,
        asked=asked,
        problem=problem,
        labels=[(name, value, count) for name, of in labels.items() for value, count in of.most_common(MOST_LABELS)][
            :MOST_LABELS
        ],
        names=list(labels),
        keypairs=[each.name for each in await page.fleet.keypairs.list(page.who)],
        any_server=bool(await page.fleet.servers.list(page.who, limit=1)),
        crumbs=[("Rollouts", f"{HERE}/")],
        here_path=HERE,
    )


@router.post("/plan")
async def plan(page: Page) -> Response:
    """Look at servers for a plan; a check changes nothing, and is begun at once."""
    fleet, who = page.fleet, page.who
    allow(who, "binding.order")
    try:
        asked, credential = rolloutorders.order(page.form), await given(page.form)
        chosen = await fleet.servers.select(who, asked.words, asked.every)
        opens = {} if credential is None else {each.id: credential for each in chosen}
        request = asked.request | ({} if asked.operation == "check" else {"plan": True})
        begun = await fleet.rollouts.start(who, asked.operation, chosen, request, asked.strategy, opens)
    except (Invalid, NotFound) as problem:
        await fleet.audit.refused(who, problem, page.request.method, page.request.scope["path"])
        return await _new(page, rolloutorders.typed(page.form), problem)
    return page.go(f"{HERE}/{begun.id}")


@router.get("/{id}")
async def shown(page: Page, id: str) -> Response:
    """Show how far a rollout is, or what a plan has found."""
    fleet, who = page.fleet, page.who
    rollout, counts = await fleet.rollouts.get(who, id)
    states, after = counts["states"], _after(page)
    size = LOOKS if rollout.plans else SERVERS
    members = await fleet.rollouts.servers(who, id, after, size)
    rate = await fleet.rollout_reports.rate(who, rollout) if rollout.state == "running" else 0.0
    waiting = sum(states[state] for state in _OPEN)
    values: dict[str, Any] = {
        "rollout": rollout,
        "counts": counts,
        "bar": _bar(states),
        "ended": rollout.servers - waiting,
        "rate": rate,
        "left": _duration(waiting / rate) if rate else "",
        "took": None if rollout.finished_at is None else _duration((rollout.finished_at - rollout.created_at).total_seconds()),
        "causes": [
            _cause(cause, count, rollout.plans) for cause, count in sorted(counts["causes"].items(), key=lambda each: -each[1])
        ],
        "asked_by": (await _users(page)).get(rollout.user_id, rollout.user_id),
        "request": _request(rollout),
        "strategy": _strategy(rollout),
        "told": _span(rollout, members, after),
        "next_page": _next_page(rollout, members),
        "first_page": f"{HERE}/{id}" if after >= 0 else "",
        "crumbs": [("Rollouts", f"{HERE}/")],
        "here_path": HERE,
    }  # fmt: skip
    if rollout.plans:
        looked = rollout.state != "running"
        looks = await fleet.rollout_plans.looks(who, id, after, LOOKS) if looked else []
        values |= {"alike": _alike(looks), "refused": [each for each in looks if each.cause], "can": _can(counts)}
        values |= {"begun": await fleet.rollout_plans.begun_as(who, id) if looked else None}
        values |= {"gave": any(each.given for each in members), "finished": _finished(rollout)}
        return await page.show("rollouts/plan.html", "rollouts", _title(rollout), **values)
    labels = sorted(counts["labels"].items())
    values |= {"columns": [state for state in states if any(of.get(state) for _, of in labels)]}
    if len(labels) > LABELS_SHOWN:
        labels = sorted(labels, key=lambda each: -each[1].get("failed", 0))
    values |= {"labels": labels[:LABELS_SHOWN], "more_labels": len(labels[LABELS_SHOWN:])}
    # What a picture of many servers takes is not waited for with the page.
    chart = _chart(await fleet.rollout_reports.course(who, id)) if rollout.servers <= DRAWN_AT_ONCE else None
    values |= {"chart": chart, "members": members}
    failures = await fleet.rollouts.failures(who, id) if states["failed"] else []
    values |= {"failed": _failed(failures), "failed_by": {each[0]: _failed([each]) for each in failures}}
    return await page.show("rollouts/rollout.html", "rollouts", _title(rollout), **values)


@router.get("/{id}/chart")
async def chart(page: Page, id: str) -> Response:
    """Show how a rollout went over time."""
    course: Any = await page.fleet.rollout_reports.course(page.who, id)
    crumbs = [("Rollouts", f"{HERE}/"), (f"{course['operation']} on {course['servers']} servers", f"{HERE}/{id}")]
    return await page.show("rollouts/chart.html", "rollouts", "The run", chart=_chart(course), crumbs=crumbs)


@router.post("/{id}/start")
async def start(page: Page, id: str) -> Response:
    """Start what was planned."""
    fleet, who = page.fleet, page.who
    allow(who, "binding.order")
    # First, and handed on below: the plan that is begun is the one that had ended when the page says, whoever retries it now.
    sealed = await fleet.rollout_plans.sealed(who, id)
    found, _ = await fleet.rollouts.get(who, id)
    if page.form.text("finished") != _finished(found):
        raise Conflict("plan_outdated", f"plan {id}: servers were looked at again since its page was made; look at it anew")
    credential = await given(page.form)
    members = [] if credential is None else await fleet.rollouts.servers(who, id)
    opens = {} if credential is None else {each.server_id: credential for each in members}
    begun, out = await fleet.rollout_plans.start(who, id, opens, sealed)
    left = f"; as the plan says, without {sum(out.values())} of them" if out else ""
    return page.go(f"{HERE}/{begun.id}", f"it has begun{left}")


@router.post("/{id}/pause")
async def pause(page: Page, id: str) -> Response:
    """Begin no further server for now."""
    await page.fleet.rollouts.pause(page.who, id)
    return page.go(f"{HERE}/{id}", "it is paused: no further server is begun; those that are begun come to their end")


@router.get("/{id}/cancel")
async def ask_cancel(page: Page, id: str) -> Response:
    """Ask whether a rollout is to be given up."""
    return await _asking(page, id, "rollouts/cancel.html", "Cancel this rollout")


@router.post("/{id}/cancel")
async def cancel(page: Page, id: str) -> Response:
    """Begin no further server, now or ever."""
    await page.fleet.rollouts.cancel(page.who, id)
    return page.go(f"{HERE}/{id}", "it is cancelled: no further server is begun")


@router.get("/{id}/resume")
async def ask_resume(page: Page, id: str) -> Response:
    """Ask with what a rollout is to go on."""
    return await _asking(page, id, "rollouts/again.html", "Resume otherwise", verb="resume", cause="", failed=None)


@router.post("/{id}/resume")
async def resume(page: Page, id: str) -> Response:
    """Go on; with what opens the servers, where that is given."""
    fleet, who, credential = page.fleet, page.who, await given(page.form)
    members = [] if credential is None else await fleet.rollouts.servers(who, id)
    opens = {} if credential is None else {each.server_id: credential for each in members if each.status not in _WELL}
    await fleet.rollouts.resume(who, id, opens)
    return page.go(f"{HERE}/{id}", "it goes on")


@router.get("/{id}/retry")
async def ask_retry(page: Page, id: str) -> Response:
    """Ask with what servers that failed are to be tried again."""
    cause = page.request.query_params.get("cause", "")[:100]
    failures = [each for each in await page.fleet.rollouts.failures(page.who, id) if cause in ("", each[0])]
    values = {"verb": "retry", "cause": cause, "failed": _failed(failures)}
    return await _asking(page, id, "rollouts/again.html", "Retry otherwise", **values)


@router.post("/{id}/retry")
async def retry(page: Page, id: str) -> Response:
    """Try servers again that failed, by one cause or any; those that were shown, not what failed since."""
    fleet, who, form = page.fleet, page.who, page.form
    allow(who, "binding.order")
    shown = Shown.of(form, places=False)
    cause, port = form.text("cause", most=100) or None, form.number("port")
    jump = [each.strip() for each in form.text("jump", most=4000).split(",") if each.strip()]
    ids = await fleet.rollouts.failed(who, id, cause, shown.ended)
    shown.refuse_more(len(ids))
    credential = await given(form)
    if port is not None or jump:
        await fleet.servers.change_all(who, ids, port=port, jump=jump or None)
    opens = {} if credential is None else dict.fromkeys(ids, credential)
    await fleet.rollouts.retry(who, id, cause, opens, ended_by=shown.ended)
    return page.go(f"{HERE}/{id}", f"{len(ids)} {'server is' if len(ids) == 1 else 'servers are'} tried again")


@router.get("/{id}/report.{kind}")
async def report(page: Page, id: str, kind: Literal["md", "json", "svg"]) -> Response:
    """Give its report as a file."""
    found: Any = await page.fleet.rollout_reports.document(page.who, id)
    text = json.dumps(found, indent=2) if kind == "json" else markdown(found) if kind == "md" else picture(found)
    named = {"Content-Disposition": f'attachment; filename="rollout-{found["id"]}.{kind}"'}
    return Response(text.encode(), headers=named, media_type=_TYPES[kind])


async def _asking(page: Asked, id: str, template: str, title: str, **values: Any) -> Response:
    rollout, counts = await page.fleet.rollouts.get(page.who, id)
    crumbs = [("Rollouts", f"{HERE}/"), (_title(rollout), f"{HERE}/{id}")]
    return await page.show(
        template, "rollouts", title, rollout=rollout, counts=counts, crumbs=crumbs, here_path=HERE, **values
    )  # fmt: skip


async def _users(page: Asked) -> dict[str, str]:
    return {each.id: each.name for each in await page.fleet.users.list(page.who)}


# -- what is shown


def _title(rollout: Rollout) -> str:
    what = f"{rollout.operation} on {rollout.servers} server{'' if rollout.servers == 1 else 's'}"
    return f"Plan: {what}" if rollout.plans else what


def _finished(rollout: Rollout) -> str:
    return "" if rollout.finished_at is None else rollout.finished_at.isoformat()


def _after(page: Asked) -> int:
    word = page.request.query_params.get("after", "")
    return int(word) if word.isascii() and word.isdigit() and len(word) < 10 else -1


def _next_page(rollout: Rollout, members: list[RolloutServer]) -> str:
    more = members and members[-1].position + 1 < rollout.servers
    return f"{HERE}/{rollout.id}?after={members[-1].position}" if more else ""


def _span(rollout: Rollout, members: list[RolloutServer], after: int) -> str:
    return f"{after + 2} to {members[-1].position + 1} of {rollout.servers}" if members else ""


def _can(counts: dict[str, Any]) -> int:
    """Return on how many servers what was planned can be done."""
    return sum(counts["states"][state] for state in _WELL)


def _failed(failures: list[tuple[str, int, datetime]]) -> Shown | None:
    """Return what a page tells of failures, None where there are none."""
    return Shown(sum(count for _, count, _ in failures), max(last for *_, last in failures)) if failures else None


def _bar(states: dict[str, int]) -> list[dict[str, Any]]:
    """Return the parts of a bar that is 1000 wide: state, how many, where it begins, how wide it is."""
    total, begins, parts = max(1, sum(states.values())), 0.0, []
    for state in ("succeeded", "unchanged", "failed", "cancelled", "held", "running", "waiting"):
        if states[state]:
            wide = states[state] * 1000 / total
            parts.append({"state": state, "count": states[state], "x": round(begins, 1), "wide": round(wide, 1)})
            begins += wide
    return parts


_REACH = "another port or jump servers, which stay with the servers"
_BUTTONS = Buttons("\u201cOtherwise\u201d", reach=_REACH)
# What a plan could not look at is among the failed tasks, and tried again there: the plan is then as that went. There the button
# above a cause says what helps by that cause; the one in each task's row is always called this.
_OF_PLANS = Buttons("\u201cOtherwise\u201d among its failed tasks", "\u201cRetry\u201d among its failed tasks")


def _cause(cause: str, count: int, plans: bool) -> dict[str, Any]:
    known = CAUSES.get(cause)
    told = handling(cause) if known else ""
    doing = here(told, _OF_PLANS if plans else _BUTTONS)
    return {"cause": cause, "servers": count, "meaning": known.meaning if known else "", "handling": told, "here": doing}


def _request(rollout: Rollout) -> list[tuple[str, str]]:
    hidden = ("keypair_id", "plan", "replaces_id", "given", "password_of")
    found = {name: value for name, value in rollout.request.items() if name not in hidden and value not in (None, False, [])}
    return [(name.replace("_", " "), _in_words(value)) for name, value in found.items()]


def _strategy(rollout: Rollout) -> list[tuple[str, str]]:
    found = {name: value for name, value in rollout.strategy.items() if value not in (None, False, {}, [])}
    return [(name.replace("_", " "), _in_words(value)) for name, value in found.items()]


def _in_words(value: Any) -> str:
    if value is True:
        return "yes"
    if isinstance(value, dict):
        return ", ".join(f"{name}={each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _chart(course: Any) -> Markup:
    """Return the picture of a run as a part of a page. It is made as XML, so that what others wrote is text in it."""
    return Markup(picture(course, in_page=True)) if course["over_time"]["points"] else Markup()  # noqa: S704


def _alike(looks: list[Look]) -> list[dict[str, Any]]:
    """Return what a plan would do, on how many servers and on which: the same where it is the same."""
    groups: defaultdict[str, list[Look]] = defaultdict(list)
    for each in looks:
        if not each.cause:
            groups["\n".join(_changes(each))].append(each)
    found = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return [{"told": told, "servers": len(of), "names": [each.server for each in of]} for told, of in found]


def _changes(look: Look) -> list[str]:
    lines = [look.first] if look.first else []
    for change in look.changes:
        aspects = change.get("kind") in ("mode", "owner", "label")
        told = f": {change.get('before')} to {change.get('after')}" if aspects else ""
        lines.append(f"@@ {change.get('kind')} {change.get('path')}{told}")
        lines += map(str, change.get("lines", []))
    if look.locked_out:
        lines.append(f"- locked out: {', '.join(look.locked_out)}")
    return lines or ["nothing would be changed"]
