"""Servers: the list, one server with what its doctor found, and the inventory's own verbs."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from controller.errors import AlreadyExists, Invalid, NotFound, Problem
from controller.model import Server, Task
from controller.service.roles import allow
from controller.web.asking import Asked, Page
from controller.web.live import LARGEST
from controller.web.orders import OPERATIONS, credentials
from controller.web.seeking import path, sought_by

router = APIRouter()
LIST = "/console/servers/"
PAGE = 100
_TASKS = 25
_BACK = [("Servers", LIST)]
_NEW = ("name", "host", "port", "login", "labels", "jump", "host_key", "trust_on_first_use")  # what is filled in of a new one


@router.get("/servers/")
async def listed(page: Page, q: str = "", password: str = "", bound: str = "", failed: str = "", after: str = "") -> Response:
    """List servers: those that are sought, a page at a time."""
    fields = {"q": q, "password": password, "bound": bound, "failed": failed}
    found, total = await page.fleet.standing.servers(page.who, sought_by(fields), after[:255], PAGE)
    return await page.show(
        "servers/list.html",
        "servers",
        "Servers",
        found=found,
        total=total,
        fields=fields,
        sought=any(fields.values()),
        how_proved=how_proved,
        operations=OPERATIONS,
        here_path=path(LIST, fields, after=after),
        first=path(LIST, fields) if after else "",
        next=path(LIST, fields, after=found[-1].server.name) if len(found) == PAGE else "",
        may_order=page.may("binding.order"),
    )


@router.get("/add-server")
async def ask_new(page: Page) -> Response:
    """Ask what is to be known of a new server."""
    allow(page.who, "server.change")
    return await _new(page, {"port": "22", "login": "root"})


async def _new(page: Asked, typed: Mapping[str, str], problem: Problem | None = None) -> Response:
    status = 200 if problem is None else problem.status
    return await page.show("servers/add.html", "servers", "Add a server", status, crumbs=_BACK, typed=typed, problem=problem)


@router.post("/add-server")
async def add(page: Page) -> Response:
    """Take a server in."""
    form = page.form
    key = form.text("host_key", most=4000)
    name = form.text("name", most=253)
    try:
        made = await page.fleet.servers.add(
            page.who,
            name,
            form.text("host", most=253),
            form.number("port", 22) or 0,
            form.text("login", most=65) or "root",
            labels(form.long_text("labels", most=4000)),
            key or None,
            not key and form.on("trust_on_first_use"),
            form.text("jump").replace(",", " ").split(),
        )
    except (Invalid, NotFound, AlreadyExists) as problem:
        await page.note_refused(problem)
        return await _new(page, {each: form.long_text(each, most=4000) for each in _NEW if form.on(each)}, problem)
    return page.go(f"{LIST}{made.name}", f"{made.name} is in the inventory; nothing was changed on it")


@router.get("/servers/{name}")
async def show(page: Page, name: str, before: Annotated[int | None, Query(ge=0, le=LARGEST)] = None) -> Response:
    """Show one server."""
    stands = await page.fleet.standing.one(page.who, name)
    server = stands.server
    tasks = await page.fleet.standing.tasks(page.who, server.id, before, _TASKS)
    jumps = await page.fleet.servers.jump_names(page.who, [server])
    checked = await page.fleet.standing.checked(page.who, server.id)
    return await page.show(
        "servers/server.html",
        "servers",
        server.name,
        crumbs=_BACK,
        stands=stands,
        how_proved=how_proved,
        server=server,
        logins=_logins(server, stands.bound),
        jumps=[jumps.get(each, each) for each in server.jumps],
        host_key=_host_key(server),
        checked=checked,
        findings=[] if checked is None else _findings(checked),
        tasks=tasks,
        newer=f"{LIST}{server.name}#history" if before is not None else "",
        older=f"{LIST}{server.name}?before={tasks[-1].seq}#history" if len(tasks) == _TASKS else "",
        operations=OPERATIONS,
        may_order=page.may("binding.order"),
        may_change=page.may("server.change"),
        after_reset=_after_reset,
        keypairs=[
            (each.name, each.name) for each in await page.fleet.keypairs.list(page.who) if page.may("keypair.use", each.scope)
        ]
        if server.reset_root
        else [],
    )


@router.post("/servers/{name}/check")
async def check(page: Page, name: str) -> Response:
    """Have the server looked at by its doctor; repair: and have mended what can be mended safely."""
    server = await page.fleet.servers.get(page.who, name)
    repair = page.form.on("repair")
    request: dict[str, Any] = {"repair": repair or None, "login": page.form.text("login", most=65) or None}
    await page.fleet.bindings.start(page.who, "check", [server], request, await credentials(page.form, [server]))
    told = "is looked at, and repaired where that is safe" if repair else "is looked at"
    return page.go(f"{LIST}{server.name}", f"{server.name} {told}; what is found is shown here")


@router.post("/servers/{name}/reset")
async def reset(page: Page, name: str) -> Response:
    """Give a server that is shut down a new key, on its mounted disk."""
    server = await _meant(page, name)
    if not server.reset_root:
        raise Invalid("root_missing", f"{server.name}: its disk is mounted nowhere that is known; see docs/operations.md")
    if page.form.text("confirmed", most=253) != server.name:
        raise Invalid("not_confirmed", f"type the server's name, {server.name}, to say that its keys are to be reset")
    request = {
        "keypair": page.form.text("keypair") or None,
        "root": server.reset_root,
        "login": page.form.text("login", most=65) or None,
    }
    await page.fleet.bindings.start(page.who, "reset", [server], request, {})
    return page.go(f"{LIST}{server.name}", f"{server.name}: the reset of its disk has begun")


@router.get("/servers/{name}/change")
async def ask_changes(page: Page, name: str) -> Response:
    """Ask how a server is to be reached."""
    allow(page.who, "server.change", what=name)
    server = await page.fleet.servers.get(page.who, name)
    jumps = await page.fleet.servers.jump_names(page.who, [server])
    return await page.show(
        "servers/change.html",
        "servers",
        f"Change {server.name}",
        crumbs=[*_BACK, (server.name, f"{LIST}{server.name}")],
        server=server,
        jumps=" ".join(jumps.get(each, each) for each in server.jumps),
    )


@router.post("/servers/{name}/change")
async def change(page: Page, name: str) -> Response:
    """Have a server reached otherwise from its next task on."""
    form, server = page.form, await _meant(page, name)
    host, port = form.text("host", most=253), form.number("port", 22)
    moved = (host, port) != (server.host, server.port)
    changed = await page.fleet.servers.change(
        page.who, server.id, host if moved else None, port if moved else None, form.text("jump").replace(",", " ").split()
    )
    return page.go(f"{LIST}{changed.name}", f"{changed.name} is reached so from its next task on; its host key stays")


@router.get("/servers/{name}/remove")
async def ask_removal(page: Page, name: str) -> Response:
    """Say what removing a server means, and ask."""
    allow(page.who, "server.change", what=name)
    stands = await page.fleet.standing.one(page.who, name)
    server = stands.server
    return await page.show(
        "servers/remove.html",
        "servers",
        f"Remove {server.name}",
        crumbs=[*_BACK, (server.name, f"{LIST}{server.name}")],
        server=server,
        bound=stands.bound,
    )


@router.post("/servers/{name}/remove")
async def remove(page: Page, name: str) -> Response:
    """Take a server out of the inventory."""
    server = await _meant(page, name)
    await page.fleet.servers.remove(page.who, server.id, force=page.form.on("force"))
    return page.go(LIST, f"{server.name} is out of the inventory; nothing was changed on it")


async def _meant(page: Asked, name: str) -> Server:
    """Return the server of a name, if it is the one that the form's page was about."""
    server = await page.fleet.servers.get(page.who, name)
    page.refuse_another(server.name, server.id)
    return server


def labels(text: str) -> dict[str, str]:
    """Return labels that were typed one a line, as label=value. Invalid for a line that is none."""
    found = {}
    for line in filter(None, (each.strip() for each in text.split("\n"))):
        label, equals, value = line.partition("=")
        if not equals:
            raise Invalid("label_unusable", f"{line[:64]}: give each label on a line of its own, as env=prod")
        found[label.strip()] = value.strip()
    return found


# From what says most that somebody gets in to what says least.
_PROOFS = {
    "logged_in": "a login",
    "accepted": "the key is taken; nobody logged in",
    "password_offered": "passwords are asked for",
    "not_applicable": "none needed: its disk was at rest",
    "refused": "what was taken away is refused",
}


def how_proved(task: Task) -> str:
    """Return in words the proof of a task that says most."""
    methods = [str(each.get("method")) for each in task.proofs]
    return next((words for method, words in _PROOFS.items() if method in methods), methods[-1].replace("_", " "))


def _logins(server: Server, bound: list[Any]) -> list[tuple[str, list[Any]]]:
    """Return the logins that are known, the server's own first, each with what is bound there."""
    by_login: dict[str, list[Any]] = {server.login: []}
    for binding, keypair in bound:
        by_login.setdefault(binding.login, []).append((binding, keypair))
    return list(by_login.items())


def _after_reset(waits: Mapping[str, Any]) -> str:
    """Return what the first proof after a reset takes away from a login."""
    count = len(waits.get("remove", ()))
    keys = "one old key" if count == 1 else f"{count} old keys" if count else ""
    return " and ".join(filter(None, (keys, "password login" if waits.get("close_passwords") else ""))) or "nothing"


def _host_key(server: Server) -> tuple[str, str] | None:
    """Return the kind and the fingerprint of the host key on record, as ssh-keygen -l tells it."""
    if server.host_key is None:
        return None
    kind, encoded = server.host_key.split(" ")[:2]
    digest = hashlib.sha256(base64.b64decode(encoded)).digest()
    return kind, "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _findings(task: Task) -> list[Mapping[str, Any]]:
    found = task.evidence.get("findings")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
