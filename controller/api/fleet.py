"""Our own REST API, /fleet/v1: the services' verbs as routes, and nothing more."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import ValidationError

from controller.api import shapes
from controller.api.problems import found_wrong
from controller.api.shapes import Json
from controller.errors import Invalid, Problem
from controller.model import Caller, Credential, Secret, Task
from controller.service.bindings import Bindings
from controller.service.keypairs import Keypairs
from controller.service.servers import Servers
from controller.service.tasks import Tasks

WAIT_SECONDS = 30  # the longest that a question for events may wait
IMPORTED_AT_ONCE = 5000
ONE_TIME_PASSWORD_CHARACTERS = 16
LEGIBLE = "abcdefghijkmnpqrstuvwxyz23456789"  # none that reads like another one


@dataclass(frozen=True)
class Fleet:
    """What the routes work with."""

    keypairs: Keypairs
    servers: Servers
    bindings: Bindings
    tasks: Tasks
    caller: Callable[[Request], Awaitable[Caller]]


def fleet_of(request: Request) -> Fleet:
    """Return what the application was started with."""
    fleet: Fleet = request.app.state.fleet
    return fleet


Serving = Annotated[Fleet, Depends(fleet_of)]


async def caller_of(request: Request, fleet: Serving) -> Caller:
    """Return who asks."""
    return await fleet.caller(request)


Asking = Annotated[Caller, Depends(caller_of)]
Words = Annotated[list[str], Query(default_factory=list, max_length=1000)]
router = APIRouter(prefix="/fleet/v1")


@router.get("/health")
async def health() -> Json:
    """Say that the controller answers."""
    return {"status": "ok"}


# key pairs


@router.get("/keypairs")
async def list_keypairs(fleet: Serving, who: Asking) -> list[Json]:
    """List the key pairs that the caller may see."""
    return [shapes.keypair(found) for found in await fleet.keypairs.list(who)]


@router.post("/keypairs", status_code=201)
async def create_keypair(fleet: Serving, who: Asking, asked: shapes.NewKeypair) -> Json:
    """Generate a key pair; the private half of an unmanaged one is in this answer and nowhere else."""
    made, private = await fleet.keypairs.create(who, asked.name, asked.type, asked.scope, asked.managed)
    shape = shapes.keypair(made)
    if private is not None:
        shape["private_key"] = private.open().decode("ascii")
    return shape


@router.post("/keypairs/import", status_code=201)
async def import_keypair(fleet: Serving, who: Asking, asked: shapes.ImportedKeypair) -> Json:
    """Take in a public key, or a private key and with it both halves."""
    return shapes.keypair(
        await fleet.keypairs.import_(
            who,
            asked.name,
            scope=asked.scope,
            public_key=asked.public_key,
            private_key=shapes.secret(asked.private_key),
            passphrase=shapes.secret(asked.passphrase),
        )
    )


@router.get("/keypairs/{name}")
async def show_keypair(fleet: Serving, who: Asking, name: str) -> Json:
    """Show one key pair."""
    return shapes.keypair(await fleet.keypairs.get(who, name))


@router.post("/keypairs/{name}/export")
async def export_keypair(fleet: Serving, who: Asking, name: str) -> Json:
    """Give the private half to the person who asks for it."""
    private = await fleet.keypairs.export(who, name)
    return {"name": name, "private_key": private.open().decode("ascii")}


@router.delete("/keypairs/{name}", status_code=204)
async def delete_keypair(fleet: Serving, who: Asking, name: str) -> None:
    """Delete a key pair that is bound nowhere."""
    await fleet.keypairs.delete(who, name)


# servers


@router.get("/servers")
async def list_servers(fleet: Serving, who: Asking, select: Words, all: bool = False) -> list[Json]:
    """List servers: all of them, or those that names and label=value select."""
    found = await fleet.servers.select(who, select, all) if select or all else await fleet.servers.list(who)
    bindings, names = await fleet.servers.bindings(who), await fleet.servers.jump_names(who)
    return [shapes.server(one, [pair for pair in bindings if pair[0].server_id == one.id], names) for one in found]


@router.post("/servers", status_code=201)
async def add_server(fleet: Serving, who: Asking, asked: shapes.NewServer) -> Json:
    """Add a server; with trust on first use its host key is recorded before anything else is sent to it."""
    return shapes.server(await fleet.servers.add(who, **asked.model_dump()), [], await fleet.servers.jump_names(who))


@router.post("/servers/import", status_code=201)
async def import_servers(fleet: Serving, who: Asking, asked: list[Any], check: bool = False) -> list[Json]:
    """Add all of these servers, or none of them; what is wrong with each is told by its place in the list.

    Each is a NewServer. check: only look what is wrong, and add none.
    """
    if len(asked) > IMPORTED_AT_ONCE:
        raise Invalid("too_many_servers", f"{len(asked)} servers at once; send at most {IMPORTED_AT_ONCE}")
    added = await fleet.servers.add_all(who, [to_be_added(each) for each in asked], only_check=check)
    names = await fleet.servers.jump_names(who)
    return [shapes.server(one, [], names) for one in added]


@router.get("/servers/{name}")
async def show_server(fleet: Serving, who: Asking, name: str) -> Json:
    """Show one server."""
    found = await fleet.servers.get(who, name)
    return shapes.server(found, await fleet.servers.bindings(who, found), await fleet.servers.jump_names(who))


@router.patch("/servers/{name}")
async def change_server(fleet: Serving, who: Asking, name: str, asked: shapes.ChangedServer) -> Json:
    """Change how a server is reached; what is left out stays as it is."""
    found = await fleet.servers.change(who, name, **asked.model_dump())
    return shapes.server(found, await fleet.servers.bindings(who, found), await fleet.servers.jump_names(who))


@router.delete("/servers/{name}", status_code=204)
async def remove_server(fleet: Serving, who: Asking, name: str, force: bool = False) -> None:
    """Take a server out of the inventory; nothing is changed on it."""
    await fleet.servers.remove(who, name, force=force)


# operations, tasks, events


@router.post("/operations", status_code=202)
async def start(fleet: Serving, who: Asking, asked: shapes.NewOperation) -> list[Json]:
    """Start an operation: one task for each server, answered at once and run from now on."""
    chosen = await fleet.servers.select(who, asked.servers, asked.all)
    strangers = sorted(asked.credentials.keys() - {one.name for one in chosen})
    if strangers:
        raise Invalid("credential_for_others", f"credentials for servers that were not selected: {', '.join(strangers)}")
    opens = {one.id: asked.opens(one.name) for one in chosen}
    given = {server_id: credential for server_id, credential in opens.items() if credential is not None}
    one_time: dict[str, str] = {}
    if asked.operation == "reset":
        refuse_for_reset(bool(given))
        if asked.set_password:
            one_time = {one.id: one_time_password() for one in chosen}
            given = {server_id: Credential(password=Secret(password)) for server_id, password in one_time.items()}
    tasks = await fleet.bindings.start(who, asked.operation, chosen, asked.options(), given)
    return [with_password(task, one_time.get(task.server_id)) for task in tasks]


@router.get("/tasks")
async def list_tasks(fleet: Serving, who: Asking, id: Words, failed: bool = False, running: bool = False) -> list[Json]:
    """List tasks, in the order in which they were asked for."""
    return [shapes.task(found) for found in await fleet.tasks.list(who, failed, running, id or None)]


@router.get("/tasks/{id}")
async def show_task(fleet: Serving, who: Asking, id: str) -> Json:
    """Show one task with all that is known of it."""
    return shapes.task(await fleet.tasks.get(who, id))


@router.post("/tasks/{id}/retry", status_code=202)
async def retry_task(fleet: Serving, who: Asking, id: str, asked: shapes.Retry) -> Json:
    """Ask once more for what failed: a new task, with the options of the old one."""
    failed = await fleet.tasks.get(who, id)
    credential = asked.credential.credential() if asked.credential else None
    one_time = None
    if failed.operation == "reset":
        refuse_for_reset(credential is not None)
        if failed.request.get("set_password"):
            one_time = one_time_password()
            credential = Credential(password=Secret(one_time))
    return with_password(await fleet.tasks.retry(who, id, credential), one_time)


@router.delete("/tasks/{id}")
async def delete_task(fleet: Serving, who: Asking, id: str) -> Json:
    """Take one failed task off the list, or cancel one that nobody has begun."""
    done = await fleet.tasks.delete(who, id)
    return {"deleted": int(done == "deleted"), "cancelled": int(done == "cancelled")}


@router.delete("/tasks")
async def delete_failed_tasks(fleet: Serving, who: Asking) -> Json:
    """Take every failed task off the list."""
    return {"deleted": await fleet.tasks.delete_failed(who)}


@router.get("/events")
async def events(
    fleet: Serving,
    who: Asking,
    task: Words,
    after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,  # what the store can count to
    wait: Annotated[float, Query(ge=0, le=WAIT_SECONDS)] = 0,
) -> list[Json]:
    """Return what happened after an event, the oldest first; with wait, not before there is something."""
    return [shapes.event(found) for found in await fleet.tasks.events(who, after, task or None, wait)]


def to_be_added(given: Any) -> Json | Problem:
    """Return one server of several as the service takes it, or what is wrong with it."""
    try:
        return shapes.NewServer.model_validate(given).model_dump()
    except ValidationError as error:
        return Invalid("invalid", "; ".join(found_wrong(error.errors(include_input=False))))


def refuse_for_reset(given: bool) -> None:
    """Refuse a credential for a reset: it opens nothing, and the only password there is the one that is set."""
    if given:
        raise Invalid("credential_not_used", "a reset opens the disk, not a login: give no password and no key")


def one_time_password() -> str:
    """Return a new password that a person can read out and type."""
    return "".join(secrets.choice(LEGIBLE) for _ in range(ONE_TIME_PASSWORD_CHARACTERS))


def with_password(task: Task, one_time: str | None) -> Json:
    """Return a task, with the password that it sets: in this answer and nowhere else."""
    return shapes.task(task) | ({"password": one_time} if one_time else {})
