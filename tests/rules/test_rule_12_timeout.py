"""Rule 12: `timeout_s` is per attempt and starts with the work; what cannot be cancelled holds its slot."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from overlapped import CallTimeout, Retry, StuckCalls, UsageError
from overlapped.testing import virtual
from tests.rules.kit import Calls, aoutcome, arriving, flow, now_s, outcome, same, warnings_as_they_come

# -- coroutines ---------------------------------------------------------------------------------------------


@virtual
async def test_an_attempt_that_takes_longer_fails_with_call_timeout(ordered, limit):
    calls = Calls(service_s=lambda n: 5.0 if n == 1 else 0.5)
    chain = flow(range(3)).map(calls, concurrency=limit, ordered=ordered, timeout_s=1.0, name="fetch")
    report = await chain.arun(on_failure="keep")
    assert report.items == 2
    (failure,) = report.failures
    assert isinstance(failure.error, CallTimeout)
    assert isinstance(failure.error, TimeoutError)
    assert "fetch" in str(failure.error)
    assert "timeout_s=1" in str(failure.error)
    assert calls.cancelled == [(1, 1.5 if limit == 1 else 1.0)]
    assert report.stages[0].timeouts == 1


@virtual
async def test_every_attempt_has_the_whole_time():
    calls = Calls(service_s=lambda n: [2.0, 2.0, 0.75][len(calls.started) - 1])
    retry = Retry(attempts=3, base_s=0.5, jitter=False)
    assert await flow([7]).map(calls, timeout_s=1.0, retry=retry).acollect() == [7]
    assert calls.started_s(7) == [0.0, 1.5, 3.5]
    assert now_s() == 4.25


@virtual
async def test_time_spent_queueing_does_not_count(ordered, limit):
    calls = Calls(service_s=0.9)
    chain = flow(range(20)).map(calls, concurrency=limit, ordered=ordered, timeout_s=1.0)
    assert sorted(await chain.acollect()) == list(range(20))


@virtual
async def test_time_spent_finished_and_untaken_does_not_count(ordered):
    calls = Calls(service_s=0.9)
    async with flow(range(10)).map(calls, concurrency=5, ordered=ordered, timeout_s=1.0).open() as items:
        await asyncio.sleep(100)
        assert sorted([n async for n in items]) == list(range(10))


@virtual
async def test_a_call_that_ends_exactly_in_time_is_fine():
    calls = Calls(service_s=0.999)
    assert await flow(range(3)).map(calls, concurrency=1, timeout_s=1.0).acollect() == [0, 1, 2]


@virtual
async def test_each_call_has_its_own_deadline():
    calls = Calls(service_s=lambda n: [5.0, 0.5, 5.0, 0.5][n])
    chain = flow(arriving(0.0, 0.25, 0.5, 0.75)).map(calls, concurrency=4, timeout_s=1.0)
    report = await chain.arun(on_failure="keep")
    assert report.items == 2
    assert calls.cancelled == [(0, 1.0), (2, 1.5)]


@virtual
async def test_one_timer_serves_all_calls_of_a_stage():
    loop = asyncio.get_running_loop()
    made = 0
    call_at = loop.call_at

    def counting(*args, **kwargs):
        nonlocal made
        made += 1
        return call_at(*args, **kwargs)

    setattr(loop, "call_at", counting)  # noqa: B010 - mypy knows that loops have this method

    async def fn(n):
        await asyncio.sleep(0)
        return n

    assert len(await flow(range(2_000)).map(fn, concurrency=50, timeout_s=10.0).acollect()) == 2_000
    assert made < 50


@virtual
async def test_a_time_out_that_fires_as_the_call_returns_hurts_nobody_else(ordered):
    """The call ends in the very turn in which its time is up; the cancel must not hit the next item."""
    calls = Calls(service_s=1.0)
    chain = flow(range(20)).map(calls, concurrency=1, ordered=ordered, timeout_s=1.0)
    report = await chain.arun(on_failure="keep")
    assert report.items + report.failed == 20
    assert len(calls.started) == 20
    for failure in report.failures:
        assert isinstance(failure.error, CallTimeout)
    assert {n for n, _ in calls.ended} >= {n for n in range(20) if n not in {f.item for f in report.failures}}


@virtual
async def test_a_call_that_swallows_its_cancel_hurts_nobody_else(ordered):
    ended = []

    async def fn(n):
        try:
            await asyncio.sleep(5.0 if n == 0 else 0.5)
        except asyncio.CancelledError:
            pass
        ended.append(n)
        return n

    report = await flow(range(3)).map(fn, concurrency=1, ordered=ordered, timeout_s=1.0).arun(on_failure="keep")
    assert ended == [0, 1, 2]
    assert report.items >= 2
    assert {f.item for f in report.failures} <= {0}


@virtual
async def test_a_call_that_cancels_its_own_task_hurts_nobody_else(ordered, limit):
    async def fn(n):
        await asyncio.sleep(0.5)
        if n == 1:
            asyncio.current_task().cancel()  # type: ignore[union-attr]  # a task runs this
        return n

    chain = flow(range(6)).map(fn, concurrency=limit, ordered=ordered)
    values, error = await aoutcome(chain, on_failure="keep")
    assert error is None
    assert {0, 2, 3, 4, 5} <= set(values)


@virtual
async def test_a_call_that_cancels_its_task_and_goes_on_fails_alone(ordered, limit):
    async def fn(n):
        if n == 1:
            asyncio.current_task().cancel()  # type: ignore[union-attr]  # a task runs this
        await asyncio.sleep(0.5)
        return n

    chain = flow(range(6)).map(fn, concurrency=limit, ordered=ordered)
    report = await chain.arun(on_failure="keep")
    assert report.items == 5
    (failure,) = report.failures
    assert (failure.item, type(failure.error)) == (1, RuntimeError)


@virtual
async def test_a_call_that_fails_while_it_is_cancelled_for_its_time_shows_its_own_error():
    async def fn(n):
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            raise OSError("clean-up") from None

    _, error = await aoutcome(flow([1]).map(fn, timeout_s=1.0))
    assert isinstance(error, OSError)
    assert isinstance(error, CallTimeout) or error.args == ("clean-up",)


@virtual
async def test_a_time_out_inside_the_function_is_the_functions_own():
    async def fn(n):
        async with asyncio.timeout(0.5):
            await asyncio.sleep(5)

    _, error = await aoutcome(flow([1]).map(fn, timeout_s=1.0))
    assert type(error) is TimeoutError


@virtual
async def test_waiting_for_room_does_not_count_for_a_generator():
    async def fn(n):
        for i in range(200):
            yield i

    async with flow([1]).flat_map(fn, timeout_s=1.0, concurrency=1).open() as items:
        await asyncio.sleep(100)  # a stalled consumer
        assert [n async for n in items] == list(range(200))


@virtual
async def test_a_generator_that_takes_too_long_keeps_what_it_gave():
    async def fn(n):
        yield 1
        await asyncio.sleep(5)
        yield 2

    values, error = await aoutcome(flow([1]).flat_map(fn, timeout_s=1.0))
    assert values == [1]
    assert isinstance(error, CallTimeout)
    assert now_s() == 1.0


# -- threads ------------------------------------------------------------------------------------------------


def test_in_a_thread_the_item_fails_at_once_and_the_slot_is_held_until_the_call_ends():
    may_end, begun = threading.Event(), []

    def fn(n):
        begun.append(n)
        if n == 0:
            assert may_end.wait(5)
        return n

    chain = (
        flow(range(4))
        .map(fn, on="thread", concurrency=2, timeout_s=0.05, name="fetch")
        .catch(CallTimeout, replace="late")
    )
    with chain.open() as items:
        assert next(items) == "late"
        assert not may_end.is_set()  # its call still runs
        assert [next(items) for _ in range(3)] == [1, 2, 3]
        (stage,) = items.stats().stages
        assert stage.timeouts == 1
        may_end.set()  # or the end of the run would wait for it
        assert list(items) == []


def test_in_a_thread_a_timed_out_item_is_not_tried_again_while_its_call_runs():
    may_end, begun = threading.Event(), []

    def fn(n):
        begun.append(n)
        if n == 0:
            assert may_end.wait(5)
        return n

    retry = Retry(attempts=5, base_s=0.001)
    chain = flow(range(3)).map(fn, on="thread", concurrency=2, timeout_s=0.05, retry=retry)
    with chain.open(on_failure="keep") as items:
        assert [next(items), next(items)] == [1, 2]
        assert begun.count(0) == 1
        may_end.set()
        assert list(items) == []
    assert begun.count(0) == 1


def test_while_a_lost_slot_is_held_the_limit_is_not_exceeded():
    may_end, now, peak = threading.Event(), [0], [0]
    lock = threading.Lock()

    def fn(n):
        with lock:
            now[0] += 1
            peak[0] = max(peak[0], now[0])
        try:
            if n == 0:
                assert may_end.wait(5)
            time.sleep(0.005)
        finally:
            with lock:
                now[0] -= 1
        return n

    chain = flow(range(30)).map(fn, on="thread", concurrency=2, timeout_s=0.1)
    with chain.open(on_failure="keep") as items:
        assert [next(items) for _ in range(29)] == list(range(1, 30))
        may_end.set()
    assert peak[0] == 2


def test_when_all_slots_are_lost_the_run_fails_with_stuck_calls_naming_the_function(monkeypatch):
    monkeypatch.setattr("overlapped._engine.ports.STUCK_S", 0.05)
    may_end = threading.Event()

    def load_page(n):
        may_end.wait(5)
        return n

    try:
        with warnings_as_they_come() as warned:
            values, error = outcome(
                flow(range(9)).map(load_page, on="thread", concurrency=2, timeout_s=0.03), on_failure="keep"
            )
        assert values == []
        assert type(error) is StuckCalls
        assert "load_page" in str(error)
        assert "load_page" in "".join(warned)  # and its threads are abandoned with a warning
    finally:
        may_end.set()


def test_slots_that_come_back_are_not_stuck():
    def fn(n):
        if n < 2:
            time.sleep(0.1)
        return n

    chain = flow(range(6)).map(fn, on="thread", concurrency=2, timeout_s=0.03)
    assert chain.collect(on_failure="keep") == [2, 3, 4, 5]


def test_a_plain_function_with_a_time_out_fails_in_time_with_auto_too(way):
    may_end = threading.Event()

    def fn(n):
        assert may_end.wait(5)

    chain = flow([1]).map(fn, timeout_s=0.03, concurrency=2)
    threading.Timer(1.0, may_end.set).start()
    before = time.monotonic()
    _, error = outcome(chain.catch(CallTimeout, do=lambda e: may_end.set()).tap(same), way)
    assert error is None
    assert time.monotonic() - before < 0.9


# -- use ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "1", True])
def test_a_bad_time_is_refused_when_written(timeout_s):
    with pytest.raises(UsageError, match="timeout_s"):
        flow([1]).map(same, timeout_s=timeout_s)


def test_a_time_out_inline_is_refused_when_written():
    with pytest.raises(UsageError, match="inline"):
        flow([1]).map(same, on="inline", timeout_s=1)
