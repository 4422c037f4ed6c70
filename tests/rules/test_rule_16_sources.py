"""Rule 16: where sources are pulled, who closes them, and what is refused."""

from __future__ import annotations

import asyncio
import collections
import enum
import functools
import os
import pathlib
import socket
import sqlite3
import threading
from typing import Any

import pytest

from overlapped import UsageError
from overlapped.testing import virtual
from tests.rules.kit import LONG_S, Pulled, concat, fail_at, flow, in_lane, merge, outcome, same, timed, zip_


class Traced:
    """An iterator that notes the thread of `iter`, every `next` and `close`."""

    def __init__(self, total: int = 20) -> None:
        self.total = total
        self.n = 0
        self.threads: list[tuple[str, int]] = []

    def note(self, what: str) -> None:
        self.threads.append((what, threading.get_ident()))

    def __iter__(self) -> Traced:
        self.note("iter")
        return self

    def __next__(self) -> int:
        self.note("next")
        if self.n == self.total:
            raise StopIteration
        self.n += 1
        return self.n - 1

    def close(self) -> None:
        self.note("close")


# -- where --------------------------------------------------------------------------------------------------

CONTAINERS = {
    "list": [0, 1, 2],
    "tuple": (0, 1, 2),
    "range": range(3),
    "dict": {0: "a", 1: "b", 2: "c"},
    "keys": {0: 1, 1: 1, 2: 1}.keys(),
    "values": {"a": 0, "b": 1, "c": 2}.values(),
    "set": {0, 1, 2},
    "frozenset": frozenset((0, 1, 2)),
    "deque": collections.deque((0, 1, 2)),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_containers_and_ranges_are_pulled_without_a_thread(kind, way):
    names: list[str] = []
    chain = flow(CONTAINERS[kind]).tap(lambda n: names.extend(t.name for t in threading.enumerate()), on="inline")
    values, error = outcome(chain, way)
    assert (sorted(values), error) == ([0, 1, 2], None)
    assert [name for name in names if name.startswith("overlapped") and name != "overlapped:loop"] == []


def test_an_open_file_is_pulled_on_the_loop_and_not_closed(tmp_path, way):
    path = tmp_path / "lines"
    path.write_text("a\nb\nc\n")
    with open(path) as lines:
        values, error = outcome(flow(lines).map(str.strip, on="inline"), way)
        assert (values, error) == (["a", "b", "c"], None)
        assert not lines.closed
    with open(path) as lines:
        assert flow(lines).take(1).collect() == ["a\n"]
        assert not lines.closed
        assert lines.readline() == "b\n"  # exactly one line was read


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_may_wait_is_no_open_file_and_is_read_in_a_thread(kind, way):
    if kind == "pipe":
        reader, writer = os.pipe()
        lines, say = os.fdopen(reader), os.fdopen(writer, "w")
    else:
        here, there = socket.socketpair()
        with here, there:
            lines, say = here.makefile(), there.makefile("w")
    names: list[str] = []
    lifeline = threading.Timer(LONG_S, say.close)  # whoever waits for more than one line on the loop hangs until then

    def answer(line):
        names.extend(thread.name for thread in threading.enumerate())
        say.close()
        return line.strip()

    with lines, say:
        say.write("a\n")
        say.flush()
        lifeline.start()
        assert outcome(flow(lines).map(answer, on="inline"), way) == (["a"], None)
        lifeline.cancel()
        assert not lines.closed
    assert "overlapped:TextIOWrapper" in names


def test_any_other_iterator_has_one_thread_for_its_whole_life(way):
    traced = Traced()
    values, error = outcome(flow(traced), way)
    assert (values, error) == (list(range(20)), None)
    (thread,) = {thread for _, thread in traced.threads}
    assert thread != threading.get_ident()
    assert traced.threads[0][0] == "iter"
    assert traced.threads[-1][0] == "close"


def test_an_iterator_that_an_async_function_gives_has_that_thread_too(way):
    traced = Traced()

    async def query():
        await asyncio.sleep(0)
        return traced

    values, error = outcome(flow(query), way)
    assert (values, error) == (list(range(20)), None)
    (thread,) = {thread for _, thread in traced.threads}
    assert thread != threading.get_ident()
    assert traced.threads[-1][0] == "close"
    assert [what for what, _ in traced.threads].count("close") == 1


@virtual
async def test_a_container_that_an_async_function_gives_is_pulled_without_a_thread():
    async def query():
        await asyncio.sleep(3)
        return [0, 1, 2]

    before = threading.enumerate()
    assert await timed(flow(query).tap(lambda n: None, on="inline")) == [(0, 3.0), (1, 3.0), (2, 3.0)]
    assert threading.enumerate() == before


@pytest.mark.parametrize("ending", ["break", "take", "failure"])
def test_that_thread_closes_it_however_the_run_ends(ending, way):
    traced = Traced(total=10_000)
    chain = flow(traced)
    if ending == "failure":
        chain = chain.map(fail_at(3), concurrency=1)
    if ending == "take":
        chain = chain.take(3)
    if ending == "break" and way == "for":
        with chain.open() as items:
            next(items)
    elif ending == "break":

        async def main():
            async with chain.open() as aitems:
                await anext(aitems)

        asyncio.run(main())
    else:
        outcome(chain, way)
    assert traced.threads[-1][0] == "close"
    assert [what for what, _ in traced.threads].count("close") == 1
    assert len({thread for _, thread in traced.threads}) == 1


def test_an_item_is_handed_over_when_it_is_there_not_when_a_chunk_is_full(way):
    taken = threading.Event()

    def source():
        yield 1
        assert taken.wait(5), "the first item had to be out before the second was made"
        yield 2

    chain = flow(source).map(same, on="inline")
    if way == "for":
        with chain.open() as items:
            assert next(items) == 1
            taken.set()
            assert next(items) == 2
        return

    async def main():
        async with chain.open() as aitems:
            assert await anext(aitems) == 1
            taken.set()
            assert await anext(aitems) == 2

    asyncio.run(main())


@pytest.mark.parametrize("ending", ["end", "break", "take"])
def test_an_async_source_is_iterated_and_closed_by_one_task(ending, way):
    tasks: set[Any] = set()
    closed: list[bool] = []

    async def source():
        try:
            for n in range(100):
                tasks.add(asyncio.current_task())
                await asyncio.sleep(0)
                yield n
        finally:
            tasks.add(asyncio.current_task())
            await asyncio.sleep(0)
            closed.append(True)

    chain = flow(source())
    if ending == "take":
        chain = chain.take(3)
    if ending == "break":
        if way == "for":
            with chain.open() as items:
                next(items)
        else:

            async def main():
                async with chain.open() as aitems:
                    await anext(aitems)

            asyncio.run(main())
    else:
        outcome(chain, way)
    assert len(tasks) == 1
    assert closed == [True]


def test_objects_tied_to_a_thread_are_made_by_a_function(tmp_path, way):
    path = tmp_path / "db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (n)")
        db.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(5)])
    db.close()
    connections = []

    def rows():
        connection = sqlite3.connect(path)
        connections.append(connection)
        try:
            yield from connection.execute("SELECT n FROM t ORDER BY n")
        finally:
            connection.close()

    values, error = outcome(flow(rows).map(lambda row: row[0], concurrency=3), way)
    assert (values, error) == ([0, 1, 2, 3, 4], None)


# -- who closes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_generator_handed_over_is_closed_by_us(kind, way):
    for take in (None, 3):
        pulled = Pulled(total=10)
        chain = flow(pulled.of(kind))
        outcome(chain if take is None else chain.take(take), way)
        assert (pulled.began, pulled.closed) == (1, 1)


def test_what_a_function_makes_is_closed_by_us(way):
    traced = Traced()
    outcome(flow(lambda: traced).take(2), way)
    assert traced.threads[-1][0] == "close"


def test_a_container_with_a_close_method_is_not_closed(way):
    class Shelf(collections.UserDict):
        closed = False

        def close(self):
            self.closed = True

    shelf = Shelf({1: 2})
    outcome(flow(shelf), way)
    assert not shelf.closed


# -- which kind -----------------------------------------------------------------------------------------------


class Many:
    """Iterable, async iterable and callable at once, as asked for."""


def make(*methods: str) -> Any:
    """An object with some of the methods a source may have."""

    def iter_(self):
        return iter(["iterable"])

    async def aiter_(self):
        yield "async iterable"

    def call(self):
        return ["callable"]

    given = {"__iter__": iter_, "__aiter__": aiter_, "__call__": call}
    return type("Given", (), {name: given[name] for name in methods})()


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (["__iter__", "__call__"], "iterable"),
        (["__aiter__", "__call__"], "async iterable"),
        (["__iter__", "__aiter__"], "async iterable"),
        (["__iter__", "__aiter__", "__call__"], "async iterable"),
        (["__call__"], "callable"),
    ],
)
def test_iterable_beats_callable_and_async_beats_sync(methods, expected, way):
    assert outcome(flow(make(*methods)), way) == ([expected], None)


def _agen():
    async def agen():
        yield 1
        yield 2

    return agen


async def _async_list():
    await asyncio.sleep(0)
    return [1, 2]


async def _async_agen():
    return _agen()()


FUNCTIONS = {
    "list": lambda: [1, 2],
    "generator": lambda: (n for n in (1, 2)),
    "async generator": _agen(),
    "function returning an async generator": lambda: _agen()(),
    "async function returning a list": _async_list,
    "async function returning an async generator": _async_agen,
    "function returning a coroutine": lambda: _async_list(),
    "function returning a coroutine of an async generator": lambda: _async_agen(),
    "partial": functools.partial(range, 1, 3),
    "class": type("Numbers", (), {"__iter__": lambda self: iter((1, 2))}),
    "flow": lambda: flow([1, 2]).map(same),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_may_return_every_kind_of_source(kind, way):
    chain = flow(FUNCTIONS[kind]).map(same)
    for _ in range(2):  # and is called again for the next run
        assert outcome(chain, way) == ([1, 2], None)


def test_a_source_function_is_called_once_a_run_and_not_before_it(way):
    made: list[int] = []

    def source():
        made.append(1)
        return [1]

    chain = flow(source)
    assert made == []
    outcome(chain, way)
    assert made == [1]
    outcome(chain, way)
    assert made == [1, 1]


@pytest.mark.parametrize("returned", [None, 1, "text", b"bytes"])
def test_a_function_that_returns_no_iterable_ends_the_run_with_a_usage_error(returned, way):
    values, error = outcome(flow(lambda: returned), way, on_failure="keep")
    assert values == []
    assert type(error) is UsageError
    assert "must return an iterable" in str(error)


def test_a_coroutine_that_gives_another_one_is_no_source(way):
    async def outer():
        return _async_list()

    for function in (outer, lambda: outer()):
        values, error = outcome(flow(function), way)
        assert values == []
        assert type(error) is UsageError
        assert "got coroutine" in str(error)


def test_a_class_that_can_be_iterated_is_a_source():
    class Color(enum.Enum):
        RED = 1
        BLUE = 2

    assert flow(Color).collect() == [Color.RED, Color.BLUE]


def test_a_class_of_iterators_is_a_function_that_makes_one_for_every_run():
    class Numbers:
        def __init__(self):
            self.left = [2, 1]

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise StopIteration
            return self.left.pop()

    chain = flow(Numbers)
    with chain.open() as first, chain.open() as second:
        assert (list(first), list(second)) == ([1, 2], [1, 2])


def test_an_object_with_only_getitem_is_iterable():
    class Old:
        def __getitem__(self, n):
            if n == 3:
                raise IndexError
            return n

    assert flow(Old()).collect() == [0, 1, 2]


def test_an_empty_source_is_no_problem(source, lane, way, ordered):
    chain = flow(Pulled(total=0).of(source)).map(in_lane(lane, same), on=lane, ordered=ordered)
    assert outcome(chain, way) == ([], None)


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["text", b"bytes", bytearray(b"x"), ""])
def test_text_and_bytes_are_refused_when_written(value):
    with pytest.raises(UsageError, match=r"write flow\("):
        flow(value)


@pytest.mark.parametrize("value", [None, 1, 2.5, object(), int.__add__(1, 1), pathlib.Path("x")])
def test_what_cannot_be_iterated_is_refused_when_written(value):
    with pytest.raises(UsageError, match="flow"):
        flow(value)


def test_a_coroutine_object_is_refused_when_written():
    async def source():
        return [1]

    with pytest.raises(UsageError, match=r"write flow\(source\)"):
        flow(source())


def test_a_function_that_needs_arguments_is_refused_when_written():
    def load(path):
        yield path

    async def aload(path):
        yield path

    for fn in (load, aload):
        with pytest.raises(UsageError, match=r"path"):
            flow(fn)


def test_a_used_up_generator_is_refused_when_written():
    generator = (n for n in range(3))
    list(generator)
    with pytest.raises(UsageError, match="come to its end"):
        flow(generator)

    async def exhaust():
        agen = _agen()()
        assert [n async for n in agen] == [1, 2]
        return agen

    used = asyncio.run(exhaust())
    with pytest.raises(UsageError, match="come to its end"):
        flow(used)


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_an_iterator_is_refused_by_the_second_run(kind, way):
    pulled = Pulled(total=3)
    chain = flow(pulled.of(kind))
    assert outcome(chain, way) == ([0, 1, 2], None)
    for call in (lambda: outcome(chain, way)[1], chain.collect, chain.run, chain.open, lambda: iter(chain)):
        try:
            error = call()
        except UsageError as raised:
            error = raised
        assert type(error) is UsageError
        assert "write flow(" in str(error)


def test_any_used_iterator_is_refused_by_the_second_run():
    chain = flow(map(str, range(3)))
    assert chain.collect() == ["0", "1", "2"]
    with pytest.raises(UsageError, match="used already"):
        chain.collect()


def test_two_flows_over_one_iterator_are_refused_in_the_second():
    generator = (n for n in range(1000))
    first, second = flow(generator).take(1), flow(generator).take(1)
    assert first.collect() == [0]
    with pytest.raises(UsageError):
        second.collect()


@pytest.mark.parametrize("kind", ["generator", "async generator"])
@pytest.mark.parametrize("several", [merge, concat, zip_])
def test_an_iterator_in_two_places_of_a_run_is_refused_before_it_is_pulled(several, kind, way):
    pulled = Pulled(total=3)
    chain = flow(pulled.of(kind))
    _, error = outcome(several(chain, chain), way)
    assert type(error) is UsageError
    assert pulled.began == 0


@virtual
async def test_an_iterator_that_a_run_is_going_to_pull_is_refused_by_the_next_one():
    chain = flow(Pulled(total=3).of("async generator"))
    async with chain.open() as items:
        with pytest.raises(UsageError, match="used already"):
            await chain.acollect()
        assert [n async for n in items] == [0, 1, 2]


def test_an_iterator_that_a_run_did_not_touch_can_be_run_still(way):
    pulled = Pulled(total=3)
    chain = flow(pulled.of("generator"))
    assert outcome(chain.take(0), way) == ([], None)
    assert outcome(concat([7], chain).take(1), way) == ([7], None)
    assert outcome(chain, way) == ([0, 1, 2], None)
