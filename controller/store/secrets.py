"""Secrets, their versions sealed, and the rotations of those that are passwords."""

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, or_, select, update

from controller import stages as rules
from controller.errors import AlreadyExists, Conflict, NotFound
from controller.model import Outcome, Sealed, SealedCredential, Task
from controller.stages import KeptSecret, SecretRotation, SecretVersion
from controller.store import engine, rows, tables
from controller.store.keypairs import refuse_gone
from controller.store.passwords import told
from controller.store.queries import door_in_use, one, some, task_where
from controller.store.tasks import Tasks

_TABLE, _VERSIONS, _STAGES, _ROTATIONS = tables.secrets, tables.secret_versions, tables.secret_stages, tables.secret_rotations
_OVERTAKEN = Outcome(
    "cancelled", "as_before", phase="queued", message="an emergency has set a newer password before it was begun"
)


class Secrets(Tasks):
    """The secrets of all tenants, and who sees which. Of two that change one at the same moment the second is refused."""

    def add_secret(
        self, secret: KeptSecret, value: Sealed | bytes | None, *, binary: bool, expires_at: datetime | None
    ) -> KeptSecret:
        """Keep a new secret with its first version, or (value None) without any. bytes: laid by, to be sealed.

        A name is one secret to everyone who may see it. AlreadyExists: secret_exists, secret_name_taken (by another user's
        private one), password_kept (that login's is a secret already). Conflict(too_many_secrets).
        """
        with engine.writing(self._engine) as connection:
            _refuse_place(connection, secret)
            kept = replace(secret, version=0 if value is None else 1)
            connection.execute(_TABLE.insert().values(rows.row(kept)))
            self._event(
                connection, kept.tenant_id, "secret_created", told(kept) | {"version": kept.version}, server_id=kept.server_id
            )
            if value is not None:
                self._keep_version(connection, kept, value, kept.owner_id, binary, expires_at, rules.with_version({}, 1, None))
            return kept

    def secrets(self, tenant_id: str, user_id: str, *, after: str = "", limit: int | None = None) -> list[KeptSecret]:
        """Return the secrets that a user may know of, by name: of those after a name, so many."""
        query = select(_TABLE).where(*_seen_by(tenant_id, user_id), _TABLE.c.name > after).order_by(_TABLE.c.name).limit(limit)
        with engine.reading(self._engine) as connection:
            return [rows.secret(found) for found in connection.execute(query).mappings()]

    def secret(self, tenant_id: str, user_id: str, name: str) -> KeptSecret:
        """Return a secret that the user may know of; another user's private one is not found."""
        with engine.reading(self._engine) as connection:
            found = one(connection, _TABLE, *_seen_by(tenant_id, user_id), _TABLE.c.name == name)
        if found is None:
            raise NotFound("secret_not_found", f"{name}: no secret of this name", secret=name)
        return rows.secret(found)

    def secret_by_id(self, secret_id: str) -> KeptSecret:
        """Return a secret of whatever owner; for who runs a task, not for who asks."""
        with engine.reading(self._engine) as connection:
            return _of(connection, secret_id)

    def password_of(self, tenant_id: str, server_id: str, login: str) -> KeptSecret | None:
        """Return the secret that is the password of a login."""
        where = (_TABLE.c.tenant_id == tenant_id, _TABLE.c.kind == "password", _TABLE.c.server_id == server_id)
        with engine.reading(self._engine) as connection:
            found = one(connection, _TABLE, *where, _TABLE.c.login == login)
        return None if found is None else rows.secret(found)

    def passwords_of(
        self, tenant_id: str, logins: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[KeptSecret, SecretRotation | None]]:
        """Return the secrets that are the passwords of logins, each with its newest rotation, by server id and login.

        Of a login whose password is not kept there is none.
        """
        kept: dict[tuple[str, str], KeptSecret] = {}
        newest: dict[str, SecretRotation] = {}
        with engine.reading(self._engine) as connection:
            for ids in some({server_id for server_id, _ in logins}):
                where = (_TABLE.c.tenant_id == tenant_id, _TABLE.c.kind == "password", _TABLE.c.server_id.in_(ids))
                for found in connection.execute(select(_TABLE).where(*where)).mappings():
                    if (found["server_id"], found["login"]) in logins:
                        kept[found["server_id"], found["login"]] = rows.secret(found)
            for ids in some({each.id for each in kept.values()}):
                query = select(_ROTATIONS).where(_ROTATIONS.c.tenant_id == tenant_id, _ROTATIONS.c.secret_id.in_(ids))
                for found in connection.execute(query.order_by(_ROTATIONS.c.created_at, _ROTATIONS.c.id)).mappings():
                    newest[found["secret_id"]] = rows.secret_rotation(found)
        return {login: (secret, newest.get(secret.id)) for login, secret in kept.items()}

    def secret_versions(self, secret_id: str) -> list[SecretVersion]:
        """Return the versions of a secret, the oldest first, each with the stages that mark it."""
        with engine.reading(self._engine) as connection:
            marked = _stages(connection, secret_id)
            query = select(_VERSIONS).where(_VERSIONS.c.secret_id == secret_id).order_by(_VERSIONS.c.version)
            return [_version(found, marked) for found in connection.execute(query).mappings()]

    def secret_value(self, secret_id: str, version: int) -> tuple[KeptSecret, Sealed | bytes]:
        """Return a secret with the value of a version: sealed, or (bytes) laid by. NotFound(secret_version_not_found)."""
        with engine.reading(self._engine) as connection:
            secret = _of(connection, secret_id)
            found = one(connection, _VERSIONS, _VERSIONS.c.secret_id == secret_id, _VERSIONS.c.version == version)
        if found is None:
            raise NotFound("secret_version_not_found", f"{secret.name}: there is no version v{version}", secret=secret.name)
        return secret, Sealed(found["sealed"]) if found["sealed"] is not None else found["laid_by"]

    def note_secret_opening(
        self,
        secret_id: str,
        version: int,
        purpose: str,
        user_id: str,
        *,
        task_id: str | None = None,
        server_id: str | None = None,
    ) -> None:
        """Record who has a version of a secret opened, for what, and for which task."""
        with engine.writing(self._engine) as connection:
            secret = _of(connection, secret_id)
            detail = told(secret) | {"version": version, "purpose": purpose, "user_id": user_id}
            self._event(
                connection, secret.tenant_id, "secret_opened", detail, task_id=task_id, server_id=server_id or secret.server_id
            )

    def add_secret_version(
        self,
        before: KeptSecret,
        value: Sealed | bytes,
        user_id: str,
        *,
        stages: Collection[str] | None = None,
        binary: bool = False,
        expires_at: datetime | None = None,
    ) -> SecretVersion:
        """Keep the next version of a secret; before: as it was read, whose version is one less than what value was sealed for.

        stages: see controller.stages.with_version. Conflict: secret_changed, too_many_versions, too_many_stages.
        """
        with engine.writing(self._engine) as connection:
            after = self._next_version(connection, before)
            marked = rules.with_version(_stages(connection, before.id), after.version, stages)
            self._keep_version(connection, after, value, user_id, binary, expires_at, marked)
            found = one(connection, _VERSIONS, _VERSIONS.c.secret_id == after.id, _VERSIONS.c.version == after.version)
            return _version(found, marked)

    def set_secret_stage(self, before: KeptSecret, stage: str, version: int, user_id: str) -> dict[str, int]:
        """Have a stage mark a version; returns all stages. NotFound(secret_version_not_found), Conflict as with_stage."""
        with engine.writing(self._engine) as connection:
            secret = _unchanged(connection, before)
            if one(connection, _VERSIONS, _VERSIONS.c.secret_id == secret.id, _VERSIONS.c.version == version) is None:
                raise NotFound("secret_version_not_found", f"{secret.name}: there is no version v{version}", secret=secret.name)
            marked = rules.with_stage(_stages(connection, secret.id), stage, version)
            self._mark(connection, secret, marked)
            detail = told(secret) | {"stage": stage, "version": version, "user_id": user_id}
            self._event(connection, secret.tenant_id, "secret_stage_set", detail)
            return marked

    def delete_secret_stage(self, before: KeptSecret, stage: str, user_id: str) -> dict[str, int]:
        """Delete a stage; returns those that are left. NotFound(stage_not_found), Conflict(stage_built_in)."""
        with engine.writing(self._engine) as connection:
            secret = _unchanged(connection, before)
            marked = _stages(connection, secret.id)
            left = rules.without_stage(marked, stage)
            if stage not in marked:
                raise NotFound("stage_not_found", f"{secret.name}: no stage {stage}", secret=secret.name)
            self._mark(connection, secret, left)
            detail = told(secret) | {"stage": stage, "version": marked[stage], "user_id": user_id}
            self._event(connection, secret.tenant_id, "secret_stage_deleted", detail)
            return left

    def change_secret(self, before: KeptSecret, user_id: str, **changes: Any) -> KeptSecret:
        """Change what is on record of a secret: description, rotates_every, rotated_for, rotates_at."""
        with engine.writing(self._engine) as connection:
            secret = _unchanged(connection, before)
            after = replace(secret, **changes, updated_at=self._now())
            connection.execute(update(_TABLE).where(_TABLE.c.id == after.id).values(rows.row(after)))
            shown = {name: getattr(after, name) for name in changes if name in ("description", "rotates_every")}
            self._event(connection, after.tenant_id, "secret_changed", told(after) | shown | {"user_id": user_id})
            return after

    def delete_secret(self, before: KeptSecret, user_id: str) -> None:
        """Delete a secret with all its versions. Conflict(secret_busy) while it is on its way to its server."""
        with engine.writing(self._engine) as connection:
            secret = _of(connection, before.id)
            running = one(connection, _ROTATIONS, _ROTATIONS.c.secret_id == secret.id, _ROTATIONS.c.state == "running")
            if running is not None:
                message = f"{secret.name}: task {running['task_id']} is setting it; wait until that has ended"
                raise Conflict("secret_busy", message, secret=secret.name, task=running["task_id"])
            for table in (_STAGES, _VERSIONS):
                connection.execute(delete(table).where(table.c.secret_id == secret.id))
            connection.execute(delete(_TABLE).where(_TABLE.c.id == secret.id))
            self._event(
                connection, secret.tenant_id, "secret_deleted", told(secret) | {"user_id": user_id}, server_id=secret.server_id
            )

    # -- rotation

    def rotate_secret(
        self,
        before: KeptSecret,
        value: Sealed | bytes | None,
        rotation: SecretRotation,
        task: Task,
        holder: str,
        lease_seconds: float,
        credentials: Sequence[SealedCredential] = (),
        *,
        unless_door: bool = False,
    ) -> tuple[SecretRotation, Task]:
        """Keep a new version of a password as the current one, and the task that sets it: all of it, or nothing.

        value None: the newest version, which has not come to its server yet, is tried once more. rotation: a new one, or the one
        that has failed. Conflict: secret_changed, secret_busy (a task is at it); unless_door: door_is_open (one of the login's is
        open, may be, or is about to be).
        """
        with engine.writing(self._engine) as connection:
            secret = _unchanged(connection, before)
            if unless_door:
                _refuse_door(connection, secret, self._now())
            running = one(connection, _ROTATIONS, _ROTATIONS.c.secret_id == secret.id, _ROTATIONS.c.state == "running")
            urgent = value is not None and rotation.by == "emergency"
            if running is not None and urgent and running["by"] != "emergency":
                # What an emergency waits for waits for nothing that nobody has begun.
                waits = task_where(connection, tables.tasks.c.id == running["task_id"], tables.tasks.c.status == "ready")
                if waits is not None:
                    self._end(connection, waits, _OVERTAKEN, "task_cancelled")
                    running = None
            if running is not None:
                message = f"{secret.name}: task {running['task_id']} is setting it; wait until that has ended"
                raise Conflict("secret_busy", message, secret=secret.name, task=running["task_id"])
            if value is not None:
                secret = self._next_version(connection, secret)
                marked = rules.with_version(_stages(connection, secret.id), secret.version, None, before.works)
                self._keep_version(connection, secret, value, rotation.user_id, False, None, marked)
            if rotation.version != secret.version:
                raise ValueError(f"a rotation to v{rotation.version} of a secret at v{secret.version}")
            self._keep_credentials(connection, credentials)
            kept = self._add_task(connection, self._held(task, holder, lease_seconds))
            if one(connection, _ROTATIONS, _ROTATIONS.c.id == rotation.id) is None:
                connection.execute(_ROTATIONS.insert().values(rows.row(rotation)))
            else:
                self._save_rotation(connection, rotation)
            self._rotation_told(connection, rotation, secret, "secret_rotation_begun")
            return rotation, kept

    def secret_rotations(self, tenant_id: str, *, secret_id: str | None = None, failed: bool = False) -> list[SecretRotation]:
        """Return the rotations of a tenant's passwords, the oldest first: of one secret, or of all; failed: those alone."""
        query = select(_ROTATIONS).where(_ROTATIONS.c.tenant_id == tenant_id)
        if secret_id is not None:
            query = query.where(_ROTATIONS.c.secret_id == secret_id)
        if failed:
            query = query.where(_ROTATIONS.c.state == "failed")
        with engine.reading(self._engine) as connection:
            found = connection.execute(query.order_by(_ROTATIONS.c.created_at, _ROTATIONS.c.id)).mappings()
            return [rows.secret_rotation(each) for each in found]

    def secrets_due(self, at: datetime) -> list[tuple[KeptSecret, SecretRotation | None]]:
        """Return the passwords of all tenants that are to be rotated now by themselves, each with its rotation that has failed.

        That is those whose time has come, and those that are on their way to their server and may be tried once more.
        """
        joined = select(_TABLE, _ROTATIONS.c.id.label("rotation_id")).outerjoin(
            _ROTATIONS, (_ROTATIONS.c.secret_id == _TABLE.c.id) & (_ROTATIONS.c.version == _TABLE.c.version)
        )
        begun = (_ROTATIONS.c.state == "failed") & (_ROTATIONS.c.again_at <= at)
        fresh = (_TABLE.c.rotates_at <= at) & or_(_ROTATIONS.c.id.is_(None), _ROTATIONS.c.state == "done")
        query = joined.where(_TABLE.c.kind == "password", or_(begun, fresh)).order_by(_TABLE.c.rotates_at, _TABLE.c.name)
        with engine.reading(self._engine) as connection:
            due = []
            for found in connection.execute(query).mappings().all():
                rotation = None
                if found["rotation_id"] is not None:
                    row = one(connection, _ROTATIONS, _ROTATIONS.c.id == found["rotation_id"])
                    rotation = None if row is None else rows.secret_rotation(row)
                secret = KeptSecret(**{each.name: found[each.name] for each in fields(KeptSecret)})
                due.append((secret, rotation if rotation is not None and rotation.state == "failed" else None))
            return due

    def hold_secret_rotation(self, rotation: SecretRotation, again_at: datetime, message: str) -> None:
        """Record why a rotation that has failed cannot even be tried just now, and when it is looked at again."""
        with engine.writing(self._engine) as connection:
            found = one(connection, _ROTATIONS, _ROTATIONS.c.id == rotation.id)
            if found is None or found["state"] != "failed":
                return
            changed = replace(rows.secret_rotation(found), again_at=again_at, message=message)
            self._save_rotation(connection, changed)
            if message != rotation.message:
                row = one(connection, _TABLE, _TABLE.c.id == rotation.secret_id)
                self._rotation_told(connection, changed, None if row is None else rows.secret(row), "secret_rotation_failed")

    def drop_secret_rotations(self, before: datetime) -> int:
        """Forget the rotations that ended before a time; returns how many."""
        with engine.writing(self._engine) as connection:
            return connection.execute(delete(_ROTATIONS).where(_ROTATIONS.c.ended_at < before)).rowcount

    # -- what is laid by

    def waiting_key(self, tenant_id: str) -> tuple[bytes, Sealed] | None:
        """Return the key that values are encrypted to while nothing can be sealed: public half, and private half sealed."""
        table = tables.waiting_keys
        with engine.reading(self._engine) as connection:
            found = one(connection, table, table.c.tenant_id == tenant_id)
        return None if found is None else (found["public_key"], Sealed(found["sealed"]))

    def add_waiting_key(self, tenant_id: str, public_key: bytes, sealed: Sealed) -> None:
        """Keep that key; where there is one already, that stays."""
        table = tables.waiting_keys
        with engine.writing(self._engine) as connection:
            if one(connection, table, table.c.tenant_id == tenant_id) is None:
                values = {"tenant_id": tenant_id, "public_key": public_key, "sealed": sealed.record, "created_at": self._now()}
                connection.execute(table.insert().values(values))
                self._event(connection, tenant_id, "waiting_key_created", {"master_key_id": sealed.master_key_id})

    def laid_by(self) -> list[tuple[KeptSecret, int]]:
        """Return the versions of all tenants that wait to be sealed."""
        query = select(_VERSIONS.c.secret_id, _VERSIONS.c.version).where(_VERSIONS.c.laid_by.is_not(None))
        with engine.reading(self._engine) as connection:
            return [(_of(connection, secret_id), version) for secret_id, version in connection.execute(query).all()]

    def seal_laid_by(self, secret: KeptSecret, version: int, before: bytes, sealed: Sealed) -> bool:
        """Put the sealed value in the place of what was laid by; False where that is not there any more."""
        which = (_VERSIONS.c.secret_id == secret.id, _VERSIONS.c.version == version, _VERSIONS.c.laid_by == before)
        with engine.writing(self._engine) as connection:
            refuse_gone(connection, sealed)
            values = {"sealed": sealed.record, "laid_by": None, "master_key_id": sealed.master_key_id}
            if not connection.execute(update(_VERSIONS).where(*which).values(values)).rowcount:
                return False
            detail = told(secret) | {"version": version, "master_key_id": sealed.master_key_id}
            self._event(connection, secret.tenant_id, "secret_sealed", detail)
            return True

    # -- steps inside a transaction

    def _next_version(self, connection: Connection, before: KeptSecret) -> KeptSecret:
        secret = _unchanged(connection, before)
        marked = _stages(connection, secret.id)
        there = connection.execute(select(_VERSIONS.c.version).where(_VERSIONS.c.secret_id == secret.id)).scalars().all()
        for gone in rules.to_drop(there, marked, secret.works):
            connection.execute(delete(_VERSIONS).where(_VERSIONS.c.secret_id == secret.id, _VERSIONS.c.version == gone))
        after = replace(secret, version=secret.version + 1, updated_at=self._now())
        connection.execute(update(_TABLE).where(_TABLE.c.id == after.id).values(rows.row(after)))
        return after

    def _keep_version(
        self,
        connection: Connection,
        secret: KeptSecret,
        value: Sealed | bytes,
        user_id: str,
        binary: bool,
        expires_at: datetime | None,
        marked: dict[str, int],
    ) -> None:
        sealed = value if isinstance(value, Sealed) else None
        refuse_gone(connection, sealed)
        newest = connection.execute(select(func.max(_VERSIONS.c.created_at)).where(_VERSIONS.c.secret_id == secret.id)).scalar()
        values = {
            "secret_id": secret.id,
            "version": secret.version,
            "user_id": user_id,
            "binary": binary,
            "sealed": None if sealed is None else sealed.record,
            "laid_by": None if sealed is not None else value,
            "master_key_id": None if sealed is None else sealed.master_key_id,
            # Whoever takes the newest by its time must find the newest, whatever the clock does.
            "created_at": _later(self._now(), newest),
            "expires_at": expires_at,
        }
        connection.execute(_VERSIONS.insert().values(values))
        self._mark(connection, secret, marked)
        stages = sorted(stage for stage, version in marked.items() if version == secret.version)
        detail = told(secret) | {"version": secret.version, "stages": stages, "sealed": sealed is not None, "user_id": user_id}
        self._event(connection, secret.tenant_id, "secret_stored", detail)

    def _mark(self, connection: Connection, secret: KeptSecret, marked: dict[str, int]) -> None:
        before = _stages(connection, secret.id)
        for stage in before.keys() - marked.keys():
            connection.execute(delete(_STAGES).where(_STAGES.c.secret_id == secret.id, _STAGES.c.stage == stage))
        for stage, version in marked.items():
            values = {"version": version, "updated_at": self._now()}
            if stage not in before:
                connection.execute(_STAGES.insert().values(secret_id=secret.id, stage=stage, **values))
            elif before[stage] != version:
                where = (_STAGES.c.secret_id == secret.id, _STAGES.c.stage == stage)
                connection.execute(update(_STAGES).where(*where).values(values))


def _later(at: datetime, newest: datetime | None) -> datetime:
    return at if newest is None or at > newest else newest + timedelta(milliseconds=1)


def _seen_by(tenant_id: str, user_id: str) -> list[ColumnElement[bool]]:
    return [_TABLE.c.tenant_id == tenant_id, or_(_TABLE.c.scope == "account", _TABLE.c.owner_id == user_id)]


def _refuse_place(connection: Connection, secret: KeptSecret) -> None:
    same = [_TABLE.c.tenant_id == secret.tenant_id, _TABLE.c.name == secret.name]
    if one(connection, _TABLE, *_seen_by(secret.tenant_id, secret.owner_id), _TABLE.c.name == secret.name) is not None:
        raise AlreadyExists("secret_exists", f"{secret.name}: there is a secret of this name already")
    if secret.scope == "account" and one(connection, _TABLE, *same) is not None:
        raise AlreadyExists(
            "secret_name_taken",
            f"{secret.name}: another user has a private secret of this name, and would see two; take another name",
        )
    if secret.kind == "password":
        where = (_TABLE.c.tenant_id == secret.tenant_id, _TABLE.c.kind == "password", _TABLE.c.server_id == secret.server_id)
        found = one(connection, _TABLE, *where, _TABLE.c.login == secret.login)
        if found is not None:
            message = f"{secret.login} on {secret.server_name}: its password is the secret {found['name']} already"
            raise AlreadyExists("password_kept", message, secret=found["name"])
    count = connection.execute(
        select(func.count()).select_from(_TABLE).where(_TABLE.c.tenant_id == secret.tenant_id)
    ).scalar_one()
    if count >= rules.MOST_SECRETS:
        raise Conflict("too_many_secrets", f"there are {count} secrets, and no more may be; delete what is not needed")


def _of(connection: Connection, secret_id: str) -> KeptSecret:
    found = one(connection, _TABLE, _TABLE.c.id == secret_id)
    if found is None:
        raise NotFound("secret_not_found", f"{secret_id}: no secret of this id", secret=secret_id)
    return rows.secret(found)


def _refuse_door(connection: Connection, secret: KeptSecret, at: datetime) -> None:
    """Refuse to change a password by which somebody may be about to get in."""
    door = door_in_use(connection, secret.server_id, secret.login, at)
    if door is not None:
        told = f"{secret.name}: a door for {secret.login} is {door.state} ({door.id}); its password stays until that is over"
        raise Conflict("door_is_open", told, secret=secret.name, door=door.id)


def _unchanged(connection: Connection, before: KeptSecret) -> KeptSecret:
    """Return the secret as it is. Conflict(secret_changed) where it has another newest version, or another one works."""
    found = _of(connection, before.id)
    if (found.version, found.works) != (before.version, before.works):
        raise Conflict("secret_changed", f"{before.name}: it was changed meanwhile; try again", secret=before.name)
    return found


def _stages(connection: Connection, secret_id: str) -> dict[str, int]:
    query = select(_STAGES.c.stage, _STAGES.c.version).where(_STAGES.c.secret_id == secret_id).order_by(_STAGES.c.stage)
    return {each.stage: each.version for each in connection.execute(query)}


def _version(found: Any, marked: dict[str, int]) -> SecretVersion:
    names = [each.name for each in fields(SecretVersion) if each.name != "stages"]
    stages = [stage for stage, version in marked.items() if version == found["version"]]
    return SecretVersion(**{name: found[name] for name in names}, stages=stages)
