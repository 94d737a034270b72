"""Statements made once say, write and read what SQLAlchemy's own do."""

from dataclasses import fields, replace
from typing import Any

import pytest
from sqlalchemy import bindparam, func, select, update

from controller.model import Caller, Server, Task
from controller.store import Store, engine, rows, tables
from controller.store.prepared import Prepared, columns
from tests.controller import given

_TASK = tables.tasks
_OF = _TASK.c.id == bindparam("of")


@pytest.fixture
def task(store: Store, who: Caller) -> Task:
    """A task of which each kind of column holds something: text, numbers, JSON, times, truth, and nothing."""
    made = given.task(store, who)
    full = replace(made, evidence={"files": ["ü", 1, None]}, started_at=made.created_at, retryable=True, private=True)
    with engine.writing(store._engine) as connection:
        connection.execute(update(_TASK).where(_TASK.c.id == made.id).values(rows.row(full)))
    return full


def test_a_row_is_read_as_sqlalchemy_reads_it(store: Store, task: Task) -> None:
    prepared = Prepared(select(*columns(_TASK, Task)).where(_OF), Task)
    with engine.reading(store._engine) as connection:
        plain = connection.execute(select(_TASK).where(_TASK.c.id == task.id)).mappings().one()
        assert prepared.all(connection, of=task.id) == [prepared.one(connection, of=task.id)] == [rows.task(plain)] == [task]
        assert prepared.first(connection, of="nobody") is None
        with pytest.raises(LookupError):
            prepared.one(connection, of="nobody")


def test_what_is_written_is_the_same_byte_for_byte(store: Store, task: Task) -> None:
    """The driver's own look at both rows: no type of ours is in between."""
    others = [replace(task, id=name, seq=seq, retry_of=None) for seq, name in enumerate(("theirs", "ours", "each"), task.seq + 1)]
    insert: Prepared[None] = Prepared(_TASK.insert())
    with engine.writing(store._engine) as connection:
        connection.execute(_TASK.insert(), rows.row(others[0]))
        insert.run(connection, **rows.row(others[1]))
        insert.run_each(connection, [rows.row(others[2])])
        theirs, ours, each = connection.exec_driver_sql("SELECT * FROM tasks WHERE seq > ? ORDER BY seq", (task.seq,)).all()
    own = {"seq", "id"}
    kept = [place for place, column in enumerate(_TASK.c) if column.name not in own]
    assert [theirs[place] for place in kept] == [ours[place] for place in kept] == [each[place] for place in kept]


def test_an_update_sets_the_columns_named_and_says_how_many_rows(store: Store, task: Task) -> None:
    prepared: Prepared[None] = Prepared(
        update(_TASK).where(_OF).values(generation=_TASK.c.generation + 2), sets=["evidence", "finished_at"]
    )
    with engine.writing(store._engine) as connection:
        assert prepared.run(connection, of=task.id, evidence={"a": None}, finished_at=None) == 1
        assert prepared.run(connection, of="nobody", evidence={}, finished_at=None) == 0
    assert store.task(task.tenant_id, task.id) == replace(task, evidence={"a": None}, generation=task.generation + 2)


def test_a_parameter_that_is_not_given_is_no_null(store: Store, task: Task) -> None:
    prepared = Prepared(select(func.count()).where(_OF))
    with engine.reading(store._engine) as connection, pytest.raises(KeyError):
        prepared.first(connection)


def test_a_list_of_any_length_is_refused_when_it_is_made(store: Store) -> None:
    prepared: Prepared[Any] = Prepared(select(_TASK.c.id).where(_TASK.c.status.in_(["ready", "running"])))
    with engine.reading(store._engine) as connection, pytest.raises(ValueError, match="IN of a list"):
        prepared.all(connection)


@pytest.mark.parametrize("value", [Server, Task])
def test_columns_come_in_the_order_of_the_fields(value: type[Any]) -> None:
    table = {Server: tables.servers, Task: tables.tasks}[value]
    assert [column.name for column in columns(table, value)] == [each.name for each in fields(value)]
