"""What a task that sets a password works with: the new one, its hash, and the old one as a way in."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from passlib.hash import sha512_crypt

from controller import secretvalues
from controller.errors import Conflict, Damaged, NotFound, Unavailable
from controller.kms import Kms
from controller.model import Credential, Secret, Task
from controller.stages import KeptSecret
from controller.store import Store
from controller.store.passwords import SETS_PASSWORD as SETS_PASSWORD
from kpsagent.errors import Refused

Off = Callable[..., Awaitable[Any]]  # calls a verb on another thread

# As crypt(5) has it where nothing is said. What is hashed is random: no number of rounds makes it harder to guess.
_ROUNDS = 5000


def hashed(password: Secret) -> str:
    """Return the hash of a password as it stands in shadow: SHA-512, which every C library that sshd runs with knows."""
    return str(sha512_crypt.using(rounds=_ROUNDS).hash(password.open()))  # type: ignore[no-untyped-call]


async def recalled(task: Task, given: Credential | None, off: Off, store: Store, kms: Kms) -> tuple[Secret, Credential | None]:
    """Return the password that a task sets, and what was given to get in with, where that is in memory.

    Refused: secret_changed where another version has become the newest one since; custody_damaged, root_key_missing,
    master_key_unusable where the value does not open.
    """
    secret = await off(_secret, task, store)
    new = None if given is None else given.new_password
    if new is None:
        new = await off(_opened, store, kms, task, secret, int(task.request["version"]), secretvalues.SET)
    rest = None if given is None else replace(given, new_password=None)
    return new, rest if rest is not None and (rest.password is not None or rest.by_key) else None


async def entering(task: Task, off: Off, store: Store, kms: Kms) -> Credential | None:
    """Return the password that the login has now as a way in, for where no key in custody is one; None where none is known.

    After an end that nobody heard it may be the version of before or the new one: they take turns. Refused as in recalled().
    """
    secret = await off(_secret, task, store)
    version = int(task.request["version"])
    enters = secret.works if int(task.request.get("try", 1)) % 2 else version
    if enters is None:
        return None
    value = await off(_opened, store, kms, task, secret, enters, secretvalues.ENTER)
    return Credential(password=value, password_of=task.login)


def _secret(task: Task, store: Store) -> KeptSecret:
    try:
        secret = store.secret_by_id(str(task.request["secret_id"]))
    except NotFound as gone:
        raise Refused("secret_changed", f"{task.server_name}: the secret was deleted; nothing is set") from gone
    version = int(task.request["version"])
    if secret.version != version:
        told = f"v{version} of {secret.name} is not the newest any more, so it is not set; kps secret rotate {secret.name}"
        raise Refused("secret_changed", f"{task.server_name}: {told}", secret=secret.name)
    return secret


def _opened(store: Store, kms: Kms, task: Task, secret: KeptSecret, version: int, purpose: str) -> Secret:
    of = {"task_id": task.id, "server_id": task.server_id}
    try:
        return secretvalues.opened(store, kms, secret.id, version, purpose, task.user_id, **of)[1]
    except (Conflict, Damaged, Unavailable, NotFound) as problem:
        if problem.code == "store_unusable":
            raise
        unusable = "master_key_unusable" if isinstance(problem, Conflict) else "root_key_missing"
        cause = "custody_damaged" if isinstance(problem, Damaged | NotFound) else unusable
        message = f"{task.server_name}: v{version} of {secret.name}: {problem.message}"
        raise Refused(cause, message, secret=secret.name, custody=problem.code) from problem
