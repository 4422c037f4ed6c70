"""Failures in their places: between the parts of a flat_map, in and around batches, before and after a take."""

# ruff: noqa: PT017 - the body of a test runs where there is no pytest
from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

from overlapped import AUTO, CallTimeout, Retry, TooManyFailures
from tests.faults.harness import child
from tests.faults.kit import LANES, Boom, Calls, async_numbers, flow, gather_from, nap, numbers, wait_until

STREAMS = ["generator", "async_generator", "inline_generator", "thread_iterator"]


def stream(kind: str, plain: Any) -> tuple[Any, dict[str, Any]]:
    """The generator function `plain` in one of the shapes that flat_map takes."""
    if kind == "async_generator":

        async def fn(item: Any) -> Any:
            for part in plain(item):
                await asyncio.sleep(0)
                yield part

        return fn, {}
    if kind == "thread_iterator":
        return lambda item: iter(plain(item)), {"on": "thread"}
    return plain, {"on": "inline" if kind == "inline_generator" else "thread"}


@child(kind=STREAMS, ordered=[True, False], keep=[True, False])
async def test_what_a_generator_gave_before_it_failed_stays_and_its_failure_follows(
    kind: str, ordered: bool, keep: bool
) -> None:
    calls = Calls()

    def three_then_fails(item: int) -> Any:
        with calls.one(item):
            for n in range(3):
                yield item * 10 + n
            if item == 2:
                raise Boom

    fn, options = stream(kind, three_then_fails)
    stage = flow(range(5)).flat_map(fn, concurrency=3, ordered=ordered, retry=Retry(4, base_s=0.001), **options)
    got: list[Any] = []
    async with stage.open(on_failure="keep" if keep else "raise") as items:
        error = await gather_from(items, got)
    whole = [item * 10 + n for item in range(5) for n in range(3)]
    assert calls.started.count(2) == 1, "a generator that has yielded is not called again"
    assert calls.now == 0, "every generator was closed"
    if keep:
        assert error is None
        assert items.report.failed == 1
        assert (got if ordered else sorted(got)) == whole
    else:
        assert isinstance(error, Boom)
        assert {20, 21, 22} <= set(got)
        assert not ordered or got == whole[:9]
    replaced = await stage.catch(Boom, replace=-1).acollect()
    assert sorted(replaced) == sorted([*whole, -1])
    assert not ordered or replaced == [*whole[:9], -1, *whole[9:]]


@child(kind=STREAMS)
async def test_a_generator_that_fails_before_its_first_result_is_tried_again(kind: str) -> None:
    calls = Calls()

    def fails_once(item: int) -> Any:
        with calls.one(item):
            if calls.started.count(item) == 1:
                raise Boom
            yield item

    fn, options = stream(kind, fails_once)
    stage = flow(range(6)).flat_map(fn, concurrency=2, retry=Retry(2, base_s=0.001), **options)
    assert await stage.acollect() == list(range(6))


@child(kind=STREAMS, ordered=[True, False])
async def test_endless_generators_are_paused_and_closed(kind: str, ordered: bool) -> None:
    calls, given = Calls(), [0] * 4

    def endless(item: int) -> Any:
        with calls.one(item):
            for n in numbers():
                given[item] += 1
                yield item, n

    fn, options = stream(kind, endless)
    async with flow(range(4)).flat_map(fn, concurrency=4, ordered=ordered, **options).open() as items:
        for n in range(300):
            got = await anext(items)
            assert not ordered or got == (0, n)
        await asyncio.sleep(0.05)
        assert not ordered or max(given[1:]) <= 64 + 1, given
        assert sum(given) < 3_000, given
    assert calls.now == 0


@child(kind=STREAMS)
async def test_take_from_an_endless_generator_closes_it(kind: str) -> None:
    calls = Calls()

    def endless(item: int) -> Any:
        with calls.one(item):
            yield from numbers()

    fn, options = stream(kind, endless)
    got = await flow(range(4)).flat_map(fn, concurrency=2, **options).take(100).acollect()
    assert got == list(range(100))
    assert calls.now == 0


@child(kind=STREAMS)
async def test_empty_generators_do_not_hold_the_next_one_back(kind: str) -> None:
    def sometimes(item: int) -> Any:
        if item % 100 == 0:
            yield item

    fn, options = stream(kind, sometimes)
    got = await flow(range(2_001)).flat_map(fn, concurrency=3, **options).acollect()
    assert got == list(range(0, 2_001, 100))


@child(apart={"kind": ["generator", "async_generator", "thread_iterator"]}, ordered=[True, False])
async def test_a_generator_that_waits_for_its_consumer_is_not_timed_out_and_one_that_hangs_is(
    kind: str, ordered: bool
) -> None:
    may_end = threading.Event()

    def gives_many(item: int) -> Any:
        for n in range(500):
            yield item, n

    def hangs(item: int) -> Any:
        yield from gives_many(item)
        may_end.wait(1.2)  # an uncancellable call is waited for, up to its grace

    async def hangs_async(item: int) -> Any:
        for part in gives_many(item):
            yield part
        await asyncio.sleep(30)

    fn, options = stream(kind, gives_many)
    stage = flow(range(3)).flat_map(fn, concurrency=2, ordered=ordered, timeout_s=0.25, **options)
    async with stage.open() as items:
        first = await anext(items)
        await asyncio.sleep(0.6)
        got = [first, *[item async for item in items]]
    assert sorted(got) == [(item, n) for item in range(3) for n in range(500)]

    fn, options = (hangs_async, {}) if kind == "async_generator" else stream(kind, hangs)
    stage = flow(range(3)).flat_map(fn, concurrency=2, ordered=ordered, timeout_s=0.25, **options)
    got = []
    async with stage.open() as items:
        await anext(items)
        await asyncio.sleep(0.6)
        error = await asyncio.wait_for(gather_from(items, got), 3)
        may_end.set()
    assert isinstance(error, CallTimeout), repr(error)
    assert len(got) >= 499


def failing(lane: str, *bad: int) -> tuple[Any, dict[str, Any]]:
    """A function that fails for some items."""

    async def fails(item: int) -> int:
        await asyncio.sleep(0.001 * (item % 3))
        if item in bad:
            raise Boom(item)
        return item

    def fails_plain(item: int) -> int:
        if item in bad:
            raise Boom(item)
        return item

    return (fails, {}) if lane == "coroutine" else (fails_plain, {"on": lane})


@child(lane=LANES, size=[1, 4, 100])
async def test_a_failure_flushes_the_open_batch_in_raise_mode(lane: str, size: int) -> None:
    fn, options = failing(lane, 6)
    got: list[list[int]] = []
    error = await gather_from(flow(numbers()).map(fn, concurrency=3, **options).batch(size), got)
    assert isinstance(error, Boom)
    assert list(itertools.chain(*got)) == [0, 1, 2, 3, 4, 5]
    assert [len(batch) for batch in got] == {1: [1] * 6, 4: [4, 2], 100: [6]}[size]


@child(lane=LANES)
async def test_a_failure_overtakes_the_open_batch_in_keep_mode(lane: str) -> None:
    fn, options = failing(lane, 0, 6, 7, 13)
    got: list[list[int]] = []
    async with flow(range(14)).map(fn, concurrency=3, **options).batch(4).open(on_failure="keep") as items:
        assert await gather_from(items, got) is None
    assert got == [[1, 2, 3, 4], [5, 8, 9, 10], [11, 12]]
    assert items.report.failed == 4


@child(lane=LANES)
async def test_a_failed_batch_call_counts_its_items(lane: str) -> None:
    def saves(batch: list[int]) -> int:
        if 5 in batch:
            raise Boom
        return len(batch)

    async def saves_async(batch: list[int]) -> int:
        return saves(batch)

    options: dict[str, Any] = {} if lane == "coroutine" else {"on": lane}
    stage = flow(range(20)).batch(4).map(saves_async if lane == "coroutine" else saves, concurrency=2, **options)
    report = await stage.arun(on_failure="keep")
    assert (report.items, report.failed) == (4, 4)
    try:
        await stage.arun(max_failures=3)
    except TooManyFailures as error:
        assert isinstance(error.failures[0], Boom)
    else:
        raise AssertionError("4 failed items are more than 3")


@child
async def test_batches_larger_than_the_look_ahead_do_not_deadlock() -> None:
    batches = await flow(range(2_500)).map(nap, concurrency=5).batch(1_000).acollect()
    assert [len(batch) for batch in batches] == [1000, 1000, 500]
    sizes = await flow(range(2_500)).batch(1_000).map(len, concurrency=2).acollect()
    assert sizes == [1000, 1000, 500]
    nested = await flow(range(100)).map(nap, concurrency=1).batch(7).batch(5).flatten().flatten().acollect()
    assert nested == list(range(100))


@child
async def test_auto_batches_never_wait_to_fill_while_the_next_stage_is_idle() -> None:
    given: asyncio.Queue[int] = asyncio.Queue()

    async def source() -> Any:
        while True:
            yield await given.get()

    async def saves(batch: list[int]) -> list[int]:
        return batch

    async with flow(source).batch(AUTO).map(saves, concurrency=1).open() as items:
        for n in range(20):
            given.put_nowait(n)
            assert await asyncio.wait_for(anext(items), 1) == [n]


@child
async def test_linger_gives_an_unfinished_batch_in_time() -> None:
    given: asyncio.Queue[int] = asyncio.Queue()

    async def source() -> Any:
        while True:
            yield await given.get()

    async with flow(source).batch(10, linger_s=0.05).open() as items:
        for n in range(5):
            given.put_nowait(n)
            assert await asyncio.wait_for(anext(items), 1) == [n]


@child(lane=LANES, ordered=[True, False])
async def test_take_does_not_count_failures(lane: str, ordered: bool) -> None:
    fn, options = failing(lane, 0, 2, 3)
    got: list[Any] = []
    chain = flow(numbers()).map(fn, concurrency=2, ordered=ordered, **options).take(4)
    async with chain.open(on_failure="keep") as items:
        assert await gather_from(items, got) is None
    assert len(got) == 4
    assert not ordered or got == [1, 4, 5, 6]
    assert not set(got) & {0, 2, 3}


@child(lane=LANES, ordered=[True, False])
async def test_a_failure_before_item_n_is_raised_and_one_after_it_is_not(lane: str, ordered: bool) -> None:
    fn, options = failing(lane, 5)
    got: list[Any] = []
    error = await gather_from(flow(numbers()).map(fn, concurrency=2, ordered=ordered, **options).take(20), got)
    assert isinstance(error, Boom)
    assert not ordered or got == [0, 1, 2, 3, 4]
    got = await flow(numbers()).map(fn, concurrency=4, ordered=ordered, **options).take(5).acollect()
    assert sorted(got) == [0, 1, 2, 3, 4]


@child
async def test_take_ends_in_order_though_a_later_item_failed_first() -> None:
    """Not one to one, so items beyond the last one wanted are called, and one of those fails at once."""
    gate = asyncio.Event()

    async def fails_at_3(item: int) -> int:
        if item == 3:
            gate.set()
            raise Boom
        await gate.wait()
        await asyncio.sleep(0.01)
        return item

    async def is_wanted(item: int) -> bool:
        return True

    assert await flow(range(10)).map(fails_at_3, concurrency=8).filter(is_wanted).take(2).acollect() == [0, 1]


@child(ordered=[True, False])
async def test_failures_beyond_the_last_item_wanted_are_nobodys(ordered: bool) -> None:
    """A thread call cannot be cancelled: it fails later, but it was for an item that nobody wants any more."""
    calls = Calls()

    def fails_late(item: int) -> bool:
        with calls.one(item):
            if item >= 3:
                time.sleep(0.1)
                raise Boom(item)
            return True

    stage = flow(range(10)).filter(fails_late, on="thread", concurrency=4, ordered=ordered)
    assert sorted(await stage.take(3).acollect()) == [0, 1, 2]
    async with stage.open(on_failure="keep") as items:
        await anext(items)
    async with stage.catch(Boom).open() as items:
        await anext(items)
    assert calls.now == 0


@child(lane=LANES)
async def test_take_pulls_and_calls_no_more_than_is_wanted(lane: str) -> None:
    pulled: list[int] = []
    calls = Calls()

    def source() -> Any:
        for n in numbers():
            pulled.append(n)
            yield n

    def counts(item: int) -> int:
        with calls.one(item):
            return item

    async def counts_async(item: int) -> int:
        return counts(item)

    fn, options = (counts_async, {}) if lane == "coroutine" else (counts, {"on": lane})
    got = await flow(source).map(fn, concurrency=8, **options).map(nap).take(10).acollect()
    assert got == list(range(10))
    assert len(calls.started) == 10
    assert len(pulled) == 10


@child(at=[0, 1, 2])
async def test_a_flow_ends_with_item_n_without_asking_for_another(at: int) -> None:
    """The source would wait for ever for item n."""
    never = threading.Event()

    def source() -> Any:
        yield from range(at)
        never.wait(8)
        raise AssertionError("asked for one more")

    async def async_source() -> Any:
        for n in range(at):
            yield n
        await asyncio.sleep(60)

    for one in (source, async_source):
        assert await asyncio.wait_for(flow(one).map(nap, concurrency=4).take(at).acollect(), 2) == list(range(at))


@child
async def test_catch_with_stop_ends_the_flow_normally() -> None:
    calls = Calls()

    async def fails(item: int) -> int:
        with calls.one(item):
            await asyncio.sleep(0.001)
            if item == 20:
                raise Boom
            return item

    chain = flow(async_numbers).map(fails, concurrency=4).catch(Boom, stop=True).map(nap)
    assert await chain.acollect() == list(range(20))
    assert calls.now == 0


@child
async def test_streams_of_nothing_but_failures_end() -> None:
    async def fails(item: int) -> int:
        raise Boom(item)

    report = await flow(range(5_000)).map(fails, concurrency=10).arun(on_failure="keep")
    assert (report.items, report.failed) == (0, 5_000)
    assert await flow(range(5_000)).map(fails, concurrency=10).catch(Boom).acollect() == []
    assert await flow(range(3_000)).map(fails, concurrency=3).catch(Boom).map(nap).batch(4).acollect() == []
    assert await flow(range(3_000)).map(nap).filter(lambda item: False).map(nap).acollect() == []
    kept = await flow(range(300)).map(fails, concurrency=3, ordered=False).skip(2).take(3).acollect(on_failure="keep")
    assert kept == []
    async with flow(numbers()).map(fails, concurrency=3).open(max_failures=100) as items:
        error = await gather_from(items, [])
        assert isinstance(error, TooManyFailures)
        await wait_until(lambda: items.report.record.state == "failed")
