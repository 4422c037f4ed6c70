"""A table in an SQLite file."""

from __future__ import annotations

import math
import os
import re
import sqlite3
import sys
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from overlapped._engine.failure import short
from overlapped.errors import UsageError
from overlapped.sinks.base import (
    IfExists,
    already_there,
    check_folder,
    check_if_exists,
    check_path,
    fields_of,
    no_form,
    refusal,
    to_json,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Cell: TypeAlias = "str | int | float | bytes | bytearray | memoryview | None"
Row: TypeAlias = "tuple[str, int, tuple[Cell, ...]]"
"""The statement that inserts it, the item's index in its batch, the values."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
"""What a table or a new column may be called: the same in every database, and safe in any statement."""

MAX_SHAPES = 256
"""Most remembered statements, one for each set of keys; more than SQLite's own cache is no use."""

INTEGERS = range(-(2**63), 2**63)
"""What SQLite holds as an integer."""

EXACT_IN_REAL = 2**53
"""The largest integer up to which a floating-point column holds every one exactly."""

# What SQLite says about one row; every other error is about the database, and ends the run.
ROW_ERRORS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)


@dataclass(frozen=True, slots=True)
class Sqlite:
    """Write every item as one row of a table, in one transaction a batch (WAL, synchronous NORMAL).

    The keys of a mapping, dataclass or NamedTuple are the columns; any other item goes into one
    column named `value`. If the table does not exist, the first item makes it: its keys, with the
    types of its values. Later items may lack keys (NULL); an item with a key that has no column
    becomes a failure of that item alone, as does everything else that is about one item.

    Text, numbers, bytes and None are stored as they are (booleans as 0 and 1, NaN as NULL, as
    SQLite does); lists, dicts and dataclasses inside an item as JSON text. A number in a text
    column becomes text, with all its digits; text that looks like a number is refused in a number column of a table
    made by this run, since SQLite would store another value ("007" as 7).

    Args:
        path: the database file, made if it does not exist; its folder must exist.
        table: the table's name, [A-Za-z_][A-Za-z0-9_]{0,62}.
        if_exists: "fail" (default) refuses a table that has rows, "append" adds to it,
            "replace" drops it when the run starts. Other tables of the file are never touched.
        lock_wait_s: how long to wait for another process that is writing, s; after it the run
            ends with `sqlite3.OperationalError`.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "out.db")
        >>> writer = Sqlite(path, table="pages").open()
        >>> writer.write([{"url": "/a", "size": 1}, {"url": "/b"}])
        {}
        >>> writer.close(ok=True)
        >>> connection = sqlite3.connect(path)
        >>> connection.execute("SELECT url, size FROM pages").fetchall()
        [('/a', 1), ('/b', None)]
        >>> connection.close()
    """

    path: str | os.PathLike[str]
    _: KW_ONLY
    table: str = "items"
    if_exists: IfExists = "fail"
    lock_wait_s: float = 5.0

    def __post_init__(self) -> None:
        check_path("Sqlite", self.path)
        check_if_exists("Sqlite", self.if_exists)
        if not _is_name(self.table):
            raise UsageError(f"Sqlite(table): must match {NAME.pattern}, got {self.table!r}")
        if self.table.lower().startswith("sqlite_"):
            raise UsageError(f"Sqlite(table): SQLite keeps names with sqlite_ to itself: {self.table!r}")
        wait: object = self.lock_wait_s
        if not isinstance(wait, int | float) or isinstance(wait, bool) or not 0 <= wait <= sys.float_info.max:
            raise UsageError(f"Sqlite(lock_wait_s): must be a number >= 0 that a float can hold, got {short(wait)}")

    def describe(self) -> str:
        """Such as `Sqlite('out.db', table='pages')`."""
        return f"Sqlite({os.fspath(self.path)!r}, table={self.table!r})"

    def open(self) -> SqliteWriter:
        """Open the database and look at the table.

        Raises:
            UsageError: the table has rows and `if_exists` does not say what to do with it.
            sqlite3.Error: the file is not a database, or is locked.
        """
        check_folder(self.describe(), self.path)
        return SqliteWriter(self)


class SqliteWriter:
    """The opened database of a `Sqlite`."""

    def __init__(self, spec: Sqlite) -> None:
        self._name = spec.describe()
        self._table = _quoted(spec.table)
        self._types: dict[str, str] | None = None  # column in lower case -> type, if made by this run
        self._columns: dict[str, str] | None = None  # column in lower case -> column; None: no table
        self._statements: dict[tuple[str, ...], str] = {}
        # isolation_level None: transactions begin and end only where this file says so.
        self._connection = sqlite3.connect(spec.path, timeout=spec.lock_wait_s, isolation_level=None)
        try:
            self._prepare(spec)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, sqlite3.Error):
                error.add_note(f"sink: {self._name}")
            raise

    def _prepare(self, spec: Sqlite) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=NORMAL")
        found = execute("SELECT type FROM sqlite_master WHERE lower(name) = ?", (spec.table.lower(),)).fetchone()
        if found is None:
            return
        if found[0] != "table":
            raise UsageError(f"{self._name}: {spec.table!r} is a {found[0]}, not a table; use another name")
        if spec.if_exists == "replace":
            execute(f"DROP TABLE {self._table}")
            return
        one_row = f"SELECT 1 FROM {self._table} LIMIT 1"  # noqa: S608 - the name is checked and quoted
        if spec.if_exists == "fail" and execute(one_row).fetchone():
            raise already_there(self._name, "the table has rows already")
        rows = execute(f"PRAGMA table_info({self._table})").fetchall()
        self._columns = {str(row[1]).lower(): str(row[1]) for row in rows}

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Rows written inside, and whatever else is done on the connection, are committed together."""
        if self._connection.in_transaction:
            yield self._connection
            return
        columns, types = self._columns, self._types
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:  # a full disk has rolled it back already
                self._connection.execute("ROLLBACK")
            self._columns, self._types = columns, types  # the table may have been made in it
            self._statements.clear()
            if isinstance(error, sqlite3.Error):
                error.add_note(f"sink: {self._name}; nothing of its last batch was written")
            raise

    def write(self, items: Sequence[object]) -> dict[int, Exception]:
        """Insert one row an item in one transaction; the items that cannot be rows are returned."""
        refused: dict[int, Exception] = {}
        if not items:
            return refused
        with self.transaction():
            rows: list[Row] = []
            for index, item in enumerate(items):
                try:
                    keys, cells = _taken_apart(item)
                except Exception as error:  # noqa: BLE001 - the item's own code (a mapping's) runs in here
                    refused[index] = refusal(self._name, item, error)
                    continue
                try:
                    rows.append(self._row(index, keys, cells))
                except sqlite3.Error:
                    raise
                except Exception as error:  # noqa: BLE001 - a key may be an object with code of its own
                    refused[index] = refusal(self._name, item, error)
            for statement, group in groupby(rows, itemgetter(0)):
                for index, reason in self._insert(statement, list(group)):
                    refused[index] = refusal(self._name, items[index], reason)
        return refused

    def _row(self, index: int, keys: tuple[str, ...], cells: tuple[Cell, ...]) -> Row:
        if self._columns is None:
            self._make_table(keys, cells)
        types = self._types
        if types is not None:
            cells = tuple(
                _kept(key, types.get(str(key).lower(), ""), cell) for key, cell in zip(keys, cells, strict=True)
            )
        return self._statement(keys), index, cells

    def _make_table(self, keys: tuple[str, ...], cells: tuple[Cell, ...]) -> None:
        for key in keys:
            if not _is_name(key):
                raise TypeError(
                    f"its key {key!r} cannot name a column: a name must match {NAME.pattern}; "
                    "rename it first with a `.map(...)`"
                )
        _check_distinct(keys)
        most = self._connection.getlimit(sqlite3.SQLITE_LIMIT_COLUMN)
        if len(keys) > most:
            raise TypeError(f"it has {len(keys):,} keys, and a table has {most:,} columns at most")
        for cell in cells:
            _check_storable(cell)  # an item that is refused later would leave a table of its keys behind
        types = {key.lower(): _sql_type(cell) for key, cell in zip(keys, cells, strict=True)}
        columns = ", ".join(f"{_quoted(key)} {types[key.lower()]}".rstrip() for key in keys)
        self._connection.execute(f"CREATE TABLE {self._table} ({columns})")
        self._columns = {key.lower(): key for key in keys}
        self._types = types

    def _statement(self, keys: tuple[str, ...]) -> str:
        known = self._statements.get(keys)
        if known is not None:
            return known
        columns = self._columns or {}
        for key in keys:
            if str(key).lower() not in columns:
                raise TypeError(
                    f"its key {key!r} has no column; the table has {', '.join(columns.values())} "
                    "(a new table has the keys of the first item); give every item the same keys first "
                    "with a `.map(...)`"
                )
        _check_distinct(keys)
        names = ", ".join(_quoted(columns[str(key).lower()]) for key in keys)
        marks = ", ".join("?" * len(keys))
        if len(self._statements) >= MAX_SHAPES:
            self._statements.clear()
        statement = f"INSERT INTO {self._table} ({names}) VALUES ({marks})"  # noqa: S608 - quoted
        self._statements[keys] = statement
        return statement

    def _insert(self, statement: str, rows: list[Row]) -> list[tuple[int, Exception]]:
        """Insert all rows at once, or one by one if one of them cannot be."""
        execute = self._connection.execute
        refused: list[tuple[int, Exception]] = []
        execute("SAVEPOINT batch")
        try:
            self._connection.executemany(statement, [row[2] for row in rows])
        except ROW_ERRORS as error:
            self._check_not_undone(error)
            execute("ROLLBACK TO batch")
            for _, index, cells in rows:
                try:
                    execute(statement, cells)
                except ROW_ERRORS as error:
                    self._check_not_undone(error)
                    refused.append((index, error))
        execute("RELEASE batch")
        return refused

    def _check_not_undone(self, error: Exception) -> None:
        """A table of the user's may say ON CONFLICT ROLLBACK: then one row's error is the end of its whole batch."""
        if not self._connection.in_transaction:
            error.add_note(
                f"the table {self._table} says ON CONFLICT ROLLBACK, which undoes all rows of a batch for one"
            )
            raise error

    def close(self, ok: bool) -> None:
        """Close the database; committed batches stay, `ok` or not."""
        self._connection.close()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _is_name(name: object) -> bool:
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def _check_distinct(keys: tuple[str, ...]) -> None:
    if len({str(key).lower() for key in keys}) < len(keys):
        raise TypeError(f"its keys {', '.join(map(str, keys))} are not distinct: SQLite ignores upper and lower case")


def _taken_apart(item: object) -> tuple[tuple[str, ...], tuple[Cell, ...]]:
    """Keys and values of an item."""
    fields = fields_of(item)
    if fields is None:
        if isinstance(item, list) and item and fields_of(item[0]) is not None:
            raise TypeError("it is a list of rows; write `.flatten()` before `.to(...)`")
        fields = {"value": item}
    if not fields:
        raise TypeError("it has no keys, so there is nothing to store")
    return tuple(fields), tuple(map(_cell, fields.values()))


def _cell(value: object) -> Cell:
    """What is stored for one value of an item."""
    if type(value) is memoryview and not value.c_contiguous:
        return bytes(value)
    if value is None or isinstance(value, str | int | float | bytes | bytearray | memoryview):
        return value
    if isinstance(value, list | tuple) or fields_of(value) is not None:
        return to_json(value)
    raise no_form(value)


def _sql_type(cell: Cell) -> str:
    """The type of a column whose first value this is; none if it is None."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return "TEXT"
    if isinstance(cell, int):
        return "INTEGER"
    return "REAL" if isinstance(cell, float) else "BLOB"


def _check_storable(cell: Cell) -> None:
    """Raise for a value what SQLite would raise when it is inserted."""
    if isinstance(cell, str):
        cell.encode()
    elif isinstance(cell, int) and cell not in INTEGERS:
        raise OverflowError


def _kept(key: str, sql_type: str, cell: Cell) -> Cell:
    """The value in a form that SQLite stores as it is; refuse one that it would silently make another."""
    if sql_type == "TEXT" and isinstance(cell, float) and not math.isnan(cell):
        return float.__repr__(cell)  # SQLite's own text has 15 digits
    if sql_type not in ("INTEGER", "REAL"):
        return cell
    if isinstance(cell, str):
        try:
            float(cell)
        except ValueError:
            return cell
        raise TypeError(
            f"its {key!r} is the text {cell!r}, but the column holds numbers, as the first item's value "
            "was one; make it always text or always a number first with a `.map(...)`"
        )
    if sql_type == "REAL" and isinstance(cell, int) and abs(cell) > EXACT_IN_REAL:
        raise TypeError(f"its {key!r} is {cell}, which a column of floating-point numbers cannot hold")
    return cell
