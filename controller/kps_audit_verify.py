#!/usr/bin/env python3
"""Says whether the events of a kps controller are those that it wrote, all and in order; else names the first that is not.

FILE is what `kps audit export` wrote, or a copy of the database (with its -wal, where there is one). This one file is all that is
needed, with Python 3.9 and `cryptography`; it shares no code with what writes the events. Exit code: 0 all is well, 1 it is not,
2 FILE cannot be read. What it proves, and what not: docs/audit.md.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

EVENT = "at detail id keypair_id kind number phase server_id task_id tenant_id user_id".split()  # noqa: SIM905
REACH = ("at", "digest", "first", "number", "previous", "tenant_id")
Json = dict[str, Any]


class Wrong(Exception):
    """the trail is not what was written; number is of the first event that is not"""

    def __init__(self, number: int | None, how: str, message: str) -> None:
        super().__init__(message)
        self.number, self.how = number, how


class Trail(NamedTuple):
    """What is to be checked of one tenant. end: the signed statement of a database's head, or what an export says of itself."""

    tenant: str
    kind: str  # of statement: "head" or "export"
    end: Json | None
    key: str | None
    checkpoints: list[Json]
    events: Iterable[Json]


def canonical(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def holds(key: Ed25519PublicKey, signature: Any, message: bytes) -> bool:
    try:
        key.verify(base64.b64decode(signature, validate=True), message)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def stated(key: Ed25519PublicKey, kind: str, said: Json) -> bool:
    """Whether the key's owner has said this: that events first to number, after digest previous, end in digest."""
    message = f"kps audit {kind} 1\n".encode() + canonical({each: said.get(each) for each in REACH})
    return holds(key, said.get("signature"), message)


def check(trail: Trail, public_key: str | None = None, kept: Json | None = None) -> Json:
    """Return what was found to be well; Wrong names the first event that is not. kept: a checkpoint from elsewhere."""
    shown, end = public_key or trail.key, trail.end
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(shown or "", validate=True))
    except ValueError:
        raise Wrong(None, "unsigned", "there is no key that these events could be signed with") from None
    if end is None:
        raise Wrong(None, "forged", "what says which event is the newest is gone")
    marks: dict[int, str] = {}
    for each in [*trail.checkpoints, *([] if kept is None else [kept])]:
        number = each.get("number")
        if each.get("tenant_id") != trail.tenant or not stated(key, "checkpoint", each):
            raise Wrong(number, "forged", f"the checkpoint at event {number} is not this tenant's, or not signed with the key")
        if marks.setdefault(each["number"], each["digest"]) != each["digest"]:
            raise Wrong(number, "edited", f"event {number}, or one before it, is not the one of the checkpoint that was given")
    vouched = 0 if kept is None else kept["number"]
    # Where the end is not signed, what it says of the beginning is worth nothing.
    signed_end = stated(key, trail.kind, end)
    first, digest = (end["first"], end["previous"]) if signed_end else (1, "0" * 64)
    number, last_id, unsigned = first - 1, 0, 0
    if marks.get(number, digest) != digest:
        raise Wrong(number, "edited", f"event {number}, or one before it, is not the one of the checkpoint there")
    for event in trail.events:
        due = number + 1
        if type(event.get("number")) is not int or event["number"] < first:
            raise Wrong(due, "appended", f"something that is no event stands where event {due} should be, or the end")
        if event["number"] < due:
            raise Wrong(event["number"], "appended", f"there are two events {event['number']}: one was put in")
        if event["number"] > due:
            raise Wrong(due, "removed", f"event {due} is gone: event {event['number']} stands in its place")
        if signed_end and due > end["number"]:
            raise Wrong(due, "appended", f"event {due} was put in: event {end['number']} is signed as the last one")
        found = hashlib.sha256(canonical(dict({each: event.get(each) for each in EVENT}, previous=digest))).hexdigest()
        is_signed = holds(key, event.get("signature"), f"kps audit event 1\n{found}".encode())
        if event.get("fault") or found != event.get("digest") or not (is_signed or event.get("signature") is None):
            how = event.get("fault") or "it was changed, moved here or put in"
            raise Wrong(due, "edited", f"event {due} is not the one that was written: {how}")
        if marks.get(due, found) != found:
            raise Wrong(due, "edited", f"event {due}, or one before it, is not the one of the checkpoint there")
        if event["tenant_id"] != trail.tenant or event["id"] <= last_id:
            raise Wrong(due, "moved", f"event {due} is another tenant's, or out of order")
        if not is_signed and due > vouched:
            raise Wrong(due, "unsigned", f"event {due} is not signed: it was put in, or written when the key did not open")
        if event["kind"] == "head_unproved" and due > vouched:
            raise Wrong(due, "doubted", f"event {due} says: what stood before it had no signed end ({event['detail']})")
        number, digest, last_id, unsigned = due, found, event["id"], unsigned + (not is_signed)
    last = max([*marks, end["number"] if signed_end else 0])
    if number < last:
        raise Wrong(number + 1, "removed", f"event {number + 1} is gone, and all after it: there were {last}")
    if not signed_end or digest != end["digest"]:
        raise Wrong(number + 1, "forged", f"nothing signed says that event {number} is the last one: others may be gone")
    told = {"tenant_id": trail.tenant, "first": first, "number": number, "digest": digest, "at": end["at"], "unsigned": unsigned}
    compared = kept["number"] if kept and vouched >= first - 1 else None
    return dict(told, public_key=shown, key_given=public_key is not None, checkpoint=compared)


def of_export(lines: Iterable[str]) -> Trail:
    """Return the trail in what `kps audit export` wrote."""
    rest = iter(lines)
    try:
        said = json.loads(next(rest))
        return Trail(said["tenant_id"], "export", said, said["public_key"], said["checkpoints"], map(_read, rest))
    except (ValueError, KeyError, TypeError, StopIteration):
        raise ValueError("this is neither a database nor an export") from None


def _read(line: str) -> Json:
    try:
        return dict(json.loads(line), fault=None)
    except (ValueError, TypeError, RecursionError):
        return {"fault": "it cannot be read"}


@contextmanager
def trails(path: str) -> Iterator[list[Trail]]:
    """Give, while the block lasts, the trails of all tenants in a copy of a database, or the one of an export."""
    with open(path, "rb") as file:
        is_database = file.read(16) == b"SQLite format 3\0"
    if not is_database:
        with open(path, encoding="ascii", errors="surrogateescape") as lines:
            yield [of_export(lines)]
        return
    with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        known = "SELECT id FROM tenants UNION SELECT tenant_id FROM events UNION SELECT tenant_id FROM event_heads"
        yield [_of_tenant(database, str(row[0])) for row in database.execute(known).fetchall()]


def _of_tenant(database: sqlite3.Connection, tenant: str) -> Trail:
    def rows(table: str, order: str = "number") -> Iterator[Json]:
        for row in database.execute(f"SELECT * FROM {table} WHERE tenant_id = ? ORDER BY {order}", (tenant,)):  # noqa: S608
            at = str(row["at"])
            yield dict(row, at=f"{at[:10]}T{at[11:]}Z" if at[10:11] == " " else None)

    def events() -> Iterator[Json]:
        for row in rows("events", "typeof(number) != 'integer' OR number < 1, number, id"):
            try:
                detail = json.loads(row["detail"])
            except (ValueError, TypeError, RecursionError):
                detail = None
            as_written = json.dumps(detail, sort_keys=True) == row["detail"]
            yield dict(row, detail=detail, fault=None if as_written else "its detail is spelt otherwise")

    key = database.execute("SELECT public_key FROM event_keys WHERE tenant_id = ?", (tenant,)).fetchone()
    return Trail(tenant, "head", next(rows("event_heads", "1"), None), key and key[0], list(rows("event_checkpoints")), events())


def main() -> int:
    asks = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    asks.add_argument("file", metavar="FILE", help="an export, or a copy of the database")
    asks.add_argument("--key", help="what kps audit key printed; else FILE is believed about its key")
    asks.add_argument("--checkpoint", metavar="FILE", help="what kps audit checkpoint wrote, kept elsewhere")
    given, ended = asks.parse_args(), 0
    try:
        kept = json.loads(open(given.checkpoint).read()) if given.checkpoint else None  # noqa: SIM115
        with trails(given.file) as found:
            for trail in found:
                ours = kept if kept is None or len(found) == 1 or kept["tenant_id"] == trail.tenant else None
                try:
                    print(json.dumps(check(trail, given.key, ours)))
                except Wrong as bad:
                    print(json.dumps({"tenant_id": trail.tenant, "event": bad.number, "how": bad.how, "message": str(bad)}))
                    ended = 1
    except (OSError, ValueError, KeyError, sqlite3.Error) as error:
        print(f"{given.file}: {error}", file=sys.stderr)
        return 2
    return ended


if __name__ == "__main__":
    sys.exit(main())
