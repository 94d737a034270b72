"""Emergency: the doors, and where password login is on, since when and by whose order; and closing that, with a plan."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from controller.errors import Invalid
from controller.events import KINDS
from controller.model import Event, Server, Task
from controller.web import doors
from controller.web.asking import Page
from controller.web.door import ROOT

HERE = f"{ROOT}/emergency"
PAGE = 50
_LONGEST_NAME = 253

router = APIRouter(prefix="/emergency")


@router.get("/")
async def listed(page: Page) -> Response:
    """Show the servers on which password login is on."""
    fleet, who = page.fleet, page.who
    after = page.request.query_params.get("after", "")[:_LONGEST_NAME]
    servers, total = await fleet.servers.taking(who, "on", after, PAGE)
    since = {each.id: await fleet.servers.since(who, each) for each in servers}
    ids = [event.task_id for event in since.values() if event is not None and event.task_id]
    tasks = {each.id: each for each in await fleet.tasks.list(who, ids=ids)} if ids else {}
    bound: dict[str, list[str]] = {each.id: [] for each in servers}
    for binding, name in await fleet.servers.bindings(who, *bound) if bound else []:
        bound[binding.server_id].append(f"{name or 'a private one of another user'} ({binding.login})")
    users = {each.id: each.name for each in await fleet.users.list(who)}
    return await page.show(
        "emergency/list.html",
        "emergency",
        "Emergency",
        rows=[_row(each, since[each.id], tasks, bound[each.id], users) for each in servers],
        total=total,
        unknown=(await fleet.servers.taking(who, "unknown", limit=1))[1],
        next_page=f"{HERE}/?after={servers[-1].name}" if len(servers) == PAGE else "",
        first_page=f"{HERE}/" if after else "",
        here_path=HERE,
        asked=page.request.query_params.get("server", "")[:_LONGEST_NAME],
        **await doors.shown(page, users),
    )


@router.post("/close")
async def close(page: Page) -> Response:
    """Plan to switch password login off: on the servers that were chosen, or on all where it is on."""
    fleet, who, form = page.fleet, page.who, page.form
    if form.on("every"):
        servers, _ = await fleet.servers.taking(who, "on")
    else:
        names = form.all("server")
        if not names:
            raise Invalid("selection_empty", "choose a server at least")
        servers = await fleet.servers.select(who, names)
    begun = await fleet.rollouts.start(who, "password-login-disable", servers, {"plan": True}, {}, {})
    return page.go(f"{ROOT}/rollouts/{begun.id}")


def _row(server: Server, since: Event | None, tasks: dict[str, Task], bound: list[str], users: dict[str, str]) -> dict[str, Any]:
    task = tasks.get(since.task_id or "") if since is not None else None
    noted = "" if since is None else KINDS.get(since.kind, since.kind)
    waiting = [login for login, waits in (server.after_reset or {}).items() if waits.get("close_passwords")]
    return {
        "server": server,
        "since": None if since is None else since.at,
        "task": task,
        "told": noted if task is None else f"{task.operation} of {task.login}",
        "by": "" if since is None or since.user_id is None else users.get(since.user_id, ""),
        "bound": bound,
        "waiting": waiting,
    }
