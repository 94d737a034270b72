"""Failed tasks: what failed by which cause, what to do about it, and trying it again; and the page of one task of any status."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from controller.causes import CAUSES, handling
from controller.errors import Invalid, NotFound, Problem
from controller.events import KINDS
from controller.model import DOOR_OPERATIONS, Event, Server, Task
from controller.service.failures import Done
from controller.service.roles import allow
from controller.web.asking import Asked, Page, fit_path
from controller.web.door import ROOT
from controller.web.given import given
from controller.web.here import Buttons, here
from controller.web.rendering import what
from controller.web.selecting import SINCE, Selected, Shown

HERE = f"{ROOT}/failed-tasks"
FIRST = 5  # tasks of a cause that its card shows
MOST_CAUSES = 30  # cards
PAGE = 50
RETRIES = 8  # the last ones
NAMED = 8
ROLLOUTS = 20  # of which the filter offers one
TIMES = (("", "Any time"), *((name, f"Last {name}") for name in SINCE))
_MOST_EVENTS = 500
_LONGEST_VALUE = 300  # characters of a piece of evidence in a list
_LONGEST = 64 * 1024  # of all evidence
_REACHED = ("host", "port", "jump", "directly")
_GIVEN = ("password", "identity", "agent", "certificate")
# A way in that is another one is what helps here.
_OPENS = frozenset(
    {"wrong_password", "password_refused", "private_key_unreadable", "passphrase_wrong", "key_mismatch", "key_refused",
     "credential_needed", "prompt_not_password", "agent_unusable", "certificate_unusable"}
)  # fmt: skip

router = APIRouter(prefix="/failed-tasks")


@router.get("/")
async def listed(page: Page) -> Response:
    """Show them by cause, or those of one cause by page."""
    selected, before = Selected.asked(page.request.query_params), _before(page)
    which, fleet, who = selected.which, page.fleet, page.who
    causes = await fleet.failures.causes(who, selected.but(cause="").which)
    cause = selected.words.get("cause")
    cards = [each for each in causes if cause in (None, each.cause)]
    tasks: dict[str, list[Task]] = {}
    next_page = ""
    if cause is None:
        for each in cards[:MOST_CAUSES]:
            tasks[each.cause] = await fleet.failures.list(who, selected.but(cause=each.cause).which, limit=FIRST)
    else:
        found = await fleet.failures.list(who, which, before, PAGE + 1)
        tasks[cause] = found[:PAGE]
        next_page = HERE + "/" + selected.query(before=found[PAGE - 1].seq) if len(found) > PAGE else ""
    return await page.show(
        "failedtasks/list.html",
        "failed-tasks",
        "Failed tasks",
        selected=selected,
        cards=[_card(each.cause, each, tasks.get(each.cause, []), selected) for each in cards[:MOST_CAUSES]],
        left=cards[MOST_CAUSES:],
        causes=causes,
        total=sum(each.tasks for each in cards),
        unclear=sum(each.unclear for each in cards),
        cause=cause,
        next_page=next_page,
        first_page=HERE + "/" + selected.query() if before is not None else "",
        retries=await fleet.failures.retries(who, RETRIES),
        times=TIMES,
        rollouts=await fleet.rollouts.page(who, None, ROLLOUTS),
        here_path=HERE,
    )


@router.get("/again")
async def again(page: Page) -> Response:
    """Ask with what, and how reached, tasks are to be tried again."""
    allow(page.who, "task.change")
    return await _again(page, Selected.asked(page.request.query_params), {})


async def _again(page: Asked, selected: Selected, typed: Mapping[str, str], problem: Problem | None = None) -> Response:
    tasks = await page.fleet.failures.list(page.who, selected.which, limit=PAGE)
    if not tasks:
        raise NotFound("nothing_failed", "none of these tasks stands failed any more")
    causes = await page.fleet.failures.causes(page.who, selected.which)
    server = await _server(page, tasks[0].server_id) if len({each.server_id for each in tasks}) == 1 else None
    jumps = {} if server is None else await page.fleet.servers.jump_names(page.who, [server])
    return await page.show(
        "failedtasks/again.html",
        "failed-tasks",
        "Retry otherwise",
        200 if problem is None else problem.status,
        typed=typed,
        problem=problem,
        selected=selected,
        tasks=tasks[:NAMED],
        count=sum(each.tasks for each in causes),
        shown=Shown.by(causes),
        server=server,
        jump=", ".join(jumps.get(each, each) for each in server.jumps) if server is not None else "",
        crumbs=[("Failed tasks", f"{HERE}/")],
        here_path=HERE,
        back=_back(page, selected),
    )


@router.post("/retry")
async def retry(page: Page) -> Response:
    """Try tasks again that were shown: as before, or with another way in, or reached otherwise."""
    allow(page.who, "task.change")
    selected = Selected.sent(page.form)
    await _refuse_more(page, selected)
    try:
        credential = await given(page.form)
        which = selected.which
        await _reach(page, selected)
    except (Invalid, NotFound) as problem:
        await page.note_refused(problem)
        typed = {name: page.form.long_text(name) for name in _REACHED if page.form.on(name)}
        return await _again(page, Selected(selected.words, selected.tasks), typed, problem)
    done = await page.fleet.failures.retry(page.who, which, credential)
    said, kind = _told(done, "is tried again", "are tried again")
    return page.go(_sent_back(page, selected), said, kind)


@router.get("/delete")
async def ask_delete(page: Page) -> Response:
    """Ask whether tasks are to be taken off the list."""
    allow(page.who, "task.change")
    selected = Selected.asked(page.request.query_params)
    causes = await page.fleet.failures.causes(page.who, selected.which)
    return await page.show(
        "failedtasks/delete.html",
        "failed-tasks",
        "Delete failed tasks",
        selected=selected,
        causes=causes,
        shown=Shown.by(causes),
        tasks=await page.fleet.failures.list(page.who, selected.which, limit=NAMED),
        crumbs=[("Failed tasks", f"{HERE}/")],
        here_path=HERE,
        back=_back(page, selected),
    )


@router.post("/delete")
async def delete(page: Page) -> Response:
    """Take tasks off the list that were shown."""
    allow(page.who, "task.change")
    selected = Selected.sent(page.form)
    await _refuse_more(page, selected)
    done = await page.fleet.failures.delete(page.who, selected.which)
    said, kind = _told(done, "is deleted", "are deleted")
    return page.go(f"{HERE}/", said, kind)


@router.get("/{id}")
async def shown(page: Page, id: str) -> Response:
    """Show all that is known of a task."""
    fleet, who = page.fleet, page.who
    task = await fleet.tasks.get(who, id)
    events = await fleet.tasks.events(who, task_ids=[task.id], limit=_MOST_EVENTS)
    return await page.show(
        "failedtasks/task.html",
        "failed-tasks",
        f"{what(task)} on {task.server_name}",
        task=task,
        row=_row(task),
        handling=_with_id(task),
        doing=here(_with_id(task), _buttons(task.cause, bool(_asked_with(task)))),
        about=CAUSES.get(task.cause or ""),
        request=_facts({name: value for name, value in task.request.items() if name not in ("keypair_id", "replaces_id")}),
        evidence=_facts({name: value for name, value in task.evidence.items() if name != "plan"}, _LONGEST),
        changes=[_change(each) for each in (task.evidence.get("plan") or {}).get("changes", [])],
        events=[_happened(each) for each in events],
        retried_as=await fleet.failures.retried_as(who, task.id),
        server=await _server(page, task.server_id),
        crumbs=[("Failed tasks", f"{HERE}/")],
        here_path=HERE,
    )


@router.post("/{id}/cancel")
async def cancel(page: Page, id: str) -> Response:
    """Give up a task that nobody has begun."""
    task = await page.fleet.tasks.get(page.who, id)
    done = await page.fleet.tasks.delete(page.who, task.id)
    return page.go(f"{HERE}/{id}" if done == "cancelled" else f"{HERE}/", f"the task on {task.server_name} is {done}")


# -- what is sent


async def _refuse_more(page: Asked, selected: Selected) -> None:
    if selected.shown is not None:
        causes = await page.fleet.failures.causes(page.who, selected.which)
        selected.shown.refuse_more(sum(each.tasks for each in causes))


async def _reach(page: Asked, selected: Selected) -> None:
    """Change how the servers of tasks are reached, where the form says so."""
    form = page.form
    host, port = form.text("host", most=255), form.number("port")
    words = [each.strip() for each in form.text("jump", most=4000).split(",")]
    jump: list[str] | None = [each for each in words if each] or None
    if form.on("directly"):
        if jump:
            raise Invalid("options_contradict", "name jump servers, or reach it directly, not both")
        jump = []
    if not host and port is None and jump is None:
        return
    servers = {each.server_id: None for each in await page.fleet.failures.list(page.who, selected.which)}
    if not servers:
        return  # somebody else has tried them again meanwhile
    if host and len(servers) != 1:
        raise Invalid("host_of_many", f"one address cannot be that of {len(servers)} servers; change them one by one")
    if host:
        await page.fleet.servers.change(page.who, next(iter(servers)), host=host, port=port, jump=jump)
    else:
        await page.fleet.servers.change_all(page.who, list(servers), port=port, jump=jump)


def _before(page: Asked) -> int | None:
    word = page.request.query_params.get("before", "")
    return int(word) if word.isascii() and word.isdigit() and len(word) < 19 else None


def _back(page: Asked, selected: Selected) -> str:
    """Return where somebody goes back to: to the task that the page is about alone, else to the list."""
    return f"{HERE}/{selected.tasks[0]}" if len(selected.tasks) == 1 else f"{HERE}/{selected.query()}"


def _sent_back(page: Asked, selected: Selected) -> str:
    back = page.form.text("back", most=64 * 1024)  # the address of a list, with all that it is narrowed by
    if back:
        return fit_path(back)
    return f"{HERE}/" if selected.tasks else f"{HERE}/{selected.but(cause='').query()}"


def _told(done: Done, one: str, many: str) -> tuple[str, Any]:
    """Return what came of many tasks, in a sentence, and whether that is good."""
    told = f"{done.tasks} {'task ' + one if done.tasks == 1 else 'tasks ' + many}"
    for code, count in done.refused.most_common(3):
        told += f"; {count} not ({code}): {done.messages[code]}"
    return told, "bad" if done.refused or not done.tasks else "good"


# -- what is shown


def _card(cause: str, failing: Any, tasks: list[Task], selected: Selected) -> dict[str, Any]:
    known, gave = CAUSES.get(cause), any(_asked_with(task) for task in tasks)
    told = "" if known is None else handling(cause)
    return {
        "cause": cause,
        "tasks": failing.tasks,
        "unclear": failing.unclear,
        "meaning": "" if known is None else known.meaning,
        "handling": told,
        "here": here(told, _buttons(cause, gave)),
        "retryable": known is None or known.retryable,
        "opens": cause in _OPENS or gave,
        "otherwise": _otherwise(cause, gave),
        "only": selected.but(cause=cause),
        "shown": Shown.by([failing]),
        "rows": [_row(task) for task in tasks],
    }


def _row(task: Task) -> dict[str, Any]:
    return {
        "task": task,
        "evidence": _facts(task.evidence),
        "opens": task.cause in _OPENS or bool(_asked_with(task)),
        "gave": ", ".join(_asked_with(task)),
        "otherwise": _otherwise(task.cause, bool(_asked_with(task))),
        # Who retries it is told a password, once: that is for a terminal.
        "tells": task.operation == "reset" and bool(task.request.get("set_password")),
        "door": task.operation in DOOR_OPERATIONS,
    }


def _otherwise(cause: str | None, gave: bool) -> str:
    """Return what the button says that leads to another way in, and to another way there."""
    if cause in _OPENS:
        return "Retry with another password or key"
    return "Retry, and give again what opens it" if gave else "Retry otherwise"


def _buttons(cause: str | None, gave: bool) -> Buttons:
    return Buttons(f"\u201c{_otherwise(cause, gave)}\u201d")


def _asked_with(task: Task) -> list[str]:
    """Return which kinds of credential came with it; none of it is kept."""
    return [name for name in _GIVEN if name in task.request.get("given", ())]


def _with_id(task: Task) -> str:
    text = task.handling or (handling(task.cause) if task.cause in CAUSES else "")
    return text.replace("kps task retry ID", f"kps task retry {task.id}")


def _facts(known: dict[str, Any], most: int = _LONGEST_VALUE) -> list[tuple[str, str]]:
    """Return evidence as names and texts; what is long is cut."""
    found = []
    for name, value in known.items():
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            text = ("\n" if most > _LONGEST_VALUE else ", ").join(value)
        else:
            text = value if isinstance(value, str) else json.dumps(value, indent=1 if most > _LONGEST_VALUE else None)
        found.append((name.replace("_", " "), text if len(text) <= most else text[:most] + " ..."))
    return found


def _change(known: dict[str, Any]) -> dict[str, Any]:
    """Return a change of a plan: what is not there is empty."""
    aspects = known.get("kind") in ("mode", "owner", "label")
    return {
        "path": known.get("path", ""),
        "kind": known.get("kind", ""),
        "told": f"{known.get('before')} to {known.get('after')}" if aspects else "",
        "diff": "\n".join(map(str, known.get("diff", [])))[:_LONGEST],
    }


def _happened(event: Event) -> dict[str, Any]:
    told = [str(event.detail[name]) for name in ("cause", "message") if event.detail.get(name)]
    files = [str(each.get("path")) for each in event.detail.get("files", ())]
    return {
        "at": event.at,
        "what": KINDS.get(event.kind, event.kind),
        "kind": event.kind,
        "phase": event.phase,
        "told": ": ".join(told),
        "files": files,
    }


async def _server(page: Asked, id: str) -> Server | None:
    try:
        return await page.fleet.servers.get(page.who, id)
    except NotFound:
        return None
