"""Secrets in custody: texts, and the passwords of servers' logins, which are set there and rotated."""

import builtins
import secrets as random
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ParamSpec, TypeVar

import structlog

from controller import secretvalues
from controller import stages as rules
from controller.deposits import Deposits, Order
from controller.errors import Conflict, Invalid, NotFound, Problem
from controller.events import Actor, acting
from controller.kms import Kms
from controller.model import Caller, Credential, Scope, Secret, Server, Task
from controller.service.roles import allow, may_name_places, refusal
from controller.service.servers import LOGIN
from controller.service.tasks import Dispatch, given, kept_sealed
from controller.service.worker import off_loop
from controller.stages import KeptSecret, RotationBy, SecretRotation, SecretVersion
from controller.store import Store
from controller.store.passwords import SETS_PASSWORD

# None that reads like another one; 26 of these are 130 bits.
_LEGIBLE = "abcdefghijkmnpqrstuvwxyz23456789"
_CHARACTERS = 26
KEPT_DAYS = 30  # a rotation that has ended
_AFTER_REFUSED = timedelta(hours=1)

P = ParamSpec("P")
T = TypeVar("T")
log = structlog.get_logger("kps.secrets")


@dataclass(frozen=True, slots=True)
class Made:
    """A password that is on its way to its server. password: for who asked, this once; to be wiped when it was given."""

    secret: KeptSecret
    rotation: SecretRotation
    task: Task
    password: Secret


class Secrets:
    """The secrets that a caller may know of: their own private ones, and the account's. Passwords are always the account's."""

    def __init__(
        self,
        store: Store,
        kms: Kms,
        dispatch: Dispatch,
        executor: Executor | None = None,
        deposits: Deposits | None = None,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """deposits: as in Bindings. clock: the store's, if there is no other: what is due is due for all who share it."""
        self._store = store
        self._kms = kms
        self._dispatch = dispatch
        self._executor = executor
        self._deposits = deposits
        self._now = clock or store.now

    # -- what is kept --------------------------------------------------------------------------------------------------

    async def create(
        self,
        who: Caller,
        name: str,
        value: Secret | None = None,
        *,
        scope: Scope = "private",
        description: str = "",
        binary: bool = False,
        expires_at: datetime | None = None,
        server: Server | None = None,
        login: str | None = None,
    ) -> KeptSecret:
        """Take a secret in. With a server it is the password of that login there (None: of the server's own), and the account's.

        value None: it has no version yet; the first rotation makes one. A password that is given is taken for the one that the
        login has. Invalid: name_unusable, secret_value_unusable, description_unusable, secret_missing, login_unusable.
        """
        rules.check_name(name)
        rules.check_description(description)
        scope = "account" if server is not None else scope
        allow(who, "secret.create", scope, name)
        if server is None and value is None:
            raise Invalid("secret_missing", f"{name}: give the value; only a password can be made later (kps secret rotate)")
        if server is None and login is not None:
            raise Invalid("login_unusable", f"{login}: say on which server")
        if server is not None:
            _refuse_foreign(who, server)
        secret = KeptSecret(
            id=str(uuid.uuid4()),
            tenant_id=who.tenant_id,
            owner_id=who.user_id,
            scope=scope,
            name=name,
            kind="text" if server is None else "password",
            created_at=self._now(),
            description=description,
        )
        if server is not None:
            secret = _of_login(secret, server, login or server.login)
        if value is not None:
            (rules.check_value if server is None else rules.check_password)(name, value)
            secret = replace(secret, works=None if server is None else 1)

        def keep() -> KeptSecret:
            kept = None if value is None else secretvalues.sealed(self._kms, secret, 1, value)
            return self._store.add_secret(secret, kept, binary=binary, expires_at=expires_at)

        return await self._off(keep)

    async def list(self, who: Caller, after: str = "", limit: int | None = None) -> builtins.list[KeptSecret]:
        """Return the secrets that the caller may know of, by name: of those after a name, the first so many."""
        return await self._off(self._store.secrets, who.tenant_id, who.user_id, after=after, limit=limit)

    async def get(self, who: Caller, name: str) -> tuple[KeptSecret, builtins.list[SecretVersion]]:
        """Return a secret and its versions, the oldest first; no values."""
        secret = await self._seen(who, name)
        return secret, await self._off(self._store.secret_versions, secret.id)

    async def keep(
        self,
        who: Caller,
        name: str,
        value: Secret,
        *,
        stages: Collection[str] | None = None,
        binary: bool = False,
        expires_at: datetime | None = None,
    ) -> SecretVersion:
        """Keep a new version. stages: only these mark it; None: it becomes the current one.

        Conflict: secret_rotated (a password: its versions come by rotation), secret_changed, too_many_versions, too_many_stages.
        """
        secret = await self._seen(who, name)
        allow(who, "secret.store", secret.scope, name)
        rules.check_stages(stages or ())
        rules.check_value(name, value)
        _refuse_password(secret, "its versions come by rotation, which sets them on the server: kps secret rotate")

        def keep() -> SecretVersion:
            kept = secretvalues.sealed(self._kms, secret, secret.version + 1, value)
            return self._store.add_secret_version(
                secret, kept, who.user_id, stages=stages or None, binary=binary, expires_at=expires_at
            )

        return await self._off(keep)

    async def open(
        self, who: Caller, name: str, *, version: str | None = None, stage: str | None = None
    ) -> tuple[SecretVersion, Secret]:
        """Return a version and its value, to be wiped once it was given; on record first. Neither named: the current one.

        NotFound: secret_version_not_found, stage_not_found. Conflict(secret_expired).
        """
        secret = await self._seen(who, name)
        allow(who, "secret.open", secret.scope, name)
        versions = await self._off(self._store.secret_versions, secret.id)
        found = _chosen(secret, versions, version, stage)
        if found.expires_at is not None and found.expires_at <= self._now():
            raise Conflict("secret_expired", f"{name}: {found.name} expired at {found.expires_at.isoformat()}; store a new one")
        _, value = await self._off(self._opened, secret, found.version, secretvalues.SHOW, who.user_id)
        return found, value

    async def set_stage(self, who: Caller, name: str, stage: str, version: str) -> dict[str, int]:
        """Have a stage mark a version; returns all stages, each with the number of its version.

        Conflict(secret_rotated): those of a password that say what is current are moved by rotation.
        """
        secret = await self._seen(who, name)
        allow(who, "secret.store", secret.scope, name)
        rules.check_stage(stage)
        if stage in rules.BUILT_IN:
            _refuse_password(secret, f"{stage} says what its server has, and is moved by rotation: kps secret rotate")
        number = rules.number_of(version, secret.version)
        return await self._off(self._store.set_secret_stage, secret, stage, number, who.user_id)

    async def delete_stage(self, who: Caller, name: str, stage: str) -> dict[str, int]:
        """Delete a stage; returns those that are left. Conflict(stage_built_in), NotFound(stage_not_found)."""
        secret = await self._seen(who, name)
        allow(who, "secret.store", secret.scope, name)
        return await self._off(self._store.delete_secret_stage, secret, stage, who.user_id)

    async def describe(self, who: Caller, name: str, description: str) -> KeptSecret:
        """Describe a secret anew."""
        secret = await self._seen(who, name)
        allow(who, "secret.store", secret.scope, name)
        rules.check_description(description)
        return await self._off(self._store.change_secret, secret, who.user_id, description=description)

    async def delete(self, who: Caller, name: str) -> None:
        """Delete a secret with all its versions, for good. Conflict(secret_busy) while a task sets it."""
        secret = await self._seen(who, name)
        allow(who, "secret.delete", secret.scope, name)

        def delete() -> None:
            self._store.delete_secret(secret, who.user_id)
            # What the write-ahead log still holds of it goes too.
            self._store.checkpoint()

        await self._off(delete)

    # -- passwords on their servers ------------------------------------------------------------------------------------

    async def schedule(self, who: Caller, name: str, every: str | None) -> KeptSecret:
        """Have a password rotated by itself every so often (30d, 12h), on behalf of the caller; None: no more.

        Conflict(not_a_password), Invalid(period_unusable).
        """
        secret = await self._seen(who, name)
        _refuse_text(secret)
        allow(who, "secret.schedule", secret.scope, name)
        seconds = None if every is None else rules.seconds_of(every)
        changes = {
            "rotates_every": seconds,
            "rotated_for": None if seconds is None else who.user_id,
            "rotates_at": None if seconds is None else self._now() + timedelta(seconds=seconds),
        }
        return await self._off(lambda: self._store.change_secret(secret, who.user_id, **changes))

    async def rotate(self, who: Caller, name: str, credential: Credential | None = None) -> tuple[SecretRotation, Task]:
        """Make a new version of a password and have it set on its server, by a task that runs from now on.

        The version is sealed and current before the server hears of it, and the one that works there becomes the previous one; so
        at every moment one of these two works. Where the newest version has not come to its server yet, that is tried once more,
        and none is made. credential: what opens the server, where no key in custody does.
        Conflict: not_a_password, secret_busy; NotFound(server_not_found).
        """
        secret = await self._seen(who, name)
        _refuse_text(secret)
        allow(who, "secret.rotate", secret.scope, name)
        if credential is not None and credential.agent_socket:
            may_name_places(who, "an ssh-agent")
        rotation, task, password = await self._rotated(who, secret, "hand", credential)
        password.wipe()
        return rotation, task

    async def make_password(self, who: Caller, server: Server, login: str, credential: Credential | None = None) -> Made:
        """Make a one-time password for a login and have it set there; returned to be shown to who asked, this once.

        It is sealed first, as a version of the secret that is the login's password; where there is none that is made, called
        SERVER-LOGIN. Works while the key service is away: then the value is laid by, and sealed when that is back.
        The task (Made.task) sets it; it works once that has succeeded, and until change_password(). As rotate() otherwise, but
        it is always a new one: what was made before and has not come to its server is not for who asks now to see.
        """
        allow(who, "secret.rotate", "account", f"{login} on {server.name}")
        _refuse_foreign(who, server)
        secret = await self._of(who, server, login)
        rotation, task, password = await self._rotated(who, secret, "emergency", credential, anew=True)
        return Made(secret, rotation, task, password)

    async def change_password(
        self, who: Caller, server: Server, login: str, credential: Credential | None = None, *, unless_door: bool = False
    ) -> SecretRotation:
        """Change again what make_password() has made, so that it works no more; nobody is shown the new one.

        Returns the rotation: once that is done what was made works no more, whether it had come to the server or not. What fails
        is tried again by itself, whoever asked for it. Where the secret was deleted it is made anew. Conflict: secret_busy;
        unless_door: door_is_open (one of this login's).
        """
        _refuse_foreign(who, server)
        secret = await self._of(who, server, login)
        allow(who, "secret.rotate", secret.scope, secret.name)
        rotation, _, password = await self._rotated(who, secret, "emergency", credential, anew=True, unless_door=unless_door)
        password.wipe()
        return rotation

    async def rotations(self, who: Caller, name: str | None = None, *, failed: bool = False) -> builtins.list[SecretRotation]:
        """Return the rotations of passwords, the oldest first: of one, or of all; failed: those alone. Kept 30 days."""
        secret_id = None if name is None else (await self._seen(who, name)).id
        return await self._off(self._store.secret_rotations, who.tenant_id, secret_id=secret_id, failed=failed)

    async def of_logins(
        self, who: Caller, logins: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[KeptSecret, SecretRotation | None]]:
        """Return the secrets that are the passwords of logins, each with its newest rotation, by server id and login; no values.

        Of a login whose password is not kept there is none.
        """
        return await self._off(self._store.passwords_of, who.tenant_id, logins)

    async def sweep(self) -> None:
        """Seal what was laid by, rotate what is due, try again what has failed, forget what is long over. Of all tenants."""
        # Not on the store's thread: to make a key takes a while.
        await off_loop(None, self._ready_to_lay_by)
        await self._off(self._seal_laid_by)
        await self._off(self._store.drop_secret_rotations, self._now() - timedelta(days=KEPT_DAYS))
        for secret, failed in await self._off(self._store.secrets_due, self._now()):
            before = acting.set(Actor(secret.tenant_id, secret.rotated_for or secret.owner_id))
            try:
                await self._due(secret, failed)
            except Problem as problem:
                log.warning("secret", name=secret.name, code=problem.code, message=problem.message)
            finally:
                acting.reset(before)

    # -- steps ---------------------------------------------------------------------------------------------------------

    async def _of(self, who: Caller, server: Server, login: str) -> KeptSecret:
        """Return the secret that is a login's password, made where there is none."""
        secret = await self._off(self._store.password_of, who.tenant_id, server.id, login)
        if secret is None:
            _check_login(login)
            wanted = KeptSecret(
                id=str(uuid.uuid4()),
                tenant_id=who.tenant_id,
                owner_id=who.user_id,
                scope="account",
                name=await self._free_name(who, server, login),
                kind="password",
                created_at=self._now(),
                description="made for an emergency",
            )
            wanted = _of_login(wanted, server, login)
            secret = await self._off(lambda: self._store.add_secret(wanted, None, binary=False, expires_at=None))
        return secret

    async def _due(self, secret: KeptSecret, failed: SecretRotation | None) -> None:
        """Rotate a password whose time has come; what hinders that is on record with its rotation, and looked at again."""
        user_id = failed.user_id if failed is not None else secret.rotated_for
        try:
            by: RotationBy = "schedule" if failed is None else failed.by
            who = await self._off(self._acting_for, secret, str(user_id), by)
            (await self._rotated(who, secret, by, None, unless_door=True))[2].wipe()
        except Problem as problem:
            if failed is None and problem.code == "door_is_open":
                return  # somebody gets in with it just now; it is due until the door is over
            if failed is not None:
                again = self._now() + _AFTER_REFUSED
                await self._off(self._store.hold_secret_rotation, failed, again, problem.message)
            raise

    def _acting_for(self, secret: KeptSecret, user_id: str, by: RotationBy) -> Caller:
        """Return as whom a password is rotated by itself. NotFound, Conflict(user_may_not): who asked may do it no more.

        What was made in an emergency is changed by our own authority, most of all where whoever asked is gone: they know it.
        """
        tenant = self._store.tenant(secret.tenant_id)
        if by == "emergency":
            return Caller(tenant.id, tenant.projects[0], user_id, "administrator")
        user = self._store.user(secret.tenant_id, user_id)
        if not user.enabled or refusal(user.role, user.kind, "secret.rotate", secret.scope) is not None:
            message = f"{user.name}, for whom {secret.name} is rotated, may not do so any more; set the schedule anew"
            raise Conflict("user_may_not", message, secret=secret.name)
        return Caller(tenant.id, tenant.projects[0], user.id, user.role, user.kind)

    async def _rotated(
        self,
        who: Caller,
        secret: KeptSecret,
        by: RotationBy,
        credential: Credential | None,
        *,
        anew: bool = False,
        unless_door: bool = False,
    ) -> tuple[SecretRotation, Task, Secret]:
        """Return the rotation that was begun, its task, and the password that it sets.

        anew: always a new one, though the newest has not come to its server yet; which then may have neither of the two that are
        marked, but one that is kept still.
        """
        _refuse_text(secret)
        server = await self._off(self._server, secret)
        pending = not anew and secret.version > 0 and secret.works != secret.version
        if pending:
            version = secret.version
            _, password = await self._off(self._opened, secret, version, secretvalues.SET, who.user_id)
            value = None
        else:
            version = secret.version + 1
            password = Secret("".join(random.choice(_LEGIBLE) for _ in range(_CHARACTERS)))
            value = await self._off(secretvalues.sealed_or_laid_by, self._store, self._kms, secret, version, password)
        try:
            before = [each for each in await self._off(self._of_secret, secret) if each.version == version]
            tries = before[-1].tries + 1 if pending and before else 1
            request = {"secret": secret.name, "secret_id": secret.id, "version": version, "try": tries}
            task = Task(
                id=str(uuid.uuid4()),
                tenant_id=who.tenant_id,
                user_id=who.user_id,
                server_id=server.id,
                server_name=server.name,
                login=str(secret.login),
                operation=SETS_PASSWORD,
                request=request | given(SETS_PASSWORD, credential),
                created_at=self._now(),
            )
            rotation = SecretRotation(
                id=before[-1].id if pending and before else str(uuid.uuid4()),
                secret_id=secret.id,
                tenant_id=secret.tenant_id,
                user_id=who.user_id,
                name=secret.name,
                version=version,
                by=by,
                task_id=task.id,
                created_at=before[-1].created_at if pending and before else self._now(),
                tries=tries,
            )
            sealed = await kept_sealed(self._deposits, self._executor, [(Order.of_task(task), credential)])
            holder = (self._dispatch.owner, self._dispatch.lease_seconds)
            kept = (secret, value, rotation, task, *holder, sealed)
            rotation, task = await self._off(self._store.rotate_secret, *kept, unless_door=unless_door)
        except BaseException:
            password.wipe()
            raise
        # In memory too: the key service may be away when the task begins.
        at_hand = replace(credential or Credential(), new_password=Secret(bytearray(password.view())))
        # What an emergency waits for waits for nobody.
        self._dispatch.ring([task.id], {task.server_id: at_hand}, urgent=by == "emergency")
        return rotation, task, password

    def _of_secret(self, secret: KeptSecret) -> builtins.list[SecretRotation]:
        return self._store.secret_rotations(secret.tenant_id, secret_id=secret.id)

    def _server(self, secret: KeptSecret) -> Server:
        try:
            return self._store.server(secret.tenant_id, str(secret.server_id))
        except NotFound:
            message = f"{secret.name}: its server {secret.server_name} is not in the inventory any more"
            raise NotFound("server_not_found", message, server=secret.server_name) from None

    def _ready_to_lay_by(self) -> None:
        """See that each tenant has the key that it needs where the key service is away."""
        try:
            for tenant in self._store.tenants():
                secretvalues.prepare(self._store, self._kms, tenant.id)
        except Problem as problem:
            log.warning("waiting key", code=problem.code, message=problem.message)

    def _seal_laid_by(self) -> None:
        try:
            done = secretvalues.seal_all_laid_by(self._store, self._kms)
        except Problem as problem:
            log.warning("secrets laid by", code=problem.code, message=problem.message)
            return
        if done:
            log.info("secrets laid by were sealed", number=done)

    def _opened(self, secret: KeptSecret, version: int, purpose: str, user_id: str) -> tuple[KeptSecret, Secret]:
        return secretvalues.opened(self._store, self._kms, secret.id, version, purpose, user_id)

    async def _free_name(self, who: Caller, server: Server, login: str) -> str:
        """Return a name for the password of a login that no secret which the caller may see has."""
        wanted = "".join(
            each if each.isascii() and (each.isalnum() or each in "_-") else "-" for each in f"{server.name}-{login}"
        )
        try:
            await self._seen(who, wanted[:64])
        except NotFound:
            return wanted[:64]
        return f"{wanted[:55]}-{random.token_hex(4)}"

    async def _seen(self, who: Caller, name: str) -> KeptSecret:
        return await self._off(self._store.secret, who.tenant_id, who.user_id, name)

    async def _off(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await off_loop(self._executor, verb, *args, **kwargs)


def _of_login(secret: KeptSecret, server: Server, login: str) -> KeptSecret:
    _check_login(login)
    return replace(secret, server_id=server.id, server_name=server.name, login=login)


def _refuse_foreign(who: Caller, server: Server) -> None:
    if server.tenant_id != who.tenant_id:
        raise NotFound("server_not_found", f"{server.name}: no server of this name", server=server.name)


def _check_login(login: str) -> None:
    if not LOGIN.fullmatch(login):
        raise Invalid("login_unusable", f"{login!r}: this cannot be a login; use letters, digits, _ . @ + and -")


def _refuse_password(secret: KeptSecret, why: str) -> None:
    if secret.kind == "password":
        raise Conflict("secret_rotated", f"{secret.name}: the password of {secret.login} on {secret.server_name}; {why}")


def _refuse_text(secret: KeptSecret) -> None:
    if secret.kind != "password":
        raise Conflict(
            "not_a_password",
            f"{secret.name}: no server's password, so there is nowhere to set it; kps secret store keeps a new value",
        )


def _chosen(secret: KeptSecret, versions: Collection[SecretVersion], version: str | None, stage: str | None) -> SecretVersion:
    if version is not None and stage is not None:
        raise Invalid("version_unusable", f"{secret.name}: name a version or a stage, not both")
    if version is not None:
        number = rules.number_of(version, secret.version)
        found = next((each for each in versions if each.version == number), None)
        if found is None:
            raise NotFound("secret_version_not_found", f"{secret.name}: there is no version {version}", secret=secret.name)
        return found
    wanted = stage or rules.CURRENT
    found = next((each for each in versions if wanted in each.stages), None)
    if found is None:
        raise NotFound("stage_not_found", f"{secret.name}: no version has the stage {wanted}", secret=secret.name)
    return found
