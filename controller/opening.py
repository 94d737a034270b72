"""A private half in custody is opened here and nowhere else: on record, and only then given to who asked."""

from collections.abc import Awaitable, Callable
from typing import Any

from controller.errors import Damaged
from controller.keyfiles import signing
from controller.kms import Kms
from controller.model import KeyPair, Sealed, Secret, Task
from controller.store import Store

Off = Callable[..., Awaitable[Any]]

# Why one is opened; in the event as `purpose`.
LOGIN = "login"  # a task: to get in, to prove that the key works, to pass a jump server
EXPORT = "export"  # given to the person who asked
UPGRADE = "upgrade"  # sealed anew for another scope
DECRYPT_PASSWORD = "decrypt_password"  # noqa: S105


def opened(store: Store, kms: Kms, keypair_id: str, purpose: str, user_id: str) -> tuple[KeyPair, Secret]:
    """Return a key pair as it is now with its private half in the stored form, to be wiped by who asked.

    The event keypair_opened is on the disk before it is given: an opening that nobody knows of is worse than one that came
    to nothing. NotFound(private_key_not_kept), and what Kms.open_private raises; then there is no event.
    """
    keypair, stored = _unsealed(store, kms, keypair_id)
    try:
        store.note_opening(keypair.id, purpose, user_id)
    except BaseException:
        stored.wipe()
        raise
    return keypair, stored


async def opened_for(
    task: Task, off: Off, kept: Off, store: Store, kms: Kms, keypair_id: str, purpose: str
) -> tuple[KeyPair, Secret]:
    """Return the same as opened(), for a task that runs. off: calls on another thread; kept: the same, of a verb (Commits)."""
    keypair, stored = await off(_unsealed, store, kms, keypair_id)
    try:
        await kept(store.note_opening, keypair.id, purpose, task.user_id, task_id=task.id, server_id=task.server_id)
    except BaseException:
        stored.wipe()
        raise
    return keypair, stored


def _unsealed(store: Store, kms: Kms, keypair_id: str) -> tuple[KeyPair, Secret]:
    keypair, sealed = store.keypair_in_custody(keypair_id)
    return keypair, kms.open_private(keypair, sealed)


def verified(kms: Kms, keypair: KeyPair, sealed: Sealed) -> None:
    """Open a private half in a copy of a home, and see that it belongs to its public half. It is given to nobody.

    Damaged(key_mismatch), and what Kms.open_private raises. No event: a copy has no record that anybody will read.
    """
    stored = kms.open_private(keypair, sealed)
    try:
        if not signing.belongs(keypair.type, stored, keypair.public_key):
            raise Damaged("key_mismatch", f"{keypair.name}: its private half belongs to another public half")
    finally:
        stored.wipe()
