"""Rule 15: threads are fed in chunks, but no call waits for another; each stage of each run has its own threads."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from overlapped.lanes.thread import FIRST_THREADS, ThreadPort
from overlapped.testing import Gauge
from tests.rules.kit import Limits, flow, in_lane, same, wait_until


def test_a_chunk_never_waits_for_its_slowest_item():
    """100 items are put at once; one of them blocks, and all others come out meanwhile."""
    may_end = threading.Event()

    def fn(n):
        if n == 0:
            assert may_end.wait(5)
        return n

    got = []
    with flow(range(10)).map(fn, on="thread", concurrency=2, ordered=False).open() as items:
        for n in items:
            got.append(n)
            if len(got) == 9:
                may_end.set()
    assert got == [*range(1, 10), 0]


def test_ordered_results_do_not_wait_for_the_rest_of_their_chunk():
    may_end = threading.Event()

    def fn(n):
        if n == 9:
            assert may_end.wait(5)
        return n

    with flow(range(10)).map(fn, on="thread", concurrency=2).open() as items:
        assert [next(items) for _ in range(9)] == list(range(9))
        may_end.set()
        assert list(items) == [9]


@pytest.mark.parametrize("depth", [2, 4])
def test_nested_flows_cannot_starve_each_other(depth):
    def work(level):
        if level == 0:
            return 1
        return sum(flow([level - 1] * 2).map(work, on="thread", concurrency=1).collect())

    assert flow([depth]).map(work, on="thread", concurrency=1).collect() == [2**depth]


def test_nested_flows_in_a_coroutine_stage(limit):
    async def inner(n):
        return sum(await flow(range(n)).map(same, on="thread", concurrency=limit).acollect())

    assert flow(range(6)).map(inner, concurrency=limit).collect() == [0, 0, 1, 3, 6, 10]


def test_each_stage_has_threads_of_its_own():
    first, second = set(), set()

    def one(n):
        first.add(threading.get_ident())
        time.sleep(0.001)
        return n

    def two(n):
        second.add(threading.get_ident())
        time.sleep(0.001)
        return n

    flow(range(30)).map(one, on="thread", concurrency=3).map(two, on="thread", concurrency=3).run()
    assert first.isdisjoint(second)
    assert 1 <= len(first) <= 3
    assert 1 <= len(second) <= 3


def test_a_blocked_stage_does_not_hold_up_the_threads_of_another():
    may_end = threading.Event()
    passed = Gauge()

    def slow(n):
        assert may_end.wait(5)
        return n

    def fast(n):
        with passed:
            return n

    with flow(range(10)).map(fast, on="thread", concurrency=2).map(slow, on="thread", concurrency=2).open():
        wait_until(lambda: passed.total == 10)
        may_end.set()


def test_no_default_executor_and_no_shared_one_is_used(monkeypatch, lane):
    def refuse(*args, **kwargs):
        raise AssertionError("run_in_executor was called")

    async def main():
        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse, raising=False)
        chain = flow(x for x in range(50)).map(in_lane(lane, same), on=lane, concurrency=3)
        assert await chain.acollect() == list(range(50))

    asyncio.run(main())
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("asyncio_", "ThreadPool"))]


def test_threads_start_as_they_are_needed_and_at_most_limit():
    names = set()

    def fn(n):
        names.add(threading.current_thread().name)
        return n

    flow([1]).map(fn, on="thread", concurrency=1000, name="fetch").run()
    assert names == {"overlapped:fetch"}

    alive: list[int] = []

    def count(n):
        alive.append(sum(t.name == "overlapped:count" for t in threading.enumerate()))

    flow(range(3)).map(count, on="thread", concurrency=1000).run()
    assert max(alive) <= 3  # not a thousand


def test_a_burst_of_jobs_starts_few_threads_at_once_and_all_of_them_if_the_calls_last():
    started_at_once: list[int] = []
    answered: list[object] = []

    async def main():
        begun, go_on = threading.Semaphore(0), threading.Event()

        def fn(n):
            begun.release()
            go_on.wait(10)

        port = ThreadPort(lambda stack: fn, "crew", clock=time.perf_counter)
        port.open(answered.extend)
        port.limit(100)
        port.put([(n, n) for n in range(100)])
        started_at_once.append(sum(t.name == "overlapped:crew" for t in threading.enumerate()))
        for _ in range(100):
            while not begun.acquire(blocking=False):
                await asyncio.sleep(0.001)
        go_on.set()
        while len(answered) < 100:
            await asyncio.sleep(0.001)
        assert await port.close(5) == 0

    asyncio.run(main())
    assert started_at_once == [FIRST_THREADS]


def test_a_shrunk_limit_lets_threads_go_and_loses_no_item(ordered):
    def fn(n):
        time.sleep(0.001)
        return n, sum(t.name == "overlapped:crew" for t in threading.enumerate())

    spec = Limits(*[8] * 30, 1)
    results = flow(range(120)).map(fn, on="thread", concurrency=spec, ordered=ordered, name="crew").collect()
    assert sorted(n for n, _ in results) == list(range(120))
    assert dict(results)[119] <= 2


def test_a_grown_limit_starts_threads():
    gauge = Gauge()

    def fn(n):
        with gauge:
            time.sleep(0.002)

    flow(range(200)).map(fn, on="thread", concurrency=Limits(*[1] * 5, 8)).run()
    assert gauge.peak == 8


def test_controllers_see_thread_calls(ordered):
    spec = Limits(3)
    flow(range(20)).map(lambda n: time.sleep(0.002), on="thread", concurrency=spec, ordered=ordered).run()
    samples = spec.made[0].samples
    assert len(samples) == 20
    assert all(1 <= s.in_flight <= 3 for s in samples)
    assert all(s.now_s - s.started_s >= 0.002 for s in samples)
    assert {s.outcome for s in samples} == {"ok"}
