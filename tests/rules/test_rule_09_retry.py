"""Rule 9: a short retry keeps its slot, a longer one is parked; Retry-After stops all new starts."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import pytest

from overlapped import AUTO, Overloaded, Retry, UsageError
from overlapped.testing import virtual
from tests.rules.kit import Calls, Pulled, aoutcome, arriving, cap, fail_at, flow, in_lane, now_s, outcome


def once(*items: Any) -> Any:
    """The first attempt of these items fails."""
    return lambda item, attempt: ValueError(item) if item in items and attempt == 1 else None


def exactly(base_s: float, attempts: int = 2, **options: Any) -> Retry:
    """Retries without chance."""
    return Retry(attempts=attempts, base_s=base_s, jitter=False, **options)


# -- which calls, how often ---------------------------------------------------------------------------------


def test_a_failed_call_is_made_again_up_to_attempts_times(lane, way, ordered):
    tries: list[int] = []

    def fn(n):
        tries.append(n)
        raise ValueError(n)

    chain = flow([7]).map(in_lane(lane, fn), on=lane, ordered=ordered, retry=Retry(attempts=4, base_s=0.001))
    _, error = outcome(chain, way)
    assert repr(error) == "ValueError(7)"
    assert tries == [7] * 4
    assert error.report.failures[0].attempts == 4
    assert error.report.record.stages[0].retries == 3


def test_a_retried_item_keeps_its_place(lane, way, limit):
    failed: set[int] = set()
    lock = threading.Lock()

    def fn(n):
        with lock:
            if n % 3 == 0 and n not in failed:
                failed.add(n)
                raise ValueError(n)
        return n

    retry = Retry(attempts=2, base_s=0.002)
    values, error = outcome(flow(range(20)).map(in_lane(lane, fn), on=lane, concurrency=limit, retry=retry), way)
    assert (values, error) == (list(range(20)), None)


@virtual
async def test_only_the_named_exceptions_are_tried_again():
    calls = Calls(service_s=0.0, fails=lambda n, _: [ValueError("a"), KeyError("b")][n])
    chain = flow(range(2)).map(calls, retry=Retry(attempts=3, exceptions=KeyError, base_s=0.0))
    await aoutcome(chain, on_failure="keep")
    assert calls.starts.count(0) == 1
    assert calls.starts.count(1) == 3


@virtual
async def test_a_usage_error_is_never_tried_again():
    calls = Calls(service_s=0.0, fails=lambda n, _: UsageError("wrong"))
    await aoutcome(flow([1]).map(calls, retry=Retry(attempts=3, base_s=0.0)), on_failure="keep")
    assert len(calls.started) == 1


def test_a_retry_that_cannot_be_asked_is_that_items_failure(lane, ordered):
    class Meta(type):
        def __instancecheck__(cls, error):
            raise RuntimeError("not now")

    class Odd(Exception, metaclass=Meta):
        pass

    fn = in_lane(lane, fail_at(2))
    report = flow(range(5)).map(fn, on=lane, ordered=ordered, retry=Retry(exceptions=Odd)).run(on_failure="keep")
    assert (report.items, [type(failure.error) for failure in report.failures]) == (4, [ValueError])
    assert any("Retry(exceptions=...) raised RuntimeError" in note for note in report.failures[0].error.__notes__)


@virtual
async def test_waits_double_up_to_the_cap():
    calls = Calls(service_s=0.0, fails=lambda n, _: ValueError(n))
    await aoutcome(flow([7]).map(calls, retry=exactly(0.1, 6, cap_s=0.5)))
    assert calls.started_s(7) == pytest.approx([0.0, 0.1, 0.3, 0.7, 1.2, 1.7])


@virtual
async def test_with_jitter_waits_are_random_parts_of_that():
    waits = []
    for _ in range(20):
        calls = Calls(service_s=0.0, fails=once(7))
        before = now_s()
        await flow([7]).map(calls, retry=Retry(attempts=2, base_s=0.5)).acollect()
        waits.append(now_s() - before)
    assert all(0 <= wait <= 0.5 for wait in waits)
    assert len(set(waits)) > 10


# -- in its slot ------------------------------------------------------------------------------------------------


@virtual
async def test_a_retry_due_within_a_second_keeps_its_slot(ordered):
    calls = Calls(service_s=0.125, fails=once(0))
    await flow(range(2)).map(calls, concurrency=1, ordered=ordered, retry=exactly(1.0)).acollect()
    assert calls.started == [(0, 0.0), (0, 1.125), (1, 1.25)]


@virtual
async def test_a_retry_due_within_twice_the_mean_service_time_keeps_its_slot(ordered):
    calls = Calls(service_s=3.0, fails=once(0))
    await flow(range(2)).map(calls, concurrency=1, ordered=ordered, retry=exactly(5.0)).acollect()
    assert calls.started == [(0, 0.0), (0, 8.0), (1, 11.0)]


# -- parked -----------------------------------------------------------------------------------------------------


@virtual
async def test_a_longer_retry_is_parked_and_leaves_its_slot(ordered):
    calls = Calls(service_s=0.125, fails=once(0))
    await flow(range(4)).map(calls, concurrency=1, ordered=ordered, retry=exactly(5.0)).acollect()
    assert calls.started == [(0, 0.0), (1, 0.125), (2, 0.25), (3, 0.375), (0, 5.125)]


@virtual
async def test_a_parked_item_runs_before_any_new_one_when_it_is_due():
    calls = Calls(service_s=0.4, fails=once(0))
    chain = flow(range(30)).map(calls, concurrency=1, ordered=False, retry=exactly(5.0))
    await chain.acollect()
    assert calls.started_s(0) == pytest.approx([0.0, 5.6])  # due at 5.4, when the call that ran then had ended
    assert calls.peak == 1


@virtual
async def test_a_parked_head_runs_when_it_is_due_even_with_a_full_look_ahead(limit):
    pulled = Pulled()
    calls = Calls(service_s=0.1, fails=once(0))
    chain = flow(pulled.of("async generator")).map(calls, concurrency=limit, retry=exactly(50.0))
    async with chain.open() as items:
        first = asyncio.ensure_future(anext(items))
        await asyncio.sleep(49)
        assert pulled.count == cap(limit)  # parked, finished and running ones all count
        (stage,) = items.stats().stages
        assert (stage.parked, stage.in_flight, stage.ahead) == (1, 0, cap(limit))
        assert await first == 0
        assert now_s() == pytest.approx(50.2)


@virtual
async def test_a_parked_item_runs_even_if_all_workers_wait_for_the_source(ordered, limit):
    has_result = asyncio.Event()

    async def source():
        yield 0
        await has_result.wait()  # no item 1 before the result of item 0
        yield 1

    calls = Calls(service_s=0.1, fails=once(0))
    values = []
    async with flow(source).map(calls, concurrency=limit, ordered=ordered, retry=exactly(5.0)).open() as items:
        async for value in items:
            values.append(value)
            has_result.set()
    assert values == [0, 1]
    assert now_s() == pytest.approx(5.3)


@virtual
async def test_the_limit_holds_for_parked_items_that_become_due(ordered, limit):
    calls = Calls(service_s=0.1, fails=once(*range(20)))
    retry = exactly(5.0)
    values = await flow(range(20)).map(calls, concurrency=limit, ordered=ordered, retry=retry).acollect()
    assert sorted(values) == list(range(20))
    assert calls.peak == limit


@virtual
async def test_the_end_of_the_source_waits_for_parked_items(ordered):
    calls = Calls(service_s=0.1, fails=once(2))
    values = await flow(range(3)).map(calls, concurrency=5, ordered=ordered, retry=exactly(5.0)).acollect()
    assert sorted(values) == [0, 1, 2]


@virtual
async def test_a_failure_waits_for_a_parked_item_before_it():
    calls = Calls(service_s=0.1, fails=lambda n, attempt: once(0)(n, attempt) or (OSError(n) if n == 2 else None))
    chain = flow(range(9)).map(calls, concurrency=1, retry=exactly(5.0, exceptions=ValueError))
    values, error = await aoutcome(chain)
    assert (values, type(error)) == ([0, 1], OSError)
    assert calls.starts == [0, 1, 2, 0]  # nothing new once it was known


@virtual
async def test_a_parked_item_behind_a_failure_is_given_up():
    calls = Calls(service_s=0.1, fails=lambda n, _: ValueError(n) if n == 1 else OSError(n) if n == 2 else None)
    chain = flow(range(9)).map(calls, concurrency=1, retry=exactly(500.0, cap_s=500.0, exceptions=OSError))
    values, error = await aoutcome(chain)
    assert (values, type(error)) == ([0], ValueError)
    assert now_s() < 1


@pytest.mark.slow
def test_a_parked_head_in_the_thread_lane_runs_with_a_full_look_ahead():
    failed: list[int] = []

    def fn(n):
        if n == 0 and not failed:
            failed.append(n)
            raise ValueError(n)
        return n

    chain = flow(range(200)).map(fn, on="thread", concurrency=2, retry=exactly(1.1))
    assert chain.collect() == list(range(200))


# -- Retry-After ----------------------------------------------------------------------------------------------


class Busy(Exception):
    """As an HTTP client might raise it."""

    def __init__(self, retry_after_s):
        super().__init__("busy")
        self.retry_after_s = retry_after_s


def asks(seconds: Any, *items: Any, kind: Any = Overloaded) -> Any:
    """The first attempt of these items asks for a pause."""

    def fails(item, attempt):
        if item not in items or attempt > 1:
            return None
        return Busy(seconds) if kind is Busy else kind(retry_after_s=seconds)

    return fails


@pytest.mark.parametrize("kind", [Overloaded, Busy])
@virtual
async def test_retry_after_stops_all_new_starts_of_the_stage(kind, ordered, limit):
    calls = Calls(service_s=lambda n: 0.3 if n == 1 else 0.5, fails=asks(3.0, 1, kind=kind))
    retry = exactly(0.0)
    values = await flow(range(8)).map(calls, concurrency=limit, ordered=ordered, retry=retry).acollect()
    assert sorted(values) == list(range(8))
    asked_s = next(at for n, at in calls.ended if n == 1)
    assert [at for _, at in calls.started if asked_s < at < asked_s + 3.0] == []
    assert calls.started_s(1)[1] == pytest.approx(asked_s + 3.0)
    later = [at for _, at in calls.started if at > asked_s]
    assert min(later) == pytest.approx(asked_s + 3.0)


@virtual
async def test_calls_in_flight_go_on_during_a_pause(ordered):
    calls = Calls(service_s=lambda n: 0.25 if n == 1 else 1.0, fails=asks(10.0, 1))
    await flow(range(3)).map(calls, concurrency=3, ordered=ordered, retry=exactly(0.0)).acollect()
    assert [(n, at) for n, at in calls.ended if n != 1] == [(0, 1.0), (2, 1.0)]
    assert calls.cancelled == []


@virtual
async def test_a_pause_holds_even_if_the_item_is_not_tried_again(ordered):
    calls = Calls(service_s=0.5, fails=asks(3.0, 0))
    chain = flow(range(2)).map(calls, concurrency=1, ordered=ordered)
    await aoutcome(chain, on_failure="keep")
    assert calls.started == [(0, 0.0), (1, 3.5)]


@virtual
async def test_a_generator_that_had_yielded_pauses_its_stage_too(ordered):
    started = []

    async def fn(n):
        started.append((n, now_s()))
        yield n
        await asyncio.sleep(0.5)
        if n == 0:
            raise Overloaded(retry_after_s=3.0)

    chain = flow(range(2)).flat_map(fn, concurrency=1, ordered=ordered)
    assert await aoutcome(chain, on_failure="keep") == ([0, 1], None)
    assert started == [(0, 0.0), (1, 3.5)]


@virtual
async def test_other_stages_go_on_during_a_pause():
    first, second = Calls(service_s=0.1), Calls(service_s=0.1, fails=asks(100.0, 0))
    chain = flow(range(10)).map(first, concurrency=1).map(second, concurrency=1, retry=exactly(0.0))
    await chain.acollect()
    assert max(at for _, at in first.started) < 1.1


@virtual
async def test_a_longer_pause_extends_a_shorter_one_and_not_the_other_way_round():
    calls = Calls(
        service_s=lambda n: [0.25, 0.5, 0.75, 0.0][n],
        fails=lambda n, attempt: Overloaded(retry_after_s=[2.0, 5.0, 1.0][n]) if n < 3 and attempt == 1 else None,
    )
    source = arriving(0, 0, 0, 1)
    await flow(source).map(calls, concurrency=4, retry=exactly(0.0)).acollect()
    assert calls.started_s(3) == [5.5]


@virtual
async def test_a_retry_in_its_slot_waits_for_the_end_of_a_pause():
    calls = Calls(
        service_s=lambda n: [0.25, 0.5][n],
        fails=lambda n, attempt: None if attempt > 1 else [ValueError(0), Overloaded(retry_after_s=3.0)][n],
    )
    await flow(range(2)).map(calls, concurrency=2, retry=exactly(0.5)).acollect()
    assert calls.started_s(0) == [0.0, 3.5]  # due at 0.75, but the stage pauses


@pytest.mark.parametrize(
    ("seconds", "allowed"), [(299.0, True), (300.0, True), (301.0, False), (math.inf, False), (1e10, False)]
)
@virtual
async def test_retry_after_beyond_five_minutes_is_a_failure(seconds, allowed):
    calls = Calls(service_s=0.25, fails=asks(seconds, 0))
    values, error = await aoutcome(flow([0]).map(calls, retry=exactly(0.0, 5)))
    if allowed:
        assert (values, error) == ([0], None)
        assert calls.started_s(0) == [0.0, 0.25 + seconds]
    else:
        assert type(error) is Overloaded
        assert calls.started == [(0, 0.0)]
        assert now_s() == 0.25


@virtual
async def test_a_pause_beyond_the_cap_pauses_nobody(ordered):
    calls = Calls(service_s=0.5, fails=asks(1e6, 0))
    await aoutcome(flow(range(3)).map(calls, concurrency=1, ordered=ordered), on_failure="keep")
    assert [at for _, at in calls.started] == [0.0, 0.5, 1.0]


@virtual
async def test_the_cap_can_be_set():
    calls = Calls(service_s=0.0, fails=asks(11.0, 0))
    _, error = await aoutcome(flow([0]).map(calls, retry=exactly(0.0, retry_after_cap_s=10.0)))
    assert type(error) is Overloaded
    calls = Calls(service_s=0.0, fails=asks(11.0, 0))
    assert await flow([0]).map(calls, retry=exactly(0.0, retry_after_cap_s=12.0)).acollect() == [0]


@pytest.mark.parametrize("nonsense", [-1, math.nan, "5", None, True, [], 0])
@virtual
async def test_a_retry_after_that_makes_no_sense_is_no_pause(nonsense):
    calls = Calls(service_s=0.5, fails=asks(nonsense, 0, kind=Busy))
    assert await flow(range(2)).map(calls, concurrency=1, retry=exactly(0.25)).acollect() == [0, 1]
    assert [at for _, at in calls.started] == [0.0, 0.75, 1.25]


@virtual
async def test_the_back_off_holds_if_it_is_longer_than_what_was_asked_for():
    calls = Calls(service_s=0.0, fails=asks(0.25, 0))
    await flow([0]).map(calls, retry=exactly(0.5)).acollect()
    assert calls.started_s(0) == [0.0, 0.5]


def test_retry_after_stops_calls_that_wait_for_a_thread(lane):
    started: list[tuple[int, float]] = []

    def fn(n):
        started.append((n, time.perf_counter()))
        if n == 0:
            raise Overloaded(retry_after_s=0.15)
        if lane != "coroutine":
            time.sleep(0.005)  # the loop hears of item 0 meanwhile
        return n

    options = {"on": lane, "concurrency": 1 if lane == "inline" else 2}
    flow(range(20)).map(in_lane(lane, fn), **options).collect(on_failure="keep")
    begun = dict(started)
    assert sum(at < begun[0] + 0.1 for at in begun.values()) <= 5  # a few had begun before the loop heard of it
    assert begun[19] >= begun[0] + 0.14


@virtual
async def test_the_account_tells_paused_time_retries_and_what_is_parked():
    calls = Calls(service_s=0.5, fails=asks(3.0, 0))
    async with flow(range(2)).map(calls, concurrency=1, retry=exactly(0.0)).open() as items:
        await asyncio.sleep(1)
        (stage,) = items.stats().stages
        assert (stage.parked, stage.retries, stage.in_flight) == (1, 1, 0)
        assert [n async for n in items] == [0, 1]
    (stage,) = items.report.stages
    assert stage.paused_s == pytest.approx(3.0)
    assert (stage.calls, stage.retries, stage.failed, stage.parked) == (3, 1, 0, 0)
    assert stage.service_s == pytest.approx(1.5)


@virtual
async def test_auto_does_not_learn_that_a_paused_stage_is_slow():
    calls = Calls(service_s=0.1, fails=asks(5.0, 50))
    await flow(range(400)).map(calls, concurrency=AUTO, retry=exactly(0.0)).acollect()
    assert calls.peak >= 8
