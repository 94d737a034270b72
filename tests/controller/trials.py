"""One trial for each line of the table of rules: the verb itself, called by who may or may not, on real stores.

`python -m tests.controller.trials > docs/roles.md` writes down what came of them.
"""

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import update

from controller import keyfiles
from controller.errors import NotAllowed
from controller.model import Caller, Role, Secret, UserKind
from controller.service.roles import REFUSALS, RULES
from controller.store import engine, tables
from tests.controller.world import HOST_KEY, KINDS, PUBLIC, ROLES, STORED, World

Trial = Callable[[World, Caller], Awaitable[Any]]
Table = dict[tuple[str, str], dict[tuple[UserKind, Role], str]]


def _import(scope: Any) -> Trial:
    async def trial(world: World, who: Caller) -> None:
        await world.keypairs.import_(who, world.name("new"), scope, public_key=PUBLIC.line())

    return trial


def _on_pair(scope: Any, verb: Callable[[World, Caller, str], Awaitable[Any]], *, managed: bool = True) -> Trial:
    async def trial(world: World, who: Caller) -> None:
        await verb(world, who, world.pair(who, scope, managed=managed).name)

    return trial


def _use(scope: Any) -> Trial:
    async def trial(world: World, who: Caller) -> None:
        pair = world.pair(who, scope)
        await world.bindings.start(who, "bind", [world.server(who)], {"keypair": pair.name}, {})

    return trial


def _manage(world: World, who: Caller, name: str) -> Awaitable[Any]:
    return world.custody.manage(who, name, keyfiles.openssh_private("ed25519", STORED))


def _move(world: World, who: Caller, name: str) -> Awaitable[Any]:
    return world.custody.move(who, name, "kps/default")


async def _use_master_key(world: World, who: Caller) -> None:
    boss = replace(who, role="administrator", kind="local")
    key = await world.kms_verbs.keys.create(boss, world.name("key"))
    await world.kms_verbs.uses.encrypt(who, key.id, Secret("x"))


async def _take(world: World, who: Caller) -> None:
    server, stranger = world.server(who), world.user(who, "operator")
    world.bound(server, world.pair(stranger))
    await world.bindings.start(who, "unbind", [server], {"take_over": True}, {})


async def _delete_task(world: World, who: Caller) -> None:
    await world.tasks.delete(who, world.failed(who, world.server(who)).id)


async def _create_access_key(world: World, who: Caller, user: str) -> None:
    if who.kind == "federated" and user == who.user_id:
        # What they make for themselves ends no later than what they have been given.
        given = replace(who, kind="local", role="administrator", user_id=world.user(who, "administrator").user_id)
        await world.access_keys.create(given, user, days=1)
    await world.access_keys.create(who, user, days=1)


def _on_user(whose: str, verb: Callable[[World, Caller, str], Awaitable[Any]]) -> Trial:
    async def trial(world: World, who: Caller) -> None:
        await verb(world, who, who.user_id if whose == "own" else world.user(who, "operator").user_id)

    return trial


async def _own_home(world: World, who: Caller) -> None:
    with engine.writing(world.store._engine) as connection:
        before = connection.execute(tables.home.select()).one()
        connection.execute(update(tables.home).values(user_id=who.user_id))
    try:
        await world.tenants.create(who, world.name("tenant"))
    finally:
        with engine.writing(world.store._engine) as connection:
            connection.execute(update(tables.home).values(user_id=before.user_id))


async def _add_server(world: World, who: Caller) -> None:
    await world.servers.add(who, world.name("server"), "192.0.2.1", host_key=HOST_KEY)


def _on_secret(scope: Any, verb: Callable[[World, Caller, str], Awaitable[Any]]) -> Trial:
    async def trial(world: World, who: Caller) -> None:
        await verb(world, who, await world.secret(who, scope))

    return trial


def _new_secret(scope: Any) -> Trial:
    async def trial(world: World, who: Caller) -> None:
        await world.secrets.create(who, world.name("secret"), Secret("x"), scope=scope)

    return trial


async def _asked(world: World, who: Caller) -> str:
    """Have somebody ask for a door that needs a second user; returns the order."""
    boss = replace(who, role="administrator", kind="local", user_id=world.user(who, "administrator").user_id)
    server = replace(world.server(boss), labels={"env": "prod"})
    await world.emergency.rules.set(boss, "env=prod", 15)
    (order,), _ = await world.emergency.open(boss, [server], reason="trial", seconds=60)
    return order.id


async def _open_door(world: World, who: Caller) -> None:
    await world.emergency.open(who, [world.server(who)], reason="trial", seconds=60)


async def _close_door(world: World, who: Caller) -> None:
    boss = replace(who, role="administrator", kind="local")
    _, (door,) = await world.emergency.open(boss, [world.server(who)], reason="trial", seconds=60)
    await world.emergency.close(who, [door.id])


async def _approve_door(world: World, who: Caller) -> None:
    await world.emergency.approvals.approve(who, await _asked(world, who))


# The first account key pair is tried where there is none, all else where there is one.
TRIALS: dict[tuple[str, str], Trial] = {
    ("keypair.see", "private"): _on_pair("private", lambda world, who, name: world.keypairs.get(who, name)),
    ("keypair.see", "account"): _on_pair("account", lambda world, who, name: world.keypairs.get(who, name)),
    ("keypair.create", "private"): _import("private"),
    ("keypair.create", "account"): _import("account"),
    ("keypair.create", "first"): _import("account"),
    ("keypair.upgrade", "account"): _on_pair("private", lambda world, who, name: world.keypairs.upgrade(who, name)),
    ("keypair.upgrade", "first"): _on_pair("private", lambda world, who, name: world.keypairs.upgrade(who, name)),
    ("keypair.use", "private"): _use("private"),
    ("keypair.use", "account"): _use("account"),
    ("keypair.describe", "private"): _on_pair("private", lambda world, who, name: world.keypairs.describe(who, name, "x")),
    ("keypair.describe", "account"): _on_pair("account", lambda world, who, name: world.keypairs.describe(who, name, "x")),
    ("keypair.export", "private"): _on_pair("private", lambda world, who, name: world.keypairs.export(who, name)),
    ("keypair.export", "account"): _on_pair("account", lambda world, who, name: world.keypairs.export(who, name)),
    ("keypair.manage", "private"): _on_pair("private", _manage, managed=False),
    ("keypair.manage", "account"): _on_pair("account", _manage, managed=False),
    ("keypair.clear", "private"): _on_pair("private", lambda world, who, name: world.custody.clear(who, name)),
    ("keypair.clear", "account"): _on_pair("account", lambda world, who, name: world.custody.clear(who, name)),
    ("keypair.move", "private"): _on_pair("private", _move),
    ("keypair.move", "account"): _on_pair("account", _move),
    ("keypair.delete", "private"): _on_pair("private", lambda world, who, name: world.keypairs.delete(who, name)),
    ("keypair.delete", "account"): _on_pair("account", lambda world, who, name: world.keypairs.delete(who, name)),
    ("secret.see", "private"): _on_secret("private", lambda world, who, name: world.secrets.get(who, name)),
    ("secret.see", "account"): _on_secret("account", lambda world, who, name: world.secrets.get(who, name)),
    ("secret.create", "private"): _new_secret("private"),
    ("secret.create", "account"): _new_secret("account"),
    ("secret.store", "private"): _on_secret("private", lambda world, who, name: world.secrets.describe(who, name, "x")),
    ("secret.store", "account"): _on_secret("account", lambda world, who, name: world.secrets.describe(who, name, "x")),
    ("secret.open", "private"): _on_secret("private", lambda world, who, name: world.secrets.open(who, name)),
    ("secret.open", "account"): _on_secret("account", lambda world, who, name: world.secrets.open(who, name)),
    ("secret.rotate", "account"): _on_secret("account", lambda world, who, name: world.secrets.rotate(who, name)),
    ("secret.schedule", "account"): _on_secret("account", lambda world, who, name: world.secrets.schedule(who, name, "30d")),
    ("secret.delete", "private"): _on_secret("private", lambda world, who, name: world.secrets.delete(who, name)),
    ("secret.delete", "account"): _on_secret("account", lambda world, who, name: world.secrets.delete(who, name)),
    ("server.see", "tenant"): lambda world, who: world.servers.list(who),
    ("server.change", "tenant"): _add_server,
    ("binding.see", "tenant"): lambda world, who: world.servers.bindings(who, world.server(who).id),
    ("binding.order", "tenant"): lambda world, who: world.bindings.start(who, "check", [world.server(who)], {}, {}),
    ("binding.take", "other"): _take,
    ("task.see", "tenant"): lambda world, who: world.tasks.list(who),
    ("task.change", "tenant"): _delete_task,
    ("event.see", "tenant"): lambda world, who: world.tasks.events(who),
    ("audit.read", "tenant"): lambda world, who: world.audit.events(who),
    ("audit.prune", "tenant"): lambda world, who: world.audit.prune(who, datetime(2000, 1, 1, tzinfo=UTC)),
    ("policy.see", "tenant"): lambda world, who: world.policies.due(who),
    ("policy.change", "tenant"): lambda world, who: world.policies.set(who, world.name("policy"), None, 90),
    ("door.see", "tenant"): lambda world, who: world.emergency.list(who),
    ("door.open", "tenant"): _open_door,
    ("door.close", "tenant"): _close_door,
    ("door.approve", "tenant"): _approve_door,
    ("door.rule", "tenant"): lambda world, who: world.emergency.rules.set(who, "env=test", 15),
    ("masterkey.see", "tenant"): lambda world, who: world.kms_verbs.keys.list(who),
    ("masterkey.use", "tenant"): _use_master_key,
    ("masterkey.change", "tenant"): lambda world, who: world.kms_verbs.keys.create(who, world.name("key")),
    ("user.see", "tenant"): lambda world, who: world.users.list(who),
    ("user.change", "tenant"): lambda world, who: world.users.create(who, world.name("user")),
    ("access_key.see", "own"): _on_user("own", lambda world, who, user: world.access_keys.list(who, user)),
    ("access_key.see", "other"): _on_user("other", lambda world, who, user: world.access_keys.list(who, user)),
    ("access_key.change", "own"): _on_user("own", _create_access_key),
    ("access_key.change", "other"): _on_user("other", _create_access_key),
    ("console.enter", "own"): _on_user("own", lambda world, who, user: world.console.link(who, user)),
    ("console.enter", "other"): _on_user("other", lambda world, who, user: world.console.link(who, user)),
    ("quota.see", "own"): _on_user("own", lambda world, who, user: world.quotas.show(who, user)),
    ("quota.see", "other"): _on_user("other", lambda world, who, user: world.quotas.show(who, user)),
    ("quota.see", "tenant"): lambda world, who: world.quotas.show(who),
    ("quota.change", "tenant"): lambda world, who: world.quotas.set(who, "users", 100),
    ("tenant.see", "tenant"): lambda world, who: world.tenants.list(who),
    ("tenant.change", "tenant"): lambda world, who: world.tenants.change(who, v3_accepts_lockout=False),
    ("tenant.create", "home"): _own_home,
    ("tenant.create", "tenant"): lambda world, who: world.tenants.create(who, world.name("tenant")),
}

# Lines of the table whose verb nobody has made yet.
NOT_TRIED = frozenset(line for line in RULES if line not in TRIALS)


async def tried(world: World) -> Table:
    """Return what came of each trial, for users of each kind and role: "yes", or the code of the refusal."""
    found: Table = {line: {} for line in TRIALS}
    for kind in KINDS:
        for role in ROLES:
            before, after = world.tenant(), world.tenant()
            world.pair(after, "account")
            for (verb, scope), trial in TRIALS.items():
                tenant = world.tenant() if scope == "first" else before if scope == "home" else after
                who = world.user(tenant, role, kind)
                try:
                    await trial(world, who)
                    found[verb, scope][kind, role] = "yes"
                except NotAllowed as refused:
                    found[verb, scope][kind, role] = refused.code
    return found


INTRODUCTION = """\
# Who may do what

Made from trials of every verb by users of every role and kind, on real stores: `python -m tests.controller.trials`. The rules
stand in one table, `controller/service/roles.py`.

Before it comes what a user may *see*. What they may not see is *not found*, and is never said to be forbidden:

- Nothing of another tenant is found.
- A private key pair is found by its owner only, whatever the other's role. Where it is bound, others see that another user's key
  pair is bound there, and not its name; it is no way in for their tasks. A task about it tells others how it ended, by its cause,
  and not in its words; events about it are its owner's. The audit record is whole.
- A secret that is private is found by its owner only, and events about it are theirs; the passwords of servers are the account's.
- Two refusals tell a name: a key pair cannot be made for the account, or upgraded, under a name that another user's private key
  pair has (`keypair_name_taken`); and an administrator who deletes a user is told which private key pairs stand against it.

*own private*: a key pair of the user's own. *account*: one of the account. *first*: the account's first one, from which on
operators make them too. *own*, *other*: what is the user's, what is another user's. *tenant*: what is everybody's in it. *home*:
for whoever owns the home, which holds all tenants. What is told of access keys holds for temporary ones and for tokens too.
"""


def page(found: Table) -> str:
    """Return docs/roles.md."""
    return "\n".join([INTRODUCTION, *_kinds(found), *_codes()]) + "\n"


def _kinds(found: Table) -> Iterator[str]:
    for kind in KINDS:
        yield f"## A {kind} user\n"
        yield f"| operation | of | {' | '.join(ROLES)} |"
        yield f"|---|---|{'---|' * len(ROLES)}"
        for (verb, scope), cells in found.items():
            told = [cells[kind, role] for role in ROLES]
            shown = " | ".join(each if each == "yes" else f"`{each}`" for each in told)
            thing, done = verb.replace("_", " ").split(".")
            thing = {"keypair": "key pair", "masterkey": "master key"}.get(thing, thing)
            yield f"| {thing}: {done} | {'own private' if scope == 'private' else scope} | {shown} |"
        yield ""


def _codes() -> Iterator[str]:
    yield "## Refusals\n"
    yield "| code | what it says |"
    yield "|---|---|"
    for code, message in REFUSALS.items():
        yield f"| `{code}` | {message} |"


def main() -> None:
    """Write the page to stdout."""
    with tempfile.TemporaryDirectory() as place:
        world = World(Path(place) / "home")
        sys.stdout.write(page(asyncio.run(tried(world))))
        world.close()


if __name__ == "__main__":
    main()
