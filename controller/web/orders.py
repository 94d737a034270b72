"""Orders for servers: what is to be done, the plan of it, and then that it is done as it was planned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from controller.errors import Conflict, Invalid, NotFound, Problem
from controller.model import Credential, KeyPair, Rollout, Secret, Server
from controller.service.roles import allow
from controller.service.rolloutplans import Look, Sealed
from controller.web.asking import Asked, Form, Page
from controller.web.seeking import MOST, sought_by

router = APIRouter(prefix="/orders")

OPERATIONS = {
    "bind": "Bind a key pair",
    "replace": "Replace the key pair",
    "unbind": "Unbind the key pair",
    "password-login-disable": "Turn password login off",
    "password-login-enable": "Turn password login on",
}
NEED_A_KEYPAIR = ("bind", "replace")
_BOXES = {
    "bind": ("keep_password_login", "fix_permissions"),
    "replace": ("close_password_login", "fix_permissions", "revoke", "everywhere", "end_sessions", "take_over"),
    "unbind": ("keep_password_login", "revoke", "everywhere", "end_sessions", "take_over", "accept_unproved"),
    "password-login-disable": ("accept_unproved",),
    "password-login-enable": (),
}
_LOCKS_OUT = ("bind", "replace", "unbind", "password-login-disable")
MOST_PASSWORDS = 20  # fields for them on one page
MOST_SHOWN = 500  # looks; a plan of more is shown on its rollout's page, where they come by page
_CHOSEN_BY = ("server", "q", "password", "bound", "failed", "everything")
_SHOWN = ("servers_sha256", "shown_sha256")  # of a plan's head: what its page has shown


@dataclass(frozen=True, slots=True)
class Alike:
    """Servers on which the same would be done."""

    names: list[str]
    look: Look


@router.get("/new")
async def ask(page: Page, operation: str = "bind") -> Response:
    """Ask what is to be done on the servers that were chosen."""
    allow(page.who, "binding.order")
    query = page.request.query_params
    return await _new(page, _known(operation), {name: query.getlist(name) for name in _CHOSEN_BY}, {})


async def _new(
    page: Asked, operation: str, fields: Mapping[str, Sequence[str]], typed: Mapping[str, str], problem: Problem | None = None
) -> Response:
    # Of many the page names a few.
    chosen, total = await _chosen(page, fields, MOST_PASSWORDS)
    usable = [each for each in await page.fleet.keypairs.list(page.who) if page.may("keypair.use", each.scope)]
    return await page.show(
        "orders/new.html",
        "servers",
        OPERATIONS[operation],
        200 if problem is None else problem.status,
        crumbs=[("Servers", "/console/servers/")],
        operation=operation,
        servers=chosen,
        total=total,
        fields={name: value for name, value in fields.items() if value},
        keypairs=[(each.name, _described(each)) for each in usable],
        boxes=_BOXES[operation],
        locks_out=operation in _LOCKS_OUT,
        needs_keypair=operation in NEED_A_KEYPAIR,
        passwords=[each.name for each in chosen] if total <= MOST_PASSWORDS else [],
        typed=typed,
        problem=problem,
    )


@router.post("/plan")
async def plan(page: Page) -> Response:
    """Have the servers looked at, for a plan."""
    allow(page.who, "binding.order")
    form = page.form
    operation = _known(form.text("operation"))
    fields = {name: form.all(name) for name in _CHOSEN_BY}
    chosen, _ = await _chosen(page, fields, MOST)
    try:
        begun = await _planned(page, operation, chosen)
    except (Invalid, NotFound) as problem:
        await page.note_refused(problem)
        names = ("keypair", "login", "accept_lockout", *_BOXES[operation])
        return await _new(page, operation, fields, {name: form.long_text(name) for name in names if form.on(name)}, problem)
    return page.go(f"/console/orders/plans/{begun.id}")


async def _planned(page: Asked, operation: str, chosen: Sequence[Server]) -> Rollout:
    form = page.form
    request: dict[str, Any] = {name: True for name in _BOXES[operation] if form.on(name)} | {"plan": True}
    if operation in NEED_A_KEYPAIR:
        request["keypair"] = form.text("keypair") or None
    if login := form.text("login", most=65):
        request["login"] = login
    if operation in _LOCKS_OUT and (lost := form.text("accept_lockout").replace(",", " ").split()):
        request["accept_lockout"] = lost
    return await page.fleet.rollouts.start(page.who, operation, chosen, request, {}, await credentials(form, chosen))


@router.get("/plans/{id}")
async def show_plan(page: Page, id: str) -> Response:
    """Show what would be done, server by server, and ask whether it is to be."""
    rollout, counts = await page.fleet.rollouts.get(page.who, id)
    if rollout.servers > MOST_SHOWN:
        return page.go(f"/console/rollouts/{id}")
    ready = rollout.state == "finished"
    looks = await page.fleet.rollout_plans.looks(page.who, id) if ready else []
    held, problem = await _held(page, id, looks) if ready else ({}, "")
    able = [look for look in looks if look.seen is not None and look.cause is None]
    others = [look for look in looks if look.seen is None or look.cause is not None]
    return await page.show(
        "orders/plan.html",
        "servers",
        f"Plan: {OPERATIONS.get(rollout.operation, rollout.operation).lower()}",
        crumbs=[("Servers", "/console/servers/")],
        rollout=rollout,
        looked=sum(counts["states"][each] for each in ("succeeded", "unchanged", "failed", "cancelled", "held")),
        ready=ready,
        alike=_alike(able),
        others=others,
        able=len(able),
        held=held,
        problem=problem,
        begun=await page.fleet.rollout_plans.begun_as(page.who, id) if ready else None,
        passwords=[look.server for look in able] if len(able) <= MOST_PASSWORDS else [],
    )


@router.post("/plans/{id}/start")
async def start(page: Page, id: str) -> Response:
    """Do what was planned and shown, on the servers that are still as they were seen."""
    allow(page.who, "binding.order")
    sealed = await _as_shown(page, id)
    known = {look.server: look.server_id for look in await page.fleet.rollout_plans.looks(page.who, id)}
    given = await _given(page.form, known)
    begun, left_out = await page.fleet.rollout_plans.start(page.who, id, given, sealed)
    said = f"Begun on {begun.servers} {'server' if begun.servers == 1 else 'servers'}"
    out = sum(left_out.values())
    return page.go(f"/console/orders/{begun.id}", f"{said}; {out} stay out, as the plan says" if out else said)


@router.get("/{id}")
async def follow(page: Page, id: str, after: int = -1) -> Response:
    """Show what comes of an order, as it goes."""
    rollout, counts = await page.fleet.rollouts.get(page.who, id)
    members = await page.fleet.rollouts.servers(page.who, id, max(-1, min(after, 2**31)), 100)
    tasks = {
        task.id: task for task in await page.fleet.tasks.list(page.who, ids=[each.task_id for each in members if each.task_id])
    }
    return await page.show(
        "orders/run.html",
        "servers",
        OPERATIONS.get(rollout.operation, rollout.operation),
        crumbs=[("Servers", "/console/servers/")],
        rollout=rollout,
        states={name: count for name, count in counts["states"].items() if count},
        members=[(each, tasks.get(each.task_id or "")) for each in members],
        next=f"/console/orders/{rollout.id}?after={members[-1].position}" if len(members) == 100 else "",
    )


async def _held(page: Asked, id: str, looks: Sequence[Look]) -> tuple[dict[str, str], str]:
    """Return what the form of a plan that was shown holds its start to; nothing, and why, where it cannot be begun any more.

    By the looks that were shown themselves: what is seen of a server since has the form refused, and is never agreed to unseen.
    """
    try:
        sealed = await page.fleet.rollout_plans.sealed(page.who, id, looks)
    except Conflict as problem:
        return {}, problem.message
    return {name: str(sealed.head[name]) for name in _SHOWN}, ""


async def _as_shown(page: Asked, id: str) -> Sealed:
    """Return a plan that is as the page showed it from which this form comes.

    Invalid(form_incomplete): the form does not say what was shown; Conflict(plan_outdated): it was something else.
    """
    shown = {name: page.form.text(name) for name in _SHOWN}
    if not all(shown.values()):
        raise Invalid("form_incomplete", f"plan {id}: the form does not say what was shown; open the plan and start it there")
    sealed = await page.fleet.rollout_plans.sealed(page.who, id)
    if any(sealed.head[name] != text for name, text in shown.items()):
        raise Conflict("plan_outdated", f"plan {id}: servers were looked at again since its page was made; look at it anew")
    return sealed


async def credentials(form: Form, chosen: Sequence[Server]) -> dict[str, Credential]:
    """Return what was given to open servers, by their ids: a password for each by itself, a key for all."""
    return await _given(form, {each.name: each.id for each in chosen})


async def _given(form: Form, known: Mapping[str, str]) -> dict[str, Credential]:
    identity = await form.file("identity_file") or form.secret("identity")
    passphrase, of = form.secret("passphrase"), form.text("password_of", most=65) or None
    found = {}
    for name, server_id in known.items():
        password = form.secret(f"password.{name}")
        if password is not None or identity is not None:
            whose = of if password is not None else None
            found[server_id] = Credential(password, whose, _copy(identity), _copy(passphrase) if identity else None)
    for each in (identity, passphrase):
        if each is not None:
            each.wipe()
    return found


def _copy(secret: Secret | None) -> Secret | None:
    return None if secret is None else Secret(secret.open())


async def _chosen(page: Asked, fields: Mapping[str, Sequence[str]], most: int) -> tuple[list[Server], int]:
    """Return the servers that were ticked, or so many at most of all that a search finds; and how many that are in all."""
    if fields.get("everything"):
        first = {name: value[0] if value else "" for name, value in fields.items()}
        found, total = await page.fleet.standing.found(page.who, sought_by(first), most)
        if total > MOST:
            raise Invalid("too_many_servers", f"more than {MOST} servers; search for fewer")
        return found, total
    names = [name for name in fields.get("server", ()) if "=" not in name]
    if not names:
        raise Invalid("no_servers", "choose at least one server: tick its box in the list")
    chosen = await page.fleet.servers.select(page.who, names)
    return chosen, len(chosen)


def _known(operation: str) -> str:
    if operation not in OPERATIONS:
        raise Invalid("operation_unknown", f"{operation[:64]}: one of {', '.join(OPERATIONS)}")
    return operation


def _described(keypair: KeyPair) -> str:
    whose = "of the account" if keypair.scope == "account" else "private"
    return f"{keypair.name} ({keypair.type}, {whose}{'' if keypair.managed else ', private half not here'})"


def _alike(looks: Sequence[Look]) -> list[Alike]:
    """Return looks by what they would do, those of most servers first."""
    groups: dict[str, Alike] = {}
    for look in looks:
        told = repr((look.changes, look.locked_out, look.first, look.message.replace(look.server, "")))
        groups.setdefault(told, Alike([], look)).names.append(look.server)
    return sorted(groups.values(), key=lambda each: -len(each.names))
