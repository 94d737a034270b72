"""What the end of a task that sets a password means for the secret that it is from."""

from dataclasses import replace
from datetime import timedelta

from sqlalchemy import Connection, update

from controller.model import Operation, Outcome, Task
from controller.stages import KeptSecret, SecretRotation
from controller.store import rows, tables
from controller.store.base import Base
from controller.store.queries import door_in_use, one

SETS_PASSWORD: Operation = "password-set"  # noqa: S105 - the operation
AGAIN_AFTER = timedelta(hours=1)


class Passwords(Base):
    """Rotations of passwords, as their tasks end."""

    def _password_told(self, connection: Connection, task: Task) -> None:
        """Record what an ended task has come to: which version works, and how its rotation stands.

        Called again where that is settled later.
        """
        if task.operation != SETS_PASSWORD:
            return
        secret_id, version = str(task.request.get("secret_id")), int(task.request.get("version", 0))
        row = one(connection, tables.secrets, tables.secrets.c.id == secret_id)
        secret = None if row is None else rows.secret(row)
        done = task.status in ("succeeded", "unchanged") or task.server_state == "as_asked"
        if secret is not None and done and version == secret.version:
            at = self._now()
            due = None if secret.rotates_every is None else at + timedelta(seconds=secret.rotates_every)
            values = {"works": version, "rotates_at": due}
            connection.execute(update(tables.secrets).where(tables.secrets.c.id == secret_id).values(values))
        table = tables.secret_rotations
        found = one(connection, table, table.c.task_id == task.id)
        if found is None or found["state"] == "done":
            return
        rotation = rows.secret_rotation(found)
        ended = replace(
            rotation,
            state="done" if done else "failed",
            cause=None if done else task.cause or task.status,
            message="" if done else task.message,
            proved=any(each["way"] == "password" and each["method"] == "logged_in" for each in task.proofs),
            ended_at=self._now(),
            again_at=None if done else self._now() + AGAIN_AFTER,
        )
        self._save_rotation(connection, ended)
        kind = "secret_rotation_done" if done else "secret_rotation_failed"
        self._rotation_told(connection, ended, secret, kind)

    def _password_stays(self, connection: Connection, task: Task) -> Outcome | None:
        """Return how a task ends that is to change a password by schedule, where a door of its login has come before it."""
        if task.operation != SETS_PASSWORD:
            return None
        found = one(connection, tables.secret_rotations, tables.secret_rotations.c.task_id == task.id)
        if found is None or found["by"] != "schedule":
            return None
        door = door_in_use(connection, task.server_id, task.login, self._now())
        if door is None:
            return None
        told = f"a door for {task.login} is {door.state} ({door.id}); the password is changed once that is over"
        return Outcome("cancelled", "as_before", phase="queued", message=told)

    def _password_tried_again(self, connection: Connection, task: Task) -> None:
        """Have the rotation that a retried task was of go on with the retry.

        One to a version that is not the newest any more does not: its task ends by itself (secret_changed).
        """
        table = tables.secret_rotations
        found = None if task.retry_of is None else one(connection, table, table.c.task_id == task.retry_of)
        if found is None or found["state"] != "failed":
            return
        rotation = rows.secret_rotation(found)
        row = one(connection, tables.secrets, tables.secrets.c.id == rotation.secret_id)
        if row is not None and row["version"] != rotation.version:
            return
        again = replace(
            rotation,
            state="running",
            task_id=task.id,
            tries=rotation.tries + 1,
            cause=None,
            message="",
            ended_at=None,
            again_at=None,
        )
        self._save_rotation(connection, again)
        self._rotation_told(connection, again, None if row is None else rows.secret(row), "secret_rotation_begun")

    def _save_rotation(self, connection: Connection, rotation: SecretRotation) -> None:
        table = tables.secret_rotations
        connection.execute(update(table).where(table.c.id == rotation.id).values(rows.row(rotation)))

    def _rotation_told(self, connection: Connection, rotation: SecretRotation, secret: KeptSecret | None, kind: str) -> None:
        # A password is the account's: everybody in the tenant may know that it was changed.
        whose = {"scope": "account", "owner_id": rotation.user_id} if secret is None else told(secret)
        detail = whose | {
            "secret": rotation.name,
            "secret_id": rotation.secret_id,
            "version": rotation.version,
            "by": rotation.by,
            "tries": rotation.tries,
            "cause": rotation.cause,
            "proved": rotation.proved,
        }
        self._event(
            connection,
            rotation.tenant_id,
            kind,
            detail,
            user_id=rotation.user_id,
            task_id=rotation.task_id,
            server_id=None if secret is None else secret.server_id,
        )


def told(secret: KeptSecret) -> dict[str, object]:
    """Return what every event about a secret says of it."""
    about = {
        "secret": secret.name,
        "secret_id": secret.id,
        "kind": secret.kind,
        "scope": secret.scope,
        "owner_id": secret.owner_id,
    }
    return {**about, **({} if secret.kind == "text" else {"server": secret.server_name, "login": secret.login})}
