"""Rule 7: `take(n)` ends at item n without asking for another; what is not wanted is not pulled."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

from overlapped import Retry, UsageError
from overlapped.testing import virtual
from tests.rules.kit import LONG_S, Calls, Pulled, aoutcome, cap, fail_at, flow, in_lane, now_s, outcome, same, timed

# -- exactly n -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 30])
def test_take_pulls_exactly_n(n, source, way):
    pulled = Pulled()
    values, error = outcome(flow(pulled.of(source)).take(n), way)
    assert (values, error) == (list(range(n)), None)
    assert pulled.count == n


@pytest.mark.parametrize("n", [1, 3, 30])
def test_take_behind_calls_pulls_exactly_n(n, source, lane, way, ordered):
    pulled = Pulled()
    chain = flow(pulled.of(source)).map(in_lane(lane, same), on=lane, ordered=ordered, concurrency=5).take(n)
    values, error = outcome(chain, way)
    assert error is None
    assert sorted(values) == list(range(n))
    assert pulled.count == n


ONE_TO_ONE = {
    "map, tap": lambda f: f.map(_same).tap(_same),
    "catch with replace": lambda f: f.map(_same).catch(ValueError, replace=0),
    "transducer": lambda f: f.through(_echo),
    "skip 0": lambda f: f.skip(0),
    "a larger take": lambda f: f.take(100),
    "as completed": lambda f: f.map(_same, ordered=False).map(_same, ordered=False),
}


async def _same(n):
    await asyncio.sleep(0.01)
    return n


def _echo():
    item = None
    while True:
        item = yield item


@pytest.mark.parametrize("stages", ONE_TO_ONE)
@virtual
async def test_while_every_stage_is_one_to_one_only_what_is_wanted_is_pulled(stages):
    pulled = Pulled()
    values = await ONE_TO_ONE[stages](flow(pulled.of("async generator"))).take(7).acollect()
    assert sorted(values) == list(range(7))
    assert pulled.count == 7


@virtual
async def test_take_then_calls_pulls_exactly_n(ordered, limit):
    pulled = Pulled()
    calls = Calls(service_s=1.0)
    chain = flow(pulled.of("async generator")).take(7).map(calls, ordered=ordered, concurrency=limit)
    assert sorted(await chain.acollect()) == list(range(7))
    assert pulled.count == len(calls.started) == 7


@virtual
async def test_skip_then_take_pulls_their_sum():
    pulled = Pulled()
    assert await flow(pulled.of("async generator")).map(_same).skip(3).take(4).acollect() == [3, 4, 5, 6]
    assert pulled.count == 7


@virtual
async def test_take_of_batches_pulls_so_many_items():
    pulled = Pulled()
    chain = flow(pulled.of("async generator")).map(_same, concurrency=5).batch(3).take(2)
    assert await chain.acollect() == [[0, 1, 2], [3, 4, 5]]
    assert pulled.count == 6


@pytest.mark.parametrize(("first", "second"), [(3, 5), (5, 3), (4, 4)])
@virtual
async def test_of_two_takes_the_smaller_one_holds(first, second):
    pulled = Pulled()
    values = await flow(pulled.of("async generator")).take(first).map(_same).take(second).acollect()
    assert values == list(range(min(first, second)))
    assert pulled.count == min(first, second)


def test_take_more_than_there_is_gives_all(source, way):
    assert outcome(flow(Pulled(total=5).of(source)).take(10), way) == ([0, 1, 2, 3, 4], None)


@virtual
async def test_the_run_ends_with_item_n_and_not_later():
    async def source():
        yield 0
        yield 1
        await asyncio.sleep(1000)
        yield 2

    assert await timed(flow(source).take(2)) == [(0, 0.0), (1, 0.0)]
    assert now_s() == 0.0


@virtual
async def test_a_taken_source_is_closed_before_the_run_ends():
    pulled = Pulled()
    await flow(pulled.of("async generator")).take(2).acollect()
    assert pulled.closed == 1


def test_a_taken_generator_is_closed_before_the_run_ends(way):
    pulled = Pulled()
    outcome(flow(pulled.of("generator")).take(2), way)
    assert pulled.closed == 1


def test_an_infinite_iterable_inside_an_item_is_taken_lazily(way):
    assert outcome(flow([itertools.count()]).flatten().take(3), way) == ([0, 1, 2], None)


# -- nothing ------------------------------------------------------------------------------------------------


def test_take_0_opens_nothing(source, way):
    pulled = Pulled()
    opened = []
    chain = flow(pulled.of(source)).map(same).take(0).using(session=lambda: opened.append(1))
    assert outcome(chain, way) == ([], None)
    assert (pulled.began, pulled.count, opened) == (0, 0, [])


def test_take_0_does_not_call_the_source_function(way):
    made = []

    def source():
        made.append(1)
        return [1]

    assert outcome(flow(source).take(0), way) == ([], None)
    assert made == []


@pytest.mark.parametrize("n", [-1, 1.5, True, "2", None])
def test_a_bad_number_is_refused_when_written(n):
    for verb in ("take", "skip"):
        with pytest.raises(UsageError, match=verb):
            getattr(flow([1]), verb)(n)


# -- surplus ------------------------------------------------------------------------------------------------


@virtual
async def test_surplus_calls_are_cancelled_at_once(ordered):
    calls = Calls(service_s=lambda n: 1.0 if n < 2 else 1000.0)

    async def yes(n):
        return True

    # A filter may drop anything, so the stage before it may not know how much is wanted.
    chain = flow(range(100)).map(calls, concurrency=5, ordered=ordered).filter(yes).take(2)
    assert sorted(await chain.acollect()) == [0, 1]
    assert now_s() == 1.0
    assert calls.cancelled
    assert {at for _, at in calls.cancelled} == {1.0}
    assert calls.in_flight == 0


@virtual
async def test_take_as_completed_cancels_the_rest():
    calls = Calls(service_s=lambda n: [9.0, 1.0, 5.0, 2.0][n])
    chain = flow(range(4)).filter(calls, concurrency=4, ordered=False).take(2)
    assert await timed(chain) == [(1, 1.0), (3, 2.0)]
    assert now_s() == 2.0
    assert sorted(n for n, _ in calls.cancelled) == [0, 2]


def test_surplus_calls_in_threads_are_not_waited_for_by_the_results():
    may_end = threading.Event()

    def fn(n):
        if n == 2:
            assert may_end.wait(5)
        return True

    with flow(range(3)).filter(fn, on="thread", concurrency=3).take(2).open() as items:
        assert [next(items), next(items)] == [0, 1]
        may_end.set()


@pytest.mark.parametrize("wait_s", [0.5, 50.0])
def test_a_call_in_a_thread_that_fails_in_the_moment_of_item_n_is_not_tried_again(wait_s):
    is_out, has_raised = threading.Event(), threading.Event()

    def fn(n):
        if n == 1:
            assert is_out.wait(LONG_S)
            has_raised.set()
            raise ValueError(n)
        return True

    def hold():
        item = yield
        while True:
            is_out.set()
            assert has_raised.wait(LONG_S)
            time.sleep(0.05)  # its outcome has left the thread, most likely, but the loop cannot have seen it
            item = yield item

    retry = Retry(attempts=2, base_s=wait_s, jitter=False)
    chain = flow(range(2)).filter(fn, on="thread", concurrency=2, ordered=False, retry=retry).through(hold).take(1)
    report = chain.run()
    (stage,) = report.record.stages
    assert (report.items, report.record.failed) == (1, 0)
    assert (stage.in_flight, stage.parked, stage.retries, stage.calls) == (0, 0, 0, 2)


@virtual
async def test_a_failure_beyond_item_n_is_not_raised(limit):
    calls = Calls(service_s=lambda n: 5.0 if n == 1 else 1.0, fails=lambda n, _: ValueError(n) if n == 2 else None)

    async def yes(n):
        return True

    chain = flow(range(100)).map(calls, concurrency=limit).filter(yes).take(2)
    assert await aoutcome(chain) == ([0, 1], None)


# -- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["keep", "catch"])
@virtual
async def test_failures_are_not_counted_and_as_many_more_are_pulled(mode, ordered, limit):
    pulled = Pulled()
    calls = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n in (0, 2, 3) else None)
    chain = flow(pulled.of("async generator")).map(calls, concurrency=limit, ordered=ordered).take(3)
    if mode == "keep":
        values, error = await aoutcome(chain, on_failure="keep")
    else:
        values, error = await aoutcome(chain.catch(ValueError))
    assert error is None
    assert sorted(values) == [1, 4, 5]
    assert pulled.count == 6


def test_failures_are_not_counted_in_any_lane(lane, way, limit):
    pulled = Pulled()
    fn = in_lane(lane, fail_at(0, 2, 3))
    chain = flow(pulled.of("generator")).map(fn, on=lane, concurrency=limit).take(3)
    values, error = outcome(chain, way, on_failure="keep")
    assert (values, error) == ([1, 4, 5], None)
    assert pulled.count == 6


@virtual
async def test_in_raise_mode_a_failure_before_item_n_is_raised(ordered):
    calls = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 1 else None)
    values, error = await aoutcome(flow(range(10)).map(calls, concurrency=1, ordered=ordered).take(3))
    assert values == [0]
    assert error.args == (1,)


@virtual
async def test_take_behind_drops_pulls_until_it_has_n(ordered, limit):
    async def third(n):
        await asyncio.sleep(0.01)
        return n % 3 == 0

    pulled = Pulled()
    values = (
        await flow(pulled.of("async generator")).filter(third, concurrency=limit, ordered=ordered).take(4).acollect()
    )
    assert len(values) == 4
    assert all(n % 3 == 0 for n in values)
    assert pulled.count <= 9 + 1 + cap(limit)
    assert pulled.closed == 1


@virtual
async def test_many_failures_one_after_the_other_do_not_end_a_take(ordered, limit):
    calls = Calls(service_s=0.01, fails=lambda n, _: ValueError(n) if n < 300 else None)
    chain = flow(range(1000)).map(calls, concurrency=limit, ordered=ordered).take(2)
    values, error = await aoutcome(chain, on_failure="keep")
    assert (sorted(values), error) == ([300, 301], None)
