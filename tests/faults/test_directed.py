"""Faults that an engine is known to be caught out by, each on purpose (part one: slots, time-outs, threads)."""

# ruff: noqa: PT017 - the body of a test runs where there is no pytest
from __future__ import annotations

import asyncio
import itertools
import sqlite3
import tempfile
import threading
import time
import warnings
from typing import Any

from overlapped import CallTimeout, Overloaded, Retry, StuckCalls
from tests.faults.harness import child
from tests.faults.kit import (
    LANES,
    Boom,
    Calls,
    async_numbers,
    flow,
    gather_from,
    in_lane,
    nap,
    numbers,
    pull_from,
    took,
    wait_until,
)

# -- parked ---------------------------------------------------------------------------------------------


@child
async def test_a_parked_head_runs_when_due_though_look_ahead_is_full() -> None:
    with took(4):
        await asyncio.gather(*(_parked_head(lane, ordered=ordered) for lane in LANES for ordered in (True, False)))


async def _parked_head(lane: str, *, ordered: bool) -> None:
    tries: list[int] = []

    def once_late(item: int) -> int:
        if item == 0:
            tries.append(item)
            if len(tries) == 1:
                raise Overloaded
        return item

    fn, options = in_lane(lane, once_late)
    retry = Retry(2, base_s=1.2, jitter=False)
    got = await flow(numbers(200)).map(fn, concurrency=2, retry=retry, ordered=ordered, **options).acollect()
    assert sorted(got) == list(range(200))
    assert not ordered or got == sorted(got)
    assert len(tries) == 2


@child
async def test_a_parked_job_runs_when_due_though_all_workers_wait_for_the_source() -> None:
    await asyncio.gather(*map(_parked_and_no_source, LANES))


async def _parked_and_no_source(lane: str) -> None:
    is_done = threading.Event()
    tries: list[int] = []

    def source() -> Any:
        yield from range(5)
        assert is_done.wait(5), "the parked job was not run while the source was waited for"
        yield 5

    def once_late(item: int) -> int:
        if item == 0:
            tries.append(item)
            if len(tries) == 1:
                raise Overloaded
            is_done.set()
        return item

    fn, options = in_lane(lane, once_late)
    got = await flow(source).map(fn, concurrency=3, retry=Retry(2, base_s=1.1, jitter=False), **options).acollect()
    assert got == [0, 1, 2, 3, 4, 5]


@child
def test_parked_jobs_are_run_before_new_items() -> None:
    order: list[int] = []

    async def once_late(item: int) -> int:
        order.append(item)
        if item == 0 and order.count(0) == 1:
            raise Overloaded
        await asyncio.sleep(0.05)
        return item

    flow(range(60)).map(once_late, concurrency=1, retry=Retry(2, base_s=1.05, jitter=False), ordered=False).run()
    again = order.index(0, 1)
    assert 15 <= again <= 25, f"run again as call {again} of 50 ms each, after 1.05 s"


@child(lane=LANES)
def test_a_break_while_jobs_are_parked_leaves_nothing(lane: str) -> None:
    def fails(item: int) -> int:
        if item % 2:
            raise Overloaded
        return item

    fn, options = in_lane(lane, fails)
    stage = flow(itertools.count()).map(fn, concurrency=3, retry=Retry(9, base_s=60, cap_s=60), **options)
    with took(3), stage.open() as items:
        assert next(items) == 0


# -- cancels that hit the wrong one ------------------------------------------------------------------------


@child(ordered=[True, False])
async def test_a_cancel_that_a_call_left_pending_does_not_hit_the_next_item(ordered: bool) -> None:
    async def cancels_itself(item: int) -> int:
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, f"item {item} found a cancel of another"
        if item % 3 == 0:
            task.cancel()
        return item

    got = await flow(range(30)).map(cancels_itself, concurrency=2, ordered=ordered).acollect()
    assert sorted(got) == list(range(30))


@child
async def test_a_call_that_swallows_its_timeout_does_not_harm_the_next_item() -> None:
    async def swallows(item: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, f"item {item} found a cancel of another"
        try:
            await asyncio.sleep(10 if item == 1 else 0)
        except asyncio.CancelledError:
            pass
        await asyncio.sleep(0)
        return item

    got: list[Any] = []
    items = flow(range(6)).map(swallows, concurrency=1, timeout_s=0.05).open(on_failure="keep")
    async with items as running:
        assert await gather_from(running, got) is None
    assert [n for n in got if n != 1] == [0, 2, 3, 4, 5]


@child
async def test_a_timeout_in_the_turn_of_the_result_hits_no_other_item() -> None:
    loop = asyncio.get_running_loop()
    timeout_s = 0.02

    async def in_the_same_turn(item: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0, f"item {item} found a cancel of another"
        until = loop.time() + timeout_s
        future: asyncio.Future[None] = loop.create_future()
        loop.call_at(until, lambda: None if future.done() else future.set_result(None))
        await asyncio.sleep(timeout_s / 2)
        time.sleep(timeout_s)  # both timers are due in the next turn
        await future
        return item

    report = await flow(range(20)).map(in_the_same_turn, concurrency=1, timeout_s=timeout_s).arun(on_failure="keep")
    assert report.items + report.failed == 20
    assert all(isinstance(failure.error, CallTimeout) for failure in report.failures)


@child
async def test_a_timeout_is_for_its_own_attempt_only() -> None:
    async def every_third_hangs(item: int) -> int:
        await asyncio.sleep(30 if item % 3 == 0 else 0.01)
        return item

    report = await flow(range(30)).map(every_third_hangs, concurrency=4, timeout_s=0.15).arun(on_failure="keep")
    assert (report.items, report.failed) == (20, 10)
    assert all(isinstance(failure.error, CallTimeout) for failure in report.failures)


# -- a call in a thread cannot be cancelled --------------------------------------------------------------------


@child
def test_a_timed_out_thread_call_fails_at_once_and_is_not_retried_while_it_runs() -> None:
    calls, may_end = Calls(), threading.Event()

    def hangs(item: int) -> int:
        with calls.one(item):
            if item == 0:
                may_end.wait(5)
        return item

    stage = flow(range(40)).map(hangs, concurrency=2, timeout_s=0.2, retry=Retry(5, base_s=0.01), ordered=False)
    got: list[Any] = []
    with stage.open(on_failure="keep") as items:
        for item in items:
            got.append(item)
            time.sleep(0.01)
            if len(got) == 35:
                may_end.set()
        report = items.report
    assert sorted(got) == list(range(1, 40))
    assert calls.started.count(0) == 1
    assert calls.most <= 2
    assert [type(failure.error) for failure in report.failures] == [CallTimeout]


@child
def test_an_item_whose_thread_call_timed_out_is_raised_as_a_timeout() -> None:
    may_end = threading.Event()
    got: list[Any] = []

    def hangs(item: int) -> int:
        if item == 3:
            may_end.wait(5)
        return item

    with took(2):
        items = iter(flow(range(40)).map(hangs, concurrency=4, timeout_s=0.2, retry=Retry(5)))
        threading.Timer(0.4, may_end.set).start()
        error = pull_from(items, got)
    assert isinstance(error, CallTimeout)
    assert got == [0, 1, 2]


@child
def test_a_run_whose_slots_are_all_lost_fails_and_names_the_function() -> None:
    may_end = threading.Event()

    def hangs_for_good(item: int) -> int:
        may_end.wait(20)
        return item

    with took(5), warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        try:
            flow(range(50)).map(hangs_for_good, concurrency=2, timeout_s=0.1).run(on_failure="keep")
        except StuckCalls as error:
            assert "hangs_for_good" in str(error)
        else:
            raise AssertionError("nobody said that the run is stuck")
    may_end.set()


@child
def test_slots_that_come_back_in_time_do_not_fail_the_run() -> None:
    def slow_sometimes(item: int) -> int:
        time.sleep(0.4 if item < 2 else 0)
        return item

    report = flow(range(50)).map(slow_sometimes, concurrency=2, timeout_s=0.1).run(on_failure="keep")
    assert (report.items, report.failed) == (48, 2)


# -- threads that belong to something -------------------------------------------------------------------------------


@child(items=[1_000])
def test_concurrency_1_is_one_and_the_same_thread(items: int) -> None:
    threads = set(flow(numbers(items)).map(lambda _: threading.get_ident(), concurrency=1).collect())
    assert len(threads) == 1
    assert threads != {threading.get_ident()}, 'the loop thread is for on="inline"'


@child
def test_a_sqlite_connection_per_worker_is_used_and_closed_in_its_own_thread() -> None:
    made: list[sqlite3.Connection] = []
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/some.db"
        with sqlite3.connect(path) as db:
            db.execute("create table t (n)")
            db.executemany("insert into t values (?)", [(n,) for n in range(100)])
        db.close()

        def connect() -> sqlite3.Connection:
            made.append(sqlite3.connect(path))
            return made[-1]

        def look(n: int, db: sqlite3.Connection) -> int:
            time.sleep(0.001)
            return int(db.execute("select n from t where n = ?", (n,)).fetchone()[0])

        got = flow(range(100)).map(look, concurrency=4).using(db=connect, per="worker").collect()
    assert got == list(range(100))
    assert 1 <= len(made) <= 4
    for db in made:
        try:
            db.execute("select 1")
        except sqlite3.ProgrammingError:
            continue  # closed, or not ours to use
        raise AssertionError("a connection was left open")


@child
def test_a_cursor_made_by_a_source_function_stays_in_one_thread() -> None:
    def rows() -> Any:
        db = sqlite3.connect(":memory:")
        db.execute("create table t (n)")
        db.executemany("insert into t values (?)", [(n,) for n in range(1_000)])
        try:
            yield from db.execute("select n from t order by n")
        finally:
            db.close()

    assert flow(rows).map(lambda row: row[0] + 1).collect() == list(range(1, 1_001))
    with flow(rows).map(nap, concurrency=2).open() as items:
        next(items)


# -- plain functions that wait ------------------------------------------------------------------------------


@child
async def test_a_plain_function_may_wait_for_the_loop() -> None:
    loop = asyncio.get_running_loop()

    async def answer(item: int) -> int:
        return item + 1

    def asks(item: int) -> int:
        return asyncio.run_coroutine_threadsafe(answer(item), loop).result(5)

    assert await flow(range(1_500)).map(asks).acollect() == list(range(1, 1_501))


@child
async def test_a_plain_function_may_begin_to_wait_for_the_loop_late() -> None:
    """It went inline since its first calls were short, so the first that waits waits for itself: it must end."""
    loop = asyncio.get_running_loop()

    async def answer(item: int) -> int:
        return item + 1

    def asks_late(item: int) -> int:
        if item < 2_000:
            return item + 1
        return asyncio.run_coroutine_threadsafe(answer(item), loop).result(0.5)

    report = await flow(range(2_200)).map(asks_late, concurrency=8).arun(on_failure="keep")
    assert report.items >= 2_199, f"{report.failed} failed"


@child
def test_calls_that_share_a_lock_all_end() -> None:
    lock, total = threading.Lock(), [0]

    def adds(item: int) -> int:
        with lock:
            total[0] += item
            if item % 50 == 0:
                time.sleep(0.001)
        return item

    assert flow(range(3_000)).map(adds).map(adds).collect() == list(range(3_000))
    assert total[0] == 2 * sum(range(3_000))


@child
def test_a_lock_may_be_taken_in_one_stage_and_released_in_the_next() -> None:
    lock = threading.Lock()

    def take(item: int) -> int:
        assert lock.acquire(timeout=5)
        return item

    def give(item: int) -> int:
        lock.release()
        return item

    assert flow(range(800)).map(take, ordered=False).map(give, ordered=False).run().items == 800


@child
async def test_a_cache_that_misses_late_stops_the_loop_once_at_most() -> None:
    def cached(item: int) -> int:
        if item >= 1_500:
            time.sleep(0.3)
        return item

    gaps: list[float] = []

    async def heartbeat() -> None:
        before = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            gaps.append(now - before)
            before = now

    beat = asyncio.create_task(heartbeat())
    with took(2.5):
        report = await flow(range(1_520)).map(cached, concurrency=10).arun()
    beat.cancel()
    assert report.items == 1_520
    assert sum(gap > 0.2 for gap in gaps) <= 1, sorted(gaps)[-5:]
    assert report.stages[0].lane == "thread"


@child
async def test_calls_that_share_an_asyncio_lock_give_it_back_when_cancelled() -> None:
    lock = asyncio.Lock()

    async def holds(item: int) -> int:
        async with lock:
            await asyncio.sleep(0.01)
        return item

    async with flow(itertools.count()).map(holds, concurrency=5).open() as items:
        assert await anext(items) == 0
    assert not lock.locked()
    assert await flow(range(5)).map(holds, concurrency=5).acollect() == [0, 1, 2, 3, 4]


@child
async def test_a_semaphore_of_the_user_is_not_lost_by_cancelled_calls() -> None:
    permits = asyncio.Semaphore(3)

    async def uses(item: int) -> int:
        async with permits:
            await asyncio.sleep(0.001)
        return item

    for _ in range(20):
        async with flow(async_numbers()).map(uses, concurrency=8).open() as items:
            await anext(items)
    for _ in range(3):
        await asyncio.wait_for(permits.acquire(), 1)


@child
async def test_errors_of_the_user_in_key_functions_are_failures_of_their_items() -> None:
    def key(item: int) -> int:
        if item == 4:
            raise Boom
        return item % 2

    got: list[Any] = []
    async with flow(range(10)).map(nap, concurrency=3, key=key, per_key=1).open(on_failure="keep") as items:
        assert await gather_from(items, got) is None
    assert got == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    await wait_until(lambda: items.report.failed == 1)
