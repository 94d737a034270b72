"""What somebody who can write to the database might do to the events, and which event the verifier then has to name."""

import hashlib
import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLUMNS = (
    "id", "tenant_id", "number", "user_id", "task_id", "server_id", "keypair_id", "kind", "phase", "detail", "at", "digest",
    "signature",
)  # fmt: skip
ORIGIN = "0" * 64


def read(path: Path) -> list[Row]:
    """Return all events, by number."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM events ORDER BY number")]


def write(path: Path, rows: list[Row], head: bool) -> None:
    """Put these events in the place of all. head: and let the end on record, whose signature nobody can make, say the same."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("DROP INDEX events_by_number")
        database.execute("DELETE FROM events")
        database.execute("CREATE TABLE free AS SELECT * FROM events")  # without keys: two events may be called the same
        database.execute("DROP TABLE events")
        database.execute("ALTER TABLE free RENAME TO events")
        database.executemany(
            f"INSERT INTO events ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",  # noqa: S608
            [tuple(row[name] for name in COLUMNS) for row in rows],
        )
        if head:
            last = rows[-1]
            said = (last["number"], last["digest"], last["at"])
            database.execute("UPDATE event_heads SET number = ?, digest = ?, at = ?", said)


def digest(row: Row, previous: str) -> str:
    """Return what the digest of a row would be: how that is done is no secret."""
    told = {name: row[name] for name in COLUMNS if name not in ("digest", "signature")}
    try:
        told["detail"] = json.loads(row["detail"])
    except (TypeError, ValueError):
        told["detail"] = None
    told |= {"at": str(row["at"]).replace(" ", "T") + "Z", "previous": previous}
    return hashlib.sha256(json.dumps(told, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def rechained(rows: list[Row], first: int) -> None:
    """Give every event from the one at this place on the digest that fits."""
    for place in range(first, len(rows)):
        rows[place]["digest"] = digest(rows[place], rows[place - 1]["digest"] if place else ORIGIN)


def trial(path: Path, chance: random.Random) -> tuple[str, int]:
    """Tamper with a database in one way; returns what was done, and the number of the first event that is wrong."""
    before = rows = read(path)
    while rows == before:  # who edits a digest and then makes all digests fit has changed nothing
        rows = read(path)
        kind = chance.choice(list(WAYS))
        how = chance.choice(("as it is", "one digest", "all digests", "all digests and the head"))
        place = WAYS[kind](rows, chance)
        if how != "as it is" and place < len(rows):
            rechained(rows[: place + 1 if how == "one digest" else len(rows)], place)
    write(path, rows, head=how.endswith("head"))
    return f"{kind}, {how}", first_wrong(before, rows)


def first_wrong(before: list[Row], after: list[Row]) -> int:
    """Return the number of the first event that is not what it was; of two with one number, that number."""
    place = next(
        (at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), min(len(before), len(after))
    )
    if place and place < len(after) and after[place]["number"] == after[place - 1]["number"]:
        return place
    return place + 1


def edit(rows: list[Row], chance: random.Random) -> int:
    place = chance.randrange(len(rows))
    row = rows[place]
    name = chance.choice(COLUMNS)
    before = row[name]
    if name in ("id", "number"):
        row[name] = chance.choice([before + 1000, -before, None, str(before) + "x", before + 0.5])
    elif name == "detail":
        detail = json.loads(before)
        row[name] = chance.choice([
            json.dumps(detail | {"added": chance.random()}, sort_keys=True), before + " ", before.replace('"', "'") + "x", "{}x",
            "null", before[:-1] + ', "added": 1}' if detail else '{"added": 1}',
        ])  # fmt: skip
    elif name == "at":
        row[name] = chance.choice([before[:-1] + str((int(before[-1]) + 1) % 10), before.replace(" ", "T"), "", None])
    elif name == "signature":
        others = [other["signature"] for other in rows if other is not row]
        row[name] = chance.choice(
            [None, "", chance.choice(others), before[:10] + ("A" if before[10] != "A" else "B") + before[11:]]
        )
    elif name == "digest":
        row[name] = chance.choice([ORIGIN, before[::-1], before.upper(), None])
    else:
        row[name] = chance.choice([value for value in ("", "x", None, chance.randbytes(16).hex()) if value != before])
    if row[name] == before:
        row[name] = "other"
    return place


def remove(rows: list[Row], chance: random.Random) -> int:
    place = chance.randrange(len(rows))
    del rows[place]
    if chance.random() < 0.5:  # and close the gap
        for row in rows[place:]:
            row["number"] -= 1
    return place


def cut(rows: list[Row], chance: random.Random) -> int:
    place = chance.randrange(1, len(rows))
    del rows[place:]
    return place


def swap(rows: list[Row], chance: random.Random) -> int:
    one, other = sorted(chance.sample(range(len(rows)), 2))
    names = chance.choice([("number",), ("id",), ("detail",), ("signature",), ("digest",), ("number", "id")])
    while all(rows[one][name] == rows[other][name] for name in names):
        names = ("number",)
    for name in names:
        rows[one][name], rows[other][name] = rows[other][name], rows[one][name]
    rows.sort(key=lambda row: row["number"])
    return one


def put_in(rows: list[Row], chance: random.Random) -> int:
    """Copy an event, or make one up, to the end or into the middle."""
    made = dict(chance.choice(rows))
    if chance.random() < 0.7:
        made |= {"kind": "keypair_exported", "detail": '{"name": "' + chance.randbytes(4).hex() + '"}'}
    if chance.random() < 0.3:
        made["signature"] = None
    place = chance.choice([len(rows), chance.randrange(len(rows))])
    made["number"] = place + 1
    made["id"] = rows[-1]["id"] + 1 if place == len(rows) else rows[place]["id"]
    for row in rows[place:]:
        row["number"] += 1
        row["id"] += 1
    rows.insert(place, made)
    return place


def put_beside(rows: list[Row], chance: random.Random) -> int:
    """Give a second event a number that is taken."""
    place = chance.randrange(len(rows))
    before = chance.random() < 0.5
    made = dict(rows[place], detail='{"name": "beside"}', id=rows[place]["id"] + (-1 if before else 1000))
    rows.insert(place + (not before), made)
    return place


WAYS: dict[str, Callable[[list[Row], random.Random], int]] = {
    "edit": edit, "remove": remove, "cut": cut, "swap": swap, "put in": put_in, "put beside": put_beside,
}  # fmt: skip
