"""That an access key is used is noted to the minute, and costs no question to the database in between."""

import asyncio
from datetime import timedelta
from typing import Any

from sqlalchemy import event

from controller.kms import Kms
from controller.model import now
from controller.service import identity
from controller.service.identity import Identity
from controller.store import Store


def test_a_use_is_noted_to_the_minute(store: Store, kms: Kms, made: dict[str, Any], monkeypatch: Any) -> None:
    asked: list[str] = []
    event.listen(store._engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement))
    clock = [now()]
    people = Identity(store, kms, clock=lambda: clock[0])

    def use(access_key: str) -> int:
        asked.clear()
        asyncio.run(people.used(access_key))
        return len(asked)

    key = made["access_key"]
    assert use(key) > 0
    assert store.access_key_whole(key)[1].last_used_at is not None
    assert use(key) == 0
    clock[0] += timedelta(seconds=59)
    assert use(key) == 0
    clock[0] += timedelta(seconds=1)
    assert use(key) > 0
    clock[0] -= timedelta(hours=1)  # a clock that was set back says nothing
    assert use(key) > 0
    monkeypatch.setattr(identity, "_MOST_NOTED", 0)
    clock[0] += timedelta(hours=2)
    assert use(key) > 0
    assert use(key) > 0
