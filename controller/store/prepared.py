"""Statements that every task goes through: made once, and handed to the driver without SQLAlchemy's work at each execution.

What they say, and how each type is written and read, is SQLAlchemy's. Left out is what it does every time (parameters looked up
and checked, rows wrapped, listeners told): that takes several times as long as what SQLite does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from sqlite3 import Connection as Driver
from sqlite3 import Cursor
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from sqlalchemy import Column, Connection, Select, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.dml import UpdateBase

Processor = Callable[[Any], Any]
V = TypeVar("V")


class Value(Protocol):
    """A dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def columns(table: Table, value: type[Value]) -> list[Column[Any]]:
    """Return the columns of a table that are a value's fields, in their order."""
    return [table.c[each.name] for each in fields(value)]


def only(*row: Any) -> Any:
    """Return the first column of a row."""
    return row[0]


class Prepared(Generic[V]):
    """One statement. Its parameters are the bindparams in it and the columns that it sets; all are given at each execution.

    Executed within a transaction (engine.writing, engine.reading). Raises what the driver does: sqlite3.Error, psycopg.Error.
    """

    def __init__(
        self, statement: Select[Any] | UpdateBase, make: Callable[..., V] = only, *, sets: Sequence[str] | None = None
    ) -> None:
        """make: what is made of the columns of a row. sets: the columns that an insert or an update sets, besides values()."""
        self.statement = statement
        self._make = make
        self._sets = sets
        self._compiled: dict[str, _Compiled] = {}  # by dialect

    def all(self, connection: Connection, **given: Any) -> list[V]:
        """Return what is made of all rows."""
        compiled = self._of(connection)
        rows = _driver(connection).execute(compiled.text, compiled.values(given)).fetchall()
        return [self._make(*compiled.read(row)) for row in rows]

    def first(self, connection: Connection, **given: Any) -> V | None:
        """Return what is made of the first row, where there is one."""
        compiled = self._of(connection)
        rows = _driver(connection).execute(compiled.text, compiled.values(given)).fetchall()
        return self._make(*compiled.read(rows[0])) if rows else None

    def one(self, connection: Connection, **given: Any) -> V:
        """Return what is made of the one row that there always is."""
        found = self.first(connection, **given)
        if found is None:
            raise LookupError("no row")
        return found

    def run(self, connection: Connection, **given: Any) -> int:
        """Return how many rows it has changed."""
        compiled = self._of(connection)
        cursor: Cursor = _driver(connection).execute(compiled.text, compiled.values(given))
        return cursor.rowcount

    def run_each(self, connection: Connection, each: Iterable[Mapping[str, Any]]) -> None:
        """Execute it for each of these parameters."""
        compiled = self._of(connection)
        _driver(connection).cursor().executemany(compiled.text, (compiled.values(given) for given in each))

    def _of(self, connection: Connection) -> "_Compiled":
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self.statement, dialect, self._sets)
        return compiled


class _Compiled:
    """A statement as the driver takes it: its text, and where in it which parameter goes."""

    def __init__(self, statement: Select[Any] | UpdateBase, dialect: Dialect, sets: Sequence[str] | None) -> None:
        made = statement.compile(dialect=dialect, column_keys=None if sets is None else list(sets))
        if made.post_compile_params:
            raise ValueError("IN of a list is another statement for each length of it")
        self.text = str(made)
        self._known: list[Any] = []  # by place: constants of the statement
        self._places: list[tuple[int, str, Processor | None]] = []
        for place, name in enumerate(made.positiontup or ()):
            bound = made.binds[name]
            write = bound.type.dialect_impl(dialect).bind_processor(dialect)
            if bound.required:
                self._known.append(None)
                self._places.append((place, name, write))
            else:
                self._known.append(write(bound.value) if write else bound.value)
        readers = [each.type.dialect_impl(dialect).result_processor(dialect, None) for each in statement.exported_columns]
        self._readers = [(place, reader) for place, reader in enumerate(readers) if reader is not None]

    def values(self, given: Mapping[str, Any]) -> list[Any]:
        values = self._known.copy()
        for place, name, write in self._places:
            value = given[name]
            values[place] = value if write is None else write(value)
        return values

    def read(self, row: Sequence[Any]) -> Sequence[Any]:
        if not self._readers:
            return row
        values = list(row)
        for place, reader in self._readers:
            values[place] = reader(values[place])
        return values


def _driver(connection: Connection) -> Driver:
    return cast(Driver, connection.connection.driver_connection)
