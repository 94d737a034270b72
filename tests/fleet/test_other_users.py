"""Two users of one tenant on a real server: one's private key pair is no way in for the other, and is not broken unasked."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.api.fleet import Fleet
from controller.app import opened
from controller.errors import Conflict, NotAllowed
from controller.model import FINAL, Caller, Credential, Secret, Task
from controller.service.home import initialise
from controller.settings import Settings
from tests.fleet import judge
from tests.fleet.test_causes_reaching import LOG, with_log


@contextlib.asynccontextmanager
async def two_users(home: Path) -> AsyncIterator[tuple[Fleet, Caller, Caller]]:
    """A home, open, with its administrator and an operator."""
    settings = Settings(home=home)
    made = initialise(settings)
    async with opened(settings) as fleet:
        boss = Caller(made["tenant_id"], made["project_id"], made["user_id"], "administrator", at_home=True)
        alice = await fleet.users.create(boss, "alice")
        yield fleet, boss, replace(boss, user_id=alice.id, role=alice.role)


async def ended(fleet: Fleet, who: Caller, server: str, operation: str, password: str | None = None, **request: Any) -> Task:
    """Carry an operation out on one server, and return its task as whoever asked sees it."""
    (found,) = await fleet.servers.select(who, [server])
    given = {} if password is None else {found.id: Credential(password=Secret(password))}
    (task,) = await fleet.bindings.start(who, operation, [found], request, given)
    after = 0
    while (task := await fleet.tasks.get(who, task.id)).status not in FINAL:
        after = max([after, *(each.id for each in await fleet.tasks.events(who, after, [task.id], 5))])
    return task


def test_another_users_private_key_pair_opens_nothing_and_stays(make_server, tmp_path):
    server = make_server()
    with_log(server)

    async def story() -> None:
        async with two_users(tmp_path / "home") as (fleet, boss, alice):
            await fleet.servers.add(boss, server.name, server.host, server.port, host_key=server.host_key)
            hers, _ = await fleet.keypairs.create(alice, "hers")
            await fleet.keypairs.create(boss, "mine")
            password = server.root_password
            task = await ended(fleet, alice, server.name, "bind", password, keypair="hers", keep_password_login=True)
            assert task.status == "succeeded", task
            logged_in = server.read(LOG).count("Accepted publickey")

            # Whoever is not alice shows sshd her public key, and does not log in with it.
            task = await ended(fleet, boss, server.name, "check")
            assert (task.status, {each["method"] for each in task.proofs}) == ("unchanged", {"accepted"}), task
            task = await ended(fleet, boss, server.name, "password-login-enable")
            assert (task.cause, "hers" in task.message) == ("credential_needed", False), task
            assert server.read(LOG).count("Accepted publickey") == logged_in
            assert "keypair_opened" not in [each.kind for each in await fleet.tasks.events(boss)]

            with pytest.raises(Conflict):
                await ended(fleet, boss, server.name, "replace", password, keypair="mine")
            operator = replace(boss, user_id=(await fleet.users.create(boss, "bob")).id, role="operator")
            with pytest.raises(NotAllowed):
                await ended(fleet, operator, server.name, "unbind", password, take_over=True)
            assert (await ended(fleet, alice, server.name, "check")).status == "unchanged"

            private = (await fleet.keypairs.export(alice, "hers")).open().decode()
            assert judge.key_login_works(server, "root", private)
            task = await ended(fleet, boss, server.name, "replace", password, keypair="mine", take_over=True)
            assert task.status == "succeeded", task
            assert not judge.key_login_works(server, "root", private)
            assert hers.name not in str(await fleet.servers.bindings(alice, (await fleet.servers.get(alice, server.name)).id))

    asyncio.run(story())
