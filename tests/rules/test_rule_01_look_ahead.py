"""Rule 1: order of results; a bounded look-ahead; a stopped consumer stops the source."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from overlapped import AUTO, Flow
from overlapped.testing import Gauge, virtual
from tests.rules.kit import (
    LONG_S,
    Calls,
    Limits,
    Pulled,
    cap,
    flow,
    in_lane,
    merge,
    now_s,
    outcome,
    rest,
    same,
    settle,
    timed,
    wait_until,
    zip_,
)

# -- order ----------------------------------------------------------------------------------------------


def test_ordered_results_leave_in_the_order_of_their_items(lane, way, limit):
    fn = in_lane(lane, same, lambda n: 0.004 * (3 - n % 4))
    values, error = outcome(flow(range(20)).map(fn, on=lane, concurrency=limit), way)
    assert error is None
    assert values == list(range(20))


def test_order_is_the_default():
    async def fn(n):
        await asyncio.sleep(0.01 * (5 - n))
        return n

    assert flow(range(5)).map(fn, concurrency=5).collect() == [0, 1, 2, 3, 4]


@virtual
async def test_an_ordered_result_leaves_as_soon_as_those_before_it_have_left():
    calls = Calls(service_s=lambda n: [5.0, 1.0, 7.0, 2.0][n])
    assert await timed(flow(range(4)).map(calls, concurrency=4)) == [(0, 5.0), (1, 5.0), (2, 7.0), (3, 7.0)]


@virtual
async def test_results_leave_as_completed_at_the_time_they_are_completed():
    calls = Calls(service_s=lambda n: [5.0, 1.0, 7.0, 2.0][n])
    results = await timed(flow(range(4)).map(calls, concurrency=4, ordered=False))
    assert results == [(1, 1.0), (3, 2.0), (0, 5.0), (2, 7.0)]


def test_as_completed_a_result_does_not_wait_for_a_slower_item_before_it(way):
    may_end = threading.Event()

    def fn(n):
        if n == 0:
            assert may_end.wait(5)
        return n

    values = []
    with flow(range(6)).map(fn, on="thread", concurrency=2, ordered=False).open() as items:
        for value in items:
            values.append(value)
            if len(values) == 5:
                may_end.set()
    assert values == [1, 2, 3, 4, 5, 0]


@virtual
async def test_as_completed_nothing_is_lost_or_doubled(limit):
    calls = Calls(service_s=lambda n: (n * 7 % 5) / 10)
    values = await flow(range(60)).map(calls, concurrency=limit, ordered=False).acollect()
    assert sorted(values) == list(range(60))
    assert sorted(calls.starts) == list(range(60))


# -- the limit ------------------------------------------------------------------------------------------


@virtual
async def test_exactly_limit_calls_are_in_flight_while_there_are_items(ordered, limit):
    calls = Calls(service_s=1.0)
    await flow(range(20)).map(calls, concurrency=limit, ordered=ordered).acollect()
    assert calls.peak == limit
    assert now_s() == 20 / limit  # a slot is never left empty
    assert calls.starts == list(range(20))


def test_never_more_than_limit_calls_are_in_flight(lane, ordered, limit):
    gauge = Gauge()
    all_at_once = threading.Barrier(limit)  # without it, a loaded machine may never have so many threads awake

    def enter(n):
        with gauge:
            if lane == "thread":
                all_at_once.wait(LONG_S)
            time.sleep(0.002)
            return n

    async def aenter(n):
        with gauge:
            await asyncio.sleep(0.002)
            return n

    fn = aenter if lane == "coroutine" else enter
    values, error = outcome(flow(range(20)).map(fn, on=lane, concurrency=limit, ordered=ordered))
    assert error is None
    assert sorted(values) == list(range(20))
    assert gauge.total == 20
    assert gauge.peak == (1 if lane == "inline" else limit)


# -- the look-ahead ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "async generator"])
@virtual
async def test_a_stage_pulls_at_most_4_limit_16_beyond_what_was_delivered(source, ordered, limit):
    pulled = Pulled(total=200)
    delivered = 0

    def check(n):
        assert pulled.count - delivered <= cap(limit)

    pulled.on_pull = check
    calls = Calls(service_s=lambda n: (n * 7 % 5) / 10)
    flow_ = flow(pulled.of(source)).map(calls, concurrency=limit, ordered=ordered)
    async with flow_.open() as items:
        async for _ in items:
            delivered += 1
            assert pulled.count - delivered < cap(limit)
            if delivered % 30 == 0:
                await asyncio.sleep(100)  # a stalled consumer
    assert delivered == pulled.count == 200


@pytest.mark.parametrize("source", ["file", "async generator"])
@virtual
async def test_a_stopped_consumer_stops_the_source(source, ordered, limit):
    pulled = Pulled()
    calls = Calls(service_s=1.0)
    async with flow(pulled.of(source)).map(calls, concurrency=limit, ordered=ordered).open() as items:
        await anext(items)
        await asyncio.sleep(1000)
        stopped_at = pulled.count
        assert stopped_at <= cap(limit) + 1
        await asyncio.sleep(1000)
        assert pulled.count == stopped_at
        assert items.stats().stages[0].ahead <= cap(limit)
        for _ in range(100):
            await anext(items)
        await asyncio.sleep(1000)
        assert 101 < pulled.count <= cap(limit) + 101


def test_a_stopped_consumer_stops_the_source_in_every_lane(source, lane, way, ordered, limit):
    pulled = Pulled()
    fn = in_lane(lane, same)
    described = flow(pulled.of(source)).map(fn, on=lane, concurrency=limit, ordered=ordered)
    if way == "for":
        with described.open() as items:
            next(items)
            assert rest(lambda: pulled.count, 0.02) <= cap(limit) + 1
        return

    async def main():
        async with described.open() as items:
            await anext(items)
            seen = -1
            while pulled.count != seen:
                seen = pulled.count
                await asyncio.sleep(0.02)
            assert pulled.count <= cap(limit) + 1

    asyncio.run(main())


@virtual
async def test_a_slow_head_stops_the_source_in_ordered_mode(limit):
    pulled = Pulled()
    calls = Calls(service_s=lambda n: 1000.0 if n == 0 else 0.1)
    async with flow(pulled.of("async generator")).map(calls, concurrency=limit).open() as items:
        waiting = asyncio.ensure_future(anext(items))
        await asyncio.sleep(999)
        assert pulled.count <= cap(limit)
        assert not waiting.done()
        assert await waiting == 0
        assert now_s() == 1000.0


@virtual
async def test_the_look_ahead_is_used_while_the_head_is_slow():
    calls = Calls(service_s=lambda n: 1000.0 if n == 0 else 0.1)
    async with flow(range(10_000)).map(calls, concurrency=2).open() as items:
        waiting = asyncio.ensure_future(anext(items))
        await asyncio.sleep(999)
        assert len(calls.started) == cap(2)
        assert await waiting == 0


@virtual
async def test_every_stage_of_a_chain_has_its_own_bound(ordered):
    pulled = Pulled()
    delivered = 0

    def check(n):
        assert pulled.count - delivered <= cap(1) + cap(5)

    pulled.on_pull = check
    first, second = Calls(service_s=0.1), Calls(service_s=0.1)
    chain = flow(pulled.of("async generator")).map(first, concurrency=1, ordered=ordered)
    async with chain.map(second, concurrency=5, ordered=ordered).open() as items:
        for _ in range(3):
            for _ in range(50):
                await anext(items)
                delivered += 1
            await asyncio.sleep(1000)


@virtual
async def test_dropped_items_do_not_fill_the_look_ahead(ordered, limit):
    async def even(n):
        await asyncio.sleep(0.001)
        return n >= 990

    values = await flow(range(1000)).filter(even, concurrency=limit, ordered=ordered).acollect()
    assert sorted(values) == list(range(990, 1000))


NO_CALLS: dict[str, Callable[[Flow[int]], Flow[Any]]] = {
    "nothing": lambda start: start,
    "take": lambda start: start.take(10**9),
    "skip": lambda start: start.skip(1),
    "batch": lambda start: start.batch(10),
    "batch of 1000": lambda start: start.batch(1000),
    "auto batch": lambda start: start.batch(),
    "catch": lambda start: start.catch(ValueError),
    "flatten": lambda start: start.batch(1).flatten(),
    "through": lambda start: start.through(_running_total),
    "through producer": lambda start: start.through(_each),
    "merge": lambda start: merge(start, [1]),
    "zip_": lambda start: zip_(start, itertools.count()),
}


def _each(items):
    yield from items


def _running_total():
    total = 0
    while True:
        total += yield total


@pytest.mark.parametrize("verb", NO_CALLS)
def test_a_stopped_consumer_stops_the_source_of_a_flow_that_makes_no_calls(verb, source):
    most = 50_000  # some bound, far below "as much as memory holds"
    pulled = Pulled(total=2 * most)
    with NO_CALLS[verb](flow(pulled.of(source))).open() as items:
        next(items)
        assert rest(lambda: pulled.count, 0.02) < most


def test_the_items_of_one_item_are_flattened_as_far_as_they_are_wanted():
    pulled = Pulled(total=100_000)
    with flow([pulled.items()]).flatten().open() as items:
        assert next(items) == 0
        assert rest(lambda: pulled.count, 0.02) < 50_000


# -- a limit that shrinks -----------------------------------------------------------------------------------


@virtual
async def test_a_shrunk_limit_evicts_nothing_and_holds_for_new_calls(ordered):
    calls = Calls(service_s=lambda n: 1.0 if n == 0 else 10.0)
    spec = Limits(5, 1)  # after the first finished call: 1
    in_flight_at_start = []

    async def fn(n):
        in_flight_at_start.append((n, calls.in_flight))
        return await calls(n)

    values = await flow(range(8)).map(fn, concurrency=spec, ordered=ordered).acollect()
    assert sorted(values) == list(range(8))
    assert calls.cancelled == []
    assert dict(in_flight_at_start)[4] == 4
    assert [others for n, others in in_flight_at_start if n > 4] == [0, 0, 0]  # one at a time from then on
    assert now_s() == 10.0 + 3 * 10.0


@virtual
async def test_a_shrunk_limit_keeps_the_finished_results_it_finds(ordered):
    calls = Calls(service_s=0.1)
    async with flow(range(100)).map(calls, concurrency=Limits(*[20] * 60, 1), ordered=ordered).open() as items:
        first = await anext(items)
        await asyncio.sleep(100)  # a stalled consumer, a look-ahead far above that of the new limit
        values = [first] + [item async for item in items]
    assert sorted(values) == list(range(100))
    assert sorted(calls.starts) == list(range(100))


@virtual
async def test_a_grown_limit_is_used_at_once(ordered):
    calls = Calls(service_s=1.0)
    await flow(range(11)).map(calls, concurrency=Limits(1, 10), ordered=ordered).acollect()
    assert now_s() == 2.0  # 1 call, then 10 at once
    assert calls.peak == 10


# -- bytes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, str])
@virtual
async def test_with_auto_untaken_bytes_and_str_stay_below_64_mib(kind, ordered):
    blob = kind(b"x" * (16 * 2**20), "ascii") if kind is str else b"x" * (16 * 2**20)
    calls = 0

    async def fn(n):
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.1)
        return blob

    most = AUTO(start=1, max=1)
    async with flow(range(100)).map(fn, concurrency=most, ordered=ordered).open() as items:
        for got in (1, 2, 3):
            await anext(items)
            await asyncio.sleep(100)
            assert calls - got <= 4, "64 MiB are 4 results of 16 MiB"


@virtual
async def test_with_auto_one_result_above_64_mib_is_allowed(ordered):
    blob = bytes(65 * 2**20)

    async def fn(n):
        await asyncio.sleep(0.1)
        return blob

    values = await flow(range(5)).map(fn, ordered=ordered).acollect()
    assert [len(v) for v in values] == [65 * 2**20] * 5


def test_with_auto_untaken_bytes_stay_bounded_in_threads():
    blob = bytes(16 * 2**20)
    gauge = Gauge()

    def fn(n):
        with gauge:
            return blob

    with flow(range(1000)).map(fn, on="thread", concurrency=AUTO(start=1, max=1)).open() as items:
        next(items)
        wait_until(lambda: gauge.total >= 4)
        assert rest(lambda: gauge.total) <= 1 + 4 + 1  # one taken, four untaken, one that had begun


@virtual
async def test_stages_tell_how_far_ahead_they_are(ordered, limit):
    calls = Calls(service_s=1.0)
    async with flow(range(1000)).map(calls, concurrency=limit, ordered=ordered).open() as items:
        await asyncio.sleep(0.5)
        await settle()
        (stage,) = items.stats().stages
        assert (stage.in_flight, stage.ahead, stage.items_in) == (limit, limit, limit)
        await asyncio.sleep(1000)
        (stage,) = items.stats().stages
        assert stage.in_flight == 0
        assert stage.ahead <= cap(limit)
        assert stage.ahead == len(calls.started)
