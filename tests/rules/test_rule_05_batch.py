"""Rule 5: `batch` emits exactly its size; AUTO never waits to fill while the next stage is idle."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import threading
import time
from typing import Any

import pytest

from overlapped import AUTO, Overloaded, UsageError
from overlapped.testing import virtual
from tests.rules.kit import (
    Calls,
    Pulled,
    aoutcome,
    arriving,
    concat,
    fail_at,
    flow,
    in_lane,
    now_s,
    outcome,
    same,
    timed,
)

# -- a size ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [sys.maxsize, sys.maxsize + 1, 10**30])
@pytest.mark.parametrize("on_failure", ["raise", "keep"])
def test_a_size_beyond_every_source_gives_all_items_in_one_batch(size, on_failure, source, way):
    chains = [flow(Pulled(total=3).of(source)).map(same), flow([[0, 1], [2]]).flatten()]
    for chain in chains:
        assert outcome(chain.batch(size), way, on_failure=on_failure) == ([[0, 1, 2]], None)
    assert outcome(flow(range(3)).batch(2).batch(size).take(1), way, on_failure=on_failure) == ([[[0, 1], [2]]], None)


@pytest.mark.parametrize("total", [0, 1, 4, 5, 6, 10, 11])
def test_every_batch_has_its_size_and_the_last_one_the_rest(total, source, way):
    values, error = outcome(flow(Pulled(total=total).of(source)).batch(5), way)
    assert error is None
    assert values == [list(range(total))[i : i + 5] for i in range(0, total, 5)]


def test_batches_behind_calls_in_every_lane(lane, way, limit):
    chain = flow(range(23)).map(in_lane(lane, same), on=lane, concurrency=limit).batch(5)
    values, error = outcome(chain.map(in_lane(lane, sum), on=lane, concurrency=limit), way)
    assert error is None
    assert values == [sum(range(23)[i : i + 5]) for i in range(0, 23, 5)]


@virtual
async def test_a_full_batch_is_emitted_as_soon_as_it_is_full():
    chain = flow(arriving(1, 2, 3, 4, 5)).batch(2)
    assert await timed(chain) == [([0, 1], 2.0), ([2, 3], 4.0), ([4], 5.0)]


@virtual
async def test_without_linger_an_unfinished_batch_waits_as_long_as_it_takes():
    assert await timed(flow(arriving(1, 1000)).batch(2)) == [([0, 1], 1000.0)]


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "10", None])
def test_a_bad_size_is_refused_when_written(size):
    with pytest.raises(UsageError, match=r"batch\(size\)"):
        flow([1]).batch(size)


@pytest.mark.parametrize("linger_s", [0, -1, float("nan"), float("inf"), "1", True, 10**400])
def test_a_bad_linger_is_refused_when_written(linger_s):
    with pytest.raises(UsageError, match=r"batch\(linger_s\)"):
        flow([1]).batch(10, linger_s=linger_s)


@pytest.mark.parametrize("size", [1000, AUTO])
def test_a_batch_larger_than_the_look_ahead_does_not_deadlock(size, lane, way, ordered):
    fn = in_lane(lane, same)
    chain = (
        flow(range(2500)).map(fn, on=lane, concurrency=5, ordered=ordered).batch(size).map(in_lane(lane, len), on=lane)
    )
    values, error = outcome(chain, way)
    assert error is None
    assert sum(values) == 2500
    if size == 1000:
        assert values == [1000, 1000, 500]


@virtual
async def test_the_open_batch_is_outside_the_look_ahead_of_the_stage_before(ordered):
    calls = Calls(service_s=0.01)
    chain = flow(range(500)).map(calls, concurrency=5, ordered=ordered).batch(500)
    ((batch, at),) = await timed(chain)
    assert sorted(batch) == list(range(500))
    assert at == pytest.approx(500 / 5 * 0.01)  # the five never waited for room


# -- linger -----------------------------------------------------------------------------------------------


@virtual
async def test_linger_emits_an_unfinished_batch_that_long_after_its_first_item():
    chain = flow(arriving(1, 2, 10, 11, 12, 20)).batch(3, linger_s=4)
    assert await timed(chain) == [([0, 1], 5.0), ([2, 3, 4], 12.0), ([5], 20.0)]


@virtual
async def test_linger_never_emits_an_empty_batch():
    chain = flow(arriving(1, 1, 50)).batch(2, linger_s=1)
    assert await timed(chain) == [([0, 1], 1.0), ([2], 50.0)]


@virtual
async def test_linger_starts_anew_with_every_batch():
    chain = flow(arriving(0, 3, 4, 6, 20)).batch(2, linger_s=4)
    assert await timed(chain) == [([0, 1], 3.0), ([2, 3], 6.0), ([4], 20.0)]


@virtual
async def test_linger_holds_while_the_next_stage_is_busy():
    calls = Calls(service_s=100.0)
    chain = flow(arriving(0, 1, 2, 3)).batch(10, linger_s=1.5).map(calls, concurrency=5)
    await chain.acollect()
    assert calls.started == [([0, 1], 1.5), ([2, 3], 3.0)]  # the last item ends the source


# -- AUTO -------------------------------------------------------------------------------------------------


@virtual
async def test_auto_never_waits_while_the_next_stage_is_idle():
    calls = Calls(service_s=0.5)
    await flow(arriving(1, 2, 3)).batch().map(calls, concurrency=1).acollect()
    assert calls.started == [([0], 1.0), ([1], 2.0), ([2], 3.0)]


@virtual
async def test_auto_gathers_what_queues_while_the_next_stage_is_busy():
    calls = Calls(service_s=1.0)
    every = [0.1 * n for n in range(31)]
    await flow(arriving(*every)).batch().map(calls, concurrency=1).acollect()
    sizes = [len(batch) for batch in calls.starts]
    assert sum(sizes) == 31
    assert sizes[0] == 1
    assert all(9 <= size <= 11 for size in sizes[1:-1])
    assert len(sizes) <= 5
    assert now_s() == pytest.approx(len(sizes) * 1.0)  # and it was never idle


@virtual
async def test_auto_gathers_while_all_slots_are_busy_and_no_longer():
    calls = Calls(service_s=1.0)
    await flow(arriving(0.0, 0.1, 0.2, 0.3, 0.4, 0.5)).batch().map(calls, concurrency=2).acollect()
    assert calls.started == [([0], 0.0), ([1], 0.1), ([2, 3, 4, 5], 1.0)]


def test_auto_gathers_while_threads_are_busy():
    may_end = threading.Event()
    all_sent = threading.Event()
    batches = []

    def source():
        for n in range(50):
            yield n
            time.sleep(0.0005)
        all_sent.set()

    def save(batch):
        batches.append(batch)
        if len(batches) == 1:
            assert all_sent.wait(5)
            time.sleep(0.05)  # all 50 are with the batch by then
        return len(batch)

    assert sum(flow(source).batch().map(save, on="thread", concurrency=1).collect()) == 50
    assert len(batches) == 2
    assert not may_end.is_set()


@pytest.mark.parametrize("between", ["take", "skip", "catch"])
@virtual
async def test_auto_listens_to_the_first_later_stage_that_makes_calls(between):
    calls = Calls(service_s=1.0)
    batches = flow(arriving(*[0.1 * n for n in range(20)])).batch()
    chain = {
        "take": lambda: batches.take(1000),
        "skip": lambda: batches.skip(0),
        "catch": lambda: batches.catch(ValueError),
    }[between]()
    await chain.map(calls, concurrency=1).acollect()
    assert len(calls.starts) <= 4
    assert len(calls.starts[1]) >= 9


@virtual
async def test_auto_without_a_later_stage_gives_what_has_queued():
    async with flow(arriving(*[0.1 * n for n in range(20)])).batch().open() as items:
        assert await anext(items) == [0]
        await asyncio.sleep(0.95)
        rest_ = [batch async for batch in items]
    assert list(itertools.chain(*rest_)) == list(range(1, 20))


def test_auto_without_a_later_stage_gives_at_most_1000():
    batches = flow(range(10_500)).batch().collect()
    assert list(itertools.chain(*batches)) == list(range(10_500))
    assert max(map(len, batches)) == 1000


@virtual
async def test_auto_gives_a_stage_as_many_as_pay():
    calls = Calls(service_s=1.0)
    await flow(range(5_000)).batch().map(calls, concurrency=1).acollect()
    sizes = [len(batch) for batch in calls.starts]
    assert sizes == sorted(sizes[:-1]) + sizes[-1:]  # it only grew, as a call takes a second with any size
    assert sizes[0] == 64
    assert len(sizes) <= 20


@virtual
async def test_auto_keeps_to_the_users_bound():
    calls = Calls(service_s=1.0)
    await flow(range(1_000)).batch(AUTO(max=50, start=5)).map(calls, concurrency=1).acollect()
    sizes = [len(batch) for batch in calls.starts]
    assert sizes[0] == 5
    assert max(sizes) == 50


@virtual
async def test_auto_gives_no_empty_batch():
    assert await flow([]).batch().acollect() == []
    assert await flow([]).batch().map(Calls()).acollect() == []


# -- failures -------------------------------------------------------------------------------------------------


def bad(*numbers: int) -> Calls:
    return Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n in numbers else None)


@pytest.mark.parametrize("size", [4, AUTO])
@virtual
async def test_in_raise_mode_a_failure_flushes_the_open_batch_before_it(size, limit):
    values, error = await aoutcome(flow(range(20)).map(bad(6), concurrency=limit).batch(size))
    assert list(itertools.chain(*values)) == [0, 1, 2, 3, 4, 5]
    assert size != 4 or values == [[0, 1, 2, 3], [4, 5]]
    assert error.args == (6,)


@virtual
async def test_in_raise_mode_the_flushed_batch_is_still_worked_on(limit):
    save = Calls(service_s=5.0)
    values, error = await aoutcome(flow(range(20)).map(bad(6), concurrency=limit).batch(4).map(save))
    assert values == [[0, 1, 2, 3], [4, 5]]
    assert error.args == (6,)


@virtual
async def test_in_keep_mode_a_failure_overtakes_the_open_batch(limit):
    chain = flow(range(10)).map(bad(6), concurrency=limit).batch(4)
    values, error = await aoutcome(chain, on_failure="keep")
    assert values == [[0, 1, 2, 3], [4, 5, 7, 8], [9]]
    assert error is None


def test_a_failing_source_flushes_the_open_batch_before_it(source, way):
    for mode in ("raise", "keep"):
        values, error = outcome(flow(Pulled(fails_at=6).of(source)).batch(4), way, on_failure=mode)
        assert values == [[0, 1, 2, 3], [4, 5]]
        assert type(error) is KeyError


FAULTS: list[Any] = [ValueError("x"), Overloaded(), OSError()]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@virtual
async def test_a_failed_batch_call_fails_in_its_place(fault, ordered, limit):
    save = Calls(service_s=0.1, fails=lambda batch, _: fault if 5 in batch else None)
    chain = flow(range(12)).batch(4).map(save, ordered=ordered, concurrency=limit)
    values, error = await aoutcome(chain)
    assert error is fault
    if ordered or limit == 1:
        assert values == [[0, 1, 2, 3]]
    values, error = await aoutcome(chain, on_failure="keep")
    assert (sorted(values), error) == ([[0, 1, 2, 3], [8, 9, 10, 11]], None)


# -- flatten ----------------------------------------------------------------------------------------------


def test_flatten_undoes_batch(source, way):
    values, error = outcome(flow(Pulled(total=23).of(source)).batch(5).flatten(), way)
    assert (values, error) == (list(range(23)), None)


@pytest.mark.parametrize("inner", [[1, 2], (1, 2), {1: 0, 2: 0}, iter([1, 2]), range(1, 3), (n for n in (1, 2))])
def test_flatten_takes_every_iterable(inner):
    assert flow([inner]).flatten().collect() == [1, 2]


@pytest.mark.parametrize("item", [1, None, "text", b"bytes"])
def test_what_cannot_be_flattened_is_that_items_failure(item):
    values, error = outcome(flow([[1], item, [2]]).flatten())
    assert values == [1]
    assert type(error) is TypeError
    assert flow([[1], item, [2]]).flatten().collect(on_failure="keep") == [1, 2]


def test_an_iterable_that_fails_half_way_keeps_what_it_gave(way):
    def half():
        yield 1
        raise ValueError("half")

    values, error = outcome(flow([[0], half(), [2]]).flatten(), way)
    assert values == [0, 1]
    assert type(error) is ValueError
    assert flow(lambda: iter([[0], half(), [2]])).flatten().collect(on_failure="keep") == [0, 1, 2]


def test_empty_lists_flatten_to_nothing(way):
    values, error = outcome(flow([[] for _ in range(10_000)] + [[1]]).flatten(), way)
    assert (values, error) == ([1], None)


@pytest.mark.parametrize("ending", ["take", "through", "failure", "inner take"])
def test_the_generator_that_flatten_is_in_is_closed_when_the_flow_ends_early(ending, way):
    pulled = [Pulled(), Pulled()]
    chain = flow([p.of("generator") for p in pulled]).flatten()
    gc.disable()  # a cycle collection would close it as well, some time
    try:
        if ending == "take":
            assert outcome(chain.take(3), way) == ([0, 1, 2], None)
        elif ending == "through":
            assert outcome(chain.map(same, on="inline").through(first_two), way) == ([0, 1], None)
        elif ending == "failure":
            assert type(outcome(chain.map(fail_at(3), on="inline"), way)[1]) is ValueError
        else:  # long before the run ends
            closed = flow(lambda: [pulled[0].closed])
            assert outcome(concat(chain.take(3), closed), way) == ([0, 1, 2, 1], None)
        assert [(p.began, p.closed) for p in pulled] == [(1, 1), (0, 0)]
    finally:
        gc.enable()


def first_two(items):
    yield from itertools.islice(items, 2)


def test_an_error_while_that_generator_is_closed_is_raised_at_the_end(way):
    def lines():
        try:
            yield from range(5)
        finally:
            raise OSError("close")

    values, error = outcome(flow([lines()]).flatten().take(2), way)
    assert (values, repr(error)) == ([0, 1], "OSError('close')")


def test_an_item_that_flatten_did_not_make_is_not_closed(tmp_path, way):
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    with open(path) as lines:
        assert outcome(flow([lines]).flatten().take(1), way) == (["a\n"], None)
        assert lines.readline() == "b\n"
