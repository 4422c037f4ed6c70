"""Leaving early on a loop: break, close, cancel, time out. Everything is taken down, once, and nothing is lost."""

# ruff: noqa: PT017 - the body of a test runs where there is no pytest
from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import threading
import time
import weakref
from typing import Any

from overlapped import UsageError
from tests.faults.harness import child
from tests.faults.kit import Boom, Calls, async_numbers, flow, gather_from, nap, numbers, wait_until


class Source:
    """An async source that says whether it was closed, in which task, and whether it was pulled after that."""

    def __init__(self) -> None:
        self.pulled = 0
        self.closed = 0
        self.tasks: set[Any] = set()

    async def __call__(self) -> Any:
        try:
            for n in itertools.count():
                self.tasks.add(asyncio.current_task())
                self.pulled += 1
                yield n
                await asyncio.sleep(0)
        finally:
            self.tasks.add(asyncio.current_task())
            await asyncio.sleep(0.01)
            self.closed += 1


def holding(calls: Calls, *, cleanup_s: float = 0.0) -> Any:
    """A function whose first calls end soon and whose others wait for good; cancelled, they clean up."""

    async def holds(item: int) -> int:
        with calls.one(item):
            try:
                await asyncio.sleep(0.001 if item < 3 else 60)
            finally:
                if cleanup_s:
                    await asyncio.sleep(cleanup_s)
        return item

    return holds


@child(ordered=[True, False])
async def test_a_bare_break_ends_calls_and_closes_the_source(ordered: bool) -> None:
    calls, source = Calls(), Source()
    async for _ in flow(source).map(holding(calls), concurrency=5, ordered=ordered):
        break
    await wait_until(lambda: calls.now == 0 and source.closed == 1)
    started, pulled = len(calls.started), source.pulled
    await asyncio.sleep(0.05)
    assert (len(calls.started), source.pulled) == (started, pulled)
    assert len(source.tasks) == 1


@child(ordered=[True, False])
async def test_leaving_a_scope_waits_until_calls_have_cleaned_up(ordered: bool) -> None:
    calls, source = Calls(), Source()
    async with flow(source).map(holding(calls, cleanup_s=0.05), concurrency=5, ordered=ordered).open() as items:
        async for _ in items:
            break
    assert calls.now == 0
    assert source.closed == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


@child
async def test_a_scope_left_by_an_error_of_its_body_raises_that_error() -> None:
    calls, source, error = Calls(), Source(), Boom("mine")
    try:
        async with flow(source).map(holding(calls), concurrency=5).open() as items:
            async for _ in items:
                raise error
    except Boom as raised:
        assert raised is error
    assert (calls.now, source.closed) == (0, 1)


@child(times=[1, 2, 3])
async def test_a_cancelled_consumer_takes_everything_down_however_often_it_is_cancelled(times: int) -> None:
    calls, source = Calls(), Source()

    async def consume() -> None:
        async with flow(source).map(holding(calls, cleanup_s=0.2), concurrency=5).open() as items:
            async for _ in items:
                pass

    task = asyncio.create_task(consume())
    await wait_until(lambda: calls.now == 5)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.03)
    done, _ = await asyncio.wait([task], timeout=3)
    assert done, "it hangs"
    assert task.cancelled()
    assert (calls.now, source.closed) == (0, 1)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@child
async def test_a_cancelled_consumer_without_a_scope_leaves_nothing() -> None:
    calls, source = Calls(), Source()

    async def consume() -> None:
        async for _ in flow(source).map(holding(calls), concurrency=5):
            pass

    task = asyncio.create_task(consume())
    await wait_until(lambda: calls.now == 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    del task
    await wait_until(lambda: calls.now == 0 and source.closed == 1)


@child(how=["acollect", "arun"])
async def test_cancelling_a_whole_run_takes_it_down_before_the_cancel_goes_on(how: str) -> None:
    calls, source = Calls(), Source()
    task = asyncio.create_task(getattr(flow(source).map(holding(calls, cleanup_s=0.05), concurrency=5), how)())
    await wait_until(lambda: calls.now == 5)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (calls.now, source.closed) == (0, 1)


@child(ordered=[True, False], lane=["coroutine", "thread"])
async def test_an_anext_that_times_out_loses_nothing(ordered: bool, lane: str) -> None:
    async def slow(item: int) -> int:
        await asyncio.sleep(0.03)
        return item

    def slow_plain(item: int) -> int:
        time.sleep(0.03)
        return item

    fn = slow if lane == "coroutine" else slow_plain
    got: list[Any] = []
    async with flow(numbers(20)).map(fn, concurrency=2, ordered=ordered).open() as items:
        while True:
            try:
                got.append(await asyncio.wait_for(anext(items), 0.01))
            except TimeoutError:
                continue
            except StopAsyncIteration:
                break
    assert sorted(got) == list(range(20))
    assert not ordered or got == sorted(got)


@child
async def test_an_anext_cancelled_in_the_turn_of_its_result_loses_nothing() -> None:
    gates = [asyncio.Event() for _ in range(10)]

    async def waits(item: int) -> int:
        await gates[item].wait()
        return item

    got: list[Any] = []
    async with flow(range(10)).map(waits, concurrency=10).open() as items:
        for turns, gate in enumerate(gates):
            pull = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0.005)
            gate.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            pull.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                got.append(await pull)
        got += [item async for item in items]
    assert got == list(range(10))


@child
async def test_a_timeout_around_a_loop_is_a_timeout_and_leaves_no_cancel_behind() -> None:
    calls, source = Calls(), Source()
    task = asyncio.current_task()
    assert task is not None
    try:
        async with asyncio.timeout(0.1):
            async with flow(source).map(holding(calls, cleanup_s=0.02), concurrency=5).open() as items:
                async for _ in items:
                    pass
    except TimeoutError:
        pass
    else:
        raise AssertionError("the time-out was swallowed")
    assert task.cancelling() == 0
    assert (calls.now, source.closed) == (0, 1)


@child
async def test_a_failing_neighbour_in_a_task_group_ends_the_run() -> None:
    calls, source = Calls(), Source()

    async def fails() -> None:
        await wait_until(lambda: calls.now == 5)
        raise Boom

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(flow(source).map(holding(calls, cleanup_s=0.02), concurrency=5).arun())
            group.create_task(fails())
    except* Boom:
        pass
    assert (calls.now, source.closed) == (0, 1)


@child
async def test_closing_is_possible_at_any_moment_and_twice() -> None:
    calls, source = Calls(), Source()
    stage = flow(source).map(holding(calls), concurrency=5)
    never_started = aiter(stage)
    await never_started.aclose()
    await never_started.aclose()
    assert await gather_from(never_started, []) is None
    assert source.pulled == 0

    items = aiter(stage)
    pull = asyncio.ensure_future(anext(items))
    await asyncio.sleep(0)
    await items.aclose()
    with contextlib.suppress(StopAsyncIteration):
        await asyncio.wait_for(pull, 1)
    await items.aclose()
    assert await gather_from(items, []) is None
    assert calls.now == 0


@child
async def test_two_tasks_may_close_at_once_and_both_wait() -> None:
    calls, source = Calls(), Source()
    items = aiter(flow(source).map(holding(calls, cleanup_s=0.1), concurrency=5))
    await anext(items)
    await wait_until(lambda: calls.now == 5)

    async def close() -> int:
        await items.aclose()
        return calls.now

    assert list(await asyncio.gather(close(), close())) == [0, 0]


@child
async def test_two_tasks_may_pull_at_once() -> None:
    got: list[Any] = []
    async with flow(async_numbers(200)).map(nap, concurrency=4).open() as items:
        errors = await asyncio.gather(*(gather_from(items, got) for _ in range(3)))
    assert errors == [None] * 3
    assert sorted(got) == list(range(200))


@child
async def test_tasks_are_held_fast_against_the_garbage_collector() -> None:
    waiting: list[weakref.ref[asyncio.Future[int]]] = []

    async def held_by_nobody(item: int) -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiting.append(weakref.ref(future))
        return await future

    got: list[Any] = []
    pull = asyncio.create_task(gather_from(flow(range(20)).map(held_by_nobody, concurrency=20, ordered=False), got))
    await wait_until(lambda: len(waiting) == 20)
    for n, ref in enumerate(waiting):
        gc.collect()
        future = ref()
        assert future is not None, "a call's task was collected"
        future.set_result(n)
        del future
        await asyncio.sleep(0)
    assert await pull is None
    assert sorted(got) == list(range(20))


@child
async def test_an_async_generator_around_a_flow_may_be_closed_or_dropped() -> None:
    calls = Calls()

    async def around() -> Any:
        async with flow(Source()).map(holding(calls), concurrency=5).open() as items:
            async for item in items:
                yield item

    generator = around()
    await anext(generator)
    await generator.aclose()
    assert calls.now == 0

    async for _ in around():
        break
    await wait_until(lambda: calls.now == 0)


@child
async def test_what_was_never_used_complains_about_nothing() -> None:
    flow(async_numbers()).map(nap)
    aiter(flow(async_numbers).map(nap))
    flow(async_numbers).map(nap).open()
    flow(numbers()).map(nap).batch(3).take(2)
    gc.collect()
    await asyncio.sleep(0)


@child
async def test_fifty_streams_left_early_leave_nothing() -> None:
    calls = Calls()
    for _ in range(50):
        async for item in flow(async_numbers).map(holding(calls), concurrency=4).map(nap, concurrency=3):
            if item == 1:
                break
    await wait_until(lambda: calls.now == 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@child
def test_a_run_that_its_loop_outlives_not_says_nothing() -> None:
    calls = Calls()

    async def breaks() -> None:
        async for _ in flow(Source()).map(holding(calls, cleanup_s=0.05), concurrency=5):
            break

    async def keeps() -> Any:
        items = aiter(flow(Source()).map(holding(calls, cleanup_s=0.05), concurrency=5))
        await anext(items)
        return items

    asyncio.run(breaks())
    assert calls.now == 0
    items = asyncio.run(keeps())
    assert calls.now == 0

    async def pulls() -> None:
        got: list[int] = []
        error = await asyncio.wait_for(gather_from(items, got), 2)
        assert isinstance(error, UsageError), error
        assert len(got) <= 3, "more than what had been delivered"

    asyncio.run(pulls())


@child
async def test_a_nested_flow_ends_with_the_call_it_runs_in() -> None:
    inner = Calls()

    async def runs_another(item: int) -> int:
        return sum(await flow(Source()).map(holding(inner), concurrency=3).acollect())

    async with flow(range(4)).map(runs_another, concurrency=4).open():
        await wait_until(lambda: inner.now == 12)
    assert inner.now == 0


@child(lane=["coroutine", "thread"])
async def test_drain_finishes_what_was_pulled_and_ends_normally(lane: str) -> None:
    pulled, got = list[int](), list[int]()

    def source() -> Any:
        for n in itertools.count():
            pulled.append(n)
            yield n

    def plain(item: int) -> int:
        time.sleep(0.005)
        return item

    async with flow(source).map(nap if lane == "coroutine" else plain, concurrency=3).open() as items:
        async for item in items:
            got.append(item)
            if item == 20:
                threading.Thread(target=items.drain).start()
    assert items.report.record.state == "stopped"
    assert got[:21] == list(range(21))
    assert got == list(range(len(got)))
    assert len(got) < 2_000


@child(ending=["failure", "take", "scope", "filter", "refused"])
async def test_coroutines_that_a_plain_function_returned_in_vain_are_closed(ending: str) -> None:
    async def later(item: int) -> int:
        if item == 3 and ending == "failure":
            raise Boom(item)
        await asyncio.sleep(0.001)
        return item + 1

    options = {"concurrency": 20, "on": "thread"} if ending == "refused" else {"concurrency": 20}
    chain = getattr(flow(range(200)), "filter" if ending == "filter" else "map")(lambda n: later(n), **options)
    try:
        async with (chain.take(2) if ending in {"take", "filter"} else chain).open() as items:
            async for _ in items:
                if ending == "scope":
                    break
    except (Boom, UsageError):
        assert ending in {"failure", "refused"}
    gc.collect()  # tells of those that nobody has closed
