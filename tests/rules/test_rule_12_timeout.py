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
    monkeypatch.setattr("overlapped._engine.lost.STUCK_S", 0.05)
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


# -- Tornado coroutines -------------------------------------------------------------------------------------


def tornado_calls(lasts_s):
    """A Tornado coroutine over `lasts_s(n)` seconds, and what has become of its calls."""
    gen = pytest.importorskip("tornado.gen")
    begun, ended = [], []

    @gen.coroutine
    def fetch(n):
        begun.append((n, now_s()))
        yield asyncio.sleep(lasts_s(n))
        ended.append((n, now_s()))
        return n

    return fetch, begun, ended


@virtual
async def test_a_timed_out_tornado_coroutine_fails_at_once_and_holds_its_slot_until_it_ends(ordered):
    fetch, begun, ended = tornado_calls(lambda n: 5 if n == 0 else 1)
    retry = Retry(attempts=3, base_s=0.25, jitter=False)
    chain = flow(range(6)).map(fetch, concurrency=2, timeout_s=2, retry=retry, ordered=ordered)
    async with chain.open(on_failure="keep") as items:
        got = [(n, now_s()) async for n in items]
        (failure,) = items.report.failures
    assert isinstance(failure.error, CallTimeout)
    assert failure.error.__notes__[0].endswith("cannot be cancelled; it still runs, its slot is held")
    assert begun == [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]  # one slot goes on; 0 is not tried again
    assert got == [(n, max(2, n) if ordered else n) for n in range(1, 6)]
    assert (0, 5) in ended


@virtual
async def test_a_lost_tornado_coroutine_gives_its_slot_back_when_it_ends():
    fetch, begun, _ = tornado_calls(lambda n: 3 if n == 0 else 1)
    chain = flow(range(4)).map(fetch, concurrency=1, timeout_s=2.5)
    assert (await chain.arun(on_failure="keep")).items == 3
    assert begun == [(0, 0), (1, 3), (2, 4), (3, 5)]


@virtual
async def test_a_lost_tornado_coroutine_keeps_the_place_of_its_key():
    fetch, begun, _ = tornado_calls(lambda n: 3 if n == 0 else 1)
    chain = flow(range(4)).map(fetch, concurrency=4, timeout_s=2, key=lambda n: n % 2, per_key=1)
    await chain.arun(on_failure="keep")
    assert [at_s for n, at_s in begun if n % 2 == 0] == [0, 3]


@virtual
async def test_when_tornado_coroutines_hold_all_slots_the_run_fails_with_stuck_calls():
    fetch, begun, _ = tornado_calls(lambda n: 20)
    with pytest.warns(ResourceWarning, match="fetch: 2 calls in lane 'coroutine' did not end"):
        _, error = await aoutcome(flow(range(9)).map(fetch, concurrency=2, timeout_s=2), on_failure="keep")
    assert type(error) is StuckCalls
    assert "fetch" in str(error)
    assert now_s() == 3.0
    assert len(begun) == 2
    await asyncio.sleep(20)


@virtual
async def test_slots_that_a_smaller_limit_leaves_lost_are_stuck_too():
    class Halves:
        """Two calls at once, but one after the first time-out."""

        limit, reason = 2, "start"

        def controller(self):
            return Halves()

        def finished(self, sample):
            self.limit = 1 if sample.outcome == "drop" else self.limit
            return self.limit

    fetch, _, _ = tornado_calls(lambda n: 20 if n == 0 else 1.5)
    with pytest.warns(ResourceWarning, match="fetch: 1 calls"):
        _, error = await aoutcome(flow(range(99)).map(fetch, concurrency=Halves(), timeout_s=2), on_failure="keep")
    assert type(error) is StuckCalls
    assert now_s() < 6
    await asyncio.sleep(20)


@virtual
async def test_a_run_that_ends_waits_for_tornado_coroutines_that_go_on():
    fetch, _, ended = tornado_calls(lambda n: n)
    async with flow([1, 4]).map(fetch, concurrency=2).open() as items:
        assert await anext(items) == 1
    assert ended == [(1, 1), (4, 4)]


@virtual
async def test_but_not_for_ever():
    fetch, _, ended = tornado_calls(lambda n: n)
    with pytest.warns(ResourceWarning, match="fetch: 1 calls in lane 'coroutine' did not end and were abandoned"):
        async with flow([1, 60]).map(fetch, concurrency=2).open() as items:
            assert await anext(items) == 1
    assert (ended, now_s()) == ([(1, 1)], 6)
    await asyncio.sleep(60)


@virtual
async def test_in_flat_map_too_a_lost_tornado_coroutine_holds_its_slot():
    gen = pytest.importorskip("tornado.gen")
    begun = []

    @gen.coroutine
    def links(n):
        begun.append(now_s())
        yield asyncio.sleep(2.75 if n == 0 else 1)
        return [n, n]

    chain = flow(range(2)).flat_map(links, concurrency=1, timeout_s=2)
    assert (await chain.arun(on_failure="keep")).items == 2
    assert begun == [0, 2.75]


@pytest.mark.parametrize("on", ["thread", "tornado"])
def test_a_lost_part_of_a_split_batch_takes_the_rest_of_the_batch_with_it(on):
    may_end, begun = threading.Event(), []

    def save(rows):
        begun.append(rows)
        if len(rows) > 2:
            raise ValueError("too many")
        if on == "thread":
            may_end.wait(5)

    if on == "tornado":
        gen = pytest.importorskip("tornado.gen")

        @gen.coroutine
        def save_slowly(rows):
            save(rows)
            while not may_end.is_set():
                yield asyncio.sleep(0.001)

    chain = flow(range(8)).batch(4)
    options = {"timeout_s": 0.05, "concurrency": 2, "retry": Retry(attempts=1, split=True)}
    chain = chain.map(save, on="thread", **options) if on == "thread" else chain.map(save_slowly, **options)
    with chain.open(on_failure="keep") as items:
        threading.Timer(0.3, may_end.set).start()
        assert list(items) == []
        report = items.report
    assert report.failed == 8
    assert sorted(len(failure.item) for failure in report.failures) == [4, 4]
    assert sorted(len(rows) for rows in begun) == [2, 2, 4, 4]


# -- use ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), "1", True, 10**400])
def test_a_bad_time_is_refused_when_written(timeout_s):
    with pytest.raises(UsageError, match="timeout_s"):
        flow([1]).map(same, timeout_s=timeout_s)


def test_a_time_out_inline_is_refused_when_written():
    with pytest.raises(UsageError, match="inline"):
        flow([1]).map(same, on="inline", timeout_s=1)
