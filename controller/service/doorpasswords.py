"""The one-time passwords that were made for doors: changed once those are over, and known to work until that is seen."""

import builtins
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import ParamSpec, Protocol, TypeVar

import structlog

from controller.doors import MAY_BE_OPEN, Door, in_use
from controller.errors import NotFound, Problem
from controller.model import Caller, Credential, Server
from controller.service.secrets import Made
from controller.service.worker import off_loop
from controller.stages import SecretRotation
from controller.store import Store

AFTER_REFUSED = timedelta(seconds=30)

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger("kps.doors")


class Passwords(Protocol):
    """Makes one-time passwords, and changes them again (controller/service/secrets.py)."""

    async def make_password(self, who: Caller, server: Server, login: str, credential: Credential | None = None) -> Made: ...
    async def change_password(
        self, who: Caller, server: Server, login: str, credential: Credential | None = None, *, unless_door: bool = False
    ) -> SecretRotation: ...


class DoorPasswords:
    """What was made for doors, of all tenants."""

    def __init__(self, store: Store, passwords: Passwords | None, executor: Executor | None = None) -> None:
        self._store = store
        self._passwords = passwords
        self._executor = executor
        self._not_before: dict[str, datetime] = {}  # by door: what could not be changed is not tried all the time

    async def sweep(self) -> None:
        """Have the one-time passwords changed of doors that are over, and see which are: those open nothing any more."""
        due, at = await self._off(self._store.doors_with_passwords), self._store.now()
        used = (
            {
                (each.server_id, each.login)
                for each in await self._off(self._store.doors, None, states=MAY_BE_OPEN)
                if in_use(each, at)
            }
            if due
            else set()
        )
        for door in due:
            if (door.server_id, door.login) in used:
                continue  # another door of this login is open by now: what works there is that one's
            try:
                state = await self._off(self._changed, door)
                if state == "done":
                    await self._off(self._store.door_password_changed, door)
                    self._not_before.pop(door.id, None)
                elif state == "none" and at >= self._not_before.get(door.id, at):
                    self._not_before[door.id] = at + AFTER_REFUSED
                    # Another door of the login may have been opened since we looked.
                    await self._change(door, None, unless_door=True)
            except Problem as problem:
                log.warning("door password", door=door.id, code=problem.code, message=problem.message)

    async def _change(self, door: Door, credential: Credential | None, *, unless_door: bool = False) -> None:
        """Have a door's one-time password changed, by our own authority: whoever asked for it may be gone, and knows it still."""
        if self._passwords is None:
            return
        try:
            server = await self._off(self._store.server_by_id, door.server_id)
        except NotFound:
            await self._off(self._store.door_password_left, door, "its one-time password was not changed: its server was removed")
            return
        tenant = await self._off(self._store.tenant, door.tenant_id)
        ours = Caller(tenant.id, tenant.projects[0], door.user_id, "administrator")
        rotation = await self._passwords.change_password(ours, server, door.login, credential, unless_door=unless_door)
        await self._off(self._store.door_password_changing, door, rotation.id)

    async def change_with(self, doors: Sequence[Door], given_: Mapping[str, Credential]) -> None:
        """Have one-time passwords changed with the key that came to close their doors: once they are closed none may get in.

        A password alone is not enough: it lets nobody in once the door is closed, and nothing waits for that.
        """
        for door in doors:
            credential = given_.get(door.server_id)
            if door.one_time and credential is not None and credential.by_key:
                try:
                    await self._change(door, credential)
                except Problem as problem:  # to close goes first; it is told with the door that its password works
                    log.warning("door password", door=door.id, code=problem.code, message=problem.message)

    def _rotations(self, door: Door) -> builtins.list[SecretRotation]:
        secret = self._store.password_of(door.tenant_id, door.server_id, door.login)
        return [] if secret is None else self._store.secret_rotations(door.tenant_id, secret_id=secret.id)

    def states(self, tenant_id: str, doors: Sequence[Door]) -> dict[str, str]:
        """Return how the rotations stand that set what was made for doors, by their ids: the newest; none where there is none."""
        found = self._store.passwords_of(tenant_id, {(each.server_id, each.login) for each in doors})
        newest = {each.id: found.get((each.server_id, each.login), (None, None))[1] for each in doors}
        return {id: "none" if rotation is None else rotation.state for id, rotation in newest.items()}

    def _changed(self, door: Door) -> str:
        """Return how what changes a door's one-time password stands: running, failed, done; none where nothing does."""
        found = self._rotations(door)
        ours = next((each for each in found if each.id == door.rotation_id), None)
        if ours is None:
            return "none"
        # A later one that is done has changed it as well.
        return "done" if any(each.state == "done" and each.version >= ours.version for each in found) else ours.state

    async def _off(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await off_loop(self._executor, verb, *args, **kwargs)
