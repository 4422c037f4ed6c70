"""Rule 11: each attempt takes a rate token before its time-out clock starts; a Rate is one budget of a run."""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import time
from typing import Any

import pytest

from overlapped import Overloaded, Rate, Retry, UsageError
from overlapped.testing import virtual
from tests.rules.kit import Calls, Limits, aoutcome, arriving, flow, in_lane, merge, now_s, outcome, same


@virtual
async def test_calls_start_evenly_spaced(ordered, limit):
    calls = Calls(service_s=0.0)
    await flow(range(5)).map(calls, concurrency=limit, ordered=ordered, rate=Rate(4, per_s=1)).acollect()
    assert calls.started == [(0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)]


@virtual
async def test_burst_calls_may_start_at_once_after_a_quiet_time(limit):
    calls = Calls(service_s=0.0)
    rate = Rate(1, per_s=1, burst=3)
    await flow(arriving(*[0] * 5, 20, 20, 20, 20)).map(calls, concurrency=limit, rate=rate).acollect()
    assert [at for _, at in calls.started] == [0, 0, 0, 1, 2, 20, 20, 20, 21]


@virtual
async def test_slow_calls_overlap_under_a_rate():
    calls = Calls(service_s=10.0)
    await flow(range(4)).map(calls, concurrency=4, rate=Rate(1, per_s=1)).acollect()
    assert [at for _, at in calls.started] == [0, 1, 2, 3]
    assert now_s() == 13.0


@virtual
async def test_concurrency_and_rate_hold_both():
    calls = Calls(service_s=3.0)
    await flow(range(4)).map(calls, concurrency=2, rate=Rate(1, per_s=1)).acollect()
    assert [at for _, at in calls.started] == [0, 1, 3, 4]
    assert calls.peak == 2


@virtual
async def test_every_attempt_takes_a_token(ordered):
    calls = Calls(service_s=0.0, fails=lambda n, attempt: ValueError(n) if n == 0 and attempt < 3 else None)
    retry = Retry(attempts=3, base_s=0.0)
    await flow(range(2)).map(calls, concurrency=1, ordered=ordered, rate=Rate(1, per_s=1), retry=retry).acollect()
    assert calls.started == [(0, 0.0), (0, 1.0), (0, 2.0), (1, 3.0)]


@virtual
async def test_waiting_for_a_token_is_queueing_not_service(ordered):
    calls = Calls(service_s=0.25)
    chain = flow(range(5)).map(calls, concurrency=5, ordered=ordered, rate=Rate(1, per_s=1), timeout_s=0.5)
    report = await chain.arun()
    assert report.items == 5  # nobody ran into the time-out while waiting
    (stage,) = report.stages
    assert stage.service_s == pytest.approx(5 * 0.25)
    assert stage.timeouts == 0
    assert [at for _, at in calls.started] == [0, 1, 2, 3, 4]


@virtual
async def test_one_rate_in_two_stages_is_one_budget():
    first, second = Calls(service_s=0.0), Calls(service_s=0.0)
    rate = Rate(1, per_s=1)
    chain = flow(range(3)).map(first, rate=rate, concurrency=1).map(second, rate=rate, concurrency=1)
    assert await chain.acollect() == [0, 1, 2]
    starts = sorted(at for _, at in first.started + second.started)
    assert starts == [0, 1, 2, 3, 4, 5]


@virtual
async def test_two_rates_of_the_same_size_are_two_budgets():
    first, second = Calls(service_s=0.0), Calls(service_s=0.0)
    chain = flow(range(3)).map(first, rate=Rate(1), concurrency=1).map(second, rate=Rate(1), concurrency=1)
    await chain.acollect()
    assert [at for _, at in first.started] == [0, 1, 2]
    assert [at for _, at in second.started] == [0, 1, 2]


@virtual
async def test_the_flows_of_a_merge_share_a_rate_too():
    calls = Calls(service_s=0.0)
    rate = Rate(1, per_s=1)
    one, two = (flow(items).map(calls, rate=rate, concurrency=2) for items in (["a", "b"], ["c", "d"]))
    await merge(one, two).acollect()
    assert sorted(at for _, at in calls.started) == [0, 1, 2, 3]


@virtual
async def test_the_state_of_a_rate_lives_in_the_run():
    calls = Calls(service_s=0.0)
    chain = flow(range(3)).map(calls, rate=Rate(1, per_s=1, burst=2), concurrency=1)
    await chain.acollect()
    await chain.acollect()  # a second run starts with a full bucket
    assert [at for _, at in calls.started] == [0, 0, 1, 1, 1, 2]


@virtual
async def test_two_runs_at_once_have_a_budget_each():
    calls = Calls(service_s=0.0)
    chain = flow(range(3)).map(calls, rate=Rate(1, per_s=1), concurrency=1)
    await asyncio.gather(chain.acollect(), chain.acollect())
    assert sorted(at for _, at in calls.started) == [0, 0, 1, 1, 2, 2]


@virtual
async def test_a_weight_takes_as_many_tokens():
    calls = Calls(service_s=0.0)
    rate = Rate(1, per_s=1, weigh=lambda n: n)
    await flow([2, 1, 3, 1]).map(calls, rate=rate, concurrency=1).acollect()
    assert [at for _, at in calls.started] == [0, 2, 3, 6]


def test_a_bad_weight_is_that_items_failure(lane, ordered):
    chain = flow([1, -1, 2]).map(
        in_lane(lane, same), on=lane, ordered=ordered, rate=Rate(1000, burst=100, weigh=lambda n: n)
    )
    report = chain.run(on_failure="keep")
    assert report.items == 2
    (failure,) = report.failures
    assert (failure.item, type(failure.error)) == (-1, UsageError)


@pytest.mark.parametrize("given", [-1, math.nan, math.inf, None, "much", [], ZeroDivisionError()])
@pytest.mark.parametrize("where", ["rate", "per_key"])
def test_a_weight_that_makes_no_sense_or_raises_is_that_items_failure(lane, ordered, given, where):
    def weigh(n):
        if n != 2:
            return 1
        if isinstance(given, Exception):
            raise given
        return given

    rate = Rate(1000, burst=100 if where == "rate" else 1, weigh=weigh)
    limits = {"rate": rate} if where == "rate" else {"key": lambda n: 0, "per_key": rate}
    chain = flow([1, 2, 3]).map(in_lane(lane, same), on=lane, ordered=ordered, **limits)
    report = chain.run(on_failure="keep")
    assert report.items == 2
    (failure,) = report.failures
    assert failure.item == 2
    if isinstance(given, Exception):
        assert failure.error is given
    else:
        assert isinstance(failure.error, UsageError)
        assert "Rate(weigh)" in str(failure.error)


def test_no_token_is_used_early_where_timers_are(lane):
    """uvloop's timers start from the time of the loop's last turn, so they may fire early."""
    started: list[float] = []

    def fn(n):
        started.append(time.perf_counter())

    async def main():
        loop = asyncio.get_running_loop()
        on_time = loop.call_later

        def early(delay, *args, **kwargs):
            return on_time(max(0.0, delay - 0.004), *args, **kwargs)

        loop.call_later = early  # type: ignore[method-assign, assignment]  # the fault that is planted
        await flow(range(8)).map(in_lane(lane, fn), on=lane, concurrency=3, rate=Rate(100, per_s=1)).arun()

    before = time.perf_counter()
    asyncio.run(main())
    assert all(at_s - before >= n * 0.01 - 1e-5 for n, at_s in enumerate(sorted(started)))


def test_rates_hold_in_every_lane(lane, way, limit):
    started: list[float] = []

    def fn(n):
        started.append(time.perf_counter())
        return n

    chain = flow(range(6)).map(in_lane(lane, fn), on=lane, concurrency=limit, rate=Rate(50, per_s=1))
    before = time.perf_counter()
    values, error = outcome(chain, way)
    assert (values, error) == (list(range(6)), None)
    # A token may be used late, never early.
    assert all(at_s - before >= n * 0.02 for n, at_s in enumerate(sorted(started)))
    assert len(started) == 6


@virtual
async def test_a_pause_and_a_rate_hold_together(ordered, limit):
    """Who waits for a token when a pause begins does not start in it, and there is no burst after it."""

    def fails(n, attempt):
        return Overloaded(retry_after_s=2.5) if n == 1 and attempt == 1 else None

    calls = Calls(service_s=0.0, fails=fails)
    retry = Retry(attempts=2, base_s=0.0)
    chain = flow(range(6)).map(calls, concurrency=limit, ordered=ordered, rate=Rate(1, per_s=1), retry=retry)
    assert sorted(await chain.acollect()) == list(range(6))
    starts = [at for _, at in calls.started]
    assert [at for at in starts if 1.0 < at < 3.5] == []
    assert all(b - a >= 1 - 1e-6 for a, b in itertools.pairwise(starts))
    assert starts[-1] <= 9.0


@virtual
async def test_a_rate_and_a_failure_end_together(ordered):
    calls = Calls(service_s=0.25, fails=lambda n, _: ValueError(n) if n == 0 else None)
    _, error = await aoutcome(flow(range(50)).map(calls, concurrency=5, ordered=ordered, rate=Rate(1, per_s=1)))
    assert type(error) is ValueError
    assert calls.starts == [0]
    assert now_s() == 0.25


@pytest.mark.parametrize("rate", [5, "5/s", Rate])
def test_what_is_no_rate_is_refused_when_written(rate):
    with pytest.raises(UsageError, match="rate"):
        flow([1]).map(same, rate=rate)


def test_an_async_weigh_function_is_refused_when_written():
    async def weigh(item):
        return 1

    make: Any = Rate
    by_weight = functools.partial(make, 5, weigh=weigh)
    for options in ({"rate": by_weight()}, {"key": same, "per_key": by_weight()}):
        with pytest.raises(UsageError, match="weigh must be a plain function"):
            flow([1]).map(same, **options)


@virtual
async def test_who_waited_for_a_token_does_not_start_above_a_limit_lowered_meanwhile(ordered):
    calls = Calls(service_s=lambda n: 2.5 if n else 0.5)
    report = await flow(range(5)).map(calls, concurrency=Limits(3, 1), ordered=ordered, rate=Rate(1, per_s=1)).arun()
    # 1 and 2 wait when 0 has ended and the limit is 1.
    assert calls.started == [(0, 0.0), (1, 1.0), (2, 3.5), (3, 6.0), (4, 8.5)]
    assert report.items == 5


@virtual
async def test_who_waited_for_a_retry_does_not_start_above_a_limit_lowered_meanwhile(ordered):
    calls = Calls(
        service_s=lambda n: 3.0 if n == 1 else 0.5,
        fails=lambda n, attempt: ValueError(n) if n == 0 and attempt == 1 else None,
    )
    retry = Retry(attempts=2, base_s=1.0, jitter=False)
    await flow(range(4)).map(calls, concurrency=Limits(2, 1), ordered=ordered, retry=retry).acollect()
    # The first attempt of 0 lowers the limit; its second one is due at 1.5 s, while 1 runs.
    assert calls.started == [(0, 0.0), (1, 0.0), (0, 3.0), (2, 3.5), (3, 4.0)]


@virtual
async def test_a_token_that_could_not_be_used_in_time_is_not_used_beside_the_next_one(ordered):
    calls = Calls(service_s=lambda n: 2.5 if n == 1 else 0.0)
    chain = flow(range(6)).map(calls, concurrency=Limits(4, 1), ordered=ordered, rate=Rate(1, per_s=1))
    await chain.acollect()
    times = [at for _, at in calls.started]
    assert sorted(calls.starts) == [*range(6)]
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(times))


@pytest.mark.slow
def test_in_threads_too_such_a_token_is_not_used_beside_the_next_one(ordered):
    started = []

    def call(n):
        started.append(time.perf_counter())
        time.sleep(0.12 if n == 1 else 0.0)

    flow(range(6)).map(call, on="thread", concurrency=Limits(4, 1), ordered=ordered, rate=Rate(20, per_s=1)).collect()
    assert len(started) == 6
    assert all(later - earlier > 0.025 for earlier, later in itertools.pairwise(started))
