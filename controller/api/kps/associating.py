"""Key pairs on servers: bind, replace or reset, whichever it comes down to, and unbind."""

import re
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Request
from pydantic import Field, model_validator

from controller.api.fleet.asking import Fleet
from controller.api.kps.asking import Asking, Serving, told_of
from controller.api.kps.reading import Given, KeyText, Number, Switch, Text, body_as, element_as, text_in
from controller.api.kps.refusals import Refusal, wrong
from controller.errors import NotFound, Problem
from controller.model import Caller, Credential, Secret, Server, Task
from controller.order import UNNAMED_LOCKOUT

Json = dict[str, Any]
MOST_AT_ONCE = 10
USUAL_PORT = 22
router = APIRouter()


class Auth(Given):
    type: Literal["password", "keypair"] | None = None
    key: Annotated[KeyText, Field(min_length=1, max_length=64 * 1024)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.type is None) != (self.key is None):
            raise ValueError("type and key go together; leave auth out where the private half is in custody")
        return self


class AnyServer(Given):
    id: Text
    auth: Auth | None = None
    port: Number = USUAL_PORT
    disable_password: Switch = False

    @property
    def way_in(self) -> Auth | None:
        """What was given to get in; an empty auth is none."""
        return None if self.auth is None or self.auth.type is None else self.auth


class Associate(Given):
    keypair_name: Text
    server: AnyServer


class BatchAssociate(Given):
    batch_keypairs: list[Associate]


class Batch(Given):
    """A BatchAssociate whose elements are read one by one: one that is wrong hinders no other."""

    batch_keypairs: list[Any]


class Disassociate(Given):
    server: AnyServer


@router.post("/keypairs/associate", status_code=202)
async def associate_keypair(fleet: Serving, who: Asking, asked: Annotated[Associate, Depends(body_as(Associate))]) -> Json:
    """Put a key pair on a server's login: a first one, or in the place of another."""
    return submitted(await associate(fleet, who, asked))


@router.post("/keypairs/batch-associate", status_code=202)
async def batch_associate_keypair(
    request: Request, fleet: Serving, who: Asking, asked: Annotated[Batch, Depends(body_as(Batch))]
) -> Json:
    """Put one key pair on several servers that have none; one that is refused is told in its place, and hinders no other."""
    wanted = asked.batch_keypairs
    if not 1 <= len(wanted) <= MOST_AT_ONCE:
        raise wrong(f"batch_keypairs holds {len(wanted)} elements; 1 to {MOST_AT_ONCE} at a time")
    if len({text_in(each, "keypair_name") for each in wanted}) != 1:
        raise wrong("all elements of batch_keypairs name the same key pair")
    found: list[Json] = []
    taken: set[str] = set()
    for each in wanted:
        try:
            one = element_as(Associate, each)
            if one.server.id in taken:
                raise wrong("the server comes twice in batch_keypairs")
            taken.add(one.server.id)
            found.append(submitted(await associate(fleet, who, one, first=True)))
        except (Refusal, Problem) as refused:
            refusal = await told_of(request, refused)
            told = {"status": "FAILED", "error_code": refusal.code, "error_msg": refusal.message}
            found.append({"server_id": text_in(each, "server", "id")} | told)
    return {"tasks": found}


@router.post("/keypairs/disassociate", status_code=202)
async def disassociate_keypair(
    fleet: Serving, who: Asking, asked: Annotated[Disassociate, Depends(body_as(Disassociate))]
) -> Json:
    """Take the key pair off a server's login; password login comes back where the binding had closed it."""
    server = await server_of(fleet, who, asked.server)
    if server.reset_root is not None:
        raise wrong(f"{server.name} is shut down; a key pair is taken off when it runs (another can take its place now)")
    auth = asked.server.way_in
    if not (auth is not None and auth.type == "keypair") and not await is_bound(fleet, who, server):
        raise wrong(f"{server.name} has no key pair; to take off one that is not on record, give it as auth")
    return submitted(await start(fleet, who, "unbind", server, auth, {}))


async def associate(fleet: Fleet, who: Caller, asked: Associate, *, first: bool = False) -> Task:
    """Start what it comes down to: reset on a server that is shut down, replace where a key pair is bound or given, else bind.

    first: only where the server runs and has no key pair.
    """
    server = await server_of(fleet, who, asked.server)
    options: Json = {"keypair": asked.keypair_name}
    auth, closes = asked.server.way_in, asked.server.disable_password
    if server.reset_root is not None:
        if first:
            raise wrong(f"{server.name} is shut down; servers of a batch run. Associate it by itself")
        if auth is not None:
            raise wrong(f"{server.name} is shut down; leave auth out")
        # What is asked about passwords is done with the first proof that comes once the server is up.
        passwords = {"close_password_login": closes, "keep_password_login": not closes}
        return await start(fleet, who, "reset", server, None, options | passwords | {"root": server.reset_root})
    bound = await is_bound(fleet, who, server)
    if first and bound:
        raise wrong(f"{server.name} already has a key pair; a batch replaces none. Associate it by itself")
    if auth is None and not bound:
        raise wrong(f"{server.name} runs and has no key pair; auth says how to get in")
    if bound or (auth is not None and auth.type == "keypair"):
        return await start(fleet, who, "replace", server, auth, options | {"close_password_login": closes})
    return await start(fleet, who, "bind", server, auth, options | {"keep_password_login": not closes})


async def is_bound(fleet: Fleet, who: Caller, server: Server) -> bool:
    """Say whether a key pair is bound to the server's own login, whoever's it is."""
    return any(binding.login == server.login for binding, _ in await fleet.servers.bindings(who, server.id))


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


async def start(fleet: Fleet, who: Caller, operation: str, server: Server, auth: Auth | None, options: Json) -> Task:
    """Start one operation with what was given to get in."""
    given = credential(auth, server)
    # Whoever asks here has no other way to say that a key pair whose private half nobody has shown is meant all the same.
    consent = {} if operation == "reset" else {"accept_unproved": True}
    # Nor to name who else is locked out. That is no consent to it, unless the tenant's administrator has said that it is.
    if operation in ("bind", "replace") and (await fleet.tenants.own(who)).v3_accepts_lockout:
        consent[UNNAMED_LOCKOUT] = True
    wanted = {name: value for name, value in (options | consent).items() if value}
    (task,) = await fleet.bindings.start(who, operation, [server], wanted, {} if given is None else {server.id: given})
    return task


def credential(auth: Auth | None, server: Server) -> Credential | None:
    """Return what opens the server, as the services take it."""
    if auth is None or auth.key is None:
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
