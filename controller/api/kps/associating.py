"""Key pairs on servers: bind, replace or reset, whichever it comes down to, and unbind."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from controller.api.fleet.asking import Fleet
from controller.api.kps.asking import Asking, Serving
from controller.api.kps.reading import Given, KeyText, Number, Switch, Text, body_as
from controller.api.kps.refusals import Refusal, refusal_of, wrong
from controller.errors import NotFound, Problem
from controller.model import Caller, Credential, Secret, Server, Task

Json = dict[str, Any]
MOST_AT_ONCE = 10
USUAL_PORT = 22
router = APIRouter()


class Auth(Given):
    type: Literal["password", "keypair"]
    key: Annotated[KeyText, Field(min_length=1, max_length=64 * 1024)]


class AnyServer(Given):
    id: Text
    auth: Auth | None = None
    port: Number = USUAL_PORT
    disable_password: Switch = False


class Associate(Given):
    keypair_name: Text
    server: AnyServer


class BatchAssociate(Given):
    batch_keypairs: list[Associate]


class Disassociate(Given):
    server: AnyServer


@router.post("/keypairs/associate", status_code=202)
async def associate_keypair(fleet: Serving, who: Asking, asked: Annotated[Associate, Depends(body_as(Associate))]) -> Json:
    """Put a key pair on a server's login: a first one, or in the place of another."""
    return submitted(await associate(fleet, who, asked))


@router.post("/keypairs/batch-associate", status_code=202)
async def batch_associate_keypair(
    fleet: Serving, who: Asking, asked: Annotated[BatchAssociate, Depends(body_as(BatchAssociate))]
) -> Json:
    """Put one key pair on several servers; one that is refused is told in its place, and hinders no other."""
    wanted = asked.batch_keypairs
    if not 1 <= len(wanted) <= MOST_AT_ONCE:
        raise wrong(f"batch_keypairs holds {len(wanted)} elements; 1 to {MOST_AT_ONCE} at a time")
    if len({each.keypair_name for each in wanted}) != 1:
        raise wrong("all elements of batch_keypairs name the same key pair")
    found = []
    for each in wanted:
        try:
            found.append(submitted(await associate(fleet, who, each)))
        except (Refusal, Problem) as refused:
            refusal = refused if isinstance(refused, Refusal) else refusal_of(refused)
            told = {"status": "FAILED", "error_code": refusal.code, "error_msg": refusal.message}
            found.append({"server_id": each.server.id} | told)
    return {"tasks": found}


@router.post("/keypairs/disassociate", status_code=202)
async def disassociate_keypair(
    fleet: Serving, who: Asking, asked: Annotated[Disassociate, Depends(body_as(Disassociate))]
) -> Json:
    """Take the key pair off a server's login; password login comes back where the binding had closed it."""
    server = await server_of(fleet, who, asked.server)
    if server.reset_root is not None:
        raise wrong(f"{server.name} is shut down; a key pair is taken off when it runs (another can take its place now)")
    return submitted(await start(fleet, who, "unbind", server, asked.server, {}))


async def associate(fleet: Fleet, who: Caller, asked: Associate) -> Task:
    """Start what it comes down to: reset on a server that is shut down, replace where a key pair is bound or given, else bind."""
    server = await server_of(fleet, who, asked.server)
    options: Json = {"keypair": asked.keypair_name}
    closes = asked.server.disable_password
    if server.reset_root is not None:
        if asked.server.auth is not None:
            raise wrong(f"{server.name} is shut down; leave auth out")
        # What is asked about passwords is done with the first proof that comes once the server is up.
        passwords = {"close_password_login": closes, "keep_password_login": not closes}
        return await start(fleet, who, "reset", server, asked.server, options | passwords | {"root": server.reset_root})
    bound = any(binding.login == server.login for binding, _ in await fleet.servers.bindings(who, server))
    if asked.server.auth is None and not bound:
        raise wrong(f"{server.name} runs and has no key pair; auth says how to get in")
    if bound or (asked.server.auth is not None and asked.server.auth.type == "keypair"):
        return await start(fleet, who, "replace", server, asked.server, options | {"close_password_login": closes})
    return await start(fleet, who, "bind", server, asked.server, options | {"keep_password_login": not closes})


async def server_of(fleet: Fleet, who: Caller, asked: AnyServer) -> Server:
    """Return the server that is meant; by its id alone, and at the port that is on record."""
    try:
        server = await fleet.servers.get(who, asked.id)
    except NotFound:
        raise wrong("there is no server of this id") from None
    if server.id != asked.id:
        raise wrong("there is no server of this id")
    if asked.port not in (USUAL_PORT, server.port):
        raise wrong(f"{server.name} is on record at port {server.port}; leave port out, or change it there")
    return server


async def start(fleet: Fleet, who: Caller, operation: str, server: Server, asked: AnyServer, options: Json) -> Task:
    """Start one operation with what was given to get in."""
    given = credential(asked.auth, server)
    # Whoever asks here has no other way to say that a key pair whose private half nobody has shown is meant all the same.
    consent = {} if operation == "reset" else {"accept_unproved": True}
    wanted = {name: value for name, value in (options | consent).items() if value}
    (task,) = await fleet.bindings.start(who, operation, [server], wanted, {} if given is None else {server.id: given})
    return task


def credential(auth: Auth | None, server: Server) -> Credential | None:
    """Return what opens the server, as the services take it."""
    if auth is None:
        return None
    text = auth.key.get_secret_value()
    if auth.type == "password":
        return Credential(password=Secret(text), password_of=server.login)
    return Credential(identity=Secret(with_lines(text)))


def with_lines(text: str) -> str:
    """Return a private key as the lines that it is made of, where whoever passed it on made one line of them."""
    found = re.fullmatch(
        r"\s*(-----BEGIN [A-Z0-9 ]+-----)(.*?)(-----END [A-Z0-9 ]+-----)\s*", text.replace("\\n", "\n"), re.DOTALL
    )
    if found is None or "\n" in found[2].strip():
        return text.replace("\\n", "\n")
    return "\n".join([found[1], *found[2].split(), found[3], ""])


def submitted(task: Task) -> Json:
    """Return how a task that was taken on is told."""
    return {"task_id": task.id, "server_id": task.server_id, "status": "SUCCESS"}
