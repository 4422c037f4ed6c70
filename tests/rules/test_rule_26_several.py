"""Rule 26: flows are linear; `merge`, `concat` and `zip_` are sources, and so is a Flow."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest

from overlapped import UsageError
from overlapped.testing import virtual
from tests.rules.kit import (
    Calls,
    Pulled,
    aoutcome,
    arriving,
    cap,
    concat,
    flow,
    in_lane,
    merge,
    now_s,
    outcome,
    rest,
    same,
    timed,
    zip_,
)

# -- a flow is a source -----------------------------------------------------------------------------------------


def test_a_flow_is_a_source(lane, way, ordered):
    inner = flow(range(20)).map(in_lane(lane, same), on=lane, concurrency=3)
    outer = flow(inner).map(in_lane(lane, lambda n: n * 10), on=lane, ordered=ordered, concurrency=3)
    values, error = outcome(outer, way)
    assert error is None
    assert sorted(values) == [n * 10 for n in range(20)]


def test_flows_nest_deeply_and_run_again(way):
    chain = flow(range(5))
    for _ in range(20):
        chain = flow(chain).map(lambda n: n + 1, on="inline")
    for _ in range(2):
        assert outcome(chain, way) == ([20, 21, 22, 23, 24], None)


def test_resources_of_an_inner_flow_are_opened_and_closed(way):
    events: list[str] = []

    class Resource:
        def __init__(self):
            events.append("open")

        def close(self):
            events.append("close")

    inner = flow([1, 2]).map(lambda n, it: n).using(it=Resource)
    assert outcome(flow(inner).map(same), way) == ([1, 2], None)
    assert events == ["open", "close"]


# -- merge ------------------------------------------------------------------------------------------------------


def test_merge_gives_all_items_of_all_sources(source, way):
    chain = merge(Pulled(total=100).of(source), range(1000, 1100), flow(range(2000, 2100)).map(same))
    values, error = outcome(chain, way)
    assert error is None
    assert sorted(values) == [*range(100), *range(1000, 1100), *range(2000, 2100)]
    for begin in (0, 1000, 2000):  # each source's own order is kept
        mine = [n for n in values if begin <= n < begin + 100]
        assert mine == sorted(mine)


@virtual
async def test_merge_gives_items_as_they_come():
    one = arriving(1, 4, 5, then=lambda n: f"a{n}")
    two = arriving(2, 3, 6, then=lambda n: f"b{n}")
    assert await timed(merge(one, two)) == [("a0", 1), ("b0", 2), ("b1", 3), ("a1", 4), ("a2", 5), ("b2", 6)]


@virtual
async def test_in_a_merge_each_source_gets_its_turn():
    chain = merge(flow(range(10_000)), flow(range(10_000, 20_000))).map(Calls(service_s=0.01), concurrency=1).take(200)
    values = await chain.acollect()
    assert 50 <= sum(n >= 10_000 for n in values) <= 150


@virtual
async def test_a_slow_source_does_not_hold_up_a_merge():
    async def never():
        await asyncio.sleep(1e6)
        yield "late"

    chain = merge(never(), range(50)).take(50)
    assert await chain.acollect() == list(range(50))
    assert now_s() == 0.0


@virtual
async def test_the_stages_of_merged_flows_have_limits_of_their_own():
    one, two = Calls(service_s=1.0), Calls(service_s=1.0)
    chain = merge(flow(range(10)).map(one, concurrency=1), flow(range(10)).map(two, concurrency=5))
    assert len(await chain.acollect()) == 20
    assert (one.peak, two.peak) == (1, 5)
    assert now_s() == 10.0


# -- concat ---------------------------------------------------------------------------------------------------


def test_concat_gives_all_of_the_first_then_all_of_the_second(source, way):
    chain = concat(Pulled(total=100).of(source), [], range(1000, 1003), flow([7, 8]).map(same))
    assert outcome(chain, way) == ([*range(100), 1000, 1001, 1002, 7, 8], None)


@virtual
async def test_concat_begins_the_second_source_when_the_first_has_ended():
    second = Pulled(total=3)
    calls = Calls(service_s=1.0)
    chain = concat(flow(range(3)).map(calls, concurrency=1), second.of("async generator"))
    async with chain.open() as items:
        assert [await anext(items) for _ in range(2)] == [0, 1]
        assert second.began == 0
        assert [n async for n in items] == [2, 0, 1, 2]


def test_concat_does_not_begin_what_is_not_wanted(way):
    second = Pulled(total=3)
    assert outcome(concat(range(5), second.of("generator")).take(5), way) == ([0, 1, 2, 3, 4], None)
    assert second.began == 0


# -- zip_ ---------------------------------------------------------------------------------------------------------


def test_zip_gives_tuples_as_long_as_the_shortest(source, way):
    chain = zip_(Pulled(total=100).of(source), range(50), flow(range(70)).map(same))
    assert outcome(chain, way) == ([(n, n, n) for n in range(50)], None)


def test_zip_with_an_infinite_source_ends(way):
    pulled = Pulled()
    assert outcome(zip_(pulled.of("generator"), ["ab", "c"]), way) == ([(0, "ab"), (1, "c")], None)
    assert pulled.closed == 1


def test_zip_with_an_empty_source_is_empty(source, way):
    assert outcome(zip_(Pulled().of(source), []), way) == ([], None)


@virtual
async def test_a_row_leaves_when_all_of_it_is_there():
    assert await timed(zip_(arriving(1, 2), arriving(5, 6))) == [((0, 0), 5.0), ((1, 1), 6.0)]


@virtual
async def test_zip_keeps_rows_together_over_calls_that_end_out_of_turn():
    one, two = Calls(service_s=lambda n: (n * 7 % 5) / 10), Calls(service_s=lambda n: (n * 3 % 4) / 10)
    chain = zip_(flow(range(30)).map(one, concurrency=5), flow(range(30)).map(two, concurrency=5))
    assert await chain.acollect() == [(n, n) for n in range(30)]


# -- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [merge, concat])
@pytest.mark.parametrize("mode", ["raise", "keep", "catch"])
@virtual
async def test_a_failure_in_one_flow_of_several(several, mode):
    bad = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 1 else None)
    chain = several(flow(range(3)).map(bad, concurrency=1), range(10, 13))
    if mode == "catch":
        values, error = await aoutcome(chain.catch(ValueError, replace=-1))
        assert (sorted(values), error) == ([-1, 0, 2, 10, 11, 12], None)
    elif mode == "keep":
        values, error = await aoutcome(chain, on_failure="keep")
        assert (sorted(values), error) == ([0, 2, 10, 11, 12], None)
    else:
        values, error = await aoutcome(chain)
        assert repr(error) == "ValueError(1)"
        assert 0 in values


@virtual
async def test_a_failure_stands_for_its_whole_row_of_a_zip():
    bad = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 1 else None)
    chain = zip_(flow(range(3)).map(bad), range(10, 13))
    assert await chain.catch(ValueError, replace="failed").acollect() == [(0, 10), "failed", (2, 12)]
    values, error = await aoutcome(chain)
    assert (values, repr(error)) == ([(0, 10)], "ValueError(1)")


async def idle(*first):
    """These items at once, then nothing for very long."""
    for item in first:
        yield item
    await asyncio.sleep(1e6)
    yield "late"


async def broken_after(*first):
    for item in first:
        yield item
    raise KeyError("broken")


@pytest.mark.parametrize("bad_first", [True, False])
@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("mode", ["raise", "keep"])
@virtual
async def test_a_dead_source_of_a_zip_is_told_at_once_after_the_rows_that_were_complete(bad_first, rows, mode):
    pair = (broken_after(*range(rows)), idle(*range(rows)))
    values, error = await aoutcome(zip_(*(pair if bad_first else pair[::-1])), on_failure=mode)
    assert (values, repr(error)) == ([(n, n) for n in range(rows)], "KeyError('broken')")
    assert now_s() == 0.0


@virtual
async def test_a_failure_in_a_zip_does_not_wait_for_the_rest_of_its_row():
    bad = flow([0, 1]).map(Calls(service_s=1.0, fails=lambda n, _: ValueError(n) if n == 1 else None))
    values, error = await aoutcome(zip_(bad, idle(10)))
    assert (values, repr(error), now_s()) == ([(0, 10)], "ValueError(1)", 1.0)
    assert await zip_(idle(10), bad).catch(ValueError, stop=True).acollect() == [(10, 0)]
    assert now_s() == 2.0


@virtual
async def test_a_failure_that_did_not_wait_still_stands_for_its_whole_row():
    bad = flow(range(4)).map(Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n in (0, 2) else None))
    chain = zip_(bad, arriving(1, 2, 3, 4), arriving(5, 5, 5, 9)).catch(ValueError, replace="failed")
    assert await timed(chain) == [("failed", 0.1), ((1, 1, 1), 5.0), ("failed", 5.0), ((3, 3, 3), 9.0)]


@virtual
async def test_a_zip_runs_no_more_than_one_failure_ahead_of_its_slowest_source():
    bad = Calls(service_s=0.1, fails=lambda n, _: ValueError(n))
    async with zip_(flow(range(1000)).map(bad, concurrency=1), idle()).open(on_failure="keep") as items:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(items), 1e5)
        assert items.stats().failed == 1
    assert len(bad.started) <= cap(1) + 1


@virtual
async def test_a_dead_source_of_a_zip_is_told_though_its_row_has_failed_already():
    bad = flow(range(3)).map(Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 1 else None))
    for chain in (zip_(bad, broken_after(0)), zip_(bad, broken_after(0), idle(0))):
        values, error = await aoutcome(chain, on_failure="keep")
        assert (len(values), repr(error)) == (1, "KeyError('broken')")
    assert now_s() < 1.0


@virtual
async def test_a_failure_beyond_the_shortest_source_of_a_zip_is_none_of_it():
    bad = flow(range(3)).map(Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 2 else None))
    assert await zip_([0, 1], bad).acollect() == [(0, 0), (1, 1)]


@virtual
async def test_a_catch_of_the_inner_flow_is_enough():
    bad = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 1 else None)
    chain = merge(flow(range(3)).map(bad).catch(ValueError, replace=-1), [10])
    assert sorted(await chain.acollect()) == [-1, 0, 2, 10]


@virtual
async def test_a_failure_cancels_the_calls_of_the_other_flows():
    bad = Calls(service_s=1.0, fails=lambda n, _: ValueError(n))
    other = Calls(service_s=1000.0)
    _, error = await aoutcome(merge(flow(range(3)).map(bad), flow(range(3)).map(other)))
    assert type(error) is ValueError
    assert now_s() == 1.0
    assert len(other.cancelled) == len(other.started)


# -- ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [merge, concat, zip_])
def test_take_of_several_closes_all_that_began(several, way):
    sources = [Pulled(), Pulled()]
    chain = several(*(s.of("generator") for s in sources)).take(3)
    values, error = outcome(chain, way)
    assert (len(values), error) == (3, None)
    assert [s.closed for s in sources] == [s.began for s in sources]


@pytest.mark.parametrize("several", [merge, concat, zip_])
def test_break_of_several_closes_all_that_began(several):
    sources = [Pulled(), Pulled()]
    with several(*(flow(s.of("generator")).map(same) for s in sources)).open() as items:
        next(items)
    assert [s.closed for s in sources] == [s.began for s in sources]


@pytest.mark.parametrize("several", [merge, concat, zip_])
def test_several_may_be_nested_and_run_again(several, way):
    chain = several(several(range(3), range(3)), range(6))
    first, error = outcome(chain, way)
    assert error is None
    assert len(first) == (3 if several is zip_ else 12)
    assert outcome(chain, way)[0] == first or several is merge


def test_a_concat_may_grow_by_one_flow_after_the_other(way):
    chain = functools.reduce(concat, [flow([n]).map(same, on="inline") for n in range(400)])
    for _ in range(2):
        assert outcome(chain, way) == (list(range(400)), None)


@pytest.mark.parametrize("several", [merge, zip_, lambda *flows: concat(*flows).map(same)])
def test_several_nested_too_deep_are_refused_when_written(several, way):
    deep = functools.reduce(several, [flow([n]) for n in range(101)])
    assert outcome(deep, way)[1] is None
    with pytest.raises(UsageError, match=r"write (merge|zip_|concat)\(\*flows\)"):
        several(deep, [1])


@pytest.mark.parametrize("several", [merge, concat, zip_])
def test_the_look_ahead_of_several_is_bounded(several, limit):
    pulled = [Pulled(), Pulled()]
    may_go_on = threading.Event()
    chain = several(*(p.of("generator") for p in pulled)).map(same, concurrency=limit)
    with chain.open() as items:
        next(items)
        total = rest(lambda: pulled[0].count + pulled[1].count, 0.03)
        assert total <= 2 * (cap(limit) + 1)
        may_go_on.set()


# -- use ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [merge, concat, zip_])
def test_bad_use_is_refused_when_written(several):
    with pytest.raises(UsageError, match="at least one source"):
        several()
    for bad in ("text", 5, None):
        with pytest.raises(UsageError):
            several([1], bad)


@pytest.mark.parametrize("several", [merge, concat, zip_])
def test_one_source_is_fine(several, way):
    values, error = outcome(several(range(3)), way)
    assert (values, error) == ([(0,), (1,), (2,)] if several is zip_ else [0, 1, 2], None)


def test_there_is_no_broadcast_and_there_are_no_windows():
    names = set(dir(flow([1])))
    assert names.isdisjoint({"broadcast", "tee", "window", "split", "group_by"})
