"""Sinks: what comes back is what was written, a bad item costs no other one, no batch is halved."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import pathlib
import sqlite3
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

import pytest

from overlapped.errors import UsageError
from overlapped.sinks.base import AppendOnly, Sink, Transactional
from overlapped.sinks.jsonl import Jsonl
from overlapped.sinks.sqlite import Sqlite


@dataclass
class Page:
    url: str
    size: int


class Point(NamedTuple):
    x: int
    y: float


class Color(StrEnum):
    RED = "red"


class Plain:
    def __init__(self) -> None:
        self.n = 1


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def lines(path) -> list[object]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(path, table="items", order="rowid") -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f'SELECT * FROM "{table}" ORDER BY {order}').fetchall()  # noqa: S608
    finally:
        connection.close()


def execute(path, statement: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(statement)
    finally:
        connection.close()


def put(sink: Sink, *batches: list[object]) -> list[dict[int, Exception]]:
    writer = sink.open()
    try:
        return [writer.write(batch) for batch in batches]
    finally:
        writer.close(ok=True)


# -- both ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Jsonl, Sqlite])
@pytest.mark.parametrize("path", [7, None, b"out", "", ":memory:", "a\0b", pathlib.Path("a\0b")])
def test_a_wrong_path_is_refused_when_written(make, path):
    with pytest.raises(UsageError, match=r"\(path\): path must"):
        make(path)


@pytest.mark.parametrize("make", [Jsonl, Sqlite])
def test_a_wrong_if_exists_is_refused_when_written(make):
    with pytest.raises(UsageError, match="'overwrite'"):
        make("out", if_exists="overwrite")


@pytest.mark.parametrize("make", [Jsonl, Sqlite])
def test_a_missing_folder_is_named(make, tmp_path):
    with pytest.raises(UsageError, match="there is no folder .*nowhere.*make it first"):
        make(tmp_path / "nowhere" / "out").open()
    assert os.listdir(tmp_path) == []


def test_specs_are_sinks_and_say_what_they_are():
    assert isinstance(Jsonl("a"), Sink)
    assert isinstance(Sqlite("a"), Sink)
    assert not isinstance(io.StringIO(), Sink)
    assert Jsonl("out.jsonl").describe() == "Jsonl('out.jsonl')"
    assert Sqlite("out.db", table="pages").describe() == "Sqlite('out.db', table='pages')"


@pytest.mark.parametrize("make", [Jsonl, Sqlite])
def test_opening_makes_no_difference_until_the_run_starts(make, tmp_path):
    make(tmp_path / "out")
    assert os.listdir(tmp_path) == []


# -- Jsonl --------------------------------------------------------------------------------------------


def test_jsonl_writes_one_value_a_line_in_order(tmp_path):
    path = tmp_path / "out.jsonl"
    items = [
        {"a": "ü\n\u2028€"},
        Page("/", 3),
        Point(1, 2.5),
        MappingProxyType({"k": None}),
        [1, (2,)],
        "x",
        None,
    ]
    assert put(Jsonl(path), items[:3], items[3:]) == [{}, {}]
    raw = path.read_bytes()
    assert "ü".encode() in raw
    assert raw.count(b"\n") == len(items) == len(raw.splitlines())
    assert [json.loads(line) for line in raw.split(b"\n")[:-1]] == [
        {"a": "ü\n\u2028€"},
        {"url": "/", "size": 3},
        {"x": 1, "y": 2.5},
        {"k": None},
        [1, [2]],
        "x",
        None,
    ]


def test_jsonl_turns_dataclasses_and_mappings_inside_an_item_into_objects(tmp_path):
    path = tmp_path / "out.jsonl"
    put(Jsonl(path), [{"page": Page("/", 1), "m": OrderedDict(a=1), "c": Color.RED, "p": Point(1, 2)}])
    assert lines(path) == [{"page": {"url": "/", "size": 1}, "m": {"a": 1}, "c": "red", "p": [1, 2]}]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (b"raw", r"type bytes: .*bytes\.decode"),
        ({"body": b"raw"}, r"bytes\.decode"),
        ({"tags": {1, 2}}, r"\.map\(sorted\)"),
        ({"at": datetime(2026, 1, 2)}, r"isoformat"),  # noqa: DTZ001
        (Plain(), r"type Plain; .*\.map\(vars\)"),
        (Broken(), r"whose repr raised RuntimeError"),
        (Page, r"type type"),
        (math.nan, r"NaN or infinity"),
        ({"x": [math.inf]}, r"NaN or infinity"),
        ({"x": "\udc80"}, r"lone surrogate"),
        ({(1, 2): 3}, r"keys must be str"),
        (10**5000, r"cannot write the item"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_jsonl_refuses_only_the_item_without_a_json_form(tmp_path, item, says):
    path = tmp_path / "out.jsonl"
    (refused,) = put(Jsonl(path), [1, item, 2])
    assert list(refused) == [1]
    assert isinstance(refused[1], TypeError)
    assert isinstance(refused[1], UsageError)
    with pytest.raises(UsageError, match=says):
        raise refused[1]
    assert "out.jsonl" in str(refused[1])
    assert len(str(refused[1])) < 500 + len(str(path))
    assert lines(path) == [1, 2]


def test_jsonl_refuses_an_item_that_contains_itself_or_is_nested_too_deeply(tmp_path):
    ring: list[object] = []
    ring.append(ring)
    deep: list[object] = []
    for _ in range(200_000):
        deep = [deep]
    (refused,) = put(Jsonl(tmp_path / "out.jsonl"), [ring, 1, deep])
    assert list(refused) == [0, 2]
    assert lines(tmp_path / "out.jsonl") == [1]
    while deep:  # a deep list may overflow the stack when it is freed at once
        deep = deep.pop()  # type: ignore[assignment]  # every level is a list


def test_jsonl_writes_nothing_for_a_batch_without_good_items(tmp_path):
    path = tmp_path / "out.jsonl"
    assert [list(refused) for refused in put(Jsonl(path), [], [b"a", b"b"], [])] == [[], [0, 1], []]
    assert path.read_bytes() == b""


def test_jsonl_refuses_a_file_that_is_not_empty_and_names_both_ways_out(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("1\n")
    with pytest.raises(UsageError, match='holds 2 bytes already.*if_exists="append".*if_exists="replace"'):
        Jsonl(path).open()
    assert path.read_text() == "1\n"


def test_jsonl_takes_an_empty_file(tmp_path):
    path = tmp_path / "out.jsonl"
    path.touch()
    put(Jsonl(path), [1])
    assert lines(path) == [1]


def test_jsonl_replaces_or_appends_when_told(tmp_path):
    path = tmp_path / "out.jsonl"
    put(Jsonl(path), [1, 2])
    put(Jsonl(path, if_exists="append"), [3])
    assert lines(path) == [1, 2, 3]
    put(Jsonl(path, if_exists="replace"), [4])
    assert lines(path) == [4]


@pytest.mark.parametrize("last", ['{"a": 1}', '"x"', "[]", "null", '{"long": "' + "x" * 20_000 + '"}'])
def test_jsonl_ends_a_whole_last_line_before_it_appends(tmp_path, last):
    path = tmp_path / "out.jsonl"
    path.write_text(last)
    put(Jsonl(path, if_exists="append"), [2])
    assert lines(path) == [json.loads(last), 2]


@pytest.mark.parametrize("torn", ['{"a": "ha', '{"a', "[1,", '"' + "x" * 20_000, "12", b'{"a": "\xc3'])
def test_jsonl_cuts_a_torn_last_line_off_with_a_warning(tmp_path, torn):
    path = tmp_path / "out.jsonl"
    torn = torn if isinstance(torn, bytes) else torn.encode()
    path.write_bytes(b'{"a": 1}\n' + torn)
    with pytest.warns(RuntimeWarning, match="the last line was torn and is cut off"):
        put(Jsonl(path, if_exists="append"), [2])
    assert lines(path) == [{"a": 1}, 2]


@pytest.mark.parametrize("content", ["Dear diary", "Dear diary,\ntoday I", '{"half'])
def test_jsonl_never_cuts_a_file_that_does_not_look_like_json_lines(tmp_path, content):
    path = tmp_path / "diary.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match="not JSON"):
        Jsonl(path, if_exists="append").open()
    assert path.read_text() == content


class FullDisk(io.FileIO):
    """Takes half of what it is given, then no more."""

    full = False

    def write(self, data) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.full = True
        return super().write(memoryview(data)[: max(1, len(data) // 2)])


def test_jsonl_takes_half_a_batch_back_when_the_disk_is_full(tmp_path):
    path = tmp_path / "out.jsonl"
    writer = Jsonl(path).open()
    writer.write([1, 2])
    writer._file.close()
    writer._file = FullDisk(path, "ab")
    with pytest.raises(OSError, match="No space") as caught:
        writer.write([{"a": "x" * 100}] * 10)
    assert "Jsonl" in caught.value.__notes__[0]
    writer.close(ok=False)
    assert lines(path) == [1, 2]


def test_jsonl_finishes_a_write_that_the_system_took_in_parts(tmp_path):
    class Slow(io.FileIO):
        def write(self, data) -> int:
            return super().write(memoryview(data)[:7])

    path = tmp_path / "out.jsonl"
    writer = Jsonl(path).open()
    writer._file.close()
    writer._file = Slow(path, "ab")
    writer.write([{"a": "x" * 100}] * 10)
    writer.close(ok=True)
    assert lines(path) == [{"a": "x" * 100}] * 10


def test_jsonl_tells_its_length_on_disk(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("1\n")
    writer = Jsonl(path, if_exists="append").open()
    assert isinstance(writer, AppendOnly)
    assert writer.position() == 2
    writer.write(["ü"])
    assert writer.position() == path.stat().st_size == 2 + len('"ü"\n'.encode())
    writer.close(ok=True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_jsonl_writes_to_a_device_that_has_no_length():
    assert put(Jsonl(os.devnull), [1, 2]) == [{}]
    with pytest.raises(OSError, match="No space"):
        put(Jsonl("/dev/full"), [1])
    writer = Jsonl(os.devnull).open()
    with pytest.raises(UsageError, match="no position"):
        writer.position()
    writer.close(ok=True)


def test_jsonl_keeps_whole_batches_of_a_failed_run(tmp_path):
    path = tmp_path / "out.jsonl"
    writer = Jsonl(path).open()
    writer.write([1])
    writer.close(ok=False)
    assert lines(path) == [1]


# -- Sqlite -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["", "a b", "1a", 'x"; DROP TABLE y', "a" * 64, "ä", "a\n", None, 3])
def test_sqlite_takes_only_safe_table_names(table):
    with pytest.raises(UsageError, match=r"Sqlite\(table\)"):
        Sqlite("out.db", table=table)


def test_sqlite_leaves_its_own_names_to_sqlite():
    with pytest.raises(UsageError, match="keeps names with sqlite_"):
        Sqlite("out.db", table="sqlite_x")


@pytest.mark.parametrize("wait", [-1, math.nan, math.inf, 10**400, "5", True, None])
def test_sqlite_refuses_a_wrong_lock_wait(wait):
    with pytest.raises(UsageError, match="lock_wait_s"):
        Sqlite("out.db", lock_wait_s=wait)


def test_sqlite_makes_the_table_from_the_first_item(tmp_path):
    path = tmp_path / "out.db"
    first = {
        "t": "x",
        "i": 1,
        "f": 1.5,
        "b": b"\0",
        "yes": True,
        "n": None,
        "l": [1, {"a": "ü"}],
        "p": Page("/", 1),
    }
    assert put(Sqlite(path, table="order"), [], [first], [{"i": 2}, Point(1, 2.0)]) == [
        {},
        {},
        {1: put_error()},
    ]
    assert rows(path, "order") == [
        ("x", 1, 1.5, b"\0", 1, None, '[1, {"a": "ü"}]', '{"url": "/", "size": 1}'),
        (None, 2, None, None, None, None, None, None),
    ]
    connection = sqlite3.connect(path)
    types = [row[2] for row in connection.execute('PRAGMA table_info("order")')]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert types == ["TEXT", "INTEGER", "REAL", "BLOB", "INTEGER", "", "TEXT", "TEXT"]


class put_error:  # noqa: N801 - equal to any refusal
    def __eq__(self, other: object) -> bool:
        return isinstance(other, UsageError)

    __hash__ = None  # type: ignore[assignment]  # a test double


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([Page("/", 3), Page("/b", 4)], [("/", 3), ("/b", 4)]),
        ([Point(1, 2.5), {"y": 1.0}], [(1, 2.5), (None, 1.0)]),
        ([1, 2.5, None], [(1,), (2.5,), (None,)]),
        (["a", 5, Color.RED], [("a",), ("5",), ("red",)]),
        ([[1, 2], (3,)], [("[1, 2]",), ("[3]",)]),
        ([{"A": 1}, {"a": 2}], [(1,), (2,)]),
        ([None, "007", 7], [(None,), ("007",), (7,)]),
        ([{"select": 1, "from": 2}], [(1, 2)]),
        ([bytearray(b"x"), memoryview(b"y")], [(b"x",), (b"y",)]),
        ([memoryview(b"xayb")[::2], b"z"], [(b"xy",), (b"z",)]),
        (["a", 1 / 3, 1e15 + 0.3, math.nan], [("a",), (repr(1 / 3),), (repr(1e15 + 0.3),), (None,)]),
    ],
)
def test_sqlite_stores_every_kind_of_item(tmp_path, items, expected):
    assert put(Sqlite(tmp_path / "out.db"), items) == [{}]
    assert rows(tmp_path / "out.db") == expected


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"n": 1, "x": 2}, r"key 'x' has no column; the table has n, s, r \("),
        ({"n": 2**63}, r"beyond 64 bits"),
        ({"n": -(2**63) - 1}, r"beyond 64 bits"),
        ({"n": "007"}, r"'n' is the text '007', but the column holds numbers"),
        ({"r": 2**60 + 1}, r"floating-point"),
        ({"s": {1}}, r"\.map\(sorted\)"),
        ({"s": [math.nan]}, r"NaN or infinity"),
        ({"s": "\udc80"}, r"lone surrogate"),
        ({"s": datetime(2026, 1, 2)}, r"isoformat"),  # noqa: DTZ001
        ({"n": 1, "N": 2}, r"not distinct"),
        ({1: 2}, r"key 1 has no column"),
        ({}, r"no keys"),
        (5, r"key 'value' has no column"),
        ([{"n": 1}], r"\.flatten\(\)"),
        (Plain(), r"\.map\(vars\)"),
    ],
)
def test_sqlite_refuses_only_the_item_that_cannot_be_a_row(tmp_path, item, says):
    path = tmp_path / "out.db"
    good = {"n": 1, "s": "a", "r": 1.0}
    (refused,) = put(Sqlite(path), [good, item, {"n": 2}])
    assert list(refused) == [1]
    with pytest.raises(UsageError, match=says):
        raise refused[1]
    assert "out.db" in str(refused[1])
    assert rows(path) == [(1, "a", 1.0), (2, None, None)]


@pytest.mark.parametrize("key", ["a b", 'x"; DROP TABLE items; --', "", "a" * 64, "é", 5])
def test_sqlite_refuses_a_first_item_with_an_unsafe_key_and_takes_the_next_one(tmp_path, key):
    (refused,) = put(Sqlite(tmp_path / "out.db"), [{key: 1}, {"a": 1, "A": 2}, {"ok": 1}])
    assert list(refused) == [0, 1]
    assert f"its key {key!r} cannot name a column" in str(refused[0])
    assert rows(tmp_path / "out.db") == [(1,)]


@pytest.mark.parametrize(
    ("first", "says"),
    [
        ({"a": 2**70}, "beyond 64 bits"),
        ({"a": "\udc80"}, "lone surrogate"),
        ({f"c{n}": n for n in range(2_100)}, "2,100 keys, and a table has 2,000 columns at most"),
    ],
)
def test_sqlite_makes_no_table_of_a_first_item_that_is_refused(tmp_path, first, says):
    (refused,) = put(Sqlite(tmp_path / "out.db"), [first, {"b": 1}, {"b": 2}])
    assert list(refused) == [0]
    assert says in str(refused[0])
    assert rows(tmp_path / "out.db") == [(1,), (2,)]


def test_sqlite_takes_an_error_of_a_mapping_of_the_users_for_that_items(tmp_path):
    class Lazy(OrderedDict[str, int]):
        def __getitem__(self, key: str) -> int:
            raise sqlite3.OperationalError("my own database is gone")

        def values(self):
            return [self[key] for key in self]

    (refused,) = put(Sqlite(tmp_path / "out.db"), [{"a": 1}, Lazy(a=2), {"a": 3}])
    assert list(refused) == [1]
    assert "my own database is gone" in str(refused[1])
    assert rows(tmp_path / "out.db") == [(1,), (3,)]


def test_sqlite_says_when_the_users_table_undoes_a_whole_batch(tmp_path):
    with sqlite3.connect(tmp_path / "out.db") as connection:
        connection.execute("CREATE TABLE items (a INTEGER UNIQUE ON CONFLICT ROLLBACK)")
    connection.close()
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE") as caught:
        put(Sqlite(tmp_path / "out.db"), [{"a": 1}, {"a": 1}, {"a": 2}])
    assert "ON CONFLICT ROLLBACK" in "".join(caught.value.__notes__)
    assert rows(tmp_path / "out.db") == []


def test_sqlite_makes_no_table_when_nothing_arrives(tmp_path):
    path = tmp_path / "out.db"
    put(Sqlite(path), [], [{1}])
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows(path)


def test_sqlite_refuses_a_table_with_rows_and_names_both_ways_out(tmp_path):
    path = tmp_path / "out.db"
    put(Sqlite(path), [1])
    with pytest.raises(UsageError, match='has rows already.*if_exists="append".*if_exists="replace"'):
        Sqlite(path, table="Items").open()
    put(Sqlite(path, table="others"), [2])
    put(Sqlite(path, if_exists="append"), [3])
    assert rows(path) == [(1,), (3,)]
    put(Sqlite(path, if_exists="replace"), [{"a": 4}])
    assert rows(path) == [(4,)]
    assert rows(path, "others") == [(2,)]


def test_sqlite_fills_a_table_of_the_users_own_with_its_defaults_and_constraints(tmp_path):
    path = tmp_path / "out.db"
    execute(
        path,
        'CREATE TABLE items (id INTEGER PRIMARY KEY, url TEXT UNIQUE, "the size" INT NOT NULL DEFAULT 7)',
    )
    (refused,) = put(Sqlite(path), [{"url": "a"}, {"url": "b", "The Size": "8"}, {"url": "a"}, {"url": "c"}])
    assert list(refused) == [2]
    assert "UNIQUE constraint failed" in str(refused[2])
    assert rows(path) == [(1, "a", 7), (2, "b", 8), (3, "c", 7)]


def test_sqlite_does_not_write_into_a_view(tmp_path):
    path = tmp_path / "out.db"
    execute(path, "CREATE VIEW items AS SELECT 1 AS value")
    with pytest.raises(UsageError, match="is a view"):
        Sqlite(path, if_exists="replace").open()


def test_sqlite_refuses_a_file_that_is_no_database_and_leaves_it_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary " * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database") as caught:
        Sqlite(path, if_exists="replace").open()
    assert "Sqlite(" in caught.value.__notes__[0]
    assert path.read_text() == "Dear diary " * 100


def test_sqlite_writes_nothing_of_a_batch_for_which_the_disk_is_full(tmp_path):
    path = tmp_path / "out.db"
    writer = Sqlite(path).open()
    writer.write([{"a": "x"}])
    with writer.transaction() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    writer._connection.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(sqlite3.OperationalError, match="full") as caught:
        writer.write([{"a": "y" * 1000}] * 100)
    assert "nothing of its last batch" in caught.value.__notes__[0]
    assert writer.write([{"a": "z"}]) == {}
    writer.close(ok=False)
    assert rows(path) == [("x",), ("z",)]


def test_sqlite_that_stays_locked_ends_the_run(tmp_path):
    path = tmp_path / "out.db"
    writer = Sqlite(path, lock_wait_s=0.01).open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        writer.write([1])
    other.execute("ROLLBACK")
    other.close()
    assert writer.write([2]) == {}
    writer.close(ok=True)
    assert rows(path) == [(2,)]


def write_marked(writer, items) -> dict[int, Exception]:
    with writer.transaction() as connection:
        refused: dict[int, Exception] = writer.write(items)
        connection.execute("INSERT INTO marks VALUES (1)")
    return refused


def test_sqlite_commits_rows_and_marks_in_one_transaction(tmp_path):
    path = tmp_path / "out.db"
    execute(path, "CREATE TABLE marks (n INTEGER PRIMARY KEY)")
    writer = Sqlite(path).open()
    assert isinstance(writer, Transactional)
    assert write_marked(writer, ["a", {1}]) == {1: put_error()}
    with pytest.raises(sqlite3.IntegrityError):
        write_marked(writer, ["b"])  # a second writer of the same mark
    writer.close(ok=True)
    assert rows(path) == [("a",)]
    assert rows(path, "marks", "n") == [(1,)]


def test_sqlite_forgets_a_table_whose_making_was_rolled_back(tmp_path):
    path = tmp_path / "out.db"
    writer = Sqlite(path).open()
    with pytest.raises(sqlite3.OperationalError, match="marks"):
        write_marked(writer, [{"a": 1}])
    assert writer.write([{"b": "2"}]) == {}
    writer.close(ok=True)
    assert rows(path) == [("2",)]


def test_sqlite_can_be_read_while_it_is_written(tmp_path):
    path = tmp_path / "out.db"
    writer = Sqlite(path).open()
    writer.write([1])
    with writer.transaction():
        writer.write([2])
        assert rows(path) == [(1,)]
    assert rows(path) == [(1,), (2,)]
    writer.close(ok=True)


def test_sqlite_remembers_a_bounded_number_of_statements(tmp_path):
    from itertools import combinations

    from overlapped.sinks.sqlite import MAX_SHAPES

    names = [f"c{n}" for n in range(30)]
    writer = Sqlite(tmp_path / "out.db").open()
    writer.write([dict.fromkeys(names, 1)])
    assert writer.write([dict.fromkeys(pair, 2) for pair in combinations(names, 2)]) == {}
    assert len(writer._statements) <= MAX_SHAPES
    writer.close(ok=True)
    assert len(rows(tmp_path / "out.db")) == 1 + 30 * 29 // 2


def test_a_writer_may_live_on_a_thread_that_did_not_make_the_sink(tmp_path):
    sink = Sqlite(tmp_path / "out.db")
    thread = threading.Thread(target=put, args=(sink, [1, 2]))
    thread.start()
    thread.join()
    assert rows(tmp_path / "out.db") == [(1,), (2,)]
