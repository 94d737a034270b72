"""What opens a server, given with an order: sealed for exactly that order and server, and opened for its task alone.

A process that has it in memory needs none of this; it is for the one that comes after.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta

from controller.errors import Conflict, Damaged, Unavailable
from controller.kms import Context, Kms
from controller.model import Credential, SealedCredential, Secret, Task, now
from controller.store import Store
from kpsagent.errors import Refused

_LENGTH = struct.Struct(">i")  # -1: was not given
_SECRETS = frozenset({"password", "identity", "passphrase"})


@dataclass(frozen=True, slots=True)
class Order:
    """What a credential is for; it opens for nothing else."""

    owner_id: str  # of the task, or of the rollout
    of: str  # "task" or "rollout"
    tenant_id: str
    server_id: str
    login: str
    operation: str

    @classmethod
    def of_task(cls, task: Task) -> "Order":
        """Return the order that a task is of: its rollout, or itself."""
        of = "task" if task.rollout_id is None else "rollout"
        return cls(task.rollout_id or task.id, of, task.tenant_id, task.server_id, task.login, task.operation)

    def context(self, until: datetime) -> Context:
        """Return what a credential for this is sealed for. Its end too: nobody makes it live longer by changing the row."""
        facts = {"of": self.of, "tenant": self.tenant_id, "login": self.login, "operation": self.operation}
        return Context("credential", f"{self.owner_id} {self.server_id}", facts=facts | {"until": until.isoformat()})


class Deposits:
    """Seals what is given with orders."""

    def __init__(self, kms: Kms, hours: float, clock: Callable[[], datetime] = now) -> None:
        """hours: how long a credential lives where nothing else is said. clock: the store's, as all judge by it."""
        self._kms = kms
        self._now = clock
        self.hours = hours

    def until(self, hours: float | None = None) -> datetime:
        """Return when what is given now expires."""
        return (self._now() + timedelta(hours=self.hours if hours is None else hours)).replace(microsecond=0)

    def sealed(self, given: Sequence[tuple[Order, Credential]], until: datetime) -> list[SealedCredential]:
        """Return credentials, all of one tenant, sealed each for its order until then.

        None of them where the root key or the master key does not open: they live as long as this process then, in its memory.
        """
        if not given:
            return []
        plain = [_written(credential) for _, credential in given]
        try:
            contexts = [order.context(until) for order, _ in given]
            sealed = self._kms.seal_all(given[0][0].tenant_id, list(zip(plain, contexts, strict=True)))
        except (Conflict, Damaged, Unavailable) as problem:
            if problem.code == "store_unusable":
                raise
            return []
        finally:
            for each in plain:
                each.wipe()
        orders = [order for order, _ in given]
        return [
            SealedCredential(order.owner_id, order.server_id, order.tenant_id, each, until)
            for order, each in zip(orders, sealed, strict=True)
        ]


def opened(store: Store, kms: Kms, task: Task) -> Credential:
    """Return what was given for a task; on record first. Refused(credential_needed) says why it is not to be had."""
    kept = store.credential(task)
    given = " and ".join(task.request.get("given", ()))
    if kept is None:
        raise _needed(task, f"the {given} given with the order is not kept any more")
    if kept.expires_at <= store.now():
        raise _needed(task, f"the {given} given with the order expired at {kept.expires_at.isoformat()}")
    try:
        plain = kms.open(kept.sealed, Order.of_task(task).context(kept.expires_at))
    except (Conflict, Damaged, Unavailable) as problem:
        if problem.code == "store_unusable":
            raise
        raise _needed(task, f"the {given} given with the order does not open: {problem.message}", problem.code) from problem
    try:
        store.note_credential(task)
        return _read(plain)
    finally:
        plain.wipe()


def _needed(task: Task, why: str, custody: str | None = None) -> Refused:
    evidence = {"custody": custody} if custody else {}
    return Refused("credential_needed", f"{task.server_name}: {why}; give it anew (--password-stdin)", **evidence)


def _written(credential: Credential) -> Secret:
    """Return a credential in one piece: its fields in their order, each with its length before it."""
    whole = bytearray()
    for each in fields(Credential):
        value = getattr(credential, each.name)
        if value is None:
            whole += _LENGTH.pack(-1)
            continue
        content = value.view() if isinstance(value, Secret) else value.encode("utf-8", "surrogateescape")
        whole += _LENGTH.pack(len(content)) + content
    return Secret(whole)


def _read(plain: Secret) -> Credential:
    view, at = plain.view(), 0
    found: dict[str, Secret | str | None] = {}
    for each in fields(Credential):
        if at == len(view):
            break  # written before there was such a field
        (length,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        content = view[at : at + max(length, 0)]
        at += len(content)
        if length < 0:
            found[each.name] = None
        elif each.name in _SECRETS:
            found[each.name] = Secret(bytearray(content))
        else:
            found[each.name] = bytes(content).decode("utf-8", "surrogateescape")
    return Credential(**found)  # type: ignore[arg-type]
