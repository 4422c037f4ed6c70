"""Rule 20: every iteration is a new run with its own resources, generators, buckets and controllers."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading

import pytest

from overlapped import AUTO, Rate, Retry, UsageError
from overlapped.testing import virtual
from tests.rules.kit import Calls, Limits, Pulled, aoutcome, flow, in_lane, merge, now_s, outcome, same


def test_a_flow_may_be_run_again_and_again(way):
    chain = flow(range(5)).map(same).filter(lambda n: n % 2 == 0).batch(2).flatten()
    for _ in range(3):
        assert outcome(chain, way) == ([0, 2, 4], None)
    assert chain.collect() == [0, 2, 4]
    assert chain.run().items == 3


def test_a_flow_is_immutable_and_every_method_gives_a_new_one():
    start = flow(range(3))
    mapped = start.map(str)
    filtered = start.filter(bool)
    assert (start.collect(), mapped.collect(), filtered.collect()) == ([0, 1, 2], ["0", "1", "2"], [1, 2])
    for verb in ("map", "filter", "tap"):
        assert getattr(start, verb)(same) is not start
    assert start.take(1) is not start


def test_describing_a_flow_starts_nothing():
    pulled = Pulled()
    made = []
    before = threading.active_count()
    spec = Limits(3)
    chain = flow(pulled.of("generator")).map(same, concurrency=spec).batch().using(it=lambda: made.append(1))
    repr(chain)
    assert (pulled.began, made, spec.made) == (0, [], [])
    assert threading.active_count() == before


def test_every_run_has_its_own_controller(way):
    spec = Limits(2)
    chain = flow(range(4)).map(in_lane("thread", same, 0.001), concurrency=spec)
    for run in range(1, 4):
        outcome(chain, way)
        assert len(spec.made) == run
    assert all(len(c.samples) == 4 for c in spec.made)


@virtual
async def test_runs_of_one_flow_at_the_same_time_do_not_mix():
    calls = Calls(service_s=1.0)
    chain = flow(range(10)).map(calls, concurrency=5)
    results = await asyncio.gather(*(chain.acollect() for _ in range(3)))
    assert results == [list(range(10))] * 3
    assert now_s() == 2.0
    assert calls.peak == 15  # each run has a limit of its own


@virtual
async def test_a_failed_run_does_not_spoil_the_next_one():
    fails = {"left": 1}

    async def fn(n):
        if n == 2 and fails["left"]:
            fails["left"] -= 1
            raise ValueError(n)
        return n

    chain = flow(range(5)).map(fn)
    values, error = await aoutcome(chain)
    assert (values, type(error)) == ([0, 1], ValueError)
    assert await aoutcome(chain) == (list(range(5)), None)


@virtual
async def test_a_run_that_was_broken_off_does_not_spoil_the_next_one():
    calls = Calls(service_s=1.0)
    chain = flow(range(100)).map(calls, concurrency=5)
    async with chain.open() as items:
        await anext(items)
    assert await chain.take(3).acollect() == [0, 1, 2]


def test_options_are_values_that_may_be_shared():
    retry, rate = Retry(attempts=2, base_s=0.0), Rate(10_000, burst=100)
    chain = flow(range(3)).map(same, retry=retry, rate=rate).map(same, retry=retry, rate=rate)
    for _ in range(2):
        assert chain.collect() == [0, 1, 2]


def test_a_flow_that_has_run_can_be_pickled_and_copied_as_one_that_has_not():
    chain = merge(flow(range(3)).map(abs), make_items)
    for _ in range(2):
        pickled = pickle.loads(pickle.dumps(chain))  # noqa: S301 - made in this line
        for copied in (pickled, copy.copy(chain), copy.deepcopy(chain)):
            assert sorted(copied.collect()) == sorted(chain.collect()) == [0, 1, 2, 5]


def make_items():
    """A source."""
    return [5]


@pytest.mark.parametrize("concurrency", [0, -1, 2.5, True, "5", None, object(), Limits, int])
def test_a_bad_concurrency_is_refused_when_written(concurrency):
    with pytest.raises(UsageError, match="concurrency"):
        flow([1]).map(same, concurrency=concurrency)


def test_auto_is_the_default():
    assert "AUTO" in flow([1]).map(same).explain()
    assert flow([1]).map(same, concurrency=AUTO).collect() == [1]
    assert flow([1]).map(same, concurrency=AUTO(max=2)).collect() == [1]


@pytest.mark.parametrize("option", ["ordred", "workers", "timeout"])
def test_an_unknown_option_is_refused_with_the_one_that_was_meant(option):
    with pytest.raises(UsageError, match=option):
        flow([1]).map(same, **{option: 1})


@pytest.mark.parametrize("name", ["", 5])
def test_a_bad_name_is_refused_when_written(name):
    with pytest.raises(UsageError, match="name"):
        flow([1]).map(same, name=name)


@pytest.mark.parametrize("option", ["ordered", "retry"])
def test_options_of_the_wrong_type_are_refused_when_written(option):
    with pytest.raises(UsageError, match=option):
        flow([1]).map(same, **{option: 5})
