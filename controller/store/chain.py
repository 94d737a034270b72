"""The chain of a tenant's events: each says by its digest what came before it, and is signed where a key is there.

    digest of an event = SHA-256 over its canonical spelling, which holds the digest of the event before it
    signature of it    = Ed25519 over that digest
    head               = signed: from which event to which the chain reaches, and in what digest it ends

Who may only write to the database can change an event, and every digest after it, but no signature. What the newest event
is, only the head says. docs/audit.md tells what that proves, and what not.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from sqlalchemy import JSON, Connection, bindparam, func, select
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from controller.store import engine, tables
from controller.store.prepared import Prepared, columns

ORIGIN = "0" * 64  # what stands in the place of a digest before the first event
CHECKPOINT_EVERY = 256  # events
Kind = Literal["head", "checkpoint", "export"]


# Made once, which json.dumps() does at each call.
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
_IN_ORDER = json.JSONEncoder(sort_keys=True, allow_nan=False)


class Signer(Protocol):
    """Holds the keys that sign the tenants' events. Called within transactions: it reads the store at most."""

    def ready(self, tenant_id: str) -> None:
        """Get the tenant's key, if it can be had. Called before a transaction, where nobody waits for the time that it takes."""

    def sign(self, tenant_id: str, message: bytes) -> bytes | None:
        """Return the tenant's signature; None where its key is not there, or does not open now."""

    def signed(self, tenant_id: str, message: bytes, signature: bytes) -> bool | None:
        """Say whether this is the tenant's signature; None where its key is not there."""


class NoKeys:
    """Signs nothing."""

    def ready(self, tenant_id: str) -> None:
        pass

    def sign(self, tenant_id: str, message: bytes) -> bytes | None:
        return None

    def signed(self, tenant_id: str, message: bytes, signature: bytes) -> bool | None:
        return None


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a chain reaches: from the event first, which follows the digest previous, to the event number, with its digest.

    As kept: the signature says it at this time; without one, nobody who has the key has said it.
    """

    tenant_id: str
    first: int
    previous: str
    number: int
    digest: str
    at: datetime
    signature: str | None = None

    def message(self, kind: Kind) -> bytes:
        """Return what is signed. A statement of one kind cannot be shown as another."""
        told = {
            "at": spelt(self.at),
            "digest": self.digest,
            "first": self.first,
            "number": self.number,
            "previous": self.previous,
            "tenant_id": self.tenant_id,
        }
        return f"kps audit {kind} 1\n".encode() + canonical(told)


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the one spelling of a JSON object: ASCII, names in order, no spaces."""
    return _CANONICAL.encode(value).encode("ascii")


def spelt(at: datetime) -> str:
    """Return a time as it is signed: UTC, to the microsecond."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def digest_of(event: Mapping[str, Any], previous: str) -> str:
    """Return the digest of an event (the columns of its row, digest and signature aside), in hex."""
    whole = dict(event, at=spelt(event["at"]), previous=previous)
    return hashlib.sha256(canonical(whole)).hexdigest()


def event_message(digest: str) -> bytes:
    """Return what is signed of an event."""
    return f"kps audit event 1\n{digest}".encode("ascii")


_HEADS = tables.event_heads
_LAST_ID: Prepared[int | None] = Prepared(select(func.max(tables.events.c.id)))


class Spelt(TypeDecorator[str]):
    """JSON that comes as the text that it is kept as."""

    impl = JSON
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> None:
        return None


_ADD: Prepared[None] = Prepared(
    tables.events.insert().values(detail=bindparam("spelt", type_=Spelt)),
    sets=[each.name for each in tables.events.c if each is not tables.events.c.detail],
)
_HEAD = Prepared(select(*columns(_HEADS, Reach)).where(_HEADS.c.tenant_id == bindparam("of")), Reach)
_NEW_HEAD: Prepared[None] = Prepared(_HEADS.insert())
_MOVE_HEAD: Prepared[None] = Prepared(_HEADS.update().where(_HEADS.c.tenant_id == bindparam("of")), sets=Reach.__slots__)


class Chains:
    """Adds events to the chains of their tenants; what one transaction adds is signed as its last step."""

    def __init__(self) -> None:
        self.signer: Signer = NoKeys()
        self._written: dict[str, Reach] = {}  # by tenant: the end of its chain, as this process wrote it last
        self._new: dict[str, Callable[[bytes], bytes]] = {}  # what signs with keys that are not on record yet

    def add(self, connection: Connection, event: dict[str, Any], at: datetime) -> None:
        """Write an event (a row without id, number, digest and signature) at the end of its tenant's chain."""
        adding = engine.last_step(connection, self, lambda: _Adding(self, connection))
        adding.add(event, at)

    def doubt(self, found: Reach) -> dict[str, Any] | None:
        """Return what is wrong with the end of a chain as it was found, where the key is there that can tell."""
        if found.number == 0 or found == self._written.get(found.tenant_id):
            return None
        given = base64.b64decode(found.signature) if found.signature else b""
        if self.signer.signed(found.tenant_id, found.message("head"), given) is not False:
            return None
        return {"number": found.number, "reason": "wrong" if found.signature else "unsigned"}

    def signature(self, tenant_id: str, message: bytes) -> str | None:
        """Return the tenant's signature in Base64; None where its key is not there."""
        new = self._new.get(tenant_id)
        signature = new(message) if new else self.signer.sign(tenant_id, message)
        return None if signature is None else base64.b64encode(signature).decode("ascii")

    @contextmanager
    def new_key(self, tenant_id: str, sign: Callable[[bytes], bytes]) -> Iterator[None]:
        """Within the block, one transaction, a key signs that others come to see only when it is kept."""
        self._new[tenant_id] = sign
        try:
            yield
        finally:
            del self._new[tenant_id]

    def keep_head(self, connection: Connection, reached: Reach) -> Reach:
        """Put on record, signed, how far a tenant's chain reaches."""
        signed = replace(reached, signature=self.signature(reached.tenant_id, reached.message("head")))
        if not _MOVE_HEAD.run(connection, of=signed.tenant_id, **_columns(signed)):
            _NEW_HEAD.run(connection, **_columns(signed))
        self._written[signed.tenant_id] = signed
        return signed

    def keep_checkpoint(self, connection: Connection, reached: Reach) -> Reach | None:
        """Keep for good, signed, how far a chain reaches; None where there is no key to sign it."""
        table = tables.event_checkpoints
        known = select(table).where(table.c.tenant_id == reached.tenant_id, table.c.number == reached.number)
        found = connection.execute(known).mappings().first()
        if found is not None:
            return Reach(**found)
        signed = replace(reached, signature=self.signature(reached.tenant_id, reached.message("checkpoint")))
        if signed.signature is None:
            return None
        connection.execute(table.insert().values(_columns(signed)))
        return signed


class _Adding:
    """What one transaction adds to the chains. Under the write lock nobody else adds, so it can count by itself."""

    def __init__(self, chains: Chains, connection: Connection) -> None:
        self._chains = chains
        self._connection = connection
        self._last_id: int = _LAST_ID.first(connection) or 0
        self._rows: list[dict[str, Any]] = []  # written all at once: that takes a quarter of the time
        self._found: dict[str, Reach] = {}  # by tenant: the end of its chain before
        self._ends: dict[str, tuple[int, str, datetime]] = {}  # by tenant: the newest event's number and digest, and when

    def add(self, event: dict[str, Any], at: datetime) -> None:
        tenant_id = event["tenant_id"]
        if tenant_id not in self._found:
            found = self._found[tenant_id] = head(self._connection, tenant_id)
            self._ends[tenant_id] = (found.number, found.digest, found.at)
            doubt = self._chains.doubt(found)
            if doubt is not None:
                about = dict.fromkeys(("user_id", "task_id", "server_id", "keypair_id", "phase"))
                self._append(about | {"tenant_id": tenant_id, "kind": "head_unproved", "detail": doubt}, at)
        self._append(event, at)

    def _append(self, event: dict[str, Any], at: datetime) -> None:
        tenant_id = event["tenant_id"]
        number, previous, _ = self._ends[tenant_id]
        text = _IN_ORDER.encode(event["detail"])
        self._last_id += 1
        # As it will be read: names in order, tuples as lists.
        row = dict(event, id=self._last_id, number=number + 1, detail=json.loads(text), at=at)
        digest = digest_of(row, previous)
        signature = self._chains.signature(tenant_id, event_message(digest))
        self._rows.append(row | {"digest": digest, "signature": signature, "spelt": text})
        self._ends[tenant_id] = (number + 1, digest, at)

    def finish(self) -> None:
        """Write the events, and sign the ends of the chains."""
        if self._rows:
            _ADD.run_each(self._connection, self._rows)
        for tenant_id, (number, digest, at) in self._ends.items():
            before = self._found[tenant_id]
            signed = self._chains.keep_head(self._connection, replace(before, number=number, digest=digest, at=at))
            if number // CHECKPOINT_EVERY > before.number // CHECKPOINT_EVERY:
                self._chains.keep_checkpoint(self._connection, signed)


def head(connection: Connection, tenant_id: str) -> Reach:
    """Return how far a tenant's chain reaches, as it is on record; number 0 where nothing has happened yet."""
    found = _HEAD.first(connection, of=tenant_id)
    return found or Reach(tenant_id, 1, ORIGIN, 0, ORIGIN, datetime.fromtimestamp(0, UTC))


def _columns(reached: Reach) -> dict[str, Any]:
    return {name: getattr(reached, name) for name in Reach.__slots__}
