"""Fills a home as a large one stands after years: servers, key pairs, bindings, tasks of many rollouts, and events of all that.

What there is: servers in four zones; 300 key pairs of the account and 40 of the owner; a binding on nine servers in ten, two
thirds of them of one key pair; password login on, off, and not known; and rollouts over all servers, as many as the tasks take:
the first a plan, the last ones stopped; and a plan over 500. One task in fifty failed, with what a real one has as evidence.
Each task has three signed events.
"""

import asyncio
import itertools
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import update

from benchmarks.tasks import ALL, CAUSES, FAILED_EACH, write_events
from controller.kms import Kms, root
from controller.model import Binding, Caller, KeyPair, PasswordLogin, Rollout, RolloutServer, RolloutState, Server, Task, now
from controller.policy import Policy
from controller.rollout.strategy import Strategy
from controller.service.auditkeys import AuditKeys
from controller.service.home import initialise
from controller.service.keypairs import Keypairs
from controller.settings import Settings
from controller.store import Store, engine, tables
from controller.store.rows import row

ACCOUNT, PRIVATE = 300, 40  # key pairs
_DAYS = 14  # over which the tasks are spread
_BANNER = "Authorized use only. Activity on this system is monitored and recorded. " * 8
_PASSWORDS: tuple[PasswordLogin, ...] = ("off", "off", "off", "off", "off", "off", "off", "on", "off", "unknown")
_CAUSES = [cause for place, cause in enumerate(CAUSES) for _ in range(2 * place + 1)]  # some more often than others
SMALL = 500  # servers of a further plan: the largest that the page of an order shows
_STOPPED = 3  # rollouts, of the last ones; all others are finished


def fill(home: Path, servers: int, tasks: int) -> None:
    """Make a home with so much in it."""
    settings = Settings(home=home)
    initialise(settings)
    store = Store(settings.database_url)
    who = store.caller_by_local_home()
    kms = Kms(store, *root.roots(settings.home, settings.root_key_uri))
    store.sign_with(AuditKeys(store, kms))
    pairs = asyncio.run(_keypairs(store, kms, settings, who))
    known = [_server(who, number) for number in range(servers)]
    with engine.writing(store._engine) as connection:
        connection.execute(tables.servers.insert(), [row(each) for each in known])
    begun, numbers = now() - timedelta(days=_DAYS), itertools.count()
    for number in range(-(-tasks // servers)):
        size = min(servers, tasks - number * servers)
        at = begun + timedelta(days=_DAYS) * (number * servers + size) / tasks
        state: RolloutState = "stopped" if number and number >= -(-tasks // servers) - _STOPPED else "finished"
        _rolled_out(store, who, known[:size], at, state, numbers, plan=number == 0 and tasks > servers)
        if number == 0 and size > SMALL:
            _rolled_out(store, who, known[:SMALL], at, "finished", numbers, plan=True)
    bound = [_binding(each, pairs, number) for number, each in enumerate(known) if number % 10]
    with engine.writing(store._engine) as connection:
        connection.execute(tables.bindings.insert(), [row(each) for each in bound])
    with engine.writing(store._engine) as connection:
        for each in (each for each in known if each.password_login == "on"):  # noqa: S105
            for seen in ("off", "on"):
                store._event(connection, who.tenant_id, "server_noted", {"password_login": seen}, server_id=each.id)
    store.close()


async def _keypairs(store: Store, kms: Kms, settings: Settings, who: Caller) -> list[KeyPair]:
    verbs = Keypairs(store, kms, None, settings.quotas)
    made = [(await verbs.create(who, "ops", scope="account"))[0]]
    made += [(await verbs.create(who, f"team-{number:03}", scope="account"))[0] for number in range(ACCOUNT - 1)]
    for number in range(PRIVATE):
        await verbs.create(who, f"mine-{number:03}")
    with engine.writing(store._engine) as connection:
        for number, each in enumerate(made):
            made_at = now() - timedelta(days=40 + number * 397 % 400)
            connection.execute(update(tables.keypairs).where(tables.keypairs.c.id == each.id).values(created_at=made_at))
    # Paused: what is due is told on pages, and whoever serves the home begins no rotation to servers that are nowhere.
    store.set_policy(
        Policy(str(uuid.uuid4()), who.tenant_id, who.user_id, "yearly", None, None, 365, [30], 7, {}, now(), paused=True),
        who.user_id,
    )
    return made


def _rolled_out(
    store: Store, who: Caller, known: list[Server], at: datetime, state: RolloutState, numbers: Iterator[int], *, plan: bool
) -> None:
    # As somebody asks for it who does not know yet what would come of it.
    request = {"keypair": "ops"} | ({"plan": True} if plan else {})
    old = Rollout(
        str(uuid.uuid4()), who.tenant_id, who.user_id, "bind", request, Strategy.read(ALL).told(), len(known), False, at,
        state, "2 of the last 100 failed" if state == "stopped" else "", finished_at=None if state == "stopped" else at,
    )  # fmt: skip
    made = [_task(who, each, old, at - timedelta(seconds=place * 7), next(numbers)) for place, each in enumerate(known)]
    _write(store, old, made)
    write_events(store, who, made)


def _write(store: Store, rollout: Rollout, made: list[Task]) -> None:
    members = [
        RolloutServer(rollout.id, place, task.server_id, task.server_name, "root", "abcd"[place % 4], tries=1, task_id=task.id)
        for place, task in enumerate(made)
    ]
    columns = [column.name for column in tables.rollout_servers.c]
    with engine.writing(store._engine) as connection:
        connection.execute(tables.rollouts.insert(), [row(rollout)])
        connection.execute(tables.tasks.insert(), [row(each) for each in made])
        connection.execute(tables.rollout_servers.insert(), [{name: getattr(each, name) for name in columns} for each in members])


def _server(who: Caller, number: int) -> Server:
    # What is in doubt is asked for, ever again, by whoever serves this home: of this machine, where nobody listens.
    host = f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    labels = {"zone": "abcd"[number % 4], "env": "prod" if number % 3 else "test", "team": f"team-{number % 40}"}
    password_login = _PASSWORDS[number % len(_PASSWORDS)]
    return Server(
        str(uuid.uuid4()), who.tenant_id, f"web-{number:06}", host, port=1, labels=labels, password_login=password_login
    )


def _task(who: Caller, server: Server, rollout: Rollout, at: datetime, number: int) -> Task:
    failed = number % FAILED_EACH == FAILED_EACH - 1
    cause = _CAUSES[number // FAILED_EACH % len(_CAUSES)] if failed else None
    found = {"login": "root", "tried": ["publickey", "password"], "banner": _BANNER, "file": "/etc/ssh/sshd_config:88"}
    proof = {"way": "key", "login": "root", "method": "logged_in"}
    went_well: dict[str, Any] = {} if not rollout.plans else {"seen": f"{number % 7:064x}", "plan": _planned(number)}
    state = (
        ("as_before" if rollout.plans else "as_asked")
        if not failed
        else "unknown"
        if number % (FAILED_EACH * 7) == FAILED_EACH - 1
        else "as_before"
    )
    return Task(
        str(uuid.uuid4()), who.tenant_id, who.user_id, server.id, server.name, "root", "bind", rollout.request, at,
        seq=number + 1, status="failed" if failed else "succeeded", server_state=state, phase="connect" if failed else "done",
        cause=cause, message=f"{server.name}: {cause} at {server.host}; look there" if failed else "",
        evidence=found if failed else went_well, proofs=[] if failed or rollout.plans else [proof], retryable=failed,
        started_at=at, finished_at=at,
        rollout_id=rollout.id,
    )  # fmt: skip


def _planned(number: int) -> dict[str, Any]:
    """Return what would be changed: the same on most servers, and on the others an older key goes, each time another one."""
    file, key = "/root/.ssh/authorized_keys", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"
    gone = [f"-{key}{number:043d} old"] if number % 9 == 0 else []
    settings = ["+# kps: begin", "+PasswordAuthentication no", "+KbdInteractiveAuthentication no", "+# kps: end"]
    changes = [
        {"kind": "keys", "path": file, "diff": ["@@ -1 +1 @@", *gone, f"+{key}{'A' * 43} ops"]},
        {"kind": "block", "path": "/etc/ssh/sshd_config", "diff": ["@@ -0,0 +1,4 @@", *settings]},
    ]
    return {"changes": changes, "locked_out": []}


def _binding(server: Server, pairs: list[KeyPair], number: int) -> Binding:
    pair = pairs[0] if number % 3 else pairs[number % len(pairs)]
    return Binding(server.id, "root", pair.id, "accepted" if number % 50 == 1 else "logged_in", True, str(uuid.uuid4()), now())
