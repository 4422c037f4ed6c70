"""Rule 17: `through` gives a generator its own thread, an async one a task, a coroutine `x = yield y` each item."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest

from overlapped import Stage, UsageError
from overlapped.testing import virtual
from tests.rules.kit import LONG_S, Calls, Pulled, arriving, concat, fail_at, flow, in_lane, outcome, rest, same, timed

# -- generators of the items ----------------------------------------------------------------------------------


def pairs(items):
    for item in items:
        yield item
        yield item


async def async_pairs(items):
    async for item in items:
        yield item
        yield item


GENERATORS = {"generator": pairs, "async generator": async_pairs}


def first_two(items):
    yield next(items)
    yield next(items)


async def afirst_two(items):
    yield await anext(items)
    yield await anext(items)


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_sees_all_items_and_yields_what_it_likes(kind, source, way):
    chain = flow(Pulled(total=300).of(source)).through(GENERATORS[kind])
    values, error = outcome(chain, way)
    assert (values, error) == ([n for n in range(300) for _ in range(2)], None)


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_stands_between_calls_in_every_lane(kind, lane, way, ordered):
    fn = in_lane(lane, same)
    options = {"on": lane, "ordered": ordered, "concurrency": 5}
    values, error = outcome(flow(range(100)).map(fn, **options).through(GENERATORS[kind]).map(fn, **options), way)
    assert (sorted(values), error) == (sorted([*range(100), *range(100)]), None)


def test_a_generator_has_one_thread_of_its_own(way):
    threads: list[int] = []

    def count(items):
        threads.append(threading.get_ident())
        try:
            for item in items:
                threads.append(threading.get_ident())
                yield item
        finally:
            threads.append(threading.get_ident())

    outcome(flow(range(1000)).through(count), way)
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


def test_an_async_generator_has_one_task_of_its_own(way):
    tasks: set[Any] = set()

    async def count(items):
        try:
            async for item in items:
                tasks.add(asyncio.current_task())
                yield item
        finally:
            tasks.add(asyncio.current_task())

    outcome(flow(range(1000)).through(count), way)
    assert len(tasks) == 1


def test_a_blocking_generator_does_not_stop_the_loop():
    may_end = threading.Event()

    def slow(items):
        for item in items:
            assert may_end.wait(5)
            yield item

    async def main():
        async with flow([1]).through(slow).open() as items:
            first = asyncio.ensure_future(anext(items))
            for _ in range(5):
                await asyncio.sleep(0.002)  # the loop goes on
            assert not first.done()
            may_end.set()
            assert await first == 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", GENERATORS)
def test_outputs_are_handed_over_as_they_come(kind, way):
    taken = threading.Event()

    def first_then_wait(items):
        for item in items:
            yield item
            if item == 0:
                assert taken.wait(5)

    async def afirst_then_wait(items):
        async for item in items:
            yield item
            while item == 0 and not taken.is_set():
                await asyncio.sleep(0.001)

    fn = first_then_wait if kind == "generator" else afirst_then_wait
    chain = flow(range(3)).through(fn)
    if way == "for":
        with chain.open() as items:
            assert next(items) == 0
            taken.set()
            assert list(items) == [1, 2]
        return

    async def main():
        async with chain.open() as aitems:
            assert await anext(aitems) == 0
            taken.set()
            assert [n async for n in aitems] == [1, 2]

    asyncio.run(main())


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_that_ends_early_ends_the_flow(kind, source, way):
    pulled = Pulled()
    fn = first_two if kind == "generator" else afirst_two
    values, error = outcome(flow(pulled.of(source)).through(fn), way)
    assert (values, error) == ([0, 1], None)
    if source != "file":
        assert pulled.closed == 1


@pytest.mark.parametrize("kind", GENERATORS)
def test_calls_for_a_generator_that_has_ended_are_cancelled_though_the_run_goes_on(kind, way):
    cancelled: list[int] = []

    async def fn(n):
        try:
            await asyncio.sleep(0 if n < 2 else LONG_S)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise
        return n

    async def goes_on():
        async with asyncio.timeout(LONG_S / 2):
            while len(cancelled) < 3:
                await asyncio.sleep(0.001)
        yield 2

    ended = flow(range(10)).map(fn, concurrency=3).through(first_two if kind == "generator" else afirst_two)
    assert outcome(concat(ended, goes_on), way) == ([0, 1, 2], None)


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_may_yield_after_the_last_item(kind, way):
    def total(items):
        yield sum(items)

    async def atotal(items):
        result = 0
        async for item in items:
            result += item
        yield result

    fn = total if kind == "generator" else atotal
    assert outcome(flow(range(1000)).through(fn), way) == ([499_500], None)


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_is_made_anew_for_every_run(kind, way):
    chain = flow([1]).through(GENERATORS[kind])
    for _ in range(3):
        assert outcome(chain, way) == ([1, 1], None)


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_generator_is_closed_when_the_run_ends_early(kind, way):
    closed: list[bool] = []

    def fn(items):
        try:
            yield from items
        finally:
            closed.append(True)

    async def afn(items):
        try:
            async for item in items:
                yield item
        finally:
            closed.append(True)

    chain = flow(Pulled().of("generator")).through(fn if kind == "generator" else afn).take(3)
    assert outcome(chain, way) == ([0, 1, 2], None)
    assert closed == [True]


@pytest.mark.parametrize("kind", GENERATORS)
def test_the_look_ahead_of_a_generator_is_bounded(kind, source):
    pulled = Pulled(total=100_000)
    with flow(pulled.of(source)).through(GENERATORS[kind]).open() as items:
        next(items)
        assert rest(lambda: pulled.count, 0.02) < 20_000


@pytest.mark.parametrize("kind", GENERATORS)
def test_failures_overtake_or_pass_a_generator_but_are_not_lost(kind, way):
    chain = flow(range(50)).map(fail_at(7, 20), concurrency=5).through(GENERATORS[kind])
    values, error = outcome(chain.catch(ValueError, replace=-1), way)
    assert error is None
    assert sorted(values) == sorted([-1, -1] + [n for n in range(50) if n not in (7, 20) for _ in range(2)])


@pytest.mark.parametrize("kind", GENERATORS)
def test_in_raise_mode_a_failure_passes_a_generator_and_is_raised(kind, way):
    chain = flow(range(50)).map(fail_at(7), concurrency=5).through(GENERATORS[kind])
    values, error = outcome(chain, way)
    assert repr(error) == "ValueError(7)"
    assert set(values) <= set(range(7))


@pytest.mark.parametrize("kind", GENERATORS)
def test_in_raise_mode_results_before_a_failure_come_through_a_generator_first(kind, way):
    """Rule 2 holds across a generator: what it was given before the failure is delivered before it."""
    chain = flow(range(50)).map(fail_at(7), concurrency=5).through(GENERATORS[kind])
    values, _ = outcome(chain, way)
    assert values == [n for n in range(7) for _ in range(2)]


# -- x = yield y ------------------------------------------------------------------------------------------------


def running_total() -> Generator[int, int, None]:
    total = 0
    while True:
        total += yield total


def test_a_coroutine_is_sent_each_item_and_gives_one_output_for_it(source, way):
    values, error = outcome(flow(Pulled(total=100).of(source)).through(running_total), way)
    assert (values, error) == (list(itertools.accumulate(range(100))), None)


def test_it_is_primed_and_its_first_yield_is_nobodys_output(way):
    steps: list[Any] = []

    def echo():
        item = yield "the first yield, before any item"
        while True:
            steps.append(item)
            item = yield item

    assert outcome(flow([1, 2]).through(echo), way) == ([1, 2], None)
    assert steps == [1, 2]


def test_it_runs_on_the_loop():
    threads: set[int] = set()

    def where():
        item = None
        while True:
            item = yield item
            threads.add(threading.get_ident())

    flow(range(5)).through(where).run()
    assert threads == {threading.get_ident()}


def test_it_is_made_anew_for_every_run(way):
    chain = flow([1, 2]).through(running_total)
    for _ in range(3):
        assert outcome(chain, way) == ([1, 3], None)


@virtual
async def test_each_output_leaves_with_its_item():
    chain = flow(arriving(1, 2, 5)).through(running_total)
    assert await timed(chain) == [(0, 1.0), (1, 2.0), (3, 5.0)]


@virtual
async def test_failures_pass_it_by_in_their_places():
    calls = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 1 else None)
    chain = flow(range(4)).map(calls, concurrency=3).through(running_total).catch(ValueError, replace="failed")
    assert await chain.acollect() == [0, "failed", 2, 5]


def test_it_is_closed_when_the_run_ends(way):
    closed: list[bool] = []

    def fn():
        item = None
        try:
            while True:
                item = yield item
        finally:
            closed.append(True)

    outcome(flow(range(5)).through(fn), way)
    outcome(flow(range(5)).through(fn).take(2), way)
    assert closed == [True, True]


def test_one_that_returns_ends_the_flow(source, way):
    def first_three():
        item = yield None
        for _ in range(3):
            item = yield item

    assert outcome(flow(Pulled().of(source)).through(first_three), way) == ([0, 1, 2], None)


def test_arguments_are_given_by_partial(way):
    def scaled(factor):
        item = yield None
        while True:
            item = yield item * factor

    def offset(by, items):
        for item in items:
            yield item + by

    chain = flow([1, 2]).through(functools.partial(scaled, 10)).through(functools.partial(offset, 5))
    assert outcome(chain, way) == ([15, 25], None)


# -- a Stage of one's own -----------------------------------------------------------------------------------------


def test_a_stage_object_is_attached():
    from overlapped.stages.batch import Batch

    stage = Batch(2)
    assert isinstance(stage, Stage)
    assert flow(range(5)).through(stage).collect() == [[0, 1], [2, 3], [4]]


# -- what is refused ----------------------------------------------------------------------------------------


def test_what_is_no_generator_function_is_refused_when_written():
    async def coroutine(items):
        return items

    def plain(items):
        return items

    def needs_more(items, size):
        yield from items

    async def no_items():
        yield 1

    class Klass:
        pass

    for value in (coroutine, plain, needs_more, no_items, Klass, 1, "text", None, pairs([])):
        with pytest.raises(UsageError, match="through"):
            flow([1]).through(value)


def test_a_slow_generator_overlaps_with_the_calls_before_it():
    """Its thread and theirs work at the same time."""
    started: list[float] = []

    def fn(n):
        started.append(time.monotonic())
        time.sleep(0.02)
        return n

    def slow(items):
        for item in items:
            time.sleep(0.02)
            yield item

    before = time.monotonic()
    flow(range(8)).map(fn, on="thread", concurrency=1).through(slow).run()
    assert time.monotonic() - before < 8 * 0.04 * 0.9
