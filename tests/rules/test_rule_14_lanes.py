"""Rule 14: threads for plain functions, the loop for async ones; inline only for short calls that never wait."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import Any

import pytest

from overlapped import Overloaded, UsageError
from overlapped.testing import Gauge
from tests.rules.kit import fail_at, flow, outcome, same


def spin(seconds: float) -> None:
    """Compute for so long, never waiting."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def places(fn: Any = same, wait: Any = lambda n: None) -> tuple[Any, list[tuple[Any, int]]]:
    """A plain function that notes the thread of each of its calls."""
    seen: list[tuple[Any, int]] = []

    def call(n):
        seen.append((n, threading.get_ident()))
        wait(n)
        return fn(n)

    return call, seen


# -- which place ------------------------------------------------------------------------------------------


def test_a_plain_function_may_be_called_from_several_threads_at_once():
    together = threading.Barrier(5)
    call, seen = places(wait=lambda n: together.wait(5))
    assert flow(range(5)).map(call, concurrency=5).collect() == list(range(5))
    assert len({thread for _, thread in seen}) == 5
    assert threading.get_ident() not in {thread for _, thread in seen}


@pytest.mark.parametrize("on", ["AUTO", "thread"])
@pytest.mark.parametrize("verb", ["map", "filter", "tap", "flat_map"])
def test_with_concurrency_1_it_is_always_one_and_the_same_thread(on, verb, way):
    call, seen = places(fn=lambda n: [n])
    options = {"concurrency": 1} if on == "AUTO" else {"concurrency": 1, "on": on}
    values, error = outcome(getattr(flow(range(1500)), verb)(call, **options), way)
    assert error is None
    assert len(values) == 1500
    assert len({thread for _, thread in seen}) == 1


def test_with_concurrency_1_and_retries_it_is_the_same_thread_too():
    from overlapped import Retry

    call, seen = places(fn=fail_at(3))
    flow(range(6)).map(call, concurrency=1, retry=Retry(attempts=3, base_s=0.01)).collect(on_failure="keep")
    assert len({thread for _, thread in seen}) == 1


def test_inline_is_the_loop_thread():
    call, seen = places()

    async def where(n):
        return threading.get_ident()

    (loop_thread,) = flow([1]).map(where).collect()
    flow(range(5)).map(call, on="inline").collect()
    assert {thread for _, thread in seen} == {loop_thread} == {threading.get_ident()}


def test_coroutine_functions_run_on_the_loop(way):
    async def where(n):
        assert asyncio.get_running_loop().is_running()
        return threading.get_ident()

    values, error = outcome(flow(range(5)).map(where), way)
    assert error is None
    assert len(set(values)) == 1
    assert (values[0] == threading.get_ident()) == (way == "async for")


def test_tornado_coroutines_run_on_the_loop():
    from tornado import gen

    @gen.coroutine
    def fn(n):
        yield gen.sleep(0.001)
        return n, threading.get_ident()

    values = flow(range(5)).map(fn, concurrency=2).collect()
    assert values == [(n, threading.get_ident()) for n in range(5)]


def test_a_plain_function_that_returns_coroutines_is_awaited_and_then_called_on_the_loop():
    called_in: list[int] = []

    async def work(n):
        await asyncio.sleep(0)
        return n * 10

    def fn(n):
        called_in.append(threading.get_ident())
        return work(n)

    assert flow(range(300)).map(fn, concurrency=5).collect() == [n * 10 for n in range(300)]
    assert called_in[-1] == threading.get_ident()
    record = flow(range(10)).map(fn).run().record
    assert record.stages[0].lane == "coroutine"


# -- AUTO goes inline --------------------------------------------------------------------------------------


def record_of(chain: Any) -> Any:
    """The account of its first stage."""
    return chain.run().stages[0]


def test_short_calls_that_never_wait_go_inline_after_200_calls():
    call, seen = places()
    stage = record_of(flow(range(3000)).map(call, concurrency=4))
    assert stage.lane == "inline"
    assert "short" in stage.why
    assert "never wait" in stage.why
    loop_calls = [n for n, thread in seen if thread == threading.get_ident()]
    assert len(loop_calls) > 1000
    assert min(loop_calls) >= 200
    assert sorted(n for n, _ in seen) == list(range(3000))


def test_nothing_is_lost_or_doubled_by_the_change_of_lane(way, ordered, limit):
    call, seen = places()
    values, error = outcome(flow(range(2000)).map(call, concurrency=limit, ordered=ordered), way)
    assert error is None
    assert (values if ordered else sorted(values)) == list(range(2000))
    assert sorted(n for n, _ in seen) == list(range(2000))


def test_calls_that_wait_stay_in_threads():
    call, seen = places(wait=lambda n: time.sleep(1e-6))
    stage = record_of(flow(range(1500)).map(call, concurrency=4))
    assert stage.lane == "thread"
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_short_calls_that_wait_only_for_the_interpreter_go_inline():
    from overlapped.stages.placing import wait_for_python

    turn_s = sys.getswitchinterval()
    busy, waited = (20e-6, 20e-6), (20e-6 + turn_s, 20e-6)
    assert wait_for_python([busy] * 180 + [waited] * 20)  # files that are in memory, read by 8 threads
    assert not wait_for_python([busy] * 179 + [waited] * 21)
    assert not wait_for_python([busy] * 199 + [(3 * turn_s, 20e-6)])  # nobody waits for so long for his turn


def test_calls_of_which_one_in_20_waits_are_mostly_made_in_threads():
    call, seen = places(wait=lambda n: time.sleep(0.004) if n % 20 == 0 else None)
    record_of(flow(range(1900)).map(call, concurrency=4))
    on_loop = [n for n, thread in seen if thread == threading.get_ident()]
    assert len(on_loop) < 1900 / 2  # tried there, they last for 0.2 ms on average; each time after twice as many others
    assert sorted(n for n, _ in seen) == list(range(1900))


def test_inline_calls_that_are_not_short_on_average_go_back_to_threads():
    call, seen = places(wait=lambda n: spin(0.0004) if n >= 1000 else None)
    stage = record_of(flow(range(2500)).map(call, concurrency=4))
    on_loop = [n for n, thread in seen if thread == threading.get_ident()]
    assert stage.lane == "thread"
    assert "again" in stage.why or "for good" in stage.why
    assert any(n < 1000 for n in on_loop)
    assert max(on_loop) < 2000
    assert sorted(n for n, _ in seen) == list(range(2500))


def test_calls_that_share_a_lock_with_a_waiting_holder_stay_in_threads():
    lock = threading.Lock()

    def wait(n):
        with lock:
            time.sleep(1e-6)

    call, _ = places(wait=wait)
    assert record_of(flow(range(600)).map(call, concurrency=4)).lane == "thread"


def test_long_calls_stay_in_threads_even_if_they_never_wait():
    call, _ = places(wait=lambda n: spin(0.0003))
    assert record_of(flow(range(500)).map(call, concurrency=2)).lane == "thread"


def test_with_a_time_out_calls_stay_in_threads():
    call, seen = places()
    stage = record_of(flow(range(1500)).map(call, concurrency=4, timeout_s=5))
    assert stage.lane == "thread"
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_calls_go_inline_only_after_thread_calls_have_drained():
    in_threads = Gauge()
    overlapping = []
    loop_thread = threading.get_ident()

    def call(n):
        if threading.get_ident() == loop_thread:
            if in_threads.now:
                overlapping.append(n)
        else:
            with in_threads:
                if n == 150:
                    time.sleep(0.05)  # still at work when 200 others have been judged
        return n

    assert flow(range(2000)).map(call, concurrency=4).collect() == list(range(2000))
    assert overlapping == []


def test_one_inline_call_above_10_ms_sends_calls_back_to_threads_for_good():
    call, seen = places(wait=lambda n: time.sleep(0.03) if n == 2000 else None)
    report = flow(range(6000)).map(call, concurrency=4).run()
    (stage,) = report.stages
    assert stage.lane == "thread"
    on_loop = [n for n, thread in seen if thread == threading.get_ident()]
    assert 2000 in on_loop
    assert max(on_loop) < 2500  # and never again
    assert sorted(n for n, _ in seen) == list(range(6000))


def test_a_cache_that_hits_and_then_misses_for_long_goes_back_to_threads():
    import functools

    @functools.lru_cache
    def look_up(n):
        if n:
            time.sleep(0.02)
        return n

    items = [0] * 1000 + list(range(1, 10)) + [0] * 1000
    report = flow(items).map(look_up, concurrency=4).run()
    assert report.items == len(items)
    assert report.stages[0].lane == "thread"
    assert report.elapsed_s < 0.02 * 9 + 1.0


# -- use ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", ["gevent", "cluster", "threads", "", 1, None])
def test_a_lane_that_is_not_there_is_refused_when_written(on):
    with pytest.raises(UsageError, match="on"):
        flow([1]).map(same, on=on)


@pytest.mark.parametrize("on", ["inline", "thread"])
def test_an_async_function_in_a_lane_for_plain_ones_is_refused_when_written(on):
    async def fn(n):
        return n

    with pytest.raises(UsageError, match=r"write \.map\(fn\)"):
        flow([1]).map(fn, on=on)


def test_a_plain_function_in_the_coroutine_lane_fails_with_the_line_to_write():
    _, error = outcome(flow([1]).map(same, on="coroutine"))
    assert type(error) is UsageError
    assert "write .map(same)" in str(error)


@pytest.mark.parametrize("on", ["inline", "thread"])
def test_a_plain_function_that_returns_a_coroutine_there_fails_with_the_line_to_write(on):
    async def work(n):
        return n

    _, error = outcome(flow([1]).map(lambda n: work(n), on=on))
    assert type(error) is UsageError
    assert 'on="coroutine"' in str(error)


@pytest.mark.parametrize("on", ["inline", "thread"])
def test_a_map_function_that_returns_a_generator_fails_with_the_line_to_write(on):
    _, error = outcome(flow([1]).map(lambda n: (i for i in range(n)), on=on))
    assert type(error) is UsageError
    assert ".flat_map(" in str(error)


def test_a_refused_result_is_not_tried_again():
    from overlapped import Retry

    calls = []

    async def work(n):
        return n

    def fn(n):
        calls.append(n)
        return work(n)

    outcome(flow([1]).map(fn, on="thread", retry=Retry(attempts=5, base_s=0.0)))
    assert calls == [1]


def test_overloaded_from_a_thread_is_a_failure_like_any_other():
    def fn(n):
        raise Overloaded("busy")

    _, error = outcome(flow([1]).map(fn))
    assert type(error) is Overloaded
