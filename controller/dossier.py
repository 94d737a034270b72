"""What is on record about a task before it begins, looked up in one go: each look by itself costs a change of thread."""

from dataclasses import dataclass

from controller.errors import NotFound
from controller.model import KeyPair, Server, Task
from controller.order import Bound, Way
from controller.record import NOTHING_WRITTEN
from controller.store import Store


@dataclass(frozen=True, slots=True)
class Dossier:
    """A task's server, what is bound there, the key pair that the task is to bind, and what earlier tasks may have left."""

    server: Server
    bound: list[Bound]
    wanted: KeyPair | None
    left: list[Way]  # the newest first

    @property
    def names_private(self) -> bool:
        """Whether private key pairs of whoever asked are part of it."""
        mine = [each.keypair for each in self.bound if not each.strangers]
        return any(
            each is not None and each.scope == "private" for each in (*mine, self.wanted, *(way.keypair for way in self.left))
        )


def look_up(store: Store, task: Task) -> Dossier:
    """Return what is on record. NotFound: the server, or a key pair that the one who asked may use, is not there."""
    server = store.server_by_id(task.server_id)
    there = store.bound_there(task.tenant_id, server.id)
    bound = [Bound(binding, found, strangers=not found.seen_by(task.user_id)) for binding, found in there]
    name = task.request.get("keypair_id")
    wanted = None if name is None else _named(store, task, name)
    return Dossier(server, bound, wanted, _left_there(store, task))


def _named(store: Store, task: Task, keypair_id: str) -> KeyPair:
    """Return the key pair that a request names; only what its asker may use is used for it."""
    found = store.keypair_by_id(keypair_id)
    if found.tenant_id != task.tenant_id or not found.seen_by(task.user_id):
        raise NotFound("keypair_not_found", f"{keypair_id}: no key pair of this id", keypair=keypair_id)
    return found


def _left_there(store: Store, task: Task) -> list[Way]:
    """Return the ways that earlier tasks may have left on this server, the newest first: none where all is settled.

    Where nobody knows how a task has left it, or the undo did not come to its end, a key that was to be bound may be the only
    one that gets in.
    """
    found: list[Way] = []
    for other in store.doubtful_there(task.server_id):
        name = other.request.get("keypair_id")
        if name is None or (other.server_state == "partial" and other.phase in NOTHING_WRITTEN):
            continue
        try:
            way = Way(other.login, _named(store, task, name), "custody")
        except NotFound:
            continue
        if way.keypair is not None and way.keypair.managed and way not in found:
            found.append(way)
    return found
